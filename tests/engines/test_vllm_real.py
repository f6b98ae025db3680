"""The plugin inside vLLM's real client, with its real coordinator process and statistics, over engines that
decode numbers.

`tests/engines/run vllm` makes the environment and runs this; `-s` prints the figures.
"""

import asyncio
import time
from collections import Counter

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: tests/engines/run vllm")

import vllm.v1.engine.core_client as core_client
from vllm.plugins import load_plugins_by_group
from vllm.v1.engine.exceptions import EngineDeadError
from vllm_cluster import BLOCKS_IN_EVERY_FRONT_END, KV_IN_ROWS, Setup, request, workload

from balanceroute.engines import vllm as plugin

CLIENT = core_client.DPLBAsyncMPClient

# Somebody else's load is known by its KV usage only, and nothing of ours runs there that would tell it.
needs_kv_in_rows = pytest.mark.skipif(
    not KV_IN_ROWS, reason="coordinator rows of this version have no KV usage"
)


@pytest.fixture
def mode(monkeypatch):
    def choose(mode, **more):
        monkeypatch.setenv("BALANCEROUTE_MODE", mode)
        for name, value in more.items():
            monkeypatch.setenv(f"BALANCEROUTE_{name.upper()}", str(value))
        # As vLLM does: by the entry point of the installed package.
        load_plugins_by_group("vllm.general_plugins")["balanceroute"]()

    yield choose
    plugin.unregister()


def say(*words):
    print("\n   ", *words, end="")


async def feed(setup, work, in_flight, client=lambda number: 0):
    """Keeps `in_flight` requests in the system, held ones included. Seconds that it took."""
    start, slots, adds = time.monotonic(), asyncio.Semaphore(in_flight), []

    async def one(name, prompt, tokens, number):
        await setup.add(name, prompt, tokens, client=client(number))
        await setup.end(name)
        slots.release()

    for number, what in enumerate(work):
        await slots.acquire()
        adds.append(asyncio.create_task(one(*what, number)))
    await asyncio.wait_for(asyncio.gather(*adds), 120)
    return time.monotonic() - start


def complete(setup, work):
    """Every request ran once, wholly, where the client's books said; and the books are closed."""
    for name, _, tokens in work:
        assert (setup.ended.get(name), setup.tokens.get(name)) == ("length", tokens), name
    received = [name for engine in setup.cluster.engines for name in engine.received]
    assert sorted(received) == sorted(name for name, _, _ in work)
    for client in setup.clients:
        # Versions before 0.33 do not count by engine.
        assert not client.reqs_in_flight and not any(getattr(client, "engine_inflight", {}).values())
        state = plugin.state_of(client)
        if state is None:
            continue
        assert len(state.ledger) == 0 and len(state.gate) == 0
        assert [state.ledger.tokens(rank) for rank in range(state.ledger.ranks)] == [0] * state.ledger.ranks


def test_off_is_vllm_byte_for_byte(mode):
    before = dict(vars(CLIENT))

    async def run(patched):
        async with Setup() as setup:
            work = workload(40, 7)
            for name, prompt, tokens in work:
                await setup.add(name, prompt, tokens)
            await setup.ended_all([name for name, _, _ in work], 20)
            assert plugin.state_of(setup.client) is None
            return [engine.wire for engine in setup.cluster.engines]

    stock = asyncio.run(run(False))
    mode("off")
    assert dict(vars(CLIENT)) == before
    # Load statistics arrive when they do; the first requests are decided before any differs.
    assert [wire[0] for wire in asyncio.run(run(True))] == [wire[0] for wire in stock]


@pytest.mark.parametrize("name", ["arrival", "step"])
def test_engines_receive_the_bytes_they_always_received(mode, name):
    async def run():
        async with Setup() as setup:
            work = workload(40, 7)
            await asyncio.gather(*(setup.add(*one) for one in work))
            await setup.ended_all([one[0] for one in work], 20)
            return {bytes(wire) for engine in setup.cluster.engines for wire in engine.wire}

    stock = asyncio.run(run())
    mode(name)
    assert asyncio.run(run()) == stock


