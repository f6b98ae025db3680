"""Routers that are recorded, that go on from a log, and logs that are fed to a router again."""

import copy
import os
import pickle
import struct
import subprocess
import sys
import zlib

import pytest

import balanceroute as br
from balanceroute import prometheus

SMALL = {"segment_bytes": 1 << 16, "segments": 2}


def recorded(folder, workers=2, slots=2, **more):
    router = br.Router([br.WorkerConfig(slots)] * workers, **more)
    router.record(folder)
    return router


def test_a_router_goes_on_from_its_log(tmp_path):
    router = recorded(tmp_path / "own", explaining=True)
    for id in range(6):
        router.enqueue(id, 100 + id, now_ms=1)
    sent = {(of.id, of.worker, of.number) for of in router.step(2).admissions}
    router.progress_request(router.running()[0][0], 3)
    # Whoever asks a router that was killed and one that goes on from it hears the same.
    before, waiting, running = router.metrics(), router.waiting(), router.running()
    assert set(running) == sent and router.recording.folder == tmp_path / "own"
    with pytest.raises(br.RecordError, match="another router records into") as info:
        br.Router.resume(tmp_path / "own")
    assert info.value.kind == "InUse" and info.value.path == tmp_path / "own"
    del router
    router = br.Router.resume(str(tmp_path / "own"), **SMALL)
    assert (router.waiting(), router.running(), router.explaining) == (waiting, running, True)
    after = router.metrics()
    assert (after.arrived, after.running, after.now_ms) == (before.arrived, before.running, 2)
    assert after.recorded_calls == before.recorded_calls == router.recording.calls
    assert router.generated_tokens(running[0][0]) == 3
    assert {of.id for of in router.unseen()} == {id for id, _, _ in running[1:]}
    assert router.resend(5) == router.unseen() and router.metrics().now_ms == 5
    assert router.policy == "level" and router.backend


def test_what_was_answered_and_not_carried_out_is_told_again(tmp_path):
    router = recorded(tmp_path)
    for id in range(5):
        router.enqueue(id, 100)
    router.step(0)
    assert router.untold() == br.Untold(returned=[], preempted=[])
    [put_off, *_] = [id for id, worker, _ in router.running() if worker == 0]
    again = router.preempt_request(put_off)
    gone = router.remove_worker(1)
    assert len(gone) == 2
    del router
    router = br.Router.resume(tmp_path)
    assert router.untold() == br.Untold(returned=gone, preempted=[again])
    router.enqueue(put_off, again.prompt_tokens, generated_tokens=again.generated_tokens)
    router.enqueue(gone[0].id, 100)
    assert router.untold() == br.Untold(returned=gone[1:], preempted=[])
    router.step(1)
    assert router.untold() == br.Untold(returned=[], preempted=[])
    assert br.Router([]).untold() == br.Untold(returned=[], preempted=[])


def test_what_cannot_be_is_said(tmp_path):
    file = tmp_path / "file"
    file.write_text("no folder")
    router = br.Router([br.WorkerConfig(1)])
    for folder, more, kind, text in (
        (file, {}, "Io", "cannot create .*file"),
        (tmp_path / "a", {"segment_bytes": 10}, "Config", r"segment_bytes must be in 65536\.\."),
        (tmp_path / "a", {"segments": 1}, "Config", "segments must be in 2"),
    ):
        with pytest.raises(br.RecordError, match=text) as info:
            router.record(folder, **more)
        assert info.value.kind == kind
    assert router.recording is None and router.stop_recording() is None
    with pytest.raises(br.RecordError, match="is no recording and has none"):
        br.Router.resume(tmp_path / "empty")
    with pytest.raises(br.RecordError) as info:
        br.replay(tmp_path / "nowhere")
    assert pickle.loads(pickle.dumps(info.value)).facts == info.value.facts
    for wrong in (1, None, b"x", "a\0b"):
        with pytest.raises((TypeError, ValueError, br.RecordError)):
            router.record(wrong)
    router.record(tmp_path / "own")
    stopped = router.stop_recording()
    assert (stopped.calls, stopped.stopped, router.recording) == (0, None, None)
    assert copy.deepcopy(stopped) == stopped == pickle.loads(pickle.dumps(stopped))


