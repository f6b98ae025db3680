//! With the feature `ascend` on a machine with a CANN toolkit: builds the device kernel for the library to
//! find at run time. Everywhere else it does nothing, and the library takes a kernel file by its path.
//!
//! | variable | |
//! |---|---|
//! | `ASCEND_HOME_PATH`, `ASCEND_TOOLKIT_HOME` | the toolkit: the first that is set |
//! | `CMAKE` | the CMake to use, 3.16 or newer; default `cmake` |
//! | `BALANCEROUTE_CI` | 1: a kernel that was asked for and cannot be built is an error, not a warning |
//!
//! The library learns where the kernel is, or why there is none, by variables of its compilation.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Toolkits by the variables that name them.
const TOOLKITS: [&str; 2] = ["ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"];
const CMAKE: &str = "CMAKE";
const STRICT: &str = "BALANCEROUTE_CI";
/// Chose chips when each had a file of its own.
const CHIPS: &str = "BALANCEROUTE_ASCEND_CHIPS";
/// The file for every chip of the family.
pub(crate) const KERNEL: &str = "balanceroute-c220.o";
/// What decides whether the kernel is built anew, in `kernels`.
const SOURCES: [&str; 3] = ["CMakeLists.txt", "cmake", "ascendc"];

pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Why there is no kernel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// What should be the toolkit is none.
    Toolkit(String),
    /// It is a toolkit without the means to build.
    Module(String),
    /// No folder to build in.
    Place(String),
    /// CMake does not run.
    Cmake(String),
    /// CMake refuses: the message says what.
    Configure(String),
    /// A compiler or another tool of the toolkit fails.
    Compiler(String),
    /// Nothing has failed, and there is no object.
    NotMade(String),
    /// Nothing has failed, and the object is an old one.
    Stale(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Toolkit(what) | Self::Module(what) => write!(f, "{what}"),
            Self::Place(what) => write!(f, "no folder to build in: {what}"),
            Self::Cmake(what) => write!(f, "CMake does not run: {what}"),
            Self::Configure(what) => write!(f, "the build cannot be configured: {what}"),
            Self::Compiler(what) => write!(f, "the toolkit's compiler fails: {what}"),
            Self::NotMade(what) => write!(f, "no object was made: {what}"),
            Self::Stale(what) => write!(f, "the object was not made anew: {what}"),
        }
    }
}

/// The toolkit that the environment names: nothing without the feature and without a toolkit.
pub(crate) fn toolkit(environment: Environment<'_>) -> Result<Option<PathBuf>, Failure> {
    if environment("CARGO_FEATURE_ASCEND").is_none() {
        return Ok(None);
    }
    let named = TOOLKITS.iter().find_map(|&name| Some((name, PathBuf::from(environment(name)?))));
    match named {
        Some((name, path)) if !path.is_dir() => {
            Err(Failure::Toolkit(format!("{name} is {}: not a folder", path.display())))
        }
        named => Ok(named.map(|(_, path)| path)),
    }
}

/// Whether every tool takes the path as one word: the toolkit's scripts split their commands at blanks, CMake
/// its lists at semicolons, make its rules at colons.
fn is_plain(path: &Path) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    path.to_str().is_some_and(|path| path.chars().all(plain))
}

#[cfg(unix)]
fn link(to: &Path, from: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(to, from)
}

#[cfg(not(unix))]
fn link(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(std::io::Error::other("links are made on Unix only"))
}

/// Where the kernel is built, by paths that every tool takes.
struct Place {
    source: PathBuf,
    toolkit: PathBuf,
    build: PathBuf,
    /// Removed in the end.
    links: Option<PathBuf>,
}

impl Place {
    /// A folder of the output with nothing in it; where paths are not plain, a folder of the temporary one,
    /// with links to source and toolkit.
    fn new(source: &Path, toolkit: &Path, out: &Path, temporary: &Path) -> Result<Self, Failure> {
        let failed =
            |path: &Path, error: std::io::Error| Failure::Place(format!("{}: {error}", path.display()));
        if [source, toolkit, out].into_iter().all(is_plain) {
            let build = out.join("ascend");
            if build.exists() {
                std::fs::remove_dir_all(&build).map_err(|error| failed(&build, error))?;
            }
            return Ok(Self { source: source.into(), toolkit: toolkit.into(), build, links: None });
        }
        if !is_plain(temporary) {
            return Err(Failure::Place(format!(
                "{}, {} or {} has a character at which the toolkit's scripts split, and so has {}",
                source.display(),
                toolkit.display(),
                out.display(),
                temporary.display()
            )));
        }
        for number in 0..1000 {
            let links = temporary.join(format!("balanceroute-kernel-{}-{number}", std::process::id()));
            match std::fs::create_dir(&links) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(failed(&links, error)),
                Ok(()) => {}
            }
            let (from, to) = (links.join("source"), links.join("toolkit"));
            let place = Self { source: from, toolkit: to, build: links.join("build"), links: Some(links) };
            for (real, link_to) in [(source, &place.source), (toolkit, &place.toolkit)] {
                let real = real.canonicalize().map_err(|error| failed(real, error))?;
                link(&real, link_to).map_err(|error| failed(link_to, error))?;
            }
            return Ok(place);
        }
        Err(Failure::Place(format!("{} is full of folders of earlier builds", temporary.display())))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(links) = &self.links {
            // What stays behind in a temporary folder does no harm.
            let _ = std::fs::remove_dir_all(links);
        }
    }
}

