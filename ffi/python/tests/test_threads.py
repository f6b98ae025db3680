"""Threads, signal handlers, forks and panics: a call is answered or refused, and nobody waits for ever.

What may hang or end the process runs in one of its own.
"""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import balanceroute as br
from balanceroute import _native

ALONE = """
import faulthandler, os, signal, sys, threading, time
import numpy as np
import balanceroute as br
faulthandler.dump_traceback_later(50, exit=True)

def pool(waiting, workers=8, slots=8, **more):
    made = br.Router([br.WorkerConfig(slots)] * workers, **more)
    for id in range(waiting):
        made.enqueue(id, 1 + id % 4000)
    return made
"""


def alone(tmp_path, source):
    done = subprocess.run(
        [sys.executable, "-c", ALONE + source],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=90,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_signal_handler_may_call_the_object_that_is_called(tmp_path):
    """Wherever it strikes: also while an error of that object is put into words, and while its answer is
    made.
    """
    told = alone(
        tmp_path,
        """
router, assigner = pool(1000, 64), br.Assigner("level")
columns = (np.arange(8) * 100, np.ones(8, int), np.arange(1, 200))
calls, wrong = 0, []

def handler(*_):
    global calls
    calls += 1
    try:
        router.waiting_len, router.metrics(), assigner.assign(*columns), repr(router)
        router.enqueue(0, 5)
    except br.BalanceRouteError:
        pass
    except BaseException as error:
        wrong.append(error)
    # From now on, not from the last time: where it takes longer than the interval nothing else would run.
    if time.monotonic() < until:
        signal.setitimer(signal.ITIMER_REAL, 0.0005)

class Loud:
    # Python code in every way to look at it.
    def __repr__(self): return "loud" * len(self.__class__.__name__)
    __str__ = __repr__

until, at = time.monotonic() + 2, 10**6
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0005)
while time.monotonic() < until:
    at += 1
    router.step(at)
    for refused in (
        lambda: router.enqueue(3, 5),
        lambda: router.place(at, 5, at, bonus_tokens=Loud()),
        lambda: router.step(at, bonus_tokens={1: np.array(["x"])}),
        lambda: router.finish(10**9),
        lambda: assigner.assign(*columns[:2], np.array([1.5])),
        lambda: assigner.assign(*columns, rank=Loud()),
        lambda: br.Assigner(parameters={"level.deserve": 1}),
    ):
        try:
            refused()
        except br.BalanceRouteError as error:
            repr(error), str(error)
    assigner.assign(*columns)
    router.waiting(), router.explain(3)
signal.setitimer(signal.ITIMER_REAL, 0, 0)
assert not wrong, wrong
print(calls)
""",
    )
    assert int(told) > 50


def test_four_threads_and_a_timer(tmp_path):
    """Every call of a router from four threads while the main thread's handler calls it too: bounded, and
    nobody is lost.
    """
    told = alone(
        tmp_path,
        """
router = pool(0, 8, expire_after_ms=10**9)
wrong, calls, spare = [], 0, [br.WorkerConfig(2)]

def handler(*_):
    global calls
    calls += 1
    router.metrics(), router.waiting(), router.waiting_len

def work(mine):
    bonus = np.full(8, 3, np.float32)
    for at in range(500):
        id = mine * 10**6 + at
        for call in (
            lambda: router.enqueue(id, 10 + at, rank=mine if at % 5 == 0 else None),
            lambda: router.step(at, bonus_tokens={id: bonus[: len(router.worker_ids)]} if at % 3 else None),
            lambda: router.explain(id),
            lambda: router.enqueue(id, 1),
            lambda: router.advance(),
            lambda: router.report(mine, running=1, kv_used_tokens=50),
            lambda: router.remove_worker(router.add_worker(spare[0])),
            lambda: router.waiting(),
            lambda: router.metrics(),
            lambda: router.finish(id),
            lambda: router.abort(id),
        ):
            try:
                call()
            except br.BalanceRouteError:
                pass
            except BaseException as error:
                wrong.append(error)
    # On a busy machine the handler comes seldom: it is to have struck while others call.
    while calls <= 5 and time.monotonic() < until:
        router.metrics(), router.waiting()

until = time.monotonic() + 30
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
threads = [threading.Thread(target=work, args=(mine,)) for mine in range(4)]
[thread.start() for thread in threads]
while any(thread.is_alive() for thread in threads):
    router.running_len
    time.sleep(0.001)
signal.setitimer(signal.ITIMER_REAL, 0, 0)
[thread.join() for thread in threads]
assert not wrong, wrong
found = router.metrics()
left = found.finished + found.aborted + sum(found.returned.values())
assert found.arrived == left + found.waiting + found.running, found
assert found.arrived == 2000 and calls > 5, (found, calls)
print("done")
""",
    )
    assert told == "done\n"


def ticks_of_another_thread(what):
    """How often another thread runs while these calls are made, and nobody is made to let the GIL go."""
    size = 20_000
    assigner, prompts = br.Assigner("least-kv"), np.arange(1, size)
    found = br.Router([br.WorkerConfig(1)] * 40, policy="least-kv")
    for id in range(size):
        found.enqueue(id, 1 + id % 4_000, rank=id % 40)
    at = 0

    def call():
        nonlocal at
        at += 1
        if what == "assign":
            assigner.assign(np.arange(8), np.ones(8, int), prompts, reasons=True)
        elif what == "step":
            found.step(at)
        elif what == "remove_worker":
            found.remove_worker(found.worker_ids[-1])
        else:
            getattr(found, what)()

    ticks, stop = 0, False

    def tick():
        nonlocal ticks
        while not stop:
            ticks += 1
            time.sleep(0)

    thread = threading.Thread(target=tick)
    thread.start()
    before = sys.getswitchinterval()
    try:
        sys.setswitchinterval(1_000)
        at_first = ticks
        until = time.perf_counter() + 3
        for _ in range(38 if what == "remove_worker" else 2_000):
            call()
            if ticks > at_first + 3 or time.perf_counter() > until:
                break
        return ticks - at_first
    finally:
        sys.setswitchinterval(before)
        stop = True
        thread.join()


@pytest.mark.skipif(not hasattr(sys, "setswitchinterval"), reason="needs an interpreter with a GIL")
@pytest.mark.parametrize("what", ["step", "waiting", "metrics", "remove_worker", "assign"])
def test_long_calls_let_the_gil_go(what):
    """Another thread runs only if the call itself lets it. On a busy machine that one may not get a
    processor in time: it has some more chances.
    """
    assert any(ticks_of_another_thread(what) > 0 for _ in range(10)), what


FORKED = """
router = pool(700, 36, 1, policy="exact", backend="reference")
assigner = br.Assigner("exact", backend="reference")
quiet, idle = pool(3), br.Assigner("level")
columns = (np.arange(36) * 50, np.ones(36, int), np.arange(1, 700))
few = (np.array([10, 20]), np.array([1, 1]), np.array([5, 6, 7]))
idle.assign(*few)
inside = threading.Event()

def work():
    inside.set()
    {long}

def refused(call):
    try:
        call()
    except br.BalanceRouteError as error:
        return error.kind

thread = threading.Thread(target=work)
thread.start()
inside.wait()
time.sleep(0.1)
child = os.fork()
if child == 0:
    code = 1
    try:
        signal.alarm(20)
        assert [refused(call) for call in ({calls})] == ["Forked"] * {count}
        # What nobody was inside of goes on, in a thread of the child as well.
        assert len(quiet.step(0).admissions) == 3 and len(idle.assign(*few)) == 2
        other = threading.Thread(target=lambda: quiet.enqueue(9, 5))
        other.start(), other.join()
        assert quiet.waiting_len == 1
        code = 0
    finally:
        os._exit(code)
assert thread.is_alive(), "the call was meant to last"
assert os.waitpid(child, 0)[1] == 0, "the child"
thread.join()
assert router.running_len >= 0 and len(assigner.assign(*few)) == 2
print("done")
"""


@pytest.mark.skipif(not hasattr(sys.modules["os"], "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("long", "calls"),
    [
        (
            "router.step(0)",
            [
                "lambda: router.waiting_len",
                "lambda: router.step(1)",
                "lambda: router.enqueue(9999, 5)",
                "router.metrics",
                "lambda: repr(router)",
            ],
        ),
        ("assigner.assign(*columns)", ["lambda: assigner.assign(*few)", "lambda: assigner.backend"]),
    ],
)
def test_a_fork_in_the_middle_of_a_call(tmp_path, long, calls):
    source = (
        FORKED.replace("{long}", long)
        .replace("{calls}", ", ".join(calls) + ",")
        .replace("{count}", str(len(calls)))
    )
    assert alone(tmp_path, source) == "done\n"


faults = pytest.mark.skipif(not hasattr(_native, "_fault"), reason="built without the feature `faults`")


@faults
def test_a_panic_is_an_error_of_the_call():
    found = br.Router([br.WorkerConfig(1)] * 2)
    for id in range(3):
        found.enqueue(id, 100)
    found.step(0)
    with pytest.raises(br.PanicError, match="the library has failed inside: asked for") as info:
        _native._fault(found)
    assert isinstance(info.value, br.BalanceRouteError) and isinstance(info.value, Exception)
    assert (info.value.kind, info.value.message) == ("Panicked", "asked for")
    for call in (
        lambda: found.waiting_len,
        lambda: found.enqueue(2, 5),
        lambda: found.step(0),
        found.metrics,
        lambda: repr(found),
    ):
        with pytest.raises(
            br.BalanceRouteError, match="an earlier call has failed inside: `recover`"
        ) as info:
            call()
        assert info.value.kind == "Broken" and not isinstance(info.value, br.PanicError)
    back = found.recover()
    assert sorted(returned.id for returned in back) == [0, 1, 2] and {
        returned.reason for returned in back
    } == {"recovered"}
    assert sorted(str(returned.worker) for returned in back) == ["0", "1", "None"]
    # A router again: nobody is there, and who came back may come again.
    assert found.waiting_len == found.running_len == 0 and found.recover() == []
    found.enqueue(1, 100)
    found.report(0, running=0, kv_used_tokens=0, last_dispatch=1)
    assert [dispatch.id for dispatch in found.step(1).admissions] == [1]
    assert found.metrics().returned["recovered"] == 3


@faults
def test_an_assigner_decides_on_after_a_panic():
    columns = (np.array([10, 20]), np.array([1, 1]), np.array([5, 6, 7]))
    for backend in ("auto", "reference"):
        assigner = br.Assigner("level", backend=backend, parameters={"max_passed": 1})
        expected, described = assigner.assign(*columns), assigner.backend
        for _ in range(3):
            with pytest.raises(br.PanicError):
                _native._fault(assigner)
            assert assigner.assign(*columns) == expected and assigner.backend == described


@faults
def test_threads_that_wait_behind_a_panic_are_answered():
    found = br.Router([br.WorkerConfig(2)] * 2)
    kinds = []

    def work():
        for _ in range(200):
            try:
                _native._fault(found)
            except br.BalanceRouteError as error:
                kinds.append(error.kind)

    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(kinds) == ["Broken"] * 799 + ["Panicked"]
