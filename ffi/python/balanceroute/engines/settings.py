"""Settings of the engine plugins, from environment variables.

| variable | default | meaning |
|---|---|---|
| `BALANCEROUTE_MODE` | `off` | `off`, `arrival` or `step`: see below |
| `BALANCEROUTE_POLICY` | `level` | policy of the pool (`step`); arrivals use the F-score |
| `BALANCEROUTE_SLOTS` | the engine's | running requests per rank |
| `BALANCEROUTE_KV_CAPACITY_TOKENS` | the engine's | KV tokens per rank; 0 for no bound |
| `BALANCEROUTE_WEIGHTS` | 1 each | what a token costs on each rank, by commas: 2 at half the speed |
| `BALANCEROUTE_MAX_PASSED` | 128 a rank | `step`: by how many that came later a request may be passed |
| `BALANCEROUTE_LOWER_CLASS_ONE_IN` | none | `step`: one in so many admissions is a lower class's |
| `BALANCEROUTE_HEADROOM_STEPS` | learned | KV tokens left free for each running request to grow by |
| `BALANCEROUTE_LEARNED_FILE` | none | keeps what the traffic has taught across restarts |
| `BALANCEROUTE_WINDOW_MS` | 1 | `step`: events this close together are decided in one step |
| `BALANCEROUTE_STALL_MS` | 2000 | `step`: without news of any rank for so long, what waits is sent at once |
| `BALANCEROUTE_MAX_HOLD_MS` | no bound | `step`: no request waits longer |
| `BALANCEROUTE_HUB` | 1 | `step`: the first of several front ends decides for all; 0: each for itself |
| `BALANCEROUTE_LOG_MS` | 10000 | how often a line says how things stand, under traffic; 0 for never |
| `BALANCEROUTE_RECORD` | none | a folder: every call of the router goes into a log below it |
| `BALANCEROUTE_STRICT` | 0 | 1: a wrong value or an unknown variable ends the start |

`off` leaves the engine as it is. With `arrival` every request gets its rank when it arrives. With `step`
requests wait in the front end until a rank has room, and are decided together; the stall time is to be longer
than the longest prefill of a step.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from balanceroute import POLICIES, Assigner, PolicyError

from .gate import GateTimes
from .limits import LONGEST
from .policies import BIND_ON_ARRIVAL, BOUND_PASSING, PASSED_PER_RANK

MODES = ("off", "arrival", "step")

PREFIX = "BALANCEROUTE_"
VARIABLES = tuple(
    PREFIX + name
    for name in (
        "MODE",
        "POLICY",
        "SLOTS",
        "KV_CAPACITY_TOKENS",
        "WEIGHTS",
        "MAX_PASSED",
        "LOWER_CLASS_ONE_IN",
        "HEADROOM_STEPS",
        "LEARNED_FILE",
        "WINDOW_MS",
        "STALL_MS",
        "MAX_HOLD_MS",
        "HUB",
        "LOG_MS",
        "RECORD",
        "STRICT",
    )
)
# Of the library, its build, its tests and its tools.
_OF_OTHERS = frozenset(
    PREFIX + name
    for name in (
        "ACL_LIBRARY",
        "BLESS",
        "CI",
        "ENGINES",
        "EVENTS",
        "INSTALL",
        "ISA",
        "KILLS",
        "TRACES",
        "VLLM_VERSIONS",
    )
)
# Of parameters that are no more, one word of each: what took their place.
_GONE = ("AGING", "OVERDUE", "GIANT", "RESERVE")
_INSTEAD = PREFIX + "MAX_PASSED"
_PREFIXES_OF_OTHERS = (PREFIX + "ASCEND", PREFIX + "KERNEL", PREFIX + "WRITE_")


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
    weights: tuple[float, ...] = ()
    """What a token costs on each rank; 1 on those that are not named."""
    max_passed: int | None = None
    """None: as many as the policy lets pass by itself."""
    lower_class_one_in: int | None = None
    """The share of admissions that no class above can take; None: what higher classes leave."""
    headroom_steps: int | None = None
    """None: as much room as is learned to be needed."""
    learned_file: str | None = None
    """Where it is kept what the traffic has taught."""
    times: GateTimes = field(default_factory=GateTimes)
    hub: bool = True
    """Whether the first of several front ends decides for all."""
    log_every: float = 10.0
    """Seconds; 0 for never."""
    record: str | None = None
    """The folder below which routers record themselves: the library reads the variable itself."""
    strict: bool = False
    """Whether what is wrong with the variables ends the start."""

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Reads the variables; unset or empty means the default. Raises `SettingsError`."""
        env = os.environ if env is None else env
        mode = env.get("BALANCEROUTE_MODE", "").strip().lower() or "off"
        _one_of("BALANCEROUTE_MODE", mode, MODES)
        policy = env.get("BALANCEROUTE_POLICY", "").strip() or cls.policy
        _one_of("BALANCEROUTE_POLICY", policy, POLICIES)
        if mode == "step" and (policy in BIND_ON_ARRIVAL or policy.endswith("-oracle")):
            why = "binds on arrival" if policy in BIND_ON_ARRIVAL else "needs to know when requests end"
            raise SettingsError(
                f"BALANCEROUTE_POLICY must be one that decides per step, found {policy!r}, which {why}"
            )
        times = GateTimes()
        return cls(
            mode=mode,
            policy=policy,
            slots=_count(env, "BALANCEROUTE_SLOTS", 1),
            kv_capacity_tokens=_count(env, "BALANCEROUTE_KV_CAPACITY_TOKENS", 0),
            weights=_weights(env, "BALANCEROUTE_WEIGHTS"),
            max_passed=_max_passed(env, policy),
            lower_class_one_in=_count(env, "BALANCEROUTE_LOWER_CLASS_ONE_IN", 2, 1 << 16),
            headroom_steps=_count(env, "BALANCEROUTE_HEADROOM_STEPS", 0, LONGEST),
            learned_file=env.get("BALANCEROUTE_LEARNED_FILE", "").strip() or None,
            times=GateTimes(
                window=_seconds(env, "BALANCEROUTE_WINDOW_MS", times.window),
                stall=_seconds(env, "BALANCEROUTE_STALL_MS", times.stall),
                max_hold=_perhaps_seconds(env, "BALANCEROUTE_MAX_HOLD_MS"),
            ),
            hub=_flag(env, "BALANCEROUTE_HUB", True),
            log_every=_seconds(env, "BALANCEROUTE_LOG_MS", cls.log_every),
            record=None if mode == "off" else _folder(env, "BALANCEROUTE_RECORD"),
            strict=_flag(env, "BALANCEROUTE_STRICT", False),
        )

    @property
    def bounds_passing(self) -> bool:
        """Whether `max_passed` says something here: somebody waits, under a policy that counts."""
        return self.mode == "step" and self.policy in BOUND_PASSING

    def in_words(self, room: str | None) -> list[str]:
        """What holds of growth and waiting, for the line at the start; `room` is left free where nobody sets
        it, None where nothing is."""
        words: list[str] = []
        if room is not None and self.headroom_steps is not None:
            room = f"{self.headroom_steps} KV tokens a request left free for growth"
        if room is not None:
            words.append(room)
        if self.bounds_passing and self.max_passed is None:
            words.append(f"nobody is passed by more than {PASSED_PER_RANK} others a rank")
        elif self.bounds_passing:
            words.append(f"nobody is passed by more than {self.max_passed} others")
        if self.mode == "step" and self.lower_class_one_in is not None:
            words.append(f"one in {self.lower_class_one_in} admissions is a lower class's")
        if self.record is not None:
            words.append(f"calls are recorded below {self.record}")
        return words


