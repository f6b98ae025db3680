//! The backend that a policy is built with: on the device of the caller, on one that is looked for, or on the
//! CPU.

use std::ffi::OsString;

#[cfg(feature = "ascend")]
use super::device;
use super::{Parameters, PolicyError};
use crate::backend::Chosen;
#[cfg(feature = "ascend")]
use crate::backend::ascend::launch::{Device, Launch};
use crate::backend::cpu::{Isa, Kernels};
#[cfg(feature = "ascend")]
use crate::backend::offload::Offload;

/// A launcher of the caller's, where there can be one.
#[cfg(feature = "ascend")]
pub(super) type Launcher = Option<Box<dyn Launch>>;
/// No device in this build.
#[cfg(not(feature = "ascend"))]
pub(super) type Launcher = Option<std::convert::Infallible>;

/// The backend that these parameters name.
pub(super) fn open(parameters: &Parameters, launcher: Launcher) -> Result<Chosen, PolicyError> {
    let (kernels, why) = kernels(parameters.isa)?;
    #[cfg(feature = "ascend")]
    let no_device = {
        let (device, no_device) = match launcher {
            Some(launcher) => (Some(Device::new(launcher)), None),
            None => device::open(parameters.backend, &parameters.ascend, kernels),
        };
        if let Some(device) = device {
            return Ok(Chosen::Offload(Box::new(Offload::with(device, kernels))));
        }
        no_device
    };
    #[cfg(not(feature = "ascend"))]
    let no_device = match (launcher, parameters.backend) {
        (_, crate::backend::BackendKind::Ascend) => return Err(PolicyError::Backend { found: "ascend" }),
        _ => None,
    };
    let search_by_length = parameters.testing.search_by_length;
    Ok(Chosen::new(parameters.backend, (kernels, why), no_device, search_by_length))
}

/// The kernels of an instruction set, of the one that the environment names, or of the best; and which of
/// these.
fn kernels(isa: Option<Isa>) -> Result<(&'static Kernels, &'static str), PolicyError> {
    kernels_of(isa, std::env::var_os("BALANCEROUTE_ISA"))
}

fn kernels_of(
    isa: Option<Isa>,
    from_environment: Option<OsString>,
) -> Result<(&'static Kernels, &'static str), PolicyError> {
    let named = |isa: Isa| Kernels::of(isa).ok_or(PolicyError::Isa { found: isa.name().to_owned() });
    if let Some(isa) = isa {
        return Ok((named(isa)?, "asked for"));
    }
    let name = from_environment.unwrap_or_default();
    let name = name.to_string_lossy();
    // An empty variable is an unset one.
    if name.trim().is_empty() {
        return Ok((Kernels::best(), "the best of this CPU"));
    }
    let isa = name.trim().parse().map_err(|_| PolicyError::Isa { found: name.clone().into_owned() })?;
    Ok((named(isa)?, "BALANCEROUTE_ISA"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_is_an_unset_one() {
        let of = |value: Option<&str>| kernels_of(None, value.map(OsString::from)).map(|(_, why)| why);
        let unset = of(None);
        assert!(unset.is_ok());
        assert_eq!(of(Some("")), unset);
        assert_eq!(of(Some(" \t")), unset);
        assert_eq!(of(Some("scalar")), Ok("BALANCEROUTE_ISA"));
        assert_eq!(of(Some("mmx")), Err(PolicyError::Isa { found: "mmx".to_owned() }));
    }

    #[cfg(not(feature = "ascend"))]
    #[test]
    fn a_build_without_the_device_refuses_it_by_name() {
        let parameters = Parameters::new().backend(crate::backend::BackendKind::Ascend);
        let refused = crate::policy::build("level", &parameters).err();
        assert_eq!(refused, Some(PolicyError::Backend { found: "ascend" }));
    }
}
