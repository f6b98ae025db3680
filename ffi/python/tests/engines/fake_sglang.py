"""A duck-typed controller of SGLang: the attributes and methods that the plugin touches; and ranks that
decode numbers in lock-step.
"""

from __future__ import annotations

import enum
import types
from collections.abc import Callable
from dataclasses import dataclass


class HookType(enum.Enum):
    BEFORE = 0
    AFTER = 1
    AROUND = 2


@dataclass
class Snapshot:
    dp_rank: int
    timestamp: float
    num_running_reqs: int = 0
    num_waiting_reqs: int = 0
    num_total_tokens: int = 0
    max_total_num_tokens: int = 100_000
    max_running_requests: int = 64
    num_active_tokens: int = 0


@dataclass
class Request:
    rid: str
    input_ids: list | None
    routed_dp_rank: int | None = None
    session_id: str | None = None
    new_tokens: int = 8


@dataclass
class TokenizedEmbeddingReqInput(Request):
    pass


@dataclass
class AbortReq:
    rid: str | None = ""
    abort_all: bool = False


class Watchdog:
    def __init__(self) -> None:
        self.fed = 0

    def feed(self) -> None:
        self.fed += 1


class Budget:
    """SGLang's own counters: what snapshots say, and what its rule has sent since."""

    def __init__(self, ranks: int) -> None:
        self.total_requests, self.total_tokens = [0] * ranks, [0] * ranks
        self.stamps = [0.0] * ranks

    def update(self, loads: list[Snapshot]) -> None:
        for load in loads:
            rank = load.dp_rank
            if rank < len(self.stamps) and load.timestamp != self.stamps[rank]:
                self.stamps[rank] = load.timestamp
                self.total_requests[rank] = load.num_running_reqs + load.num_waiting_reqs
                self.total_tokens[rank] = load.num_total_tokens

    def take(self, tokens: int) -> int:
        ranks = range(len(self.total_tokens))
        rank = min(ranks, key=lambda r: (self.total_tokens[r], self.total_requests[r]))
        self.total_requests[rank] += 1
        self.total_tokens[rank] += tokens
        return rank


class Controller:
    """`around` stands for what a hook has put around the method of that name."""

    def __init__(self, ranks: int = 4, clock: Callable[[], float] = lambda: 0.0, interval: int = 1) -> None:
        self.workers: list[object | None] = [object() for _ in range(ranks)]
        self.status = [True] * ranks
        self._active_workers = list(range(ranks))
        self.dp_budget = Budget(ranks)
        self.load_snapshot_reader = self
        self.load_balance_method = types.SimpleNamespace(name="TOTAL_TOKENS")
        self.server_args = types.SimpleNamespace(
            load_snapshot_publish_interval=interval, disaggregation_mode="null"
        )
        self.soft_watchdog = Watchdog()
        self.snapshots: list[Snapshot] = []
        self.sent: list[list[Request]] = [[] for _ in range(ranks)]
        self.controls: list[object] = []
        self.stock_choices = 0
        self.reads = 0
        self.clock = clock
        self.refreshed = float("-inf")
        self.around: dict[str, Callable[..., object]] = {}

    def read_all(self) -> list[Snapshot]:
        self.reads += 1
        return list(self.snapshots)

    def handle(self, req: Request) -> None:
        """As the event loop does with a request that has come."""
        keep = self.around.get("dispatching_with_trace")
        if keep is None:
            self.dispatching_with_trace(req)
        else:
            keep(Controller.dispatching_with_trace, self, req)

    def control(self, message: object) -> None:
        """And with a message that is no request."""
        if hear := self.around.get("send_control_message"):
            hear(self, message)
        self.controls.append((message, [list(sent) for sent in self.sent]))

    def dispatching_with_trace(self, req: Request, refresh_load_budget: bool = True) -> None:
        if refresh_load_budget and self.clock() - self.refreshed >= 0.02:
            self.refreshed = self.clock()
            self.dp_budget.update(self.snapshots)
        route = self.around.get("total_tokens_scheduler")
        if route is None:
            self.total_tokens_scheduler(req)
        else:
            route(Controller.total_tokens_scheduler, self, req)

    def total_tokens_scheduler(self, req: Request) -> None:
        rank = req.routed_dp_rank
        if rank is None:
            self.stock_choices += 1
            rank = self.dp_budget.take(len(req.input_ids or ()))
        elif rank not in self._active_workers:
            raise ValueError(f"DP rank {rank} is not active.")
        self.sent[rank].append(req)


class Ranks:
    """What stands behind a controller: each queues what it has no room for, and writes a snapshot before it
    knows who has ended in the step.
    """

    def __init__(self, controller: Controller, slots: int, capacity: int, skew: float = 0.0) -> None:
        self.controller, self.slots, self.capacity, self.skew = controller, slots, capacity, skew
        ranks = range(len(controller.workers))
        self.running: list[list[list]] = [[] for _ in ranks]
        self.waiting: list[list[list]] = [[] for _ in ranks]
        self._since = [0 for _ in ranks]
        controller.snapshots = [self.snapshot(rank) for rank in ranks]

    def snapshot(self, rank: int) -> Snapshot:
        running, waiting = self.running[rank], self.waiting[rank]
        tokens = sum(entry[1] for entry in running + waiting)
        stamp = self.controller.clock() + self.skew
        return Snapshot(rank, stamp, len(running), len(waiting), tokens, self.capacity, self.slots)

    def loads(self) -> list[int]:
        return [sum(entry[1] for entry in running) for running in self.running]

    def step(self) -> list[str]:
        """One step of all; who has ended."""
        ended = []
        for rank, running in enumerate(self.running):
            inbox, waiting = self.controller.sent[rank], self.waiting[rank]
            waiting += [[req.rid, len(req.input_ids or ()), req.new_tokens] for req in inbox]
            inbox.clear()
            admitted = 0
            while (
                waiting
                and len(running) < self.slots
                and sum(entry[1] for entry in running) + waiting[0][1] <= self.capacity
            ):
                running.append(waiting.pop(0))
                admitted += 1
            self._since[rank] += 1
            if admitted or self._since[rank] >= self.controller.server_args.load_snapshot_publish_interval:
                self._since[rank] = 0
                self.controller.snapshots[rank] = self.snapshot(rank)
            for entry in list(running):
                entry[1] += 1
                entry[2] -= 1
                if not entry[2]:
                    running.remove(entry)
                    ended.append(entry[0])
        return ended
