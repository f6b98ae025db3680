"""What the board shows: panels by row, each with its unit, what it means, and the series behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .promql import Names

Page = Literal["router", "plug-in"]
BOTH: tuple[Page, ...] = ("router", "plug-in")
ROUTER: tuple[Page, ...] = ("router",)
PLUG_IN: tuple[Page, ...] = ("plug-in",)

# Grafana's: at least four scrapes, so that a rate has two samples to go by.
OVER = "$__rate_interval"
RANK = "{{instance}} rank {{worker}}"

# Returned or ended otherwise than by their own end or their caller.
LOST = "lost_dispatch|worker_silent|worker_forgot|worker_removed|worker_draining|never_fits|expired|recovered"


@dataclass(frozen=True)
class Query:
    """One expression. `legend` is Grafana's, with labels in double braces; `on` says which pages have what it
    asks for.
    """

    expr: str
    legend: str
    on: tuple[Page, ...] = BOTH


@dataclass(frozen=True)
class Panel:
    """`unit` is one of Grafana's ids. `when` says under which condition there is anything to show."""

    title: str
    about: str
    unit: str
    queries: Sequence[Query]
    kind: Literal["timeseries", "stat", "heatmap"] = "timeseries"
    stacked: bool = False
    least: float | None = 0
    most: float | None = None
    when: str | None = None
    states: tuple[tuple[int, str, str], ...] = ()
    """Values by name and colour."""
    steps: tuple[tuple[float, str], ...] = ()
    """From which value on which colour; green below."""

    @property
    def pages(self) -> tuple[Page, ...]:
        return tuple(page for page in BOTH if any(page in query.on for query in self.queries))

    @property
    def description(self) -> str:
        parts = [self.about]
        if self.pages == ROUTER:
            parts.append("On a router's page only.")
        elif self.pages == PLUG_IN:
            parts.append("On the page of an engine with a plug-in only.")
        if self.when:
            parts.append(self.when)
        return " ".join(parts)


@dataclass(frozen=True)
class Row:
    title: str
    panels: Sequence[Panel]


def board(names: Names) -> list[Row]:
    """The rows of the board, in their order."""
    return [
        Row("At a glance", _glance(names)),
        Row("Balance", _balance(names)),
        Row("Waiting", _waiting(names)),
        Row("Decisions", _decisions(names)),
        Row("KV caches", _caches(names)),
        Row("Health", _health(names)),
    ]


def _glance(of: Names) -> list[Panel]:
    used = f"max({of.worker('kv_used_tokens')} / ({of.worker('kv_capacity_tokens')} > 0))"
    return [
        Panel(
            "Decides",
            "Who decides: this library, or the engine by itself after a failure.",
            "none",
            [Query(f"min({of.plug_in('active')})", "decides", PLUG_IN)],
            "stat",
            states=((1, "balanceroute", "green"), (0, "the engine", "red")),
        ),
        Panel(
            "Requests waiting",
            "Requests that wait for a slot.",
            "short",
            [Query(f"sum({of.waiting()})", "waiting")],
            "stat",
        ),
        Panel(
            "Busy slots",
            "Running requests by slots of all workers.",
            "percentunit",
            [Query(f"sum({of.worker('running_requests')}) / sum({of.worker('slots')})", "busy")],
            "stat",
            most=1,
        ),
        Panel(
            "Time lost",
            "Workers wait for the fullest one at the end of each step: the part of their time that goes by "
            "so. Imbalance by workers times the envelope; the greatest of all instances.",
            "percentunit",
            [Query(f"max({of.lost_share()})", "lost")],
            "stat",
            steps=((0.05, "yellow"), (0.1, "red")),
        ),
        Panel(
            "Fullest KV cache",
            "KV tokens in use by KV tokens that fit, of the fullest worker.",
            "percentunit",
            [Query(used, "used")],
            "stat",
            most=1,
            when="Empty where KV caches have no bound.",
            steps=((0.9, "yellow"), (1, "red")),
        ),
        Panel(
            "Longest wait",
            "How long the first of those who wait now has waited.",
            "s",
            [Query(f"max({of.router('longest_wait_seconds')})", "wait", ROUTER)],
            "stat",
        ),
    ]


