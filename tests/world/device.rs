//! Worlds whose routers decide on the fake Ascend runtime, any call of which may fail: every decision is the
//! CPU's, and in the end everything is given back.

use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use balanceroute::backend::BackendKind;
use balanceroute::policy::{self, Parameters, Rank};
use balanceroute::{Assignment, Batch, Needs, Policy, Request, WorkerIndex};

use crate::plan::{Event, Setting};
use crate::source::Source;
use crate::support::runtime::{Fake, parameters};
use crate::world::World;

/// Policies that a device decides for.
const POLICIES: [&str; 4] = ["level", "exact", "brh-oracle", "level-oracle"];
/// A device's kernel runs on a model here, which takes its time.
const EVENTS: usize = 500;
/// As long as a device rests after its first failure.
const REST: Duration = Duration::from_millis(2);
/// Failure inside, out of memory, a lost context, a device that is gone.
const CODES: [i32; 4] = [500_003, 207_001, 107_002, 507_018];

/// A policy on the device beside the CPU's.
struct Beside {
    device: Box<dyn Policy>,
    cpu: Box<dyn Policy>,
    expected: Assignment,
    /// Decisions of the device and its failures, as last told; and of all policies that were dropped.
    counted: (u64, u64),
    told: Arc<Mutex<(u64, u64)>>,
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Ok(mut told) = self.told.lock() {
            *told = (told.0 + self.counted.0, told.1 + self.counted.1);
        }
    }
}

impl Policy for Beside {
    fn name(&self) -> &'static str {
        self.cpu.name()
    }

    fn needs(&self) -> Needs {
        self.cpu.needs()
    }

    fn decide(&mut self, batch: &Batch<'_>, out: &mut Assignment) {
        // A device that rests after a failure does so by this machine's clock; answers do not depend on it.
        std::thread::sleep(REST);
        self.device.decide(batch, out);
        if let Some(counters) = self.device.device().and_then(|device| device.counters()) {
            self.counted = (counters.decided, counters.failures);
        }
        self.cpu.decide(batch, &mut self.expected);
        assert_eq!(*out, self.expected, "{}", self.device.describe());
    }

    fn bind(&mut self, arrival: &Request, ranks: &[Rank]) -> Option<WorkerIndex> {
        self.cpu.bind(arrival, ranks)
    }

    fn score_into(&mut self, batch: &Batch<'_>, score_tokens: &mut Vec<f64>) -> bool {
        self.cpu.score_into(batch, score_tokens)
    }
}

#[test]
fn a_device_that_fails_in_any_call_changes_no_decision() {
    let counted = Arc::new(Mutex::new((0, 0)));
    for (seed, name) in (0..).zip(POLICIES) {
        let fake = Rc::new(Fake::new());
        let mut source = Source::new(seed);
        source.setting = Setting { policy: name, fronts: 1, shared: 0, supplied: 0, ..source.setting };
        let (setting, plan) = (source.setting, source.plan(EVENTS));
        let names = fake.call_names();
        let (runtime, told) = (fake.clone(), counted.clone());
        let build = move |name: &'static str, given: &Parameters| -> Box<dyn Policy> {
            let with =
                |of: Parameters| of.candidate_window(given.candidate_window).max_passed(given.max_passed);
            let device = policy::build(name, &with(parameters(&runtime))).expect("a policy");
            let cpu = with(Parameters::new().backend(BackendKind::Cpu));
            let cpu = policy::build(name, &cpu).expect("a policy");
            Box::new(Beside { device, cpu, expected: Assignment::new(), counted: (0, 0), told: told.clone() })
        };
        let runtime = fake.clone();
        let fail = move |call: u64, code: u64| {
            let name = &names[call as usize % names.len()];
            runtime.fail(name, 1 + (code % 3) as u32, 1, CODES[code as usize % CODES.len()]);
        };
        let mut world = World::with(setting, Some(&build), Some(Box::new(fail)));
        for (at, event) in plan.events.iter().enumerate() {
            world.play(event);
            // More often than in worlds without a device.
            if at % 36 == 0 {
                world.play(&Event::Device { call: at as u64 / 36 + 9 * seed, code: at as u64 / 36 });
            }
        }
        world.ends();
        drop((world, build));
        fake.assert_clean(name);
    }
    let (decided, failures) = *counted.lock().expect("nobody panics with it");
    assert!(decided > 20 && failures > 4, "{decided} decisions, {failures} failures");
    println!("{decided} decisions of the device, {failures} failures");
}