def at_start(engine: str, log: logging.Logger, env: Mapping[str, str] | None = None) -> Settings | None:
    """What the plugin of an engine is to do; None for nothing. Says all that is wrong with the variables, and
    ends the process where `BALANCEROUTE_STRICT` asks for it.
    """
    env = os.environ if env is None else env
    without_effect = unknown(env)
    settings, refused = None, None
    try:
        settings = Settings.from_env(env)
    except SettingsError as error:
        refused = str(error)
    else:
        if settings.max_passed is not None and settings.mode != "off" and not settings.bounds_passing:
            where = f"under {settings.policy}" if settings.mode == "step" else "on arrival"
            without_effect.append(f"{_INSTEAD} bounds nothing {where}")
    wrong = without_effect if refused is None else [*without_effect, refused]
    if wrong and env.get("BALANCEROUTE_STRICT", "").strip() not in ("", "0"):
        raise SystemExit(f"balanceroute: {'; '.join(wrong)}; BALANCEROUTE_STRICT ends the start")
    for what in without_effect:
        say(log, logging.WARNING, "balanceroute: %s, and has no effect", what)
    if refused is not None:
        say(log, logging.ERROR, "balanceroute: %s; %s routes as it always does", refused, engine)
    return None if settings is None or settings.mode == "off" else settings


