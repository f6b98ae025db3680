//! Answers as read-only Python objects.

use balanceroute::WaitReason;
use pyo3::prelude::*;

/// A class of read-only fields that shows them.
macro_rules! record {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? } $(as $python:literal)? $(with { $($more:tt)* })?) => {
        $(#[$doc])*
        #[pyo3::pyclass(frozen, get_all, module = "balanceroute" $(, name = $python)?)]
        pub(crate) struct $name {
            $(pub(crate) $field: $type,)*
        }

        #[pyo3::pymethods]
        impl $name {
            fn __repr__(slf: &pyo3::Bound<'_, Self>) -> pyo3::PyResult<String> {
                use pyo3::types::PyAnyMethods;
                let mut fields: Vec<String> = Vec::new();
                $(fields.push(format!("{}={}", stringify!($field), slf.getattr(stringify!($field))?.repr()?));)*
                Ok(format!("{}({})", slf.get_type().name()?, fields.join(", ")))
            }

            $($($more)*)?
        }
    };
}
pub(crate) use record;

record! {
    /// How level a set of loads is.
    Balance { envelope_tokens: f64, imbalance_tokens: f64 }
}

impl From<balanceroute::Balance> for Balance {
    fn from(of: balanceroute::Balance) -> Self {
        Self { envelope_tokens: of.envelope_tokens, imbalance_tokens: of.imbalance_tokens }
    }
}

/// The name of a reason in Python and in metrics.
pub(crate) fn wait_reason_name(reason: WaitReason) -> &'static str {
    match reason {
        WaitReason::NoSlot => "no_slot",
        WaitReason::NoCapacity => "no_capacity",
        WaitReason::NotEligible => "not_eligible",
        WaitReason::OutsideWindow => "outside_window",
        WaitReason::Deferred => "deferred",
        _ => "other",
    }
}
