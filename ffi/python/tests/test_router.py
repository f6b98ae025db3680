"""The state across steps as Python sees it."""

import threading

import numpy as np
import pytest

import balanceroute as br


def router(workers=2, slots=1, **more):
    return br.Router(
        [br.WorkerConfig(slots, kv_capacity_tokens=more.pop("capacity", None))] * workers, **more
    )


def test_a_request_from_arrival_to_end():
    found = router()
    for id, tokens in ((1, 100), (2, 50), (3, 70)):
        found.enqueue(id, tokens)
    plan = found.step(0)
    assert len(plan.admissions) == 2 and plan.returned == []
    assert {dispatch.number for dispatch in plan.admissions} == {1} and plan.after.envelope_tokens > 0
    assert found.waiting_len == 1 and found.running_len == 2 and found.worker_ids == [0, 1]
    [(left, reason)] = found.waiting()
    assert reason is br.WaitReason.NO_SLOT and str(reason) == f"{reason}" == "no_slot"
    assert found.explain(left).decided == "waits" and found.explain(left).wait_reason is reason
    assert found.metrics().waiting_by_reason[reason] == 1
    done = plan.admissions[0].id
    found.advance()
    found.progress(found.running_on(done), 2)
    found.progress_request(done)
    ended = found.finish(done)
    assert (ended.id, ended.worker, ended.generated_tokens) == (done, plan.admissions[0].worker, 4)
    assert found.running_on(done) is None
    [next] = found.step(50).admissions
    assert next.id == left and next.worker == ended.worker and next.number == 2
    assert found.abort(left) == next.worker
    assert "Router(2 workers, policy='level', 0 waiting, 1 running)" == repr(found)


def test_an_overdue_request_that_fits_nowhere_claims_a_worker():
    found = router(2, 8, capacity=100_000)
    for worker in range(2):
        found.adopt(worker, 80_000 - 1_000 * worker, worker)
    found.enqueue(9, 60_000, deadline_steps=0)
    found.enqueue(10, 14_500)
    found.enqueue(11, 900, rank=1)
    assert [(dispatch.id, dispatch.worker) for dispatch in found.step(0).admissions] == []
    assert found.waiting() == [
        (9, br.WaitReason.CLAIMS),
        (10, br.WaitReason.CLAIMED),
        (11, br.WaitReason.CLAIMED),
    ]
    explained = found.explain(9)
    assert (explained.wait_reason, explained.worker) == (br.WaitReason.CLAIMS, 1)
    told = found.metrics()
    assert [rank.claimed_by for rank in told.ranks] == [None, 9]
    assert (told.claims, told.admitted_beside_claims) == (1, 0)
    assert told.waiting_by_reason[br.WaitReason.CLAIMED] == 2
    page = br.prometheus.render(told)
    assert 'balanceroute_worker_claimed{worker="1"} 1' in page and "balanceroute_claims_total 1" in page
    assert 'balanceroute_waiting_requests{reason="claims"} 1' in page
    found.finish(1)
    assert (9, 1) in [(dispatch.id, dispatch.worker) for dispatch in found.step(20).admissions]
    assert found.metrics().ranks[1].claimed_by is None


def test_the_highest_class_goes_first_but_for_the_share_of_the_others():
    found = router(1, lower_class_one_in=3)
    for id in range(8):
        found.enqueue(id, 10, priority=-1 if id < 2 else 5)
    assert found.explain(0).priority == -1 and found.metrics().waiting_by_priority == {-1: 2, 5: 6}
    order = []
    for now_ms in range(6):
        [dispatch] = found.step(now_ms).admissions
        order.append(dispatch.id < 2)
        found.finish(dispatch.id)
    # For two of the higher class there is one of the lower.
    assert order == [False, False, True, False, False, True]
    for wrong in (128, -129, 1 << 40):
        with pytest.raises(br.BatchError, match=f"request 9: priority must be in -128..=127, found {wrong}"):
            found.enqueue(9, 10, priority=wrong)
    with pytest.raises(br.RouterError, match="lower_class_one_in"):
        router(1, lower_class_one_in=1)


