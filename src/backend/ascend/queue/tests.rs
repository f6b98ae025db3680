//! The thread on a runtime without a device (`ffi/acl/fake`): what becomes of everybody when something
//! panics.

use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// A runtime of its own, with a kernel that has the entries and is never launched.
struct Fake {
    folder: PathBuf,
    library: libloading::Library,
}

impl Fake {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("balanceroute-queue-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let kernel = folder.join("kernel.c");
        std::fs::write(&kernel, "void balanceroute_columns(void) {}\nvoid balanceroute_greedy(void) {}\n")
            .expect("a file");
        let fake = Path::new(env!("CARGO_MANIFEST_DIR")).join("ffi/acl/fake/fake.c");
        for (source, library) in [(&fake, "libacl_fake.so"), (&kernel, "kernel.o")] {
            let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
            let mut command = Command::new(compiler);
            command.args(["-std=gnu11", "-fPIC", "-shared", "-pthread"]).arg(source);
            command.arg("-ldl").arg("-o").arg(folder.join(library));
            assert!(command.status().expect("a C compiler").success(), "{command:?}");
        }
        // SAFETY: the library has no initialisers.
        let library = unsafe { libloading::Library::new(folder.join("libacl_fake.so")) }.expect("it loads");
        Self { folder, library }
    }

    fn open(&self) -> Queue {
        let options = OpenOptions {
            library: Some(self.folder.join("libacl_fake.so")),
            kernel: Some(self.folder.join("kernel.o")),
            device: 0,
            timeout_ms: 20_000,
        };
        let rest = Duration::from_millis(1);
        Queue::open(options, Timeouts { open: PATIENCE, rest, longest_rest: rest }).expect("a device")
    }

    fn hang(&self, call: &str) {
        let call = CString::new(call).expect("a name");
        // SAFETY: as fake.h declares it.
        unsafe {
            type Hang = unsafe extern "C" fn(*const c_char, u32) -> i32;
            let hang = self.library.get::<Hang>(b"fake_hang\0").expect("a control");
            assert_eq!(hang(call.as_ptr(), 1), 0);
        }
    }

    fn release(&self) {
        // SAFETY: as fake.h declares it.
        unsafe { self.library.get::<unsafe extern "C" fn()>(b"fake_release\0").expect("a control")() }
    }

    fn count(&self, call: &str, what: &str) -> u64 {
        let (call, what) = (format!("{call}\0"), CString::new(what).expect("a name"));
        // SAFETY: as fake.h declares them.
        unsafe {
            type Count = unsafe extern "C" fn(*const c_char) -> u64;
            self.library.get::<Count>(call.as_bytes()).expect("a control")(what.as_ptr())
        }
    }

