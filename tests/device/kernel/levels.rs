//! level with the terms of the pool, whose profiles bend at the load of every other worker: rules of the
//! test's own, the largest profiles that the device holds, and sequences of steps, in which being passed
//! makes requests older.

use std::sync::{Arc, Mutex};

use balanceroute::backend::ascend::blob::{self, Soc};
use balanceroute::backend::offload::Offload;
use balanceroute::backend::{Backend, BackendKind, Reference};
use balanceroute::batch::WEIGHT_ONE;
use balanceroute::policy::{self, Order, Plan, ProfileSpec, Repair, Rule, View};
use balanceroute::router::Plan as RouterPlan;
use balanceroute::rule::LevelTerms;
use balanceroute::score::{Age, Knot, Profile};
use balanceroute::{
    Assignment, Batch, Pool, Request, Router, RouterConfig, Share, Worker, WorkerConfig, WorkerId,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::parts::Parts;
use super::support::model::{self, Model, Tally};
use super::{Shape, cases, crowd, draw, enlarge, parameters, soc};

/// The mode of such profiles, as `tiling.h` numbers it.
const LEVELS: u32 = 4;

/// The model, and what it was launched with last.
fn watched(library: &str, soc: Soc) -> (Model, Arc<Mutex<Tally>>, Arc<Mutex<Vec<u8>>>) {
    let (model, tally) = Model::open(&model::plain_copy(library), soc);
    let (model, input) = model.watched();
    (model, tally, input)
}

fn word(input: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(input[at..at + 4].try_into().expect("four bytes"))
}

/// A word of the header of the first batch.
fn header(input: &[u8], field: &str) -> u32 {
    let known = blob::FIELDS.iter().find(|&&(name, of, ..)| (name, of) == ("BrHeader", field));
    let &(.., offset, _) = known.expect("a field of the header");
    word(input, blob::launch_head_bytes(1) + offset)
}

/// A plane of whole numbers of the first batch.
fn plane(input: &[u8], field: &str) -> Vec<i64> {
    let from = blob::launch_head_bytes(1) + header(input, field) as usize;
    let at = |entry: u32| f32::from_bits(word(input, from + 4 * entry as usize));
    (0..header(input, "requests")).map(|entry| at(entry) as i64).collect()
}

/// Many wait, some requests have ended, and few slots are open: the terms are on.
fn scarce(rng: &mut ChaCha8Rng, shape: Shape) -> Parts {
    let mut parts = draw(rng, shape);
    parts.traffic.mean_output_tokens = rng.random_range(1..2000);
    parts
}

#[test]
fn level_with_the_terms_of_the_pool_agrees_with_the_oracle() {
    for (at, name) in ["level", "level-oracle", "level-exactmatch"].into_iter().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(30 + at as u64);
        let (model, tally, input) = watched(&format!("levels {name}"), soc(Some(128)));
        let host = parameters(BackendKind::Reference);
        let mut device = policy::build_on(name, &host, Box::new(model)).expect("a policy");
        let mut host = policy::build(name, &host).expect("a policy");
        let count = cases(800);
        let mut by_levels = 0;
        for case in 0..count {
            let shape = Shape {
                requests: rng.random_range(24..if case % 8 == 0 { 150 } else { 50 }),
                workers: rng.random_range(1..14),
                horizon: 4,
                free: rng.random_range(1..4),
            };
            let mut parts = scarce(&mut rng, shape);
            match case % 4 {
                0 | 1 => crowd(&mut rng, &mut parts),
                2 => enlarge(&mut rng, &mut parts),
                _ => {}
            }
            let pool = parts.pool();
            let batch = parts.batch(&pool);
            let (mut found, mut expected) = (Assignment::new(), Assignment::new());
            input.lock().expect("no panic").clear();
            device.decide(&batch, &mut found);
            host.decide(&batch, &mut expected);
            assert_eq!(found, expected, "{name}, case {case}, {shape:?}\n{parts:?}");
            let input = input.lock().expect("no panic");
            by_levels += usize::from(!input.is_empty() && header(&input, "mode") == LEVELS);
        }
        let tally = tally.lock().expect("no panic");
        let wrong: Vec<&String> = tally.refused.iter().filter(|text| !text.contains("ties")).collect();
        assert!(tally.failed.is_empty() && wrong.is_empty(), "{name}: {:?} {wrong:?}", tally.failed);
        assert!(!tally.kept.iter().any(|text| text.contains("cannot compute")), "{name}: {:?}", tally.kept);
        println!(
            "{name}: {by_levels} of {count} batches by the loads of all others, {} kept",
            tally.kept.len()
        );
        assert!(
            3 * by_levels > count && tally.decided >= by_levels * 9 / 10,
            "{name}: {by_levels}, {tally:?}"
        );
    }
}

