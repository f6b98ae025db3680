"""A duck-typed vLLM client: the attributes and methods that the plugin touches, with engines that decode
numbers when told to step. `SHAPES` has one entry for each vLLM version whose internals differ.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import types
from collections import Counter
from dataclasses import dataclass, field, make_dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """What one vLLM version has and lacks."""

    version: str
    row: int
    """Columns of a coordinator row: waiting, running, and KV usage where there are three."""
    capacity_in_tokens: bool
    """Or only in blocks, added up over all engines, one of each being spare."""
    skipped_apart: bool
    """Waiting requests that hold blocks already are counted apart from the others."""
    streaming_reqs: bool
    request_fields: tuple[str, ...]
    """Optional ones."""


_REQUEST_FIELDS = ("resumable", "abort_immediately", "session_id")
SHAPES = {
    shape.version: shape
    for shape in (
        Shape("0.13.0", 2, False, False, False, ()),
        Shape("0.18.0", 2, False, False, False, _REQUEST_FIELDS[:1]),
        Shape("0.23.0", 2, False, True, False, _REQUEST_FIELDS[:2]),
        Shape("0.27.1", 3, True, True, False, _REQUEST_FIELDS[:2]),
        Shape("0.33.0", 3, True, True, True, _REQUEST_FIELDS),
    )
}
NEWEST = SHAPES["0.33.0"]
BLOCK = 16


class FinishReason(enum.IntEnum):
    LENGTH = 1
    ABORT = 2
    ERROR = 3


class EngineDeadError(Exception):
    pass


@dataclass
class EngineCoreOutput:
    request_id: str
    new_token_ids: list
    finish_reason: Any = None
    error: Any = None


@dataclass
class RequestError:
    code: str
    message: str
    retryable: bool = False


@dataclass
class SchedulerStats:
    num_running_reqs: int = 0
    num_waiting_reqs: int = 0
    num_skipped_waiting_reqs: int = 0
    kv_cache_usage: float = 0.0


@dataclass
class OlderSchedulerStats:
    num_running_reqs: int = 0
    num_waiting_reqs: int = 0
    kv_cache_usage: float = 0.0


@dataclass
class EngineCoreOutputs:
    engine_index: int = 0
    outputs: list = field(default_factory=list)
    finished_requests: set | None = None
    scheduler_stats: Any = None


@dataclass
class Request:
    request_id: str
    prompt_token_ids: list | None
    max_tokens: int = 8
    data_parallel_rank: int | None = None
    pooling_params: Any = None
    resumable: bool = False
    session_id: str | None = None
    prompt_embeds: Any = None
    current_wave: int = 0
    client_index: int = 0
    abort_immediately: bool = False


def request_class(shape: Shape) -> type:
    """The request of a version: without the fields that came later."""
    later = set(_REQUEST_FIELDS) - set(shape.request_fields)
    fields = [
        (name, of.type) if of.default is dataclasses.MISSING else (name, of.type, field(default=of.default))
        for name, of in Request.__dataclass_fields__.items()
        if name not in later
    ]
    return make_dataclass("EngineCoreRequest", fields)


class Engine:
    """One rank. It queues what does not fit, and says so."""

    def __init__(self, slots: int, capacity: int, shape: Shape = NEWEST) -> None:
        self.slots, self.capacity, self.shape = slots, capacity, shape
        self.queue: list[list] = []
        self.running: list[list] = []
        self.ended: set[str] = set()
        self.received: list[tuple] = []
        self.foreign = (0, 0, 0)
        """Running, waiting and KV tokens of somebody else."""
        self.drains = False
        """Whether it refuses what is sent from now on."""
        self.refused: list[str] = []
        self.skipped = 0
        """Requests of somebody else that wait for their KV to arrive, with their blocks taken already."""

    @property
    def kv(self) -> int:
        return sum(entry[1] for entry in self.running) + self.foreign[2]

    def add(self, request: Request) -> None:
        self.received.append(
            (request.request_id, request.data_parallel_rank, len(request.prompt_token_ids or ()))
        )
        if self.drains:
            self.refused.append(request.request_id)
            return
        self.queue.append([request.request_id, len(request.prompt_token_ids or ()), request.max_tokens])

    def abort(self, name: str) -> None:
        for place in (self.queue, self.running):
            for entry in [e for e in place if e[0] == name]:
                place.remove(entry)
                self.ended.add(name)

    def step(self, index: int, statistics: bool) -> EngineCoreOutputs:
        while (
            self.queue
            and len(self.running) + self.foreign[0] < self.slots
            and self.kv + self.queue[0][1] < self.capacity
        ):
            self.running.append(self.queue.pop(0))
        outputs = []
        for entry in list(self.running):
            entry[1] += 1
            entry[2] -= 1
            outputs.append(EngineCoreOutput(entry[0], [7], FinishReason.LENGTH if entry[2] == 0 else None))
            if entry[2] == 0:
                self.running.remove(entry)
                self.ended.add(entry[0])
        for name in self.refused:
            outputs.append(EngineCoreOutput(name, [], FinishReason.ABORT))
            self.ended.add(name)
        self.refused = []
        ended, self.ended = self.ended, set()
        running, waiting = len(self.running) + self.foreign[0], len(self.queue) + self.foreign[1]
        usage = self.kv / self.capacity
        stats: Any
        if self.shape.skipped_apart:
            stats = SchedulerStats(running, waiting, self.skipped, usage)
        else:
            stats = OlderSchedulerStats(running, waiting + self.skipped, usage)
        return EngineCoreOutputs(index, outputs, ended or None, stats if statistics else None)


class DPAsyncMPClient:
    """The base class: `add_request_async` is inherited, as in vLLM."""

    def _ensure_stats_update_task(self) -> None:
        pass

    def _ensure_output_queue_task(self) -> None:
        pass

    async def add_request_async(self, request: Request) -> None:
        request.current_wave = 0
        request.client_index = self.client_index
        chosen = self.get_core_engine_for_request(request)
        if self.dead:
            raise EngineDeadError
        await self._send(request, chosen)

    async def get_output_async(self) -> EngineCoreOutputs:
        outputs = await self.outputs_queue.get()
        if isinstance(outputs, Exception):
            raise outputs
        return outputs

    def shutdown(self, timeout: float | None = None) -> None:
        """As vLLM's: the engines drain from here on."""
        for engine in self.engines:
            engine.drains = True


