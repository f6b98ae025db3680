//! The device kernel on the model of its machine, as a launcher for tests.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

use std::ffi::{CStr, c_char, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use balanceroute::backend::ascend::blob::{Kept, Soc};
use balanceroute::backend::ascend::launch::{Launch, Outcome};
use libloading::{Library, Symbol};

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

/// The kernel on the model, built once for each kind; every test gets a copy, and with it a machine of its own. `CXX` names the compiler.
pub fn build(kind: &'static str, copy: &str) -> PathBuf {
    static BUILT: Mutex<Vec<(&str, PathBuf)>> = Mutex::new(Vec::new());
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernel_model");
    let mut built = BUILT.lock().expect("no build panics");
    if !built.iter().any(|(other, _)| *other == kind) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/model/build.sh");
        let output =
            Command::new("bash").arg(script).arg(directory.join(kind)).arg(kind).output().expect("bash runs");
        if !output.status.success() {
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
            std::process::exit(1);
        }
        built.push((kind, directory.join(kind).join("libbalanceroute_model_kernel.so")));
    }
    let original = &built.iter().find(|(other, _)| *other == kind).expect("built").1;
    let path = directory.join(kind).join(format!("{copy}.so"));
    std::fs::copy(original, &path).expect("copied");
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

/// The kernel on the model.
pub struct Model {
    library: Library,
    soc: Soc,
    tally: Arc<Mutex<Tally>>,
}

impl Model {
    pub fn open(path: &Path, soc: Soc) -> (Self, Arc<Mutex<Tally>>) {
        // SAFETY: the library is ours and runs no code when it is loaded but its constructors of static data.
        let library = unsafe { Library::new(path) }.expect("the model loads");
        let tally = Arc::default();
        (Self { library, soc, tally: Arc::clone(&tally) }, tally)
    }

    pub fn seed_bug(&self, bug: i32) {
        // SAFETY: the model exports an `int` of this name.
        let variable: Symbol<'_, *mut i32> = unsafe { self.library.get(b"br_seed_bug\0") }.expect("exported");
        // SAFETY: the pointer is to that variable, and no launch runs meanwhile: a launch takes `&mut self`.
        unsafe { **variable = bug };
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
        // SAFETY: the signature is that of `kernels/model/model.h`.
        let launch: Symbol<'_, LaunchFn> = unsafe { self.library.get(b"br_model_launch\0") }?;
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
            // SAFETY: every pointer is to memory of the stated size that lives until the call returns; the kernel writes to the output
            // and the message only, both borrowed mutably.
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
            tally.launches.push((name, blocks, unsafe { **counts }));
        }
        Ok(())
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
