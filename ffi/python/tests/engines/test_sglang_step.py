"""`step` in the SGLang plugin: requests wait in the controller; over the duck-typed one."""

import itertools
import logging
import random
import sys
import types
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fake_sglang import (
    AbortReq,
    Budget,
    Controller,
    Ranks,
    Request,
    Snapshot,
    TokenizedEmbeddingReqInput,
)

import balanceroute
from balanceroute.engines import sglang as plugin


@pytest.fixture
def clock(monkeypatch):
    now = types.SimpleNamespace(value=1000.0)
    monkeypatch.setattr(
        plugin, "time", types.SimpleNamespace(time=lambda: now.value, monotonic=lambda: now.value)
    )
    return now


@pytest.fixture
def make(clock, monkeypatch):
    """A controller with the hooks of a mode, and ranks behind it."""

    def build(mode="step", ranks=4, slots=4, capacity=100_000, interval=1, spoil=None, skew=0.0, **more):
        monkeypatch.setenv("BALANCEROUTE_MODE", mode)
        for name, value in more.items():
            monkeypatch.setenv(f"BALANCEROUTE_{name.upper()}", str(value))
        controller = Controller(ranks, lambda: clock.value, interval)
        if spoil is not None:
            spoil(controller)
        if mode != "off":
            controller.around = {
                "total_tokens_scheduler": plugin.route,
                "send_control_message": plugin._hear,
                "dispatching_with_trace": plugin.keep,
            }
            plugin._started(None, controller)
        return controller, Ranks(controller, slots, capacity, skew)

    return build


def turns(controller, clock, seconds):
    """The event loop comes round again and again, and nothing arrives."""
    for _ in range(round(seconds / 0.001)):
        clock.value += 0.001
        controller.soft_watchdog.feed()


def sent(controller):
    return [[req.rid for req in rank] for rank in controller.sent]


def flat(lists):
    return list(itertools.chain.from_iterable(lists))


def run(controller, ranks, clock, count, at_once, seed=1, prompts=(200, 8000), outputs=(10, 500)):
    """`count` requests, `at_once` of them in flight: names of those that ended, how far the fullest rank is
    above the mean on average, tokens a second.
    """
    rng = random.Random(seed)
    left, ended, above, tokens, since, until = count, [], [], 0, clock.value, clock.value

    def arrive():
        nonlocal left
        left -= 1
        controller.handle(Request(f"r{left}", [0] * rng.randint(*prompts), new_tokens=rng.randint(*outputs)))

    for _ in range(at_once):
        arrive()
    for step in range(100_000):
        turns(controller, clock, 0.02 + 0.15e-6 * max(ranks.loads()))
        now = ranks.step()
        ended += now
        for _ in now:
            if left:
                arrive()
        loads = ranks.loads()
        if left:
            # When nobody comes any more every rule has it easy.
            tokens, until = tokens + sum(map(len, ranks.running)), clock.value
            if step >= 30:
                above.append(max(loads) * len(loads) / sum(loads) - 1)
        if len(ended) == count:
            return ended, sum(above) / len(above), tokens / (until - since)
    raise AssertionError(f"{len(ended)} of {count} have ended")


@pytest.mark.parametrize("mode", ["arrival", "step"])
def test_a_variable_records_what_is_decided(make, clock, tmp_path, mode):
    controller, ranks = make(mode, record=tmp_path)
    ended, _, _ = run(controller, ranks, clock, 200, 40)
    assert len(ended) == 200
    found = [balanceroute.replay(folder) for folder in tmp_path.iterdir()]
    assert [of.first_difference for of in found] == [None] * len(found)
    assert sum(of.calls for of in found) > 400


