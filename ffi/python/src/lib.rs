//! The compiled half of the Python package `balanceroute`: `balanceroute/_native.pyi` describes it.

mod arrays;
mod assign;
mod cluster;
mod errors;
mod metrics;
mod plan;
mod recording;
mod records;
mod router;
mod shared;
mod terms;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    use balanceroute::backend::cpu::Isa;
    use balanceroute::policy::{NAMES, PARAMETER_NAMES};
    use pyo3::prelude::*;
    use pyo3::types::{PyDict, PyTuple};

    #[pymodule_export]
    use crate::assign::{Assigned, Assigner, Traffic};
    use crate::errors::Failure;
    #[pymodule_export]
    use crate::metrics::{Histogram, Metrics, RankMetrics, ReportCounts};
    #[pymodule_export]
    use crate::plan::{Dispatch, Explanation, Finished, Plan, Preempted, Returned, RunnerUp, WorkerConfig};
    #[pymodule_export]
    use crate::recording::{Recording, Replayed, Untold};
    #[pymodule_export]
    use crate::records::Balance;
    #[pymodule_export]
    use crate::router::Router;

    /// Decides one step: `Assigner(policy).assign(...)`; an assigner that is used again is faster.
    #[pyfunction]
    #[pyo3(signature = (*columns, policy = "level", **more))]
    fn assign<'py>(
        py: Python<'py>,
        columns: &Bound<'py, PyTuple>,
        policy: &str,
        more: Option<&Bound<'py, PyDict>>,
    ) -> Result<Bound<'py, PyAny>, Failure> {
        let assigner = Bound::new(py, Assigner::named(py, policy)?)?;
        Ok(assigner.call_method("assign", columns, more)?)
    }

    /// Feeds a recording to a router again.
    #[pyfunction]
    fn replay(py: Python<'_>, folder: std::path::PathBuf) -> Result<Replayed, Failure> {
        Ok(py.detach(|| crate::shared::guarded(|| crate::recording::replayed(folder)))??)
    }

    /// Instruction sets that this CPU has, the best one last.
    #[pyfunction]
    fn isas() -> Vec<&'static str> {
        let mut found: Vec<Isa> = Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect();
        found.sort_by_key(|&isa| isa == Isa::best());
        found.into_iter().map(Isa::name).collect()
    }

    /// Panics inside a call of an object: what a test cannot do from outside.
    #[cfg(feature = "faults")]
    #[pyfunction]
    fn _fault(py: Python<'_>, object: &Bound<'_, PyAny>) -> Result<(), Failure> {
        match object.cast::<Router>() {
            Ok(router) => router.get().fault(py),
            Err(_) => object.cast::<Assigner>().map_err(PyErr::from)?.get().fault(py),
        }
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        crate::arrays::begin(py)?;
        crate::shared::watch_forks();
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("POLICIES", PyTuple::new(py, NAMES)?)?;
        module.add("PARAMETERS", PyTuple::new(py, PARAMETER_NAMES)?)
    }
}
