"""What the vLLM plugin says of vllm-ascend's schedulers beside it, over the duck-typed client."""

import asyncio
import sys
import types
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import fake_vllm

from balanceroute.engines import vllm as plugin
from balanceroute.engines import vllm_ascend

CONFLICT = "balance scheduling of vllm-ascend"
DYNTRA = "DyntraLB of vllm-ascend is on"
TOO_MANY = "what is more queues inside a rank"


@pytest.fixture
def start(monkeypatch, capsys, caplog):
    """Starts a client and returns what is said."""
    monkeypatch.delenv(vllm_ascend.BALANCE_VARIABLE, raising=False)
    monkeypatch.delenv("BALANCEROUTE_SLOTS", raising=False)
    monkeypatch.setenv("BALANCEROUTE_MODE", "step")
    for name in [name for name in sys.modules if name.startswith("vllm_ascend")]:
        monkeypatch.delitem(sys.modules, name)
    for name, module in fake_vllm.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    client = sys.modules["vllm.v1.engine.core_client"].DPLBAsyncMPClient

    def run(config=None, ascend=True, understood=None, slots=None, **more):
        if ascend:
            monkeypatch.setitem(sys.modules, "vllm_ascend", types.ModuleType("vllm_ascend"))
        if understood is not None:
            module = types.ModuleType("vllm_ascend.ascend_config")
            module.get_ascend_config = understood
            monkeypatch.setitem(sys.modules, "vllm_ascend.ascend_config", module)
        if slots is not None:
            monkeypatch.setenv("BALANCEROUTE_SLOTS", str(slots))
        client.additional_config = config
        plugin.register()

        async def make():
            one = client(slots=4, **more)
            assert plugin.state_of(one).active
            return one

        asyncio.run(make())
        said = caplog.text + capsys.readouterr().err
        caplog.clear()
        return said

    return run


def test_nothing_is_said_without_a_reason(start):
    for config in (None, {}, {"scheduler_config": None}, {"scheduler_config": {"dyntra_lb_config": {}}}):
        said = start(config)
        assert "vllm-ascend" not in said and TOO_MANY not in said


@pytest.mark.parametrize(
    "config",
    [
        {"enable_balance_scheduling": True},
        {"scheduler_config": {"enable_balance_scheduling": True}},
        {"scheduler_config": {"enable_balance_scheduling": True}, "enable_balance_scheduling": False},
    ],
)
def test_balance_scheduling_is_warned_of_wherever_it_is_set(start, config):
    assert start(config).count(CONFLICT) == 1


@pytest.mark.parametrize(("value", "times"), [("1", 1), ("0", 0), ("", 0)])
def test_older_versions_set_it_in_the_environment(start, monkeypatch, value, times):
    monkeypatch.setenv(vllm_ascend.BALANCE_VARIABLE, value)
    assert start().count(CONFLICT) == times


def test_a_configuration_overrules_the_environment(start, monkeypatch):
    monkeypatch.setenv(vllm_ascend.BALANCE_VARIABLE, "1")
    assert CONFLICT not in start({"scheduler_config": {"enable_balance_scheduling": False}})


def test_what_vllm_ascend_has_understood_counts_first(start):
    later = types.SimpleNamespace(scheduler_config=types.SimpleNamespace(enable_balance_scheduling=True))
    assert start({"enable_balance_scheduling": False}, understood=lambda: later).count(CONFLICT) == 1
    older = types.SimpleNamespace(enable_balance_scheduling=False)
    assert CONFLICT not in start({"enable_balance_scheduling": True}, understood=lambda: older)


def test_one_that_is_not_made_yet_is_no_failure(start):
    def not_made():
        raise RuntimeError("Ascend config is not initialized")

    assert start({"enable_balance_scheduling": True}, understood=not_made).count(CONFLICT) == 1


def test_elsewhere_than_on_ascend_its_switches_mean_nothing(start, monkeypatch):
    monkeypatch.setenv(vllm_ascend.BALANCE_VARIABLE, "1")
    assert "vllm-ascend" not in start({"enable_balance_scheduling": True}, ascend=False)


def test_one_of_several_front_ends_says_it(start):
    config = {"enable_balance_scheduling": True}
    assert start(config, client_index=1, client_count=2).count(CONFLICT) == 0
    assert start(config, client_index=0, client_count=2).count(CONFLICT) == 1


@pytest.mark.parametrize(("slots", "dyntra", "too_many"), [(None, 1, 0), (6, 0, 0), (12, 1, 0)])
def test_dyntra_wants_two_slots_more(start, slots, dyntra, too_many):
    said = start({"scheduler_config": {"dyntra_lb_config": {"enabled": True}}}, slots=slots)
    assert (said.count(DYNTRA), said.count(TOO_MANY)) == (dyntra, too_many)
    assert not dyntra or "BALANCEROUTE_SLOTS=6" in said


@pytest.mark.parametrize(("slots", "times"), [(4, 0), (3, 0), (5, 1), (6, 1)])
@pytest.mark.parametrize("ascend", [True, False])
def test_without_it_more_slots_than_the_engines_are_warned_of(start, slots, times, ascend):
    config = {"scheduler_config": {"dyntra_lb_config": {"enabled": not ascend}}}
    assert start(config, ascend=ascend, slots=slots).count(TOO_MANY) == times
