//! Three kinds of number that must not be taken for each other: requests, workers for life, and positions in
//! a batch.
//!
//! [`WorkerId`] and [`WorkerIndex`] are both small numbers that name a worker. A router's worker keeps its id
//! for life; its index in a batch changes when a worker before it leaves. The compiler refuses one where the
//! other is meant. Plain integers become either of them where a call says which it wants, so literals stay as
//! they are.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
        #[repr(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The id with this number.
            #[inline]
            #[must_use]
            pub const fn new(number: $inner) -> Self {
                Self(number)
            }

            /// The plain number.
            #[inline]
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<$inner> for $name {
            #[inline]
            fn from(number: $inner) -> Self {
                Self(number)
            }
        }

        impl From<$name> for $inner {
            #[inline]
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl PartialEq<$inner> for $name {
            #[inline]
            fn eq(&self, number: &$inner) -> bool {
                self.0 == *number
            }
        }
    };
}

number! {
    /// The caller's name of a request: unique among those that wait or run.
    RequestId(u64)
}

number! {
    /// A worker of a router, for life: its position in
    /// [`RouterConfig::workers`](crate::RouterConfig::workers), or what
    /// [`Router::add_worker`](crate::Router::add_worker) gave. It is never used again.
    WorkerId(u32)
}

number! {
    /// The position (rank) of a worker in one batch.
    WorkerIndex(u32)
}

impl WorkerIndex {
    /// The number as an index into the workers of the batch.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The position as a batch counts it. A batch has at most [`MAX_WORKERS`](crate::batch::MAX_WORKERS)
    /// workers.
    #[inline]
    #[must_use]
    pub const fn at(index: usize) -> Self {
        Self(index as u32)
    }
}

/// A position is no id, and an id is no position.
///
/// ```compile_fail
/// # use balanceroute::{WorkerId, WorkerIndex};
/// let index: WorkerIndex = WorkerId::new(3).into();
/// ```
///
/// ```compile_fail
/// # use balanceroute::{Router, WorkerIndex};
/// fn drain(router: &mut Router, index: WorkerIndex) {
///     let _ = router.drain_worker(index);
/// }
/// ```
///
/// ```compile_fail
/// # use balanceroute::{WorkerId, WorkerIndex};
/// fn same(id: WorkerId, index: WorkerIndex) -> bool {
///     id == index
/// }
/// ```
#[cfg(doctest)]
struct Apart;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_its_number() {
        assert_eq!(size_of::<RequestId>(), size_of::<u64>());
        assert_eq!(size_of::<Option<WorkerIndex>>(), size_of::<Option<u32>>());
        assert_eq!(
            (RequestId::new(7).to_string(), format!("{:>3}", WorkerId::from(5))),
            ("7".into(), "  5".into())
        );
        assert!(WorkerIndex::new(2) < WorkerIndex::new(10));
        assert_eq!((u64::from(RequestId::new(9)), WorkerIndex::at(4).index()), (9, 4));
    }
}