def test_a_recording_that_stops_is_seen_and_the_router_goes_on(tmp_path):
    router = br.Router([br.WorkerConfig(1)])
    assert router.metrics().recording is None and router.metrics().recorded_calls is None
    assert "recording" not in prometheus.render(router.metrics())
    router.record(tmp_path / "own", **SMALL)
    router.enqueue(0, 10)
    page = prometheus.render(router.metrics())
    assert "balanceroute_recording 1\n" in page and "balanceroute_recorded_calls_total 1\n" in page
    # The next file of it cannot be made.
    in_the_way = tmp_path / "own" / "00000002.brlog"
    in_the_way.mkdir()
    for id in range(1, 10_000):
        router.enqueue(id, 10)
        router.abort(id)
    assert router.metrics().recording is False and "cannot create" in router.recording.stopped
    assert "balanceroute_recording 0\n" in prometheus.render(router.metrics())
    assert router.waiting_len == 1 and router.step(1).admissions
    # Nobody goes on from there: the log does not say how the router stands.
    del router
    in_the_way.rmdir()
    assert br.replay(tmp_path / "own").differences == 0
    with pytest.raises(br.RecordError, match="ended before its router did") as info:
        br.Router.resume(tmp_path / "own")
    assert info.value.kind == "Ended"


def test_a_forked_process_leaves_the_log_alone(tmp_path):
    router = recorded(tmp_path)
    router.enqueue(1, 10)
    child = os.fork()
    if child == 0:
        # It has a router of its own, which nobody records.
        router.enqueue(2, 10)
        os._exit(0 if router.waiting_len == 2 and router.recording is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    router.enqueue(3, 10)
    found = br.replay(tmp_path)
    assert (found.calls, found.differences, found.torn) == (2, 0, []) and router.recording.calls == 2


def frames(data):
    """Where the records of a segment lie."""
    at = 8
    while (length := struct.unpack_from("<I", data, at)[0]) > 0:
        yield at + 8, length
        at += 8 + length


def test_a_replay_counts_what_differs_and_finds_what_is_torn(tmp_path):
    router = recorded(tmp_path)
    router.enqueue(7, 100)
    router.step(0)
    for _ in range(5):
        router.advance()
    router.finish(7)
    del router
    assert br.replay(tmp_path) == br.Replayed(calls=8, differences=0, first_difference=None, torn=[])
    [segment] = tmp_path.glob("*.brlog")
    assert br.replay(segment).calls == 8
    data = bytearray(segment.read_bytes())
    *_, (at, length) = frames(data)
    # The tokens that it had generated, at the end of the last answer.
    assert data[at + length - 1] == 5
    data[at + length - 1] = 6
    struct.pack_into("<I", data, at - 4, zlib.crc32(data[at : at + length]))
    segment.write_bytes(data)
    found = br.replay(tmp_path)
    assert (found.calls, found.differences) == (8, 1)
    assert found.first_difference.startswith("call 8, Finish") and "found" in found.first_difference
    with pytest.raises(br.RecordError, match="call 8 answers otherwise than it did") as info:
        br.Router.resume(tmp_path)
    assert (info.value.kind, info.value.at) == ("Differs", 8)
    data[at + length - 1] = 7
    segment.write_bytes(data)
    found = br.replay(tmp_path)
    assert (found.calls, found.differences, found.torn) == (7, 0, [(segment, at - 8)])


RECORDS_ITSELF = """
import os, balanceroute as br
routers = [br.Router([br.WorkerConfig(1)]) for _ in range(2)]
for id, router in enumerate(routers):
    router.enqueue(id, 10)
print(*(router.recording.folder for router in routers), sep="\\n", flush=True)
os.kill(os.getpid(), 9)
"""


def run(code, folder):
    environment = {**os.environ, "BALANCEROUTE_RECORD": str(folder)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def test_the_variable_records_every_router(tmp_path):
    folders = run(RECORDS_ITSELF, tmp_path).stdout.split()
    assert len(folders) == len(set(folders)) == 2
    for id, folder in enumerate(folders):
        assert br.replay(folder).calls == 2 and br.Router.resume(folder).waiting()[0][0] == id
    with pytest.raises(br.RecordError, match="recordings of several routers: name one of router-"):
        br.replay(tmp_path)


def test_a_variable_that_cannot_be_followed_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("no folder")
    done = run(RECORDS_ITSELF, file)
    assert done.returncode == 1 and "RecordError: BALANCEROUTE_RECORD: cannot create" in done.stderr