def _balance(of: Names) -> list[Panel]:
    return [
        Panel(
            "Load of each rank",
            "KV tokens that a worker reads each step. Lines that stay together are what this library is for.",
            "short",
            [Query(of.worker("load_tokens"), RANK)],
        ),
        Panel(
            "Envelope and mean",
            "The greatest load (tokens times weight), as long as which a step lasts, and the mean load. Of "
            "the room between the two nobody has anything.",
            "short",
            [
                Query(of.envelope(), "{{instance}} envelope"),
                Query(f"avg without (worker) ({of.worker('load_tokens')})", "{{instance}} mean"),
            ],
        ),
        Panel(
            "Imbalance",
            "Workers times the envelope minus the sum of loads, in KV tokens.",
            "short",
            [Query(of.imbalance(), "{{instance}}")],
        ),
        Panel(
            "Time lost to waiting",
            "The part of all workers' time in a step in which they wait for the fullest one: imbalance by "
            "workers times the envelope.",
            "percentunit",
            [Query(of.lost_share(), "{{instance}}")],
        ),
        Panel(
            "Safe margin of each rank",
            "KV tokens that a worker could take before it is the fullest: a shorter request enters it "
            "without making the step longer.",
            "short",
            [Query(of.worker("margin_tokens"), RANK)],
        ),
        Panel(
            "Empty slots of each rank",
            "Slots that an admission could take now.",
            "short",
            [Query(of.worker("free_slots"), RANK)],
        ),
        Panel(
            "Running on each rank",
            "Requests of ours on the worker; with several front ends on one page, of all of these.",
            "short",
            [Query(of.worker("running_requests"), RANK)],
        ),
    ]


def _waiting(of: Names) -> list[Panel]:
    def quantiles(histogram: str, unit: str = "") -> list[Query]:
        return [
            Query(of.quantile(q, histogram, "instance", OVER), f"{{{{instance}}}} {name}{unit}", ROUTER)
            for q, name in ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"))
        ]

    return [
        Panel(
            "Waiting by reason",
            "Why requests wait: no slot; no KV capacity; not eligible where slots are; outside the window; "
            "deferred for a better fit; claims or claimed, where a worker is kept for one that is overdue. "
            "An engine's page has no reasons: held.",
            "short",
            [
                Query(of.router("waiting_requests"), "{{instance}} {{reason}}", ROUTER),
                Query(of.plug_in("held_requests"), "{{instance}} held", PLUG_IN),
            ],
            stacked=True,
        ),
        Panel(
            "Waiting by class",
            "Requests that wait of each class; the higher number goes first.",
            "short",
            [Query(of.router("waiting_requests_of_class"), "{{instance}} class {{priority}}", ROUTER)],
            stacked=True,
            when="A class is there while any of it waits.",
        ),
        Panel(
            "Waits of the admitted",
            "How long those waited who were admitted lately. Buckets are powers of two.",
            "s",
            quantiles("wait_seconds"),
            when="Empty while nobody is admitted.",
        ),
        Panel(
            "Waits of the admitted in steps",
            "In decode steps, and how long the one waits that waits longest now.",
            "short",
            [
                *quantiles("wait_steps"),
                Query(of.router("longest_wait_steps"), "{{instance}} longest now", ROUTER),
            ],
        ),
        Panel(
            "Longest wait now",
            "Of the first of those who wait now.",
            "s",
            [Query(of.router("longest_wait_seconds"), "{{instance}}", ROUTER)],
        ),
        Panel(
            "Passed, against the bound",
            "By how many that came later and were let in before it the most-passed request was passed: of "
            "those who wait now, and of all so far. At the bound it goes before everybody.",
            "short",
            [
                Query(of.either("most_passed_waiting"), "{{instance}} waiting now"),
                Query(of.either("most_passed"), "{{instance}} of all so far"),
                Query(of.either("max_passed"), "{{instance}} bound"),
            ],
            when="There is no bound under policies that know none.",
        ),
        Panel(
            "Passed, of the admitted",
            "By how many that came later and were let in before it each of those was passed who were "
            "admitted lately.",
            "short",
            quantiles("passed"),
            when="Empty while nobody is admitted.",
        ),
    ]


