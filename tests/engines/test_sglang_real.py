"""The plugin in SGLang's real controller class: found by its entry point, applied by SGLang's hook registry,
with real snapshots in shared memory.

`tests/engines/run sglang` makes the environment and runs this; `-s` prints the figures.
"""

import importlib.util
import random
import time

import pytest

if importlib.util.find_spec("sglang") is None:
    pytest.skip("SGLang is not installed: tests/engines/run sglang", allow_module_level=True)

import sglang_stand_ins

sglang_stand_ins.install()

import zmq
from sglang.srt.managers import data_parallel_controller as real
from sglang.srt.managers.io_struct import TokenizedGenerateReqInput, sock_recv
from sglang.srt.managers.load_snapshot import LoadSnapshot, ShmLoadSnapshotReader, ShmLoadSnapshotWriter
from sglang.srt.plugins import hook_registry, load_plugins
from sglang.srt.sampling.sampling_params import SamplingParams

from balanceroute.engines import sglang as plugin

# In a tuple: SGLang's registry also replaces what other modules have under a name of their own.
STOCK = (real.DataParallelController.total_tokens_scheduler,)


def say(*words):
    print("\n   ", *words, end="")


@pytest.fixture
def plugged(monkeypatch):
    monkeypatch.setenv("BALANCEROUTE_MODE", "arrival")
    monkeypatch.setattr("sglang.srt.plugins._plugins_loaded", False)
    yield load_plugins
    real.DataParallelController.total_tokens_scheduler = STOCK[0]
    if "__wrapped__" in vars(real.DataParallelController.__init__):
        real.DataParallelController.__init__ = real.DataParallelController.__init__.__wrapped__
    hook_registry.HookRegistry.reset()


class Ranks:
    """A controller that was not launched, real sockets to its ranks, and what their schedulers write."""

    def __init__(self, path, ranks=8, capacity=1_000_000):
        self.context = zmq.Context()
        self.capacity = capacity
        self.writers = [ShmLoadSnapshotWriter(str(path), ranks, rank) for rank in range(ranks)]
        controller = real.DataParallelController.__new__(real.DataParallelController)
        controller.workers, self.inputs = [], []
        for rank in range(ranks):
            pull, push = self.context.socket(zmq.PULL), self.context.socket(zmq.PUSH)
            pull.bind(f"inproc://rank{rank}")
            push.connect(f"inproc://rank{rank}")
            self.inputs.append(pull)
            controller.workers.append(push)
        controller.status, controller._active_workers = [True] * ranks, list(range(ranks))
        controller.dp_budget = real.DPBudget(ranks)
        controller.load_snapshot_reader = ShmLoadSnapshotReader(str(path), ranks)
        controller.load_balance_method = real.LoadBalanceMethod.TOTAL_TOKENS
        controller._last_refresh_time = 0.0
        self.controller = controller
        self.held = [0] * ranks
        self.requests = [0] * ranks
        self.received = [[] for _ in range(ranks)]

    def send(self, name, length, **more):
        request = TokenizedGenerateReqInput(
            rid=name, input_text=None, input_ids=None, input_embeds=None, mm_inputs=None, token_type_ids=None,
            sampling_params=SamplingParams(), return_logprob=False, logprob_start_len=-1, top_logprobs_num=0,
            token_ids_logprob=None, stream=False, **more,
        )  # fmt: skip
        request.input_ids = __import__("array").array("q", [1] * length)
        # As the controller does for each request.
        self.controller.refresh_load_budget()
        self.controller.total_tokens_scheduler(request)

    def receive(self, rank):
        while self.inputs[rank].poll(0):
            request = sock_recv(self.inputs[rank])
            self.received[rank].append(request)
            self.held[rank] += len(request.input_ids)
            self.requests[rank] += 1

    def write(self, rank):
        self.writers[rank].write(
            LoadSnapshot(
                timestamp=time.time(), dp_rank=rank, num_running_reqs=self.requests[rank],
                num_total_tokens=self.held[rank], num_used_tokens=self.held[rank],
                max_total_num_tokens=self.capacity, max_running_requests=2048,
            )
        )  # fmt: skip

    def close(self):
        self.context.destroy(linger=0)
        self.controller.load_snapshot_reader.close()


