"""One router behind several front ends of a host: the first decides for all, as long as it is heard.

Each front end keeps its own ledger, whoever decides. The first one *leads*: it listens on a socket of this
host and has the others' requests in its router beside its own. The others *follow*: they tell it what they
do, and send where it says. A follower that does not hear the leader decides by its own share of every rank,
as without this, and so does the leader for what is its own. Nothing is lost by it, for nobody's requests are
anywhere else.

Messages are lines of JSON, lists that begin with a word. A follower names its requests by numbers that are
used again, so each time that one waits has a number of its own too, the turn: what the leader has decided for
one that has just left is nothing to the next of its number.

A leader that hangs is still connected to. So a follower decides for itself until it has heard something, and
is sure of its part at the leader until it has said that it follows.

| | says |
|---|---|
| `waits`, number, turn, prompt tokens, session, most tokens, ranks, passed, class | it waits for ranks |
| `runs`, number, prompt tokens, rank, generated tokens, session | it is on a rank, by whomever it was sent |
| `left`, number, whether it has finished | it has ended, or was given up |
| `follows` | all that was there has been told, and the leader decides from here on |
| `step`, source, numbers, tokens | an engine's step; nothing for the last numbers of this source, or for 1s |
| `report`, rank, running, waiting, KV tokens | what a rank has said to this follower alone |
| `enters`, number, turn, rank | from the leader: it enters this rank |
| `beats`, whether | from the leader, who is alive, and whether it has had news of a rank since the last |
| `beats` | the answer |

Only processes of the same user are heard.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from .gate import Gate
from .ledger import Ledger
from .limits import Waiting
from .settings import Settings

logger = logging.getLogger("balanceroute")

# How often a follower looks for its leader, and how often that one says that it is alive, in seconds.
_AGAIN = 0.5
# A leader that is silent for so long is not waited for, nor is a follower, in seconds.
_SILENT = 2.0
# What a rank says of a step comes by way of one front end, and what has ended with that step by way of
# others: its report is looked at when all of it has been heard, in seconds.
_SETTLED = 0.02
# Whoever is so far behind with reading, in bytes, is taken for lost. A follower has much to tell at once when
# it begins: some hundred thousand requests are less.
_MOST_BEHIND = 1 << 26
# Longest line of a message, in bytes.
_LONGEST = 1 << 18
# Other work has its turn after so many messages that have come together.
_AT_A_TIME = 64
# A session's name that is longer, in characters, is told by its digest: clients choose it.
_LONGEST_SESSION = 64


def address(key: object) -> str:
    """Of the leader's socket: in the kernel's own name space, so that no file is left behind."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).hexdigest()
    return f"\0balanceroute-{os.getuid()}-{digest}"


def ledger_of(settings: Settings, share: tuple[int, int]) -> type[Ledger]:
    """What one of so many front ends keeps."""
    index, of = share
    if of == 1 or not settings.hub or settings.mode != "step" or not hasattr(socket, "SO_PEERCRED"):
        return Ledger
    return Leader if index == 0 else Follower


def join(gate: Gate, key: object) -> asyncio.Task[None] | None:
    """Begins to lead or to follow; None for a front end that decides for itself alone. The front ends that
    have a key in common are one another's.
    """
    ledger = gate.ledger
    if not isinstance(ledger, Leader | Follower):
        return None
    ledger.gate = gate
    return asyncio.get_running_loop().create_task(ledger.run(address(key)))


