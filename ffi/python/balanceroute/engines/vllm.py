"""vLLM plugin (0.13 to 0.33): decides which data-parallel rank a request enters.

Declared as entry point `vllm.general_plugins`, so vLLM calls :func:`register` in every process; what it does
there is chosen by environment variables (:mod:`balanceroute.engines.settings`). Unset, or
`BALANCEROUTE_MODE=off`: nothing is patched.

* `arrival` replaces the choice inside `DPLBAsyncMPClient.get_core_engine_for_request`; vLLM's own method
  still runs, with the rank filled in, and keeps its books.
* `step` also holds requests inside `add_request_async` and decides when an engine's output shows that a slot
  or KV tokens are free.

Left to vLLM: requests that name their rank, parts of a streaming input (they follow their session), pooling
requests, one engine (no data parallelism), and external load balancing; the first three are counted all the
same. A request with `n > 1` samples enters as `n` requests, one after the other, as vLLM sends them. vLLM's
own priorities order what a rank has been given, not what is held.

Versions differ in what they tell, and the plugin asks for what is there: the KV usage of a coordinator row
(from 0.27.1), the KV tokens of a rank (from 0.24; blocks before), requests that wait and hold blocks already.
Before 0.24 the capacity of a model with several kinds of KV cache cannot be told from its blocks, and with
several API servers 0.18 and older tell none: `BALANCEROUTE_KV_CAPACITY_TOKENS` has the last word.

Of several API servers (`--api-server-count`) the first decides for all in `step` mode
(:mod:`balanceroute.engines.hub`). Where it is not heard, each is sure of its equal part of every rank, a slot
at least, and they take turns at what statistics show free beyond all parts.

What is held is sent before vLLM shuts down, so that its engines can drain it, and fails at once when an
engine has died. An engine that drains answers what comes late with an abort: of a request that was held, that
becomes an error, since to a client an abort looks like an empty answer. Held requests and the series of each
rank are on vLLM's own `/metrics` page (:mod:`balanceroute.engines.series`).

The router learns when requests end from what every engine's step brings, and leaves room for growth by it.
vLLM tells of a preemption only with the request's next token, when it is over: until then its KV tokens are
missing in what its rank reports, and that is all that is known.

When vLLM's internals are not the expected ones, or the router fails, one message says so and vLLM decides as
it always does; what is held then is sent. The Rust front end (`VLLM_USE_RUST_FRONTEND=1`) routes by itself
and runs no Python plugin of this kind: the plugin says so and does nothing.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import logging
import os
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import balanceroute

from . import vllm_ascend
from .gate import Aborted, Gate
from .hub import join, ledger_of
from .memory import Memory
from .policies import BIND_ON_ARRIVAL
from .series import Series
from .settings import Settings, at_start, say
from .vllm_internals import (
    CLIENT,
    Unsupported,
    capacity_of,
    check,
    is_ours,
    max_tokens_of,
    priority_of,
    prompt_tokens_of,
    session_of,
    slots_of,
    tell_cancelled,
    wanted,
)

__all__ = ["Unsupported", "check", "register", "state_of", "unregister"]

_T = TypeVar("_T")

# Below vLLM's own logger, so that it goes where vLLM's lines go.
logger = logging.getLogger("vllm.balanceroute")

MODULE = "vllm.v1.engine.core_client"
_STATE = "_balanceroute"
# Statistics that come by way of the coordinator may be this old, in seconds.
_COORDINATOR_AGE = 0.5
# How often the series of the ranks are renewed, in seconds.
_SHOW_EVERY = 1.0
# For what is held to be sent before a shutdown goes on, in seconds.
_SHUTDOWN_WAIT = 2.0
# While an engine's own statistics are younger than this, in seconds, the coordinator's are not looked at.
_DIRECT_FRESH = 2.0


def register() -> None:
    """The entry point. May be called any number of times, patches at most once, and raises nothing but the
    `SystemExit` that `BALANCEROUTE_STRICT` asks for.
    """
    settings = at_start("vLLM", logger)
    if settings is None:
        return
    if os.environ.get("VLLM_USE_RUST_FRONTEND", "0").strip() not in ("", "0"):
        say(
            logger,
            logging.WARNING,
            "balanceroute: VLLM_USE_RUST_FRONTEND is set: the Rust front end routes requests itself and runs "
            "no Python plugin, so BALANCEROUTE_MODE=%s has no effect; unset VLLM_USE_RUST_FRONTEND to use it",
            settings.mode,
        )
        return
    try:
        module = importlib.import_module(MODULE)
        check(module, settings.mode)
        install(module, settings)
    except Exception as error:
        version = (
            getattr(importlib.import_module("vllm"), "__version__", "?") if _has_vllm() else "not importable"
        )
        say(
            logger,
            logging.ERROR,
            "balanceroute: this vLLM (%s) is not the one that the plugin knows: %s; "
            "vLLM routes as it always does",
            version,
            error,
        )


def _has_vllm() -> bool:
    try:
        importlib.import_module("vllm")
    except Exception:
        return False
    return True


def install(module: Any, settings: Settings) -> None:
    """Patches the client class once; a second call changes nothing."""
    client = getattr(module, CLIENT)
    if _STATE in vars(client):
        return
    names = ["__init__", "get_core_engine_for_request", "process_engine_outputs", "abort_requests_async"]
    if settings.mode == "step":
        names += ["add_request_async", "get_output_async", "shutdown"]
    stock = {name: inspect.getattr_static(client, name) for name in names}
    own = [name for name in names if name in vars(client)]
    for name in names:
        patch = _PATCHES[name](getattr(client, name), settings)
        setattr(client, name, staticmethod(patch) if isinstance(stock[name], staticmethod) else patch)
    setattr(client, _STATE, (stock, own))
    logger.debug("balanceroute: installed, mode %s", settings.mode)


def unregister(module: Any | None = None) -> None:
    """Takes the patches back (for tests)."""
    client = getattr(module or importlib.import_module(MODULE), CLIENT)
    if _STATE not in vars(client):
        return
    stock, own = vars(client)[_STATE]
    for name, method in stock.items():
        if name in own:
            setattr(client, name, method)
        else:
            delattr(client, name)
    delattr(client, _STATE)


def state_of(client: Any) -> State | None:
    """What the plugin knows about a client; None before its first request, or if it left it alone."""
    return vars(client).get(_STATE) or None


class State:
    """One client's ledger and gate, and what vLLM has told."""

    def __init__(self, client: Any, settings: Settings) -> None:
        if missing := [name for name in wanted(settings.mode) if not hasattr(client, name)]:
            raise Unsupported(f"{CLIENT} has no {', '.join(missing)}")
        config = client.vllm_config
        engines = len(client.core_engines)
        self.settings = settings
        self.capacity = capacity_of(config, settings, engines)
        slots = settings.slots or slots_of(config)
        share = client.client_index, client.client_count
        self.ledger = ledger_of(settings, share)(
            engines,
            slots,
            policy=settings.policy,
            kv_capacity_tokens=self.capacity,
            weights=settings.weights[client.engine_ranks_managed[0] :][:engines],
            max_passed=settings.max_passed,
            lower_class_one_in=settings.lower_class_one_in,
            headroom_steps=settings.headroom_steps,
            share=share,
        )
        self.memory = Memory.of(settings.learned_file, self.ledger.router, client.client_index == 0, logger)
        self.gate = Gate(self.ledger, settings.times, logger, lambda: self.give_up("cannot decide"))
        self.hub: asyncio.Task[None] | None = None
        self.first_rank = client.engine_ranks_managed[0]
        self.active = True
        self.holding = True
        """Whether requests may be held: not when the engine stops."""
        self.series = Series()
        self.chosen: dict[str, int] = {}
        self.kept: set[str] = set()
        """Requests that were held and have been sent."""
        self.loop: asyncio.AbstractEventLoop | None = None
        self._coordinator_seen: Any = None
        # By rank: the coordinator's row that was reported last.
        self._rows: dict[int, tuple[Any, ...]] = {}
        self._direct_at = [-1e9] * engines
        self._logged_at = self.ledger.clock()
        self._show_at: asyncio.TimerHandle | None = None
        self._show()
        bound = f"{self.capacity} KV tokens" if self.capacity else "no bound on KV tokens"
        if not self.capacity and settings.kv_capacity_tokens is None:
            bound += " (vLLM tells none: BALANCEROUTE_KV_CAPACITY_TOKENS sets it)"
        room = "room for growth as it is learned" if self.capacity else None
        remembers = [] if self.memory is None else [self.memory.in_words()]
        bound = ", ".join([bound, *settings.in_words(room), *remembers])
        say(
            logger,
            logging.INFO,
            "balanceroute %s: mode %s, policy %s, %d ranks of %d slots and %s, front end %d of %d",
            balanceroute.__version__,
            settings.mode,
            settings.policy if settings.mode == "step" or settings.policy in BIND_ON_ARRIVAL else "F-score",
            engines,
            slots,
            bound,
            client.client_index + 1,
            client.client_count,
        )
        vllm_ascend.tell(client, slots, slots_of(config), logger)

    def give_up(self, what: str) -> None:
        """Something failed that must not: vLLM decides from here on. Says so once."""
        if not self.active:
            return
        self.active = False
        self.series.active(False)
        logger.exception(
            "balanceroute: %s; vLLM decides from here on, and %d held requests are sent", what, len(self.gate)
        )
        self.leave_hub()
        self.chosen.clear()
        self.gate.release_all()

    def guard(self, what: str, act: Callable[..., _T], *arguments: Any) -> _T | None:
        """Runs `act`, which may touch the client in any way; None once something has failed."""
        if not self.active:
            return None
        try:
            return act(*arguments)
        except Exception:
            self.give_up(what)
            return None

    def hold(self, client: Any, request: Any) -> Coroutine[Any, Any, int] | None:
        """Waits for a rank; None where vLLM chooses or the caller has chosen."""
        name = request.request_id
        if not self.holding or not is_ours(client, request) or name in self.ledger:
            return None
        self.start(client)
        # Both tasks are started lazily by vLLM, and without them nothing would ever free a slot.
        client._ensure_stats_update_task()
        client._ensure_output_queue_task()
        self.follow(client)
        most, of = max_tokens_of(request), priority_of(request)
        return self.gate.hold(name, prompt_tokens_of(request), session_of(request), most, of)

    def choose(self, client: Any, request: Any) -> int | None:
        """Fills in the rank of a request that is sent now; None where vLLM chooses or the caller has."""
        name = request.request_id
        rank = self.chosen.pop(name, None)
        self.follow(client)
        if rank is not None and rank >= len(client.core_engines):
            # Its rank has left between the decision and now.
            rank = None
        if rank is None and is_ours(client, request) and name not in self.ledger:
            most, of = max_tokens_of(request), priority_of(request)
            prompt, session = prompt_tokens_of(request), session_of(request)
            rank = self.ledger.place(name, prompt, session, max_tokens=most, priority=of)
        if rank is not None:
            request.data_parallel_rank = rank
        return rank

    def start(self, client: Any) -> None:
        """Once the loop runs: the front ends of one server have its coordinator in common."""
        if self.loop is not None:
            return
        try:
            self.loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if client.stats_update_address is not None:
            self.hub = join(self.gate, client.stats_update_address)

    def leave_hub(self) -> None:
        if self.hub is not None:
            self.hub.cancel()
            self.hub = None

    def stop_holding(self, why: str) -> None:
        """The engine stops: what is held is sent, and it says what becomes of it."""
        self.holding = False
        self.leave_hub()
        if held := len(self.gate):
            logger.warning("balanceroute: %s: %d held requests are sent", why, held)
            self.gate.release_all()

    def before_shutdown(self) -> None:
        """Sends what is held while the engines still take it. vLLM shuts down from a thread of its own, and
        the loop goes on.
        """
        if self.memory is not None:
            self.memory.close()
        loop = self.loop
        if loop is None or not loop.is_running():
            self.holding = False
            return
        try:
            own = asyncio.get_running_loop() is loop
        except RuntimeError:
            own = False
        if own:
            self.stop_holding("vLLM shuts down")
        else:
            asyncio.run_coroutine_threadsafe(self._send_all(), loop).result(_SHUTDOWN_WAIT)

    async def _send_all(self) -> None:
        self.stop_holding("vLLM shuts down")
        while self.gate.leaving:
            await asyncio.sleep(0.001)
        # The last one is on its way when its coroutine has run once more.
        await asyncio.sleep(0.01)

    def refuse(self, outputs: Any) -> set[str]:
        """Names of requests that were held and that an engine has refused, as one does that drains: an abort
        without a token, which becomes an error. What is held still shall not wait for a slot there.

        An engine that is told to pause aborts what runs as well, and that stays as it is.
        """
        core = importlib.import_module("vllm.v1.engine")
        aborts = [output for output in outputs if output.finish_reason == core.FinishReason.ABORT]
        late = [o for o in aborts if not o.new_token_ids and not self.ledger.generated(o.request_id)]
        if len(late) < len(aborts) and self.holding:
            return set()
        refused = [output for output in late if output.request_id in self.kept]
        for output in refused:
            output.finish_reason = core.FinishReason.ERROR
            if hasattr(output, "error"):
                kind = importlib.import_module("vllm.outputs").RequestError
                output.error = kind("engine_draining", "The engine takes no new requests.", retryable=True)
        if refused:
            self.gate.release_all("an engine takes no new requests")
        return {output.request_id for output in refused}

    def bind(self, client: Any, request: Any, engine: Any) -> None:
        """Chosen by vLLM or by the caller: it is load all the same."""
        name = request.request_id
        if name not in self.ledger:
            rank = client.core_engines.index(engine)
            self.ledger.bind(name, prompt_tokens_of(request), rank, session_of(request))

    def count(self, client: Any, rank: int) -> None:
        """As vLLM does for a rank that it has chosen: its own rule may have to take over at any time."""
        rows = client.lb_engines
        # A rank that has just joined may have no row yet.
        if rank < len(rows):
            rows[rank][0] += client.client_count

    def follow(self, client: Any) -> None:
        """Ranks that came or went, and statistics that the coordinator has sent since the last look."""
        engines = len(client.core_engines)
        if engines != self.ledger.ranks:
            self.ledger.resize(engines)
            self._direct_at = (self._direct_at + [-1e9] * engines)[:engines]
            self._rows.clear()
            self.gate.stir()
        counts = client.lb_engines
        if counts is self._coordinator_seen:
            return
        # A new list is a new snapshot. vLLM and we count up inside it later, so this is the moment to read
        # it.
        self._coordinator_seen = counts
        self.gate.news()
        fresh = self.ledger.clock() - _DIRECT_FRESH
        for rank, row in enumerate(counts[:engines]):
            if self._direct_at[rank] >= fresh:
                self._rows.pop(rank, None)
            elif self._rows.get(rank) != (row := tuple(row)):
                # The coordinator hears of a rank when its counts change, and sends all rows when one has: a
                # row that is as it was has measured nothing since.
                self._rows[rank] = row
                waiting, running, *usage = row
                self._report(rank, running, waiting, usage[0] if usage else None, _COORDINATOR_AGE)

    def outputs(self, client: Any, outputs: Any) -> None:
        """One engine step: tokens, ends, statistics."""
        self.gate.news()
        ledger = self.ledger
        left = False
        refused: set[str] | None = None
        names = [output.request_id for output in outputs.outputs]
        ledger.step(outputs.engine_index, names, [len(output.new_token_ids) for output in outputs.outputs])
        for output in outputs.outputs:
            if output.finish_reason is not None:
                if refused is None:
                    refused = self.refuse(outputs.outputs) if self.kept else set()
                if output.request_id in refused:
                    left |= ledger.abort(output.request_id)
                left |= ledger.finish(output.request_id)
                self.kept.discard(output.request_id)
        for name in outputs.finished_requests or ():
            left |= ledger.finish(name)
            self.kept.discard(name)
        self.follow(client)
        stats = outputs.scheduler_stats
        rank = outputs.engine_index - self.first_rank
        if stats is not None and 0 <= rank < ledger.ranks:
            self._direct_at[rank] = ledger.clock()
            # Those that wait for KV from elsewhere have their blocks; older versions count them as waiting.
            waiting = stats.num_waiting_reqs + getattr(stats, "num_skipped_waiting_reqs", 0)
            self._report(rank, stats.num_running_reqs, waiting, getattr(stats, "kv_cache_usage", None))
            left = True
        if left:
            self.gate.stir()
        if self._show_at is None:
            # Later, so that the last of a burst is shown too.
            self._show_at = asyncio.get_running_loop().call_later(
                _SHOW_EVERY, self.guard, "cannot show the ranks", self._show
            )
        now = ledger.clock()
        if self.settings.log_every and now - self._logged_at >= self.settings.log_every:
            self._logged_at = now
            logger.info("balanceroute: %d held, %s", len(self.gate), ledger.summary())

    def _show(self) -> None:
        self._show_at = None
        self.series.show(self.ledger.router.metrics(), self.ledger.follows)
        if self.memory is not None:
            self.memory.keep()

    def _report(self, rank: int, running: int, waiting: int, usage: float | None, age: float = 0.0) -> None:
        used = None if usage is None or not self.capacity else round(usage * self.capacity)
        self.ledger.report(rank, running=running, waiting=waiting, kv_used=used, age=age)


