"""What the compiled module offers. Import these names from `balanceroute`."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, final

import numpy as np
import numpy.typing as npt

from ._reasons import WaitReason

__version__: str
POLICIES: tuple[str, ...]
PARAMETERS: tuple[str, ...]

# Records (all classes here but `Assigner` and `Router`) are equal where their fields are, hashable where
# these are, and can be copied and pickled.

# Plain numbers. A request's name is the caller's; a worker's id stays with it for life (its place in
# `Router(workers)`, or what `add_worker` gave), and its index is its place in one call of `assign`.
_RequestId: TypeAlias = int
_WorkerId: TypeAlias = int
# In an optional column a negative number, or the greatest of an unsigned type, means "none here".
_Whole = npt.NDArray[np.integer[Any]]
_Real = npt.NDArray[np.floating[Any]]
# A byte each; any byte but 0 is true.
_Flag = npt.NDArray[np.bool_] | npt.NDArray[np.uint8]
_Bonus = npt.NDArray[np.float32] | npt.NDArray[np.float16]
_ReturnReason = Literal[
    "lost_dispatch",
    "worker_silent",
    "worker_forgot",
    "worker_removed",
    "worker_draining",
    "never_fits",
    "expired",
    "recovered",
]
_Verdict = Literal["taken", "repeated", "late", "contradictory", "restarted"]

def isas() -> list[str]:
    """Instruction sets that this CPU has, the best one last."""

def replay(folder: str | os.PathLike[str]) -> Replayed:
    """Feeds a recording (a folder, the folder above if it is the only one there, or a file of it) to a router
    again, call by call, and compares the answers. What cannot be read is a `RecordError`."""

@final
class Balance:
    """How level a set of loads is; loads are tokens times weight."""

    @property
    def envelope_tokens(self) -> float:
        """The greatest load: the step lasts as long as this."""

    @property
    def imbalance_tokens(self) -> float:
        """Workers times the envelope minus the sum of loads."""

# ---- one step, without state ----

@final
class Traffic:
    """Running statistics of the traffic, in tokens."""

    def __new__(
        cls,
        mean_prompt_tokens: int = 0,
        sd_prompt_tokens: int = 0,
        small_prompt_tokens: int = 0,
        mean_output_tokens: int = 0,
    ) -> Traffic: ...
    @property
    def mean_prompt_tokens(self) -> int: ...
    @property
    def sd_prompt_tokens(self) -> int: ...
    @property
    def small_prompt_tokens(self) -> int: ...
    @property
    def mean_output_tokens(self) -> int: ...

@final
class Assignment:
    """Who is admitted, in the order of decision."""

    @property
    def row(self) -> npt.NDArray[np.uint32]:
        """Row of each admitted request in the columns that were given."""

    @property
    def worker(self) -> npt.NDArray[np.uint32]:
        """The index of the worker that it enters."""

    @property
    def score_tokens(self) -> npt.NDArray[np.float64]:
        """The score that won; comparable within one call."""

    @property
    def wait_reason(self) -> npt.NDArray[np.uint8] | None:
        """The number of a `WaitReason` for every request; `None` unless `reasons=True`."""

    @property
    def before(self) -> Balance: ...
    @property
    def after(self) -> Balance: ...
    def __len__(self) -> int: ...

@final
class Assigner:
    """A policy and its buffers: decides step after step for a caller that keeps its own state, fastest when
    it is used again.

    Calls from several threads are served one after the other, and so is one from a signal handler or a
    finalizer, whatever it interrupts. After a `PanicError` the policy is built anew and the next call is
    decided. In a process that was forked while another thread was inside, every call is refused
    (`BalanceRouteError` of kind "Forked").
    """

    def __new__(
        cls,
        policy: str = "level",
        *,
        parameters: dict[str, float] | None = None,
        backend: Literal["auto", "cpu", "ascend", "reference"] = "auto",
        isa: Literal["scalar", "avx2", "avx512", "neon"] | None = None,
    ) -> Assigner: ...
    @property
    def policy(self) -> str:
        """Name of the policy."""

    @property
    def backend(self) -> str:
        """Which backend evaluates, on which instruction set, and why."""

    def assign(
        self,
        load_tokens: _Whole,
        free_slots: _Whole,
        prompt_tokens: _Whole,
        *,
        running: _Whole | None = None,
        kv_capacity_tokens: _Whole | None = None,
        kv_used_tokens: _Whole | None = None,
        kv_growth_tokens: _Whole | None = None,
        weight: _Real | None = None,
        accepting: _Flag | None = None,
        next_completion_steps: _Whole | None = None,
        ids: _Whole | None = None,
        waited_steps: _Whole | None = None,
        passed: _Whole | None = None,
        priority: _Whole | None = None,
        deadline_steps: _Whole | None = None,
        rank: _Whole | None = None,
        pair_row: _Whole | None = None,
        survival_class: _Whole | None = None,
        traffic: Traffic | None = None,
        request_growth_tokens: int = 0,
        projection: npt.NDArray[np.uint64] | None = None,
        ends: tuple[_Whole, _Whole, _Whole] | None = None,
        bonus_tokens: _Bonus | None = None,
        eligible: _Flag | None = None,
        class_survival: npt.NDArray[np.float32] | None = None,
        reasons: bool = False,
    ) -> Assignment:
        """Decides a step: which waiting request enters which free slot. See `balanceroute.assign` for the
        arguments.
        """

def assign(
    load_tokens: _Whole,
    free_slots: _Whole,
    prompt_tokens: _Whole,
    *,
    policy: str = "level",
    running: _Whole | None = None,
    kv_capacity_tokens: _Whole | None = None,
    kv_used_tokens: _Whole | None = None,
    kv_growth_tokens: _Whole | None = None,
    weight: _Real | None = None,
    accepting: _Flag | None = None,
    next_completion_steps: _Whole | None = None,
    ids: _Whole | None = None,
    waited_steps: _Whole | None = None,
    passed: _Whole | None = None,
    priority: _Whole | None = None,
    deadline_steps: _Whole | None = None,
    rank: _Whole | None = None,
    pair_row: _Whole | None = None,
    survival_class: _Whole | None = None,
    traffic: Traffic | None = None,
    request_growth_tokens: int = 0,
    projection: npt.NDArray[np.uint64] | None = None,
    ends: tuple[_Whole, _Whole, _Whole] | None = None,
    bonus_tokens: _Bonus | None = None,
    eligible: _Flag | None = None,
    class_survival: npt.NDArray[np.float32] | None = None,
    reasons: bool = False,
) -> Assignment:
    """Decides one step: which waiting request enters which free slot.

    Of more than 4,096 rows it chooses among the oldest 4,096 that may enter a worker as things stand (an
    assigner's parameter `candidate_window`), and admits at most so many.

    Columns are one-dimensional numpy arrays of any integer type: one entry per worker in the first group, one
    per waiting request, in order of arrival, in the second. Matrices have the types below. Everything is read
    once, before the decision lets the GIL go, and may be changed as soon as the call is made. Strides, order
    in memory and alignment do not matter. Refused by name (`ArgumentError`) is what would have to be guessed:
    another type of entry (floats for whole numbers, float64 or whole numbers for a bonus, objects), another
    byte order, a masked array (its mask says something that its entries do not; `filled()` is an array),
    another number of dimensions, and what is no array, such as a list.

    Workers:
        load_tokens: KV tokens that the running requests read each step.
        free_slots: batch slots that are free.
        running: requests decoding there, each of which adds a token a step; default 0.
        kv_capacity_tokens: KV tokens that fit; none for no bound.
        kv_used_tokens: KV tokens held; default the load.
        kv_growth_tokens: growth of the running requests that an admission must leave free; default 0.
        weight: relative step cost per token, 0 to 64; default 1.
        accepting: false for a draining worker; default true.
        next_completion_steps: steps to its next predicted completion, if known.
    Requests:
        prompt_tokens: KV tokens that each brings.
        ids: names that stay the same from call to call; only a policy with a memory needs them.
        waited_steps: default 0.
        passed: how many of its class that came later were admitted before it, to workers that it may use;
            default 0.
        priority: its class, -128 to 127: whoever is of a higher one goes before it; default 0.
        deadline_steps: overdue once it has waited this many steps.
        rank: the index of the only worker that may take it.
        pair_row: its row in `bonus_tokens` and `eligible`.
        survival_class: its row in `class_survival`.
    The step:
        traffic: statistics of the traffic; policies that age or level need them.
        request_growth_tokens: tokens left free for an admitted request's own growth.
        projection: uint64 (workers, horizon + 1) tokens held in 0, 1, ... steps.
        ends: predicted completions: (workers + 1 offsets, steps until each, tokens freed by each).
        bonus_tokens: float32 or float16 (pair rows, workers) tokens, such as prefix affinity.
        eligible: bool or uint8 (pair rows, workers); any byte but 0 is true.
        class_survival: float32 (classes, horizon + 1) probabilities to still run.
        reasons: whether to say why the others wait.
    """

# ---- the state across steps ----

@final
class WorkerConfig:
    """One worker (data-parallel rank) as the whole cluster has it."""

    def __new__(
        cls, slots: int, *, kv_capacity_tokens: int | None = None, weight: float = 1.0
    ) -> WorkerConfig: ...
    @property
    def slots(self) -> int: ...
    @property
    def kv_capacity_tokens(self) -> int | None: ...
    @property
    def weight(self) -> float: ...

@final
class Dispatch:
    """One admission, numbered."""

    @property
    def id(self) -> _RequestId: ...
    @property
    def worker(self) -> _WorkerId: ...
    @property
    def number(self) -> int:
        """1, 2, 3 and so on among the dispatches to this worker: what a report acknowledges."""

    @property
    def prompt_tokens(self) -> int: ...
    @property
    def score_tokens(self) -> float: ...

@final
class Returned:
    """A request that leaves without having finished; it may be enqueued again."""

    @property
    def id(self) -> _RequestId: ...
    @property
    def worker(self) -> _WorkerId | None:
        """The worker that it ran on or was bound to."""

    @property
    def reason(self) -> _ReturnReason: ...
    @property
    def generated_tokens(self) -> int: ...

@final
class Finished:
    """A request that ran to its end."""

    @property
    def id(self) -> _RequestId: ...
    @property
    def worker(self) -> _WorkerId: ...
    @property
    def generated_tokens(self) -> int: ...

@final
class Preempted:
    """A request that was put off, as it is to be enqueued again."""

    @property
    def id(self) -> _RequestId: ...
    @property
    def prompt_tokens(self) -> int:
        """Its length, with what it has generated and what its worker had already."""

    @property
    def cached_tokens(self) -> int: ...
    @property
    def generated_tokens(self) -> int: ...
    @property
    def max_tokens(self) -> int | None: ...
    @property
    def passed(self) -> int:
        """How many that came later had been admitted before it."""

    @property
    def deadline_steps(self) -> int | None: ...
    @property
    def prompt_hash(self) -> int | None: ...
    @property
    def rank(self) -> _WorkerId | None: ...
    @property
    def priority(self) -> int: ...

@final
class Plan:
    """The answer of one step."""

    @property
    def admissions(self) -> list[Dispatch]:
        """Who enters which worker, in the order of decision."""

    @property
    def returned(self) -> list[Returned]:
        """Who has left without having finished since the plan before: told once, here."""

    @property
    def before(self) -> Balance: ...
    @property
    def after(self) -> Balance: ...

@final
class RunnerUp:
    """The worker that came second."""

    @property
    def worker(self) -> _WorkerId: ...
    @property
    def score_tokens(self) -> float: ...

@final
class Explanation:
    """Why a decision fell as it did."""

    @property
    def id(self) -> _RequestId: ...
    @property
    def decided(self) -> Literal["step", "arrival", "waits"]: ...
    @property
    def wait_reason(self) -> WaitReason | None:
        """Why it waits, if it does."""

    @property
    def worker(self) -> _WorkerId | None: ...
    @property
    def score_tokens(self) -> float: ...
    @property
    def opening_score_tokens(self) -> float:
        """Its score there as the step began, to compare with the runner-up; NaN for a policy that scores no
        pairs.
        """

    @property
    def runner_up(self) -> RunnerUp | None: ...
    @property
    def lead_tokens(self) -> float | None: ...
    @property
    def margin_tokens(self) -> float: ...
    @property
    def kv_growth_tokens(self) -> int:
        """KV tokens that it had to leave free on that worker for others to grow by; 0 while it waits."""

    @property
    def waited_steps(self) -> int: ...
    @property
    def passed(self) -> int:
        """How many of its class that came later were admitted before it, to workers that it may use."""

    @property
    def priority(self) -> int:
        """Its class."""

@final
class Histogram:
    """Counts in powers of two: bucket `b` has values of `b` binary digits, the last one all longer ones."""

    @property
    def buckets(self) -> list[int]: ...
    @property
    def sum(self) -> int: ...
    @property
    def count(self) -> int: ...
    @staticmethod
    def upper_bound(bucket: int) -> int | None:
        """Greatest value that a bucket counts; `None` for the last."""

    def quantile(self, q: float) -> int | None: ...

@final
class ReportCounts:
    """Reports of a worker by what became of them."""

    @property
    def taken(self) -> int: ...
    @property
    def repeated(self) -> int: ...
    @property
    def late(self) -> int: ...
    @property
    def contradictory(self) -> int: ...
    @property
    def restarted(self) -> int: ...

@final
class RankMetrics:
    """One worker as it stands."""

    @property
    def worker(self) -> _WorkerId: ...
    @property
    def accepting(self) -> bool: ...
    @property
    def draining(self) -> bool: ...
    @property
    def claimed_by(self) -> int | None:
        """Who waits for room there that nobody else of its class or a lower one is to fill: it is overdue and
        fits nowhere.
        """

    @property
    def load_tokens(self) -> int: ...
    @property
    def margin_tokens(self) -> float: ...
    @property
    def running(self) -> int: ...
    @property
    def held(self) -> int:
        """Of those running, how many have KV there and do not decode yet."""

    @property
    def preempted(self) -> int:
        """Of those running, how many the engine has put off."""

    @property
    def own_tokens(self) -> int:
        """The lengths of ours, whatever they share."""

    @property
    def slots(self) -> int:
        """Slots that this router is sure of."""

    @property
    def free_slots(self) -> int: ...
    @property
    def kv_used_tokens(self) -> int: ...
    @property
    def kv_growth_tokens(self) -> int: ...
    @property
    def kv_capacity_tokens(self) -> int | None: ...
    @property
    def foreign_requests(self) -> int: ...
    @property
    def foreign_tokens(self) -> int: ...
    @property
    def shared_tokens(self) -> int:
        """Tokens by which our requests hold less than their lengths, for they share."""

    @property
    def dispatches(self) -> int: ...
    @property
    def acknowledged(self) -> int: ...
    @property
    def unseen(self) -> int: ...
    @property
    def report_age_ms(self) -> int | None: ...
    @property
    def reports(self) -> ReportCounts: ...

@final
class Metrics:
    """How a router stands and what has happened since it was made; `balanceroute.prometheus.render` makes
    text of it.
    """

    @property
    def now_ms(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def ranks(self) -> list[RankMetrics]: ...
    @property
    def waiting(self) -> int: ...
    @property
    def waiting_by_reason(self) -> dict[WaitReason, int]: ...
    @property
    def waiting_by_priority(self) -> dict[int, int]:
        """How many wait of each class of whom anybody waits."""

    @property
    def running(self) -> int: ...
    @property
    def envelope_tokens(self) -> float: ...
    @property
    def imbalance_tokens(self) -> float: ...
    @property
    def longest_wait_steps(self) -> int: ...
    @property
    def longest_wait_ms(self) -> int: ...
    @property
    def most_passed_waiting(self) -> int:
        """The most that anybody who waits now has been passed."""

    @property
    def max_passed(self) -> int | None:
        """By how many a request may be passed, as the last step had it; none where the policy knows no
        bound.
        """

    @property
    def arrived(self) -> int: ...
    @property
    def admitted_by_step(self) -> int: ...
    @property
    def placed_on_arrival(self) -> int: ...
    @property
    def finished(self) -> int: ...
    @property
    def aborted(self) -> int: ...
    @property
    def preempted(self) -> int: ...
    @property
    def preempted_in_place(self) -> int:
        """Times that an engine put a request off to go on with it by itself."""

    @property
    def sent_beyond(self) -> int:
        """Requests sent to a worker that had no room by our count."""

    @property
    def disowned(self) -> int:
        """Requests whose ends are not told."""

    @property
    def adopted_beyond(self) -> int:
        """Adopted requests for which this router counted no slot or no room."""

    @property
    def returned(self) -> dict[str, int]: ...
    @property
    def clock_jumps(self) -> int:
        """Readings of the caller's clock more than ten minutes ahead of the last one or more than ten seconds
        behind it: no time passes by them.
        """

    @property
    def decide_ns(self) -> Histogram: ...
    @property
    def wait_ms(self) -> Histogram: ...
    @property
    def wait_steps(self) -> Histogram: ...
    @property
    def passed(self) -> Histogram:
        """How many that came later were admitted before each of the admitted."""

    @property
    def most_passed(self) -> int: ...
    @property
    def claims(self) -> int:
        """Times that a request which was overdue and fitted nowhere began to claim a worker."""

    @property
    def admitted_beside_claims(self) -> int:
        """Requests that entered other workers meanwhile, or this one before it."""

    @property
    def recording(self) -> bool | None:
        """Whether calls are recorded; False where that has ended by an error, None where nobody asked."""

    @property
    def recorded_calls(self) -> int | None:
        """Calls that the recording has, those of processes before this one too."""

@final
class Recording:
    """How a recording stands."""

    @property
    def folder(self) -> Path: ...
    @property
    def calls(self) -> int:
        """Calls written since it began, by processes before this one too."""

    @property
    def bytes(self) -> int:
        """Bytes written by this process, those of files that are gone too."""

    @property
    def stopped(self) -> str | None:
        """Why it has ended, if it has; the router goes on without."""

@final
class Untold:
    """Who has left without having finished and may be known to nobody."""

    @property
    def returned(self) -> list[Returned]: ...
    @property
    def preempted(self) -> list[Preempted]:
        """What `preempt` or `preempt_request` has answered."""

@final
class Replayed:
    """What became of a recording that was fed to a router again."""

    @property
    def calls(self) -> int:
        """Calls that were made."""

    @property
    def differences(self) -> int:
        """How many of them answer otherwise than they did."""

    @property
    def first_difference(self) -> str | None:
        """The first of these: its number in the recording, the call, and both answers."""

    @property
    def torn(self) -> list[tuple[Path, int]]:
        """Files that end in something that cannot be read, and the byte where it begins."""

@final
class Router:
    """The state across steps of one cluster, and one policy that decides.

    Tell it what happens (`enqueue`, `progress`, `finish`, `abort`, `report`, workers that join, drain and
    leave) and ask `step` who enters which worker. Every request that was let in leaves exactly once: by
    `finish` or `abort`, in a plan's `returned`, or from `remove_worker` or `recover`.

    Request ids are integers of 64 bits without sign; worker ids are places in `workers`, or what `add_worker`
    gave, and are never used again. `now_ms` is the caller's clock, such as `int(time.monotonic() * 1000)`.
    Calls without it happen at its last reading, and a request that is enqueued without it begins to wait at
    the next one: after an idle while give it. A reading more than ten minutes ahead of the last, or more than
    ten seconds behind it, is a jump: no time has passed by it, and `metrics` counts it; a few clocks that
    disagree may alternate, and time follows the one that is ahead. A refused call changes nothing. A scalar
    that is no such number at all is refused as Python does (`TypeError`, `OverflowError`).

    A step chooses among the oldest 4,096 who wait (the parameter `candidate_window`), and goes on behind them
    while slots are open that none of them may enter.

    Calls from several threads are served one after the other, and so is one from a signal handler or a
    finalizer, whatever it interrupts; long ones (`step`, `explain`, `waiting`, `metrics`, `remove_worker`)
    run without the GIL. The call in which the library itself fails raises `PanicError`; every later one is
    refused (`BalanceRouteError` of kind "Broken") until `recover` has begun anew. In a process that was
    forked while another thread was inside, every call is refused (kind "Forked"); otherwise the child has a
    router of its own.
    """

    def __new__(
        cls,
        workers: Sequence[WorkerConfig],
        *,
        policy: str = "level",
        parameters: dict[str, float] | None = None,
        backend: Literal["auto", "cpu", "ascend", "reference"] = "auto",
        isa: Literal["scalar", "avx2", "avx512", "neon"] | None = None,
        mode: Literal["step", "arrival"] | int = "step",
        lower_class_one_in: int | None = None,
        share: tuple[int, int] = (0, 1),
        in_order: bool = False,
        headroom_steps: int | None = None,
        preemption_cost: tuple[float, float] | None = None,
        refresh_steps: int = 16,
        ends_horizon_steps: int = 512,
        dispatch_timeout_ms: int | None = None,
        silence_timeout_ms: int | None = None,
        expire_after_ms: int | None = None,
        explaining: bool = False,
    ) -> Router:
        """
        Args:
            workers: the workers; may be empty.
            policy: one of `POLICIES`.
            parameters: of the policy, by the names in `PARAMETERS`; `max_passed` is by how many that came
                later a request may be passed while it waits, 128 a worker unless set.
            backend, isa: who evaluates; the default is the fastest.
            mode: when `place` decides: never ("step"), always ("arrival"), or while more than this many slots
                are open.
            lower_class_one_in: the share that no class above can take: for each `lower_class_one_in - 1`
                admissions of higher classes while somebody of a class waits, one is that class's before any
                of a higher one, 2 to 65536; by default a lower class gets what higher ones leave.
            share: (index, number of front ends): which part of every worker this router is sure of; beyond
                it front ends take turns at what reports show free.
            in_order: whether requests reach a worker in the order of their dispatch: a token of one then
                shows that the worker has those sent before it.
            headroom_steps: growth that an admission leaves free for each running request, where the KV cache
                is bounded; by default as much room as is learned to be needed, at most 6 % of the cache.
            preemption_cost: what that room and preemptions cost: how long a decode step takes without load,
                in milliseconds, and the prefill of a token that is done again, in microseconds.
            refresh_steps: steps between two predictions for the same running request, 1 to 65536.
            ends_horizon_steps: how far ahead predicted ends are kept.
            dispatch_timeout_ms: a dispatch is lost when a report that comes this long after it has not seen
                it.
            silence_timeout_ms: a dispatch comes back when nothing at all has shown it for this long.
            expire_after_ms: a request comes back when it has waited this long.
            explaining: whether `explain` has something to say about admissions.
        """

    # Recordings.
    @classmethod
    def resume(
        cls,
        folder: str | os.PathLike[str],
        *,
        segment_bytes: int | None = None,
        segments: int | None = None,
    ) -> Router:
        """The router of a process that is no more, as it was after the last call that it had recorded into
        this folder; it goes on to record there. Who waited waits, and who ran runs (`running`). Of what it
        had answered some may not have been carried out: `resend` has the dispatches, each to be handed to its
        worker again, which knows by its number whether it has it, and `untold` who was given back and has not
        come again. What engines hold is theirs to say, by `report`, `adopt` and `finish`. Terms that
        `set_terms` has kept are the caller's to tell again."""

    def record(
        self,
        folder: str | os.PathLike[str],
        *,
        segment_bytes: int | None = None,
        segments: int | None = None,
    ) -> None:
        """Writes every call that changes this router from now on, with its answer, into the log of a folder,
        after what is there; the folder is made where it is missing, and is one router's. The newest
        `segments` files (16, at least 2) of `segment_bytes` (16 MiB, 2**16 to 2**30) are kept. What a call
        had recorded when it returned is kept whenever the process is killed. The log has ids and lengths, no
        prompts, and hashes of these under a key that is kept nowhere. A recording that was under way ends; a
        process that is forked off records nothing, and keeps others out of the folder while it lives.

        With `BALANCEROUTE_RECORD=FOLDER` in the environment every router that is made records itself into
        `FOLDER/router-PID-N`."""

    def stop_recording(self) -> Recording | None:
        """Ends the recording. How it stood."""

    @property
    def recording(self) -> Recording | None:
        """How the recording stands, if there is one."""

    def running(self) -> list[tuple[_RequestId, _WorkerId, int]]:
        """Who runs, in order of id: the worker, and the number of the dispatch, 0 for one that was
        adopted."""

    def unseen(self) -> list[Dispatch]:
        """The dispatches of those who run that nothing has shown to have arrived, by worker and number, each
        with the length that it is counted with by now and no score."""

    def resend(self, now_ms: int) -> list[Dispatch]:
        """`unseen`, made again now: each is to be handed to its worker once more, and only from now on may a
        report be expected to have seen it. After `resume`, and for a worker whose connection was lost. A
        worker that has it knows it by its number."""

    def untold(self) -> Untold:
        """Of a recorded router, who has left without having finished, by the last plan or since, and has not
        come again: after `resume` nobody else may know of them."""

    # Requests.
    def enqueue(
        self,
        id: _RequestId,
        prompt_tokens: int,
        *,
        cached_tokens: int = 0,
        generated_tokens: int = 0,
        max_tokens: int | None = None,
        waited_steps: int = 0,
        passed: int = 0,
        priority: int = 0,
        deadline_steps: int | None = None,
        prompt_hash: int | None = None,
        rank: _WorkerId | None = None,
        now_ms: int | None = None,
    ) -> None:
        """Lets a request wait for a step. `rank` is the id of the only worker that may take it (a sticky
        session, an explicit rank). Of `prompt_tokens`, its worker has `cached_tokens` already, and for one
        that comes back `generated_tokens` are those that it had generated before; `max_tokens` is what it may
        generate in all. By `passed` of its class that came later it has been passed where it waited before;
        how many may is the parameter `max_passed`. Whoever is of a higher `priority`, -128 to 127, goes
        before it; 0 of one that comes back also stands for the class that it had.
        """

    def set_terms(
        self,
        id: _RequestId,
        *,
        bonus_tokens: dict[_WorkerId, float] | None = None,
        eligible: Collection[_WorkerId] | None = None,
    ) -> None:
        """What a waiting request gains on single workers, in tokens, and which alone may take it, by their
        ids and for as long as it waits, in place of what was said before; None for nothing, or all. Workers
        that are not there count for nothing. A row that `step` is given for it goes before this.
        """

    def place(
        self,
        id: _RequestId,
        prompt_tokens: int,
        now_ms: int,
        *,
        cached_tokens: int = 0,
        generated_tokens: int = 0,
        max_tokens: int | None = None,
        waited_steps: int = 0,
        passed: int = 0,
        priority: int = 0,
        deadline_steps: int | None = None,
        prompt_hash: int | None = None,
        rank: _WorkerId | None = None,
        bonus_tokens: _Bonus | None = None,
        eligible: _Flag | None = None,
    ) -> Dispatch | None:
        """A request arrives: it enters a worker at once if the mode decides on arrival and one has room; else
        it waits, and `None` comes. `bonus_tokens` and `eligible` are rows as those of `step`, for this call:
        a request that waits is given its rows again by whoever steps."""

    def send(
        self,
        id: _RequestId,
        prompt_tokens: int,
        *,
        worker: _WorkerId | None = None,
        cached_tokens: int = 0,
        generated_tokens: int = 0,
        max_tokens: int | None = None,
        priority: int = 0,
        prompt_hash: int | None = None,
        now_ms: int | None = None,
    ) -> Dispatch:
        """A request enters a worker whether or not that has room: an engine queues whatever it is sent.
        Without a `worker` it is one with room for it, or the one with the shortest queue for those that it
        serves, and of such ones the least loaded. One that waits here waits no more."""

    def adopt(
        self,
        id: _RequestId,
        prompt_tokens: int,
        worker: _WorkerId,
        *,
        generated_tokens: int = 0,
        max_tokens: int | None = None,
        priority: int = 0,
        prompt_hash: int | None = None,
    ) -> None:
        """Takes over a request that already runs on a worker (a restart, a warm start, an engine that resumes
        what it had preempted); here `prompt_tokens` are without `generated_tokens`. What an engine says it
        runs is so, also past slots and capacity, and also of a request that waits here or was thought to
        run."""

    def finish(self, id: _RequestId, *, now_ms: int | None = None) -> Finished:
        """A running request has sent its last token."""

    def finish_dispatch(self, dispatch: Dispatch, *, now_ms: int | None = None) -> Finished:
        """`finish` of the life that this dispatch began: the end of an older one, which came late, is refused
        (`UnknownRequestError` of kind "OtherDispatch") and ends nothing."""

    def abort(self, id: _RequestId, *, now_ms: int | None = None) -> _WorkerId | None:
        """A waiting or running request was given up; the worker that it ran on, if any."""

    def abort_dispatch(self, dispatch: Dispatch, *, now_ms: int | None = None) -> _WorkerId | None:
        """`abort` of the life that this dispatch began."""

    def preempt(self, id: _RequestId) -> int:
        """The engine took a running request's KV cache away: it leaves, to be enqueued again with the length
        that is answered; then it goes on, with what it has generated. Where the engine itself goes on with
        it, that is `preempted`.
        """

    def preempt_request(self, id: _RequestId) -> Preempted:
        """`preempt` that answers with the whole request: enqueued with all that this tells, it goes on as
        what it was, also where a part of it was cached."""

    # Stages of a request that runs.
    def held(self, id: _RequestId) -> None:
        """It has KV on its worker and does not decode yet: transfer from a prefill node, chunked prefill. It
        weighs its length and does not grow."""

    def transfer_done(self, id: _RequestId) -> None:
        """It decodes from now on."""

    def preempted(self, id: _RequestId) -> None:
        """Its engine has taken its KV cache away and will go on with it by itself: room for it is kept."""

    def resumed(self, id: _RequestId) -> None:
        """Its engine goes on with it."""

    # Progress.
    def advance(self) -> None:
        """One lock-step decode step has run: every running request has a token more, everybody who waits has
        waited a step.
        """

    def progress(self, worker: _WorkerId, tokens: int = 1) -> None:
        """Every running request of a worker has this many tokens more."""

    def progress_request(self, id: _RequestId, tokens: int = 1) -> None:
        """One running request has this many tokens more."""

    def progress_requests(self, ids: _Whole, tokens: _Whole | None = None) -> int:
        """Many running requests have so many tokens more, one without `tokens`: one call for all that an
        engine's step brings. Ids that do not run are passed over. How many grew."""

    def disown_sent(self, worker: _WorkerId, until_ms: int) -> list[_RequestId]:
        """For engines that tell no ends: whatever was sent to a worker by then and nothing has shown is
        foreign there from now on, for the next report to measure. Ids of these; nothing is learned of
        them."""

    # Workers.
    def report(
        self,
        worker: _WorkerId,
        *,
        running: int,
        kv_used_tokens: int | None,
        waiting: int = 0,
        kv_capacity_tokens: int | None = None,
        sequence: int | None = None,
        last_dispatch: int | None = None,
        missing: int = 0,
        epoch: int | None = None,
        age_ms: int = 0,
        kv_age_ms: int | None = None,
        now_ms: int | None = None,
    ) -> _Verdict:
        """What a worker measured. `sequence` rises with each of its reports; `last_dispatch` is the greatest
        dispatch number that it had received, `None` if it cannot tell; bit `i` of `missing` says that it
        lacked number `last_dispatch - 1 - i`. Dispatches that it has not seen stay counted on top of what it
        measured. Without `kv_used_tokens` what was measured before goes on to be so, and others who have come
        or left since are taken to be as long as ours. Any other `epoch` than before says that it has started
        anew; `age_ms` is how long ago it may have been measured, and `kv_age_ms` its KV tokens where they are
        older."""

    def add_worker(self, worker: WorkerConfig) -> _WorkerId:
        """A worker joins, empty. Its id."""

    def announce_worker(self, worker: WorkerConfig) -> _WorkerId:
        """A worker that is yet to come: it takes nobody until `set_accepting` says that it is there, and
        until then requests wait that only it could hold. Its id."""

    def configure_worker(self, worker: _WorkerId, config: WorkerConfig) -> None:
        """It has other slots, another KV capacity or another weight from now on; what runs there runs on."""

    def set_share(self, index: int, of: int) -> None:
        """This is number `index` of `of` front ends from now on: some have come or gone, or are decided for
        here."""

    def worker_config(self, worker: _WorkerId) -> WorkerConfig:
        """As it is configured now."""

    def drain_worker(self, worker: _WorkerId) -> None:
        """It takes nobody new; what runs there runs on."""

    def is_drained(self, worker: _WorkerId) -> bool:
        """Whether it is draining and holds none of our requests any more."""

    def set_accepting(self, worker: _WorkerId, accepting: bool) -> None:
        """Stops new requests to a worker for a while, or resumes them, which ends a drain too."""

    def remove_worker(self, worker: _WorkerId) -> list[Returned]:
        """It is gone: who ran there or waited for it alone comes back."""

    def learned(self) -> bytes:
        """What the traffic has taught so far, for `learn` of a router to come. Who waits or runs is no part
        of it."""

    def learn(self, learned: bytes) -> None:
        """Goes on from what another router had learned, in place of what this one has. The other may have had
        other workers. Bytes that are none of `learned`, or of another version, are an error."""

    def recover(self) -> list[Returned]:
        """Begins anew, whatever has happened to the count, above all after a `PanicError`: every request that
        waits or runs comes back once, after those that the next plan would have returned: an id that was lost
        and let in again comes twice. Workers stay, with what they measured; what runs there is foreign load
        until they report again."""

    # Decisions and questions.
    def step(
        self,
        now_ms: int,
        *,
        bonus_tokens: dict[_RequestId, _Bonus] | None = None,
        eligible: dict[_RequestId, _Flag] | None = None,
    ) -> Plan:
        """Decides a step and accounts for what it admits. `bonus_tokens` has a bonus in tokens per worker, in
        order of `worker_ids`, for those request ids that have any: float32 or float16 of any layout, copied;
        anything else, a list included, is refused by name. Rows are all looked at before the step begins,
        also those of ids that do not wait: one entry per worker, finite, within 2**30. `eligible` has rows of
        bool or uint8 in the same order: which workers may take a request in this step."""

    def explain(self, id: _RequestId) -> Explanation | None:
        """Why the last step, or a placement since, decided as it did; why a waiting request waits."""

    def waiting(self) -> list[tuple[_RequestId, WaitReason]]:
        """Why each request still waits, in order of arrival."""

    def metrics(self) -> Metrics:
        """How it stands."""

    def rank_metrics(self, worker: _WorkerId) -> RankMetrics:
        """One worker as it stands."""

    def generated_tokens(self, id: _RequestId) -> int | None:
        """Tokens that a running request has generated."""

    def prompt_tokens(self, id: _RequestId) -> int | None:
        """Tokens of a running request's prompt."""

    def running_on(self, id: _RequestId) -> _WorkerId | None:
        """The worker that a request runs on."""

    @property
    def worker_ids(self) -> list[_WorkerId]: ...
    @property
    def waiting_len(self) -> int: ...
    @property
    def running_len(self) -> int: ...
    @property
    def policy(self) -> str: ...
    @property
    def backend(self) -> str: ...
    @property
    def explaining(self) -> bool: ...
    @explaining.setter
    def explaining(self, on: bool) -> None: ...
