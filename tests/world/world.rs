//! The world: ranks as they truly are, a network between, and front ends with real routers.

use balanceroute::{Dispatch, Request, RequestId, ReturnReason, Share, WorkerConfig, WorkerId};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::audit;
use crate::front::{Build, Front, Known, Life, Stage};
use crate::network::{Draw, Message, Network};
use crate::plan::{Event, Plan, Setting};
use crate::rank::{BLOCK, Job, Phase, Voice};
use crate::ranks::{Side, owner};
use crate::tally::{Kind, Seen};

/// Beyond so many who wait nobody arrives but in bursts.
const WAITING: usize = 120;
/// So many wait in all front ends together, at most.
const MOST_WAITING: u64 = 1 << 20;
/// The state of a small world is recounted after so many events.
const AUDITED: u64 = 32;
/// Of whom so many shared blocks are.
const PREFIX_BLOCKS: [u64; 3] = [0, 2, 5];

/// Lets a call of a device's runtime fail: which, and with what error.
pub(crate) type Device = Box<dyn FnMut(u64, u64)>;

pub(crate) struct World {
    pub(crate) setting: Setting,
    pub(crate) now_ms: u64,
    pub(crate) fronts: Vec<Front>,
    pub(crate) sides: Vec<Side>,
    pub(crate) network: Network,
    pub(crate) seen: Seen,
    pub(crate) events: u64,
    /// The state is recounted after so many.
    pub(crate) audited: u64,
    /// Nothing goes wrong any more and nobody comes.
    pub(crate) calm: bool,
    device: Option<Device>,
}

impl World {
    pub(crate) fn new(setting: Setting) -> Self {
        Self::with(setting, None, None)
    }

    /// A world whose policies `build` makes, perhaps on a device whose calls can be made to fail.
    pub(crate) fn with(setting: Setting, build: Option<&Build>, device: Option<Device>) -> Self {
        let front = |index| Front::new(setting, index, build);
        let fronts = (0..setting.fronts as usize).map(front).collect();
        let sides = (0..setting.ranks).map(|_| Side::new(setting.blocks, setting.slots)).collect();
        let mut world = Self {
            setting,
            now_ms: 0,
            fronts,
            sides,
            network: Network::new(&setting),
            seen: Seen::default(),
            events: 0,
            audited: AUDITED,
            calm: false,
            device,
        };
        for front in 0..world.fronts.len() {
            for _ in 0..setting.absent {
                let config = WorkerConfig::new(1).capacity((setting.bounded == 1).then_some(1));
                world.fronts[front].router.announce_worker(config).expect("valid");
            }
            (0..world.sides.len()).for_each(|rank| world.join(front, rank, 0));
        }
        world
    }

    /// One world from its beginning to the calm that ends it.
    pub(crate) fn run(plan: &Plan) -> Seen {
        let mut world = Self::new(plan.setting);
        plan.events.iter().for_each(|event| world.play(event));
        world.ends();
        world.seen
    }

    pub(crate) fn play(&mut self, event: &Event) {
        self.events += 1;
        self.happens(event);
        let front = self.events as usize % self.fronts.len();
        audit::glance(&self.fronts[front]);
        if self.events.is_multiple_of(self.audited) {
            audit::audit(&mut self.fronts[front]);
        }
    }

