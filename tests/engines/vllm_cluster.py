"""vLLM's real data-parallel client and coordinator process over engines that decode numbers: no model, no
accelerator.

The engines live in one thread and step together, as data-parallel ranks of a mixture-of-experts model do:
every running request gets one token a step. They speak vLLM's own wire format, admit from their own queues
(slots and KV tokens permitting), preempt when the KV cache is full, and report as the real ones do.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import statistics
import tempfile
import threading
import time
import types
from collections import deque
from dataclasses import dataclass, field

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import vllm.v1.engine.core_client as core_client
import zmq
from vllm.config import CacheConfig, ParallelConfig
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import (
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    EngineCoreRequestType,
    FinishReason,
)
from vllm.v1.engine.core import EngineCoreProc
from vllm.v1.engine.coordinator import DPCoordinator, EngineState
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.stats import SchedulerStats
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

# What this version has: KV usage beside the counts of a coordinator row, the KV tokens of a rank beside the
# blocks of all, and any of them where there are several front ends.
KV_IN_ROWS = len(EngineState().request_counts) > 2
KV_IN_TOKENS = "kv_cache_size_tokens" in CacheConfig.__dataclass_fields__
BLOCKS_IN_EVERY_FRONT_END = hasattr(core_client.MPClient, "_apply_ready_response")
BLOCK = 16

ADD, ABORT = EngineCoreRequestType.ADD.value, EngineCoreRequestType.ABORT.value


@dataclass
class _Running:
    name: str
    prompt: int
    limit: int
    client: int
    generated: int = 0

    @property
    def kv(self) -> int:
        return self.prompt + self.generated


@dataclass
class _Engine:
    queue: deque = field(default_factory=deque)
    running: list = field(default_factory=list)
    finished: dict = field(default_factory=dict)
    """Names of requests that have left since the last message, by client."""
    received: list = field(default_factory=list)
    wire: list = field(default_factory=list)
    """Bytes of every request received."""
    refused: list = field(default_factory=list)
    """Client and name of what came too late."""
    preempted: int = 0
    extra: tuple = (0, 0, 0)
    """Running, waiting and KV tokens of somebody else, for whom it has so much less room."""

    @property
    def kv(self) -> int:
        return sum(r.kv for r in self.running) + self.extra[2]


class Cluster(threading.Thread):
    """The engines. `paused` stops them and all that they send; `statistics` = False leaves out the statistics
    only."""

    def __init__(
        self, addresses: list, coordinator, ranks: int, slots: int, capacity: int, step_s: float
    ) -> None:
        super().__init__(daemon=True)
        self.addresses, self.coordinator = addresses, coordinator
        self.slots, self.capacity, self.step_s = slots, capacity, step_s
        self.engines = [_Engine() for _ in range(ranks)]
        self.samples: list[list[int]] = []
        """KV tokens of every rank after each step in which anything ran."""
        self.paused = False
        self.statistics = True
        self.drains = False
        """Whether the engines refuse what is new, as they do before they shut down."""
        self.dies = False
        """Whether the first one tells all clients that it has died."""
        self.stop = threading.Event()
        self.ready = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self.failure = error
            raise

    def _run(self) -> None:
        context = zmq.Context()
        coordinator_in, coordinator_out = self.coordinator
        self._encoder = MsgpackEncoder()
        decoder, names = MsgpackDecoder(EngineCoreRequest), MsgpackDecoder(list[str])
        self._to_coordinator, subscriptions = [], []
        # By client, then by rank.
        to_client, inputs = [[] for _ in self.addresses], {}
        for rank in range(len(self.engines)):
            subscription = context.socket(zmq.XSUB)
            subscription.connect(coordinator_in)
            subscription.send(b"\x01")
            subscriptions.append(subscription)
            push = context.socket(zmq.PUSH)
            push.connect(coordinator_out)
            self._to_coordinator.append(push)
            for addresses, pushes in zip(self.addresses, to_client):
                push = context.socket(zmq.PUSH)
                push.connect(addresses["output_address"])
                pushes.append(push)
                dealer = context.socket(zmq.DEALER)
                dealer.setsockopt(zmq.IDENTITY, rank.to_bytes(2, "little"))
                dealer.connect(addresses["input_address"])
                dealer.send(b"")
                inputs[dealer] = self.engines[rank]
        for subscription in subscriptions:
            assert subscription.recv() == b"READY"
        poller = zmq.Poller()
        for dealer in inputs:
            poller.register(dealer, zmq.POLLIN)
        self.ready.set()
        last = [None] * len(self.engines)
        step, due = 0, time.monotonic()
        while not self.stop.is_set():
            while (left := due - time.monotonic()) > 0 and not self.stop.is_set():
                for socket, _ in poller.poll(max(1, int(left * 1e3))):
                    engine = inputs[socket]
                    while True:
                        try:
                            kind, *frames = socket.recv_multipart(zmq.NOBLOCK)
                        except zmq.Again:
                            break
                        if kind == ADD:
                            request = decoder.decode(frames)
                            if self.drains:
                                engine.refused.append((request.client_index, request.request_id))
                                continue
                            engine.received.append(request.request_id)
                            engine.wire.append(b"".join(frames))
                            engine.queue.append(
                                _Running(
                                    request.request_id,
                                    len(request.prompt_token_ids),
                                    request.sampling_params.max_tokens,
                                    request.client_index,
                                )
                            )
                        elif kind == ABORT:
                            for name in names.decode(frames):
                                self._abort(engine, name)
            due = max(due + self.step_s, time.monotonic())
            if self.dies:
                for pushes in to_client:
                    pushes[0].send(EngineCoreProc.ENGINE_CORE_DEAD)
                self.dies, self.paused = False, True
            if self.paused:
                continue
            step += 1
            outputs = [self._step(engine) for engine in self.engines]
            if any(engine.running for engine in self.engines):
                self.samples.append([engine.kv for engine in self.engines])
            for rank, engine in enumerate(self.engines):
                running, waiting, _ = engine.extra
                stats = SchedulerStats(
                    num_running_reqs=len(engine.running) + running,
                    num_waiting_reqs=len(engine.queue) + waiting,
                    kv_cache_usage=min(1.0, engine.kv / self.capacity),
                    step_counter=step,
                )
                counts = (stats.num_running_reqs, stats.num_waiting_reqs)
                if counts != last[rank] and self.statistics:
                    last[rank] = counts
                    self._to_coordinator[rank].send_multipart(
                        self._encoder.encode(EngineCoreOutputs(engine_index=rank, scheduler_stats=stats))
                    )
                # The first client of a step gets the statistics, as in vLLM.
                rest = stats if self.statistics else None
                for client in sorted(outputs[rank].keys() | engine.finished.keys()):
                    message = EngineCoreOutputs(
                        engine_index=rank,
                        outputs=outputs[rank].get(client, []),
                        finished_requests=engine.finished.get(client),
                        scheduler_stats=rest,
                    )
                    to_client[client][rank].send_multipart(self._encoder.encode(message))
                    rest = None
                engine.finished = {}
        context.destroy(linger=0)

    def _step(self, engine: _Engine) -> dict[int, list]:
        slots = self.slots - engine.extra[0]
        while (
            engine.queue
            and len(engine.running) < slots
            and engine.kv + engine.queue[0].kv + 1 <= self.capacity
        ):
            engine.running.append(engine.queue.popleft())
        while engine.running and engine.kv + len(engine.running) > self.capacity:
            engine.queue.appendleft(engine.running.pop())
            engine.preempted += 1
        outputs, still = {}, []
        for client, name in engine.refused:
            outputs.setdefault(client, []).append(
                EngineCoreOutput(name, [], finish_reason=FinishReason.ABORT)
            )
            engine.finished.setdefault(client, set()).add(name)
        engine.refused = []
        for request in engine.running:
            request.generated += 1
            ends = request.generated >= request.limit
            output = EngineCoreOutput(request.name, [7], finish_reason=FinishReason.LENGTH if ends else None)
            outputs.setdefault(request.client, []).append(output)
            if ends:
                engine.finished.setdefault(request.client, set()).add(request.name)
            else:
                still.append(request)
        engine.running = still
        return outputs

    @staticmethod
    def _abort(engine: _Engine, name: str) -> None:
        for place in (engine.queue, engine.running):
            for request in place:
                if request.name == name:
                    place.remove(request)
                    engine.finished.setdefault(request.client, set()).add(name)
                    return

    # What came out.

    def imbalance(self, tail: int = 120) -> float:
        """Mean over steps of (greatest - mean KV) / mean KV. The first tenth and the last `tail` steps do not
        count: the system fills and empties then."""
        loads = [s for s in self.samples[len(self.samples) // 10 : -tail] if sum(s)]
        return statistics.mean(max(s) * len(s) / sum(s) - 1 for s in loads)


class Setup:
    """Clients, their coordinator process and their engines; `tokens` and `ended` have what those got."""

    def __init__(self, ranks=4, slots=16, capacity=40_000, step_s=0.004, clients=1) -> None:
        parallel = ParallelConfig(data_parallel_size=ranks, data_parallel_size_local=ranks)
        cache = types.SimpleNamespace(num_gpu_blocks=ranks * (capacity // BLOCK + 1), block_size=BLOCK)
        if KV_IN_TOKENS:
            cache.kv_cache_size_tokens = capacity
        if clients > 1 and not BLOCKS_IN_EVERY_FRONT_END:
            cache.num_gpu_blocks = None
        self.config = types.SimpleNamespace(
            parallel_config=parallel,
            model_config=None,
            scheduler_config=types.SimpleNamespace(max_num_seqs=slots, max_num_active_seqs=None),
            cache_config=cache,
            fault_tolerance_config=types.SimpleNamespace(enable_fault_tolerance=False),
        )
        self.coordinator = DPCoordinator(parallel)
        stats = self.coordinator.get_stats_publish_address()
        bases = [f"ipc://{tempfile.mkdtemp()}/" for _ in range(clients)]
        self.addresses = [
            dict(input_address=base + "in", output_address=base + "out", stats_update_address=stats)
            for base in bases
        ]
        sockets = self.coordinator.get_engine_socket_addresses()
        self.cluster = Cluster(self.addresses, sockets, ranks, slots, capacity, step_s)
        self.tokens: dict[str, int] = {}
        self.ended: dict[str, str] = {}
        self._waits: dict[str, asyncio.Future] = {}

    async def __aenter__(self) -> Setup:
        self.cluster.start()
        self.clients = [
            core_client.EngineCoreClient.make_async_mp_client(
                self.config,
                None,
                True,
                client_addresses=addresses,
                client_count=len(self.addresses),
                client_index=index,
            )
            for index, addresses in enumerate(self.addresses)
        ]
        self.client = self.clients[0]
        self._readers = [asyncio.create_task(self._read(client)) for client in self.clients]
        await asyncio.sleep(0.3)  # subscriptions
        return self

    async def __aexit__(self, *_) -> None:
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        self.resume_coordinator()
        self.cluster.stop.set()
        await asyncio.to_thread(self.cluster.join, 5)
        for client in self.clients:
            client.shutdown()
        (self.coordinator.shutdown if hasattr(DPCoordinator, "shutdown") else self.coordinator.close)()
        assert self.cluster.failure is None, self.cluster.failure

    async def _read(self, client) -> None:
        while True:
            try:
                outputs = (await client.get_output_async()).outputs
            except EngineDeadError:
                return
            for output in outputs:
                before = self.tokens.get(output.request_id, 0)
                self.tokens[output.request_id] = before + len(output.new_token_ids)
                if output.finish_reason is not None:
                    self.ended[output.request_id] = str(output.finish_reason)
                    if waits := self._waits.pop(output.request_id, None):
                        waits.set_result(None)

    async def end(self, name: str) -> None:
        """Waits until a request has ended."""
        if name not in self.ended:
            self._waits[name] = asyncio.get_running_loop().create_future()
            await self._waits[name]

    def silence_coordinator(self) -> None:
        os.kill(self.coordinator.proc.pid, signal.SIGSTOP)

    def resume_coordinator(self) -> None:
        os.kill(self.coordinator.proc.pid, signal.SIGCONT)

    async def add(
        self, name: str, prompt: int, tokens: int, rank: int | None = None, client=0, **more
    ) -> None:
        sampling = SamplingParams(max_tokens=tokens)
        await self.clients[client].add_request_async(request(name, prompt, sampling, rank, **more))

    async def ended_all(self, names, timeout: float) -> None:
        """Waits until every request has ended. Raises with those that have not."""
        deadline = time.monotonic() + timeout
        while missing := [n for n in names if n not in self.ended]:
            if time.monotonic() > deadline:
                raise AssertionError(f"{len(missing)} of {len(names)} requests did not end: {missing[:5]}")
            await asyncio.sleep(0.02)

    def received(self) -> list[int]:
        return [len(engine.received) for engine in self.cluster.engines]


def request(name: str, prompt: int, sampling=None, rank=None, **more) -> EngineCoreRequest:
    """What a front end sends to an engine."""
    if "eos_token_id" in EngineCoreRequest.__struct_fields__:
        more["eos_token_id"] = None
    return EngineCoreRequest(
        request_id=name, prompt_token_ids=[1] * prompt, mm_features=None, sampling_params=sampling,
        pooling_params=None, arrival_time=0.0, lora_request=None, cache_salt=None,
        data_parallel_rank=rank, **more,
    )  # fmt: skip


def workload(count: int, seed: int, prompt=(50, 1600), tokens=(10, 120)) -> list[tuple[str, int, int]]:
    """Requests with skewed lengths: name, prompt tokens, output tokens."""
    rng = random.Random(seed)
    skewed = lambda least, most: int(least * (most / least) ** (rng.random() ** 1.5))
    return [(f"r{i}", skewed(*prompt), skewed(*tokens)) for i in range(count)]