class _Wire:
    """One end of a connection."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer

    def say(self, *message: Any) -> bool:
        """False when nobody listens."""
        transport = self.writer.transport
        if transport.is_closing():
            return False
        if transport.get_write_buffer_size() > _MOST_BEHIND:
            transport.abort()
            return False
        self.writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        return True

    def is_ours(self) -> bool:
        """Whether the other end is a process of this user."""
        end = self.writer.get_extra_info("socket")
        found = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return bool(struct.unpack("3i", found)[1] == os.getuid())


async def _hear_all(reader: asyncio.StreamReader, hear: Callable[[list[Any]], None]) -> None:
    """Until the other end closes."""
    heard = 0
    while line := await reader.readline():
        hear(json.loads(line))
        heard += 1
        if heard % _AT_A_TIME == 0:
            await asyncio.sleep(0)


class _Guest:
    """A follower, as the leader knows it."""

    def __init__(self, number: int, wire: _Wire) -> None:
        self.number = number
        self.wire = wire
        self.follows = False
        self.unanswered = 0
        """Beats since the last word of it."""
        self.name_of: dict[int, str] = {}
        """Its requests in the leader's ledger, by its own numbers."""
        self.stepped: dict[object, list[str]] = {}
        """Names of the last step of each source."""

    def name(self, number: int) -> str:
        """A request of it, which may be new; no name of an engine begins so."""
        return self.name_of.setdefault(number, f"\0{self.number} {number}")


class _Member(Ledger):
    """Of a front end that leads or follows: `gate` is its gate, once it has joined."""

    gate: Gate | None = None

    @property
    def _log(self) -> logging.Logger:
        # An engine shows its own loggers only.
        return logger if self.gate is None else self.gate.log

    def _stir(self) -> None:
        if self.gate is not None:
            self.gate.stir()

    def _news(self) -> None:
        if self.gate is not None:
            self.gate.news()


