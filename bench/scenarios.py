"""Three programs in the manner of mpire's public benchmark, which took them from ray's.

What they share with it: what is asked (filters over one large image; counts of word prefixes that
stay in the workers; a model that is costly to load), that each run makes and ends its pool, and
that runs repeat in one program. Smaller here, and without tensorflow. What differs: all subjects
get their data by an initializer (mpire by its shared objects), where the original has some of them
pickle the image for every task or load the model for every batch. The first run is not counted:
starting from cold is a case of its own.
"""

from __future__ import annotations

import os
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from bench.subjects import Subject

WORKERS = 2
#: runs that count
RUNS = 2

#: what the initializer has left in a worker
_here: dict[str, Any] = {}


def _runs(subject: Subject, once: Callable[[], None]) -> list[float]:
    samples = []
    for _ in range(1 + RUNS):
        before = time.perf_counter()
        once()
        subject.stop()
        samples.append(time.perf_counter() - before)
    return samples[1:]


# ---- numerical: one image, many filters ---------------------------------------------------------

SIDE = 1000


def keep_image(image: Any) -> None:
    _here["image"] = image


def filtered(weights: Any) -> Any:
    """A fifth of the rows and columns of the convolution with 4 x 4 weights."""
    image = _here["image"]
    rows, columns = (extent - 3 for extent in image.shape)
    total = sum(
        weights[i, j] * image[i : i + rows, j : j + columns] for i in range(4) for j in range(4)
    )
    return total[::5, ::5]


def numerical(subject: Subject, size: int) -> list[float]:
    import numpy

    source = numpy.random.default_rng(42)
    image = source.normal(size=(SIDE, SIDE))
    weights = [source.normal(size=(4, 4)) for _ in range(size)]

    subject.preload("numpy")

    def once() -> None:
        subject.start_with(WORKERS, keep_image, image)
        found = subject.map_many(filtered, weights)
        if len(found) != size or found[0].shape != (200, 200):
            raise AssertionError(f"{subject.name} returned a wrong result")

    return _runs(subject, once)


# ---- stateful: counts that stay in the worker ---------------------------------------------------

OFTEN = 4


def begin_to_count() -> None:
    _here["counts"] = defaultdict(int)


def newly_popular(document: Sequence[bytes]) -> set[bytes]:
    """Prefixes that this worker has now seen often for the first time."""
    counts = _here["counts"]
    found = set()
    for word in document:
        for length in range(1, len(word)):
            prefix = word[:length]
            counts[prefix] += 1
            if counts[prefix] == OFTEN:
                found.add(prefix)
    return found


def documents(count: int) -> list[list[bytes]]:
    """Every other one three times as long as its neighbours."""
    source = random.Random(42)
    return [
        [source.randbytes(12) for _ in range(1800 if number % 2 else 600)]
        for number in range(count)
    ]


def stateful(subject: Subject, size: int) -> list[float]:
    texts = documents(size)

    def once() -> None:
        subject.start_with(WORKERS, begin_to_count)
        popular = set[bytes]().union(*subject.map_many(newly_popular, texts))
        if len(popular) < 256:  # each single byte is frequent enough
            raise AssertionError(f"{subject.name} returned a wrong result")

    return _runs(subject, once)


# ---- a costly start: a model loaded once per worker ---------------------------------------------

#: maps over one pool
MAPS = 5


def load_model() -> None:
    import numpy

    source = numpy.random.default_rng(42)
    weights, _ = numpy.linalg.qr(source.normal(size=(600, 600)))
    _here["model"] = weights, source.normal(size=(600, 10)), source.normal(size=(400, 600))


def predicted(batch: int) -> Any:
    first, last, data = _here["model"]
    hidden = data @ first
    hidden[hidden < 0] = 0
    return hidden @ last + batch


def initialization(subject: Subject, size: int) -> list[float]:
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # workers times threads fit for everybody
    subject.preload("numpy")

    def once() -> None:
        subject.start_with(WORKERS, load_model)
        for _ in range(MAPS):
            if subject.map_many(predicted, range(size))[0].shape != (400, 10):
                raise AssertionError(f"{subject.name} returned a wrong result")

    return _runs(subject, once)
