//! Who has left a router and may be known to nobody: the process may end between the answer and what the
//! caller does about it.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::batch::Request;
use crate::ids::{RequestId, WorkerId};
use crate::router::{Answer, Call, Returned};

/// Who has left without having finished, by the last plan or since, and has not come again. Whoever makes a
/// step is taken to have done with what was told before it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Untold {
    returned: Gone<Returned>,
    preempted: Gone<Request<WorkerId>>,
}

/// Those of one kind, in order. All of them may come again, one by one: none is looked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Gone<T> {
    left: Vec<T>,
    /// Behind the last place of each who has not come again.
    last: HashMap<RequestId, usize>,
    /// Before which place each who has come again counts no more.
    again: HashMap<RequestId, usize>,
}

impl<T> Default for Gone<T> {
    fn default() -> Self {
        Self { left: Vec::new(), last: HashMap::new(), again: HashMap::new() }
    }
}

impl<T: Copy> Gone<T> {
    fn clear(&mut self) {
        self.left.clear();
        self.last.clear();
        self.again.clear();
    }

    fn push(&mut self, id: RequestId, of: T) {
        self.left.push(of);
        self.last.insert(id, self.left.len());
    }

    fn comes_again(&mut self, id: RequestId) {
        if let Some(last) = self.last.remove(&id) {
            self.again.insert(id, last);
        }
    }

    fn iter(&self, id_of: impl Fn(&T) -> RequestId) -> impl Iterator<Item = T> {
        let counts = move |&(place, of): &(usize, &T)| {
            self.again.get(&id_of(of)).is_none_or(|&before| place >= before)
        };
        self.left.iter().enumerate().filter(counts).map(|(_, &of)| of)
    }
}

impl Untold {
    /// Of the last plan, and of calls since then that have returned requests, in order.
    pub fn returned(&self) -> impl Iterator<Item = Returned> {
        self.returned.iter(|returned| returned.id)
    }

    /// What [`Router::preempt`](crate::Router::preempt) has answered, to be enqueued as it is.
    pub fn preempted(&self) -> impl Iterator<Item = Request<WorkerId>> {
        self.preempted.iter(|request| request.id)
    }

    /// Nobody is among them.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.returned.last.is_empty() && self.preempted.last.is_empty()
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
                if !self.preempted.left.is_empty() || !self.returned.left.is_empty() {
                    self.preempted.clear();
                    self.returned.clear();
                }
                self.leave(&plan.returned);
            }
            Answer::Returned(returned) => self.leave(returned),
            Answer::Preempted(request) => self.preempted.push(request.id, *request),
            _ => {}
        }
    }

    fn leave(&mut self, returned: &[Returned]) {
        returned.iter().for_each(|&returned| self.returned.push(returned.id, returned));
    }

    fn comes_again(&mut self, id: RequestId) {
        if !self.is_empty() {
            self.returned.comes_again(id);
            self.preempted.comes_again(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_until_it_comes_again_and_anew_when_it_leaves_again() {
        let mut gone = Gone::default();
        let told = |gone: &Gone<(u64, u32)>| gone.iter(|&(id, _)| id.into()).collect::<Vec<_>>();
        for (at, id) in [1, 2, 1, 3].into_iter().enumerate() {
            gone.push(id.into(), (id, at as u32));
        }
        assert_eq!(told(&gone), [(1, 0), (2, 1), (1, 2), (3, 3)]);
        gone.comes_again(1.into());
        gone.comes_again(4.into());
        assert_eq!(told(&gone), [(2, 1), (3, 3)]);
        gone.push(1.into(), (1, 4));
        assert_eq!(told(&gone), [(2, 1), (3, 3), (1, 4)]);
        [1, 2, 3].into_iter().for_each(|id| gone.comes_again(id.into()));
        assert!(told(&gone).is_empty() && gone.last.is_empty());
    }
}
