//! Terms that say nothing are none: an all-ones mask, a bonus of zero, one such row among many, a survival
//! class of ones, a weight of one. With them every policy answers what it answers without, on every path.

use balanceroute::backend::BackendKind;
use balanceroute::policy::{self, NAMES, Parameters};
use balanceroute::{
    Assignment, Batch, PairTerms, Pairs, Pool, Request, Router, RouterConfig, Traffic, Worker,
};

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }
}

/// A batch without terms.
struct Plain {
    workers: Vec<Worker>,
    requests: Vec<Request>,
    rows: Vec<u64>,
    horizon: usize,
}

impl Plain {
    fn new(random: &mut Random) -> Self {
        let workers: Vec<Worker> = (0..[1, 3, 8, 17, 70][random.below(5) as usize])
            .map(|_| {
                let load = 10_000 + random.below(90_000);
                let worker = Worker::new(load, random.below(50) as u32, random.below(4) as u32);
                // Of some the cache is bounded.
                if random.below(4) == 0 { worker.capacity(load + random.below(9_000)) } else { worker }
            })
            .collect();
        let requests = (0..[2, 5, 16, 33, 200][random.below(5) as usize])
            .map(|id| Request::new(id, 1 + random.below(6_000) as u32).passed(random.below(60) as u32))
            .collect();
        let horizon = [0, 4, 40][random.below(3) as usize];
        let rows = workers.iter().flat_map(|worker| {
            let load = worker.load_tokens;
            (0..=horizon as u64).map(move |step| load + step * 31 % 700)
        });
        let rows = rows.collect();
        Self { workers, requests, rows, horizon }
    }
}

const TRAFFIC: Traffic = Traffic::new().prompts(3_000, 1_500).small_prompts(200).outputs(300);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Neutral {
    Masks,
    Bonuses,
    /// Less than half a token is none, of either sign.
    Halves,
    OneRow,
    Class,
    Unused,
}

const KINDS: [Neutral; 6] =
    [Neutral::Masks, Neutral::Bonuses, Neutral::Halves, Neutral::OneRow, Neutral::Class, Neutral::Unused];

fn decided(parameters: &Parameters, name: &str, plain: &Plain, neutral: Option<Neutral>) -> Assignment {
    let workers = plain.workers.len();
    let mut requests = plain.requests.clone();
    let words = workers.div_ceil(64);
    let (mut bonus_tokens, mut eligible, mut classes) = (Vec::new(), Vec::new(), Vec::new());
    let with_rows = |requests: &mut [Request]| {
        for (row, request) in requests.iter_mut().enumerate().filter(|(row, _)| row % 3 != 1) {
            request.pair_row = Some(row as u32);
        }
    };
    match neutral {
        None => {}
        Some(Neutral::Masks | Neutral::OneRow) => {
            eligible = vec![u64::MAX; requests.len() * words];
            // What stands past the last worker says nothing.
            if !workers.is_multiple_of(64) {
                eligible
                    .iter_mut()
                    .skip(words - 1)
                    .step_by(words)
                    .for_each(|word| *word = (1 << (workers % 64)) - 1);
            }
            if neutral == Some(Neutral::Masks) {
                with_rows(&mut requests)
            } else {
                requests[0].pair_row = Some(0)
            }
        }
        Some(Neutral::Bonuses) => {
            bonus_tokens = vec![0.0; requests.len() * workers];
            with_rows(&mut requests);
        }
        Some(Neutral::Halves) => {
            bonus_tokens = vec![0.49; requests.len() * workers];
            bonus_tokens.iter_mut().step_by(2).for_each(|bonus| *bonus = -0.49);
            with_rows(&mut requests);
        }
        Some(Neutral::Class) => {
            classes = vec![1.0; plain.horizon + 1];
            requests.iter_mut().step_by(2).for_each(|request| request.survival_class = Some(0));
        }
        Some(Neutral::Unused) => {
            eligible = vec![0; 3 * words];
            bonus_tokens = vec![77.0; 3 * workers];
            classes = vec![0.5; plain.horizon + 1];
        }
    }
    let pool = Pool::from_requests(&requests).expect("valid");
    let pairs = Pairs { bonus_tokens: &bonus_tokens, eligible: &eligible, ..Pairs::default() };
    let mut draft = Batch::draft(&plain.workers, &pool)
        .traffic(TRAFFIC)
        .request_growth(20)
        .projection(plain.horizon, &plain.rows)
        .pairs(pairs);
    if !classes.is_empty() {
        draft = draft.classes(&classes);
    }
    let batch = draft.check().expect("valid");
    assert!(!batch.has_pair_terms(), "{neutral:?}");
    let mut answer = Assignment::new();
    policy::build(name, parameters).expect("a policy").decide(&batch, &mut answer);
    answer
}

