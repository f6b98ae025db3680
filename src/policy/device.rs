//! The device that a policy gets: opened, and measured beside the CPU where the faster is wanted.

use crate::assignment::Assignment;
use crate::backend::ascend::choice::{Choice, Side, calibration};
use crate::backend::ascend::launch::Device;
use crate::backend::ascend::{self, AscendParameters};
use crate::backend::cpu::Kernels;
use crate::backend::offload::Offload;
use crate::backend::{Backend, BackendKind};
use crate::policy::Parameters;
use crate::policy::exact::Exact;
use crate::rule::Forecast;

/// Opens the device that a policy is to use, or says why it uses none.
pub(super) fn open(
    backend: BackendKind,
    parameters: &AscendParameters,
    kernels: &'static Kernels,
) -> (Option<Device>, Option<String>) {
    let measured = backend == BackendKind::Auto;
    if !measured && backend != BackendKind::Ascend {
        return (None, None);
    }
    match ascend::open(parameters) {
        Ok(device) if measured => (Some(calibrate(device, kernels)), None),
        Ok(device) => (Some(device), None),
        Err(error) => (None, Some(format!("no device: {error}"))),
    }
}

/// Decides the same few batches on both sides, so that the first real one goes to the faster.
fn calibrate(device: Device, kernels: &'static Kernels) -> Device {
    let mut rules = [None, Some(Forecast::Oracle)].map(|forecast| Exact::new(&Parameters::new(), forecast));
    let mut offload = Offload::with(device, kernels);
    let mut out = Assignment::new();
    offload.device_mut().choose_by(Some(Choice::default()));
    calibration(|batch| {
        let rule = &mut rules[usize::from(batch.projection().is_some())];
        for side in [Side::Cpu, Side::Device] {
            // The first of each warms caches and buffers up.
            for round in 0..4 {
                let before = offload.device_mut().choice();
                offload.device_mut().only(Some(side));
                offload.assign(rule, batch, &mut out);
                if round == 0 {
                    offload.device_mut().choose_by(before);
                }
            }
        }
    });
    offload.device_mut().only(None);
    offload.into_device()
}
