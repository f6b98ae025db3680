//! Whether the CPU or the device decides a batch faster. Both are measured when a policy is built, and with
//! every decision after that.
//!
//! The time of each side is modelled as a line over the batch's work, `a + b * work`, fitted by least squares
//! of the relative error. Old measurements lose weight, so the lines follow a busy, throttled or shared
//! machine within some ten decisions. The slower side is measured again now and then: it may have become the
//! faster one.

use crate::batch::{Batch, Pairs, Request, Worker};
use crate::pool::Pool;

/// A new measurement multiplies the weight of all older ones by this: after some 13 half of it is left.
const FADE: f64 = 0.95;
/// One in this many decisions goes to the slower side.
const EXPLORE: u32 = 128;
/// The slower side is tried only where it is expected to take at most this many times longer.
const AFFORDABLE: f64 = 4.0;

/// Whose time was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The CPU making the picks.
    Cpu,
    /// The device making the picks: from packing to the last check.
    Device,
    /// The host's share of that. It counts alone where the host has other work while the device runs.
    Host,
}

/// Sums of weighted measurements, and the line fitted through them.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    weight: f64,
    work: f64,
    work_squared: f64,
    time: f64,
    work_time: f64,
}

impl Line {
    fn add(&mut self, work: f64, ns: f64) {
        // Errors count relative to the time measured.
        let weight = 1.0 / (ns * ns).max(1.0);
        for (sum, value) in [
            (&mut self.weight, 1.0),
            (&mut self.work, work),
            (&mut self.work_squared, work * work),
            (&mut self.time, ns),
            (&mut self.work_time, work * ns),
        ] {
            *sum = *sum * FADE + weight * value;
        }
    }

    /// Expected time at some work, in nanoseconds; none before the first measurement.
    fn at(&self, work: f64) -> Option<f64> {
        if self.weight <= 0.0 {
            return None;
        }
        let mean = self.time / self.weight;
        let determinant = self.weight * self.work_squared - self.work * self.work;
        // Measurements at one size give no slope.
        if determinant <= 1e-9 * self.weight * self.work_squared {
            return Some(mean);
        }
        let slope = ((self.weight * self.work_time - self.work * self.time) / determinant).max(0.0);
        let intercept = (self.time - slope * self.work) / self.weight;
        Some(if intercept < 0.0 {
            self.work_time / self.work_squared * work
        } else {
            intercept + slope * work
        })
    }
}

/// Classes of batches, each with lines of its own.
const CLASSES: usize = 4;

/// The CPU scores batches with terms per pair one by one, and searches others by length; looking ahead it
/// scores many columns again.
fn class(batch: &Batch<'_>) -> usize {
    let looks_ahead = batch.projection().is_some_and(|projection| projection.horizon > 0);
    usize::from(batch.has_pair_terms()) + 2 * usize::from(looks_ahead)
}

/// What a side's time grows with. Whoever makes the picks scores pairs, each for some steps; the host packs
/// requests, and terms of pairs.
fn work(batch: &Batch<'_>, side: Side) -> f64 {
    let waiting = batch.waiting().len();
    if side == Side::Host && !batch.has_pair_terms() {
        return waiting as f64;
    }
    let open = batch.workers().iter().filter(|worker| worker.open_slots() > 0).count();
    let steps = match batch.projection() {
        Some(projection) if side != Side::Host => projection.horizon + 1,
        _ => 1,
    };
    (waiting * open * steps) as f64
}

/// The measurements of one policy.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Choice {
    lines: [[Line; 3]; CLASSES],
    decisions: u32,
}

impl Choice {
    /// Takes a measurement.
    pub(crate) fn measured(&mut self, batch: &Batch<'_>, side: Side, ns: f64) {
        self.lines[class(batch)][side as usize].add(work(batch, side), ns);
    }

    /// Whether the device is to decide. `overlapped`: the host does other work while the device runs, so only
    /// its own share counts.
    pub(crate) fn device(&mut self, batch: &Batch<'_>, overlapped: bool) -> bool {
        let lines = &self.lines[class(batch)];
        let at = |side: Side| lines[side as usize].at(work(batch, side));
        let device = at(if overlapped { Side::Host } else { Side::Device });
        let (Some(cpu), Some(device)) = (at(Side::Cpu), device) else {
            return lines[Side::Cpu as usize].weight > 0.0;
        };
        self.decisions = self.decisions.wrapping_add(1);
        let faster = device < cpu;
        let explore =
            self.decisions.is_multiple_of(EXPLORE) && device.max(cpu) < AFFORDABLE * device.min(cpu);
        faster != explore
    }

    /// Words that say, for each class, from how many pairs on the device is faster.
    pub(crate) fn describe(&self) -> String {
        let text = |class: usize| {
            let from = (0..40).map(|power| f64::from(1 << 6) * 2f64.powi(power)).find(|&work| {
                let lines = &self.lines[class];
                matches!((lines[0].at(work), lines[1].at(work)), (Some(cpu), Some(device)) if device < cpu)
            });
            match from {
                Some(work) if work < 1e9 => format!("from {work:.0} pairs"),
                _ => "nowhere".to_owned(),
            }
        };
        format!(
            "the device is faster {} with terms per pair, {} without, and looking ahead {} and {} (measured)",
            text(1),
            text(0),
            text(3),
            text(2)
        )
    }
}

/// Steps that the batches of [`calibration`] look ahead, where they do.
const HORIZON: usize = 16;

