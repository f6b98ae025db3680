//! Which request, which slot: the policies, their parameters and the names that choose them.
//!
//! A policy that scores is a [`Rule`]: it draws one [`Profile`] per worker and says in which
//! order workers choose. The greedy engine and the oracle ([`crate::reference`]) both run a rule, and agree pick for pick.
//! Adding a policy is one file (or one struct in its family's file) and one line in [`NAMES`].

pub mod balance_route;
pub mod baseline;
pub(crate) mod column;
pub mod exact;
pub mod fairness;
pub(crate) mod greedy;
pub mod level;
pub(crate) mod loads;
mod named;
pub(crate) mod reservation;
pub(crate) mod rollout;

use std::time::Duration;

use thiserror::Error;

pub use self::named::PARAMETER_NAMES;
use crate::assignment::{Assignment, WaitReason};
use crate::backend::ascend::AscendParameters;
use crate::backend::ascend::result::{Counters, DeviceError};
#[cfg(feature = "ascend")]
use crate::backend::ascend::{
    self,
    offload::{Device, Launch, Offload},
};
use crate::backend::cpu::{Isa, Kernels, Tier};
use crate::backend::{Backend, BackendKind, Chosen};
use crate::batch::{Batch, Request, Worker};
use crate::pool::PoolSlot;
use crate::score::{Age, Profile, Unit};

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
    fn bind(&mut self, _arrival: &Request, _ranks: &[Rank]) -> Option<u32> {
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

    /// Profiles that dense columns were scored by so far, and how many of these no lanes could hold exactly: their requests were scored one by one
    /// in 64 bits.
    fn dense_columns(&self) -> (u64, u64) {
        (0, 0)
    }

    /// What the device has done, if there is one.
    fn device_counters(&self) -> Option<Counters> {
        None
    }
}

/// A batch that was submitted: to be collected or discarded by the policy that returned it.
#[derive(Debug, Default)]
#[must_use = "a submission is collected or discarded"]
pub struct Ticket {
    /// Zero where nothing was handed over.
    #[cfg_attr(not(feature = "ascend"), expect(dead_code, reason = "no device in this build"))]
    pub(crate) serial: u64,
    /// Why nothing was.
    #[cfg_attr(not(feature = "ascend"), expect(dead_code, reason = "no device in this build"))]
    pub(crate) refused: Option<DeviceError>,
}

/// Who made the picks of a collected decision.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decided {
    /// The CPU, as it should.
    Cpu,
    /// The device.
    Device,
    /// The CPU, because the device could not.
    InsteadOfDevice(DeviceError),
}

/// In which order workers choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The best score of the whole matrix. A profile may then depend on the worker's own load and row and on the envelopes only: it is
    /// drawn again when these change.
    Matrix,
    /// The least-loaded open worker takes its best request.
    LeastLoaded,
}

/// How the picks of a step are improved together once all are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repair {
    /// Passes over all picks, at most; zero for none.
    pub rounds: u32,
    /// A pick is left as it is while the peak of its profile has moved by at most this many tokens since it was chosen. None looks at every
    /// pick again.
    pub tolerance_tokens: Option<i64>,
    /// What exchanges of two picks on two workers lower; none where picks stay on their workers.
    pub swap: Option<PairCost>,
}

/// What a pair of workers costs, given their anticipated loads `L`; an exchange of picks must lower it. Data, not code, so that the
/// engine can rule out most pairs at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairCost {
    /// The envelope: the greatest load of all.
    Envelope,
    /// The sum over both of `|G * L - sum of all + offset| + overflow_weight * max(0, L - greatest load outside the pair)`.
    Level {
        /// How far below the common level each worker is wanted, times `G`.
        offset: i64,
        /// Cost of a token above everybody else.
        overflow_weight: i64,
    },
}

impl PairCost {
    /// The cost of the pair when its loads are `first` and `second`.
    #[must_use]
    pub fn of(&self, pair: &PairView, first: i64, second: i64) -> i64 {
        match *self {
            Self::Envelope => first.max(second).max(pair.rest_max.unwrap_or(first)),
            Self::Level { offset, overflow_weight } => {
                let cost = |load: i64| {
                    (pair.workers * load - pair.sum + offset).abs()
                        + overflow_weight * pair.rest_max.map_or(0, |rest| (load - rest).max(0))
                };
                cost(first) + cost(second)
            }
        }
    }
}

/// When a request has waited too long.
///
/// Two bounds, for one request in a thousand may be so long that wherever it goes the whole cluster waits for it: those
/// are given longer to find a worker that has run low.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overdue {
    /// Steps for requests of ordinary length; none for no bound.
    pub steps: Option<u32>,
    /// Longest ordinary length in tokens.
    pub ordinary_tokens: i64,
    /// Steps for longer requests.
    pub giant_steps: Option<u32>,
}

