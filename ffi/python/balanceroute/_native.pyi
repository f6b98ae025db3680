"""What the compiled module offers. Import these names from `balanceroute`."""

from typing import Any, Iterator, Literal, Mapping, NamedTuple, Sequence, final

import numpy as np
import numpy.typing as npt

__version__: str

_Whole = npt.NDArray[np.int32] | npt.NDArray[np.uint32] | npt.NDArray[np.int64] | npt.NDArray[np.uint64]
_Reason = Literal["no-slot", "no-capacity", "not-eligible", "outside-window", "deferred"]

@final
class Router:
    """The state across steps of one cluster and one policy.

    Tell it what happens (`enqueue`, `progress`, `finish`, `abort`, `report`, workers that join, drain and leave) and ask `step` who
    enters which worker. Ids are integers of 64 bits without sign, tokens KV tokens, times seconds of one monotonic clock, such as
    `time.monotonic()`. An object belongs to one thread at a time: a second thread that calls in meanwhile gets a `BusyError`.
    """

    def __new__(
        cls,
        workers: int,
        slots: int,
        *,
        policy: str = "level",
        kv_capacity_tokens: int | None = None,
        weights: Sequence[float] | None = None,
        parameters: Mapping[str, float] | None = None,
        **config: Any,
    ) -> Router: ...
    def enqueue(
        self,
        id: int,
        prompt_tokens: int,
        *,
        deadline_steps: int | None = None,
        prompt_hash: int | None = None,
        rank: int | None = None,
        now: float | None = None,
    ) -> None:
        """Lets a request wait for `step`. `rank` is the only worker that may take it (a sticky session, an explicit rank)."""

    def place(
        self,
        id: int,
        prompt_tokens: int,
        *,
        prompt_hash: int | None = None,
        rank: int | None = None,
        now: float | None = None,
    ) -> Admission | None:
        """Chooses a worker at once (on arrival); `None` when nothing can take it, and then it is not kept."""

    def step(self, now: float | None = None) -> Plan:
        """Decides a step: admits, accounts for what it admitted, and gives back what got lost."""

    def progress(self, worker: int, tokens: int) -> None:
        """Every request running on the worker has generated this many tokens more."""

    def finish(self, id: int) -> None:
        """The request has sent its last token: its slot and KV tokens are free."""

    def abort(self, id: int) -> None:
        """The caller gave the request up, waiting or running."""

    def report(
        self,
        worker: int,
        *,
        running: int,
        waiting: int,
        kv_used_tokens: int,
        kv_capacity_tokens: int | None = None,
        seen_dispatch: int | None = None,
        now: float | None = None,
    ) -> None:
        """What a worker measured. Dispatches after `seen_dispatch` (the number of the last one that it has seen) stay counted."""

    def add_worker(self, slots: int | None = None, *, kv_capacity_tokens: int | None = None, weight: float = 1.0) -> int:
        """A worker joins: its index."""

    def drain_worker(self, worker: int) -> None:
        """It takes no new requests; what runs there still counts."""

    def remove_worker(self, worker: int) -> list[int]:
        """It is gone: the ids of the requests that ran there or were bound to it, now the caller's again."""

    def explain(self, id: int) -> Explanation | None:
        """Why the last step decided as it did about this request; `None` for one that it knows nothing of."""

    def metrics(self) -> Metrics:
        """Counters and gauges; `balanceroute.prometheus.render` makes text of them."""
