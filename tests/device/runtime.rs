//! The ascend backend from `dlopen` to the picks, on a runtime without a device: the same answers as the
//! CPU's, whatever fails, and everything given back. The kernel is the device's own source on the model
//! (`kernels/model`).

mod faults;
#[cfg(unix)]
mod forks;
mod loading;
mod support;

use std::time::Duration;

use balanceroute::backend::ascend::result::{Counters, DeviceError};
use balanceroute::backend::offload::Offload;
use balanceroute::backend::{Backend, BackendKind, Reference};
use balanceroute::policy::{
    self, Decided, Order, Parameters, Plan, Policy, ProfileSpec, Rule, Submissions, View,
};
use balanceroute::score::{Age, Knot, Profile};
use balanceroute::{Assignment, Batch};
use support::runtime::{Fake, Parts, parameters, until};

const POLICIES: [&str; 5] = ["exact", "exact-oracle", "level", "brh-oracle", "jsq"];

fn on_device(name: &str, parameters: &Parameters) -> Box<dyn Policy> {
    policy::build(name, parameters).expect("a policy")
}

fn on_cpu(name: &str) -> Box<dyn Policy> {
    on_device(name, &Parameters::new().backend(BackendKind::Cpu))
}

fn decide(policy: &mut dyn Policy, batch: &Batch<'_>) -> Assignment {
    let mut out = Assignment::new();
    policy.decide(batch, &mut out);
    out
}

/// The device that a policy has.
fn at(policy: &mut dyn Policy) -> &mut dyn Submissions {
    policy.device().expect("a device")
}

fn decided(policy: &mut dyn Policy) -> u64 {
    counters(policy).decided
}

fn counters(policy: &mut dyn Policy) -> Counters {
    at(policy).counters().expect("an open device")
}

#[test]
fn the_device_answers_as_the_cpu() {
    for host_arguments in [true, false] {
        let fake = if host_arguments {
            Fake::new()
        } else {
            Fake::without(&["aclrtLaunchKernelWithHostArgs", "aclrtGetDeviceInfo"])
        };
        for name in POLICIES {
            let (mut device, mut cpu) = (on_device(name, &parameters(&fake)), on_cpu(name));
            for seed in 0..40 {
                let parts = Parts::new(seed);
                let out = decide(&mut *device, &parts.batch());
                assert_eq!(out, decide(&mut *cpu, &parts.batch()), "{name}, seed {seed}");
                parts.assert_sound(&out, name);
            }
            let counters = counters(&mut *device);
            assert!(
                counters.decided >= 20,
                "{name}: {counters:?} {} {}",
                device.describe(),
                fake.violation()
            );
            assert_eq!((counters.fallen_back, counters.failures, counters.openings), (0, 0, 1), "{name}");
            let described = device.describe();
            assert!(described.starts_with("ascend: Ascend910B3"), "{described}");
        }
        let calls =
            ["aclrtLaunchKernelWithHostArgs", "aclrtLaunchKernelWithConfig"].map(|call| fake.calls(call) > 0);
        assert_eq!(calls, [host_arguments, !host_arguments]);
        assert_eq!(fake.reclaimed(), 0);
        fake.assert_clean("answers");
    }
}

#[test]
fn a_task_that_fails_or_hangs_leaves_the_batch_to_the_cpu() {
    for task in ["task-copy", "task-launch", "task-record"] {
        for hang in [false, true] {
            let context = format!("{task}, hang {hang}");
            let fake = Fake::new();
            let mut parameters = parameters(&fake);
            parameters.ascend.device_timeout_ms = if hang { 100 } else { 20_000 };
            parameters.ascend.answer_timeout_ms = if hang { 20 } else { 20_000 };
            let (mut device, mut cpu) = (on_device("exact", &parameters), on_cpu("exact"));
            if hang {
                fake.hang(task, 2);
            } else {
                fake.fail(task, 2, 1, 507_018);
            }
            let mut failures = 0;
            let mut seed = 0;
            until(&context, || {
                seed += 1;
                let parts = Parts::new(seed % 12);
                let out = decide(&mut *device, &parts.batch());
                parts.assert_sound(&out, &context);
                assert_eq!(out, decide(&mut *cpu, &parts.batch()), "{context}, seed {seed}");
                let counters = counters(&mut *device);
                let since = counters.failures > failures;
                if since && failures == 0 {
                    // Nobody waits for a device while it rests.
                    failures = counters.failures;
                }
                counters.failures > 0 && counters.openings > 1 && counters.decided > 0
            });
            let counters = counters(&mut *device);
            assert!(counters.fallen_back > 0, "{context}: {counters:?}");
            assert_eq!(counters.late > 0, hang, "{context}: {counters:?}");
            drop(device);
            fake.assert_clean(&context);
        }
    }
}

