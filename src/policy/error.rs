//! What is refused when a policy is built.

use thiserror::Error;

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
    /// A parameter that means nothing any more.
    #[error("policy parameter {found:?} is no more: set {instead} instead")]
    Gone {
        /// The name asked for.
        found: String,
        /// The parameter that took its place.
        instead: &'static str,
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
    /// A policy that is made of no rule: there is nothing that the oracle could run.
    #[error("policy {policy} is made of no rule, so the oracle cannot run it")]
    NoRule {
        /// Name of the policy.
        policy: &'static str,
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