def test_who_is_placed_is_not_before_a_higher_class():
    found = router(1, mode="arrival")
    found.enqueue(1, 10, priority=1)
    assert found.place(2, 10, 0) is None and found.place(3, 10, 0, priority=2) is not None
    found.finish(3)
    assert found.send(2, 10, priority=7).worker == 0
    assert found.preempt_request(2).priority == 7


def test_modes_and_bonuses():
    at_once = router(4, 4, mode="arrival", explaining=True)
    first = at_once.place(1, 500, 0)
    assert first is not None and first.number == 1
    assert at_once.explain(1).decided == "arrival" and at_once.explain(1).runner_up is not None
    bonus = np.zeros(4, np.float32)
    bonus[2] = 100_000
    assert at_once.place(2, 500, 1, bonus_tokens=bonus).worker == 2
    assert at_once.place(3, 500, 1, rank=3).worker == 3
    with pytest.raises(br.ArgumentError, match="4 entries, one per worker, found 3"):
        at_once.place(4, 500, 1, bonus_tokens=bonus[:3])
    assert at_once.running_on(4) is None and at_once.waiting_len == 0

    per_step = router(4, 4, policy="exact")
    assert per_step.place(1, 500, 0) is None and per_step.waiting_len == 1
    per_step.enqueue(2, 500)
    plan = per_step.step(1, bonus_tokens={1: bonus, 77: bonus})
    assert {dispatch.id: dispatch.worker for dispatch in plan.admissions}[1] == 2
    with pytest.raises(br.ArgumentError, match="one per worker"):
        per_step.step(2, bonus_tokens={1: bonus[:3]})
    with pytest.raises(br.ArgumentError, match="float32"):
        per_step.step(2, bonus_tokens={1: bonus.astype(float)})

    mixed = router(2, 2, mode=3)
    assert mixed.place(1, 10, 0) is not None and mixed.place(2, 10, 0) is None
    with pytest.raises(br.ArgumentError, match="'step', 'arrival'"):
        router(mode="sometimes")


def test_reports_and_workers():
    found = router(2, 4, capacity=10_000, dispatch_timeout_ms=100, headroom_steps=0)
    found.enqueue(1, 1_000)
    [dispatch] = found.step(0).admissions
    seen = dict(running=0, kv_used_tokens=0, last_dispatch=0)
    assert found.report(dispatch.worker, sequence=1, **seen) == "taken"
    assert found.report(dispatch.worker, sequence=1, **seen) == "repeated"
    assert found.step(500).returned == []
    assert found.report(dispatch.worker, sequence=2, **seen) == "taken"
    [lost] = found.step(501).returned
    assert (lost.id, lost.worker, lost.reason) == (1, dispatch.worker, "lost_dispatch")
    with pytest.raises(br.RouterError, match="only 1 were made") as info:
        found.report(dispatch.worker, sequence=3, running=0, kv_used_tokens=0, last_dispatch=9)
    assert (info.value.kind, info.value.sent, info.value.found) == ("Dispatch", 1, 9)

    joined = found.add_worker(br.WorkerConfig(2, weight=1.5))
    assert joined == 2 and found.worker_ids == [0, 1, 2]
    found.enqueue(5, 10, rank=joined)
    assert found.step(502).admissions[0].worker == joined
    found.drain_worker(joined)
    assert not found.is_drained(joined)
    [back] = found.remove_worker(joined)
    assert (back.id, back.reason) == (5, "worker_removed") and found.worker_ids == [0, 1]
    with pytest.raises(br.UnknownWorkerError) as info:
        found.progress(joined)
    assert info.value.found == joined and isinstance(info.value, LookupError)
    found.set_accepting(0, False)
    found.set_accepting(1, False)
    found.enqueue(6, 10)
    assert found.step(503).admissions == []
    found.set_accepting(0, True)
    assert found.step(504).admissions[0].worker == 0
    found.adopt(9, 100, 1, generated_tokens=3)
    assert found.preempt(9) == 103


