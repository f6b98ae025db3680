//! Metrics and everything else that can be asked, against the books.

use std::collections::BTreeMap;

use balanceroute::router::Decided;
use balanceroute::{RequestId, WaitReason, WorkerId};

use crate::front::{Front, Life, Stage};

/// Of so many who wait each is asked why.
const EXPLAINED: usize = 24;

/// What holds after each event.
pub(crate) fn glance(front: &Front) {
    let counters = front.router.counters();
    let ended = counters.finished + counters.aborted + counters.preempted + counters.disowned;
    let left = ended + counters.returned.iter().sum::<u64>();
    let inside = (front.router.pool().len(), front.router.running_len());
    assert_eq!(inside, (front.waiting.len(), front.running.len()), "who waits and runs");
    assert_eq!(counters.arrived, left + (inside.0 + inside.1) as u64, "everybody leaves once: {counters:?}");
    assert_eq!(counters.arrived, front.counts.arrived, "arrived");
}

/// What a worker of ours holds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Held {
    running: u32,
    held: u32,
    preempted: u32,
    tokens: u64,
}

/// Recounts everything.
pub(crate) fn audit(front: &mut Front) {
    let mut metrics = std::mem::take(&mut front.metrics);
    front.router.metrics(&mut metrics);
    let (counters, counts) = (&metrics.counters, &front.counts);
    assert_eq!(
        [
            counters.admitted_by_step,
            counters.placed_on_arrival,
            counters.finished,
            counters.aborted,
            counters.preempted,
            counters.disowned,
            counters.wait_ms.count(),
        ],
        [
            counts.admitted,
            counts.placed,
            counts.finished,
            counts.aborted,
            counts.preempted,
            counts.disowned,
            counts.admitted + counts.placed + counts.sent_waiting,
        ],
        "counters"
    );
    // Who was given up with a call is counted then and told with the next plan.
    let told: u64 = counts.returned.iter().sum();
    assert_eq!(counters.returned.iter().sum::<u64>(), told + front.pending.len() as u64, "returned");
    let mut found: BTreeMap<WorkerId, Held> = BTreeMap::new();
    for &id in &front.running {
        let Life::Runs { worker, stage, .. } = front.records[&id].life else { panic!("{id} runs") };
        assert_eq!(front.router.running_on(id), Some(worker), "{id}");
        let of = found.entry(worker).or_default();
        of.running += 1;
        of.held += u32::from(stage == Stage::Held);
        of.preempted += u32::from(stage == Stage::PutOff);
        let length = front.router.prompt_tokens(id).zip(front.router.generated_tokens(id));
        let (prompt, generated) = length.expect("it runs");
        of.tokens += u64::from(prompt) + u64::from(generated);
    }
    let known: Vec<_> = front.known.iter().flatten().collect();
    let absent = front.setting.absent as usize;
    assert_eq!(metrics.ranks.len(), absent + known.len());
    for rank in &metrics.ranks[absent..] {
        let known = known.iter().find(|known| known.worker == rank.worker).expect("a worker");
        let of = found.get(&rank.worker).copied().unwrap_or_default();
        let tokens = rank.own_tokens;
        let own = Held { running: rank.running, held: rank.held, preempted: rank.preempted, tokens };
        assert_eq!(own, of, "{rank:?}");
        assert_eq!((rank.accepting, rank.draining), (known.accepting, known.draining), "{rank:?}");
        assert_eq!(front.router.worker_config(rank.worker), Ok(known.config));
        assert!(rank.free_slots <= known.config.slots.saturating_sub(rank.running), "{rank:?}");
    }
    let running: u32 = found.values().map(|of| of.running).sum();
    assert_eq!((metrics.running, metrics.waiting), (u64::from(running), front.waiting.len() as u64));
    assert_eq!(metrics.waiting_by_reason.iter().sum::<u64>(), metrics.waiting, "each waits for a reason");
    let mut classes: BTreeMap<i8, u64> = BTreeMap::new();
    for id in &front.waiting {
        *classes.entry(front.records[id].request.priority).or_default() += 1;
    }
    assert_eq!(metrics.waiting_by_priority, classes.into_iter().rev().collect::<Vec<_>>());
    if front.waiting.len() < 2_000 {
        let waiting = front.router.waiting();
        let mut by_reason = [0; WaitReason::ALL.len()];
        for &(id, reason) in &waiting {
            by_reason[reason as usize] += 1;
            let life = front.records.get(&id).map(|record| record.life);
            assert!(matches!(life, Some(Life::Waits(_))), "{id}");
            // Nothing but a rank shuts a worker to a request once the rows of the last step have ended.
            let is_free = front.rows_ended && life == Some(Life::Waits(None));
            assert!(!is_free || reason != WaitReason::NotEligible, "{id} waits for {reason}");
        }
        assert_eq!(by_reason, metrics.waiting_by_reason);
        waiting.iter().take(EXPLAINED).for_each(|&(id, reason)| explains(front, id, reason));
    }
    front.metrics = metrics;
}

fn explains(front: &Front, id: RequestId, reason: WaitReason) {
    let record = &front.records[&id];
    let explained = front.router.explain(id).expect("it waits");
    assert_eq!(
        (explained.decided, explained.priority),
        (Decided::Waits(reason), record.request.priority),
        "{id}"
    );
    if let Some((passed, _)) = Front::passed(record) {
        assert_eq!(front.router.pool().passed(id), Some(passed), "{id} was passed {passed} times");
    }
}
