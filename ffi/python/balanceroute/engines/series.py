"""Series on an engine's own `/metrics` page: in prometheus_client's default registry, whose page it is, over
the processes of several front ends too. Without prometheus_client there are none.

* `balanceroute_held_requests`: requests that wait here, and that the engine knows nothing of;
* `balanceroute_active`: 0 once the engine decides for itself again;
* `balanceroute_most_passed_waiting`, `balanceroute_most_passed`, `balanceroute_max_passed`: by how many that
  came later requests have been passed, of those who wait now and of all who were let in, and how many may;
* `balanceroute_recording`, where calls are recorded: 0 once that has ended by an error;
* by worker, those of :mod:`balanceroute.prometheus`.
"""

from __future__ import annotations

import functools
import importlib
import logging
from typing import Any

from balanceroute import Metrics
from balanceroute.prometheus import OF_A_WORKER

logger = logging.getLogger("balanceroute")

# Of a worker, what each front end has a part of; of all else each knows the whole.
_PARTS = frozenset(
    (
        "running_requests",
        "kv_held_requests",
        "preempted_requests",
        "own_tokens",
        "slots",
        "free_slots",
        "unseen_dispatches",
    )
)
# Of one pool; of several the greatest is shown.
_PASSED = (
    ("most_passed_waiting", "The most that came later and were let in before one who waits now."),
    ("most_passed", "The most that came later and were let in before one who waits no more."),
    ("max_passed", "How many of these there may be."),
)


@functools.cache
def _gauges() -> dict[str, Any] | None:
    """Once a process: a registry takes a name once."""
    try:
        gauge = importlib.import_module("prometheus_client").Gauge
        made = {
            "held": gauge(
                "balanceroute_held_requests",
                "Requests that wait in the front ends for a slot.",
                multiprocess_mode="livesum",
            ),
            "active": gauge(
                "balanceroute_active",
                "Whether all front ends decide; 0 when the engine does.",
                multiprocess_mode="livemin",
            ),
        }
        for name, help in _PASSED:
            made[name] = gauge(f"balanceroute_{name}", help, multiprocess_mode="livemax")
        for name, help, _ in OF_A_WORKER:
            mode = "livesum" if name in _PARTS else "livemostrecent"
            made[name] = gauge(f"balanceroute_{name}", help, ["worker"], multiprocess_mode=mode)
    except Exception as error:
        logger.debug("balanceroute: no series on the engine's page: %s", error)
        return None
    return made


@functools.cache
def _recording() -> Any:
    """A gauge that nobody has set shows 0: it is made where there is a recording."""
    return importlib.import_module("prometheus_client").Gauge(
        "balanceroute_recording",
        "Whether calls are recorded; 0 once that has ended by an error.",
        multiprocess_mode="livemin",
    )


class Series:
    """One front end's."""

    def __init__(self) -> None:
        self._gauges = _gauges()
        self.active(True)

    def active(self, whether: bool) -> None:
        """Whether this front end decides."""
        if self._gauges is not None:
            self._gauges["active"].set(int(whether))
            self._gauges["most_passed_waiting"].set(0)

    def held(self, more: int) -> None:
        """So many more wait."""
        if self._gauges is not None:
            self._gauges["held"].inc(more)

    def show(self, metrics: Metrics, counted_elsewhere: bool = False) -> None:
        """The ranks as they are now; our part of them may be counted by another front end."""
        if self._gauges is None:
            return
        for name, _ in _PASSED:
            if (found := getattr(metrics, name)) is not None:
                self._gauges[name].set(found)
        if metrics.recording is not None:
            _recording().set(int(metrics.recording))
        for rank in metrics.ranks:
            for name, _, value_of in OF_A_WORKER:
                value = value_of(rank)
                if counted_elsewhere and name in _PARTS:
                    value = 0
                if value is not None:
                    self._gauges[name].labels(str(rank.worker)).set(value)
