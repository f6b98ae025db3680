//! The best request for one worker: by length, or in the matrix run by run.

use super::step::Step;
use super::{Class, Greedy, UNKNOWN};
use crate::backend::column::Found;
use crate::batch::Request;
use crate::pool::PoolSlot;
use crate::rule::Rule;

impl Greedy {
    /// Whether columns are searched by length, as a whole.
    pub(super) fn is_searched(&self, step: &Step<'_, '_, &mut impl Rule>) -> bool {
        step.ordered || self.matrix.is_searchable()
    }

    /// The best free request for a worker, chosen by the rule's judge among the best few.
    pub(super) fn best_judged(
        &mut self,
        step: &mut Step<'_, '_, &mut impl Rule>,
        worker: usize,
    ) -> Option<Found> {
        let candidates = step.rule.candidates();
        if candidates <= 1 || !step.plan.order.is_in_turn() {
            return self.best(step, worker);
        }
        self.found.clear();
        self.tokens.clear();
        while self.found.len() < candidates {
            let Some(found) = self.best(step, worker) else { break };
            self.take(step, found.position);
            self.found.push(found);
            self.tokens.push(i64::from(step.waiting.tokens[found.position]));
        }
        for at in 0..self.found.len() {
            self.give_back(step, self.found[at].position);
        }
        let best = self.found.first().copied();
        if self.found.len() <= 1 {
            return best;
        }
        let (costs, open_slots) = (self.loads.costs(), self.loads.all_open_slots());
        let chosen = step.rule.judge(step.batch, costs, open_slots, worker, &self.tokens);
        self.found.get(chosen).copied().or(best)
    }

    /// The best free request for a worker as things stand.
    pub(super) fn best(&mut self, step: &Step<'_, '_, &mut impl Rule>, worker: usize) -> Option<Found> {
        self.best_of_at_least(step, worker, i64::MIN, None)
    }

    /// [`Self::best`], which may leave out what scores less than `wanted`. The profile of one class may be
    /// made already.
    pub(super) fn best_of_at_least(
        &mut self,
        step: &Step<'_, '_, &mut impl Rule>,
        worker: usize,
        wanted: i64,
        profiled: Option<Class>,
    ) -> Option<Found> {
        let longest = self.loads.longest_tokens(worker);
        if step.ordered {
            self.profile.clear();
            step.rule.profile(&self.loads.view(worker), None, &mut self.profile);
            return self.column.best(&step.waiting, &self.profile, &step.terms, longest, wanted);
        }
        self.best_in_pairs(step, worker, (longest, wanted), profiled)
    }

    /// [`Self::best_of_at_least`] where requests have terms per pair.
    #[inline(never)]
    fn best_in_pairs(
        &mut self,
        step: &Step<'_, '_, &mut impl Rule>,
        worker: usize,
        (longest, wanted): (i64, i64),
        profiled: Option<Class>,
    ) -> Option<Found> {
        if self.is_searched(step) {
            if profiled != Some(None) {
                self.profile(step, worker, None);
            }
            let found = self.column.best(&step.waiting, &self.profile, &step.terms, longest, wanted);
            let is_taken = |position| self.column.is_taken(position);
            let score_of = |tokens| self.profile.score(tokens);
            return self.matrix.sparse().best(&step.waiting, found, score_of, (worker, longest), is_taken);
        }
        self.matrix.forget();
        let mut best: Option<Found> = None;
        let mut from = 0;
        while from < self.matrix.runs() {
            // The runs of a class share a profile.
            let class = self.matrix.run(from).class;
            let to = (from..self.matrix.runs()).find(|&run| self.matrix.run(run).class != class);
            let runs = from..to.unwrap_or(self.matrix.runs());
            if from > 0 || profiled != Some(class) {
                self.profile(step, worker, class);
            }
            from = runs.end;
            self.matrix.prepare((worker, class), &self.profile, longest);
            let (bounds, known) = (&mut self.run_bounds, self.matrix.bounds());
            bounds.clear();
            bounds.extend(runs.map(|run| (known.get(run).copied().unwrap_or(UNKNOWN), run)));
            bounds.sort_unstable();
            // The most promising first: it leaves the fewest others.
            for at in (0..self.run_bounds.len()).rev() {
                let (bound, run) = self.run_bounds[at];
                if bound < wanted.max(best.map_or(i64::MIN, |best| best.score)) {
                    break;
                }
                let found = self.best_of_run(step, worker, run);
                if let Some(found) = found.filter(|found| found.beats(best, &step.waiting)) {
                    best = Some(found);
                }
            }
        }
        best
    }

    /// The best free request of one run of the matrix for the profile prepared last.
    pub(super) fn best_of_run(
        &mut self,
        step: &Step<'_, '_, &mut impl Rule>,
        worker: usize,
        run: usize,
    ) -> Option<Found> {
        let longest = self.loads.longest_tokens(worker);
        self.matrix.best(step.batch, self.matrix.run(run), &self.profile, worker, longest)
    }

    pub(super) fn profile(&mut self, step: &Step<'_, '_, &mut impl Rule>, worker: usize, class: Option<u8>) {
        let view = self.loads.view(worker);
        self.profile.clear();
        step.rule.profile(&view, step.batch.survival(class, view.row.len().max(1)), &mut self.profile);
    }

    /// The score of a request for the profile made last.
    pub(super) fn score_of_profile(
        &self,
        step: &Step<'_, '_, &mut impl Rule>,
        worker: usize,
        request: &Request,
        passed: u32,
    ) -> i64 {
        self.profile.score(i64::from(request.prompt_tokens))
            + step.plan.unit * (step.plan.age.tokens(passed) + step.batch.bonus_tokens(request, worker))
    }

    pub(super) fn score(
        &mut self,
        step: &Step<'_, '_, &mut impl Rule>,
        worker: usize,
        position: usize,
    ) -> i64 {
        let request = step.batch.waiting().request(PoolSlot(step.waiting.slots[position]));
        self.score_of_length(step, worker, position)
            + step.plan.unit * step.batch.bonus_tokens(request, worker)
    }

    /// That score without a bonus.
    pub(super) fn score_of_length(
        &mut self,
        step: &Step<'_, '_, &mut impl Rule>,
        worker: usize,
        position: usize,
    ) -> i64 {
        let request = step.batch.waiting().request(PoolSlot(step.waiting.slots[position]));
        self.profile(step, worker, request.survival_class);
        self.profile.score(i64::from(request.prompt_tokens))
            + step.plan.unit * step.plan.age.tokens(step.waiting.passed[position])
    }
}