@pytest.mark.parametrize(
    ("interval", "skew", "at_most"), [(1, 0.0, 0.02), (15, 0.0, 0.05), (1, 9.0, 0.02), (1, -9.0, 0.02)]
)
def test_past_saturation_ranks_stay_level(make, clock, interval, skew, at_most):
    gain = {}
    for mode in ("off", "step"):
        controller, ranks = make(mode, ranks=8, slots=32, capacity=1_000_000, interval=interval, skew=skew)
        ended, above, gain[mode] = run(controller, ranks, clock, 1500, 8 * 32 * 3 // 2)
        assert sorted(ended) == sorted(f"r{i}" for i in range(1500))
        if mode == "step":
            state = plugin.state_of(controller)
            assert state.active and not state.kept and state.ledger.counters.queued == 0
            assert above <= at_most, above
    assert gain["step"] > gain["off"], gain


def test_below_saturation_nobody_waits_longer_than_the_window(make, clock):
    controller, _ = make()
    controller.handle(Request("a", [0] * 100))
    assert sent(controller) == [[], [], [], []]
    turns(controller, clock, 0.002)
    assert flat(sent(controller)) == ["a"]
    # What is sent carries no trace, and SGLang's own counters know of it.
    (req,) = flat(controller.sent)
    assert req.routed_dp_rank is None
    assert sum(controller.dp_budget.total_requests) == 1 and sum(controller.dp_budget.total_tokens) == 100


def test_what_has_no_slot_is_kept_until_a_snapshot_shows_one(make, clock):
    controller, ranks = make(ranks=2, slots=2)
    for i in range(5):
        controller.handle(Request(f"r{i}", [0] * 100, new_tokens=3))
    turns(controller, clock, 0.05)
    assert [len(rank) for rank in sent(controller)] == [2, 2]
    state = plugin.state_of(controller)
    assert len(state.kept) == 1
    ranks.step()
    ranks.step()
    turns(controller, clock, 0.05)
    assert len(state.kept) == 1 and flat(sent(controller)) == []
    assert len(ranks.step()) == 4
    turns(controller, clock, 0.05)
    # They have ended, and no snapshot has said so.
    assert len(state.kept) == 1
    ranks.step()
    turns(controller, clock, 0.05)
    assert not state.kept and len(flat(sent(controller))) == 1


def test_kv_tokens_are_waited_for_as_well(make, clock):
    controller, ranks = make(ranks=1, slots=64, capacity=2_000)
    for i in range(3):
        controller.handle(Request(f"r{i}", [0] * 700, new_tokens=2))
    turns(controller, clock, 0.01)
    assert len(controller.sent[0]) == 2 and len(plugin.state_of(controller).kept) == 1
    for _ in range(4):
        ranks.step()
        turns(controller, clock, 0.01)
    assert not plugin.state_of(controller).kept


def full(make, clock, **more):
    """A controller whose ranks are full, with three requests that wait."""
    controller, ranks = make(ranks=2, slots=2, **more)
    controller.snapshots = [Snapshot(r, clock.value, 2, 0, 500, 10_000, 2) for r in range(2)]
    for name in ("chat-1", "chat-2", "more"):
        controller.handle(Request(name, [0] * 100))
    turns(controller, clock, 0.01)
    assert list(plugin.state_of(controller).kept) == ["chat-1", "chat-2", "more"]
    assert sent(controller) == [[], []]
    return controller, ranks


def test_what_is_not_ours_to_keep_goes_at_once(make, clock):
    controller, _ = full(make, clock)
    controller.handle(Request("named", [0] * 10, routed_dp_rank=1))
    controller.handle(Request("HEALTH_CHECK_1", [0]))
    controller.handle(TokenizedEmbeddingReqInput("embed", [0] * 10))
    assert sorted(flat(sent(controller))) == ["HEALTH_CHECK_1", "embed", "named"]
    assert sent(controller)[1][0] == "named"
    assert len(plugin.state_of(controller).kept) == 3


def test_an_abort_meets_what_waits_on_the_rank_that_hears_it_first(make, clock):
    controller, _ = full(make, clock)
    state = plugin.state_of(controller)
    controller.control(AbortReq("chat-"))
    # A rank must have it before the abort, or nobody would answer.
    message, then = controller.controls[-1]
    assert message.rid == "chat-" and [[req.rid for req in rank] for rank in then] == [
        ["chat-1", "chat-2"],
        [],
    ]
    assert list(state.kept) == ["more"] and state.ledger.counters.aborted == 2 and len(state.ledger) == 1
    controller.control(AbortReq("stranger"))
    assert list(state.kept) == ["more"]
    controller.control(AbortReq(abort_all=True))
    assert not state.kept and len(state.ledger) == 0 and state.active
    assert sent(controller)[0] == ["chat-1", "chat-2", "more"]


def test_without_news_of_any_rank_nobody_waits_for_ever(make, clock, caplog):
    controller, _ = full(make, clock, stall_ms=500)
    turns(controller, clock, 0.45)
    assert len(plugin.state_of(controller).kept) == 3
    turns(controller, clock, 0.1)
    assert not plugin.state_of(controller).kept
    assert sorted(map(len, sent(controller))) == [1, 2]
    assert "3 waiting requests went to ranks" in caplog.text


def test_full_ranks_with_news_are_no_stall(make, clock):
    controller, _ = full(make, clock, stall_ms=500)
    for _ in range(40):
        turns(controller, clock, 0.1)
        controller.snapshots = [Snapshot(r, clock.value, 2, 0, 500, 10_000, 2) for r in range(2)]
    assert len(plugin.state_of(controller).kept) == 3


def test_a_bound_on_waiting_is_kept(make, clock):
    controller, _ = full(make, clock, max_hold_ms=300)
    for _ in range(4):
        turns(controller, clock, 0.1)
        controller.snapshots = [Snapshot(r, clock.value, 2, 0, 500, 10_000, 2) for r in range(2)]
    assert not plugin.state_of(controller).kept and len(flat(sent(controller))) == 3


@pytest.mark.parametrize("method", ["decide", "report", "enqueue"])
def test_a_router_that_fails_leaves_everything_to_sglang(make, clock, caplog, method):
    controller, _ = full(make, clock)
    state = plugin.state_of(controller)

    def fail(*_a, **_k):
        raise RuntimeError("spoiled")

    setattr(state.ledger, method, fail)
    controller.handle(Request("last", [0] * 10))
    controller.snapshots = [Snapshot(r, clock.value, 1, 0, 500, 10_000, 2) for r in range(2)]
    turns(controller, clock, 0.05)
    # Each once, by its own rule.
    assert sorted(flat(sent(controller))) == ["chat-1", "chat-2", "last", "more"]
    assert controller.stock_choices == 4 and not state.kept and not state.active
    assert caplog.text.count("SGLang decides from here on, and") == 1


def test_ranks_that_come_and_go_take_what_waits_along(make, clock):
    controller, _ = full(make, clock)
    controller.workers.append(object())
    controller.status.append(True)
    controller.sent.append([])
    controller._active_workers = [1, 2]
    controller.dp_budget = Budget(2)
    controller.snapshots.append(Snapshot(2, clock.value, 0, 0, 0, 10_000, 2))
    turns(controller, clock, 0.05)
    assert [len(rank) for rank in sent(controller)] == [0, 0, 2]
    assert len(plugin.state_of(controller).kept) == 1 and plugin.state_of(controller).active


def test_a_rid_twice_at_once(make, clock):
    controller, _ = full(make, clock)
    controller.handle(Request("more", [0] * 50))
    assert len(plugin.state_of(controller).kept) == 4
    controller.control(AbortReq("more"))
    assert sent(controller)[0] == ["more", "more"] and len(plugin.state_of(controller).kept) == 2


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda c: delattr(c, "soft_watchdog"), "feeds no watchdog"),
        (lambda c: setattr(c.server_args, "disaggregation_mode", "prefill"), "a prefill node"),
        (lambda c: setattr(c.load_balance_method, "name", "ROUND_ROBIN"), "--load-balance-method"),
    ],
)
def test_where_nothing_can_be_kept_requests_go_on_arrival(make, clock, caplog, spoil, says):
    controller, _ = make(spoil=spoil)
    assert says in caplog.text
    for i in range(8):
        controller.handle(Request(str(i), [0] * 100))
    assert [len(rank) for rank in sent(controller)] == [2, 2, 2, 2]


