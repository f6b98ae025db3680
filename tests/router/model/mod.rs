//! Random events against a model that recounts everything from nothing.
//!
//! The world has engines that hold requests, ways to them that lose dispatches, and reports that come late,
//! twice, in the wrong order, wrong, or never. The model keeps one plain record per request and sums over all
//! of them whenever it wants to know anything; it predicts every verdict, every returned request and the step
//! clock, and checks every admission.
//!
//! `BALANCEROUTE_EVENTS` sets the number of events over all settings (10,000,000 in `tests/run`).

mod account;
mod audit;
mod claims;
mod ends;
mod entries;
mod progress;
mod reports;
mod steps;
mod workers;

use std::collections::{BTreeMap, HashMap, VecDeque};

use balanceroute::policy::Parameters;
use balanceroute::router::Metrics;
use balanceroute::{
    Dispatch, Mode, PairTerms, Request, RequestId, ReturnReason, Router, RouterConfig, Share, WorkerId,
    WorkerReport,
};

use self::account::{Record, Side};
use self::claims::Claim;

const HEADROOM_STEPS: u32 = 20;
const TIMEOUT_MS: u64 = 400;
const SILENCE_MS: u64 = 1_500;
const EXPIRE_MS: u64 = 6_000;
/// What has ended longer ago than this is not known to us alone any more.
const FRESH_MS: u64 = 32;
const MOST_WORKERS: usize = 9;
/// What the caller's clock shows at the first reading: its origin is its own.
const ORIGIN_MS: u64 = 1_700_000_000_000;
const MOST_WAITING: usize = 60;
/// The limit of a batch.
const MOST_LOAD_TOKENS: i64 = 1 << 30;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }
}

#[derive(Clone, Copy)]
struct Setting {
    policy: &'static str,
    mode: Mode,
    share: Share,
    bounded: bool,
    silence: bool,
    in_order: bool,
    terms: bool,
    repairs: bool,
    overdue_first: bool,
    /// How many a decision chooses among.
    window: usize,
    /// By how many a request may be passed.
    max_passed: Option<u32>,
    /// Whether requests are of several classes, and the share that higher ones cannot take.
    classes: bool,
    lower_class_one_in: Option<u32>,
}

/// Bonuses and masks of some requests, drawn from who is asked for.
struct Terms<'a> {
    salt: u64,
    ids: &'a [WorkerId],
}

impl Terms<'_> {
    fn draw(&self, id: RequestId, worker: u32) -> u64 {
        Rng(self.salt ^ id.0 << 20 ^ u64::from(worker) << 50).next()
    }

    /// Whether a request may enter a worker.
    fn may(&self, id: RequestId, worker: WorkerId) -> bool {
        !self.has_mask(id) || self.draw(id, worker.0).is_multiple_of(3)
    }

    fn has_mask(&self, id: RequestId) -> bool {
        self.draw(id, u32::MAX).is_multiple_of(3)
    }
}

impl PairTerms for Terms<'_> {
    fn bonus(&mut self, request: &Request, bonus_tokens: &mut [f32]) -> bool {
        assert_eq!(bonus_tokens.len(), self.ids.len());
        for (bonus, &worker) in bonus_tokens.iter_mut().zip(self.ids) {
            let draw = self.draw(request.id, worker.0 ^ 0x5555);
            if draw.is_multiple_of(4) {
                *bonus += (draw >> 40) as f32 % 300.0 - 100.0;
            }
        }
        !self.draw(request.id, 1 << 30).is_multiple_of(3)
    }

    fn eligible(&mut self, request: &Request, workers: &mut [u64]) -> bool {
        for (place, &worker) in self.ids.iter().enumerate() {
            if !self.may(request.id, worker) {
                workers[place / 64] &= !(1 << (place % 64));
            }
        }
        self.has_mask(request.id)
    }

    fn stores_half(&self) -> bool {
        self.salt.is_multiple_of(2)
    }
}

