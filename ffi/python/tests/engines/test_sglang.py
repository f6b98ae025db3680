"""The SGLang plugin over a duck-typed controller; `tests/engines` has the real class and snapshots."""

import random
import sys
import tracemalloc
import types
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fake_sglang import AbortReq, Budget, Controller, HookType, Request, Snapshot

from balanceroute.engines import sglang as plugin

TARGET = "sglang.srt.managers.data_parallel_controller.DataParallelController"


def route(controller, req):
    return plugin.route(Controller.total_tokens_scheduler, controller, req)


@pytest.fixture
def clock(monkeypatch):
    """Both of the plugin's clocks: wall time, which snapshots carry, and the monotonic one."""
    now = types.SimpleNamespace(value=1000.0)
    monkeypatch.setattr(
        plugin, "time", types.SimpleNamespace(time=lambda: now.value, monotonic=lambda: now.value)
    )
    monkeypatch.setenv("BALANCEROUTE_MODE", "arrival")
    return now


def tokens(controller):
    return [sum(len(r.input_ids or ()) for r in sent) for sent in controller.sent]


def registry(monkeypatch):
    hooks = {}
    module = types.ModuleType("sglang.srt.plugins.hook_registry")
    module.HookType = HookType

    class HookRegistry:
        _hooks = hooks

        @staticmethod
        def register(target, hook, kind):
            hooks.setdefault(target, []).append((kind, hook, None))

    module.HookRegistry = HookRegistry
    for name in ("sglang", "sglang.srt", "sglang.srt.plugins"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "sglang.srt.plugins.hook_registry", module)
    return hooks


def test_registers_once_and_only_when_asked(monkeypatch, caplog):
    hooks = registry(monkeypatch)
    monkeypatch.delenv("BALANCEROUTE_MODE", raising=False)
    plugin.register()
    assert hooks == {}
    monkeypatch.setenv("BALANCEROUTE_MODE", "maybe")
    plugin.register()
    assert hooks == {} and "found 'maybe'" in caplog.text
    monkeypatch.setenv("BALANCEROUTE_MODE", "arrival")
    plugin.register()
    plugin.register()
    assert {t: [(kind, hook) for kind, hook, _ in h] for t, h in hooks.items()} == {
        f"{TARGET}.total_tokens_scheduler": [(HookType.AROUND, plugin.route)],
        f"{TARGET}.__init__": [(HookType.AFTER, plugin._started)],
        f"{TARGET}.send_control_message": [(HookType.BEFORE, plugin._hear)],
    }
    plugin._started(
        None, types.SimpleNamespace(load_balance_method=types.SimpleNamespace(name="ROUND_ROBIN"))
    )
    assert "--load-balance-method total_tokens" in caplog.text


def test_one_line_at_start_says_what_is_on(capsys):
    method = types.SimpleNamespace(name="TOTAL_TOKENS")
    plugin._started(None, types.SimpleNamespace(load_balance_method=method))
    assert capsys.readouterr().err.count("decides on arrival by F-score") == 1


def test_strict_ends_the_start(monkeypatch):
    hooks = registry(monkeypatch)
    monkeypatch.setenv("BALANCEROUTE_MODE", "arival")
    monkeypatch.setenv("BALANCEROUTE_STRICT", "1")
    with pytest.raises(SystemExit, match="nearest: arrival"):
        plugin.register()
    assert hooks == {}


def test_without_sglang_nothing_breaks(monkeypatch, caplog):
    monkeypatch.setenv("BALANCEROUTE_MODE", "arrival")
    monkeypatch.setitem(sys.modules, "sglang", None)
    plugin.register()
    assert "routes as it always does" in caplog.text


def test_a_burst_is_level_though_no_snapshot_comes(clock):
    controller = Controller(8)
    controller.snapshots = [
        Snapshot(r, 999.0, 100 if r else 0, 0, 20_000 if r else 0, 1_000_000, 2000) for r in range(8)
    ]
    rng = random.Random(1)
    for i in range(2000):
        route(controller, Request(str(i), [0] * rng.randint(10, 400)))
        clock.value += 0.0025
    assert controller.stock_choices == 0
    loads = [t + (20_000 if r else 0) for r, t in enumerate(tokens(controller))]
    assert max(loads) <= 1.1 * sum(loads) / 8, loads
    # SGLang's own books are kept, and what is sent carries no trace.
    assert controller.dp_budget.total_tokens == tokens(controller)
    assert controller.dp_budget.total_requests == [len(s) for s in controller.sent]
    assert all(r.routed_dp_rank is None for sent in controller.sent for r in sent)


