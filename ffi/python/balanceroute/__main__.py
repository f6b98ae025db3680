"""`python -m balanceroute`: version, backends, and a self-test of every instruction set of this machine
against the oracle.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from . import Assigner, Assignment, Traffic, __version__, isas

TRAFFIC = Traffic(3_000, 1_700, 700, 400)
POLICIES = ("least-kv", "longest-first", "br0", "exact", "level")


@dataclass
class Step:
    """A step as `assign` takes it: loads within a fifth of each other, lengths with a tail."""

    loads: npt.NDArray[np.uint64]
    free: npt.NDArray[np.uint32]
    prompts: npt.NDArray[np.uint32]
    waited: npt.NDArray[np.uint32]

    @classmethod
    def drawn(cls, rng: np.random.Generator, waiting: int, workers: int, free: int) -> Step:
        slots = np.zeros(workers, np.uint32)
        np.add.at(slots, rng.integers(0, workers, free), 1)
        return cls(
            rng.integers(200_000, 240_000, workers).astype(np.uint64),
            slots,
            rng.lognormal(8.0, 0.8, waiting).clip(1, 100_000).astype(np.uint32),
            rng.integers(0, 60, waiting).astype(np.uint32),
        )

    def decided(self, by: Assigner) -> Assignment:
        return by.assign(self.loads, self.free, self.prompts, waited_steps=self.waited, traffic=TRAFFIC)


def self_test(rounds: int = 40) -> int:
    """Decides random steps with every policy of the table on every instruction set; how many differ from the
    oracle.
    """
    rng = np.random.default_rng(1)
    sizes = [
        (int(rng.integers(0, 200)), int(rng.integers(1, 33)), int(rng.integers(0, 24))) for _ in range(rounds)
    ]
    steps = [Step.drawn(rng, *size) for size in sizes]
    wrong = 0
    for policy in POLICIES:
        oracle = Assigner(policy, backend="reference")
        expected = [step.decided(oracle) for step in steps]
        for isa in isas():
            tested = Assigner(policy, isa=isa)  # type: ignore[arg-type]
            for step, right in zip(steps, expected):
                found = step.decided(tested)
                columns = ("row", "worker", "score_tokens")
                wrong += any(
                    getattr(found, name).tobytes() != getattr(right, name).tobytes() for name in columns
                )
    return wrong


def main() -> int:
    print(f"balanceroute {__version__}, Python {sys.version.split()[0]}, numpy {np.__version__}")
    print(f"instruction sets: {', '.join(isas())}")
    level = Assigner("level")
    print(f"level: {level.backend}")
    step = Step.drawn(np.random.default_rng(2), 256, 64, 8)
    best = min(_timed(level, step) for _ in range(2_000))
    print(f"256 waiting, 64 workers, 8 free slots: {best / 1e3:.1f} us a call at best")
    wrong = self_test()
    print(
        f"self-test: {len(POLICIES)} policies on {len(isas())} instruction sets against the oracle: "
        f"{wrong} differ"
    )
    return 1 if wrong else 0


def _timed(assigner: Assigner, step: Step) -> int:
    start = time.perf_counter_ns()
    step.decided(assigner)
    return time.perf_counter_ns() - start


if __name__ == "__main__":
    sys.exit(main())
