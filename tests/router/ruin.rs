//! Room as it is learned: where no `headroom_steps` are set.

use balanceroute::policy::Parameters;
use balanceroute::router::{Decided, Metrics, PreemptionCost};
use balanceroute::{Mode, Placement, Request, Router, RouterConfig, RouterError, WorkerConfig, WorkerId};

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }
}

const CAPACITY: u64 = 40_000;
const MOST: u64 = CAPACITY * 6 / 100;

fn router(name: &str, mode: Mode) -> Router {
    let workers = RouterConfig::uniform(3, WorkerConfig::new(24).capacity(CAPACITY));
    Router::new(workers.mode(mode), name, &Parameters::default()).expect("valid")
}

fn metrics(router: &Router) -> Metrics {
    let mut metrics = Metrics::default();
    router.metrics(&mut metrics);
    metrics
}

/// Requests that run, and when they end.
struct Stream {
    random: Random,
    next_id: u64,
    running: Vec<(u64, u64)>,
    step: u64,
}

impl Stream {
    fn new(seed: u64) -> Self {
        Self { random: Random(seed), next_id: 0, running: Vec::new(), step: 0 }
    }

    fn request(&mut self) -> Request<WorkerId> {
        self.next_id += 1;
        let tokens = match self.random.below(60) {
            0 => CAPACITY - 1 - self.random.below(MOST),
            _ => 1 + self.random.below(5_000),
        };
        Request::new(self.next_id, tokens as u32)
    }

    fn begin(&mut self, id: u64) {
        self.running.push((id, self.step + 1 + self.random.below(60)));
    }

    fn decode(&mut self, router: &mut Router) {
        router.advance();
        self.step += 1;
        let now = self.step;
        self.running.retain(|&(id, end)| {
            let ends = end <= now;
            if ends {
                router.finish(id, None).expect("it runs");
            }
            !ends
        });
    }
}

#[test]
fn no_admission_takes_the_room_of_those_who_run() {
    for name in ["level", "exact", "br0", "longest-first", "level-exactmatch"] {
        let (mut routed, mut twin) = (router(name, Mode::Step), router(name, Mode::Step));
        let (mut stream, mut of_twin) = (Stream::new(3), Stream::new(3));
        let (mut alone, mut least) = (0, u64::MAX);
        for round in 0..1_200 {
            // Now and then nobody comes, and workers run empty.
            while round % 250 < 170 && routed.pool().len() < 12 {
                routed.enqueue(stream.request(), None).expect("valid");
                twin.enqueue(of_twin.request(), None).expect("valid");
            }
            let before = metrics(&routed);
            let plan = routed.step(0).expect("a decision").clone();
            assert_eq!(Ok(&plan), twin.step_by_reference(0), "{name}");
            assert!(plan.returned.is_empty(), "{name}: {:?}", plan.returned);
            for rank in &before.ranks {
                let there = plan.admissions.iter().filter(|to| to.worker == rank.worker);
                let tokens: u64 = there.clone().map(|to| u64::from(to.prompt_tokens)).sum();
                let (count, whole) = (there.count(), rank.kv_used_tokens + rank.kv_growth_tokens + tokens);
                // One that is as long as the cache has a worker for itself.
                let is_alone = rank.running == 0 && count == 1 && whole > CAPACITY;
                assert!(count == 0 || whole <= CAPACITY || is_alone, "{name}: {rank:?} takes {count}");
                assert!(rank.kv_growth_tokens <= MOST, "{name}: {rank:?}");
                alone += usize::from(rank.running == 0 && tokens > CAPACITY - MOST && count == 1);
                least = least.min(rank.kv_growth_tokens);
            }
            for to in &plan.admissions {
                stream.begin(to.id.0);
                of_twin.begin(to.id.0);
            }
            stream.decode(&mut routed);
            of_twin.decode(&mut twin);
        }
        assert!(alone > 3, "{name}: {alone} had a worker for themselves");
        assert!(least < MOST / 4, "{name}: never less than {least}");
    }
}

#[test]
fn placements_on_arrival_leave_the_room_too() {
    let mut router = router("level", Mode::Arrival);
    router.set_explaining(true);
    let mut stream = Stream::new(5);
    let (mut placed, mut waits) = (0, 0);
    for _ in 0..1_500 {
        let request = stream.request();
        let before = metrics(&router);
        match router.place(request, 0).expect("valid") {
            Placement::Placed(to) => {
                let rank = &before.ranks[to.worker.0 as usize];
                let whole = rank.kv_used_tokens + rank.kv_growth_tokens + u64::from(to.prompt_tokens);
                assert!(whole <= CAPACITY || rank.running == 0, "{rank:?}");
                let explained = router.explain(to.id).expect("explained");
                assert_eq!(
                    (explained.decided, explained.kv_growth_tokens),
                    (Decided::Arrival, rank.kv_growth_tokens)
                );
                stream.begin(to.id.0);
                placed += 1;
            }
            Placement::Waits => {
                router.abort(request.id, None).expect("it waits");
                waits += 1;
            }
        }
        stream.decode(&mut router);
    }
    assert!(placed > 300 && waits > 10, "{placed} {waits}");
}

