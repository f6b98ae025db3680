"""The plugin in SGLang's real controller class: found by its entry point, applied by SGLang's hook registry,
with real snapshots in shared memory.

`tests/engines/run sglang` makes the environment and runs this; `-s` prints the figures.
"""

import importlib.util
import random
import threading
import time

import pytest

if importlib.util.find_spec("sglang") is None:
    pytest.skip("SGLang is not installed: tests/engines/run sglang", allow_module_level=True)

import sglang_stand_ins

sglang_stand_ins.install()

import zmq
from sglang.srt.managers import data_parallel_controller as real
from sglang.srt.managers.io_struct import AbortReq, TokenizedGenerateReqInput, sock_recv, sock_send
from sglang.srt.managers.load_snapshot import LoadSnapshot, ShmLoadSnapshotReader, ShmLoadSnapshotWriter
from sglang.srt.plugins import hook_registry, load_plugins
from sglang.srt.sampling.sampling_params import SamplingParams

from balanceroute.engines import sglang as plugin

# In a tuple: SGLang's registry also replaces what other modules have under a name of their own.
STOCK = (real.DataParallelController.total_tokens_scheduler,)
METHODS = ("__init__", "dispatching_with_trace", "send_control_message", "total_tokens_scheduler")


def say(*words):
    print("\n   ", *words, end="")


@pytest.fixture
def plugged(monkeypatch):
    monkeypatch.setenv("BALANCEROUTE_MODE", "arrival")
    monkeypatch.setattr("sglang.srt.plugins._plugins_loaded", False)
    yield load_plugins
    for name in METHODS:
        method = getattr(real.DataParallelController, name)
        setattr(real.DataParallelController, name, vars(method).get("__wrapped__", method))
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
        controller.refresh_load_budget_on_dispatch, controller.dispatching = (
            True,
            controller.total_tokens_scheduler,
        )
        controller.control_message_step = 1
        controller.init_dispatcher()
        self.controller = controller
        self.held = [0] * ranks
        self.requests = [0] * ranks
        self.received = [[] for _ in range(ranks)]

    @staticmethod
    def request(name, length, **more):
        request = TokenizedGenerateReqInput(
            rid=name, input_text=None, input_ids=None, input_embeds=None, mm_inputs=None, token_type_ids=None,
            sampling_params=SamplingParams(), return_logprob=False, logprob_start_len=-1, top_logprobs_num=0,
            token_ids_logprob=None, stream=False, **more,
        )  # fmt: skip
        request.input_ids = __import__("array").array("q", [1] * length)
        return request

    def send(self, name, length, **more):
        # As the controller does for each request.
        self.controller.refresh_load_budget()
        self.controller.total_tokens_scheduler(self.request(name, length, **more))

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


class Watchdog:
    """Ends the loop, which SGLang leaves to the end of the process."""

    def __init__(self):
        self.ends = False

    def feed(self):
        if self.ends:
            raise SystemExit


