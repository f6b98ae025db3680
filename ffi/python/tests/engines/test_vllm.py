"""The vLLM plugin over a duck-typed client: every mode, every way in and out. `tests/engines` has the real
client.
"""

import asyncio
import dataclasses
import functools
import inspect
import logging
import os
import random
import sys
import types
from pathlib import Path

import prometheus_client
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import fake_vllm
from fake_vllm import FinishReason, Request

import balanceroute
from balanceroute.engines import series
from balanceroute.engines import vllm as plugin
from balanceroute.engines import vllm_internals as internals
from balanceroute.engines.settings import Settings

METHODS = (
    "get_core_engine_for_request",
    "add_request_async",
    "abort_requests_async",
    "process_engine_outputs",
)


@pytest.fixture
def shape():
    """The version of vLLM, the newest unless a test says otherwise."""
    return fake_vllm.NEWEST


@pytest.fixture
def core(monkeypatch, shape):
    """vLLM's modules, without a plugin."""
    for name in [name for name in os.environ if name.startswith("BALANCEROUTE_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("VLLM_USE_RUST_FRONTEND", raising=False)
    for name, module in fake_vllm.modules(shape).items():
        monkeypatch.setitem(sys.modules, name, module)
    return sys.modules["vllm.v1.engine.core_client"]


@pytest.fixture
def mode(core, monkeypatch):
    def choose(mode, **more):
        monkeypatch.setenv("BALANCEROUTE_MODE", mode)
        for name, value in more.items():
            monkeypatch.setenv(f"BALANCEROUTE_{name.upper()}", str(value))
        plugin.register()
        return core.DPLBAsyncMPClient

    return choose


def request(name, prompt=100, tokens=8, **more):
    return Request(name, [1] * prompt, tokens, **more)


async def drain(client, names, limit=5000):
    """Steps until every request has left. KV tokens of the ranks after each step."""
    samples = []
    for _ in range(limit):
        samples.append(await client.step())
        if all(name not in client.reqs_in_flight for name in names) and not any(
            e.queue or e.running or e.ended for e in client.engines
        ):
            await asyncio.sleep(0.003)
            state = plugin.state_of(client)
            if state is None or not len(state.ledger):
                return samples
    raise AssertionError("requests are left")


def statics(client):
    return {name: inspect.getattr_static(client, name) for name in METHODS}


def test_off_is_vllm_itself(core, mode, monkeypatch):
    before = (statics(core.DPLBAsyncMPClient), dict(vars(core.DPLBAsyncMPClient)))
    plugin.register()
    mode("off")
    monkeypatch.setenv("BALANCEROUTE_MODE", "")
    plugin.register()
    assert (statics(core.DPLBAsyncMPClient), dict(vars(core.DPLBAsyncMPClient))) == before


@pytest.mark.parametrize("name", ["arrival", "step"])
def test_registered_twice_patched_once_and_taken_back(core, mode, name):
    stock = (statics(core.DPLBAsyncMPClient), set(vars(core.DPLBAsyncMPClient)))
    patched = statics(mode(name))
    assert patched["get_core_engine_for_request"] is not stock[0]["get_core_engine_for_request"]
    assert (patched["add_request_async"] is stock[0]["add_request_async"]) == (name == "arrival")
    assert statics(mode(name)) == patched
    plugin.unregister()
    assert (statics(core.DPLBAsyncMPClient), set(vars(core.DPLBAsyncMPClient))) == stock


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda c: delattr(c, "process_engine_outputs"), "has no process_engine_outputs"),
        (
            lambda c: setattr(c, "abort_requests_async", lambda self, request_ids: None),
            "not a coroutine function",
        ),
        (lambda c: setattr(c, "get_core_engine_for_request", lambda self, request, load: None), "takes"),
        (
            lambda c: setattr(c, "get_core_engine_for_request", lambda self, request: None),
            "does not use data_parallel_rank",
        ),
        (lambda c: setattr(c, "process_engine_outputs", c.process_engine_outputs), "not a static method"),
    ],
)
def test_other_internals_are_named_and_left_alone(core, mode, caplog, spoil, says):
    client = core.DPLBAsyncMPClient
    spoil(client)
    before = dict(vars(client))
    with caplog.at_level(logging.ERROR, "vllm.balanceroute"):
        mode("step")
    assert dict(vars(client)) == before
    assert len(caplog.records) == 1
    text = caplog.text
    assert says in text and "0.33.0" in text and "vLLM routes as it always does" in text


def test_without_vllm_or_with_a_wrong_setting_nothing_breaks(core, monkeypatch, caplog):
    monkeypatch.setenv("BALANCEROUTE_MODE", "sometimes")
    plugin.register()
    assert "BALANCEROUTE_MODE must be one of off, arrival, step, found 'sometimes'" in caplog.text
    monkeypatch.setenv("BALANCEROUTE_MODE", "step")
    monkeypatch.setenv("BALANCEROUTE_STALL_MS", "-1")
    plugin.register()
    assert "BALANCEROUTE_STALL_MS must be a number of at least 0, found '-1'" in caplog.text
    monkeypatch.delenv("BALANCEROUTE_STALL_MS")
    monkeypatch.setitem(sys.modules, "vllm.v1.engine.core_client", None)
    plugin.register()
    assert "vLLM routes as it always does" in caplog.text


def test_one_line_at_start_says_what_is_on(mode, caplog, capsys):
    line = (
        "mode step, policy level, 4 ranks of 4 slots and 10000 KV tokens, room for growth as it is learned, "
        "nobody is passed by more than 128 others a rank, front end 2 of 3"
    )
    client = mode("step")(client_index=1, client_count=3)
    assert plugin.state_of(client) is not None
    # Nobody listens yet at this level.
    assert capsys.readouterr().err.count(line) == 1 and line not in caplog.text
    with caplog.at_level(logging.INFO, "vllm.balanceroute"):
        mode("step")(client_index=1, client_count=3)
    assert caplog.text.count(line) == 1 and line not in capsys.readouterr().err


