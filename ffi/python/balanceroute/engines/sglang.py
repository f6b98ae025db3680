"""SGLang plugin (0.5.20 to 0.5.23): decides which data-parallel rank a request enters.

Declared as entry point `sglang.srt.plugins`; SGLang calls :func:`register` in every process. What it does is
chosen by environment variables (:mod:`balanceroute.engines.settings`); the server must run with
`--load-balance-method total_tokens`.

* `arrival` wraps `DataParallelController.total_tokens_scheduler`: a request gets its rank at once.
* `step` also wraps `dispatching_with_trace`, where a request enters the controller, and keeps it there until
  load snapshots show a free slot and KV tokens; all that wait are decided together. The controller's loop
  never blocks, it asks its socket again and again and feeds its watchdog each time: that is when what is kept
  is looked at.

Left to SGLang: requests that name their rank (they are counted), health checks, embeddings, and the prefill
nodes of a disaggregated server, where nothing is kept.

SGLang's controller hears nothing of ends: what it knows of a rank is the load snapshot that the rank writes,
every `--load-snapshot-publish-interval` steps. A dispatch stays counted on top until a snapshot surely
contains it: a scheduler takes in what has arrived, runs a batch and writes a snapshot, so a snapshot contains
all that was sent before the snapshot before it was written (:mod:`balanceroute.engines.rank_clock` tells when
that was). From then on it is forgotten here, and counts as part of what ranks report: whether it ends or is
aborted later nobody can tell. An abort that passes through the controller before that is counted as one; one
of a request that is kept lets it pass to the rank ahead of the abort, since only a rank can answer an abort.

The load of a rank is its `num_total_tokens`: KV in use, and the prompts that wait there. `num_active_tokens`
lacks what waits for its KV from a prefill node. It has been sent all the same: a burst would be forgotten for
as long as its KV is on the way.

When the router fails, one message says so, what is kept is sent, and SGLang decides as it always does.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import balanceroute

from .ledger import Ledger
from .limits import priority
from .policies import BIND_ON_ARRIVAL
from .rank_clock import Look, RankClock
from .settings import Settings, at_start, say

__all__ = ["register", "state_of"]

_T = TypeVar("_T")

logger = logging.getLogger("balanceroute")

TARGET = "sglang.srt.managers.data_parallel_controller.DataParallelController"
_STATE = "_balanceroute"
# How often snapshots are read: as often as SGLang itself does, or while requests wait for them. Seconds.
_READ_EVERY, _READ_EVERY_WAITING = 0.02, 0.002
# From the controller's send to the scheduler's receive, at most, in seconds.
_TRANSIT = 0.005
# What takes less than that between the decision and the sending took no time, and how long what took more is
# remembered; in seconds.
_AT_ONCE, _OLDEST = 1e-3, 60.0
# Health checks bear it at the head of their name, and must not wait where a server is merely full.
_HEALTH_CHECK = "HEALTH_CHECK"
_LEARNS = ("-survival", "-exactmatch")


def register() -> None:
    """The entry point. May be called any number of times, and raises nothing but the `SystemExit` that
    `BALANCEROUTE_STRICT` asks for.
    """
    settings = at_start("SGLang", logger)
    if settings is None:
        return
    try:
        plugins = importlib.import_module("sglang.srt.plugins.hook_registry")
        registry, kinds = plugins.HookRegistry, plugins.HookType
        hooks = [
            hook for _, hook, _ in getattr(registry, "_hooks", {}).get(f"{TARGET}.total_tokens_scheduler", ())
        ]
        if route in hooks:
            return
        registry.register(f"{TARGET}.total_tokens_scheduler", route, kinds.AROUND)
        registry.register(f"{TARGET}.__init__", _started, kinds.AFTER)
        registry.register(f"{TARGET}.send_control_message", _hear, kinds.BEFORE)
        if settings.mode == "step":
            registry.register(f"{TARGET}.dispatching_with_trace", keep, kinds.AROUND)
    except Exception as error:
        say(
            logger,
            logging.ERROR,
            "balanceroute: this SGLang has not the plugin interface that is known here: %s; "
            "it routes as it always does",
            error,
        )


def state_of(controller: Any) -> State | None:
    """What the plugin knows about a controller; None before its first request."""
    return vars(controller).get(_STATE) or None


def _started(result: Any, controller: Any, *_args: Any, **_more: Any) -> Any:
    """After the controller's `__init__`: says what is on, and sees to it that `step` gets its turns."""
    method = getattr(getattr(controller, "load_balance_method", None), "name", None)
    settings = Settings.from_env()
    if method != "TOTAL_TOKENS":
        say(
            logger,
            logging.WARNING,
            "balanceroute: the load balance method is %s; requests are only decided here with "
            "--load-balance-method total_tokens",
            method,
        )
        return result
    if settings.learned_file is not None:
        say(
            logger,
            logging.WARNING,
            "balanceroute: nobody tells SGLang's controller of ends: there is nothing to keep in "
            "BALANCEROUTE_LEARNED_FILE",
        )
    why = None
    if settings.mode == "step":
        why = _why_not(controller)
        if why is None:
            controller.soft_watchdog = _Turn(controller.soft_watchdog, controller)
            policy = _policy(settings)
            say(
                logger,
                logging.INFO,
                "balanceroute %s: mode step, %s",
                balanceroute.__version__,
                ", ".join([f"policy {policy}", *settings.in_words(_room(settings))]),
            )
            if policy != settings.policy:
                say(
                    logger,
                    logging.WARNING,
                    "balanceroute: nobody tells SGLang's controller of ends, from which %s learns",
                    settings.policy,
                )
            every = getattr(getattr(controller, "server_args", None), "load_snapshot_publish_interval", 1)
            if isinstance(every, int) and every > 1:
                say(
                    logger,
                    logging.WARNING,
                    "balanceroute: ranks tell of their ends every %d steps, and a freed slot stays empty as "
                    "long; with --load-snapshot-publish-interval 1 they do each step",
                    every,
                )
            return result
        say(logger, logging.WARNING, "balanceroute: nothing is kept for a step: %s", why)
    words = ["decides on arrival by F-score", *settings.in_words(_room(settings))]
    say(logger, logging.INFO, "balanceroute %s: %s", balanceroute.__version__, ", ".join(words))
    return result


