//! What a rule is: how a greedy assignment runs for one batch, and the profile of each worker that it scores
//! by.
//!
//! The policies ([`crate::policy`]) are rules with a name; the backends ([`crate::backend`]) and the oracle
//! ([`mod@crate::reference`]) run any rule and know none by name.

use crate::assignment::WaitReason;
use crate::batch::{Batch, MAX_WAITING};
use crate::names::names;
use crate::pool::PoolSlot;
use crate::score::{Age, Knot, Profile, Unit};

/// What a policy wants to know about running requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Forecast {
    /// Output lengths given tokens generated so far, learned from finished requests.
    Survival,
    /// Output lengths per prompt hash, falling back to survival.
    ExactMatch,
    /// The true lengths: for study only.
    Oracle,
}

names! {
    Forecast, "forecast":
    Survival = "survival",
    ExactMatch = "exactmatch",
    Oracle = "oracle",
}

/// What a caller must supply for a policy to work as meant; without it the policy falls back to what it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Needs {
    /// Requests are bound to a rank when they arrive ([`crate::policy::Policy::bind`]).
    pub binds_on_arrival: bool,
    /// Which forecast feeds the projection or the predicted ends.
    pub forecast: Option<Forecast>,
    /// Projected loads over this horizon in steps, at most [`crate::batch::MAX_HORIZON`]
    /// ([`crate::batch::Projection`]).
    pub projection_horizon: Option<usize>,
    /// Predicted ends this many completions ahead per worker ([`crate::batch::PredictedEnds`]).
    pub ends_per_worker: Option<usize>,
    /// How many of the oldest requests it chooses among ([`crate::Pool::with_window`]); none for
    /// [`crate::pool::CANDIDATE_WINDOW`].
    pub candidate_window: Option<usize>,
}

setters!(Needs {
    binds_on_arrival: bool,
    forecast: Option<Forecast>,
    projection_horizon: Option<usize>,
    ends_per_worker: Option<usize>,
    candidate_window: Option<usize>,
});

/// In which order workers choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// The best score of the whole matrix. A profile may then depend on the worker's own load and row and on
    /// the envelopes only: it is made again when these change.
    Matrix,
    /// The least-loaded open worker takes its best request.
    LeastLoaded,
    /// The worker with most open slots (then the least load, then the lowest index) takes its best request
    /// while slots are plenty, and its best subset of a few requests once they are scarce.
    MostOpenSlots(SubsetStage),
    /// As many of the earliest requests that some worker may take as slots are open, longest first (then
    /// earliest), each to the least-loaded worker that may take it; again until nobody fits. Bonuses count
    /// neither in the choice nor in the score.
    LongestFirst {
        /// Whether of equally loaded workers the one with fewer requests is the first, for overdue requests
        /// as well. The lowest index decides after that.
        fewest_requests: bool,
    },
}

impl Order {
    /// Whether each admission looks at one worker only.
    pub(crate) fn is_in_turn(self) -> bool {
        self != Self::Matrix
    }

    /// Whether requests are looked at in order of arrival.
    pub(crate) fn scans_arrivals(self) -> bool {
        matches!(self, Self::MostOpenSlots(_) | Self::LongestFirst { .. })
    }
}

/// When slots are scarce, and which subsets a worker then chooses among.
///
/// A subset is worth the profile's score at the sum of its lengths, plus what ages and bonuses add for
/// each request; survival classes play no part. The greatest score wins, if it is above zero: of equals the
/// smallest subset, then the one with the earlier requests. Where no subset is worth more than nothing, the
/// best single request goes in, so that a request waits only for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubsetStage {
    /// Open slots over all workers above which slots are plenty; default 0: then no subset is ever tried.
    pub greedy_slots: u32,
    /// Requests that subsets are made of, the best of the window, 1..=8; default 1.
    pub subset_window: usize,
    /// The window: so many of the earliest requests that the worker may take, at least 1; default all.
    pub candidate_window: usize,
}

/// Greatest [`SubsetStage::subset_window`]: 256 subsets.
pub const MAX_SUBSET_WINDOW: usize = 8;

impl Default for SubsetStage {
    fn default() -> Self {
        Self { greedy_slots: 0, subset_window: 1, candidate_window: MAX_WAITING }
    }
}