class Leader(_Member):
    """The ledger of the front end that decides for all."""

    def __init__(self, *arguments: Any, share: tuple[int, int] = (0, 1), **more: Any) -> None:
        super().__init__(*arguments, share=share, **more)
        self._of = share[1]
        self._guests: list[_Guest] = []
        self._next = 0
        # Requests of followers that wait.
        self._theirs: dict[str, tuple[_Guest, int, int]] = {}
        self._told_until = self.clock()
        # Reports that were heard a moment ago: when, of which rank, and what they say.
        self._settling: deque[tuple[float, int, dict[str, Any]]] = deque()

    @property
    def followers(self) -> int:
        """How many are decided for."""
        return sum(guest.follows for guest in self._guests)

    @property
    def waits_for_others(self) -> bool:
        return bool(self._theirs)

    async def run(self, at: str) -> None:
        """Listens until it is cancelled; followers decide for themselves then."""
        server = await self._listen(at)
        try:
            while True:
                await asyncio.sleep(_AGAIN)
                news = self.gate is not None and self.gate.last_news > self._told_until
                self._told_until = self.clock()
                for guest in list(self._guests):
                    guest.wire.say("beats", news)
                    guest.unanswered += 1
                    if guest.unanswered > _SILENT / _AGAIN:
                        # It hangs, and sends nobody: what would be decided for it would keep slots empty.
                        guest.wire.writer.transport.abort()
        finally:
            server.close()
            for guest in list(self._guests):
                guest.wire.writer.transport.abort()

    async def _listen(self, at: str) -> asyncio.Server:
        told = False
        while True:
            try:
                return await asyncio.start_unix_server(self._serve, at, limit=_LONGEST)
            except OSError as error:
                # One that ends may have the address still.
                if not told:
                    self._log.warning("balanceroute: each front end decides for itself for now: %s", error)
                told = True
                await asyncio.sleep(_AGAIN)

    def decide(self) -> list[tuple[str, int]]:
        """As of a ledger; what followers are to send is told to them."""
        self._settle()
        own = []
        for name, rank in super().decide():
            theirs = self._theirs.pop(name, None)
            if theirs is None:
                own.append((name, rank))
            elif not theirs[0].wire.say("enters", *theirs[1:], rank):
                self.abort(name)
        return own

    def report(self, rank: int, **figures: Any) -> str:
        """As of a ledger; while there are followers it is looked at a little later: "settles"."""
        self._settle()
        if not self.followers:
            return super().report(rank, **figures)
        self._settling.append((self.clock(), rank, figures))
        return "settles"

    def _settle(self) -> None:
        now = self.clock()
        while self._settling and (self._settling[0][0] <= now - _SETTLED or not self.followers):
            since, rank, figures = self._settling.popleft()
            for of_which in ("age", "kv_age"):
                if of_which == "age" or figures.get(of_which) is not None:
                    figures[of_which] = figures.get(of_which, 0.0) + now - since
            super().report(rank, **figures)

    def remove(self, rank: int) -> list[str]:
        """As of a ledger."""
        # They name ranks by numbers that change.
        self._settling.clear()
        return super().remove(rank)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = _Wire(writer)
        if not wire.is_ours():
            writer.close()
            return
        guest, self._next = _Guest(self._next, wire), self._next + 1
        self._guests.append(guest)
        wire.say("beats", False)
        try:
            await _hear_all(reader, lambda message: self._hear(guest, *message))
        except asyncio.CancelledError:
            # The loop ends, and so does this.
            pass
        except Exception as error:
            self._log.warning("balanceroute: a front end is not decided for any more: %r", error)
        finally:
            self._guests.remove(guest)
            # What runs on is load that reports show.
            for name in guest.name_of.values():
                self._theirs.pop(name, None)
                self.abort(name)
            self._renew_share()
            writer.close()

    def _renew_share(self) -> None:
        """Whoever follows needs no part of its own."""
        self.share = 0, max(1, self._of - self.followers)
        self.router.set_share(*self.share)
        self._stir()

    def _hear(self, guest: _Guest, what: str, *told: Any) -> None:
        guest.unanswered = 0
        match what, told:
            case "waits", (
                int(number),
                int(turn),
                int(prompt),
                session,
                int() | None as most,
                ranks,
                passed,
                int(priority),
            ):
                name = guest.name(number)
                may = None if ranks is None else [rank for rank in ranks if 0 <= rank < self.ranks]
                self._theirs.pop(name, None)
                self.abort(name)
                self.enqueue(
                    name,
                    prompt,
                    _checked(session),
                    max_tokens=most,
                    eligible=may,
                    passed=passed,
                    priority=priority,
                )
                self._theirs[name] = guest, number, turn
            case "runs", (int(number), int(prompt), int(rank), int(generated), session):
                name = guest.name(number)
                self._theirs.pop(name, None)
                if 0 <= rank < self.ranks and self.place_waiting(name, rank) is not None:
                    # It waited here, and its front end could not wait any longer.
                    pass
                elif self.rank_of(name) != rank:
                    # It was unknown, or was sent elsewhere by somebody else.
                    self.abort(name)
                    if 0 <= rank < self.ranks:
                        self.bind(name, prompt, rank, _checked(session), generated)
            case "left", (int(number), finished):
                gone = guest.name_of.pop(number, None)
                if gone is not None:
                    self._theirs.pop(gone, None)
                    self.finish(gone) if finished else self.abort(gone)
            case "beats", ():
                return
            case "follows", ():
                guest.follows = True
                self._renew_share()
            case "step", (source, numbers, tokens):
                if numbers is not None:
                    known = guest.name_of
                    guest.stepped[source] = [known.get(number, "") for number in numbers]
                names = guest.stepped[source]
                self.step((guest.number, source), names, [1] * len(names) if tokens is None else tokens)
                self._news()
            case "report", (int(rank), int(running), int(waiting), int() | None as kv_used):
                if min(rank, running, waiting, kv_used or 0) < 0:
                    raise ValueError(f"no report: {told}")
                self._news()
                if rank < self.ranks:
                    self.report(rank, running=running, waiting=waiting, kv_used=kv_used)
            case _:
                raise ValueError(f"no message of ours: {what!r}")
        self._stir()


