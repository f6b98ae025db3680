"""What one front end has sent where: an engine's request names and ranks over a :class:`balanceroute.Router`.

The router counts and decides; the ledger translates (names to ids, ranks to workers) and settles what an
engine's statistics are worth:

* Which dispatches an engine has: requests travel in order, so a token of one shows that all sent to its rank
  before it have arrived.
* What of a measurement is *foreign*, that is not ours. A measurement of `M` tokens contains the requests of
  ours that the rank had surely taken in when it was made, and at most all that we had sent, those included
  that have ended since: between `M` less the most and `M` less the least is foreign. It is below zero where
  requests share a prefix, which the rank holds once. The estimate before is kept where it lies in between and
  moved to the nearer end where not, so neither a stale snapshot nor a prefill in progress moves it.
* What the router would not admit and the engine was given all the same: an engine queues whatever it is sent.
  Such requests are foreign to the router and ours here.

Nothing here waits, nothing here knows an engine.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import balanceroute

# What a router takes for a length, in tokens.
_SHORTEST, _LONGEST = 1, 1 << 22
# How long the end of a request is remembered, in seconds: no report is taken to be older.
_OLDEST = 5.0
# Sessions whose rank is remembered.
_SESSIONS = 1 << 16


class _Entry:
    """A request that has not ended. `rank` is None while it waits; `number` is its dispatch, 0 where the
    router does not know it.
    """

    __slots__ = ("generated", "id", "name", "number", "prompt", "rank", "seen_at", "sent_at", "session")

    def __init__(self, id: int, name: str, prompt: int, session: str | None) -> None:
        self.id = id
        self.name = name
        self.prompt = prompt
        self.session = session
        self.generated = 0
        self.rank: int | None = None
        self.number = 0
        self.sent_at = 0.0
        self.seen_at: float | None = None

    @property
    def tokens(self) -> int:
        return self.prompt + self.generated


class _Rank:
    """What is known of one rank; KV tokens, prompt and generated."""

    def __init__(self, worker: int, weight: float) -> None:
        self.worker = worker
        self.weight = weight
        self.entries: dict[int, _Entry] = {}
        self.tokens = 0
        self.sent = 0
        """Dispatches so far: the router numbers those to each worker 1, 2, 3 and so on."""
        self.seen = 0
        self.unseen: deque[_Entry] = deque()
        self.unseen_tokens = 0
        self.unseen_requests = 0
        self.queued_tokens = 0
        """Of requests that the router did not admit."""
        self.queued_requests = 0
        self.foreign_tokens = 0
        self.foreign_requests = 0
        self.ended: deque[tuple[float, int]] = deque()
        """When requests ended, and their tokens."""

    @property
    def load(self) -> int:
        """KV tokens there, others' too."""
        return max(0, self.tokens + self.foreign_tokens)

    @property
    def cost(self) -> tuple[float, int]:
        """What a step takes there, and how many requests share it."""
        return self.load * self.weight, len(self.entries) + self.foreign_requests


@dataclass
class Counters:
    """Events since the start, for logs and metrics."""

    placed: int = 0
    """Decided by the router, on arrival or in a step."""
    bound: int = 0
    """Came with a rank of its own."""
    queued: int = 0
    """Found no room anywhere, or not on its rank, and was sent all the same: it queues in the engine."""
    finished: int = 0
    aborted: int = 0
    covered: int = 0
    """Became part of what reports measure."""
    returned: int = 0
    """Waited, and came back from the router: longer than any rank's KV cache."""