/// Has each of the batches decided by which the sides are measured when a policy is built.
pub(crate) fn calibration(mut decide: impl FnMut(&Batch<'_>)) {
    let sizes = [false, true].into_iter().flat_map(|ahead| {
        [(64, 16, true), (512, 64, true), (64, 16, false), (512, 64, false)].map(|size| (size, ahead))
    });
    for ((waiting, workers, paired), ahead) in sizes {
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
        let mut draft = Batch::draft(&list, &pool).pairs(Pairs { bonus_tokens: &bonus, ..Pairs::default() });
        let later = |at: usize| 100_000 + u64::from(scattered(at + 7, 5_000));
        let rows: Vec<u64> =
            (0..workers).flat_map(|at| (0..=HORIZON).map(move |step| later(at + step * workers))).collect();
        if ahead {
            draft = draft.projection(HORIZON, &rows);
        }
        if let Ok(batch) = draft.check() {
            decide(&batch);
        }
    }
}

/// The choice between CPU and device on times that are given and not measured, for studies of where a device
/// would be chosen.
#[derive(Debug, Default)]
pub struct ChoiceProbe(Choice);

impl ChoiceProbe {
    /// A choice as a policy begins with it. `ns` is asked how long the CPU takes for each batch, the device,
    /// and the host's share of what the device takes.
    #[must_use]
    pub fn calibrated(mut ns: impl FnMut(&Batch<'_>) -> [f64; 3]) -> Self {
        let mut probe = Self::default();
        calibration(|batch| {
            let [cpu, device, host] = ns(batch);
            // So many rounds of each are measured.
            for _ in 0..3 {
                probe.cpu_took(batch, cpu);
            }
            for _ in 0..3 {
                probe.0.measured(batch, Side::Device, device);
                probe.0.measured(batch, Side::Host, host);
            }
        });
        probe
    }

    /// Adds a decision of the CPU.
    pub fn cpu_took(&mut self, batch: &Batch<'_>, ns: f64) {
        self.0.measured(batch, Side::Cpu, ns);
    }

    /// Adds a decision of the device: all of it, or the host's share of one that was `overlapped`.
    pub fn device_took(&mut self, batch: &Batch<'_>, ns: f64, overlapped: bool) {
        self.0.measured(batch, if overlapped { Side::Host } else { Side::Device }, ns);
    }

    /// Whether the device would decide this batch. `overlapped`: the host does other work meanwhile.
    pub fn device(&mut self, batch: &Batch<'_>, overlapped: bool) -> bool {
        self.0.device(batch, overlapped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_batch(waiting: u64, test: impl FnOnce(&Batch<'_>)) {
        let requests: Vec<Request> = (0..waiting).map(|id| Request::new(id, 100)).collect();
        let pool = Pool::from_requests(&requests).expect("valid");
        let workers = [Worker::new(1000, 1, 1); 4];
        test(&Batch::draft(&workers, &pool).check().expect("valid"));
    }

    #[test]
    fn the_faster_side_is_chosen_on_either_side_of_the_crossover() {
        let mut choice = Choice::default();
        // The device takes 30 us for a launch and a tenth of the CPU's time per pair.
        for waiting in [64, 4096] {
            with_batch(waiting, |batch| {
                let pairs = (waiting * 4) as f64;
                choice.measured(batch, Side::Cpu, 10.0 * pairs);
                choice.measured(batch, Side::Device, 30_000.0 + pairs);
                choice.measured(batch, Side::Host, 1_000.0);
            });
        }
        for (waiting, device, overlapped) in
            [(100, false, true), (700, false, true), (1000, true, true), (10, false, false)]
        {
            with_batch(waiting, |batch| {
                assert_eq!(choice.device(batch, false), device, "{waiting}");
                assert_eq!(choice.device(batch, true), overlapped, "{waiting}, overlapped");
            });
        }
        assert!(choice.describe().contains("nowhere with terms per pair"), "{}", choice.describe());
        assert!(choice.describe().contains("from 4096 pairs without"), "{}", choice.describe());
    }

    #[test]
    fn what_the_host_packs_does_not_grow_with_the_steps_that_are_looked_ahead() {
        let mut choice = Choice::default();
        let mut seen = Vec::new();
        calibration(|batch| {
            let pairs = work(batch, Side::Host);
            let cells = work(batch, Side::Cpu);
            choice.measured(batch, Side::Cpu, cells);
            choice.measured(batch, Side::Device, 1e9);
            choice.measured(batch, Side::Host, 10_000.0 + 4.0 * pairs);
            seen.push((class(batch), cells / pairs));
        });
        let classes: Vec<usize> = seen.iter().map(|&(class, _)| class).collect();
        assert_eq!(classes, [1, 1, 0, 0, 3, 3, 2, 2]);
        assert!(seen[4..6].iter().all(|&(_, steps)| steps as usize == HORIZON + 1), "{seen:?}");
        let mut at = 0;
        calibration(|batch| {
            assert!(!choice.device(batch, false));
            // Looking ahead the CPU takes 17 times as long a pair, and the host four times as before.
            assert_eq!(choice.device(batch, true), at >= 3, "{at}");
            at += 1;
        });
    }

    #[test]
    fn a_side_that_slows_down_is_left_and_a_side_that_recovers_is_found_again() {
        let mut choice = Choice::default();
        with_batch(1000, |batch| {
            choice.measured(batch, Side::Cpu, 10_000.0);
            choice.measured(batch, Side::Device, 20_000.0);
            assert!(!choice.device(batch, false));
            for _ in 0..60 {
                choice.measured(batch, Side::Cpu, 50_000.0);
            }
            assert!(choice.device(batch, false));
            // The CPU is fast again; only a decision that explores can find that.
            let mut tried = 0;
            for _ in 0..20 * EXPLORE {
                if !choice.device(batch, false) {
                    tried += 1;
                    choice.measured(batch, Side::Cpu, 10_000.0);
                } else {
                    choice.measured(batch, Side::Device, 20_000.0);
                }
            }
            assert!(tried > 2 * EXPLORE, "{tried}");
        });
    }
}
