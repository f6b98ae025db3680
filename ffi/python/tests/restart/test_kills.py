"""A front end is killed at random moments and starts again with its log: every request ends exactly once.

Here is the world around it: clients that send what was not accepted again, engines that hold what they were
given, go on without anybody, and repeat what was not taken. `BALANCEROUTE_KILLS` says how often it dies.
"""

import collections
import fcntl
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import balanceroute as br

FRONT = Path(__file__).with_name("front.py")
KILLS = int(os.environ.get("BALANCEROUTE_KILLS", "25"))
TICK = 0.001
UNANSWERED = 40
SLOTS, WORKERS = 4, 3


class Engine:
    """One rank. `held`: by id the tokens that are left and the dispatch."""

    def __init__(self):
        self.received, self.last, self.sequence = set(), 0, 0
        self.held = {}

    def report(self):
        self.sequence += 1
        missing = [self.last - 1 - bit not in self.received for bit in range(min(64, max(self.last - 1, 0)))]
        return {
            "running": len(self.held),
            "kv_used_tokens": 300 * len(self.held),
            "sequence": self.sequence,
            "last_dispatch": self.last,
            "missing": sum(1 << bit for bit, lacks in enumerate(missing) if lacks),
        }


class World:
    def __init__(self, folder, seed):
        self.rng = random.Random(seed)
        self.folder = folder
        self.engines = {worker: Engine() for worker in range(WORKERS)}
        self.next_worker = WORKERS
        self.sent = 0
        self.open = True
        # Of clients: not accepted yet, and not answered yet.
        self.unaccepted, self.unanswered = {}, set()
        # Of engines: what happened and was not taken yet.
        self.events, self.event = collections.OrderedDict(), 0
        self.told = collections.deque(maxlen=30)
        self.finished, self.seen = collections.Counter(), collections.Counter()
        self.front, self.ready, self.stopped = None, False, None
        self.out, self.rest = b"", b""

    # The process.

    def start(self):
        self.front = subprocess.Popen(
            [sys.executable, FRONT, self.folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for pipe in (self.front.stdin, self.front.stdout):
            flags = fcntl.fcntl(pipe, fcntl.F_GETFL)
            fcntl.fcntl(pipe, fcntl.F_SETFL, flags | os.O_NONBLOCK)
        self.ready, self.out, self.rest = False, b"", b""

    def kill(self):
        os.kill(self.front.pid, signal.SIGKILL)
        assert self.front.wait() == -signal.SIGKILL, "it had ended by itself"
        # What it had said before arrives.
        self.hear()
        self.front.stdin.close()
        self.front.stdout.close()
        self.front, self.ready = None, False

    def say(self, event, *message):
        if self.ready:
            self.out += json.dumps((event, *message)).encode() + b"\n"

    def flush(self):
        if self.out and self.front is not None:
            try:
                self.out = self.out[os.write(self.front.stdin.fileno(), self.out) :]
            except (BlockingIOError, BrokenPipeError):
                pass

    def hear(self):
        while True:
            try:
                found = os.read(self.front.stdout.fileno(), 1 << 16)
            except BlockingIOError:
                return
            if not found:
                return
            *lines, self.rest = (self.rest + found).split(b"\n")
            for line in lines:
                what, *told = json.loads(line)
                getattr(self, f"on_{what}")(*told)

    def on_ready(self, *figures):
        for name, figure in zip(("sent again", "put off", "given back"), figures):
            self.seen[name] += figure
        self.ready = True
        # First the clients: whoever was let in and not told is known yet.
        for id in self.unaccepted:
            self.say(None, "request", id)
        for event, message in self.events.items():
            self.say(event, *message)

    def on_stopped(self, *figures):
        self.stopped = figures

    # Clients.

    def arrive(self):
        self.sent += 1
        self.unaccepted[self.sent] = True
        self.unanswered.add(self.sent)
        self.say(None, "request", self.sent)

    def on_known(self, id):
        self.seen["known"] += 1

    def on_accepted(self, id):
        self.unaccepted.pop(id, None)

    def on_answer(self, id):
        assert self.finished[id] == 1, f"an answer to {id}, which has not ended"
        self.unaccepted.pop(id, None)
        self.unanswered.discard(id)

    # Engines.

    def tell(self, *message):
        """At least once."""
        self.event += 1
        self.events[self.event] = message
        self.say(self.event, *message)
        if message[0] in ("ended", "preempted"):
            self.told.append((self.event, message))

    def on_taken(self, event):
        self.events.pop(event, None)

    def on_dispatch(self, worker, number, id):
        engine = self.engines.get(worker)
        if engine is None:
            self.seen["sent to one that is gone"] += 1
        elif number in engine.received:
            self.seen["repeated"] += 1
        elif self.rng.random() < 0.01:
            self.seen["lost"] += 1
        else:
            assert not self.finished[id], f"{id} has ended and enters worker {worker}"
            holders = [at for at, other in self.engines.items() if id in other.held]
            assert not holders, f"{id} runs on {holders} and enters worker {worker}"
            engine.received.add(number)
            engine.last = max(engine.last, number)
            engine.held[id] = [self.rng.randint(1, 150), number]

    def decode(self):
        for worker, engine in self.engines.items():
            for id, life in list(engine.held.items()):
                life[0] -= 1
                if life[0] <= 0:
                    del engine.held[id]
                    self.finished[id] += 1
                    self.tell("ended", id, worker, life[1])
                elif self.rng.random() < 0.003:
                    del engine.held[id]
                    self.seen["preempted"] += 1
                    self.tell("preempted", id, worker, life[1])
            if engine.held and self.rng.random() < 0.1:
                self.say(None, "grown", list(engine.held))
            if self.rng.random() < 0.1:
                self.say(None, "report", worker, time.monotonic_ns() // 1_000_000, engine.report())
        if self.told and self.rng.random() < 0.05:
            # A message comes twice, long after it was taken.
            event, message = self.rng.choice(self.told)
            self.say(event, *message)
        if self.open and self.rng.random() < 0.008:
            # A rank fails, and another one comes.
            worker = self.rng.choice(list(self.engines))
            del self.engines[worker]
            self.seen["failed"] += 1
            self.tell("gone", worker)
            self.engines[self.next_worker] = Engine()
            self.tell("joins", self.next_worker)
            self.next_worker += 1

    def tick(self):
        select.select([self.front.stdout], [], [], TICK)
        self.hear()
        self.decode()
        while self.open and len(self.unanswered) < UNANSWERED:
            self.arrive()
        self.flush()

    def run_for(self, seconds):
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > TICK:
            self.tick()
        time.sleep(max(left, 0))

    def run_until(self, done, seconds=60):
        until = time.monotonic() + seconds
        while not done():
            assert self.front.poll() is None or done(), "the front end has ended"
            assert time.monotonic() < until, f"unanswered: {sorted(self.unanswered)}, {self.events}"
            self.tick()


def test_every_request_ends_once_however_often_the_process_is_killed(tmp_path):
    seed = random.randrange(1 << 32)
    folder = tmp_path / "router"
    world = World(folder, seed)
    for _ in range(KILLS):
        world.start()
        # A fifth of them while they start or take over; the others anywhere in what they do.
        if world.rng.random() < 0.2:
            world.run_for(world.rng.uniform(0, 0.2))
        else:
            world.run_until(lambda: world.ready)
            world.run_for(world.rng.uniform(0, 0.06))
        world.kill()
    world.open = False
    world.start()
    world.run_until(lambda: world.ready)
    world.run_until(lambda: not world.unanswered and not world.events and not world.unaccepted)
    world.say(None, "stop")
    world.run_until(lambda: world.stopped)
    world.front.communicate()
    print(f"{KILLS} kills, seed {seed}: {world.sent} requests, {dict(world.seen)}")
    assert world.stopped == (0, 0, None)
    assert world.finished == dict.fromkeys(range(1, world.sent + 1), 1)
    assert not any(engine.held for engine in world.engines.values())
    assert world.sent > 2 * KILLS and world.seen["sent again"] > 0 and world.seen["repeated"] > 0
    if KILLS >= 500:
        assert all(world.seen[what] for what in ("known", "put off", "given back", "lost", "failed"))
    found = br.replay(folder)
    assert found.calls > 0 and found.first_difference is None