/// What a failed command says: CMake's own message, else the lines that speak of errors, else the last.
pub(crate) fn told(out: &Output) -> String {
    let (errors, output) = (String::from_utf8_lossy(&out.stderr), String::from_utf8_lossy(&out.stdout));
    let lines = || errors.lines().chain(output.lines()).filter(|line| !line.trim().is_empty());
    let message: Vec<&str> = lines()
        .skip_while(|line| !line.starts_with("CMake Error at"))
        .skip(1)
        .take_while(|line| line.starts_with(' '))
        .collect();
    // Make says after each failure that there was one.
    let speaks = |line: &&str| line.to_lowercase().contains("error") && !line.contains("***");
    let chosen: Vec<&str> = match &message[..] {
        [] => lines().filter(speaks).take(3).collect(),
        message => message.to_vec(),
    };
    let chosen = if chosen.is_empty() {
        let mut last: Vec<&str> = lines().collect();
        last.split_off(last.len().saturating_sub(3))
    } else {
        chosen
    };
    let words: Vec<&str> = chosen.iter().flat_map(|line| line.split_whitespace()).collect();
    format!("{} ({})", words.join(" "), out.status)
}

fn run(command: &mut Command) -> Result<Output, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.output().map_err(|error| Failure::Cmake(format!("{program}: {error}")))
}

/// What was built, and the toolkit's module that it was built with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Built {
    pub(crate) kernel: PathBuf,
    pub(crate) module: Option<PathBuf>,
}

/// Builds the kernel in a folder of its own and copies it to the output. An object of an earlier build is
/// gone, whatever happens.
pub(crate) fn build(
    cmake: &str,
    source: &Path,
    toolkit: &Path,
    out: &Path,
    temporary: &Path,
) -> Result<Built, Failure> {
    let kernel = out.join(KERNEL);
    if kernel.exists() {
        let failed = |error| Failure::Place(format!("{}: {error}", kernel.display()));
        std::fs::remove_file(&kernel).map_err(failed)?;
    }
    let place = Place::new(source, toolkit, out, temporary)?;
    let mut configure = Command::new(cmake);
    configure.arg("-S").arg(&place.source).arg("-B").arg(&place.build);
    configure.arg(format!("-DASCEND_CANN_PACKAGE_PATH={}", place.toolkit.display()));
    let done = run(&mut configure)?;
    if !done.status.success() {
        let told = told(&done);
        return Err(if told.contains("has no ascendc.cmake") {
            Failure::Module(told)
        } else {
            Failure::Configure(told)
        });
    }
    let done = run(Command::new(cmake).arg("--build").arg(&place.build).arg("--parallel"))?;
    if !done.status.success() {
        let told = told(&done);
        // What cmake/take.cmake says.
        return Err(if told.contains("no error and made no") {
            Failure::NotMade(told)
        } else if told.contains("is stale") {
            Failure::Stale(told)
        } else {
            Failure::Compiler(told)
        });
    }
    let made = place.build.join(KERNEL);
    std::fs::copy(&made, &kernel)
        .map_err(|error| Failure::NotMade(format!("{}: {error}", made.display())))?;
    let cache = std::fs::read_to_string(place.build.join("CMakeCache.txt")).unwrap_or_default();
    let module =
        cache.lines().find_map(|line| line.strip_prefix("USED_ASCENDC_CMAKE:INTERNAL=")).map(Path::new);
    let module = module.map(|module| match module.strip_prefix(&place.toolkit) {
        Ok(below) => toolkit.join(below),
        Err(_) => module.to_owned(),
    });
    Ok(Built { kernel, module })
}

/// What cargo is told.
pub(crate) fn directives(environment: Environment<'_>, temporary: &Path) -> Vec<String> {
    let mut lines = vec!["cargo::rerun-if-changed=build.rs".to_owned()];
    lines.extend(SOURCES.iter().map(|source| format!("cargo::rerun-if-changed=kernels/{source}")));
    let variables = TOOLKITS.into_iter().chain([CMAKE, CHIPS, STRICT]);
    lines.extend(variables.map(|name| format!("cargo::rerun-if-env-changed={name}")));
    let strict = environment(STRICT).is_some_and(|value| value == "1");
    let complaint = |what: &str| format!("cargo::{}={what}", if strict { "error" } else { "warning" });
    if environment("CARGO_FEATURE_ASCEND").is_some() && environment(CHIPS).is_some() {
        lines.push(complaint(&format!(
            "{CHIPS} is set and means nothing: {KERNEL} serves every 910B and A3 chip"
        )));
    }
    let (Some(source), Some(out)) = (environment("CARGO_MANIFEST_DIR"), environment("OUT_DIR")) else {
        return lines;
    };
    let built = match toolkit(environment) {
        Ok(None) => return lines,
        Ok(Some(toolkit)) => {
            let cmake = environment(CMAKE).unwrap_or_else(|| "cmake".to_owned());
            build(&cmake, &Path::new(&source).join("kernels"), &toolkit, Path::new(&out), temporary)
        }
        Err(failure) => Err(failure),
    };
    match built {
        Ok(Built { kernel, module }) => {
            lines.extend(module.map(|module| format!("cargo::rerun-if-changed={}", module.display())));
            lines.push(format!("cargo::rustc-env=BALANCEROUTE_ASCEND_BUILT={}", kernel.display()));
        }
        Err(failure) => {
            // One line for cargo, whatever a path has in it.
            let why = failure.to_string().replace(char::is_control, " ");
            lines.push(complaint(&format!("no device kernel: {why}")));
            // A file that is never there: the next build tries again, for the toolkit may be mended by then.
            lines.push("cargo::rerun-if-changed=kernels/not-built".to_owned());
            lines.push(format!("cargo::rustc-env=BALANCEROUTE_ASCEND_NOT_BUILT={why}"));
        }
    }
    lines
}

fn main() {
    let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    for line in directives(&environment, &std::env::temp_dir()) {
        println!("{line}");
    }
}
