"""What is handed over and answered: equal where its fields are, and copied and pickled as any other value."""

import copy
import pickle

import numpy as np
import pytest

import balanceroute as br


def answers():
    router = br.Router(
        [br.WorkerConfig(1, kv_capacity_tokens=9_000)] * 2, policy="exact", explaining=True, headroom_steps=0
    )
    for id in range(4):
        router.enqueue(id, 100 + id)
    router.enqueue(9, 100_000)
    plan = router.step(0)
    [gone] = plan.returned
    told, waits = router.explain(plan.admissions[0].id), router.explain(router.waiting()[0][0])
    metrics = router.metrics()
    return {
        "worker": br.WorkerConfig(3, kv_capacity_tokens=500, weight=1.5),
        "no bound": br.WorkerConfig(3),
        "traffic": br.Traffic(1, 2, 3, 4),
        "assignment": br.assign(np.array([1, 2]), np.array([1, 0]), np.array([5, 6]), reasons=True),
        "plan": plan,
        "balance": plan.before,
        "dispatch": plan.admissions[0],
        "returned": gone,
        "explanation": told,
        "runner-up": told.runner_up,
        "metrics": metrics,
        "rank": metrics.ranks[0],
        "reports": metrics.ranks[0].reports,
        "histogram": metrics.wait_ms,
        "finished": router.finish(plan.admissions[0].id),
        # Last: a NaN is not equal to itself.
        "waits": waits,
    }


FOUND = answers()
FIELDS = {
    what: [name for name in dir(of) if not name.startswith("_") and not callable(getattr(of, name))]
    for what, of in FOUND.items()
}
WAYS = {
    "copy": copy.copy,
    "deep copy": copy.deepcopy,
    **{
        f"pickle {protocol}": lambda of, protocol=protocol: pickle.loads(pickle.dumps(of, protocol))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}


@pytest.mark.parametrize("what", FOUND)
@pytest.mark.parametrize("way", WAYS)
def test_a_copy_is_what_it_was_made_of(what, way):
    of = FOUND[what]
    made = WAYS[way](of)
    assert type(made) is type(of) and repr(made) == repr(of)
    if what != "waits":
        assert made == of and not made != of


@pytest.mark.parametrize("what", FOUND)
def test_a_copy_is_not_shared_deep_down(what):
    of = FOUND[what]
    made = copy.deepcopy(of)
    for name in FIELDS[what]:
        if isinstance(getattr(of, name), (list, dict, np.ndarray)):
            assert getattr(made, name) is not getattr(of, name)


def test_every_field_counts():
    one, other = br.WorkerConfig(3), FOUND["worker"]
    assert one == br.WorkerConfig(3, kv_capacity_tokens=None, weight=1) and one != other
    assert (
        one != br.WorkerConfig(4)
        and one != br.WorkerConfig(3, kv_capacity_tokens=1)
        and one != br.WorkerConfig(3, weight=2)
    )
    fields = (1, 2, 3, 4)
    assert br.Traffic(*fields) == br.Traffic(*fields)
    for at in range(4):
        assert br.Traffic(*fields) != br.Traffic(
            *(value + (at == place) for place, value in enumerate(fields))
        )
    first, second = FOUND["plan"].admissions
    assert (
        first != second
        and first != FOUND["returned"]
        and first != (first.id, first.worker)
        and first is not None
    )
    assert br.assign(np.array([1, 2]), np.array([1, 0]), np.array([5, 6])) != FOUND["assignment"]


def test_what_holds_no_list_may_be_a_key():
    for what in (
        "worker",
        "no bound",
        "traffic",
        "balance",
        "dispatch",
        "returned",
        "explanation",
        "runner-up",
        "rank",
        "reports",
        "finished",
    ):
        of = FOUND[what]
        assert {of: 1}[copy.copy(of)] == 1, what
    assert len({br.WorkerConfig(1), br.WorkerConfig(1), br.WorkerConfig(2)}) == 2
    for what in ("plan", "metrics", "histogram", "assignment"):
        with pytest.raises(TypeError, match="unhashable"):
            hash(FOUND[what])


def test_a_configuration_that_was_copied_serves():
    worker = pickle.loads(pickle.dumps(br.WorkerConfig(2, kv_capacity_tokens=1_000, weight=2)))
    found = br.Router(copy.deepcopy([worker] * 3)).metrics().ranks
    assert [(rank.slots, rank.kv_capacity_tokens) for rank in found] == [(2, 1_000)] * 3
    columns = (np.array([1, 2]), np.array([1, 1]), np.array([5, 6]))
    assert br.assign(*columns, traffic=copy.copy(br.Traffic(10, 5, 2, 8))) == br.assign(
        *columns, traffic=br.Traffic(10, 5, 2, 8)
    )


def test_a_histogram_is_of_a_kind_that_can_be():
    of = FOUND["histogram"]
    assert pickle.loads(pickle.dumps(of)).quantile(0.5) == of.quantile(0.5)
    for buckets, count in (
        (of.buckets[1:], of.count),
        (of.buckets, of.count + 1),
        ([2**63] * 40, 0),
        ([], 0),
    ):
        with pytest.raises(br.ArgumentError):
            type(of)(buckets, of.sum, count)


def test_what_has_a_state_is_not_copied():
    for of in (br.Router([]), br.Assigner()):
        for way in WAYS.values():
            with pytest.raises(TypeError):
                way(of)
        assert of == of and of != type(of)(*([[]] if isinstance(of, br.Router) else []))


def test_errors_travel():
    with pytest.raises(br.BalanceRouteError) as info:
        br.Router([br.WorkerConfig(1)]).step(0, bonus_tokens={7: np.array([np.inf], np.float32)})
    for way in WAYS.values():
        made = way(info.value)
        assert (
            type(made) is br.ArgumentError
            and made.facts == info.value.facts
            and made.id == 7
            and str(made) == str(info.value)
        )
