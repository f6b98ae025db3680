"""When, by our clock, a rank wrote what we have read; the stamp that it carries is by the rank's own clock.

A rank on another node may be off by seconds, and either clock may be set while both run. What is sure is when
we looked: what was not there at one look and is there at the next was written in between. So each look bounds
how far the rank's clock is ahead of ours, and the bounds of all looks together leave little room. The clocks
are taken to agree as long as no look speaks against it.
"""

from __future__ import annotations

from dataclasses import dataclass

# From a stamp until it can be read, at most, in seconds: writing it, and the way to this node.
_ON_THE_WAY = 0.005
# How fast clocks drift apart, at most: the bounds of earlier looks widen by so much a second.
_DRIFT = 1e-4


@dataclass(frozen=True)
class Look:
    """A stamp as it was first seen; seconds. What is not of the rank is by our clock."""

    stamp: float
    """By the rank's clock."""
    absent_at: float
    """The last look that did not find it; minus infinity before the first."""
    seen_at: float


class RankClock:
    """How far one rank's clock is ahead of ours."""

    def __init__(self) -> None:
        self._least, self._most = float("-inf"), float("inf")
        self._at: float | None = None

    def see(self, look: Look) -> None:
        """A look that found something new."""
        least, most = look.stamp - look.seen_at, look.stamp - look.absent_at + _ON_THE_WAY
        if self._at is not None:
            drift = _DRIFT * max(0.0, look.seen_at - self._at)
            self._least, self._most = max(self._least - drift, least), min(self._most + drift, most)
        else:
            self._least, self._most = least, most
        self._at = look.seen_at
        if self._least > self._most:
            # One of the clocks was set: what was known before is void.
            self._least, self._most = least, most

    def written(self, look: Look) -> float:
        """When that was written at the earliest, by our clock."""
        ahead = 0.0 if self._least <= 0.0 <= self._most else self._most
        return min(max(look.stamp - ahead, look.absent_at), look.seen_at)