#[test]
fn a_call_that_never_returns_holds_nobody_up() {
    let fake = Fake::new();
    let mut parameters = parameters(&fake);
    parameters.ascend.answer_timeout_ms = 20;
    let (mut device, mut cpu) = (on_device("level", &parameters), on_cpu("level"));
    fake.hang("aclrtMemcpyAsync", 1);
    let begin = std::time::Instant::now();
    for seed in 0..20 {
        let parts = Parts::new(seed);
        assert_eq!(decide(&mut *device, &parts.batch()), decide(&mut *cpu, &parts.batch()), "seed {seed}");
    }
    // One late answer, and then nobody asks.
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(counters(&mut *device).late, 1);
    assert!(fake.calls("aclrtMemcpyAsync") > 0);
    fake.release();
    let mut seed = 0;
    until("released", || {
        seed += 1;
        let parts = Parts::new(seed % 20);
        assert_eq!(decide(&mut *device, &parts.batch()), decide(&mut *cpu, &parts.batch()), "seed {seed}");
        decided(&mut *device) > 0
    });
    drop(device);
    fake.assert_clean("released");
}

#[test]
fn a_lost_context_is_opened_again() {
    let fake = Fake::new();
    let (mut device, mut cpu) = (on_device("exact", &parameters(&fake)), on_cpu("exact"));
    let mut seed = 0;
    for loss in 1..=3 {
        fake.lose_contexts();
        let before = decided(&mut *device);
        until("a lost context", || {
            seed += 1;
            let parts = Parts::new(seed % 20);
            assert_eq!(
                decide(&mut *device, &parts.batch()),
                decide(&mut *cpu, &parts.batch()),
                "seed {seed}"
            );
            decided(&mut *device) > before
        });
        let counters = counters(&mut *device);
        assert_eq!((counters.failures, counters.openings), (loss, loss + 1));
    }
    assert!(device.describe().contains("107002"), "{}", device.describe());
    drop(device);
    fake.assert_clean("lost");
}

#[test]
fn a_wrong_answer_is_refused_and_the_device_opened_again() {
    // Status, number of picks, a column's score, the first pick's entry, worker and score.
    let parts = Parts::new(3);
    let batch = parts.batch();
    let columns = batch.workers().len() as u64 * 32;
    let mut refused = 0;
    for offset in [8, 12, 64 + columns, 64 + columns + 4, 64 + columns + 8] {
        let fake = Fake::new();
        let (mut device, mut cpu) = (on_device("exact", &parameters(&fake)), on_cpu("exact"));
        fake.corrupt(1, offset);
        assert_eq!(decide(&mut *device, &batch), decide(&mut *cpu, &batch), "byte {offset}");
        refused += counters(&mut *device).refused;
        until("refused", || {
            assert_eq!(decide(&mut *device, &batch), decide(&mut *cpu, &batch), "byte {offset}");
            decided(&mut *device) > 0
        });
        drop(device);
        fake.assert_clean("refused");
    }
    assert_eq!(refused, 5);
}

