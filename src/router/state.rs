//! All that a router knows, written and read: what a flight recorder's segment begins with.

use serde::{Deserialize, Serialize};

use crate::account::{Account, Sight, Slab};
use crate::assignment::{Balance, WaitReason};
use crate::batch::Worker;
use crate::bytes::{from_bytes, to_bytes};
use crate::forecast::projection::EventBuckets;
use crate::ids::WorkerId;
use crate::pool::Pool;
use crate::router::claim::Claim;
use crate::router::classes::Credits;
use crate::router::clock::Clock;
use crate::router::forecast_state::ForecastState;
use crate::router::pairs::PairRows;
use crate::router::record::RecordError;
use crate::router::stages::Preempted;
use crate::router::traffic::{Lived, TrafficMeter};
use crate::router::{Counters, Plan, Returned, Router, RouterConfig};

/// Lists the fields once for who writes and who reads; what is not among them is scratch, or is made anew
/// from them.
macro_rules! state {
    ($($field:ident: $of:ty),* $(,)?) => {
        #[derive(Serialize)]
        struct Written<'a> {
            $($field: &'a $of,)*
            explaining: bool,
            foreseen: Option<Foreseen>,
            memory: Vec<u8>,
        }

        #[derive(Deserialize)]
        struct Read {
            $($field: $of,)*
            explaining: bool,
            foreseen: Option<Foreseen>,
            memory: Vec<u8>,
        }

        impl Router {
            fn written(&self) -> Written<'_> {
                Written {
                    $($field: &self.$field,)*
                    explaining: self.explainer.on,
                    foreseen: self.forecast_state.as_ref().map(ForecastState::foreseen),
                    memory: self.policy.memory(),
                }
            }

            fn take_in(&mut self, read: Read) -> Option<()> {
                $(self.$field = read.$field;)*
                self.explainer.on = read.explaining;
                match (&mut self.forecast_state, read.foreseen) {
                    (None, None) => {}
                    (Some(forecast_state), Some(foreseen)) => forecast_state.go_on_from(foreseen)?,
                    _ => return None,
                }
                self.policy.recall(&read.memory).then_some(())
            }
        }
    };
}

state! {
    config: RouterConfig,
    now: i64,
    lived: Lived,
    clock: Clock,
    pool: Pool,
    ids: Vec<WorkerId>,
    workers: Vec<Worker>,
    accounts: Vec<Account>,
    queued: Vec<(u32, u64)>,
    next_id: u32,
    bounded: bool,
    longest_tokens: Option<u64>,
    rescan: bool,
    any_most: bool,
    sight: Sight,
    preempted: Preempted,
    slab: Slab,
    meter: TrafficMeter,
    pair_rows: PairRows,
    passed_over: Option<WaitReason>,
    max_passed: Option<u32>,
    claim: Option<Claim>,
    credits: Credits,
    balance: (Balance, Balance),
    plan: Plan,
    pending: Vec<Returned>,
    counters: Counters,
}

/// What is foreseen of those who run, and by which classifier.
#[derive(Serialize, Deserialize)]
pub(super) struct Foreseen {
    pub(super) buckets: EventBuckets,
    pub(super) phases: Vec<Vec<u32>>,
    pub(super) due: Vec<u32>,
    pub(super) passed: Vec<u32>,
    pub(super) memory: Vec<u8>,
}

impl Router {
    /// The state, for [`Router::go_on_from`] of a router that is built alike.
    pub(crate) fn state(&self) -> Vec<u8> {
        to_bytes(&self.written())
    }

    /// Takes the place of the router that had this state.
    pub(crate) fn go_on_from(&mut self, state: &[u8]) -> Result<(), RecordError> {
        let read = from_bytes(state).and_then(|read| self.take_in(read));
        read.ok_or(RecordError::State { policy: self.policy.name().to_owned() })
    }
}
