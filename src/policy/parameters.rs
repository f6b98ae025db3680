//! Parameters of every family of policies.

use crate::backend::BackendKind;
use crate::backend::ascend::AscendParameters;
use crate::backend::cpu::Isa;
use crate::policy::balance_route::BalanceRouteParameters;
use crate::policy::baseline::BaselineParameters;
use crate::policy::exact::ExactParameters;
use crate::policy::level::LevelParameters;
use crate::pool::CANDIDATE_WINDOW;

/// Parameters of every family; each policy reads its own.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Parameters {
    /// Seeds the policies that draw at random.
    pub seed: u64,
    /// Oldest waiting requests that a decision chooses among, 1..=1048576; default 4096, for every policy.
    pub candidate_window: usize,
    /// By how many that came later a request may be passed before it is next, under `level*`, `exact*` and
    /// `rollout-oracle`: to workers that it may use, and while none of them has a slot and room for it. None
    /// for [`PASSED_PER_WORKER`](crate::policy::overtaking::PASSED_PER_WORKER) for each worker; 0 is first
    /// come, first served. In a [`Router`](crate::Router) one that is next and fits nowhere gets a worker
    /// drained.
    pub max_passed: Option<u32>,
    /// The policies of engines in use.
    pub baseline: BaselineParameters,
    /// `br0`, `brh-survival`, `brh-exactmatch`, `brh-oracle`.
    pub balance_route: BalanceRouteParameters,
    /// `exact`, `exact-survival`, `exact-oracle`.
    pub exact: ExactParameters,
    /// `level`, `level-exactmatch`, `level-oracle`, `rollout-oracle`.
    pub level: LevelParameters,
    /// The instruction set of the kernels; none for what `BALANCEROUTE_ISA` says, or else the best that the
    /// CPU has.
    #[cfg_attr(feature = "record", serde(skip))]
    pub isa: Option<Isa>,
    /// Who evaluates: `auto`, `cpu`, `ascend` or `reference`.
    #[cfg_attr(feature = "record", serde(skip))]
    pub backend: BackendKind,
    /// Where the Ascend runtime and its kernel are, and how long to wait; for the backends `ascend` and
    /// `auto`.
    #[cfg_attr(feature = "record", serde(skip))]
    pub ascend: AscendParameters,
    /// What only tests and measurements switch.
    #[cfg_attr(feature = "record", serde(skip))]
    #[doc(hidden)]
    pub testing: Testing,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            seed: 0,
            candidate_window: CANDIDATE_WINDOW,
            max_passed: None,
            baseline: Default::default(),
            balance_route: Default::default(),
            exact: Default::default(),
            level: Default::default(),
            isa: None,
            backend: BackendKind::default(),
            ascend: Default::default(),
            testing: Testing::default(),
        }
    }
}

setters!(Parameters {
    seed: u64,
    candidate_window: usize,
    max_passed: Option<u32>,
    baseline: BaselineParameters,
    balance_route: BalanceRouteParameters,
    exact: ExactParameters,
    level: LevelParameters,
    isa: Option<Isa>,
    backend: BackendKind,
    ascend: AscendParameters,
});

/// Switches for tests and measurements: they change the way to an answer, never the answer. Not part of the
/// interface; they come and go with what they test.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Testing {
    /// Whether the backend `auto` searches columns by length wherever that is possible, also where the matrix
    /// is faster.
    pub search_by_length: bool,
}

impl Parameters {
    /// Sets the switches of [`Testing`].
    #[doc(hidden)]
    #[must_use]
    pub fn testing(mut self, search_by_length: bool) -> Self {
        self.testing = Testing { search_by_length };
        self
    }
}