@pytest.mark.parametrize("shape", [fake_vllm.SHAPES["0.18.0"]])
def test_a_capacity_that_is_not_told_is_asked_for(mode, shape, capsys, monkeypatch):
    client_class = mode("step")
    stock = vars(client_class)["__init__"].__wrapped__

    def without_blocks(self):
        stock(self)
        self.vllm_config.cache_config.num_gpu_blocks = 0

    monkeypatch.setattr(client_class, "__init__", plugin._patch_init(without_blocks, Settings("step")))
    assert plugin.state_of(client_class()).capacity is None
    assert "BALANCEROUTE_KV_CAPACITY_TOKENS sets it" in capsys.readouterr().err


def test_strict_ends_the_start(core, mode, monkeypatch):
    before = dict(vars(core.DPLBAsyncMPClient))
    with pytest.raises(SystemExit, match="found 'jqs' .nearest: jsq.; BALANCEROUTE_STRICT ends the start"):
        mode("step", policy="jqs", strict=1)
    assert dict(vars(core.DPLBAsyncMPClient)) == before


def test_the_rust_front_end_is_named(core, mode, monkeypatch, caplog):
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    before = dict(vars(core.DPLBAsyncMPClient))
    mode("step")
    assert dict(vars(core.DPLBAsyncMPClient)) == before
    assert "VLLM_USE_RUST_FRONTEND" in caplog.text and "no effect" in caplog.text


@pytest.mark.parametrize("name", ["arrival", "step"])
def test_all_arrive_once_and_the_books_are_vllms(mode, name):
    async def main():
        client = mode(name)(ranks=4, slots=8)
        rng = random.Random(1)
        names = [f"r{i}" for i in range(300)]
        adds = [
            asyncio.create_task(client.add_request_async(request(n, rng.randint(1, 900), rng.randint(1, 30))))
            for n in names
        ]
        await asyncio.sleep(0.005)
        for n in client.reqs_in_flight:
            assert plugin.state_of(client).ledger.rank_of(n) == client.core_engines.index(
                client.reqs_in_flight[n]
            )
        await drain(client, names)
        await asyncio.gather(*adds)
        received = sorted(n for engine in client.engines for n, _, _ in engine.received)
        assert received == sorted(names)
        # The engines receive what they would have received without us.
        assert all(rank is None for engine in client.engines for _, rank, _ in engine.received)
        assert not client.reqs_in_flight and set(client.engine_inflight.values()) <= {0}
        assert client.stock_choices == 0
        state = plugin.state_of(client)
        assert len(state.ledger) == 0 and [state.ledger.tokens(r) for r in range(4)] == [0] * 4
        assert state.ledger.counters.finished == 300

    asyncio.run(main())


def imbalance(samples, skip=0.15):
    cut = int(len(samples) * skip)
    samples = [s for s in samples[cut:-cut] if sum(s)]
    return sum(max(s) * len(s) / sum(s) - 1 for s in samples) / len(samples)


async def run_load(client, count=400, ahead=24, seed=3):
    """Keeps the ranks full: `ahead` requests more than slots are always in the front end."""
    rng = random.Random(seed)
    todo = [request(f"r{i}", int(20 * 80 ** rng.random()), rng.randint(5, 40)) for i in range(count)]
    names = [r.request_id for r in todo]
    slots = sum(e.slots for e in client.engines)
    adds, samples = [], []
    while todo:
        inside = sum(not a.done() for a in adds) + sum(len(e.queue) + len(e.running) for e in client.engines)
        while todo and inside < slots + ahead:
            adds.append(asyncio.create_task(client.add_request_async(todo.pop(0))))
            inside += 1
        await asyncio.sleep(0.002)
        samples.append(await client.step())
    samples += await drain(client, names)
    await asyncio.gather(*adds)
    return imbalance(samples)


@pytest.mark.parametrize("name", ["arrival", "step"])
def test_a_variable_records_what_is_decided(mode, name, tmp_path):
    client = mode(name, record=tmp_path)(ranks=4, slots=8, capacity=100_000)
    asyncio.run(run_load(client, count=100))
    router = plugin.state_of(client).ledger.router
    assert router.recording.stopped is None and router.metrics().finished == 100
    [folder] = tmp_path.iterdir()
    found = balanceroute.replay(folder)
    assert (found.calls, found.differences) == (router.recording.calls, 0), found.first_difference
    assert found.calls > 300 and found.torn == []
    plugin.state_of(client).series.show(router.metrics())
    assert prometheus_client.REGISTRY.get_sample_value("balanceroute_recording") == 1


@pytest.mark.parametrize(("name", "ahead", "at_most"), [("arrival", -8, 0.75), ("step", 24, 0.4)])
def test_tokens_are_more_level_than_stock(core, mode, name, ahead, at_most):
    """On arrival a choice is left as long as slots are free; per step also where requests queue."""
    stock = asyncio.run(run_load(core.DPLBAsyncMPClient(4, 8, 100_000), ahead=ahead))
    ours = asyncio.run(run_load(mode(name)(ranks=4, slots=8, capacity=100_000), ahead=ahead))
    assert ours < at_most * stock, (stock, ours)


