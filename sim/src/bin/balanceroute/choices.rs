//! Words that arguments choose from: `--help` lists them, shells complete them, and who misses one by a
//! letter is told which is near.

use std::error::Error;
use std::ffi::OsStr;
use std::str::FromStr;

use balanceroute::backend::BackendKind;
use balanceroute::policy::{self, PolicyError};
use balanceroute_sim::SimError;
use balanceroute_sim::workloads::Workload;
use clap::builder::{PossibleValue, PossibleValuesParser, StringValueParser, TypedValueParser};
use clap::{Arg, Command};

const LETTERS_AN_EDIT: usize = 4;

/// Reads as `inner` does, and lists the words that it may read.
#[derive(Clone)]
pub(crate) struct Listed<P> {
    inner: P,
    words: fn() -> Vec<&'static str>,
}

impl<P: TypedValueParser> TypedValueParser for Listed<P> {
    type Value = P::Value;

    fn parse_ref(&self, command: &Command, of: Option<&Arg>, word: &OsStr) -> Result<P::Value, clap::Error> {
        self.inner.parse_ref(command, of, word)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new((self.words)().into_iter().map(PossibleValue::new)))
    }
}

/// One of a few words, which the type reads.
pub(crate) fn one_of<T>(words: fn() -> Vec<&'static str>) -> impl TypedValueParser<Value = T>
where
    T: FromStr + Clone + Send + Sync + 'static,
    T::Err: Into<Box<dyn Error + Send + Sync + 'static>>,
{
    Listed { inner: StringValueParser::new().try_map(|word| word.parse::<T>()), words }
}

fn policy_names() -> Vec<&'static str> {
    policy::NAMES.to_vec()
}

fn workload_names() -> Vec<&'static str> {
    Workload::ALL.map(Workload::name).to_vec()
}

/// A name that the library knows, and that it refuses itself where it does not.
pub(crate) fn policies() -> Listed<StringValueParser> {
    Listed { inner: StringValueParser::new(), words: policy_names }
}

/// As [`policies`].
pub(crate) fn workloads() -> Listed<StringValueParser> {
    Listed { inner: StringValueParser::new(), words: workload_names }
}

pub(crate) fn backends() -> PossibleValuesParser {
    PossibleValuesParser::new(BackendKind::ALL.map(BackendKind::name))
}

/// The name that a wrong one was likely meant to be: one letter in so many may be wrong, missing or swapped.
pub(crate) fn nearest(wrong: &str, names: &[&'static str]) -> Option<&'static str> {
    let far = |name: &&'static str| (strsim::damerau_levenshtein(wrong, name), *name);
    let (edits, name) = names.iter().map(far).min_by_key(|(edits, _)| *edits)?;
    (edits <= 1.max(wrong.len() / LETTERS_AN_EDIT)).then_some(name)
}

/// What an error may add: `; did you mean level?`
pub(crate) fn hint(error: &SimError) -> String {
    let (wrong, names) = match error {
        SimError::UnknownWorkload { found, .. } => (found.as_str(), workload_names()),
        SimError::Policy(PolicyError::Unknown { found, .. }) => (found.as_str(), policy_names()),
        SimError::Argument { name: "rules", found, .. } => (found.trim_matches('"'), policy_names()),
        _ => return String::new(),
    };
    nearest(wrong, &names).map_or_else(String::new, |name| format!("; did you mean {name}?"))
}
