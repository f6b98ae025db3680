"""What a ledger counts."""

from __future__ import annotations

from dataclasses import dataclass

from balanceroute import Metrics


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

    def in_words(self, metrics: Metrics) -> str:
        """How things stand, in a line: the loads of the ranks in KV tokens, and what has been decided."""
        loads = [at.load_tokens for at in metrics.ranks]
        mean = sum(loads) / max(1, len(loads))
        above = max(loads, default=0) / mean - 1 if mean else 0.0
        return (
            f"KV tokens {loads}, fullest rank {above:.1%} above the mean; "
            f"{self.placed} placed, {self.bound} named their rank, "
            f"{self.queued} queued for want of room, {self.finished} finished, {self.aborted} aborted"
        ) + (
            (f", {self.covered} part of what ranks report" if self.covered else "")
            + ("" if metrics.max_passed is None else f", nobody passed by more than {metrics.most_passed}")
        )