def test_the_clock_of_a_call():
    """After an idle minute a request that comes with the time has waited none; a refused call leaves the
    clock as it was.
    """
    found = router(1, 1, expire_after_ms=1_000)
    found.enqueue(1, 10, now_ms=5_000)
    assert len(found.step(5_000).admissions) == 1
    found.enqueue(2, 10, now_ms=65_000)
    found.finish(1, now_ms=65_010)
    plan = found.step(65_020)
    assert [dispatch.id for dispatch in plan.admissions] == [2] and plan.returned == []
    assert found.metrics().wait_ms.sum == 20 and found.metrics().now_ms == 65_020
    for refused in (
        lambda: found.enqueue(2, 10, now_ms=66_000),
        lambda: found.finish(9, now_ms=66_000),
        lambda: found.abort(9, now_ms=66_000),
        lambda: found.report(7, running=0, kv_used_tokens=0, now_ms=66_000),
    ):
        with pytest.raises(br.BalanceRouteError):
            refused()
        assert found.metrics().now_ms == 65_020
    assert (
        found.report(0, running=1, kv_used_tokens=10, last_dispatch=2, now_ms=66_000) == "taken"
        and found.metrics().now_ms == 66_000
    )
    found.enqueue(3, 10)
    found.abort(2, now_ms=66_500)
    assert found.metrics().now_ms == 66_500 and found.metrics().clock_jumps == 0
    # A clock that was set is no time that has passed.
    assert [dispatch.id for dispatch in found.step(9_000_000).admissions] == [3]
    assert found.metrics().clock_jumps == 1
    with pytest.raises(TypeError):
        found.finish(3, 5)


def test_a_router_begins_anew():
    found = router(2, 1)
    for id in range(3):
        found.enqueue(id, 100)
    plan = found.step(0)
    back = {returned.id: returned for returned in found.recover()}
    assert set(back) == {0, 1, 2} and all(returned.reason == "recovered" for returned in back.values())
    assert all(back[dispatch.id].worker == dispatch.worker for dispatch in plan.admissions)
    assert (
        found.recover() == [] and found.waiting_len == found.running_len == 0 and found.worker_ids == [0, 1]
    )
    # What runs there holds its slots until a report says otherwise.
    found.enqueue(0, 100)
    assert found.step(1).admissions == [] and found.metrics().ranks[0].foreign_requests == 1
    found.report(1, running=0, kv_used_tokens=0, last_dispatch=1)
    [dispatch] = found.step(2).admissions
    assert (dispatch.id, dispatch.worker, dispatch.number) == (0, 1, 2)
    assert found.metrics().returned["recovered"] == 3


def test_rows_of_a_step_end_with_the_step():
    """A worker joins after a step with bonuses: nobody asks for rows of another width."""
    for more in (0, 1, 8):
        found = router(2, 1)
        for id in range(2 + more):
            found.enqueue(id, 100 + id)
        rows = {id: np.full(2, 5, np.float32) for id in range(2 + more)}
        assert len(found.step(0, bonus_tokens=rows).admissions) == 2
        found.set_accepting(found.add_worker(br.WorkerConfig(1)), False)
        assert len(found.waiting()) == more == found.metrics().waiting
        assert more == 0 or found.explain(found.waiting()[0][0]).decided == "waits"
        assert found.step(1).admissions == []
        found.set_accepting(2, True)
        rows = {id: np.full(3, 5, np.float32) for id in range(2 + more)}
        assert len(found.step(2, bonus_tokens=rows).admissions) == min(more, 1)


def test_the_window_is_a_parameter_of_every_policy():
    assert "candidate_window" in br.PARAMETERS
    columns = (np.zeros(2, int), np.array([1, 0]), np.array([500, 400, 1]))
    for policy in ("level", "exact", "longest-first", "br0"):
        all_of_them = br.assign(*columns, policy=policy, reasons=True)
        narrow = br.Assigner(policy, parameters={"candidate_window": 2})
        for _ in range(2):
            found = narrow.assign(*columns, reasons=True)
            assert len(found) == len(all_of_them) == 1 and found.row[0] < 2, policy
            assert found.wait_reason.tolist().count(br.WaitReason.ADMITTED) == 1
    with pytest.raises(br.PolicyError, match="candidate_window"):
        br.Assigner(parameters={"candidate_window": 0})


