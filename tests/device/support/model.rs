//! The device kernel on the model of its machine, as a launcher for tests.

use std::ffi::{CStr, c_char, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use balanceroute::backend::ascend::blob::{Kept, Soc};
use balanceroute::backend::ascend::launch::{Launch, Outcome};
use libloading::{Library, Symbol};

use super::{compile, folder, root};

#[repr(C)]
struct Range {
    address: *const c_void,
    bytes: usize,
}

type LaunchFn = unsafe extern "C" fn(
    *const c_char,
    u32,
    *const c_void,
    usize,
    *const Range,
    usize,
    *mut c_char,
    usize,
) -> i32;

/// A compiler for the kernel and its model.
pub fn compiler() -> cc::Build {
    let mut build = compile::cpp("c++17");
    build.pic(true).flag("-ffp-contract=off").include(root("kernels/model"));
    build
}

/// The machine that kernels are linked with, as object files.
pub fn machine(build: &cc::Build, folder: &Path) -> Vec<PathBuf> {
    let compiled = ["machine", "launch"].iter().map(|name| {
        let object = folder.join(name).with_extension("o");
        compile::run(build, |command| {
            command.arg("-c").arg(root("kernels/model").join(name).with_extension("cpp"));
            command.arg("-o").arg(&object);
        });
        object
    });
    compiled.collect()
}

/// Compiles the kernel in a folder of sources and links it with the machine into a library.
pub fn link(build: &cc::Build, sources: &Path, machine: &[PathBuf], library: &Path) {
    compile::run(build, |command| {
        command.arg("-shared").arg(sources.join("balanceroute.cpp")).args(machine).arg("-o").arg(library);
    });
}

fn built(kind: &str, build: &cc::Build) -> PathBuf {
    let folder = folder().join(kind);
    std::fs::create_dir_all(&folder).expect("a folder");
    let library = folder.join("libbalanceroute_model_kernel.so");
    link(build, &root("kernels/ascendc"), &machine(build, &folder), &library);
    library
}

/// The kernel as it is, on the model, built once for a test program.
pub fn plain() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| built("plain", compiler().opt_level(2)))
}

/// The kernel as it is under AddressSanitizer and UndefinedBehaviourSanitizer; who loads it has their library
/// loaded already.
pub fn sanitized() -> PathBuf {
    let mut build = compiler();
    for flag in ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"] {
        build.flag(flag);
    }
    built("sanitized", &build)
}

/// A copy of the library for one test, and with it a machine of its own.
pub fn plain_copy(name: &str) -> PathBuf {
    let path = folder().join("plain").join(format!("{name}.so"));
    std::fs::copy(plain(), &path).expect("copied");
    path
}

/// What a launch did: `BrModelCounts` of `kernels/model/model.h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counts {
    pub vector_instructions: u64,
    pub vector_repeats: u64,
    pub copied_in_bytes: u64,
    pub copied_out_bytes: u64,
    pub scalar_ub_accesses: u64,
    pub scalar_gm_reads: u64,
    pub barriers: u64,
    pub events: u64,
    pub ub_bytes: u64,
}

/// What became of the decisions.
#[derive(Debug, Default)]
pub struct Tally {
    pub decided: usize,
    pub looked: usize,
    pub kept: Vec<String>,
    pub refused: Vec<String>,
    pub failed: Vec<String>,
    pub columns: u64,
    pub rescored: u64,
    /// Of each launch since it was cleared: entry, blocks, what it did.
    pub launches: Vec<(&'static str, u32, Counts)>,
    pub input_bytes: usize,
    pub output_bytes: usize,
}

/// What a launch ends with whose answer depends on the device's mode.
pub const MODES_DIFFER: &str = "saturating, the device answers otherwise";

/// The kernel on the model, in both modes of the device.
pub struct Model {
    library: Library,
    soc: Soc,
    tally: Arc<Mutex<Tally>>,
    only_counts: bool,
    /// What it was launched with last, for who asks.
    input: Option<Arc<Mutex<Vec<u8>>>>,
}

impl Model {
    pub fn open(path: &Path, soc: Soc) -> (Self, Arc<Mutex<Tally>>) {
        // SAFETY: the library is ours and runs no code when it is loaded but its constructors of static data.
        let library = unsafe { Library::new(path) }.expect("the model loads");
        let tally = Arc::default();
        (Self { library, soc, tally: Arc::clone(&tally), only_counts: false, input: None }, tally)
    }

    /// Runs launches in one mode only, which is enough to count what they do.
    pub fn counting(self) -> Self {
        Self { only_counts: true, ..self }
    }

    /// Keeps what it is launched with, the last time.
    pub fn watched(self) -> (Self, Arc<Mutex<Vec<u8>>>) {
        let input = Arc::default();
        (Self { input: Some(Arc::clone(&input)), ..self }, input)
    }

