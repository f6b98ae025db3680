//! Planning a batch for the device: which request becomes which entry, who computes profiles, how large a
//! tile fits, and where each section of the blob begins.

use half::f16;

use super::layout::*;
use super::{Kept, Packing, Problem, Soc, Source};
use crate::batch::{Batch, Bonuses, Request, WEIGHT_ONE};
use crate::rule::{LevelTerms, Order, ProfileSpec, step_weights};
use crate::score::Profile;

/// The bits of a half without its sign.
const HALF_SIZE: u16 = 0x7fff;
/// The greatest number of half precision.
const GREATEST_HALF: u64 = 65_504;

/// An error where `found` is above a limit.
fn limit(what: &'static str, limit: usize, found: usize) -> Result<(), Kept> {
    if found <= limit { Ok(()) } else { Err(Kept::Limit { what, limit: limit as i64, found: found as i64 }) }
}

/// An error where `found` reaches a limit.
fn limit_i64(what: &'static str, limit: i64, found: i64) -> Result<(), Kept> {
    if found < limit { Ok(()) } else { Err(Kept::Limit { what, limit, found }) }
}

impl Packing {
    /// Plans a batch for a chip, or says why the host keeps it.
    pub(crate) fn plan(&mut self, problem: &Problem<'_>, soc: Soc) -> Result<(), Kept> {
        let (batch, plan) = (problem.batch, problem.plan);
        let workers = batch.workers().len();
        // The number of the order in `tiling.h`, and how many open slots the device leaves to the host.
        let (order, stop_open_slots) = match plan.order {
            Order::Matrix => (0, 0),
            Order::LeastLoaded => (1, 0),
            Order::MostOpenSlots(stage) => (2, stage.greedy_slots),
            Order::LongestFirst { .. } => return Err(Kept::LongestFirst),
        };
        limit("workers", MAX_WORKERS, workers)?;
        let open: i64 = (0..workers).map(|worker| problem.loads.open_slots(worker)).sum();
        if open <= i64::from(stop_open_slots) {
            return Err(Kept::Nobody);
        }
        let mut header = Header {
            magic: MAGIC,
            version: VERSION,
            workers: workers as u32,
            unit: plan.unit,
            refill_tokens: plan.refill_tokens,
            growth_tokens: i64::from(batch.request_growth_tokens()),
            order,
            stop_open_slots,
            ..Header::default()
        };
        self.gather(problem, &mut header)?;
        let per_token = problem.loads.dearest_token();
        let steepest = self.profile(problem, &mut header)?;
        if header.order == 0 && matches!(header.mode, MODE_LEVEL | MODE_LEVELS) {
            return Err(Kept::Levels);
        }
        limit("knots of a profile", MAX_STEPS, header.steps as usize)?;

        self.open.clear();
        let open_workers = (0..workers).filter(|&worker| problem.loads.open_slots(worker) > 0);
        self.open.extend(open_workers.map(|worker| worker as u32));
        let (format, greatest_bonus) = self.bonuses(batch);
        header.bonus_format = format;
        let pool = batch.waiting();
        let greatest_age = self.occupied().map(|slot| plan.age.tokens(pool.passed(slot))).max().unwrap_or(0);
        header.greatest_extra_tokens = greatest_age.saturating_add(greatest_bonus);
        limit_i64("age plus bonus in tokens", EXACT_F32, header.greatest_extra_tokens)?;
        // The age of an entry that is taken stays finite when it is multiplied.
        limit_i64("units of a token", GREATEST, header.unit)?;
        let extra = header.unit.saturating_mul(header.greatest_extra_tokens);
        let dearest = if header.mode == MODE_FIXED { 1 } else { per_token };
        let bound =
            steepest.saturating_mul(dearest).saturating_mul(header.longest_tokens).saturating_add(extra);
        limit_i64("score units", GREATEST, bound)?;

        let any_eligible = self.requests(batch).any(|request| {
            request.rank.is_some()
                || (0..workers.div_ceil(64)).any(|word| batch.eligible_word(request, word) != u64::MAX)
        });
        if any_eligible {
            header.flags |= FLAG_ELIGIBILITY;
        }
        if batch.is_bounded() {
            header.flags |= FLAG_ROOM;
        }
        header.max_picks = (i64::from(header.requests)).min(open) as u32;
        let blocks = soc.vector_cores.clamp(1, workers as u32);
        header.group = (workers as u32).div_ceil(blocks);
        if header.order == 0 && header.mode != MODE_FIXED {
            header.flags |= FLAG_COLUMNS_READY;
        }
        fit_tile(&mut header, soc)?;
        place_sections(&mut header);
        self.header = header;
        Ok(())
    }

