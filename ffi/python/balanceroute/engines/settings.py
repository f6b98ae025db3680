"""Settings of the engine plugins, from environment variables.

| variable | default | meaning |
|---|---|---|
| `BALANCEROUTE_MODE` | `off` | `off`, `arrival` or `step`: see below |
| `BALANCEROUTE_POLICY` | `level` | policy of the pool (`step`); arrivals use the F-score |
| `BALANCEROUTE_SLOTS` | the engine's | running requests per rank |
| `BALANCEROUTE_KV_CAPACITY_TOKENS` | the engine's | KV tokens per rank; 0 for no bound |
| `BALANCEROUTE_WINDOW_MS` | 1 | `step`: events this close together are decided in one step |
| `BALANCEROUTE_STALL_MS` | 2000 | `step`: without news of any rank for so long, what waits is sent at once |
| `BALANCEROUTE_MAX_HOLD_MS` | 60000 | `step`: no request waits longer |
| `BALANCEROUTE_LOG_MS` | 10000 | how often a line says how things stand, under traffic; 0 for never |

`off` leaves the engine as it is. With `arrival` every request gets its rank when it arrives. With `step`
requests wait in the front end until a rank has room, and are decided together; the stall time is to be longer
than the longest prefill of a step.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from .gate import GateTimes

MODES = ("off", "arrival", "step")


class SettingsError(ValueError):
    """An environment variable has a value that means nothing: which, expected, found."""


@dataclass(frozen=True)
class Settings:
    """What an engine plugin is told; see the module's table."""

    mode: str = "off"
    policy: str = "level"
    slots: int | None = None
    kv_capacity_tokens: int | None = None
    """None: ask the engine; 0: no bound."""
    times: GateTimes = field(default_factory=GateTimes)
    log_every: float = 10.0
    """Seconds; 0 for never."""

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Reads the variables; unset or empty means the default. Raises `SettingsError`."""
        env = os.environ if env is None else env
        mode = env.get("BALANCEROUTE_MODE", "").strip().lower() or "off"
        if mode not in MODES:
            raise SettingsError(f"BALANCEROUTE_MODE must be one of {', '.join(MODES)}, found {mode!r}")
        times = GateTimes()
        return cls(
            mode=mode,
            policy=env.get("BALANCEROUTE_POLICY", "").strip() or cls.policy,
            slots=_count(env, "BALANCEROUTE_SLOTS", 1),
            kv_capacity_tokens=_count(env, "BALANCEROUTE_KV_CAPACITY_TOKENS", 0),
            times=GateTimes(
                window=_seconds(env, "BALANCEROUTE_WINDOW_MS", times.window),
                stall=_seconds(env, "BALANCEROUTE_STALL_MS", times.stall),
                max_hold=_seconds(env, "BALANCEROUTE_MAX_HOLD_MS", times.max_hold),
            ),
            log_every=_seconds(env, "BALANCEROUTE_LOG_MS", cls.log_every),
        )


def _count(env: Mapping[str, str], name: str, least: int) -> int | None:
    value = _number(env, name, least)
    if value is not None and value != int(value):
        raise SettingsError(f"{name} must be a whole number, found {value}")
    return None if value is None else int(value)


def _seconds(env: Mapping[str, str], name: str, default: float) -> float:
    milliseconds = _number(env, name, 0)
    return default if milliseconds is None else milliseconds / 1e3


def _number(env: Mapping[str, str], name: str, least: float) -> float | None:
    text = env.get(name, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value < float("inf"):
        raise SettingsError(f"{name} must be a number of at least {least:g}, found {text!r}")
    return value