def test_the_start_says_what_is_on_and_what_would_be_better(make, caplog):
    with caplog.at_level(logging.INFO, "balanceroute"):
        make(interval=15, policy="exact")
        assert "mode step, policy exact" in caplog.text
        assert "every 15 steps" in caplog.text and "--load-snapshot-publish-interval 1" in caplog.text
        caplog.clear()
        make(interval=1, policy="brh-survival")
        assert "mode step, policy level" in caplog.text and "brh-survival learns" in caplog.text
        assert "publish-interval" not in caplog.text


def test_the_watchdog_is_fed_and_has_what_it_had(make, clock):
    controller, _ = make()
    watchdog = controller.soft_watchdog
    turns(controller, clock, 0.01)
    assert watchdog.fed == 10
    watchdog.extra = 1
    assert controller.soft_watchdog.extra == 1
    with pytest.raises(AttributeError):
        _ = watchdog.nothing_of_the_kind


def test_reading_is_bounded_while_requests_wait_and_none_is_done_otherwise(make, clock):
    controller, _ = full(make, clock)
    before = controller.reads
    turns(controller, clock, 1.0)
    assert 300 <= controller.reads - before <= 501
    controller.control(AbortReq(abort_all=True))
    before = controller.reads
    turns(controller, clock, 1.0)
    assert controller.reads == before


