//! What this machine has: every path tested against the oracle, measured, compared with its own registers.

mod machine;
mod measure;
mod outcome;
mod selftest;

use balanceroute::backend::BackendKind;
use balanceroute::backend::ascend::AscendParameters;
use balanceroute::backend::cpu::Isa;
use balanceroute::policy::Parameters;

use crate::error::SimError;
pub use machine::device;
use machine::{cpu, on_cpu};
use measure::{HORIZON, Made, WAITING, auto, compare, definition, measure};
pub use outcome::{AutoReport, Crossing, KernelReport, PairedDecision, PathReport};
use selftest::{build_all, test, test_in_lanes};

/// How long the self-test waits for a device.
const SELF_TEST_MS: u32 = 10_000;

/// Tests and measures everything.
///
/// # Errors
/// A policy that cannot be built.
pub fn report(batches: u64) -> Result<KernelReport, SimError> {
    let mut paths = Vec::new();
    let mut contenders = Vec::new();
    for isa in Isa::ALL {
        for (kind, backend) in [("structured", BackendKind::Auto), ("dense-i32", BackendKind::Cpu)] {
            let available = isa.is_available();
            let reason = if available { "this CPU has it" } else { "this CPU or this build lacks it" };
            let path = PathReport::new(format!("{isa}-{kind}"), available, reason.to_owned());
            if available {
                let search_by_length = backend == BackendKind::Auto;
                let parameters = on_cpu().isa(Some(isa)).backend(backend).testing(search_by_length);
                contenders.push((paths.len(), build_all(&parameters)?));
            }
            paths.push(path);
            if let (BackendKind::Cpu, Some(path)) = (backend, paths.last_mut()) {
                measure(path, isa);
            }
        }
    }
    let definition = [definition(1), definition(HORIZON + 1)];
    compare(&mut paths, definition);
    // A test waits for the answer; a decision would not.
    let ascend = AscendParameters::new().answer_timeout_ms(SELF_TEST_MS);
    let parameters = Parameters::new().backend(BackendKind::Ascend).ascend(ascend);
    let (available, reason) = device(&parameters);
    let mut path = PathReport::new(BackendKind::Ascend.name().to_owned(), available, reason);
    if available {
        contenders.push((paths.len(), build_all(&parameters)?));
        // Whole decisions, launch and copies included: 64 picks.
        let (waiting, workers) = (WAITING, 64);
        let per_cell = |horizon| -> Result<Option<f64>, SimError> {
            let made = Made::new(waiting, workers, workers, horizon, true);
            let cells = (waiting * workers * (horizon + 1)) as f64;
            Ok(Some(made.time(&parameters, 5)? / cells))
        };
        (path.ns_per_cell, path.ns_per_cell_horizon) = (per_cell(0)?, per_cell(HORIZON)?);
    }
    paths.push(path);
    test(batches, &mut paths, &mut contenders)?;
    test_in_lanes(batches, &mut paths, contenders)?;
    Ok(KernelReport { cpu: cpu(), paths, auto: auto(definition)? })
}
