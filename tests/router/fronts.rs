//! Several front ends over the same ranks: each has a router with its share and hears reports that are late.
//!
//! The ranks decode in steps of 20 ms, queue what does not fit yet, and tell every front end the same: what
//! runs there, what waits, and the KV tokens in use. A front end hears of its own tokens and ends at once and
//! decides every 5 ms. What all of them reach is measured against one front end on the same arrivals.

use std::collections::{HashMap, VecDeque};

use balanceroute::policy::Parameters;
use balanceroute::{
    Request, RequestId, ReturnReason, Router, RouterConfig, Share, WorkerConfig, WorkerReport,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const TICK_MS: u64 = 5;
const STEP_MS: u64 = 20;
/// No request generates more, so that an admission leaves room for all of its growth.
const HEADROOM: u32 = 256;
/// No report is later.
const AGE_MS: u32 = 100;
const BEGIN_MS: u64 = 1_000_000;
/// Waits count from here on: at first nobody has heard anything.
const SETTLED_MS: u64 = 2_000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Load {
    /// Requests a second, whoever waits.
    Open(f64),
    /// So many requests at any time: the next comes when one ends.
    Closed(usize),
}

/// On which front ends requests arrive.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Arrivals {
    Even,
    OneIdle,
    /// On the first one only once half of the time has passed.
    OneLate,
    /// Half of them on one.
    Skewed,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    policy: &'static str,
    ranks: usize,
    slots: u32,
    capacity: u64,
    /// One request in so many has up to half of a rank's KV tokens.
    long_one_in: u32,
    load: Load,
    arrivals: Arrivals,
    /// Steps from one report to the next.
    report_steps: u64,
    seconds: u64,
    seed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Job {
    id: u64,
    front: usize,
    tokens: u64,
    generated: u64,
    output: u64,
}

#[derive(Default)]
struct Rank {
    running: Vec<Job>,
    queued: VecDeque<Job>,
    /// Last dispatch of each front end.
    last: Vec<u64>,
    /// When a front end sent a request, and when one of its ended.
    sent: VecDeque<(u64, usize)>,
    ended: VecDeque<(u64, usize)>,
}

impl Rank {
    fn used(&self) -> u64 {
        self.running.iter().map(|job| job.tokens).sum()
    }
}

struct Front {
    router: Router,
    /// Reports on the way: when they come, when they were measured, of which rank.
    inbox: Vec<(u64, u64, u32, WorkerReport)>,
    came_ms: HashMap<RequestId, u64>,
    /// When the last report of each rank was measured that it has heard.
    heard_ms: Vec<(u64, u64)>,
}

/// What came of a case.
#[derive(Clone, Debug, Default)]
struct Outcome {
    /// Tokens generated.
    generated: u64,
    never_fits: u64,
    /// Greatest number of requests beyond a rank's slots, and steps of a rank with any.
    over_slots: u64,
    over_steps: u64,
    /// Greatest tokens of running requests beyond a rank's KV capacity.
    over_tokens: u64,
    /// Milliseconds that requests waited in a front end, sorted.
    waits: Vec<u64>,
    /// Milliseconds from arrival to the first token, sorted.
    firsts: Vec<u64>,
    /// Those who wait in a front end at the end.
    left: usize,
    /// Requests of the first front end that run at the end.
    first_runs: usize,
    slot_steps: u64,
    used_slot_steps: u64,
}

impl Outcome {
    fn mean(of: &[u64]) -> f64 {
        of.iter().sum::<u64>() as f64 / of.len().max(1) as f64
    }

    fn p95(of: &[u64]) -> u64 {
        of.get(of.len() * 95 / 100).copied().unwrap_or(0)
    }
}

impl Case {
    fn job(&self, id: u64) -> (u32, u64) {
        // Of the seed and the id alone: every number of front ends sees the same requests.
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed << 32 ^ id);
        let prompt = if self.long_one_in > 0 && rng.random_range(0..self.long_one_in) == 0 {
            rng.random_range(self.capacity / 8..=self.capacity / 2) as u32
        } else {
            // Most are short.
            let scale: f64 = rng.random_range(0.0..1.0);
            50 + (1_500.0 * scale * scale) as u32
        };
        (prompt, rng.random_range(16..=u64::from(HEADROOM)))
    }

    fn front_of(&self, id: u64, fronts: usize, late: bool) -> usize {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed << 32 ^ id ^ 1 << 60);
        let any = rng.random_range(0..fronts);
        match self.arrivals {
            Arrivals::OneIdle if fronts > 1 => rng.random_range(1..fronts),
            Arrivals::OneLate if fronts > 1 && !late => rng.random_range(1..fronts),
            Arrivals::Skewed if rng.random_range(0..2) == 0 => fronts - 1,
            _ => any,
        }
    }

    fn run(&self, fronts: usize) -> Outcome {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let mut out = Outcome::default();
        let worker = WorkerConfig::new(self.slots).capacity(self.capacity);
        let mut sides: Vec<Front> = (0..fronts)
            .map(|index| {
                let config = RouterConfig::uniform(self.ranks, worker)
                    .headroom_steps(HEADROOM)
                    .share(Share::new(index as u32, fronts as u32));
                let router = Router::new(config, self.policy, &Parameters::default()).expect("valid");
                Front {
                    router,
                    inbox: Vec::new(),
                    came_ms: HashMap::new(),
                    heard_ms: vec![(0, 0); self.ranks],
                }
            })
            .collect();
        let mut ranks: Vec<Rank> =
            (0..self.ranks).map(|_| Rank { last: vec![0; fronts], ..Rank::default() }).collect();
        let (mut next_id, mut in_flight, mut next_ms) = (0u64, 0usize, 0.0f64);
        let mut arrivals = ChaCha8Rng::seed_from_u64(self.seed ^ 77);
        for tick in 0..self.seconds * 1000 / TICK_MS {
            let now_ms = BEGIN_MS + tick * TICK_MS;
            if (tick * TICK_MS).is_multiple_of(STEP_MS) {
                let step = tick * TICK_MS / STEP_MS;
                for (at, rank) in ranks.iter_mut().enumerate() {
                    self.step(rank, now_ms, &mut sides, &mut out, &mut in_flight);
                    if step % self.report_steps == at as u64 % self.report_steps {
                        let kv = rank.used();
                        for (index, side) in sides.iter_mut().enumerate() {
                            let report = WorkerReport::new(rank.running.len() as u32, kv)
                                .waiting(rank.queued.len() as u32)
                                .sequence(step)
                                .last_dispatch(rank.last[index])
                                .age(AGE_MS);
                            let late = rng.random_range(1..=5u64) * STEP_MS;
                            side.inbox.push((now_ms + late, now_ms, at as u32, report));
                        }
                    }
                }
            }
            loop {
                let comes = match self.load {
                    Load::Open(rate) => {
                        let comes = next_ms <= (tick * TICK_MS) as f64;
                        if comes {
                            let draw: f64 = arrivals.random_range(1e-9..1.0);
                            next_ms -= draw.ln() * 1000.0 / rate;
                        }
                        comes
                    }
                    Load::Closed(most) => in_flight < most,
                };
                if !comes {
                    break;
                }
                next_id += 1;
                in_flight += 1;
                let side = &mut sides[self.front_of(next_id, fronts, tick * TICK_MS >= self.seconds * 500)];
                side.router.enqueue(Request::new(next_id, self.job(next_id).0), now_ms).expect("valid");
                side.came_ms.insert(RequestId(next_id), now_ms);
            }
            for (index, side) in sides.iter_mut().enumerate() {
                side.inbox.sort_by_key(|&(when, ..)| when);
                let due = side.inbox.partition_point(|&(when, ..)| when <= now_ms);
                for (_, measured_ms, rank, report) in side.inbox.drain(..due) {
                    // Of the report before: what its age left open may stay so until the next one.
                    let (before_ms, heard_ms) = &mut side.heard_ms[rank as usize];
                    if measured_ms > *heard_ms {
                        (*before_ms, *heard_ms) = (*heard_ms, measured_ms);
                    }
                    side.router.report(rank, report, now_ms).expect("a report");
                }
                let plan = side.router.step(now_ms).expect("a decision");
                for back in &plan.returned {
                    assert_eq!(back.reason, ReturnReason::NeverFits);
                    out.never_fits += 1;
                    in_flight -= 1;
                }
                for dispatch in &plan.admissions {
                    let rank = &mut ranks[dispatch.worker.0 as usize];
                    let (tokens, output) = self.job(dispatch.id.0);
                    rank.last[index] = dispatch.number;
                    rank.queued.push_back(Job {
                        id: dispatch.id.0,
                        front: index,
                        tokens: u64::from(tokens),
                        generated: 0,
                        output,
                    });
                    rank.sent.push_back((now_ms, index));
                    for log in [&mut rank.sent, &mut rank.ended] {
                        log.drain(..log.len().saturating_sub(256));
                    }
                    let since_ms =
                        side.heard_ms[dispatch.worker.0 as usize].0.saturating_sub(u64::from(AGE_MS));
                    let ended =
                        rank.ended.iter().filter(|&&(when, who)| who == index && when >= since_ms).count();
                    let blind = ended
                        + rank.sent.iter().filter(|&&(when, who)| who != index && when >= since_ms).count();
                    let beyond = (rank.running.len() + rank.queued.len()).saturating_sub(self.slots as usize);
                    assert!(
                        beyond <= blind,
                        "{beyond} requests too many, {blind} sent or ended unseen: {self:?}"
                    );
                    if tick * TICK_MS >= SETTLED_MS {
                        out.waits.push(now_ms - side.came_ms[&dispatch.id]);
                    }
                }
            }
            for rank in &ranks {
                let over = (rank.running.len() + rank.queued.len()).saturating_sub(self.slots as usize);
                out.over_slots = out.over_slots.max(over as u64);
                out.over_steps += u64::from(over > 0);
                out.over_tokens = out.over_tokens.max(rank.used().saturating_sub(self.capacity));
            }
        }
        out.first_runs = ranks.iter().flat_map(|rank| &rank.running).filter(|job| job.front == 0).count();
        out.left = sides.iter().map(|side| side.router.pool().len()).sum();
        out.waits.sort_unstable();
        out.firsts.sort_unstable();
        out
    }

    /// One step of a rank: who fits enters, everybody has a token more, who has ended leaves.
    fn step(
        &self,
        rank: &mut Rank,
        now_ms: u64,
        sides: &mut [Front],
        out: &mut Outcome,
        in_flight: &mut usize,
    ) {
        out.slot_steps += u64::from(self.slots);
        out.used_slot_steps += rank.running.len() as u64;
        let mut grown: Vec<Vec<(RequestId, u32)>> = vec![Vec::new(); sides.len()];
        let ended = &mut rank.ended;
        rank.running.retain_mut(|job| {
            job.tokens += 1;
            job.generated += 1;
            out.generated += 1;
            if job.generated == 1 && now_ms >= BEGIN_MS + SETTLED_MS {
                out.firsts.push(now_ms - sides[job.front].came_ms[&RequestId(job.id)]);
            }
            let ends = job.generated == job.output;
            if !ends {
                grown[job.front].push((RequestId(job.id), 1));
            } else {
                ended.push_back((now_ms, job.front));
                let side = &mut sides[job.front];
                side.router.progress_requests(&[(RequestId(job.id), 1)]).expect("it runs");
                side.router.finish(job.id, now_ms).expect("it runs");
                side.came_ms.remove(&RequestId(job.id));
                *in_flight -= 1;
            }
            !ends
        });
        for (side, grown) in sides.iter_mut().zip(&grown) {
            assert_eq!(side.router.progress_requests(grown), Ok(grown.len()));
        }
        while let Some(&job) = rank.queued.front()
            && rank.running.len() < self.slots as usize
            && rank.used() + job.tokens <= self.capacity
        {
            rank.queued.pop_front();
            rank.running.push(job);
        }
    }

    fn line(&self, fronts: usize, out: &Outcome, whole: &Outcome) -> String {
        format!(
            "{:5} {:?} {:?} reports {} seed {} | {fronts:2} fronts: work {:.3}, slots {:.3}, over slots {} \
             ({} ticks), over \
             KV {}, wait mean {:.0} p95 {}, first p50 {} p95 {}, left {} never {}, first runs {}",
            self.policy,
            self.load,
            self.arrivals,
            self.report_steps,
            self.seed,
            out.generated as f64 / whole.generated as f64,
            out.used_slot_steps as f64 / out.slot_steps as f64,
            out.over_slots,
            out.over_steps,
            out.over_tokens,
            Outcome::mean(&out.waits),
            Outcome::p95(&out.waits),
            out.firsts.get(out.firsts.len() / 2).copied().unwrap_or(0),
            Outcome::p95(&out.firsts),
            out.left,
            out.never_fits,
            out.first_runs,
        )
    }
}

