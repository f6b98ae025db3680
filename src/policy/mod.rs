//! Which request, which slot: the policies, their parameters and the names that choose them.
//!
//! A policy that scores is a [`Rule`]: it draws one [`crate::score::Profile`] per worker and says in which
//! order workers choose. The greedy engine and the oracle ([`crate::reference`]) both run a rule, and agree pick for pick.
//! Adding a policy is one file (or one struct in its family's file) and one line in [`NAMES`].

pub mod balance_route;
pub mod baseline;
#[cfg(feature = "ascend")]
mod device;
pub mod exact;
pub mod fairness;
pub mod level;
pub(crate) mod lookahead;
mod parameter_table;
pub(crate) mod reservation;
pub(crate) mod rollout;
mod rule_policy;

use std::ffi::OsString;
use std::time::Duration;

use thiserror::Error;

pub use self::parameter_table::PARAMETER_NAMES;
use crate::assignment::Assignment;
use crate::backend::ascend::AscendParameters;
#[cfg(feature = "ascend")]
use crate::backend::ascend::launch::{Device, Launch};
use crate::backend::ascend::result::Counters;
use crate::backend::cpu::{Isa, Kernels};
#[cfg(feature = "ascend")]
use crate::backend::offload::Offload;
use crate::backend::{Backend, BackendKind, Chosen};
pub use crate::backend::{Decided, Ticket};
use crate::batch::{Batch, MAX_WAITING, Request, Worker};
use crate::pool::CANDIDATE_WINDOW;
pub use crate::rule::{Order, Overdue, PairCost, PairView, Pin, Plan, ProfileSpec, Repair, Rule, View};

/// What a policy wants to know about running requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Forecast {
    /// Output lengths given tokens generated so far, learned from finished requests.
    Survival,
    /// The same per prompt hash, falling back to survival.
    ExactMatch,
    /// The true lengths: for study only.
    Oracle,
}

/// What a caller must supply for a policy to work as meant; without it the policy falls back to what it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Requests are bound to a rank when they arrive ([`Policy::bind`]).
    pub binds_on_arrival: bool,
    /// Which forecast feeds the projection or the predicted ends.
    pub forecast: Option<Forecast>,
    /// Projected loads over this horizon in steps ([`crate::batch::Projection`]).
    pub projection_horizon: Option<usize>,
    /// Predicted ends this many completions ahead per worker ([`crate::batch::PredictedEnds`]).
    pub ends_per_worker: Option<usize>,
    /// How many of the oldest requests it chooses among ([`crate::Pool::with_window`]); none for [`CANDIDATE_WINDOW`].
    pub candidate_window: Option<usize>,
}

/// A rank as a policy that binds on arrival sees it.
#[derive(Clone, Copy, Debug)]
pub struct Rank {
    /// The worker.
    pub worker: Worker,
    /// Requests bound to it that still wait.
    pub queued_requests: u32,
    /// Prompt tokens of the same.
    pub queued_tokens: u64,
}

/// Decides which waiting request enters which free slot. Deterministic: the same calls give the same answers.
pub trait Policy: Send {
    /// The name that chooses it, as in [`NAMES`].
    fn name(&self) -> &'static str;

    /// What it wants to be given.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Chooses the rank of an arriving request; `None` leaves it in the common pool.
    fn bind(&mut self, _arrival: &Request, _ranks: &[Rank]) -> Option<crate::WorkerIndex> {
        None
    }

