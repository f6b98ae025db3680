//! Bytes are calls to a router, with any arguments; whatever is refused has changed nothing, and whoever was
//! let in leaves once.
//!
//! A twin is spared the refused calls and decides through the oracle: it must always stand where the router
//! stands. Included by the fuzz target and by `tests/fuzz_bodies.rs`.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::ops::AddAssign;

use arbitrary::{Arbitrary, Result as Drawn, Unstructured};
use balanceroute::batch::{
    MAX_BONUS_TOKENS, MAX_LOAD_TOKENS, MAX_PASSED, MAX_PROMPT_TOKENS, MAX_SLOTS, MAX_WAITED_STEPS,
};
use balanceroute::policy::{self, Parameters};
use balanceroute::router::{Decided, Metrics};
use balanceroute::{
    BatchError, Dispatch, Mode, PairTerms, Placement, Plan, PreemptionCost, Request, RequestId, ReturnReason,
    Returned, Router, RouterConfig, RouterError, Share, Verdict, WaitReason, WorkerConfig, WorkerId,
    WorkerReport,
};

const MOST_CALLS: usize = 200;
const MOST_WAITING: usize = 40;
const MOST_WORKERS: usize = 8;
const TOO_OFTEN: &str = "asked once too often";

/// What the bytes came to.
#[derive(Clone, Copy, Debug, Default)]
#[allow(dead_code, reason = "who fuzzes reads none of it")]
pub(crate) struct Tally {
    pub(crate) refused_configs: usize,
    pub(crate) calls: usize,
    pub(crate) refused: usize,
    pub(crate) refused_steps: usize,
    pub(crate) admitted: usize,
    pub(crate) masked: usize,
    pub(crate) placed: usize,
    pub(crate) finished: usize,
    pub(crate) sent: usize,
    pub(crate) moved: usize,
    pub(crate) stages: usize,
    pub(crate) grown: usize,
    pub(crate) by_life: usize,
    pub(crate) disowned: usize,
    pub(crate) configured: usize,
    pub(crate) shared_out: usize,
    /// What was learned went in again, as it was or changed.
    pub(crate) learned: usize,
    /// Requests of a class other than 0 that were let in.
    pub(crate) classed: usize,
    pub(crate) behind_window: usize,
    pub(crate) jumps: u64,
    pub(crate) returned: [usize; ReturnReason::ALL.len()],
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.refused_configs += other.refused_configs;
        self.calls += other.calls;
        self.refused += other.refused;
        self.refused_steps += other.refused_steps;
        self.admitted += other.admitted;
        self.masked += other.masked;
        self.placed += other.placed;
        self.finished += other.finished;
        self.sent += other.sent;
        self.moved += other.moved;
        self.stages += other.stages;
        self.grown += other.grown;
        self.by_life += other.by_life;
        self.disowned += other.disowned;
        self.configured += other.configured;
        self.shared_out += other.shared_out;
        self.learned += other.learned;
        self.classed += other.classed;
        self.behind_window += other.behind_window;
        self.jumps += other.jumps;
        for (sum, more) in self.returned.iter_mut().zip(other.returned) {
            *sum += more;
        }
    }
}

fn one_in(u: &mut Unstructured<'_>, n: u8) -> Drawn<bool> {
    Ok(u8::arbitrary(u)?.is_multiple_of(n))
}

/// Mostly below a bound, now and then anything.
fn mostly_below(u: &mut Unstructured<'_>, bound: u16) -> Drawn<u64> {
    if one_in(u, 32)? { u64::arbitrary(u) } else { Ok(u64::from(u16::arbitrary(u)? % bound)) }
}

/// As [`mostly_below`], in 32 bits.
fn mostly_below_32(u: &mut Unstructured<'_>, bound: u16) -> Drawn<u32> {
    Ok(mostly_below(u, bound)? as u32)
}

fn perhaps<T>(
    u: &mut Unstructured<'_>,
    draw: impl FnOnce(&mut Unstructured<'_>) -> Drawn<T>,
) -> Drawn<Option<T>> {
    if bool::arbitrary(u)? { draw(u).map(Some) } else { Ok(None) }
}

fn worker_config(u: &mut Unstructured<'_>, bounded: bool) -> Drawn<WorkerConfig> {
    let mut config = WorkerConfig::new(mostly_below_32(u, 5)?);
    if bounded && !one_in(u, 4)? {
        config = config.capacity(mostly_below(u, 2_000)?);
    }
    if one_in(u, 4)? {
        config = config.weight(*u.choose(&[1.5, 0.0, 64.0, -0.0, f32::NAN, -1.0, f32::INFINITY])?);
    }
    Ok(config)
}

fn is_sound(config: &WorkerConfig) -> bool {
    config.slots <= MAX_SLOTS
        && config.kv_capacity_tokens.unwrap_or(0) <= MAX_LOAD_TOKENS
        && config.weight >= 0.0
        && config.weight <= 64.0
}

fn router_config(u: &mut Unstructured<'_>) -> Drawn<RouterConfig> {
    let flags: u8 = u.arbitrary()?;
    let bounded = flags & 1 == 1;
    // More than one word of eligibility bits now and then.
    let count = if one_in(u, 64)? { 66 } else { u.int_in_range(0..=5)? };
    let workers = (0..count).map(|_| worker_config(u, bounded)).collect::<Drawn<Vec<_>>>()?;
    let mode = match flags >> 1 & 3 {
        0 => Mode::Arrival,
        1 => Mode::Mixed { free_slots: mostly_below_32(u, 4)? },
        _ => Mode::Step,
    };
    let share = match u8::arbitrary(u)? % 8 {
        0 => Share { index: mostly_below_32(u, 3)?, of: mostly_below_32(u, 4)? },
        _ => Share::WHOLE,
    };
    let cost = |u: &mut Unstructured<'_>| -> Drawn<f64> {
        if one_in(u, 16)? { u.arbitrary() } else { Ok(f64::from(u16::arbitrary(u)?) / 8.0) }
    };
    let lower_class_one_in = match u8::arbitrary(u)? % 32 {
        0 => Some(mostly_below_32(u, 6)?),
        1..=10 => Some(2 + u32::from(u8::arbitrary(u)? % 4)),
        _ => None,
    };
    let preemption_cost = if one_in(u, 4)? { Some(PreemptionCost::new(cost(u)?, cost(u)?)) } else { None };
    Ok(RouterConfig::default()
        .workers(workers)
        .headroom_steps(perhaps(u, |u| mostly_below_32(u, 50))?)
        .refresh_steps(mostly_below_32(u, 20)?)
        .ends_horizon_steps(mostly_below_32(u, 600)?)
        .mode(mode)
        .share(share)
        .lower_class_one_in(lower_class_one_in)
        .preemption_cost(preemption_cost)
        .in_order(flags >> 3 & 1 == 1)
        .dispatch_timeout_ms(perhaps(u, |u| mostly_below(u, 1_000))?)
        .silence_timeout_ms(perhaps(u, |u| mostly_below(u, 20_000))?)
        .expire_after_ms(perhaps(u, |u| mostly_below(u, 20_000))?))
}

