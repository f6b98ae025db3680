//! What the validation of a batch looks at.

use half::f16;

use super::{Batch, BatchError, Pairs, PredictedEnds, Projection, Request, SurvivalClasses, Traffic, Worker};
use crate::entities::limits::{
    MAX_BONUS_TOKENS, MAX_CLASSES, MAX_HORIZON, MAX_LOAD_TOKENS, MAX_PROMPT_TOKENS, MAX_SLOTS, MAX_WEIGHT,
    MAX_WORKERS,
};
use crate::ids::WorkerIndex;

/// The first inconsistency of a batch.
pub(super) fn check(batch: &Batch<'_>) -> Result<(), BatchError> {
    let workers = batch.workers.len();
    if workers == 0 {
        return Err(BatchError::NoWorkers);
    }
    if workers > MAX_WORKERS {
        return Err(BatchError::TooManyWorkers { limit: MAX_WORKERS, found: workers });
    }
    if !are_sound(batch.workers) {
        for (index, worker) in batch.workers.iter().enumerate() {
            check_worker(index, worker)?;
        }
    }
    check_traffic(&batch.traffic)?;
    if batch.request_growth_tokens > MAX_PROMPT_TOKENS {
        return Err(BatchError::Traffic {
            what: "growth tokens of a request",
            limit: i64::from(MAX_PROMPT_TOKENS),
            found: i64::from(batch.request_growth_tokens),
        });
    }
    if let Some(projection) = batch.projection {
        check_projection(workers, projection)?;
    }
    if let Some(ends) = batch.ends {
        check_ends(workers, ends)?;
    }
    check_pairs(batch)
}

/// Whether [`check_worker`] surely finds nothing: who and what is at fault is asked only otherwise.
fn are_sound(workers: &[Worker]) -> bool {
    let (mut most_tokens, mut most_slots, mut greatest_weight) = (0, 0, 0);
    for worker in workers {
        let kept = worker.kv_used_tokens.max(worker.kv_growth_tokens);
        most_tokens =
            most_tokens.max(worker.load_tokens).max(kept.max(worker.kv_capacity_tokens.unwrap_or(0)));
        most_slots = most_slots.max(u64::from(worker.running) + u64::from(worker.free_slots));
        // What is negative or no number has greater bits than every weight that is allowed.
        greatest_weight = greatest_weight.max(worker.weight.to_bits());
    }
    most_tokens <= MAX_LOAD_TOKENS
        && most_slots <= u64::from(MAX_SLOTS)
        && greatest_weight <= MAX_WEIGHT.to_bits()
}

fn check_worker(index: usize, worker: &Worker) -> Result<(), BatchError> {
    let limit = MAX_LOAD_TOKENS;
    for (what, found) in [
        ("load tokens", worker.load_tokens),
        ("KV tokens used", worker.kv_used_tokens),
        ("KV growth tokens", worker.kv_growth_tokens),
        ("KV capacity tokens", worker.kv_capacity_tokens.unwrap_or(0)),
    ] {
        if found > limit {
            return Err(BatchError::WorkerTokens { index, what, limit, found });
        }
    }
    let slots = u64::from(worker.running) + u64::from(worker.free_slots);
    if slots > u64::from(MAX_SLOTS) {
        let what = "running plus free slots";
        return Err(BatchError::WorkerSlots { index, what, limit: MAX_SLOTS, found: slots });
    }
    if !(0.0..=MAX_WEIGHT).contains(&worker.weight) {
        return Err(BatchError::Weight { index, limit: MAX_WEIGHT, found: worker.weight });
    }
    Ok(())
}

fn check_traffic(traffic: &Traffic) -> Result<(), BatchError> {
    let limit = i64::from(MAX_PROMPT_TOKENS);
    for (what, found) in [
        ("mean prompt tokens", traffic.mean_prompt_tokens),
        ("spread of prompt tokens", traffic.sd_prompt_tokens),
        ("small prompt tokens", traffic.small_prompt_tokens),
        ("mean output tokens", traffic.mean_output_tokens),
    ] {
        if !(0..=limit).contains(&found) {
            return Err(BatchError::Traffic { what, limit, found });
        }
    }
    Ok(())
}

fn check_projection(workers: usize, projection: Projection<'_>) -> Result<(), BatchError> {
    if projection.horizon > MAX_HORIZON {
        return Err(BatchError::Horizon {
            what: "projection",
            limit: MAX_HORIZON,
            found: projection.horizon,
        });
    }
    let expected = workers * (projection.horizon + 1);
    if projection.rows.len() != expected {
        return Err(BatchError::Length { what: "projection rows", expected, found: projection.rows.len() });
    }
    match projection.rows.iter().position(|&tokens| tokens > MAX_LOAD_TOKENS) {
        Some(index) => Err(BatchError::Value {
            what: "projection rows",
            index,
            low: 0.0,
            high: MAX_LOAD_TOKENS as f64,
            found: projection.rows[index] as f64,
        }),
        None => Ok(()),
    }
}

