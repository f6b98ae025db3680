//! Each error that the library has a name for comes out of a call that a caller can make.

use std::collections::BTreeSet;

use half::f16;

use crate::batch::{
    MAX_BONUS_TOKENS, MAX_HORIZON, MAX_LOAD_TOKENS, MAX_PASSED, MAX_PROMPT_TOKENS, MAX_SLOTS,
    MAX_WAITED_STEPS, MAX_WAITING, MAX_WEIGHT, MAX_WORKERS,
};
use crate::policy::{self, Needs, Parameters};
use crate::router::RouterError;
use crate::{
    Admission, Assigner, Assignment, Batch, BatchError, Mode, Pairs, Policy, PolicyError, Pool, PoolSlot,
    PredictedEnd, PredictedEnds, PreemptionCost, Request, Router, RouterConfig, Share, Step, Worker,
    WorkerConfig, WorkerIndex, WorkerReport,
};

/// Without a wildcard: who adds an error adds a number here, and a call below.
fn number_of_batch(error: &BatchError) -> usize {
    match error {
        BatchError::NoWorkers => 0,
        BatchError::TooManyWorkers { .. } => 1,
        BatchError::TooManyWaiting { .. } => 2,
        BatchError::DuplicateId { .. } => 3,
        BatchError::Waits { .. } => 4,
        BatchError::PromptTokens { .. } => 5,
        BatchError::Passed { .. } => 6,
        BatchError::Priority { .. } => 7,
        BatchError::WaitedSteps { .. } => 8,
        BatchError::Rank { .. } => 9,
        BatchError::PairRow { .. } => 10,
        BatchError::SurvivalClass { .. } => 11,
        BatchError::WorkerTokens { .. } => 12,
        BatchError::WorkerSlots { .. } => 13,
        BatchError::Weight { .. } => 14,
        BatchError::Horizon { .. } => 15,
        BatchError::Length { .. } => 16,
        BatchError::Value { .. } => 17,
        BatchError::Bonus { .. } => 18,
        BatchError::Traffic { .. } => 19,
        BatchError::PredictedEnd { .. } => 20,
    }
}

fn number_of_policy(error: &PolicyError) -> usize {
    match error {
        PolicyError::Unknown { .. } => 0,
        PolicyError::Parameter { .. } => 1,
        PolicyError::ParameterName { .. } => 2,
        PolicyError::Gone { .. } => 3,
        PolicyError::Whole { .. } => 4,
        PolicyError::Isa { .. } => 5,
        PolicyError::NoRule { .. } => 6,
        // Where this build lacks the feature.
        PolicyError::Backend { .. } => 7,
    }
}

fn number_of_router(error: &RouterError) -> usize {
    match error {
        RouterError::Batch(_) => 0,
        RouterError::Policy(_) => 1,
        RouterError::Unknown { .. } => 2,
        RouterError::NotRunning { .. } => 3,
        RouterError::Running { .. } => 4,
        RouterError::OtherDispatch { .. } => 5,
        RouterError::Generated { .. } => 6,
        RouterError::NoWorker { .. } => 7,
        RouterError::Worker { .. } => 8,
        RouterError::Refused { .. } => 9,
        RouterError::Dispatch { .. } => 10,
        RouterError::Progress { .. } => 11,
        RouterError::Share { .. } => 12,
        RouterError::Config { .. } => 13,
        RouterError::Cost { .. } => 14,
        RouterError::Learned { .. } => 15,
        RouterError::Panicked { .. } => 16,
        // What the environment asks for is met in `tests/record`, in a process of its own.
        #[cfg(feature = "record")]
        RouterError::Record(_) => 17,
    }
}

/// The errors that were met: each says something, and no two of a kind say it alike.
fn check_all<E: std::fmt::Display>(found: &[E], number_of: impl Fn(&E) -> usize, kinds: usize) {
    let numbers: BTreeSet<usize> = found.iter().map(&number_of).collect();
    assert_eq!(numbers, (0..kinds).collect(), "not every error was met");
    for error in found {
        let text = error.to_string();
        assert!(text.len() > 10 && !text.ends_with('.'), "{text:?}");
    }
}

