"""What is refused, and how it is said: every error carries the numbers of its text as attributes."""

from __future__ import annotations

from typing import Any


class BalanceRouteError(Exception):
    """Base of all. `kind` names the case, `facts` has its numbers by name, each an attribute as well."""

    kind: str
    facts: dict[str, Any]

    def __init__(self, message: str, kind: str = "Other", facts: dict[str, Any] | None = None) -> None:
        # Both go into `args`, so that pickling keeps them.
        super().__init__(message, kind, facts or {})
        self.kind = kind
        self.facts = facts or {}

    def __str__(self) -> str:
        return str(self.args[0])

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["facts"][name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no fact {name!r}") from None


class ArgumentError(BalanceRouteError, ValueError):
    """An array of the wrong type, shape or length, or a number that its column cannot hold."""


class BatchError(BalanceRouteError, ValueError):
    """Workers, requests or terms that contradict each other or pass a limit."""


class PolicyError(BalanceRouteError, ValueError):
    """An unknown policy, parameter, backend or instruction set, or a parameter out of its range."""


class RouterError(BalanceRouteError):
    """A call that does not fit the router's state."""


class UnknownRequestError(RouterError, LookupError):
    """The request neither waits nor runs; for calls about running requests: it does not run."""


class UnknownWorkerError(RouterError, LookupError):
    """No such worker: never there, or removed."""


class RecordError(BalanceRouteError):
    """A recording that cannot be written, read, replayed or gone on from."""


class PanicError(BalanceRouteError):
    """The library itself has failed inside a call; `message` has its words. A router says so once and is to
    be made whole by `recover` then.
    """
