//! Answers as read-only Python objects.

use balanceroute::WaitReason;
use numpy::PyUntypedArray;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict, PyTuple, PyType};

/// A class of read-only fields that shows them, is equal where they are, and can be copied and pickled. It is
/// made from its fields by name, or, with `made`, as its own `new` says.
macro_rules! record {
    (
        $(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? } $(as $python:literal)?
        $(with { $($more:tt)* })?
    ) => {
        $crate::records::record! {
            $(#[$doc])* $name { $($field: $type),* } $(as $python)? made with {
                #[new]
                #[allow(clippy::too_many_arguments, reason = "its fields")]
                fn new($($field: $type),*) -> Self {
                    Self { $($field),* }
                }

                $($($more)*)?
            }
        }
    };
    (
        $(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? } $(as $python:literal)?
        made with { $($more:tt)* }
    ) => {
        $(#[$doc])*
        #[pyo3::pyclass(frozen, get_all, module = "balanceroute" $(, name = $python)?)]
        pub(crate) struct $name {
            $(pub(crate) $field: $type,)*
        }

        #[pyo3::pymethods]
        impl $name {
            fn __repr__(slf: &pyo3::Bound<'_, Self>) -> pyo3::PyResult<String> {
                $crate::records::shown(slf.as_any(), &[$(stringify!($field)),*])
            }

            fn __eq__(
                slf: &pyo3::Bound<'_, Self>,
                other: &pyo3::Bound<'_, pyo3::PyAny>,
            ) -> pyo3::PyResult<pyo3::Py<pyo3::PyAny>> {
                $crate::records::equal(slf.as_any(), other, &[$(stringify!($field)),*])
            }

            fn __hash__(slf: &pyo3::Bound<'_, Self>) -> pyo3::PyResult<isize> {
                $crate::records::hash(slf.as_any(), &[$(stringify!($field)),*])
            }

            fn __reduce__<'py>(
                slf: &pyo3::Bound<'py, Self>,
            ) -> pyo3::PyResult<$crate::records::Reduced<'py>> {
                $crate::records::reduced(slf.as_any(), &[$(stringify!($field)),*])
            }

            $($more)*
        }
    };
}
pub(crate) use record;

/// How a record is made again: a function, and the class, no arguments by place and all by name.
pub(crate) type Reduced<'py> =
    (Bound<'py, PyAny>, (Bound<'py, PyType>, Bound<'py, PyTuple>, Bound<'py, PyDict>));

pub(crate) fn shown(of: &Bound<'_, PyAny>, fields: &[&str]) -> PyResult<String> {
    let field = |name: &&str| Ok(format!("{name}={}", of.getattr(*name)?.repr()?));
    let fields = fields.iter().map(field).collect::<PyResult<Vec<String>>>()?;
    Ok(format!("{}({})", of.get_type().name()?, fields.join(", ")))
}

pub(crate) fn equal(of: &Bound<'_, PyAny>, other: &Bound<'_, PyAny>, fields: &[&str]) -> PyResult<Py<PyAny>> {
    let py = of.py();
    if !of.get_type().is(other.get_type()) {
        return Ok(py.NotImplemented());
    }
    for name in fields {
        let (ours, others) = (of.getattr(*name)?, other.getattr(*name)?);
        // Arrays compare entry by entry and have no truth of their own.
        let array = |of: &Bound<'_, PyAny>| of.is_instance_of::<PyUntypedArray>();
        let same = if array(&ours) || array(&others) {
            py.import("numpy")?.call_method1("array_equal", (ours, others))?.is_truthy()?
        } else {
            ours.eq(others)?
        };
        if !same {
            return Ok(PyBool::new(py, false).to_owned().into_any().unbind());
        }
    }
    Ok(PyBool::new(py, true).to_owned().into_any().unbind())
}

pub(crate) fn hash(of: &Bound<'_, PyAny>, fields: &[&str]) -> PyResult<isize> {
    let fields = fields.iter().map(|name| of.getattr(*name)).collect::<PyResult<Vec<_>>>()?;
    PyTuple::new(of.py(), fields)?.hash()
}

pub(crate) fn reduced<'py>(of: &Bound<'py, PyAny>, fields: &[&str]) -> PyResult<Reduced<'py>> {
    let py = of.py();
    let named = PyDict::new(py);
    for name in fields {
        named.set_item(name, of.getattr(*name)?)?;
    }
    // What `copy` and `pickle` know as the way of a class whose arguments have names.
    let make = py.import("copyreg")?.getattr("__newobj_ex__")?;
    Ok((make, (of.get_type(), PyTuple::empty(py), named)))
}

record! {
    /// How level a set of loads is.
    Balance { envelope_tokens: f64, imbalance_tokens: f64 }
}

impl From<balanceroute::Balance> for Balance {
    fn from(of: balanceroute::Balance) -> Self {
        Self { envelope_tokens: of.envelope_tokens, imbalance_tokens: of.imbalance_tokens }
    }
}

/// The member of `balanceroute.WaitReason`: what Python has for a reason wherever it is one value.
pub(crate) fn wait_reason(py: Python<'_>, reason: WaitReason) -> PyResult<Py<PyAny>> {
    static MEMBERS: PyOnceLock<Vec<Py<PyAny>>> = PyOnceLock::new();
    let members = MEMBERS.get_or_try_init(py, || {
        let class = py.import("balanceroute._reasons")?.getattr("WaitReason")?;
        let member = |code: u8| Ok(class.call1((code,))?.unbind());
        (0..=WaitReason::ALL.len() as u8).map(member).collect::<PyResult<Vec<_>>>()
    })?;
    Ok(members[usize::from(reason.code())].clone_ref(py))
}