struct World {
    setting: Setting,
    rng: Rng,
    router: Router,
    now_ms: u64,
    /// The router's clock: the last time that it was told.
    told_ms: u64,
    /// The reading at which it last looked at the workers, which turns of front ends go by.
    looked_ms: u64,
    /// Whether somebody waited then whom only a worker without anybody on it can hold.
    tight: bool,
    /// Who came since without a reading of the clock: their wait begins with the next.
    undated: Vec<RequestId>,
    clock: i64,
    records: HashMap<RequestId, Record>,
    waiting: Vec<RequestId>,
    running: Vec<RequestId>,
    sides: Vec<Side>,
    removed: Vec<WorkerId>,
    network: Vec<(WorkerId, WorkerReport)>,
    /// Who must be in the next plan.
    expected: BTreeMap<RequestId, ReturnReason>,
    /// Who was put off and has not come again.
    put_off: Vec<(RequestId, Record)>,
    /// Dispatches made lately.
    lives: VecDeque<Dispatch>,
    next_id: u64,
    arrivals: u64,
    /// The workers that a mask of the last step shuts to those who were asked for.
    masked: HashMap<RequestId, Vec<WorkerId>>,
    /// By class: admissions of higher ones, less those that it had for them.
    credits: BTreeMap<i8, u64>,
    /// How many workers the last step had.
    sides_of_step: usize,
    most_passed: u32,
    /// Who claims which worker since the last step.
    claim: Option<Claim>,
    arrived: u64,
    left: u64,
    counts: Counts,
    metrics: Metrics,
    tally: Tally,
}

/// What the router should have counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    finished: u64,
    aborted: u64,
    preempted: u64,
    preempted_in_place: u64,
    disowned: u64,
    sent_beyond: u64,
    adopted_beyond: u64,
    claims: u64,
    admitted_beside_claims: u64,
}

/// What happened: a test that never reaches a case tests nothing.
#[derive(Clone, Debug, Default)]
struct Tally {
    returned: [u64; ReturnReason::ALL.len()],
    verdicts: [u64; 5],
    cases: BTreeMap<&'static str, u64>,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        for (sum, more) in self.returned.iter_mut().zip(other.returned) {
            *sum += more;
        }
        for (sum, more) in self.verdicts.iter_mut().zip(other.verdicts) {
            *sum += more;
        }
        for (case, count) in &other.cases {
            *self.cases.entry(case).or_default() += count;
        }
    }

    fn meets(&mut self, case: &'static str) {
        *self.cases.entry(case).or_default() += 1;
    }
}

impl World {
    fn new(setting: Setting, seed: u64) -> Self {
        let config = RouterConfig::new(0, 0)
            .headroom_steps(HEADROOM_STEPS)
            .mode(setting.mode)
            .share(setting.share)
            .in_order(setting.in_order)
            .dispatch_timeout_ms(TIMEOUT_MS)
            .silence_timeout_ms(setting.silence.then_some(SILENCE_MS))
            .lower_class_one_in(setting.lower_class_one_in)
            .expire_after_ms(EXPIRE_MS);
        let parameters = Parameters::new().candidate_window(setting.window).max_passed(setting.max_passed);
        let router = Router::new(config, setting.policy, &parameters).expect("valid");
        let mut world = Self {
            setting,
            rng: Rng(seed),
            router,
            now_ms: 0,
            told_ms: 0,
            looked_ms: 0,
            tight: false,
            undated: Vec::new(),
            clock: 0,
            records: HashMap::new(),
            waiting: Vec::new(),
            running: Vec::new(),
            sides: Vec::new(),
            removed: Vec::new(),
            network: Vec::new(),
            expected: BTreeMap::new(),
            put_off: Vec::new(),
            lives: VecDeque::new(),
            next_id: 0,
            arrivals: 0,
            masked: HashMap::new(),
            credits: BTreeMap::new(),
            sides_of_step: 0,
            most_passed: 0,
            claim: None,
            arrived: 0,
            left: 0,
            counts: Counts::default(),
            metrics: Metrics::default(),
            tally: Tally::default(),
        };
        world.router.step(ORIGIN_MS).expect("nothing to decide");
        for _ in 0..4 {
            world.join();
        }
        world
    }