    /// Decides a step into `out`, which is cleared first.
    fn decide(&mut self, batch: &Batch<'_>, out: &mut Assignment);

    /// Decides the same step through the oracle: slow, allocates, and defines what [`Policy::decide`] must answer.
    fn decide_by_reference(&mut self, batch: &Batch<'_>, out: &mut Assignment);

    /// Scores every pair as the batch begins, in tokens, row by row in arrival order ([`Backend::score_into`]); false for a policy that has no
    /// scores of pairs.
    fn score_into(&mut self, _batch: &Batch<'_>, _score_tokens: &mut Vec<f64>) -> bool {
        false
    }

    /// Which backend evaluates, on which instruction set, and why.
    fn describe(&self) -> String {
        "no backend: this policy scores no pairs".to_owned()
    }

    /// Hands what a device can do of a decision over to it, and returns: the decision then overlaps whatever the caller does. At most two
    /// batches are under way; what is not handed over is decided when it is collected.
    fn submit(&mut self, _batch: &Batch<'_>) -> Ticket {
        Ticket::default()
    }

    /// Whether [`Policy::collect`] would not wait.
    fn poll(&mut self, _ticket: &Ticket) -> bool {
        true
    }

    /// Decides the batch that was submitted into `out`, as [`Policy::decide`] does, with what the device has made of it. Waits for it at most
    /// `timeout`; the CPU decides where it is late, has failed or answers wrongly, and the answer is the same.
    fn collect(
        &mut self,
        _ticket: Ticket,
        batch: &Batch<'_>,
        _timeout: Duration,
        out: &mut Assignment,
    ) -> Decided {
        self.decide(batch, out);
        Decided::Cpu
    }

    /// Gives a submission up.
    fn discard(&mut self, _ticket: Ticket) {}

    /// Runs of dense columns that were scored so far, and how many of these no lanes could hold exactly: their requests were scored one by one in
    /// 64 bits.
    fn dense_columns(&self) -> (u64, u64) {
        (0, 0)
    }

    /// What the device has done, if there is one.
    fn device_counters(&self) -> Option<Counters> {
        None
    }
}

/// Parameters of every family; each policy reads its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    /// Seeds the policies that draw at random.
    pub seed: u64,
    /// Oldest waiting requests that a decision chooses among, 1..=1048576; default 4096, for every policy.
    pub candidate_window: usize,
    /// The policies of engines in use.
    pub baseline: baseline::BaselineParameters,
    /// `br0`, `brh-survival`, `brh-exactmatch`, `brh-oracle`.
    pub balance_route: balance_route::BalanceRouteParameters,
    /// `exact`, `exact-survival`, `exact-oracle`.
    pub exact: exact::ExactParameters,
    /// `level`, `level-exactmatch`, `level-oracle`, `rollout-oracle`.
    pub level: level::LevelParameters,
    /// The instruction set of the kernels; none for what `BALANCEROUTE_ISA` says, or else the best that the CPU has.
    pub isa: Option<Isa>,
    /// Who evaluates: `auto`, `cpu`, `ascend` or `reference`.
    pub backend: BackendKind,
    /// Where the Ascend runtime and its kernel are, and how long to wait; for the backends `ascend` and `auto`.
    pub ascend: AscendParameters,
    /// Whether the backend `auto` searches columns by length wherever that is possible, also where the matrix is faster; for measurements and tests.
    pub search_by_length: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            seed: 0,
            candidate_window: CANDIDATE_WINDOW,
            baseline: Default::default(),
            balance_route: Default::default(),
            exact: Default::default(),
            level: Default::default(),
            isa: None,
            backend: BackendKind::default(),
            ascend: Default::default(),
            search_by_length: false,
        }
    }
}

impl Parameters {
    /// Checks every range.
    ///
    /// # Errors
    /// The first parameter out of its range.
    pub fn check(&self) -> Result<(), PolicyError> {
        PolicyError::check("candidate_window", self.candidate_window as f64, 1.0, MAX_WAITING as f64)?;
        self.baseline.check()?;
        self.balance_route.check()?;
        self.exact.check()?;
        self.level.check()
    }
}

/// Every policy, by the name that chooses it.
pub const NAMES: &[&str] = &[
    "random",
    "round-robin",
    "power-of-two",
    "jsq",
    "vllm-legacy",
    "vllm-0.33",
    "sglang-total-tokens",
    "least-kv",
    "longest-first",
    "br0",
    "brh-survival",
    "brh-exactmatch",
    "brh-oracle",
    "exact",
    "exact-survival",
    "exact-oracle",
    "level",
    "level-exactmatch",
    "level-oracle",
    "rollout-oracle",
];

/// Builds a policy by name.
///
/// # Errors
/// An unknown name, a parameter out of its range, or an instruction set that this CPU lacks.
pub fn build(name: &str, parameters: &Parameters) -> Result<Box<dyn Policy>, PolicyError> {
    #[cfg(feature = "ascend")]
    return assemble(name, parameters, None);
    #[cfg(not(feature = "ascend"))]
    assemble(name, parameters)
}

