//! The fake Ascend runtime, built once per test program; and random batches with their parts.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use balanceroute::backend::BackendKind;
use balanceroute::backend::ascend::AscendParameters;
use balanceroute::policy::Parameters;
use balanceroute::{Assignment, Batch, Pairs, Pool, Request, Traffic, Worker};
use libloading::Library;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{compile, folder, model, root};

/// A fake runtime of its own for one test: a copy of the library, so that nothing is shared.
pub(crate) struct Fake {
    pub(crate) path: PathBuf,
    library: Library,
}

macro_rules! control {
    ($($name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        $(
            pub(crate) fn $name(&self, $($argument: $type),*) $(-> $result)? {
                let symbol = concat!("fake_", stringify!($name), "\0");
                // SAFETY: fake.h declares it with these types.
                unsafe {
                    let call = self.library
                        .get::<unsafe extern "C" fn($($type),*) $(-> $result)?>(symbol.as_bytes())
                        .expect("a control of the fake");
                    call($($argument),*)
                }
            }
        )*
    };
}

impl Fake {
    pub(crate) fn new() -> Self {
        Self::without(&[])
    }

    /// A runtime without these symbols.
    pub(crate) fn without(symbols: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
        let name = symbols.join("-");
        let mut built = BUILT.lock().expect("nobody panics here");
        let original = built.entry(name.clone()).or_insert_with(|| {
            let path = folder().join(format!("libacl_fake_{name}.so"));
            let mut build = compile::c("gnu11");
            build.pic(true).flag("-pthread");
            for symbol in symbols {
                // Under another name it is not there.
                build.define(symbol, Some(format!("fake_hidden_{symbol}").as_str()));
            }
            compile::run(&build, |command| {
                command.arg("-shared").arg(root("ffi/acl/fake/fake.c")).arg("-ldl").arg("-o").arg(&path);
            });
            path
        });
        let path = folder().join(format!("libacl_fake_{}.so", NUMBER.fetch_add(1, Ordering::Relaxed)));
        // A new file: the loader knows libraries by their inode.
        let _ = std::fs::remove_file(&path);
        std::fs::copy(original, &path).expect("a copy");
        drop(built);
        // SAFETY: the library has no initialisers.
        let library = unsafe { Library::new(&path) }.expect("the fake loads");
        Self { path, library }
    }

    control! {
        release();
        corrupt(nth: u32, offset: u64);
        lose_contexts();
        forgive();
        version(major: i32, minor: i32, patch: i32);
        devices(count: u32);
        overflow(mode: i32);
        cores(cores: i64, bytes: i64);
        memory(bytes: u64);
        foreign_init(yes: i32);
        reclaimed() -> u64;
        violations() -> u64;
    }

    fn with_name<T>(&self, call: &str, run: impl FnOnce(*const std::ffi::c_char, &Library) -> T) -> T {
        let name = CString::new(call).expect("a name");
        run(name.as_ptr(), &self.library)
    }

    /// A symbol of the library.
    ///
    /// # Safety
    /// The library declares it with this type, and it is not used after the library is gone.
    pub(crate) unsafe fn symbol<T: Copy>(&self, name: &str) -> T {
        // SAFETY: the caller's promise.
        unsafe { *self.library.get::<T>(format!("{name}\0").as_bytes()).expect("a symbol") }
    }

    /// The `nth` call from now and the `times - 1` after it fail.
    pub(crate) fn fail(&self, call: &str, nth: u32, times: u32, code: i32) {
        let done = self.with_name(call, |name, library| {
            // SAFETY: as fake.h declares it.
            unsafe {
                library
                    .get::<unsafe extern "C" fn(*const std::ffi::c_char, u32, u32, i32) -> i32>(
                        b"fake_fail\0",
                    )
                    .expect("fake_fail")(name, nth, times, code)
            }
        });
        assert_eq!(done, 0, "{call}");
    }

    fn plan(&self, control: &[u8], call: &str, value: u32) {
        let done = self.with_name(call, |name, library| {
            // SAFETY: as fake.h declares them.
            unsafe {
                library
                    .get::<unsafe extern "C" fn(*const std::ffi::c_char, u32) -> i32>(control)
                    .expect("a control")(name, value)
            }
        });
        assert_eq!(done, 0, "{call}");
    }

    /// The `nth` call from now hangs.
    pub(crate) fn hang(&self, call: &str, nth: u32) {
        self.plan(b"fake_hang\0", call, nth);
    }

    /// Every such call takes longer.
    pub(crate) fn slow(&self, call: &str, microseconds: u32) {
        self.plan(b"fake_slow\0", call, microseconds);
    }

    fn count(&self, control: &[u8], what: &str) -> u64 {
        self.with_name(what, |name, library| {
            // SAFETY: as fake.h declares them.
            unsafe {
                library
                    .get::<unsafe extern "C" fn(*const std::ffi::c_char) -> u64>(control)
                    .expect("a control")(name)
            }
        })
    }

    pub(crate) fn calls(&self, call: &str) -> u64 {
        self.count(b"fake_calls\0", call)
    }

    pub(crate) fn live(&self, kind: &str) -> u64 {
        self.count(b"fake_live\0", kind)
    }

    pub(crate) fn soc(&self, name: &str) {
        self.with_name(name, |name, library| {
            // SAFETY: as fake.h declares it.
            unsafe {
                library
                    .get::<unsafe extern "C" fn(*const std::ffi::c_char)>(b"fake_soc\0")
                    .expect("fake_soc")(name);
            }
        });
    }

    /// The first misuse.
    pub(crate) fn violation(&self) -> String {
        // SAFETY: as fake.h declares it; the string lives as long as the library.
        unsafe {
            let call =
                self.library.get::<unsafe extern "C" fn() -> *const std::ffi::c_char>(b"fake_violation\0");
            std::ffi::CStr::from_ptr(call.expect("fake_violation")()).to_string_lossy().into_owned()
        }
    }

    /// Every call that the fake implements.
    pub(crate) fn call_names(&self) -> Vec<String> {
        // SAFETY: as fake.h declares it; null past the last.
        unsafe {
            let name = self
                .library
                .get::<unsafe extern "C" fn(u32) -> *const std::ffi::c_char>(b"fake_call_name\0")
                .expect("fake_call_name");
            (0..)
                .map(|index| name(index))
                .take_while(|text| !text.is_null())
                .map(|text| std::ffi::CStr::from_ptr(text).to_string_lossy().into_owned())
                .collect()
        }
    }

    /// Nothing lives any more: memory and handles are returned, nobody was misused on the way.
    pub(crate) fn assert_clean(&self, context: &str) {
        balanceroute::backend::ascend::finalize();
        until(context, || self.live("all") + self.live("set-device") == 0);
        until(context, || self.live("init") == 0);
        for kind in ["bytes", "context", "stream", "event", "device", "host", "binary", "arguments"] {
            assert_eq!(self.live(kind), 0, "{context}: {kind}");
        }
        assert_eq!(self.violations(), 0, "{context}: {}", self.violation());
    }
}

/// What a policy on the fake is built with.
pub(crate) fn parameters(fake: &Fake) -> Parameters {
    // The model is slower than any device, and the machine may be busy.
    let ascend = AscendParameters::new()
        .library(Some(fake.path.clone()))
        .kernel(Some(model::plain().to_owned()))
        .answer_timeout_ms(20_000)
        .device_timeout_ms(20_000)
        .rest_ms(1)
        .longest_rest_ms(4);
    Parameters::new().backend(BackendKind::Ascend).ascend(ascend)
}

/// Waits for something that another thread does.
pub(crate) fn until(context: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(20), "{context}: waited for too long");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A random batch as owned parts.
pub(crate) struct Parts {
    workers: Vec<Worker>,
    pool: Pool,
    rows: Vec<u64>,
    bonus: Vec<f32>,
    eligible: Vec<u64>,
    classes: Vec<f32>,
}

pub(crate) const HORIZON: usize = 6;

impl Parts {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let workers = rng.random_range(2..20usize);
        let waiting = rng.random_range(workers..200);
        let (pairs, ahead): (bool, bool) = (rng.random(), rng.random());
        let requests: Vec<Request> = (0..waiting as u64)
            .map(|id| {
                let request = Request::new(id, rng.random_range(1..6000)).passed(rng.random_range(0..40));
                match (pairs, rng.random_range(0..8)) {
                    (true, 0) => request.bound_to(rng.random_range(0..workers as u32)),
                    (true, 1..=4) => request.pairs(rng.random_range(0..5)),
                    (true, 5) if ahead => request.class(rng.random_range(0..2)),
                    _ => request,
                }
            })
            .collect();
        let list: Vec<Worker> = (0..workers)
            .map(|_| Worker::new(rng.random_range(100_000..140_000), 30, rng.random_range(0..3)))
            .collect();
        let rows = if ahead {
            list.iter()
                .flat_map(|worker| (0..=HORIZON as u64).map(move |h| worker.load_tokens + 31 * h))
                .collect()
        } else {
            Vec::new()
        };
        let count = if pairs { 5 * workers } else { 0 };
        Self {
            pool: Pool::from_requests(&requests).expect("valid"),
            rows,
            bonus: (0..count).map(|_| f32::from(rng.random_range(0..3000u16))).collect(),
            eligible: (0..if pairs { 5 } else { 0 })
                .map(|_| rng.random::<u64>() | rng.random::<u64>())
                .collect(),
            classes: (0..2 * (HORIZON + 1)).map(|_| rng.random_range(0.0..1.0)).collect(),
            workers: list,
        }
    }

    /// The batch once its oldest request has been passed again.
    pub(crate) fn passed_again(self) -> Self {
        let mut requests: Vec<Request> = self.pool.iter().map(|(request, _)| request).collect();
        requests[0].passed += 1;
        Self { pool: Pool::from_requests(&requests).expect("valid"), ..self }
    }

    pub(crate) fn batch(&self) -> Batch<'_> {
        let traffic = Traffic::new().prompts(2500, 1400).small_prompts(400).outputs(600);
        let mut draft = Batch::draft(&self.workers, &self.pool).traffic(traffic).pairs(Pairs {
            bonus_tokens: &self.bonus,
            eligible: &self.eligible,
            ..Pairs::default()
        });
        if !self.rows.is_empty() {
            draft = draft.projection(HORIZON, &self.rows).classes(&self.classes);
        }
        draft.check().expect("valid")
    }

    /// Nobody is lost, nobody is placed twice, no slot is filled twice.
    pub(crate) fn assert_sound(&self, out: &Assignment, context: &str) {
        let batch = self.batch();
        let mut ids: Vec<u64> = out.admitted.iter().map(|admission| admission.id.0).collect();
        ids.extend(out.waiting(&batch).map(|(id, _)| id.0));
        ids.sort_unstable();
        assert_eq!(ids, (0..self.pool.len() as u64).collect::<Vec<_>>(), "{context}: everybody once");
        for (index, worker) in self.workers.iter().enumerate() {
            let here = out.admitted.iter().filter(|admission| admission.worker.index() == index).count();
            assert!(here <= worker.free_slots as usize, "{context}: worker {index}");
        }
    }
}