def test_aborts_of_held_and_running_requests(mode):
    async def main():
        client = mode("step")(ranks=2, slots=2)
        adds = {n: asyncio.create_task(client.add_request_async(request(n, tokens=50))) for n in "abcdefgh"}
        await asyncio.sleep(0.01)
        running = set(client.reqs_in_flight)
        held = [n for n in "abcdefgh" if n not in running]
        assert len(running) == 4
        await client.abort_requests_async([held[0], sorted(running)[0], held[1], "stranger"])
        await asyncio.sleep(0.01)
        assert adds[held[0]].done() and adds[held[1]].done()
        assert [n for n, _ in client.aborted] == [sorted(running)[0]]
        await drain(client, "abcdefgh")
        await asyncio.gather(*adds.values())
        received = {n for e in client.engines for n, _, _ in e.received}
        assert received == set("abcdefgh") - {held[0], held[1]}
        assert len(plugin.state_of(client).ledger) == 0

    asyncio.run(main())


def test_a_disconnect_while_held_is_told_to_vllm(mode):
    async def main():
        client = mode("step")(ranks=2, slots=1)
        adds = {n: asyncio.create_task(client.add_request_async(request(n))) for n in "abc"}
        await asyncio.sleep(0.01)
        (held,) = [n for n in "abc" if n not in client.reqs_in_flight]
        adds[held].cancel()
        await asyncio.gather(*adds.values(), return_exceptions=True)
        assert adds[held].cancelled()
        (output,) = client.outputs_queue.get_nowait().outputs
        assert (output.request_id, output.finish_reason, output.new_token_ids) == (
            held,
            FinishReason.ABORT,
            [],
        )
        await drain(client, "abc")
        assert held not in {n for e in client.engines for n, _, _ in e.received}

    asyncio.run(main())


@pytest.mark.parametrize("name", ["arrival", "step"])
def test_what_is_not_ours_to_choose(mode, name):
    async def main():
        client = mode(name)(ranks=4, slots=4)

        def ledger():
            return plugin.state_of(client).ledger

        await client.add_request_async(request("named", 3000, data_parallel_rank=3))
        assert client.engines[3].received == [("named", 3, 3000)] and ledger().tokens(3) == 3000
        # Pooling is vLLM's choice, and counted.
        await client.add_request_async(request("pooled", 500, pooling_params=object()))
        assert client.stock_choices == 1
        assert ledger().rank_of("pooled") == client.core_engines.index(client.reqs_in_flight["pooled"])
        # Every part of a streaming input goes where its session is, at once.
        for part in (True, True, False):
            await client.add_request_async(request("stream", 50, resumable=part))
        where = [e.received.count(("stream", None, 50)) for e in client.engines]
        assert sorted(where) == [0, 0, 0, 3]
        assert client.stock_choices == 2
        await client.add_request_async(
            Request("embedded", None, 4, prompt_embeds=types.SimpleNamespace(shape=(700, 64)))
        )
        assert ledger().tokens(ledger().rank_of("embedded")) >= 700
        assert ledger().counters.bound == 3

    asyncio.run(main())


def test_reports_of_foreign_load_are_heeded(mode):
    async def main():
        client = mode("arrival")(ranks=4, slots=200, capacity=100_000)
        for i in range(40):
            # As the coordinator goes silent, the last snapshot stays for the whole burst.
            if i == 0:
                client.coordinator_says([[20, 50, 0.99], [0, 10, 0.3], [0, 3, 0.2], [0, 90, 0.8]])
            await client.add_request_async(request(f"r{i}", 100 * (1 + i % 5)))
        sent = [sum(n for _, _, n in e.received) for e in client.engines]
        # 12,000 tokens: rank 2 is filled up to rank 1, then both.
        assert sent[0] == sent[3] == 0
        assert sum(sent) == 12_000 and abs((20_000 + sent[2]) - (30_000 + sent[1])) <= 500 or sent[1] == 0
        assert sent[2] >= 10_000

    asyncio.run(main())


def test_a_frozen_snapshot_draws_no_herd(mode):
    async def main():
        client = mode("arrival")(ranks=8, slots=1000, capacity=1_000_000)
        # One rank has just been empty when the statistics stop.
        client.coordinator_says([[0, 100, 0.02]] * 7 + [[0, 0, 0.0]])
        rng = random.Random(5)
        total = 0
        for i in range(2000):
            prompt = rng.randint(10, 400)
            total += prompt
            await client.add_request_async(request(f"r{i}", prompt))
        loads = [
            sum(n for _, _, n in e.received) + (20_000 if r < 7 else 0) for r, e in enumerate(client.engines)
        ]
        mean = (total + 7 * 20_000) / 8
        assert max(loads) <= 1.1 * mean, (loads, mean)

    asyncio.run(main())


def test_a_rank_that_fills_up_gets_nothing_until_it_drains(mode):
    async def main():
        client = mode("step")(ranks=2, slots=16, capacity=20_000)
        client.engines[0].foreign = (2, 0, 19_000)
        await client.add_request_async(request("probe", 10, tokens=3))
        await client.step()
        await client.step()
        for i in range(12):
            await asyncio.wait_for(client.add_request_async(request(f"r{i}", 900, tokens=4)), 2)
        at_full = [len(e.received) for e in client.engines]
        assert at_full[0] <= 1 and at_full[1] >= 12
        client.engines[0].foreign = (0, 0, 0)
        await client.step()
        await client.step()
        adds = [
            asyncio.create_task(client.add_request_async(request(f"late{i}", 900, tokens=4)))
            for i in range(12)
        ]
        await drain(client, [f"late{i}" for i in range(12)])
        await asyncio.gather(*adds)
        assert len(client.engines[0].received) - at_full[0] >= 4

    asyncio.run(main())


def test_silence_of_all_ranks_holds_nobody_beyond_the_bound(mode):
    async def main():
        client = mode("step", stall_ms=150)(ranks=2, slots=2)
        loop = asyncio.get_running_loop()
        start = loop.time()
        names = [f"r{i}" for i in range(20)]
        await asyncio.wait_for(asyncio.gather(*(client.add_request_async(request(n)) for n in names)), 5)
        assert 0.1 <= loop.time() - start <= 1.0
        assert sorted(len(e.received) for e in client.engines) == [10, 10]
        await drain(client, names)

    asyncio.run(main())


