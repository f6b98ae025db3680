"""What a router takes of an engine's figures, as it takes them."""

from __future__ import annotations

from typing import TypeAlias

# For a length, in tokens.
_SHORTEST, LONGEST = 1, 1 << 22
_LOWEST, _HIGHEST = -128, 127
# For an age, in seconds.
_OLDEST = 60.0


# What a request of the pool may need once more: its length, its session, what it may generate at most, the
# workers that may take it, and its class. A tuple, since one is made for every request.
Waiting: TypeAlias = tuple[int, str | None, int | None, frozenset[int] | None, int]


def length(prompt_tokens: int) -> int:
    """The nearest that a prompt may have."""
    if _SHORTEST <= prompt_tokens <= LONGEST:
        return prompt_tokens
    return min(max(prompt_tokens, _SHORTEST), LONGEST)


def age_ms(age: float) -> int:
    """Of seconds since something was measured."""
    return int(min(max(age, 0.0), _OLDEST) * 1e3)


def priority(value: int) -> int:
    """A class: of those beyond what a router takes all are of the outermost."""
    return min(max(value, _LOWEST), _HIGHEST)
