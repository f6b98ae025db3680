//! The runtime and the kernel as they are found: what must be there and what may be missing, what happens
//! while one thread hangs in it, which bytes are loaded, and what a launch carries.

use std::ffi::{c_char, c_void};
use std::path::Path;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

use balanceroute::backend::ascend;
use balanceroute::policy::Parameters;

use super::support::model;
use super::support::runtime::{Fake, Parts, parameters, until};
use super::{counters, decide, decided, on_cpu, on_device};

/// No copy of a kernel lies on the disk, but for the moment in which another test loads it.
fn assert_no_copies() {
    let own = format!("balanceroute-kernel-{}-", std::process::id());
    until("copies go", || {
        let all = std::fs::read_dir(std::env::temp_dir()).expect("a folder");
        !all.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(&own))
    });
}

/// The device of a runtime decides as the CPU does. What it says of itself.
fn assert_decides(parameters: &Parameters) -> String {
    let (mut device, mut cpu) = (on_device("exact", parameters), on_cpu("exact"));
    for seed in 0..5 {
        let parts = Parts::new(seed);
        assert_eq!(decide(&mut *device, &parts.batch()), decide(&mut *cpu, &parts.batch()), "seed {seed}");
    }
    assert!(device.device().is_some(), "{}", device.describe());
    assert!(decided(&mut *device) > 0, "{}", device.describe());
    assert_no_copies();
    device.describe()
}

#[test]
fn what_may_be_missing_is_not_missed() {
    let by_handle = "aclrtKernelArgsInit";
    let optional: [(&[&str], &str); 9] = [
        (&[], "API 1.16.0)"),
        (&["aclrtGetVersion"], "version unknown)"),
        (&["aclGetRecentErrMsg"], "API 1.16.0)"),
        (&["aclrtGetDeviceInfo"], "40 vector cores, overflow gives infinity, "),
        (&["aclrtGetDeviceSatMode"], "40 vector cores, /"),
        (&["aclrtBinaryLoadFromFile"], "API 1.16.0)"),
        (&["aclrtBinaryLoadFromData"], "API 1.16.0)"),
        (&["aclrtLaunchKernelWithHostArgs"], "API 1.16.0)"),
        (&["aclrtLaunchKernelWithConfig", by_handle], "API 1.16.0)"),
    ];
    for (symbols, mention) in optional {
        let fake = Fake::without(symbols);
        let described = assert_decides(&parameters(&fake));
        assert!(described.contains(mention), "without {symbols:?}: {described}");
        fake.assert_clean("optional");
    }
    // Everything that is no more than a convenience at once, and a failure without words.
    let fake = Fake::without(&["aclrtGetVersion", "aclGetRecentErrMsg", "aclrtGetDeviceSatMode"]);
    fake.fail("aclrtMalloc", 1, 1, 207_001);
    let described = assert_failure_is_told(&fake);
    assert!(described.ends_with("aclrtMalloc returned 207001"), "{described}");
    fake.assert_clean("optional");
    // Without two ways to do something the reason names one; the version is told where it is known.
    let load = ["aclrtBinaryLoadFromData", "aclrtBinaryLoadFromFile"];
    for (version, found) in [(&[][..], "API version 1.16.0"), (&["aclrtGetVersion"], "API version unknown")] {
        let fake = Fake::without(&[&load[..], version].concat());
        let device = on_device("exact", &parameters(&fake));
        let described = device.describe();
        for mention in [found, "aclrtBinaryLoadFromFile", "CANN 8.1 or newer is needed"] {
            assert!(described.contains(mention), "{described}");
        }
    }
}

/// A device whose opening has failed decides after all. What it said in between.
fn assert_failure_is_told(fake: &Fake) -> String {
    let (mut device, mut cpu) = (on_device("exact", &parameters(fake)), on_cpu("exact"));
    let described = device.describe();
    let parts = Parts::new(1);
    until("the failure has passed", || {
        assert_eq!(decide(&mut *device, &parts.batch()), decide(&mut *cpu, &parts.batch()));
        decided(&mut *device) > 0
    });
    described
}

#[test]
fn the_mode_of_overflow_is_told() {
    for (mode, told) in
        [(0, ", overflow saturates,"), (1, ", overflow gives infinity,"), (7, ", overflow mode 7,")]
    {
        let fake = Fake::new();
        fake.overflow(mode);
        let described = assert_decides(&parameters(&fake));
        assert!(described.contains(told), "{described}");
        fake.assert_clean("overflow");
    }
}

#[test]
fn two_threads_that_open_at_once_initialise_once() {
    let fake = Fake::new();
    fake.slow("aclInit", 50_000);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_decides(&parameters(&fake)));
        }
    });
    assert_eq!(fake.calls("aclInit"), 1);
    fake.forgive();
    fake.assert_clean("together");
}

