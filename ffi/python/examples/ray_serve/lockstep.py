"""Ray Serve with a request router that calls balanceroute: replicas that decode in lock-step, and requests
that wait for the right one.

    pip install 'ray[serve]' balanceroute
    python lockstep.py          # 8 replicas, 300 requests, once with Ray's own router and once with this one

A request waits in the router (`Gate`) until a replica has a free slot and room in its KV cache; all that wait
are decided together. Replicas say what they hold by `record_routing_stats`, with the number of requests that
they have received, so an old report erases nothing that was sent since. A router belongs to one handle; with
several (proxies, replicas that call), each counts the others' requests as foreign load.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys

import ray
from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import RequestRouter

from balanceroute.engines.gate import Gate, GateTimes
from balanceroute.engines.ledger import Ledger

REPLICAS, SLOTS, KV_TOKENS = 8, 8, 40_000


class BalanceRouter(RequestRouter):
    """Which replica a request enters. `request_router_kwargs` has each replica's slots and KV tokens."""

    def initialize_state(self, slots: int, kv_capacity_tokens: int, policy: str = "level") -> None:
        self.limits = dict(slots=slots, kv_capacity_tokens=kv_capacity_tokens, policy=policy)
        self.order: list = []
        self.gate: Gate | None = None
        self.reported: dict = {}

    @property
    def max_num_routing_tasks(self) -> int:
        # Every request that waits is to be in the gate, not just two per replica.
        return self.max_num_routing_tasks_cap

    def update_replicas(self, replicas: list) -> None:
        ids = sorted(replica.replica_id.unique_id for replica in replicas)
        if ids != self.order:
            # Who runs where comes back with the first reports.
            old, self.order, self.gate = self.gate, ids, None
            if ids:
                self.gate = Gate(Ledger(len(ids), **self.limits), GateTimes(window=0.002, stall=10))
            if old is not None:
                old.release_all("replicas have come or gone")
        super().update_replicas(replicas)
        for replica in replicas:
            self.report(replica)

    def report(self, replica) -> None:
        """Ray repeats what a replica said last: only news are taken in."""
        stats, rank = replica.routing_stats, self.order.index(replica.replica_id.unique_id)
        if stats and self.reported.get(rank) != stats["step"]:
            self.reported[rank] = stats["step"]
            self.gate.news()
            # Ray collects these and spreads them in its own time.
            load = dict(running=stats["running"], waiting=stats["waiting"], kv_used=stats["kv_tokens"])
            self.gate.ledger.report(rank, seen=stats["received"], age=2.0, **load)
            self.gate.stir()

    async def choose_replicas(self, candidate_replicas, pending_request=None):
        if pending_request is None or self.gate is None:
            return [candidate_replicas]
        gate, name = self.gate, pending_request.metadata.internal_request_id
        rank = gate.ledger.rank_of(name)
        if rank is None:
            rank = await gate.hold(name, pending_request.kwargs["prompt_tokens"])
        chosen = [
            r for r in candidate_replicas if gate is self.gate and r.replica_id.unique_id == self.order[rank]
        ]
        return [chosen] if chosen else []

    def on_request_completed(self, replica_id, internal_request_id: str) -> None:
        if self.gate is not None and self.gate.ledger.finish(internal_request_id):
            self.gate.stir()


@ray.remote(num_cpus=0)
class Clock:
    """The collective at the end of a step: nobody goes on before all have arrived, and a step lasts as long
    as its fullest rank.
    """

    def __init__(self, ranks: int) -> None:
        self.ranks, self.samples = ranks, []
        self.arrived: dict = {}
        self.next = asyncio.Event()

    async def step(self, rank: str, kv_tokens: int) -> None:
        self.arrived[rank] = kv_tokens
        done = self.next
        if len(self.arrived) < self.ranks:
            await done.wait()
            return
        loads, self.arrived, self.next = list(self.arrived.values()), {}, asyncio.Event()
        if any(loads):
            self.samples.append(loads)
        await asyncio.sleep(0.004 + 1e-6 * max(loads))
        done.set()

    async def loads(self) -> list:
        return self.samples