def test_no_statistics_at_all_is_enough(mode):
    async def main():
        client = mode("step")(ranks=2, slots=2)
        adds = [asyncio.create_task(client.add_request_async(request(f"r{i}", 50 + i, 5))) for i in range(30)]
        for _ in range(400):
            await client.step(statistics=False)
            await asyncio.sleep(0.002)
            if all(a.done() for a in adds) and not client.reqs_in_flight:
                break
        await asyncio.gather(*adds)
        assert not client.reqs_in_flight and plugin.state_of(client).gate.stalls == 0

    asyncio.run(main())


@pytest.mark.parametrize("name", ["arrival", "step"])
def test_a_router_that_fails_leaves_everything_to_vllm(mode, name, caplog):
    async def main():
        client = mode(name)(ranks=2, slots=1)
        await client.add_request_async(request("a"))
        state = plugin.state_of(client)

        def fail(*_a, **_k):
            raise RuntimeError("spoiled")

        methods = ("place", "step", "report", "progress_request", "abort", "finish", "enqueue")
        state.ledger.router = types.SimpleNamespace(**{method: fail for method in methods})
        names = ["a"] + [f"r{i}" for i in range(6)]
        await asyncio.wait_for(asyncio.gather(*(client.add_request_async(request(n)) for n in names[1:])), 3)
        assert sum(len(e.received) for e in client.engines) == 7
        for _ in range(200):
            await client.step()
        assert not client.reqs_in_flight
        assert client.stock_choices >= 5

    asyncio.run(main())
    assert "vLLM decides" in caplog.text


def two_front_ends(mode, **more):
    return [
        mode("step", **more)(ranks=2, slots=8, capacity=10_000, client_index=i, client_count=2)
        for i in range(2)
    ]


def test_front_ends_share_the_ranks(mode):
    async def main():
        clients = two_front_ends(mode, hub=0)
        for i, client in enumerate(clients):
            adds = [
                asyncio.create_task(client.add_request_async(request(f"c{i}r{j}", 10))) for j in range(20)
            ]
            await asyncio.sleep(0.01)
            # Its half of the slots, and some of what nobody uses.
            received = [len(e.received) for e in client.engines]
            assert min(received) >= 4 and sum(received) < 16
            await drain(client, [f"c{i}r{j}" for j in range(20)])
            await asyncio.gather(*adds)

    asyncio.run(main())


def test_the_first_front_end_decides_for_all(mode):
    async def main():
        clients = two_front_ends(mode)
        first, second = (plugin.state_of(client).ledger for client in clients)
        while not second.follows:
            await asyncio.sleep(0.01)
        adds = [asyncio.create_task(clients[1].add_request_async(request(f"r{i}", 10))) for i in range(20)]
        await asyncio.sleep(0.05)
        # Every slot, and no more, for one that has half of them by itself.
        assert [len(e.received) for e in clients[1].engines] == [8, 8] and len(first) == 20
        await drain(clients[1], [f"r{i}" for i in range(20)])
        await asyncio.gather(*adds)
        await asyncio.sleep(0.05)
        assert len(first) == len(second) == 0
        # It stops, and its follower goes on.
        plugin.state_of(clients[0]).stop_holding("test")
        while second.follows:
            await asyncio.sleep(0.01)
        await clients[1].add_request_async(request("last"))
        await drain(clients[1], ["last"])
        for client in clients:
            plugin.state_of(client).leave_hub()

    asyncio.run(main())


def test_hybrid_ranks_are_counted_from_the_first_managed(mode):
    async def main():
        client = mode("step")(ranks=2, slots=2, first_rank=6)
        adds = [asyncio.create_task(client.add_request_async(request(f"r{i}"))) for i in range(8)]
        await drain(client, [f"r{i}" for i in range(8)])
        await asyncio.gather(*adds)

    asyncio.run(main())


def test_elastic_scaling_is_followed(mode):
    async def main():
        client = mode("arrival")(ranks=2, slots=50)
        for i in range(4):
            await client.add_request_async(request(f"r{i}", 500))
        client.core_engines.append((2).to_bytes(2, "little"))
        client.engines.append(fake_vllm.Engine(50, 10_000))
        client.engine_ranks_managed.append(2)
        client.lb_engines.append([0, 0, 0.0])
        await client.add_request_async(request("new", 100))
        assert [n for n, _, _ in client.engines[2].received] == ["new"]
        client.core_engines.pop()
        client.lb_engines = client.lb_engines[:2]
        await client.add_request_async(request("last", 100))
        assert [n for n, _, _ in client.engines[2].received] == ["new"]
        assert "new" not in plugin.state_of(client).ledger

    asyncio.run(main())


def test_a_line_says_how_things_stand(mode, caplog):
    async def main():
        client = mode("step", log_ms=1)(ranks=2, slots=1)
        adds = [asyncio.create_task(client.add_request_async(request(f"r{i}", 100 + i))) for i in range(3)]
        await asyncio.sleep(0.01)
        await client.step()
        await drain(client, [f"r{i}" for i in range(3)])
        await asyncio.gather(*adds)

    with caplog.at_level(logging.INFO, "vllm.balanceroute"):
        asyncio.run(main())
    lines = [r.getMessage() for r in caplog.records if "held" in r.getMessage()]
    assert any(
        line.startswith("balanceroute: 1 held, KV tokens [1") and "2 placed" in line for line in lines
    ), lines
    assert all(line.endswith("0 aborted, nobody passed by more than 0") for line in lines), lines


every_version = pytest.mark.parametrize("shape", fake_vllm.SHAPES.values(), ids=fake_vllm.SHAPES.keys())


