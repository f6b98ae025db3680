//! Bytes are a batch; every policy answers it as the oracle does and keeps its promises.
//!
//! Included by the fuzz target and by `tests/fuzz_bodies.rs`.

use arbitrary::{Arbitrary, Result, Unstructured};
use balanceroute::backend::cpu::Isa;
use balanceroute::policy::{self, Parameters};
use balanceroute::{Assignment, Batch, Pairs, Pool, PredictedEnd, PredictedEnds, Request, Traffic, Worker};

/// A batch as owned parts; what the door refuses is kept, for the door is under test as well.
#[derive(Debug, Default)]
struct Parts {
    workers: Vec<Worker>,
    requests: Vec<Request>,
    traffic: Traffic,
    request_growth_tokens: u32,
    horizon: usize,
    rows: Vec<u64>,
    offsets: Vec<u32>,
    ends: Vec<PredictedEnd>,
    bonus_tokens: Vec<f32>,
    eligible: Vec<u64>,
    classes: Vec<f32>,
    /// Which of [`Isa::ALL`]; the best where this CPU lacks it.
    isa: u8,
}

fn one_in(u: &mut Unstructured<'_>, n: u8) -> Result<bool> {
    Ok(u8::arbitrary(u)?.is_multiple_of(n))
}

/// Small numbers tie, middling ones look like traffic, and the greatest meet the limits.
fn tokens(u: &mut Unstructured<'_>, limit: u64) -> Result<u64> {
    Ok(match u8::arbitrary(u)? % 8 {
        0..=2 => u64::from(u8::arbitrary(u)?) % 8 * 100,
        3..=5 => u64::from(u16::arbitrary(u)?),
        6 => u.int_in_range(0..=limit)?,
        _ => limit - u64::from(u8::arbitrary(u)? % 4),
    })
}

impl<'a> Arbitrary<'a> for Parts {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let flags: u8 = u.arbitrary()?;
        let flag = |bit: u32| flags >> bit & 1 == 1;
        let [capacity, weights, bonus, masks, lookahead, classes] = [0, 1, 2, 3, 4, 5].map(flag);
        let limit = if flag(6) { 1 << 30 } else { 1 << 20 };
        // More than one word of eligibility bits now and then.
        let g = if one_in(u, 32)? { u.int_in_range(60..=70)? } else { u.int_in_range(1..=6)? };
        // Not both large: the oracle would take seconds.
        let n: usize =
            if g < 60 && one_in(u, 16)? { u.int_in_range(0..=40)? } else { u.int_in_range(0..=9)? };
        let mut parts = Self { horizon: 3, ..Self::default() };
        for _ in 0..g {
            let mut worker = Worker::new(tokens(u, limit)?, u.int_in_range(0..=99)?, u.int_in_range(0..=3)?);
            worker.accepting = !one_in(u, 8)?;
            if capacity && !one_in(u, 4)? {
                worker.kv_used_tokens = worker.load_tokens.saturating_add(tokens(u, 1000)?);
                worker.kv_growth_tokens = tokens(u, 1000)?;
                worker.kv_capacity_tokens = Some(worker.kv_used_tokens + tokens(u, 20_000)?);
            }
            if weights {
                worker.weight = *u.choose(&[1.0, 1.5, 0.25, 64.0, 0.0])?;
            }
            parts.workers.push(worker);
        }
        parts.traffic = Traffic {
            mean_prompt_tokens: tokens(u, 1 << 22)? as i64,
            sd_prompt_tokens: tokens(u, 1 << 22)? as i64,
            small_prompt_tokens: tokens(u, 1 << 22)? as i64,
            mean_output_tokens: tokens(u, 1 << 22)? as i64,
        };
        for id in 0..n as u64 {
            let mut request = Request::new(id ^ 5, (tokens(u, 1 << 22)? as u32).max(1));
            request.waited_steps = tokens(u, 1 << 24)? as u32;
            request.deadline_steps = if one_in(u, 8)? { Some(u.arbitrary()?) } else { None };
            if bonus || masks {
                match u8::arbitrary(u)? % 6 {
                    0 => request.rank = Some(u.int_in_range(0..=g as u32 - 1)?),
                    row @ 1..=3 => request.pair_row = Some(u32::from(row) - 1),
                    _ => {}
                }
            }
            if classes && lookahead && one_in(u, 2)? {
                request.survival_class = Some(u8::arbitrary(u)? % 2);
            }
            parts.requests.push(request);
        }
        if capacity {
            parts.request_growth_tokens = tokens(u, 1000)? as u32;
        }
        if bonus {
            for _ in 0..3 * g {
                let size = tokens(u, 1 << 30)? as f32;
                parts.bonus_tokens.push(match u8::arbitrary(u)? % 4 {
                    0 => 0.0,
                    1 => -size,
                    2 => size,
                    _ => size + 0.5,
                });
            }
        }
        if masks {
            for _ in 0..3 * (g as usize).div_ceil(64) {
                parts.eligible.push(u.arbitrary::<u64>()? | u.arbitrary::<u64>()?);
            }
        }
        if lookahead {
            parts.offsets.push(0);
            for at in 0..g as usize {
                parts.rows.push(parts.workers[at].load_tokens);
                for _ in 0..parts.horizon {
                    parts.rows.push(tokens(u, limit)?);
                }
                let mut in_steps = 1;
                for _ in 0..u8::arbitrary(u)? % 4 {
                    in_steps += u.int_in_range(0..=40)?;
                    parts.ends.push(PredictedEnd { in_steps, freed_tokens: tokens(u, limit)? });
                }
                parts.offsets.push(parts.ends.len() as u32);
            }
            if classes {
                for _ in 0..2 * (parts.horizon + 1) {
                    parts.classes.push(f32::from(u8::arbitrary(u)?) / 255.0);
                }
            }
        }
        parts.isa = u.arbitrary()?;
        // A door that is never knocked at wrongly is not tested.
        match u8::arbitrary(u)? {
            0 => drop(parts.bonus_tokens.pop()),
            1 => drop(parts.eligible.pop()),
            2 => drop(parts.rows.pop()),
            3 => parts.bonus_tokens.iter_mut().take(1).for_each(|bonus| *bonus = f32::NAN),
            4 => parts.workers[0].weight = -1.0,
            5 => parts.ends.reverse(),
            _ => {}
        }
        Ok(parts)
    }
}

