//! The dense matrix: single columns per instruction set, whole decisions with affinity and masks, and where
//! the structured search meets it.
//!
//! Sizes are (waiting N, workers G, horizon H). Every answer is checked before it is timed.

#[path = "common/paired.rs"]
mod paired;
#[path = "common/step.rs"]
#[expect(dead_code, reason = "the traffic is all that is shared")]
mod step;

use std::hint::black_box;

use balanceroute::backend::BackendKind;
use balanceroute::backend::cpu::{ColumnProbe, Isa};
use balanceroute::policy::{self, Parameters};
use balanceroute::{Assignment, Policy};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use paired::Paired;

const SIZES: [(usize, usize); 4] = [(256, 16), (512, 64), (1024, 144), (4096, 256)];
const HORIZONS: [usize; 3] = [0, 16, 80];
/// How each policy is built for a step.
impl Paired {
    fn name(&self) -> &'static str {
        if self.horizon > 0 { "exact-oracle" } else { "exact" }
    }

    fn policy(&self, backend: BackendKind, isa: Option<Isa>) -> Box<dyn Policy> {
        // The series `structured`, whatever is faster; masks leave nothing to search by.
        let mut parameters = Parameters::new().backend(backend).isa(isa).testing(true);
        parameters.exact.horizon_steps = self.horizon;
        policy::build(self.name(), &parameters).expect("known")
    }
}

fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

/// Single columns, per instruction set, beside the definition.
fn columns(c: &mut Criterion) {
    for (waiting, horizon) in [(1024, 0), (1024, 16), (1024, 80)] {
        let mut group = c.benchmark_group(format!("column-{waiting}-H{horizon}"));
        group.throughput(Throughput::Elements((waiting * (horizon + 1)) as u64));
        for isa in available() {
            let Some(mut probe) = ColumnProbe::new(isa, waiting, horizon + 1) else { continue };
            assert_eq!(probe.pass(), probe.by_definition());
            group.bench_function(BenchmarkId::new(format!("{isa}-i32"), "pass"), |b| b.iter(|| probe.pass()));
            if isa == Isa::Scalar {
                group.bench_function("definition", |b| b.iter(|| black_box(&probe).by_definition()));
            }
        }
        group.finish();
    }
}

/// Whole decisions: the oracle where it is bearable, the structured search, the matrix on each instruction
/// set.
fn decisions(c: &mut Criterion) {
    for (waiting, workers) in SIZES {
        for horizon in HORIZONS {
            let step = Paired::new((waiting, workers, horizon), 8, false);
            let batch = step.batch();
            let mut group = c.benchmark_group(format!("decide-{waiting}x{workers}-H{horizon}-K8"));
            let mut out = Assignment::new();
            let mut expected = Assignment::new();
            let small = waiting <= 256 && horizon == 0;
            let mut first = step.policy(
                if small { BackendKind::Reference } else { BackendKind::Auto },
                (!small).then_some(Isa::Scalar),
            );
            first.decide(&batch, &mut expected);
            if small {
                group.sample_size(10);
                group.bench_function("oracle", |b| b.iter(|| first.decide(black_box(&batch), &mut out)));
                group.sample_size(30);
            }
            let mut structured = step.policy(BackendKind::Auto, None);
            structured.decide(&batch, &mut out);
            assert_eq!(out, expected);
            group.bench_function("structured", |b| {
                b.iter(|| structured.decide(black_box(&batch), &mut out));
            });
            for isa in available() {
                let mut dense = step.policy(BackendKind::Cpu, Some(isa));
                dense.decide(&batch, &mut out);
                assert_eq!(out, expected, "{isa}");
                group.bench_function(format!("dense-{isa}"), |b| {
                    b.iter(|| dense.decide(black_box(&batch), &mut out));
                });
            }
            group.finish();
        }
    }
}

/// Decisions that only the matrix can make: affinity and masks.
fn pairs(c: &mut Criterion) {
    for (size, open) in [((512, 64, 0), 8), ((1024, 144, 0), 144), ((1024, 144, 16), 144)] {
        let step = Paired::new(size, open, true);
        let batch = step.batch();
        let (waiting, workers, horizon) = size;
        let mut group = c.benchmark_group(format!("pairs-{waiting}x{workers}-H{horizon}-K{open}"));
        let (mut out, mut expected) = (Assignment::new(), Assignment::new());
        if open <= 8 {
            step.policy(BackendKind::Reference, None).decide(&batch, &mut expected);
        } else {
            // The oracle would take hours; the matrix in plain lanes is compared with it in the tests.
            step.policy(BackendKind::Cpu, Some(Isa::Scalar)).decide(&batch, &mut expected);
        }
        for isa in available() {
            let mut dense = step.policy(BackendKind::Auto, Some(isa));
            dense.decide(&batch, &mut out);
            assert_eq!(out, expected, "{isa}");
            assert_eq!(out.admitted.len(), open);
            group.bench_function(format!("dense-{isa}"), |b| {
                b.iter(|| dense.decide(black_box(&batch), &mut out));
            });
        }
        group.finish();
    }
}

/// Whole decisions of the device beside the CPU's, or why there are none.
#[cfg(feature = "ascend")]
fn device(c: &mut Criterion) {
    use balanceroute::backend::ascend::{self, AscendParameters};

    // Late answers are measured, not replaced.
    let parameters = AscendParameters::new().answer_timeout_ms(5_000).device_timeout_ms(5_000);
    match ascend::probe(&parameters) {
        Ok(name) => println!("device: {name}"),
        Err(reason) => return println!("no row of a device: {reason}"),
    }
    for (size, open) in
        [((512, 64, 0), 8), ((1024, 144, 16), 144), ((1024, 144, 80), 144), ((4096, 256, 80), 8)]
    {
        let step = Paired::new(size, open, true);
        let batch = step.batch();
        let (waiting, workers, horizon) = size;
        let mut group = c.benchmark_group(format!("device-{waiting}x{workers}-H{horizon}-K{open}"));
        group.sample_size(10);
        let (mut out, mut expected) = (Assignment::new(), Assignment::new());
        let mut cpu = step.policy(BackendKind::Cpu, None);
        cpu.decide(&batch, &mut expected);
        group.bench_function("cpu", |b| b.iter(|| cpu.decide(black_box(&batch), &mut out)));
        let mut built = Parameters::new().backend(BackendKind::Ascend).ascend(parameters.clone());
        built.exact.horizon_steps = horizon;
        let mut device = policy::build(step.name(), &built).expect("known");
        device.decide(&batch, &mut out);
        assert_eq!(out, expected);
        group.bench_function("ascend", |b| b.iter(|| device.decide(black_box(&batch), &mut out)));
        group.finish();
        // Whether the times above are the device's.
        println!("{}", device.describe());
    }
}

#[cfg(not(feature = "ascend"))]
fn device(_: &mut Criterion) {
    println!("no row of a device: built without the feature `ascend`");
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(600))
        .sample_size(30);
    targets = columns, pairs, decisions, device
}
criterion_main!(benches);
