//! Writing a planned batch as the bytes that the kernel reads.

use super::layout::*;
use super::plan::{half_bits, token_cost, whole_half};
use super::{Packing, Problem, Source};
use crate::batch::{Batch, Bonuses};
use crate::pool::PoolSlot;
use crate::rule::{LevelTerms, ProfileSpec};
use crate::score::Knot;

/// Entries whose terms per pair are written together.
const TOGETHER: usize = 32;

impl Packing {
    /// Writes the planned batch to `bytes`, which are [`Packing::in_bytes`] long. Padding is not written.
    pub(crate) fn write(&self, problem: &Problem<'_>, bytes: &mut [u8]) {
        let header = &self.header;
        header.put(bytes);
        let at = |section: u32| section as usize;
        let (batch, pool) = (problem.batch, problem.batch.waiting());
        for worker in 0..header.workers as usize {
            let view = problem.loads.view(worker);
            let first = batch.projection().map_or(0, |projection| {
                projection.rows[worker * (projection.horizon + 1)] as i64 * view.cost_per_token
            });
            WorkerState {
                cost: view.cost,
                cost_per_token: view.cost_per_token,
                anticipated: view.anticipated,
                longest_tokens: problem.loads.longest_tokens(worker),
                row_added: view.row.first().map_or(0, |now| now - first),
                open_slots: view.open_slots as u32,
                reserved: [0; 5],
            }
            .put(&mut bytes[at(header.workers_at) + worker * size_of::<WorkerState>()..]);
        }
        for (index, run) in self.runs.iter().enumerate() {
            run.put(&mut bytes[at(header.runs_at) + index * size_of::<Run>()..]);
        }
        if header.mode == MODE_LOOKAHEAD {
            self.write_lookahead(problem, bytes);
        }
        if let Source::Spec(ProfileSpec::Levels(terms)) = &problem.source {
            self.write_levels(problem, terms, bytes);
        }
        if header.mode == MODE_FIXED {
            for (index, profile) in self.profiles.iter().enumerate() {
                let into = &mut bytes[at(header.profiles_at) + index * at(header.profile_stride)..];
                let (intercept, slope, knots) =
                    (profile.intercept, profile.slope, profile.knots.len() as u32);
                ProfileHead { intercept, slope, knots, reserved: [0; 3] }.put(into);
                put_knots(&profile.knots, &mut into[size_of::<ProfileHead>()..]);
            }
        }
        for (entry, &(slot, arrival)) in self.entries.iter().enumerate() {
            if slot == NOBODY {
                continue;
            }
            let slot = PoolSlot(slot);
            let tokens = pool.request(slot).prompt_tokens as f32;
            let age = problem.plan.age.tokens(pool.passed(slot)) as f32;
            for (section, word) in [
                (header.tokens_at, tokens.to_bits()),
                (header.ages_at, age.to_bits()),
                (header.arrivals_at, arrival),
            ] {
                bytes[at(section) + entry * 4..][..4].copy_from_slice(&word.to_le_bytes());
            }
        }
        if header.flags & FLAG_ELIGIBILITY != 0 {
            self.write_words(batch, &mut bytes[at(header.words_at)..]);
        }
        if header.bonus_format != BONUS_NONE {
            self.write_bonuses(batch, &mut bytes[at(header.bonus_at)..]);
        }
    }

    /// Writes envelopes, weights and projected rows.
    fn write_lookahead(&self, problem: &Problem<'_>, bytes: &mut [u8]) {
        let header = &self.header;
        let steps = header.steps as usize;
        let (_, envelope_row) = problem.loads.envelopes();
        for (h, envelope) in envelope_row[..steps].iter().enumerate() {
            bytes[header.envelope_at as usize + h * 8..][..8].copy_from_slice(&envelope.to_le_bytes());
        }
        for (run, weights) in self.weights.chunks_exact(steps).enumerate() {
            let from = header.weights_at as usize + run * header.weight_stride as usize;
            for (into, weight) in bytes[from..].chunks_exact_mut(4).zip(weights) {
                into.copy_from_slice(&weight.to_le_bytes());
            }
        }
        if let Some(projection) = problem.batch.projection() {
            for (worker, row) in projection.rows.chunks_exact(projection.horizon + 1).enumerate() {
                let from = header.rows_at as usize + worker * header.row_stride as usize;
                for (into, &tokens) in bytes[from..].chunks_exact_mut(4).zip(&row[..steps]) {
                    into.copy_from_slice(&(tokens as u32).to_le_bytes());
                }
            }
        }
    }