/// As many knots as the device holds, all of them among the lengths.
#[test]
fn the_largest_profiles_agree() {
    let (model, tally, input) = watched("largest levels", soc(None));
    let host = parameters(BackendKind::Cpu);
    let mut device = policy::build_on("level", &host, Box::new(model)).expect("a policy");
    let mut host = policy::build("level", &host).expect("a policy");
    let mut rng = ChaCha8Rng::seed_from_u64(40);
    for (workers, requests, fits) in
        [(128, 300, true), (255, 200, true), (256, 4096, true), (256, 129, true), (257, 300, false)]
    {
        let mut parts = draw(&mut rng, Shape { requests, workers, horizon: 0, free: 1 });
        parts.traffic = parts.traffic.prompts(2_500, 1_900).outputs(700);
        for (at, worker) in parts.workers.iter_mut().enumerate() {
            *worker = Worker::new(100_000 + rng.random_range(0..5_000), 60, u32::from(at % 16 == 0));
        }
        for request in &mut parts.requests {
            *request = Request::new(request.id, rng.random_range(1..9_000)).passed(rng.random_range(0..300));
        }
        let pool = parts.pool();
        let (mut found, mut expected) = (Assignment::new(), Assignment::new());
        device.decide(&parts.batch(&pool), &mut found);
        host.decide(&parts.batch(&pool), &mut expected);
        assert_eq!(found, expected, "{workers} workers, {requests} requests");
        let mut tally = tally.lock().expect("no panic");
        assert!(tally.failed.is_empty() && tally.refused.is_empty(), "{tally:?}");
        assert_eq!(std::mem::take(&mut tally.decided) > 0, fits, "{workers}: {:?}", tally.kept);
        if fits {
            let input = input.lock().expect("no panic");
            assert_eq!(header(&input, "mode"), LEVELS);
            assert_eq!(header(&input, "workers") as usize, workers);
        }
    }
    assert_eq!(tally.lock().expect("no panic").kept, ["workers: at most 256 on the device, found 257"]);
}

/// A rule of the test's own whose profiles follow all others, with prices of its own.
#[derive(Clone, Copy, Debug)]
struct Steep {
    order: Order,
    follows_levels: bool,
    knots: usize,
    /// Cost units of a token on a worker of weight 1, and the refill, once it has begun.
    token_cost: i64,
    refill_tokens: i64,
}

const UNIT: i64 = 5;
const WANTED: [i64; 3] = [70_000, -9_000, -3 << 20];
const FALL: i64 = 2;
const RESERVE: (i64, i64) = (4_000, 9);
/// For up to 300 workers: the last so many.
const RISES: [i64; 300] = {
    let mut rises = [0; 300];
    let mut at = 0;
    while at < 299 {
        // Equal ones too, where a knot costs nothing.
        rises[at] = (299 - at as i64) / 2 * 3;
        at += 1;
    }
    rises
};
/// More of them than some profiles hold.
const KNOTS: [Knot; 40] = {
    let mut knots = [Knot { at_tokens: 0, weight: 0 }; 40];
    let mut at = 0;
    while at < 40 {
        knots[at] = Knot { at_tokens: 60 * at as i64 - 20, weight: if at < 9 { 1 } else { 0 } };
        at += 1;
    }
    knots
};

impl Steep {
    const fn new(order: Order) -> Self {
        Self { order, follows_levels: true, knots: 9, token_cost: 1, refill_tokens: 0 }
    }
}