#[test]
fn a_runtime_of_two_paths_is_finalised_after_the_last_device() {
    let fake = Fake::new();
    let link = fake.path.with_extension("link.so");
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(&fake.path, &link).expect("a link");
    let mut linked = parameters(&fake);
    linked.ascend.library = Some(link);
    // Either of the two may be closed first.
    for first_goes in [true, false] {
        let finalised = fake.calls("aclFinalize");
        let (first, second) = (on_device("exact", &parameters(&fake)), on_device("exact", &linked));
        let (closed, mut open) = if first_goes { (first, second) } else { (second, first) };
        drop(closed);
        ascend::finalize();
        until("closed", || fake.live("context") == 1);
        for seed in 0..5 {
            let parts = Parts::new(seed);
            let expected = decide(&mut *on_cpu("exact"), &parts.batch());
            assert_eq!(decide(&mut *open, &parts.batch()), expected, "seed {seed}");
        }
        let counters = counters(&mut *open);
        assert!(counters.decided > 0 && counters.failures == 0, "{counters:?} {}", open.describe());
        assert_eq!(fake.calls("aclFinalize"), finalised);
        drop(open);
        fake.assert_clean("two paths");
    }
}

#[test]
fn a_runtime_that_its_engine_has_finalised_is_initialised_anew() {
    let fake = Fake::new();
    fake.foreign_init(1);
    drop(on_device("exact", &parameters(&fake)));
    let again = Parts::new(1);
    until("closed", || fake.live("all") == 0);
    fake.foreign_init(0);
    // SAFETY: as acl_min.h declares it.
    let finalize = unsafe { fake.symbol::<unsafe extern "C" fn() -> i32>("aclFinalize") };
    // SAFETY: the engine's turn; nothing lives.
    assert_eq!(unsafe { finalize() }, 0);
    let mut device = on_device("exact", &parameters(&fake));
    until("initialised", || {
        let expected = decide(&mut *on_cpu("exact"), &again.batch());
        assert_eq!(decide(&mut *device, &again.batch()), expected);
        decided(&mut *device) > 0
    });
    drop(device);
    fake.assert_clean("finalised by the engine");
}

#[test]
fn a_hang_in_the_runtime_holds_up_only_who_needs_that_runtime() {
    for call in ["aclInit", "aclFinalize"] {
        let (fake, other) = (Fake::new(), Fake::new());
        let mut hurried = parameters(&fake);
        hurried.ascend.open_timeout_ms = 1_000;
        // It is open until the hang is planned, for tests beside this one finalise what is not.
        let open = (call == "aclFinalize").then(|| on_device("exact", &parameters(&fake)));
        fake.hang(call, 1);
        std::thread::scope(|scope| {
            let hung = scope.spawn(|| match open {
                None => drop(assert_decides(&parameters(&fake))),
                Some(open) => {
                    drop(open);
                    ascend::finalize();
                }
            });
            until(call, || fake.calls(call) > 0);
            let begin = Instant::now();
            // Who wants it as well gives up in time, and has a reason.
            let mut waiting = on_device("exact", &hurried);
            let reason = "is still being initialised or finalised by another thread";
            assert!(waiting.describe().contains(reason), "{}", waiting.describe());
            let parts = Parts::new(1);
            let expected = decide(&mut *on_cpu("exact"), &parts.batch());
            assert_eq!(decide(&mut *waiting, &parts.batch()), expected);
            assert!(begin.elapsed() < Duration::from_secs(20), "{call}: {:?}", begin.elapsed());
            // Others neither wait for it nor notice it.
            assert_decides(&parameters(&other));
            ascend::finalize();
            until(call, || other.live("init") == 0);
            assert!(begin.elapsed() < Duration::from_secs(40), "{call}: {:?}", begin.elapsed());
            assert_eq!(fake.calls(call), 1, "{call}");
            fake.release();
            hung.join().expect("it returns");
            // Its turn has come.
            until(call, || {
                assert_eq!(decide(&mut *waiting, &parts.batch()), expected);
                decided(&mut *waiting) > 0
            });
        });
        // It is there again for who asks later.
        assert_decides(&parameters(&fake));
        fake.assert_clean(call);
        other.assert_clean(call);
    }
}

/// What the description calls the content of a file.
fn fnv1a(path: &Path) -> String {
    let hash = std::fs::read(path).expect("a file").iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("({hash:016x})")
}

