"""Several front ends of a host: the first decides for all while it is heard, and each for itself when not."""

import asyncio
import json
import random
import socket
import sys
import time

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

    def __init__(self, count=3, slots=SLOTS, capacity=100_000, **more):
        self.key = f"test-{random.random()}"
        step = Settings("step")
        self.gates = [
            Gate(
                ledger_of(step, (i, count))(
                    RANKS, slots, kv_capacity_tokens=capacity, share=(i, count), **more
                ),
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

    async def all_join(self):
        self.join()
        await self.until(lambda: self.gates[0].ledger.followers == len(self.gates) - 1)

    def failures(self, front):
        """What its router fails with, from now on."""
        failed = []
        self.gates[front].failed = lambda: failed.append(sys.exc_info()[1])
        return failed

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
        await fronts.all_join()
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
        await fronts.all_join()
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
    """A rank's figures come by one front end, and that a request has ended by another, later."""

    async def main():
        fronts = Fronts(2, slots=2)
        await fronts.all_join()
        leader, follower = (gate.ledger for gate in fronts.gates)
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
        await fronts.all_join()
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
        await fronts.all_join()
        for nonsense in (
            b"no json\n",
            b'["what"]\n',
            b'["waits",1,"x",null,null]\n',
            b'["waits",1,1,100,null,null,null]\n',
            b'["waits",1,1,100,null,null,null,-1,0]\n',
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


class First:
    """A first front end that says what it is told to."""

    def __init__(self, key):
        self.key = key
        self.heard = []
        self.writer = None

    async def __aenter__(self):
        self.server = await asyncio.start_unix_server(self.serve, hub.address(self.key))
        return self

    async def __aexit__(self, *error):
        self.server.close()
        if self.writer is not None:
            self.writer.transport.abort()

    async def serve(self, reader, writer):
        self.writer = writer
        self.say("beats", False)
        try:
            while line := await reader.readline():
                self.heard.append(json.loads(line))
        except ConnectionError:
            pass

    def say(self, *message):
        self.writer.write(json.dumps(message).encode() + b"\n")

    def heard_of(self, what):
        return [told for said, *told in self.heard if said == what]

    async def hears_of_five(self, fronts):
        """The second front end follows, and five requests of it wait."""
        fronts.join(1)
        await fronts.until(lambda: fronts.gates[1].ledger.follows)
        for i in range(5):
            fronts.hold(1, f"r{i}")
        await fronts.until(lambda: len(self.heard_of("waits")) == 5)

    def lets_all_enter(self):
        for told in self.heard_of("waits"):
            self.say("enters", *told[:2], 0)


def test_what_is_read_after_parting_is_nothing(monkeypatch):
    monkeypatch.setattr(hub, "_SILENT", 0.1)
    monkeypatch.setattr(hub, "_AGAIN", 5)

    async def main():
        fronts = Fronts(2)
        gate, failed = fronts.gates[1], fronts.failures(1)
        async with First(fronts.key) as first:
            await first.hears_of_five(fronts)
            first.lets_all_enter()
            # The loop hangs, then it sees both at once: what was said, and that it is late.
            asyncio.get_running_loop().call_soon(time.sleep, 0.2)
            await fronts.until(lambda: fronts.running == 5 or failed)
            assert not failed and not gate.ledger.follows
        await fronts.close()

    run(main)


@pytest.mark.parametrize("when", ["before", "while"])
def test_one_that_parts_decides_what_it_has_not_sent(monkeypatch, when):
    monkeypatch.setattr(hub, "_AGAIN", 5)

    async def main():
        fronts = Fronts(2)
        gate, failed = fronts.gates[1], fronts.failures(1)
        async with First(fronts.key) as first:
            await first.hears_of_five(fronts)
            gate.times = GateTimes(window=0.2, stall=30)
            first.lets_all_enter()
            await fronts.until(lambda: len(gate.ledger._entering) == 5)
            if when == "before":
                first.writer.transport.abort()
            else:
                # It learns of it by the first word that it says.
                gate.ledger._wire.say = lambda *message: False
            await fronts.until(lambda: fronts.running == 5 or failed)
            assert not failed and not gate.ledger.follows
        await fronts.close()

    run(main)


def test_a_first_that_hangs_is_not_followed():
    async def main():
        fronts = Fronts(2)
        # Connections succeed, and nobody is there.
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(hub.address(fronts.key))
            end.listen()
            fronts.join(1)
            await fronts.settle()
            fronts.hold(1, "r")
            await fronts.settle()
            assert fronts.running == 1 and not fronts.gates[1].ledger.follows
            await fronts.close()

    run(main)


def test_one_that_hangs_keeps_no_slots(monkeypatch):
    monkeypatch.setattr(hub, "_AGAIN", 0.02)
    monkeypatch.setattr(hub, "_SILENT", 0.1)

    async def main():
        fronts = Fronts(3)
        fronts.join(0, 1)
        leader = fronts.gates[0].ledger
        await fronts.until(lambda: leader.followers == 1)
        _, writer = await asyncio.open_unix_connection(hub.address(fronts.key))
        writer.write(b'["follows"]\n')
        for i in range(2 * SLOTS):
            writer.write(json.dumps(["waits", i, i, 100, None, None, None, 0, 0]).encode() + b"\n")
        await fronts.until(lambda: leader.router.running_len == 2 * SLOTS)
        # One that has nothing to tell is heard all the same.
        await fronts.until(lambda: leader.router.running_len == 0 and leader.followers == 1)
        await asyncio.sleep(0.3)
        assert leader.followers == 1 and fronts.gates[1].ledger.follows
        fronts.hold(1, "r")
        await fronts.until(lambda: fronts.running == 1)
        writer.close()
        await fronts.close()

    run(main)


def test_a_part_is_kept_until_all_is_told():
    async def main():
        fronts = Fronts(2)
        fronts.join(0)
        await fronts.settle()
        _, writer = await asyncio.open_unix_connection(hub.address(fronts.key))
        await fronts.settle()
        leader = fronts.gates[0].ledger
        assert (leader.share, leader.followers) == ((0, 2), 0)
        writer.write(b'["follows"]\n')
        await fronts.until(lambda: leader.share == (0, 1))
        writer.close()
        await fronts.until(lambda: leader.share == (0, 2))
        await fronts.close()

    run(main)


def test_one_with_much_to_tell_follows():
    async def main():
        fronts = Fronts(2)
        follower = fronts.gates[1].ledger
        for i in range(30_000):
            follower.enqueue(f"r{i}", 100, "a session of some customer " + str(i))
        await fronts.all_join()
        leader = fronts.gates[0].ledger
        await fronts.until(lambda: leader.router.waiting_len + leader.router.running_len == 30_000)
        assert follower.follows
        await fronts.close()

    run(main)


@pytest.mark.parametrize(
    "nonsense",
    [
        ["waits", 1, 1, 100, ["list"], None, None, 0, 0],
        ["waits", 1, 1, 100, None, None, [-1], 0, 0],
        ["waits", 1, 1, 100, None, None, None, 1 << 40, 0],
        ["waits", 1, 1, 100, None, None, None, 0, 128],
        ["runs", 1, 100, -1, 5, None],
        ["runs", 1, 100, 0, 5, {}],
        ["report", 0, {"what": 1}],
        ["report", 0, -1, 0, 0],
        ["step", 0, None, None],
    ],
)
def test_nonsense_does_not_reach_the_router(nonsense):
    async def main():
        fronts = Fronts(2)
        gate, failed = fronts.gates[0], fronts.failures(0)
        await fronts.all_join()
        _, writer = await asyncio.open_unix_connection(hub.address(fronts.key))
        writer.write(json.dumps(nonsense).encode() + b"\n")
        await fronts.settle()
        fronts.hold(1, "r")
        await fronts.until(lambda: fronts.running == 1 or failed)
        assert not failed and gate.ledger.followers == 1
        writer.close()
        await fronts.close()

    run(main)


def test_a_session_of_any_length_is_told():
    async def main():
        fronts = Fronts(2)
        await fronts.all_join()
        fronts.hold(1, "r", session="s" * 3_000_000)
        await fronts.until(lambda: fronts.running == 1)
        await fronts.settle()
        leader = fronts.gates[0].ledger
        assert leader.followers == 1 and leader.router.running_len == 1
        await fronts.close()

    run(main)


def test_a_rank_that_only_the_first_knows_is_not_waited_for():
    """Each front end hears by itself that ranks have joined or left, and no two at once."""

    async def main():
        fronts = Fronts(2)
        await fronts.all_join()
        leader, follower = (gate.ledger for gate in fronts.gates)
        leader.resize(4)
        for i in range(2 * SLOTS):
            fronts.hold(1, f"r{i}")
        await fronts.until(lambda: fronts.running == 2 * SLOTS)
        assert fronts.beyond == 0
        fronts.end(SLOTS)
        await fronts.until(lambda: len(leader) == 0)
        await fronts.close()

    run(main)


def test_what_was_decided_for_one_that_left_is_nothing_to_the_next():
    async def main():
        fronts = Fronts(2)
        gate = fronts.gates[1]
        async with First(fronts.key) as first:
            fronts.join(1)
            await fronts.until(lambda: gate.ledger.follows)
            fronts.hold(1, "first")
            await fronts.until(lambda: first.heard_of("waits"))
            old = first.heard_of("waits")[0]
            gate.abort(["first"])
            fronts.hold(1, "second", 90_000)
            await fronts.until(lambda: len(first.heard_of("waits")) == 2)
            new = first.heard_of("waits")[1]
            assert new[0] == old[0] and [told for told in first.heard if told[0] == "left"]
            first.say("enters", *old[:2], 0)
            await fronts.settle()
            assert fronts.running == 0
            first.say("enters", *new[:2], 1)
            await fronts.until(lambda: "second" in fronts.ranks[1])
            # Each is told once.
            said = [told[0] for told in first.heard if told[0] != "beats"]
            assert said == ["follows", "waits", "left", "waits", "runs", "step"]
        await fronts.close()

    run(main)


def test_one_that_finds_its_address_taken_leads_later(monkeypatch):
    monkeypatch.setattr(hub, "_AGAIN", 0.02)

    async def main():
        fronts = Fronts(2)
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(hub.address(fronts.key))
            fronts.join()
            await fronts.settle()
            assert fronts.gates[0].ledger.followers == 0
        await fronts.until(lambda: fronts.gates[0].ledger.followers == 1)
        await fronts.close()

    run(main)


def test_a_rank_that_has_left_is_no_place_for_anybody():
    async def main():
        fronts = Fronts(2)
        follower = fronts.gates[1].ledger
        follower.enqueue("r", 100, eligible=[0, 1])
        follower.resize(1)
        fronts.join()
        await fronts.until(lambda: fronts.gates[0].ledger.router.running_len == 1)
        await fronts.close()

    run(main)


def test_the_first_takes_turns_for_those_that_it_decides_for():
    """Of three front ends one does not follow: what that one leaves free is looked for with time."""

    async def main():
        fronts = Fronts(3)
        fronts.join(0, 1)
        gate = fronts.gates[0]
        await fronts.until(lambda: gate.ledger.followers == 1)
        for i in range(12):
            fronts.hold(1, f"r{i}")
        await fronts.until(lambda: fronts.running == 6)
        await fronts.until(lambda: gate._turn_at is not None)
        await fronts.close()

    run(main)


def test_a_step_like_the_one_before_is_told_in_short():
    async def main():
        fronts = Fronts(2)
        async with First(fronts.key) as first:
            fronts.join(1)
            follower = fronts.gates[1].ledger
            await fronts.until(lambda: follower.follows)
            for name in "ab":
                follower.bind(name, 100, 0)
            for tokens in ([1, 1], [1, 1], [1, 2]):
                follower.step(0, ["a", "b"], tokens)
            follower.finish("a")
            follower.bind("c", 100, 0)
            follower.step(0, ["c", "b"], [1, 1])
            await fronts.until(lambda: len(first.heard_of("step")) == 4)
            assert first.heard_of("step") == [
                [0, [0, 1], None],
                [0, None, None],
                [0, None, [1, 2]],
                [0, [0, 1], None],
            ]
        await fronts.close()

    run(main)


def test_who_came_first_is_first_whichever_front_end_it_has():
    async def main():
        fronts = Fronts(3, max_passed=0)
        await fronts.all_join()
        for i in range(RANKS * SLOTS):
            fronts.hold(i % 3, f"runs{i}", 1_000)
        await fronts.until(lambda: fronts.running == RANKS * SLOTS)
        rng, order = random.Random(3), []
        for i in range(30):
            fronts.hold(i % 3, f"r{i}", rng.randrange(10, 5_000))
            await fronts.until(lambda: fronts.gates[0].ledger.router.waiting_len == i + 1)
        while len(order) < 30:
            fronts.end()
            await fronts.until(lambda: fronts.running == RANKS * SLOTS or not any(map(len, fronts.gates)))
            there = [name for rank in fronts.ranks for name in rank if name[1:].isdigit()]
            order += sorted(set(there) - set(order), key=lambda name: int(name[1:]))
        assert order == [f"r{i}" for i in range(30)]
        await fronts.close()

    run(main)


def test_counts_of_who_was_passed_are_brought_along(monkeypatch):
    monkeypatch.setattr(hub, "_AGAIN", 0.02)

    async def main():
        fronts = Fronts(2, slots=1)
        follower = fronts.gates[1].ledger
        for i in range(RANKS):
            fronts.gates[0].ledger.bind(f"runs{i}", 100, i)
            follower.bind(f"also{i}", 100, i)
        for name in ("first", "second"):
            fronts.hold(1, name)
        await fronts.settle()
        # It names its rank, and does not wait.
        for i in range(7):
            follower.place(f"past{i}", 10)
            follower.finish(f"past{i}")
        assert [follower.passed(name) for name in ("first", "second")] == [7, 7]
        await fronts.all_join()
        leader = fronts.gates[0].ledger
        await fronts.until(lambda: leader.router.waiting_len == 2)
        assert leader.router.metrics().most_passed_waiting == 7
        # What the first does not know, the second goes on with in its own order.
        await fronts.leave(0)
        await fronts.until(lambda: not follower.follows)
        assert follower.router.waiting_len == 2 and follower.passed("first") == 0
        assert [name for name, _ in follower.router.waiting()] == [
            follower._by_name[name] for name in ("first", "second")
        ]
        await fronts.close()

    run(main)


def test_one_that_waits_no_longer_leaves_the_pool_from_its_place():
    """A front end sends what the first has not decided, as after a stall."""

    async def main():
        fronts = Fronts(2, slots=1)
        await fronts.all_join()
        leader, follower = (gate.ledger for gate in fronts.gates)
        for i in range(RANKS):
            fronts.hold(0, f"runs{i}")
        await fronts.until(lambda: fronts.running == RANKS)
        for i in range(4):
            fronts.hold(i % 2, f"r{i}")
            await fronts.until(lambda: leader.router.waiting_len == i + 1)
        fronts.gates[1].release_all()
        await fronts.until(lambda: leader.router.waiting_len == 2 and leader.router.running_len == 4)
        # "r1" and "r3" have gone: "r0" came before both, "r2" before the last.
        assert [leader.passed(name) for name in ("r0", "r2")] == [2, 1]
        assert sum(follower.tokens(rank) for rank in range(RANKS)) == 202
        await fronts.close()

    run(main)


def test_the_first_learns_from_the_ends_of_all():
    async def main():
        fronts = Fronts(3, slots=SLOTS)
        await fronts.all_join()
        leader = fronts.gates[0].ledger

        def room():
            return [rank.kv_growth_tokens for rank in leader.router.metrics().ranks]

        for turn in range(4):
            for i in range(RANKS * SLOTS):
                fronts.hold(1 + i % 2, f"r{turn} {i}", 500)
            await fronts.until(lambda: fronts.running == RANKS * SLOTS)
            if not turn:
                assert room() == [6_000] * RANKS
            for _ in range(5):
                fronts.step()
                if turn < 3:
                    fronts.end()
                await fronts.settle()
            if turn < 3:
                fronts.end(SLOTS)
            await fronts.until(lambda: leader.router.running_len == fronts.running)
        assert all(0 < tokens < 6_000 for tokens in room())
        await fronts.close()

    run(main)