def test_a_snapshot_covers_what_was_sent_before_the_one_before(clock):
    controller = Controller(2)
    controller.snapshots = [Snapshot(r, 999.0) for r in range(2)]
    route(controller, Request("a", [0] * 1000))
    state = plugin.state_of(controller)
    (rank,) = [r for r in range(2) if controller.sent[r]]
    clock.value = 1000.1
    # Written before it can have seen the request: nothing is forgotten.
    controller.snapshots[rank] = Snapshot(rank, 1000.05)
    route(controller, Request("b", [0] * 10))
    assert state.ledger.tokens(rank) == 1000
    assert len(controller.sent[1 - rank]) == 1
    # One more: the request was there, runs, and is the snapshot's business now.
    clock.value = 1000.2
    controller.snapshots[rank] = Snapshot(rank, 1000.15, 1, 0, 1005)
    route(controller, Request("c", [0] * 10))
    assert state.ledger.tokens(rank) == 0 and state.ledger.foreign(rank) == (1005, 1)
    assert len(controller.sent[1 - rank]) == 2
    # It has ended.
    clock.value = 1000.3
    controller.snapshots[rank] = Snapshot(rank, 1000.25, 0, 0, 0)
    route(controller, Request("d", [0] * 10))
    assert len(controller.sent[rank]) == 2


def test_100_000_requests_leave_nothing_behind(clock):
    """Snapshots of each rank every 0.25 s, as of ranks that end what they get within half a second."""
    controller = Controller(8)
    controller.snapshots = [Snapshot(r, clock.value, max_running_requests=2048) for r in range(8)]
    one = Request("", [0] * 50)

    def send(first, last):
        for i in range(first, last):
            one.rid = f"r{i}"
            route(controller, one)
            clock.value += 0.0005
            if i % 500 == 499:
                controller.snapshots = [
                    Snapshot(r, clock.value, 20, 0, 1_000, max_running_requests=2048) for r in range(8)
                ]
                for sent in controller.sent:
                    sent.clear()

    send(0, 10_000)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        send(10_000, 100_000)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    state = plugin.state_of(controller)
    assert grown < 500_000, grown
    assert state.active and len(state.ledger) <= 2_000
    assert len(state.ledger._names) <= 2_000
    # None of them was aborted, and the router says so too.
    counters, metrics = state.ledger.counters, state.ledger.router.metrics()
    assert counters.aborted == metrics.aborted == 0
    assert counters.covered == metrics.disowned == 100_000 - len(state.ledger)
    assert f"0 aborted, {counters.covered} part of what ranks report" in state.ledger.summary()


def test_an_abort_is_told_from_an_end(clock):
    controller = Controller(2)
    controller.snapshots = [Snapshot(r, 999.0) for r in range(2)]
    for name in ("a", "b", "b"):
        route(controller, Request(name, [0] * 100))
    assert plugin._hear(controller, AbortReq("a")) is None
    plugin._hear(controller, AbortReq("a"))
    plugin._hear(controller, AbortReq("stranger"))
    plugin._hear(controller, types.SimpleNamespace(rid="b"))
    ledger = plugin.state_of(controller).ledger
    assert (ledger.counters.aborted, ledger.router.metrics().aborted) == (1, 1)
    assert len(ledger) == 2 and sum(ledger.tokens(rank) for rank in range(2)) == 200


def test_an_abort_names_heads_of_names_or_all(clock):
    controller = Controller(2)
    controller.snapshots = [Snapshot(r, 999.0) for r in range(2)]
    for name in ("chat-1", "chat-2", "chat-2", "other", "more"):
        route(controller, Request(name, [0] * 100))
    route(controller, Request("chat-named", [0] * 100, routed_dp_rank=1))
    ledger = plugin.state_of(controller).ledger
    plugin._hear(controller, AbortReq("chat-"))
    assert (ledger.counters.aborted, len(ledger)) == (4, 2)
    plugin._hear(controller, AbortReq(None, abort_all=True))
    assert (ledger.counters.aborted, len(ledger)) == (6, 0)
    assert plugin.state_of(controller).active


