"""A front end that may die at any time: `front.py FOLDER`. What it is told comes as lines of JSON on stdin,
and goes as such on stdout: to clients `accepted` and `answer`, to engines `dispatch`, `taken` of each event.
"""

import json
import os
import random
import select
import sys
import time

import numpy as np

import balanceroute as br

SLOTS = 4
WORKERS = 3
# A report that has been on its way for longer says nothing of what was sent meanwhile.
LOST_MS, STALE_MS = 1_000, 300


def prompt_tokens(id):
    """What a front end keeps of each request beside the log: here a function is enough."""
    return 50 + id * 37 % 900


def now_ms():
    return time.monotonic_ns() // 1_000_000


def say(*message):
    # Past every buffer: what is written when a process is killed arrives.
    os.write(1, json.dumps(message).encode() + b"\n")


def pause():
    """Between an answer of the router and what comes of it, so that it is here that the process dies as often
    as anywhere."""
    if random.random() < 0.2:
        time.sleep(random.uniform(0, 0.004))


class Front:
    def __init__(self, folder):
        ring = {"segment_bytes": 1 << 16, "segments": 3}
        try:
            self.router = br.Router.resume(folder, **ring)
        except br.RecordError as error:
            if error.kind != "Nothing":
                raise
            workers = [br.WorkerConfig(SLOTS, kv_capacity_tokens=20_000)] * WORKERS
            self.router = br.Router(workers, mode=1, dispatch_timeout_ms=LOST_MS)
            self.router.record(folder, **ring)
        self.lives = {id: (worker, number) for id, worker, number in self.router.running()}

    def go_on(self):
        """What the process before may not have done."""
        dispatches = self.router.resend(now_ms())
        pause()
        for dispatch in dispatches:
            self.hand_over(dispatch)
        untold = self.router.untold()
        for back in untold.preempted:
            self.enqueue_again(back)
        for back in untold.returned:
            pause()
            self.enqueue(back.id)
        say("ready", len(dispatches), len(untold.preempted), len(untold.returned))

    def hand_over(self, dispatch):
        self.lives[dispatch.id] = dispatch.worker, dispatch.number
        say("dispatch", dispatch.worker, dispatch.number, dispatch.id)

    def enqueue(self, id):
        self.router.enqueue(id, prompt_tokens(id), now_ms=now_ms())

    def enqueue_again(self, of):
        self.router.enqueue(
            of.id, of.prompt_tokens, generated_tokens=of.generated_tokens, passed=of.passed, now_ms=now_ms()
        )

    def step(self):
        plan = self.router.step(now_ms())
        pause()
        for dispatch in plan.admissions:
            self.hand_over(dispatch)
        for back in plan.returned:
            self.enqueue(back.id)

    # Of clients.

    def on_request(self, id):
        dispatch = None
        try:
            dispatch = self.router.place(id, prompt_tokens(id), now_ms())
        except (br.BatchError, br.RouterError) as error:
            # It waits or runs: the process before had let it in and did not come to say so.
            if error.kind not in ("Waits", "Running"):
                raise
            say("known", id)
        pause()
        say("accepted", id)
        if dispatch is not None:
            self.hand_over(dispatch)

    # Of engines.

    def on_ended(self, id, worker, number):
        # First the client, then the log: whoever has an answer does not ask again.
        say("answer", id)
        pause()
        ended = br.Dispatch(id=id, worker=worker, number=number, prompt_tokens=0, score_tokens=0.0)
        try:
            self.router.finish_dispatch(ended, now_ms=now_ms())
        except br.UnknownRequestError as error:
            if error.kind != "Unknown":
                raise

    def on_preempted(self, id, worker, number):
        if self.lives.get(id) == (worker, number) and self.router.running_on(id) is not None:
            again = self.router.preempt_request(id)
            pause()
            self.enqueue_again(again)

    def on_grown(self, ids):
        self.router.progress_requests(np.array(ids, np.uint64))

    def on_report(self, worker, told_ms, report):
        if now_ms() - told_ms < STALE_MS:
            self.router.report(worker, **report, now_ms=now_ms())

    def on_gone(self, worker):
        if worker in self.router.worker_ids:
            gone = self.router.remove_worker(worker)
            pause()
            for back in gone:
                self.enqueue(back.id)

    def on_joins(self, worker):
        if worker not in self.router.worker_ids:
            found = self.router.add_worker(br.WorkerConfig(SLOTS, kv_capacity_tokens=20_000))
            assert found == worker, (found, worker)

    def on_stop(self):
        metrics = self.router.metrics()
        say("stopped", metrics.waiting, metrics.running, self.router.recording.stopped)
        sys.exit()

    def run(self):
        self.go_on()
        rest = b""
        while True:
            if select.select([0], [], [], 0.002)[0]:
                found = os.read(0, 1 << 16)
                if not found:
                    return
                *lines, rest = (rest + found).split(b"\n")
                for line in lines:
                    event, what, *told = json.loads(line)
                    getattr(self, f"on_{what}")(*told)
                    if event is not None:
                        pause()
                        say("taken", event)
            self.step()


if __name__ == "__main__":
    Front(sys.argv[1]).run()
