"""What the plugins know of policies."""

from __future__ import annotations

from balanceroute import POLICIES

# Choose a rank for a request when it arrives: nothing would be left to decide in a step.
BIND_ON_ARRIVAL = frozenset(
    ("random", "round-robin", "power-of-two", "jsq", "vllm-legacy", "vllm-0.33", "sglang-total-tokens")
)
# By how many a request may be passed under these while it waits is bounded.
BOUND_PASSING = frozenset(name for name in POLICIES if name.startswith(("level", "exact", "rollout")))
# Passes for each rank, where nobody says how many in all.
PASSED_PER_RANK = 128
