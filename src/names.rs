//! What has a name: how it is found by it.

use thiserror::Error;

/// A name that nothing of its kind has.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("unknown {kind} {found:?}; expected one of {expected}")]
#[non_exhaustive]
pub struct UnknownName {
    /// What was looked for.
    pub kind: &'static str,
    /// The name asked for.
    pub found: String,
    /// All names.
    pub expected: String,
}

/// The one of a name.
pub(crate) fn find<T: Copy>(
    kind: &'static str,
    all: &[T],
    name_of: impl Fn(T) -> &'static str,
    name: &str,
) -> Result<T, UnknownName> {
    all.iter().copied().find(|&one| name_of(one) == name).ok_or_else(|| UnknownName {
        kind,
        found: name.to_owned(),
        expected: all.iter().map(|&one| name_of(one)).collect::<Vec<_>>().join(", "),
    })
}
