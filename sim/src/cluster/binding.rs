//! Ranks that a rule of the simulator chooses as requests arrive.

use std::collections::VecDeque;

use crate::job::Job;
use crate::rules::{Arriving, Chooser, RankSeen};

/// The rule, and the ranks as it sees them.
pub(crate) struct Binding {
    chooser: Box<dyn Chooser>,
    ranks: Vec<RankSeen>,
    /// Ranks as they were, and from when on, oldest first; empty where the rule sees them as they are.
    past: VecDeque<(f64, Vec<RankSeen>)>,
    /// How old its view is.
    late_ms: f64,
    moves: Vec<(u64, usize)>,
}

impl Binding {
    pub(crate) fn new(chooser: Box<dyn Chooser>, workers: usize, late_ms: f64) -> Self {
        let ranks = vec![RankSeen::default(); workers];
        Self { chooser, ranks, past: VecDeque::new(), late_ms, moves: Vec::new() }
    }

    /// Forgets what a later view has taken the place of.
    fn forget(&mut self, now_ms: f64) {
        while self.past.get(1).is_some_and(|(since_ms, _)| *since_ms <= now_ms - self.late_ms) {
            self.past.pop_front();
        }
    }

    /// The ranks as they are.
    #[cfg(test)]
    pub(super) fn ranks(&self) -> &[RankSeen] {
        &self.ranks
    }

    /// The rank of a request that arrives, in whose queue it then is.
    pub(crate) fn arrives(&mut self, now_ms: f64, id: u64, job: &Job, quarter: u8) -> u32 {
        if self.late_ms > 0.0 && self.past.is_empty() {
            // What was there before anybody came.
            self.past.push_back((f64::NEG_INFINITY, self.ranks.clone()));
        }
        self.forget(now_ms);
        let seen = self.past.front().map_or(&self.ranks, |(_, ranks)| ranks);
        let rank = self.chooser.choose(&Arriving { id, job, quarter }, seen);
        self.queue(rank, job.prompt_tokens);
        rank as u32
    }

    fn queue(&mut self, rank: usize, prompt_tokens: u32) {
        self.ranks[rank].queued += 1;
        self.ranks[rank].queued_tokens += u64::from(prompt_tokens);
    }

    fn unqueue(&mut self, rank: usize, prompt_tokens: u32) {
        self.ranks[rank].queued -= 1;
        self.ranks[rank].queued_tokens -= u64::from(prompt_tokens);
    }

    /// A request decodes on a rank as the run begins.
    pub(crate) fn adopted(&mut self, id: u64, job: &Job, quarter: u8, generated: u32, rank: u32) {
        let seen = &mut self.ranks[rank as usize];
        seen.running += 1;
        seen.kv_tokens += u64::from(job.prompt_tokens) + u64::from(generated);
        self.chooser.adopted(&Arriving { id, job, quarter }, generated, rank as usize);
    }

    /// Who goes to another rank's queue before the step, and which; `waiting` tells where somebody waits,
    /// with how many tokens.
    pub(crate) fn moves(&mut self, waiting: impl Fn(u64) -> (u32, u32)) -> Vec<(u64, u32)> {
        self.chooser.moves(&self.ranks, &mut self.moves);
        let mut moved = Vec::with_capacity(self.moves.len());
        for at in 0..self.moves.len() {
            let (id, to) = self.moves[at];
            let (from, prompt_tokens) = waiting(id);
            self.unqueue(from as usize, prompt_tokens);
            self.queue(to, prompt_tokens);
            moved.push((id, to as u32));
        }
        self.moves.clear();
        moved
    }

    pub(crate) fn admitted(&mut self, id: u64, prompt_tokens: u32, rank: u32) {
        self.unqueue(rank as usize, prompt_tokens);
        let seen = &mut self.ranks[rank as usize];
        seen.running += 1;
        seen.kv_tokens += u64::from(prompt_tokens);
        self.chooser.admitted(id, rank as usize);
    }

    /// A step begins, with the ranks as those that were admitted have left them.
    pub(crate) fn begins(&mut self, now_ms: f64) {
        if self.late_ms > 0.0 {
            self.forget(now_ms);
            self.past.push_back((now_ms, self.ranks.clone()));
        }
    }

    /// A step has run, and whoever decoded in it has a token more.
    pub(crate) fn stepped(&mut self, step_ms: f64) {
        for rank in &mut self.ranks {
            rank.kv_tokens += u64::from(rank.running);
        }
        self.chooser.stepped(step_ms);
    }

    /// A request of so many tokens in all has ended.
    pub(crate) fn ended(&mut self, id: u64, rank: u32, kv_tokens: u64, output_tokens: u32) {
        self.release(rank, kv_tokens);
        self.chooser.ended(id, rank as usize, output_tokens);
    }

    /// A request has lost its slot, and waits on its rank with all the tokens that it held.
    pub(crate) fn preempted(&mut self, id: u64, rank: u32, kv_tokens: u32) {
        self.release(rank, u64::from(kv_tokens));
        self.queue(rank as usize, kv_tokens);
        self.chooser.preempted(id, rank as usize, kv_tokens);
    }

    fn release(&mut self, rank: u32, kv_tokens: u64) {
        let seen = &mut self.ranks[rank as usize];
        seen.running -= 1;
        seen.kv_tokens -= kv_tokens;
    }
}