@needs_kv_in_rows
@pytest.mark.parametrize("name", ["arrival", "step"])
def test_40_requests_over_skewed_reports(mode, name):
    """The skewed loads that the rule of vLLM 0.33 answers with 0 / 17 / 23 / 0."""

    async def main():
        async with Setup(slots=200, capacity=100_000, step_s=0.2) as setup:
            extras = [(50, 20, 99_000), (10, 0, 30_000), (3, 0, 20_000), (90, 0, 80_000)]
            for engine, extra in zip(setup.cluster.engines, extras):
                engine.extra = extra
            await asyncio.sleep(0.8)
            work = [(f"r{j}", 100 * (1 + j % 5), 8) for j in range(40)]
            for one in work:
                await setup.add(*one)
            await asyncio.sleep(0.3)
            received = setup.received()
            engines = setup.cluster.engines
            tokens = [sum(100 * (1 + int(n[1:]) % 5) for n in engine.received) for engine in engines]
            held = [own + extra[2] for own, extra in zip(tokens, extras)]
            say(f"{name}: 40 requests as {received}, KV tokens {held}")
            # 12,000 tokens raise the emptiest rank to the next one, and both from there.
            assert tokens[0] == tokens[3] == 0
            assert abs((tokens[1] + 30_000) - (tokens[2] + 20_000)) <= 1000
            await setup.ended_all([one[0] for one in work], 20)
            complete(setup, work)

    mode(name)
    asyncio.run(main())


# Requests in the system per slot, and what somebody else runs on rank 0.
LOADS = {"queues": (1.5, (0, 0, 0)), "slots to spare": (0.8, (0, 0, 0)), "skewed": (1.2, (20, 0, 25_000))}


@pytest.mark.parametrize("load", LOADS)
def test_4000_requests(mode, load):
    work = workload(4000, 11)

    async def run():
        async with Setup(ranks=4, slots=64, capacity=120_000, step_s=0.01) as setup:
            fill, setup.cluster.engines[0].extra = LOADS[load]
            took = await feed(setup, work, int(4 * 64 * fill))
            complete(setup, work)
            preempted = sum(engine.preempted for engine in setup.cluster.engines)
            return setup.cluster.imbalance(), took, setup.received(), preempted

    results = {}
    for name in ("off", "arrival", "step"):
        plugin.unregister()
        mode(name)
        results[name] = asyncio.run(run())
        imbalance, took, received, preempted = results[name]
        say(
            f"{load}, {name}: fullest rank {imbalance:.1%} above the mean, {took:.1f} s, {received},"
            f" {preempted} preempted"
        )
    # What somebody else runs leaves fewer slots to level with.
    at_most = 0.06 if load == "skewed" else 0.05
    assert results["step"][0] <= min(at_most, 0.5 * results["off"][0])
    if load == "slots to spare":
        assert results["arrival"][0] < 0.8 * results["off"][0]


def test_three_front_ends(mode):
    """They see each other by the coordinator's statistics and a third of the engines' only. Each admits to
    its own third of every rank."""
    work = workload(3000, 13)

    async def run(name):
        async with Setup(ranks=4, slots=64, capacity=120_000, step_s=0.015, clients=3) as setup:
            # No front end has more than its part of the traffic for long.
            took = await feed(setup, work, int(4 * 64 * 1.5), client=lambda number: number % 3)
            complete(setup, work)
            say(
                f"three front ends, {name}: fullest rank {setup.cluster.imbalance():.1%} above the mean,"
                f" {took:.1f} s, {setup.received()}"
            )
            return setup.cluster.imbalance()

    stock = asyncio.run(run("off"))
    mode("step")
    # Without a capacity what the others have is known by its count only.
    at_most = 0.05 if BLOCKS_IN_EVERY_FRONT_END else 0.06
    assert asyncio.run(run("step")) <= min(at_most, 0.7 * stock)


