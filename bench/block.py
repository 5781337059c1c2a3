"""One block: one case on one subject in this process; the outcome goes to a file as JSON.

    python -m bench.block SUBJECT CASE SIZE OUTCOME

The runner ends this process and its whole session at the case's limit, and soon after the outcome
is there, so nothing here waits carefully.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

from bench.cases import CASES, Case, Unfit
from bench.subjects import Subject, known


def measure(subject: Subject, case: Case, size: int) -> dict[str, Any]:
    """The samples, or why there are none."""
    try:
        samples = case.run(subject, size)
    except Unfit as exc:
        return {"status": "unfit", "why": str(exc)}
    except Exception as exc:
        return {"status": "error", "why": f"{type(exc).__name__}: {exc}"[:300]}
    kept = [float(f"{sample:.4g}") for sample in samples]
    return {"status": "ok", "samples": kept, "notes": subject.notes}


def main(argv: list[str]) -> None:
    subject_name, case_name, size, outcome = argv
    subject = known(subject_name)
    result = measure(subject, CASES[case_name], int(size))
    with open(outcome + ".part", "w") as file:
        json.dump(result, file)
    os.replace(outcome + ".part", outcome)  # whole or not at all
    # Not measured, and a pool that has lost a worker may fail or hang here. Tried all the same:
    # libraries that leave early leave their semaphores and files behind.
    with contextlib.suppress(Exception):
        subject.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