def test_refusals():
    found = router()
    found.enqueue(1, 100)
    with pytest.raises(br.UnknownRequestError, match="request 2 neither waits nor runs") as info:
        found.finish(2)
    assert info.value.id == 2 and info.value.kind == "Unknown"
    with pytest.raises(br.UnknownRequestError, match="request 1 waits and does not run") as info:
        found.finish(1)
    assert info.value.id == 1 and info.value.kind == "NotRunning"
    with pytest.raises(br.BatchError, match="already waits"):
        found.enqueue(1, 5)
    with pytest.raises(br.BatchError, match="prompt tokens"):
        found.enqueue(2, 0)
    with pytest.raises(OverflowError):
        found.enqueue(-1, 5)
    with pytest.raises(br.RouterError, match="share") as info:
        router(share=(2, 2))
    assert (info.value.index, info.value.of) == (2, 2)
    with pytest.raises(br.RouterError, match="refresh_steps must be in 1..=65536, found 0") as info:
        router(refresh_steps=0)
    assert info.value.kind == "Config"
    with pytest.raises(br.PolicyError):
        router(policy="levle")
    with pytest.raises(br.BatchError):
        router(1025)
    found.step(0)
    with pytest.raises(br.RouterError, match="already runs") as info:
        found.enqueue(1, 5)
    assert info.value.id == 1


def test_explanations_are_off_until_asked_for():
    found = router(2, 2)
    assert not found.explaining
    found.enqueue(1, 100)
    found.step(0)
    assert found.explain(1) is None
    found.explaining = True
    found.enqueue(2, 100)
    found.step(1)
    told = found.explain(2)
    assert told.decided == "step" and told.worker == found.running_on(2) and told.wait_reason is None
    assert told.lead_tokens == told.opening_score_tokens - told.runner_up.score_tokens


def test_threads_are_served_one_after_the_other():
    found = router(8, 64)
    failures = []

    def work(offset):
        try:
            for at in range(500):
                id = offset * 1_000 + at
                found.enqueue(id, 10 + at)
                found.step(at)
                if found.running_on(id) is not None:
                    found.finish(id)
                else:
                    found.abort(id)
        except br.UnknownRequestError as error:  # another thread's step has admitted it in between
            failures.append(error)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    metrics = found.metrics()
    assert not failures
    assert metrics.arrived == 2_000 == metrics.finished + metrics.aborted
    assert found.waiting_len == found.running_len == 0


def test_a_request_that_comes_back_goes_on():
    found = router(1, 2)
    found.enqueue(1, 1_000, prompt_hash=7)
    found.step(0)
    for _ in range(400):
        found.advance()
    tokens = found.preempt(1)
    assert tokens == 1_400
    found.enqueue(1, tokens)
    found.step(1)
    assert found.generated_tokens(1) == 400
    for _ in range(100):
        found.advance()
    assert found.finish(1).generated_tokens == 500
    # Under its id with another length it is another request; and one may say it itself.
    found.enqueue(1, 1_000)
    found.enqueue(2, 900, generated_tokens=200, cached_tokens=850)
    found.step(2)
    assert found.generated_tokens(1) == 0 and found.generated_tokens(2) == 200
    assert found.finish(2).generated_tokens == 200
    with pytest.raises(br.RouterError, match="has 10 tokens and cannot have generated 11") as refused:
        found.enqueue(3, 10, generated_tokens=11)
    assert (refused.value.kind, refused.value.limit, refused.value.found) == ("Generated", 10, 11)


def test_who_is_put_off_comes_back_whole():
    found = router(2, 2)
    told = {"max_tokens": 50, "priority": -3, "deadline_steps": 9, "prompt_hash": 77, "rank": 1}
    found.enqueue(5, 1_000, cached_tokens=600, **told)
    found.step(1)
    for _ in range(20):
        found.advance()
    again = found.preempt_request(5)
    assert again == br.Preempted(
        id=5, prompt_tokens=1_020, cached_tokens=600, generated_tokens=20, passed=0, **told
    )
    fields = "cached_tokens", "generated_tokens", "max_tokens", "deadline_steps", "prompt_hash", "rank"
    found.enqueue(again.id, again.prompt_tokens, **{name: getattr(again, name) for name in fields})
    [dispatch] = found.step(2).admissions
    assert (dispatch.prompt_tokens, dispatch.worker) == (420, 1)
    found.advance()
    assert found.finish(5).generated_tokens == 21
    with pytest.raises(br.UnknownRequestError):
        found.preempt_request(5)