setters!(SubsetStage { greedy_slots: u32, subset_window: usize, candidate_window: usize });

impl SubsetStage {
    /// The stage with its windows in their ranges.
    pub(crate) fn in_range(self) -> Self {
        Self {
            subset_window: self.subset_window.clamp(1, MAX_SUBSET_WINDOW),
            candidate_window: self.candidate_window.max(1),
            ..self
        }
    }
}

/// How the picks of a step are improved together once all are made. By default they are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repair {
    /// Passes over all picks, at most; zero for none.
    pub rounds: u32,
    /// A pick is left as it is while the length wanted ([`Rule::wanted_tokens`]) has moved by at most this
    /// many tokens since it was chosen. None looks at every pick again, and so does [`Order::Matrix`].
    pub tolerance_tokens: Option<i64>,
    /// What swaps of two picks on two workers lower; none where picks stay on their workers.
    pub swap: Option<PairCost>,
    /// Whether no worker gets more than one pick. Then all swaps are one reassignment in sorted order: the
    /// longest pick to the worker that lies lowest without its own, which lowers every convex cost as far as
    /// swaps can. Only if each fits; otherwise picks are swapped in pairs.
    pub one_each: bool,
}

setters!(Repair { rounds: u32, tolerance_tokens: Option<i64>, swap: Option<PairCost>, one_each: bool });

/// What a pair of workers costs, given their anticipated loads `L`; a swap of picks must lower it. Data, not
/// code, so that the engine can rule out most pairs at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PairCost {
    /// The envelope: the greatest load of all.
    Envelope,
    /// The sum over both of `|G * L - sum of all + offset| + overflow_weight * max(0, L - greatest load
    /// outside the pair)`.
    Level {
        /// How far below the common level each worker is wanted, times `G`.
        offset: i64,
        /// Cost of a token above everybody else.
        overflow_weight: i64,
    },
}

impl PairCost {
    /// The cost of the pair when its loads are `first` and `second`.
    #[must_use]
    pub fn of(&self, pair: &PairView, first: i64, second: i64) -> i64 {
        match *self {
            Self::Envelope => first.max(second).max(pair.rest_max.unwrap_or(first)),
            Self::Level { offset, overflow_weight } => {
                let cost = |load: i64| {
                    (pair.workers * load - pair.sum + offset).abs()
                        + overflow_weight * pair.rest_max.map_or(0, |rest| (load - rest).max(0))
                };
                cost(first) + cost(second)
            }
        }
    }
}

/// How a greedy assignment runs for one batch: what a [`Rule`] decides before the first pick.
///
/// By default the least-loaded worker chooses first, a score unit is a token, being passed adds nothing, and
/// no pick is looked at again.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Plan {
    /// In which order workers choose.
    pub order: Order,
    /// Whether, on a uniform cluster, no score falls as the worker's load falls: the best pair is then on the
    /// least-loaded worker. A promise about the profiles; where it is not kept the engine and the oracle
    /// differ.
    pub nested: bool,
    /// Score units per token, 1..=2^28; zero or less counts as 1.
    pub unit: Unit,
    /// What being passed adds.
    pub age: Age,
    /// Who has been passed by so many goes first, in order of arrival, each to the least-loaded worker; none
    /// for no such bound. Before them go those past a deadline of their own.
    pub max_passed: Option<u32>,
    /// Tokens that a free slot is expected to receive: counted in anticipated loads.
    pub refill_tokens: i64,
    /// A floor of the envelope in cost units (the anticipated envelope of a burst).
    pub envelope_floor: i64,
    /// Whether profiles are made from the loads of all others ([`View::others`]): these are kept in order
    /// only then.
    pub follows_levels: bool,
    /// Whether profiles are made from the envelope: [`View::envelope`] and [`View::envelope_row`] follow the
    /// admissions only then. A rule that reads either must not say false: its picks would be made for loads
    /// that the step has left behind, and the engine and the oracle might differ.
    pub follows_envelope: bool,
    /// The joint improvement of the picks.
    pub repair: Repair,
    /// What a request is told that could still be placed.
    pub passed_over: Option<WaitReason>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            order: Order::LeastLoaded,
            nested: false,
            unit: 1,
            age: Age::default(),
            max_passed: None,
            refill_tokens: 0,
            envelope_floor: 0,
            follows_levels: false,
            follows_envelope: true,
            repair: Repair::default(),
            passed_over: None,
        }
    }
}

