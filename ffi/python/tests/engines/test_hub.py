"""Several front ends of a host: the first decides for all while it is heard, and each for itself when not."""

import asyncio
import random
import socket

import pytest

from balanceroute.engines import hub
from balanceroute.engines.gate import Aborted, Gate, GateTimes
from balanceroute.engines.hub import Follower, Leader, join, ledger_of
from balanceroute.engines.ledger import Ledger
from balanceroute.engines.settings import Settings

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "SO_PEERCRED"), reason="sockets without a name in a folder"
)

RANKS, SLOTS = 2, 6


class Fronts:
    """Front ends of one server and the ranks, whose requests run until they are told to end."""

    def __init__(self, count=3, slots=SLOTS, capacity=100_000):
        self.key = f"test-{random.random()}"
        step = Settings("step")
        self.gates = [
            Gate(
                ledger_of(step, (i, count))(RANKS, slots, kv_capacity_tokens=capacity, share=(i, count)),
                GateTimes(window=0, stall=30),
            )
            for i in range(count)
        ]
        self.tasks = [None] * count
        self.ranks = [{} for _ in range(RANKS)]
        self.waits = {}
        self.beyond = 0

    def join(self, *which):
        for i in which or range(len(self.gates)):
            self.tasks[i] = join(self.gates[i], self.key)

    async def leave(self, *which):
        for i in which:
            self.tasks[i].cancel()
            await asyncio.gather(self.tasks[i], return_exceptions=True)

    def hold(self, front, name, tokens=100, session=None):
        async def run():
            rank = await self.gates[front].hold(name, tokens, session)
            self.ranks[rank][name] = front
            self.beyond = max(self.beyond, len(self.ranks[rank]) - SLOTS)
            self.gates[front].ledger.progress(name, 1)
            return rank

        self.waits[name] = asyncio.create_task(run())

    def step(self):
        """A token of each that runs."""
        for at, rank in enumerate(self.ranks):
            for front, gate in enumerate(self.gates):
                names = [name for name, whose in rank.items() if whose == front]
                gate.ledger.step(at, names, [1] * len(names))

    def end(self, count=1):
        for _ in range(count):
            for rank in self.ranks:
                if rank:
                    name = next(iter(rank))
                    front = rank.pop(name)
                    assert self.gates[front].ledger.finish(name)
                    self.gates[front].stir()

    async def settle(self):
        await asyncio.sleep(0.03)

    async def until(self, what):
        for _ in range(500):
            if what():
                return
            await asyncio.sleep(0.01)
        raise AssertionError("it does not come")

    @property
    def running(self):
        return sum(map(len, self.ranks))

    async def close(self):
        await self.leave(*[i for i, task in enumerate(self.tasks) if task is not None])
        for gate in self.gates:
            gate.close()
        await asyncio.gather(*self.waits.values(), return_exceptions=True)


def run(main):
    asyncio.run(asyncio.wait_for(main(), 30))


def test_who_leads_and_who_follows():
    step = Settings("step")
    assert ledger_of(step, (0, 1)) is Ledger and ledger_of(Settings("arrival"), (0, 4)) is Ledger
    assert ledger_of(Settings("step", hub=False), (1, 4)) is Ledger
    assert ledger_of(step, (0, 4)) is Leader and ledger_of(step, (3, 4)) is Follower


def test_the_first_decides_for_all():
    async def main():
        fronts = Fronts()
        fronts.join()
        await fronts.until(lambda: fronts.gates[0].ledger.followers == 2)
        assert fronts.gates[0].ledger.share == (0, 1)
        # All of it for one of them: its part would be a third.
        for i in range(20):
            fronts.hold(2, f"a{i}", 100 + i)
        await fronts.until(lambda: fronts.running == RANKS * SLOTS)
        await fronts.settle()
        assert (fronts.running, fronts.beyond, len(fronts.gates[2])) == (12, 0, 8)
        for i in range(20):
            fronts.hold(1, f"b{i}", 100 + i, session="s")
            fronts.hold(0, f"c{i}", 100 + i)
        done = 0
        while fronts.running or any(not wait.done() for wait in fronts.waits.values()):
            fronts.step()
            fronts.end()
            await fronts.settle()
            done += 1
            assert done < 60, [len(gate) for gate in fronts.gates]
        assert fronts.beyond == 0
        assert all(wait.result() in range(RANKS) for wait in fronts.waits.values())
        for gate in fronts.gates:
            ledger = gate.ledger
            assert len(ledger) == 0 and [ledger.tokens(rank) for rank in range(RANKS)] == [0, 0]
            assert ledger.router.running_len == ledger.router.waiting_len == 0
        await fronts.close()

    run(main)


def test_loads_of_all_are_level():
    async def main():
        fronts = Fronts(slots=60)
        fronts.join()
        await fronts.until(lambda: fronts.gates[0].ledger.followers == 2)
        rng = random.Random(3)
        prompts = [rng.randrange(100, 2_000) for _ in range(60)]
        for i, prompt in enumerate(prompts):
            fronts.hold(i % 3, f"r{i}", prompt)
        await fronts.until(lambda: fronts.running == 60)
        leader = fronts.gates[0].ledger
        await fronts.until(lambda: sum(map(leader.tokens, range(RANKS))) == sum(prompts) + 60)
        assert abs(leader.tokens(0) - leader.tokens(1)) < 500
        await fronts.close()

    run(main)


