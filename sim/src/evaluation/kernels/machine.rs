//! The machine: its processor, and whether it has a device.

use balanceroute::backend::ascend::AscendParameters;
use balanceroute::policy::Parameters;

/// Whatever this build and this machine have beside the CPU is a path of its own.
pub(super) fn on_cpu() -> Parameters {
    Parameters::new().ascend(AscendParameters::new().device(None))
}

/// Whether there is a device, and which, or why not: opened and closed again.
#[cfg(feature = "ascend")]
pub fn device(parameters: &Parameters) -> (bool, String) {
    match balanceroute::backend::ascend::probe(&parameters.ascend) {
        Ok(name) => (true, name),
        Err(error) => (false, error.to_string()),
    }
}

/// Whether there is a device, and which, or why not: opened and closed again.
#[cfg(not(feature = "ascend"))]
pub fn device(_: &Parameters) -> (bool, String) {
    (false, "this build lacks the feature `ascend`".to_owned())
}

pub(super) fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!("{} ({})", model.map_or("unknown", |(_, model)| model), std::env::consts::ARCH)
}
