"""TensorRT-LLM's attention-DP router over balanceroute: the step's requests and the states of all ranks in, a
rank for every request out.

TensorRT-LLM runs the router on every rank with the same input and trusts that all decide alike; balanceroute
is deterministic. To use it:

    from tensorrt_llm._torch.pyexecutor.scheduler.adp_router import DefaultADPRouter

    class BalancedADPRouter(BalancedRouting, DefaultADPRouter):
        pass

    PyExecutor(..., adp_router=BalancedADPRouter(...))
"""

from __future__ import annotations

from typing import Any

import numpy as np

import balanceroute


class BalancedRouting:
    """Replaces `route_requests` of an ADP router; everything else stays."""

    policy = "level"

    def route_requests(
        self, all_rank_states: list[Any], new_requests: list[Any], max_num_active_requests: int
    ) -> tuple[dict[int, list[Any]], int]:
        """(rank -> its new requests, the greatest number of active requests on a rank afterwards). Every
        request gets a rank.

        A request goes to the rank that it names, if that has room; where it may not relax that, it comes
        before others.
        """
        ranks = [state.rank for state in all_rank_states]
        place = {rank: at for at, rank in enumerate(ranks)}
        active = np.array([state.num_active_requests for state in all_rank_states], np.uint32)
        load = np.array([state.num_active_tokens for state in all_rank_states], np.uint64)
        # The strict ones first, as TensorRT-LLM does: earlier requests win a contested slot.
        waiting = sorted(new_requests, key=lambda item: _wish(item)[1])
        assigned: dict[int, list[Any]] = {rank: [] for rank in ranks}

        def enter(item: Any, at: int) -> None:
            assigned[ranks[at]].append(item)
            active[at] += 1
            load[at] += _length(item)

        others = []
        for item in waiting:
            at = place.get(_wish(item)[0])
            if at is not None and active[at] < max_num_active_requests:
                enter(item, at)
            else:
                others.append(item)
        while others:
            free = np.maximum(max_num_active_requests - active.astype(np.int64), 0).astype(np.uint32)
            lengths = np.array([_length(item) for item in others], np.uint32)
            answer = self._assigner().assign(load, free, lengths, running=active)
            for row, at in zip(answer.row.tolist(), answer.worker.tolist()):
                enter(others[row], at)
            if not len(answer):
                # The policy would rather wait, or no slot is left; TensorRT-LLM has taken them from its queue
                # and expects a rank.
                for item in others:
                    enter(item, int(np.lexsort((load, active >= max_num_active_requests))[0]))
                break
            gone = set(answer.row.tolist())
            others = [item for row, item in enumerate(others) if row not in gone]
        return assigned, int(active.max(initial=0))

    def _assigner(self) -> balanceroute.Assigner:
        if not hasattr(self, "_balanceroute"):
            self._balanceroute = balanceroute.Assigner(self.policy)
        return self._balanceroute


def _length(item: Any) -> int:
    return max(1, len(getattr(item.request, "input_token_ids", ()))) if item.request else 1


def _wish(item: Any) -> tuple[int | None, bool]:
    """The rank it names, and whether another one will do."""
    params = getattr(item.request, "py_scheduling_params", None)
    return (None, True) if params is None else (params.attention_dp_rank, params.attention_dp_relax)