#[test]
fn terms_that_say_nothing_change_no_answer() {
    let mut random = Random(8);
    let mut admitted = 0;
    for round in 0..60 {
        let plain = Plain::new(&mut random);
        for name in NAMES {
            for backend in [BackendKind::Auto, BackendKind::Cpu] {
                let parameters = Parameters::new().backend(backend).seed(5);
                let expected = decided(&parameters, name, &plain, None);
                admitted += expected.admitted.len();
                for neutral in KINDS {
                    let found = decided(&parameters, name, &plain, Some(neutral));
                    assert_eq!(found, expected, "{name}, {backend:?}, {neutral:?}, round {round}");
                }
            }
            // The oracle takes its time.
            if plain.requests.len() <= 33 && plain.workers.len() <= 17 {
                let parameters = Parameters::new().backend(BackendKind::Reference).seed(5);
                let expected = decided(&parameters, name, &plain, None);
                for neutral in KINDS {
                    let found = decided(&parameters, name, &plain, Some(neutral));
                    assert_eq!(found, expected, "{name} by reference, {neutral:?}, round {round}");
                }
            }
        }
    }
    assert!(admitted > 10_000, "{admitted}");
}

/// What terms say among others that do say something is kept.
#[test]
fn a_mask_or_a_bonus_beside_neutral_ones_still_counts() {
    let workers = [Worker::new(500, 5, 1), Worker::new(100, 1, 1)];
    let requests = [Request::new(0, 50).pairs(0), Request::new(1, 60).pairs(1)];
    let pool = Pool::from_requests(&requests).expect("valid");
    let bonus_tokens = [0.0, 0.0, 90_000.0, 0.0];
    let pairs = Pairs { bonus_tokens: &bonus_tokens, eligible: &[0b10, 0b11], ..Pairs::default() };
    let batch = Batch::draft(&workers, &pool).pairs(pairs).check().expect("valid");
    assert!(batch.has_pair_terms());
    for name in ["level", "exact"] {
        let mut answer = Assignment::new();
        policy::build(name, &Parameters::default()).expect("a policy").decide(&batch, &mut answer);
        let on = |id: u64| answer.of(id).map(|admission| admission.worker.0);
        assert_eq!((on(0), on(1)), (Some(1), Some(0)), "{name}");
    }
}

/// Says nothing in one of three ways.
struct Nothing(u64);

impl PairTerms for Nothing {
    fn bonus(&mut self, _: &Request, _: &mut [f32]) -> bool {
        self.0 != 1
    }

    fn eligible(&mut self, _: &Request, _: &mut [u64]) -> bool {
        self.0 != 0
    }

    fn stores_half(&self) -> bool {
        self.0 == 2
    }
}

#[test]
fn a_router_that_is_told_nothing_decides_as_one_that_is_not_told() {
    for name in NAMES {
        let build = || Router::new(RouterConfig::new(5, 3), name, &Parameters::default()).expect("valid");
        let (mut plain, mut told) = (build(), build());
        let mut random = Random(1);
        let mut running = Vec::new();
        for step in 0..120 {
            for _ in 0..random.below(6) {
                let request = Request::new(random.0 >> 8, 1 + random.below(3_000) as u32);
                let taken = plain.enqueue(request, step);
                assert_eq!(taken, told.enqueue(request, step));
            }
            let plan = plain.step(step).expect("sound").clone();
            assert_eq!(&plan, told.step_with(step, &mut Nothing(step % 3)).expect("sound"), "{name}");
            assert_eq!(plain.waiting(), told.waiting());
            running.extend(plan.admissions.iter().map(|dispatch| dispatch.id));
            plain.advance();
            told.advance();
            while random.below(3) > 0 && !running.is_empty() {
                let id = running.swap_remove(random.below(running.len() as u64) as usize);
                assert_eq!(plain.finish(id, None), told.finish(id, None));
            }
        }
        assert!(plain.counters().finished > 50, "{name}");
    }
}
