//! Faults that were met in the field, and one that this world has found, written into today's code one at a
//! time: each must be found.
//!
//! ```text
//! cargo test --test world known_faults -- --ignored --nocapture
//! ```
//!
//! Each is a patch in `faults/` that takes away what guards against it today. The tree is copied, patched,
//! built (once a fault) and run; what is counted is the time from the start of the run until the
//! fault is found.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// So soon is a fault to be found.
const PATIENCE: Duration = Duration::from_secs(300);
/// More than are played in that time.
const EVENTS: &str = "100000000";

/// A fault, the program and the test of it that are to find it, and how that says so.
const FAULTS: [(&str, &str, &str, &str); 7] = [
    ("ends_panic", "world", "nothing_breaks", " fails at "),
    ("join_bonus", "world", "nothing_breaks", " fails at "),
    ("ledger_resize", "world", "nothing_breaks", " fails at "),
    ("stale_bonus", "world", "nothing_breaks", " fails at "),
    ("idle_then_expired", "world", "nothing_breaks", " fails at "),
    ("again_then_expired", "world", "nothing_breaks", " fails at "),
    ("neutral", "fuzz_bodies", "decide", "panicked at "),
];

fn done(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

/// A copy of all files of the repository, as they are now.
fn copy_of_the_tree(to: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut git = Command::new("git");
    git.arg("-C").arg(root).args(["ls-files", "-z", "-c", "-o", "--exclude-standard"]);
    let listed = git.output().expect("git runs");
    let listed = String::from_utf8(listed.stdout).expect("names in UTF-8");
    let _ = std::fs::remove_dir_all(to);
    for path in listed.split('\0').filter(|path| root.join(path).is_file()) {
        let copy = to.join(path);
        std::fs::create_dir_all(copy.parent().expect("a folder")).expect("a folder");
        std::fs::copy(root.join(path), &copy).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

fn patch(tree: &Path, fault: &str, back: bool) {
    let file = tree.join("tests/world/faults").join(fault).with_extension("patch");
    let mut command = Command::new("git");
    // The copy is no repository, and may lie within one.
    command.env("GIT_CEILING_DIRECTORIES", tree.parent().expect("a folder")).current_dir(tree);
    command.arg("apply").args(back.then_some("--reverse")).arg(&file);
    done(&mut command);
    let now = std::time::SystemTime::now();
    let text = std::fs::read_to_string(&file).expect("the patch");
    // Whatever the resolution of the file system's clock, it is built again.
    for path in text.lines().filter_map(|line| line.strip_prefix("+++ b/")) {
        let patched = std::fs::File::options().append(true).open(tree.join(path)).expect("a patched file");
        patched.set_modified(now).expect("its time");
    }
}

/// Builds a test program of a tree.
fn build(tree: &Path, program: &str) -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    // Not for release: what a patch changes is built again in seconds.
    cargo.current_dir(tree).args(["test", "--no-run", "--message-format=json"]);
    cargo.env("CARGO_INCREMENTAL", "1");
    cargo.args(["--test", program]).env("CARGO_TARGET_DIR", tree.with_file_name("target"));
    let built = cargo.stderr(Stdio::inherit()).output().expect("cargo runs");
    assert!(built.status.success(), "{program} of {} is not built", tree.display());
    let messages = String::from_utf8(built.stdout).expect("JSON");
    let executable = messages.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    });
    executable.expect("a program")
}

/// The time until a test finds a fault, and what it says first.
fn search(tree: &Path, (program, test, says): (&str, &str, &str)) -> Option<(Duration, String)> {
    let mut command = Command::new(build(tree, program));
    command.current_dir(tree).args([test, "--nocapture"]).env("RUST_BACKTRACE", "0");
    command.env("BALANCEROUTE_WORLD_EVENTS", EVENTS).env("FUZZ_CASES", "1000000");
    command.env_remove("BALANCEROUTE_WORLD_SEED").env_remove("BALANCEROUTE_WORLD_PLAN");
    let begin = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let (tell, told) = std::sync::mpsc::channel();
    let streams: [Box<dyn std::io::Read + Send>; 2] =
        [Box::new(child.stdout.take().expect("piped")), Box::new(child.stderr.take().expect("piped"))];
    for stream in streams {
        let (tell, says) = (tell.clone(), says.to_owned());
        std::thread::spawn(move || {
            let lines = BufReader::new(stream).lines().map_while(Result::ok);
            lines.filter(|line| line.contains(&says)).for_each(|line| drop(tell.send(line)));
        });
    }
    drop(tell);
    let found = told.recv_timeout(PATIENCE).ok().map(|line| (begin.elapsed(), line));
    if found.is_none() {
        let _ = child.kill();
    }
    let failed = child.wait().is_ok_and(|status| !status.success());
    found.filter(|_| failed)
}

#[test]
#[ignore = "builds the crate once for each fault: see above"]
fn known_faults_are_found() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("known-faults");
    let tree = folder.join("tree");
    copy_of_the_tree(&tree);
    let mut missed = Vec::new();
    for (fault, program, test, says) in FAULTS {
        patch(&tree, fault, false);
        match search(&tree, (program, test, says)) {
            Some((after, line)) => {
                let line: String = line.chars().take(160).collect();
                println!("{fault}: found after {:.1} s by {program}: {line}", after.as_secs_f64());
            }
            None => {
                println!("{fault}: not found in {PATIENCE:?} by {program}");
                missed.push(fault);
            }
        }
        patch(&tree, fault, true);
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// A patch that does not apply any more guards nothing.
#[test]
fn each_known_fault_has_a_patch_that_applies() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("tests/world/faults");
    let mut found: Vec<String> = std::fs::read_dir(&folder)
        .expect("the folder")
        .map(|entry| {
            entry.expect("a file").path().file_stem().expect("a name").to_string_lossy().into_owned()
        })
        .collect();
    found.sort_unstable();
    let mut names = FAULTS.map(|(fault, ..)| fault);
    names.sort_unstable();
    assert_eq!(found, names);
    for name in names {
        let file = folder.join(name).with_extension("patch");
        done(Command::new("git").current_dir(root).args(["apply", "--check"]).arg(file));
    }
}