#[test]
fn a_device_that_is_not_there_is_a_reason() {
    let check = |fake: &Fake, change: &dyn Fn(&mut Parameters), mention: &[&str]| {
        let mut parameters = parameters(fake);
        change(&mut parameters);
        for backend in [BackendKind::Ascend, BackendKind::Auto] {
            let parameters = parameters.clone().backend(backend);
            let (mut device, mut cpu) = (on_device("exact", &parameters), on_cpu("exact"));
            let described = device.describe();
            for mention in mention {
                assert!(described.contains(mention), "{mention} is not in {described}");
            }
            for seed in 0..5 {
                let parts = Parts::new(seed);
                let batch = parts.batch();
                assert_eq!(decide(&mut *device, &batch), decide(&mut *cpu, &batch));
            }
            // A device whose opening fails later is there, and hands everything back to the CPU.
            if let Some(device) = device.device() {
                let parts = Parts::new(9);
                let ticket = device.submit(&parts.batch());
                let mut out = Assignment::new();
                device.collect(ticket, &parts.batch(), Duration::from_secs(1), &mut out);
                assert_eq!(out, decide(&mut *cpu, &parts.batch()));
            }
        }
        fake.assert_clean(mention[0]);
    };
    let none = |_: &mut Parameters| {};
    let fake = Fake::new;
    let missing =
        |parameters: &mut Parameters| parameters.ascend.library = Some("/no/such/libacl_rt.so".into());
    check(&fake(), &missing, &["no Ascend runtime", "/no/such/libacl_rt.so"]);
    check(&Fake::without(&["aclrtMallocHost"]), &none, &["no symbol aclrtMallocHost"]);
    check(
        &Fake::without(&["aclrtBinaryLoadFromFile", "aclrtBinaryLoadFromData"]),
        &none,
        &["API version 1.16.0", "CANN 8.1", "aclrtBinaryLoadFromFile"],
    );
    let no_launch = ["aclrtLaunchKernelWithHostArgs", "aclrtLaunchKernelWithConfig"];
    check(&Fake::without(&no_launch), &none, &["CANN 8.1", "aclrtLaunchKernelWithConfig"]);
    let newer = fake();
    newer.version(2, 0, 1);
    check(&newer, &none, &["API version 2.0.1, expected 1.x"]);
    let empty = fake();
    empty.devices(0);
    check(&empty, &none, &["device 0", "finds 0"]);
    check(&fake(), &|parameters| parameters.ascend.device = Some(3), &["device 3", "finds 1"]);
    let other = fake();
    other.soc("Ascend310P3");
    check(&other, &none, &["no kernel for Ascend310P3"]);
    check(
        &fake(),
        &|parameters| parameters.ascend.kernel = Some("/no/kernel.o".into()),
        &["no kernel for Ascend910B3", "/no/kernel.o"],
    );
}

#[test]
fn a_device_without_memory_is_tried_again() {
    let fake = Fake::new();
    fake.memory(1 << 20);
    let (mut device, mut cpu) = (on_device("exact", &parameters(&fake)), on_cpu("exact"));
    assert!(device.describe().contains("207001"), "{}", device.describe());
    let parts = Parts::new(1);
    assert_eq!(decide(&mut *device, &parts.batch()), decide(&mut *cpu, &parts.batch()));
    fake.memory(u64::MAX);
    until("memory is back", || {
        assert_eq!(decide(&mut *device, &parts.batch()), decide(&mut *cpu, &parts.batch()));
        decided(&mut *device) > 0
    });
    drop(device);
    fake.assert_clean("memory");
}

#[test]
fn an_engine_that_initialised_the_runtime_keeps_it() {
    let fake = Fake::new();
    fake.foreign_init(1);
    let mut device = on_device("exact", &parameters(&fake));
    let parts = Parts::new(1);
    decide(&mut *device, &parts.batch());
    assert_eq!(decided(&mut *device), 1);
    drop(device);
    fake.assert_clean("foreign");
    assert_eq!(fake.calls("aclFinalize"), 0);
}