def _decisions(of: Names) -> list[Panel]:
    def rate(name: str) -> str:
        return f"rate({of.router(name)}[{OVER}])"

    decide = of.router("decide_seconds_bucket")
    return [
        Panel(
            "Admissions by how they were decided",
            "In a step, from the pool, or on arrival.",
            "reqps",
            [Query(rate("decisions_total"), "{{instance}} by {{by}}", ROUTER)],
            stacked=True,
        ),
        Panel(
            "Admissions by rank",
            "Dispatches to each worker.",
            "reqps",
            [Query(rate("worker_dispatches_total"), RANK, ROUTER)],
        ),
        Panel(
            "In and out",
            "Requests let in, and requests that left by how they left.",
            "reqps",
            [
                Query(rate("requests_total"), "{{instance}} let in", ROUTER),
                Query(rate("left_total"), "{{instance}} {{how}}", ROUTER),
            ],
        ),
        Panel(
            "Time of a decision",
            "How long a decision takes. A step of decoding takes tens of milliseconds. Buckets are powers of "
            "two.",
            "s",
            [
                Query(of.quantile(0.5, "decide_seconds", "instance", OVER), "{{instance}} p50", ROUTER),
                Query(of.quantile(0.99, "decide_seconds", "instance", OVER), "{{instance}} p99", ROUTER),
                Query(
                    f"{rate('decide_seconds_sum')}\n/ ({rate('decide_seconds_count')} > 0)",
                    "{{instance}} mean",
                    ROUTER,
                ),
            ],
            when="Empty while nothing is decided.",
        ),
        Panel(
            "Times of decisions",
            "How many decisions took how long.",
            "s",
            [Query(f"sum by (le) (increase({decide}[{OVER}]))", "{{le}}", ROUTER)],
            "heatmap",
        ),
        Panel(
            "Claims",
            "Workers that are kept for a request which is overdue and fits nowhere; how often that began, "
            "and who went before such a request.",
            "short",
            [
                Query(f"sum without (worker) ({of.worker('claimed')})", "{{instance}} workers kept"),
                Query(f"increase({of.router('claims_total')}[{OVER}])", "{{instance}} begun", ROUTER),
                Query(
                    f"increase({of.router('admitted_beside_claims_total')}[{OVER}])",
                    "{{instance}} admitted beside",
                    ROUTER,
                ),
            ],
        ),
    ]


