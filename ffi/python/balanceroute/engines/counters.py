"""What a ledger counts."""

from __future__ import annotations

from dataclasses import dataclass


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
    """Waited, and came back from the router: longer than any rank's KV cache. It was sent all the same."""
    lost: int = 0
    """Ran on a rank that has forgotten it."""