#[test]
fn one_as_long_as_the_cache_has_an_empty_worker_for_itself() {
    let config = RouterConfig::uniform(1, WorkerConfig::new(8).capacity(10_000));
    let mut router = Router::new(config, "level", &Parameters::default()).expect("valid");
    router.enqueue(Request::new(1, 9_900), 0).expect("valid");
    router.enqueue(Request::new(2, 50), 0).expect("valid");
    let plan = router.step(0).expect("a decision").clone();
    assert_eq!(plan.admissions.len(), 1);
    // The other one only where it leaves the room.
    router.advance();
    let rest = router.step(1).expect("a decision").admissions.len();
    assert_eq!(rest, 0);
    router.finish(plan.admissions[0].id, None).expect("it runs");
    router.enqueue(Request::new(3, 9_300), 1).expect("valid");
    router.advance();
    // Below 94 % it needs no worker for itself.
    let left = router.step(2).expect("a decision").admissions.iter().map(|to| to.prompt_tokens).sum::<u32>();
    assert!(left == 9_900 || left == 9_350, "{left}");
}

/// What has been learned, and the room that follows from it.
fn known(router: &Router) -> (balanceroute::Traffic, Vec<u64>) {
    (router.traffic(), metrics(router).ranks.iter().map(|rank| rank.kv_growth_tokens).collect())
}

#[test]
fn what_was_learned_goes_on_in_another_router() {
    let mut first = router("level", Mode::Step);
    let mut stream = Stream::new(9);
    for _ in 0..800 {
        while first.pool().len() < 12 {
            first.enqueue(stream.request(), None).expect("valid");
        }
        let admissions = first.step(0).expect("a decision").admissions.clone();
        admissions.iter().for_each(|to| stream.begin(to.id.0));
        stream.decode(&mut first);
    }
    // What was seen counts from the next look on.
    (0..16).for_each(|_| first.advance());
    let learned = first.learned();
    let mut second = router("level", Mode::Step);
    assert_eq!(known(&second).1, [MOST; 3]);
    second.learn(&learned).expect("its own");
    assert_eq!(second.traffic(), first.traffic());
    assert!(second.learned() == learned, "not what was learned");
    // With the same requests of the same ages there, both make the same room.
    for router in [&mut first, &mut second] {
        let _ = router.recover();
        for id in 0..20 {
            let worker = (id % 3) as u32;
            router.adopt(Request::new(100_000 + id, 1_500), worker, 10 * id as u32).expect("valid");
        }
        // Ages at which nothing more is learned.
        router.advance();
    }
    assert_eq!(known(&first).1, known(&second).1);
    assert!(known(&second).1.iter().all(|&room| room < MOST));

    let before = (second.traffic(), second.learned());
    let mut long = learned.clone();
    long.push(0);
    let mut other = learned.clone();
    other[7] += 1;
    let mut no_number = learned.clone();
    no_number[8..16].copy_from_slice(&f64::NAN.to_le_bytes());
    for bytes in [&[][..], &learned[..learned.len() - 1], &long, &other, &no_number] {
        assert_eq!(second.learn(bytes), Err(RouterError::Learned { found: bytes.len() }));
    }
    assert!((second.traffic(), second.learned()) == before, "a refused call has changed something");
}

#[test]
fn a_dear_preemption_is_made_rarer_and_a_cost_is_in_its_range() {
    let room = |cost: Option<PreemptionCost>| {
        let config = RouterConfig::uniform(2, WorkerConfig::new(40).capacity(200_000)).preemption_cost(cost);
        let mut router = Router::new(config, "level", &Parameters::default()).expect("valid");
        for id in 0..80 {
            router.adopt(Request::new(id, 2_000), id as u32 % 2, 0).expect("valid");
        }
        for step in 1..=320 {
            router.advance();
            if step % 4 == 0 {
                router.finish(step / 4 - 1, None).expect("it runs");
                router.adopt(Request::new(step + 100, 2_000), step as u32 / 4 % 2, 0).expect("valid");
            }
        }
        metrics(&router).ranks[0].kv_growth_tokens
    };
    let cost = |prefill| Some(PreemptionCost::new(5.0, prefill));
    let (cheap, usual, dear) = (room(cost(0.01)), room(None), room(cost(100.0)));
    assert!(cheap < usual && usual < dear && dear <= 12_000, "{cheap} {usual} {dear}");
    // What is done again for nothing may happen in every other case.
    assert!(room(cost(0.0)) <= cheap);
    for wrong in [-1.0, f64::NAN, 2e6] {
        for (name, cost) in [
            ("step_base_ms", PreemptionCost::new(wrong, 1.0)),
            ("prefill_us_per_token", PreemptionCost::new(1.0, wrong)),
        ] {
            let config = RouterConfig::new(1, 1).preemption_cost(cost);
            let refused = Router::new(config, "level", &Parameters::default()).map(|_| ());
            let found = refused.expect_err("out of its range").to_string();
            assert!(found.contains(name), "{found}");
        }
    }
}
