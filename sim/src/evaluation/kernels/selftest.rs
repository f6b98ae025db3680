//! Random batches, decided by every path and by the oracle.

use std::fmt::Write as _;

use balanceroute::backend::BackendKind;
use balanceroute::backend::ascend::result::Counters;
use balanceroute::policy::{self, Parameters, Policy};
use balanceroute::{Assignment, Batch, Pairs, Pool, Request, Traffic, Worker};
use half::f16;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::machine::on_cpu;
use super::outcome::PathReport;
use crate::error::SimError;

/// Policies that the self-test runs.
const POLICIES: [&str; 3] = ["exact", "exact-oracle", "level"];

pub(super) fn build_all(parameters: &Parameters) -> Result<Vec<Box<dyn Policy>>, SimError> {
    POLICIES.iter().map(|name| Ok(policy::build(name, parameters)?)).collect()
}

/// A random batch with everything optional in it, as owned parts.
struct Parts {
    workers: Vec<Worker>,
    pool: Pool,
    rows: Vec<u64>,
    bonus: Vec<f32>,
    bonus_half: Vec<f16>,
    eligible: Vec<u64>,
    classes: Vec<f32>,
    horizon: usize,
    mean_prompt_tokens: i64,
}

const TEST_HORIZON: usize = 4;

impl Parts {
    fn new(rng: &mut ChaCha8Rng) -> Self {
        let workers = rng.random_range(1..6usize);
        let waiting = [rng.random_range(0..6usize), rng.random_range(6..40)][rng.random_range(0..2)];
        let (pairs, ahead, tied): (bool, bool, bool) = (rng.random(), rng.random(), rng.random());
        let longest = [5000, 40_000, 400][rng.random_range(0..3)];
        let requests: Vec<Request> = (0..waiting as u64)
            .map(|id| {
                let tokens = if tied { rng.random_range(95..105) } else { rng.random_range(1..longest) };
                let mut request = Request::new(id, tokens).passed(rng.random_range(0..50));
                if pairs {
                    request = match rng.random_range(0..6) {
                        0 => request.bound_to(rng.random_range(0..workers as u32)),
                        1 if ahead => request.class(rng.random_range(0..2)),
                        2..=4 => request.pairs(rng.random_range(0..3)),
                        _ => request,
                    };
                }
                request
            })
            .collect();
        let bounded = rng.random_range(0..4) == 0;
        let list: Vec<Worker> = (0..workers)
            .map(|_| {
                let load = if tied { rng.random_range(990..1010) } else { rng.random_range(0..200_000u64) };
                let worker = Worker::new(load, 10, rng.random_range(0..3));
                if bounded { worker.capacity(load + rng.random_range(0..9000)) } else { worker }
            })
            .collect();
        let rows = if ahead {
            let drift = |worker: &Worker, rng: &mut ChaCha8Rng| -> Vec<u64> {
                (0..=TEST_HORIZON).map(|_| worker.load_tokens + rng.random_range(0..3000)).collect()
            };
            list.iter().flat_map(|worker| drift(worker, rng)).collect()
        } else {
            Vec::new()
        };
        let count = if pairs { 3 * workers } else { 0 };
        let bonus: Vec<f32> = (0..count).map(|_| rng.random_range(-500.0..4000.0)).collect();
        let halves: bool = rng.random();
        Self {
            workers: list,
            pool: Pool::from_requests(&requests).expect("ids and lengths are valid"),
            rows,
            bonus_half: if halves {
                bonus.iter().map(|&bonus| f16::from_f32(bonus)).collect()
            } else {
                vec![]
            },
            bonus: if halves { vec![] } else { bonus },
            eligible: (0..if pairs { 3 } else { 0 }).map(|_| rng.random()).collect(),
            classes: (0..2 * (TEST_HORIZON + 1)).map(|_| rng.random_range(0.0..1.0)).collect(),
            horizon: TEST_HORIZON,
            mean_prompt_tokens: 2000,
        }
    }

    fn batch(&self) -> Batch<'_> {
        let traffic = Traffic::new().prompts(self.mean_prompt_tokens, 1000).small_prompts(300).outputs(700);
        let mut draft = Batch::draft(&self.workers, &self.pool).traffic(traffic).pairs(Pairs {
            bonus_tokens: &self.bonus,
            bonus_half_tokens: &self.bonus_half,
            eligible: &self.eligible,
        });
        if !self.rows.is_empty() {
            draft = draft.projection(self.horizon, &self.rows).classes(&self.classes);
        }
        draft.check().expect("a valid batch")
    }
}

pub(super) type Contender = (usize, Vec<Box<dyn Policy>>);

pub(super) fn test(
    batches: u64,
    paths: &mut [PathReport],
    contenders: &mut [Contender],
) -> Result<(), SimError> {
    let reference = on_cpu().backend(BackendKind::Reference);
    let mut oracle = build_all(&reference)?;
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (mut expected, mut out) = (Assignment::new(), Assignment::new());
    for batch in 0..batches {
        let parts = Parts::new(&mut rng);
        let checked = parts.batch();
        let at = batch as usize % POLICIES.len();
        oracle[at].decide(&checked, &mut expected);
        for (path, policies) in contenders.iter_mut() {
            judge(&mut paths[*path], policies[at].as_mut(), &checked, &expected, &mut out);
        }
    }
    // The host refuses a device's wrong answer and decides itself: that is a difference as well.
    for (path, policies) in contenders.iter_mut() {
        let counters: Vec<_> = policies.iter_mut().filter_map(|policy| policy.device()?.counters()).collect();
        if counters.is_empty() {
            continue;
        }
        let sum = |figure: fn(&Counters) -> u64| counters.iter().map(figure).sum::<u64>();
        let path = &mut paths[*path];
        path.mismatches += sum(|counters| counters.refused);
        let _ = write!(
            path.reason,
            "; self-test: {} batches decided, {} kept by the host, {} fallen back, {} failures",
            sum(|counters| counters.decided),
            sum(|counters| counters.kept),
            sum(|counters| counters.fallen_back),
            sum(|counters| counters.failures),
        );
    }
    Ok(())
}

/// Goes on where only part of the batches stayed in a path's lanes, until so many have.
pub(super) fn test_in_lanes(
    batches: u64,
    paths: &mut [PathReport],
    mut contenders: Vec<Contender>,
) -> Result<(), SimError> {
    let reference = on_cpu().backend(BackendKind::Reference);
    let mut oracle = build_all(&reference)?;
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let (mut expected, mut out) = (Assignment::new(), Assignment::new());
    // Lanes that hold nothing at all would never be done.
    for round in 0..8 * batches as usize {
        contenders.retain(|(path, _)| paths[*path].batches_in_lanes < batches);
        if contenders.is_empty() {
            break;
        }
        let (parts, at) = (Parts::new(&mut rng), round % POLICIES.len());
        let checked = parts.batch();
        oracle[at].decide(&checked, &mut expected);
        for (path, policies) in contenders.iter_mut() {
            judge(&mut paths[*path], policies[at].as_mut(), &checked, &expected, &mut out);
        }
    }
    Ok(())
}

/// Has a path decide a batch and counts what comes of it.
fn judge(
    path: &mut PathReport,
    policy: &mut dyn Policy,
    batch: &Batch<'_>,
    expected: &Assignment,
    out: &mut Assignment,
) {
    let unheld = policy.dense_columns().1;
    policy.decide(batch, out);
    path.batches += 1;
    path.batches_in_lanes += u64::from(policy.dense_columns().1 == unheld);
    path.mismatches += u64::from(out != expected);
}