def test_an_old_lifes_end_does_not_end_the_new_one():
    found = router(2, 1)
    found.enqueue(1, 100)
    [old] = found.step(0).admissions
    found.preempt(1)
    for call in (found.finish_dispatch, found.abort_dispatch):
        with pytest.raises(br.UnknownRequestError) as refused:
            call(old)
        assert refused.value.kind == "Unknown"
    found.enqueue(1, 100)
    with pytest.raises(br.UnknownRequestError) as refused:
        found.abort_dispatch(old)
    assert refused.value.kind == "OtherDispatch" and found.waiting_len == 1
    [new] = found.step(1).admissions
    with pytest.raises(br.UnknownRequestError):
        found.finish_dispatch(old)
    assert found.running_len == 1 and found.finish_dispatch(new).worker == new.worker


def test_never_fits_is_said_of_what_never_fits():
    found = router(2, 4, capacity=10_000)
    found.enqueue(1, 12_000)
    found.enqueue(2, 9_990)
    found.enqueue(3, 9_000, max_tokens=2_000)
    found.enqueue(4, 9_000, max_tokens=1_000)
    plan = found.step(0)
    assert sorted((back.id, back.reason) for back in plan.returned) == [(1, "never_fits"), (3, "never_fits")]
    assert sorted(at.id for at in plan.admissions) == [2, 4]
    # Not of what a worker could hold that is not up yet, drains, or is yet to come.
    for worker in (0, 1):
        found.report(worker, running=1, kv_used_tokens=9_500, kv_capacity_tokens=0)
    found.enqueue(5, 5_000)
    assert found.step(1).returned == []
    found.drain_worker(0)
    big = found.announce_worker(br.WorkerConfig(4, kv_capacity_tokens=50_000))
    found.enqueue(6, 40_000)
    plan = found.step(2)
    assert plan.returned == [] and plan.admissions == []
    found.set_accepting(big, True)
    assert (6, big) in [(at.id, at.worker) for at in found.step(3).admissions]
    found.remove_worker(big)
    found.enqueue(7, 40_000)
    assert [(back.id, back.reason) for back in found.step(4).returned if back.id == 7] == [(7, "never_fits")]


def test_masks_of_a_step_and_of_an_arrival():
    found = router(3, 2)
    row = np.array([False, True, False])
    for id in range(4):
        found.enqueue(id, 100)
    plan = found.step(0, eligible={0: row, 1: row, 2: row.astype(np.uint8)})
    on = {at.id: at.worker for at in plan.admissions}
    assert set(on) >= {3} and [id for id in (0, 1, 2) if on.get(id) == 1] and len(on) == 3
    [(left, reason)] = found.waiting()
    assert left in (0, 1, 2)
    for wrong in (row[:2], [True, False, True], np.ones(3, np.int64)):
        with pytest.raises(br.ArgumentError, match="eligible"):
            found.step(1, eligible={left: wrong})
    at_once = router(3, 4, mode="arrival")
    assert [at_once.place(id, 10, 0, eligible=row).worker for id in range(4)] == [1] * 4
    assert at_once.place(9, 10, 0, eligible=row) is None


def test_sending_whether_or_not_there_is_room():
    found = router(2, 1, in_order=True)
    sent = [found.send(id, 100 * id, now_ms=id).worker for id in range(1, 5)]
    assert sorted(sent) == [0, 0, 1, 1] and found.metrics().sent_beyond == 2
    found.enqueue(9, 50)
    assert found.send(9, 50, worker=1).number == 3 and found.waiting_len == 0
    # Its token shows that those before it are there.
    found.progress_request(9)
    assert found.rank_metrics(1).unseen == 0 and found.rank_metrics(0).unseen == 2
    empty = br.Router([])
    with pytest.raises(br.RouterError) as refused:
        empty.send(1, 10)
    assert refused.value.kind == "NoWorker"


