//! A process that is forked from one with an open device: every decision is the CPU's, at once and with the
//! reason, and the parent's device does not notice.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use balanceroute::Assignment;
use balanceroute::backend::ascend::result::{DeviceError, LoadError};
use balanceroute::backend::ascend::{self, AscendParameters};
use balanceroute::policy::{Decided, Policy};

use super::support::runtime::{Fake, Parts, parameters, until};
use super::{at, counters, decide, decided, on_cpu, on_device};

unsafe extern "C" {
    fn fork() -> i32;
    fn waitpid(process: i32, status: *mut i32, options: i32) -> i32;
    fn kill(process: i32, signal: i32) -> i32;
    fn _exit(status: i32) -> !;
}

const NO_HANG: i32 = 1;
const SIGKILL: i32 = 9;

/// Runs this in a forked process. What it returned, or none where it did not end.
fn forked(run: impl FnOnce() -> u8) -> Option<u8> {
    // SAFETY: the child runs `run`, which takes no lock that another thread of this process may hold, and
    // ends without running anything else.
    let child = unsafe { fork() };
    assert!(child >= 0, "no process");
    if child == 0 {
        let status = catch_unwind(AssertUnwindSafe(run)).unwrap_or(255);
        // SAFETY: it ends this process.
        unsafe { _exit(i32::from(status)) }
    }
    let (begin, mut status) = (Instant::now(), 0);
    // SAFETY: our own child, and a place to write to.
    while unsafe { waitpid(child, &mut status, NO_HANG) } == 0 {
        if begin.elapsed() > Duration::from_secs(20) {
            // SAFETY: our own child, which has not been awaited yet.
            unsafe {
                kill(child, SIGKILL);
                waitpid(child, &mut status, 0);
            }
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    (status & 0x7f == 0).then_some((status >> 8) as u8)
}

/// The number of the first thing that is wrong in a child, or zero.
fn in_a_child(mut device: Box<dyn Policy>, fake: &Fake, open: &AscendParameters) -> u8 {
    let is_forked =
        |by: &Decided| matches!(by, Decided::InsteadOfDevice(DeviceError::Load(LoadError::Forked)));
    let reason = "this process was forked from the one that opened the device";
    let (begin, mut cpu) = (Instant::now(), on_cpu("exact"));
    for seed in 0..10 {
        let parts = Parts::new(seed);
        if decide(&mut *device, &parts.batch()) != decide(&mut *cpu, &parts.batch()) {
            return 1;
        }
        let ticket = at(&mut *device).submit(&parts.batch());
        let mut out = Assignment::new();
        let by = at(&mut *device).collect(ticket, &parts.batch(), Duration::from_secs(60), &mut out);
        if !is_forked(&by) || out != decide(&mut *cpu, &parts.batch()) {
            return 2;
        }
    }
    if !device.describe().contains(reason) {
        return 3;
    }
    let dropped = Instant::now();
    drop(device);
    // Waiting for the thread would take half a second.
    if dropped.elapsed() > Duration::from_millis(400) {
        return 4;
    }
    // A device of the child's own would need the parent's runtime.
    if !ascend::probe(open).is_err_and(|error| error.to_string() == reason) {
        return 5;
    }
    ascend::finalize();
    if fake.calls("aclFinalize") + fake.calls("aclrtDestroyStream") + fake.calls("aclrtFreeHost") > 0 {
        return 6;
    }
    // One batch that waited would have taken longer.
    if begin.elapsed() > Duration::from_secs(15) {
        return 7;
    }
    0
}

#[test]
fn a_forked_process_decides_on_the_cpu_at_once() {
    let fake = Fake::new();
    let parameters = parameters(&fake);
    let mut device = on_device("exact", &parameters);
    let parts = Parts::new(1);
    let expected = decide(&mut *on_cpu("exact"), &parts.batch());
    assert_eq!(decide(&mut *device, &parts.batch()), expected);
    // The fake's threads have let go of its lock.
    std::thread::sleep(Duration::from_millis(50));
    // The child takes its own copy of the policy.
    let mut device = Some(device);
    let status = forked(|| device.take().map_or(254, |device| in_a_child(device, &fake, &parameters.ascend)));
    assert_eq!(status, Some(0), "the number of what is wrong");
    // The parent's device is as it was.
    let mut device = device.expect("the child took its own");
    let before = decided(&mut *device);
    assert_eq!(decide(&mut *device, &parts.batch()), expected);
    let counters = counters(&mut *device);
    assert!(counters.decided > before && counters.fallen_back + counters.failures == 0, "{counters:?}");
    drop(device);
    until("closed", || fake.live("context") == 0);
    fake.assert_clean("forked");
}
