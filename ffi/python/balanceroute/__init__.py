"""Which waiting request enters which free slot, for lock-step LLM decode workers.

`Router` keeps the state across steps for an engine; `assign` (or an `Assigner`, which is used again) decides
one step for a caller that keeps its own. `python -m balanceroute` says what runs here and tests it;
`balanceroute.prometheus` makes text of a router's metrics.
"""

from ._errors import (
    ArgumentError,
    BalanceRouteError,
    BatchError,
    PanicError,
    PolicyError,
    RouterError,
    UnknownRequestError,
    UnknownWorkerError,
)
from ._native import (
    PARAMETERS,
    POLICIES,
    Assigner,
    Assignment,
    Balance,
    Dispatch,
    Explanation,
    Finished,
    Histogram,
    Metrics,
    Plan,
    Preempted,
    RankMetrics,
    ReportCounts,
    Returned,
    Router,
    RunnerUp,
    Traffic,
    WorkerConfig,
    __version__,
    assign,
    isas,
)
from ._reasons import WaitReason

__all__ = [
    "PARAMETERS",
    "POLICIES",
    "ArgumentError",
    "Assigner",
    "Assignment",
    "Balance",
    "BalanceRouteError",
    "BatchError",
    "Dispatch",
    "Explanation",
    "Finished",
    "Histogram",
    "Metrics",
    "PanicError",
    "Plan",
    "Preempted",
    "PolicyError",
    "RankMetrics",
    "ReportCounts",
    "Returned",
    "Router",
    "RouterError",
    "RunnerUp",
    "Traffic",
    "UnknownRequestError",
    "UnknownWorkerError",
    "WaitReason",
    "WorkerConfig",
    "__version__",
    "assign",
    "isas",
]
