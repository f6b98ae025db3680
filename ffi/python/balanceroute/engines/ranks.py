"""Which worker of the router a rank is, and how large it is.

A rank is a place among the ranks: those behind one that leaves move up. A worker keeps its id for as long as
it is there, and no other gets it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

import balanceroute


class Ranks:
    """Ranks and workers, as both stand in the router: ascending."""

    def __init__(
        self, count: int, slots: int, kv_capacity_tokens: int | None, weights: Sequence[float]
    ) -> None:
        if len(weights) > count:
            raise ValueError(f"{len(weights)} weights for {count} ranks")
        self._slots = slots
        self._kv_capacity_tokens = kv_capacity_tokens
        # By rank, also of those that have left at the end.
        self._weights = list(weights)
        self.workers = list(range(count))
        self.of_worker = {worker: worker for worker in range(count)}
        self.in_each_tokens: int | None = None
        """KV tokens that each rank holds at least; None where that is to be asked for."""

    def __len__(self) -> int:
        return len(self.workers)

    def config(self, rank: int) -> balanceroute.WorkerConfig:
        """Of a rank when it joins."""
        weight = self._weights[rank] if rank < len(self._weights) else 1.0
        return balanceroute.WorkerConfig(
            self._slots, kv_capacity_tokens=self._kv_capacity_tokens, weight=weight
        )

    def joins(self, worker: int) -> None:
        """Behind the others."""
        self.of_worker[worker] = len(self.workers)
        self.workers.append(worker)
        self.in_each_tokens = None

    def leaves(self, rank: int) -> int:
        """Those behind it move up and take their weights along; at the end its weight waits for one that
        joins there again. The worker that it was."""
        worker = self.workers.pop(rank)
        at = self.of_worker[worker]
        if at < len(self.workers):
            del self._weights[at : at + 1]
        self.of_worker = {worker: rank for rank, worker in enumerate(self.workers)}
        self.in_each_tokens = None
        return worker

    def workers_of(self, ranks: Collection[int]) -> frozenset[int]:
        """Of these ranks."""
        return frozenset(self.workers[rank] for rank in ranks)

    def bonuses(self, by_worker: Mapping[int, float] | None) -> Any:
        """A row of them, in the router's order; None for none."""
        if by_worker is None:
            return None
        return np.array([by_worker.get(worker, 0) for worker in self.workers], np.float32)

    def mask(self, workers: frozenset[int] | None) -> Any:
        """A row of who is among these workers; None for all."""
        return None if workers is None else np.array([at in workers for at in self.workers], np.bool_)

    def hold(self, tokens: int, router: balanceroute.Router) -> bool:
        """Whether each that has said how many KV tokens it holds holds so many; none while none has said
        so."""
        if self.in_each_tokens is None:
            of_rank = (router.worker_config(worker).kv_capacity_tokens for worker in self.workers)
            self.in_each_tokens = min((capacity for capacity in of_rank if capacity), default=0)
        return tokens <= self.in_each_tokens


def changed(
    now: balanceroute.WorkerConfig, slots: int | None, kv_capacity_tokens: int | None, weight: float | None
) -> balanceroute.WorkerConfig:
    """A rank as it is from now on, in what is given."""
    return balanceroute.WorkerConfig(
        now.slots if slots is None else slots,
        kv_capacity_tokens=now.kv_capacity_tokens if kv_capacity_tokens is None else kv_capacity_tokens,
        weight=now.weight if weight is None else weight,
    )
