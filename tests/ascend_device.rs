//! The same promises on a real device: `BALANCEROUTE_ASCEND=1 cargo test --release --features ascend,sim --test ascend_device`.
//!
//! Without that variable nothing here runs, and says so. What a device answers is compared with the oracle, not only with what the host
//! lets pass: a refused answer fails.
#![cfg(feature = "ascend")]

mod support;

use std::time::Duration;

use balanceroute::backend::BackendKind;
use balanceroute::backend::ascend::{self, AscendParameters};
use balanceroute::policy::{self, Decided, Parameters, Policy};
use balanceroute::{Assignment, Batch};
use support::Parts;

/// The parameters for a device; none where there is none to test.
fn parameters() -> Option<Parameters> {
    if std::env::var("BALANCEROUTE_ASCEND").is_ok_and(|value| value == "1") {
        let ascend = AscendParameters::new().answer_timeout_ms(5_000);
        let name = ascend::probe(&ascend).expect("BALANCEROUTE_ASCEND=1 promises a device");
        println!("device: {name}");
        return Some(Parameters::new().backend(BackendKind::Ascend).ascend(ascend));
    }
    println!("NOT RUN: BALANCEROUTE_ASCEND is not 1");
    None
}

fn oracle(policy: &mut dyn Policy, batch: &Batch<'_>) -> Assignment {
    let mut out = Assignment::new();
    policy.decide_by_reference(batch, &mut out).expect("a rule");
    out
}

#[test]
fn the_device_answers_as_the_oracle() {
    let Some(parameters) = parameters() else { return };
    for name in ["exact", "exact-oracle", "exact-survival", "level", "br0", "brh-oracle", "jsq"] {
        let mut device = policy::build(name, &parameters).expect("a policy");
        let mut cpu = policy::build(name, &Parameters::default()).expect("a policy");
        let mut out = Assignment::new();
        for seed in 0..2_000 {
            let parts = Parts::new(seed);
            device.decide(&parts.batch(), &mut out);
            assert_eq!(out, oracle(&mut *cpu, &parts.batch()), "{name}, seed {seed}");
            parts.assert_sound(&out, name);
        }
        let counters = device.device().and_then(|device| device.counters()).expect("a device");
        assert!(counters.decided > 1_000, "{name}: {counters:?} {}", device.describe());
        assert_eq!(
            (counters.refused, counters.failures, counters.fallen_back),
            (0, 0, 0),
            "{}",
            device.describe()
        );
    }
}

#[test]
fn submissions_are_collected_in_any_order() {
    let Some(parameters) = parameters() else { return };
    let patience = Duration::from_secs(5);
    let mut device = policy::build("exact", &parameters).expect("a policy");
    let mut cpu = policy::build("exact", &Parameters::default()).expect("a policy");
    let mut out = Assignment::new();
    let mut by_device = 0;
    for seed in 0..500 {
        let (first, second) = (Parts::new(2 * seed), Parts::new(2 * seed + 1));
        let one = device.device().expect("a device").submit(&first.batch());
        let two = device.device().expect("a device").submit(&second.batch());
        by_device += u32::from(
            device.device().expect("a device").collect(two, &second.batch(), patience, &mut out)
                == Decided::Device,
        );
        assert_eq!(out, oracle(&mut *cpu, &second.batch()), "seed {seed}");
        by_device += u32::from(
            device.device().expect("a device").collect(one, &first.batch(), patience, &mut out)
                == Decided::Device,
        );
        assert_eq!(out, oracle(&mut *cpu, &first.batch()), "seed {seed}");
    }
    assert!(by_device > 600, "{by_device} of 1000: {}", device.describe());
    let counters = device.device().and_then(|device| device.counters()).expect("a device");
    assert_eq!((counters.refused, counters.failures), (0, 0), "{}", device.describe());
    println!("{}", device.describe());
}

#[test]
fn the_measured_choice_is_told() {
    let Some(parameters) = parameters() else { return };
    let auto = policy::build("exact", &parameters.backend(BackendKind::Auto)).expect("a policy");
    println!("{}", auto.describe());
    assert!(auto.describe().contains("measured"), "{}", auto.describe());
}