def unknown(env: Mapping[str, str]) -> list[str]:
    """Which variables bear our prefix and mean nothing, each with the name that is nearest."""
    return [
        f"{name} is no variable of ours{_instead(name, VARIABLES)}"
        for name in sorted(env)
        if name.startswith(PREFIX)
        and name not in VARIABLES
        and name not in _OF_OTHERS
        and not name.startswith(_PREFIXES_OF_OTHERS)
    ]


def say(log: logging.Logger, level: int, message: str, *values: object) -> None:
    """To the log, or to stderr where the log would swallow it: a plugin may start before logging is set up,
    or where it has been turned off.
    """
    at: logging.Logger | None = log
    heard = False
    while at is not None and not heard:
        heard = any(handler.level <= level for handler in at.handlers)
        at = at.parent if at.propagate else None
    if heard and log.isEnabledFor(level):
        log.log(level, message, *values)
    else:
        print(message % values, file=sys.stderr, flush=True)


def _nearest(found: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(found, list(names), 1)
    return f" (nearest: {near[0]})" if near else ""


def _instead(found: str, names: Iterable[str]) -> str:
    words = re.split("[^A-Z]+", found.upper())
    if any(word in words for word in _GONE):
        return f" ({_INSTEAD} took the place of what went by such names)"
    return _nearest(found, names)


def _one_of(name: str, found: str, names: Iterable[str]) -> None:
    if found not in names:
        raise SettingsError(
            f"{name} must be one of {', '.join(names)}, found {found!r}{_instead(found, names)}"
        )


def _folder(env: Mapping[str, str], name: str) -> str | None:
    path = env.get(name, "")
    if not path.strip():
        return None
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise SettingsError(f"{name} must be a folder that can be written, found {path!r}: {error}") from None


def _flag(env: Mapping[str, str], name: str, default: bool) -> bool:
    text = env.get(name, "").strip()
    if text not in ("", "0", "1"):
        raise SettingsError(f"{name} must be 0 or 1, found {text!r}")
    return text == "1" if text else default


def _count(env: Mapping[str, str], name: str, least: int, most: float = float("inf")) -> int | None:
    value = _number(env, name, least)
    if value is not None and value != int(value):
        raise SettingsError(f"{name} must be a whole number, found {value}")
    if value is not None and value > most:
        raise SettingsError(f"{name} must be at most {most:g}, found {value:g}")
    return None if value is None else int(value)


def _max_passed(env: Mapping[str, str], policy: str) -> int | None:
    value = _count(env, _INSTEAD, 0)
    if value is not None:
        try:
            Assigner(policy, parameters={"max_passed": value}, backend="cpu")
        except PolicyError as error:
            raise SettingsError(f"{_INSTEAD} must be a number of others, found {value}: {error}") from None
    return value


def _weights(env: Mapping[str, str], name: str) -> tuple[float, ...]:
    text = env.get(name, "").strip()
    weights = []
    for part in text.split(",") if text else ():
        try:
            weight = float(part)
        except ValueError:
            weight = float("nan")
        if not 0 < weight <= 64:
            raise SettingsError(
                f"{name} must be numbers above 0 and up to 64 with commas between, found {text!r}"
            )
        weights.append(weight)
    return tuple(weights)


def _seconds(env: Mapping[str, str], name: str, default: float) -> float:
    seconds = _perhaps_seconds(env, name)
    return default if seconds is None else seconds


def _perhaps_seconds(env: Mapping[str, str], name: str) -> float | None:
    milliseconds = _number(env, name, 0)
    return None if milliseconds is None else milliseconds / 1e3


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