@every_version
@pytest.mark.parametrize("name", ["arrival", "step"])
def test_every_version_is_balanced_without_a_complaint(mode, shape, caplog, name):
    """Somebody else fills rank 0 and queues there; statistics come from the engines and the coordinator."""

    async def main():
        client = mode(name)(ranks=4, slots=8, capacity=20_000)
        request_of = sys.modules["vllm.v1.engine"].EngineCoreRequest
        client.engines[0].foreign, client.engines[0].skipped = (2, 0, 19_600), 1
        client.coordinator_says([[0, 2, 0.98], [0, 0, 0.0], [0, 0, 0.0], [0, 0, 0.0]])
        await client.add_request_async(request_of("probe", [1], max_tokens=1))
        await client.step()
        await client.step()
        names = [f"r{i}" for i in range(120)]
        adds = [
            asyncio.create_task(client.add_request_async(request_of(n, [1] * (50 + 7 * i), max_tokens=9)))
            for i, n in enumerate(names)
        ]
        await asyncio.sleep(0.005)
        state = plugin.state_of(client)
        assert state.active and state.capacity == 20_000
        # Beyond ours: those that run there, and the one whose KV is on its way.
        assert state.ledger.foreign(0) == (19_600, 3)
        sent = [len(e.received) for e in client.engines]
        # Three of the requests of rank 0 are served where the others serve eight: so much shorter is its
        # queue.
        assert sum(sent) >= 25 and sent[0] <= 15 and min(sent[1:]) >= 8
        if name == "step":
            assert sent[0] <= 1 and sum(sent) == 25 and len(state.gate) == 96
        # They leave, and what queues there is served.
        client.engines[0].foreign, client.engines[0].skipped = (0, 0, 0), 0
        await drain(client, names)
        await asyncio.gather(*adds)
        assert sorted(n for e in client.engines for n, _, _ in e.received) == sorted([*names, "probe"])
        assert client.stock_choices == 0 and state.active
        assert all(row is not None and len(row) == shape.row for row in client.lb_engines)

    asyncio.run(main())
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING], caplog.text


@every_version
def test_kv_of_coordinator_rows_where_they_have_it(mode, shape):
    async def main():
        client = mode("arrival")(ranks=2, slots=200, capacity=100_000)
        request_of = sys.modules["vllm.v1.engine"].EngineCoreRequest
        await client.add_request_async(request_of("first", [1] * 100))
        client.coordinator_says([[0, 20, 0.5], [0, 20, 0.1]])
        await client.add_request_async(request_of("next", [1] * 100))
        ledger = plugin.state_of(client).ledger
        # Without a KV column others are taken to be as long as ours. "first" may be one of the 20.
        tokens = [round(ledger.foreign(rank)[0], -3) for rank in range(2)]
        assert tokens == ([50_000, 10_000] if shape.row == 3 else [2_000, 2_000])

    asyncio.run(main())


def test_a_row_that_stays_as_it_was_measures_nothing_anew(mode, monkeypatch):
    """The coordinator sends a rank's row again when another rank's has changed; its KV usage is as old as the
    last change of its counts.
    """

    async def main():
        client = mode("arrival")(ranks=2, slots=200, capacity=100_000)
        await client.add_request_async(request("first", 100))
        ledger = plugin.state_of(client).ledger
        reports = []
        monkeypatch.setattr(ledger, "report", lambda rank, **more: reports.append((rank, more)))
        client.coordinator_says([[0, 20, 0.5], [0, 20, 0.1]])
        await client.add_request_async(request("a", 100))
        client.coordinator_says([[0, 20, 0.5], [0, 21, 0.1]])
        await client.add_request_async(request("b", 100))
        assert [rank for rank, _ in reports] == [0, 1, 1]

    asyncio.run(main())


class Hidden:
    """An attribute that vLLM's own code finds and the plugin does not, as after a renaming in vLLM."""

    def __init__(self, owner, name):
        self.name, self.static = name, inspect.getattr_static(owner, name, None)

    def __get__(self, of, kind=None):
        if sys._getframe(1).f_code.co_filename in (plugin.__file__, internals.__file__):
            raise AttributeError(f"no {self.name}")
        if of is None:
            return self
        return self.static.__get__(of) if inspect.isfunction(self.static) else vars(of)[self.name]

    def __set__(self, of, value):
        if sys._getframe(1).f_code.co_filename in (plugin.__file__, internals.__file__):
            raise AttributeError(f"no {self.name}")
        vars(of)[self.name] = value


# In which modes something uses it, and whether it is used after the start.
USED = {
    **{("client", name): ("arrival", "step") for name in internals._CLIENT},
    **{("client", name): ("step",) for name in internals._CLIENT_STEP},
    **{
        (kind, name): ("arrival", "step")
        for _, kind, names in internals._FIELDS
        for name in names
        if kind != "FinishReason"
    },
}
AT_START_ONLY = {
    ("client", name)
    for name in (
        "vllm_config",
        "client_index",
        "engine_ranks_managed",
        "get_output_async",
        "shutdown",
        "stats_update_address",
    )
}


