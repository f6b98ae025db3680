//! Which request, which slot: the policies, their parameters and the names that choose them.
//!
//! A policy that scores is a [`Rule`]: it makes one [`crate::score::Profile`] per worker and says in which
//! order workers choose. The greedy engine and the oracle ([`crate::reference`]) both run a rule, and agree
//! pick for pick.
//!
//! Adding a policy is one file and one line of the table below; parameters of its own are a struct in that
//! file, a field of [`Parameters`] and a line each in `parameter_table`. A rule of another crate needs none
//! of this: [`from_rule`] runs it on the engine.

pub mod arrival;
mod backends;
pub mod balance_route;
pub mod baseline;
#[cfg(feature = "ascend")]
mod device;
mod error;
pub mod exact;
pub mod level;
pub(crate) mod lookahead;
pub mod overtaking;
mod parameter_table;
mod parameters;
pub(crate) mod pool_terms;
pub(crate) mod rollout;
mod rule_policy;
mod submissions;

use self::balance_route as br;
pub use self::error::PolicyError;
pub use self::parameter_table::PARAMETER_NAMES;
pub use self::parameters::Parameters;
#[doc(hidden)]
pub use self::parameters::Testing;
use self::rule_policy::RulePolicy;
pub use self::submissions::{Decided, Submissions, Ticket};
use crate::assignment::Assignment;
use crate::backend::Chosen;
#[cfg(feature = "ascend")]
use crate::backend::{BackendKind, ascend::launch::Launch};
use crate::batch::{Batch, MAX_HORIZON, MAX_WAITING, Request, Worker};
pub use crate::rule::{
    Forecast, MAX_SUBSET_WINDOW, Needs, Order, PairCost, PairView, Pin, Plan, ProfileSpec, Repair, Rule,
    SubsetStage, View,
};

/// Most predicted ends of a worker that a policy asks for.
const MAX_ENDS_PER_WORKER: usize = 64;

