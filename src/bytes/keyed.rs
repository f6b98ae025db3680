//! Hashes of prompts leave the process under a key that stays in it: equal ones stay equal, and whoever has
//! the log cannot try out what a prompt may have been.

use std::cell::RefCell;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

thread_local! {
    /// The key while something is written to a log; other formats get hashes as they are.
    static KEY: RefCell<Option<RandomState>> = const { RefCell::new(None) };
}

/// The hash as a log has it.
fn keyed(hash: u64) -> u64 {
    KEY.with_borrow(|key| key.as_ref().map_or(hash, |key| key.hash_one(hash)))
}

/// Runs something that writes to a log with this key.
pub(crate) fn under<T>(key: &RandomState, write: impl FnOnce() -> T) -> T {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            KEY.set(None);
        }
    }
    KEY.set(Some(key.clone()));
    let _reset = Reset;
    write()
}

/// Of one request.
pub(crate) mod hash {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(hash: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        hash.map(super::keyed).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        Option::deserialize(from)
    }
}

/// The keys of a map.
pub(crate) fn keys<'a, S: serde::Serializer, V: serde::Serialize + 'a>(
    map: impl IntoIterator<Item = (&'a u64, &'a V)>,
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_map(map.into_iter().map(|(&hash, value)| (keyed(hash), value)))
}

/// The values of a map.
pub(crate) fn values<'a, S: serde::Serializer>(
    map: impl IntoIterator<Item = (&'a u64, &'a u64)>,
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_map(map.into_iter().map(|(key, &hash)| (key, keyed(hash))))
}
