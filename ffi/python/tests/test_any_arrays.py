"""Arrays of any type, layout and contents in any argument, several at a time: each means what numpy shows, or
is refused by name. `BALANCEROUTE_EXAMPLES` sets how many are drawn, anew each time; without it a few hundred
are, always the same ones.
"""

import os

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import balanceroute as br

EXAMPLES = os.environ.get("BALANCEROUTE_EXAMPLES")
DRAWN = settings(
    max_examples=int(EXAMPLES or 400),
    derandomize=EXAMPLES is None,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

WORKERS, WAITING, AHEAD = 4, 5, 2
WHOLE = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
FLAGS = ("?", "u1")
# Per argument: its shape, the types that it takes, and what its entries are mostly like.
SHAPES = {
    "load_tokens": ((WORKERS,), WHOLE, "tokens"),
    "free_slots": ((WORKERS,), WHOLE, "few"),
    "prompt_tokens": ((WAITING,), WHOLE, "tokens"),
    "running": ((WORKERS,), WHOLE, "few"),
    "kv_capacity_tokens": ((WORKERS,), WHOLE, "optional"),
    "kv_used_tokens": ((WORKERS,), WHOLE, "tokens"),
    "kv_growth_tokens": ((WORKERS,), WHOLE, "few"),
    "weight": ((WORKERS,), ("f4", "f8"), "real"),
    "accepting": ((WORKERS,), FLAGS, "flags"),
    "next_completion_steps": ((WORKERS,), WHOLE, "optional"),
    "ids": ((WAITING,), WHOLE, "names"),
    "waited_steps": ((WAITING,), WHOLE, "few"),
    "passed": ((WAITING,), WHOLE, "few"),
    "priority": ((WAITING,), WHOLE, "signed"),
    "deadline_steps": ((WAITING,), WHOLE, "optional"),
    "rank": ((WAITING,), WHOLE, "rank"),
    "pair_row": ((WAITING,), WHOLE, "rank"),
    "survival_class": ((WAITING,), WHOLE, "class"),
    "projection": ((WORKERS, AHEAD + 1), ("u8",), "tokens"),
    "bonus_tokens": ((WAITING, WORKERS), ("f4", "f2"), "real"),
    "eligible": ((WAITING, WORKERS), FLAGS, "flags"),
    "class_survival": ((2, AHEAD + 1), ("f4",), "share"),
}
OPTIONAL = (
    "kv_capacity_tokens",
    "next_completion_steps",
    "deadline_steps",
    "rank",
    "pair_row",
    "survival_class",
)
OTHER_TYPES = ("c8", "M8[s]", "U3", "O", "V4", "f16")


def sound(name):
    """What an argument is where nothing is drawn for it."""
    shape, types, like = SHAPES[name]
    count = int(np.prod(shape))
    entries = {
        "tokens": 100 + 37 * np.arange(count) % 91,
        "few": 1 + np.arange(count) % 3,
        "optional": np.where(np.arange(count) % 2, -1, 90_000),
        "real": 0.5 + np.arange(count) % 3,
        "flags": np.ones(count, bool),
        "names": 7 + 3 * np.arange(count),
        "signed": np.arange(count) % 3 - 1,
        "rank": np.where(np.arange(count) % 2, -1, 1 + np.arange(count) % 3),
        "class": np.arange(count) % 3 - 1,
        "share": np.linspace(1, 0.2, count),
    }[like]
    return entries.astype(types[0] if len(types) != len(WHOLE) else "i8").reshape(shape)


def outcome(arguments):
    """What a call comes to: its answer, or what it says of the argument that it refuses."""
    given = dict(arguments)
    first = [given.pop(name) for name in ("load_tokens", "free_slots", "prompt_tokens")]
    try:
        found = br.Assigner("exact").assign(*first, **given, reasons=True)
    except br.ArgumentError as error:
        return ("argument", error.kind, error.name)
    except br.BatchError as error:
        return ("batch", error.kind)
    columns = (found.row, found.worker, found.score_tokens, found.wait_reason)
    return ("done", *[column.tolist() for column in columns])


def meant(name, array):
    """The array as numpy shows it: aligned, contiguous, of one type. None: it has to be refused by name."""
    shape, types, _ = SHAPES[name]
    native = array.dtype.byteorder in "=|" or array.dtype.newbyteorder("=") == array.dtype
    if array.dtype.newbyteorder("=").str[1:] not in [np.dtype(kind).str[1:] for kind in types]:
        return None
    if not native or array.ndim != len(shape):
        return None
    if types == FLAGS:
        # As numpy does: whatever is not zero is true.
        return np.array([byte != 0 for byte in array.tobytes()], bool).reshape(array.shape)
    if types != WHOLE:
        return np.array(array.tolist(), array.dtype).reshape(array.shape)
    entries = array.tolist()
    if name in OPTIONAL and array.dtype.kind == "u":
        entries = [-1 if entry == np.iinfo(array.dtype).max else entry for entry in entries]
    if name == "ids" and array.dtype.kind == "u":
        return np.array(entries, np.uint64)
    # Beyond what this type holds nothing else is sound.
    return np.array([min(entry, 2**63 - 1) for entry in entries], np.int64)


def unaligned(of):
    copy = np.empty(of.nbytes + 1, np.uint8)[1:].view(of.dtype).reshape(of.shape)
    copy[...] = of
    return copy


def spread(of):
    """Every entry beside one that is wrong."""
    wide = np.zeros(tuple(3 * side for side in of.shape), of.dtype)
    wide.view(np.uint8)[...] = 0x7F
    view = wide[tuple(slice(1, None, 3) for _ in of.shape)]
    view[...] = of
    return view


def backwards(of):
    turned = tuple(slice(None, None, -1) for _ in of.shape)
    return of[turned].copy()[turned]


def read_only(of):
    copy = of.copy()
    copy.flags.writeable = False
    return copy


LAYOUTS = {
    "as it is": lambda of: of,
    "unaligned": unaligned,
    "spread": spread,
    "backwards": backwards,
    "unaligned and backwards": lambda of: unaligned(of[::-1].copy())[::-1],
    "by columns": np.asfortranarray,
    "read-only": read_only,
    "one for all": lambda of: (
        np.broadcast_to(of.ravel()[:1].reshape((1,) * of.ndim), of.shape) if of.size else of
    ),
}


@st.composite
def arrays(draw, name):
    """An array for an argument: of a type that it takes or of another, of its shape or of another."""
    shape, types, like = SHAPES[name]
    kind = np.dtype(draw(st.sampled_from(types)))
    if draw(st.integers(0, 15)) == 0:
        kind = np.dtype(draw(st.sampled_from(WHOLE + FLAGS + ("f2", "f4", "f8") + OTHER_TYPES)))
    if draw(st.integers(0, 15)) == 0:
        kind = kind.newbyteorder()
    if draw(st.integers(0, 15)) == 0:
        shape = tuple(draw(st.lists(st.integers(0, 6), min_size=0, max_size=3)))
    count = int(np.prod(shape))
    if kind.kind in "iufcb" and kind.itemsize <= 8 and kind.kind != "c":
        if like == "flags" or draw(st.integers(0, 7)) == 0:
            # Any bytes at all, as a view of a buffer of another library's.
            raw = draw(st.binary(min_size=count * kind.itemsize, max_size=count * kind.itemsize))
            array = np.frombuffer(raw, kind).reshape(shape).copy()
        else:
            numbers = {
                "tokens": st.integers(1, 120),
                "few": st.integers(0, 3),
                "optional": st.integers(-1, 127),
                "names": st.integers(0, 127),
                "signed": st.integers(-3, 3),
                "rank": st.integers(-1, WORKERS),
                "class": st.integers(-1, 2),
                "real": st.sampled_from([0.0, -0.0, 0.5, 1.0, 64.0, -1.0, 1e-40, np.nan, np.inf]),
                "share": st.sampled_from([0.0, 0.25, 1.0, 1.0, 1.5, np.nan]),
            }[like]
            entries = draw(st.lists(numbers, min_size=count, max_size=count))
            if kind.kind == "u":
                entries = [abs(entry) for entry in entries]
            with np.errstate(all="ignore"):
                whole = np.array(entries, float)
                array = (whole if kind.kind == "f" else np.nan_to_num(whole)).astype(kind).reshape(shape)
    else:
        array = np.zeros(shape, kind)
    layout = draw(st.sampled_from(sorted(LAYOUTS)))
    return array if kind.hasobject or array.ndim == 0 else LAYOUTS[layout](array)


CALLS = st.lists(st.sampled_from(sorted(SHAPES)), min_size=1, max_size=4, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: arrays(name) for name in names})
)


