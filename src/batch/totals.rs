//! Sums over the workers of a batch.

use crate::input::limits::MAX_WORKERS;
use crate::input::worker::Worker;

/// What every decision wants to know of the workers: added up in the validation, where each is looked at
/// anyway.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    /// A bit for each worker with an open slot.
    pub open: [u64; MAX_WORKERS / 64],
    /// The greatest load of all others, which in one step stay what they are; negative if there are none.
    pub greatest_shut_tokens: i64,
    pub open_slots: u64,
    pub slots: u64,
    pub load_tokens: u64,
    pub greatest_load_tokens: u64,
    /// Some worker has more than one open slot.
    pub several_open: bool,
    pub uniform: bool,
    pub bounded: bool,
}

impl Totals {
    pub(super) fn of(workers: &[Worker]) -> Self {
        let first_weight = workers.first().map_or(0, |worker| worker.weight.to_bits());
        let mut totals = Self { greatest_shut_tokens: -1, ..Self::default() };
        // Numbers instead of flags: compilers pack those into one register, and unpack them for each worker.
        let (mut most_open, mut capacities, mut other_weights) = (0, 0, 0);
        for (part, workers) in workers.chunks(64).enumerate() {
            let mut open = 0;
            for (at, worker) in workers.iter().enumerate() {
                let open_slots = worker.open_slots();
                open |= u64::from(open_slots > 0) << at;
                let shut_tokens = if open_slots > 0 { -1 } else { worker.load_tokens as i64 };
                totals.greatest_shut_tokens = totals.greatest_shut_tokens.max(shut_tokens);
                totals.open_slots += u64::from(open_slots);
                totals.slots += u64::from(worker.running) + u64::from(worker.free_slots);
                totals.load_tokens += worker.load_tokens;
                totals.greatest_load_tokens = totals.greatest_load_tokens.max(worker.load_tokens);
                most_open = most_open.max(open_slots);
                capacities += u32::from(worker.kv_capacity_tokens.is_some());
                other_weights |= worker.weight.to_bits() ^ first_weight;
            }
            totals.open[part] = open;
        }
        totals.several_open = most_open > 1;
        totals.uniform = other_weights == 0;
        totals.bounded = capacities > 0;
        totals
    }
}
