"""Columns of every kind, what is refused and how it is said, threads and the GIL."""

import pickle
import threading
import time

import numpy as np
import pytest

import balanceroute as br

LOADS = np.array([40_000, 43_000, 41_000], np.uint64)
FREE = np.array([1, 1, 0], np.uint32)
PROMPTS = np.array([900, 3_100, 5_200, 700], np.uint32)


def picks(found):
    return list(zip(found.row.tolist(), found.worker.tolist(), found.score_tokens.tolist()))


def test_an_answer():
    found = br.assign(LOADS, FREE, PROMPTS, reasons=True)
    assert len(found) == 2 and sorted(found.worker.tolist()) == [0, 1]
    assert (
        found.row.dtype == np.uint32
        and found.worker.dtype == np.uint32
        and found.score_tokens.dtype == np.float64
    )
    waiting = [br.WaitReason(reason) for reason in found.wait_reason]
    assert waiting.count(br.WaitReason.ADMITTED) == 2 and waiting.count(br.WaitReason.NO_SLOT) == 2
    assert found.before.envelope_tokens == 43_000 and found.before.imbalance_tokens == 3 * 43_000 - 124_000
    assert "Assignment(row=" in repr(found) and "envelope_tokens=43000.0" in repr(found.before)
    assert br.assign(LOADS, FREE, PROMPTS).wait_reason is None
    assert len(br.assign(LOADS, FREE, PROMPTS[:0])) == 0


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, np.uint16, np.uint32, np.uint64])
def test_any_whole_type_and_stride(dtype):
    expected = picks(br.assign(LOADS, FREE, PROMPTS))
    wide = lambda of: np.repeat(of.astype(dtype), 3)[::3]  # noqa: E731
    backwards = lambda of: of.astype(dtype)[::-1].copy()[::-1]  # noqa: E731
    unaligned = lambda of: np.frombuffer(b"x" + of.astype(dtype).tobytes(), dtype, offset=1)  # noqa: E731
    loads = LOADS if dtype in (np.int16, np.uint16) else LOADS.astype(dtype)
    for view in (wide, backwards, unaligned):
        assert picks(br.assign(loads, view(FREE), view(PROMPTS))) == expected
    with pytest.raises(br.ArgumentError, match="byte order"):
        br.assign(loads, FREE, PROMPTS.astype(np.dtype(dtype).newbyteorder()))


def test_none_in_a_column():
    for rank in (np.array([-1, 1, -1, -1]), np.array([2**32 - 1, 1, 2**32 - 1, 2**32 - 1], np.uint32)):
        found = br.assign(LOADS, FREE, PROMPTS, rank=rank)
        assert {row: worker for row, worker, _ in picks(found)}.get(1, 1) == 1
    bounded = br.assign(LOADS, FREE, PROMPTS, kv_capacity_tokens=np.array([40_800, -1, -1]), reasons=True)
    assert all(PROMPTS[row] <= 800 for row, worker, _ in picks(bounded) if worker == 0)


def test_rows_and_ids_mean_the_same():
    rng = np.random.default_rng(3)
    for policy in ("level", "exact", "br0", "least-kv"):
        assigner = br.Assigner(policy)
        for _ in range(30):
            waiting = int(rng.integers(1, 200))
            prompts = rng.integers(1, 5_000, waiting).astype(np.uint32)
            ids = rng.permutation(10_000)[:waiting].astype(np.uint64)
            assert picks(assigner.assign(LOADS, FREE * 3, prompts)) == picks(
                assigner.assign(LOADS, FREE * 3, prompts, ids=ids)
            )


def test_half_and_full_bonuses():
    bonus = np.array([[0, 3_000, 0], [512, 0, 0]], np.float32)
    rows = np.array([0, 1, -1, -1])
    full = br.assign(LOADS, FREE, PROMPTS, pair_row=rows, bonus_tokens=bonus)
    half = br.assign(LOADS, FREE, PROMPTS, pair_row=rows, bonus_tokens=bonus.astype(np.float16))
    assert picks(full) == picks(half) != picks(br.assign(LOADS, FREE, PROMPTS))


def test_more_than_a_word_of_workers():
    loads, free = np.full(70, 1_000, np.uint64), np.ones(70, np.uint32)
    may = np.zeros((2, 70), bool)
    may[0, 69] = may[1, 3] = True
    found = br.assign(loads, free, np.array([10, 20]), pair_row=np.array([0, 1]), eligible=may)
    assert dict(zip(found.row.tolist(), found.worker.tolist())) == {0: 69, 1: 3}


def refused(error, match, **facts):
    caught = pytest.raises(error, match=match)

    class Checked:
        def __enter__(self):
            self.info = caught.__enter__()

        def __exit__(self, *of):
            done = caught.__exit__(*of)
            for name, value in facts.items():
                assert getattr(self.info.value, name) == value
                assert name == "kind" or self.info.value.facts[name] == value
            return done

    return Checked()