def test_progress_of_many():
    found = router(2, 8)
    for id in range(10):
        found.enqueue(id, 100)
    found.step(0)
    assert found.progress_requests(np.arange(12, dtype=np.int64)) == 10
    assert found.progress_requests(np.array([3, 1, 3], np.uint64), np.array([5, 0, 2], np.uint8)) == 3
    assert [found.generated_tokens(id) for id in (0, 1, 3, 11)] == [1, 1, 8, None]
    with pytest.raises(br.RouterError) as refused:
        found.progress_requests(np.array([0, 1]), np.array([1, 1 << 23]))
    assert refused.value.kind == "Progress" and found.generated_tokens(0) == 1
    with pytest.raises(br.ArgumentError, match="tokens"):
        found.progress_requests(np.arange(3), np.arange(2))


def test_ends_that_nobody_tells():
    found = router(1, 8)
    for id in range(4):
        found.enqueue(id, 100, now_ms=1_000 * id)
        found.step(1_000 * id)
    found.progress_request(1)
    assert found.disown_sent(0, 2_000) == [0, 2]
    rank = found.rank_metrics(0)
    assert (rank.running, rank.foreign_requests, rank.foreign_tokens) == (2, 2, 200)
    assert found.metrics().disowned == 2
    # One of ours may be in this measurement or may not.
    found.report(0, running=2, kv_used_tokens=201)
    assert found.rank_metrics(0).foreign_tokens == 100
    found.progress_request(3)
    found.report(0, running=2, kv_used_tokens=202)
    assert found.rank_metrics(0).foreign_tokens == 0


def test_terms_hold_for_as_long_as_a_request_waits():
    found = router(3, 8, policy="exact")
    for id in range(3):
        found.adopt(90 + id, 1_000, id)
    found.enqueue(1, 100)
    found.set_terms(1, bonus_tokens={2: 5_000.0, 77: 1.0}, eligible=[1, 2, 77])
    found.enqueue(2, 100)
    found.set_terms(2, eligible={1})
    found.enqueue(3, 100)
    found.set_terms(3, eligible=[])
    assert {dispatch.id: dispatch.worker for dispatch in found.step(0).admissions} == {1: 2, 2: 1}
    assert found.waiting() == [(3, br.WaitReason.NOT_ELIGIBLE)]
    # In place of what was said before; and a row of the step goes before both.
    found.set_terms(3, bonus_tokens={0: -5_000, 2: 9.5})
    row = np.array([0, 9_000, 0], np.float32)
    assert found.step(1, bonus_tokens={3: row}).admissions[0].worker == 1
    # They go by the worker's id, whoever comes and goes.
    found.enqueue(4, 100)
    found.set_terms(4, bonus_tokens={2: 5_000}, eligible=[0, 2])
    found.remove_worker(1)
    found.add_worker(br.WorkerConfig(8))
    assert found.step(2).admissions[0].worker == 2
    for refused in (lambda: found.set_terms(4), lambda: found.set_terms(55, eligible=[1])):
        with pytest.raises(br.UnknownRequestError):
            refused()
    found.enqueue(5, 100)
    found.set_terms(5, eligible=[3])
    for bonus in ({0: float("nan")}, {0: 2.0**31}, {0: "many"}, {-1: 2.0}, [1.0]):
        with pytest.raises((br.BalanceRouteError, TypeError, OverflowError)):
            found.set_terms(5, bonus_tokens=bonus)
    with pytest.raises((TypeError, OverflowError)):
        found.set_terms(5, eligible=["first"])
    # What was refused has changed nothing.
    assert found.step(3).admissions[0].worker == 3