def test_a_report_waits_for_what_its_step_has_ended():
    """A rank's figures come by way of one front end, and that a request has ended by way of another, later."""

    async def main():
        fronts = Fronts(2, slots=2)
        fronts.join()
        leader, follower = (gate.ledger for gate in fronts.gates)
        await fronts.until(lambda: follower.follows)
        for i, tokens in enumerate((3_000, 1_000, 900, 1_100)):
            fronts.hold(0, f"r{i}", tokens)
        await fronts.until(lambda: fronts.running == 4)
        rank = next(rank for rank in range(RANKS) if "r0" in fronts.ranks[rank])
        before = leader.tokens(rank)
        follower.report(rank, running=1, waiting=0, kv_used=before - 3_001)
        await fronts.settle()
        leader.finish("r0")
        leader.decide()
        at = leader.router.rank_metrics(leader._ranks.workers[rank])
        assert (at.load_tokens, at.shared_tokens, at.foreign_tokens) == (before - 3_001, 0, 0)
        await fronts.close()

    run(main)


def test_an_abort_reaches_the_first():
    async def main():
        fronts = Fronts()
        fronts.join()
        await fronts.until(lambda: fronts.gates[0].ledger.followers == 2)
        for i in range(15):
            fronts.hold(1, f"r{i}")
        await fronts.until(lambda: fronts.running == 12)
        waiting = [name for name, wait in fronts.waits.items() if not wait.done()]
        assert fronts.gates[1].abort([*waiting, "runs"]) == ["runs"]
        await fronts.settle()
        for name in waiting:
            with pytest.raises(Aborted):
                await fronts.waits[name]
        fronts.end(2)
        await fronts.settle()
        leader = fronts.gates[0].ledger
        assert leader.router.waiting_len == 0 and leader.router.running_len == fronts.running == 8
        await fronts.close()

    run(main)


def test_without_the_first_each_decides_for_itself_and_later_again_it_for_all(monkeypatch):
    monkeypatch.setattr(hub, "_AGAIN", 0.02)

    async def main():
        fronts = Fronts()
        fronts.join(1, 2)
        for i in range(10):
            fronts.hold(1, f"early{i}")
        await fronts.settle()
        # Its part of each rank: two of six.
        assert fronts.running == 4
        fronts.join(0)
        await fronts.until(lambda: fronts.running == 10)
        await fronts.until(lambda: fronts.gates[0].ledger.router.running_len == 10)
        await fronts.leave(0)
        for i in range(10):
            fronts.hold(2, f"late{i}")
        await fronts.settle()
        assert fronts.gates[1].ledger.share == (1, 3) and not fronts.gates[1].ledger.follows
        fronts.end(5)
        await fronts.until(lambda: fronts.running == 4)
        # Nobody reports here: its part was taken by somebody who had been given more.
        fronts.beyond = 0
        # It comes again, and hears of all that runs and waits.
        fronts.join(0)
        await fronts.until(lambda: fronts.running == 10)
        leader = fronts.gates[0].ledger
        await fronts.until(lambda: leader.router.running_len == 10 and leader.router.waiting_len == 0)
        assert fronts.beyond == 0
        await fronts.close()

    run(main)


def test_a_first_that_is_silent_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(hub, "_SILENT", 0.1)
    monkeypatch.setattr(hub, "_AGAIN", 5)

    async def main():
        fronts = Fronts()
        fronts.join(0)
        await fronts.settle()
        # It hears, and decides nothing.
        fronts.gates[0].ledger._stir = lambda: None
        fronts.join(1)
        fronts.hold(1, "r")
        await fronts.until(lambda: fronts.waits["r"].done())
        await fronts.close()

    run(main)


def test_nonsense_ends_a_connection_and_nothing_else():
    async def main():
        fronts = Fronts()
        fronts.join()
        await fronts.until(lambda: fronts.gates[0].ledger.followers == 2)
        for nonsense in (
            b"no json\n",
            b'["what"]\n',
            b'["waits",1,"x",null,null]\n',
            b"[]\n",
            b"3\n",
            b"x" * (2 << 20),
        ):
            reader, writer = await asyncio.open_unix_connection(hub.address(fronts.key))
            writer.write(nonsense)
            try:
                await writer.drain()
                assert not (await asyncio.wait_for(reader.read(), 5)).replace(b'["beats",false]\n', b"")
            except ConnectionError:
                pass
            writer.close()
        await fronts.until(lambda: fronts.gates[0].ledger.followers == 2)
        fronts.hold(1, "r")
        await fronts.until(lambda: fronts.running == 1)
        await fronts.close()

    run(main)


def test_only_this_user_is_heard(monkeypatch):
    async def main():
        fronts = Fronts(2)
        monkeypatch.setattr(hub._Wire, "is_ours", lambda self: False)
        fronts.join()
        fronts.hold(1, "r")
        await fronts.until(lambda: fronts.running == 1)
        assert fronts.gates[0].ledger.followers == 0 and not fronts.gates[1].ledger.follows
        await fronts.close()

    run(main)