    fn happens(&mut self, event: &Event) {
        match *event {
            Event::Time { ms } => {
                self.passes_time(ms);
            }
            Event::Arrive { front, prompt, output, salt } => {
                let front = self.front(front);
                if self.fronts[front].waiting.len() < WAITING {
                    self.arrive(front, prompt, output, salt);
                }
            }
            Event::Burst { front, count, salt } => {
                let front = self.front(front);
                self.seen.add(Kind::Burst);
                let mut draw = Draw(salt);
                let most = MOST_WAITING / self.setting.fronts;
                for _ in 0..count.min(most.saturating_sub(self.fronts[front].waiting.len() as u64)) {
                    let prompt = 1 + draw.below(self.setting.blocks * BLOCK / 8);
                    let (output, salt) = (1 + draw.below(6), draw.next() >> 16);
                    self.arrive(front, prompt, output, salt);
                }
            }
            Event::Step { front, salt } => {
                let front = self.front(front);
                self.step(front, salt);
            }
            Event::Send { front, which, prompt, output, salt } => {
                self.send(front, which, (prompt, output), salt);
            }
            Event::Engine { rank, steps, salt } => {
                let rank = self.rank(rank);
                self.engine(rank, steps, salt);
            }
            Event::Report { rank, salt } => {
                let rank = self.rank(rank);
                self.report(rank, salt);
            }
            Event::Advance { front } => {
                let front = self.front(front);
                self.fronts[front].router.advance();
                self.seen.add(Kind::Lockstep);
            }
            Event::Abort { front, which, salt } => self.abort(front, which, salt),
            Event::Preempt { front, which } => self.preempt(front, which),
            Event::Adopt { front, rank } => self.adopt(front, rank),
            Event::Move { front, which, rank } => self.moves(front, which, rank),
            Event::Disown { front, rank, ago_ms } => self.disown(front, rank, ago_ms),
            Event::Restart { rank } => {
                // Callers in process learn of it at once; here nobody tells them.
                if self.setting.dispatch_ms > 0 {
                    let rank = self.rank(rank);
                    self.sides[rank].restart();
                    self.seen.add(Kind::Restart);
                }
            }
            Event::Stick { rank, ms } => {
                let rank = self.rank(rank);
                self.sides[rank].stuck_until_ms = self.now_ms + ms;
                self.seen.add(Kind::Stuck);
            }
            Event::Resize { rank, slots, blocks, salt } => self.resize(rank, slots, blocks, salt),
            Event::Pin { rank, blocks } => {
                let rank = self.rank(rank);
                self.sides[rank].rank.pinned_blocks = blocks;
                self.sides[rank].rank.count();
                self.seen.add(Kind::PinnedKv);
            }
            Event::Foreign { rank, prompt, output, salt } => {
                let rank = self.rank(rank);
                let front = salt % self.setting.fronts;
                let side = &mut self.sides[rank];
                side.foreign += 1;
                // Its id says who may adopt it.
                let id = 1 << 50 | (rank as u64) << 40 | side.foreign << 2 | front;
                let job = job((RequestId(id), None), prompt.max(1), output.max(1), salt);
                side.receive(job);
                self.seen.add(Kind::Foreign);
            }
            Event::Join { front, rank, salt } => {
                let (front, rank) = (self.front(front), self.rank(rank));
                self.join_or_open(front, rank, salt);
            }
            Event::Drain { front, rank } => {
                let (front, rank) = (self.front(front), self.rank(rank));
                if let Some(worker) = self.fronts[front].worker_of(rank) {
                    self.fronts[front].router.drain_worker(worker).expect("a worker");
                    let known = self.fronts[front].known[rank].as_mut().expect("a worker");
                    (known.accepting, known.draining) = (false, true);
                    self.seen.add(Kind::Drained);
                }
            }
            Event::Remove { front, rank, salt } => self.remove(front, rank, salt),
            Event::Share { front, index, of } => {
                let front = self.front(front);
                if self.setting.shared == 1 {
                    let share = Share::new((index % of.max(1)) as u32, of.max(1) as u32);
                    self.fronts[front].router.set_share(share).expect("a share");
                    self.seen.add(Kind::ShareChanged);
                }
            }
            Event::Clock { front, clock, by_ms, back } => {
                let front = self.front(front);
                let far = self.fronts[front].clocks.set((self.now_ms, clock), by_ms, back == 1);
                self.seen.add(if far { Kind::GreatJump } else { Kind::SmallJump });
            }
            Event::Recover { front, salt } => {
                let front = self.front(front);
                self.recover(front, salt);
            }
            Event::Learn { front } => {
                let front = self.front(front);
                let learned = self.fronts[front].router.learned();
                self.fronts[front].router.learn(&learned).expect("what it has learned itself");
            }
            Event::Invalid { front, kind, salt } => {
                let front = self.front(front);
                self.invalid(front, kind, salt);
            }
            Event::Mischief { front, kind } => self.mischief(front, kind),
            Event::Device { call, code } => {
                if let Some(fail) = &mut self.device {
                    fail(call, code);
                }
            }
        }
    }

    pub(crate) fn front(&self, front: u64) -> usize {
        (front % self.setting.fronts) as usize
    }

