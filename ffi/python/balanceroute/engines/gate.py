"""An asyncio gate: requests wait here, not in an engine's queue, until the router says which rank they enter.

The engine's adapter awaits :meth:`Gate.hold` where it would have sent the request, and calls
:meth:`Gate.stir` when something may have freed room. All that happens within `window` seconds is decided
together.

Nothing waits for ever: when no news of any rank has come for `stall` seconds, what waits goes to ranks at
once, by the rule for arrivals. Full ranks that show signs of life are no stall. Nothing here knows an engine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .ledger import Ledger

logger = logging.getLogger("balanceroute")

# How often it is decided without an event where there are several front ends, in seconds.
_TURN = 0.03


@dataclass(frozen=True)
class GateTimes:
    """Seconds."""

    window: float = 0.001
    """Events this close together are decided in one step; 0 decides in the next turn of the event loop."""
    stall: float = 2.0
    """Without news of any rank for this long, what waits is sent as if it had just arrived."""
    max_hold: float | None = None
    """No request waits longer, news or not. None for no such bound: where generations are long, ranks are
    full for longer than any bound that would help."""


class Aborted(Exception):
    """The request was aborted while it waited: it must not be sent."""


class _Held:
    __slots__ = ("future", "since")

    def __init__(self, future: asyncio.Future[int], since: float) -> None:
        self.future = future
        self.since = since


class Gate:
    """Holds requests of one event loop. Every method must be called from that loop's thread.

    A router that cannot decide releases all that waits; with `failed`, that is called instead, while the
    exception is handled.
    """

    def __init__(
        self,
        ledger: Ledger,
        times: GateTimes = GateTimes(),
        log: logging.Logger = logger,
        failed: Callable[[], None] | None = None,
    ) -> None:
        self.ledger = ledger
        self.log = log
        self.failed = failed
        self.times = times
        self.stalls = 0
        """Times that silence, or a wait that grew too long, sent requests on."""
        self._held: dict[str, _Held] = {}
        # Decided, but the coroutine that sends it has not run yet: an abort must still stop it.
        self._leaving: dict[str, bool] = {}
        self._decide_at: asyncio.TimerHandle | asyncio.Handle | None = None
        self._turn_at: asyncio.TimerHandle | None = None
        self._watch_at: asyncio.TimerHandle | None = None
        self.last_news = ledger.clock()
        """When a rank last showed that it lives, by the ledger's clock."""

    def __len__(self) -> int:
        return len(self._held)

    @property
    def leaving(self) -> int:
        """How many are on their way out and have not been sent."""
        return len(self._leaving)

    def holds(self, name: str) -> bool:
        """Whether an abort of it must come here: it waits, or it is on its way out and has not been sent."""
        return name in self._held or name in self._leaving

    async def hold(
        self,
        name: str,
        prompt_tokens: int,
        session: str | None = None,
        max_tokens: int | None = None,
        priority: int = 0,
    ) -> int:
        """Waits for a rank; the caller sends the request there without awaiting anything in between.

        Raises `Aborted` when :meth:`abort` named it, and what the router raises when it refuses the request.
        A cancelled wait leaves nothing behind.
        """
        loop = asyncio.get_running_loop()
        self.ledger.enqueue(name, prompt_tokens, session, max_tokens=max_tokens, priority=priority)
        held = _Held(loop.create_future(), self.ledger.clock())
        self._held[name] = held
        self.stir()
        self._watch()
        try:
            rank = await held.future
        except BaseException as error:
            aborted = False
            if self._held.get(name) is held or (name in self._leaving and name not in self._held):
                self._held.pop(name, None)
                aborted = self._leaving.pop(name, False)
                if self.ledger.abort(name):
                    self.stir()
            if aborted and isinstance(error, Exception):
                raise Aborted(name) from None
            raise
        if self._leaving.pop(name, False):
            # Aborted between the decision and now.
            self.ledger.abort(name)
            self.stir()
            raise Aborted(name)
        return rank

    def abort(self, names: Iterable[str]) -> list[str]:
        """Aborts those that have not been sent; returns the others, in order."""
        others = []
        for name in names:
            held = self._held.pop(name, None)
            if held is not None:
                self.ledger.abort(name)
                if not held.future.done():
                    held.future.set_exception(Aborted(name))
            elif name in self._leaving:
                self._leaving[name] = True
            else:
                others.append(name)
        return others

    def news(self) -> None:
        """A rank has shown a sign of life (output or statistics)."""
        self.last_news = self.ledger.clock()

    def stir(self) -> None:
        """Something may have made room: decide within the window."""
        if self._decide_at is None and (self._held or self.ledger.waits_for_others):
            loop = asyncio.get_running_loop()
            if self.times.window > 0:
                self._decide_at = loop.call_later(self.times.window, self._decide)
            else:
                self._decide_at = loop.call_soon(self._decide)

    def release_all(self, why: str | None = None) -> int:
        """Sends everything that waits to a rank at once, and says so where there is a reason to tell. Returns
        how many.
        """
        return self._release(list(self._held), why)

    def close(self) -> None:
        """Cancels the timers and every wait."""
        for handle in (self._decide_at, self._turn_at, self._watch_at):
            if handle is not None:
                handle.cancel()
        self._decide_at = self._turn_at = self._watch_at = None
        for held in list(self._held.values()):
            held.future.cancel()

    # Inside.

    def _decide(self) -> None:
        self._decide_at = None
        if not self._held and not self.ledger.waits_for_others:
            return
        try:
            for name, rank in self.ledger.decide():
                self._send(name, rank)
        except Exception:
            if self.failed is not None:
                self.failed()
                return
            self.log.exception(
                "balanceroute: the router failed to decide; %d waiting requests go to ranks at once",
                len(self._held),
            )
            self._release(list(self._held), "the router failed")
        waits = self._held or self.ledger.waits_for_others
        if waits and self.ledger.share[1] > 1 and self._turn_at is None:
            # What other front ends leave free changes hands with time, also while nothing happens.
            self._turn_at = asyncio.get_running_loop().call_later(_TURN, self._on_turn)

    def _on_turn(self) -> None:
        self._turn_at = None
        self.stir()

    def _send(self, name: str, rank: int) -> None:
        held = self._held.get(name)
        if held is None or held.future.done():
            # Cancelled, and its coroutine has not run yet: that one finds itself here, and takes itself out
            # of the ledger.
            return
        del self._held[name]
        self._leaving[name] = False
        held.future.set_result(rank)

    def _release(self, names: list[str], why: str | None) -> int:
        sent = 0
        for name in names:
            held = self._held.get(name)
            if held is None:
                continue
            try:
                rank = self.ledger.place_waiting(name)
            except Exception as error:
                if not held.future.done():
                    del self._held[name]
                    # Its coroutine has not run yet: an abort must still stop it.
                    self._leaving[name] = False
                    held.future.set_exception(error)
                continue
            if rank is not None:
                self._send(name, rank)
                sent += 1
        if sent:
            self.stalls += 1
        if sent and why is not None:
            self.log.warning(
                "balanceroute: %s: %d waiting requests went to ranks as if they had just arrived", why, sent
            )
        return sent

    def _watch(self) -> None:
        if self._watch_at is not None or not self._held:
            return
        # The oldest is the first: they are held in the order of arrival.
        oldest = next(iter(self._held.values())).since
        now = self.ledger.clock()
        due = max(self.last_news, oldest) + self.times.stall
        if self.times.max_hold is not None:
            due = min(due, oldest + self.times.max_hold)
        self._watch_at = asyncio.get_running_loop().call_later(max(0.0, due - now) + 1e-4, self._on_watch)

    def _on_watch(self) -> None:
        self._watch_at = None
        now = self.ledger.clock()
        silent_since = now - self.times.stall
        if self.last_news <= silent_since:
            self._release(
                [n for n, h in self._held.items() if h.since <= silent_since],
                f"no news of any rank for {self.times.stall:g} s",
            )
        if self.times.max_hold is not None:
            too_long = now - self.times.max_hold
            self._release(
                [n for n, h in self._held.items() if h.since <= too_long],
                f"held for {self.times.max_hold:g} s",
            )
        self._watch()