@serve.deployment(num_replicas=REPLICAS, max_ongoing_requests=4 * SLOTS, ray_actor_options={"num_cpus": 0})
class Decoder:
    """A replica that decodes numbers: every running request has one token more after each step of all
    replicas.
    """

    def __init__(self, clock) -> None:
        self.clock, self.name = clock, serve.get_replica_context().replica_id.unique_id
        self.queue: list = []
        self.running: list = []
        self.received = self.steps = 0
        self.loop = asyncio.get_running_loop().create_task(self.decode())

    async def __call__(self, *, prompt_tokens: int, output_tokens: int) -> str:
        self.received += 1
        done = asyncio.get_running_loop().create_future()
        self.queue.append([prompt_tokens, output_tokens, done])
        await done
        return self.name

    def kv_tokens(self) -> int:
        return sum(request[0] for request in self.running)

    async def decode(self) -> None:
        while True:
            while (
                self.queue and len(self.running) < SLOTS and self.kv_tokens() + self.queue[0][0] < KV_TOKENS
            ):
                self.running.append(self.queue.pop(0))
            await self.clock.step.remote(self.name, self.kv_tokens())
            self.steps += 1
            for request in self.running:
                request[0] += 1
                request[1] -= 1
                if request[1] == 0:
                    request[2].set_result(None)
            self.running = [request for request in self.running if request[1] > 0]

    def record_routing_stats(self) -> dict:
        counts = dict(running=len(self.running), waiting=len(self.queue), received=self.received)
        return dict(step=self.steps, kv_tokens=self.kv_tokens(), **counts)


async def drive(handle, count: int, ahead: int, seed: int = 1) -> list[str]:
    """Sends `count` requests, as many at a time as the replicas have slots and `ahead` more. Who answered
    each.
    """
    rng, gate = random.Random(seed), asyncio.Semaphore(REPLICAS * SLOTS + ahead)

    async def one(prompt_tokens: int, output_tokens: int) -> str:
        async with gate:
            return await handle.remote(prompt_tokens=prompt_tokens, output_tokens=output_tokens)

    return await asyncio.gather(
        *(one(int(20 * 100 ** rng.random()), rng.randint(5, 40)) for _ in range(count))
    )


def run(balanced: bool, count: int = 300) -> tuple[float, list[str]]:
    """(greatest / mean KV load - 1, over steps; who answered) of one deployment."""
    clock = Clock.remote(REPLICAS)
    router = RequestRouterConfig(request_routing_stats_period_s=0.2)
    if balanced:
        kwargs = {"slots": SLOTS, "kv_capacity_tokens": KV_TOKENS}
        router = RequestRouterConfig(
            request_router_class=BalanceRouter,
            request_router_kwargs=kwargs,
            request_routing_stats_period_s=0.2,
        )
    # A name of its own: a handle in this process keeps the router that it first had for a name.
    app = "balanced" if balanced else "stock"
    handle = serve.run(Decoder.options(request_router_config=router).bind(clock), name=app, route_prefix=None)
    answers = asyncio.run(drive(handle, count, ahead=32))
    loads = ray.get(clock.loads.remote())
    serve.delete(app)
    middle = loads[len(loads) // 10 : -len(loads) // 5]
    return statistics.mean(max(step) * len(step) / sum(step) - 1 for step in middle), answers


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    for balanced in (False, True):
        imbalance, answers = run(balanced, int(sys.argv[1]) if len(sys.argv) > 1 else 300)
        print(
            f"{'balanceroute' if balanced else 'ray serve'}: {len(answers)} answers, "
            f"the fullest replica {imbalance:.1%} above the mean"
        )
    serve.shutdown()