fn is_config_sound(config: &RouterConfig) -> bool {
    let refreshes = (1..=65_536).contains(&config.refresh_steps);
    let turns = config.lower_class_one_in.is_none_or(|one_in| (2..=65_536).contains(&one_in));
    let is_cost = |cost: f64| (0.0..=1e6).contains(&cost);
    let costs = config
        .preemption_cost
        .is_none_or(|cost| is_cost(cost.step_base_ms) && is_cost(cost.prefill_us_per_token));
    config.workers.iter().all(is_sound) && is_share_sound(config.share) && refreshes && turns && costs
}

fn is_share_sound(share: Share) -> bool {
    (1..=1024).contains(&share.of) && share.index < share.of
}

fn request(u: &mut Unstructured<'_>, router: &Router) -> Drawn<Request<WorkerId>> {
    // Few ids, so that they come again.
    let id = if one_in(u, 32)? { u.arbitrary()? } else { u64::from(u8::arbitrary(u)? % 64) };
    let mut request = Request::new(id, mostly_below_32(u, 400)?);
    let flags: u8 = u.arbitrary()?;
    if flags & 7 == 0 {
        request.waited_steps = mostly_below_32(u, 100)?;
        request.passed = mostly_below_32(u, 100)?;
    }
    if flags >> 3 & 3 == 0 {
        request.deadline_steps = Some(mostly_below_32(u, 20)?);
    }
    match u8::arbitrary(u)? % 6 {
        // Mostly no more than it is long.
        0 => request.generated_tokens = mostly_below_32(u, 30)?,
        1 => request.max_tokens = Some(mostly_below_32(u, 60)?),
        2 => request.cached_tokens = mostly_below_32(u, 300)?,
        _ => {}
    }
    if one_in(u, 4)? {
        request.priority = *u.choose(&[1, -1, 5, i8::MAX, i8::MIN, 0])?;
    }
    if flags >> 5 & 1 == 0 {
        request.prompt_hash = Some(u64::from(u8::arbitrary(u)? % 3));
    }
    if flags >> 6 == 0 {
        request.rank = Some(worker(u, router)?);
        // Rows of a caller's, which mean nothing here.
        request.pair_row = perhaps(u, |u| mostly_below_32(u, 3))?;
        request.survival_class = u.arbitrary()?;
    }
    Ok(request)
}

fn is_request_sound(request: &Request<WorkerId>) -> bool {
    (1..=MAX_PROMPT_TOKENS).contains(&request.prompt_tokens)
        && request.waited_steps <= MAX_WAITED_STEPS
        && request.passed <= MAX_PASSED
        && request.generated_tokens <= request.prompt_tokens.saturating_add(request.cached_tokens)
}

/// The id of a worker, now and then of none.
fn worker(u: &mut Unstructured<'_>, router: &Router) -> Drawn<WorkerId> {
    let drawn = mostly_below_32(u, 255)?;
    let ids = router.worker_ids();
    Ok(if ids.is_empty() || drawn.is_multiple_of(16) {
        WorkerId(drawn / 16)
    } else {
        ids[drawn as usize % ids.len()]
    })
}

/// What a caller's terms may be like.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// They say nothing, at length.
    Neutral,
    Sound,
    /// A bonus that may be past its limits, once so many rows have been asked for.
    Bonus(f32, u32),
    Panics(u32),
}

/// Bonuses and masks that depend on who is asked for alone.
#[derive(Clone, Copy, Debug)]
struct Terms {
    salt: u64,
    kind: Kind,
    half: bool,
}

impl<'a> Arbitrary<'a> for Terms {
    fn arbitrary(u: &mut Unstructured<'a>) -> Drawn<Self> {
        let (kind, left) = (u8::arbitrary(u)? % 8, u32::from(u8::arbitrary(u)? % 4));
        let kind = match kind {
            0 => Kind::Neutral,
            1 | 2 => {
                let limits =
                    [MAX_BONUS_TOKENS, -MAX_BONUS_TOKENS, 65_504.0, 65_505.0, 65_520.0, -0.0, -1e-40];
                let wild = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.1e9, -3e38];
                let values = if bool::arbitrary(u)? { &limits[..] } else { &wild[..] };
                Kind::Bonus(*u.choose(values)?, left)
            }
            3 => Kind::Panics(left),
            _ => Kind::Sound,
        };
        Ok(Self { salt: u.arbitrary()?, kind, half: u.arbitrary()? })
    }
}