def test_found_by_the_entry_point_and_applied_once(plugged):
    plugged()
    wrapped = real.DataParallelController.total_tokens_scheduler
    assert wrapped is not STOCK[0] and wrapped.__wrapped__ is STOCK[0]
    plugin.register()
    hook_registry.HookRegistry.apply_hooks()
    assert real.DataParallelController.total_tokens_scheduler is wrapped


def test_off_is_sglang_itself(plugged, monkeypatch):
    monkeypatch.setenv("BALANCEROUTE_MODE", "off")
    plugged()
    assert real.DataParallelController.total_tokens_scheduler is STOCK[0]


def burst(ranks, seed):
    """Sends requests for a second. Each scheduler takes in what has come, runs 0.25 s, and then writes what
    it had taken in."""
    rng = random.Random(seed)
    start = time.monotonic()
    next_write = [start + 0.05 * (1 + rank % 5) for rank in range(len(ranks.writers))]
    count = 0
    while time.monotonic() < start + 1.0:
        ranks.send(f"r{count}", rng.choice([20, 50, 100, 3000]))
        count += 1
        for rank, due in enumerate(next_write):
            if time.monotonic() >= due:
                ranks.write(rank)
                ranks.receive(rank)
                next_write[rank] = due + 0.25
        time.sleep(0.001)
    for rank in range(len(ranks.writers)):
        ranks.receive(rank)
    return count


@pytest.mark.parametrize("name", ["off", "arrival"])
def test_a_burst_over_snapshots_a_quarter_second_old(plugged, monkeypatch, tmp_path, name):
    monkeypatch.setenv("BALANCEROUTE_MODE", name)
    plugged()
    ranks = Ranks(tmp_path / "loads")
    try:
        # One rank has just been empty.
        for rank in range(8):
            ranks.held[rank], ranks.requests[rank] = (0, 0) if rank == 5 else (30_000, 30)
            ranks.write(rank)
        count = burst(ranks, 1)
        arrived = sorted(r.rid for received in ranks.received for r in received)
        assert arrived == sorted(f"r{i}" for i in range(count))
        excess = max(ranks.held) * 8 / sum(ranks.held) - 1
        say(f"{name}: {count} requests, KV tokens {ranks.held}, fullest rank {excess:.1%} above the mean")
        if name == "arrival":
            assert plugin.state_of(ranks.controller).active
            assert excess <= 0.1
            assert all(r.routed_dp_rank is not None for received in ranks.received for r in received)
    finally:
        ranks.close()


def test_a_full_rank_and_a_named_one(plugged, tmp_path):
    plugged()
    ranks = Ranks(tmp_path / "loads", ranks=4, capacity=50_000)
    try:
        ranks.held[0], ranks.requests[0] = 49_900, 20
        for rank in range(4):
            ranks.write(rank)
        for i in range(40):
            ranks.send(f"r{i}", 500)
        ranks.send("named", 300, routed_dp_rank=0)
        for rank in range(4):
            ranks.receive(rank)
        assert [r.rid for r in ranks.received[0]] == ["named"]
        assert max(ranks.held[1:]) - min(ranks.held[1:]) <= 500
        with pytest.raises(ValueError, match="DP rank 7 is not active"):
            ranks.send("wrong", 10, routed_dp_rank=7)
    finally:
        ranks.close()


def test_one_decision_costs_little(plugged, tmp_path):
    """Beside SGLang's own, which serializes and sends as well. Median of 2,000; other work on the machine
    changes it."""
    ranks = Ranks(tmp_path / "loads", ranks=8, capacity=100_000_000)

    def cost():
        times = []
        for i in range(2000):
            before = time.perf_counter_ns()
            ranks.send(f"r{i}", 100)
            times.append(time.perf_counter_ns() - before)
        return sorted(times)[1000] / 1e3

    try:
        for rank in range(8):
            ranks.write(rank)
        stock = cost()
        plugged()
        say(f"{cost():.1f} us a request with building and sending it, SGLang alone {stock:.1f} us")
    finally:
        ranks.close()