class Follower(_Member):
    """The ledger of a front end that is decided for, while it follows: what waits is in the leader's pool
    then, and not in that of its own router.
    """

    def __init__(self, *arguments: Any, share: tuple[int, int] = (0, 1), **more: Any) -> None:
        super().__init__(*arguments, share=share, **more)
        self._alone = share
        self._wire: _Wire | None = None
        self._silence: asyncio.TimerHandle | None = None
        # Which time of waiting it is, by id, of those that the leader is to decide.
        self._turn_of: dict[int, int] = {}
        self._turns = 0
        # Decided by the leader, and not sent yet: ids, turns and ranks.
        self._entering: list[tuple[int, int, int]] = []
        # What the leader knows the last step of each source to hold.
        self._told: dict[object, Any] = {}
        self._finishes = False

    @property
    def follows(self) -> bool:
        return self._wire is not None

    async def run(self, at: str) -> None:
        """Looks for the leader, tells it how things stand, and hears it, until it is cancelled."""
        while True:
            try:
                reader, writer = await _connect(at)
            except OSError:
                await asyncio.sleep(_AGAIN)
                continue
            try:
                wire = _Wire(writer)
                if wire.is_ours():
                    await _hear_all(reader, functools.partial(self._hear, wire))
                    self._part("has gone")
            except ConnectionError:
                self._part("has gone")
            except Exception as error:
                self._part(f"says what means nothing ({error!r})")
            finally:
                self._part()
                writer.close()
            await asyncio.sleep(_AGAIN)

    def _follow(self, wire: _Wire) -> None:
        passed = {id: self.passed(self._name(id)) for id in self._waiting}
        for id in self._waiting:
            self.router.abort(id, now_ms=self._now_ms())
        self._wire = wire
        self._await_beat()
        self._share(0, 1)
        for name, id in self._by_name.items():
            waits = self._waiting.get(id)
            if waits is not None:
                self._say_waits(id, waits, passed=passed[id])
            elif (rank := self.rank_of(name)) is not None:
                self._say_runs(id, rank)
        self._say("follows")
        if self._wire is not None:
            self._log.info("balanceroute: the first front end decides for this one from here on")

    def _part(self, why: str | None = None) -> None:
        """From now on this front end decides for itself; said where there is a reason to tell."""
        if self._wire is None:
            return
        if why is not None:
            self._log.warning("balanceroute: the first front end %s; this one decides for itself", why)
        self._wire.writer.transport.abort()
        self._wire = None
        if self._silence is not None:
            self._silence.cancel()
        # What was decided and not sent is decided here.
        self._entering.clear()
        self._turn_of.clear()
        self._told.clear()
        self._share(*self._alone)
        for id, waits in list(self._waiting.items()):
            self._wait(id, waits)
        self._stir()

    def _await_beat(self) -> None:
        """Parts when the leader has been silent for too long from now on."""
        if self._silence is not None:
            self._silence.cancel()
        self._silence = asyncio.get_running_loop().call_later(_SILENT, self._part, "is silent")

    def _share(self, index: int, of: int) -> None:
        self.share = index, of
        self.router.set_share(index, of)

    def _hear(self, wire: _Wire, message: list[Any]) -> None:
        what, *told = message
        if self._wire is None and not wire.writer.transport.is_closing():
            self._follow(wire)
        if self._wire is not wire:
            # Said before this front end has parted.
            return
        match what, told:
            case "beats", (news,):
                self._await_beat()
                self._say("beats")
                if news:
                    self._news()
            case "enters", (int(id), int(turn), int(rank)):
                self._entering.append((id, turn, rank))
                self._stir()
            case _:
                raise ValueError(f"no message of ours: {what!r}")

    def decide(self) -> list[tuple[str, int]]:
        """What the leader has decided; without one, what this ledger does."""
        sent = super().decide()
        while self._entering:
            id, turn, rank = self._entering.pop(0)
            if self._turn_of.get(id) != turn:
                continue
            waits = self._waiting[id]
            if rank >= self.ranks:
                # One that has joined or left, of which only one of the two knows: another one, then.
                self._say_waits(id, waits, range(self.ranks))
                continue
            self._drop(id)
            self._send(id, waits, self._ranks.workers[rank])
            self._counters.placed += 1
            sent.append((self._name(id), rank))
        return sent

    # What the leader is to know.

    def _say(self, *message: Any) -> None:
        if self._wire is not None and not self._wire.say(*message):
            self._part("does not listen")

    def _say_waits(
        self, id: int, waits: Waiting, among: Iterable[int] | None = None, passed: int = 0
    ) -> None:
        prompt, session, most, may, priority = waits
        if may is not None:
            among = [rank for rank, worker in enumerate(self._ranks.workers) if worker in may]
        self._turns += 1
        self._turn_of[id] = self._turns
        ranks = None if among is None else list(among)
        self._say("waits", id, self._turns, prompt, _short(session), most, ranks, passed, priority)

    def _say_runs(self, id: int, rank: int) -> None:
        prompt, generated = self.router.prompt_tokens(id), self.router.generated_tokens(id)
        session = self._with_session.get(id)
        self._say("runs", id, prompt, rank, generated, _short(session and session[0]))

    def _wait(self, id: int, waits: Waiting, passed: int = 0) -> None:
        if self._wire is None:
            super()._wait(id, waits, passed)
        else:
            self._waiting[id] = waits
            if waits[1] is not None:
                self._sessions.waits(id, waits[1], waits[0])
            self._say_waits(id, waits, passed=passed)

    def _tell(self, id: int, bonus_tokens: dict[int, float] | None, may: frozenset[int] | None) -> None:
        if self._wire is None:
            super()._tell(id, bonus_tokens, may)

    def _leave_pool(self, id: int) -> None:
        if self._wire is None:
            super()._leave_pool(id)
        else:
            self._drop(id)

    def _drop(self, id: int) -> None:
        super()._drop(id)
        self._turn_of.pop(id, None)

    def _begins(self, id: int, session: str | None, worker: int, prompt: int) -> int:
        rank = super()._begins(id, session, worker, prompt)
        if self._wire is not None:
            self._say_runs(id, rank)
        return rank

    def progress(self, name: str, tokens: int) -> None:
        super().progress(name, tokens)
        id = self._by_name.get(name)
        if id is not None:
            self._say("step", "", [id], [tokens])

    def _progress(self, source: object, ids: Any, each: Any) -> None:
        super()._progress(source, ids, each)
        if self._wire is not None:
            # One array is one list of requests.
            same = self._told.get(source) is ids
            self._told[source] = ids
            self._say("step", source, None if same else ids.tolist(), None if each is None else each.tolist())

    def report(self, rank: int, **figures: Any) -> str:
        if not figures.get("age") and not figures.get("kv_age"):
            # Others hear the coordinator themselves.
            self._say("report", rank, figures["running"], figures["waiting"], figures["kv_used"])
        return super().report(rank, **figures)

    def finish(self, name: str) -> bool:
        self._finishes = True
        try:
            return super().finish(name)
        finally:
            self._finishes = False

    def _forget(self, id: int) -> None:
        self._say("left", id, self._finishes)
        super()._forget(id)


def _short(session: str | None) -> str | None:
    if session is None or len(session) <= _LONGEST_SESSION:
        return session
    return hashlib.blake2b(session.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def _checked(session: Any) -> str | None:
    if session is None or isinstance(session, str):
        return session
    raise ValueError(f"no session: {session!r}")


async def _connect(at: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    # By hand, since uvloop hands a name on as a C string, which ends at the first zero.
    end = socket.socket(socket.AF_UNIX)
    end.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(end, at)
        return await asyncio.open_unix_connection(sock=end, limit=_LONGEST)
    except BaseException:
        end.close()
        raise