def _state(client: Any, settings: Settings) -> State | None:
    state = vars(client).get(_STATE)
    if state is None:
        try:
            state = State(client, settings)
        except Exception as error:
            say(
                logger,
                logging.ERROR,
                "balanceroute: cannot follow this client (%s: %s); vLLM routes as it always does",
                type(error).__name__,
                error,
            )
            state = False
        vars(client)[_STATE] = state
    return state if state and state.active else None


def _patch_init(stock: Any, settings: Settings) -> Any:
    @functools.wraps(stock)
    def __init__(self: Any, *arguments: Any, **more: Any) -> None:
        stock(self, *arguments, **more)
        # Now, not at the first request: what is missing is said before anybody waits for an answer.
        state = _state(self, settings)
        if state is not None and settings.mode == "step":
            state.guard("cannot join the other front ends", state.start, self)

    return __init__


def _patch_choice(stock: Any, settings: Settings) -> Any:
    @functools.wraps(stock)
    def get_core_engine_for_request(self: Any, request: Any) -> Any:
        state = _state(self, settings)
        if state is None:
            return stock(self, request)
        rank = state.guard("cannot place a request", state.choose, self, request)
        if rank is None:
            engine = stock(self, request)
            state.guard("cannot count a request", state.bind, self, request, engine)
            return engine
        try:
            engine = stock(self, request)
        finally:
            # What the engine receives is what it would have received.
            request.data_parallel_rank = None
        state.guard("cannot count a request", state.count, self, rank)
        return engine

    return get_core_engine_for_request