impl Terms {
    fn draw(&self, id: RequestId, of: u64) -> u64 {
        let mut z =
            self.salt ^ id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ of.wrapping_mul(0xd6e8_feb8_6659_fd93);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn has_mask(&self, id: RequestId) -> bool {
        self.kind != Kind::Neutral && self.draw(id, 1 << 32).is_multiple_of(2)
    }

    /// Whether a request may enter the worker at this place.
    fn may(&self, id: RequestId, place: usize) -> bool {
        !self.has_mask(id) || !self.draw(id, 2 << 32 | place as u64).is_multiple_of(3)
    }

    fn may_be_refused(&self, error: &RouterError) -> bool {
        match (self.kind, error) {
            (Kind::Bonus(bonus, _), RouterError::Batch(BatchError::Bonus { found, limit, .. })) => {
                let limit_here = if self.half { 65_504.0 } else { MAX_BONUS_TOKENS };
                assert_eq!((found.to_bits(), *limit), (bonus.to_bits(), limit_here));
                bonus.is_nan() || bonus.abs() > limit_here
            }
            (Kind::Panics(_), RouterError::Panicked { message, .. }) => message == TOO_OFTEN,
            _ => false,
        }
    }
}

impl PairTerms for Terms {
    fn bonus(&mut self, request: &Request, bonus_tokens: &mut [f32]) -> bool {
        assert!(bonus_tokens.iter().all(|&tokens| tokens == 0.0), "a row begins with nothing");
        let disowns = self.draw(request.id, 3 << 32).is_multiple_of(3);
        for (place, bonus) in bonus_tokens.iter_mut().enumerate() {
            let drawn = self.draw(request.id, 4 << 32 | place as u64);
            *bonus = match self.kind {
                Kind::Neutral => [0.0, -0.0, 0.49, -0.49][drawn as usize % 4],
                // What is disowned may be anything.
                _ if disowns => [f32::NAN, 1e30][drawn as usize % 2],
                _ if drawn.is_multiple_of(2) => (drawn >> 40) as f32 % 500.0 - 200.0,
                _ => 0.0,
            };
        }
        match &mut self.kind {
            Kind::Bonus(bonus, 0) => {
                let at = (self.salt % bonus_tokens.len() as u64) as usize;
                bonus_tokens.fill(0.0);
                bonus_tokens[at] = *bonus;
                return true;
            }
            // Without the hook: a fuzzer's ends the process.
            Kind::Panics(0) => std::panic::resume_unwind(Box::new(TOO_OFTEN)),
            Kind::Bonus(_, left) | Kind::Panics(left) => *left -= 1,
            Kind::Neutral => return true,
            Kind::Sound => {}
        }
        !disowns
    }

    fn eligible(&mut self, request: &Request, workers: &mut [u64]) -> bool {
        assert!(workers.iter().all(|&word| word == u64::MAX), "a mask begins with everybody");
        // The number of workers is not known here: bits past them are cleared like any others.
        for (at, word) in workers.iter_mut().enumerate() {
            for bit in 0..64 {
                if !self.may(request.id, at * 64 + bit) {
                    *word &= !(1 << bit);
                }
            }
        }
        self.kind == Kind::Neutral || self.has_mask(request.id)
    }

    fn stores_half(&self) -> bool {
        self.half
    }
}

/// A request that is inside, from being let in until it leaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Life {
    Waits {
        rank: Option<WorkerId>,
    },
    /// By the dispatch of this number, zero for none.
    Runs {
        worker: WorkerId,
        number: u64,
    },
}

/// What can be asked.
fn state(router: &Router) -> (Metrics, Vec<(RequestId, WaitReason)>, Plan) {
    let mut metrics = Metrics::default();
    router.metrics(&mut metrics);
    // A time of this machine's.
    metrics.counters.decide_ns = Default::default();
    (metrics, router.waiting(), router.plan().clone())
}

struct World {
    router: Router,
    twin: Router,
    /// Whether a step that is refused may have been asked of the policy, which remembers it.
    remembers: bool,
    inside: HashMap<RequestId, Life>,
    /// Who has left and is told with the next plan, by their lives: an id may be let in again before.
    pending: Vec<(RequestId, WorkerId)>,
    /// Dispatches made lately.
    lives: Vec<Dispatch>,
    arrived: u64,
    now_ms: u64,
    explains: bool,
    tally: Tally,
}

impl World {
    fn new(u: &mut Unstructured<'_>, tally: &mut Tally) -> Drawn<Self> {
        let mut config = router_config(u)?;
        let name = *u.choose(policy::NAMES)?;
        let candidate_window = if one_in(u, 4)? { 4096 } else { u.int_in_range(1..=4)? };
        let parameters = Parameters::new().candidate_window(candidate_window);
        let sound = is_config_sound(&config);
        let built = Router::new(config.clone(), name, &parameters);
        assert_eq!(built.is_ok(), sound, "{config:?}");
        let router = match built {
            Ok(router) => router,
            Err(_) => {
                tally.refused_configs += 1;
                config.workers.retain(is_sound);
                config.share = Share::WHOLE;
                config.refresh_steps = 16;
                (config.lower_class_one_in, config.preemption_cost) = (None, None);
                Router::new(config.clone(), name, &parameters).expect("mended")
            }
        };
        let scores = ["br", "exact", "level", "rollout"].iter().any(|family| name.starts_with(family));
        Ok(Self {
            router,
            twin: Router::new(config, name, &parameters).expect("the same"),
            remembers: !scores,
            inside: HashMap::new(),
            pending: Vec::new(),
            lives: Vec::new(),
            arrived: 0,
            now_ms: 0,
            explains: false,
            tally: Tally::default(),
        })
    }

    fn reading(&mut self, u: &mut Unstructured<'_>) -> Drawn<u64> {
        let by = u64::from(u16::arbitrary(u)?);
        self.now_ms = match u8::arbitrary(u)? % 16 {
            // Late, and told of as such.
            0 => return Ok(self.now_ms.saturating_sub(by % 20_000)),
            1 => u.arbitrary()?,
            2 => self.now_ms.saturating_add(by * 16),
            3 => [0, u64::MAX - by % 2][by as usize / 2 % 2],
            _ => self.now_ms.saturating_add(by % 300),
        };
        Ok(self.now_ms)
    }

    fn perhaps_reading(&mut self, u: &mut Unstructured<'_>) -> Drawn<Option<u64>> {
        if one_in(u, 3)? { Ok(None) } else { self.reading(u).map(Some) }
    }

