"""What the traffic has taught, in a file: read at the start, written now and then and at the end."""

import gc
import logging
import os
import subprocess
import sys

import pytest

import balanceroute as br
from balanceroute.engines import memory as module
from balanceroute.engines.memory import Memory

log = logging.getLogger("test.memory")


def router(ends=0):
    found = br.Router([br.WorkerConfig(4, kv_capacity_tokens=10_000)] * 2)
    for id in range(ends):
        found.adopt(id, 1_000 + id, id % 2)
        found.progress_request(id, 7)
        found.finish(id)
    return found


def written(memory):
    """Whether what it writes without waiting is there."""
    memory._writing.join(10)
    return not memory._writing.is_alive()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "learned")


def content(path):
    with open(path, "rb") as file:
        return file.read()


def complaints(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_without_a_name_there_is_none():
    assert Memory.of(None, router(), True, log) is None


def test_it_goes_on_where_another_has_ended(path, caplog):
    first = router()
    memory = Memory(path, first, True, log)
    assert not memory.recalled and memory.in_words() == f"keeps what it learns in {path}"
    for id in range(30):
        first.adopt(id, 1_000 + id, id % 2)
        first.progress_request(id, 7)
        first.finish(id)
    memory.close()
    second = router()
    again = Memory(path, second, True, log)
    assert again.recalled and again.in_words() == f"goes on from what {path} has learned"
    assert second.learned() == first.learned() != router().learned()
    assert written(again) and content(path) == first.learned()
    assert os.listdir(os.path.dirname(path)) == ["learned"] and complaints(caplog) == []


def test_it_is_written_now_and_then(path, monkeypatch):
    of = router(3)
    memory = Memory(path, of, True, log)
    assert written(memory)
    begun = content(path)
    of.enqueue(99, 5_000)
    memory.keep()
    assert written(memory) and content(path) == begun
    monkeypatch.setattr(module, "_EVERY", 0.0)
    memory.keep()
    assert written(memory) and content(path) == of.learned() != begun


def test_one_of_several_writes_and_all_read(path):
    writer = Memory(path, router(5), True, log)
    writer.close()
    of = router()
    reader = Memory(path, of, False, log)
    assert reader.recalled and of.learned() == content(path)
    os.unlink(path)
    reader.keep()
    reader.close()
    assert not os.path.exists(path)
    nothing = Memory(path, of, False, log)
    assert not nothing.recalled and nothing.in_words() == "nothing learned yet"


@pytest.mark.parametrize("spoil", [lambda b: b[:-1], lambda b: b[:7] + b"\x7f" + b[8:], lambda b: b[:8]])
def test_what_is_not_of_this_version_is_begun_anew(path, caplog, spoil):
    with open(path, "wb") as file:
        file.write(spoil(router(5).learned()))
    of = router()
    memory = Memory(path, of, True, log)
    assert not memory.recalled and of.learned() == router().learned()
    (line,) = complaints(caplog)
    assert line.startswith(f"balanceroute: nothing is learned from {path} (BALANCEROUTE_LEARNED_FILE): ")
    assert written(memory) and content(path) == of.learned()


@pytest.mark.parametrize("found", [b"root:x:0:0", b"brlearn" + bytes(2 << 20)])
def test_what_is_none_of_ours_stays_as_it_is(path, caplog, found):
    with open(path, "wb") as file:
        file.write(found)
    memory = Memory(path, router(5), True, log)
    memory.keep()
    memory.close()
    (line,) = complaints(caplog)
    assert "nothing is learned from, or written to" in line and "no file of ours" in line
    assert content(path) == found and memory.in_words() == "nothing learned yet"


def test_an_empty_file_is_a_beginning(path, caplog):
    open(path, "wb").close()
    memory = Memory(path, router(5), True, log)
    assert not memory.recalled and written(memory)
    assert content(path) == router(5).learned() and complaints(caplog) == []


def test_a_folder_that_is_not_there_is_named_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "_EVERY", 0.0)
    memory = Memory(str(tmp_path / "no" / "learned"), router(5), True, log)
    for _ in range(3):
        assert written(memory)
        memory.keep()
    (line,) = complaints(caplog)
    assert "what is learned cannot be written to" in line and "No such file" in line
    memory.close()


def test_without_threads_it_is_said_and_goes_on(path, monkeypatch, caplog):
    def none(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module, "_EVERY", 0.0)
    monkeypatch.setattr(module.threading.Thread, "start", none)
    of = router(5)
    memory = Memory(path, of, True, log)
    memory.keep()
    (line,) = complaints(caplog)
    assert "can't start new thread" in line
    memory.close()
    assert content(path) == of.learned()


def test_a_folder_is_no_file(tmp_path, caplog):
    Memory(str(tmp_path), router(5), True, log)
    assert "it is no file of ours" in complaints(caplog)[0] and os.listdir(tmp_path) == []


def test_the_end_of_the_process_writes_it(path):
    lives = (
        "import sys, logging, balanceroute as br\n"
        "from balanceroute.engines.memory import Memory\n"
        "of = br.Router([br.WorkerConfig(4)])\n"
        "memory = Memory(sys.argv[1], of, True, logging.getLogger())\n"
        "of.adopt(1, 1_234, 0); of.progress_request(1, 7); of.finish(1)\n"
    )
    subprocess.run([sys.executable, "-c", lives, path], check=True, cwd=os.path.dirname(path))
    of = br.Router([br.WorkerConfig(4)])
    of.adopt(1, 1_234, 0)
    of.progress_request(1, 7)
    of.finish(1)
    assert content(path) == of.learned()


def test_one_that_is_forgotten_writes_it(path):
    of = router()
    memory = Memory(path, of, True, log)
    assert written(memory)
    of.enqueue(1, 500)
    del memory
    gc.collect()
    assert content(path) == of.learned()


def test_learned_begins_as_is_looked_for():
    assert router().learned().startswith(module._HEAD)
