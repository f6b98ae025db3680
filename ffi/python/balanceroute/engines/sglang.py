"""SGLang plugin (0.5.23): decides which data-parallel rank a request enters.

Declared as entry point `sglang.srt.plugins`; SGLang calls :func:`register` in every process. With
`BALANCEROUTE_MODE=arrival` (or `step`, which means the same here: SGLang's controller sends every request at
once) it wraps `DataParallelController.total_tokens_scheduler`, so the server must run with
`--load-balance-method total_tokens`.

SGLang's controller hears nothing of ends: what it knows of a rank is the load snapshot that the rank writes.
A dispatch stays counted on top until a snapshot surely contains it: a scheduler takes in what has arrived,
runs a batch and writes a snapshot, so a snapshot contains all that was sent before the snapshot before it was
written. From then on it is forgotten here, and counts as finished. An abort that passes through the
controller before that is counted as one.

Requests that name their rank go there, and are counted. When the router fails, one message says so and SGLang
decides as it always does.
"""

from __future__ import annotations

import importlib
import logging
import time
from typing import Any

import balanceroute

from .ledger import Ledger
from .settings import BIND_ON_ARRIVAL, Settings, at_start, say

__all__ = ["register", "state_of"]

logger = logging.getLogger("balanceroute")

TARGET = "sglang.srt.managers.data_parallel_controller.DataParallelController"
_STATE = "_balanceroute"
# As often as SGLang itself, in seconds.
_READ_EVERY = 0.02
# From the controller's send to the scheduler's receive, at most, in seconds.
_TRANSIT = 0.005


def register() -> None:
    """The entry point. May be called any number of times, and raises nothing but the `SystemExit` that
    `BALANCEROUTE_STRICT` asks for.
    """
    if at_start("SGLang", logger) is None:
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
        registry.register(f"{TARGET}.__init__", _say_method, kinds.AFTER)
        registry.register(f"{TARGET}.send_control_message", _hear, kinds.AFTER)
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


def _say_method(result: Any, controller: Any, *_args: Any, **_more: Any) -> Any:
    method = getattr(getattr(controller, "load_balance_method", None), "name", None)
    if method == "TOTAL_TOKENS":
        say(logger, logging.INFO, "balanceroute %s: decides on arrival by F-score", balanceroute.__version__)
    else:
        say(
            logger,
            logging.WARNING,
            "balanceroute: the load balance method is %s; requests are only decided here with "
            "--load-balance-method total_tokens",
            method,
        )
    return result


def route(stock: Any, controller: Any, req: Any) -> Any:
    """Around `total_tokens_scheduler`: fills in the rank, and lets SGLang send."""
    state = vars(controller).get(_STATE)
    if state is None:
        state = _new_state(controller)
    if not state or not state.active:
        return stock(controller, req)
    explicit = req.routed_dp_rank
    if explicit is not None:
        result = stock(controller, req)
        state.guard(lambda: state.bind(controller, req, explicit))
        return result
    rank = state.guard(lambda: state.choose(controller, req))
    if rank is None:
        return stock(controller, req)
    req.routed_dp_rank = rank
    try:
        result = stock(controller, req)
    finally:
        req.routed_dp_rank = None
    # As SGLang does for a rank that it has chosen: its own rule may have to take over at any time.
    budget = controller.dp_budget
    budget.total_requests[rank] += 1
    budget.total_tokens[rank] += _prompt_tokens(req)
    return result


def _hear(result: Any, controller: Any, message: Any, *_args: Any, **_more: Any) -> Any:
    """After `send_control_message`: aborts."""
    state = vars(controller).get(_STATE)
    if state and state.active and type(message).__name__ == "AbortReq":
        state.guard(lambda: state.ledger.abort(message.rid))
    return result


def _new_state(controller: Any) -> Any:
    try:
        state: Any = State(controller, Settings.from_env())
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
    return state


class State:
    """One controller's ledger and the snapshots read so far."""

    def __init__(self, controller: Any, settings: Settings) -> None:
        self.settings = settings
        self.active = True
        self._read_at = -1e9
        self._written: dict[int, float] = {}
        self._limits = (0, 0)
        self._logged_at = time.monotonic()
        self._begin(controller)

    def guard(self, act: Any) -> Any:
        """Runs `act`; when it fails, SGLang decides from here on."""
        try:
            return act()
        except Exception:
            logger.exception("balanceroute: the router failed; SGLang decides from here on")
            self.active = False
            return None

    def choose(self, controller: Any, req: Any) -> int:
        """The rank for a request that has just come."""
        self._follow(controller)
        return self.ranks[self.ledger.place(self._name(req), _prompt_tokens(req), _session(req))]

    def bind(self, controller: Any, req: Any, rank: int) -> None:
        """It names its rank, and SGLang has sent it there."""
        self._follow(controller)
        if rank in self.ranks:
            self.ledger.bind(self._name(req), _prompt_tokens(req), self.ranks.index(rank), _session(req))

    def _name(self, req: Any) -> str:
        """Its id, by which it may be aborted; ids may repeat (retries) and then get a number more."""
        name = str(getattr(req, "rid", ""))
        if name not in self.ledger:
            return name
        self._requests += 1
        return f"{name}\0{self._requests}"

    def _begin(self, controller: Any) -> None:
        """A new ledger: at the start, and when ranks have come or gone. What was sent and not yet reported is
        all that is lost.
        """
        self.ranks = _usable(controller)
        self._requests = 0
        loads = {load.dp_rank: load for load in controller.load_snapshot_reader.read_all()}
        known = [loads[rank] for rank in self.ranks if rank in loads]
        slots = max((load.max_running_requests for load in known), default=0)
        capacity = max((load.max_total_num_tokens for load in known), default=0)
        self._limits = (slots, capacity)
        if self.settings.kv_capacity_tokens is not None:
            capacity = self.settings.kv_capacity_tokens
        self.ledger = Ledger(
            len(self.ranks),
            self.settings.slots or slots or 256,
            # Arrivals use the F-score, and no policy can learn from ends that nobody tells.
            policy=self.settings.policy if self.settings.policy in BIND_ON_ARRIVAL else "level",
            kv_capacity_tokens=capacity or None,
            weights=self.settings.weights[: len(self.ranks)],
            clock=time.time,
        )
        self._written.clear()
        self._read(loads.values())

    def _follow(self, controller: Any) -> None:
        if _usable(controller) != self.ranks:
            self._begin(controller)
            return
        now = time.monotonic()
        if now - self._read_at < _READ_EVERY:
            return
        self._read_at = now
        loads = controller.load_snapshot_reader.read_all()
        if not all(self._limits) and any(load.max_running_requests for load in loads):
            # The first snapshots that say how large the ranks are.
            self._begin(controller)
            return
        self._read(loads)
        if self.settings.log_every and now - self._logged_at >= self.settings.log_every:
            self._logged_at = now
            logger.info("balanceroute: %s", self.ledger.summary())

    def _read(self, loads: Any) -> None:
        for load in loads:
            before = self._written.get(load.dp_rank)
            if load.timestamp == before or load.dp_rank not in self.ranks:
                continue
            self._written[load.dp_rank] = load.timestamp
            rank = self.ranks.index(load.dp_rank)
            if before is not None:
                self.ledger.cover(rank, before - _TRANSIT)
            self.ledger.report(
                rank,
                running=load.num_running_reqs,
                waiting=load.num_waiting_reqs,
                kv_used=load.num_total_tokens,
                capacity=None
                if self.settings.kv_capacity_tokens is not None
                else load.max_total_num_tokens or None,
            )


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
