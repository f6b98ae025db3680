//! Words that arguments choose from: `--help` lists them, and shells complete them.

use std::error::Error;
use std::ffi::OsStr;
use std::str::FromStr;

use balanceroute::backend::BackendKind;
use balanceroute_sim::rules;
use balanceroute_sim::workloads::Workload;
use clap::builder::{PossibleValue, PossibleValuesParser, StringValueParser, TypedValueParser};
use clap::{Arg, Command};

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
    rules::names().collect()
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
