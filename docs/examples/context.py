import multiprocessing

import hookpool  # registers the start method

ctx = multiprocessing.get_context("hookpool")

with ctx.Pool(2) as pool:
    print(pool.map(lambda x: x * 2, range(5)))  # -> [0, 2, 4, 6, 8]

queue = ctx.Queue()
process = ctx.Process(target=lambda: queue.put(lambda x: x + 1))
process.start()
add_one = queue.get(timeout=30)  # a lambda that another process has sent
process.join()
print(add_one(41))  # -> 42
queue.close()
queue.join_thread()