class Ledger:
    """One front end's requests, by the engine's own names.

    `slots` running requests and `kv_capacity_tokens` (None: no bound) are those of a whole rank; `weights`
    are what a token costs on each rank, beside the others: 2 for one of half the speed, 1 for those that it
    does not name. Of several front ends that share the ranks this is number `share[0]` of `share[1]`.
    `clock` returns seconds. Requests of one `session` are drawn to the rank of the one before, which may
    still hold their common prefix: by as many tokens as that can be. Not thread-safe: one event loop or
    thread owns it.
    """

    def __init__(
        self,
        ranks: int,
        slots: int,
        *,
        policy: str = "level",
        kv_capacity_tokens: int | None = None,
        weights: Sequence[float] = (),
        share: tuple[int, int] = (0, 1),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if len(weights) > ranks:
            raise ValueError(f"{len(weights)} weights for {ranks} ranks")
        self._slots = slots
        self._kv_capacity_tokens = kv_capacity_tokens
        self._weights = tuple(weights)
        # "arrival": what is to be placed is placed at once; what is to wait is enqueued.
        workers = [self._config(rank) for rank in range(ranks)]
        self.router = balanceroute.Router(workers, policy=policy, mode="arrival", share=share)
        index, of = share
        # What the other front ends may have there at most: their parts of the slots.
        self._others_slots = slots - (slots * (index + 1) // of - slots * index // of) if of > 1 else None
        self.clock = clock
        self.counters = Counters()
        self._next_id = 1
        self._by_name: dict[str, _Entry] = {}
        self._by_id: dict[int, _Entry] = {}
        self._ranks = [_Rank(worker, workers[worker].weight) for worker in range(ranks)]
        self._rank_of_worker = {worker: worker for worker in range(ranks)}
        # Rank and length of the last request of each session, the oldest first.
        self._sessions: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._waiting_sessions: dict[int, _Entry] = {}

    # What is where.

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
        entry = self._by_name.get(name)
        return None if entry is None else entry.rank

    def generated(self, name: str) -> int:
        """Tokens that a request has brought, 0 where it is unknown."""
        entry = self._by_name.get(name)
        return 0 if entry is None else entry.generated

    def tokens(self, rank: int) -> int:
        """KV tokens of our requests on a rank, prompt and generated, whether they run or queue there."""
        return self._ranks[rank].tokens

    def foreign(self, rank: int) -> tuple[int, int]:
        """KV tokens and requests that reports show beyond ours."""
        at = self._ranks[rank]
        return max(0, at.foreign_tokens), at.foreign_requests

    def summary(self) -> str:
        """How things stand, in a line: the loads of the ranks in KV tokens, and what has been decided."""
        loads = [at.load for at in self._ranks]
        mean = sum(loads) / max(1, len(loads))
        above = max(loads, default=0) / mean - 1 if mean else 0.0
        done = self.counters
        return (
            f"KV tokens {loads}, fullest rank {above:.1%} above the mean; "
            f"{done.placed} placed, {done.bound} named their rank, "
            f"{done.queued} queued for want of room, {done.finished} finished, {done.aborted} aborted"
        ) + (f", {done.covered} part of what ranks report" if done.covered else "")

    # Requests.

    def enqueue(self, name: str, prompt_tokens: int, session: str | None = None) -> None:
        """Into the pool: it waits for :meth:`decide`."""
        entry = self._new(name, prompt_tokens, session)
        try:
            self.router.enqueue(entry.id, entry.prompt, now_ms=self._now_ms())
            if session is not None:
                self._waiting_sessions[entry.id] = entry
        except BaseException:
            self._forget(entry)
            raise

    def decide(self) -> list[tuple[str, int]]:
        """One step of the router: who enters which rank now. What it gives back goes to the least loaded
        rank: the engine has the last word.
        """
        bonus = {
            id: row for id, entry in self._waiting_sessions.items() if (row := self._bonus(entry)) is not None
        }
        plan = self.router.step(self._now_ms(), bonus_tokens=bonus or None)
        sent: list[tuple[str, int]] = []
        for dispatch in plan.admissions:
            entry = self._by_id[dispatch.id]
            rank = self._rank_of_worker[dispatch.worker]
            self._sent(entry, rank, dispatch.number)
            self.counters.placed += 1
            sent.append((entry.name, rank))
        for returned in plan.returned:
            back = self._by_id.get(returned.id)
            if back is not None and back.rank is None:
                self.counters.returned += 1
                sent.append((back.name, self._queue(back)))
        return sent

    def place(self, name: str, prompt_tokens: int, session: str | None = None) -> int:
        """On arrival: a rank at once, always. Without room anywhere it queues at the least loaded one."""
        entry = self._new(name, prompt_tokens, session)
        try:
            return self._place(entry)
        except BaseException:
            self._forget(entry)
            raise

    def place_waiting(self, name: str) -> int | None:
        """A rank at once for a request of the pool; None when it does not wait."""
        entry = self._by_name.get(name)
        if entry is None or entry.rank is not None:
            return None
        self.router.abort(entry.id, now_ms=self._now_ms())
        return self._place(entry)

    def bind(self, name: str, prompt_tokens: int, rank: int, session: str | None = None) -> None:
        """Somebody else has chosen the rank: count it there."""
        entry = self._new(name, prompt_tokens, session)
        self.counters.bound += 1
        try:
            if self._try_place(entry, rank) is None:
                self._queue(entry, rank)
        except BaseException:
            self._forget(entry)
            raise

    def progress(self, name: str, tokens: int) -> None:
        """A request has `tokens` more; so its rank has it, and what was sent there before it."""
        entry = self._by_name.get(name)
        if entry is None or entry.rank is None:
            return
        at = self._ranks[entry.rank]
        if entry.seen_at is None:
            if entry.number:
                self._see(at, entry.number)
            else:
                entry.seen_at = self.clock()
        if tokens:
            entry.generated += tokens
            at.tokens += tokens
            if entry.number:
                self.router.progress_request(entry.id, tokens)
            else:
                at.queued_tokens += tokens

    def finish(self, name: str) -> bool:
        """It has left the engine, ended or aborted. False when it is not known (any more)."""
        return self._leave(name, "finished")

    def abort(self, name: str) -> bool:
        """It never reached the engine: as if it had not been sent. False when it is not known."""
        return self._leave(name, "aborted")

    def cover(self, rank: int, when: float) -> int:
        """For engines that tell no ends: what was sent to a rank at or before `when` is foreign from now on,
        since the next report surely contains it. To the router it has finished, at the length that is known:
        a policy that learns lengths would learn wrong ones.

        Returns how many requests that were.
        """
        at = self._ranks[rank]
        covered = [entry for entry in at.entries.values() if entry.sent_at <= when]
        for entry in covered:
            self._leave(entry.name, "covered")
            at.foreign_tokens += entry.tokens
            at.foreign_requests += 1
        return len(covered)

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
        capacity: int | None = None,
    ) -> None:
        """What a rank says of itself, all front ends together.

        `seen`: the rank had received this many of our dispatches to it, where it counts them; progress tells
            otherwise. `age`: it may have been
        measured that many seconds ago, so what has begun since may be missing from it and what has ended
        since may be in it. `kv_used` is None where only requests are known: others are then taken to be as
        long as ours.
        """
        at = self._ranks[rank]
        if seen is not None:
            self._see(at, min(seen, at.sent))
        ended, ended_tokens = self._ended(at, age)
        ours, our_tokens = len(at.entries) + ended, at.tokens + ended_tokens
        seen, seen_tokens = self._seen(at, self.clock() - age if age > 0 else None)
        held = running + waiting
        at.foreign_requests = min(max(at.foreign_requests, held - ours, 0), max(held - seen, 0))
        if kv_used is None:
            at.foreign_tokens = at.foreign_requests * self._mean_tokens()
        else:
            # Also where all there are ours: blocks may be pinned that nobody who runs holds, and requests may
            # share what each has in its length.
            at.foreign_tokens = min(max(at.foreign_tokens, kv_used - our_tokens), kv_used - seen_tokens)
        self._tell(at, capacity)

    def resize(self, ranks: int) -> list[str]:
        """Elastic scaling: ranks join or leave at the end. Names of the requests whose rank is gone."""
        gone: list[str] = []
        while self.ranks > ranks:
            at = self._ranks.pop()
            del self._rank_of_worker[at.worker]
            for entry in at.entries.values():
                gone.append(entry.name)
                self._forget(entry)
            for back in self.router.remove_worker(at.worker):
                # A policy that binds on arrival had chosen this rank for it: it chooses another.
                waits = self._by_id.get(back.id)
                if waits is not None:
                    self.router.enqueue(waits.id, waits.prompt, now_ms=self._now_ms())
        while self.ranks < ranks:
            config = self._config(self.ranks)
            worker = self.router.add_worker(config)
            self._rank_of_worker[worker] = self.ranks
            self._ranks.append(_Rank(worker, config.weight))
        return gone

    # Inside.

    def _config(self, rank: int) -> balanceroute.WorkerConfig:
        weight = self._weights[rank] if rank < len(self._weights) else 1.0
        return balanceroute.WorkerConfig(
            self._slots, kv_capacity_tokens=self._kv_capacity_tokens, weight=weight
        )

    def _now_ms(self) -> int:
        return int(self.clock() * 1e3)

    def _new(self, name: str, prompt_tokens: int, session: str | None) -> _Entry:
        if name in self._by_name:
            raise ValueError(f"request {name!r} is already known")
        entry = _Entry(self._next_id, name, min(max(prompt_tokens, _SHORTEST), _LONGEST), session)
        self._next_id += 1
        self._by_name[name] = entry
        self._by_id[entry.id] = entry
        return entry

    def _forget(self, entry: _Entry) -> None:
        self._by_name.pop(entry.name, None)
        self._by_id.pop(entry.id, None)
        self._waiting_sessions.pop(entry.id, None)

    def _leave(self, name: str, how: str) -> bool:
        entry = self._by_name.get(name)
        if entry is None:
            return False
        setattr(self.counters, how, getattr(self.counters, how) + 1)
        self._forget(entry)
        if entry.rank is None:
            self.router.abort(entry.id, now_ms=self._now_ms())
            return True
        if how == "finished":
            self._remember(entry, entry.rank)
        at = self._ranks[entry.rank]
        if how == "finished":
            at.ended.append((self.clock(), entry.tokens))
        del at.entries[entry.id]
        at.tokens -= entry.tokens
        if not entry.number:
            at.queued_tokens -= entry.tokens
            at.queued_requests -= 1
            self._tell(at)
            return True
        if entry.seen_at is None:
            at.unseen_tokens -= entry.tokens
            at.unseen_requests -= 1
            # Where nothing shows progress only this forgets those that have left.
            while at.unseen and at.unseen[0].id not in at.entries:
                at.unseen.popleft()
        if how == "aborted":
            # Its length is not known and must teach nothing.
            self.router.abort(entry.id, now_ms=self._now_ms())
        else:
            self.router.finish(entry.id, now_ms=self._now_ms())
        return True

    def _place(self, entry: _Entry) -> int:
        rank = self._try_place(entry)
        if rank is None:
            return self._queue(entry)
        self.counters.placed += 1
        return rank

    def _try_place(self, entry: _Entry, rank: int | None = None) -> int | None:
        dispatch = self.router.place(
            entry.id,
            entry.prompt,
            self._now_ms(),
            rank=None if rank is None else self._ranks[rank].worker,
            bonus_tokens=None if rank is not None else self._bonus(entry),
        )
        if dispatch is None:
            # It waits in the router's pool now, and shall not.
            self.router.abort(entry.id, now_ms=self._now_ms())
            return None
        rank = self._rank_of_worker[dispatch.worker]
        self._sent(entry, rank, dispatch.number)
        return rank

    def _bonus(self, entry: _Entry) -> Any:
        """Tokens per worker that the session's last rank may already hold; None without such a rank."""
        last = self._sessions.get(entry.session) if entry.session is not None else None
        if last is None or last[0] >= self.ranks:
            return None
        row = np.zeros(self.ranks, np.float32)
        # Ranks only come and go at the end, so the router's order of workers is ours.
        row[last[0]] = min(last[1], entry.prompt)
        return row

    def _sent(self, entry: _Entry, rank: int, number: int) -> None:
        at = self._ranks[rank]
        self._enter(entry, rank)
        entry.number = at.sent = number
        at.unseen.append(entry)
        at.unseen_tokens += entry.tokens
        at.unseen_requests += 1

    def _queue(self, entry: _Entry, rank: int | None = None) -> int:
        if rank is None:
            rank = min(range(self.ranks), key=lambda r: self._ranks[r].cost)
        self.counters.queued += 1
        self._enter(entry, rank)
        at = self._ranks[rank]
        at.queued_tokens += entry.tokens
        at.queued_requests += 1
        self._tell(at)
        return rank

    def _enter(self, entry: _Entry, rank: int) -> None:
        at = self._ranks[rank]
        entry.rank, entry.sent_at = rank, self.clock()
        at.entries[entry.id] = entry
        at.tokens += entry.tokens
        self._waiting_sessions.pop(entry.id, None)
        self._remember(entry, rank)

    def _remember(self, entry: _Entry, rank: int) -> None:
        if entry.session is None:
            return
        self._sessions[entry.session] = (rank, entry.tokens)
        self._sessions.move_to_end(entry.session)
        if len(self._sessions) > _SESSIONS:
            self._sessions.popitem(last=False)

    def _see(self, at: _Rank, number: int) -> None:
        at.seen = max(at.seen, number)
        now = self.clock()
        while at.unseen and at.unseen[0].number <= number:
            entry = at.unseen.popleft()
            if entry.id in at.entries:
                entry.seen_at = now
                at.unseen_tokens -= entry.tokens
                at.unseen_requests -= 1

    def _seen(self, at: _Rank, by: float | None) -> tuple[int, int]:
        """Requests and KV tokens of ours that the rank had shown to have, now or by a time."""
        if by is None and not at.queued_requests:
            return len(at.entries) - at.unseen_requests, at.tokens - at.unseen_tokens
        by = self.clock() if by is None else by
        shown = [
            entry.tokens for entry in at.entries.values() if entry.seen_at is not None and entry.seen_at <= by
        ]
        return len(shown), sum(shown)

    def _ended(self, at: _Rank, age: float) -> tuple[int, int]:
        """Requests and KV tokens of ours that have ended within `age` seconds."""
        now = self.clock()
        while at.ended and at.ended[0][0] < now - _OLDEST:
            at.ended.popleft()
        if age <= 0:
            return 0, 0
        recent = [tokens for when, tokens in at.ended if when > now - age]
        return len(recent), sum(recent)

    def _tell(self, at: _Rank, capacity: int | None = None) -> None:
        """To the router: what of its own it may take as seen, and on top of it what is foreign to it."""
        foreign = (
            at.foreign_requests
            if self._others_slots is None
            else min(at.foreign_requests, self._others_slots)
        )
        requests = len(at.entries) - at.unseen_requests + foreign
        tokens = max(0, at.tokens - at.unseen_tokens + at.foreign_tokens)
        self.router.report(
            at.worker,
            running=requests,
            kv_used_tokens=tokens,
            kv_capacity_tokens=capacity,
            last_dispatch=at.seen or None,
            now_ms=self._now_ms(),
        )

    def _mean_tokens(self) -> int:
        requests = sum(len(at.entries) for at in self._ranks)
        return sum(at.tokens for at in self._ranks) // requests if requests else 0
