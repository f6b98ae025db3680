//! A log replayed: whether everything answers as it did, and why each request went where it went.

use std::path::Path;

use balanceroute::record::{Event, RecordError, Replay};
use balanceroute::router::{Answer, Call, Decided, Explanation};
use balanceroute::{Dispatch, RequestId, Router};
use serde::Serialize;

use crate::error::SimError;

/// How far a replay goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// The last step, from 1 at the beginning of the log; none for all of it.
    pub step: Option<u64>,
    /// Whether to explain the last step.
    pub explain: bool,
}

/// What a replay has found.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Played {
    /// The file or folder.
    pub log: String,
    /// Version of the library that wrote it.
    pub version: String,
    /// The policy that decided.
    pub policy: String,
    /// Time of day as the first segment began, in milliseconds since 1970.
    pub began_unix_ms: u64,
    /// Calls of the recording before the log: of segments that are gone.
    pub calls_before: u64,
    /// Calls replayed.
    pub calls: u64,
    /// Steps among them.
    pub steps: u64,
    /// Requests let in, admitted, ended, given up and returned.
    pub arrived: u64,
    /// By steps and on arrival.
    pub admitted: u64,
    /// With their last token.
    pub finished: u64,
    /// By the caller.
    pub aborted: u64,
    /// With a reason.
    pub returned: u64,
    /// Where the replay stands: requests that wait.
    pub waiting: u64,
    /// And that run.
    pub running: u64,
    /// The first call that answers otherwise than it did, if any.
    pub difference: Option<Difference>,
    /// Segments that end in something that cannot be read.
    pub torn: Vec<Torn>,
    /// The last step, request by request, where that is asked for.
    pub explained: Option<Vec<Explained>>,
}

/// A call that answers otherwise than it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Difference {
    /// Which call of the recording.
    pub call: u64,
    /// Which step of the log, or the one that comes next.
    pub step: u64,
    /// The call.
    pub made: String,
    /// What it answered.
    pub recorded: String,
    /// What it answers now.
    pub answered: String,
}

/// A segment whose end cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Torn {
    /// The file.
    pub segment: String,
    /// The byte from which on.
    pub byte: u64,
}

/// Why a request went where it went, or why it stays.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Explained {
    /// Request id.
    pub request: u64,
    /// `admitted`, `placed` on arrival, `returned` or `waits`.
    pub decided: &'static str,
    /// The worker that it enters, or claims while it waits.
    pub worker: Option<u32>,
    /// Of one that waits or comes back: why.
    pub reason: Option<String>,
    /// Its score there in tokens, as the step began.
    pub score_tokens: Option<f64>,
    /// The worker that came second, and the score there.
    pub second_worker: Option<u32>,
    /// In tokens.
    pub second_score_tokens: Option<f64>,
    /// Tokens by which the worker was below the most loaded one.
    pub margin_tokens: Option<f64>,
    /// Tokens kept free there for the growth of what runs.
    pub kv_growth_tokens: Option<u64>,
    /// Steps that it waits.
    pub waited_steps: Option<u32>,
    /// Requests that came later and were admitted before it.
    pub passed: Option<u32>,
    /// Its class.
    pub priority: Option<i8>,
}

/// A difference is shown in so many characters.
const SHOWN: usize = 1_000;

/// Replays a log, up to the first difference.
///
/// # Errors
/// A log that cannot be read, of another version, or of a policy that is not the library's.
pub fn play(log: &Path, reach: Reach) -> Result<Played, SimError> {
    let mut replay = Replay::open(log)?;
    let header = replay.header().clone();
    let mut played = Played {
        log: log.display().to_string(),
        version: header.version,
        policy: header.policy,
        began_unix_ms: header.unix_ms,
        calls_before: header.calls,
        calls: 0,
        steps: 0,
        arrived: 0,
        admitted: 0,
        finished: 0,
        aborted: 0,
        returned: 0,
        waiting: 0,
        running: 0,
        difference: None,
        torn: Vec::new(),
        explained: None,
    };
    // Without a step to stop at each may be the last.
    let explains_from =
        if reach.explain { reach.step.map_or(0, |step| step.saturating_sub(1)) } else { u64::MAX };
    if explains_from == 0 {
        replay.set_explaining(true);
    }
    while reach.step != Some(played.steps) {
        let Some(event) = replay.next_event()? else { break };
        played.count(&event);
        if event.differs() {
            played.difference = Some(difference(&event, played.steps));
            break;
        }
        let Answer::Plan(plan) = &event.recorded else { continue };
        if reach.explain && played.steps > explains_from {
            played.explained = Some(explained(replay.router(), plan));
        }
        if played.steps == explains_from {
            replay.set_explaining(true);
        }
    }
    let missing = reach.step.filter(|&step| step > played.steps && played.difference.is_none());
    if let Some(step) = missing {
        let expected = format!("a step from 1 to {}, as many as the log has", played.steps);
        return Err(SimError::Argument { name: "at", expected, found: step.to_string() });
    }
    played.waiting = replay.router().pool().len() as u64;
    played.running = replay.router().running_len() as u64;
    played.torn = replay
        .torn()
        .iter()
        .map(|(segment, byte)| Torn { segment: segment.display().to_string(), byte: *byte })
        .collect();
    Ok(played)
}