def _why_not(controller: Any) -> str | None:
    """Why requests cannot be kept in this controller."""
    if not callable(getattr(getattr(controller, "soft_watchdog", None), "feed", None)):
        return "this controller's loop feeds no watchdog, so nothing would ever look at what is kept"
    if getattr(getattr(controller, "server_args", None), "disaggregation_mode", None) == "prefill":
        return "a prefill node has no slots to wait for"
    return None


class _Turn:
    """Stands for the controller's watchdog, which its loop feeds at each turn."""

    def __init__(self, watchdog: Any, controller: Any) -> None:
        self._watchdog = watchdog
        self._controller = controller

    def feed(self) -> None:
        self._watchdog.feed()
        state = vars(self._controller).get(_STATE)
        if state and state.kept:
            state.turn()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._watchdog, name)


def keep(stock: Any, controller: Any, req: Any, *more: Any, **named: Any) -> Any:
    """Around `dispatching_with_trace`: the request waits, and is dispatched with all that belongs to it once
    it has its rank.
    """
    if not isinstance(getattr(controller, "soft_watchdog", None), _Turn) or not _is_ours(req):
        return stock(controller, req, *more, **named)
    state = _state(controller)
    if state is None or not state.guard("cannot keep a request", state.keep, req, stock):
        return stock(controller, req, *more, **named)
    return None


def _is_ours(req: Any) -> bool:
    """Whether SGLang would choose among the ranks by load, and it decodes."""
    return (
        req.routed_dp_rank is None
        and not str(getattr(req, "rid", "")).startswith(_HEALTH_CHECK)
        and "Embedding" not in type(req).__name__
    )


def route(stock: Any, controller: Any, req: Any) -> Any:
    """Around `total_tokens_scheduler`: fills in the rank, and lets SGLang send."""
    state = _state(controller)
    if state is None:
        return stock(controller, req)
    explicit, began = req.routed_dp_rank, time.monotonic()
    if explicit is not None:
        result = stock(controller, req)
        state.guard("cannot count a request", state.bind, req, explicit)
        return result
    rank = state.guard("cannot place a request", state.choose, req)
    if rank is None:
        return stock(controller, req)
    req.routed_dp_rank = rank
    try:
        result = stock(controller, req)
    finally:
        req.routed_dp_rank = None
    state.has_sent(began)
    state.guard("cannot count a request", _count, controller, req, rank)
    return result


