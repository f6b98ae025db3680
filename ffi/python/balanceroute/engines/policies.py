"""What the plugins know of policies."""

from __future__ import annotations

# Choose a rank for a request when it arrives: nothing would be left to decide in a step.
BIND_ON_ARRIVAL = frozenset(
    ("random", "round-robin", "power-of-two", "jsq", "vllm-legacy", "vllm-0.33", "sglang-total-tokens")
)