def _caches(of: Names) -> list[Panel]:
    used, room, fit = (of.worker(f"kv_{name}_tokens") for name in ("used", "growth", "capacity"))
    unbounded = "Empty where KV caches have no bound."
    return [
        Panel(
            "KV used of what fits",
            "KV tokens in use by KV tokens that fit, by worker.",
            "percentunit",
            [Query(f"{used}\n/ ({fit} > 0)", RANK)],
            when=unbounded,
        ),
        Panel(
            "KV used, and room kept for growth",
            "The room that what runs is expected to grow by is in use already, to an admission.",
            "percentunit",
            [Query(f"({used} + {room})\n/ ({fit} > 0)", RANK)],
            when=unbounded,
        ),
        Panel(
            "Whose KV tokens",
            "Of all workers: lengths of our requests, whatever they share; what they share; what belongs to "
            "others; the room kept for growth.",
            "short",
            [
                Query(f"sum without (worker) ({of.worker('own_tokens')})", "{{instance}} ours"),
                Query(f"sum without (worker) ({of.worker('shared_tokens')})", "{{instance}} shared"),
                Query(f"sum without (worker) ({of.worker('foreign_tokens')})", "{{instance}} others'"),
                Query(f"sum without (worker) ({room})", "{{instance}} kept for growth"),
            ],
        ),
        Panel(
            "Preempted now",
            "Requests that the engine has put off and goes on with by itself.",
            "short",
            [Query(of.worker("preempted_requests"), RANK)],
        ),
        Panel(
            "Preemptions",
            "How often engines put a request off, to go on with it by themselves or to have it sent again.",
            "short",
            [
                Query(
                    f"increase({of.router('engine_preemptions_total')}[{OVER}])",
                    "{{instance}} in place",
                    ROUTER,
                ),
                Query(
                    f"""increase({of.router("left_total", 'how="preempted"')}[{OVER}])""",
                    "{{instance}} sent again",
                    ROUTER,
                ),
            ],
        ),
        Panel(
            "Holding KV, not decoding",
            "Requests whose KV is on a worker and that do not decode yet, as while it is transferred.",
            "short",
            [Query(of.worker("kv_held_requests"), RANK)],
        ),
    ]


def _health(of: Names) -> list[Panel]:
    lost = of.router("left_total", f'how=~"{LOST}"')
    return [
        Panel(
            "Age of statistics",
            "Time since a report of the worker was taken.",
            "s",
            [Query(of.worker("report_age_seconds"), RANK)],
            when="Empty before a worker's first report.",
        ),
        Panel(
            "Reports by verdict",
            "Taken; repeated and late ones, which say nothing new; contradictory ones, which are ignored; "
            "restarted, of a worker that began anew.",
            "reqps",
            [
                Query(
                    f"sum without (worker) (rate({of.router('worker_reports_total')}[{OVER}]))",
                    "{{instance}} {{verdict}}",
                    ROUTER,
                )
            ],
            stacked=True,
        ),
        Panel(
            "Dispatches not seen yet",
            "Sent, and in no report nor output so far.",
            "short",
            [Query(of.worker("unseen_dispatches"), RANK)],
        ),
        Panel(
            "Taking requests",
            "1 where a worker takes new requests, 0 while it drains.",
            "none",
            [Query(of.worker("accepting"), RANK)],
            most=1,
        ),
        Panel(
            "Deciding",
            "1 while this library decides in all front ends, 0 once the engine decides for itself.",
            "none",
            [Query(of.plug_in("active"), "{{instance}}", PLUG_IN)],
            most=1,
        ),
        Panel(
            "Recording",
            "1 while calls are recorded, 0 once that has ended by an error.",
            "none",
            [Query(of.either("recording"), "{{instance}}")],
            most=1,
            when="Empty where nobody has asked for a recording.",
        ),
        Panel(
            "Calls recorded",
            "What changes a router, as its log has it.",
            "reqps",
            [Query(f"rate({of.router('recorded_calls_total')}[{OVER}])", "{{instance}}", ROUTER)],
            when="Empty where nobody has asked for a recording.",
        ),
        Panel(
            "Errors by cause",
            "Requests that came back without having finished, by why; requests sent or taken over where "
            "there was no room by our count; jumps of the caller's clock.",
            "short",
            [
                Query(f"increase({lost}[{OVER}])", "{{instance}} {{how}}", ROUTER),
                *(
                    Query(f"increase({of.router(name)}[{OVER}])", f"{{{{instance}}}} {words}", ROUTER)
                    for name, words in (
                        ("sent_beyond_total", "sent without room"),
                        ("adopted_beyond_total", "taken over without room"),
                        ("clock_jumps_total", "clock jumps"),
                    )
                ),
            ],
        ),
    ]