def test_aborts_of_held_and_running_requests(mode):
    mode("step")

    async def main():
        async with Setup(slots=4) as setup:
            work = [(f"r{i}", 100, 400) for i in range(60)]
            adds = {one[0]: asyncio.create_task(setup.add(*one)) for one in work}
            await asyncio.sleep(0.2)
            running = set(setup.client.reqs_in_flight)
            held = [name for name in adds if name not in running]
            assert len(running) == 16 and len(held) == 44
            # One by one, in a batch with running ones, by disconnecting, and one that nobody knows.
            await setup.client.abort_requests_async([held[0]])
            await setup.client.abort_requests_async(held[1:20] + sorted(running)[:8] + ["stranger"])
            for name in held[20:30]:
                adds[name].cancel()
            gone = set(held[:30]) | set(sorted(running)[:8])
            await asyncio.gather(*adds.values(), return_exceptions=True)
            await setup.ended_all([name for name in adds if name not in gone], 40)
            received = {name for engine in setup.cluster.engines for name in engine.received}
            assert received == set(adds) - set(held[:30])
            # vLLM would remember a cancelled one for ever, were it not told.
            assert {n for n, why in setup.ended.items() if why == "abort"} == set(held[20:30])
            for _ in range(100):
                if not setup.client.reqs_in_flight:
                    break
                await asyncio.sleep(0.02)
            assert not setup.client.reqs_in_flight and len(plugin.state_of(setup.client).ledger) == 0

    asyncio.run(main())


async def fill_and_hold(setup):
    """16 requests in all slots and 30 that wait, by the tasks that add them."""
    adds = {f"r{i}": asyncio.create_task(setup.add(f"r{i}", 100, 300)) for i in range(46)}
    state = None
    while state is None or len(state.gate) != 30:
        await asyncio.sleep(0.01)
        state = plugin.state_of(setup.client)
    return adds


def test_what_engines_refuse_when_they_drain_is_an_error(mode):
    mode("step")

    async def main():
        async with Setup(slots=4) as setup:
            adds = await fill_and_hold(setup)
            setup.cluster.drains = True
            await asyncio.wait_for(asyncio.gather(*adds.values()), 20)
            await setup.ended_all(list(adds), 20)
            # What had been sent is served, and no answer is an empty one.
            assert Counter(setup.ended.values()) == {"length": 16, "error": 30}
            assert setup.received() == [4, 4, 4, 4]

    asyncio.run(main())


def test_what_is_held_is_sent_before_the_client_shuts_down(mode):
    """vLLM shuts down from a thread, while the loop serves on."""
    mode("step")

    async def main():
        async with Setup(slots=4) as setup:
            adds = await fill_and_hold(setup)
            # Without vLLM's own part, which would end the sockets to engines that are not its own.
            shutdown = plugin._patch_shutdown(lambda client: None, None)
            await asyncio.get_running_loop().run_in_executor(None, shutdown, setup.client)
            assert all(add.done() for add in adds.values())
            await setup.ended_all(list(adds), 20)
            assert set(setup.ended.values()) == {"length"} and sum(setup.received()) == 46

    asyncio.run(main())


def test_what_is_held_when_an_engine_dies_fails_at_once(mode):
    mode("step", stall_ms=60_000)

    async def main():
        async with Setup(slots=4) as setup:
            adds = await fill_and_hold(setup)
            setup.cluster.dies = True
            results = await asyncio.wait_for(asyncio.gather(*adds.values(), return_exceptions=True), 2)
            assert sum(isinstance(result, EngineDeadError) for result in results) == 30
            with pytest.raises(EngineDeadError):
                await asyncio.wait_for(setup.add("late", 100, 3), 2)

    asyncio.run(main())


@pytest.mark.parametrize("name", ["off", "arrival", "step"])
def test_a_burst_while_the_coordinator_is_silent_for_5_s(mode, name):
    mode(name)

    async def main():
        async with Setup(ranks=4, slots=128, capacity=200_000, step_s=0.02) as setup:
            warm = [(f"w{i}", 200, 5) for i in range(8)]
            for one in warm:
                await setup.add(*one)
            await setup.ended_all([one[0] for one in warm], 10)
            setup.silence_coordinator()
            start = time.monotonic()
            work = workload(400, 3, prompt=(50, 2000), tokens=(100, 200))
            adds = [asyncio.create_task(setup.add(*one)) for one in work]
            await asyncio.gather(*adds)
            held = time.monotonic() - start
            await asyncio.sleep(1)
            kv = [engine.kv + sum(r.kv for r in engine.queue) for engine in setup.cluster.engines]
            excess = max(kv) * len(kv) / sum(kv) - 1
            say(
                f"{name}: burst of 400, sent within {held:.2f} s, KV {kv},"
                f" fullest rank {excess:.1%} above the mean"
            )
            if name != "off":
                assert excess <= 0.1, kv
            await asyncio.sleep(max(0, 5 - (time.monotonic() - start)))
            setup.resume_coordinator()
            late = [(f"late{i}", 100, 5) for i in range(40)]
            await asyncio.gather(*(setup.add(*one) for one in late))
            await setup.ended_all([one[0] for one in work + late], 60)
            complete(setup, warm + work + late)

    asyncio.run(main())