class Loop(Ranks):
    """The controller's own event loop in a thread, requests that come over its socket, and ranks that decode
    in lock-step, one step each 10 ms, and tell of it after each.
    """

    SLOTS, STEP = 16, 0.01

    def __init__(self, path):
        super().__init__(path, ranks=4)
        count = len(self.writers)
        self.running, self.waiting = [[] for _ in range(count)], [[] for _ in range(count)]
        self.aborted, self.seen, self.most_waiting = [], set(), 0
        watchdog = self.controller.soft_watchdog = Watchdog()
        # As after its `__init__`, which would launch schedulers.
        if hasattr(real.DataParallelController.total_tokens_scheduler, "__wrapped__"):
            plugin._started(None, self.controller)
        pull, self.input = self.context.socket(zmq.PULL), self.context.socket(zmq.PUSH)
        pull.bind("inproc://controller")
        self.input.connect("inproc://controller")
        self.controller.recv_from_tokenizer = pull
        for rank in range(count):
            self.write(rank)
        self.watchdog = watchdog
        self.thread = threading.Thread(target=self.controller.event_loop, daemon=True)
        self.thread.start()

    def take_in(self, rank):
        while self.inputs[rank].poll(0):
            got = sock_recv(self.inputs[rank])
            if isinstance(got, AbortReq):
                found = [entry for entry in self.waiting[rank] if entry[0].startswith(got.rid)]
                self.aborted += [entry[0] for entry in found]
                self.waiting[rank] = [entry for entry in self.waiting[rank] if entry not in found]
            else:
                assert got.rid not in self.seen
                self.seen.add(got.rid)
                self.waiting[rank].append([got.rid, len(got.input_ids), int(got.rid.split("-")[1])])

    def write(self, rank):
        running, waiting = self.running[rank], self.waiting[rank]
        self.writers[rank].write(
            LoadSnapshot(
                timestamp=time.time(), dp_rank=rank, num_running_reqs=len(running),
                num_waiting_reqs=len(waiting), num_total_tokens=sum(entry[1] for entry in running + waiting),
                max_total_num_tokens=self.capacity, max_running_requests=self.SLOTS,
            )
        )  # fmt: skip

    def step(self):
        time.sleep(self.STEP)
        ended = []
        for rank, running in enumerate(self.running):
            self.take_in(rank)
            while self.waiting[rank] and len(running) < self.SLOTS:
                running.append(self.waiting[rank].pop(0))
            self.most_waiting = max(self.most_waiting, len(self.waiting[rank]))
            self.write(rank)
            for entry in list(running):
                entry[1] += 1
                entry[2] -= 1
                if not entry[2]:
                    running.remove(entry)
                    ended.append(entry[0])
        return ended

    def close(self):
        self.watchdog.ends = True
        self.thread.join(5)
        assert not self.thread.is_alive()
        super().close()


@pytest.mark.parametrize("name", ["off", "step"])
def test_the_controllers_loop_past_saturation(plugged, monkeypatch, tmp_path, name):
    monkeypatch.setenv("BALANCEROUTE_MODE", name)
    plugged()
    loop = Loop(tmp_path / "loads")
    rng = random.Random(4)
    left, ended, above = 500, [], []

    def arrive():
        nonlocal left
        left -= 1
        request = loop.request(f"r{left}-{rng.randint(10, 80)}", rng.randint(200, 8000))
        sock_send(loop.input, request)

    try:
        for _ in range(96):
            arrive()
        while len(ended) < 500:
            now = loop.step()
            ended += now
            for _ in now:
                if left:
                    arrive()
            loads = [sum(entry[1] for entry in running) for running in loop.running]
            if left and len(ended) > 50:
                above.append(max(loads) * 4 / sum(loads) - 1)
            assert loop.thread.is_alive()
        excess = sum(above) / len(above)
        say(f"{name}: fullest rank {excess:.1%} above the mean, at most {loop.most_waiting} waited in one")
        if name == "step":
            state = plugin.state_of(loop.controller)
            assert state.active and not state.kept and state.ledger.counters.queued == 0
            assert excess <= 0.1 and loop.most_waiting <= loop.SLOTS / 2
    finally:
        loop.close()


def test_an_abort_of_what_the_controller_keeps_is_answered_by_a_rank(plugged, monkeypatch, tmp_path):
    monkeypatch.setenv("BALANCEROUTE_MODE", "step")
    plugged()
    loop = Loop(tmp_path / "loads")
    try:
        for i in range(100):
            sock_send(loop.input, loop.request(f"r{i}-60", 500))
        for _ in range(10):
            loop.step()
        state = plugin.state_of(loop.controller)
        kept = list(state.kept)
        assert len(kept) >= 20
        for name in kept[:20]:
            sock_send(loop.input, AbortReq(rid=name))
        for _ in range(150):
            loop.step()
        assert sorted(loop.aborted) == sorted(kept[:20])
        assert len(loop.seen) == 100 and not any(loop.running) and not state.kept
        assert state.active and state.ledger.counters.aborted == 20
    finally:
        loop.close()
