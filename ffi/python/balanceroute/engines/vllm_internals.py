"""What the vLLM plugin expects of vLLM's internals, whether they are so, and what it reads in them and tells
them.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from .limits import priority
from .settings import Settings

CLIENT = "DPLBAsyncMPClient"


class Unsupported(Exception):
    """The engine's internals are not those that the plugin knows: what is missing."""


# What the plugin reads and every version has. What a version may lack is asked for where it is used.
_CLIENT = (
    "client_count",
    "client_index",
    "core_engines",
    "engine_ranks_managed",
    "lb_engines",
    "reqs_in_flight",
    "vllm_config",
)
# To hold requests as well.
_CLIENT_STEP = (
    "_ensure_output_queue_task",
    "_ensure_stats_update_task",
    "get_output_async",
    "outputs_queue",
    "shutdown",
    "stats_update_address",
)
# By module and type.
_FIELDS = (
    (
        "vllm.v1.engine",
        "EngineCoreRequest",
        ("data_parallel_rank", "pooling_params", "prompt_token_ids", "request_id"),
    ),
    (
        "vllm.v1.engine",
        "EngineCoreOutputs",
        ("engine_index", "finished_requests", "outputs", "scheduler_stats"),
    ),
    ("vllm.v1.engine", "EngineCoreOutput", ("finish_reason", "new_token_ids", "request_id")),
    ("vllm.v1.engine", "FinishReason", ("ABORT",)),
    ("vllm.v1.metrics.stats", "SchedulerStats", ("num_running_reqs", "num_waiting_reqs")),
)


def check(module: Any, mode: str = "step") -> None:
    """Whether vLLM has what the plugin builds on in this mode. Raises `Unsupported` with all that is missing
    of the first thing that is not as expected.
    """
    client = getattr(module, CLIENT, None)
    if client is None:
        raise Unsupported(f"{module.__name__} has no {CLIENT}")
    for name, parameters, asynchronous, reads in (
        (
            "get_core_engine_for_request",
            ["self", "request"],
            False,
            ("data_parallel_rank", "reqs_in_flight", "core_engines"),
        ),
        ("add_request_async", ["self", "request"], True, ("get_core_engine_for_request",)),
        ("abort_requests_async", ["self", "request_ids"], True, ("reqs_in_flight",)),
        ("process_engine_outputs", ["self", "outputs"], True, ("finished_requests",)),
    ):
        method = getattr(client, name, None)
        if method is None:
            raise Unsupported(f"{CLIENT} has no {name}")
        found = list(inspect.signature(method).parameters)
        if found != parameters:
            raise Unsupported(f"{CLIENT}.{name} takes {found}, expected {parameters}")
        if inspect.iscoroutinefunction(method) != asynchronous:
            raise Unsupported(f"{CLIENT}.{name} is {'not ' if asynchronous else ''}a coroutine function")
        method = inspect.unwrap(method)
        missing = [word for word in reads if word not in method.__code__.co_names]
        if missing:
            raise Unsupported(f"{CLIENT}.{name} does not use {', '.join(missing)}")
    if not isinstance(inspect.getattr_static(client, "process_engine_outputs"), staticmethod):
        raise Unsupported(f"{CLIENT}.process_engine_outputs is not a static method")
    known = _names_in(client)
    if missing := [name for name in wanted(mode) if name not in known]:
        raise Unsupported(f"{CLIENT} has no {', '.join(missing)}")
    for of, kind, fields in _FIELDS:
        found_type = getattr(importlib.import_module(of), kind, None)
        if found_type is None:
            raise Unsupported(f"{of} has no {kind}")
        if missing := [name for name in fields if name not in _fields_of(found_type)]:
            raise Unsupported(f"{kind} has no {', '.join(missing)}")


def wanted(mode: str) -> tuple[str, ...]:
    """What a client must have in this mode."""
    return _CLIENT + _CLIENT_STEP if mode == "step" else _CLIENT


def _names_in(client: type) -> set[str]:
    """Every name that a class or one of its bases defines, sets or reads: what an instance has is only known
    when there is one, and then it is looked at again.
    """
    names: set[str] = set()
    for base in client.__mro__:
        names.update(vars(base))
        codes = [
            inspect.unwrap(value).__code__
            for value in vars(base).values()
            if inspect.isfunction(value) and base is not object
        ]
        while codes:
            code = codes.pop()
            names.update(code.co_names)
            codes += [constant for constant in code.co_consts if inspect.iscode(constant)]
    return names


def _fields_of(kind: type) -> set[str]:
    """Names of a type's fields: of a struct, a dataclass or an enumeration."""
    fields = set(getattr(kind, "__struct_fields__", ())) | set(dir(kind))
    for base in kind.__mro__:
        fields.update(vars(base).get("__annotations__", ()))
    return fields


def slots_of(config: Any) -> int:
    scheduler = getattr(config, "scheduler_config", None)
    return getattr(scheduler, "max_num_active_seqs", None) or getattr(scheduler, "max_num_seqs", None) or 256


def capacity_of(config: Any, settings: Settings, engines: int) -> int | None:
    if settings.kv_capacity_tokens is not None:
        return settings.kv_capacity_tokens or None
    cache = getattr(config, "cache_config", None)
    tokens = getattr(cache, "kv_cache_size_tokens", None)
    if tokens:
        return int(tokens)
    # vLLM adds up the blocks of all engines, each of which keeps one to itself. With context parallelism a
    # block holds so many times more tokens.
    blocks, size = getattr(cache, "num_gpu_blocks", None), getattr(cache, "block_size", None)
    if not blocks or not size:
        return None
    parallel = getattr(config, "parallel_config", None)
    for name in ("decode_context_parallel_size", "prefill_context_parallel_size"):
        size *= getattr(parallel, name, None) or 1
    return max(0, blocks // engines - 1) * size or None


def prompt_tokens_of(request: Any) -> int:
    if request.prompt_token_ids is not None:
        return len(request.prompt_token_ids)
    embeds = getattr(request, "prompt_embeds", None)
    return 0 if embeds is None else int(embeds.shape[0])


def max_tokens_of(request: Any) -> int | None:
    return getattr(getattr(request, "sampling_params", None), "max_tokens", None)


def priority_of(request: Any) -> int:
    """In vLLM the lower value goes first, here the higher class. vLLM refuses other values than 0 where its
    own scheduling is not by priority.
    """
    return priority(-(getattr(request, "priority", 0) or 0))


def session_of(request: Any) -> str | None:
    return getattr(request, "session_id", None)


def is_ours(client: Any, request: Any) -> bool:
    """Whether vLLM would choose freely among the ranks by load."""
    name = request.request_id
    return (
        request.data_parallel_rank is None
        and request.pooling_params is None
        and not getattr(request, "resumable", False)
        and not getattr(request, "abort_immediately", False)
        and name not in client.reqs_in_flight
        and name not in getattr(client, "streaming_reqs", ())
    )


def tell_cancelled(client: Any, name: str) -> None:
    """vLLM registers a request before it sends it, and does not expect the sending to last until somebody
    cancels it: it would remember it for ever.

    Told that the engine has aborted it, it forgets it.
    """
    core = importlib.import_module("vllm.v1.engine")
    output = core.EngineCoreOutput(request_id=name, new_token_ids=[], finish_reason=core.FinishReason.ABORT)
    client.outputs_queue.put_nowait(core.EngineCoreOutputs(outputs=[output]))
