//! Decisions whose picks, or whose first look at the columns, a device makes.

use super::Greedy;
use super::step::Step;
use crate::assignment::Assignment;
use crate::backend::ascend::blob::{AnswerError, DevicePick, Kept, Problem, Source, Work};
use crate::backend::ascend::launch::{Device, Outcome};
use crate::backend::column::Found;
use crate::backend::cpu::Kernels;
use crate::batch::Batch;
use crate::rule::{Order, Plan, ProfileSpec, Rule};
use crate::score::Profile;

impl Greedy {
    /// Runs a rule with its greedy picks, or the first look at the columns, on a device where it can and
    /// answers well.
    pub(crate) fn assign_on(
        &mut self,
        device: &mut Device,
        rule: &mut impl Rule,
        batch: &Batch<'_>,
        out: &mut Assignment,
    ) {
        let plan = self.plan(rule, batch, out);
        if Self::is_idle(batch, out) {
            return;
        }
        let mut step = self.step(rule, batch, &plan);
        self.load(&mut step, false, true, out);
        let mut begin = device.clock();
        let by_device = device.is_wanted(batch) && self.place_on(device, &mut step);
        if !by_device {
            if device.is_submitting() {
                return;
            }
            begin = device.clock();
        }
        if !by_device || Self::goes_on(&plan) {
            self.place(&mut step);
        }
        device.picked(batch, begin);
        self.finish(&step, out);
    }

    /// Whether the host goes on where the device has ended: subsets are its own.
    fn goes_on(plan: &Plan) -> bool {
        matches!(plan.order, Order::MostOpenSlots(_))
    }