impl Overdue {
    /// Whether a request that has waited this long goes first, by this bound or by its own deadline.
    #[must_use]
    pub fn is_due(&self, request: &Request, waited_steps: u32) -> bool {
        let ordinary = i64::from(request.prompt_tokens) <= self.ordinary_tokens;
        let steps = if ordinary { self.steps } else { self.giant_steps };
        steps.into_iter().chain(request.deadline_steps).any(|steps| waited_steps >= steps)
    }

    /// Whether any request could be due when the longest wait is this.
    pub(crate) fn may_be_due(&self, longest_wait_steps: u32) -> bool {
        self.steps.into_iter().chain(self.giant_steps).any(|steps| longest_wait_steps >= steps)
    }
}

/// How a greedy assignment runs for one batch: what a [`Rule`] decides before the first pick.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// In which order workers choose.
    pub order: Order,
    /// Whether, on a uniform cluster, no score falls as the worker's load falls: the best pair is then on the least-loaded worker.
    pub nested: bool,
    /// Score units per token.
    pub unit: Unit,
    /// What waiting adds.
    pub age: Age,
    /// Requests that have waited too long go first, oldest first, to the least-loaded worker.
    pub overdue: Overdue,
    /// Tokens that a free slot is expected to receive: counted in anticipated loads.
    pub refill_tokens: i64,
    /// A floor of the envelope in cost units (the anticipated envelope of a burst).
    pub envelope_floor: i64,
    /// Whether profiles are drawn from the envelope: [`View::envelope`] follows the admissions only then.
    pub follows_envelope: bool,
    /// Place the longest first onto the least loaded: everybody who waits will fit.
    pub longest_first: bool,
    /// The joint improvement of the picks.
    pub repair: Repair,
    /// What a request is told that could still be placed.
    pub passed_over: Option<WaitReason>,
}

/// The loads around one worker, as the admissions of this step have left them. Cost units are tokens times the worker's cost per token.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Number of workers, `G`.
    pub workers: i64,
    /// This worker.
    pub worker: usize,
    /// Its load in cost units.
    pub cost: i64,
    /// Cost units of one token on it.
    pub cost_per_token: i64,
    /// Slots of it that are still open.
    pub open_slots: i64,
    /// The envelope: the greatest load, at least the plan's floor.
    pub envelope: i64,
    /// Its anticipated load: load + lift + open slots * refill.
    pub anticipated: i64,
    /// Sum of the anticipated loads of all others.
    pub others_sum: i64,
    /// Greatest anticipated load of all others; its own if there are none.
    pub others_max: i64,
    /// Its projected loads in cost units, `H + 1` entries; empty without a projection.
    pub row: &'a [i64],
    /// The envelope at each of those steps.
    pub envelope_row: &'a [i64],
}

/// A pair of workers whose picks might be exchanged.
#[derive(Clone, Copy, Debug)]
pub struct PairView {
    /// Number of workers, `G`.
    pub workers: i64,
    /// Sum of all anticipated loads.
    pub sum: i64,
    /// Greatest anticipated load outside the pair, if there is anybody.
    pub rest_max: Option<i64>,
}

/// A request that enters a given worker before all others, if it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The waiting request.
    pub slot: PoolSlot,
    /// The worker.
    pub worker: usize,
}

/// How a rule's profiles follow from the loads, as data: a device that knows it goes on after an admission without the host. Weights and
/// slopes count per cost unit.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Drawer<'a> {
    /// `slope * s - weight * max(0, s - (envelope - load))`.
    Margin {
        /// Score units per cost unit of length.
        slope: i64,
        /// Score units lost per cost unit past the margin.
        weight: i64,
    },
    /// The same summed over projected steps: `alpha * d_h` and `beta * d_h` with the margin of step `h`, each rounded to the nearest.
    Lookahead {
        /// Discount of each step.
        discounts: &'a [i64],
        /// Worth of a token that fits.
        alpha: f64,
        /// Price of a token past the margin.
        beta: f64,
        /// Whether a request's survival class scales the discounts.
        by_class: bool,
    },
    /// Level refill: `-|s - t| - (G - 1) * max(0, s - (greatest load of the others - own))`.
    Level {
        /// Tokens by which a completion must lower its worker.
        drop_tokens: i64,
    },
}