#[test]
fn what_is_described_is_what_is_loaded() {
    for (without, load) in
        [(&[][..], "aclrtBinaryLoadFromData"), (&["aclrtBinaryLoadFromData"], "aclrtBinaryLoadFromFile")]
    {
        let fake = Fake::without(without);
        let path = model::plain_copy(&format!("described-{load}"));
        let hash = fnv1a(&path);
        let mut parameters = parameters(&fake);
        parameters.ascend.kernel = Some(path.clone());
        // Somebody installs another file between the reading and the loading.
        fake.hang(load, 1);
        let (mut device, mut cpu) = std::thread::scope(|scope| {
            let device = scope.spawn(|| on_device("exact", &parameters));
            until(load, || fake.calls(load) > 0);
            let other = path.with_extension("other");
            std::fs::write(&other, "no kernel").expect("writable");
            std::fs::rename(&other, &path).expect("in the same folder");
            fake.release();
            (device.join().expect("a policy"), on_cpu("exact"))
        });
        let described = device.describe();
        assert!(described.contains(&format!("{} {hash}", path.display())), "{hash}: {described}");
        let mut step = |device: &mut dyn balanceroute::policy::Policy, seed: u64| {
            let parts = Parts::new(seed % 20);
            assert_eq!(decide(device, &parts.batch()), decide(&mut *cpu, &parts.batch()), "{load}, {seed}");
        };
        step(&mut *device, 3);
        assert_eq!(decided(&mut *device), 1, "{}", device.describe());
        // The file that lies there now is read when the device is opened again, and is no kernel.
        fake.fail("task-launch", 1, 1, 507_018);
        let mut seed = 0;
        until(load, || {
            seed += 1;
            step(&mut *device, seed);
            counters(&mut *device).failures > 2
        });
        let described = device.describe();
        assert!(described.contains("aclrtBinaryLoadFromFile returned 107009"), "{described}");
        let both = described.contains("before that aclrtBinaryLoadFromData returned 107009");
        assert_eq!(both, without.is_empty(), "{described}");
        drop(device);
        fake.assert_clean(load);
    }
}

#[test]
fn a_kernel_that_the_runtime_takes_as_a_file_only_is_loaded_so() {
    // The call fails, or takes the bytes and then finds no first or no second entry in them.
    for (call, nth) in
        [("aclrtBinaryLoadFromData", 1), ("aclrtBinaryGetFunction", 1), ("aclrtBinaryGetFunction", 2)]
    {
        let fake = Fake::new();
        fake.fail(call, nth, 1, 507_018);
        let described = assert_decides(&parameters(&fake));
        let told = format!("through a copy, for {call} returned 507018: {call}");
        assert!(described.contains(&told), "{described}");
        assert_eq!((fake.calls("aclrtBinaryLoadFromData"), fake.calls("aclrtBinaryLoadFromFile")), (1, 1));
        assert_eq!((fake.calls("aclrtSetDevice"), fake.reclaimed()), (1, 0), "{call}, {nth}");
        fake.assert_clean("as a file");
    }
    // Neither way finds it: both are told.
    let fake = Fake::new();
    fake.fail("aclrtBinaryGetFunction", 1, 2, 507_018);
    let described = assert_failure_is_told(&fake);
    let told = "; before that aclrtBinaryGetFunction returned 507018";
    assert!(described.contains(told), "{described}");
    fake.assert_clean("neither way");
}

#[test]
fn memory_in_flight_stays_where_the_stream_cannot_be_destroyed() {
    let fake = Fake::new();
    let mut parameters = parameters(&fake);
    parameters.ascend.device_timeout_ms = 50;
    let (mut device, mut cpu) = (on_device("exact", &parameters), on_cpu("exact"));
    // The batch is still at work when its time is over, and nobody can stop it.
    fake.hang("task-launch", 1);
    fake.fail("aclrtDestroyStream", 1, 2, 500_003);
    let mut seed = 0;
    until("the device is back", || {
        seed += 1;
        let parts = Parts::new(seed % 20);
        assert_eq!(decide(&mut *device, &parts.batch()), decide(&mut *cpu, &parts.batch()), "seed {seed}");
        decided(&mut *device) > 0
    });
    assert!(device.describe().contains("aclrtDestroyStream returned 500003"), "{}", device.describe());
    drop(device);
    ascend::finalize();
    // Input and output of the batch in flight, and nothing else.
    until("closed", || fake.live("host") <= 2);
    assert_eq!((fake.live("host"), fake.live("context"), fake.live("set-device")), (2, 0, 0));
    assert_eq!(fake.violations(), 0, "{}", fake.violation());
}

/// `aclrtLaunchAttribute` of `ffi/acl/acl_min.h`.
#[repr(C)]
struct Attribute {
    id: i32,
    value: [u32; 4],
}

#[repr(C)]
struct Config {
    attributes: *mut Attribute,
    count: usize,
}

type Handle = *mut c_void;