    /// A call to both, if it is not refused; the caller knows whether it must be.
    fn call<T: Debug + PartialEq>(
        &mut self,
        refused: bool,
        call: impl Fn(&mut Router) -> Result<T, RouterError>,
    ) -> Option<T> {
        let before = state(&self.router);
        match call(&mut self.router) {
            Ok(answer) => {
                assert!(!refused, "{answer:?}");
                assert_eq!(call(&mut self.twin).as_ref(), Ok(&answer));
                Some(answer)
            }
            Err(error) => {
                assert!(refused, "{error}");
                assert!(!matches!(error, RouterError::Panicked { .. }), "{error}");
                assert_eq!(state(&self.router), before, "{error}");
                self.tally.refused += 1;
                None
            }
        }
    }

    fn runs_on(&self, id: RequestId) -> Option<WorkerId> {
        match self.inside.get(&id)? {
            Life::Runs { worker, .. } => Some(*worker),
            Life::Waits { .. } => None,
        }
    }

    fn has_worker(&self, worker: WorkerId) -> bool {
        self.router.worker_ids().contains(&worker)
    }

    /// The id of somebody inside, now and then of nobody.
    fn somebody(&self, u: &mut Unstructured<'_>, runs: bool) -> Drawn<RequestId> {
        let mut ids: Vec<RequestId> =
            self.inside.keys().copied().filter(|&id| !runs || self.runs_on(id).is_some()).collect();
        ids.sort_unstable();
        Ok(if ids.is_empty() || one_in(u, 16)? {
            RequestId(u8::arbitrary(u)?.into())
        } else {
            *u.choose(&ids)?
        })
    }

    fn enters(&mut self, id: RequestId, life: Life) {
        assert!(self.inside.insert(id, life).is_none(), "{id} is inside");
        self.arrived += 1;
    }

    /// Somebody waits now; a policy that binds may have chosen the rank.
    fn waits(&mut self, request: &Request<WorkerId>) {
        let found = self.router.pool().request(request.id).expect("it waits");
        let rank = found.rank.map(|place| self.router.worker_ids()[place.index()]);
        assert!(request.rank.is_none() || rank == request.rank, "a given rank is kept");
        self.tally.classed += usize::from(request.priority != 0);
        self.enters(request.id, Life::Waits { rank });
    }

    fn leaves(&mut self, id: RequestId) -> Life {
        self.inside.remove(&id).unwrap_or_else(|| panic!("{id} is not inside"))
    }

    /// Somebody runs now.
    fn begins(&mut self, dispatch: &Dispatch) {
        let &Dispatch { id, worker, number, .. } = dispatch;
        self.inside.insert(id, Life::Runs { worker, number });
        self.lives.push(*dispatch);
        if self.lives.len() > 16 {
            let _ = self.lives.remove(0);
        }
    }

    fn event(&mut self, u: &mut Unstructured<'_>) -> Drawn<()> {
        match u8::arbitrary(u)? % 64 {
            0..=9 => self.enqueue(u)?,
            10..=13 => self.place(u)?,
            14..=23 => self.step(u)?,
            24..=26 => {
                self.router.advance();
                self.twin.advance();
            }
            27 | 28 => {
                let (worker, tokens) = (worker(u, &self.router)?, mostly_below_32(u, 10)?);
                let refused = !self.has_worker(worker) || tokens > MAX_PROMPT_TOKENS;
                self.call(refused, |router| router.progress(worker, tokens));
            }
            29 | 30 => {
                let (id, tokens) = (self.somebody(u, true)?, mostly_below_32(u, 10)?);
                let refused = self.runs_on(id).is_none() || tokens > MAX_PROMPT_TOKENS;
                self.call(refused, |router| router.progress_request(id, tokens));
            }
            31..=33 => {
                let (id, now_ms) = (self.somebody(u, true)?, self.perhaps_reading(u)?);
                let on = self.runs_on(id);
                if let Some(finished) = self.call(on.is_none(), |router| router.finish(id, now_ms)) {
                    assert_eq!((finished.id, Some(finished.worker)), (id, on));
                    self.leaves(id);
                    self.tally.finished += 1;
                }
            }
            34 => {
                let (id, now_ms) = (self.somebody(u, false)?, self.perhaps_reading(u)?);
                let (on, refused) = (self.runs_on(id), !self.inside.contains_key(&id));
                if let Some(worker) = self.call(refused, |router| router.abort(id, now_ms)) {
                    assert_eq!(worker, on);
                    self.leaves(id);
                }
            }
            35 => {
                let id = self.somebody(u, true)?;
                if let Some(again) = self.call(self.runs_on(id).is_none(), |router| router.preempt(id)) {
                    assert_eq!((again.id, again.waited_steps), (id, 0));
                    self.leaves(id);
                    // Its rank may be that of a worker that is gone by now, and it may have grown too long.
                    let refused =
                        again.rank.is_some_and(|rank| !self.has_worker(rank)) || !is_request_sound(&again);
                    if self.call(refused, |router| router.enqueue(again, None)).is_some() {
                        self.waits(&again);
                    }
                }
            }
            36 => self.adopt(u)?,
            37..=41 => self.report(u)?,
            42 => {
                let config = worker_config(u, true)?;
                if self.router.worker_ids().len() < MOST_WORKERS {
                    self.call(!is_sound(&config), |router| router.add_worker(config));
                }
            }
            43 => {
                let worker = worker(u, &self.router)?;
                let known = self.has_worker(worker);
                if one_in(u, 2)? {
                    self.call(!known, |router| router.drain_worker(worker));
                } else {
                    self.call(!known, |router| router.is_drained(worker));
                }
            }
            44 => {
                let (worker, accepting) = (worker(u, &self.router)?, !one_in(u, 3)?);
                self.call(!self.has_worker(worker), |router| router.set_accepting(worker, accepting));
            }
            45 => self.remove(u)?,
            46 => {
                let (id, tokens) = (u64::from(u8::arbitrary(u)? % 64), mostly_below_32(u, 60)?);
                self.router.tell_length(id, tokens);
                self.twin.tell_length(id, tokens);
            }
            48..=51 => self.change_stage(u)?,
            52..=54 => self.send(u)?,
            55 | 56 => self.progress_many(u)?,
            57..=59 => self.end_life(u)?,
            60 => self.disown(u)?,
            61 => self.configure(u)?,
            62 => {
                let config = worker_config(u, true)?;
                if self.router.worker_ids().len() < MOST_WORKERS {
                    self.call(!is_sound(&config), |router| router.announce_worker(config));
                }
            }
            63 if one_in(u, 4)? => self.recover(),
            47 if u.arbitrary()? => {
                let share = match u8::arbitrary(u)? % 4 {
                    0 => Share::WHOLE,
                    _ => Share { index: mostly_below_32(u, 3)?, of: mostly_below_32(u, 4)? },
                };
                if self.call(!is_share_sound(share), |router| router.set_share(share)).is_some() {
                    assert_eq!(self.router.config().share, share);
                    self.tally.shared_out += 1;
                }
            }
            47 => self.learn(u)?,
            _ => {
                self.explains = u.arbitrary()?;
                self.router.set_explaining(self.explains);
            }
        }
        self.tally.calls += 1;
        self.check();
        Ok(())
    }

