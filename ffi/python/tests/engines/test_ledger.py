"""The ledger: what an engine's statistics are worth, and that nothing is counted twice or forgotten."""

import random
import struct
import sys

import pytest

import balanceroute
from balanceroute.engines.ledger import Ledger


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def make(ranks=2, slots=4, capacity=10_000, policy="level", **more):
    clock = Clock()
    return Ledger(ranks, slots, kv_capacity_tokens=capacity, policy=policy, clock=clock, **more), clock


def test_arrivals_level_the_tokens():
    ledger, _ = make(slots=100)
    for i in range(20):
        ledger.place(f"r{i}", 100 + 10 * i)
    loads = [ledger.tokens(r) for r in range(2)]
    assert sum(loads) == sum(100 + 10 * i for i in range(20))
    assert max(loads) - min(loads) <= 290


def test_a_full_cluster_queues_at_the_least_loaded_rank_and_is_counted():
    ledger, _ = make(slots=1)
    assert {ledger.place("a", 500), ledger.place("b", 300)} == {0, 1}
    rank = ledger.place("c", 10)
    assert rank == ledger.rank_of("b")
    assert ledger.counters.queued == 1
    assert ledger.tokens(rank) == 310
    # It is load for whoever comes next, and leaves without a trace.
    assert ledger.place("d", 10) != rank or ledger.tokens(1 - rank) > 310
    for name in "abcd":
        assert ledger.finish(name)
    assert [ledger.tokens(r) for r in range(2)] == [0, 0]
    assert len(ledger) == 0
    assert not ledger.finish("a")


def test_progress_of_one_shows_those_sent_before_it():
    ledger, _ = make(ranks=1, slots=10)
    for name in "abc":
        ledger.place(name, 100)
    ledger.progress("b", 1)
    # a and b are surely in this measurement; whether c is cannot be told, and nothing says that anybody else
    # is there.
    ledger.report(0, running=2, waiting=0, kv_used=201)
    assert ledger.foreign(0) == (0, 0)
    ledger.report(0, running=3, waiting=0, kv_used=301)
    assert ledger.foreign(0) == (0, 0)
    ledger.report(0, running=5, waiting=0, kv_used=900)
    assert ledger.foreign(0) == (900 - 301, 2)


def test_a_stale_snapshot_does_not_erase_what_others_have_there():
    ledger, clock = make(slots=500, capacity=100_000)
    ledger.report(0, running=90, waiting=0, kv_used=30_000)
    assert ledger.foreign(0) == (30_000, 90)
    # A burst, and the same snapshot again and again.
    for i in range(200):
        ledger.place(f"r{i}", 100)
        clock.now += 0.001
        ledger.report(0, running=90, waiting=0, kv_used=30_000, age=0.5)
        ledger.report(1, running=0, waiting=0, kv_used=0, age=0.5)
    assert ledger.foreign(0) == (30_000, 90)
    assert ledger.tokens(0) == 0
    # The others leave.
    ledger.report(0, running=0, waiting=0, kv_used=0)
    assert ledger.foreign(0) == (0, 0)


def test_what_has_ended_since_the_measurement_is_not_foreign():
    ledger, clock = make(ranks=1, slots=100)
    for name in "abc":
        ledger.place(name, 1000)
        ledger.progress(name, 1)
    ledger.finish("a")
    ledger.finish("b")
    clock.now += 0.3
    # Measured half a second ago, when all three ran.
    ledger.report(0, running=3, waiting=0, kv_used=3003, age=0.5)
    assert ledger.foreign(0) == (0, 0)
    # Measured now: somebody else's.
    ledger.report(0, running=3, waiting=0, kv_used=3003)
    assert ledger.foreign(0) == (2002, 2)


def test_a_part_of_a_rank_is_ours_as_soon_as_it_is_free():
    clock = Clock()
    ledger = Ledger(1, 30, share=(1, 3), clock=clock)
    for i in range(12):
        ledger.enqueue(f"r{i}", 10)
    # The others have lent what is ours, and more queue: nobody would be served before them.
    ledger.report(0, running=30, waiting=10, kv_used=None)
    assert ledger.decide() == []
    ledger.report(0, running=27, waiting=0, kv_used=None)
    # Three are free, and may be what somebody has freed and fills again: no more than a part of them is ours.
    assert len(ledger.decide()) <= 1
    clock.now += 0.1
    ledger.report(0, running=20, waiting=0, kv_used=None)
    sent = sum(ledger.rank_of(f"r{i}") is not None for i in range(12))
    assert sent + len(ledger.decide()) == 10


