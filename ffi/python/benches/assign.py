"""What a decision costs in Python: 256 waiting, 64 workers, 8 free slots, beside vLLM's and SGLang's own rank
choice in the same run.

    python ffi/python/benches/assign.py

A peer that is not installed is named. `tests/engines/run sglang` makes an environment that has both of them.
Rounds of all candidates alternate, so that a slow moment of the machine meets each of them; the best and the
median round are printed.

The peers bind every request to a rank when it arrives, one call each: their figure is for 256 of these calls.
    `assign` decides one step: which 8 of
256 waiting requests enter which free slot.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

import balanceroute as br

WAITING, WORKERS, FREE, SLOTS = 256, 64, 8, 72
TRAFFIC = br.Traffic(3_200, 2_500, 900, 400)


class Step:
    """Loads within a fifth of each other, lognormal lengths, waits of up to 60 steps."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.loads = rng.integers(200_000, 240_000, WORKERS).astype(np.uint64)
        self.free = np.zeros(WORKERS, np.uint32)
        self.free[rng.choice(WORKERS, FREE, replace=False)] = 1
        self.running = (SLOTS - self.free).astype(np.uint32)
        self.prompts = rng.lognormal(7.8, 0.8, WAITING).clip(1, 100_000).astype(np.uint32)
        self.waited = rng.integers(0, 60, WAITING).astype(np.uint32)

    def decide(self, assigner: br.Assigner) -> br.Assignment:
        return assigner.assign(
            self.loads,
            self.free,
            self.prompts,
            running=self.running,
            waited_steps=self.waited,
            traffic=TRAFFIC,
        )


def ours(policy: str, steps: list[Step]) -> Callable[[int], None]:
    assigner, oracle = br.Assigner(policy), br.Assigner(policy, backend="reference")
    for step in steps[:4]:
        found, right = step.decide(assigner), step.decide(oracle)
        if (
            len(found) != FREE
            or found.row.tolist() != right.row.tolist()
            or found.worker.tolist() != right.worker.tolist()
        ):
            raise SystemExit(f"{policy}: not the oracle's answer")

    def run(calls: int) -> None:
        for at in range(calls):
            steps[at % len(steps)].decide(assigner)

    return run


def one_shot(steps: list[Step]) -> Callable[[int], None]:
    def run(calls: int) -> None:
        for at in range(calls):
            of = steps[at % len(steps)]
            br.assign(
                of.loads, of.free, of.prompts, running=of.running, waited_steps=of.waited, traffic=TRAFFIC
            )

    return run


def router(rng: np.random.Generator) -> Callable[[int], None]:
    """One step of a router that has its 4,608 slots full and 256 waiting: 8 end, 8 arrive, all advance, one
    decision.
    """
    state = br.Router([br.WorkerConfig(SLOTS)] * WORKERS)
    lengths = rng.lognormal(7.8, 0.8, 1 << 16).clip(1, 100_000).astype(int).tolist()
    running = list(range(WORKERS * SLOTS))
    for id in running:
        state.enqueue(id, lengths[id % len(lengths)])
    state.step(0)
    next_id = len(running)
    for next_id in range(next_id, next_id + WAITING):
        state.enqueue(next_id, lengths[next_id % len(lengths)])
    ends = rng.integers(0, len(running), 1 << 16).tolist()
    now = at = 0

    def run(calls: int) -> None:
        nonlocal next_id, now, at
        for _ in range(calls):
            free = []
            for _ in range(FREE):
                slot = ends[at % len(ends)]
                at += 1
                while running[slot] < 0:
                    slot = (slot + 1) % len(running)
                state.finish(running[slot])
                running[slot] = -1
                free.append(slot)
                next_id += 1
                state.enqueue(next_id, lengths[next_id % len(lengths)])
            state.advance()
            now += 50
            admissions = state.step(now).admissions
            if len(admissions) != FREE:
                raise SystemExit(f"router: {len(admissions)} admissions instead of {FREE}")
            for slot, dispatch in zip(free, admissions):
                running[slot] = dispatch.id

    return run