    fn is_refused(&self, request: &Request<WorkerId>) -> bool {
        self.inside.contains_key(&request.id)
            || !is_request_sound(request)
            || request.rank.is_some_and(|rank| !self.has_worker(rank))
    }

    fn enqueue(&mut self, u: &mut Unstructured<'_>) -> Drawn<()> {
        let (request, now_ms) = (request(u, &self.router)?, self.perhaps_reading(u)?);
        if self.router.pool().len() >= MOST_WAITING {
            return Ok(());
        }
        let refused = self.is_refused(&request);
        if self.call(refused, |router| router.enqueue(request, now_ms)).is_some() {
            self.waits(&request);
        }
        Ok(())
    }

    fn place(&mut self, u: &mut Unstructured<'_>) -> Drawn<()> {
        let (request, now_ms) = (request(u, &self.router)?, self.reading(u)?);
        let terms: Option<Terms> = u.arbitrary()?;
        if self.router.pool().len() >= MOST_WAITING {
            return Ok(());
        }
        let place = |router: &mut Router| match terms {
            None => router.place(request, now_ms),
            Some(mut terms) => router.place_with(request, now_ms, &mut terms),
        };
        let (before, workers) = (state(&self.router), self.router.workers().to_vec());
        // What is lent changes with the time.
        let whole = self.router.config().share.of == 1;
        let placement = match place(&mut self.router) {
            Ok(placement) => placement,
            Err(error) => {
                let by_terms = terms.is_some_and(|terms| terms.may_be_refused(&error));
                assert!(by_terms || self.is_refused(&request), "{error}");
                assert_eq!(state(&self.router), before, "{error}");
                self.tally.refused += 1;
                return Ok(());
            }
        };
        assert!(!self.is_refused(&request));
        assert_eq!(place(&mut self.twin).as_ref(), Ok(&placement));
        match placement {
            Placement::Waits => self.waits(&request),
            Placement::Placed(dispatch) => {
                let place =
                    self.router.worker_ids().iter().position(|&id| id == dispatch.worker).expect("there");
                assert!(workers[place].accepting, "closed: {dispatch:?}");
                assert!(!whole || workers[place].open_slots() > 0, "no slot on {dispatch:?}");
                let needs = i64::from(request.prompt_tokens) + self.growth_tokens();
                assert!(!whole || workers[place].room_tokens() >= needs, "no room on {dispatch:?}");
                assert!(
                    request.rank.is_none_or(|rank| rank == dispatch.worker),
                    "bound elsewhere: {dispatch:?}"
                );
                assert!(terms.is_none_or(|terms| terms.may(request.id, place)), "masked: {dispatch:?}");
                assert_eq!(dispatch.id, request.id);
                self.arrived += 1;
                assert!(!self.inside.contains_key(&request.id));
                self.begins(&dispatch);
                self.tally.placed += 1;
            }
        }
        Ok(())
    }

    /// What an admission leaves free for its own growth.
    fn growth_tokens(&self) -> i64 {
        let bounded = self.router.workers().iter().any(|worker| worker.kv_capacity_tokens.is_some());
        let headroom_steps = self.router.config().headroom_steps.filter(|_| bounded);
        headroom_steps.map_or(0, |steps| i64::from(steps.min(MAX_PROMPT_TOKENS)))
    }

