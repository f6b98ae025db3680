"""What one front end has sent where, by an engine's own names: names to ids and ranks to workers over a
:class:`balanceroute.Router`, which keeps the account.

The account knows what an engine's statistics are worth (`src/account` has the rules): requests travel in
order, so a token of one shows that all sent to its rank before it have arrived; what a measurement holds
beyond ours, or less, is one correction that the next report renews.

An engine queues whatever it is sent, so a request that has no room anywhere is sent all the same, where it is
asked for at once. Nothing here waits, nothing here knows an engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

import numpy as np

import balanceroute

from .counters import Counters
from .limits import Waiting, age_ms, length
from .policies import BIND_ON_ARRIVAL
from .ranks import Ranks, changed
from .sessions import Sessions

# Without a sign of life of a request for so long, while its rank says that it holds nothing, the rank has
# lost it, in milliseconds.
_FORGOTTEN_MS = 10_000


class Ledger:
    """One front end's requests, by the engine's own names.

    `slots` running requests and `kv_capacity_tokens` (None: no bound) are those of a whole rank; `weights`
    are what a token costs on each rank, beside the others: 2 for one of half the speed, 1 for those that it
    does not name. A weight goes with its rank when others leave before it, and waits for one that leaves at
    the end and comes again. By `max_passed` others that came later a request may be passed while it waits
    (None: 128 a rank). Where KV tokens are bounded, an admission leaves `headroom_steps` tokens free for each
    request to grow by; None: as many as are learned to be needed (:class:`balanceroute.Router` has more of
    it, of `preemption_cost` and `lower_class_one_in`). Of several front ends that share the ranks this is
    number `share[0]` of `share[1]`. `clock` returns seconds. Requests of one `session` are drawn to the rank
    of the one before, which may hold their common prefix, by as many tokens as that can be.
    Not thread-safe.
    """

    def __init__(
        self,
        ranks: int,
        slots: int,
        *,
        policy: str = "level",
        kv_capacity_tokens: int | None = None,
        weights: Sequence[float] = (),
        max_passed: int | None = None,
        lower_class_one_in: int | None = None,
        headroom_steps: int | None = None,
        preemption_cost: tuple[float, float] | None = None,
        share: tuple[int, int] = (0, 1),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._binds = policy in BIND_ON_ARRIVAL
        self._ranks = Ranks(ranks, slots, kv_capacity_tokens, weights)
        # "arrival": what is to be placed is placed at once; what is to wait is enqueued.
        self.router = balanceroute.Router(
            [self._ranks.config(rank) for rank in range(ranks)],
            policy=policy,
            parameters=None if max_passed is None else {"max_passed": max_passed},
            mode="arrival",
            lower_class_one_in=lower_class_one_in,
            share=share,
            in_order=True,
            headroom_steps=headroom_steps,
            preemption_cost=preemption_cost,
            dispatch_timeout_ms=_FORGOTTEN_MS,
        )
        self.share = share
        self.clock = clock
        self._counters = Counters()
        # An id is a place in the list of names, and is used again when its request has gone.
        self._by_name: dict[str, int] = {}
        self._names: list[str | None] = []
        self._vacant: list[int] = []
        self._waiting: dict[int, Waiting] = {}
        # By source: the names that its last step brought, and their ids.
        self._stepped: dict[object, tuple[list[str], Any]] = {}
        self._sessions = Sessions()
        self._with_session = self._sessions.sent
        # Dispatches that ranks had got in the lives before this one.
        self._before: dict[int, int] = {}

    # What is where.

    @property
    def counters(self) -> Counters:
        """Events since the start."""
        self._counters.queued = self.router.metrics().sent_beyond
        return self._counters

    @property
    def waits_for_others(self) -> bool:
        """Whether requests of other front ends wait for a decision here (:mod:`.hub`)."""
        return False

    @property
    def follows(self) -> bool:
        """Whether another front end decides, and counts what is here (:mod:`.hub`)."""
        return False

    @property
    def ranks(self) -> int:
        """Number of ranks."""
        return len(self._ranks)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __len__(self) -> int:
        return len(self._by_name)

    def rank_of(self, name: str) -> int | None:
        """The rank a request was sent to, None while it waits or when it is unknown."""
        id = self._by_name.get(name)
        worker = None if id is None else self.router.running_on(id)
        return None if worker is None else self._ranks.of_worker[worker]

    def generated(self, name: str) -> int:
        """Tokens that a request has brought, 0 where it is unknown."""
        id = self._by_name.get(name)
        return 0 if id is None else self.router.generated_tokens(id) or 0

    def passed(self, name: str) -> int:
        """By how many that came later a request that waits has been passed, 0 where it does not."""
        id = self._by_name.get(name)
        found = None if id is None or id not in self._waiting else self.router.explain(id)
        return 0 if found is None else found.passed

    def tokens(self, rank: int) -> int:
        """KV tokens of our requests on a rank, prompt and generated, whether they run or queue there."""
        return self.router.rank_metrics(self._ranks.workers[rank]).own_tokens

    def foreign(self, rank: int) -> tuple[int, int]:
        """KV tokens and requests that reports show beyond ours."""
        at = self.router.rank_metrics(self._ranks.workers[rank])
        return at.foreign_tokens, at.foreign_requests

    def summary(self) -> str:
        """How things stand, in a line: the loads of the ranks in KV tokens, and what has been decided."""
        return self.counters.in_words(self.router.metrics())

    # Requests.

    def enqueue(
        self,
        name: str,
        prompt_tokens: int,
        session: str | None = None,
        *,
        max_tokens: int | None = None,
        eligible: Collection[int] | None = None,
        passed: int = 0,
        priority: int = 0,
    ) -> None:
        """Into the pool: it waits for :meth:`decide`. `max_tokens` is what it may generate at most,
        `eligible` are the ranks that may take it; None where nothing is said. `passed` is by how many it has
        been passed where it waited before. Whoever is of a higher `priority` goes before it.
        """
        arrives = self._arrives(prompt_tokens, session, max_tokens, eligible, priority)
        id = self._new(name)
        try:
            self._wait(id, arrives, passed)
        except BaseException:
            self._drop(id)
            self._forget(id)
            raise

    def decide(self) -> list[tuple[str, int]]:
        """One step of the router: who enters which rank now. What waited and is given back goes to the rank
        with the shortest queue: the engine has the last word.
        """
        router, waiting, rank_of_worker = self.router, self._waiting, self._ranks.of_worker
        for id, bonus in self._sessions.news():
            self._tell(id, bonus, waiting[id][3])
        plan = router.step(self._now_ms())
        # Whoever waits has a name.
        names = cast("list[str]", self._names)
        sent: list[tuple[str, int]] = []
        for dispatch in plan.admissions:
            id = dispatch.id
            prompt, session, *_ = waiting.pop(id)
            if session is not None:
                self._sessions.waits_no_more(id, session)
                self._sessions.entered(id, session, dispatch.worker, prompt)
            sent.append((names[id], rank_of_worker[dispatch.worker]))
        self._counters.placed += len(sent)
        for returned in plan.returned:
            id = returned.id
            back = waiting.get(id)
            if back is not None and returned.reason == "worker_draining":
                # A policy that binds on arrival had chosen this rank for it: it chooses another.
                self._drop(id)
                self._wait(id, back)
            elif back is not None and back[2] is not None:
                # Ranks have become too small for all that it may generate. Mostly it ends before.
                self._drop(id)
                self._wait(id, (back[0], back[1], None, back[3], back[4]))
            elif back is not None:
                self._counters.returned += 1
                self._drop(id)
                sent.append((self._name(id), self._send(id, back)))
            elif self._names[id] is not None and router.running_on(id) is None:
                # Its rank has forgotten it, and nobody else has that id by now.
                self._lose(id)
        return sent

    def place(
        self,
        name: str,
        prompt_tokens: int,
        session: str | None = None,
        *,
        max_tokens: int | None = None,
        eligible: Collection[int] | None = None,
        priority: int = 0,
    ) -> int:
        """On arrival: a rank at once, always. Without room anywhere it queues where the queue is shortest."""
        arrives = self._arrives(prompt_tokens, session, max_tokens, eligible, priority)
        id = self._new(name)
        try:
            return self._place(id, arrives)
        except BaseException:
            self._forget(id)
            raise

    def place_waiting(self, name: str, rank: int | None = None) -> int | None:
        """A rank at once for a request of the pool, this one if somebody else has chosen it, or else the
        least loaded with room or the one with the shortest queue; None when it does not wait.
        """
        id = self._by_name.get(name)
        waits = None if id is None else self._waiting.get(id)
        if id is None or waits is None or not self._ranks.workers:
            return None
        # From its place in the order of arrival: it passes only who came before it.
        at = self._send(id, waits, None if rank is None else self._ranks.workers[rank])
        self._drop(id)
        self._counters.placed += 1
        return at

    def bind(
        self, name: str, prompt_tokens: int, rank: int, session: str | None = None, generated_tokens: int = 0
    ) -> None:
        """Somebody else has chosen the rank: count it there. One that has tokens already has run for a while,
        and that it lived so long shows nothing of those who did not.
        """
        id = self._new(name)
        self._counters.bound += 1
        prompt = length(prompt_tokens)
        try:
            worker = self._ranks.workers[rank]
            if generated_tokens:
                self.router.adopt(id, prompt, worker, generated_tokens=generated_tokens)
                self._begins(id, session, worker, prompt)
            else:
                self._send(id, (prompt, session, None, None, 0), worker)
        except BaseException:
            self._forget(id)
            raise

    def progress(self, name: str, tokens: int) -> None:
        """A request has `tokens` more; so its rank has it, and what was sent there before it."""
        id = self._by_name.get(name)
        if id is not None:
            try:
                self.router.progress_request(id, tokens)
            except balanceroute.UnknownRequestError:
                # It waits, or its rank has forgotten it, which the next decision tells.
                pass

    def step(self, source: object, names: list[str], tokens: list[int]) -> None:
        """:meth:`progress` for all that a step of an engine brings: names and how many tokens more each has.
        Those that are unknown are passed over. `source` is whatever tells the engine from others.
        """
        if not names:
            return
        # From step to step mostly the same requests have a token each.
        before = self._stepped.get(source)
        if before is not None and before[0] == names:
            ids = before[1]
        else:
            found = list(map(self._by_name.get, names))
            if None in found:
                known = [(id, more) for id, more in zip(found, tokens, strict=True) if id is not None]
                found, tokens = [id for id, _ in known], [more for _, more in known]
                self._stepped.pop(source, None)
                ids = np.array(found, np.uint64)
            else:
                ids = np.array(found, np.uint64)
                self._stepped[source] = list(names), ids
        each = None if tokens.count(1) == len(tokens) else np.array(tokens, np.uint32)
        self._progress(source, ids, each)

    def finish(self, name: str) -> bool:
        """It has left the engine, ended or aborted. False when it is not known (any more)."""
        id = self._by_name.get(name)
        if id is None:
            return False
        try:
            ended = self.router.finish(id, now_ms=self._now_ms())
        except balanceroute.UnknownRequestError:
            if id not in self._waiting:
                return self._lose(id)
            self._leave_pool(id)
        else:
            if id in self._with_session:
                self._sessions.ended(id, ended.worker, ended.generated_tokens)
        self._counters.finished += 1
        self._forget(id)
        return True

    def abort(self, name: str) -> bool:
        """It never reached the engine: as if it had not been sent. False when it is not known."""
        id = self._by_name.get(name)
        if id is None:
            return False
        if id in self._waiting:
            self._leave_pool(id)
        else:
            try:
                # Its length is not known and must teach nothing.
                self.router.abort(id, now_ms=self._now_ms())
            except balanceroute.UnknownRequestError:
                return self._lose(id)
        self._counters.aborted += 1
        self._forget(id)
        return True

    def held(self, name: str) -> None:
        """It has KV on its rank and does not decode yet: transfer, chunked prefill."""
        self._change(name, self.router.held)

    def transfer_done(self, name: str) -> None:
        """It decodes from now on."""
        self._change(name, self.router.transfer_done)

    def preempted(self, name: str) -> None:
        """Its engine has put it off, and goes on with it by itself."""
        self._change(name, self.router.preempted)

    def resumed(self, name: str) -> None:
        """Its engine goes on with it."""
        self._change(name, self.router.resumed)

    def cover(self, rank: int, when: float) -> int:
        """For engines that tell no ends: what was sent to a rank at or before `when` is foreign from now on,
        since the next report surely contains it. How many requests that were.
        """
        left = self.router.disown_sent(self._ranks.workers[rank], int(when * 1e3))
        for id in left:
            self._forget(id)
        self._counters.covered += len(left)
        return len(left)

    # Ranks.

    def report(
        self,
        rank: int,
        *,
        running: int,
        waiting: int,
        kv_used: int | None,
        seen: int | None = None,
        age: float = 0.0,
        kv_age: float | None = None,
        capacity: int | None = None,
        epoch: int | None = None,
    ) -> str:
        """What a rank says of itself, all front ends together.

        `seen`: so many of our dispatches to it the rank had received, where it counts them. `age`: it may
        have been measured that many seconds ago, `kv_age` where its KV tokens are older than its counts.
        `kv_used` is None where only requests are known. `epoch`: which life of the rank this is, where it can
        tell; what it forgets in a restart is unknown here from then on. What became of the report.
        """
        worker = self._ranks.workers[rank]
        sent = self.router.rank_metrics(worker).dispatches if seen is not None else 0
        if seen is not None:
            # In a new life it counts anew.
            seen = min(seen + self._before.get(worker, 0), sent)
        if capacity is not None:
            self._ranks.in_each_tokens = None
        verdict = self.router.report(
            worker,
            running=running,
            waiting=waiting,
            kv_used_tokens=kv_used,
            kv_capacity_tokens=capacity,
            last_dispatch=seen,
            epoch=epoch,
            age_ms=age_ms(age),
            kv_age_ms=None if kv_age is None else age_ms(kv_age),
            now_ms=self._now_ms(),
        )
        if verdict == "restarted" and seen is not None:
            self._before[worker] = sent - self.router.rank_metrics(worker).unseen
        return verdict

    def resize(self, ranks: int) -> list[str]:
        """Elastic scaling: ranks join or leave at the end. Names of the requests whose rank is gone."""
        gone: list[str] = []
        while self.ranks > ranks:
            gone += self.remove(self.ranks - 1)
        while self.ranks < ranks:
            self._ranks.joins(self.router.add_worker(self._ranks.config(self.ranks)))
        return gone

    def remove(self, rank: int) -> list[str]:
        """A rank is gone, and those after it move up. Names of the requests that ran there; what waited for
        it waits for another.
        """
        worker = self._ranks.leaves(rank)
        gone: list[str] = []
        for back in self.router.remove_worker(worker):
            waits = self._waiting.get(back.id)
            if waits is None:
                gone.append(self._name(back.id))
                self._forget(back.id)
            else:
                # A policy that binds on arrival had chosen this rank for it: it chooses another.
                self._drop(back.id)
                self._wait(back.id, waits)
        return gone

    def configure(
        self,
        rank: int,
        *,
        slots: int | None = None,
        kv_capacity_tokens: int | None = None,
        weight: float | None = None,
        accepting: bool | None = None,
    ) -> None:
        """A rank is another from now on, in what is given."""
        worker = self._ranks.workers[rank]
        now = self.router.worker_config(worker)
        config = changed(now, slots, kv_capacity_tokens, weight)
        if config != now:
            self.router.configure_worker(worker, config)
            self._ranks.in_each_tokens = None
        if accepting is not None:
            self.router.set_accepting(worker, accepting)

    def drain(self, rank: int) -> None:
        """A rank takes nobody new; what runs there runs on."""
        self.router.drain_worker(self._ranks.workers[rank])

    # Inside.

    def _most(self, prompt: int, max_tokens: int) -> int | None:
        """What it may generate, where that is no more than any rank is known to hold: one that could outgrow
        them mostly ends before."""
        fits = max_tokens > 0 and self._ranks.hold(prompt + max_tokens, self.router)
        return max_tokens if fits else None

    def _now_ms(self) -> int:
        return int(self.clock() * 1e3)

    def _new(self, name: str) -> int:
        by_name = self._by_name
        if name in by_name:
            raise ValueError(f"request {name!r} is already known")
        if self._vacant:
            id = self._vacant.pop()
            self._names[id] = name
        else:
            id = len(self._names)
            self._names.append(name)
        by_name[name] = id
        return id

    def _name(self, id: int) -> str:
        name = self._names[id]
        assert name is not None
        return name

    def _progress(self, source: object, ids: Any, each: Any) -> None:
        self.router.progress_requests(ids, each)

    def _leave_pool(self, id: int) -> None:
        self._drop(id)
        self.router.abort(id, now_ms=self._now_ms())

    def _drop(self, id: int) -> None:
        """It waits no more."""
        waits = self._waiting.pop(id, None)
        if waits is not None and waits[1] is not None:
            self._sessions.waits_no_more(id, waits[1])

    def _forget(self, id: int) -> None:
        name = self._names[id]
        if name is not None:
            del self._by_name[name]
            self._names[id] = None
            self._vacant.append(id)
            if self._stepped:
                # An id that is used again is another request.
                self._stepped.clear()
            if id in self._with_session:
                del self._with_session[id]

    def _change(self, name: str, how: Callable[[int], None]) -> None:
        id = self._by_name.get(name)
        if id is not None:
            try:
                how(id)
            except balanceroute.UnknownRequestError:
                # It waits, or its rank has forgotten it, which the next decision tells.
                pass

    def _lose(self, id: int) -> bool:
        """Its rank has forgotten it, and so do we: False, for nobody has it."""
        self._counters.lost += 1
        self._forget(id)
        return False

    def _arrives(
        self,
        prompt_tokens: int,
        session: str | None,
        max_tokens: int | None,
        eligible: Collection[int] | None,
        priority: int,
    ) -> Waiting:
        prompt = length(prompt_tokens)
        most = None if max_tokens is None else self._most(prompt, max_tokens)
        may = None if eligible is None else self._ranks.workers_of(eligible)
        return prompt, session, most, may, priority

    def _wait(self, id: int, waits: Waiting, passed: int = 0) -> None:
        prompt, session, most, may, of = waits
        now = self._now_ms()
        # A policy that binds on arrival knows nothing of who may take it.
        rank = self._least(may) if self._binds else None
        self.router.enqueue(id, prompt, max_tokens=most, rank=rank, passed=passed, priority=of, now_ms=now)
        self._waiting[id] = waits
        if session is not None:
            self._sessions.waits(id, session, prompt)
            self._tell(id, self._sessions.bonus_tokens(session, prompt), may)
        elif may is not None:
            self._tell(id, None, may)

    def _tell(self, id: int, bonus_tokens: dict[int, float] | None, may: frozenset[int] | None) -> None:
        """What the decision for one who waits depends on beside its length."""
        self.router.set_terms(id, bonus_tokens=bonus_tokens, eligible=may)

    def _least(self, may: frozenset[int] | None) -> int | None:
        """Of these workers the one with the fewest requests; None where there are none of them."""
        return min((at for at in may or () if at in self._ranks.of_worker), key=self._queue_of, default=None)

    def _place(self, id: int, arrives: Waiting) -> int:
        dispatch = self.router.place(
            id,
            arrives[0],
            self._now_ms(),
            max_tokens=arrives[2],
            priority=arrives[4],
            bonus_tokens=self._ranks.bonuses(self._sessions.bonus_tokens(arrives[1], arrives[0])),
            eligible=self._ranks.mask(arrives[3]),
        )
        if dispatch is None:
            # It waits in the router's pool now, and shall not.
            try:
                return self._send(id, arrives)
            except BaseException:
                self.router.abort(id)
                raise
        self._counters.placed += 1
        return self._entered(dispatch, arrives[1])

    def _send(self, id: int, of: Waiting, worker: int | None = None) -> int:
        prompt, session, most, eligible, priority = of
        worker = self._least(eligible) if worker is None else worker
        dispatch = self.router.send(
            id, prompt, worker=worker, max_tokens=most, priority=priority, now_ms=self._now_ms()
        )
        return self._entered(dispatch, session)

    def _queue_of(self, worker: int) -> tuple[bool, int, int]:
        at = self.router.rank_metrics(worker)
        return not at.accepting, at.running + at.foreign_requests, at.load_tokens

    def _entered(self, dispatch: balanceroute.Dispatch, session: str | None) -> int:
        return self._begins(dispatch.id, session, dispatch.worker, dispatch.prompt_tokens)

    def _begins(self, id: int, session: str | None, worker: int, prompt: int) -> int:
        """It is on a rank from now on: which."""
        if session is not None:
            self._sessions.entered(id, session, worker, prompt)
        return self._ranks.of_worker[worker]