    /// Makes an entry of each waiting request, one run for each survival class.
    fn gather(&mut self, problem: &Problem<'_>, header: &mut Header) -> Result<(), Kept> {
        let batch = problem.batch;
        let by_class = batch.classes().is_some()
            && match problem.source {
                Source::Spec(ProfileSpec::Lookahead { by_class, .. }) => by_class,
                Source::Spec(_) => false,
                Source::Fixed(_) => true,
            };
        let class_of = |request: &Request| if by_class { batch.class_of(request) } else { None };
        self.runs.clear();
        self.classes.clear();
        self.runs.push(Run::default());
        self.classes.push(None);
        let (mut shortest, mut longest, mut count) = (i64::MAX, 0, 0usize);
        for (slot, request, _) in batch.waiting().iter() {
            if problem.taken[slot.index()] {
                continue;
            }
            count += 1;
            shortest = shortest.min(i64::from(request.prompt_tokens));
            longest = longest.max(i64::from(request.prompt_tokens));
            let class = class_of(request);
            let run = match self.classes.iter().position(|&other| other == class) {
                Some(run) => run,
                None => {
                    self.classes.push(class);
                    self.runs.push(Run::default());
                    self.runs.len() - 1
                }
            };
            self.runs[run].count += 1;
        }
        if count == 0 {
            return Err(Kept::Nobody);
        }
        limit("waiting requests", MAX_REQUESTS, count)?;
        limit("survival classes in use", MAX_RUNS, self.runs.len())?;
        let mut at = 0;
        for run in &mut self.runs {
            run.from = at as u32;
            at += align(run.count as usize, ENTRY_ALIGN);
            run.count = 0;
        }
        self.entries.clear();
        self.entries.resize(at, (NOBODY, 0));
        let mut arrival = 0;
        for (slot, request, _) in batch.waiting().iter() {
            if problem.taken[slot.index()] {
                continue;
            }
            let class = class_of(request);
            let run = self.classes.iter().position(|&other| other == class).unwrap_or(0);
            let run = &mut self.runs[run];
            self.entries[(run.from + run.count) as usize] = (slot.0, arrival);
            run.count += 1;
            arrival += 1;
        }
        header.requests = count as u32;
        header.runs = self.runs.len() as u32;
        header.stride = at as u32;
        header.shortest_tokens = shortest;
        header.longest_tokens = longest;
        Ok(())
    }

    /// The format that holds every bonus of an entry on an open worker, and the greatest of them in tokens.
    fn bonuses(&self, batch: &Batch<'_>) -> (u32, i64) {
        let workers = batch.workers().len();
        let rows =
            || self.requests(batch).filter_map(|request| request.pair_row.map(|row| row as usize * workers));
        let Some(bonuses) = batch.bonuses().filter(|_| rows().next().is_some()) else {
            return (BONUS_NONE, 0);
        };
        match bonuses {
            // A half below 1,024 rounds to a whole number that is a half as well, and the others are whole.
            Bonuses::F16(matrix) => {
                // Whole rows take less time than a few of their columns, and a bound may be too great.
                let sizes = rows().map(|row| {
                    matrix[row..row + workers]
                        .iter()
                        .fold(0, |most, bonus| (bonus.to_bits() & HALF_SIZE).max(most))
                });
                let greatest = [f16::from_bits(sizes.max().unwrap_or(0))];
                (BONUS_F16, Bonuses::F16(&greatest).at(0))
            }
            Bonuses::F32(_) => {
                let (mut halves, mut greatest) = (true, 0);
                for row in rows() {
                    for &worker in &self.open {
                        let bonus = bonuses.at(row + worker as usize);
                        greatest = greatest.max(bonus.abs());
                        halves &= is_half(bonus);
                    }
                }
                (if halves { BONUS_F16 } else { BONUS_F32 }, greatest)
            }
        }
    }