def test_what_nobody_uses_is_lent():
    clock = Clock()
    ledgers = [Ledger(2, 16, share=(i, 4), clock=clock) for i in range(4)]
    for i in range(40):
        ledgers[2].enqueue(f"r{i}", 10)
    sent = 0
    for _ in range(40):
        sent += len(ledgers[2].decide())
        clock.now += 0.05
        for rank in range(2):
            ledgers[2].report(rank, running=ledgers[2].tokens(rank) // 10, waiting=0, kv_used=None, seen=sent)
    # All but what is left to those who have nothing there yet: a slot of each of them, an eighth at most.
    assert sent == 2 * (16 - 2)


def test_without_a_capacity_others_are_as_long_as_ours():
    ledger, _ = make(slots=100, capacity=None)
    ledger.place("a", 400)
    ledger.place("b", 200)
    ledger.report(0, running=11, waiting=0, kv_used=None)
    assert ledger.foreign(0) == (10 * 300, 10)


def test_covered_requests_become_foreign():
    ledger, clock = make(slots=100)
    rank = ledger.place("a", 1000)
    clock.now += 1
    assert ledger.place("b", 700) != rank
    assert ledger.cover(rank, clock.now - 1) == 1
    assert ledger.foreign(rank) == (1000, 1)
    ledger.report(rank, running=1, waiting=0, kv_used=1010)
    assert ledger.foreign(rank) == (1010, 1)
    assert "a" not in ledger
    assert ledger.place("c", 100) != rank


def test_ranks_join_and_leave():
    ledger, _ = make(ranks=2, slots=10)
    for i in range(4):
        ledger.place(f"r{i}", 100)
    assert ledger.resize(3) == []
    assert ledger.place("new", 100) == 2
    leaving = sorted(name for name in ("r0", "r1", "r2", "r3", "new") if ledger.rank_of(name) > 0)
    assert sorted(ledger.resize(1)) == leaving and len(leaving) == 3
    assert len(ledger) == 2
    assert ledger.place("last", 10) == 0


def test_a_session_is_drawn_to_its_rank_but_not_at_any_price():
    ledger, _ = make(ranks=4, slots=100, capacity=1_000_000)
    ledger.bind("longest", 20_000, 0)
    rank = ledger.place("first", 2000, session="s")
    ledger.progress("first", 50)
    ledger.finish("first")
    ledger.bind("more", 900, rank)
    # Others go to an empty rank; the session returns to where 2050 tokens of it may still be.
    assert ledger.place("other", 10) not in (0, rank)
    assert ledger.place("second", 2100, session="s") == rank
    # Not where every step would become longer by it.
    ledger.bind("much", 60_000, rank)
    assert ledger.place("fourth", 2300, session="s") != rank


def test_a_session_is_drawn_to_its_rank_from_the_pool():
    # A policy that looks at pairs; "level" opens the emptiest rank first and then asks who of those that wait
    # fits it best.
    ledger, _ = make(ranks=4, slots=100, capacity=1_000_000, policy="exact")
    for i in range(4):
        ledger.bind(f"load{i}", 20_000, i)
    rank = ledger.place("first", 2000, session="s")
    ledger.finish("first")
    ledger.bind("more", 30, rank)
    ledger.enqueue("other", 1900)
    ((_, elsewhere),) = ledger.decide()
    assert elsewhere != rank
    ledger.finish("other")
    ledger.enqueue("second", 2100, session="s")
    assert ledger.decide() == [("second", rank)]


def test_a_session_that_waits_is_drawn_to_where_it_went_meanwhile():
    ledger, _ = make(ranks=4, slots=100, capacity=1_000_000, policy="exact")
    for i in range(4):
        ledger.bind(f"load{i}", 20_000 + 30 * (i == 2), i)
    for i in range(2):
        ledger.drain(i)
    # It waits before anybody has heard of its session; nobody may take it yet.
    ledger.enqueue("second", 2_100, session="s", eligible=[])
    ledger.enqueue("third", 2_100, session="s")
    ledger.bind("first", 2_000, 2, session="s")
    assert ledger.decide() == [("third", 2)]
    ledger.enqueue("fourth", 2_100, session="s")
    # Its rank leaves, and a new one takes its place: nothing of the session is there.
    assert sorted(ledger.remove(2)) == ["first", "load2", "third"]
    ledger.resize(4)
    assert ledger.decide() == [("fourth", 3)]
    assert ledger.finish("second") and len(ledger) == 4


def calls_of(run):
    """Calls of Python's and of C's functions that it makes."""
    made = {"call": 0, "c_call": 0}

    def count(_, event, __):
        if event in made:
            made[event] += 1

    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(None)
    # The last is that which ends the counting.
    return made["call"], made["c_call"] - 1


def test_a_token_is_one_call_of_the_router():
    ledger, _ = make()
    ledger.place("runs", 100)
    ledger.enqueue("waits", 100)
    for name in ("runs", "waits", "unknown"):
        calls, of_c = calls_of(lambda name=name: ledger.progress(name, 2))
        # The lambda, `progress`, what makes an error; the look-up of the name, the router's call.
        assert calls <= 2 + (name == "waits") and of_c <= 2, name
    assert ledger.tokens(ledger.rank_of("runs")) == 102


def test_a_step_costs_by_what_has_changed_and_not_by_who_waits():
    ledger, _ = make(ranks=2, slots=1, capacity=None)
    for i in range(2):
        ledger.bind(f"runs{i}", 100, i, session=f"s{i}")
    for i in range(300):
        ledger.enqueue(f"waits{i}", 100, session=f"s{i % 2}", eligible=[0, 1] if i % 3 else None)
    assert sum(calls_of(ledger.decide)) < 20
    # Of one session the rank or the length is another, for those of it who wait.
    ledger.progress("runs0", 5)
    ledger.finish("runs0")
    assert 150 <= sum(calls_of(ledger.decide)) < 1_000
    # Whoever of it was admitted is its last now.
    assert 149 <= sum(calls_of(ledger.decide)) < 1_000
    assert sum(calls_of(ledger.decide)) < 20


def test_the_pool_waits_for_room_and_the_impossible_goes_on():
    ledger, _ = make(ranks=1, slots=1)
    ledger.enqueue("a", 100)
    ledger.enqueue("b", 100)
    ledger.enqueue("huge", 1_000_000)
    sent = dict(ledger.decide())
    # Longer than any KV cache: the engine has the last word, and an error message of its own.
    assert sent["huge"] == 0 and len(sent) == 2
    assert ledger.counters.returned == 1
    assert ledger.decide() == []
    for name in sent:
        ledger.finish(name)
    assert [rank for _, rank in ledger.decide()] == [0]


def test_a_name_is_used_once():
    ledger, _ = make()
    ledger.place("a", 10)
    with pytest.raises(ValueError, match="'a' is already known"):
        ledger.place("a", 10)
    assert ledger.abort("a")
    ledger.place("a", 10)


@pytest.mark.parametrize("capacity", [None, 400_000])
def test_ranks_that_join_while_sessions_wait(capacity):
    """A step with bonuses and then one over more ranks: the rows of the one do not outlive it."""
    ledger, clock = make(ranks=2, slots=2, capacity=capacity)
    # From the second turn on the sessions have a rank that draws them.
    for turn in range(3):
        for i in range(6):
            ledger.enqueue(f"{turn} {i}", 100 + 50 * turn, session=f"s{i}")
        assert len(ledger.decide()) == 4
        clock.now += 0.1
        ledger.resize(3)
        assert ledger.router.metrics().waiting == 2 == len(ledger.router.waiting())
        # The new rank has room for those two.
        assert [rank for _, rank in ledger.decide()] == [2, 2]
        assert all(ledger.finish(f"{turn} {i}") for i in range(6))
        assert ledger.resize(2) == []


def test_a_request_waits_from_its_arrival_on():
    """However long nothing has happened before."""
    ledger, clock = make()
    ledger.enqueue("a", 100)
    assert len(ledger.decide()) == 1
    clock.now += 60
    ledger.enqueue("b", 100)
    clock.now += 0.25
    assert len(ledger.decide()) == 1
    clock.now += 30
    ledger.finish("a")
    metrics = ledger.router.metrics()
    assert metrics.wait_ms.sum == 250 and metrics.now_ms == int(clock.now * 1e3)
    for rank in range(2):
        ledger.report(rank, running=0, waiting=0, kv_used=0)
    assert [rank.report_age_ms for rank in ledger.router.metrics().ranks] == [0, 0]


@pytest.mark.parametrize("ours", [0, 3])
def test_blocks_that_nobody_who_runs_holds_are_in_use(ours):
    ledger, clock = make(slots=64, capacity=100_000)
    for i in range(ours):
        ledger.bind(f"own{i}", 500, 0)
        ledger.progress(f"own{i}", 1)
    for _ in range(5):
        clock.now += 0.01
        ledger.report(0, running=ours, waiting=0, kv_used=85_000)
        ledger.report(1, running=0, waiting=0, kv_used=0)
    assert ledger.foreign(0) == (85_000 - 501 * ours, 0)
    ranks = [ledger.place(f"n{i}", 2_000) for i in range(40)]
    assert ranks == [1] * 40
    # They are freed: the next report says so.
    clock.now += 0.01
    ledger.report(0, running=ours, waiting=0, kv_used=501 * ours)
    assert ledger.foreign(0) == (0, 0)


def test_requests_that_share_a_prefix_hold_it_once():
    ledger, clock = make(ranks=1, slots=72, capacity=400_000)
    names = [f"r{i}" for i in range(72)]
    for name in names:
        ledger.enqueue(name, 30_500)
    sent = []
    for _ in range(20):
        sent += [name for name, _ in ledger.decide()]
        for name in sent:
            ledger.progress(name, 1)
        clock.now += 0.02
        ledger.report(0, running=len(sent), waiting=0, kv_used=30_000 + 520 * len(sent))
    assert sorted(sent) == sorted(names)
    assert ledger.router.metrics().ranks[0].shared_tokens > 2_000_000


@pytest.mark.parametrize("policy", ["level", "jsq", "vllm-0.33", "sglang-total-tokens"])
def test_requests_bound_to_a_rank_that_leaves_are_placed_again(policy):
    ledger, _ = make(ranks=3, slots=1, policy=policy)
    for i in range(3):
        ledger.bind(f"runs{i}", 100, i)
    waiting = [f"waits{i}" for i in range(6)]
    for name in waiting:
        ledger.enqueue(name, 100)
    assert ledger.resize(2) == ["runs2"]
    ledger.finish("runs0")
    ledger.finish("runs1")
    served = []
    for _ in range(20):
        for name, rank in ledger.decide():
            assert rank < 2
            served.append(name)
            ledger.finish(name)
    assert sorted(served) == waiting and len(ledger) == 0


def test_a_slow_rank_gets_less():
    ledger, _ = make(ranks=2, slots=100, capacity=1_000_000)
    weighted = Ledger(2, 100, kv_capacity_tokens=1_000_000, weights=[2.0])
    for at in (ledger, weighted):
        for i in range(30):
            at.enqueue(f"r{i}", 100)
        for _ in range(30):
            at.decide()
    assert [ledger.tokens(rank) for rank in range(2)] == [1_500, 1_500]
    slow, fast = (weighted.tokens(rank) for rank in range(2))
    assert (slow, fast) == (1_000, 2_000)
    # One that joins is as fast as the others, and so is who is not named.
    weighted.resize(3)
    assert weighted.place("next", 100) == 2
    with pytest.raises(ValueError, match="3 weights for 2 ranks"):
        Ledger(2, 1, weights=[1, 1, 1])


def test_a_weight_belongs_to_its_rank():
    ledger = Ledger(4, 10, weights=[1.0, 2.0, 3.0, 4.0])

    def weights():
        return [ledger.router.worker_config(worker).weight for worker in ledger.router.worker_ids]

    # At the end a rank leaves and comes again, as engines scale: it is the one that was named.
    assert ledger.resize(2) == [] and weights() == [1, 2]
    ledger.resize(5)
    assert weights() == [1, 2, 3, 4, 1]
    # Those behind one that leaves move up, each with its weight; whoever joins behind them was not named.
    ledger.remove(0)
    assert weights() == [2, 3, 4, 1]
    ledger.resize(6)
    assert weights() == [2, 3, 4, 1, 1, 1]
    ledger.remove(1)
    ledger.resize(1)
    ledger.resize(3)
    assert weights() == [2, 4, 1]


def test_a_rank_in_the_middle_leaves_and_those_after_it_move_up():
    ledger, _ = make(ranks=3, slots=2)
    for rank in range(3):
        ledger.bind(f"runs{rank}", 100 + rank, rank)
    for i in range(5):
        ledger.enqueue(f"waits{i}", 50)
    assert ledger.remove(1) == ["runs1"]
    assert [ledger.rank_of(f"runs{i}") for i in (0, 2)] == [0, 1] and ledger.rank_of("runs1") is None
    assert [ledger.tokens(rank) for rank in range(2)] == [100, 102]
    assert sorted(rank for _, rank in ledger.decide()) == [0, 1]
    # One that joins is the last.
    ledger.resize(3)
    assert sorted(rank for _, rank in ledger.decide()) == [2, 2]
    ledger.report(2, running=9, waiting=0, kv_used=900)
    assert ledger.foreign(2) == (800, 7) and ledger.foreign(1) == (0, 0)


def test_a_rank_is_another_from_now_on():
    ledger, _ = make(ranks=2, slots=1, capacity=1_400, headroom_steps=256)
    for i in range(8):
        ledger.enqueue(f"r{i}", 300)
    assert len(ledger.decide()) == 2
    ledger.configure(1, slots=4)
    assert [rank for _, rank in ledger.decide()] == [1]
    ledger.configure(1, kv_capacity_tokens=3_000)
    assert [rank for _, rank in ledger.decide()] == [1, 1]
    ledger.configure(0, slots=3, kv_capacity_tokens=9_000, accepting=False)
    assert ledger.decide() == []
    ledger.configure(0, accepting=True)
    assert [rank for _, rank in ledger.decide()] == [0, 0]
    ledger.drain(0)
    ledger.finish("r0")
    ledger.finish("r1")
    assert [rank for _, rank in ledger.decide()] == [1]
    assert ledger.router.worker_config(1).slots == 4


@pytest.mark.parametrize("policy", ["level", "exact", "br0", "jsq"])
def test_some_ranks_may_not_take_a_request(policy):
    ledger, _ = make(ranks=4, slots=4, policy=policy)
    for i in range(6):
        ledger.enqueue(f"r{i}", 100, eligible=[3, 1] if i % 2 else None)
    sent = dict(ledger.decide())
    assert len(sent) == 6 and {sent[f"r{i}"] for i in (1, 3, 5)} <= {1, 3}
    assert ledger.place("now", 10, eligible=[1]) == 1
    for i in range(20):
        assert ledger.place(f"more{i}", 10, eligible=[1]) == 1
    # It may use nothing that is here: the engine has the last word.
    ledger.remove(1)
    assert ledger.place("nowhere", 10, eligible=[]) in range(3)


def test_what_is_held_or_put_off_does_not_grow():
    ledger, _ = make(ranks=1, slots=8)
    for name in ("moves", "off", "runs"):
        ledger.place(name, 1_000)
        ledger.progress(name, 1)
    ledger.held("moves")
    ledger.preempted("off")
    ledger.router.progress(0, 50)
    assert [ledger.generated(name) for name in ("moves", "off", "runs")] == [1, 1, 51]
    assert ledger.tokens(0) == 3_053
    rank = ledger.router.metrics().ranks[0]
    assert (rank.held, rank.preempted, rank.running) == (1, 1, 3)
    # The engine measures who decodes and who is on the way; room for the other is kept.
    ledger.report(0, running=1, waiting=2, kv_used=1_051 + 1_001)
    assert ledger.foreign(0) == (0, 0)
    rank = ledger.router.metrics().ranks[0]
    assert rank.kv_used_tokens == 2_052 and rank.kv_growth_tokens == 600 + 1_001
    ledger.transfer_done("moves")
    ledger.resumed("off")
    ledger.router.progress(0, 10)
    assert [ledger.generated(name) for name in ("moves", "off", "runs")] == [11, 11, 61]


def test_a_step_of_an_engine_is_one_call():
    ledger, _ = make(ranks=2, slots=8)
    names = [f"r{i}" for i in range(6)]
    for name in names:
        ledger.place(name, 100)
    ledger.enqueue("waits", 50)
    one = [1] * 7
    # "nobody" is not known, and tokens of one that waits cannot be.
    ledger.step(0, [*names[:4], "nobody", *names[4:]], one)
    assert [ledger.generated(name) for name in names] == [1] * 6
    ledger.step(0, names, [3, 1, 1, 1, 1, 0])
    ledger.step(0, names, [1] * 6)
    assert [ledger.generated(name) for name in names] == [5, 3, 3, 3, 3, 2]
    # An id is used again by another request: the one that stepped before is not taken for it.
    ledger.finish("r5")
    ledger.place("new", 100)
    ledger.step(0, names, [1] * 6)
    assert ledger.generated("new") == 0 and ledger.generated("r4") == 4
    assert sum(ledger.tokens(rank) for rank in range(2)) == 600 + 6 + 4 * 4


def test_a_rank_that_starts_anew_has_lost_what_it_had():
    ledger, clock = make(ranks=1, slots=4)
    for name in ("a", "b"):
        ledger.place(name, 100)
        ledger.progress(name, 1)
    ledger.report(0, running=2, waiting=0, kv_used=202, epoch=7)
    clock.now += 2
    assert ledger.report(0, running=0, waiting=0, kv_used=0, epoch=8) == "restarted"
    assert ledger.decide() == []
    assert ledger.counters.lost == 2 and len(ledger) == 0 and ledger.tokens(0) == 0
    # Late news of the old life.
    ledger.progress("a", 1)
    assert not ledger.finish("a")


def test_kv_tokens_older_than_the_counts():
    ledger, clock = make(ranks=1, slots=8)
    ledger.report(0, running=0, waiting=0, kv_used=0)
    for name in "abc":
        ledger.place(name, 1_000)
        ledger.progress(name, 1)
    clock.now += 0.4
    # All three are counted, and the KV tokens are of a time before them.
    ledger.report(0, running=3, waiting=0, kv_used=0, kv_age=1.0)
    assert ledger.foreign(0) == (0, 0)
    assert ledger.router.metrics().ranks[0].shared_tokens == 0
    # A fresh figure like this would say that they share.
    ledger.report(0, running=3, waiting=0, kv_used=1_000)
    assert ledger.router.metrics().ranks[0].shared_tokens == 2_003


def test_short_answers_need_little_room():
    ledger, _ = make(ranks=1, slots=64, capacity=1_000, headroom_steps=256)
    for i in range(8):
        ledger.enqueue(f"short{i}", 100, max_tokens=10)
    # Each leaves room for what it may grow by, not for 256 tokens.
    for _ in range(8):
        ledger.decide()
    sent = sum(ledger.rank_of(f"short{i}") is not None for i in range(8))
    assert sent == 6
    other, _ = make(ranks=1, slots=64, capacity=1_000, headroom_steps=256)
    for i in range(8):
        other.enqueue(f"r{i}", 100)
    other.decide()
    assert sum(other.rank_of(f"r{i}") is not None for i in range(8)) == 2


def test_after_a_stall_the_queues_are_level():
    ledger, _ = make(ranks=4, slots=2, capacity=100_000)
    for i in range(8):
        ledger.bind(f"runs{i}", 1_000 * (1 + i % 4), i % 4)
    for i in range(40):
        ledger.enqueue(f"waits{i}", 200 + 13 * i)
    assert ledger.decide() == []
    ranks = [ledger.place_waiting(f"waits{i}") for i in range(40)]
    assert [ranks.count(rank) for rank in range(4)] == [10] * 4
    # Of ranks with queues as long as each other the least loaded comes first.
    assert ranks[:4] == [0, 1, 2, 3]
    assert ledger.counters.queued == 40


def restarted(**more):
    ledger, clock = make(ranks=2, slots=4, **more)
    ledger.enqueue("a", 100)
    ((_, rank),) = ledger.decide()
    ledger.progress("a", 1)
    ledger.report(rank, running=1, waiting=0, kv_used=101, epoch=1)
    clock.now += 1
    assert ledger.report(rank, running=0, waiting=0, kv_used=0, epoch=2) == "restarted"
    return ledger


@pytest.mark.parametrize("late", ["finish", "abort"])
def test_late_news_of_what_a_restart_has_lost(late):
    ledger = restarted()
    for change in (ledger.held, ledger.preempted, ledger.resumed, ledger.transfer_done):
        change("a")
    ledger.progress("a", 1)
    assert not getattr(ledger, late)("a") and "a" not in ledger
    assert (ledger.counters.finished, ledger.counters.aborted, ledger.counters.lost) == (0, 0, 1)
    # Its id may be somebody else's when the router tells of it.
    ledger.place("b", 100)
    assert ledger.decide() == [] and "b" in ledger and ledger.counters.lost == 1


def test_a_rank_that_holds_nothing_for_long_has_lost_what_it_had():
    ledger, clock = make(ranks=2, slots=4)
    for i in range(8):
        ledger.enqueue(f"r{i}", 100)
    assert len(ledger.decide()) == 8
    for i in range(8):
        ledger.progress(f"r{i}", 1)
    alive = [f"r{i}" for i in range(8) if ledger.rank_of(f"r{i}") == 1]
    for _ in range(120):
        clock.now += 0.1
        for name in alive:
            ledger.progress(name, 1)
        ledger.report(0, running=0, waiting=0, kv_used=0)
        # A rank whose requests bring tokens has not lost them, whatever it says of itself.
        ledger.report(1, running=0, waiting=0, kv_used=0, age=0.02)
        assert ledger.decide() == []
    assert sorted(ledger._by_name) == sorted(alive) and ledger.counters.lost == 4
    assert [ledger.place(f"new{i}", 10) for i in range(4)] == [0] * 4


@pytest.mark.parametrize(
    "policy",
    ["random", "round-robin", "power-of-two", "jsq", "vllm-legacy", "vllm-0.33", "sglang-total-tokens"],
)
def test_policies_that_bind_know_who_may_take_a_request(policy):
    ledger, _ = make(ranks=3, slots=4, policy=policy)
    for i in range(6):
        ledger.enqueue(f"r{i}", 100, eligible=[2])
    assert sorted(ledger.decide()) == [(f"r{i}", 2) for i in range(4)]
    assert ledger.place("now", 100, eligible=[0, 1]) in (0, 1)
    for i in range(4):
        ledger.finish(f"r{i}")
    assert sorted(ledger.decide()) == [("r4", 2), ("r5", 2)]
    # Where its rank leaves, another that may take it does.
    for i in range(3):
        ledger.enqueue(f"s{i}", 100, eligible=[1, 2])
    ledger.remove(2)
    assert sorted(name for name, rank in ledger.decide() if rank == 1) == ["s0", "s1", "s2"]


@pytest.mark.parametrize("policy", ["level", "jsq"])
def test_what_waits_for_a_draining_rank_waits_for_another(policy):
    ledger, _ = make(ranks=2, slots=2, policy=policy)
    for i in range(4):
        ledger.bind(f"runs{i}", 100, i % 2)
    for i in range(6):
        ledger.enqueue(f"waits{i}", 100)
    assert ledger.decide() == []
    ledger.drain(0)
    for _ in range(3):
        assert ledger.decide() == []
    ledger.finish("runs1")
    ledger.finish("runs3")
    assert [rank for _, rank in ledger.decide()] == [1, 1] and ledger.counters.returned == 0
    # Nor is a draining rank chosen for its short queue.
    assert ledger.place("now", 100, eligible=[0, 1]) == 1


def test_a_list_of_names_is_the_callers():
    ledger, _ = make(ranks=1, slots=8)
    for name in "abc":
        ledger.bind(name, 100, 0)
    names = ["a", "b"]
    ledger.step(0, names, [1, 1])
    names[:] = ["b", "c"]
    ledger.step(0, names, [1, 1])
    assert [ledger.generated(name) for name in "abc"] == [1, 2, 1]


def test_what_is_refused_leaves_no_trace():
    ledger, _ = make(ranks=2, slots=2)
    with pytest.raises(IndexError):
        ledger.enqueue("a", 10, eligible=[7])
    with pytest.raises(IndexError):
        ledger.place("a", 10, eligible=[7])
    ledger.resize(0)
    with pytest.raises(balanceroute.RouterError):
        ledger.place("a", 10)
    assert "a" not in ledger and ledger.router.waiting_len == 0
    ledger.enqueue("waits", 10)
    assert ledger.place_waiting("waits") is None and ledger.decide() == []
    ledger.resize(2)
    assert ledger.place("a", 10) in (0, 1) and [name for name, _ in ledger.decide()] == ["waits"]


def test_an_answer_that_may_outgrow_a_rank_waits_like_others():
    ledger, _ = make(ranks=2, slots=2, capacity=None)
    for rank in range(2):
        ledger.report(rank, running=0, waiting=0, kv_used=0, capacity=1_000)
    for i in range(4):
        ledger.enqueue(f"r{i}", 100)
    assert len(ledger.decide()) == 4
    for i in range(4):
        ledger.progress(f"r{i}", 1)
    for most in (200, 20_000):
        ledger.enqueue(f"x{most}", 850, max_tokens=most)
    assert ledger.decide() == [] and ledger.counters.returned == 0


def test_requests_alone_do_not_erase_what_was_measured():
    ledger, _ = make(ranks=2, slots=64, capacity=20_000)
    ledger.report(0, running=0, waiting=0, kv_used=17_000)
    ledger.report(0, running=0, waiting=0, kv_used=None)
    assert ledger.foreign(0) == (17_000, 0)
    ledger.place("ours", 500)
    ledger.report(0, running=2, waiting=0, kv_used=None)
    assert ledger.foreign(0) == (18_000, 2)


def test_front_ends_do_not_lend_twice_between_two_reports():
    clock = Clock()
    ledgers = [Ledger(1, 16, share=(i, 4), clock=clock) for i in range(4)]
    for ledger in ledgers:
        for _ in range(3):
            ledger.report(0, running=0, waiting=0, kv_used=0)
        for i in range(64):
            ledger.enqueue(f"r{i}", 10)
    for _ in range(6):
        for ledger in ledgers:
            for name, _ in ledger.decide():
                ledger.progress(name, 1)
        clock.now += 0.02
    sent = [ledger.router.running_len for ledger in ledgers]
    # One whose turn it is has taken what all the others have their parts of.
    assert sum(sent) <= 16 + 12 and sorted(sent)[:3] == [4, 4, 4]


def test_without_a_report_a_front_end_has_its_part_alone():
    ledgers = [Ledger(1, 12, share=(i, 3)) for i in range(3)]
    for ledger in ledgers:
        for i in range(12):
            ledger.enqueue(f"a{i}", 10)
            for name, _ in ledger.decide():
                ledger.progress(name, 1)
                ledger.finish(name)
        for i in range(12):
            ledger.enqueue(f"b{i}", 10)
    assert [len(ledger.decide()) for ledger in ledgers] == [4, 4, 4]


def test_without_a_report_a_long_request_has_its_turn():
    clock = Clock()
    ledger = Ledger(4, 16, kv_capacity_tokens=40_000, share=(0, 4), clock=clock)
    ledger.enqueue("long", 12_000)
    sent = []
    for _ in range(200):
        sent += ledger.decide()
        clock.now += 0.03
    assert [name for name, _ in sent] == ["long"]


def excess_of_front_ends(count, reports, ranks=8, steps=500):
    """How far the fullest rank is above the mean where so many front ends place on arrival, none of which
    hears from another: half of the slots are taken, and every 100 ms all ranks report."""
    rng, clock = random.Random(1), Clock()
    ledgers = [Ledger(ranks, 64, share=(i, count), clock=clock) for i in range(count)]
    runs = [{} for _ in range(ranks)]
    names, found = iter(range(1 << 30)), []
    for step in range(steps):
        clock.now += 0.02
        while sum(map(len, runs)) < ranks * 32:
            name, front, prompt = str(next(names)), rng.randrange(count), rng.randint(50, 1_600)
            runs[ledgers[front].place(name, prompt)][name] = [front, prompt, rng.randint(10, 150)]
        for there in runs:
            for name, job in list(there.items()):
                job[1], job[2] = job[1] + 1, job[2] - 1
                ledgers[job[0]].progress(name, 1)
                if not job[2]:
                    ledgers[job[0]].finish(name)
                    del there[name]
        loads = [sum(job[1] for job in there.values()) for there in runs]
        for rank in range(ranks) if reports and step % 5 == 0 else ():
            for ledger in ledgers:
                ledger.report(rank, running=len(runs[rank]), waiting=0, kv_used=loads[rank], age=0.02)
        if step >= 100:
            found.append(max(loads) / (sum(loads) / ranks) - 1)
    return sum(found) / len(found)


@pytest.mark.parametrize("count", [4, 8])
def test_front_ends_do_not_all_fill_the_same_gap(count):
    """What reports show helps those who place on arrival; once it made them a herd."""
    assert excess_of_front_ends(count, reports=True) < excess_of_front_ends(count, reports=False)


def room(ledger):
    return [rank.kv_growth_tokens for rank in ledger.router.metrics().ranks]


def serve(ledger, steps):
    """Every rank has 40 requests of 2,000 tokens and more; each ends with one of 20 steps, and another comes
    in its place.
    """
    ends = random.Random(4)
    running = [[f"{rank} {i}" for i in range(40)] for rank in range(ledger.ranks)]
    for step in range(steps):
        for rank, names in enumerate(running):
            for name in names:
                if name not in ledger:
                    ledger.bind(name, 2_000, rank)
            ledger.step(rank, names, [1] * 40)
            for name in names:
                if step > 5 and ends.random() < 0.05:
                    ledger.finish(name)


def test_room_for_growth_is_learned_unless_it_is_set():
    ledger, _ = make(slots=40, capacity=100_000)
    fixed, _ = make(slots=40, capacity=100_000, headroom_steps=7)
    dear, _ = make(slots=40, capacity=100_000, preemption_cost=(5.0, 1_000.0))
    for at in (ledger, fixed, dear):
        serve(at, 5)
    # Nobody has ended: 6 % of the KV tokens.
    assert room(ledger) == room(dear) == [6_000] * 2 and room(fixed) == [280] * 2
    for at in (ledger, fixed, dear):
        serve(at, 120)
    assert all(64 <= tokens < 3_000 for tokens in room(ledger))
    assert room(fixed) == [280] * 2 and min(room(dear)) > max(room(ledger))


def test_what_a_request_may_generate_makes_the_room_less():
    def full(max_tokens):
        ledger, _ = make(ranks=1, slots=40, capacity=84_000)
        # Half end soon and half late.
        for i in range(80):
            ledger.place(f"old{i}", 2_000)
            ledger.step(0, [f"old{i}"], [1 + i * i // 12])
            ledger.finish(f"old{i}")
        for i in range(40):
            ledger.place(f"r{i}", 2_000, max_tokens=max_tokens)
        ledger.step(0, [f"r{i}" for i in range(40)], [1] * 40)
        return room(ledger)[0]

    learned = full(None)
    assert 640 < learned < 5_040
    assert full(90_000) == learned and 2 * full(30) < learned


def refill(ledger):
    """No slot is free."""
    for rank in range(ledger.ranks):
        for name in [f"{rank} {i}" for i in range(40)]:
            if name not in ledger:
                ledger.bind(name, 2_000, rank)


def test_a_capacity_that_becomes_known():
    ledger, _ = make(slots=40, capacity=None)
    serve(ledger, 120)
    refill(ledger)
    assert room(ledger) == [0, 0]
    # What it may generate is asked of nobody yet, and does not shut it out later.
    ledger.enqueue("waits", 2_000, max_tokens=150_000)
    assert ledger.decide() == []
    for rank in range(2):
        used = ledger.tokens(rank)
        ledger.report(rank, running=40, waiting=0, kv_used=used, capacity=100_000)
    assert ledger.decide() == []
    # It stays where it was: nobody had to be given back.
    assert not any(ledger.router.metrics().returned.values())
    ledger.step(0, [f"0 {i}" for i in range(40)], [1] * 40)
    ledger.step(1, [f"1 {i}" for i in range(40)], [1] * 40)
    # Learned meanwhile.
    assert all(64 <= tokens < 3_000 for tokens in room(ledger))
    known = ledger.router.metrics().ranks[0]
    assert known.kv_capacity_tokens == 100_000 and ledger.foreign(0) == (0, 0)
    ledger.finish("0 0")
    assert ledger.decide() == [("waits", 0)]


def test_ranks_that_become_smaller_give_nobody_back_for_what_it_may_generate():
    ledger, _ = make(ranks=1, slots=1, capacity=10_000)
    ledger.bind("runs", 100, 0)
    ledger.enqueue("long", 100, max_tokens=9_000)
    assert ledger.decide() == []
    ledger.configure(0, kv_capacity_tokens=5_000)
    for _ in range(3):
        assert ledger.decide() == []
    ledger.finish("runs")
    assert ledger.decide() == [("long", 0)] and ledger.counters.returned == 0


def passed_before_it_enters(**more):
    """How many pass a short request, where slots that become free are worth a long one, until it enters."""
    ledger, _ = make(ranks=2, slots=4, capacity=None, **more)
    lengths, names = random.Random(5), iter(range(1 << 30))
    running = [f"r{next(names)}" for _ in range(8)]
    for at, name in enumerate(running):
        ledger.bind(name, lengths.randrange(1_500, 2_500), at % 2)
    waits = False
    for _ in range(600):
        while ledger.router.waiting_len < 8:
            ledger.enqueue(f"r{next(names)}", lengths.randrange(1_500, 2_500))
        for rank in range(2):
            ledger.step(rank, [name for name in running if ledger.rank_of(name) == rank], [1] * 4)
        if not waits and ledger.counters.finished == 20:
            ledger.enqueue("odd", 1)
            waits = True
        ledger.finish(running.pop(0))
        passed = ledger.passed("odd")
        sent = [name for name, _ in ledger.decide()]
        if "odd" in sent:
            return passed
        running += sent
    raise AssertionError("it never enters")


def test_nobody_is_passed_more_often_than_may_be():
    found = {most: passed_before_it_enters(max_passed=most) for most in (0, 5, 40, None)}
    # Unless it is said otherwise it is 128 a rank.
    assert found[0] == 0 and found[5] == 5 and found[40] == 40 and 40 < found[None] <= 256, found


def test_zero_is_first_come_first_served():
    ledger, _ = make(ranks=2, slots=4, capacity=None, max_passed=0)
    lengths, order, running = random.Random(2), [], []
    for i in range(60):
        ledger.enqueue(f"r{i}", lengths.randrange(10, 9_000))
    while len(order) < 60:
        sent = sorted((name for name, _ in ledger.decide()), key=lambda name: int(name[1:]))
        order += sent
        running += sent
        ledger.finish(running.pop(lengths.randrange(len(running))))
    assert order == [f"r{i}" for i in range(60)]
    assert ledger.router.metrics().most_passed == 0


@pytest.mark.parametrize("most", [-1, 1 << 25, 0.5])
def test_a_bound_that_is_none_is_refused_by_name(most):
    with pytest.raises(balanceroute.PolicyError, match="max_passed"):
        make(max_passed=most)


def test_a_preempted_request_keeps_its_place():
    """Its engine goes on with it: slot, rank and room are kept, however many come meanwhile."""
    ledger, clock = make(ranks=1, slots=2, capacity=10_000)
    for name in ("off", "runs"):
        ledger.place(name, 3_000)
        ledger.progress(name, 1)
    ledger.enqueue("old", 3_000)
    ledger.preempted("off")
    # The engine holds nothing of it.
    ledger.report(0, running=1, waiting=1, kv_used=3_001)
    for i in range(5):
        ledger.enqueue(f"young{i}", 100)
        assert ledger.decide() == []
    assert ledger.rank_of("off") == 0 and ledger.router.metrics().preempted_in_place == 1
    ledger.finish("runs")
    # There is a slot and room for both of "off" and "old", and "old" came before the short ones.
    assert [name for name, _ in ledger.decide()] == ["old"]
    ledger.resumed("off")
    clock.now += 0.1
    ledger.report(0, running=2, waiting=0, kv_used=6_001)
    assert ledger.foreign(0) == (0, 0) and ledger.decide() == []
    assert ledger.generated("off") == 1 and ledger.finish("off")
    assert len(ledger.decide()) == 1


def test_who_is_sent_past_the_decision_passes_those_before_it_only():
    ledger, _ = make(ranks=1, slots=1, capacity=None)
    ledger.bind("runs", 100, 0)
    for i in range(6):
        ledger.enqueue(f"r{i}", 100)
    assert ledger.decide() == []
    # As by a bound on waiting, the oldest first.
    assert [ledger.place_waiting(f"r{i}") for i in range(3)] == [0, 0, 0]
    assert [ledger.passed(f"r{i}") for i in range(6)] == [0] * 6
    assert ledger.place_waiting("r5") == 0
    assert [ledger.passed(f"r{i}") for i in range(6)] == [0, 0, 0, 1, 1, 0]
    assert ledger.place("new", 100) == 0
    assert [ledger.passed(name) for name in ("r3", "r4", "new", "nobody")] == [2, 2, 0, 0]
    # Who was passed elsewhere says so.
    ledger.enqueue("comes", 100, passed=77)
    assert ledger.passed("comes") == 77 and ledger.router.metrics().most_passed_waiting == 77


def lived(ledger):
    """Tokens that the router has seen requests live through, as its state has them."""
    learned = ledger.router.learned()[8:]
    numbers = struct.unpack(f"<{len(learned) // 8}d", learned)
    of_lives = numbers[4 + int(numbers[3]) + 5 :]
    bins = len(of_lives) // 4
    return sum(of_lives[bins : 2 * bins])


def test_one_that_ran_before_shows_only_what_was_seen_of_it():
    ledger, _ = make(ranks=1, slots=8, capacity=None)
    ledger.bind("old", 100, 0, generated_tokens=500)
    ledger.bind("new", 100, 0)
    assert (ledger.generated("old"), ledger.tokens(0)) == (500, 700)
    assert ledger.router.metrics().ranks[0].unseen == 1
    for _ in range(10):
        ledger.step(0, ["old", "new"], [1, 1])
    assert ledger.finish("old") and ledger.finish("new")
    assert lived(ledger) == 20
    with pytest.raises(IndexError):
        ledger.bind("nowhere", 100, 5, generated_tokens=5)
    assert "nowhere" not in ledger


def test_the_highest_class_leaves_first_but_for_the_share_of_the_others():
    ledger = Ledger(1, 1, lower_class_one_in=3)
    for at in range(6):
        ledger.enqueue(f"low {at}", 10)
        ledger.enqueue(f"high {at}", 10, priority=4)
    order = []
    for _ in range(9):
        [(name, _)] = ledger.decide()
        order.append(name)
        assert ledger.finish(name)
    assert [name.startswith("low") for name in order] == [False, False, True] * 3
    # One that waited for a rank that is gone is of its class where it waits for another.
    two = Ledger(2, 1, policy="jsq")
    two.enqueue("first", 10, priority=3)
    two.enqueue("second", 10, priority=3)
    two.remove(1)
    assert two.router.metrics().waiting_by_priority == {3: 2}


def test_classes_beyond_what_a_router_takes_are_of_the_outermost():
    from balanceroute.engines import limits

    assert [limits.priority(of) for of in (-(1 << 40), -129, -5, 0, 127, 128)] == [
        -128,
        -128,
        -5,
        0,
        127,
        127,
    ]