def test_a_burst_that_takes_its_time_to_send_is_not_forgotten_half_way(make, clock):
    """A snapshot that is written while a burst is being sent has all that was sent before it in the next one,
    and not what was decided with it and sent later.
    """
    controller, _ = make(ranks=1, slots=64, capacity=1_000_000)

    def slowly(stock, controller, req):
        clock.value += 0.001
        plugin.route(stock, controller, req)
        if len(controller.sent[0]) == 20:
            controller.snapshots[0] = Snapshot(0, clock.value, 0, 0, 0, 1_000_000, 64)

    controller.around["total_tokens_scheduler"] = slowly
    for i in range(100):
        controller.handle(Request(f"r{i}", [0] * 10))
    turns(controller, clock, 0.003)
    state = plugin.state_of(controller)
    assert len(controller.sent[0]) == 64 and len(state.kept) == 36
    clock.value += 0.01
    controller.snapshots[0] = Snapshot(0, clock.value, 20, 0, 200, 1_000_000, 64)
    turns(controller, clock, 0.01)
    assert len(controller.sent[0]) == 64 and len(state.kept) == 36
    clock.value += 0.05
    controller.snapshots[0] = Snapshot(0, clock.value, 64, 0, 640, 1_000_000, 64)
    turns(controller, clock, 0.01)
    assert len(controller.sent[0]) == 64 and len(state.kept) == 36


def test_what_was_learned_and_counted_outlives_ranks_that_come_or_go(make, clock):
    controller, _ = full(make, clock)
    state = plugin.state_of(controller)
    # They name their rank, and do not wait.
    for i in range(5):
        controller.handle(Request(f"named{i}", [0] * 700, routed_dp_rank=1))
    assert [state.ledger.passed(name) for name in state.kept] == [5, 5, 5]
    learned = state.ledger.router.learned()
    before = state.ledger
    controller._active_workers = [1]
    turns(controller, clock, 0.03)
    assert state.ledger is not before and state.ledger.ranks == 1
    assert [state.ledger.passed(name) for name in state.kept] == [5, 5, 5]
    # And three that arrive, as it takes them.
    assert len(state.ledger.router.learned()) == len(learned) + 3 * 8


def test_the_line_at_the_start_says_what_holds(make, capsys, caplog):
    make()
    assert (
        "mode step, policy level, 6 % of KV tokens left free for growth, "
        "nobody is passed by more than 128 others a rank\n"
    ) in capsys.readouterr().err
    make(max_passed=64, headroom_steps=32, learned_file="somewhere")
    said = capsys.readouterr().err
    assert (
        "mode step, policy level, 32 KV tokens a request left free for growth, "
        "nobody is passed by more than 64 others\n"
    ) in said
    assert "nothing to keep in BALANCEROUTE_LEARNED_FILE" in caplog.text
    make("arrival", kv_capacity_tokens=0)
    assert "decides on arrival by F-score\n" in capsys.readouterr().err