impl Rule for Steep {
    fn begin(&mut self, batch: &Batch<'_>, _: &mut Vec<i64>) -> Plan {
        self.token_cost = if batch.is_uniform() { 1 } else { WEIGHT_ONE };
        self.refill_tokens = batch.traffic().mean_prompt_tokens;
        Plan::new()
            .order(self.order)
            .unit(UNIT)
            .age(Age { linear: 1.5, quadratic: 0.01 })
            .refill_tokens(self.refill_tokens)
            .follows_levels(self.follows_levels)
            .follows_envelope(false)
            .repair(Repair::new().rounds(1))
    }

    fn profile(&self, view: &View<'_>, _class: Option<&[f32]>, profile: &mut Profile) {
        let others: Vec<i64> = view.others().collect();
        let Some(&least) = others.last() else { return };
        let here = |units: i64| units * view.cost_per_token / self.token_cost;
        let own = view.anticipated - self.refill_tokens * view.cost_per_token;
        let gap = |level: i64| (level - own).div_euclid(view.cost_per_token);
        let mean = view.others_sum.div_euclid(others.len() as i64);
        let [of_mean, of_least, base] = WANTED;
        let wanted = (of_mean * gap(mean) + of_least * gap(least) + base + (1 << 15)).div_euclid(1 << 16);
        profile.slope = here(UNIT) + here(RESERVE.1);
        profile.intercept = -here(UNIT) * wanted - here(RESERVE.0);
        profile.knots.push(Knot { at_tokens: wanted, weight: here(UNIT) + here(FALL) });
        let rises = &RISES[RISES.len() - others.len() - 1..];
        for (&level, rises) in others.iter().zip(rises.windows(2)) {
            profile.knots.push(Knot { at_tokens: gap(level), weight: here(rises[0]) - here(rises[1]) });
        }
        let mut gives = RESERVE.1;
        for knot in &KNOTS[..self.knots] {
            let before = here(gives);
            gives -= knot.weight;
            profile.knots.push(Knot { at_tokens: knot.at_tokens, weight: before - here(gives) });
        }
    }

    fn profile_spec(&self, batch: &Batch<'_>) -> Option<ProfileSpec<'_>> {
        let [mean, least, base] = WANTED;
        let (fall, reserve, reserve_knots) = (FALL, RESERVE, &KNOTS[..self.knots]);
        let rises = &RISES[RISES.len() - batch.workers().len()..];
        Some(ProfileSpec::Levels(LevelTerms { mean, least, base, fall, rises, reserve, reserve_knots }))
    }
}

#[test]
fn another_rule_that_follows_all_others_agrees() {
    let (model, tally, input) = watched("steep", soc(Some(256)));
    let mut device = Offload::new(Box::new(model));
    let mut rng = ChaCha8Rng::seed_from_u64(50);
    let (mut decided, mut weighed) = (0, 0);
    let count = cases(300);
    for case in 0..count {
        let many: Vec<Parts> = (0..[1, 1, 6][case % 3])
            .map(|_| {
                let (requests, workers) = (rng.random_range(4..60), rng.random_range(2..20));
                let mut parts = draw(&mut rng, Shape { requests, workers, horizon: 0, free: 2 });
                if rng.random_range(0..2) == 0 {
                    crowd(&mut rng, &mut parts);
                }
                parts
            })
            .collect();
        let pools: Vec<Pool> = many.iter().map(Parts::pool).collect();
        let batches: Vec<Batch<'_>> =
            many.iter().zip(&pools).map(|(parts, pool)| parts.batch(pool)).collect();
        let rule = Steep::new(if case % 5 == 0 {
            Order::MostOpenSlots(policy::SubsetStage::default())
        } else {
            Order::LeastLoaded
        });
        let mut found = vec![Assignment::new(); many.len()];
        input.lock().expect("no panic").clear();
        device.assign_many(&mut vec![rule; many.len()], &batches, &mut found);
        for (batch, found) in batches.iter().zip(&found) {
            let mut expected = Assignment::new();
            Reference.assign(&mut { rule }, batch, &mut expected);
            assert_eq!(*found, expected, "case {case}");
            weighed += usize::from(!batch.is_uniform());
        }
        decided += many.len();
        let tally = tally.lock().expect("no panic");
        assert!(tally.failed.is_empty() && tally.refused.is_empty() && tally.kept.is_empty(), "{tally:?}");
        let input = input.lock().expect("no panic");
        assert!(input.is_empty() || many.len() > 1 || header(&input, "mode") == LEVELS);
    }
    let by_device = tally.lock().expect("no panic").decided;
    println!("{decided} batches, {by_device} by the device, {weighed} with weights");
    assert!(by_device * 2 > decided && weighed * 10 > decided, "{by_device} of {decided}, {weighed} weighed");
}

#[test]
fn what_the_device_does_not_hold_is_kept_with_a_reason() {
    let least_loaded = Steep::new(Order::LeastLoaded);
    for (rule, workers, says) in [
        (
            Steep::new(Order::Matrix),
            6,
            "the device seeks no best pair by profiles that follow the loads of all others",
        ),
        (
            Steep { follows_levels: false, ..least_loaded },
            6,
            "the device cannot compute this rule's profiles",
        ),
        (
            Steep { knots: 17, ..least_loaded },
            256,
            "knots of a profile: at most 272 on the device, found 273",
        ),
    ] {
        let (model, tally) = Model::open(&model::plain_copy("kept"), soc(None));
        let mut device = Offload::new(Box::new(model));
        let mut rng = ChaCha8Rng::seed_from_u64(51);
        let mut parts = draw(&mut rng, Shape { requests: 40, workers, horizon: 0, free: 1 });
        parts.workers[0] = Worker::new(1_000, 3, 2);
        let pool = parts.pool();
        let (mut found, mut expected) = (Assignment::new(), Assignment::new());
        device.assign(&mut { rule }, &parts.batch(&pool), &mut found);
        Reference.assign(&mut { rule }, &parts.batch(&pool), &mut expected);
        assert_eq!(found, expected, "{says}: the CPU decides");
        let tally = tally.lock().expect("no panic");
        assert_eq!((tally.decided, &tally.kept[..]), (0, &[says.to_owned()][..]), "{tally:?}");
    }
}

/// Two routers through the same events: one steps on the device, the other by the oracle.
struct Twins {
    routers: [Router; 2],
    rng: ChaCha8Rng,
    next_id: u64,
    running: Vec<u64>,
}

impl Twins {
    fn each(&mut self, mut event: impl FnMut(&mut Router)) {
        self.routers.iter_mut().for_each(&mut event);
    }

