//! What a router is told once: the workers, how it looks ahead, when it decides, and which part of the
//! cluster is its own.

use std::fmt;
use std::str::FromStr;

use crate::account::{PreemptionCost, Share, WorkerConfig};
use crate::batch::{BatchError, MAX_WORKERS};
use crate::names::UnknownName;
use crate::router::RouterError;

/// When [`super::Router::place`] decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Mode {
    /// Every request waits for the next step: the best balance, since the step chooses among all who wait.
    #[default]
    Step,
    /// An arriving request goes at once to the worker with the greatest F-score (ties to the least load, then
    /// the lowest index) that has a free slot and room; it waits for a step only when there is none.
    Arrival,
    /// On arrival while more than `free_slots` slots are open over all workers, per step otherwise: the
    /// published bypass.
    Mixed {
        /// Open slots of this router, over all workers, above which a request does not wait for a step.
        free_slots: u32,
    },
}

impl Mode {
    /// How it is written.
    pub const NAMES: [&'static str; 3] = ["step", "arrival", "mixed:FREE_SLOTS"];
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step => f.pad("step"),
            Self::Arrival => f.pad("arrival"),
            Self::Mixed { free_slots } => write!(f, "mixed:{free_slots}"),
        }
    }
}

impl FromStr for Mode {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        let mixed = || name.strip_prefix("mixed:")?.parse().ok();
        match name {
            "step" => Ok(Self::Step),
            "arrival" => Ok(Self::Arrival),
            _ => match mixed() {
                Some(free_slots) => Ok(Self::Mixed { free_slots }),
                None => Err(UnknownName { kind: "mode", found: name.to_owned(), expected: &Self::NAMES }),
            },
        }
    }
}

/// The workers of a cluster, how a router looks ahead and what it does about silence.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
#[non_exhaustive]
pub struct RouterConfig {
    /// The workers; their ids are their positions here. None is fine: workers may join.
    pub workers: Vec<WorkerConfig>,
    /// Steps of growth that an admission leaves free for each running request and for itself, where the KV
    /// cache is bounded. None: as much room as those who run there are likely to need before the next of them
    /// ends, learned from how requests end, and at most 6 % of the cache. No fixed number serves all traffic.
    pub headroom_steps: Option<u32>,
    /// What room and preemptions cost, where no [`RouterConfig::headroom_steps`] are set. None: an admission
    /// leads to a preemption in one of fifty cases.
    pub preemption_cost: Option<PreemptionCost>,
    /// Steps between two predictions for the same running request, 1..=65536.
    pub refresh_steps: u32,
    /// How far ahead predicted ends are kept for policies that level peaks, in steps.
    pub ends_horizon_steps: u32,
    /// When [`super::Router::place`] decides.
    pub mode: Mode,
    /// The share that no class above can take ([`Request::priority`](crate::Request::priority)): for each
    /// `lower_class_one_in - 1` admissions of higher classes while somebody of a class waits, one is that
    /// class's before any of a higher one, 2..=65536. Steps count what they have admitted as they end, so a
    /// class gets its turn with the next; turns that it cannot use, for nobody of it fits, are not saved up
    /// but for one. None: a lower class gets what higher ones leave, and may wait for ever.
    pub lower_class_one_in: Option<u32>,
    /// Which part of every worker this router is sure of.
    pub share: Share,
    /// Whether requests reach a worker in the order of their dispatch: a token of one then shows that the
    /// worker has those sent before it.
    pub in_order: bool,
    /// A dispatch is lost, and returned, when a report that comes at least this long after it still has not
    /// seen it. None: never, for callers that hand requests over in process. Longer than a report may be
    /// late.
    pub dispatch_timeout_ms: Option<u64>,
    /// A dispatch is returned when nothing at all, neither report nor progress, has shown it for this long.
    /// None: silence is no evidence.
    pub silence_timeout_ms: Option<u64>,
    /// A request that has waited this long is returned by the next step. None: it waits on.
    pub expire_after_ms: Option<u64>,
}

impl RouterConfig {
    /// Uniform workers without a KV bound; predictions refreshed every 16 steps, ends kept 512 steps ahead,
    /// room for growth as it is learned where a bound is set. Decides per step, owns the whole cluster, loses
    /// nothing and lets nobody expire.
    #[must_use]
    pub fn new(workers: usize, slots: u32) -> Self {
        Self::uniform(workers, WorkerConfig::new(slots))
    }

    /// So many of the given worker; everything else as [`RouterConfig::new`] says.
    #[must_use]
    pub fn uniform(workers: usize, worker: WorkerConfig) -> Self {
        Self {
            workers: vec![worker; workers],
            headroom_steps: None,
            preemption_cost: None,
            refresh_steps: 16,
            ends_horizon_steps: 512,
            mode: Mode::Step,
            lower_class_one_in: None,
            share: Share::WHOLE,
            in_order: false,
            dispatch_timeout_ms: None,
            silence_timeout_ms: None,
            expire_after_ms: None,
        }
    }

