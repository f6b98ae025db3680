//! Decisions measured on this machine, and the device's share of them computed.

use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use balanceroute::backend::ascend::ChoiceProbe;
use balanceroute::backend::ascend::blob::Soc;
use balanceroute::backend::ascend::launch::{Launch, Outcome};
use balanceroute::backend::offload::Offload;
use balanceroute::policy::{self, Needs, Parameters, Pin, Plan, ProfileSpec, Rule, View};
use balanceroute::score::Profile;
use balanceroute::{Assignment, Batch};

use crate::sheet::{self, Cost, Drawn, Shape, Times};
use crate::support::model::{self, Model, Tally};
use crate::support::root;

/// What is decided, and by which policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `exact` or `exact-oracle`, with a bonus and an eligibility bit for each pair.
    Pairs,
    /// These without terms per pair.
    Plain,
    /// `level`, without terms per pair.
    Level,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pairs => "pairs",
            Self::Plain => "none",
            Self::Level => "none, `level`",
        }
    }

    fn policy(self, h: usize) -> (&'static str, Parameters) {
        let (name, parameters) = sheet::exact(h);
        (if self == Self::Level { "level" } else { name }, parameters)
    }
}

/// One decision, in microseconds.
pub(crate) struct Decision {
    pub kind: Kind,
    pub shape: Shape,
    pub cpu: f64,
    /// Packing and checking.
    pub host: f64,
    pub link: f64,
    pub kernel: f64,
    /// Whether the model has run, or the counts are the README's and `host` is packing alone.
    pub counted: bool,
}

impl Decision {
    pub(crate) fn device(&self, launch: f64) -> f64 {
        self.host + self.link + launch + self.kernel
    }
}

/// A group of equal batches in one launch, in microseconds.
#[derive(Clone, Copy)]
pub(crate) struct Group {
    pub kind: Kind,
    pub shape: Shape,
    /// Of one batch each.
    pub cpu: f64,
    pub host: f64,
    pub link: f64,
    /// Of one block, which decides one batch.
    pub block: f64,
}

/// Blocks that run at once.
const CORES: usize = Soc::ASCEND_910B.vector_cores as usize;

impl Group {
    /// Time a batch where so many share a launch.
    pub(crate) fn device(&self, batches: usize, launch: f64) -> f64 {
        let waves = batches.div_ceil(CORES);
        self.host + self.link + (launch + waves as f64 * self.block) / batches as f64
    }

    /// As if the terms per pair lay on the device already: packing and link are those of a batch without any.
    pub(crate) fn resident(&self, plain: &Self) -> Self {
        Self { host: plain.host, link: plain.link, ..*self }
    }

    /// From how many batches on the device is faster; none up to 400.
    pub(crate) fn crossover(&self, launch: f64) -> Option<usize> {
        (1..=400).find(|&batches| self.device(batches, launch) < self.cpu)
    }
}

/// The model's answer, given again and again, and when the host asked for it and had it.
#[derive(Default)]
struct Recorded {
    output: Option<Vec<u8>>,
    /// Whether there is no model to ask.
    refuses: bool,
    asked: Option<Instant>,
    answered: Option<Instant>,
}

struct Replay {
    model: Model,
    recorded: Arc<Mutex<Recorded>>,
}

impl Launch for Replay {
    fn soc(&self) -> Soc {
        self.model.soc()
    }