    fn step(&mut self, u: &mut Unstructured<'_>) -> Drawn<()> {
        let (now_ms, terms) = (self.reading(u)?, Option::<Terms>::arbitrary(u)?);
        let (before, whole) = (state(&self.router), self.router.config().share.of == 1);
        let decided = match terms {
            None => self.router.step(now_ms),
            Some(mut terms) => self.router.step_with(now_ms, &mut terms),
        };
        let by_oracle = |twin: &mut Router| match terms {
            // Terms that say nothing are none.
            Some(Terms { kind: Kind::Neutral, .. }) | None => twin.step_by_reference(now_ms).cloned(),
            Some(mut terms) => twin.step_by_reference_with(now_ms, &mut terms).cloned(),
        };
        let workers = before.0.ranks.clone();
        let plan = match decided {
            Ok(plan) => plan.clone(),
            Err(error) => {
                let terms = terms.unwrap_or_else(|| panic!("{error}"));
                assert!(terms.may_be_refused(&error), "{error}, with {terms:?}");
                assert_eq!(state(&self.router), before, "{error}");
                self.tally.refused_steps += 1;
                if self.remembers {
                    // As text: it may have found what is no number.
                    let of_twin = by_oracle(&mut self.twin).expect_err("refused as well");
                    assert_eq!(of_twin.to_string(), error.to_string());
                }
                return Ok(());
            }
        };
        assert_eq!(by_oracle(&mut self.twin).as_ref(), Ok(&plan));
        let mut silent: BTreeMap<WorkerId, u32> = BTreeMap::new();
        for returned in &plan.returned {
            self.is_told(returned);
            if returned.reason == ReturnReason::WorkerSilent {
                *silent.entry(returned.worker.expect("it ran")).or_default() += 1;
            }
        }
        assert!(self.pending.is_empty(), "{:?} are not told", self.pending);
        let growth_tokens = self.growth_tokens();
        let mut taken: BTreeMap<WorkerId, (u32, i64)> = BTreeMap::new();
        for dispatch in &plan.admissions {
            let Dispatch { id, worker, number, prompt_tokens, .. } = *dispatch;
            let place = self.router.worker_ids().iter().position(|&known| known == worker).expect("there");
            let (count, tokens) = taken.entry(worker).or_default();
            *count += 1;
            *tokens += i64::from(prompt_tokens) + growth_tokens;
            let found = &workers[place];
            assert_eq!(number, found.dispatches + u64::from(*count), "numbers have no gap");
            let given_back = silent.get(&worker).copied().unwrap_or(0);
            // What is lent changes with the time, and an empty worker may have been kept for one long
            // request; but never is it more than the worker has.
            let slots = self.router.worker_config(worker).expect("there").slots;
            let is_sure = whole && (found.running > 0 || found.kv_capacity_tokens.is_none());
            let free_slots = if is_sure { found.free_slots } else { slots.saturating_sub(found.running) };
            assert!(found.accepting && *count <= free_slots + given_back, "no slot: {dispatch:?}");
            if let Some(capacity) = found.kv_capacity_tokens
                && given_back == 0
                && whole
            {
                let kept = found.kv_used_tokens + found.kv_growth_tokens;
                // An empty worker may take one that leaves no headroom, or no room for anything to grow.
                let eased = growth_tokens.max(found.kv_growth_tokens as i64);
                let most = capacity as i64 + if found.running == 0 { eased } else { 0 };
                assert!(kept as i64 + *tokens <= most, "no room: {dispatch:?}");
            }
            let life = self.inside.get(&id).copied();
            let Some(Life::Waits { rank }) = life else { panic!("{dispatch:?} of {life:?}") };
            self.begins(dispatch);
            assert!(rank.is_none_or(|rank| rank == worker), "bound to {rank:?}: {dispatch:?}");
            assert!(terms.is_none_or(|terms| terms.may(id, place)), "masked: {dispatch:?}");
            self.tally.admitted += 1;
            self.tally.masked += usize::from(terms.is_some_and(|terms| terms.has_mask(id)));
            if self.explains {
                let explained = self.router.explain(id).expect("explained");
                assert_eq!((explained.decided, explained.worker), (Decided::Step, Some(worker)));
            }
        }
        Ok(())
    }

    /// Somebody is told to have left: before and not yet told, or now.
    fn is_told(&mut self, returned: &Returned) {
        use ReturnReason::{Expired, LostDispatch, NeverFits, WorkerDraining, WorkerForgot, WorkerSilent};
        let Returned { id, worker, reason, .. } = *returned;
        self.tally.returned[reason as usize] += 1;
        if let LostDispatch | WorkerForgot = reason {
            let at = self.pending.iter().position(|&(known, on)| known == id && Some(on) == worker);
            self.pending.swap_remove(at.unwrap_or_else(|| panic!("{returned:?} was inside")));
            return;
        }
        let life = self.leaves(id);
        let config = self.router.config();
        match life {
            Life::Runs { worker: on, .. } => {
                assert_eq!((Some(on), reason), (worker, WorkerSilent));
                assert!(config.silence_timeout_ms.is_some());
            }
            Life::Waits { rank } => {
                assert_eq!(rank, worker);
                assert!(matches!(reason, Expired | WorkerDraining | NeverFits), "{returned:?}");
                assert!(reason != Expired || config.expire_after_ms.is_some());
                assert!(reason != WorkerDraining || rank.is_some());
            }
        }
    }

    fn adopt(&mut self, u: &mut Unstructured<'_>) -> Drawn<()> {
        let (mut request, generated) = (request(u, &self.router)?, mostly_below_32(u, 50)?);
        if one_in(u, 3)? {
            request.id = self.somebody(u, true)?;
        }
        let worker = worker(u, &self.router)?;
        let before = self.inside.get(&request.id).copied();
        let refused = !(1..=MAX_PROMPT_TOKENS).contains(&request.prompt_tokens) || !self.has_worker(worker);
        if self.call(refused, |router| router.adopt(request, worker, generated)).is_some() {
            self.arrived += u64::from(before.is_none());
            self.tally.moved += usize::from(matches!(before, Some(Life::Runs { .. })));
            self.inside.insert(request.id, Life::Runs { worker, number: 0 });
        }
        Ok(())
    }

    /// An engine tells what it does with a request.
    fn change_stage(&mut self, u: &mut Unstructured<'_>) -> Drawn<()> {
        let (id, call) = (self.somebody(u, true)?, u8::arbitrary(u)? % 5);
        let refused = self.runs_on(id).is_none();
        let changed = self.call(refused, |router| match call {
            0 | 1 => router.held(id),
            2 => router.preempted(id),
            3 => router.transfer_done(id),
            _ => router.resumed(id),
        });
        self.tally.stages += usize::from(changed.is_some());
        Ok(())
    }

    fn send(&mut self, u: &mut Unstructured<'_>) -> Drawn<()> {
        let mut request = request(u, &self.router)?;
        if one_in(u, 3)? {
            request.id = self.somebody(u, false)?;
        }
        let (to, now_ms) = (perhaps(u, |u| worker(u, &self.router))?, self.perhaps_reading(u)?);
        let waited = self.inside.contains_key(&request.id);
        let refused = self.runs_on(request.id).is_some()
            || !is_request_sound(&request)
            || request.rank.is_some_and(|rank| !self.has_worker(rank))
            || to.is_some_and(|to| !self.has_worker(to))
            || self.router.worker_ids().is_empty();
        if let Some(dispatch) = self.call(refused, |router| router.send(request, to, now_ms)) {
            assert!(to.or(request.rank).is_none_or(|to| to == dispatch.worker), "{dispatch:?}");
            assert_eq!((dispatch.id, dispatch.prompt_tokens), (request.id, request.prompt_tokens));
            self.arrived += u64::from(!waited);
            self.begins(&dispatch);
            self.tally.sent += 1;
        }
        Ok(())
    }

