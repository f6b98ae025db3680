//! With the feature `ascend` on a machine with a CANN toolkit: builds the device kernel, one file per chip,
//! for the library to find at run time. Everywhere else it does nothing, and the library takes a kernel file
//! by its path.
//!
//! | variable | |
//! |---|---|
//! | `ASCEND_HOME_PATH`, `ASCEND_TOOLKIT_HOME` | the toolkit: the first that is set |
//! | `BALANCEROUTE_ASCEND_CHIPS` | chips to build for, with commas between; by default those of A2 and A3 |
//! | `BALANCEROUTE_CI` | 1: a kernel that was asked for and cannot be built is an error, not a warning |

use std::path::{Path, PathBuf};
use std::process::Command;

/// Toolkits by the variables that name them.
const TOOLKITS: [&str; 2] = ["ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"];
const CHIPS: &str = "BALANCEROUTE_ASCEND_CHIPS";
const STRICT: &str = "BALANCEROUTE_CI";
/// Atlas A2 and A3, as their runtime names them.
const DEFAULT_CHIPS: &str =
    "Ascend910B1,Ascend910B2,Ascend910B3,Ascend910B4,Ascend910_9391,Ascend910_9382,Ascend910_9362";

pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What to build, if anything was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) toolkit: PathBuf,
    pub(crate) chips: Vec<String>,
}

/// Nothing without the feature and without a toolkit; an error where a toolkit or chips are named that cannot
/// be used.
pub(crate) fn plan(environment: Environment<'_>) -> Result<Option<Plan>, String> {
    if environment("CARGO_FEATURE_ASCEND").is_none() {
        return Ok(None);
    }
    let named = TOOLKITS.iter().find_map(|&name| Some((name, environment(name)?)));
    let Some((name, toolkit)) = named else {
        return match environment(CHIPS) {
            Some(chips) => {
                Err(format!("{CHIPS} is {chips:?}, but neither {} is set", TOOLKITS.join(" nor ")))
            }
            None => Ok(None),
        };
    };
    let toolkit = PathBuf::from(toolkit);
    if !toolkit.is_dir() {
        return Err(format!("{name} is {}: not a folder", toolkit.display()));
    }
    let chips = environment(CHIPS).unwrap_or_else(|| DEFAULT_CHIPS.to_owned());
    let chips = chips.split(',').map(str::trim).filter(|chip| !chip.is_empty()).map(str::to_owned).collect();
    Ok(Some(Plan { toolkit, chips }))
}

fn run(command: &mut Command) -> Result<(), String> {
    let out = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if out.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&out.stderr);
    let last: Vec<&str> = text.lines().rev().filter(|line| !line.trim().is_empty()).take(3).collect();
    Err(format!("{command:?}: {}: {}", out.status, last.into_iter().rev().collect::<Vec<_>>().join(" | ")))
}

/// Builds the kernel for one chip into `kernels/balanceroute-<chip>.o` of a folder.
pub(crate) fn build(cmake: &str, source: &Path, plan: &Plan, chip: &str, out: &Path) -> Result<(), String> {
    let folder = out.join(format!("ascend-{chip}"));
    run(Command::new(cmake)
        .arg("-S")
        .arg(source)
        .arg("-B")
        .arg(&folder)
        .arg(format!("-DSOC_VERSION={chip}"))
        .arg(format!("-DASCEND_CANN_PACKAGE_PATH={}", plan.toolkit.display())))?;
    run(Command::new(cmake).arg("--build").arg(&folder).arg("--parallel"))?;
    let kernels = out.join("kernels");
    run(Command::new(cmake).arg("--install").arg(&folder).arg("--prefix").arg(&kernels))?;
    let made = kernels.join(format!("balanceroute-{chip}.o"));
    if made.is_file() { Ok(()) } else { Err(format!("{} was not made", made.display())) }
}

/// Says what was asked for and could not be done.
fn complain(strict: bool, message: &str) {
    println!("cargo::{}=no device kernel: {message}", if strict { "error" } else { "warning" });
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kernels");
    for name in TOOLKITS.into_iter().chain([CHIPS, STRICT]) {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let strict = environment(STRICT).is_some_and(|value| value == "1");
    let plan = match plan(&environment) {
        Ok(Some(plan)) => plan,
        Ok(None) => return,
        Err(message) => return complain(strict, &message),
    };
    let (Some(source), Some(out)) = (environment("CARGO_MANIFEST_DIR"), environment("OUT_DIR")) else {
        return;
    };
    let out = PathBuf::from(out);
    let mut any = false;
    for chip in &plan.chips {
        match build("cmake", &Path::new(&source).join("kernels"), &plan, chip, &out) {
            Ok(()) => any = true,
            Err(message) => complain(strict, &format!("{chip}: {message}")),
        }
    }
    if any {
        println!("cargo::rustc-env=BALANCEROUTE_ASCEND_BUILT={}", out.join("kernels").display());
    }
}
