"""The gate: nothing is sent twice, nothing is forgotten, nothing waits for ever."""

import asyncio

import pytest

from balanceroute.engines.gate import Aborted, Gate, GateTimes
from balanceroute.engines.ledger import Ledger


def make(ranks=2, slots=1, **times):
    return Gate(Ledger(ranks, slots, kv_capacity_tokens=100_000), GateTimes(**times))


async def settle(gate):
    await asyncio.sleep(gate.times.window + 0.01)


def test_waits_for_a_slot_and_gets_it():
    async def main():
        gate = make()
        holds = [asyncio.create_task(gate.hold(f"r{i}", 100)) for i in range(4)]
        await settle(gate)
        done = [i for i, h in enumerate(holds) if h.done()]
        assert len(done) == 2 and len(gate) == 2
        assert {holds[i].result() for i in done} == {0, 1}
        gate.ledger.finish(f"r{done[0]}")
        gate.stir()
        await settle(gate)
        assert sum(h.done() for h in holds) == 3 and len(gate) == 1
        gate.close()
        await asyncio.gather(*holds, return_exceptions=True)
        assert len(gate) == 0

    asyncio.run(main())


def test_a_burst_is_decided_together():
    async def main():
        gate = make(slots=8)
        steps = 0
        decide = gate.ledger.decide

        def counted():
            nonlocal steps
            steps += 1
            return decide()

        gate.ledger.decide = counted
        await asyncio.gather(*(gate.hold(f"r{i}", 10 * i + 10) for i in range(16)))
        assert steps == 1
        assert abs(gate.ledger.tokens(0) - gate.ledger.tokens(1)) <= 160

    asyncio.run(main())


def test_abort_while_held_and_between_decision_and_sending():
    async def main():
        gate = make(ranks=1)
        first = asyncio.create_task(gate.hold("first", 10))
        held = asyncio.create_task(gate.hold("held", 10))
        await settle(gate)
        assert first.done() and not held.done()
        assert gate.abort(["held", "first", "stranger"]) == ["first", "stranger"]
        with pytest.raises(Aborted):
            await held
        # Decided, but its coroutine has not run: still ours to stop.
        late = asyncio.create_task(gate.hold("late", 10))
        await asyncio.sleep(0)
        gate.ledger.finish("first")
        gate._decide()
        assert gate.holds("late") and len(gate) == 0
        assert gate.abort(["late"]) == []
        with pytest.raises(Aborted):
            await late
        assert len(gate.ledger) == 0 and gate.ledger.tokens(0) == 0

    asyncio.run(main())


def test_a_cancelled_wait_leaves_nothing():
    async def main():
        gate = make(ranks=1)
        await gate.hold("first", 10)
        waits = asyncio.create_task(gate.hold("waits", 10))
        await settle(gate)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        assert "waits" not in gate.ledger and not gate.holds("waits")
        # Cancelled in the very turn in which it is decided.
        second = asyncio.create_task(gate.hold("second", 10))
        await asyncio.sleep(0)
        gate.ledger.finish("first")
        gate._decide()
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert len(gate.ledger) == 0 and gate.ledger.tokens(0) == 0
        assert await gate.hold("third", 10) == 0

    asyncio.run(main())


def test_silence_sends_what_waits():
    async def main():
        gate = make(ranks=2, stall=0.15, max_hold=60)
        loop = asyncio.get_running_loop()
        await asyncio.gather(gate.hold("a", 100), gate.hold("b", 50))
        start = loop.time()
        ranks = await asyncio.gather(*(gate.hold(f"r{i}", 10) for i in range(10)))
        took = loop.time() - start
        assert 0.14 <= took <= 0.6, took
        assert 1 <= gate.stalls <= 3
        # To the least loaded ranks, and counted there.
        loads = [gate.ledger.tokens(r) for r in range(2)]
        assert len(ranks) == 10 and abs(loads[0] - loads[1]) <= 50, loads

    asyncio.run(main())


def test_news_keeps_requests_waiting_but_not_beyond_the_bound():
    async def main():
        gate = make(ranks=1, stall=0.1, max_hold=0.5)
        loop = asyncio.get_running_loop()
        await gate.hold("a", 10)
        start = loop.time()
        waits = asyncio.create_task(gate.hold("b", 10))
        while not waits.done() and loop.time() - start < 3:
            gate.news()
            gate.stir()
            await asyncio.sleep(0.02)
        took = loop.time() - start
        assert await waits == 0
        assert 0.45 <= took <= 1.0, took

    asyncio.run(main())


def test_full_ranks_with_news_are_no_stall():
    async def main():
        gate = make(ranks=1, stall=0.1)
        assert gate.times.max_hold is None
        loop = asyncio.get_running_loop()
        await gate.hold("a", 10)
        waits = asyncio.create_task(gate.hold("b", 10))
        start = loop.time()
        while loop.time() - start < 0.8:
            gate.news()
            gate.stir()
            await asyncio.sleep(0.02)
        assert not waits.done() and gate.stalls == 0
        gate.ledger.finish("a")
        gate.stir()
        assert await waits == 0

    asyncio.run(main())


def test_a_router_that_fails_holds_nobody():
    async def main():
        gate = make(ranks=2, slots=4)

        def fail():
            raise RuntimeError("no decision")

        gate.ledger.decide = fail
        ranks = await asyncio.wait_for(asyncio.gather(*(gate.hold(f"r{i}", 10) for i in range(4))), 2)
        assert sorted(ranks) == [0, 0, 1, 1]

    asyncio.run(main())


def test_what_is_refused_is_told_and_leaves_nothing():
    async def main():
        gate = make()
        await gate.hold("a", 10)
        with pytest.raises(ValueError, match="already known"):
            await gate.hold("a", 10)
        assert len(gate.ledger) == 1 and len(gate) == 0
        # Any length is taken.
        assert await asyncio.wait_for(gate.hold("b", 0), 1) in (0, 1)

    asyncio.run(main())


def test_a_name_that_is_used_again_at_once_is_another_wait():
    async def main():
        gate = make(1, 1, window=0)
        await gate.hold("runs", 10)
        first = asyncio.create_task(gate.hold("a", 10))
        await asyncio.sleep(0.01)

        async def again():
            assert gate.abort(["a"]) == []
            return await gate.hold("a", 10)

        second = asyncio.create_task(again())
        await asyncio.sleep(0.01)
        with pytest.raises(Aborted):
            await first
        assert "a" in gate.ledger and len(gate) == 1
        gate.ledger.finish("runs")
        gate.stir()
        assert await asyncio.wait_for(second, 1) == 0
        gate.close()

    asyncio.run(main())


@pytest.mark.parametrize("how", ["decided", "released"])
def test_one_that_is_cancelled_and_sent_in_the_same_turn_leaves_nothing_behind(how):
    async def main():
        ledger = Ledger(1, 2)
        gate = Gate(ledger, GateTimes(window=30, stall=30))
        task = asyncio.create_task(gate.hold("r", 100))
        await asyncio.sleep(0)
        task.cancel()
        # Its coroutine has not run yet.
        if how == "decided":
            gate._decide()
        else:
            gate.release_all()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(ledger) == len(gate) == gate.leaving == ledger.router.running_len == 0
        gate.close()

    asyncio.run(main())