    /// Decides many batches with one launch. Engines are added as they are needed.
    pub(crate) fn assign_many_on<R: Rule>(
        engines: &mut Vec<Self>,
        kernels: &'static Kernels,
        device: &mut Device,
        rules: &mut [R],
        batches: &[Batch<'_>],
        outs: &mut [Assignment],
    ) {
        while engines.len() < batches.len() {
            engines.push(Self::new(kernels));
        }
        let decisions = engines.iter_mut().zip(rules.iter_mut()).zip(batches.iter().zip(outs.iter_mut()));
        let plans: Vec<Plan> =
            decisions.map(|((greedy, rule), (batch, out))| greedy.plan(rule, batch, out)).collect();
        let decisions = engines.iter_mut().zip(rules).zip(batches.iter().zip(outs)).zip(&plans);
        let mut begun: Vec<_> = decisions
            .filter_map(|(((greedy, rule), (batch, out)), plan)| {
                if Self::is_idle(batch, out) {
                    return None;
                }
                let mut step = greedy.step(rule, batch, plan);
                greedy.load(&mut step, false, true, out);
                Some((greedy, step, out))
            })
            .collect();
        let mut problems = Vec::with_capacity(begun.len());
        for (greedy, step, _) in &begun {
            let profile_spec =
                if step.rule.candidates() <= 1 { step.rule.profile_spec(step.batch) } else { None };
            problems.push(profile_spec.map(|profile_spec| greedy.problem(step, profile_spec)));
        }
        let answers = device.many(&problems);
        drop(problems);
        for ((greedy, step, out), (work, picks)) in begun.iter_mut().zip(answers) {
            if !greedy.accept(step, work, &picks, device) || Self::goes_on(step.plan) {
                greedy.place(step);
            }
            greedy.finish(step, out);
        }
    }

    /// Has a device make the picks; false, and none made, where the CPU must.
    fn place_on(&mut self, device: &mut Device, step: &mut Step<'_, '_, &mut impl Rule>) -> bool {
        let batch = step.batch;
        let kept = match step.rule.candidates() {
            0 | 1 => None,
            _ => Some(Kept::Judge),
        };
        match (kept, step.rule.profile_spec(batch)) {
            (Some(kept), _) => device.note(Outcome::Kept(kept)),
            (None, Some(profile_spec)) => {
                let mut picks = std::mem::take(&mut self.device_picks);
                let work = device.picks(&self.problem(step, profile_spec), &mut picks);
                let accepted = self.accept(step, work, &picks, device);
                self.device_picks = picks;
                return accepted;
            }
            (None, None) if step.plan.order == Order::Matrix => {
                self.list_open();
                if self.look_on(device, step) {
                    device.note(Outcome::Looked);
                    self.place_by_column_queue(step, true);
                    return true;
                }
            }
            (None, None) => device.note(Outcome::Kept(Kept::NoProfileSpec)),
        }
        false
    }

    /// Makes the picks of a device, if it has any and they are good; false, and none made, where the CPU
    /// must.
    fn accept(
        &mut self,
        step: &Step<'_, '_, &mut impl Rule>,
        work: Option<Work>,
        picks: &[DevicePick],
        device: &mut Device,
    ) -> bool {
        let before = self.picks.len();
        let Some(work) = work else { return false };
        match self.place_picks(step, picks) {
            Ok(()) => {
                device.note(Outcome::Decided(work));
                true
            }
            Err(error) => {
                self.take_back(step, before);
                device.note(Outcome::Refused(error));
                false
            }
        }
    }

    fn problem<'a, R: Rule>(
        &'a self,
        step: &'a Step<'_, '_, &mut R>,
        profile_spec: ProfileSpec<'a>,
    ) -> Problem<'a> {
        Problem {
            batch: step.batch,
            plan: step.plan,
            source: Source::Spec(profile_spec),
            loads: &self.loads,
            taken: &self.placed,
        }
    }

    /// Makes the picks of a device, each checked: its slot, its room, its eligibility and its score.
    fn place_picks(
        &mut self,
        step: &Step<'_, '_, &mut impl Rule>,
        picks: &[DevicePick],
    ) -> Result<(), AnswerError> {
        let pool = step.batch.waiting();
        for (index, &DevicePick { slot, worker, score }) in picks.iter().enumerate() {
            let wrong = |what| Err(AnswerError::Pick { index, slot: slot.0, worker: worker as u32, what });
            let request = pool.request(slot);
            let Some(position) = pool.position(slot).filter(|&at| !self.column.is_taken(at)) else {
                return wrong("it waits no longer");
            };
            if let Some(what) = self.loads.refusal(step.batch, request, worker) {
                return wrong(what);
            }
            if self.score(step, worker, position) != score {
                return wrong("its score is another");
            }
            self.admit_best(step, worker, Found { position, score });
        }
        Ok(())
    }

    /// Takes the picks from the `before`th on back.
    fn take_back(&mut self, step: &Step<'_, '_, &mut impl Rule>, before: usize) {
        while self.picks.len() > before {
            let Some(pick) = self.picks.pop() else { break };
            self.loads.release(pick.worker, pick.tokens);
            self.give_back(step, pick.position);
        }
    }

    /// Has a device look at every column for the first time.
    fn look_on(&mut self, device: &mut Device, step: &Step<'_, '_, &mut impl Rule>) -> bool {
        let batch = step.batch;
        let loads = &self.loads;
        let compute = |worker: usize, class: Option<u8>, profile: &mut Profile| {
            let view = loads.view(worker);
            step.rule.profile(&view, batch.survival(class, view.row.len().max(1)), profile);
        };
        let problem =
            Problem { batch, plan: step.plan, source: Source::Fixed(&compute), loads, taken: &self.placed };
        let Some(columns) = device.columns(&problem) else { return false };
        let (workers, pool) = (batch.workers().len(), batch.waiting());
        self.begin_column_queue(step);
        let searched = self.is_searched(step);
        let (column_queue, matrix) = (&mut self.column_queue, &self.matrix);
        let runs = if searched { 1 } else { matrix.runs() };
        column_queue.know_nobody();
        for column in columns {
            let Some((slot, score)) = column.best else { continue };
            let Some(position) = pool.position(slot) else { return false };
            for run in 0..runs {
                if searched || matrix.run(run).class == column.class {
                    // The best of its run, and a bound for the other runs of its class, which tighter bounds
                    // may spare a look.
                    let own = searched || matrix.holds(run, position);
                    column_queue.know(column.worker, run, Found { position, score }, own);
                }
            }
        }
        for worker in 0..workers {
            column_queue.rank(worker);
        }
        true
    }
}
