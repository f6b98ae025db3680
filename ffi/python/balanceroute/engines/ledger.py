"""What one front end has sent where: an engine's request names and ranks over a :class:`balanceroute.Router`.

The router counts; the ledger translates (names to ids, ranks to workers), knows which dispatches an engine has shown to have seen,
and carries what the router may not admit but the engine was given all the same: an engine queues whatever it is sent, so a request that
found no room still lands somewhere, is counted here, and is told to the router as soon as there is room.

Nothing here waits, nothing here knows an engine.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class _Entry:
    """A request that has not ended.

    `rank` is None while it waits; `counted`: the router knows where it is; `recounted`: the router learned it after the engine did, so its
    progress says nothing about the dispatches numbered before it.
    """

    __slots__ = ("counted", "dispatch", "generated", "hints", "id", "name", "prompt", "rank", "recounted")

    def __init__(self, id: int, name: str, prompt: int, hints: dict[str, Any]) -> None:
        self.id = id
        self.name = name
        self.prompt = prompt
        self.hints = hints
        self.generated = 0
        self.rank: int | None = None
        self.dispatch = 0
        self.counted = False
        self.recounted = False


@dataclass
class Counters:
    """Events since the start, for logs and metrics."""

    placed: int = 0
    """Decided by the router, on arrival or in a step."""
    bound: int = 0
    """Came with a rank of its own."""
    overflowed: int = 0
    """Found no room anywhere and went to the least loaded rank's own queue."""
    finished: int = 0
    aborted: int = 0
    refused: int = 0
    """The router gave it back: it cannot be admitted (more tokens than a rank holds), or its rank is gone."""