setters!(Plan {
    order: Order,
    nested: bool,
    unit: Unit,
    age: Age,
    max_passed: Option<u32>,
    refill_tokens: i64,
    envelope_floor: i64,
    follows_levels: bool,
    follows_envelope: bool,
    repair: Repair,
    passed_over: Option<WaitReason>,
});

impl Plan {
    /// The plan in its ranges, without what has no effect in its order.
    pub(crate) fn settled(mut self) -> Self {
        self.unit = self.unit.max(1);
        if !self.order.is_in_turn() {
            self.repair.tolerance_tokens = None;
        }
        self
    }
}

/// The loads around one worker, as the admissions of this step have left them. Cost units are tokens times
/// the worker's cost per token.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct View<'a> {
    /// Number of workers, `G`.
    pub workers: i64,
    /// This worker.
    pub worker: usize,
    /// Its load in cost units.
    pub cost: i64,
    /// Cost units of one token on it.
    pub cost_per_token: i64,
    /// Slots of it that are still open.
    pub open_slots: i64,
    /// The envelope: the greatest load, at least the plan's floor.
    pub envelope: i64,
    /// Its anticipated load: load + load offset + open slots * refill.
    pub anticipated: i64,
    /// Sum of the anticipated loads of all others.
    pub others_sum: i64,
    /// Greatest anticipated load of all others; its own if there are none.
    pub others_max: i64,
    /// Its projected loads in cost units, `H + 1` entries; empty without a projection.
    pub row: &'a [i64],
    /// The envelope at each of those steps.
    pub envelope_row: &'a [i64],
    /// The anticipated loads of all, greatest first, and which of them is its own.
    pub(crate) levels: &'a [i64],
    pub(crate) level: i64,
}

impl View<'_> {
    /// The anticipated loads of all others, greatest first, where the plan asks for them
    /// ([`Plan::follows_levels`]).
    pub fn others(&self) -> impl Iterator<Item = i64> {
        let own = self.level_at();
        let others = self.levels.iter().enumerate().filter(move |&(at, _)| at != own);
        others.map(|(_, &level)| level)
    }

    /// The least of the same.
    #[must_use]
    pub fn others_min(&self) -> Option<i64> {
        match self.levels {
            [.., next, last] => Some(if *last == self.level { *next } else { *last }),
            _ => None,
        }
    }

    /// Its own place among all levels, or that of an equal.
    pub(crate) fn level_at(&self) -> usize {
        self.levels.partition_point(|&level| level > self.level)
    }
}

/// A pair of workers whose picks might be swapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairView {
    /// Number of workers, `G`.
    pub workers: i64,
    /// Sum of all anticipated loads.
    pub sum: i64,
    /// Greatest anticipated load outside the pair, if there is anybody.
    pub rest_max: Option<i64>,
}

/// A request that enters a given worker before all others, if it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The waiting request.
    pub slot: PoolSlot,
    /// The worker.
    pub worker: usize,
}

/// How a rule's profiles follow from the loads, as data: a device that knows it goes on after an admission
/// without the host. Weights and slopes count per cost unit.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum ProfileSpec<'a> {
    /// `slope * s - weight * max(0, s - (envelope - load))`.
    Margin {
        /// Score units per cost unit of length.
        slope: i64,
        /// Score units lost per cost unit past the margin.
        weight: i64,
    },
    /// The margin of each projected step `h` with `alpha * d_h` and `beta * d_h`, each rounded to the
    /// nearest.
    Lookahead {
        /// Discount of each step.
        discounts: &'a [i64],
        /// Worth of a token that fits.
        alpha: f64,
        /// Price of a token past the margin.
        beta: f64,
        /// Whether a request's survival class scales the discounts.
        by_class: bool,
    },
    /// level: `-|s - t| - (G - 1) * max(0, s - (greatest load of the others - own))`.
    Level {
        /// Tokens by which a completion must lower its worker.
        drop_tokens: i64,
    },
    /// level with the terms of the pool: below the length wanted a token gains a unit, past it `fall` are
    /// lost, past the k-th highest of the others `rises[k - 1] - rises[k]`, and a short request is kept for
    /// later at a price.
    Levels(LevelTerms<'a>),
}