@pytest.mark.parametrize("when", ["at start", "after 10 requests"])
@pytest.mark.parametrize(("owner", "name"), USED)
@pytest.mark.parametrize("in_mode", ["arrival", "step"])
def test_what_goes_away_is_said_once_and_fails_nobody(
    core, mode, monkeypatch, caplog, in_mode, owner, name, when
):
    owners = {
        "client": core.DPLBAsyncMPClient,
        "EngineCoreRequest": Request,
        "SchedulerStats": fake_vllm.SchedulerStats,
    }
    of = owners.get(owner) or getattr(fake_vllm, owner)

    def hide():
        monkeypatch.setattr(of, name, Hidden(of, name), raising=False)

    def complaints():
        return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]

    async def main():
        client_class = mode(in_mode)
        if when == "at start":
            hide()
        client = client_class(ranks=2, slots=4)
        adds = {}

        async def add(*names):
            for n in names:
                adds[n] = asyncio.create_task(client.add_request_async(request(n, tokens=6)))
            await asyncio.sleep(0.004)

        await add(*(f"r{i}" for i in range(10)))
        if when != "at start":
            assert not complaints()
            # Two are held.
            sent = 8 if in_mode == "step" else 10
            await until(lambda: sum(len(e.received) for e in client.engines) == sent)
            hide()
        await add("late", "gone")
        if not adds["gone"].done():
            adds["gone"].cancel()
        await asyncio.sleep(0)
        # Until something uses it: a slot may have to become free first.
        for _ in range(7):
            await client.step()
            await asyncio.sleep(0.004)
            if complaints():
                break
        noticed = in_mode in USED[owner, name] and (when == "at start" or (owner, name) not in AT_START_ONLY)
        if noticed:
            # What was held is sent, free slots or not.
            await until(lambda: all(add.done() for add in adds.values()))
            own = client.stock_choices
            await add("own")
            assert client.stock_choices == own + 1 and adds["own"].done()
        await drain_any(client)
        results = await asyncio.gather(*adds.values(), return_exceptions=True)
        assert [r for r in results if r is not None and not isinstance(r, asyncio.CancelledError)] == []
        left = {n for n, a in adds.items() if a.cancelled()}
        assert left <= {"gone"}
        received = [n for e in client.engines for n, _, _ in e.received]
        assert sorted(received) == sorted(set(adds) - left)
        # What the engines receive carries no trace.
        assert all(rank is None for e in client.engines for _, rank, _ in e.received)
        assert len(complaints()) == noticed, complaints()
        if noticed:
            assert "vLLM decides from here on" in complaints()[0] or "vLLM routes as" in complaints()[0]
            assert name in caplog.text

    asyncio.run(main())


async def until(true):
    """Waits for what must come by itself."""
    for _ in range(500):
        if true():
            return
        await asyncio.sleep(0.002)
    assert true()


async def drain_any(client):
    """Steps until the engines are empty and nothing is held."""
    for _ in range(300):
        await client.step()
        await asyncio.sleep(0.002)
        state = plugin.state_of(client)
        if not any(e.queue or e.running or e.ended for e in client.engines) and not (state and state.gate):
            return
    raise AssertionError("requests are left")


@pytest.mark.parametrize(
    ("module", "kind", "field"),
    [(module, kind, f) for module, kind, names in internals._FIELDS for f in names],
)
def test_a_field_that_a_version_lacks_is_named_before_any_request(core, mode, caplog, module, kind, field):
    of = getattr(sys.modules[module], kind)
    names = [n for n in getattr(of, "__dataclass_fields__", ("LENGTH",)) if n != field]
    setattr(sys.modules[module], kind, dataclasses.make_dataclass(kind, names))
    before = dict(vars(core.DPLBAsyncMPClient))
    mode("step")
    assert dict(vars(core.DPLBAsyncMPClient)) == before
    assert [r.levelname for r in caplog.records] == ["ERROR"]
    assert f"{kind} has no {field}" in caplog.text


def test_what_only_step_uses_is_no_reason_against_arrival(core, mode, caplog):
    base = core.DPLBAsyncMPClient.__mro__[1]
    method = base._ensure_output_queue_task
    del base._ensure_output_queue_task
    try:
        assert plugin._STATE not in vars(mode("step"))
        assert "has no _ensure_output_queue_task" in caplog.text
        assert plugin._STATE in vars(mode("arrival"))
    finally:
        base._ensure_output_queue_task = method


def test_an_abort_that_meets_a_failure_is_not_lost(mode):
    """The router fails, and before what was held has been sent one of it is aborted."""

    async def main():
        client = mode("step")(ranks=2, slots=1)
        adds = {n: asyncio.create_task(client.add_request_async(request(n))) for n in "abcd"}
        await asyncio.sleep(0.01)
        (held, other) = [n for n in "abcd" if n not in client.reqs_in_flight]
        state = plugin.state_of(client)
        state.ledger.place_waiting = lambda name: 1 / 0
        try:
            1 / 0
        except ZeroDivisionError:
            state.give_up("spoiled")
        await client.abort_requests_async([held])
        await asyncio.gather(*adds.values())
        received = {n for e in client.engines for n, _, _ in e.received}
        assert held not in received and other in received

    asyncio.run(main())


async def fill_and_hold(client, running=4, held=6):
    """Requests in every slot, and some that wait."""
    adds = {}
    for i in range(running + held):
        adds[f"r{i}"] = asyncio.create_task(client.add_request_async(request(f"r{i}", tokens=40)))
    await until(lambda: len(client.reqs_in_flight) == running and len(plugin.state_of(client).gate) == held)
    return adds


def sent(client):
    return sorted(n for e in client.engines for n, _, _ in e.received)


def test_what_is_held_is_sent_before_vllm_shuts_down(mode, caplog):
    """As vLLM does: from a thread, while the loop goes on serving. The engines drain all of it."""

    async def main():
        client = mode("step")(ranks=2, slots=2)
        adds = await fill_and_hold(client)
        await asyncio.get_running_loop().run_in_executor(None, functools.partial(client.shutdown, timeout=9))
        await asyncio.gather(*adds.values())
        assert sent(client) == sorted(adds)
        await drain_any(client)
        ended = {o.request_id: o.finish_reason for o in client.outputs if o.finish_reason is not None}
        assert ended == dict.fromkeys(adds, FinishReason.LENGTH)

    asyncio.run(main())
    assert caplog.text.count("vLLM shuts down: 6 held requests are sent") == 1


