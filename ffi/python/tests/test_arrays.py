"""Arrays of every layout and kind, in every argument: read as they are meant, or refused by name, and never
taken for absent.
"""

import numpy as np
import pytest

import balanceroute as br

WORKERS, WAITING, AHEAD = 5, 7, 3
RNG = np.random.default_rng(4)

BONUS = RNG.integers(-900, 900, (WAITING, WORKERS)).astype(np.float32)
MAY = RNG.integers(0, 2, (WAITING, WORKERS)).astype(bool)
MAY[:, 2] = True
COLUMNS = {
    "load_tokens": RNG.integers(1_000, 9_000, WORKERS),
    "free_slots": np.array([1, 0, 2, 1, 1]),
    "prompt_tokens": RNG.integers(1, 4_000, WAITING),
    "running": np.array([3, 1, 4, 1, 5]),
    "kv_capacity_tokens": np.array([90_000, -1, 80_000, 70_000, -1]),
    "kv_used_tokens": RNG.integers(9_000, 20_000, WORKERS),
    "kv_growth_tokens": RNG.integers(0, 500, WORKERS),
    "weight": np.array([1, 1.5, 1, 2, 1], np.float32),
    "accepting": np.array([True, True, True, False, True]),
    "next_completion_steps": np.array([4, -1, 9, 2, 7]),
    "ids": RNG.permutation(1_000)[:WAITING],
    "waited_steps": RNG.integers(0, 40, WAITING),
    "passed": RNG.integers(0, 40, WAITING),
    "priority": np.array([0, -3, 0, 5, 5, 0, -128]),
    "deadline_steps": np.array([-1, 30, -1, -1, 2, -1, -1]),
    "rank": np.array([-1, -1, 2, -1, -1, -1, 4]),
    "pair_row": np.array([0, 1, 2, -1, 4, 5, 6]),
    "survival_class": np.array([0, -1, 1, 1, 0, -1, 0]),
}
MATRICES = {
    "projection": RNG.integers(1_000, 9_000, (WORKERS, AHEAD + 1)).astype(np.uint64),
    "bonus_tokens": BONUS,
    "eligible": MAY,
    "class_survival": np.linspace(1, 0.2, 2 * (AHEAD + 1)).reshape(2, -1).astype(np.float32),
}
ENDS = (np.array([0, 1, 1, 3, 3, 4], np.uint32), np.array([2, 5, 9, 1]), np.array([900, 100, 50, 7]))


def unaligned(of):
    copy = np.empty(of.nbytes + 1, np.uint8)[1:].view(of.dtype).reshape(of.shape)
    copy[...] = of
    assert of.itemsize == 1 or not copy.flags.aligned
    return copy


def spread(of):
    """Every entry beside one that is wrong."""
    wide = np.ones(tuple(2 * side for side in of.shape), of.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in of.shape)]
    view[...] = of
    assert of.size == 1 or not view.flags.c_contiguous
    return view


def backwards(of):
    turned = tuple(slice(None, None, -1) for _ in of.shape)
    return of[turned].copy()[turned]


class Derived(np.ndarray):
    """No other meaning, another name."""


LAYOUTS = {
    "unaligned": unaligned,
    "spread": spread,
    "backwards": backwards,
    "fortran": np.asfortranarray,
    "read-only": lambda of: np.frombuffer(of.tobytes(), of.dtype).reshape(of.shape),
    "derived": lambda of: of.view(Derived),
}
ARGUMENTS = [*COLUMNS, *MATRICES, "ends[0]", "ends[1]", "ends[2]"]


def decided(policy="exact", **changed):
    given = {**COLUMNS, **MATRICES}
    ends = [changed.pop(f"ends[{at}]", part) for at, part in enumerate(ENDS)]
    given.update(changed)
    first = [given.pop(name) for name in ("load_tokens", "free_slots", "prompt_tokens")]
    found = br.Assigner(policy).assign(
        *first,
        **given,
        ends=tuple(ends),
        traffic=br.Traffic(2_000, 900, 300, 100),
        reasons=True,
    )
    columns = (found.row, found.worker, found.score_tokens, found.wait_reason)
    return [column.tolist() for column in columns]


