"""What a router takes of an engine's figures, as it takes them."""

from __future__ import annotations

# For a length, in tokens.
_SHORTEST, _LONGEST = 1, 1 << 22
# For an age, in seconds.
_OLDEST = 60.0


def length(prompt_tokens: int) -> int:
    """The nearest that a prompt may have."""
    if _SHORTEST <= prompt_tokens <= _LONGEST:
        return prompt_tokens
    return min(max(prompt_tokens, _SHORTEST), _LONGEST)


def age_ms(age: float) -> int:
    """Of seconds since something was measured."""
    return int(min(max(age, 0.0), _OLDEST) * 1e3)