#[test]
fn submissions_overlap_the_caller_and_are_collected_in_any_order() {
    let patience = Duration::from_secs(20);
    for name in POLICIES {
        let fake = Fake::new();
        let (mut device, mut cpu) = (on_device(name, &parameters(&fake)), on_cpu(name));
        let parts: Vec<Parts> = (0..3).map(Parts::new).collect();
        let mut out = Assignment::new();
        // The launch waits for us: whoever waited for it here would wait for ever.
        fake.hang("task-launch", 1);
        let first = at(&mut *device).submit(&parts[0].batch());
        let second = at(&mut *device).submit(&parts[1].batch());
        assert!(!at(&mut *device).poll(&first) && !at(&mut *device).poll(&second), "{name}");
        let third = at(&mut *device).submit(&parts[2].batch());
        assert!(at(&mut *device).poll(&third), "{name}: it never left");
        until(name, || fake.calls("task-launch") > 0);
        fake.release();
        until(name, || at(&mut *device).poll(&first) && at(&mut *device).poll(&second));
        assert_eq!(
            at(&mut *device).collect(second, &parts[1].batch(), patience, &mut out),
            Decided::Device,
            "{name}"
        );
        assert_eq!(out, decide(&mut *cpu, &parts[1].batch()), "{name}");
        assert_eq!(
            at(&mut *device).collect(first, &parts[0].batch(), patience, &mut out),
            Decided::Device,
            "{name}"
        );
        assert_eq!(out, decide(&mut *cpu, &parts[0].batch()), "{name}");
        let busy = Decided::InsteadOfDevice(DeviceError::Busy { in_flight: 2 });
        assert_eq!(at(&mut *device).collect(third, &parts[2].batch(), patience, &mut out), busy, "{name}");
        assert_eq!(out, decide(&mut *cpu, &parts[2].batch()), "{name}");
        // What is given up leaves its place to others; what is collected for another batch is not believed.
        for _ in 0..4 {
            let ticket = at(&mut *device).submit(&parts[0].batch());
            at(&mut *device).discard(ticket);
            until(name, || counters(&mut *device).submitted > 0);
        }
        until(name, || {
            let ticket = at(&mut *device).submit(&parts[0].batch());
            let by = at(&mut *device).collect(ticket, &parts[1].batch(), patience, &mut out);
            assert_eq!(out, decide(&mut *cpu, &parts[1].batch()), "{name}");
            matches!(by, Decided::InsteadOfDevice(DeviceError::Ticket { .. }))
        });
        // Nor for one in which somebody has been passed since.
        let later = Parts::new(0).passed_again();
        until(name, || {
            let ticket = at(&mut *device).submit(&parts[0].batch());
            let by = at(&mut *device).collect(ticket, &later.batch(), patience, &mut out);
            assert_eq!(out, decide(&mut *cpu, &later.batch()), "{name}");
            matches!(by, Decided::InsteadOfDevice(DeviceError::Ticket { .. }))
        });
        drop(device);
        fake.assert_clean(name);
    }
}

#[test]
fn a_collection_waits_no_longer_than_it_says() {
    let fake = Fake::new();
    let (mut device, mut cpu) = (on_device("exact", &parameters(&fake)), on_cpu("exact"));
    let parts = Parts::new(5);
    let mut out = Assignment::new();
    fake.hang("task-launch", 1);
    let ticket = at(&mut *device).submit(&parts.batch());
    until("the launch", || fake.calls("task-launch") > 0);
    let by = at(&mut *device).collect(ticket, &parts.batch(), Duration::from_millis(10), &mut out);
    assert_eq!(by, Decided::InsteadOfDevice(DeviceError::Late { waited_ms: 10 }));
    assert_eq!(out, decide(&mut *cpu, &parts.batch()));
    // Nobody is sent after an answer that is out.
    std::thread::sleep(Duration::from_millis(5));
    let ticket = at(&mut *device).submit(&parts.batch());
    let by = at(&mut *device).collect(ticket, &parts.batch(), Duration::from_secs(20), &mut out);
    assert!(matches!(by, Decided::InsteadOfDevice(DeviceError::Resting { .. })), "{by:?}");
    // What is given up meanwhile does not make it late.
    fake.release();
    until("the late answer", || {
        let ticket = at(&mut *device).submit(&parts.batch());
        let by = at(&mut *device).collect(ticket, &parts.batch(), Duration::from_secs(20), &mut out);
        assert_eq!(out, decide(&mut *cpu, &parts.batch()));
        by == Decided::Device
    });
    assert_eq!(counters(&mut *device).failures, 0);
    drop(device);
    fake.assert_clean("late");
}

