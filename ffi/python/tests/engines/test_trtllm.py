"""The TensorRT-LLM-shaped example against duck-typed ranks and requests."""

import importlib.util
import random
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

path = Path(__file__).parents[2] / "examples" / "trtllm_router.py"
spec = importlib.util.spec_from_file_location("trtllm_router", path)
example = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)


@dataclass
class RankState:
    rank: int
    num_active_requests: int = 0
    num_active_tokens: int = 0


def item(name, length, rank=None, relax=True):
    params = SimpleNamespace(attention_dp_rank=rank, attention_dp_relax=relax)
    return SimpleNamespace(
        id=name, request=SimpleNamespace(input_token_ids=[0] * length, py_scheduling_params=params)
    )


def test_every_request_gets_a_rank_and_tokens_are_level():
    rng = random.Random(2)
    router = example.BalancedRouting()
    states = [RankState(r, 20 + r, 8000 + 300 * r) for r in range(8)]
    new = [item(i, rng.randint(10, 2000)) for i in range(64)]
    assigned, most = router.route_requests(states, new, 40)
    assert sorted(i.id for items in assigned.values() for i in items) == list(range(64))
    active = [s.num_active_requests + len(assigned[s.rank]) for s in states]
    assert most == max(active) <= 40
    loads = [
        s.num_active_tokens + sum(len(i.request.input_token_ids) for i in assigned[s.rank]) for s in states
    ]
    assert max(loads) - min(loads) < 600, loads
    # Every rank decides for itself, from the same input: alike.
    again, _ = example.BalancedRouting().route_requests(states, new, 40)
    assert {r: [i.id for i in items] for r, items in again.items()} == {
        r: [i.id for i in items] for r, items in assigned.items()
    }


def test_named_ranks_are_honoured_while_they_have_room():
    router = example.BalancedRouting()
    states = [RankState(0, 1, 100), RankState(1, 3, 9000)]
    new = [item("soft", 50, rank=1), item("hard", 50, rank=1, relax=False), item("free", 50)]
    assigned, most = router.route_requests(states, new, 4)
    assert [i.id for i in assigned[1]] == ["hard"]
    assert sorted(i.id for i in assigned[0]) == ["free", "soft"]
    assert most == 4


@pytest.mark.parametrize("policy", ["level", "br0", "longest-first"])
def test_nothing_is_dropped_beyond_the_slots(policy):
    router = example.BalancedRouting()
    router.policy = policy
    states = [RankState(r, 3, 100) for r in range(2)]
    assigned, most = router.route_requests(states, [item(i, 10 + i) for i in range(5)], 4)
    assert sum(len(items) for items in assigned.values()) == 5
    assert router.route_requests(states, [], 4) == ({0: [], 1: []}, 3)
