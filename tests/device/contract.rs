//! The device's numeric contract, seen from the host. Its planes hold bonuses in half or single precision and
//! scores in single precision: what half precision of a bonus costs has a stated bound, and numbers that
//! single precision cannot hold are decided in integers, as exactly as everything else.

use balanceroute::backend::BackendKind;
use balanceroute::backend::cpu::Isa;
use balanceroute::batch::{MAX_BONUS_TOKENS, MAX_LOAD_TOKENS, MAX_PROMPT_TOKENS};
use balanceroute::policy::{self, Parameters};
use balanceroute::{Assignment, Batch, Pairs, Pool, Request, Worker};
use half::f16;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The move of a bonus in whole tokens when it is stored in half precision.
fn moved(bonus: f32) -> f64 {
    (f64::from(f16::from_f32(bonus).to_f32().round()) - f64::from(bonus.round())).abs()
}

#[test]
fn half_precision_costs_at_most_twice_its_greatest_move() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut regrets = 0;
    for round in 0..400 {
        let (workers, waiting) = (rng.random_range(2..7usize), rng.random_range(1..40usize));
        let greatest = [90.0, 3000.0, 60_000.0][round % 3];
        let bonus: Vec<f32> = (0..workers * waiting).map(|_| rng.random_range(-greatest..greatest)).collect();
        let halves: Vec<f16> = bonus.iter().map(|&bonus| f16::from_f32(bonus)).collect();
        let most = bonus.iter().map(|&bonus| moved(bonus)).fold(0.0, f64::max);
        // Half a unit in the last place, and one token of rounding.
        assert!(most <= f64::from(greatest) * 2f64.powi(-11) + 1.0, "{most} at {greatest}");
        let requests: Vec<Request> = (0..waiting)
            .map(|id| Request::new(id as u64, rng.random_range(1..4000)).pairs(id as u32))
            .collect();
        let pool = Pool::from_requests(&requests).expect("valid");
        // One slot on each worker: the first admission chooses among all pairs.
        let list: Vec<Worker> =
            (0..workers).map(|_| Worker::new(rng.random_range(90_000..95_000), 9, 1)).collect();
        let full = Pairs { bonus_tokens: &bonus, ..Pairs::default() };
        let half = Pairs { bonus_half_tokens: &halves, ..Pairs::default() };
        let mut parameters = Parameters::default();
        parameters.exact.repair_rounds = 0;
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            parameters.isa = Some(isa);
            let mut policy = policy::build("exact", &parameters).expect("known");
            let mut scores = Vec::new();
            let batch = Batch::draft(&list, &pool).pairs(full).check().expect("valid");
            assert!(policy.score_into(&batch, &mut scores));
            let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let mut out = Assignment::new();
            policy.decide(&Batch::draft(&list, &pool).pairs(half).check().expect("valid"), &mut out);
            let first = out.admitted[0];
            let regret = best - scores[first.id.0 as usize * workers + first.worker.index()];
            assert!(regret <= 2.0 * most, "{regret} with moves of {most}");
            regrets += u32::from(regret > 0.0);
        }
    }
    assert!(regrets > 0, "the bound was never put to the test");
}

#[test]
fn the_greatest_numbers_fall_back_and_stay_exact() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for round in 0..60 {
        let (workers, waiting) = (rng.random_range(1..6usize), rng.random_range(1..40usize));
        let requests: Vec<Request> = (0..waiting as u64)
            .map(|id| {
                let tokens = MAX_PROMPT_TOKENS - rng.random_range(0..1 << [2, 10, 21][round % 3]);
                Request::new(id, tokens).passed(rng.random_range(0..1 << 24)).pairs(id as u32)
            })
            .collect();
        let pool = Pool::from_requests(&requests).expect("valid");
        let list: Vec<Worker> = (0..workers)
            .map(|_| {
                let load = MAX_LOAD_TOKENS - rng.random_range(0..1 << 23);
                Worker::new(load, 9, rng.random_range(0..3)).weight([64.0, 1.0, 0.5][rng.random_range(0..3)])
            })
            .collect();
        let scale = if round % 2 == 0 { MAX_BONUS_TOKENS } else { 1e6 };
        let bonus: Vec<f32> = (0..workers * waiting).map(|_| rng.random_range(-scale..scale)).collect();
        let rows: Vec<u64> =
            (0..workers * 129).map(|_| MAX_LOAD_TOKENS - rng.random_range(0..1 << 23)).collect();
        let pairs = Pairs { bonus_tokens: &bonus, ..Pairs::default() };
        let mut draft = Batch::draft(&list, &pool).pairs(pairs);
        if round % 4 < 2 {
            draft = draft.projection(128, &rows);
        }
        let batch = draft.check().expect("valid");
        for name in ["exact", "exact-oracle", "level"] {
            let mut parameters = Parameters::default();
            parameters.exact.horizon_steps = 128;
            // Nobody is next: who is asks for no score.
            parameters.max_passed = Some(1 << 24);
            let reference = parameters.clone().backend(BackendKind::Reference);
            let mut expected = Assignment::new();
            policy::build(name, &reference).expect("known").decide(&batch, &mut expected);
            for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                for backend in [BackendKind::Auto, BackendKind::Cpu] {
                    let parameters = parameters.clone().isa(Some(isa)).backend(backend);
                    let mut out = Assignment::new();
                    policy::build(name, &parameters).expect("known").decide(&batch, &mut out);
                    assert_eq!(out, expected, "{name} on {isa}, {backend:?}");
                }
            }
        }
    }
}

#[test]
fn where_everybody_fits_a_bonus_chooses_the_worker() {
    let workers: Vec<Worker> = (0..4).map(|g| Worker::new(40_000 + 100 * g, 30, 2)).collect();
    let rows = [0.0, 0.0, 0.0, 5_000.0];
    for name in ["level", "level-oracle", "rollout-oracle", "exact"] {
        let mut policy = policy::build(name, &Parameters::default()).unwrap();
        let pool = Pool::from_requests(&[Request::new(1, 900).pairs(0), Request::new(2, 900)]).unwrap();
        let pairs = Pairs { bonus_tokens: &rows, ..Pairs::default() };
        let batch = Batch::draft(&workers, &pool).pairs(pairs).check().unwrap();
        let mut out = Assignment::new();
        policy.decide(&batch, &mut out);
        assert_eq!(out.of(1).map(|at| at.worker.0), Some(3), "{name}");
        assert_eq!(out.of(2).map(|at| at.worker.0), Some(0), "{name}: without a bonus the least loaded");
    }
}
