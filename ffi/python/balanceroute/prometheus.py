"""Text for Prometheus from a router's metrics: `render(router.metrics())` is what a `/metrics` page answers.
Needs no other package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ._native import Histogram, Metrics, RankMetrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

OF_A_WORKER: tuple[tuple[str, str, Callable[[RankMetrics], float | None]], ...] = (
    ("load_tokens", "KV tokens that the worker reads each step.", lambda rank: rank.load_tokens),
    (
        "margin_tokens",
        "Tokens by which the worker is below the most loaded one.",
        lambda rank: rank.margin_tokens,
    ),
    ("running_requests", "Requests of this router that run on the worker.", lambda rank: rank.running),
    (
        "kv_held_requests",
        "Of these, those that have KV there and do not decode yet.",
        lambda rank: rank.held,
    ),
    ("preempted_requests", "Of these, those that the engine has put off.", lambda rank: rank.preempted),
    ("own_tokens", "The lengths of these, whatever they share.", lambda rank: rank.own_tokens),
    ("slots", "Batch slots of the worker that this router is sure of.", lambda rank: rank.slots),
    ("free_slots", "Slots that an admission could take.", lambda rank: rank.free_slots),
    ("kv_used_tokens", "KV tokens counted as used.", lambda rank: rank.kv_used_tokens),
    (
        "kv_growth_tokens",
        "KV tokens kept free for the growth of what runs.",
        lambda rank: rank.kv_growth_tokens,
    ),
    ("kv_capacity_tokens", "KV tokens that fit, where bounded.", lambda rank: rank.kv_capacity_tokens),
    ("foreign_tokens", "KV tokens of requests that are not this router's.", lambda rank: rank.foreign_tokens),
    (
        "shared_tokens",
        "KV tokens by which requests hold less than their lengths.",
        lambda rank: rank.shared_tokens,
    ),
    ("unseen_dispatches", "Dispatches that nothing has shown yet.", lambda rank: rank.unseen),
    ("accepting", "Whether the worker takes new requests.", lambda rank: rank.accepting),
    (
        "claimed",
        "Whether the worker is kept for a request that is overdue and fits nowhere.",
        lambda rank: rank.claimed_by is not None,
    ),
    (
        "report_age_seconds",
        "Time since a report was taken.",
        lambda rank: None if rank.report_age_ms is None else rank.report_age_ms / 1000,
    ),
)

_Sample = tuple[Mapping[str, str], float | None]


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _labels(labels: Mapping[str, str]) -> str:
    inner = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{inner}}}" if inner else ""


class _Page:
    def __init__(self, prefix: str, labels: Mapping[str, str]) -> None:
        self.prefix = prefix
        self.labels = dict(labels)
        self.lines: list[str] = []

    def family(self, name: str, kind: str, about: str, samples: Iterable[_Sample]) -> None:
        name = f"{self.prefix}_{name}"
        self.lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
        for labels, value in samples:
            if value is not None:
                self.lines.append(f"{name}{_labels({**self.labels, **labels})} {_number(value)}")

    def histogram(self, name: str, about: str, of: Histogram, scale: float) -> None:
        """`scale` turns the unit of the counts into that of the name."""
        name = f"{self.prefix}_{name}"
        self.lines += [f"# HELP {name} {about}", f"# TYPE {name} histogram"]
        seen = 0
        for bucket, count in enumerate(of.buckets):
            bound = Histogram.upper_bound(bucket)
            if bound is None:
                break
            seen += count
            labels = _labels({**self.labels, "le": repr(bound * scale)})
            self.lines.append(f"{name}_bucket{labels} {seen}")
        labels = _labels({**self.labels, "le": "+Inf"})
        self.lines.append(f"{name}_bucket{labels} {of.count}")
        self.lines.append(f"{name}_sum{_labels(self.labels)} {repr(of.sum * scale)}")
        self.lines.append(f"{name}_count{_labels(self.labels)} {of.count}")


def render(metrics: Metrics, *, prefix: str = "balanceroute", labels: Mapping[str, str] | None = None) -> str:
    """Metrics in the text format of Prometheus, version 0.0.4. `labels` are put on every sample, such as
    `{"frontend": "0"}`.
    """
    page = _Page(prefix, labels or {})
    ranks = [({"worker": str(rank.worker)}, rank) for rank in metrics.ranks]
    for name, about, value in OF_A_WORKER:
        page.family(f"worker_{name}", "gauge", about, [(on, value(rank)) for on, rank in ranks])
    page.family(
        "worker_dispatches_total",
        "counter",
        "Dispatches to the worker.",
        [(on, rank.dispatches) for on, rank in ranks],
    )
    page.family(
        "worker_reports_total",
        "counter",
        "Reports of the worker by what became of them.",
        [
            ({**on, "verdict": verdict}, getattr(rank.reports, verdict))
            for on, rank in ranks
            for verdict in ("taken", "repeated", "late", "contradictory", "restarted")
        ],
    )
    none: Mapping[str, str] = {}
    for name, about, found in (
        ("envelope_tokens", "Greatest load: a step lasts as long as this.", metrics.envelope_tokens),
        ("imbalance_tokens", "Workers times the envelope minus the sum of loads.", metrics.imbalance_tokens),
        ("running_requests", "Requests that run.", metrics.running),
        ("longest_wait_seconds", "Wait of the first of those who wait now.", metrics.longest_wait_ms / 1000),
        ("longest_wait_steps", "Longest wait of those who wait now.", metrics.longest_wait_steps),
        ("most_passed_waiting", "The most that a waiting one was passed.", metrics.most_passed_waiting),
        ("most_passed", "The most that anybody admitted had been passed.", metrics.most_passed),
        *(
            [("max_passed", "By how many a request may be passed.", metrics.max_passed)]
            if metrics.max_passed is not None
            else []
        ),
    ):
        page.family(name, "gauge", about, [(none, found)])
    page.family(
        "waiting_requests",
        "gauge",
        "Requests that wait, by reason.",
        [({"reason": str(reason)}, count) for reason, count in metrics.waiting_by_reason.items()],
    )
    page.family(
        "waiting_requests_of_class",
        "gauge",
        "Requests that wait, by class: the higher goes first.",
        [({"priority": str(of)}, count) for of, count in metrics.waiting_by_priority.items()],
    )
    page.family("requests_total", "counter", "Requests that were let in.", [(none, metrics.arrived)])
    page.family(
        "decisions_total",
        "counter",
        "Admissions by how they were decided.",
        [({"by": "step"}, metrics.admitted_by_step), ({"by": "arrival"}, metrics.placed_on_arrival)],
    )
    page.family(
        "left_total",
        "counter",
        "Requests that left, by how.",
        [
            ({"how": "finished"}, metrics.finished),
            ({"how": "aborted"}, metrics.aborted),
            ({"how": "preempted"}, metrics.preempted),
            ({"how": "disowned"}, metrics.disowned),
            *(({"how": reason}, count) for reason, count in metrics.returned.items()),
        ],
    )
    for name, about, count in (
        (
            "sent_beyond_total",
            "Requests sent to a worker that had no room by our count.",
            metrics.sent_beyond,
        ),
        ("adopted_beyond_total", "Requests taken over without room by our count.", metrics.adopted_beyond),
        ("claims_total", "Times that an overdue request began to claim a worker.", metrics.claims),
        (
            "admitted_beside_claims_total",
            "Requests that went before one which claimed a worker.",
            metrics.admitted_beside_claims,
        ),
        ("engine_preemptions_total", "Times that an engine put a request off.", metrics.preempted_in_place),
    ):
        page.family(name, "counter", about, [(none, count)])
    if metrics.recording is not None:
        page.family(
            "recording",
            "gauge",
            "Whether calls are recorded; 0 once that has ended by an error.",
            [(none, metrics.recording)],
        )
        page.family(
            "recorded_calls_total",
            "counter",
            "Calls that the recording has.",
            [(none, metrics.recorded_calls)],
        )
    page.family("clock_jumps_total", "counter", "Jumps of the caller's clock.", [(none, metrics.clock_jumps)])
    page.histogram("decide_seconds", "Time of a decision.", metrics.decide_ns, 1e-9)
    page.histogram("wait_seconds", "Waits of the admitted.", metrics.wait_ms, 1e-3)
    page.histogram("wait_steps", "Waits of the admitted in steps.", metrics.wait_steps, 1)
    page.histogram("passed", "How many passed each of the admitted.", metrics.passed, 1)
    return "\n".join(page.lines) + "\n"