    /// What the caller's clock shows at a time.
    fn reading(&self, now_ms: u64) -> u64 {
        ORIGIN_MS + now_ms
    }

    /// The router is told the time. The reading.
    fn tell(&mut self) -> u64 {
        self.told_ms = self.now_ms;
        for id in self.undated.drain(..) {
            if let Some(record) = self.records.get_mut(&id) {
                record.since_ms = self.told_ms;
            }
        }
        self.reading(self.told_ms)
    }

    /// A call tells it now and then.
    fn tell_perhaps(&mut self) -> Option<u64> {
        self.rng.one_in(3).then(|| self.tell())
    }

    /// Whether the engine has a running request.
    fn engine_has(&self, id: RequestId) -> bool {
        let Some((worker, ..)) = self.records[&id].runs() else { return false };
        self.sides[self.side(worker)].holds.iter().any(|&(_, other)| other == id)
    }

    fn event(&mut self) {
        self.now_ms += self.rng.below(6);
        match self.rng.below(110) {
            0..13 => {
                // In a mode that places, most requests are placed.
                let enqueues = (self.setting.mode == Mode::Step) != self.rng.one_in(4);
                if enqueues { self.enqueue() } else { self.place() }
            }
            13..29 => self.step(),
            29..53 => self.progress(),
            53..74 => self.end(),
            74..76 => self.abort_waiting(),
            76 => {
                if self.rng.one_in(8) {
                    self.change_worker();
                }
            }
            77..87 => self.engines(),
            87..100 => self.deliver(),
            100..104 => self.change_stage(),
            104 => self.send(),
            105 => self.adopt(),
            106 => {
                if self.rng.one_in(4) {
                    self.disown();
                }
            }
            107 => self.configure(),
            _ => self.end_of_a_life(),
        }
    }
}

const WHOLE: Share = Share::WHOLE;
const THIRD: Share = Share { index: 1, of: 3 };

fn setting(policy: &'static str, mode: Mode, share: Share, bounded: bool) -> Setting {
    let repairs = policy.starts_with("level") || policy.starts_with("exact");
    // The published rule and those of engines know no bound of the wait but a request's own.
    let (terms, window, in_order) = (false, 4096, false);
    Setting {
        policy,
        mode,
        share,
        bounded,
        silence: bounded,
        in_order,
        terms,
        repairs,
        overdue_first: true,
        window,
        max_passed: Some(5),
        classes: false,
        lower_class_one_in: None,
    }
}

fn among(window: usize, setting: Setting) -> Setting {
    Setting { window, ..setting }
}

fn passed_by(max_passed: Option<u32>, setting: Setting) -> Setting {
    Setting { max_passed, ..setting }
}

fn of_classes(lower_class_one_in: Option<u32>, setting: Setting) -> Setting {
    Setting { classes: true, lower_class_one_in, ..setting }
}

fn with_terms(setting: Setting) -> Setting {
    Setting { terms: true, ..setting }
}

fn in_order(setting: Setting) -> Setting {
    Setting { in_order: true, ..setting }
}