    /// Sets the workers, each for itself.
    #[must_use]
    pub fn workers(self, workers: impl Into<Vec<WorkerConfig>>) -> Self {
        Self { workers: workers.into(), ..self }
    }

    /// Sets the steps of growth that an admission leaves free where the KV cache is bounded; `None` leaves as
    /// much as is learned to be needed.
    #[must_use]
    pub fn headroom_steps(self, headroom_steps: impl Into<Option<u32>>) -> Self {
        Self { headroom_steps: headroom_steps.into(), ..self }
    }

    /// Sets what room and preemptions cost.
    #[must_use]
    pub fn preemption_cost(self, preemption_cost: impl Into<Option<PreemptionCost>>) -> Self {
        Self { preemption_cost: preemption_cost.into(), ..self }
    }

    /// Sets the steps between two predictions for one running request.
    #[must_use]
    pub fn refresh_steps(self, refresh_steps: u32) -> Self {
        Self { refresh_steps, ..self }
    }

    /// Sets how far ahead predicted ends are kept.
    #[must_use]
    pub fn ends_horizon_steps(self, ends_horizon_steps: u32) -> Self {
        Self { ends_horizon_steps, ..self }
    }

    /// Sets when [`Router::place`](crate::Router::place) decides.
    #[must_use]
    pub fn mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    /// Sets which admissions no class above can take: one in so many.
    #[must_use]
    pub fn lower_class_one_in(self, lower_class_one_in: impl Into<Option<u32>>) -> Self {
        Self { lower_class_one_in: lower_class_one_in.into(), ..self }
    }

    /// Sets which part of every worker this router is sure of.
    #[must_use]
    pub fn share(self, share: Share) -> Self {
        Self { share, ..self }
    }

    /// Sets whether requests reach a worker in the order of their dispatch.
    #[must_use]
    pub fn in_order(self, in_order: bool) -> Self {
        Self { in_order, ..self }
    }

    /// Sets after how long a dispatch that a report has not seen is lost.
    #[must_use]
    pub fn dispatch_timeout_ms(self, dispatch_timeout_ms: impl Into<Option<u64>>) -> Self {
        Self { dispatch_timeout_ms: dispatch_timeout_ms.into(), ..self }
    }

    /// Sets after how long a dispatch that nothing has shown is returned.
    #[must_use]
    pub fn silence_timeout_ms(self, silence_timeout_ms: impl Into<Option<u64>>) -> Self {
        Self { silence_timeout_ms: silence_timeout_ms.into(), ..self }
    }

    /// Sets after how long a request that waits is returned.
    #[must_use]
    pub fn expire_after_ms(self, expire_after_ms: impl Into<Option<u64>>) -> Self {
        Self { expire_after_ms: expire_after_ms.into(), ..self }
    }

    /// Greatest [`RouterConfig::refresh_steps`], and [`RouterConfig::lower_class_one_in`].
    const MOST_REFRESH_STEPS: u32 = 1 << 16;

    pub(super) fn check(&self) -> Result<(), RouterError> {
        if self.workers.len() > MAX_WORKERS {
            return Err(BatchError::TooManyWorkers { limit: MAX_WORKERS, found: self.workers.len() }.into());
        }
        for (index, worker) in self.workers.iter().enumerate() {
            worker.check(index)?;
        }
        check_share(self.share)?;
        if let Some(PreemptionCost { step_base_ms, prefill_us_per_token }) = self.preemption_cost {
            for (name, found) in
                [("step_base_ms", step_base_ms), ("prefill_us_per_token", prefill_us_per_token)]
            {
                if !(0.0..=PreemptionCost::MOST).contains(&found) {
                    return Err(RouterError::Cost { name, limit: PreemptionCost::MOST, found });
                }
            }
        }
        let high = Self::MOST_REFRESH_STEPS;
        for (name, low, found) in [
            ("refresh_steps", 1, self.refresh_steps),
            ("lower_class_one_in", 2, self.lower_class_one_in.unwrap_or(high)),
        ] {
            if !(low..=high).contains(&found) {
                return Err(RouterError::Config { name, low, high, found });
            }
        }
        Ok(())
    }
}

pub(super) fn check_share(Share { index, of }: Share) -> Result<(), RouterError> {
    if of == 0 || of > Share::MOST || index >= of {
        return Err(RouterError::Share { index, of, limit: Share::MOST });
    }
    Ok(())
}

impl Default for RouterConfig {
    /// No workers yet; everything else as [`RouterConfig::new`] says.
    fn default() -> Self {
        Self::new(0, 0)
    }
}