def test_a_shutdown_inside_the_loop_or_without_one_passes(mode):
    async def main():
        client = mode("step")(ranks=2, slots=2)
        adds = await fill_and_hold(client)
        client.shutdown()
        await asyncio.wait_for(asyncio.gather(*adds.values()), 1)
        return client

    client = asyncio.run(main())
    client.shutdown()
    mode("step")().shutdown()


def test_a_refusal_by_a_draining_engine_is_an_error_and_no_empty_answer(mode):
    """Nobody has said that the engines drain: the first refusal does."""

    async def main():
        client = mode("step")(ranks=2, slots=2)
        adds = await fill_and_hold(client)
        for engine in client.engines:
            engine.drains = True
        # One of those that run is aborted: its slot is taken by one that was held, which is refused.
        await client.abort_requests_async(["r0"])
        for _ in range(4):
            await client.step()
            await asyncio.sleep(0.003)
        await asyncio.wait_for(asyncio.gather(*adds.values()), 1)
        await client.step()
        ended = {o.request_id: o for o in client.outputs if o.finish_reason is not None}
        held = [n for e in client.engines for n, _, _ in e.received][4:]
        assert len(sent(client)) == 10
        refused = {n: o for n, o in ended.items() if o.finish_reason == FinishReason.ERROR}
        assert len(refused) == 6 and all(o.error.retryable and not o.new_token_ids for o in refused.values())
        assert not [o for o in ended.values() if o.finish_reason == FinishReason.ABORT], held
        counters = plugin.state_of(client).ledger.counters
        assert (counters.aborted, counters.finished) == (6, 1)

    asyncio.run(main())


@pytest.mark.parametrize("stops", [False, True])
def test_aborts_of_an_engine_that_pauses_stay_aborts_unless_vllm_stops(mode, stops):
    """Told to pause, an engine aborts all that it has, whether it has begun or not."""

    async def main():
        client = mode("step")(ranks=1, slots=2)
        for name in ("begun", "waits"):
            await client.add_request_async(request(name))
        outputs = [fake_vllm.EngineCoreOutput("begun", [7])]
        await type(client).process_engine_outputs(client, fake_vllm.EngineCoreOutputs(0, outputs))
        if stops:
            client.shutdown()
        outputs = [fake_vllm.EngineCoreOutput(n, [], FinishReason.ABORT) for n in ("begun", "waits")]
        ended = fake_vllm.EngineCoreOutputs(0, outputs, {"begun", "waits"})
        await type(client).process_engine_outputs(client, ended)
        found = [output.finish_reason for output in outputs]
        assert found == [FinishReason.ABORT, FinishReason.ERROR if stops else FinishReason.ABORT]
        assert not len(plugin.state_of(client).ledger)

    asyncio.run(main())


def test_an_abort_by_the_caller_stays_one(mode):
    async def main():
        client = mode("step")(ranks=1, slots=1)
        await client.add_request_async(request("a"))
        await client.abort_requests_async(["a"])
        output = fake_vllm.EngineCoreOutput("a", [], FinishReason.ABORT)
        outputs = fake_vllm.EngineCoreOutputs(0, [output], {"a"})
        await type(client).process_engine_outputs(client, outputs)
        assert output.finish_reason == FinishReason.ABORT and output.error is None
        assert not plugin.state_of(client).kept

    asyncio.run(main())


def test_what_is_held_when_an_engine_dies_fails_at_once(mode):
    async def main():
        client = mode("step", stall_ms=60_000)(ranks=2, slots=2)
        adds = await fill_and_hold(client)
        client.dead = True
        client.outputs_queue.put_nowait(fake_vllm.EngineDeadError())
        with pytest.raises(fake_vllm.EngineDeadError):
            await client.get_output_async()
        results = await asyncio.wait_for(asyncio.gather(*adds.values(), return_exceptions=True), 1)
        assert sum(isinstance(r, fake_vllm.EngineDeadError) for r in results) == 6
        with pytest.raises(fake_vllm.EngineDeadError):
            await asyncio.wait_for(client.add_request_async(request("late")), 1)

    asyncio.run(main())


def page():
    return prometheus_client.generate_latest().decode()


def test_held_requests_and_ranks_are_on_the_engines_own_page(mode, monkeypatch):
    monkeypatch.setattr(plugin, "_SHOW_EVERY", 0.01)

    async def main():
        client = mode("step")(ranks=2, slots=2)
        adds = await fill_and_hold(client)
        assert "balanceroute_held_requests 6.0" in page() and "balanceroute_active 1.0" in page()
        assert 'balanceroute_free_slots{worker="1"} 2.0' in page()
        state = plugin.state_of(client)
        await client.step()
        await client.step()
        # Nothing happens after that, and the last of it is shown.
        await until(lambda: 'balanceroute_load_tokens{worker="0"} 204.0' in page())
        assert 'balanceroute_running_requests{worker="1"} 2.0' in page()
        assert "balanceroute_max_passed 256.0" in page()
        assert "balanceroute_most_passed_waiting 0.0" in page()
        adds["r9"].cancel()
        await until(lambda: "balanceroute_held_requests 5.0" in page())
        try:
            1 / 0
        except ZeroDivisionError:
            state.give_up("spoiled")
        await asyncio.gather(*adds.values(), return_exceptions=True)
        assert "balanceroute_held_requests 0.0" in page() and "balanceroute_active 0.0" in page()

    asyncio.run(main())


