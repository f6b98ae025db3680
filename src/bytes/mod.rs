//! The format of states and logs (feature `record`): compact, and this version's own.

pub(crate) mod keyed;

use serde::{Serialize, de::DeserializeOwned};

/// A value in this format.
pub(crate) fn to_bytes(value: &impl Serialize) -> Vec<u8> {
    // Into memory that grows only what cannot be written at all fails: maps of unknown length, of which there
    // are none here.
    postcard::to_stdvec(value).unwrap_or_default()
}

/// What is in these bytes, all of them.
pub(crate) fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (value, rest) = postcard::take_from_bytes(bytes).ok()?;
    rest.is_empty().then_some(value)
}
