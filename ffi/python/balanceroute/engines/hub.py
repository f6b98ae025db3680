"""One router behind several front ends of a host: the first decides for all, as long as it is heard.

Each front end keeps its own ledger, whoever decides. The first one *leads*: it listens on a socket of this host
and has the others' requests in its router beside its own. The others *follow*: they tell it what they do, and
send where it says. A follower that does not hear the leader decides by its own share, as without this; so does
the leader for what is its own. Nothing is lost by it, for nobody's requests are anywhere else.

Messages are lines of JSON, lists that begin with a word. A follower names its requests by numbers.

| | says |
|---|---|
| `waits`, number, prompt tokens, session, most tokens | a request waits |
| `runs`, number, prompt tokens, rank, generated tokens, session | a request is on a rank, by whomever it was sent |
| `left`, number, whether it has finished | a request has ended, or was given up |
| `step`, source, numbers, tokens | an engine's step |
| `report`, rank, figures | what a rank has said to this follower alone |
| `enters`, number, rank | from the leader: it enters this rank |
| `beats` | from the leader, who is alive |

Only processes of the same user are heard.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import struct
from collections.abc import Callable, Collection
from typing import Any

from .gate import Gate
from .ledger import Ledger
from .settings import Settings

logger = logging.getLogger("balanceroute")

# How long until a follower looks for its leader again, and how often that one says that it is alive, in
# seconds.
_AGAIN = 0.5
# A leader that is silent for so long is not waited for, in seconds.
_SILENT = 2.0
# A follower that is so far behind with reading, in bytes, is not decided for.
_MOST_BEHIND = 1 << 20
# Longest line of a message, in bytes.
_LONGEST = 1 << 20


def address(key: object) -> str:
    """Of the leader's socket: in the kernel's own name space, so that no file is left behind."""
    return f"\0balanceroute-{os.getuid()}-{key}"


def ledger_of(settings: Settings, share: tuple[int, int]) -> type[Ledger]:
    """What one of so many front ends keeps."""
    index, of = share
    if of == 1 or not settings.hub or settings.mode != "step" or not hasattr(socket, "SO_PEERCRED"):
        return Ledger
    return Leader if index == 0 else Follower


def join(gate: Gate, key: object) -> asyncio.Task[None] | None:
    """Begins to lead or to follow; None for a front end that decides for itself alone. The front ends that have
    a key in common are one another's.
    """
    ledger = gate.ledger
    if not isinstance(ledger, Leader | Follower):
        return None
    ledger.stir = gate.stir
    if isinstance(ledger, Leader):
        ledger.news = gate.news
    return asyncio.get_running_loop().create_task(ledger.run(address(key)))


class _Wire:
    """One end of a connection."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer

    def say(self, *message: Any) -> bool:
        """False when nobody listens."""
        transport = self.writer.transport
        if transport.is_closing() or transport.get_write_buffer_size() > _MOST_BEHIND:
            transport.abort()
            return False
        self.writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        return True

    def is_ours(self) -> bool:
        """Whether the other end is a process of this user."""
        peer = self.writer.get_extra_info("socket")
        if peer is None or not hasattr(socket, "SO_PEERCRED"):
            return False
        found = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return bool(struct.unpack("3i", found)[1] == os.getuid())


async def _messages(
    reader: asyncio.StreamReader, heard: Callable[[list[Any]], None], silent: float | None = None
) -> None:
    while line := await asyncio.wait_for(reader.readline(), silent):
        heard(json.loads(line))