#[test]
fn random_events_against_a_model() {
    let events: u64 = match std::env::var("BALANCEROUTE_EVENTS") {
        Ok(count) => count.parse().expect("BALANCEROUTE_EVENTS is a number"),
        Err(_) => 200_000,
    };
    let share = |index, of| Share { index, of };
    let settings = [
        setting("level", Mode::Step, WHOLE, true),
        passed_by(None, setting("level", Mode::Mixed { free_slots: 8 }, WHOLE, true)),
        setting("level", Mode::Arrival, THIRD, true),
        passed_by(Some(0), in_order(setting("level", Mode::Step, WHOLE, false))),
        setting("exact", Mode::Mixed { free_slots: 3 }, THIRD, true),
        in_order(setting("br0", Mode::Step, WHOLE, true)),
        in_order(setting("brh-survival", Mode::Step, WHOLE, true)),
        setting("level-exactmatch", Mode::Mixed { free_slots: 20 }, WHOLE, true),
        setting("jsq", Mode::Arrival, WHOLE, true),
        in_order(setting("vllm-0.33", Mode::Step, WHOLE, true)),
        with_terms(setting("level", Mode::Step, WHOLE, true)),
        with_terms(among(7, setting("level", Mode::Step, WHOLE, true))),
        with_terms(among(3, setting("exact-survival", Mode::Mixed { free_slots: 3 }, THIRD, true))),
        with_terms(among(5, setting("br0", Mode::Step, WHOLE, true))),
        among(4, setting("jsq", Mode::Arrival, WHOLE, true)),
        among(1, setting("longest-first", Mode::Step, WHOLE, true)),
        in_order(setting("level", Mode::Step, share(0, 2), true)),
        setting("least-kv", Mode::Step, share(15, 16), true),
        setting("br0", Mode::Arrival, share(2, 3), false),
        of_classes(None, setting("level", Mode::Step, WHOLE, true)),
        of_classes(Some(3), setting("level", Mode::Mixed { free_slots: 8 }, WHOLE, true)),
        of_classes(None, setting("level", Mode::Arrival, WHOLE, true)),
        of_classes(Some(2), with_terms(among(4, setting("level", Mode::Step, WHOLE, true)))),
        of_classes(Some(5), setting("exact", Mode::Arrival, THIRD, true)),
        of_classes(Some(4), among(2, setting("br0", Mode::Step, WHOLE, true))),
        of_classes(None, setting("jsq", Mode::Arrival, WHOLE, true)),
        of_classes(Some(3), among(1, setting("longest-first", Mode::Step, WHOLE, false))),
    ];
    let mut tally = Tally::default();
    let count = events / settings.len() as u64;
    for (seed, &setting) in settings.iter().enumerate() {
        let mut world = World::new(setting, seed as u64);
        for event in 0..count {
            world.event();
            world.glance();
            if event % 64 == 0 {
                world.audit();
            }
        }
        world.audit();
        world.close();
        tally.add(&world.tally);
    }
    println!("{} events: {tally:?}", count * settings.len() as u64);
    // Nobody asks it to begin anew here.
    let (recovered, returned) = tally.returned.split_last().expect("reasons");
    assert!(*recovered == 0 && returned.iter().all(|&count| count > 5), "{tally:?}");
    assert!(tally.verdicts[..4].iter().all(|&count| count > 50) && tally.verdicts[4] > 5, "{tally:?}");
    for (case, at_least) in [
        ("admitted", events / 50),
        ("placed", events / 1_500),
        ("finished", events / 50),
        ("refused step", 100),
        ("refused report", 50),
        ("overdue", 200),
        ("next", 200),
        ("held back", 500),
        ("joined", 60),
        ("announced", 15),
        ("removed", 20),
        ("configured", 100),
        ("another epoch", 50),
        ("the epoch before", 20),
        ("an epoch before that", 20),
        ("without KV tokens", 500),
        ("younger than its report", 500),
        ("shown by another", 50),
        ("sent", 200),
        ("sent, waited", 200),
        ("sent beyond", 200),
        ("adopted", 500),
        ("adopted where it runs", 30),
        ("moved", 100),
        ("held", 300),
        ("preempted in place", 300),
        ("decodes by a call", 200),
        ("many grew", 1_000),
        ("came again", 300),
        ("came again as another", 100),
        ("end of a life before", 50),
        ("ended by its life", 20),
        ("disowned", 10),
        ("borrowed", 300),
        ("claimed", 300),
        ("claimed another worker", 15),
        ("kept the worker", 50),
        ("entered before the claim", 5),
        ("claimed below a higher class", 10),
        ("entered the claimed worker of a lower class", 3),
        ("placed on the claimed worker of a lower class", 1),
        ("without headroom", 0),
        ("classes wait", 300),
        ("a lower class before a higher", 100),
        ("a turn that cannot be used", 20),
    ] {
        assert!(tally.cases.get(case).is_some_and(|&count| count > at_least), "{case}: {tally:?}");
    }
}