fn check_ends(workers: usize, ends: PredictedEnds<'_>) -> Result<(), BatchError> {
    if ends.offsets.len() != workers + 1 {
        return Err(BatchError::Length {
            what: "offsets of predicted ends",
            expected: workers + 1,
            found: ends.offsets.len(),
        });
    }
    // All offsets before any of them is used.
    let mut before = 0;
    for (worker, &offset) in ends.offsets.iter().enumerate() {
        if offset < before || (worker == 0 && offset != 0) {
            return Err(BatchError::PredictedEnd {
                worker: WorkerIndex::at(worker.saturating_sub(1)),
                index: 0,
                expected: "offsets that begin at 0 and do not fall",
                found: u64::from(offset),
            });
        }
        before = offset;
    }
    if before as usize != ends.ends.len() {
        return Err(BatchError::Length {
            what: "predicted ends",
            expected: before as usize,
            found: ends.ends.len(),
        });
    }
    for worker in 0..workers {
        let mut last = 1;
        for (index, end) in ends.of(worker).iter().enumerate() {
            if end.in_steps < last {
                return Err(BatchError::PredictedEnd {
                    worker: WorkerIndex::at(worker),
                    index,
                    expected: "steps of at least 1 in order of time",
                    found: u64::from(end.in_steps),
                });
            }
            if end.freed_tokens > MAX_LOAD_TOKENS {
                return Err(BatchError::PredictedEnd {
                    worker: WorkerIndex::at(worker),
                    index,
                    expected: "freed tokens within the greatest load",
                    found: end.freed_tokens,
                });
            }
            last = end.in_steps;
        }
    }
    Ok(())
}

fn check_pairs(batch: &Batch<'_>) -> Result<(), BatchError> {
    let workers = batch.workers.len();
    let Pairs { bonus_tokens, bonus_half_tokens, eligible } = batch.pairs;
    let words = workers.div_ceil(64);
    if !bonus_tokens.is_empty() && !bonus_half_tokens.is_empty() {
        return Err(BatchError::Length {
            what: "pair bonuses in half precision beside full ones",
            expected: 0,
            found: bonus_half_tokens.len(),
        });
    }
    let bonus_count = bonus_tokens.len().max(bonus_half_tokens.len());
    if !bonus_count.is_multiple_of(workers) {
        return Err(BatchError::Length {
            what: "pair bonus rows",
            expected: bonus_count.next_multiple_of(workers),
            found: bonus_count,
        });
    }
    let rows = if bonus_count == 0 { eligible.len() / words } else { bonus_count / workers };
    if let Some(index) = bonus_half_tokens.iter().position(|bonus| !bonus.is_finite()) {
        let high = f64::from(f16::MAX.to_f32());
        let found = f64::from(bonus_half_tokens[index].to_f32());
        return Err(BatchError::Value { what: "pair bonus", index, low: -high, high, found });
    }
    if !eligible.is_empty() && eligible.len() != rows * words {
        return Err(BatchError::Length {
            what: "eligibility words",
            expected: rows * words,
            found: eligible.len(),
        });
    }
    if let Some(index) =
        bonus_tokens.iter().position(|bonus| !(-MAX_BONUS_TOKENS..=MAX_BONUS_TOKENS).contains(bonus))
    {
        return Err(BatchError::Value {
            what: "pair bonus",
            index,
            low: f64::from(-MAX_BONUS_TOKENS),
            high: f64::from(MAX_BONUS_TOKENS),
            found: f64::from(bonus_tokens[index]),
        });
    }
    let mut classes = 0;
    if let Some(SurvivalClasses { rows }) = batch.classes {
        let width = batch.projection.map_or(1, |projection| projection.horizon + 1);
        classes = rows.len() / width;
        if classes > MAX_CLASSES || rows.len() != classes * width {
            return Err(BatchError::Length {
                what: "survival classes",
                expected: classes.clamp(1, MAX_CLASSES) * width,
                found: rows.len(),
            });
        }
        if let Some(index) = rows.iter().position(|survival| !(0.0..=1.0).contains(survival)) {
            return Err(BatchError::Value {
                what: "survival classes",
                index,
                low: 0.0,
                high: 1.0,
                found: f64::from(rows[index]),
            });
        }
    }
    let check = |index: usize, request: &Request| {
        let id = request.id;
        match (request.rank, request.pair_row, request.survival_class) {
            (Some(found), ..) if found.index() >= workers => {
                Err(BatchError::Rank { index: Some(index), id, workers, found })
            }
            (_, Some(found), _) if found as usize >= rows => {
                Err(BatchError::PairRow { index, id, rows, found })
            }
            (.., Some(found)) if usize::from(found) >= classes => {
                Err(BatchError::SurvivalClass { index, id, classes, found })
            }
            _ => Ok(()),
        }
    };
    if batch.waiting.any_pair_terms() {
        let mut rows = batch.waiting.iter();
        rows.try_for_each(|(slot, request, _)| check(batch.pool.row_of(slot), request))?;
    }
    // Everybody, whether or not the decision looks at them; of those behind the window only ranks are known
    // together.
    let ranks = batch.pool.queued().any(|(_, rank, _)| rank.is_some_and(|rank| rank.index() >= workers));
    if ranks || batch.pool.any_queued_terms() {
        batch.pool.iter().enumerate().try_for_each(|(index, (request, _))| check(index, &request))?;
    }
    Ok(())
}
