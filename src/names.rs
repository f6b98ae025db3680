//! Names of enums, as C, Python, metrics and the command line spell them.

use thiserror::Error;

/// A name that nothing of its kind has.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("unknown {kind} {found:?}: expected one of {}", expected.join(", "))]
#[non_exhaustive]
pub struct UnknownName {
    /// What was to be named.
    pub kind: &'static str,
    /// The name found.
    pub found: String,
    /// The names that there are.
    pub expected: &'static [&'static str],
}

/// Gives an enum without fields its variants in order, their names, `Display` and `FromStr`.
macro_rules! names {
    ($type:ident, $kind:literal: $($variant:ident = $name:literal),+ $(,)?) => {
        impl $type {
            /// Every one, in order.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];
            /// Their names, in order.
            pub const NAMES: [&'static str; Self::ALL.len()] = [$($name),+];

            /// Its name: what `Display` writes and `FromStr` reads.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::names::UnknownName;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                Self::ALL.into_iter().find(|known| known.name() == name).ok_or_else(|| Self::Err {
                    kind: $kind,
                    found: name.to_owned(),
                    expected: &Self::NAMES,
                })
            }
        }
    };
}
pub(crate) use names;

#[cfg(test)]
mod tests {
    use std::fmt::Debug;
    use std::str::FromStr;

    use super::*;
    use crate::backend::{BackendKind, cpu::Isa};
    use crate::policy::Forecast;
    use crate::{Mode, ReturnReason, Verdict, WaitReason};

    fn there_and_back<T: ToString + FromStr<Err = UnknownName> + PartialEq + Debug>(all: &[T]) {
        for one in all {
            assert_eq!(T::from_str(&one.to_string()).as_ref(), Ok(one));
        }
        let refused = T::from_str("nobody").unwrap_err();
        assert_eq!((refused.found.as_str(), refused.expected.len()), ("nobody", all.len()));
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        there_and_back(&WaitReason::ALL);
        there_and_back(&ReturnReason::ALL);
        there_and_back(&Verdict::ALL);
        there_and_back(&BackendKind::ALL);
        there_and_back(&Isa::ALL);
        there_and_back(&Forecast::ALL);
        there_and_back(&[Mode::Step, Mode::Arrival, Mode::Mixed { free_slots: 12 }]);
        assert_eq!(Mode::Mixed { free_slots: 12 }.to_string(), "mixed:12");
        let error = "mixed:-1".parse::<Mode>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown mode \"mixed:-1\": expected one of step, arrival, mixed:FREE_SLOTS"
        );
        assert_eq!(format!("{:>9}|", WaitReason::NoSlot), "  no_slot|");
    }
}
