"""`python -m balanceroute`: version, backends, and a self-test of every instruction set of this machine against the oracle."""

from __future__ import annotations

import sys
import time

import numpy as np

from . import Assigner, Traffic, __version__, isas

TRAFFIC = Traffic(3_000, 1_700, 700, 400)
POLICIES = ("least-kv", "longest-first", "br0", "exact", "level")


def batch(rng: np.random.Generator, waiting: int, workers: int, free: int) -> dict[str, np.ndarray]:
    """A step as `assign` takes it: loads within a fifth of each other, lengths with a tail."""
    slots = np.zeros(workers, np.uint32)
    np.add.at(slots, rng.integers(0, workers, free), 1)
    return {
        "load_tokens": rng.integers(200_000, 240_000, workers).astype(np.uint64),
        "free_slots": slots,
        "prompt_tokens": rng.lognormal(8.0, 0.8, waiting).clip(1, 100_000).astype(np.uint32),
        "waited_steps": rng.integers(0, 60, waiting).astype(np.uint32),
        "running": np.full(workers, 71, np.uint32),
    }


def self_test(rounds: int = 40) -> int:
    """Decides random steps with every policy of the table on every instruction set; how many differ from the oracle."""
    rng = np.random.default_rng(1)
    steps = [batch(rng, int(rng.integers(0, 200)), int(rng.integers(1, 33)), int(rng.integers(0, 24))) for _ in range(rounds)]
    wrong = 0
    for policy in POLICIES:
        oracle = Assigner(policy, backend="reference")
        expected = [oracle.assign(**step, traffic=TRAFFIC) for step in steps]
        for isa in isas():
            tested = Assigner(policy, isa=isa)  # type: ignore[arg-type]
            for step, right in zip(steps, expected):
                found = tested.assign(**step, traffic=TRAFFIC)
                columns = ("row", "worker", "score_tokens")
                wrong += any(getattr(found, name).tobytes() != getattr(right, name).tobytes() for name in columns)
    return wrong


def main() -> int:
    print(f"balanceroute {__version__}, Python {sys.version.split()[0]}, numpy {np.__version__}")
    print(f"instruction sets: {', '.join(isas())}")
    level = Assigner("level")
    print(f"level: {level.backend}")
    step = batch(np.random.default_rng(2), 256, 64, 8)
    best = min(_timed(level, step) for _ in range(2_000))
    print(f"256 waiting, 64 workers, 8 free slots: {best / 1e3:.1f} us a call at best")
    wrong = self_test()
    print(f"self-test: {len(POLICIES)} policies on {len(isas())} instruction sets against the oracle: {wrong} differ")
    return 1 if wrong else 0


def _timed(assigner: Assigner, step: dict[str, np.ndarray]) -> int:
    start = time.perf_counter_ns()
    assigner.assign(**step, traffic=TRAFFIC)
    return time.perf_counter_ns() - start


if __name__ == "__main__":
    sys.exit(main())
