//! One fault in each call of the runtime that the host makes: it fails or never returns. Every decision is
//! the oracle's, the description has the reason, everything is given back, and the device is there again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use balanceroute::Assignment;
use balanceroute::policy::{Parameters, Policy};

use super::support::runtime::{Fake, Parts, parameters, until};
use super::{counters, decide, decided, on_cpu, on_device};

/// When the host makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// While it opens a device.
    Opening,
    /// While it runs a batch.
    Batch,
    /// While it closes a device.
    Closing,
    /// When another call has failed.
    Failure,
    /// When the process is done with the runtime.
    End,
}

/// What the description says after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// The call and its error value.
    Code,
    /// The call, which returns no error value.
    Null,
    /// The other call and its error value, without words.
    WithoutWords,
    /// Nothing: nobody is there any more.
    Nothing,
}

use At::{Batch, Closing, End, Failure, Opening};
use Told::{Code, Nothing, Null, WithoutWords};

/// Runtimes without a younger way to do something.
const NEW: &[&str] = &[];
const LOADS_FILES: &[&str] = &["aclrtBinaryLoadFromData"];
const LAUNCHES_BY_HANDLE: &[&str] = &["aclrtLaunchKernelWithHostArgs"];

/// Every function of `ffi/acl/acl_min.h`: on which runtime it is called, when, and what a failure shows.
const CALLS: [(&str, &[&str], At, Told); 34] = [
    ("aclInit", NEW, Opening, Code),
    ("aclFinalize", NEW, End, Nothing),
    ("aclrtGetVersion", NEW, Opening, Code),
    ("aclrtGetSocName", NEW, Opening, Null),
    ("aclGetRecentErrMsg", NEW, Failure, WithoutWords),
    ("aclrtGetDeviceCount", NEW, Opening, Code),
    ("aclrtGetDeviceInfo", NEW, Opening, Code),
    ("aclrtGetDeviceSatMode", NEW, Opening, Code),
    ("aclrtSetDevice", NEW, Opening, Code),
    ("aclrtResetDevice", NEW, Closing, Code),
    ("aclrtCreateContext", NEW, Opening, Code),
    ("aclrtSetCurrentContext", NEW, Opening, Code),
    ("aclrtDestroyContext", NEW, Closing, Code),
    ("aclrtCreateStream", NEW, Opening, Code),
    ("aclrtDestroyStream", NEW, Closing, Code),
    ("aclrtSynchronizeStreamWithTimeout", NEW, Batch, Code),
    ("aclrtCreateEvent", NEW, Opening, Code),
    ("aclrtRecordEvent", NEW, Batch, Code),
    ("aclrtEventElapsedTime", NEW, Batch, Code),
    ("aclrtDestroyEvent", NEW, Closing, Code),
    ("aclrtMalloc", NEW, Opening, Code),
    ("aclrtFree", NEW, Closing, Code),
    ("aclrtMallocHost", NEW, Opening, Code),
    ("aclrtFreeHost", NEW, Closing, Code),
    ("aclrtMemcpyAsync", NEW, Batch, Code),
    ("aclrtBinaryLoadFromFile", LOADS_FILES, Opening, Code),
    ("aclrtBinaryLoadFromData", NEW, Opening, Code),
    ("aclrtBinaryGetFunction", NEW, Opening, Code),
    ("aclrtBinaryUnLoad", NEW, Closing, Code),
    ("aclrtKernelArgsInit", LAUNCHES_BY_HANDLE, Opening, Code),
    ("aclrtKernelArgsAppend", LAUNCHES_BY_HANDLE, Opening, Code),
    ("aclrtKernelArgsFinalize", LAUNCHES_BY_HANDLE, Opening, Code),
    ("aclrtLaunchKernelWithConfig", LAUNCHES_BY_HANDLE, Batch, Code),
    ("aclrtLaunchKernelWithHostArgs", NEW, Batch, Code),
];

/// For what ends by itself, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(20);
/// For what hangs.
const HURRY: Duration = Duration::from_millis(20);

/// Failure inside, out of memory, a lost context, a device that is gone.
const CODES: [i32; 4] = [500_003, 207_001, 107_002, 507_018];

/// The functions that a header declares: names that begin with `acl`, before a list of parameters.
fn declared(header: &str) -> BTreeSet<String> {
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    let names = header.match_indices('(').filter_map(|(at, _)| {
        let before = &header[..at];
        let name = &before[before.rfind(|letter| !is_name(letter)).map_or(0, |from| from + 1)..];
        name.starts_with("acl").then(|| name.to_owned())
    });
    names.collect()
}

#[test]
fn every_function_of_the_header_has_its_fault() {
    let header = std::fs::read_to_string(super::support::root("ffi/acl/acl_min.h")).expect("the header");
    let faults: BTreeSet<String> = CALLS.iter().map(|(call, ..)| (*call).to_owned()).collect();
    assert_eq!(declared(&header), faults);
    assert_eq!(Fake::new().call_names().into_iter().collect::<BTreeSet<_>>(), faults);
}

/// A policy on the device beside the CPU's; every decision of both is compared.
struct Pair<'a> {
    device: Box<dyn Policy>,
    cpu: Box<dyn Policy>,
    context: &'a str,
    seed: u64,
    /// All that the description has said.
    told: Vec<String>,
}

impl<'a> Pair<'a> {
    fn new(parameters: &Parameters, context: &'a str) -> Self {
        let device = on_device("exact", parameters);
        let told = vec![device.describe()];
        Self { device, cpu: on_cpu("exact"), context, seed: 0, told }
    }