def argument(name):
    return ENDS[int(name[5])] if name.startswith("ends") else {**COLUMNS, **MATRICES}[name]


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_means_the_same(name, layout):
    for policy in ("exact", "level"):
        assert decided(policy, **{name: LAYOUTS[layout](argument(name))}) == decided(policy)


@pytest.mark.parametrize("name", ["bonus_tokens", "eligible", "weight", "load_tokens", "pair_row"])
def test_the_arguments_of_these_tests_matter(name):
    neutral = {
        "pair_row": np.full(WAITING, -1),
        "weight": np.ones(WORKERS, np.float32),
        "load_tokens": np.zeros(WORKERS, int),
    }
    other = neutral.get(name, np.zeros_like(argument(name)))
    assert decided(**{name: other}) != decided()


@pytest.mark.parametrize("name", ARGUMENTS)
def test_what_would_have_to_be_guessed_is_refused_by_name(name):
    right = argument(name)
    swapped = right.astype(right.dtype.newbyteorder())
    wrong = {
        "masked": np.ma.MaskedArray(right, mask=np.zeros(right.shape, bool)),
        "hidden": np.ma.MaskedArray(right, mask=np.ones(right.shape, bool)),
        "objects": right.astype(object),
        "text": right.astype("U8"),
        "complex": right.astype(complex),
        "dates": right.astype(np.int64).astype("datetime64[s]"),
        "records": np.zeros(right.shape, np.dtype([("a", np.int64)])),
        "no dimension": right.ravel()[0:1].reshape(()),
        "one more dimension": right[None],
        "a list": right.tolist(),
        "a tuple": tuple(right.tolist()),
        "a scalar": right.ravel()[0],
        "bytes": right.tobytes(),
        "another object": object(),
    }
    if right.dtype.itemsize > 1:
        wrong["byte order"] = swapped
    for what, found in wrong.items():
        with pytest.raises(br.ArgumentError) as info:
            decided(**{name: found})
        assert info.value.name == name and info.value.kind == "Array", what
        assert str(info.value).startswith(f"{name}: expected "), what


@pytest.mark.parametrize("name", ["bonus_tokens", "class_survival", "projection", "eligible"])
def test_matrices_have_the_types_that_are_named(name):
    right = argument(name)
    takes = {"bonus_tokens": (np.float32, np.float16), "eligible": (np.bool_, np.uint8)}.get(
        name, (right.dtype,)
    )
    every = (
        np.bool_,
        np.int8,
        np.uint8,
        np.int32,
        np.uint32,
        np.int64,
        np.uint64,
        np.float16,
        np.float32,
        np.float64,
    )
    for dtype in every:
        if dtype in takes:
            decided(**{name: right.astype(dtype)})
            continue
        with pytest.raises(
            br.ArgumentError, match=f"{name}: expected a two-dimensional numpy array of"
        ) as info:
            decided(**{name: right.astype(dtype)})
        assert np.dtype(dtype).name in info.value.found