class Ledger:
    """One front end's requests, by the engine's own names.

    `router` is a fresh `balanceroute.Router` with `ranks` workers. Token counts are KV tokens; `clock` returns seconds.
    Not thread-safe: one event loop or thread owns it.
    """

    def __init__(self, router: Any, ranks: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.router = router
        self.clock = clock
        self.counters = Counters()
        self._next_id = 1
        self._by_name: dict[str, _Entry] = {}
        self._by_id: dict[int, _Entry] = {}
        self._workers: list[int] = list(range(ranks))  # rank -> the router's worker id
        self._ranks: dict[int, int] = {w: w for w in range(ranks)}
        self._tokens = [0] * ranks
        self._requests = [0] * ranks
        self._outside = [0] * ranks
        self._seen = [0] * ranks
        self._dispatches: list[deque[tuple[float, int]]] = [deque(maxlen=4096) for _ in range(ranks)]
        self._shown: list[deque[tuple[float, int]]] = [deque(maxlen=4096) for _ in range(ranks)]
        self._overflow: list[deque[_Entry]] = [deque() for _ in range(ranks)]
        self._sent_order: list[deque[_Entry]] = [deque() for _ in range(ranks)]
        self._count = [0] * ranks

    # What is where.

    @property
    def ranks(self) -> int:
        """Number of ranks."""
        return len(self._workers)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __len__(self) -> int:
        return len(self._by_name)

    def rank_of(self, name: str) -> int | None:
        """The rank a request was sent to, None while it waits or when it is unknown."""
        entry = self._by_name.get(name)
        return None if entry is None else entry.rank

    def tokens(self, rank: int) -> int:
        """KV tokens of this front end's own requests on a rank, prompt and generated, whether they run or queue there."""
        return self._tokens[rank]

    def load(self, rank: int) -> int:
        """`tokens` and what the last report showed beyond them."""
        return self._tokens[rank] + self._outside[rank]

    # Requests.

    def enqueue(self, name: str, prompt_tokens: int, **hints: Any) -> None:
        """Into the pool: it waits for :meth:`decide`."""
        entry = self._new(name, prompt_tokens, hints)
        try:
            self.router.enqueue(entry.id, prompt_tokens, **hints)
        except BaseException:
            self._forget(entry)
            raise

    def decide(self) -> list[tuple[str, int]]:
        """One step of the router: who enters which rank now. A waiting request that the router gives back goes to the least loaded rank."""
        plan = self.router.step(self.clock())
        sent: list[tuple[str, int]] = []
        for admission in plan.admissions:
            id, worker, _dispatch = admission
            entry = self._by_id[id]
            self._sent(entry, self._ranks[worker])
            self.counters.placed += 1
            sent.append((entry.name, entry.rank))
        for id, _reason in plan.returned:
            entry = self._by_id.get(id)
            if entry is None:
                continue
            self.counters.refused += 1
            entry.counted = False
            if entry.rank is None:
                sent.append((entry.name, self._overflowed(entry)))
            elif entry.rank < self.ranks:
                # The engine may still run it: sending it twice would be worse than counting it here.
                self._overflow[entry.rank].append(entry)
        return sent

    def place(self, name: str, prompt_tokens: int, **hints: Any) -> int:
        """On arrival: a rank at once, always. Without room anywhere it joins the queue of the least loaded rank."""
        entry = self._new(name, prompt_tokens, hints)
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
        self.router.abort(entry.id)
        return self._place(entry)

    def bind(self, name: str, prompt_tokens: int, rank: int, **hints: Any) -> None:
        """Somebody else has chosen the rank: count it there."""
        entry = self._new(name, prompt_tokens, hints)
        self.counters.bound += 1
        if not self._try_place(entry, rank=rank):
            self._overflowed(entry, rank)

    def progress(self, name: str, tokens: int) -> None:
        """A running request has generated `tokens` more; so the engine has seen it, and what was sent to its rank before it."""
        entry = self._by_name.get(name)
        if entry is None or entry.rank is None:
            return
        rank = entry.rank
        if entry.dispatch > self._seen[rank] and not entry.recounted:
            self._seen[rank] = entry.dispatch
            self._shown[rank].append((self.clock(), entry.dispatch))
        if tokens:
            entry.generated += tokens
            self._tokens[rank] += tokens
            if entry.counted:
                self.router.progress_request(entry.id, tokens)

    def finish(self, name: str) -> bool:
        """It has left the engine, ended or aborted. False when it is not known (any more)."""
        entry = self._by_name.get(name)
        if entry is None:
            return False
        self.counters.finished += 1
        self._leave(entry, self.router.finish if entry.rank is not None else self.router.abort)
        return True

    def abort(self, name: str) -> bool:
        """It never reached the engine: as if it had not been sent. False when it is not known."""
        entry = self._by_name.get(name)
        if entry is None:
            return False
        self.counters.aborted += 1
        self._leave(entry, self.router.abort)
        return True

    # Ranks.

    def seen(self, rank: int, age: float = 0.0) -> int:
        """The newest dispatch that the rank had shown to have, `age` seconds ago: it has produced tokens for it."""
        if age <= 0:
            return self._seen[rank]
        return _last_before(self._shown[rank], self.clock() - age)

    def sent_before(self, rank: int, when: float) -> int:
        """The newest dispatch to a rank at or before `when`, 0 if none."""
        return _last_before(self._dispatches[rank], when)

    def report(
        self, rank: int, *, running: int, waiting: int, kv_used: int | None, seen: int, capacity: int | None = None
    ) -> None:
        """What a rank says of itself, all front ends together. Dispatches newer than `seen` are not in it and stay counted."""
        own = self._tokens[rank] - self._newer_tokens(rank, seen)
        others = max(0, running + waiting - self._requests[rank])
        if not others:
            # All there are ours, and ours we count exactly: a measurement taken in the middle of a prefill would only blur that.
            kv_used = own
        elif kv_used is None:
            # Without a capacity a usage cannot be turned into tokens: others are taken to be as long as ours.
            kv_used = own + others * self._mean_tokens()
        self._outside[rank] = max(0, kv_used - own)
        self.router.report(self._workers[rank], seen, running, waiting, kv_used, capacity)

    def resize(self, ranks: int) -> list[str]:
        """Elastic scaling: ranks join at the end or leave from it. Names of requests whose rank is gone."""
        gone: list[str] = []
        while self.ranks > ranks:
            rank = self.ranks - 1
            worker = self._workers.pop()
            self._ranks.pop(worker, None)
            for entry in list(self._by_name.values()):
                if entry.rank == rank:
                    gone.append(entry.name)
                    self._forget(entry)
            self.router.remove_worker(worker)
            for column in (
                self._tokens, self._requests, self._outside, self._seen, self._count,
                self._dispatches, self._shown, self._overflow, self._sent_order,
            ):
                column.pop()
        while self.ranks < ranks:
            worker = self.router.add_worker()
            self._ranks[worker] = self.ranks
            self._workers.append(worker)
            for column in (self._tokens, self._requests, self._outside, self._seen, self._count):
                column.append(0)
            self._dispatches.append(deque(maxlen=4096))
            self._shown.append(deque(maxlen=4096))
            self._overflow.append(deque())
            self._sent_order.append(deque())
        return gone

    # Inside.

    def _new(self, name: str, prompt_tokens: int, hints: dict[str, Any]) -> _Entry:
        if name in self._by_name:
            raise ValueError(f"request {name!r} is already known")
        entry = _Entry(self._next_id, name, prompt_tokens, hints)
        self._next_id += 1
        self._by_name[name] = entry
        self._by_id[entry.id] = entry
        return entry

    def _forget(self, entry: _Entry) -> None:
        self._by_name.pop(entry.name, None)
        self._by_id.pop(entry.id, None)

    def _leave(self, entry: _Entry, tell: Callable[[int], Any]) -> None:
        self._forget(entry)
        rank = entry.rank
        if rank is None:
            tell(entry.id)
            return
        self._tokens[rank] -= entry.prompt + entry.generated
        self._requests[rank] -= 1
        if entry.counted:
            tell(entry.id)
        self._recount(rank)

    def _place(self, entry: _Entry) -> int:
        if not self._try_place(entry):
            return self._overflowed(entry)
        self.counters.placed += 1
        return entry.rank

    def _try_place(self, entry: _Entry, rank: int | None = None) -> bool:
        wish = None if rank is None else self._workers[rank]
        worker = self.router.place(
            entry.id, entry.prompt, generated_tokens=entry.generated, rank=wish, now=self.clock(), **entry.hints
        )
        if worker is None:
            # It waits in the router's pool now; it is not ours to keep waiting.
            self.router.abort(entry.id)
            return False
        self._sent(entry, self._ranks[worker])
        return True

    def _sent(self, entry: _Entry, rank: int) -> None:
        # The router numbers the dispatches to each worker 1, 2, 3 and so on, without a gap.
        self._count[rank] += 1
        dispatch = self._count[rank]
        if entry.rank is None:
            self._tokens[rank] += entry.prompt + entry.generated
            self._requests[rank] += 1
        else:
            entry.recounted = True
        entry.rank, entry.dispatch, entry.counted = rank, dispatch, True
        self._dispatches[rank].append((self.clock(), dispatch))
        self._sent_order[rank].append(entry)

    def _overflowed(self, entry: _Entry, rank: int | None = None) -> int:
        if rank is None:
            rank = min(range(self.ranks), key=lambda r: (self.load(r), self._requests[r]))
        self.counters.overflowed += 1
        entry.rank, entry.counted = rank, False
        self._tokens[rank] += entry.prompt + entry.generated
        self._requests[rank] += 1
        self._overflow[rank].append(entry)
        return rank

    def _recount(self, rank: int) -> None:
        """Room may have come: what queues in the engine takes it before anybody new does."""
        queue = self._overflow[rank]
        while queue:
            entry = queue[0]
            if entry.id in self._by_id and not self._try_place(entry, rank=rank):
                return
            queue.popleft()

    def _newer_tokens(self, rank: int, seen: int) -> int:
        """KV tokens of own requests that a report with `seen` does not contain: on their way, or in the engine's queue for want of room."""
        tokens = sum(e.prompt for e in self._overflow[rank] if not e.generated and e.id in self._by_id)
        sent = self._sent_order[rank]
        while sent and sent[0].id not in self._by_id:
            sent.popleft()
        for entry in reversed(sent):
            if entry.dispatch <= seen:
                break
            if entry.id in self._by_id:
                tokens += entry.prompt + entry.generated
        return tokens

    def _mean_tokens(self) -> int:
        requests = sum(self._requests)
        return sum(self._tokens) // requests if requests else 0


def _last_before(history: deque[tuple[float, int]], when: float) -> int:
    for at, dispatch in reversed(history):
        if at <= when:
            return dispatch
    return 0
