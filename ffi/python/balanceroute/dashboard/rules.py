"""Alert rules for Prometheus: what is wrong, for how long before it counts, and where the page says what to
do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

from .promql import Names


@dataclass(frozen=True)
class Thresholds:
    """From where on something is wrong. Shares are of 1."""

    idle_slots_share: float = 0.05
    """Slots that stay empty beside a queue, of all. A plug-in leaves 1 to 3 % empty for want of news."""
    full_cache_share: float = 0.9
    """KV tokens used and kept for growth, of those that fit, from which on a worker's slots are not idle."""
    lost_share: float = 0.1
    """Of the workers' time, what goes by in waiting for the fullest one. `level` loses 2 to 4 %, rules that
    bind on arrival 11 % and more."""
    busy_slots_share: float = 0.5
    """Running requests by slots, below which loads say little: with few requests no rule can level them."""
    passed_share: float = 0.9
    """Of the bound on being passed."""
    longest_wait_seconds: float = 60
    report_age_seconds: float = 10
    """Engines tell several times a second, while they decode."""
    contradictory_share: float = 0.05
    """Of the reports of a worker, those that contradict what it had told."""
    decide_seconds: float = 0.005
    """The 99th percentile of a decision; a step of decoding takes tens of milliseconds."""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(field.name for field in fields(cls))


@dataclass(frozen=True)
class Alert:
    """One rule. `summary` and `about` are Prometheus's templates; `lasts` is a duration of its own."""

    name: str
    expr: str
    lasts: str
    severity: Literal["critical", "warning"]
    summary: str
    about: str

    @property
    def anchor(self) -> str:
        return self.name.lower()


def alerts(of: Names, at: Thresholds) -> list[Alert]:
    """All rules, on series of either page."""
    used, growth, fit = (of.worker(f"kv_{name}_tokens") for name in ("used", "growth", "capacity"))
    contradictory = of.router("worker_reports_total", 'verdict="contradictory"')
    lost = of.router("left_total", 'how=~"lost_dispatch|worker_silent|worker_forgot"')
    # A rank's number and its instance, as templates.
    rank = "rank {{ $labels.worker }} of {{ $labels.instance }}"
    cluster = "{{ $labels.instance }}"
    percent = "{{ $value | humanizePercentage }}"
    return [
        Alert(
            "BalanceRouteQueueBesideIdleSlots",
            f"""sum without (worker) (
  {of.worker("free_slots")}
    and {of.worker("accepting")} == 1
    and {of.worker("claimed")} == 0
    unless {used} + {growth} > {_number(at.full_cache_share)} * {fit}
)
/ sum without (worker) ({of.worker("slots")})
> {_number(at.idle_slots_share)}
and (
  sum without (reason) ({of.router("waiting_requests", 'reason=~"deferred|outside_window"')})
    or {of.plug_in("held_requests")}
) > 0""",
            "5m",
            "critical",
            f"requests wait at {cluster} beside {percent} of the slots",
            "Slots are empty on workers that take requests and have room in their KV caches, and requests "
            "that may enter them wait all the same.",
        ),
        Alert(
            "BalanceRouteRankOverCapacity",
            f"{used}\n/ ({fit} > 0)\n> 1",
            "1m",
            "warning",
            f"KV cache of {rank} is at {percent} of what fits",
            "More KV tokens are counted on a worker than fit: its engine queues or preempts.",
        ),
        Alert(
            "BalanceRouteImbalanceHigh",
            f"{of.lost_share()}\n> {_number(at.lost_share)}\nand {of.busy_share()} > "
            f"{_number(at.busy_slots_share)}",
            "15m",
            "warning",
            f"workers of {cluster} spend {percent} of their time waiting for the fullest one",
            "The loads of the workers are far apart for long although most slots are busy.",
        ),
        Alert(
            "BalanceRoutePassedNearBound",
            f"{of.either('most_passed_waiting')}\n/ ({of.either('max_passed')} > 0)\n> "
            f"{_number(at.passed_share)}",
            "5m",
            "warning",
            f"a request at {cluster} has been passed by {percent} of what is allowed",
            "For minutes some request that waits has been passed by nearly as many as may pass it.",
        ),
        Alert(
            "BalanceRouteWaitsLong",
            f"{of.router('longest_wait_seconds')} > {_number(at.longest_wait_seconds)}",
            "2m",
            "warning",
            f"a request at {cluster} has waited for {{{{ $value | humanizeDuration }}}}",
            "The first of those who wait has waited for longer than it is meant to.",
        ),
        Alert(
            "BalanceRouteFallback",
            f"{of.plug_in('active')} == 0",
            "1m",
            "critical",
            f"the engine at {cluster} decides for itself",
            "The plug-in has failed or met what it does not know, and has left all decisions to the engine.",
        ),
        Alert(
            "BalanceRouteStatisticsStale",
            f"{of.worker('report_age_seconds')} > {_number(at.report_age_seconds)}\n"
            f"and {of.worker('running_requests')} > 0",
            "1m",
            "warning",
            f"the last report of {rank} is {{{{ $value | humanizeDuration }}}} old",
            "Nothing has been heard of a worker on which requests run.",
        ),
        Alert(
            "BalanceRouteReportsContradict",
            f"rate({contradictory}[5m])\n"
            "/ ignoring (verdict) "
            f"(sum without (verdict) (rate({of.router('worker_reports_total')}[5m])) > 0)\n"
            f"> {_number(at.contradictory_share)}",
            "5m",
            "warning",
            f"{percent} of the reports of {rank} contradict what it had told",
            "Reports claim to be newer and to have seen less: they are ignored, and what is believed of the "
            "worker grows old.",
        ),
        Alert(
            "BalanceRouteRequestsLost",
            f"increase({lost}[10m]) > 0",
            "0m",
            "critical",
            f"requests of {cluster} came back: {{{{ $labels.how }}}}",
            "Requests that were sent to a worker came back without having run to their end.",
        ),
        Alert(
            "BalanceRouteRecordingStopped",
            f"{of.either('recording')} == 0",
            "1m",
            "warning",
            f"calls at {cluster} are recorded no more",
            "The log of a router cannot be written: a replay ends where it did, and no router goes on from "
            "it.",
        ),
        Alert(
            "BalanceRouteDecisionsSlow",
            f"histogram_quantile(0.99, rate({of.router('decide_seconds_bucket')}[5m])) "
            f"> {_number(at.decide_seconds)}",
            "10m",
            "warning",
            f"decisions at {cluster} take {{{{ $value | humanizeDuration }}}} at the 99th percentile",
            "A decision takes a share of the step that it decides.",
        ),
    ]