/// A policy of the table.
struct Entry {
    name: &'static str,
    forecast: Option<Forecast>,
    build: fn(Recipe<'_>) -> Box<dyn Policy>,
}

macro_rules! policies {
    ($($name:literal, $forecast:expr, $build:path, $about:literal;)*) => {
        const TABLE: &[Entry] = &[$(Entry { name: $name, forecast: $forecast, build: $build }),*];

        /// Every policy, by the name that chooses it:
        ///
        $(#[doc = concat!("* `", $name, "`: ", $about)])*
        pub const NAMES: &[&str] = &[$($name),*];
    };
}

policies! {
    "random", None, baseline::random, "bound on arrival to a rank drawn at random";
    "round-robin", None, baseline::round_robin, "bound on arrival to the next rank in turn";
    "power-of-two", None, baseline::power_of_two, "bound on arrival to the lighter of two ranks";
    "jsq", None, baseline::jsq, "bound on arrival to the rank with fewest requests";
    "vllm-legacy", None, baseline::vllm_legacy, "bound on arrival as vLLM did before 0.33";
    "vllm-0.33", None, baseline::vllm_0_33, "bound on arrival as vLLM 0.33 does";
    "sglang-total-tokens", None, baseline::sglang_total_tokens, "bound on arrival as SGLang does";
    "least-kv", None, baseline::least_kv, "the least-loaded worker takes the earliest request";
    "longest-first", None, baseline::longest_first, "the batch router of TensorRT-LLM";
    "br0", None, br::build, "BalanceRoute as published, without predictions";
    "brh-survival", Some(Forecast::Survival), br::build, "`br0` that looks ahead by survival estimates";
    "brh-exactmatch", Some(Forecast::ExactMatch), br::build, "`br0` that looks ahead by equal prompts";
    "brh-oracle", Some(Forecast::Oracle), br::build, "`br0` that looks ahead with true lengths, for study";
    "exact", None, exact::build, "the greatest F of all pairs, again and again";
    "exact-survival", Some(Forecast::Survival), exact::build, "`exact` with survival estimates";
    "exact-oracle", Some(Forecast::Oracle), exact::build, "`exact` with true lengths, for study";
    "level", None, level::build, "each completion lowers its worker by the mean output: the rule of our own";
    "level-exactmatch", Some(Forecast::ExactMatch), level::build, "`level` with the ends of equal prompts";
    "level-oracle", Some(Forecast::Oracle), level::build, "`level` with true lengths, for study";
    "rollout-oracle", Some(Forecast::Oracle), rollout::build, "`level-oracle` that plays its best ahead";
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

/// Decides which waiting request enters which free slot. Deterministic: equal calls give equal answers.
///
/// Most policies are a [`Rule`] and need no implementation of this ([`from_rule`]).
pub trait Policy: Send {
    /// The name that chooses it, as in [`NAMES`].
    fn name(&self) -> &'static str;

    /// What it wants to be given.
    fn needs(&self) -> Needs;

    /// Decides a step into `out`, which is cleared first.
    fn decide(&mut self, batch: &Batch<'_>, out: &mut Assignment);

    /// Chooses the rank of an arriving request; `None` leaves it in the common pool.
    fn bind(&mut self, _arrival: &Request, _ranks: &[Rank]) -> Option<crate::WorkerIndex> {
        None
    }

    /// The rule that it is made of, for the oracle to run.
    fn rule(&mut self) -> Option<&mut dyn Rule> {
        None
    }

    /// Decides a step through the oracle: slow, allocates, and defines what [`Policy::decide`] must answer.
    ///
    /// # Errors
    /// [`PolicyError::NoRule`] where the policy is made of none: nothing but itself says then what is right.
    fn decide_by_reference(&mut self, batch: &Batch<'_>, out: &mut Assignment) -> Result<(), PolicyError> {
        let policy = self.name();
        let rule = self.rule().ok_or(PolicyError::NoRule { policy })?;
        crate::reference::assign(rule, batch, out);
        Ok(())
    }

    /// Scores every pair as the batch begins, in tokens, row by row in arrival order
    /// ([`crate::backend::Backend::score_into`]); false for a policy that has no scores of pairs.
    fn score_into(&mut self, _batch: &Batch<'_>, _score_tokens: &mut Vec<f64>) -> bool {
        false
    }

    /// Which backend evaluates, on which instruction set, and why.
    fn describe(&self) -> String {
        "no backend: this policy scores no pairs".to_owned()
    }

    /// The device that may make its decisions, if there is one.
    fn device(&mut self) -> Option<&mut dyn Submissions> {
        None
    }

    /// What [`build`] has built it from, by its name; none for a policy of the caller's.
    #[cfg(feature = "record")]
    fn built_from(&self) -> Option<&Parameters> {
        None
    }

    /// What it remembers from call to call, for [`Policy::recall`] of the same policy elsewhere; nothing for
    /// one that decides by the batch alone.
    #[cfg(feature = "record")]
    fn memory(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Goes on from what another one remembered; false for bytes that are none of its [`Policy::memory`].
    #[cfg(feature = "record")]
    #[must_use]
    fn recall(&mut self, memory: &[u8]) -> bool {
        memory.is_empty()
    }

    /// Runs of dense columns that were scored so far, and how many of these no lanes could hold exactly:
    /// their requests were scored one by one in 64 bits. For tests.
    #[doc(hidden)]
    fn dense_columns(&self) -> (u64, u64) {
        (0, 0)
    }
}

/// What a policy is built from.
pub(crate) struct Recipe<'a> {
    pub name: &'static str,
    pub forecast: Option<Forecast>,
    pub parameters: &'a Parameters,
    backend: Chosen,
}

impl Recipe<'_> {
    /// The policy of a rule.
    pub(crate) fn policy<R: Rule + Send>(self, rule: R) -> RulePolicy<R> {
        let needs = rule.needs();
        let window = needs.candidate_window.unwrap_or(self.parameters.candidate_window);
        let needs = needs.candidate_window(Some(window));
        RulePolicy {
            name: self.name,
            needs,
            rule,
            backend: self.backend,
            #[cfg(feature = "record")]
            built_from: Some(Box::new(self.parameters.clone())),
        }
    }
}

/// Builds a policy by name.
///
/// # Errors
/// An unknown name, a parameter out of its range, or an instruction set that this CPU lacks.
pub fn build(name: &str, parameters: &Parameters) -> Result<Box<dyn Policy>, PolicyError> {
    assemble(name, parameters, None)
}

/// Builds a policy by name whose scored part runs on a device;
/// [`Parameters::backend`](field@Parameters::backend) has no say then.
///
/// # Errors
/// As [`build`].
#[cfg(feature = "ascend")]
pub fn build_on(
    name: &str,
    parameters: &Parameters,
    launcher: Box<dyn Launch>,
) -> Result<Box<dyn Policy>, PolicyError> {
    assemble(name, &parameters.clone().backend(BackendKind::Auto), Some(launcher))
}

/// Makes a policy of a rule, under a name of the caller's, that runs on the backend of these parameters: on
/// the engine that runs the policies of this crate.
///
/// ```
/// use balanceroute::policy::{self, Parameters, Plan, Rule, View};
/// use balanceroute::score::Profile;
/// use balanceroute::{Assignment, Batch, Pool, Request, Worker};
///
/// /// The least-loaded worker takes the shortest request.
/// struct Shortest;
///
/// impl Rule for Shortest {
///     fn begin(&mut self, _: &Batch<'_>, _: &mut Vec<i64>) -> Plan {
///         Plan::default()
///     }
///     fn profile(&self, _: &View<'_>, _: Option<&[f32]>, profile: &mut Profile) {
///         profile.slope = -1;
///     }
/// }
///
/// let mut shortest = policy::from_rule("shortest", Shortest, &Parameters::default())?;
/// let pool = Pool::from_requests(&[Request::new(1, 300), Request::new(2, 200)])?;
/// let workers = [Worker::new(900, 3, 1), Worker::new(500, 2, 0)];
/// let batch = Batch::draft(&workers, &pool).check()?;
/// let (mut answer, mut expected) = (Assignment::new(), Assignment::new());
/// shortest.decide(&batch, &mut answer);
/// shortest.decide_by_reference(&batch, &mut expected)?;
/// assert_eq!(answer, expected);
/// assert_eq!(answer.admitted[0].id, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// A parameter or a need of the rule out of its range, or an instruction set that this CPU lacks.
pub fn from_rule(
    name: &'static str,
    rule: impl Rule + Send + 'static,
    parameters: &Parameters,
) -> Result<Box<dyn Policy>, PolicyError> {
    parameters.check()?;
    let needs = rule.needs();
    for (name, found, low, high) in [
        ("needs.candidate_window", needs.candidate_window, 1, MAX_WAITING),
        ("needs.projection_horizon", needs.projection_horizon, 0, MAX_HORIZON),
        ("needs.ends_per_worker", needs.ends_per_worker, 1, MAX_ENDS_PER_WORKER),
    ] {
        if let Some(found) = found {
            PolicyError::check(name, found as f64, low as f64, high as f64)?;
        }
    }
    let backend = backends::open(parameters, None)?;
    let policy = Recipe { name, forecast: None, parameters, backend }.policy(rule);
    // Whoever reads its recordings cannot build it.
    #[cfg(feature = "record")]
    let policy = RulePolicy { built_from: None, ..policy };
    Ok(Box::new(policy))
}

fn assemble(
    name: &str,
    parameters: &Parameters,
    launcher: backends::Launcher,
) -> Result<Box<dyn Policy>, PolicyError> {
    parameters.check()?;
    let entry = TABLE
        .iter()
        .find(|entry| entry.name == name)
        .ok_or_else(|| PolicyError::Unknown { found: name.to_owned(), expected: NAMES.join(", ") })?;
    let backend = backends::open(parameters, launcher)?;
    Ok((entry.build)(Recipe { name: entry.name, forecast: entry.forecast, parameters, backend }))
}