@pytest.mark.parametrize("skew", [0.0, 7.0, -7.0, 3600.0])
def test_a_rank_whose_clock_is_off_is_followed_as_any_other(clock, skew):
    """Each rank takes in what has come four times a second, and writes what it had taken in before; one is on
    a node whose clock is off, and nothing else tells it from the others.
    """
    controller = Controller(4)
    held, requests = [0] * 4, [0] * 4

    def write(rank):
        stamp = clock.value + (skew if rank == 2 else 0.0)
        controller.snapshots[rank] = Snapshot(
            rank, stamp, requests[rank], 0, held[rank], 10_000_000, max_running_requests=4096
        )

    controller.snapshots = [Snapshot(r, 0.0) for r in range(4)]
    for rank in range(4):
        write(rank)
    rng = random.Random(3)
    due = [clock.value + 0.05 * (1 + rank) for rank in range(4)]
    most, above = [0] * 4, 0.0
    for i in range(4000):
        route(controller, Request(str(i), [0] * rng.choice([20, 50, 100, 3000])))
        clock.value += 0.001
        for rank in range(4):
            if clock.value >= due[rank]:
                due[rank] += 0.25
                write(rank)
                held[rank] += sum(len(r.input_ids) for r in controller.sent[rank])
                requests[rank] += len(controller.sent[rank])
                controller.sent[rank].clear()
        if i >= 500:
            # What is sent and has not been seen to be there.
            ours = [at.running for at in plugin.state_of(controller).ledger.router.metrics().ranks]
            most = [max(pair) for pair in zip(most, ours, strict=True)]
            there = [h + sum(len(r.input_ids) for r in s) for h, s in zip(held, controller.sent, strict=True)]
            above = max(above, max(there) - sum(there) / 4)
    # About the longest request; 200,000 tokens come between two snapshots.
    assert above <= 4_000, above
    # Two snapshots and the time between two looks: about 150 requests of a rank.
    assert max(most) <= 250, most