    fn arrive(&mut self) {
        let workers = self.routers[0].worker_ids().to_vec();
        let mut request: Request<WorkerId> = Request::new(self.next_id, self.rng.random_range(1..5_000));
        if self.rng.random_range(0..6) == 0 {
            request = request.bound_to(workers[self.rng.random_range(0..workers.len())]);
        }
        if self.rng.random_range(0..30) == 0 {
            request = request.deadline(20);
        }
        self.next_id += 1;
        self.each(|router| router.enqueue(request, None).expect("valid"));
    }

    /// What happens between two steps.
    fn live(&mut self) {
        while self.routers[0].pool().len() < 40 {
            self.arrive();
        }
        for _ in 0..self.rng.random_range(0..3) {
            self.arrive();
        }
        self.each(Router::advance);
        for at in (0..self.running.len()).rev() {
            match self.rng.random_range(0..160) {
                0..=7 => {
                    let id = self.running.swap_remove(at);
                    self.each(|router| {
                        let _ = router.finish(id, None).expect("it runs");
                    });
                }
                8 => {
                    let id = self.running.swap_remove(at);
                    self.each(|router| {
                        let again = router.preempt(id).expect("it runs");
                        router.enqueue(again, None).expect("valid");
                    });
                }
                _ => {}
            }
        }
        let waiting: Vec<u64> = self.routers[0].pool().iter().map(|(request, _)| request.id.0).collect();
        if self.rng.random_range(0..10) == 0 {
            let id = waiting[self.rng.random_range(0..waiting.len())];
            self.each(|router| {
                let _ = router.abort(id, None).expect("it waits");
            });
        }
        if self.rng.random_range(0..15) == 0 {
            let workers = self.routers[0].worker_ids().to_vec();
            let worker = workers[self.rng.random_range(0..workers.len())];
            let accepting = self.rng.random_range(0..3) != 0;
            self.each(|router| router.set_accepting(worker, accepting).expect("known"));
        }
        if self.rng.random_range(0..40) == 0 {
            self.exchange_worker();
        }
    }

