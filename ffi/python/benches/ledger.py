"""What the account costs in a front end's event loop: a step of 8 ranks with 200 requests each, a request's
whole life, and memory.

    python ffi/python/benches/ledger.py

Rounds of all candidates alternate; the best and the median round are printed. The bare loop over the same
outputs, which looks at each and does nothing, is the limit for whatever reads them in Python.
"""

from __future__ import annotations

import gc
import statistics
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np

import balanceroute as br
from balanceroute.engines.ledger import Ledger

RANKS, REQUESTS = 8, 200


class Output:
    """As an engine tells of a request in a step."""

    __slots__ = ("finish_reason", "new_token_ids", "request_id")

    def __init__(self, name: str) -> None:
        self.request_id = name
        self.new_token_ids = [7]
        self.finish_reason = None


def filled() -> tuple[Ledger, list[list[Output]]]:
    ledger = Ledger(RANKS, REQUESTS, kv_capacity_tokens=10_000_000)
    outputs: list[list[Output]] = [[] for _ in range(RANKS)]
    for at in range(RANKS * REQUESTS):
        name = f"chatcmpl-{at:032x}"
        outputs[ledger.place(name, 1_000 + at)].append(Output(name))
    return ledger, outputs


def step_by_arrays() -> Callable[[], None]:
    """The router's own call, for who keeps ids in arrays."""
    ledger, outputs = filled()
    ids = [np.array([ledger._by_name[o.request_id] for o in of], np.uint64) for of in outputs]
    tokens = np.ones(REQUESTS, np.uint32)
    router = ledger.router

    def run() -> None:
        for of in ids:
            router.progress_requests(of, tokens)

    return run


def step_by_outputs() -> Callable[[], None]:
    """What the vLLM plug-in does with an engine's outputs, whose names are new strings in every step."""
    ledger, outputs = filled()
    again = [[Output(str(o.request_id.encode(), "ascii")) for o in of] for of in outputs]
    told = [outputs, again]

    def run() -> None:
        for rank, of in enumerate(told[0]):
            ledger.step(rank, [o.request_id for o in of], [len(o.new_token_ids) for o in of])
        told.reverse()

    return run


def step_one_by_one() -> Callable[[], None]:
    ledger, outputs = filled()

    def run() -> None:
        for of in outputs:
            for output in of:
                ledger.progress(output.request_id, len(output.new_token_ids))

    return run


def bare_loop() -> Callable[[], None]:
    _, outputs = filled()

    def run() -> None:
        for of in outputs:
            for output in of:
                if output.finish_reason is not None or not output.new_token_ids:
                    raise AssertionError(output.request_id)

    return run


LIVES = 512


def life_in_a_router() -> Callable[[], None]:
    """Enqueued, admitted with the others of its step, finished: 512 at once."""
    router = br.Router([br.WorkerConfig(LIVES)] * RANKS)

    def run() -> None:
        for id in range(LIVES):
            router.enqueue(id, 1_000, now_ms=1)
        if len(router.step(1).admissions) != LIVES:
            raise AssertionError("not all were admitted")
        for id in range(LIVES):
            router.finish(id, now_ms=1)

    return run


def life_in_a_ledger() -> Callable[[], None]:
    ledger = Ledger(RANKS, LIVES, clock=lambda: 1.0)
    names = [f"chatcmpl-{at:032x}" for at in range(LIVES)]

    def run() -> None:
        for name in names:
            ledger.enqueue(name, 1_000)
        if len(ledger.decide()) != LIVES:
            raise AssertionError("not all were admitted")
        for name in names:
            ledger.finish(name)

    return run


def times(candidates: dict[str, Callable[[], Callable[[], None]]], rounds: int) -> dict[str, list[float]]:
    runs = {name: make() for name, make in candidates.items()}
    found: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            gc.disable()
            start = time.perf_counter()
            run()
            found[name].append(time.perf_counter() - start)
            gc.enable()
    return found


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def memory(count: int = 200_000) -> tuple[float, float]:
    """Bytes for each running request: of Python's, and of the whole process. Names are the engine's."""
    names = [f"chatcmpl-{at:032x}" for at in range(count)]
    gc.collect()
    tracemalloc.start()
    ledger = Ledger(RANKS, 65_536)
    before = tracemalloc.get_traced_memory()[0]
    for name in names:
        ledger.bind(name, 1_000, hash(name) % RANKS)
    python = (tracemalloc.get_traced_memory()[0] - before) / count
    tracemalloc.stop()
    del ledger
    gc.collect()
    start = resident()
    ledger = Ledger(RANKS, 65_536)
    for name in names:
        ledger.bind(name, 1_000, hash(name) % RANKS)
    return python, (resident() - start) / count


def main() -> None:
    print(f"a step of {RANKS} x {REQUESTS} tokens, us: best, median")
    found = times(
        {
            "router, arrays of ids": step_by_arrays,
            "ledger, outputs": step_by_outputs,
            "ledger, one by one": step_one_by_one,
            "bare loop over the outputs": bare_loop,
        },
        300,
    )
    for name, of in found.items():
        print(f"  {name:28} {min(of) * 1e6:8.1f} {statistics.median(of) * 1e6:8.1f}")
    print("a request's whole life without its tokens, us")
    for name, of in times(
        {"router": life_in_a_router, "ledger": life_in_a_ledger},
        300,
    ).items():
        print(f"  {name:28} {min(of) * 1e6 / LIVES:8.2f} {statistics.median(of) * 1e6 / LIVES:8.2f}")
    python, process = memory()
    print(f"bytes a running request: {python:.0f} of Python's, {process:.0f} in all, names not counted")


if __name__ == "__main__":
    main()