@given(CALLS)
@DRAWN
def test_an_array_means_what_numpy_shows(drawn):
    base = {name: sound(name) for name in SHAPES}
    assert outcome(base)[0] == "done"
    shown = {name: meant(name, array) for name, array in drawn.items()}
    found = outcome({**base, **drawn})
    refused = [name for name, array in shown.items() if array is None]
    if refused:
        # Whichever is looked at first; one of the others may be wrong by its contents.
        others = outcome({**base, **{name: array for name, array in shown.items() if array is not None}})
        assert (
            found == others or found[0] == "argument" and found[1:] in [("Array", name) for name in refused]
        )
        assert found[0] != "done"
    else:
        assert found == outcome({**base, **shown})


@given(st.data())
@DRAWN
def test_a_row_of_a_request_means_what_numpy_shows(data):
    """Rows that requests bring to a step of a router."""

    def step(row):
        router = br.Router([br.WorkerConfig(1)] * WORKERS, policy="exact")
        router.enqueue(1, 100)
        try:
            return [dispatch.worker for dispatch in router.step(0, bonus_tokens={1: row}).admissions]
        except br.ArgumentError as error:
            assert router.waiting_len == 1 and router.metrics().step == 0
            return (error.kind, error.name)

    kind = np.dtype(data.draw(st.sampled_from(["f4", "f2", "f4", "f2", "f8", "i4", ">f4", "<f4", ">f2"])))
    entries = st.one_of(st.floats(width=16), st.sampled_from([-0.0, 2.0**30, 65_504.0, 2.0**31, 1e-40]))
    row = data.draw(st.lists(entries, min_size=WORKERS - 1, max_size=WORKERS + 1))
    with np.errstate(all="ignore"):
        row = LAYOUTS[data.draw(st.sampled_from(sorted(LAYOUTS)))](np.array(row).astype(kind))
    found = step(row)
    is_range = any(not abs(entry) <= 2.0**30 for entry in row.tolist())
    if kind.str not in ("<f4", "<f2"):
        assert found == ("Array", "bonus_tokens")
    elif len(row) != WORKERS:
        # Whichever is looked at first.
        assert found == ("Array", "bonus_tokens") or is_range and found == ("Range", "bonus_tokens")
    elif is_range:
        assert found == ("Range", "bonus_tokens")
    else:
        # Whole tokens count, and the first of equals is taken.
        tokens = [float(np.floor(entry + 0.5)) for entry in row.tolist()]
        assert found == step(np.array(row.tolist(), np.float32))
        assert found == [tokens.index(max(tokens))] or len(set(tokens)) < WORKERS