/// A greedy rule: what a profile is made of.
pub trait Rule {
    /// Looks at the batch once and fixes the plan. `lift` has one entry per worker, zero: cost units to add to its anticipated load.
    fn begin(&mut self, batch: &Batch<'_>, lift: &mut [i64]) -> Plan;

    /// Draws the profile of one worker into `profile`, which is empty, for requests of the given survival class.
    fn draw(&self, view: &View<'_>, class: Option<&[f32]>, profile: &mut Profile);

    /// By how many score units any score rises at most when an envelope rises by one cost unit: first the envelope of today, then one
    /// weight for each of `steps` projected ones. False when the rule cannot tell: every worker is then looked at again.
    fn envelope_weights(&self, _workers: i64, _steps: usize, _weights: &mut Vec<i64>) -> bool {
        false
    }

    /// What [`Rule::draw`] draws for a batch after [`Rule::begin`], as data; none where only the rule can say.
    fn drawer(&self, _batch: &Batch<'_>) -> Option<Drawer<'_>> {
        None
    }

    /// Requests that enter a worker that was kept for them, after [`Rule::begin`].
    fn pins(&self) -> &[Pin] {
        &[]
    }

    /// How many of a column's best requests [`Rule::judge`] chooses among; one for none.
    fn candidates(&self) -> usize {
        1
    }

    /// Chooses among a column's best requests, given by length, best score first: an index into `tokens`.
    /// `costs` and `open_slots` are each worker's load and open slots as things stand.
    fn judge(
        &mut self,
        _batch: &Batch<'_>,
        _costs: &[i64],
        _open_slots: &[i64],
        _worker: usize,
        _tokens: &[i64],
    ) -> usize {
        0
    }
}

/// Parameters of every family; each policy reads its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameters {
    /// Seeds the policies that draw at random.
    pub seed: u64,
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
    /// The only lanes that dense columns of the `cpu` backend may use, for tests; none for the fastest exact ones.
    pub lanes: Option<Tier>,
}

impl Parameters {
    /// Checks every range.
    ///
    /// # Errors
    /// The first parameter out of its range.
    pub fn check(&self) -> Result<(), PolicyError> {
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
    let mut device = || match launcher.take() {
        Some(launcher) => (Some(Device::new(launcher)), None),
        None => ascend::for_policy(parameters, kernels),
    };
    #[allow(unused_mut, reason = "opens a device where there may be one")]
    let mut backend = || {
        #[cfg(feature = "ascend")]
        let no_device = match device() {
            (Some(device), _) => return Chosen::Offload(Box::new(Offload::with(device, kernels))),
            (None, reason) => reason,
        };
        #[cfg(not(feature = "ascend"))]
        let no_device = None;
        Chosen::new(parameters.backend, (kernels, why), no_device, parameters.lanes)
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
    let policy: Box<dyn Policy> = match name {
        "br0" | "brh-survival" | "brh-exactmatch" | "brh-oracle" => {
            let policy = balance_route::BalanceRoute::new(name, &parameters.balance_route, forecast, kernels);
            #[cfg(feature = "ascend")]
            let policy = {
                let (device, no_device) = device();
                policy.on(device, no_device)
            };
            Box::new(policy)
        }
        "exact" | "exact-survival" | "exact-oracle" => {
            let horizon = forecast.map(|_| parameters.exact.horizon_steps);
            let needs = Needs { forecast, projection_horizon: horizon, ..Needs::default() };
            let rule = exact::Exact::new(parameters.exact, forecast.is_some());
            Box::new(greedy::RulePolicy { name, needs, rule, backend: backend() })
        }
        "level" | "level-exactmatch" | "level-oracle" => {
            let ends = forecast.map(|_| parameters.level.ends_per_worker);
            let needs = Needs { forecast, ends_per_worker: ends, ..Needs::default() };
            let rule = level::Level::new(parameters.level, forecast.is_some());
            Box::new(greedy::RulePolicy { name, needs, rule, backend: backend() })
        }
        "rollout-oracle" => {
            let ends = Some(parameters.level.ends_per_worker);
            let needs = Needs { forecast, ends_per_worker: ends, ..Needs::default() };
            let rule = rollout::Rollout::new(parameters.level);
            Box::new(greedy::RulePolicy { name, needs, rule, backend: backend() })
        }
        _ => baseline::build(name, parameters.baseline, parameters.seed, kernels, backend())
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

    fn bind(&mut self, arrival: &Request, ranks: &[Rank]) -> Option<u32> {
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
    let named = |isa: Isa| Kernels::of(isa).ok_or(PolicyError::Isa { found: isa.name().to_owned() });
    if let Some(isa) = isa {
        return Ok((named(isa)?, "asked for"));
    }
    match std::env::var_os("BALANCEROUTE_ISA") {
        None => Ok((Kernels::best(), "the best of this CPU")),
        Some(name) => {
            let name = name.to_string_lossy();
            let isa = Isa::from_name(&name).ok_or_else(|| PolicyError::Isa { found: name.into_owned() })?;
            Ok((named(isa)?, "BALANCEROUTE_ISA"))
        }
    }
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