    /// Notes how profiles are computed; returns the greatest sum of slope and weights per cost unit.
    fn profile(&mut self, problem: &Problem<'_>, header: &mut Header) -> Result<i64, Kept> {
        let (envelope, envelope_row) = problem.loads.envelopes();
        header.envelope = envelope;
        self.weights.clear();
        match problem.source {
            Source::Spec(ProfileSpec::Margin { slope, weight }) => {
                header.mode = MODE_F;
                (header.f_slope, header.f_weight) = (slope, weight);
                Ok(slope.abs().saturating_add(weight))
            }
            Source::Spec(ProfileSpec::Level { drop_tokens }) => {
                header.mode = MODE_LEVEL;
                header.drop_tokens = drop_tokens;
                Ok(i64::from(header.workers) + 3)
            }
            Source::Spec(ProfileSpec::Levels(terms)) => levels(problem, &terms, header),
            Source::Spec(ProfileSpec::Lookahead { discounts, alpha, beta, .. }) => {
                header.mode = MODE_LOOKAHEAD;
                let steps = discounts.len().min(envelope_row.len());
                if steps == 0 {
                    return Err(Kept::NoProfileSpec);
                }
                header.steps = steps as u32;
                let width = envelope_row.len().max(1);
                let mut steepest = 0;
                for (run, class) in self.runs.iter_mut().zip(&self.classes) {
                    let survival = problem.batch.survival(*class, width);
                    let (mut slope, mut sum) = (0i64, 0i64);
                    for (h, &discount) in discounts[..steps].iter().enumerate() {
                        let alive =
                            survival.and_then(|row| row.get(h)).map_or(1.0, |&alive| f64::from(alive));
                        let (gain, lost) = step_weights((alpha, beta), discount, alive);
                        slope += gain;
                        limit_i64("weight of a step", 1 << 31, lost)?;
                        sum = sum.saturating_add(lost);
                        self.weights.push(lost as i32);
                    }
                    run.slope = slope;
                    steepest = steepest.max(sum.saturating_add(slope));
                }
                Ok(steepest)
            }
            Source::Fixed(compute) => {
                header.mode = MODE_FIXED;
                let count = self.runs.len() * header.workers as usize;
                self.profiles.resize_with(count, Profile::default);
                let mut steepest = 0;
                let mut profiles = self.profiles.iter_mut();
                for worker in 0..header.workers as usize {
                    for (&class, profile) in self.classes.iter().zip(&mut profiles) {
                        profile.clear();
                        compute(worker, class, profile);
                        header.steps = header.steps.max(profile.knots.len() as u32);
                        let sum = profile.knots.iter().map(|knot| knot.weight);
                        steepest = sum.fold(profile.slope.abs(), i64::saturating_add).max(steepest);
                    }
                }
                Ok(steepest)
            }
        }
    }
}

/// Notes that profiles follow the loads of all others; returns the greatest sum of slope and weights per cost
/// unit.
fn levels(problem: &Problem<'_>, terms: &LevelTerms<'_>, header: &mut Header) -> Result<i64, Kept> {
    let workers = header.workers as usize;
    if problem.loads.view(0).levels.len() != workers || terms.rises.len() != workers {
        return Err(Kept::NoProfileSpec);
    }
    header.mode = MODE_LEVELS;
    header.steps = terms.reserve_knots.len() as u32;
    limit("knots of a profile", MAX_KNOTS, workers + terms.reserve_knots.len())?;
    let knots = terms.reserve_knots.iter().map(|knot| knot.weight);
    let parts = [header.unit, header.unit, terms.fall, terms.rises[0], terms.reserve.1];
    let sum = parts.into_iter().chain(knots).map(i64::saturating_abs).fold(0, i64::saturating_add);
    Ok((sum / token_cost(problem.batch)).saturating_add(1))
}

/// Cost units of a token on a worker of weight 1.
pub(super) fn token_cost(batch: &Batch<'_>) -> i64 {
    if batch.is_uniform() { 1 } else { WEIGHT_ONE }
}

/// Whether half precision holds a whole number exactly: the last 13 bits of single precision are zero then.
fn is_half(whole: i64) -> bool {
    whole.unsigned_abs() <= GREATEST_HALF && (whole as f32).to_bits() & 0x1fff == 0
}

/// The bits of a whole number that half precision holds exactly. A conversion in software would take most of
/// the time of packing.
pub(super) fn half_bits(whole: i64) -> u16 {
    if whole == 0 {
        return 0;
    }
    let single = (whole as f32).to_bits();
    // The exponent of one is 127 in single precision, and 15 in half.
    (single >> 16 & 0x8000) as u16 | ((single & 0x7fff_ffff) >> 13).wrapping_sub(112 << 10) as u16
}