    fn launch(
        &mut self,
        launches: &[(&'static str, u32)],
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let mut recorded = self.recorded.lock().expect("no panic");
        recorded.asked = Some(Instant::now());
        match &recorded.output {
            _ if recorded.refuses => return Err("not run on the model".into()),
            Some(known) => output.copy_from_slice(known),
            None => {
                self.model.launch(launches, input, output)?;
                recorded.output = Some(output.to_vec());
            }
        }
        recorded.answered = Some(Instant::now());
        Ok(())
    }

    fn note(&mut self, outcome: Outcome<'_>) {
        self.model.note(outcome);
    }

    fn describe(&self) -> String {
        "answers of the model, given again".to_owned()
    }
}

type Shared<T> = Arc<Mutex<T>>;

fn replay(refuses: bool) -> (Box<Replay>, Shared<Recorded>, Shared<Tally>) {
    let (model, tally) = sheet::open(model::plain());
    let recorded = Arc::new(Mutex::new(Recorded { refuses, ..Recorded::default() }));
    (Box::new(Replay { model, recorded: Arc::clone(&recorded) }), recorded, tally)
}

/// The least of the times of a call, in microseconds: what others do on this machine only adds to it.
fn least(mut call: impl FnMut() -> Duration) -> f64 {
    let begun = Instant::now();
    let (mut least, mut runs) = (Duration::MAX, 0);
    while runs < 20 || begun.elapsed() < Duration::from_millis(150) && runs < 5000 {
        least = least.min(call());
        runs += 1;
    }
    least.as_nanos() as f64 / 1e3
}

fn cpu(kind: Kind, h: usize, batch: &Batch<'_>) -> (f64, Assignment) {
    let (name, parameters) = kind.policy(h);
    let mut policy = policy::build(name, &parameters).expect("a policy");
    let mut out = Assignment::new();
    let us = least(|| {
        let begun = Instant::now();
        policy.decide(batch, &mut out);
        begun.elapsed()
    });
    (us, out)
}

/// The time outside of the launcher.
fn outside(recorded: &Shared<Recorded>, begun: Instant, ended: Instant) -> Duration {
    let recorded = recorded.lock().expect("no panic");
    let asked = recorded.asked.expect("the device was asked");
    let after = recorded.answered.map_or(Duration::ZERO, |answered| ended - answered);
    asked - begun + after
}

/// The host's share, measured, and what the kernel counts.
fn device(kind: Kind, h: usize, batch: &Batch<'_>, counted: bool) -> (f64, Assignment, Option<Cost>) {
    let (name, parameters) = kind.policy(h);
    let (launcher, recorded, tally) = replay(!counted);
    let mut policy = policy::build_on(name, &parameters, launcher).expect("a policy");
    let mut out = Assignment::new();
    policy.decide(batch, &mut out);
    let cost = counted.then(|| {
        let tally = tally.lock().expect("no panic");
        assert_eq!(tally.decided, 1, "{tally:?}");
        Cost::of(&tally)
    });
    let us = least(|| {
        let begun = Instant::now();
        policy.decide(batch, &mut out);
        outside(&recorded, begun, Instant::now())
    });
    (us, out, cost)
}

/// One decision on either side. Where it is not to be run on the model, its counts are those of
/// `kernels/README.md`; none where that lacks it.
pub(crate) fn decision(kind: Kind, shape: Shape, counted: bool) -> Option<Decision> {
    let printed = if counted { None } else { Some(printed(kind, shape)?) };
    let drawn = Drawn::new(shape, kind == Kind::Pairs);
    let batch = drawn.batch();
    let (cpu, expected) = cpu(kind, shape.h, &batch);
    let (host, found, cost) = device(kind, shape.h, &batch, counted);
    assert_eq!(found, expected, "{shape:?}");
    assert_eq!(found.admitted.len(), shape.k, "{shape:?}");
    let (link, kernel) = match cost.map(|cost| Times::of(&cost, shape)) {
        Some(times) => (times.link, times.likely),
        None => printed?,
    };
    Some(Decision { kind, shape, cpu, host, link, kernel, counted })
}

/// Link and kernel of the table in `kernels/README.md`.
fn printed(kind: Kind, Shape { n, g, h, k }: Shape) -> Option<(f64, f64)> {
    let readme = std::fs::read_to_string(root("kernels/README.md")).expect("a README");
    let begin = format!("| {n}, {g}, {h}, {k} | ");
    let row = readme.lines().find(|line| line.starts_with(&begin) && line.contains(" KiB | "));
    let cells: Vec<&str> = row.filter(|_| kind == Kind::Pairs)?.split('|').map(str::trim).collect();
    let us = |back: usize| cells[cells.len() - 2 - back].parse().expect("microseconds");
    Some((us(4), us(1)))
}

/// A rule of a policy.
struct Borrowed<'a>(&'a mut dyn Rule);

impl Rule for Borrowed<'_> {
    fn needs(&self) -> Needs {
        self.0.needs()
    }

    fn begin(&mut self, batch: &Batch<'_>, load_offsets: &mut Vec<i64>) -> Plan {
        self.0.begin(batch, load_offsets)
    }

    fn profile(&self, view: &View<'_>, class: Option<&[f32]>, profile: &mut Profile) {
        self.0.profile(view, class, profile);
    }

    fn envelope_weights(&self, workers: i64, steps: usize, weights: &mut Vec<i64>) -> bool {
        self.0.envelope_weights(workers, steps, weights)
    }

    fn profile_spec(&self, batch: &Batch<'_>) -> Option<ProfileSpec<'_>> {
        self.0.profile_spec(batch)
    }

    fn pins(&self) -> &[Pin] {
        self.0.pins()
    }
}

/// Batches that are measured together; the host's time of one is its part.
const TOGETHER: usize = 2;

/// A batch among equal ones in one launch.
pub(crate) fn group(kind: Kind, shape: Shape) -> Group {
    let drawn = Drawn::new(shape, kind == Kind::Pairs);
    let (cpu, expected) = cpu(kind, shape.h, &drawn.batch());
    let (name, parameters) = sheet::exact(shape.h);
    let mut policies: Vec<_> =
        (0..TOGETHER).map(|_| policy::build(name, &parameters).expect("a policy")).collect();
    let rules = policies.iter_mut().map(|policy| Borrowed(policy.rule().expect("made of a rule")));
    let mut rules: Vec<Borrowed<'_>> = rules.collect();
    let batches: Vec<Batch<'_>> = (0..TOGETHER).map(|_| drawn.batch()).collect();
    let mut found = vec![Assignment::new(); TOGETHER];
    let (launcher, recorded, tally) = replay(false);
    let mut offload = Offload::new(launcher);
    offload.assign_many(&mut rules, &batches, &mut found);
    let cost = Cost::of(&tally.lock().expect("no panic"));
    assert!(found.iter().all(|found| *found == expected), "{shape:?}");
    let times = Times::of(&cost, shape);
    let host = least(|| {
        let begun = Instant::now();
        offload.assign_many(&mut rules, &batches, &mut found);
        outside(&recorded, begun, Instant::now())
    });
    let [host, link, block] = [host, times.link, times.likely].map(|us| us / TOGETHER as f64);
    Group { kind, shape, cpu, host, link, block }
}

/// Times of the batches that `auto` begins with: the CPU, the device without its launch, and the host's share
/// of that.
pub(crate) fn calibration() -> Vec<[f64; 3]> {
    let mut sides = Vec::new();
    let _ = ChoiceProbe::calibrated(|batch| {
        let h = batch.projection().map_or(0, |projection| projection.horizon);
        let (workers, requests) = (batch.workers().len(), batch.waiting().len());
        let shape = Shape { n: requests, g: workers, h, k: workers };
        let (cpu, _) = cpu(Kind::Plain, h, batch);
        let (host, _, cost) = device(Kind::Plain, h, batch, true);
        let times = Times::of(&cost.expect("counted"), shape);
        sides.push([cpu, host + times.link + times.likely, host]);
        [1.0; 3]
    });
    sides
}