#[test]
fn a_device_that_is_always_late_is_asked_ever_more_rarely() {
    let fake = Fake::new();
    fake.slow("task-launch", 30_000);
    let mut parameters = parameters(&fake);
    parameters.ascend.answer_timeout_ms = 5;
    (parameters.ascend.rest_ms, parameters.ascend.longest_rest_ms) = (100, 60_000);
    let (mut device, mut cpu) = (on_device("exact", &parameters), on_cpu("exact"));
    let begin = std::time::Instant::now();
    let mut seed = 0;
    while begin.elapsed() < Duration::from_millis(1_000) {
        seed += 1;
        let parts = Parts::new(seed % 20);
        assert_eq!(decide(&mut *device, &parts.batch()), decide(&mut *cpu, &parts.batch()), "seed {seed}");
    }
    // At 0, 0.1, 0.3 and 0.7 s, a little later each.
    let late = counters(&mut *device).late;
    assert!((2..=4).contains(&late), "{late} late answers in a second");
    drop(device);
    // The measured choice learns it from the first.
    let parameters = parameters.backend(BackendKind::Auto);
    let device = on_device("exact", &parameters);
    assert!(
        device.describe().contains("the device is faster nowhere with terms per pair"),
        "{}",
        device.describe()
    );
    drop(device);
    fake.forgive();
    fake.assert_clean("slow");
}

#[test]
fn auto_measures_and_leaves_a_slow_device_alone() {
    let fake = Fake::new();
    fake.slow("task-launch", 3_000);
    let parameters = parameters(&fake).backend(BackendKind::Auto);
    let (mut device, mut cpu) = (on_device("exact", &parameters), on_cpu("exact"));
    let measured = decided(&mut *device);
    assert!(measured >= 8, "{measured} batches measured on the device");
    assert!(
        device.describe().contains("the device is faster nowhere with terms per pair"),
        "{}",
        device.describe()
    );
    for seed in 0..60 {
        let parts = Parts::new(seed);
        assert_eq!(decide(&mut *device, &parts.batch()), decide(&mut *cpu, &parts.batch()), "seed {seed}");
    }
    assert_eq!(decided(&mut *device), measured, "a launch of 3 ms is slower than any of these on the CPU");
    drop(device);
    fake.assert_clean("auto");
}

/// The published score, as a rule of the caller's own.
#[derive(Clone, Copy)]
struct Margin;

impl Rule for Margin {
    fn begin(&mut self, batch: &Batch<'_>, _load_offsets: &mut Vec<i64>) -> Plan {
        let sum: u64 = batch.workers().iter().map(|worker| worker.load_tokens).sum();
        Plan::new()
            .order(Order::Matrix)
            .age(Age { linear: 3.0, quadratic: 0.0 })
            .envelope_floor(sum as i64 / batch.workers().len() as i64)
    }

    fn profile(&self, view: &View<'_>, _class: Option<&[f32]>, profile: &mut Profile) {
        profile.slope = 1;
        profile.knots.push(Knot { at_tokens: view.envelope - view.cost, weight: view.workers });
    }