def _count(controller: Any, req: Any, rank: int) -> None:
    """As SGLang does for a rank that it has chosen: its own rule may have to take over at any time. It counts
    none that names its rank, nor ranks that have joined later; snapshots replace what it counts.
    """
    budget = controller.dp_budget
    if rank < len(budget.total_requests):
        budget.total_requests[rank] += 1
        budget.total_tokens[rank] += _prompt_tokens(req)


def _hear(controller: Any, message: Any, *_args: Any, **_more: Any) -> None:
    """Before `send_control_message`: aborts."""
    state = vars(controller).get(_STATE)
    if state and state.active and type(message).__name__ == "AbortReq":
        first = next(iter(controller._active_workers), None)
        for kept in state.guard("cannot abort a request", state.abort, message) or ():
            # The first to get the abort, over the same socket.
            state.send(kept, first)


def _state(controller: Any) -> State | None:
    state = vars(controller).get(_STATE)
    if state is None:
        try:
            state = State(controller, Settings.from_env())
        except Exception as error:
            say(
                logger,
                logging.ERROR,
                "balanceroute: cannot follow this controller (%s: %s); SGLang routes as it always does",
                type(error).__name__,
                error,
            )
            state = False
        vars(controller)[_STATE] = state
    return state if state and state.active else None


@dataclass(frozen=True)
class _Kept:
    """A request that waits, and what dispatches it."""

    req: Any
    stock: Callable[[Any, Any], Any]
    since: float