/// Builds a policy by name whose scored part runs on a device; [`Parameters::backend`] has no say then.
///
/// # Errors
/// As [`build`].
#[cfg(feature = "ascend")]
pub fn build_on(
    name: &str,
    parameters: &Parameters,
    launcher: Box<dyn Launch>,
) -> Result<Box<dyn Policy>, PolicyError> {
    let parameters = Parameters { backend: BackendKind::Auto, ..parameters.clone() };
    assemble(name, &parameters, Some(launcher))
}

fn assemble(
    name: &str,
    parameters: &Parameters,
    #[cfg(feature = "ascend")] launcher: Option<Box<dyn Launch>>,
) -> Result<Box<dyn Policy>, PolicyError> {
    parameters.check()?;
    let (kernels, why) = kernels(parameters.isa)?;
    #[cfg(not(feature = "ascend"))]
    if parameters.backend == BackendKind::Ascend {
        return Err(PolicyError::Backend { found: "ascend" });
    }
    // Opened for who asks, and once.
    #[cfg(feature = "ascend")]
    let mut launcher = launcher;
    #[cfg(feature = "ascend")]
    let mut opened = || match launcher.take() {
        Some(launcher) => (Some(Device::new(launcher)), None),
        None => device::open(parameters.backend, &parameters.ascend, kernels),
    };
    #[allow(unused_mut, reason = "opens a device where there may be one")]
    let mut backend = || {
        #[cfg(feature = "ascend")]
        let no_device = match opened() {
            (Some(device), _) => return Chosen::Offload(Box::new(Offload::with(device, kernels))),
            (None, reason) => reason,
        };
        #[cfg(not(feature = "ascend"))]
        let no_device = None;
        Chosen::new(parameters.backend, (kernels, why), no_device, parameters.search_by_length)
    };
    let unknown = || PolicyError::Unknown { found: name.to_owned(), expected: NAMES.join(", ") };
    let name = *NAMES.iter().find(|&&known| known == name).ok_or_else(unknown)?;
    let forecast = if name.ends_with("-oracle") {
        Some(Forecast::Oracle)
    } else if name.ends_with("-survival") {
        Some(Forecast::Survival)
    } else if name.ends_with("-exactmatch") {
        Some(Forecast::ExactMatch)
    } else {
        None
    };
    let needs = Needs { forecast, candidate_window: Some(parameters.candidate_window), ..Needs::default() };
    let policy: Box<dyn Policy> = match name {
        "br0" | "brh-survival" | "brh-exactmatch" | "brh-oracle" => {
            let policy = balance_route::BalanceRoute::new(name, &parameters.balance_route, needs, kernels);
            #[cfg(feature = "ascend")]
            let policy = {
                let (device, no_device) = opened();
                policy.on(device, no_device)
            };
            Box::new(policy)
        }
        "exact" | "exact-survival" | "exact-oracle" => {
            let horizon = forecast.map(|_| parameters.exact.horizon_steps);
            let needs = Needs { projection_horizon: horizon, ..needs };
            let rule = exact::Exact::new(parameters.exact, forecast.is_some());
            Box::new(rule_policy::RulePolicy { name, needs, rule, backend: backend() })
        }
        "level" | "level-exactmatch" | "level-oracle" => {
            let ends = forecast.map(|_| parameters.level.ends_per_worker);
            let needs = Needs { ends_per_worker: ends, ..needs };
            let rule = level::Level::new(parameters.level, forecast.is_some());
            Box::new(rule_policy::RulePolicy { name, needs, rule, backend: backend() })
        }
        "rollout-oracle" => {
            let ends = Some(parameters.level.ends_per_worker);
            let needs = Needs { ends_per_worker: ends, ..needs };
            let rule = rollout::Rollout::new(parameters.level);
            Box::new(rule_policy::RulePolicy { name, needs, rule, backend: backend() })
        }
        _ => baseline::build(name, (parameters.baseline, parameters.seed), needs, kernels, backend())
            .ok_or_else(unknown)?,
    };
    Ok(match parameters.backend {
        BackendKind::Reference => Box::new(ByReference(policy)),
        _ => policy,
    })
}

/// A policy whose every decision is the oracle's.
struct ByReference(Box<dyn Policy>);