class DPLBAsyncMPClient(DPAsyncMPClient):
    shape = NEWEST
    additional_config: dict | None = None
    """What a platform's plug-in is told; absent where None."""

    def __init__(
        self, ranks=4, slots=4, capacity=10_000, client_index=0, client_count=1, first_rank=0
    ) -> None:
        shape = self.shape
        self.client_index, self.client_count = client_index, client_count
        self.stats_update_address = "ipc:///tmp/coordinator-of-this-client"
        scheduler = types.SimpleNamespace(max_num_seqs=slots)
        cache = types.SimpleNamespace(num_gpu_blocks=None, block_size=BLOCK)
        if shape.capacity_in_tokens:
            scheduler.max_num_active_seqs = None
            cache.kv_cache_size_tokens = capacity
        else:
            cache.num_gpu_blocks = ranks * (capacity // BLOCK + 1)
        self.vllm_config = types.SimpleNamespace(scheduler_config=scheduler, cache_config=cache)
        if self.additional_config is not None:
            self.vllm_config.additional_config = self.additional_config
        self.core_engines = [rank.to_bytes(2, "little") for rank in range(first_rank, first_rank + ranks)]
        self.engine_ranks_managed = list(range(first_rank, first_rank + ranks))
        self.lb_engines = [[0, 0, 0.0][: shape.row] for _ in self.core_engines]
        self.reqs_in_flight: dict[str, bytes] = {}
        if shape.streaming_reqs:
            self.streaming_reqs: set[str] = set()
        self.engine_inflight: Counter = Counter()
        self.outputs_queue: asyncio.Queue = asyncio.Queue()
        self.engines = [Engine(slots, capacity, shape) for _ in self.core_engines]
        self.aborted: list[tuple] = []
        self.outputs: list[EngineCoreOutput] = []
        """What the front end gets to see."""
        self.dead = False
        self.stock_choices = 0

    def get_core_engine_for_request(self, request: Request) -> bytes:
        if request.resumable:
            self.streaming_reqs.add(request.request_id)
        else:
            self.streaming_reqs.discard(request.request_id)
        if (engine := self.reqs_in_flight.get(request.request_id)) is not None:
            return engine
        if (rank := request.data_parallel_rank) is None:
            self.stock_choices += 1
            rank = min(
                range(len(self.core_engines)), key=lambda r: self.lb_engines[r][0] + self.lb_engines[r][1]
            )
            self.lb_engines[rank][0] += self.client_count
        engine = self.core_engines[rank]
        self.reqs_in_flight[request.request_id] = engine
        self.engine_inflight[engine] += 1
        return engine

    async def _send(self, request: Request, engine: bytes) -> None:
        self.engines[self.core_engines.index(engine)].add(request)
        await asyncio.sleep(0)

    async def abort_requests_async(self, request_ids: list[str]) -> None:
        for name in request_ids:
            if engine := self.reqs_in_flight.get(name):
                self.aborted.append((name, engine))
                self.engines[self.core_engines.index(engine)].abort(name)

    @staticmethod
    async def process_engine_outputs(self: DPLBAsyncMPClient, outputs: EngineCoreOutputs) -> None:
        for name in outputs.finished_requests or ():
            if (engine := self.reqs_in_flight.pop(name, None)) is not None:
                self.engine_inflight[engine] -= 1

    # The engine's side, driven by the test.

    async def step(self, statistics: bool = True) -> list[int]:
        """One lock-step step of all ranks; KV tokens of each."""
        for index, engine in enumerate(self.engines):
            outputs = engine.step(self.engine_ranks_managed[index], statistics)
            if outputs.outputs or outputs.finished_requests or outputs.scheduler_stats:
                await type(self).process_engine_outputs(self, outputs)
                self.outputs += outputs.outputs
        await asyncio.sleep(0)
        return [engine.kv for engine in self.engines]

    def coordinator_says(self, counts: list) -> None:
        """Waiting, running and KV usage of each rank: a new list, as the statistics task makes it."""
        self.lb_engines = [list(c)[: self.shape.row] for c in counts]


def _older_choice(self: DPLBAsyncMPClient, request: Any) -> bytes:
    """Before 0.33: rows are unpacked, and parts of a streaming input are requests like any other."""
    if (rank := request.data_parallel_rank) is None:
        self.stock_choices += 1
        scores = []
        for row in self.lb_engines:
            waiting, running = row if self.shape.row == 2 else row[:2]
            scores.append(4 * waiting + running)
        rank = scores.index(min(scores))
        self.lb_engines[rank][0] += self.client_count
    engine = self.core_engines[rank]
    self.reqs_in_flight[request.request_id] = engine
    self.engine_inflight[engine] += 1
    return engine


def modules(shape: Shape = NEWEST) -> dict[str, types.ModuleType]:
    """What `import vllm.v1.engine.core_client` finds, with fresh classes, so that no test sees another's
    patches.
    """

    def fresh(of: type) -> dict[str, Any]:
        return {k: v for k, v in vars(of).items() if k not in ("__dict__", "__weakref__")}

    client: Any = type("DPLBAsyncMPClient", (DPAsyncMPClient,), fresh(DPLBAsyncMPClient))
    client.shape = shape
    if not shape.streaming_reqs:
        client.get_core_engine_for_request = _older_choice
    engine: Any = types.ModuleType("vllm.v1.engine")
    engine.EngineCoreOutput, engine.EngineCoreOutputs = EngineCoreOutput, EngineCoreOutputs
    engine.FinishReason = FinishReason
    engine.EngineCoreRequest = Request if shape is NEWEST else request_class(shape)
    stats: Any = types.ModuleType("vllm.v1.metrics.stats")
    stats.SchedulerStats = SchedulerStats if shape.skipped_apart else OlderSchedulerStats
    answers: Any = types.ModuleType("vllm.outputs")
    answers.RequestError = RequestError
    core: Any = types.ModuleType("vllm.v1.engine.core_client")
    core.DPLBAsyncMPClient = client
    top: Any = types.ModuleType("vllm")
    top.__version__ = shape.version
    return {
        "vllm": top,
        "vllm.outputs": answers,
        "vllm.v1": types.ModuleType("vllm.v1"),
        "vllm.v1.engine": engine,
        "vllm.v1.engine.core_client": core,
        "vllm.v1.metrics": types.ModuleType("vllm.v1.metrics"),
        "vllm.v1.metrics.stats": stats,
    }
