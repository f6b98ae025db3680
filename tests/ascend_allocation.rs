//! A decision on a device allocates nothing once its buffers have seen their largest size; nor does one while the device rests.
#![cfg(feature = "ascend")]

#[path = "support/counting.rs"]
mod counting;
mod support;

use std::time::Duration;

use balanceroute::Assignment;
use balanceroute::backend::BackendKind;
use balanceroute::backend::ascend::AscendParameters;
use balanceroute::policy::{self, Parameters};
use counting::BYTES;
use support::{Fake, Parts, kernel, until};

#[test]
fn a_decision_on_a_device_allocates_nothing_after_the_warm_up() {
    for name in ["exact", "exact-oracle", "level", "brh-oracle", "jsq"] {
        let fake = Fake::new();
        let parameters = Parameters::new().backend(BackendKind::Ascend).ascend(
            AscendParameters::new()
                .library(Some(fake.path.clone()))
                .kernel(Some(kernel().to_owned()))
                .answer_timeout_ms(20_000)
                .rest_ms(60_000),
        );
        let mut device = policy::build(name, &parameters).expect("a policy");
        let mut out = Assignment::new();
        let parts: Vec<Parts> = (0..30).map(Parts::new).collect();
        let mut rounds = |device: &mut dyn policy::Policy, what: &str, warm: usize| {
            for round in 0..3 {
                for (seed, parts) in parts.iter().enumerate() {
                    let batch = parts.batch();
                    let before = BYTES.get();
                    if (round + seed) % 2 == 0 {
                        device.decide(&batch, &mut out);
                    } else {
                        let device = device.device().expect("a device");
                        let ticket = device.submit(&batch);
                        device.collect(ticket, &batch, Duration::from_secs(20), &mut out);
                    }
                    let allocated = BYTES.get() - before;
                    assert!(
                        round < warm || allocated == 0,
                        "{name}, {what}: {allocated} bytes, batch {seed}"
                    );
                }
            }
        };
        // Both ways have seen every batch after two rounds.
        rounds(&mut *device, "on the device", 2);
        assert!(
            device.device().and_then(|device| device.counters()).expect("a device").decided > 40,
            "{}",
            device.describe()
        );
        fake.fail("task-launch", 1, 1, 507_018);
        let mut at = 0;
        until("a failure", || {
            at += 1;
            device.decide(&parts[at % parts.len()].batch(), &mut Assignment::new());
            device.device().and_then(|device| device.counters()).expect("a device").failures > 0
        });
        rounds(&mut *device, "while it rests", 2);
    }
}
