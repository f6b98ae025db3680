//! The device that a policy gets: opened, and measured beside the CPU where the faster is wanted.

use crate::assignment::Assignment;
use crate::backend::ascend::choice::{Choice, Side};
use crate::backend::ascend::launch::Device;
use crate::backend::ascend::{self, AscendParameters};
use crate::backend::cpu::Kernels;
use crate::backend::offload::Offload;
use crate::backend::{Backend, BackendKind};
use crate::batch::{Batch, Pairs, Request, Worker};
use crate::policy::exact::{Exact, ExactParameters};
use crate::pool::Pool;

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
    let mut rule = Exact::new(ExactParameters::new(), None);
    let mut offload = Offload::with(device, kernels);
    let mut out = Assignment::new();
    offload.device_mut().choose_by(Some(Choice::default()));
    for (waiting, workers, paired) in [(64, 16, true), (512, 64, true), (64, 16, false), (512, 64, false)] {
        // Lengths and loads that repeat nowhere near each other; what they are does not matter.
        let scattered = |at: usize, below: u32| (at as u32).wrapping_mul(2_654_435_761) % below;
        let requests: Vec<Request> = (0..waiting)
            .map(|at| {
                let request = Request::new(at as u64, 1 + scattered(at, 4_000));
                if paired { request.pairs(at as u32) } else { request }
            })
            .collect();
        let list: Vec<Worker> = (0..workers)
            .map(|at| Worker::new(100_000 + u64::from(scattered(at + 7, 5_000)), 32, 1))
            .collect();
        let bonus: Vec<f32> =
            (0..if paired { waiting * workers } else { 0 }).map(|at| scattered(at, 900) as f32).collect();
        let Ok(pool) = Pool::from_requests(&requests) else { continue };
        let draft = Batch::draft(&list, &pool).pairs(Pairs { bonus_tokens: &bonus, ..Pairs::default() });
        let Ok(batch) = draft.check() else { continue };
        for side in [Side::Cpu, Side::Device] {
            // The first of each warms caches and buffers up.
            for round in 0..4 {
                let before = offload.device_mut().choice();
                offload.device_mut().only(Some(side));
                offload.assign(&mut rule, &batch, &mut out);
                if round == 0 {
                    offload.device_mut().choose_by(before);
                }
            }
        }
    }
    offload.device_mut().only(None);
    offload.into_device()
}