    pub(crate) fn rank(&self, rank: u64) -> usize {
        (rank % self.setting.ranks) as usize
    }

    /// The time, and which of a front end's clocks tells it.
    pub(crate) fn time(&mut self, draw: &mut Draw) -> (u64, u64) {
        let clock = draw.below(self.setting.clocks);
        if clock > 0 {
            self.seen.add(Kind::OtherClock);
        }
        (self.now_ms, clock)
    }

    // Requests.

    fn request(&mut self, front: usize, prompt: u64, output: u64, draw: &mut Draw) -> Request<WorkerId> {
        let setting = self.setting;
        let mut request = Request::new(self.fronts[front].new_id(), prompt.max(1) as u32);
        if setting.pinned == 1 && draw.one_in(8) {
            let rank = draw.below(setting.ranks) as usize;
            request = request.rank(self.fronts[front].worker_of(rank));
            self.seen.add(Kind::Pinned);
        }
        if setting.deadlines == 1 && draw.one_in(6) {
            request = request.deadline(draw.below(200) as u32);
            self.seen.add(Kind::Deadline);
        }
        if draw.one_in(4) {
            request = request.max_tokens((output + draw.below(30)) as u32);
            self.seen.add(Kind::MaxTokens);
        }
        if setting.classes == 1 && draw.one_in(2) {
            request = request.priority([-128, -1, 1, 2, 127][draw.below(5) as usize]);
        }
        if draw.one_in(16) {
            request = request.cached(draw.below(prompt + 1) as u32);
        }
        if draw.one_in(3) {
            request = request.hash(draw.below(5));
        }
        request
    }

    fn arrive(&mut self, front: usize, prompt: u64, output: u64, salt: u64) {
        let mut draw = Draw(salt);
        let output = output.max(1);
        let request = self.request(front, prompt, output, &mut draw);
        self.enters(front, (request, output), &mut draw);
    }

    /// A request comes to a front end.
    fn enters(&mut self, front: usize, (request, output): (Request<WorkerId>, u64), draw: &mut Draw) {
        let time = self.time(draw);
        let salt = draw.next();
        let placed = self.fronts[front].arrive(time, (request, output), salt, &mut self.seen);
        if let Some(dispatch) = placed {
            self.dispatch(front, &dispatch, draw);
        }
    }

    pub(crate) fn step(&mut self, front: usize, salt: u64) {
        let mut draw = Draw(salt);
        let time = self.time(&mut draw);
        let terms = if self.calm { 0 } else { draw.next() };
        let decided = self.fronts[front].step(time, terms, &mut self.seen);
        let Some((plan, returned)) = decided else { return };
        for (back, record) in returned {
            let ran = matches!(record.life, Life::Runs { .. }).then_some(record.life);
            self.comes_back(front, (back.id, back.reason), ran, (record.request, record.output), &mut draw);
        }
        for dispatch in &plan.admissions {
            self.dispatch(front, dispatch, &mut draw);
        }
    }

    /// Somebody has left without having finished: whoever asked for it asks again, under its id once the old
    /// one is gone for certain, or under another while that may live on; or gives it up.
    pub(crate) fn comes_back(
        &mut self,
        front: usize,
        (id, reason): (RequestId, ReturnReason),
        ran: Option<Life>,
        (request, output): (Request<WorkerId>, u64),
        draw: &mut Draw,
    ) {
        let number = match ran {
            Some(Life::Runs { worker, number, .. }) => Some((worker, number)),
            _ => None,
        };
        let gone_for_good = reason == ReturnReason::NeverFits || reason == ReturnReason::Expired;
        let asks_again = !self.calm && !gone_for_good && draw.one_in(2);
        let same = asks_again && draw.one_in(2) && !self.fronts[front].records.contains_key(&id);
        if number.is_some() {
            if same {
                self.network.drop_dispatches(id);
                self.sides.iter_mut().for_each(|side| while side.drop(|job| job.id == id).is_some() {});
            } else {
                if self.sides.iter().any(|side| side.rank.jobs.iter().any(|job| job.id == id)) {
                    self.seen.add(Kind::Zombie);
                }
                self.tells_abort(front, id, number, draw);
            }
        }
        if !asks_again {
            return self.seen.add(Kind::GivenUp);
        }
        let rank = request.rank.filter(|&rank| self.fronts[front].has_worker(rank));
        let mut again = request.rank(rank);
        again.passed = 0;
        if !same {
            again.id = self.fronts[front].new_id();
        }
        self.seen.add(if same { Kind::Again } else { Kind::AgainAsAnother });
        self.enters(front, (again, output), draw);
    }

