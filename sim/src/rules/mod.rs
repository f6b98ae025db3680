//! Every rule by name: who uses it, when it decides, what it must be told.
//!
//! The rules that an engine can embed are the library's ([`balanceroute::policy::NAMES`]). Beside them stand
//! neighbours that are simulated only: routers in front of engines, and rules of papers. They want what only
//! a simulator has at hand (the blocks of a prompt, its session, how long its output will be, when a rank
//! would be done), and nobody embeds them: names in the library are contracts of C and Python, with golden
//! vectors and a device to agree with, and a rule that is there to be compared with is worth none of that.
//!
//! All of these choose a rank on arrival (`chooser.rs`). What their sources leave open is chosen here, and
//! [`RuleInfo::ours_to_choose`] says so.

mod block;
mod chooser;
mod dual_map;
mod in_flight;
mod library;
mod prefix;
mod ring;
mod table;
#[cfg(test)]
mod tests;

use balanceroute::policy::{self, Parameters, Policy};
pub(crate) use chooser::{Arriving, Chooser, RankSeen, Setup};
use serde::Serialize;
use thiserror::Error;

use crate::error::SimError;
use crate::names::{did_you_mean, most_like};

/// When a rule decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Decides {
    /// As a request arrives: it queues in a rank.
    Arrival,
    /// In each step, among those that wait in a common pool.
    Step,
}

/// What a rule must be told beside lengths of prompts, loads and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Need {
    /// When running requests end, learned from those that have ended.
    Predictions,
    /// How long outputs will be, before the first token: for study.
    KnownEnds,
    /// Equal hashes for equal prompts.
    PromptHashes,
    /// Hashes of the blocks of a prompt.
    PrefixHashes,
    /// Which requests are of one session.
    Sessions,
    /// How many KV tokens fit a rank.
    KvCapacity,
    /// What a step costs.
    StepLaw,
}

impl Need {
    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Predictions => "predictions",
            Self::KnownEnds => "known ends",
            Self::PromptHashes => "prompt hashes",
            Self::PrefixHashes => "prefix hashes",
            Self::Sessions => "sessions",
            Self::KvCapacity => "KV capacity",
            Self::StepLaw => "step law",
        }
    }
}

/// A rule, as the listing has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RuleInfo {
    /// The name that chooses it.
    pub name: &'static str,
    /// Other names: an engine's, for the rule of its newest version.
    pub aliases: &'static [&'static str],
    /// Whether it is in the library, or simulated only.
    pub in_library: bool,
    /// Whether it is a rule of this project.
    pub ours: bool,
    /// When it decides.
    pub decides: Decides,
    /// What it must be told.
    pub needs: &'static [Need],
    /// Who uses it, or where it is from.
    pub used_by: &'static str,
    /// What it does.
    pub about: &'static str,
    /// What its source leaves open, and what was chosen.
    pub ours_to_choose: Option<&'static str>,
}

/// A rule that cannot be had.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum RuleError {
    /// No such name.
    #[error("unknown policy {found:?}{}; expected one of {expected}", did_you_mean(*meant))]
    Unknown {
        /// The name asked for.
        found: String,
        /// The name that is most like it, if one is.
        meant: Option<&'static str>,
        /// All names.
        expected: String,
    },
    /// A rule that chooses between ranks where there is one.
    #[error("policy {rule}: expected at least {least} workers, found {found}")]
    Workers {
        /// The rule.
        rule: &'static str,
        /// Fewest workers.
        least: usize,
        /// How many there are.
        found: usize,
    },
}

/// Every rule, the library's first.
#[must_use]
pub fn all() -> &'static [RuleInfo] {
    &table::RULES
}

/// The rule of this name, or that an engine of this name uses.
///
/// # Errors
/// No such name; the error has the one that is most like it, and all others.
pub fn find(name: &str) -> Result<&'static RuleInfo, RuleError> {
    all().iter().find(|rule| rule.name == name || rule.aliases.contains(&name)).ok_or_else(|| {
        RuleError::Unknown {
            found: name.to_owned(),
            meant: most_like(name, names()),
            expected: names().collect::<Vec<_>>().join(", "),
        }
    })
}

/// Every name that chooses a rule, aliases last.
pub fn names() -> impl Iterator<Item = &'static str> {
    let aliases = all().iter().flat_map(|rule| rule.aliases).copied();
    all().iter().map(|rule| rule.name).chain(aliases)
}

/// A rule that is ready to run.
pub(crate) struct Rule {
    pub(crate) name: &'static str,
    /// Decides the steps.
    pub(crate) policy: Box<dyn Policy>,
    /// Chooses ranks, where the policy does not.
    pub(crate) chooser: Option<MakeChooser>,
}

/// Makes a chooser for a cluster.
pub(crate) type MakeChooser = Box<dyn FnOnce(&Setup) -> Box<dyn Chooser>>;

impl Rule {
    /// The rule with ranks that the cluster shows it, where it chooses ranks: they may be late.
    ///
    /// # Errors
    /// As [`build`].
    pub(crate) fn shown_ranks(self, parameters: &Parameters) -> Result<Self, SimError> {
        if self.chooser.is_some() || !self.policy.needs().binds_on_arrival {
            return Ok(self);
        }
        let Self { name, policy, .. } = self;
        let chooser: MakeChooser = Box::new(|setup| Box::new(library::OfLibrary::new(policy, setup)));
        Ok(Self { name, policy: policy::build(SERVES, parameters)?, chooser: Some(chooser) })
    }
}

/// Serves requests that are bound to their ranks first come, first served.
const SERVES: &str = "least-kv";

#[cfg(test)]
impl<P: Policy + 'static> From<Box<P>> for Rule {
    fn from(policy: Box<P>) -> Self {
        Self::from(policy as Box<dyn Policy>)
    }
}

impl From<Box<dyn Policy>> for Rule {
    fn from(policy: Box<dyn Policy>) -> Self {
        Self { name: policy.name(), policy, chooser: None }
    }
}

/// Builds the rule of a name for so many workers.
///
/// # Errors
/// No such name, parameters out of their ranges, or too few workers for it.
pub(crate) fn build(name: &str, parameters: &Parameters, workers: usize) -> Result<Rule, SimError> {
    let rule = find(name)?;
    let Some((least, chooser)) = choosers(rule.name) else {
        return Ok(policy::build(rule.name, parameters)?.into());
    };
    if workers < least {
        return Err(RuleError::Workers { rule: rule.name, least, found: workers }.into());
    }
    let policy = policy::build(SERVES, parameters)?;
    Ok(Rule { name: rule.name, policy, chooser: Some(Box::new(chooser)) })
}

/// The fewest workers of a rule that is simulated only, and what makes it; none for those of the library.
fn choosers(name: &str) -> Option<(usize, fn(&Setup) -> Box<dyn Chooser>)> {
    Some(match name {
        "ascend-proxy" => (1, |setup| Box::new(in_flight::LeastInFlight::of_all(setup))),
        "bucket" => (2, |setup| Box::new(in_flight::LeastInFlight::of_groups(setup))),
        "cache-aware" => (1, |setup| Box::new(prefix::CacheAware::new(setup))),
        "llm-d" => (1, |setup| Box::new(prefix::LlmD::new(setup))),
        "dualmap" => (2, |setup| Box::new(dual_map::DualMap::new(setup))),
        "block" => (1, |setup| Box::new(block::Block::new(setup))),
        "hash-ring" => (1, |setup| Box::new(ring::HashRing::new(setup))),
        "by-type" => (1, |_| Box::new(in_flight::ByType::default())),
        _ => return None,
    })
}