impl Policy for ByReference {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn needs(&self) -> Needs {
        self.0.needs()
    }

    fn bind(&mut self, arrival: &Request, ranks: &[Rank]) -> Option<crate::WorkerIndex> {
        self.0.bind(arrival, ranks)
    }

    fn decide(&mut self, batch: &Batch<'_>, out: &mut Assignment) {
        self.0.decide_by_reference(batch, out);
    }

    fn decide_by_reference(&mut self, batch: &Batch<'_>, out: &mut Assignment) {
        self.0.decide_by_reference(batch, out);
    }

    fn score_into(&mut self, batch: &Batch<'_>, score_tokens: &mut Vec<f64>) -> bool {
        self.0.score_into(batch, score_tokens)
    }

    fn describe(&self) -> String {
        crate::backend::Reference.describe()
    }
}

/// The kernels of an instruction set, of the one that the environment names, or of the best; and which of these.
fn kernels(isa: Option<Isa>) -> Result<(&'static Kernels, &'static str), PolicyError> {
    kernels_of(isa, std::env::var_os("BALANCEROUTE_ISA"))
}

fn kernels_of(
    isa: Option<Isa>,
    from_environment: Option<OsString>,
) -> Result<(&'static Kernels, &'static str), PolicyError> {
    let named = |isa: Isa| Kernels::of(isa).ok_or(PolicyError::Isa { found: isa.name().to_owned() });
    if let Some(isa) = isa {
        return Ok((named(isa)?, "asked for"));
    }
    let name = from_environment.unwrap_or_default();
    let name = name.to_string_lossy();
    // An empty variable is an unset one.
    if name.trim().is_empty() {
        return Ok((Kernels::best(), "the best of this CPU"));
    }
    let isa = Isa::from_name(name.trim()).ok_or_else(|| PolicyError::Isa { found: name.into_owned() })?;
    Ok((named(isa)?, "BALANCEROUTE_ISA"))
}

/// A policy name that does not exist, parameters out of range, or an instruction set that is not there.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum PolicyError {
    /// No such name.
    #[error("unknown policy {found:?}; expected one of {expected}")]
    Unknown {
        /// The name asked for.
        found: String,
        /// All names.
        expected: String,
    },
    /// A parameter out of its range.
    #[error("policy parameter {name}: must be in {low}..={high}, found {found}")]
    Parameter {
        /// Field name.
        name: &'static str,
        /// Least value.
        low: f64,
        /// Greatest value.
        high: f64,
        /// Value found.
        found: f64,
    },
    /// No such parameter.
    #[error("unknown policy parameter {found:?}; expected one of {expected}")]
    ParameterName {
        /// The name asked for.
        found: String,
        /// All names.
        expected: String,
    },
    /// A fraction where a whole number belongs.
    #[error("policy parameter {name}: must be a whole number, found {found}")]
    Whole {
        /// Field name.
        name: &'static str,
        /// Value found.
        found: f64,
    },
    /// A backend that this build has not.
    #[error("backend {found:?}: this build lacks the feature of that name")]
    Backend {
        /// The backend asked for.
        found: &'static str,
    },
    /// An instruction set that has no name here, or that this CPU lacks.
    #[error("instruction set {found:?}: expected scalar, avx2, avx512 or neon, and one that this CPU has")]
    Isa {
        /// The name asked for.
        found: String,
    },
}

impl PolicyError {
    /// Refuses a value outside `low..=high` (and NaN).
    pub(crate) fn check(name: &'static str, found: f64, low: f64, high: f64) -> Result<(), Self> {
        if (low..=high).contains(&found) { Ok(()) } else { Err(Self::Parameter { name, low, high, found }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_is_an_unset_one() {
        let of = |value: Option<&str>| kernels_of(None, value.map(OsString::from)).map(|(_, why)| why);
        let unset = of(None);
        assert!(unset.is_ok());
        assert_eq!(of(Some("")), unset);
        assert_eq!(of(Some(" \t")), unset);
        assert_eq!(of(Some("scalar")), Ok("BALANCEROUTE_ISA"));
        assert_eq!(of(Some("mmx")), Err(PolicyError::Isa { found: "mmx".to_owned() }));
    }
}