def _patch_add(stock: Any, settings: Settings) -> Any:
    @functools.wraps(stock)
    async def add_request_async(self: Any, request: Any) -> None:
        state = _state(self, settings)
        if state is not None:
            held = state.guard("cannot hold a request", state.hold, self, request)
            if held is not None:
                name = request.request_id
                state.series.held(1)
                try:
                    rank = await held
                except Aborted:
                    return
                except asyncio.CancelledError:
                    try:
                        tell_cancelled(self, name)
                    except Exception:
                        state.give_up("cannot tell vLLM of a cancelled request")
                    raise
                except Exception:
                    state.give_up("cannot hold a request")
                else:
                    if state.active:
                        state.chosen[name] = rank
                        state.kept.add(name)
                finally:
                    state.series.held(-1)
        await stock(self, request)

    return add_request_async


def _patch_abort(stock: Any, settings: Settings) -> Any:
    @functools.wraps(stock)
    async def abort_requests_async(self: Any, request_ids: Any) -> None:
        state = vars(self).get(_STATE)
        if state:
            # vLLM looks its requests up by where it has sent them: those that are held it would not find.
            # Also after a failure: some may be on their way out still.
            try:
                request_ids = state.gate.abort(request_ids)
                state.kept.difference_update(request_ids)
            except Exception:
                state.give_up("cannot abort a request")
        await stock(self, request_ids)

    return abort_requests_async


