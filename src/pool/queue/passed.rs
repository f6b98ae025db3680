//! Who has been passed of those behind the candidates, and who comes back to an old place among them.

use super::{Lane, Node, Queue, UNBOUND};
use crate::entities::limits::MAX_PASSED;
use crate::ids::WorkerIndex;
use crate::pool::candidates::NONE;
use crate::pool::waiting::Waiting;

impl Lane {
    /// Somebody of the lane with what has changed since it came.
    pub(super) fn as_it_stands(&self, waiting: &Waiting) -> Waiting {
        let mut waiting = waiting.bound_to(self.rank);
        if self.any_passed {
            let after = self.stretches.partition_point(|stretch| stretch.from <= waiting.arrival);
            let passed = self.stretches.get(after.saturating_sub(1)).map_or(0, |stretch| stretch.passed);
            waiting.request.passed = waiting.request.passed.wrapping_add(passed).min(MAX_PASSED);
        }
        waiting
    }
}

impl Queue {
    /// Puts somebody in its place in the order of arrival. Its node.
    pub(in crate::pool) fn insert(&mut self, waiting: Waiting) -> u32 {
        let index = self.lane_for(waiting.request.rank);
        let Some(next) = self.next_in(index, waiting.arrival) else { return self.push(waiting) };
        let node = self.link(waiting, index, next);
        let lane = &mut self.lanes[index];
        let at = lane.stretch_of(waiting.arrival);
        let stretch = &mut lane.stretches[at];
        // It stands before the first of its stretch only where it is the first of all.
        if stretch.from > waiting.arrival {
            (stretch.from, stretch.first) = (waiting.arrival, node);
        } else if stretch.first == next {
            stretch.first = node;
        }
        self.nodes[node as usize].waiting.request.passed = stretch.take_in(&waiting.request);
        node
    }

    /// The first of a lane who came after this, if anybody did.
    fn next_in(&self, index: usize, arrival: u64) -> Option<u32> {
        let lane = &self.lanes[index];
        let came = |node: u32| self.nodes[node as usize].waiting.arrival;
        if lane.tail == NONE || came(lane.tail) < arrival {
            return None;
        }
        let at = lane.stretches.partition_point(|stretch| stretch.from <= arrival).saturating_sub(1);
        let mut node = lane.stretches[at].first;
        while came(node) < arrival {
            node = self.nodes[node as usize].next;
        }
        Some(node)
    }

    /// The first who came after this, of those who are bound as it is or not at all.
    pub(in crate::pool) fn younger_than(&self, arrival: u64, rank: Option<WorkerIndex>) -> Option<u32> {
        let lane = match rank {
            None => UNBOUND as u32,
            Some(rank) => self.lane_of_rank.get(rank.index()).copied().unwrap_or(NONE),
        };
        if lane == NONE { None } else { self.next_in(lane as usize, arrival) }
    }

    /// Counts an admission to a worker for those who came before it and may use that worker, by their rank.
    pub(in crate::pool) fn count_pass(&mut self, arrival: u64, worker: WorkerIndex) {
        let bound = self.lane_of_rank.get(worker.index()).copied().filter(|&lane| lane != NONE);
        for index in std::iter::once(UNBOUND).chain(bound.map(|lane| lane as usize)) {
            let lane = &mut self.lanes[index];
            let youngest = self.nodes.get(lane.tail as usize).map_or(0, |node| node.waiting.arrival);
            for at in 0..lane.stretches.len() {
                if lane.stretches[at].from > arrival {
                    break;
                }
                let before =
                    lane.stretches.get(at + 1).map_or(youngest < arrival, |next| next.from <= arrival);
                if before {
                    lane.any_passed = true;
                    lane.stretches[at].passed += 1;
                    continue;
                }
                let (mut node, count) = (lane.stretches[at].first, lane.stretches[at].count);
                for _ in 0..count {
                    let Node { waiting, next, .. } = &mut self.nodes[node as usize];
                    if waiting.arrival > arrival {
                        break;
                    }
                    waiting.request.passed = waiting.request.passed.wrapping_add(1);
                    node = *next;
                }
            }
        }
    }

    /// Somebody with what has changed since it came.
    pub(in crate::pool) fn as_it_stands(&self, node: u32) -> Waiting {
        let Node { waiting, lane, .. } = &self.nodes[node as usize];
        self.lanes[*lane as usize].as_it_stands(waiting)
    }

    /// Among these is whoever has waited longest: of each lane the first, and who comes after one that has
    /// come back.
    pub(in crate::pool) fn oldest(&self) -> impl Iterator<Item = &Waiting> {
        self.lanes.iter().flat_map(move |lane| {
            let mut at = lane.head;
            std::iter::from_fn(move || {
                let node = self.nodes.get(at as usize)?;
                at = if node.waiting.returned { node.next } else { NONE };
                Some(&node.waiting)
            })
        })
    }

    /// How often somebody has been passed.
    pub(in crate::pool) fn passed(&self, node: u32) -> u32 {
        self.as_it_stands(node).request.passed
    }
}