    /// Its rank hears that a request is given up, or not.
    fn tells_abort(&mut self, front: usize, id: RequestId, number: Option<(WorkerId, u64)>, draw: &mut Draw) {
        let Some((worker, number)) = number else { return };
        // Of a worker that was removed nobody knows the way any more.
        let Some(rank) = self.fronts[front].rank_of(worker) else { return };
        self.network.send(self.now_ms, Message::Abort { rank, id, number }, draw, &mut self.seen);
    }

    pub(crate) fn dispatch(&mut self, front: usize, dispatch: &Dispatch, draw: &mut Draw) {
        let rank = self.fronts[front].rank_of(dispatch.worker).expect("a worker");
        let output = self.fronts[front].records[&dispatch.id].output;
        let job = job((dispatch.id, Some(*dispatch)), u64::from(dispatch.prompt_tokens), output, draw.next());
        let message = Message::Dispatch { rank, job };
        if self.setting.in_order == 1 {
            let arrives_ms = &mut self.sides[rank].arrives_ms[front];
            *arrives_ms = self.network.send_in_order((self.now_ms, *arrives_ms), message, draw);
        } else {
            self.network.send(self.now_ms, message, draw, &mut self.seen);
        }
    }

    // Ranks.

    pub(crate) fn engine(&mut self, rank: usize, steps: u64, salt: u64) {
        let side = &mut self.sides[rank];
        if side.stuck_until_ms > self.now_ms {
            return;
        }
        // A transfer's length is all that it draws.
        let mut rng = ChaCha8Rng::seed_from_u64(salt);
        let mut said = Vec::new();
        for _ in 0..steps {
            side.rank.step(self.now_ms, &mut rng, &mut said, &mut self.seen);
        }
        if self.setting.ages >> rank & 1 == 1 {
            side.keep_snapshot();
        }
        let mut draw = Draw(salt);
        for front in 0..self.fronts.len() {
            let voices: Vec<_> = said.iter().copied().filter(|voice| voice.owner() == front).collect();
            if !voices.is_empty() {
                let message = Message::Said { rank, front, voices };
                self.network.send(self.now_ms, message, &mut draw, &mut self.seen);
            }
        }
    }

    fn resize(&mut self, rank: u64, slots: u64, blocks: u64, salt: u64) {
        let rank = self.rank(rank);
        let side = &mut self.sides[rank];
        (side.rank.slots, side.rank.capacity_blocks) = (slots as usize, blocks);
        self.seen.add(Kind::Shrunk);
        let mut draw = Draw(salt);
        for front in 0..self.fronts.len() {
            // Whoever is not told learns it from reports, or never.
            if draw.one_in(2) {
                self.configure(front, rank, draw.below(64));
            }
        }
    }

    fn worker_config(&self, rank: usize, weight: u64) -> WorkerConfig {
        let side = &self.sides[rank];
        let capacity = (self.setting.bounded == 1).then(|| side.capacity_tokens());
        let weight = if weight < 4 { weight as f32 / 2.0 } else { 1.0 };
        WorkerConfig::new(side.rank.slots as u32).capacity(capacity).weight(weight)
    }

    pub(crate) fn configure(&mut self, front: usize, rank: usize, weight: u64) {
        let config = self.worker_config(rank, weight);
        let front = &mut self.fronts[front];
        let Some(known) = front.known[rank].as_mut() else { return };
        front.router.configure_worker(known.worker, config).expect("valid");
        known.set(config);
        self.seen.add(Kind::Configured);
    }

    /// A rank that is not there joins or is announced; another one opens or closes.
    pub(crate) fn join_or_open(&mut self, front: usize, rank: usize, salt: u64) {
        let Some(known) = self.fronts[front].known[rank].as_mut() else {
            return self.join(front, rank, salt);
        };
        // Most of the time they take requests.
        let accepting = !known.accepting || !salt.is_multiple_of(5);
        known.accepting = accepting;
        known.draining &= !accepting;
        let worker = known.worker;
        self.fronts[front].router.set_accepting(worker, accepting).expect("a worker");
        self.seen.add(if accepting { Kind::Joined } else { Kind::Closed });
    }