    /// Writes what profiles that follow the loads of all others are made of.
    fn write_levels(&self, problem: &Problem<'_>, terms: &LevelTerms<'_>, bytes: &mut [u8]) {
        let header = &self.header;
        let into = &mut bytes[header.terms_at as usize..];
        LevelTermsBytes {
            mean: terms.mean,
            least: terms.least,
            base: terms.base,
            fall: terms.fall,
            reserve: terms.reserve.0,
            reserve_slope: terms.reserve.1,
            token_cost: token_cost(problem.batch),
            reserved: [0; 2],
        }
        .put(into);
        put_knots(terms.reserve_knots, &mut into[size_of::<LevelTermsBytes>()..]);
        let mut put = |section: u32, column: &mut dyn Iterator<Item = &i64>| {
            for (into, value) in bytes[section as usize..].chunks_exact_mut(8).zip(column) {
                into.copy_from_slice(&value.to_le_bytes());
            }
        };
        // The device has the greatest first.
        put(header.levels_at, &mut problem.loads.view(0).levels.iter().rev());
        put(header.rises_at, &mut terms.rises.iter());
    }

    /// Writes eligibility, one bit for each worker, in planes of 16 workers.
    fn write_words(&self, batch: &Batch<'_>, bytes: &mut [u8]) {
        let stride = self.header.stride as usize;
        for (at, entries) in self.entries.chunks(TOGETHER).enumerate() {
            for plane in 0..(self.header.workers as usize).div_ceil(16) {
                let into = &mut bytes[(plane * stride + at * TOGETHER) * 2..];
                for (into, &(slot, _)) in into.chunks_exact_mut(2).zip(entries) {
                    if slot == NOBODY {
                        continue;
                    }
                    let request = batch.waiting().request(PoolSlot(slot));
                    let mut word = (batch.eligible_word(request, plane / 4) >> (plane % 4 * 16)) as u16;
                    if let Some(rank) = request.rank.map(crate::WorkerIndex::index) {
                        word &= if rank / 16 == plane { 1 << (rank % 16) } else { 0 };
                    }
                    into.copy_from_slice(&word.to_le_bytes());
                }
            }
        }
    }

    /// Writes bonuses, one plane for each open worker. Rows become columns by some entries at a time, so that
    /// neither side leaves the cache.
    fn write_bonuses(&self, batch: &Batch<'_>, bytes: &mut [u8]) {
        let Some(bonuses) = batch.bonuses() else { return };
        let (stride, workers) = (self.header.stride as usize, self.header.workers as usize);
        let half = self.header.bonus_format == BONUS_F16;
        let mut rows = [None; TOGETHER];
        for (at, entries) in self.entries.chunks(TOGETHER).enumerate() {
            for (row, &(slot, _)) in rows.iter_mut().zip(entries) {
                let request = (slot != NOBODY).then(|| batch.waiting().request(PoolSlot(slot)));
                *row = request.and_then(|request| request.pair_row).map(|row| row as usize * workers);
            }
            let rows = &rows[..entries.len()];
            for worker in self.open.iter().map(|&worker| worker as usize) {
                let from = worker * stride + at * TOGETHER;
                let at = |row: &Option<usize>| row.map(|row| row + worker);
                if !half {
                    for (into, row) in bytes[from * 4..].chunks_exact_mut(4).zip(rows) {
                        let bonus = at(row).map_or(0, |at| bonuses.at(at)) as f32;
                        into.copy_from_slice(&bonus.to_bits().to_le_bytes());
                    }
                    continue;
                }
                let into = bytes[from * 2..].chunks_exact_mut(2).zip(rows);
                match bonuses {
                    Bonuses::F16(matrix) => into.for_each(|(into, row)| {
                        let bonus = at(row).map_or(0, |at| whole_half(matrix[at]));
                        into.copy_from_slice(&bonus.to_le_bytes());
                    }),
                    Bonuses::F32(_) => into.for_each(|(into, row)| {
                        let bonus = at(row).map_or(0, |at| half_bits(bonuses.at(at)));
                        into.copy_from_slice(&bonus.to_le_bytes());
                    }),
                }
            }
        }
    }
}

fn put_knots(knots: &[Knot], bytes: &mut [u8]) {
    for (into, knot) in bytes.chunks_exact_mut(size_of::<KnotBytes>()).zip(knots) {
        KnotBytes { at_tokens: knot.at_tokens, weight: knot.weight }.put(into);
    }
}