def test_engines_without_statistics(mode):
    mode("step")

    async def main():
        async with Setup(slots=64, capacity=120_000, step_s=0.01) as setup:
            setup.cluster.statistics = False
            work = workload(2000, 5)
            await feed(setup, work, 384)
            complete(setup, work)
            state = plugin.state_of(setup.client)
            say(
                f"no statistics: fullest rank {setup.cluster.imbalance():.1%} above the mean,"
                f" {state.gate.stalls} stalls"
            )
            assert state.gate.stalls == 0
            assert setup.cluster.imbalance() < 0.08

    asyncio.run(main())


def test_nothing_is_held_beyond_the_bound_when_everything_is_silent(mode):
    mode("step", stall_ms=500)

    async def main():
        async with Setup(slots=4) as setup:
            first = [(f"f{i}", 100, 2000) for i in range(16)]
            await asyncio.gather(*(setup.add(*one) for one in first))
            setup.cluster.paused = True
            await asyncio.sleep(0.1)
            start = time.monotonic()
            work = [(f"r{i}", 100, 10) for i in range(40)]
            await asyncio.wait_for(asyncio.gather(*(setup.add(*one) for one in work)), 10)
            held = time.monotonic() - start
            say(f"all silent: 40 requests held for {held:.2f} s of at most 0.5 s")
            assert 0.3 <= held <= 1.0
            assert max(setup.received()) - min(setup.received()) <= 2
            setup.cluster.paused = False
            await setup.ended_all([one[0] for one in first + work], 60)
            complete(setup, first + work)

    asyncio.run(main())


@needs_kv_in_rows
@pytest.mark.parametrize("name", ["off", "arrival", "step"])
def test_a_rank_that_fills_up(mode, name):
    """For 4 seconds somebody else takes nearly all KV tokens of rank 0: requests sent there wait."""
    mode(name)

    async def main():
        async with Setup(slots=32, capacity=30_000, step_s=0.01) as setup:
            full = setup.cluster.engines[0]
            full.extra = (3, 0, 29_000)
            await asyncio.sleep(0.5)
            work = [("probe", 50, 5)] + workload(200, 9)
            release = asyncio.get_running_loop().call_later(4, setattr, full, "extra", (0, 0, 0))
            took = await feed(setup, work, 60)
            received = setup.received()
            say(
                f"{name}: full rank 0 got {received[0]} of {sum(received)} requests, all done in {took:.1f} s"
            )
            if name == "off":
                assert received[0] > 3 and took > 3.4
            else:
                assert received[0] <= 3 and took < 3.4
            release.cancel()
            full.extra = (0, 0, 0)
            await asyncio.sleep(1)
            more = [(f"m{n}", p, t) for n, p, t in workload(200, 10)]
            await feed(setup, more, 60)
            complete(setup, work + more)
            # It is used again.
            assert setup.received()[0] - received[0] >= 25

    asyncio.run(main())


@pytest.mark.parametrize("name", ["arrival", "step"])
def test_one_decision_costs_little(mode, name):
    """Beside vLLM's own, which the wrapped one includes. Median of 2,000; other work on the machine changes
    it."""

    async def cost():
        async with Setup(slots=4096, capacity=100_000_000) as setup:
            times = []
            for j in range(2000):
                one = request(f"b{j}", 100)
                start = time.perf_counter_ns()
                setup.client.get_core_engine_for_request(one)
                times.append(time.perf_counter_ns() - start)
            state = plugin.state_of(setup.client)
            assert state is None or state.ledger.counters.placed == 2000
            return sorted(times)[1000] / 1e3

    stock = asyncio.run(cost())
    mode(name)
    ours = asyncio.run(cost())
    say(f"{name}: {ours:.1f} us a request, vLLM alone {stock:.1f} us")
    assert ours < 200