def test_refusals_carry_their_numbers():
    with refused(
        br.BatchError,
        "request 1 .*prompt tokens must be in",
        kind="PromptTokens",
        index=1,
        found=0,
        limit=1 << 22,
    ):
        br.assign(LOADS, FREE, np.array([5, 0]))
    with refused(br.BatchError, "id already waits at index 0", kind="DuplicateId", index=2, id=7, first=0):
        br.assign(LOADS, FREE, PROMPTS, ids=np.array([7, 8, 7, 9]))
    with refused(br.BatchError, "at least one worker", kind="NoWorkers"):
        br.assign(LOADS[:0], FREE[:0], PROMPTS)
    with refused(br.BatchError, "rank must be below 3", kind="Rank", index=0, workers=3, found=3):
        br.assign(LOADS, FREE, PROMPTS, rank=np.array([3, -1, -1, -1]))
    with refused(br.BatchError, "at most 1024", kind="TooManyWorkers", found=1025):
        br.assign(np.zeros(1025, int), np.zeros(1025, int), PROMPTS)
    with refused(br.PolicyError, "'levle'|\"levle\"", kind="Unknown", found="levle"):
        br.assign(LOADS, FREE, PROMPTS, policy="levle")
    with refused(br.PolicyError, "level.deserve", kind="ParameterName"):
        br.Assigner(parameters={"level.deserve": 1})
    with refused(br.PolicyError, "max_passed", kind="Parameter", found=1e9):
        br.Assigner(parameters={"max_passed": 1e9})
    with refused(br.PolicyError, "set max_passed instead", kind="Gone", instead="max_passed"):
        br.Assigner(parameters={"level.aging_spread": 0.1})
    with refused(br.PolicyError, "mmx", kind="Isa", found="mmx"):
        br.Assigner(isa="mmx")
    with refused(br.ArgumentError, "auto, cpu, .*reference", kind="Backend"):
        br.Assigner(backend="abacus")
    with refused(
        br.ArgumentError, "free_slots: expected 3 entries, found 2", kind="Array", name="free_slots"
    ):
        br.assign(LOADS, FREE[:2], PROMPTS)
    with refused(
        br.ArgumentError, "prompt_tokens, entry 2: .*found -4", kind="Range", name="prompt_tokens", index=2
    ):
        br.assign(LOADS, FREE, np.array([1, 2, -4]))
    with refused(br.ArgumentError, "load_tokens: expected a one-dimensional numpy array, found list"):
        br.assign([1, 2], FREE[:2], PROMPTS)
    with refused(br.ArgumentError, "2 dimensions"):
        br.assign(LOADS.reshape(1, 3), FREE, PROMPTS)
    with refused(br.ArgumentError, "whole numbers, found float64"):
        br.assign(LOADS.astype(float), FREE, PROMPTS)
    with refused(br.ArgumentError, "whole numbers, found object"):
        br.assign(np.array([None, 1, 2]), FREE, PROMPTS)
    with refused(br.ArgumentError, "float32 or float64"):
        br.assign(LOADS, FREE, PROMPTS, weight=np.array([1, 1, 1]))
    with refused(br.ArgumentError, r"bonus_tokens: expected shape \(any, 3\)"):
        br.assign(LOADS, FREE, PROMPTS, bonus_tokens=np.zeros((2, 4), np.float32))
    with refused(br.ArgumentError, "float32 or float16, found 2 dimensions of float64"):
        br.assign(LOADS, FREE, PROMPTS, bonus_tokens=np.zeros((2, 3)))
    with refused(br.ArgumentError, "projection"):
        br.assign(LOADS, FREE, PROMPTS, projection=np.zeros((3, 0), np.uint64))
    with refused(br.ArgumentError, "survival_class, entry 0: .*0..=255"):
        br.assign(LOADS, FREE, PROMPTS, survival_class=np.array([256, 0, 0, 0]))
    with refused(br.BatchError, "offsets", kind="PredictedEnd"):
        br.assign(LOADS, FREE, PROMPTS, ends=(np.array([0, 2, 1, 2]), np.array([1, 2]), np.array([5, 5])))
    with pytest.raises(TypeError):
        br.assign(LOADS, FREE)
    with pytest.raises(OverflowError):
        br.assign(LOADS, FREE, PROMPTS, request_growth_tokens=-1)


def test_errors_are_what_they_look_like():
    with pytest.raises(ValueError) as info:
        br.assign(LOADS, FREE, np.array([0]))
    error = info.value
    assert isinstance(error, br.BatchError) and isinstance(error, br.BalanceRouteError)
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and again.facts == error.facts and again.index == 0
    with pytest.raises(AttributeError, match="no fact 'nothing'"):
        error.nothing


def test_threads_share_one_assigner():
    rng = np.random.default_rng(5)
    assigner = br.Assigner()
    steps = [rng.integers(1, 5_000, int(rng.integers(1, 400))).astype(np.uint32) for _ in range(40)]
    expected = [picks(br.assign(LOADS, FREE, step)) for step in steps]
    wrong = []

    def work(offset):
        for at in range(2_000):
            step = (at + offset) % len(steps)
            if picks(assigner.assign(LOADS, FREE, steps[step])) != expected[step]:
                wrong.append(step)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong


def test_the_gil_is_free_while_it_decides():
    """Another thread runs Python code during one long decision: the oracle on a large step."""
    rng = np.random.default_rng(6)
    assigner = br.Assigner("exact", backend="reference")
    loads, free = rng.integers(1_000, 9_000, 36).astype(np.uint64), np.ones(36, np.uint32)
    prompts = rng.integers(1, 5_000, 300).astype(np.uint32)
    inside, ticks, gap = threading.Event(), 0, 0.0

    def decide():
        inside.set()
        assigner.assign(loads, free, prompts)
        inside.clear()

    thread = threading.Thread(target=decide)
    start = last = time.perf_counter()
    thread.start()
    inside.wait()
    while thread.is_alive() and inside.is_set():
        now = time.perf_counter()
        gap, last = max(gap, now - last), now
        ticks += 1
        time.sleep(0)
    took = time.perf_counter() - start
    thread.join()
    assert took > 0.1, "the decision is meant to last"
    assert ticks > 100 and gap < took / 2, (ticks, gap, took)