    /// Tokens of several, in whatever order, twice, or of nobody.
    fn progress_many(&mut self, u: &mut Unstructured<'_>) -> Drawn<()> {
        let mut grown = Vec::new();
        for _ in 0..u.int_in_range(0..=6)? {
            grown.push((self.somebody(u, true)?, mostly_below_32(u, 6)?));
        }
        let refused = grown.iter().any(|&(_, tokens)| tokens > MAX_PROMPT_TOKENS);
        let run = grown.iter().filter(|&&(id, _)| self.runs_on(id).is_some()).count();
        if let Some(count) = self.call(refused, |router| router.progress_requests(&grown)) {
            assert_eq!(count, run);
            self.tally.grown += count;
        }
        Ok(())
    }

    /// The end of one life of a request, which may be an older one.
    fn end_life(&mut self, u: &mut Unstructured<'_>) -> Drawn<()> {
        let Some(&dispatch) = self.lives.get(usize::from(u8::arbitrary(u)? % 16)) else { return Ok(()) };
        let (finishes, now_ms) = (u.arbitrary()?, self.perhaps_reading(u)?);
        let Dispatch { id, worker, number, .. } = dispatch;
        let refused = self.inside.get(&id) != Some(&Life::Runs { worker, number });
        let ended = if finishes {
            let finished = self.call(refused, |router| router.finish_dispatch(&dispatch, now_ms));
            finished.map(|finished| finished.worker)
        } else {
            self.call(refused, |router| router.abort_dispatch(&dispatch, now_ms)).flatten()
        };
        if let Some(on) = ended {
            assert_eq!(on, worker);
            self.leaves(id);
            self.tally.by_life += 1;
        }
        Ok(())
    }

    /// The ends of what a worker was sent will not be told.
    fn disown(&mut self, u: &mut Unstructured<'_>) -> Drawn<()> {
        let (worker, until_ms) = (worker(u, &self.router)?, self.reading(u)?);
        let unseen = self.router.rank_metrics(worker).map_or(0, |rank| rank.unseen as usize);
        let left = self.call(!self.has_worker(worker), |router| {
            let mut left = Vec::new();
            router.disown_sent(worker, until_ms, &mut left)?;
            Ok(left)
        });
        let left = left.unwrap_or_default();
        assert!(left.len() <= unseen, "{left:?} of {unseen}");
        for id in left {
            let life = self.leaves(id);
            assert!(
                matches!(life, Life::Runs { worker: on, number } if on == worker && number > 0),
                "{life:?}"
            );
            self.tally.disowned += 1;
        }
        Ok(())
    }

    /// A router goes on from what it has learned, or from bytes that may be none of it.
    fn learn(&mut self, u: &mut Unstructured<'_>) -> Drawn<()> {
        let before = self.router.learned();
        assert!(before == self.twin.learned());
        let mut bytes = before.clone();
        for _ in 0..u8::arbitrary(u)? % 4 {
            let at = usize::from(u16::arbitrary(u)?) % bytes.len().max(1);
            match u8::arbitrary(u)? % 8 {
                0 => bytes.truncate(at),
                1 => bytes.push(u.arbitrary()?),
                2 => bytes = u.arbitrary()?,
                _ => {
                    let value: u8 = u.arbitrary()?;
                    bytes.iter_mut().skip(at).take(usize::from(value % 9)).for_each(|byte| *byte ^= value);
                }
            }
        }
        // Whether they are any does not depend on who asks.
        let mut other = Router::new(RouterConfig::new(1, 1), "level", &Parameters::default()).expect("valid");
        let refused = other.learn(&bytes).is_err();
        if self.call(refused, |router| router.learn(&bytes)).is_some() {
            // What is told from then on can be learned as well, and what was told is told again.
            let told = self.router.learned();
            assert!(bytes != before || told == before, "it changed on the way");
            assert_eq!(other.learn(&told), Ok(()));
            self.tally.learned += 1;
        }
        Ok(())
    }

    fn configure(&mut self, u: &mut Unstructured<'_>) -> Drawn<()> {
        let (worker, config) = (worker(u, &self.router)?, worker_config(u, true)?);
        let refused = !self.has_worker(worker) || !is_sound(&config);
        if self.call(refused, |router| router.configure_worker(worker, config)).is_some() {
            assert_eq!(self.router.worker_config(worker), Ok(config));
            self.tally.configured += 1;
        }
        Ok(())
    }

    fn report(&mut self, u: &mut Unstructured<'_>) -> Drawn<()> {
        let worker = worker(u, &self.router)?;
        let place = self.router.worker_ids().iter().position(|&id| id == worker);
        let sent = place.map_or(0, |place| {
            let mut metrics = Metrics::default();
            self.router.metrics(&mut metrics);
            metrics.ranks[place].dispatches
        });
        let report = WorkerReport::requests(
            if one_in(u, 2)? { 0 } else { mostly_below_32(u, 4)? },
            if one_in(u, 2)? { 0 } else { mostly_below_32(u, 2)? },
        )
        .kv_used(if one_in(u, 4)? { None } else { Some(mostly_below(u, 1_500)?) })
        .kv_age(if one_in(u, 6)? { Some(mostly_below_32(u, 9_000)?) } else { None })
        .sequence(perhaps(u, |u| mostly_below(u, 50))?)
        .last_dispatch(perhaps(u, |u| {
            Ok(mostly_below(u, 255)? % sent.saturating_add(1 + u64::from(one_in(u, 8)?)))
        })?)
        .missing(if one_in(u, 2)? { 0 } else { u.arbitrary()? })
        .capacity(if one_in(u, 4)? { Some(mostly_below(u, 3_000)?) } else { None })
        .epoch(if one_in(u, 8)? { Some(u64::from(one_in(u, 4)?)) } else { None })
        .age(if one_in(u, 4)? { mostly_below_32(u, 9_000)? } else { 0 });
        let now_ms = self.perhaps_reading(u)?;
        let refused = place.is_none()
            || report.kv_used_tokens.unwrap_or(0) > MAX_LOAD_TOKENS
            || report.kv_capacity_tokens.unwrap_or(0) > MAX_LOAD_TOKENS
            || report.last_dispatch.unwrap_or(0) > sent;
        let verdict = self.call(refused, |router| router.report(worker, report, now_ms));
        if let Some(verdict) = verdict {
            let lost = |life: &Life, id: &RequestId| {
                matches!(life, Life::Runs { .. }) && self.router.running_on(*id).is_none()
            };
            let lost: Vec<RequestId> =
                self.inside.iter().filter(|(id, life)| lost(life, id)).map(|(&id, _)| id).collect();
            for id in lost {
                assert!(
                    self.router.config().dispatch_timeout_ms.is_some() || verdict == Verdict::Restarted,
                    "{verdict}"
                );
                assert!(matches!(self.leaves(id), Life::Runs { worker: on, .. } if on == worker));
                self.pending.push((id, worker));
            }
        }
        Ok(())
    }