def _patch_outputs(stock: Any, settings: Settings) -> Any:
    @functools.wraps(stock)
    async def process_engine_outputs(self: Any, outputs: Any) -> None:
        await stock(self, outputs)
        state = vars(self).get(_STATE)
        if state:
            state.guard("cannot follow an engine's output", state.outputs, self, outputs)

    return process_engine_outputs


def _patch_get_output(stock: Any, settings: Settings) -> Any:
    @functools.wraps(stock)
    async def get_output_async(self: Any) -> Any:
        try:
            return await stock(self)
        except Exception:
            # It raises when an engine has died: whatever is sent now fails at once.
            state = vars(self).get(_STATE)
            if state:
                state.guard("cannot send what is held", state.stop_holding, "an engine has died")
            raise

    return get_output_async


def _patch_shutdown(stock: Any, settings: Settings) -> Any:
    @functools.wraps(stock)
    def shutdown(self: Any, *arguments: Any, **more: Any) -> Any:
        state = vars(self).get(_STATE)
        if state:
            state.guard("cannot send what is held", state.before_shutdown)
        return stock(self, *arguments, **more)

    return shutdown


_PATCHES = {
    "__init__": _patch_init,
    "get_core_engine_for_request": _patch_choice,
    "add_request_async": _patch_add,
    "abort_requests_async": _patch_abort,
    "get_output_async": _patch_get_output,
    "process_engine_outputs": _patch_outputs,
    "shutdown": _patch_shutdown,
}