    /// What the model says to a launch that declares no memory.
    pub fn launch_without_memory(&self) -> i32 {
        let arguments = [std::ptr::null::<c_void>(); 2];
        let (bytes, packed) = (size_of_val(&arguments), arguments.as_ptr().cast());
        let (nowhere, entry) = (std::ptr::null_mut(), c"balanceroute_greedy".as_ptr());
        // SAFETY: the signature is that of `kernels/model/model.h`; the model reads the arguments only.
        unsafe {
            let launch: Symbol<'_, LaunchFn> = self.library.get(b"br_model_launch\0").expect("exported");
            launch(entry, 1, packed, bytes, std::ptr::null(), 0, nowhere, 0)
        }
    }

    /// Runs launches in one mode of the device: results beyond the greatest finite value become that value,
    /// or infinity.
    fn run(
        &self,
        saturates: bool,
        launches: &[(&'static str, u32)],
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        // SAFETY: the signature is that of `kernels/model/model.h`.
        let launch: Symbol<'_, LaunchFn> = unsafe { self.library.get(b"br_model_launch\0") }?;
        // SAFETY: as above.
        let saturate: Symbol<'_, unsafe extern "C" fn(i32)> =
            unsafe { self.library.get(b"br_model_saturate\0") }?;
        // SAFETY: it sets a number, and no launch runs now.
        unsafe { saturate(i32::from(saturates)) };
        let mut tally = self.tally.lock().expect("no panic while it is held");
        (tally.input_bytes, tally.output_bytes) = (input.len(), output.len());
        for &(name, blocks) in launches {
            let entry = std::ffi::CString::new(name)?;
            let arguments =
                [input.as_ptr().cast::<c_void>(), output.as_mut_ptr().cast::<c_void>().cast_const()];
            let ranges = [
                Range { address: arguments[0], bytes: input.len() },
                Range { address: arguments[1], bytes: output.len() },
            ];
            let mut message = [0; 4096];
            // SAFETY: every pointer is to memory of the stated size that lives until the call returns; the
            // kernel writes to the output and the message only, both borrowed mutably.
            let code = unsafe {
                launch(
                    entry.as_ptr(),
                    blocks,
                    arguments.as_ptr().cast(),
                    size_of_val(&arguments),
                    ranges.as_ptr(),
                    ranges.len(),
                    message.as_mut_ptr(),
                    message.len(),
                )
            };
            if code != 0 {
                // SAFETY: the model ends the message with a zero.
                let message = unsafe { CStr::from_ptr(message.as_ptr()) };
                return Err(
                    format!("{}: {code}: {}", entry.to_string_lossy(), message.to_string_lossy()).into()
                );
            }
            // SAFETY: the model exports a variable of this type, and no launch runs now.
            let counts: Symbol<'_, *const Counts> = unsafe { self.library.get(b"br_model_counts\0") }?;
            // SAFETY: as above.
            let counts = unsafe { **counts };
            if !saturates {
                tally.launches.push((name, blocks, counts));
            }
        }
        Ok(())
    }
}

impl Launch for Model {
    fn soc(&self) -> Soc {
        self.soc
    }

    fn launch(
        &mut self,
        launches: &[(&'static str, u32)],
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if let Some(kept) = &self.input {
            *kept.lock().expect("no panic") = input.to_vec();
        }
        if self.only_counts {
            return self.run(false, launches, input, output);
        }
        // What a device answers may not depend on its mode.
        let before = output.to_vec();
        self.run(true, launches, input, output)?;
        let saturating = output.to_vec();
        output.copy_from_slice(&before);
        self.run(false, launches, input, output)?;
        if saturating == output { Ok(()) } else { Err(MODES_DIFFER.into()) }
    }

    fn note(&mut self, outcome: Outcome<'_>) {
        let mut tally = self.tally.lock().expect("no panic while it is held");
        match outcome {
            Outcome::Decided(work) => {
                tally.decided += 1;
                tally.columns += u64::from(work.columns);
                tally.rescored += u64::from(work.rescored);
            }
            Outcome::Looked => tally.looked += 1,
            Outcome::Kept(Kept::Nobody) => {}
            Outcome::Kept(kept) => tally.kept.push(kept.to_string()),
            Outcome::Refused(error) => tally.refused.push(error.to_string()),
            Outcome::Failed(error) => tally.failed.push(error.to_string()),
            _ => {}
        }
    }

    fn describe(&self) -> String {
        "the model".to_owned()
    }
}

/// Words as bytes.
pub fn bytes(words: &[u64]) -> &[u8] {
    // SAFETY: every byte of a word is initialised, and bytes need no alignment.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}
