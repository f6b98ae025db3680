//! Who has left a router and may be known to nobody: the process may end between the answer and what the
//! caller does about it.

use serde::{Deserialize, Serialize};

use crate::batch::Request;
use crate::ids::{RequestId, WorkerId};
use crate::router::{Answer, Call, Returned};

/// Who has left without having finished, by the last plan or since, and has not come again. Whoever makes a
/// step is taken to have done with what was told before it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Untold {
    /// Of the last plan, and of calls since then that have returned requests.
    pub returned: Vec<Returned>,
    /// What [`Router::preempt`](crate::Router::preempt) has answered, to be enqueued as it is.
    pub preempted: Vec<Request<WorkerId>>,
}

impl Untold {
    /// Nobody is among them.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.returned.is_empty() && self.preempted.is_empty()
    }

    /// After a call of the router and its answer.
    #[inline]
    pub(super) fn hear(&mut self, call: &Call<'_>, answer: &Answer<'_>) {
        match call {
            Call::Enqueue { request, .. }
            | Call::Place { request, .. }
            | Call::Send { request, .. }
            | Call::Adopt { request, .. } => self.comes_again(request.id),
            _ => {}
        }
        match answer {
            Answer::Plan(plan) => {
                self.preempted.clear();
                self.returned.clear();
                self.returned.extend_from_slice(&plan.returned);
            }
            Answer::Returned(returned) => self.returned.extend_from_slice(returned),
            Answer::Preempted(request) => self.preempted.push(*request),
            _ => {}
        }
    }

    fn comes_again(&mut self, id: RequestId) {
        if !self.is_empty() {
            self.returned.retain(|returned| returned.id != id);
            self.preempted.retain(|request| request.id != id);
        }
    }
}