class Leader(Ledger):
    """The ledger of the front end that decides for all. `stir` is called when followers have said something
    that may matter, `news` when it shows that a rank lives.
    """

    def __init__(self, *arguments: Any, share: tuple[int, int] = (0, 1), **more: Any) -> None:
        super().__init__(*arguments, share=share, **more)
        self._of = share[1]
        self._followers: dict[int, _Wire] = {}
        self._next = 0
        # Requests of followers that wait: whose, and by which number.
        self._theirs: dict[str, tuple[int, int]] = {}
        self.stir: Callable[[], None] = lambda: None
        self.news: Callable[[], None] = lambda: None

    async def run(self, at: str) -> None:
        """Listens until it is cancelled: followers decide for themselves then."""
        try:
            server = await asyncio.start_unix_server(self._serve, at, limit=_LONGEST)
        except OSError as error:
            logger.warning("balanceroute: front ends decide each for itself: %s", error)
            return
        try:
            while True:
                await asyncio.sleep(_AGAIN)
                for wire in list(self._followers.values()):
                    wire.say("beats")
        finally:
            server.close()
            for wire in self._followers.values():
                wire.writer.transport.abort()

    @property
    def followers(self) -> int:
        """How many are decided for."""
        return len(self._followers)

    @property
    def waits_elsewhere(self) -> bool:
        return bool(self._theirs)

    def decide(self) -> list[tuple[str, int]]:
        """As of a ledger; what followers are to send is told to them."""
        own = []
        for name, rank in super().decide():
            theirs = self._theirs.pop(name, None)
            if theirs is None:
                own.append((name, rank))
            elif (wire := self._followers.get(theirs[0])) is None or not wire.say("enters", theirs[1], rank):
                self.abort(name)
        return own

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = _Wire(writer)
        if not wire.is_ours():
            writer.close()
            return
        me, self._next = self._next, self._next + 1
        self._followers[me] = wire
        self._count()
        try:
            await _messages(reader, lambda message: self._hear(me, *message))
        except Exception as error:
            logger.warning("balanceroute: a front end is not decided for any more: %r", error)
        finally:
            del self._followers[me]
            self._forget_all(me)
            self._count()
            writer.close()

    def _count(self) -> None:
        """Whoever follows needs no part of its own."""
        self.share = 0, max(1, self._of - len(self._followers))
        self.router.set_share(*self.share)
        self.stir()

    def _forget_all(self, me: int) -> None:
        # What runs on is load that reports show.
        for name in [name for name in self._by_name if name.startswith(f"\0{me} ")]:
            self.abort(name)
            self._theirs.pop(name, None)

    def _hear(self, me: int, what: str, *told: Any) -> None:
        match what, told:
            case "waits", (number, prompt, session, most):
                name = f"\0{me} {number}"
                self.enqueue(name, prompt, session, max_tokens=most)
                self._theirs[name] = me, number
            case "runs", (number, prompt, rank, generated, session):
                name = f"\0{me} {number}"
                # It has been sent where this ledger had it waiting, or did not know of it.
                if self._theirs.pop(name, None) is not None or name not in self:
                    self.abort(name)
                    if rank < self.ranks:
                        self.bind(name, prompt, rank, session)
                        self.progress(name, generated)
            case "left", (number, finished):
                name = f"\0{me} {number}"
                self._theirs.pop(name, None)
                self.finish(name) if finished else self.abort(name)
            case "step", (source, numbers, tokens):
                self.step((me, source), [f"\0{me} {number}" for number in numbers], tokens)
                self.news()
            case "report", (rank, figures):
                self.news()
                if rank < self.ranks:
                    self.report(rank, **figures)
            case _:
                raise ValueError(f"no message of ours: {what!r}")
        self.stir()


