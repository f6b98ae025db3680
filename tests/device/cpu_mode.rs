//! The kernel through the program of the vendor's CPU mode (`-DRUN_MODE=cpu`), against the oracle.
//!
//! `BALANCEROUTE_ASCEND_CPU` names a program that was built with a real toolkit. Without it the program is
//! built on the stand-in of that mode, whose machine is our own model: what is tested then is the program and
//! the way to it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use balanceroute::Assignment;
use balanceroute::backend::BackendKind;
use balanceroute::backend::ascend::blob::Soc;
use balanceroute::backend::ascend::launch::{Launch, Outcome};
use balanceroute::policy::{self, Parameters};

use super::build_script::cmake;
use super::support::runtime::Parts;
use super::support::{folder, root};

/// Batches of each policy: the vendor's mode starts a process for each block.
const BATCHES: u64 = 6;

/// What became of the batches.
#[derive(Debug, Default)]
struct Tally {
    decided: usize,
    wrong: Vec<String>,
}

/// Launches by running the program on files.
struct Program {
    path: PathBuf,
    folder: PathBuf,
    tally: Arc<Mutex<Tally>>,
}

impl Launch for Program {
    fn soc(&self) -> Soc {
        Soc { vector_cores: 4, ..Soc::ASCEND_910B }
    }

    fn launch(
        &mut self,
        launches: &[(&'static str, u32)],
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let [given, prepared] = ["input", "output"].map(|name| self.folder.join(name));
        std::fs::write(&given, input)?;
        std::fs::write(&prepared, &output)?;
        let mut command = Command::new(&self.path);
        command.arg(&given).arg(&prepared);
        for (entry, blocks) in launches {
            command.arg(entry).arg(blocks.to_string());
        }
        let out = command.output()?;
        if !out.status.success() {
            return Err(format!("{}: {}", out.status, String::from_utf8_lossy(&out.stderr)).into());
        }
        let made = std::fs::read(&prepared)?;
        if made.len() != output.len() {
            return Err(format!("{} bytes instead of {}", made.len(), output.len()).into());
        }
        output.copy_from_slice(&made);
        Ok(())
    }

    fn note(&mut self, outcome: Outcome<'_>) {
        let mut tally = self.tally.lock().expect("no panic while it is held");
        match outcome {
            Outcome::Decided(_) => tally.decided += 1,
            Outcome::Refused(error) if !error.to_string().contains("ties") => {
                tally.wrong.push(error.to_string());
            }
            Outcome::Failed(error) => tally.wrong.push(error.to_string()),
            _ => {}
        }
    }

    fn describe(&self) -> String {
        self.path.display().to_string()
    }
}

/// The program that was named, or one on the stand-in.
fn program() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("BALANCEROUTE_ASCEND_CPU").filter(|path| !path.is_empty()) {
        println!("the vendor's CPU mode: {}", Path::new(&path).display());
        return Some(path.into());
    }
    let cmake = cmake()?;
    let build = folder().join("cpu mode");
    // One of another checkout would be refused.
    let _ = std::fs::remove_dir_all(&build);
    let run = |command: &mut Command| {
        let out = command.output().expect("CMake runs");
        assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    };
    let toolkit = format!("-DASCEND_CANN_PACKAGE_PATH={}", root("tests/device/toolkit").display());
    let source = root("kernels");
    run(Command::new(&cmake).arg("-S").arg(source).arg("-B").arg(&build).args(["-DRUN_MODE=cpu", &toolkit]));
    run(Command::new(&cmake).arg("--build").arg(&build).arg("--parallel"));
    println!("the stand-in of the vendor's CPU mode");
    Some(build.join("balanceroute-cpu"))
}

#[test]
fn the_kernel_in_cpu_mode_answers_as_the_oracle() {
    let Some(path) = program() else { return };
    let mut decided = 0;
    for name in ["exact", "exact-oracle", "exact-survival", "level", "br0"] {
        let tally = Arc::default();
        let folder = folder().join("cpu mode blobs");
        std::fs::create_dir_all(&folder).expect("a folder");
        let launcher = Program { path: path.clone(), folder, tally: Arc::clone(&tally) };
        let parameters = Parameters::new().backend(BackendKind::Cpu);
        let mut device = policy::build_on(name, &parameters, Box::new(launcher)).expect("a policy");
        let mut cpu = policy::build(name, &parameters).expect("a policy");
        let (mut found, mut expected) = (Assignment::new(), Assignment::new());
        for seed in 0..BATCHES {
            let parts = Parts::new(seed);
            device.decide(&parts.batch(), &mut found);
            cpu.decide_by_reference(&parts.batch(), &mut expected).expect("a rule");
            assert_eq!(found, expected, "{name}, batch {seed}");
        }
        let tally = tally.lock().expect("nobody panicked");
        assert!(tally.wrong.is_empty(), "{name}: {:?}", tally.wrong);
        assert!(tally.decided > 0, "{name}: nothing was decided by the program");
        println!("{name}: {} of {BATCHES} batches decided by the program", tally.decided);
        decided += tally.decided;
    }
    println!("{decided} batches decided, 0 mismatches");

    // What the program refuses, it says.
    let said = |arguments: &[&str]| {
        let out = Command::new(&path).args(arguments).output().expect("it runs");
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let file = root("Cargo.toml").display().to_string();
    for (arguments, says) in [
        (&[][..], "INPUT OUTPUT ENTRY BLOCKS"),
        (&["/no/such/input", &file, "balanceroute_greedy", "1"], "/no/such/input: cannot be opened"),
        (&[&file, &file, "some_entry", "1"], "some_entry: is no entry of the kernel"),
        (&[&file, &file, "balanceroute_greedy", "0"], "0: is no number of blocks"),
        (&[&file, &file, "balanceroute_greedy", "4x"], "4x: is no number of blocks"),
    ] {
        let (success, text) = said(arguments);
        assert!(!success && text.contains(says), "{arguments:?}: {text}");
    }
}