/// Sets the largest tile with which the batch fits into the unified buffer.
fn fit_tile(header: &mut Header, soc: Soc) -> Result<(), Kept> {
    let most = soc.tile_limit.unwrap_or(2048).max(ENTRY_ALIGN as u32);
    header.tile = (most / ENTRY_ALIGN as u32 * ENTRY_ALIGN as u32).min(header.stride);
    header.ub_bytes = soc.ub_bytes;
    while ub_bytes(header) > soc.ub_bytes as usize {
        if header.tile <= ENTRY_ALIGN as u32 {
            return Err(Kept::UnifiedBuffer { planned: soc.ub_bytes as usize, needed: ub_bytes(header) });
        }
        header.tile -= ENTRY_ALIGN as u32;
    }
    Ok(())
}

/// Sets where each section begins, in the input and in the output.
fn place_sections(header: &mut Header) {
    let (workers, runs) = (header.workers as usize, header.runs as usize);
    let (steps, stride) = (header.steps as usize, header.stride as usize);
    let mut end = size_of::<Header>();
    let mut section = |bytes: usize| {
        let at = end;
        end = align(end + bytes, BLOCK_BYTES);
        if bytes == 0 { 0 } else { at as u32 }
    };
    header.workers_at = section(workers * size_of::<WorkerState>());
    header.runs_at = section(runs * size_of::<Run>());
    if header.mode == MODE_LOOKAHEAD {
        header.row_stride = align(steps * 4, BLOCK_BYTES) as u32;
        header.weight_stride = header.row_stride;
        header.envelope_at = section(steps * 8);
        header.rows_at = section(workers * header.row_stride as usize);
        header.weights_at = section(runs * header.weight_stride as usize);
    }
    if header.mode == MODE_LEVELS {
        header.terms_at = section(size_of::<LevelTermsBytes>() + steps * size_of::<KnotBytes>());
        header.levels_at = section(workers * 8);
        header.rises_at = section(workers * 8);
    }
    if header.mode == MODE_FIXED {
        let bytes = size_of::<ProfileHead>() + steps * size_of::<KnotBytes>();
        header.profile_stride = align(bytes, BLOCK_BYTES) as u32;
        header.profiles_at = section(workers * runs * header.profile_stride as usize);
    }
    header.tokens_at = section(stride * 4);
    header.ages_at = section(stride * 4);
    header.arrivals_at = section(stride * 4);
    if header.flags & FLAG_ELIGIBILITY != 0 {
        header.words_at = section(workers.div_ceil(16) * stride * 2);
    }
    header.bonus_at = match header.bonus_format {
        BONUS_F16 => section(workers * stride * 2),
        BONUS_F32 => section(workers * stride * 4),
        _ => 0,
    };
    header.in_bytes = align(end, BLOB_ALIGN) as u32;

    header.column_stride = align(runs * size_of::<ColumnBytes>(), BLOCK_BYTES) as u32;
    header.out_columns_at = size_of::<Out>() as u32;
    header.out_picks_at = header.out_columns_at + workers as u32 * header.column_stride;
    let end = header.out_picks_at as usize + header.max_picks as usize * size_of::<PickBytes>();
    header.out_bytes = align(end, BLOB_ALIGN) as u32;
}

/// A half rounded to a whole number, halves away from zero. Without branches: sizes are as good as random.
#[inline(always)]
pub(super) fn whole_half(half: f16) -> u16 {
    let bits = half.to_bits();
    let size = u32::from(bits & HALF_SIZE);
    // The exponent of one is 15, and from 25 on, which is 1,024, there is no fraction.
    let dropped = 25u32.saturating_sub(size >> 10).min(10);
    let rounded = (size + ((1 << dropped) >> 1)) >> dropped << dropped;
    let below_one = if size < 14 << 10 { 0 } else { 15 << 10 };
    let whole = if size < 15 << 10 { below_one } else { rounded };
    let sign = if whole == 0 { 0 } else { bits & !HALF_SIZE };
    sign | whole as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_become_halves_as_by_conversion() {
        for whole in -70_000..70_000 {
            let single = whole as f32;
            let half = f16::from_f32(single);
            assert_eq!(is_half(whole), half.is_finite() && half.to_f32() == single, "{whole}");
            if is_half(whole) {
                assert_eq!(half_bits(whole), half.to_bits(), "{whole}");
            }
        }
        assert!(!is_half(i64::from(u32::MAX) + 1) && !is_half(i64::MIN));
    }

    #[test]
    fn halves_round_to_halves() {
        for bits in (0..=u16::MAX).filter(|&bits| f16::from_bits(bits).is_finite()) {
            let whole = Bonuses::F16(&[f16::from_bits(bits)]).at(0);
            assert!(is_half(whole), "{bits:#x}");
            assert_eq!(whole_half(f16::from_bits(bits)), half_bits(whole), "{bits:#x}");
        }
    }
}