    fn step(&mut self) {
        self.step_within(PATIENCE);
    }

    /// Decides, and waits for the device no longer than this.
    fn step_within(&mut self, timeout: Duration) {
        let (parts, context) = (Parts::new(self.seed % 20), self.context);
        let mut out = Assignment::new();
        match self.device.device() {
            Some(device) => {
                let ticket = device.submit(&parts.batch());
                device.collect(ticket, &parts.batch(), timeout, &mut out);
            }
            None => self.device.decide(&parts.batch(), &mut out),
        }
        parts.assert_sound(&out, context);
        assert_eq!(out, decide(&mut *self.cpu, &parts.batch()), "{context}, seed {}", self.seed);
        self.seed += 1;
        self.told.push(self.device.describe());
    }

    /// Decides until the device has decided once more.
    fn until_decided(&mut self) {
        let before = decided(&mut *self.device);
        let context = self.context;
        until(context, || {
            self.step();
            decided(&mut *self.device) > before
        });
    }

    /// Lets a kernel fail, so that the device is closed and opened again.
    fn reopen(&mut self, fake: &Fake) {
        let before = counters(&mut *self.device).openings;
        fake.fail("task-launch", 1, 1, 507_018);
        let context = self.context;
        until(context, || {
            self.step();
            counters(&mut *self.device).openings > before
        });
        self.until_decided();
    }

    fn has_told(&self, what: &str) -> bool {
        self.told.iter().any(|told| told.contains(what))
    }
}

/// Each call fails at its nth use. The device is opened six times, four of them with the runtime initialised
/// already.
fn each_call_fails(nth: u32) {
    for (at, &(call, without, when, told)) in CALLS.iter().enumerate() {
        let (context, code) = (format!("{call} fails, use {nth}"), CODES[at % CODES.len()]);
        let fake = Fake::without(without);
        fake.fail(call, nth, 1, code);
        let mut reasons = Vec::new();
        for _ in 0..2 {
            let mut pair = Pair::new(&parameters(&fake), &context);
            if when == Failure {
                // It is asked for words after another failure.
                fake.fail("aclrtRecordEvent", 1, nth, 500_003);
            }
            pair.until_decided();
            pair.reopen(&fake);
            pair.reopen(&fake);
            // What failed as the device was closed is found as it is opened.
            pair.until_decided();
            reasons.push(match told {
                Code => pair.has_told(&format!("{call} returned {code}")),
                Null => pair.has_told(&format!("{call} returned 0")),
                // The number is the last that is said.
                WithoutWords => pair.told.iter().any(|told| told.ends_with("returned 500003")),
                Nothing => true,
            });
            drop(pair);
            fake.assert_clean(&context);
        }
        assert!(fake.calls(call) >= u64::from(nth), "{context}: {} calls", fake.calls(call));
        assert!(reasons.contains(&true), "{context}: the description never had the reason");
    }
}

#[test]
fn each_call_fails_at_its_first_use() {
    each_call_fails(1);
}

#[test]
fn each_call_fails_at_its_second_use() {
    each_call_fails(2);
}

#[test]
fn each_call_hangs_while_the_cpu_decides() {
    // Most of the time is waiting.
    for calls in CALLS.chunks(6) {
        std::thread::scope(|scope| {
            for &(call, without, when, _) in calls {
                scope.spawn(move || a_call_hangs(call, without, when));
            }
        });
    }
}

fn a_call_hangs(call: &str, without: &[&str], when: At) {
    let context = format!("{call} hangs");
    let fake = Fake::without(without);
    let hangs = || until(&context, || fake.calls(call) > 0);
    if when == Opening {
        fake.hang(call, 1);
        let mut hurried = parameters(&fake);
        hurried.ascend.open_timeout_ms = 50;
        let mut pair = Pair::new(&hurried, &context);
        assert!(pair.has_told("not open after 50 ms"), "{context}: {}", pair.told[0]);
        pair.step();
        hangs();
        drop(pair);
        fake.release();
        fake.assert_clean(&context);
        // Whatever was left behind, the next device is as good as the first.
        let mut pair = Pair::new(&parameters(&fake), &context);
        pair.until_decided();
        drop(pair);
        fake.assert_clean(&context);
        return;
    }
    if when == End {
        // A test of its own: it is the caller of `finalize` who waits.
        return;
    }
    // Once it returns and the device is asked again; once the policy is dropped meanwhile.
    for dropped in [false, true] {
        let mut pair = Pair::new(&parameters(&fake), &context);
        pair.until_decided();
        fake.hang(call, 1);
        let calls = fake.calls(call);
        match when {
            Closing => fake.fail("task-launch", 1, 1, 507_018),
            Failure => fake.fail("aclrtRecordEvent", 1, 1, 500_003),
            _ => {}
        }
        let begin = Instant::now();
        until(&context, || {
            pair.step_within(HURRY);
            fake.calls(call) > calls
        });
        for _ in 0..5 {
            pair.step_within(HURRY);
        }
        assert!(begin.elapsed() < PATIENCE, "{context}: {:?}", begin.elapsed());
        let begin = Instant::now();
        if dropped {
            drop(pair);
            assert!(begin.elapsed() < PATIENCE, "{context}: {:?}", begin.elapsed());
            fake.release();
        } else {
            fake.release();
            pair.until_decided();
            let reasons = ["no answer within 20 ms", "returned 507018", "returned 500003"];
            assert!(reasons.iter().any(|reason| pair.has_told(reason)), "{context}: {:?}", pair.told);
            drop(pair);
        }
        fake.assert_clean(&context);
    }
}