/// What [`ProfileSpec::Levels`] is made of. Units are score units where tokens cost alike; elsewhere each
/// counts times the worker's weight, rounded towards zero, and loads as the tokens that cost as much there,
/// rounded down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LevelTerms<'a> {
    /// The length wanted: `mean * (mean of the others - own) + least * (least of the others - own) + base`,
    /// over 2^16, to the nearest token; `own` is the anticipated load without the slot to fill.
    pub mean: i64,
    /// See `mean`.
    pub least: i64,
    /// See `mean`.
    pub base: i64,
    /// Units that a token past the length wanted costs.
    pub fall: i64,
    /// Units that a token costs while `k - 1` others lie higher, for each `k` from 1 on; descending, the last
    /// is zero.
    pub rises: &'a [i64],
    /// Units that the shortest request costs, and what each token then gives back.
    pub reserve: (i64, i64),
    /// Where it gives back less.
    pub reserve_knots: &'a [Knot],
}

impl LevelTerms<'_> {
    /// The length wanted, given the distances of the mean and the least of the others.
    #[inline(always)]
    pub(crate) fn wanted(&self, mean: i64, least: i64) -> i64 {
        (self.mean * mean + self.least * least + self.base + (1 << 15)) >> 16
    }
}

/// What a token is worth in a step of [`ProfileSpec::Lookahead`], and what it costs past the margin, where a
/// request still runs with this probability. Each is rounded to the nearest, which for what is not negative
/// takes no call.
pub(crate) fn step_weights((alpha, beta): (f64, f64), discount: i64, survival: f64) -> (i64, i64) {
    let weight = discount as f64 * survival;
    ((alpha * weight + 0.5) as i64, (beta * weight + 0.5) as i64)
}

/// A greedy rule: what a profile is made of. [`crate::policy::from_rule`] makes a policy of one.
pub trait Rule {
    /// What it wants to be given beside loads and lengths.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Looks at the batch once and fixes the plan. `load_offsets` is empty, and stays so or gets an entry per
    /// worker: cost units to add to its anticipated load.
    fn begin(&mut self, batch: &Batch<'_>, load_offsets: &mut Vec<i64>) -> Plan;

    /// Makes the profile of one worker in `profile`, which is empty, for requests of the given survival
    /// class.
    fn profile(&self, view: &View<'_>, class: Option<&[f32]>, profile: &mut Profile);

    /// The length that a worker wants, by which the repair tells whether a pick must be looked at again
    /// ([`Repair::tolerance_tokens`]); none for the peak of its profile.
    fn wanted_tokens(&self, _view: &View<'_>) -> Option<i64> {
        None
    }

    /// By how many score units any score rises at most when an envelope rises by one cost unit: first the
    /// envelope of today, then one weight for each of `steps` projected ones. False when the rule cannot
    /// tell: every worker is then looked at again.
    fn envelope_weights(&self, _workers: i64, _steps: usize, _weights: &mut Vec<i64>) -> bool {
        false
    }

    /// What [`Rule::profile`] makes for a batch after [`Rule::begin`], as data; none where only the rule can
    /// say.
    fn profile_spec(&self, _batch: &Batch<'_>) -> Option<ProfileSpec<'_>> {
        None
    }

    /// Requests that enter a worker that was kept for them, after [`Rule::begin`].
    fn pins(&self) -> &[Pin] {
        &[]
    }

    /// How many of a column's best requests [`Rule::judge`] chooses among; one for none. Nobody judges with
    /// [`Order::Matrix`], nor a subset.
    fn candidates(&self) -> usize {
        1
    }

    /// Chooses among a column's best requests, given by length, best score first: an index into `tokens`; one
    /// past them stands for the first. `costs` and `open_slots` are each worker's load and open slots as
    /// things stand.
    fn judge(
        &mut self,
        _batch: &Batch<'_>,
        _costs: &[i64],
        _open_slots: &[i64],
        _worker: usize,
        _tokens: &[i64],
    ) -> usize {
        0
    }
}