def test_a_clock_of_the_rank_that_is_set_back_or_ahead_forgets_nothing(clock):
    controller = Controller(2)
    controller.snapshots = [Snapshot(r, clock.value) for r in range(2)]
    ledger = None
    for i in range(400):
        route(controller, Request(f"n{i}", [0] * 100, routed_dp_rank=0))
        ledger = plugin.state_of(controller).ledger
        clock.value += 0.025
        if i % 10 == 9:
            # Set back by an hour, then ahead by two.
            off = {0: 0.0, 1: -3600.0}.get(i // 130, 3600.0)
            controller.snapshots[0] = Snapshot(0, clock.value + off, i - 15, 0, 1000)
        if i >= 60:
            # Of the last two snapshots' time, and no more.
            assert 10 <= ledger.tokens(0) // 100 <= 31, i


def test_sglangs_own_counters_are_as_it_would_have_them(clock):
    """Those of a controller of SGLang alone that happens to choose the same ranks."""
    controller, alone = Controller(4, lambda: clock.value), Controller(4, lambda: clock.value)
    controller.around["total_tokens_scheduler"] = plugin.route
    rng = random.Random(5)
    for one in (controller, alone):
        one.snapshots = [Snapshot(r, clock.value) for r in range(4)]
    for i in range(600):
        request = Request(str(i), [0] * rng.randint(1, 500), rng.choice([None, None, 0, 3]))
        named = request.routed_dp_rank
        before = [len(sent) for sent in controller.sent]
        controller.handle(request)
        (rank,) = [r for r in range(4) if len(controller.sent[r]) > before[r]]
        # The other takes the same rank, by its own rule where none is named.
        if clock.value - alone.refreshed >= 0.02:
            alone.refreshed = clock.value
            alone.dp_budget.update(alone.snapshots)
        if named is None:
            others = [r for r in range(4) if r != rank]
            budget = alone.dp_budget
            for r in others:
                budget.total_tokens[r] += 1 << 40
            assert budget.take(len(request.input_ids)) == rank
            for r in others:
                budget.total_tokens[r] -= 1 << 40
        assert vars(controller.dp_budget) == vars(alone.dp_budget), i
        clock.value += 0.004
        if i % 7 == 0:
            load = Snapshot(i % 4, clock.value, rng.randint(0, 60), rng.randint(0, 5), rng.randint(0, 40_000))
            controller.snapshots[i % 4] = alone.snapshots[i % 4] = load


def test_a_rank_that_sglangs_counters_do_not_know_is_served(clock):
    """With elastic experts ranks join that its own rule never chooses."""
    controller = Controller(3)
    controller.dp_budget = Budget(2)
    controller.snapshots = [Snapshot(r, 999.0) for r in range(3)]
    for i in range(30):
        route(controller, Request(str(i), [0] * 100))
    assert [len(sent) for sent in controller.sent] == [10, 10, 10]
    assert controller.dp_budget.total_requests == [10, 10] and plugin.state_of(controller).active


def test_what_waits_for_its_kv_is_load(clock):
    """A decode node tells of it in its total, and not as active."""
    controller = Controller(2)
    controller.snapshots = [
        Snapshot(0, 999.0, 5, 20, 60_000, num_active_tokens=5_000),
        Snapshot(1, 999.0, 25, 0, 30_000, num_active_tokens=30_000),
    ]
    for i in range(10):
        route(controller, Request(str(i), [0] * 100))
    assert [len(sent) for sent in controller.sent] == [0, 10]


def test_snapshots_are_read_as_often_as_sglang_reads_them(clock):
    controller = Controller(2)
    controller.snapshots = [Snapshot(r, 999.0) for r in range(2)]
    route(controller, Request("first", [0]))
    before = controller.reads
    for i in range(100):
        route(controller, Request(str(i), [0] * 10))
    assert controller.reads - before <= 1
    clock.value += 0.021
    route(controller, Request("later", [0]))
    assert controller.reads - before in (1, 2)


def test_full_ranks_are_avoided_and_a_full_cluster_queues(clock):
    controller = Controller(4)
    controller.snapshots = [Snapshot(r, 999.0, 10, 0, 99_500 if r < 3 else 10_000) for r in range(4)]
    for i in range(40):
        route(controller, Request(str(i), [0] * 500))
    assert [len(s) for s in controller.sent[:3]] == [0, 0, 0]
    for i in range(300):
        route(controller, Request(f"more{i}", [0] * 500))
    assert sum(map(len, controller.sent)) == 340 and controller.stock_choices == 0
    assert plugin.state_of(controller).ledger.counters.queued > 0
    assert all(controller.sent)


def test_named_ranks_sessions_and_embeddings(clock):
    controller = Controller(4)
    controller.snapshots = [Snapshot(r, 999.0) for r in range(4)]
    route(controller, Request("named", [0] * 5000, routed_dp_rank=2))
    assert [len(s) for s in controller.sent] == [0, 0, 1, 0]
    assert plugin.state_of(controller).ledger.tokens(2) == 5000
    with pytest.raises(ValueError, match="DP rank 9 is not active"):
        route(controller, Request("wrong", [0], routed_dp_rank=9))
    route(controller, Request("embedded", None))
    assert sum(map(len, controller.sent)) == 2


def test_ranks_that_come_and_go(clock):
    controller = Controller(3)
    controller.snapshots = [Snapshot(r, 999.0) for r in range(3)]
    controller._active_workers = [0, 1]
    for i in range(20):
        route(controller, Request(str(i), [0] * 100))
    assert len(controller.sent[2]) == 0
    controller._active_workers = [0, 2]
    for i in range(20):
        route(controller, Request(f"b{i}", [0] * 100))
    assert len(controller.sent[1]) == 10 and len(controller.sent[2]) == 10
    controller.status[0] = False
    route(controller, Request("c", [0] * 100))
    assert len(controller.sent[2]) == 11


def test_a_router_that_fails_leaves_everything_to_sglang(clock, caplog):
    controller = Controller(2)
    controller.snapshots = [Snapshot(r, 999.0) for r in range(2)]
    route(controller, Request("a", [0]))

    def fail(*_a, **_k):
        raise RuntimeError("spoiled")

    plugin.state_of(controller).ledger.place = fail
    for i in range(5):
        route(controller, Request(str(i), [0]))
    assert controller.stock_choices == 5
    assert caplog.text.count("SGLang decides from here on") == 1


def test_a_controller_without_snapshots_is_left_alone(clock, caplog):
    controller = Controller(2)
    del controller.load_snapshot_reader
    route(controller, Request("a", [0]))
    route(controller, Request("b", [0]))
    assert controller.stock_choices == 2
    assert caplog.text.count("SGLang routes as it always does") == 1


def test_the_class_is_what_sglang_schedules_by():
    from types import SimpleNamespace as Of

    from balanceroute.engines.sglang import _priority

    def of(value, **arguments):
        controller = Of(server_args=Of(enable_priority_scheduling=True, **arguments))
        return _priority(controller, Of(priority=value))

    assert [of(value) for value in (3, -2, 0, 900, None)] == [3, -2, 0, 127, -128]
    low = {"schedule_low_priority_values_first": True}
    assert [of(value, **low) for value in (3, -2, 0, 900, None)] == [-3, 2, 0, -128, -128]
    assert of(None, default_priority_value=7) == 7 and of(None, default_priority_value=7, **low) == -7
    assert _priority(Of(server_args=Of()), Of(priority=3)) == 0 and _priority(Of(), Of()) == 0
