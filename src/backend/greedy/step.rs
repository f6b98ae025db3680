//! A decision under way: the batch, the rule and its plan, and how columns are searched.

use crate::backend::column::Terms;
use crate::backend::cpu::Kernels;
use crate::batch::{Batch, Worker};
use crate::pool::{Ordered, PoolSlot};
use crate::rule::{LevelTerms, Order, Plan, ProfileSpec, Rule};

/// How far a rule looks ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MatrixThreshold {
    /// Columns are searched by length wherever the batch allows it.
    Near,
    /// So are they today; with other waits or more admissions of as many requests, the matrix is faster.
    Further,
    /// Everything goes through the matrix, which is faster and holds it in its lanes.
    Far,
}

/// How far a rule looks ahead in a batch.
pub(super) fn reach(
    kernels: &Kernels,
    rule: &impl Rule,
    batch: &Batch<'_>,
    terms: &Terms,
) -> MatrixThreshold {
    let Some(projection) = batch.projection() else { return MatrixThreshold::Near };
    let Some(ProfileSpec::Lookahead { discounts, alpha, beta, .. }) = rule.profile_spec(batch) else {
        return MatrixThreshold::Near;
    };
    let discounts = &discounts[..discounts.len().min(projection.horizon + 1)];
    let (knots, waiting) = (discounts.len() as u64, batch.waiting().len() as u64);
    if !kernels.far.may_be_reached(knots) {
        return MatrixThreshold::Near;
    }
    if !kernels.far.is_reached(knots, batch.open_slots().min(waiting), waiting) {
        return MatrixThreshold::Further;
    }
    let dearest = match batch.is_uniform() {
        true => 1,
        false => batch.workers().iter().map(Worker::cost_per_token).max().unwrap_or(1),
    };
    // Slopes and weights together.
    let steepest = (alpha + beta) * discounts.iter().sum::<i64>() as f64 * dearest as f64;
    if steepest < f64::from(1u32 << 31) && terms.fit_lanes() {
        MatrixThreshold::Far
    } else {
        MatrixThreshold::Further
    }
}

/// A rule that is known as data, and has a kernel for all of a step's admissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chained {
    /// level.
    Level {
        /// What a completion must lower its worker by.
        drop_tokens: i64,
    },
    /// level with the terms of the pool.
    Levels,
}

pub(super) struct Step<'a, 'b, R> {
    pub batch: &'a Batch<'b>,
    pub waiting: Ordered<'a>,
    pub rule: R,
    pub plan: &'a Plan,
    pub terms: Terms,
    /// How far the rule looks ahead.
    pub reach: MatrixThreshold,
    /// Whether nothing but lengths and ages tells requests apart, and columns are searched by length.
    pub ordered: bool,
    /// The kernel that can run the rule, if there is one.
    pub chained: Option<Chained>,
}

impl<'a, 'b, R> Step<'a, 'b, R> {
    pub(super) fn new(
        batch: &'a Batch<'b>,
        rule: R,
        plan: &'a Plan,
        terms: Terms,
        reach: MatrixThreshold,
    ) -> Self {
        // Who goes longest first is found in the length order itself, and the few of a subset one by one.
        let searches_nothing = plan.repair.rounds == 0
            && match plan.order {
                Order::LongestFirst { .. } => true,
                Order::MostOpenSlots(stage) => batch.open_slots() <= u64::from(stage.greedy_slots),
                Order::Matrix | Order::LeastLoaded => false,
            };
        Self {
            batch,
            waiting: batch.waiting().ordered(),
            rule,
            plan,
            terms,
            reach,
            ordered: searches_nothing || (reach != MatrixThreshold::Far && !batch.has_pair_terms()),
            chained: None,
        }
    }

    /// The survival class of the request at a position of the length order, where classes mean something.
    pub(super) fn class_of(&self, position: usize) -> Option<u8> {
        self.batch.classes()?;
        self.batch.class_of(self.batch.waiting().request(PoolSlot(self.waiting.slots[position])))
    }

    /// About how many columns will be searched.
    pub(super) fn searches(&self) -> usize {
        let waiting = self.batch.waiting().len();
        let mut admissions = self.batch.open_slots().min(waiting as u64) as usize;
        if let Order::MostOpenSlots(stage) = self.plan.order
            && stage.candidate_window < waiting
        {
            // Once slots are scarce, requests are looked at in order of arrival.
            admissions = admissions.saturating_sub(stage.greedy_slots as usize);
        }
        let columns = if self.one_column() { 0 } else { self.batch.workers().len() };
        admissions + columns
    }

    /// Whether workers are alike and choose one by one, as the kernels of [`Chained`] have it.
    fn is_one_by_one(&self) -> bool
    where
        R: std::ops::Deref<Target: Rule>,
    {
        let batch = self.batch;
        // Longest first asks such a kernel for its repair only.
        let by_load = matches!(self.plan.order, Order::LeastLoaded | Order::LongestFirst { .. });
        let alike = batch.is_uniform() && batch.workers().len() >= 2 && batch.projection().is_none();
        by_load && self.rule.candidates() <= 1 && alike
    }

    /// [`Chained::Level`], where it can run the rule and columns are searched by length.
    pub(super) fn refills(&self) -> Option<Chained>
    where
        R: std::ops::Deref<Target: Rule>,
    {
        if !(self.is_one_by_one() && self.plan.unit == 1 && self.terms.fit_refill(&self.waiting)) {
            return None;
        }
        match self.rule.profile_spec(self.batch) {
            Some(ProfileSpec::Level { drop_tokens }) => Some(Chained::Level { drop_tokens }),
            _ => None,
        }
    }

    /// The terms of [`Chained::Levels`], where it could run the rule.
    pub(super) fn level_terms(&self) -> Option<LevelTerms<'_>>
    where
        R: std::ops::Deref<Target: Rule>,
    {
        if !(self.ordered && self.is_one_by_one() && self.plan.follows_levels) {
            return None;
        }
        match self.rule.profile_spec(self.batch) {
            Some(ProfileSpec::Levels(terms)) => Some(terms),
            _ => None,
        }
    }

    /// Whether the best pair is always in the column of the worker whose turn it is.
    pub(super) fn one_column(&self) -> bool {
        let nested = self.plan.nested && self.ordered && self.batch.is_uniform() && !self.batch.is_bounded();
        self.plan.order.is_in_turn() || nested
    }
}