/// Whether a batch came out of the bytes.
pub(crate) fn decide(data: &[u8]) -> bool {
    let Ok(parts) = Parts::arbitrary(&mut Unstructured::new(data)) else { return false };
    let Ok(pool) = Pool::from_requests(&parts.requests) else { return false };
    let mut draft = Batch::draft(&parts.workers, &pool)
        .traffic(parts.traffic)
        .request_growth(parts.request_growth_tokens)
        .pairs(Pairs { bonus_tokens: &parts.bonus_tokens, eligible: &parts.eligible, ..Pairs::default() });
    if !parts.rows.is_empty() {
        draft = draft.projection(parts.horizon, &parts.rows);
        draft = draft.ends(PredictedEnds { offsets: &parts.offsets, ends: &parts.ends });
    }
    if !parts.classes.is_empty() {
        draft = draft.classes(&parts.classes);
    }
    let Ok(batch) = draft.check() else { return false };
    let isa = Isa::ALL[usize::from(parts.isa) % Isa::ALL.len()];
    let forced = Parameters { isa: Some(isa), ..Parameters::default() };
    for name in policy::NAMES {
        let built = policy::build(name, &forced).or_else(|_| policy::build(name, &Parameters::default()));
        let mut policy = built.expect("known");
        let (mut fast, mut oracle) = (Assignment::new(), Assignment::new());
        policy.decide(&batch, &mut fast);
        policy.decide_by_reference(&batch, &mut oracle);
        assert_eq!(fast, oracle, "{name}");
        check_promises(name, &batch, &fast);
    }
    true
}

/// What holds for every answer of every policy.
fn check_promises(name: &str, batch: &Batch<'_>, answer: &Assignment) {
    let growth = i64::from(batch.request_growth_tokens());
    let mut slots: Vec<u32> = batch.workers().iter().map(Worker::open_slots).collect();
    let mut room: Vec<i64> = batch.workers().iter().map(Worker::room_tokens).collect();
    let mut admitted = std::collections::HashSet::new();
    for pick in &answer.admitted {
        let worker = pick.worker as usize;
        let request = batch.waiting().request(pick.slot);
        assert!(admitted.insert(pick.id) && request.id == pick.id, "{name}: {} twice", pick.id);
        assert!(slots[worker] > 0, "{name}: no slot on {worker}");
        slots[worker] -= 1;
        room[worker] -= i64::from(request.prompt_tokens) + growth;
        assert!(room[worker] >= 0, "{name}: no room on {worker}");
        assert!(batch.eligible(request, worker), "{name}: {} may not use {worker}", pick.id);
    }
    let waiting: Vec<u64> = answer.waiting(batch).map(|(id, _)| id).collect();
    assert_eq!(admitted.len() + waiting.len(), batch.waiting().len(), "{name}");
    assert!(waiting.iter().all(|id| !admitted.contains(id)), "{name}");
}
