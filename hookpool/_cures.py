"""What to do about objects of kinds that are known never to travel.

Owns the advice that ends an error message.  Any thread may call it: there is no state.
"""

from __future__ import annotations

import functools

_ONLY_AT_START = (
    "It travels only while a child starts: pass it in initargs or a Process's arguments, and make "
    "it by the context that starts the child, as ctx.Lock() and ctx.Queue() do."
)

# What to do, and the types it is for: by name, so that nothing is imported to look for something
# that is not there. Subclasses count.
_CURES = {
    "A lock works in the process that made it: give the workers one of multiprocessing's "
    "(ctx.Lock()) through initargs or a Process's arguments, or make it inside the function.": """
        _thread.lock _thread.RLock threading.Condition threading.Event threading.Semaphore
        threading.Barrier""",
    _ONLY_AT_START: """
        multiprocessing.synchronize.SemLock multiprocessing.synchronize.Condition
        multiprocessing.synchronize.Event multiprocessing.queues.Queue
        multiprocessing.queues.SimpleQueue multiprocessing.sharedctypes.SynchronizedBase""",
    "Use a queue of multiprocessing (ctx.Queue()), given in initargs.": """
        queue.Queue _queue.SimpleQueue""",
    "A process or pool cannot be handed on: pass its results, or start it in the function.": """
        multiprocessing.pool.Pool multiprocessing.process.BaseProcess subprocess.Popen
        concurrent.futures._base.Executor""",
    "Pass its result(), not the future.": "concurrent.futures._base.Future",
    "Threads and what waits for them stay in their process: start it inside the function.": """
        threading.Thread""",
    "Make the threading.local inside the function.": "_thread._local",
    "It belongs to its event loop: run the loop inside the function and pass plain data.": """
        asyncio.events.AbstractEventLoop _asyncio.Future _asyncio.Task
        asyncio.mixins._LoopBoundMixin""",
    "Pass the path and open it inside the function.": """
        _io._IOBase posix.ScandirIterator tempfile._TemporaryFileWrapper mmap.mmap _csv.writer""",
    "Pass its .path.": "posix.DirEntry",
    "Pass the address and connect inside the function.": """
        _socket.socket _ssl._SSLContext _ssl._SSLSocket""",
    "Make it inside the function, and register there what is to be waited for.": """
        select.epoll select.poll selectors.BaseSelector""",
    "Open the connection inside the function, or once per worker in an initializer.": """
        sqlite3.Connection sqlite3.Cursor psycopg2.extensions.connection
        psycopg.connection.Connection sqlalchemy.engine.base.Engine""",
    "Pass list(...) of it, or the function and arguments that make it.": """
        builtins.generator builtins.async_generator _csv.reader""",
    "Call the function and await the result in one process.": "builtins.coroutine",
    "Pass the plain values you need from it.": """
        builtins.frame _contextvars.Context _contextvars.Token""",
    "Pass traceback.format_exception(...) of it, which is text.": "builtins.traceback",
    "Import the module inside the function.": "builtins.module",
    "Pass the object itself: a weak reference travels only together with its object.": """
        weakref.ReferenceType""",
    "Windows belong to their process: pass plain data and draw in the owner.": """
        _tkinter.tkapp tkinter.Misc tkinter.Variable""",
    "Pass its groups() or its group().": "re.Match",
    "Pass its digest(), or the data.": "_hashlib.HASH",
    "A pointer means nothing in another process: pass its contents.": """
        _ctypes._Pointer ctypes.c_char_p ctypes.c_wchar_p ctypes.c_void_p ctypes.py_object""",
    "Look the function up, or make the callback, inside the function that uses it.": """
        _ctypes.CFuncPtr""",
    "Open the library inside the function that uses it, or once per worker in an initializer.": """
        ctypes.CDLL""",
}


@functools.cache
def _cures() -> dict[str, str]:
    return {name: cure for cure, names in _CURES.items() for name in names.split()}


def cure_of(obj: object) -> str | None:
    """What to do about an object of a kind that is known never to travel."""
    names = [f"{cls.__module__}.{cls.__qualname__}" for cls in type(obj).__mro__]
    # What `RawArray` and `RawValue` make is of a type that others may have, too.
    if "_ctypes._CData" in names and "_wrapper" in getattr(obj, "__dict__", ()):
        return _ONLY_AT_START
    return next(filter(None, map(_cures().get, names)), None)
