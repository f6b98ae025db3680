//! `build.rs` and `kernels/CMakeLists.txt` with a real CMake, on a stand-in of the toolkit (`toolkit/`): what
//! is built, what is told apart when something fails, and that nothing is written elsewhere.
#![cfg(unix)]

#[allow(dead_code, reason = "its main is for cargo")]
#[path = "../../build.rs"]
mod script;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::SystemTime;

use script::{Built, Failure, KERNEL, build, directives, toolkit};

const MODULE: &str = "tools/tikcpp/ascendc_kernel_cmake/ascendc.cmake";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The CMake of this machine. None where nobody asked for one and none is there; the test then says that it
/// did not run.
pub(crate) fn cmake() -> Option<String> {
    let asked = std::env::var("CMAKE").ok().filter(|cmake| !cmake.is_empty());
    let cmake = asked.clone().unwrap_or_else(|| "cmake".to_owned());
    if Command::new(&cmake).arg("--version").output().is_ok_and(|out| out.status.success()) {
        return Some(cmake);
    }
    let promised = asked.is_some() || std::env::var("BALANCEROUTE_CI").is_ok_and(|value| value == "1");
    assert!(!promised, "{cmake} does not run");
    println!("\nNOT RUN: the kernel's build: needs cmake 3.16 or newer");
    None
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in from.read_dir().expect("a folder").map(|entry| entry.expect("an entry")) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(&from, &to).expect("copied");
        }
    }
}

/// All that a folder holds, with sizes and times.
fn tree(folder: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().expect("a folder").map(|entry| entry.expect("an entry")) {
            let about = entry.path().symlink_metadata().expect("it is there");
            if about.is_dir() {
                folders.push(entry.path());
            }
            let written = about.modified().expect("a time");
            found.insert(entry.path(), (if about.is_dir() { 0 } else { about.len() }, written));
        }
    }
    found
}

/// A machine in a folder: the kernel's source as cloned, a toolkit, an output, temporary files.
struct Machine {
    folder: PathBuf,
    source: PathBuf,
    toolkit: PathBuf,
    out: PathBuf,
    temporary: PathBuf,
}

impl Machine {
    fn new(name: &str) -> Self {
        Self::with(name, "clone", "toolkit", "out")
    }

    /// A machine whose folders have these names.
    fn with(name: &str, clone: &str, toolkit: &str, out: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("build_script_{name}"));
        let _ = std::fs::remove_dir_all(&folder);
        let place = |name: &str| folder.join(name);
        let machine = Self {
            source: place(clone).join("kernels"),
            toolkit: place(toolkit),
            out: place(out),
            temporary: place("temporary"),
            folder: folder.clone(),
        };
        // What a package holds of the folder.
        for part in ["ascendc", "cmake", "cpu"] {
            copy(&root().join("kernels").join(part), &machine.source.join(part));
        }
        let list = "CMakeLists.txt";
        std::fs::copy(root().join("kernels").join(list), machine.source.join(list)).expect("copied");
        copy(&root().join("tests/device/toolkit"), &machine.toolkit);
        std::fs::create_dir_all(&machine.out).expect("a folder");
        std::fs::create_dir_all(&machine.temporary).expect("a folder");
        machine
    }

    /// Makes the toolkit's tools fail in one way.
    fn fault(&self, fault: &str) {
        std::fs::write(self.toolkit.join("fault"), fault).expect("written");
    }

    fn build(&self, cmake: &str) -> Result<Built, Failure> {
        build(cmake, &self.source, &self.toolkit, &self.out, &self.temporary)
    }

    /// What cargo is told with these variables beside its own.
    fn directives(&self, cmake: &str, variables: &[(&str, &str)]) -> Vec<String> {
        let of = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let mut known: BTreeMap<&str, String> = BTreeMap::from([
            ("CARGO_FEATURE_ASCEND", "1".to_owned()),
            ("CARGO_MANIFEST_DIR", of(self.source.parent().expect("a clone"))),
            ("OUT_DIR", of(&self.out)),
            ("ASCEND_HOME_PATH", of(&self.toolkit)),
            ("CMAKE", cmake.to_owned()),
        ]);
        known.extend(variables.iter().map(|&(name, value)| (name, value.to_owned())));
        directives(&|name| known.get(name).filter(|value| !value.is_empty()).cloned(), &self.temporary)
    }

    fn kernel(&self) -> PathBuf {
        self.out.join(KERNEL)
    }

    /// Calls CMake by hand.
    fn call(&self, cmake: &str, arguments: &[&dyn AsRef<OsStr>]) -> Output {
        let mut command = Command::new(cmake);
        command.env("ASCEND_HOME_PATH", &self.toolkit).env_remove("ASCEND_TOOLKIT_HOME");
        command.args(arguments).output().expect("CMake runs")
    }

    fn configure(&self, cmake: &str, options: &[&str]) -> Output {
        let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&"-S", &self.source, &"-B", &self.out];
        arguments.extend(options.iter().map(|option| option as &dyn AsRef<OsStr>));
        self.call(cmake, &arguments)
    }
}