    fn remove(&mut self, u: &mut Unstructured<'_>) -> Drawn<()> {
        let worker = worker(u, &self.router)?;
        let removed = self.call(!self.has_worker(worker), |router| {
            let mut returned = Vec::new();
            router.remove_worker(worker, &mut returned)?;
            Ok(returned)
        });
        for returned in removed.into_iter().flatten() {
            assert_eq!((returned.worker, returned.reason), (Some(worker), ReturnReason::WorkerRemoved));
            let life = self.leaves(returned.id);
            let on = match life {
                Life::Runs { worker, .. } => Some(worker),
                Life::Waits { rank } => rank,
            };
            assert_eq!(on, Some(worker));
            self.tally.returned[returned.reason as usize] += 1;
        }
        Ok(())
    }

    fn recover(&mut self) {
        let mut returned = self.router.recover();
        assert_eq!(self.twin.recover(), returned);
        returned.retain(|returned| match returned.reason {
            ReturnReason::Recovered => true,
            _ => {
                self.is_told(returned);
                false
            }
        });
        for returned in &returned {
            let life = self.leaves(returned.id);
            let worker = match life {
                Life::Waits { rank } => rank,
                Life::Runs { worker, .. } => Some(worker),
            };
            assert_eq!(returned.worker, worker);
            self.tally.returned[returned.reason as usize] += 1;
        }
        assert!(self.inside.is_empty() && self.pending.is_empty(), "{:?} {:?}", self.inside, self.pending);
    }

    /// What must hold between two calls.
    fn check(&mut self) {
        let (metrics, waiting, plan) = state(&self.router);
        let of_twin = state(&self.twin);
        assert_eq!((&metrics, &waiting, &plan), (&of_twin.0, &of_twin.1, &of_twin.2));
        let mut by_reason = [0; WaitReason::ALL.len()];
        for &(id, reason) in &waiting {
            by_reason[reason as usize] += 1;
            assert!(matches!(self.inside.get(&id), Some(Life::Waits { .. })), "{id} waits");
            let explained = self.router.explain(id).expect("it waits");
            let claimed = metrics.ranks.iter().find(|rank| rank.claimed_by == Some(id));
            let claimed = claimed.map(|rank| rank.worker);
            assert_eq!((explained.decided, explained.worker), (Decided::Waits(reason), claimed), "{id}");
            assert!(reason != WaitReason::Claims || claimed.is_some(), "{id}");
            // Of those behind the window it is only known that the window came first.
            let behind = self.router.pool().slot_of(id).is_none();
            assert!(behind || explained.waited_steps <= metrics.longest_wait_steps, "{id}");
            assert!(behind || explained.passed <= metrics.most_passed, "{id}");
        }
        assert_eq!(metrics.waiting_by_reason, by_reason);
        self.tally.behind_window += by_reason[WaitReason::OutsideWindow as usize] as usize;
        let mut running: BTreeMap<WorkerId, u32> = BTreeMap::new();
        for (&id, &life) in &self.inside {
            if let Life::Runs { worker, .. } = life {
                assert_eq!(self.router.running_on(id), Some(worker), "{id}");
                *running.entry(worker).or_default() += 1;
            }
        }
        let count = running.values().sum::<u32>() as usize;
        assert_eq!((metrics.running as usize, self.router.running_len()), (count, count));
        assert_eq!(
            (metrics.waiting as usize, waiting.len()),
            (self.inside.len() - count, self.inside.len() - count)
        );
        for rank in &metrics.ranks {
            assert_eq!(rank.running, running.get(&rank.worker).copied().unwrap_or(0), "{rank:?}");
            assert!(rank.held + rank.preempted + rank.unseen <= rank.running, "{rank:?}");
            // An engine may run more than it has slots; beyond its part a front end borrows.
            let whole = self.router.worker_config(rank.worker).expect("there").slots;
            let slots = if self.router.config().share.of == 1 { rank.slots } else { whole };
            assert!(rank.free_slots <= slots.saturating_sub(rank.running), "{rank:?}");
            let sure = self.router.config().share.part(whole.into()).max(whole.min(1).into());
            assert_eq!(u64::from(rank.slots), sure);
        }
        let counters = &metrics.counters;
        let ended = counters.finished + counters.aborted + counters.preempted + counters.disowned;
        let left = ended + counters.returned.iter().sum::<u64>();
        assert_eq!(counters.arrived, self.arrived);
        assert_eq!(counters.arrived, left + metrics.waiting + metrics.running);
        self.tally.jumps = counters.clock_jumps;
    }
}

/// What the bytes came to.
pub(crate) fn route(data: &[u8]) -> Tally {
    let (mut tally, mut u) = (Tally::default(), Unstructured::new(data));
    let Ok(mut world) = World::new(&mut u, &mut tally) else { return tally };
    for _ in 0..MOST_CALLS {
        if u.is_empty() || world.event(&mut u).is_err() {
            break;
        }
    }
    tally += world.tally;
    tally
}