    /// Everything was given back, and nothing misused.
    fn assert_clean(&self) {
        super::super::finalize();
        let begin = Instant::now();
        while self.count("fake_live", "all") + self.count("fake_live", "init") > 0 {
            assert!(begin.elapsed() < PATIENCE, "{} live", self.count("fake_live", "all"));
            std::thread::sleep(Duration::from_millis(1));
        }
        // SAFETY: as fake.h declares it; the string lives as long as the library.
        let violation = unsafe {
            type Violation = unsafe extern "C" fn() -> *const c_char;
            CStr::from_ptr(self.library.get::<Violation>(b"fake_violation\0").expect("a control")())
        };
        assert_eq!(violation, c"");
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A job that copies a few bytes to the device and back.
fn good() -> Job {
    Job { input_bytes: 64, output_bytes: 64, ..Job::default() }
}

/// A job that only a mistake of ours could make: it says that it has more launches than fit into it. The
/// thread panics where it looks for the third.
fn bad() -> Job {
    Job { launch_count: 3, ..good() }
}

fn submit(queue: &Queue, job: Job) -> Result<Handle, DeviceError> {
    queue.submit(|input, output| {
        assert!(input.len() >= 64 && output.len() >= 64);
        Ok(job)
    })
}

fn collect(queue: &Queue, handle: Handle) -> Result<usize, DeviceError> {
    queue.collect(handle, PATIENCE, <[u8]>::len).map(|(bytes, _)| bytes)
}

fn until_ready(queue: &Queue) {
    let begin = Instant::now();
    while let Err(error) = queue.ready() {
        assert!(begin.elapsed() < PATIENCE, "{error}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// As many batches as fit are taken and answered: no place is lost.
fn assert_every_place_is_free(queue: &Queue) {
    let handles: Vec<Handle> =
        (0..MAX_IN_FLIGHT).map(|_| submit(queue, good()).expect("a free place")).collect();
    for handle in handles {
        assert!(collect(queue, handle).expect("an answer") >= 64);
    }
}

fn is_panic(error: &DeviceError) -> bool {
    matches!(error, DeviceError::Panicked { message } if message.contains("range end index 3"))
}

#[test]
fn a_panic_of_the_thread_ends_what_is_in_flight_and_the_device_is_opened_again() {
    let fake = Fake::new();
    let queue = fake.open();
    for round in 1..=3 {
        let begin = Instant::now();
        let handle = submit(&queue, bad()).expect("a free place");
        let error = collect(&queue, handle).expect_err("the thread panics");
        assert!(is_panic(&error), "{error}");
        assert!(begin.elapsed() < PATIENCE / 2, "nobody waits until the end: {:?}", begin.elapsed());
        until_ready(&queue);
        let counters = queue.counters();
        assert_eq!((counters.panics, counters.failures, counters.openings), (round, round, round + 1));
        assert!(queue.last_error().is_some_and(|error| is_panic(&error)));
        assert_every_place_is_free(&queue);
    }
    drop(queue);
    fake.assert_clean();
}

#[test]
fn who_waits_for_another_batch_is_woken_by_a_panic() {
    let fake = Fake::new();
    let queue = fake.open();
    // The first batch waits for us, the second panics after it.
    fake.hang("task-copy");
    let first = submit(&queue, good()).expect("a free place");
    let second = submit(&queue, bad()).expect("a free place");
    let begin = Instant::now();
    let asked = &queue;
    let (first, second) = std::thread::scope(|scope| {
        let waiters = [first, second].map(|handle| scope.spawn(move || collect(asked, handle)));
        while fake.count("fake_calls", "task-copy") == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        fake.release();
        let [first, second] = waiters.map(|waiter| waiter.join().expect("no panic here"));
        (first, second)
    });
    assert!(begin.elapsed() < PATIENCE / 2, "{:?}", begin.elapsed());
    // Its answer was there, or went with the memory before anybody read it.
    assert!(first.is_ok() || first.is_err_and(|error| is_panic(&error)));
    assert!(second.is_err_and(|error| is_panic(&error)));
    until_ready(&queue);
    assert_every_place_is_free(&queue);
    drop(queue);
    fake.assert_clean();
}

#[test]
fn a_caller_that_panics_keeps_no_place() {
    let fake = Fake::new();
    let queue = fake.open();
    for _ in 0..=MAX_IN_FLIGHT {
        let fill = AssertUnwindSafe(|| queue.submit(|_, _| panic!("while it fills")).is_ok());
        assert!(catch_unwind(fill).is_err());
        let handle = submit(&queue, good()).expect("a free place");
        let read = AssertUnwindSafe(|| queue.collect(handle, PATIENCE, |_| panic!("while it reads")).is_ok());
        assert!(catch_unwind(read).is_err());
    }
    assert_every_place_is_free(&queue);
    assert_eq!((queue.counters().failures, queue.counters().openings), (0, 1));
    drop(queue);
    fake.assert_clean();
}

/// Runs this while the memory of the first place is locked. Once it waits for that memory, the place becomes
/// another batch's, as after a close and an opening in between.
fn while_the_place_changes_hands<T: Send>(queue: &Queue, run: impl FnOnce() -> T + Send) -> T {
    let memory = lock(&queue.shared.hosts[0]);
    std::thread::scope(|scope| {
        let running = scope.spawn(run);
        let begin = Instant::now();
        loop {
            let mut state = lock(&queue.shared.state);
            let place = &mut state.in_flight[0];
            if matches!(place.stage, Stage::Filling) {
                *place = InFlight::new(Stage::Filling, place.serial + 1);
                state.serial += 1;
                break;
            }
            drop(state);
            assert!(begin.elapsed() < PATIENCE, "it never took the place");
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(memory);
        let result = running.join().expect("no panic here");
        // The other batch is left alone, and ends here.
        let place = &mut lock(&queue.shared.state).in_flight[0];
        assert!(matches!(place.stage, Stage::Filling));
        place.stage = Stage::Free;
        result
    })
}

#[test]
fn memory_that_is_another_batchs_by_now_is_neither_read_nor_written() {
    let fake = Fake::new();
    let queue = fake.open();
    let handle = submit(&queue, good()).expect("a free place");
    assert_eq!(handle.index, 0);
    let begin = Instant::now();
    while !queue.poll(handle) {
        assert!(begin.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(1));
    }
    let read = while_the_place_changes_hands(&queue, || queue.collect(handle, PATIENCE, |_| ()).map(|_| ()));
    assert!(matches!(read, Err(DeviceError::Resting { .. })), "{read:?}");
    let filled = AtomicU32::new(0);
    let fill = |_: &mut [u8], _: &mut [u8]| {
        filled.store(1, Ordering::Relaxed);
        Ok(good())
    };
    let submitted = while_the_place_changes_hands(&queue, || queue.submit(fill));
    assert!(submitted.is_err(), "{submitted:?}");
    assert_eq!(filled.load(Ordering::Relaxed), 0);
    assert_every_place_is_free(&queue);
    drop(queue);
    fake.assert_clean();
}
