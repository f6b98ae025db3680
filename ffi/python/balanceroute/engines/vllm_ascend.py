"""What vllm-ascend does beside this plugin, and what an operator is to know of it.

Two of its schedulers act on the same slots as we do, inside the ranks:

* *balance scheduling*: after a step in which any rank ran as many requests as it may, no rank admits one in
  the next. It expects that to be rare. Where requests queue it is the rule, and what is sent on time waits.
* *DyntraLB*: the ranks exchange their queues each step and swap running for waiting requests. It has a choice
  only among requests that queue in the ranks, so there a few more than the engine's slots are right.
  Without it they are not: what queues inside a rank is bound to it.

Where their switches are depends on the version: an environment variable (0.13, 0.18), `additional_config`
(0.23), `scheduler_config` inside of it (later); DyntraLB came after 0.26. All is asked for, nothing required.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

from .settings import say

BALANCE_VARIABLE = "VLLM_ASCEND_BALANCE_SCHEDULING"
_BALANCE = "enable_balance_scheduling"
_DYNTRA = "dyntra_lb_config"
# How many requests more than an engine's slots DyntraLB can make use of.
MORE_WITH_DYNTRA = 2


def balance_scheduling(config: Any) -> bool:
    """Whether a rank at its cap keeps all ranks from admitting."""
    for place in _places(config):
        value = _get(place, _BALANCE)
        if value is not None:
            return bool(value)
    return os.environ.get(BALANCE_VARIABLE, "").strip() not in ("", "0")


def dyntra_lb(config: Any) -> bool:
    """Whether the ranks swap running for waiting requests."""
    for place in _places(config):
        found = _get(place, _DYNTRA)
        if found is not None:
            return bool(_get(found, "enabled"))
    return False


def tell(client: Any, slots: int, engine_slots: int, log: logging.Logger) -> None:
    """Says once, by the first of several front ends, what goes ill together."""
    if getattr(client, "client_index", 0) != 0:
        return
    config = getattr(client, "vllm_config", None)
    on_ascend = "vllm_ascend" in sys.modules
    if on_ascend and balance_scheduling(config):
        say(
            log,
            logging.WARNING,
            "balanceroute: balance scheduling of vllm-ascend (enable_balance_scheduling, or %s) is on: it "
            "stops all ranks from admitting while one of them is full, which at saturation is always, and "
            "works against this plugin; turn it off",
            BALANCE_VARIABLE,
        )
    more = slots - engine_slots
    if on_ascend and dyntra_lb(config):
        if more != MORE_WITH_DYNTRA:
            say(
                log,
                logging.WARNING,
                "balanceroute: DyntraLB of vllm-ascend is on and chooses among requests that queue in the "
                "ranks: BALANCEROUTE_SLOTS=%d (%d more than the engine's) lets it, found %d",
                engine_slots + MORE_WITH_DYNTRA,
                MORE_WITH_DYNTRA,
                slots,
            )
    elif more > 0:
        say(
            log,
            logging.WARNING,
            "balanceroute: BALANCEROUTE_SLOTS is %d, and a rank has %d slots: what is more queues inside a "
            "rank, bound to it, and the ranks drift apart",
            slots,
            engine_slots,
        )


def _places(config: Any) -> list[Any]:
    """Where a switch may stand, what counts most first: as vllm-ascend has understood it, then as given."""
    places: list[Any] = []
    module = sys.modules.get("vllm_ascend.ascend_config")
    try:
        understood = module.get_ascend_config() if module is not None else None
    except Exception:
        # Not made in this process.
        understood = None
    for whole in (understood, getattr(config, "additional_config", None)):
        if whole is not None:
            places += [place for place in (_get(whole, "scheduler_config"), whole) if place is not None]
    return places


def _get(place: Any, name: str) -> Any:
    return place.get(name) if isinstance(place, Mapping) else getattr(place, name, None)