def test_what_another_front_end_counts_is_not_counted_twice():
    """Over the processes of all API servers parts are added up."""
    router = balanceroute.Router([balanceroute.WorkerConfig(8)], mode="arrival")
    router.place(1, 500, 0)
    shown = series.Series()
    shown.show(router.metrics())
    assert 'balanceroute_running_requests{worker="0"} 1.0' in page()
    assert 'balanceroute_free_slots{worker="0"} 7.0' in page()
    shown.show(router.metrics(), counted_elsewhere=True)
    assert 'balanceroute_running_requests{worker="0"} 0.0' in page()
    assert 'balanceroute_free_slots{worker="0"} 0.0' in page()
    # Of that each knows the whole.
    assert 'balanceroute_load_tokens{worker="0"} 500.0' in page()


def test_who_is_passed_is_on_the_page():
    router = balanceroute.Router([balanceroute.WorkerConfig(1)], policy="level")
    router.adopt(1, 100, 0)
    router.enqueue(2, 100)
    router.step(0)
    shown = series.Series()
    for id in range(3, 8):
        router.send(id, 10)
    shown.show(router.metrics())
    assert "balanceroute_most_passed_waiting 5.0" in page() and "balanceroute_max_passed 128.0" in page()
    for id in (1, 3, 4, 5, 6, 7):
        router.finish(id)
    router.step(0)
    shown.show(router.metrics())
    assert "balanceroute_most_passed_waiting 0.0" in page() and "balanceroute_most_passed 5.0" in page()
    # Who decides no more has nobody waiting.
    router.enqueue(9, 100, passed=40)
    shown.show(router.metrics())
    assert "balanceroute_most_passed_waiting 40.0" in page()
    shown.active(False)
    assert "balanceroute_most_passed_waiting 0.0" in page()


def test_the_bound_and_the_room_that_were_set_hold(mode, capsys):
    async def main():
        client = mode("step", max_passed=0, headroom_steps=7)(ranks=2, slots=2)
        adds = {f"r{i}": asyncio.create_task(client.add_request_async(request(f"r{i}"))) for i in range(10)}
        await until(lambda: len(client.reqs_in_flight) == 4)
        router = plugin.state_of(client).ledger.router
        assert router.metrics().max_passed == 0
        assert [rank.kv_growth_tokens for rank in router.metrics().ranks] == [14, 14]
        await drain(client, list(adds))
        await asyncio.gather(*adds.values())
        assert router.metrics().most_passed == 0
        entered = [name for engine in client.engines for name, _, _ in engine.received]
        assert sorted(entered[:2] + entered[5:7]) == ["r0", "r1", "r2", "r3"]

    asyncio.run(main())
    said = "7 KV tokens a request left free for growth, nobody is passed by more than 0 others, front end 1"
    assert said in capsys.readouterr().err


def test_what_was_learned_outlives_the_server(mode, tmp_path, capsys, caplog):
    path = tmp_path / "learned"

    def room(client):
        ranks = plugin.state_of(client).ledger.router.metrics().ranks
        return [rank.kv_growth_tokens for rank in ranks]

    async def serve():
        client = mode("step", learned_file=path)(ranks=2, slots=8, capacity=100_000)
        names = [f"r{i}" for i in range(60)]
        # Nobody ends with the first step; where all end alike none of those who have just begun is about to.
        adds = [
            asyncio.create_task(client.add_request_async(request(n, 400, 2 + i % 9)))
            for i, n in enumerate(names)
        ]
        await asyncio.sleep(0.01)
        await client.step()
        first = room(client)
        await drain(client, names)
        await asyncio.gather(*adds)
        client.shutdown()
        return first

    assert asyncio.run(serve()) == [6_000] * 2
    assert f"keeps what it learns in {path}" in capsys.readouterr().err
    before = path.read_bytes()
    assert all(tokens < 6_000 for tokens in asyncio.run(serve()))
    assert f"goes on from what {path} has learned" in capsys.readouterr().err
    assert path.read_bytes() != before
    # Another front end reads, and writes nothing.
    before = path.read_bytes()
    second = mode("step", learned_file=path)(client_index=1, client_count=2)
    assert "goes on from" in capsys.readouterr().err
    second.shutdown()
    assert path.read_bytes() == before
    # What means nothing is said once, and leaves everything else as it is.
    path.write_bytes(before[:-3])
    client = mode("step", learned_file=path)()
    assert plugin.state_of(client) and caplog.text.count("nothing is learned from") == 1


def test_what_a_request_may_generate_is_told(mode):
    async def main():
        client = mode("arrival")(ranks=1, slots=8, capacity=10_000)
        limits = types.SimpleNamespace(max_tokens=3)
        for i in range(8):
            asked = request(f"r{i}", 900)
            asked.sampling_params = limits if i % 2 else types.SimpleNamespace(max_tokens=9_990)
            await client.add_request_async(asked)
        ledger = plugin.state_of(client).ledger
        most = [ledger.router.preempt_request(ledger._by_name[f"r{i}"]).max_tokens for i in range(8)]
        # What no rank could hold would keep it from entering any.
        assert most == [None, 3] * 4

    asyncio.run(main())


def test_without_prometheus_client_everything_else_works(mode, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    series._gauges.cache_clear()
    try:

        async def main():
            client = mode("step")(ranks=2, slots=2)
            adds = await fill_and_hold(client)
            await drain(client, list(adds))
            await asyncio.gather(*adds.values())

        asyncio.run(main())
        assert series._gauges() is None
    finally:
        monkeypatch.undo()
        series._gauges.cache_clear()
        for name in [
            n for n in prometheus_client.REGISTRY._names_to_collectors if n.startswith("balanceroute")
        ]:
            prometheus_client.REGISTRY.unregister(prometheus_client.REGISTRY._names_to_collectors[name])


def test_the_lower_value_of_vllm_is_the_higher_class():
    from types import SimpleNamespace as Of

    from balanceroute.engines.vllm_internals import priority_of

    found = [priority_of(Of(priority=value)) for value in (-4, 0, 9, 1 << 40)]
    assert found == [4, 0, -9, -128] and priority_of(Of()) == 0