class State:
    """One controller's ledger, the snapshots read so far, and the requests that wait."""

    def __init__(self, controller: Any, settings: Settings) -> None:
        self.controller = controller
        self.settings = settings
        self.active = True
        self.kept: dict[str, _Kept] = {}
        self._decided: int | None = None
        """The rank of the request that is being sent."""
        self._decide_at = float("inf")
        self._read_at = float("-inf")
        self._news_at = time.monotonic()
        self._clocks: dict[int, RankClock] = {}
        self._stamps: dict[int, float] = {}
        self._looks: dict[int, Look] = {}
        self._sent: list[deque[str]] = []
        """By rank: names that the ledger may know still, the oldest first."""
        self._sending: deque[tuple[float, float]] = deque()
        """When sending that took its time began and ended."""
        self._requests = 0
        self._limits = (0, 0)
        self._logged_at = time.monotonic()
        self._begin(None)

    def guard(self, what: str, act: Callable[..., _T], *arguments: Any) -> _T | None:
        """Runs `act`; None once something has failed: SGLang decides from there on."""
        if not self.active:
            return None
        try:
            return act(*arguments)
        except Exception:
            logger.exception(
                "balanceroute: %s; SGLang decides from here on, and %d requests that wait are sent",
                what,
                len(self.kept),
            )
            self.active = False
        # Not inside: what SGLang raises is SGLang's.
        while self.kept:
            kept = self.kept.pop(next(iter(self.kept)))
            kept.stock(self.controller, kept.req)
        return None

    def choose(self, req: Any) -> int:
        """The rank for a request that is sent now."""
        if self._decided is not None:
            return self._decided
        self._follow(_READ_EVERY)
        name = self._name(req)
        of = _priority(self.controller, req)
        rank = self.ledger.place(name, _prompt_tokens(req), _session(req), priority=of)
        self._sent[rank].append(name)
        return self.ranks[rank]

    def bind(self, req: Any, rank: int) -> None:
        """It names its rank, and SGLang has sent it there."""
        self._follow(_READ_EVERY)
        if rank in self.ranks:
            name, at = self._name(req), self.ranks.index(rank)
            self.ledger.bind(name, _prompt_tokens(req), at, _session(req))
            self._sent[at].append(name)

    def keep(self, req: Any, stock: Callable[[Any, Any], Any]) -> bool:
        """It waits for a rank."""
        name, now = self._name(req), time.monotonic()
        self._follow(_READ_EVERY)
        of = _priority(self.controller, req)
        self.ledger.enqueue(name, _prompt_tokens(req), _session(req), priority=of)
        self.kept[name] = _Kept(req, stock, now)
        self._stir()
        return True

    def turn(self) -> None:
        """The controller's loop has come round, and requests wait."""
        began = time.monotonic()
        for name, rank in self.guard("cannot decide", self._decide) or ():
            self.send(self.kept.pop(name), rank)
        self.has_sent(began)

    def has_sent(self, began: float) -> None:
        """All that the ledger has dated since `began` has left by now."""
        now = time.monotonic()
        if now - began >= _AT_ONCE:
            while self._sending and self._sending[0][1] < now - _OLDEST:
                self._sending.popleft()
            self._sending.append((began, now))

    def send(self, kept: _Kept, rank: int | None) -> None:
        """As SGLang would have dispatched it, to this rank."""
        self._decided = rank
        try:
            kept.stock(self.controller, kept.req)
        finally:
            self._decided = None

    def abort(self, message: Any) -> list[_Kept]:
        """Forgets those that it names, by the head of their names as schedulers do. Those that wait have to
        go to a rank ahead of it.
        """
        head, every = str(message.rid or ""), getattr(message, "abort_all", False)
        waiting = [name for name in self.kept if every or name.startswith(head)]
        sent = [name for names in self._sent for name in names if every or name.startswith(head)]
        for name in (*waiting, *sent):
            self.ledger.abort(name)
        if waiting:
            self._stir()
        return [self.kept.pop(name) for name in waiting]

    def _name(self, req: Any) -> str:
        """Its id, by which it may be aborted; ids may repeat (retries) and then get a number more."""
        name = str(getattr(req, "rid", ""))
        if name not in self.ledger:
            return name
        self._requests += 1
        return f"{name}\0{self._requests}"

    def _stir(self) -> None:
        """Something may have made room, or somebody has come: decide within the window."""
        self._decide_at = min(self._decide_at, time.monotonic() + self.settings.times.window)

    def _decide(self) -> list[tuple[str, int]]:
        """Who leaves now, and for which rank."""
        self._follow(_READ_EVERY_WAITING)
        now = time.monotonic()
        sent: list[tuple[str, int]] = []
        if now >= self._decide_at:
            self._decide_at = float("inf")
            sent = self.ledger.decide()
        decided = {name for name, _ in sent}
        for name in [name for name in self._overdue(now) if name not in decided]:
            rank = self.ledger.place_waiting(name)
            if rank is not None:
                sent.append((name, rank))
        for name, rank in sent:
            self._sent[rank].append(name)
        return [(name, self.ranks[rank]) for name, rank in sent]

    def _overdue(self, now: float) -> list[str]:
        """Who has waited long enough: without news of any rank, or beyond the bound."""
        times = self.settings.times
        since = float("-inf")
        if now - self._news_at >= times.stall:
            since = now - times.stall
        if times.max_hold is not None:
            since = max(since, now - times.max_hold)
        names = []
        for name, kept in self.kept.items():
            if kept.since > since:
                break
            names.append(name)
        if names:
            logger.warning(
                "balanceroute: %d waiting requests went to ranks as if they had just arrived", len(names)
            )
        return names

    def _begin(self, before: Ledger | None) -> None:
        """A new ledger: at the start, and when ranks have come or gone. What was sent and not yet reported is
        all that is lost of the one before.
        """
        self.ranks = _usable(self.controller)
        loads = {load.dp_rank: load for load in self.controller.load_snapshot_reader.read_all()}
        known = [loads[rank] for rank in self.ranks if rank in loads]
        slots = max((load.max_running_requests for load in known), default=0)
        capacity = max((load.max_total_num_tokens for load in known), default=0)
        self._limits = (slots, capacity)
        if self.settings.kv_capacity_tokens is not None:
            capacity = self.settings.kv_capacity_tokens
        self.ledger = Ledger(
            len(self.ranks),
            self.settings.slots or slots or 256,
            policy=_policy(self.settings),
            kv_capacity_tokens=capacity or None,
            weights=self.settings.weights[: len(self.ranks)],
            max_passed=self.settings.max_passed,
            lower_class_one_in=self.settings.lower_class_one_in,
            headroom_steps=self.settings.headroom_steps,
            clock=time.monotonic,
        )
        if before is not None:
            self.ledger.router.learn(before.router.learned())
        self._sent = [deque() for _ in self.ranks]
        self._looks.clear()
        self._stamps.clear()
        self._read(loads.values(), float("-inf"))
        for name, kept in self.kept.items():
            passed = 0 if before is None else before.passed(name)
            prompt, of = _prompt_tokens(kept.req), _priority(self.controller, kept.req)
            self.ledger.enqueue(name, prompt, _session(kept.req), passed=passed, priority=of)
        self._stir()

    def _follow(self, every: float) -> None:
        if _usable(self.controller) != self.ranks:
            self._begin(self.ledger)
            return
        now = time.monotonic()
        if now - self._read_at < every:
            return
        absent_at, self._read_at = self._read_at, now
        loads = self.controller.load_snapshot_reader.read_all()
        if not all(self._limits) and any(load.max_running_requests for load in loads):
            # The first snapshots that say how large the ranks are.
            self._begin(self.ledger)
            return
        self._read(loads, absent_at)
        if self.settings.log_every and now - self._logged_at >= self.settings.log_every:
            self._logged_at = now
            logger.info("balanceroute: %d kept, %s", len(self.kept), self.ledger.summary())

    def _read(self, loads: Any, absent_at: float) -> None:
        """Snapshots, and when the look before was."""
        now = time.monotonic()
        # Ranks stamp by the time of day, which may be set while we run.
        day = time.time() - now
        for load in loads:
            rank, stamp = load.dp_rank, load.timestamp
            # Without a stamp none has been written yet.
            if not stamp or stamp == self._stamps.get(rank) or rank not in self.ranks:
                continue
            self._stamps[rank] = stamp
            look, before = Look(stamp - day, absent_at, now), self._looks.get(rank)
            self._looks[rank] = look
            clock = self._clocks.setdefault(rank, RankClock())
            clock.see(look)
            self._news_at = now
            at = self.ranks.index(rank)
            if before is not None:
                self._cover(at, clock.written(before) - _TRANSIT)
            self.ledger.report(
                at,
                running=load.num_running_reqs,
                waiting=load.num_waiting_reqs,
                kv_used=load.num_total_tokens,
                capacity=None
                if self.settings.kv_capacity_tokens is not None
                else load.max_total_num_tokens or None,
            )
            self._stir()

    def _cover(self, rank: int, when: float) -> None:
        for began, ended in reversed(self._sending):
            if ended <= when:
                break
            # Dated before that, and perhaps sent after it.
            when = min(when, began - _AT_ONCE)
        self.ledger.cover(rank, when)
        sent = self._sent[rank]
        # Covered are the oldest.
        while sent and sent[0] not in self.ledger:
            sent.popleft()