    pub(crate) fn join(&mut self, front: usize, rank: usize, salt: u64) {
        let config = self.worker_config(rank, 64);
        let announced = salt % 3 == 1;
        let router = &mut self.fronts[front].router;
        let worker = if announced { router.announce_worker(config) } else { router.add_worker(config) };
        self.seen.add(if announced { Kind::Announced } else { Kind::Joined });
        let mut known = Known::new(worker.expect("valid"), config);
        known.accepting = !announced;
        self.fronts[front].known[rank] = Some(known);
        // Its numbers begin anew with the connection.
        self.sides[rank].received[front] = Default::default();
        self.fronts[front].rows_ended = true;
        audit::audit(&mut self.fronts[front]);
    }

    // Messages.

    /// Time passes, and messages come when they are due.
    pub(crate) fn passes_time(&mut self, ms: u64) {
        let until_ms = self.now_ms + ms;
        while let Some((when, message)) = self.network.next_by(until_ms) {
            self.now_ms = self.now_ms.max(when);
            match message {
                Message::Dispatch { rank, job } => self.takes(rank, job),
                Message::Said { rank, front, voices } => self.hears(rank, front, &voices),
                Message::Report { rank, front, worker, report, life, at_ms } => {
                    self.takes_report((rank, front), worker, report, life, at_ms);
                }
                Message::Abort { rank, id, number } => {
                    let of_life = |job: &Job| {
                        job.id == id && job.dispatch.is_some_and(|dispatch| dispatch.number == number)
                    };
                    self.sides[rank].drop(of_life);
                }
            }
        }
        self.now_ms = until_ms;
    }

    /// What is due by now.
    pub(crate) fn deliver(&mut self) {
        self.passes_time(0);
    }

    /// A dispatch arrives: a rank takes each once.
    fn takes(&mut self, rank: usize, job: Job) {
        let (front, side) = (owner(job.id), &mut self.sides[rank]);
        let Some(dispatch) = job.dispatch else { return };
        if self.fronts[front].worker_of(rank) == Some(dispatch.worker) {
            if side.received[front].has(dispatch.number) {
                return;
            }
            side.received[front].receive(dispatch.number);
        } else if side.rank.jobs.iter().any(|other| other.id == job.id) {
            return;
        }
        // What its cache can never hold an engine ends at once.
        if (job.prompt + job.left) / BLOCK + PREFIX_BLOCKS[2] + 2 > self.setting.blocks {
            let (voices, mut draw) = (vec![Voice::Ended(dispatch)], Draw(job.id.0));
            let message = Message::Said { rank, front, voices };
            self.seen.add(Kind::TooLong);
            return self.network.send(self.now_ms, message, &mut draw, &mut self.seen);
        }
        side.receive(job);
    }

    /// Whether a request is truly on a rank by the dispatch by which it is believed to run there.
    pub(crate) fn is_there(&self, front: usize, rank: usize, id: RequestId) -> bool {
        let Some((_, number)) = self.fronts[front].runs_on(id) else { return false };
        let jobs = &self.sides[rank].rank.jobs;
        jobs.iter().any(|job| job.id == id && job.dispatch.is_some_and(|dispatch| dispatch.number == number))
    }

    pub(crate) fn shown(&mut self, front: usize, id: RequestId) {
        self.fronts[front].set_stage(id, Stage::Decoding, |_| true);
    }
}

/// What a rank is given: with whom it shares blocks, and whether its cache comes from elsewhere, is drawn.
pub(crate) fn job((id, dispatch): (RequestId, Option<Dispatch>), prompt: u64, output: u64, salt: u64) -> Job {
    let mut draw = Draw(salt);
    let group = draw.below(PREFIX_BLOCKS.len() as u64);
    Job {
        id,
        dispatch,
        group,
        prefix_blocks: PREFIX_BLOCKS[group as usize],
        prompt,
        generated: 0,
        left: output,
        computed: 0,
        phase: Phase::Queued,
        transfers: draw.one_in(4),
    }
}