#[test]
fn a_launch_has_one_limit_of_time() {
    // What the host sends, both ways.
    for (without, limits) in [(&[][..], true), (&["aclrtLaunchKernelWithHostArgs"], false)] {
        let fake = Fake::without(without);
        assert_decides(&parameters(&fake));
        assert_eq!(fake.live("limits-in-seconds") > 0, limits);
        assert_eq!(fake.live("limits-in-microseconds"), 0);
        fake.assert_clean("limits");
    }
    // What the fake lets pass, both ways: it would have noticed.
    let fake = Fake::new();
    macro_rules! call {
        ($name:literal($($type:ty),*), $($argument:expr),*) => {
            // SAFETY: as acl_min.h declares it; all pointers are to what lives.
            unsafe { fake.symbol::<unsafe extern "C" fn($($type),*) -> i32>($name)($($argument),*) }
        };
    }
    let (mut context, mut stream, mut binary) = (null_mut(), null_mut(), null_mut());
    let (mut function, mut list, mut parameter) = (null_mut(), null_mut(), null_mut());
    let mut memory: Handle = null_mut();
    let path = format!("{}\0", model::plain().display());
    assert_eq!(call!("aclInit"(*const c_char), std::ptr::null()), 0);
    assert_eq!(call!("aclrtSetDevice"(i32), 0), 0);
    assert_eq!(call!("aclrtCreateContext"(*mut Handle, i32), &mut context, 0), 0);
    assert_eq!(call!("aclrtCreateStream"(*mut Handle), &mut stream), 0);
    assert_eq!(call!("aclrtMalloc"(*mut Handle, usize, i32), &mut memory, 64, 0), 0);
    assert_eq!(
        call!(
            "aclrtBinaryLoadFromFile"(*const c_char, Handle, *mut Handle),
            path.as_ptr().cast(),
            null_mut(),
            &mut binary
        ),
        0
    );
    let entry = c"balanceroute_greedy".as_ptr();
    assert_eq!(
        call!("aclrtBinaryGetFunction"(Handle, *const c_char, *mut Handle), binary, entry, &mut function),
        0
    );
    assert_eq!(call!("aclrtKernelArgsInit"(Handle, *mut Handle), function, &mut list), 0);
    let mut value = memory;
    let value: Handle = (&raw mut value).cast();
    assert_eq!(
        call!("aclrtKernelArgsAppend"(Handle, Handle, usize, *mut Handle), list, value, 8, &mut parameter),
        0
    );
    assert_eq!(call!("aclrtKernelArgsFinalize"(Handle), list), 0);
    // No task runs: the arguments are no batch.
    fake.fail("task-launch", 1, u32::MAX, 500_003);
    let mut refused = 0;
    for by_handle in [false, true] {
        for (ids, fine) in
            [(&[3, 7][..], true), (&[3, 8], true), (&[3, 7, 8], false), (&[8, 7], false), (&[7, 7], false)]
        {
            let mut attributes: Vec<Attribute> =
                ids.iter().map(|&id| Attribute { id, value: [1, 0, 0, 0] }).collect();
            let mut config = Config { attributes: attributes.as_mut_ptr(), count: attributes.len() };
            // A stream whose task has failed takes no other.
            let mut stream = null_mut();
            assert_eq!(call!("aclrtCreateStream"(*mut Handle), &mut stream), 0);
            let code = if by_handle {
                call!(
                    "aclrtLaunchKernelWithConfig"(Handle, u32, Handle, *mut Config, Handle, Handle),
                    function,
                    1,
                    stream,
                    &mut config,
                    list,
                    null_mut()
                )
            } else {
                call!(
                    "aclrtLaunchKernelWithHostArgs"(
                        Handle,
                        u32,
                        Handle,
                        *mut Config,
                        Handle,
                        usize,
                        Handle,
                        usize
                    ),
                    function,
                    1,
                    stream,
                    &mut config,
                    value,
                    8,
                    null_mut(),
                    0
                )
            };
            assert_eq!(code, if fine { 0 } else { 107_000 }, "{ids:?}, by handle {by_handle}");
            refused += u64::from(!fine);
            assert_eq!(fake.violations(), refused, "{ids:?}");
            assert_eq!(call!("aclrtDestroyStream"(Handle), stream), 0);
        }
    }
    assert_eq!((fake.live("limits-in-seconds"), fake.live("limits-in-microseconds")), (2, 2));
    assert_eq!(call!("aclrtBinaryUnLoad"(Handle), binary), 0);
    assert_eq!(call!("aclrtFree"(Handle), memory), 0);
    assert_eq!(call!("aclrtDestroyStream"(Handle), stream), 0);
    assert_eq!(call!("aclrtDestroyContext"(Handle), context), 0);
    assert_eq!(call!("aclrtResetDevice"(i32), 0), 0);
    assert_eq!(call!("aclFinalize"(),), 0);
}