impl Played {
    fn count(&mut self, event: &Event) {
        self.calls += 1;
        match &event.call {
            Call::Enqueue { .. } | Call::Place { .. } => self.arrived += 1,
            Call::Step { .. } => self.steps += 1,
            _ => {}
        }
        match &event.recorded {
            Answer::Plan(plan) => {
                self.admitted += plan.admissions.len() as u64;
                self.returned += plan.returned.len() as u64;
            }
            Answer::Placement(balanceroute::Placement::Placed(_)) | Answer::Dispatch(_) => self.admitted += 1,
            Answer::Finished(_) => self.finished += 1,
            Answer::Aborted(_) => self.aborted += 1,
            Answer::Returned(returned) => self.returned += returned.len() as u64,
            _ => {}
        }
    }
}

fn difference(event: &Event, steps: u64) -> Difference {
    let step = steps + u64::from(!matches!(event.call, Call::Step { .. }));
    let shown = |text: String| match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    };
    let answered = match &event.answered {
        Ok(answer) => format!("{answer:?}"),
        Err(error) => format!("refused: {error}"),
    };
    Difference {
        call: event.at,
        step,
        made: shown(format!("{:?}", event.call)),
        recorded: shown(format!("{:?}", event.recorded)),
        answered: shown(answered),
    }
}

/// Who was admitted by the step or placed since the one before, who comes back, and who waits.
fn explained(router: &Router, plan: &balanceroute::Plan) -> Vec<Explained> {
    let admitted = plan.admissions.iter().map(|&Dispatch { id, .. }| id);
    let waiting = router.waiting();
    let waits = waiting.iter().map(|&(id, _)| id);
    let mut rows: Vec<Explained> =
        admitted.chain(waits).filter_map(|id: RequestId| router.explain(id)).map(Explained::of).collect();
    rows.extend(plan.returned.iter().map(|returned| Explained {
        worker: returned.worker.map(|worker| worker.get()),
        reason: Some(returned.reason.description().to_owned()),
        ..Explained::new(returned.id, "returned")
    }));
    rows
}

impl Explained {
    fn new(request: RequestId, decided: &'static str) -> Self {
        Self {
            request: request.get(),
            decided,
            worker: None,
            reason: None,
            score_tokens: None,
            second_worker: None,
            second_score_tokens: None,
            margin_tokens: None,
            kv_growth_tokens: None,
            waited_steps: None,
            passed: None,
            priority: None,
        }
    }

    fn of(explanation: Explanation) -> Self {
        // What a policy without scores says is no number.
        let number = |tokens: f64| Some(tokens).filter(|tokens| tokens.is_finite());
        let (decided, reason) = match explanation.decided {
            Decided::Waits(reason) => ("waits", Some(reason.description().to_owned())),
            Decided::Arrival => ("placed", None),
            Decided::Step => ("admitted", None),
        };
        let waits = decided == "waits";
        Self {
            worker: explanation.worker.map(|worker| worker.get()),
            reason,
            score_tokens: number(explanation.opening_score_tokens),
            second_worker: explanation.runner_up.map(|second| second.worker.get()),
            second_score_tokens: explanation.runner_up.and_then(|second| number(second.score_tokens)),
            margin_tokens: number(explanation.margin_tokens),
            kv_growth_tokens: Some(explanation.kv_growth_tokens).filter(|_| !waits),
            waited_steps: Some(explanation.waited_steps),
            passed: Some(explanation.passed),
            priority: Some(explanation.priority),
            ..Self::new(explanation.id, decided)
        }
    }
}

impl From<RecordError> for SimError {
    fn from(error: RecordError) -> Self {
        Self::Record(error)
    }
}