class Follower(Ledger):
    """The ledger of a front end that is decided for. `stir` is called when the leader has decided, or is heard
    no more.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._wire: _Wire | None = None
        self._entered_by_leader: list[tuple[int, int]] = []
        # The numbers by which requests are told: ids are used again.
        self._number_of: dict[int, int] = {}
        self._id_of: dict[int, int] = {}
        self._prompt_of: dict[int, int] = {}
        self._next = 0
        self.stir: Callable[[], None] = lambda: None

    @property
    def follows(self) -> bool:
        """Whether somebody else decides."""
        return self._wire is not None

    async def run(self, at: str) -> None:
        """Until it is cancelled: looks for the leader, tells it how things stand, and hears it."""
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(at, limit=_LONGEST)
            except OSError:
                await asyncio.sleep(_AGAIN)
                continue
            try:
                wire = _Wire(writer)
                if wire.is_ours():
                    self._wire = wire
                    self._tell_all()
                    await _messages(reader, lambda message: self._hear(*message), _SILENT)
            except Exception as error:
                logger.warning("balanceroute: the first front end is not heard, others go on: %r", error)
            finally:
                self._wire = None
                writer.close()
                self.stir()
            await asyncio.sleep(_AGAIN)

    def _say(self, *message: Any) -> None:
        if self._wire is not None and not self._wire.say(*message):
            self._wire = None
            self.stir()

    def _tell_all(self) -> None:
        self._entered_by_leader.clear()
        for name, id in self._by_name.items():
            waits = self._waiting.get(id)
            if waits is not None:
                self._say("waits", self._number(id), waits[0], waits[1], waits[2])
            elif (rank := self.rank_of(name)) is not None:
                prompt, generated = self._prompt_of.get(id, 1), self.generated(name)
                self._say("runs", self._number(id), prompt, rank, generated, None)

    def _number(self, id: int) -> int:
        number = self._number_of.get(id)
        if number is None:
            number, self._next = self._next, self._next + 1
            self._number_of[id], self._id_of[number] = number, id
        return number

    def _hear(self, what: str, *told: Any) -> None:
        match what, told:
            case "beats", ():
                pass
            case "enters", (number, rank):
                id = self._id_of.get(number)
                if id is not None and rank < self.ranks:
                    self._entered_by_leader.append((id, rank))
                    self.stir()
            case _:
                raise ValueError(f"no message of ours: {what!r}")

    # What the leader is to know.

    def decide(self) -> list[tuple[str, int]]:
        """What the leader has decided; without one, what this ledger does."""
        sent = []
        for id, rank in self._entered_by_leader:
            waits = self._waiting.pop(id, None)
            if waits is not None:
                self._special.discard(id)
                self._counters.placed += 1
                sent.append((self._name(id), super()._send(id, waits, self._workers[rank])))
        self._entered_by_leader.clear()
        return sent if self.follows else sent + super().decide()

    def enqueue(
        self,
        name: str,
        prompt_tokens: int,
        session: str | None = None,
        *,
        max_tokens: int | None = None,
        eligible: Collection[int] | None = None,
    ) -> None:
        super().enqueue(name, prompt_tokens, session, max_tokens=max_tokens, eligible=eligible)
        id = self._by_name[name]
        prompt, session, most, _ = self._waiting[id]
        self._prompt_of[id] = prompt
        self._say("waits", self._number(id), prompt, session, most)

    def step(self, source: object, names: list[str], tokens: list[int]) -> None:
        super().step(source, names, tokens)
        if self._wire is not None:
            ids = [self._by_name.get(name, -1) for name in names]
            number_of = self._number_of
            known = [(number_of[id], more) for id, more in zip(ids, tokens, strict=True) if id in number_of]
            self._say("step", source, [number for number, _ in known], [more for _, more in known])

    def report(self, rank: int, **figures: Any) -> str:
        if not figures.get("age"):
            # Others hear the coordinator themselves.
            self._say("report", rank, figures)
        return super().report(rank, **figures)

    def _entered(self, dispatch: Any, session: str | None) -> int:
        rank = super()._entered(dispatch, session)
        self._prompt_of[dispatch.id] = dispatch.prompt_tokens
        self._say("runs", self._number(dispatch.id), dispatch.prompt_tokens, rank, 0, session)
        return rank

    def finish(self, name: str) -> bool:
        id = self._by_name.get(name)
        if id is not None:
            self._tell_left(id, True)
        return super().finish(name)

    def _forget(self, id: int) -> None:
        self._tell_left(id, False)
        self._prompt_of.pop(id, None)
        super()._forget(id)

    def _tell_left(self, id: int, finished: bool) -> None:
        number = self._number_of.pop(id, None)
        if number is not None:
            del self._id_of[number]
            self._say("left", number, finished)