def _policy(settings: Settings) -> str:
    """On arrival the F-score decides, and nobody tells of ends, from which a policy could learn lengths."""
    if settings.mode == "arrival":
        return settings.policy if settings.policy in BIND_ON_ARRIVAL else "level"
    return "level" if settings.policy.endswith(_LEARNS) else settings.policy


def _room(settings: Settings) -> str | None:
    """What is left free for growth where nobody sets it: nobody tells of ends, from which it is learned."""
    return None if settings.kv_capacity_tokens == 0 else "6 % of KV tokens left free for growth"


def _usable(controller: Any) -> list[int]:
    return [
        rank
        for rank in controller._active_workers
        if controller.status[rank] and controller.workers[rank] is not None
    ]


def _prompt_tokens(req: Any) -> int:
    return 0 if req.input_ids is None else len(req.input_ids)


def _session(req: Any) -> str | None:
    return getattr(req, "session_id", None)


def _priority(controller: Any, req: Any) -> int:
    """Classes as SGLang has them, where its own scheduling is by priority: the higher value first, the lower
    with `--schedule-low-priority-values-first`, and last of all a request that names none.
    """
    arguments = getattr(controller, "server_args", None)
    if not getattr(arguments, "enable_priority_scheduling", False):
        return 0
    value = getattr(req, "priority", None)
    if value is None:
        value = getattr(arguments, "default_priority_value", None)
    if value is None:
        return priority(-(1 << 31))
    return priority(-value if getattr(arguments, "schedule_low_priority_values_first", False) else value)