    fn profile_spec(&self, batch: &Batch<'_>) -> Option<ProfileSpec<'_>> {
        Some(ProfileSpec::Margin { slope: 1, weight: batch.workers().len() as i64 })
    }
}

#[test]
fn many_batches_share_a_launch() {
    let fake = Fake::new();
    let mut device = Offload::open(&parameters(&fake).ascend).expect("a device");
    let all: Vec<Parts> = (0..24).map(Parts::new).collect();
    let mut decide = |fake: &Fake, from: usize, to: usize| {
        let batches: Vec<Batch<'_>> = all[from..to].iter().map(Parts::batch).collect();
        let mut found = vec![Assignment::new(); batches.len()];
        let launches = fake.calls("task-launch");
        device.assign_many(&mut vec![Margin; batches.len()], &batches, &mut found);
        for (batch, found) in batches.iter().zip(&found) {
            let mut expected = Assignment::new();
            Reference.assign(&mut Margin, batch, &mut expected);
            assert_eq!(*found, expected);
        }
        fake.calls("task-launch") - launches
    };
    assert_eq!(decide(&fake, 0, 24), 1);
    assert_eq!(decide(&fake, 3, 9), 1);
    // The CPU decides the whole group where the launch fails.
    fake.fail("task-launch", 1, 1, 507_018);
    assert_eq!(decide(&fake, 0, 12), 1);
    until("the device is back", || decide(&fake, 0, 12) == 1);
    drop(device);
    fake.assert_clean("group");
}

#[test]
fn an_opening_that_never_ends_is_given_up() {
    let fake = Fake::new();
    let mut parameters = parameters(&fake);
    parameters.ascend.open_timeout_ms = 50;
    fake.hang("aclrtCreateContext", 1);
    let (mut device, mut cpu) = (on_device("exact", &parameters), on_cpu("exact"));
    assert!(device.describe().contains("not open after 50 ms"), "{}", device.describe());
    let parts = Parts::new(2);
    assert_eq!(decide(&mut *device, &parts.batch()), decide(&mut *cpu, &parts.batch()));
    drop(device);
    // What was left behind in the runtime gives everything back when it gets out.
    fake.release();
    fake.assert_clean("opening");
}

#[test]
fn a_policy_is_dropped_while_its_device_hangs() {
    for call in ["task-launch", "aclrtSynchronizeStreamWithTimeout"] {
        let fake = Fake::new();
        let mut device = on_device("level", &parameters(&fake));
        fake.hang(call, 1);
        let parts = Parts::new(2);
        let ticket = at(&mut *device).submit(&parts.batch());
        until(call, || fake.calls(call) > 0);
        let begin = std::time::Instant::now();
        drop(device);
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        drop(ticket);
        fake.release();
        fake.assert_clean(call);
    }
}

#[test]
fn an_error_of_closing_is_told_to_who_closed() {
    let fake = Fake::new();
    let (closing, mut open) =
        (on_device("exact", &parameters(&fake)), on_device("exact", &parameters(&fake)));
    let mut cpu = on_cpu("exact");
    // Another device is still being closed, and has failed to give something back, while this one decides.
    fake.fail("aclrtFree", 1, 1, 500_003);
    fake.hang("aclrtDestroyContext", 1);
    drop(closing);
    until("closing", || fake.calls("aclrtFree") > 1 && fake.calls("aclrtDestroyContext") > 0);
    for seed in 0..5 {
        let parts = Parts::new(seed);
        assert_eq!(decide(&mut *open, &parts.batch()), decide(&mut *cpu, &parts.batch()), "seed {seed}");
    }
    let counters = counters(&mut *open);
    assert!(counters.decided > 0 && counters.failures == 0, "{counters:?} {}", open.describe());
    fake.release();
    drop(open);
    fake.assert_clean("closing");
}

#[test]
fn a_policy_moves_between_threads() {
    let fake = Fake::new();
    let mut device = on_device("exact", &parameters(&fake));
    for seed in 0..6 {
        let parts = Parts::new(seed);
        let expected = decide(&mut *on_cpu("exact"), &parts.batch());
        device = std::thread::spawn(move || {
            assert_eq!(decide(&mut *device, &parts.batch()), expected, "seed {seed}");
            device
        })
        .join()
        .expect("no panic");
    }
    assert!(decided(&mut *device) > 0);
    std::thread::spawn(move || drop(device)).join().expect("no panic");
    fake.assert_clean("threads");
}

#[test]
fn nothing_links_to_the_runtime() {
    let own = std::env::current_exe().expect("a path");
    let out =
        std::process::Command::new("nm").args(["-D", "--undefined-only"]).arg(own).output().expect("nm");
    assert!(out.status.success());
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.contains("dlsym"), "nm lists what is looked up: {text}");
    let linked: Vec<&str> = text.lines().filter(|line| line.contains(" acl")).collect();
    assert!(linked.is_empty(), "{linked:?}");
}
