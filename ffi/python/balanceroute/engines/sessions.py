"""Which worker the last request of a session went to, and what that is worth to those of it that wait."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

# Sessions whose worker is remembered.
_SESSIONS = 1 << 16


class Sessions:
    """Sessions by name, workers by the router's ids, requests by the ledger's."""

    def __init__(self) -> None:
        # Worker and length of the last request of each session, the oldest first.
        self._last: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self.sent: dict[int, tuple[str, int]] = {}
        """Session and prompt tokens of those sent; whoever forgets a request deletes it here."""
        # Prompt tokens of those who wait, by session.
        self._waiting: dict[str, dict[int, int]] = {}
        # Whose last worker, or its length, is another since those who wait were told.
        self._changed: set[str] = set()

    def bonus_tokens(self, session: str | None, prompt_tokens: int) -> dict[int, float] | None:
        """By worker: tokens that it may hold already. None without such a worker."""
        last = self._last.get(session) if session is not None else None
        return None if last is None else {last[0]: min(last[1], prompt_tokens)}

    def waits(self, id: int, session: str, prompt_tokens: int) -> None:
        """It waits from now on."""
        self._waiting.setdefault(session, {})[id] = prompt_tokens

    def waits_no_more(self, id: int, session: str) -> None:
        """It enters a worker, or leaves."""
        of = self._waiting[session]
        del of[id]
        if not of:
            del self._waiting[session]
            self._changed.discard(session)

    def news(self) -> Iterator[tuple[int, dict[int, float]]]:
        """Who waits and gains something else than it was told, and what."""
        while self._changed:
            session = self._changed.pop()
            worker, tokens = self._last[session]
            for id, prompt_tokens in self._waiting[session].items():
                yield id, {worker: min(tokens, prompt_tokens)}

    def entered(self, id: int, session: str, worker: int, prompt_tokens: int) -> None:
        """It was sent to a worker."""
        self.sent[id] = session, prompt_tokens
        self._remember(session, worker, prompt_tokens)

    def ended(self, id: int, worker: int, generated_tokens: int) -> None:
        """One that was sent has ended."""
        session, prompt_tokens = self.sent[id]
        self._remember(session, worker, prompt_tokens + generated_tokens)

    def _remember(self, session: str, worker: int, tokens: int) -> None:
        if session in self._waiting and self._last.get(session) != (worker, tokens):
            self._changed.add(session)
        self._last[session] = worker, tokens
        self._last.move_to_end(session)
        if len(self._last) > _SESSIONS:
            oldest, _ = self._last.popitem(last=False)
            self._changed.discard(oldest)