def rule_file(prefix: str, docs: str, at: Thresholds) -> dict[str, Any]:
    """The rule file as Prometheus reads it. `docs` is where the pages are, a folder or an address."""
    return {
        "groups": [
            {
                "name": "balanceroute",
                "rules": [
                    {
                        "alert": alert.name,
                        "expr": alert.expr,
                        "for": alert.lasts,
                        "labels": {"severity": alert.severity},
                        "annotations": {
                            "summary": alert.summary,
                            "description": alert.about,
                            "runbook_url": f"{docs.rstrip('/')}/monitoring.md#{alert.anchor}",
                        },
                    }
                    for alert in alerts(Names(prefix), at)
                ],
            }
        ]
    }


def text(prefix: str, docs: str, at: Thresholds) -> str:
    """The rules as a file of YAML."""
    return "\n".join(_yaml(rule_file(prefix, docs, at), 0)) + "\n"


def _number(value: float) -> str:
    return f"{value:g}"


def _yaml(value: dict[str, Any], depth: int) -> Iterator[str]:
    """Mappings, lists of mappings, and text: plain where it is a word, quoted as in JSON, which YAML reads,
    or a block where it has lines.
    """
    margin = "  " * depth
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield f"{margin}{name}:"
            yield from _yaml(inner, depth + 1)
        elif isinstance(inner, list):
            yield f"{margin}{name}:"
            for each in inner:
                first, *rest = _yaml(each, depth + 2)
                yield f"{margin}  - {first.lstrip()}"
                yield from rest
        elif "\n" in inner:
            yield f"{margin}{name}: |-"
            yield from (f"{margin}  {line}" for line in inner.split("\n"))
        else:
            yield f"{margin}{name}: {inner if inner.isalnum() else json.dumps(inner)}"