fn text(out: &Output) -> String {
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn found(variables: &[(&str, &str)]) -> Result<Option<PathBuf>, Failure> {
    toolkit(&|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
}

#[test]
fn nothing_is_built_that_nobody_asked_for() {
    let machine = Machine::new("unasked");
    let before = tree(&machine.folder);
    let home = machine.toolkit.to_str().expect("UTF-8");
    assert_eq!(found(&[("ASCEND_HOME_PATH", home)]), Ok(None));
    assert_eq!(found(&[("CARGO_FEATURE_ASCEND", "1")]), Ok(None));
    for variables in [
        [("CARGO_FEATURE_ASCEND", ""), ("ASCEND_HOME_PATH", home)],
        [("CARGO_FEATURE_ASCEND", "1"), ("ASCEND_HOME_PATH", "")],
    ] {
        let lines = machine.directives("/no/such/cmake", &variables);
        assert!(lines.iter().all(|line| line.starts_with("cargo::rerun-if-")), "{lines:?}");
        for variable in ["ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME", "CMAKE", "BALANCEROUTE_CI"] {
            assert!(lines.contains(&format!("cargo::rerun-if-env-changed={variable}")), "{lines:?}");
        }
    }
    assert_eq!(tree(&machine.folder), before);
    for file in ["CMakeLists.txt", "cmake", "ascendc"] {
        assert!(machine.source.join(file).exists(), "{file} decides whether the kernel is built anew");
    }
}

#[test]
fn the_first_toolkit_that_is_named_counts() {
    let (one, two) = (Machine::new("first"), Machine::new("second"));
    let feature = ("CARGO_FEATURE_ASCEND", "1");
    let [one, two] = [&one, &two].map(|machine| machine.toolkit.to_str().expect("UTF-8"));
    let both = [feature, ("ASCEND_TOOLKIT_HOME", two), ("ASCEND_HOME_PATH", one)];
    assert_eq!(found(&both), Ok(Some(one.into())));
    assert_eq!(found(&both[..2]), Ok(Some(two.into())));
}

#[test]
fn a_toolkit_gives_one_file_and_nothing_is_written_elsewhere() {
    let Some(cmake) = cmake() else { return };
    let machine = Machine::new("whole");
    let before = tree(&machine.folder);
    let built = machine.build(&cmake).expect("built");
    assert_eq!(built, Built { kernel: machine.kernel(), module: Some(machine.toolkit.join(MODULE)) });
    let object = std::fs::read_to_string(&built.kernel).expect("a kernel");
    assert!(object.starts_with("stand-in object of balanceroute.cpp for Ascend910B3\n"), "{object}");
    assert!(object.contains("void balanceroute_greedy("), "{object}");
    let mut after = tree(&machine.folder);
    after.retain(|path, _| !path.starts_with(&machine.out) || *path == machine.out);
    let changed = |path: &PathBuf| before.get(path) != after.get(path) && *path != machine.out;
    let outside: Vec<_> = after.keys().chain(before.keys()).filter(|path| changed(path)).collect();
    assert!(outside.is_empty(), "{outside:?}");

    // Cargo's own way to the same, with the module watched and the kernel's path for the library.
    let lines = machine.directives(&cmake, &[]);
    let kernel = format!("cargo::rustc-env=BALANCEROUTE_ASCEND_BUILT={}", machine.kernel().display());
    assert!(lines.contains(&kernel), "{lines:?}");
    let module = machine.toolkit.join(MODULE);
    assert!(lines.contains(&format!("cargo::rerun-if-changed={}", module.display())), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("warning") || line.contains("error")), "{lines:?}");
}

#[test]
fn paths_that_tools_split_are_no_hindrance() {
    let Some(cmake) = cmake() else { return };
    for (number, (clone, toolkit, out)) in [
        ("a clone", "toolkit", "out"),
        ("clone", "tool kit", "out"),
        ("clone", "toolkit", "out put"),
        ("a;clone", "tool\"kit\"", "out: 'put' $HOME"),
        ("kl\u{f6}n", "toolkit", "out#1"),
    ]
    .into_iter()
    .enumerate()
    {
        let machine = Machine::with(&format!("split_{number}"), clone, toolkit, out);
        let before = tree(&machine.folder);
        let built =
            machine.build(&cmake).unwrap_or_else(|error| panic!("{clone}, {toolkit}, {out}: {error}"));
        assert_eq!(
            built,
            Built { kernel: machine.kernel(), module: Some(machine.toolkit.join(MODULE)) },
            "{clone}, {toolkit}, {out}"
        );
        // Of the output, the kernel alone: the folder that it was built in is gone.
        let mut after = tree(&machine.folder);
        let kernel = after.remove(&machine.kernel()).expect("the kernel");
        assert!(kernel.0 > 1000, "{kernel:?}");
        let without = |mut tree: BTreeMap<PathBuf, (u64, SystemTime)>| {
            // Times of folders that something was put into.
            tree.retain(|path, _| *path != machine.out && *path != machine.temporary);
            tree
        };
        assert_eq!(without(after), without(before), "{clone}, {toolkit}, {out}");
    }
    let machine = Machine::with("split_all", "a clone", "toolkit", "out");
    let temporary = machine.folder.join("tem porary");
    let error = build(&cmake, &machine.source, &machine.toolkit, &machine.out, &temporary);
    assert!(matches!(&error, Err(Failure::Place(what)) if what.contains("tem porary")), "{error:?}");
}

/// What cargo and the library are told of a failure: a warning, or an error where a kernel was promised, and
/// the reason for the device's description.
fn assert_told(machine: &Machine, cmake: &str, failure: &Failure) {
    let why = failure.to_string();
    for (strict, level) in [("", "warning"), ("1", "error")] {
        let lines = machine.directives(cmake, &[("BALANCEROUTE_CI", strict)]);
        assert!(lines.contains(&format!("cargo::{level}=no device kernel: {why}")), "{why}: {lines:?}");
        assert!(
            lines.contains(&format!("cargo::rustc-env=BALANCEROUTE_ASCEND_NOT_BUILT={why}")),
            "{lines:?}"
        );
        assert!(!lines.iter().any(|line| line.contains("ASCEND_BUILT=")), "{lines:?}");
        // What is never there makes cargo try again each time: the toolkit may be mended meanwhile.
        assert!(lines.contains(&"cargo::rerun-if-changed=kernels/not-built".to_owned()), "{lines:?}");
        assert!(lines.iter().all(|line| !line.contains('\n')), "{lines:?}");
    }
}

/// A failure of each step. Each first gets an object of an earlier build, which must not survive.
#[test]
fn every_step_fails_with_its_own_reason() {
    let Some(cmake) = cmake() else { return };
    let fails = |name: &str, prepare: &dyn Fn(&Machine), cmake: &str, says: &[&str]| {
        let machine = Machine::new(&format!("fails_{name}"));
        std::fs::write(machine.kernel(), "old").expect("written");
        std::fs::create_dir_all(machine.out.join("ascend/made/fatbin/balanceroute")).expect("a folder");
        std::fs::write(machine.out.join("ascend/made/fatbin/balanceroute/balanceroute.o"), "old")
            .expect("written");
        prepare(&machine);
        let failure = machine.build(cmake).expect_err(name);
        let text = failure.to_string();
        for part in says {
            assert!(text.contains(part), "{name}: no {part:?} in {text}");
        }
        assert!(!machine.kernel().exists(), "{name}: the old object is still there");
        assert_told(&machine, cmake, &failure);
        failure
    };
    let fault = |fault: &'static str| move |machine: &Machine| machine.fault(fault);
    let nothing = |_: &Machine| {};

    let failure = fails("cmake", &nothing, "/no/such/cmake", &["CMake does not run", "/no/such/cmake"]);
    assert!(matches!(failure, Failure::Cmake(_)), "{failure:?}");
    let bare = |machine: &Machine| std::fs::remove_file(machine.toolkit.join(MODULE)).expect("removed");
    let failure = fails("module", &bare, &cmake, &["has no ascendc.cmake", "not only the runtime"]);
    assert!(matches!(failure, Failure::Module(_)), "{failure:?}");
    let configure =
        |machine: &Machine| std::fs::write(machine.toolkit.join("configure_fault"), "").expect("written");
    let failure = fails("configure", &configure, &cmake, &["cannot be configured", "it has no python3"]);
    assert!(matches!(failure, Failure::Configure(_)), "{failure:?}");
    let says = ["compiler fails", "balanceroute.cpp:12:3: error: the stand-in knows no such call"];
    let failure = fails("compiler", &fault("compiler"), &cmake, &says);
    assert!(matches!(failure, Failure::Compiler(_)), "{failure:?}");
    let header =
        |machine: &Machine| std::fs::remove_file(machine.source.join("ascendc/tiling.h")).expect("removed");
    let failure = fails("header", &header, &cmake, &["compiler fails", "tiling.h: no such file"]);
    assert!(matches!(failure, Failure::Compiler(_)), "{failure:?}");
    let failure = fails("silent", &fault("silent"), &cmake, &["no object was made", "balanceroute.o"]);
    assert!(matches!(failure, Failure::NotMade(_)), "{failure:?}");
    let failure = fails("empty", &fault("empty"), &cmake, &["no object was made", "the file is empty"]);
    assert!(matches!(failure, Failure::NotMade(_)), "{failure:?}");
    let failure = fails("stale", &fault("stale"), &cmake, &["not made anew", "is older than"]);
    assert!(matches!(failure, Failure::Stale(_)), "{failure:?}");
    let place = |machine: &Machine| {
        std::fs::remove_dir_all(machine.out.join("ascend")).expect("removed");
        std::fs::write(machine.out.join("ascend"), "a file").expect("written");
    };
    let failure = fails("place", &place, &cmake, &["no folder to build in", "ascend"]);
    assert!(matches!(failure, Failure::Place(_)), "{failure:?}");

    let machine = Machine::new("fails_toolkit");
    std::fs::remove_dir_all(&machine.toolkit).expect("removed");
    let home = machine.toolkit.to_str().expect("UTF-8");
    let failure =
        found(&[("CARGO_FEATURE_ASCEND", "1"), ("ASCEND_HOME_PATH", home)]).expect_err("no toolkit");
    assert_eq!(failure, Failure::Toolkit(format!("ASCEND_HOME_PATH is {home}: not a folder")));
    assert_told(&machine, &cmake, &failure);
}

#[test]
fn a_list_of_chips_is_told_to_mean_nothing() {
    let Some(cmake) = cmake() else { return };
    let machine = Machine::new("chips");
    for (strict, level) in [("", "warning"), ("1", "error")] {
        let variables = [("BALANCEROUTE_ASCEND_CHIPS", "Ascend910B3"), ("BALANCEROUTE_CI", strict)];
        let lines = machine.directives(&cmake, &variables);
        let told =
            |line: &&String| line.starts_with(&format!("cargo::{level}=BALANCEROUTE_ASCEND_CHIPS is set"));
        assert_eq!(lines.iter().filter(told).count(), 1, "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("ASCEND_BUILT=")), "{lines:?}");
    }
}

#[test]
fn options_that_cannot_be_are_refused() {
    let Some(cmake) = cmake() else { return };
    let machine = Machine::new("options");
    for (options, says) in [
        (&["-DSOC_VERSION=Ascend310P3"][..], "SOC_VERSION is Ascend310P3: the kernel is written for"),
        (&["-DSOC_VERSION=Ascend910B"], "SOC_VERSION is Ascend910B: the kernel is written for"),
        (&["-DSOC_VERSION="], "SOC_VERSION is : the kernel is written for"),
        (&["-DSOC_VERSION=Ascend950PR_9579"], "never compiled for its architecture"),
        (&["-DSOC_VERSION=Ascend910_9579"], "never compiled for its architecture"),
        (&["-DRUN_MODE=sim"], "RUN_MODE is sim: npu or cpu"),
        (&["-DASCENDC_DEBUG=ON"], "ASCENDC_DEBUG is set"),
        (&["-DCMAKE_CXX_FLAGS=-O2 -DASCENDC_DEBUG"], "ASCENDC_DEBUG is set"),
        (&["-DASCEND_CANN_PACKAGE_PATH=/no/such/toolkit"], "/no/such/toolkit is not a folder"),
        (&["-DRUN_MODE=cpu", "-DSOC_VERSION=Ascend910B2"], "no tikicpulib::Ascend910B2"),
    ] {
        let out = machine.configure(&cmake, options);
        assert!(!out.status.success() && text(&out).contains(says), "{options:?}: {}", text(&out));
        std::fs::remove_dir_all(&machine.out).expect("it was there");
    }
    for chip in
        ["Ascend910B1", "Ascend910B2C", "Ascend910B4-1", "Ascend910_9382", "Ascend910_9362", "ascend910b3"]
    {
        let out = machine.configure(&cmake, &[&format!("-DSOC_VERSION={chip}")]);
        assert!(out.status.success(), "{chip}: {}", text(&out));
    }
    let mut command = Command::new(&cmake);
    command.arg("-S").arg(&machine.source).arg("-B").arg(machine.folder.join("no_toolkit"));
    let out =
        command.env_remove("ASCEND_HOME_PATH").env_remove("ASCEND_TOOLKIT_HOME").output().expect("it runs");
    assert!(!out.status.success() && text(&out).contains("are all unset"), "{}", text(&out));
}

/// By hand, as the page says: a prefix that the caller gives is not written to while building, and a build
/// again does not take the object of the one before for its own.
#[test]
fn cmake_by_hand_writes_where_it_is_told() {
    let Some(cmake) = cmake() else { return };
    let machine = Machine::with("by_hand", "a clone", "toolkit", "out");
    let prefix = machine.folder.join("prefix");
    let options = [&*format!("-DCMAKE_INSTALL_PREFIX={}", prefix.display()), "-DSOC_VERSION=Ascend910_9391"];
    let out = machine.configure(&cmake, &options);
    assert!(out.status.success(), "{}", text(&out));
    let compile = || machine.call(&cmake, &[&"--build", &machine.out, &"--parallel"]);
    let out = compile();
    assert!(out.status.success(), "{}", text(&out));
    let object = std::fs::read_to_string(machine.kernel()).expect("a kernel");
    assert!(object.contains("for Ascend910_9391"), "{object}");
    assert!(!prefix.exists(), "written while building");
    let out = machine.call(&cmake, &[&"--install", &machine.out, &"--prefix", &prefix]);
    assert!(out.status.success(), "{}", text(&out));
    assert_eq!(std::fs::read_to_string(prefix.join(KERNEL)).expect("installed"), object);

    // With another toolkit nothing of the first is used.
    let other = machine.folder.join("other toolkit");
    copy(&root().join("tests/device/toolkit"), &other);
    let second = machine.folder.join("second");
    let with = |toolkit: &Path| {
        let toolkit = format!("-DASCEND_CANN_PACKAGE_PATH={}", toolkit.display());
        let out = machine.call(&cmake, &[&"-S", &machine.source, &"-B", &second, &toolkit]);
        assert!(out.status.success(), "{}", text(&out));
        let cache = std::fs::read_to_string(second.join("CMakeCache.txt")).expect("configured");
        cache.lines().find_map(|line| line.strip_prefix("USED_ASCENDC_CMAKE:INTERNAL=").map(PathBuf::from))
    };
    for toolkit in [&machine.toolkit, &other] {
        assert!(with(toolkit).expect("a module").starts_with(toolkit), "{}", toolkit.display());
    }

    // The linker fails and does not say so. What is left is of the sources as they are, until they change.
    machine.fault("silent");
    let out = compile();
    assert!(out.status.success(), "{}", text(&out));
    let file = machine.source.join("ascendc/tiling.h");
    let header = std::fs::read_to_string(&file).expect("the header");
    std::fs::write(&file, header + "\n").expect("written");
    let out = compile();
    assert!(!out.status.success(), "{}", text(&out));
    assert!(text(&out).contains("is stale, of an earlier build"), "{}", text(&out));
    assert!(!machine.kernel().exists(), "a stale kernel");

    // A step that fails before that leaves no old kernel either.
    for fault in ["", "compiler"] {
        machine.fault(fault);
        let out = compile();
        let fine = fault.is_empty();
        assert_eq!((out.status.success(), machine.kernel().exists()), (fine, fine), "{}", text(&out));
    }
}