def vllm() -> Callable[[int], None]:
    """`DPLBAsyncMPClient.get_core_engine_for_request` as the class has it, on the fields that it reads."""
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine import EngineCoreRequest
    from vllm.v1.engine.core_client import DPLBAsyncMPClient

    class Client(DPLBAsyncMPClient):
        def __init__(self) -> None:
            self.client_count, self.eng_start_index = 1, 0
            self.reqs_in_flight, self.streaming_reqs, self.engine_inflight = {}, set(), Counter()
            self.core_engines = [rank.to_bytes(2, "little") for rank in range(WORKERS)]
            self.lb_engines = [[0, SLOTS, 0.4] for _ in range(WORKERS)]

        def __del__(self) -> None:
            pass

    client = Client()
    requests = [
        EngineCoreRequest(
            request_id=f"r{at}", prompt_token_ids=[1], mm_features=None,
            sampling_params=SamplingParams(max_tokens=8), pooling_params=None, arrival_time=0.0,
            lora_request=None, cache_salt=None, data_parallel_rank=None,
        )
        for at in range(WAITING)
    ]  # fmt: skip

    def run(calls: int) -> None:
        for _ in range(calls):
            client.reqs_in_flight.clear()
            for request in requests:
                client.get_core_engine_for_request(request)

    return run


def sglang() -> Callable[[int], None]:
    """`DPBudget.dispatch` by total tokens, as the controller calls it."""
    stand_ins = Path(__file__).resolve().parents[3] / "tests" / "engines"
    if (stand_ins / "sglang_stand_ins.py").exists():
        # For what its import chain names and routing does not use.
        sys.path.append(str(stand_ins))
        import sglang_stand_ins

        sglang_stand_ins.install()
    from sglang.srt.managers.data_parallel_controller import DPBudget, LoadBalanceMethod

    budget = DPBudget(WORKERS)
    lengths = Step(np.random.default_rng(3)).prompts.tolist()

    def run(calls: int) -> None:
        for _ in range(calls):
            for tokens in lengths:
                budget.dispatch(LoadBalanceMethod.TOTAL_TOKENS, tokens)

    return run


def main() -> None:
    options = argparse.ArgumentParser(description="What a decision costs in Python.")
    options.add_argument("--rounds", type=int, default=40)
    options.add_argument("--limit-us", type=float, help="fail when the best round of `assign` takes longer")
    wanted = options.parse_args()
    rng = np.random.default_rng(1)
    steps = [Step(rng) for _ in range(64)]
    # (name, candidate, calls a round)
    table: list[tuple[str, Callable[[int], None], int]] = [
        ("Assigner('level').assign, used again", ours("level", steps), 500),
        ("Assigner('exact').assign, used again", ours("exact", steps), 500),
        ("balanceroute.assign, made anew each call", one_shot(steps), 500),
        ("Router: 8 ends, 8 arrivals, advance, step", router(rng), 100),
    ]
    for name, make in (
        ("vLLM get_core_engine_for_request x 256", vllm),
        ("SGLang DPBudget.dispatch x 256", sglang),
    ):
        try:
            table.append((name, make(), 5))
        except ImportError as error:
            print(f"NOT RUN: {name}: {error}")
    times: dict[str, list[float]] = {name: [] for name, *_ in table}
    for _ in range(wanted.rounds):
        for name, run, calls in table:
            start = time.perf_counter_ns()
            run(calls)
            times[name].append((time.perf_counter_ns() - start) / calls / 1e3)
    print(
        f"{WAITING} waiting, {WORKERS} workers, {FREE} free slots; "
        f"us a call, best and median of {wanted.rounds} rounds"
    )
    for name, found in times.items():
        print(f"{name:<44} {min(found):9.1f} {statistics.median(found):9.1f}")
    best = min(times[table[0][0]])
    if wanted.limit_us is not None and best > wanted.limit_us:
        raise SystemExit(f"assign takes {best:.1f} us, more than {wanted.limit_us}")


if __name__ == "__main__":
    main()