    /// A worker leaves with all that runs there, and another one joins.
    fn exchange_worker(&mut self) {
        let workers = self.routers[0].worker_ids().to_vec();
        let worker = workers[self.rng.random_range(0..workers.len())];
        let mut returned = Vec::new();
        self.each(|router| {
            returned.clear();
            let config = router.worker_config(worker).expect("known");
            router.remove_worker(worker, &mut returned).expect("known");
            router.add_worker(config).expect("valid");
        });
        self.running.retain(|&id| returned.iter().all(|gone| gone.id.0 != id));
    }

    fn step(&mut self, now_ms: u64) -> RouterPlan {
        let [device, oracle] = &mut self.routers;
        let found = device.step(now_ms).expect("a plan").clone();
        let expected = oracle.step_by_reference(now_ms).expect("a plan");
        assert_eq!(found, *expected, "at {now_ms} ms");
        self.running.extend(found.admissions.iter().map(|admission| admission.id.0));
        found
    }
}

/// Being passed makes requests older: the ages that the device scores with are those of the step, in a router
/// whose every step changes them.
#[test]
fn ages_are_those_of_the_oracle_at_every_step() {
    let uniform = RouterConfig::new(5, 6);
    let bounded = RouterConfig::uniform(5, WorkerConfig::new(6).capacity(22_000));
    let shared = bounded.clone().share(Share::new(1, 2));
    let weighted =
        uniform.clone().workers([1.0, 1.5, 0.5, 1.0].map(|weight| WorkerConfig::new(6).weight(weight)));
    let settings = [
        (uniform.clone(), 1 << 20),
        (uniform.clone(), 40),
        (bounded, 1 << 20),
        (shared, 60),
        (weighted, 100),
        (uniform, 0),
    ];
    for (seed, (config, max_passed)) in (60..).zip(settings) {
        let (model, tally, input) = watched("ages", soc(Some(128)));
        let mut parameters = parameters(BackendKind::Reference);
        parameters.max_passed = Some(max_passed);
        let device = policy::build_on("level", &parameters, Box::new(model)).expect("a policy");
        let oracle = policy::build("level", &parameters).expect("a policy");
        let routers = [device, oracle]
            .map(|policy| Router::with_policy(config.clone(), policy, None).expect("a configuration"));
        let rng = ChaCha8Rng::seed_from_u64(seed);
        let mut twins = Twins { routers, rng, next_id: 0, running: Vec::new() };
        let (mut compared, mut older) = (0, 0);
        for step in 0..cases(400) as u64 {
            twins.live();
            let router = &twins.routers[0];
            let (spread, workers) = (router.traffic().sd_prompt_tokens as f64, router.workers().len() as f64);
            let age = Age {
                linear: spread / (20.0 * workers),
                quadratic: spread / ((16.0 * workers) * (16.0 * workers)),
            };
            let waiting: Vec<Request> = router.pool().iter().map(|(request, _)| request).collect();
            input.lock().expect("no panic").clear();
            let plan = twins.step(step * 20);
            let input = input.lock().expect("no panic");
            if input.is_empty() || header(&input, "mode") != LEVELS {
                continue;
            }
            let entries: Vec<(i64, i64)> =
                plane(&input, "tokens_at").into_iter().zip(plane(&input, "ages_at")).collect();
            // Entries stand in order of arrival, and lack only who was next and has been placed before.
            let mut left = entries.iter();
            let mut entry = left.next();
            for request in &waiting {
                let expected = (i64::from(request.prompt_tokens), age.tokens(request.passed));
                if entry == Some(&expected) {
                    older += usize::from(request.passed > 0);
                    entry = left.next();
                } else {
                    assert!(plan.of(request.id).is_some(), "step {step}: {request:?} is not {entry:?}");
                }
            }
            assert_eq!(entry, None, "step {step}");
            compared += entries.len();
        }
        let tally = tally.lock().expect("no panic");
        assert!(tally.failed.is_empty() && tally.refused.is_empty(), "{tally:?}");
        println!("max_passed {max_passed}: {compared} ages compared, {older} of them grown");
        // Where nobody may be passed everybody is next, and nobody is left for the device.
        assert!(max_passed == 0 || 3 * older > compared && compared > cases(4000), "{older} of {compared}");
    }
}