@pytest.mark.parametrize("leaves", ["step", "abort", "send", "adopt", "expire", "remove", "recover"])
def test_terms_end_with_the_wait(leaves):
    found = router(2, 2, expire_after_ms=1_000)
    found.enqueue(1, 100, rank=1 if leaves == "remove" else None, now_ms=0)
    found.set_terms(1, eligible=[1] if leaves in ("step", "remove") else [])
    match leaves:
        case "step":
            assert found.step(0).admissions[0].worker == 1
        case "send":
            found.send(1, 100)
        case "adopt":
            found.adopt(1, 100, 0)
        case "expire":
            assert [back.reason for back in found.step(5_000).returned] == ["expired"]
        case "remove":
            assert [back.id for back in found.remove_worker(1)] == [1]
        case "recover":
            assert [back.id for back in found.recover()] == [1]
    if leaves in ("step", "abort", "send", "adopt"):
        found.abort(1)
    if leaves != "remove":
        found.drain_worker(1)
    # Another request of this id may go anywhere.
    found.enqueue(1, 100)
    assert found.step(6_000).admissions[0].worker == 0


def test_a_preempted_request_comes_back_to_its_place():
    found = router(1, 1, parameters={"max_passed": 0})
    found.enqueue(1, 500)
    assert [dispatch.id for dispatch in found.step(0).admissions] == [1]
    for id in range(2, 6):
        found.enqueue(id, 100)
    found.advance()
    back = found.preempt_request(1)
    assert (back.prompt_tokens, back.generated_tokens, back.passed) == (501, 1, 0)
    # Somebody younger enters meanwhile, by another way.
    found.send(2, 100)
    found.finish(2)
    found.enqueue(1, back.prompt_tokens, generated_tokens=back.generated_tokens, passed=back.passed)
    order = []
    for step in range(4):
        [dispatch] = found.step(step).admissions
        order.append(dispatch.id)
        found.finish(dispatch.id)
    assert order == [1, 3, 4, 5]


def test_by_how_many_a_request_was_passed():
    found = router(1, 1, parameters={"max_passed": 3})
    found.adopt(90, 100, 0)
    found.enqueue(1, 100)
    found.enqueue(2, 100, passed=7)
    for id in (10, 11):
        found.send(id, 100)
    waiting = [found.explain(id).passed for id in (1, 2)]
    metrics = found.metrics()
    assert waiting == [2, 9] and metrics.most_passed_waiting == 9 and metrics.most_passed == 0
    for id in (90, 10, 11):
        found.finish(id)
    assert [dispatch.id for dispatch in found.step(0).admissions] == [2]
    # It is told what it was passed by when it goes on elsewhere.
    assert found.preempt_request(2).passed == 9
    metrics = found.metrics()
    # Of those who waited.
    assert (metrics.max_passed, metrics.most_passed, metrics.passed.sum, metrics.passed.count) == (3, 9, 9, 1)


def test_room_is_learned_and_goes_on_in_another_router():
    def full(**config) -> br.Router:
        found = br.Router([br.WorkerConfig(40, kv_capacity_tokens=200_000)] * 2, **config)
        for id in range(80):
            found.adopt(id, 2_000, id % 2)
        return found

    def room(found: br.Router) -> list[int]:
        return [rank.kv_growth_tokens for rank in found.metrics().ranks]

    found = full()
    found.advance()
    assert room(found) == [12_000] * 2, "6 % of the cache until something is known"
    for step in range(320):
        found.advance()
        if step % 4 == 0:
            found.finish(step // 4)
            found.adopt(1_000 + step, 2_000, step // 4 % 2)
    assert all(0 < tokens < 12_000 for tokens in room(found))
    learned = found.learned()
    again = full()
    again.learn(learned)
    assert again.learned() == learned
    again.advance()
    assert all(0 < tokens < 12_000 for tokens in room(again))
    with pytest.raises(br.BalanceRouteError, match="not what a router of this version has learned"):
        again.learn(learned[:-1])
    with pytest.raises(br.BalanceRouteError, match="prefill_us_per_token"):
        full(preemption_cost=(5.0, -1.0))
    dear, fixed = full(preemption_cost=(5.0, 100.0)), full(headroom_steps=10)
    dear.learn(learned)
    dear.advance()
    assert min(room(dear)) > max(room(again))
    assert room(fixed) == [400] * 2