#[test]
fn every_error_of_a_batch_is_met() {
    let (worker, one) = ([Worker::new(5, 1, 1); 2], [Request::new(1, 10)]);
    let decided = |step: &Step<'_>| {
        let mut assigner = Assigner::new("level", &Parameters::default()).expect("known");
        assigner.assign(step).map(drop).expect_err("refused")
    };
    let of_worker = |change: fn(&mut Worker)| {
        let mut workers = worker;
        change(&mut workers[1]);
        decided(&Step::new(&workers, &one))
    };
    let of_request = |request: Request| decided(&Step::new(&worker, &[request]));
    let step = || Step::new(&worker, &one);
    let ends = [PredictedEnd { in_steps: 0, freed_tokens: 1 }];
    let waits = || {
        let mut router =
            Router::new(RouterConfig::new(1, 1), "level", &Parameters::default()).expect("sound");
        router.enqueue(Request::new(1, 10), 0).expect("sound");
        match router.enqueue(Request::new(1, 10), 0) {
            Err(RouterError::Batch(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let bonus = || {
        let mut router =
            Router::new(RouterConfig::new(1, 1), "level", &Parameters::default()).expect("sound");
        router.enqueue(Request::new(1, 10), 0).expect("sound");
        let mut terms = |_: &Request, row: &mut [f32]| {
            row.fill(2.0 * MAX_BONUS_TOKENS);
            true
        };
        match router.step_with(0, &mut terms) {
            Err(RouterError::Batch(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let many = vec![Worker::new(1, 0, 1); MAX_WORKERS + 1];
    let crowd: Vec<Request> = (0..=MAX_WAITING as u64).map(|id| Request::new(id, 1)).collect();
    let found = [
        decided(&Step::new(&[], &one)),
        decided(&Step::new(&many, &one)),
        Pool::from_requests(&crowd).map(drop).expect_err("too many"),
        decided(&Step::new(&worker, &[one[0], one[0]])),
        waits(),
        of_request(Request::new(1, 0)),
        of_request(Request::new(1, MAX_PROMPT_TOKENS + 1)),
        of_request(one[0].passed(MAX_PASSED + 1)),
        BatchError::check_priority(Some(0), 1.into(), 128).expect_err("no class"),
        of_request(one[0].waited(MAX_WAITED_STEPS + 1)),
        of_request(one[0].rank(Some(WorkerIndex(2)))),
        of_request(one[0].pairs(0)),
        of_request(one[0].class(0)),
        of_worker(|worker| worker.load_tokens = MAX_LOAD_TOKENS + 1),
        of_worker(|worker| worker.free_slots = MAX_SLOTS),
        of_worker(|worker| worker.weight = MAX_WEIGHT + 1.0),
        decided(&step().projection(MAX_HORIZON + 1, &[])),
        decided(&step().projection(1, &[5, 5, 5])),
        decided(&step().pairs(Pairs { bonus_half_tokens: &[f16::NAN; 2], ..Pairs::default() })),
        bonus(),
        decided(&step().request_growth(MAX_PROMPT_TOKENS + 1)),
        decided(&step().ends(PredictedEnds { offsets: &[0, 1, 1], ends: &ends })),
    ];
    check_all(&found, number_of_batch, 21);
}

/// Sends whoever waits first to a worker that is none, or panics.
struct Faulty(bool);

impl Policy for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn decide(&mut self, _: &Batch<'_>, out: &mut Assignment) {
        if self.0 {
            std::panic::resume_unwind(Box::new("asked for"));
        }
        let worker = WorkerIndex(9);
        let slot = PoolSlot(0);
        out.admitted.push(Admission { id: 1.into(), slot, worker, prompt_tokens: 10, score_tokens: 0.0 });
    }

    fn needs(&self) -> Needs {
        Needs::new()
    }
}

#[test]
fn every_error_of_a_policy_is_met() {
    let mut too_many = Parameters::new();
    too_many.candidate_window = 0;
    let set = |name, value| Parameters::default().set(name, value).expect_err("refused");
    let isa = Parameters::new().isa(
        crate::backend::cpu::Isa::ALL
            .into_iter()
            .find(|isa| policy::build("level", &Parameters::new().isa(Some(*isa))).is_err()),
    );
    let workers = [Worker::new(1, 0, 1)];
    let pool = Pool::from_requests(&[Request::new(1, 5)]).expect("sound");
    let batch = Batch::draft(&workers, &pool).check().expect("sound");
    let no_rule = Faulty(false).decide_by_reference(&batch, &mut Assignment::new()).expect_err("no rule");
    let mut found = vec![
        policy::build("nobody", &Parameters::default()).map(drop).expect_err("unknown"),
        policy::build("level", &too_many).map(drop).expect_err("out of its range"),
        set("nothing", 1.0),
        set("level.reserve", 1.0),
        set("max_passed", 0.5),
        policy::build("level", &isa).map(drop).expect_err("no CPU has all of them"),
        no_rule,
    ];
    let kinds = if cfg!(feature = "ascend") { 7 } else { 8 };
    if kinds == 8 {
        let ascend = Parameters::new().backend(crate::backend::BackendKind::Ascend);
        found.push(policy::build("level", &ascend).map(drop).expect_err("not built in"));
    }
    check_all(&found, number_of_policy, kinds);
}

#[test]
fn every_error_of_a_router_is_met() {
    let made = |config: RouterConfig| Router::new(config, "level", &Parameters::default());
    let refused = |config: RouterConfig| made(config).map(drop).expect_err("refused");
    let with = |panics: bool| {
        let policy = Box::new(Faulty(panics));
        let mut router = Router::with_policy(RouterConfig::new(1, 1), policy, None).expect("sound");
        router.enqueue(Request::new(1, 10), 0).expect("sound");
        router.step(0).map(drop).expect_err("faulty")
    };
    let config = || RouterConfig::new(1, 1);
    let mut router = made(config().mode(Mode::Step)).expect("sound");
    router.enqueue(Request::new(1, 10), 0).expect("sound");
    let dispatch = router.send(Request::new(2, 10), None, 0).expect("a worker");
    let again = router.send(Request::new(2, 10), None, 0).expect_err("it runs");
    router.finish(2, 0).expect("it runs");
    let _ = router.send(Request::new(2, 10), None, 0).expect("a worker");
    let found = [
        router.enqueue(Request::new(7, 0), 0).expect_err("too short"),
        Router::new(config(), "nobody", &Parameters::default()).map(drop).expect_err("unknown"),
        router.finish(99, 0).expect_err("unknown"),
        router.finish(1, 0).expect_err("it waits"),
        again,
        router.finish_dispatch(&dispatch, 0).expect_err("an older life"),
        router.enqueue(Request::new(7, 3).generated(4), 0).expect_err("longer than it is"),
        made(RouterConfig::new(0, 1)).expect("sound").send(Request::new(7, 3), None, 0).expect_err("nowhere"),
        router.drain_worker(9).expect_err("no such worker"),
        with(false),
        router.report(0, WorkerReport::new(0, 0).last_dispatch(9), 0).map(drop).expect_err("never made"),
        router.progress(0, MAX_PROMPT_TOKENS + 1).expect_err("too many"),
        router.set_share(Share::new(3, 2)).expect_err("no share"),
        refused(config().refresh_steps(0)),
        refused(config().preemption_cost(Some(PreemptionCost::new(-1.0, 0.0)))),
        router.learn(b"nothing").expect_err("nothing learned"),
        with(true),
        refused(RouterConfig::uniform(1, WorkerConfig::new(MAX_SLOTS + 1))),
    ];
    check_all(&found, number_of_router, 17);
}