@pytest.mark.parametrize("byte", [1, 2, 128, 255])
@pytest.mark.parametrize("workers", [4, 64, 65, 130])
def test_any_byte_but_zero_is_true(byte, workers):
    """As in numpy: a view of bytes as `bool` holds what the bytes hold."""
    loads, free = np.arange(workers) + 5, np.ones(workers, int)
    for only in {0, 1, workers // 2, workers - 1}:
        raw = np.zeros((1, workers), np.uint8)
        raw[0, only] = byte
        for may in (raw, raw.view(bool), spread(raw).view(bool)):
            found = br.assign(loads, free, np.array([10]), eligible=may, pair_row=np.array([0]))
            assert found.worker.tolist() == [only]
        found = br.assign(loads, free, np.array([10]), accepting=raw[0].view(bool))
        assert found.worker.tolist() == [only]
        raw = np.full((1, workers), byte, np.uint8)
        raw[0, 0] = 0
        found = br.assign(loads, free, np.array([10]), eligible=raw.view(bool), pair_row=np.array([0]))
        assert found.worker.tolist() == [1]
        found = br.assign(loads, free, np.array([10]), accepting=raw[0])
        assert found.worker.tolist() == [1]


@pytest.mark.parametrize("workers", [1, 7, 8, 63, 64, 71, 130])
def test_every_flag_is_of_its_worker(workers):
    """Each request may use one worker of its own, and each worker has one slot."""
    own = RNG.permutation(workers)
    raw = np.zeros((workers, workers), np.uint8)
    raw[np.arange(workers), own] = RNG.integers(1, 256, workers)
    for may in (raw, spread(raw), np.asfortranarray(raw).view(bool)):
        found = br.assign(
            np.zeros(workers, int),
            np.ones(workers, int),
            np.full(workers, 9),
            eligible=may,
            pair_row=np.arange(workers),
        )
        assert len(found) == workers and (own[found.row] == found.worker).all()


def test_views_that_show_more_than_memory_holds_are_refused():
    many = 1 << 40
    endless = lambda of, *shape: np.broadcast_to(np.array(of), shape)  # noqa: E731
    for name, found in {
        "bonus_tokens": endless(np.float32(1), many, WORKERS),
        "eligible": endless(True, many, WORKERS),
        "class_survival": endless(np.float32(1), many, AHEAD + 1),
        "ends[1]": endless(1, many),
    }.items():
        with pytest.raises(br.ArgumentError, match="at most") as info:
            decided(**{name: found, **({"bonus_tokens": None} if name == "eligible" else {})})
        assert info.value.name == name
    with pytest.raises(br.BatchError) as info:
        decided(projection=endless(np.uint64(1), WORKERS, many), class_survival=None)
    assert info.value.kind == "Horizon" and info.value.found == many - 1
    with pytest.raises(br.BatchError) as info:
        decided(load_tokens=endless(1, many))
    assert info.value.kind == "TooManyWorkers"
    with pytest.raises(br.BatchError) as info:
        decided(prompt_tokens=endless(1, many))
    assert info.value.kind == "TooManyWaiting"


@pytest.mark.parametrize(
    ("offsets", "kind"),
    [
        ([0, 100, 1], "PredictedEnd"),
        ([0, 2**32 - 1, 1], "PredictedEnd"),
        ([1, 1, 1], "PredictedEnd"),
        ([100, 100, 1], "PredictedEnd"),
        ([0, 0, 100], "Length"),
        ([0, 0, 0], "Length"),
    ],
)
def test_offsets_that_leave_the_ends_are_refused(offsets, kind):
    assigner = br.Assigner("level")
    columns = (np.array([10, 20]), np.array([1, 1]), np.array([5, 6, 7]))
    expected = assigner.assign(*columns).row.tolist()
    with pytest.raises(br.BatchError) as info:
        assigner.assign(*columns, ends=(np.array(offsets), np.array([3]), np.array([7])))
    assert info.value.kind == kind
    assert assigner.assign(*columns).row.tolist() == expected


def test_a_refused_call_leaves_nothing_behind():
    assigner = br.Assigner("exact")
    given = {name: part for name, part in {**COLUMNS, **MATRICES}.items()}
    three = [given.pop(name) for name in ("load_tokens", "free_slots", "prompt_tokens")]
    before = assigner.assign(*three).row.tolist()
    for name, found in {
        "bonus_tokens": BONUS * np.nan,
        "eligible": MAY[:, :2],
        "survival_class": np.full(WAITING, 2),
    }.items():
        with pytest.raises(br.BalanceRouteError):
            assigner.assign(*three, **{**given, name: found})
        assert assigner.assign(*three).row.tolist() == before


# ---- rows that requests bring to a router ----

ROW = np.array([0, 0, 900, 0], np.float32)


def router(**more):
    return br.Router([br.WorkerConfig(2)] * 4, policy="exact", **more)


def by_step(row, id=1):
    found = router()
    found.enqueue(1, 100)
    [dispatch] = found.step(0, bonus_tokens={id: row}).admissions
    return dispatch.worker


def by_place(row):
    return router(mode="arrival").place(1, 100, 0, bonus_tokens=row).worker


@pytest.mark.parametrize("asked", [by_step, by_place])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_every_layout_of_a_row_means_the_same(asked, layout, dtype):
    assert asked(LAYOUTS[layout](ROW.astype(dtype))) == 2


def test_rows_are_all_looked_at_before_any_is_used():
    """Also those of ids that nobody knows; a refused call leaves everything as it was."""
    wrong = {
        "nan": (ROW * np.nan, "Range"),
        "inf": (np.array([0, np.inf, 0, 0], np.float32), "Range"),
        "half inf": (np.array([0, -np.inf, 0, 0], np.float16), "Range"),
        "too much": (np.array([0, 0, 0, 2.0**30 + 128], np.float32), "Range"),
        "short": (ROW[:3], "Array"),
        "long": (np.zeros(5, np.float32), "Array"),
        "empty": (np.zeros(0, np.float32), "Array"),
        "endless": (np.broadcast_to(ROW[:1], (1 << 40,)), "Array"),
        "two dimensions": (ROW[None], "Array"),
        "float64": (ROW.astype(float), "Array"),
        "whole": (ROW.astype(int), "Array"),
        "objects": (ROW.astype(object), "Array"),
        "masked": (np.ma.MaskedArray(ROW, mask=[0, 0, 1, 0]), "Array"),
        "byte order": (ROW.astype(ROW.dtype.newbyteorder()), "Array"),
        "no dimension": (np.array(np.float32(1)), "Array"),
        "a list": (ROW.tolist(), "Array"),
        "an object": (object(), "Array"),
        "none": (None, "Array"),
    }
    for what, (row, kind) in wrong.items():
        for unknown in (False, True):
            found = router(expire_after_ms=1_000)
            for id in range(12):
                found.enqueue(id, 100)
            with pytest.raises(br.ArgumentError) as info:
                found.step(5_000, bonus_tokens={3: ROW, 77 if unknown else 4: row})
            assert info.value.kind == kind and info.value.name == "bonus_tokens", what
            if kind == "Range":
                assert info.value.id == (77 if unknown else 4), what
            metrics = found.metrics()
            assert (metrics.waiting, metrics.running, metrics.now_ms, metrics.step) == (12, 0, 0, 0), what
            assert len(found.waiting()) == 12 and found.explain(4).decided == "waits", what
            assert len(found.step(1).admissions) == 8 and len(found.step(2_000).returned) == 4, what
        if what == "none":
            continue
        found = router(mode="arrival")
        with pytest.raises(br.ArgumentError) as info:
            found.place(1, 100, 5_000, bonus_tokens=row)
        assert info.value.kind == kind, what
        assert found.metrics().now_ms == 0 and found.waiting_len == found.running_len == 0, what
        assert found.place(1, 100, 1).id == 1, what


def test_two_rows_for_one_request_are_refused():
    class Also:
        def __index__(self):
            return 3

    found = router()
    found.enqueue(3, 10)
    with pytest.raises(
        br.ArgumentError, match="bonus_tokens of request 3: expected one row, found two"
    ) as info:
        found.step(0, bonus_tokens={3: ROW, Also(): ROW})
    assert info.value.id == 3 and found.waiting_len == 1


def test_a_dict_that_changes_as_it_is_read():
    """What a key or a value does as it is read is its own affair: the dict is read as it was."""
    rows, parameters = {}, {}

    class Key:
        def __index__(self):
            rows[len(rows) + 100] = ROW
            return 1

    class Value:
        def __float__(self):
            parameters.clear()
            return 0.5

    rows.update({Key(): ROW, 2: ROW})
    found = router()
    found.enqueue(1, 10)
    assert [dispatch.worker for dispatch in found.step(0, bonus_tokens=rows).admissions] == [2]
    parameters.update({"level.repair_tolerance_spread": Value(), "max_passed": 1})
    br.Assigner("level", parameters=parameters)
    assert not parameters