fn compare(case: &Case, fronts: &[usize], least_work: f64) -> Vec<Outcome> {
    let whole = case.run(1);
    println!("{}", case.line(1, &whole, &whole));
    let run = |&fronts: &usize| {
        let out = case.run(fronts);
        println!("{}", case.line(fronts, &out, &whole));
        let work = out.generated as f64 / whole.generated as f64;
        assert!(work >= least_work, "{fronts} front ends reach {work:.3} of one: {case:?}");
        assert_eq!(out.never_fits, 0, "{fronts} front ends: {case:?}");
        // Parts of what late reports show are no proof: one rank in a hundred runs comes to a little more.
        assert!(out.over_tokens <= case.capacity / 50, "{} tokens too many: {case:?}", out.over_tokens);
        out
    };
    fronts.iter().map(run).collect()
}

const EIGHT: Case = Case {
    policy: "level",
    ranks: 8,
    slots: 32,
    capacity: 60_000,
    long_one_in: 20,
    load: Load::Open(60.0),
    arrivals: Arrivals::Even,
    report_steps: 1,
    seconds: 40,
    seed: 1,
};

#[test]
fn several_front_ends_reach_what_one_reaches() {
    let arrivals = [Arrivals::Even, Arrivals::OneIdle, Arrivals::Skewed, Arrivals::OneLate];
    for seed in 1..=3 {
        for (at, arrivals) in arrivals.into_iter().enumerate() {
            for policy in ["level", "jsq"] {
                // Reports every step, or every 100 ms; below saturation, and past it.
                let report_steps = if (seed as usize + at).is_multiple_of(2) { 1 } else { 5 };
                for load in [60.0, 120.0] {
                    let load = Load::Open(load);
                    let case = Case { policy, load, arrivals, report_steps, seed, ..EIGHT };
                    let outs = compare(&case, &[3, 16], 0.95);
                    for (fronts, out) in [3, 16].into_iter().zip(outs) {
                        // Half of its share at least, though everything was full when it began.
                        let late = arrivals == Arrivals::OneLate && case.load == Load::Open(120.0);
                        let least = if late { 8 * 32 / fronts / 2 } else { 0 };
                        assert!(out.first_runs >= least, "{fronts} front ends, {}: {case:?}", out.first_runs);
                    }
                }
            }
        }
    }
}

#[test]
fn several_front_ends_let_nobody_wait_beside_free_slots() {
    let four = Case { ranks: 4, slots: 16, long_one_in: 0, report_steps: 5, seconds: 30, ..EIGHT };
    for seed in 1..=3 {
        let case = Case { load: Load::Closed(56), seed, ..four };
        let out = &compare(&case, &[4], 0.97)[0];
        assert!(Outcome::mean(&out.waits) <= 8.0 && Outcome::p95(&out.waits) <= 40, "{case:?}");
        assert!(Outcome::p95(&out.firsts) <= 100, "{case:?}");
        compare(&Case { load: Load::Closed(86), seed, ..four }, &[4], 0.97);
    }
}
