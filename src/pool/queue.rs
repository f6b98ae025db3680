//! Who waits behind the candidates: a queue in order of arrival for each rank that requests are bound to, and
//! one for those that are not.
//!
//! A lane is an intrusive list, cut into stretches of neighbours whose least and greatest length are known,
//! so that whoever looks for lengths passes over most of a million at once. Every operation costs what it
//! touches; nothing moves or looks at all that wait.

mod passed;

use std::borrow::BorrowMut;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::entities::limits::MAX_PASSED;
use crate::entities::request::Request;
use crate::ids::{RequestId, WorkerIndex};
use crate::pool::candidates::NONE;
use crate::pool::waiting::Waiting;

/// Most requests of a stretch.
const STRETCH: u32 = 1024;

/// The lane of requests that are bound to no rank.
const UNBOUND: usize = 0;

#[derive(Clone, Debug)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
struct Node {
    waiting: Waiting,
    lane: u32,
    previous: u32,
    next: u32,
}

/// Neighbours of a lane.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
struct Stretch {
    /// Nobody in it arrived before this.
    from: u64,
    first: u32,
    count: u32,
    // Bounds of their lengths, which those who left may have made too wide.
    low: u32,
    high: u32,
    /// What all of them have been passed by since they came here, on top of what each says.
    passed: u32,
}

impl Stretch {
    /// Somebody more stands in it: what it says of how often it was passed, here.
    fn take_in(&mut self, request: &Request) -> u32 {
        let tokens = request.prompt_tokens;
        self.count += 1;
        (self.low, self.high) = (self.low.min(tokens), self.high.max(tokens));
        request.passed.wrapping_sub(self.passed)
    }
}

/// A list in order of arrival.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
struct Lane {
    rank: Option<WorkerIndex>,
    head: u32,
    tail: u32,
    count: usize,
    stretches: VecDeque<Stretch>,
    /// Where a search that goes on in pieces stands: nobody who arrived before.
    searched: u64,
    /// The stretch that was last asked for: who leaves after one another mostly stood beside one another.
    last_stretch: usize,
    /// Whether a stretch has been passed.
    any_passed: bool,
}

impl Lane {
    fn new(rank: Option<WorkerIndex>) -> Self {
        Self {
            rank,
            head: NONE,
            tail: NONE,
            count: 0,
            stretches: VecDeque::new(),
            searched: 0,
            last_stretch: 0,
            any_passed: false,
        }
    }

    fn stretch_of(&mut self, arrival: u64) -> usize {
        let from = |at: usize| self.stretches.get(at).map_or(u64::MAX, |stretch| stretch.from);
        if from(self.last_stretch) > arrival || from(self.last_stretch + 1) <= arrival {
            let after = self.stretches.partition_point(|stretch| stretch.from <= arrival);
            self.last_stretch = after.saturating_sub(1);
        }
        self.last_stretch
    }
}

/// How far a search has come in a lane.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    /// The stretch after the one that it is in.
    stretch: usize,
    /// Whom it looks at next, and how many are left in the stretch.
    node: u32,
    left: u32,
    /// Lengths seen in it, and whether none of them was wanted.
    low: u32,
    high: u32,
    in_vain: bool,
    /// The last whose length was wanted.
    found: u32,
}

/// What a search lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Requests of at most so many tokens.
    AtMost(i64),
    /// Requests of more.
    Above(i64),
}

impl Wanted {
    fn takes(self, tokens: u32) -> bool {
        match self {
            Self::AtMost(limit) => i64::from(tokens) <= limit,
            Self::Above(limit) => i64::from(tokens) > limit,
        }
    }

    /// Whether somebody, and whether everybody, between these lengths is let through.
    fn takes_of(self, stretch: &Stretch) -> (bool, bool) {
        let (low, high) = (self.takes(stretch.low), self.takes(stretch.high));
        (low || high, low && high)
    }
}

/// The next of each lane: its arrival, its lane and its node.
pub(super) type Heads = BinaryHeap<Reverse<(u64, u32, u32)>>;

/// Everybody behind the candidates.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Queue {
    nodes: Vec<Node>,
    vacant: Vec<u32>,
    lanes: Vec<Lane>,
    /// Lanes whose rank is gone.
    spare: Vec<u32>,
    lane_of_rank: Vec<u32>,
    count: usize,
    /// Who has a row of pair terms or a survival class.
    with_terms: usize,
    /// Scratch: the next of each lane, first come first.
    #[cfg_attr(feature = "record", serde(skip))]
    heads: BinaryHeap<Reverse<(u64, u32)>>,
    #[cfg_attr(feature = "record", serde(skip))]
    cursors: Vec<Cursor>,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            vacant: Vec::new(),
            lanes: vec![Lane::new(None)],
            spare: Vec::new(),
            lane_of_rank: Vec::new(),
            count: 0,
            with_terms: 0,
            heads: BinaryHeap::new(),
            cursors: Vec::new(),
        }
    }

    pub(super) fn clear(&mut self) {
        self.nodes.clear();
        self.vacant.clear();
        self.lanes.truncate(1);
        self.lanes[UNBOUND] =
            Lane { stretches: std::mem::take(&mut self.lanes[UNBOUND].stretches), ..Lane::new(None) };
        self.lanes[UNBOUND].stretches.clear();
        self.spare.clear();
        self.lane_of_rank.clear();
        (self.count, self.with_terms) = (0, 0);
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn with_terms(&self) -> usize {
        self.with_terms
    }

    fn lane_for(&mut self, rank: Option<WorkerIndex>) -> usize {
        let Some(rank) = rank else { return UNBOUND };
        if self.lane_of_rank.len() <= rank.index() {
            self.lane_of_rank.resize(rank.index() + 1, NONE);
        }
        if self.lane_of_rank[rank.index()] == NONE {
            let lane = self.spare.pop().unwrap_or(self.lanes.len() as u32);
            if lane as usize == self.lanes.len() {
                self.lanes.push(Lane::new(None));
            }
            self.lanes[lane as usize].rank = Some(rank);
            self.lane_of_rank[rank.index()] = lane;
        }
        self.lane_of_rank[rank.index()] as usize
    }

    /// Puts the youngest of all at the end. Its node, which is its own until it leaves.
    pub(super) fn push(&mut self, waiting: Waiting) -> u32 {
        let index = self.lane_for(waiting.request.rank);
        let node = self.link(waiting, index, NONE);
        let tokens = waiting.request.prompt_tokens;
        let stretches = &mut self.lanes[index].stretches;
        match stretches.back_mut().filter(|last| last.count < STRETCH) {
            Some(last) => self.nodes[node as usize].waiting.request.passed = last.take_in(&waiting.request),
            None => stretches.push_back(Stretch {
                from: waiting.arrival,
                first: node,
                count: 1,
                low: tokens,
                high: tokens,
                passed: 0,
            }),
        }
        node
    }

    /// Links a node before another of a lane, or at its end.
    fn link(&mut self, waiting: Waiting, index: usize, next: u32) -> u32 {
        let previous = self.nodes.get(next as usize).map_or(self.lanes[index].tail, |next| next.previous);
        let entry = Node { waiting, lane: index as u32, previous, next };
        let node = match self.vacant.pop() {
            Some(node) => {
                self.nodes[node as usize] = entry;
                node
            }
            None => {
                self.nodes.push(entry);
                (self.nodes.len() - 1) as u32
            }
        };
        let lane = &mut self.lanes[index];
        match previous {
            NONE => lane.head = node,
            previous => self.nodes[previous as usize].next = node,
        }
        match next {
            NONE => lane.tail = node,
            next => self.nodes[next as usize].previous = node,
        }
        lane.count += 1;
        self.count += 1;
        self.with_terms += usize::from(has_terms(&waiting));
        node
    }

    /// Takes a request out.
    pub(super) fn remove(&mut self, node: u32) -> Waiting {
        let Node { mut waiting, lane, previous, next } = self.nodes[node as usize].clone();
        let lane = &mut self.lanes[lane as usize];
        match previous {
            NONE => lane.head = next,
            previous => self.nodes[previous as usize].next = next,
        }
        match next {
            NONE => lane.tail = previous,
            next => self.nodes[next as usize].previous = previous,
        }
        self.vacant.push(node);
        lane.count -= 1;
        self.count -= 1;
        self.with_terms -= usize::from(has_terms(&waiting));
        waiting.request.rank = lane.rank;
        let at = lane.stretch_of(waiting.arrival);
        let stretch = &mut lane.stretches[at];
        waiting.request.passed = waiting.request.passed.wrapping_add(stretch.passed).min(MAX_PASSED);
        stretch.count -= 1;
        if stretch.first == node {
            stretch.first = next;
        }
        let count = stretch.count;
        if count == 0 {
            lane.stretches.remove(at);
            lane.any_passed &= lane.count > 0;
            return waiting;
        }
        // Neighbours that have become few are one stretch: there are never more of them than of those who
        // wait, by and large.
        let before = at.checked_sub(1).filter(|&before| lane.stretches[before].count + count <= STRETCH / 2);
        let after = Some(at)
            .filter(|&at| lane.stretches.get(at + 1).is_some_and(|next| next.count + count <= STRETCH / 2));
        if let Some(at) = before.or(after)
            && let Some(gone) = lane.stretches.remove(at + 1)
        {
            let stays = &mut lane.stretches[at];
            stays.count += gone.count;
            (stays.low, stays.high) = (stays.low.min(gone.low), stays.high.max(gone.high));
            let more = gone.passed.wrapping_sub(stays.passed);
            let mut node = gone.first;
            for _ in 0..if more == 0 { 0 } else { gone.count } {
                let Node { waiting, next, .. } = &mut self.nodes[node as usize];
                waiting.request.passed = waiting.request.passed.wrapping_add(more);
                node = *next;
            }
        }
        waiting
    }

    /// Takes out the `most` that came first, in order of arrival.
    pub(super) fn take_oldest(&mut self, most: usize, mut take: impl FnMut(Waiting)) {
        if most == 0 || self.count == 0 {
            return;
        }
        let mut heads = std::mem::take(&mut self.heads);
        heads.clear();
        heads.extend(
            (0u32..)
                .zip(&self.lanes)
                .filter(|(_, lane)| lane.head != NONE)
                .map(|(index, lane)| Reverse((self.nodes[lane.head as usize].waiting.arrival, index))),
        );
        for _ in 0..most {
            let Some(Reverse((_, index))) = heads.pop() else { break };
            let head = self.lanes[index as usize].head;
            take(self.remove(head));
            let head = self.lanes[index as usize].head;
            if head != NONE {
                heads.push(Reverse((self.nodes[head as usize].waiting.arrival, index)));
            }
        }
        self.heads = heads;
    }

    /// Everybody in order of arrival; `heads` is scratch.
    pub(super) fn iter<'a>(&'a self, mut heads: impl BorrowMut<Heads> + 'a) -> impl Iterator<Item = Waiting> {
        let head = |index: u32, at: u32| {
            self.nodes.get(at as usize).map(|node| Reverse((node.waiting.arrival, index, at)))
        };
        heads.borrow_mut().clear();
        heads
            .borrow_mut()
            .extend((0u32..).zip(&self.lanes).filter_map(|(index, lane)| head(index, lane.head)));
        std::iter::from_fn(move || {
            let Reverse((_, index, at)) = heads.borrow_mut().pop()?;
            let node = &self.nodes[at as usize];
            heads.borrow_mut().extend(head(index, node.next));
            Some(self.lanes[index as usize].as_it_stands(&node.waiting))
        })
    }

    /// Marks those who leave with the next decision, and gives the id of each to `leaves`, once: of every
    /// lane the first, as long as `is_old` says so.
    pub(super) fn mark_first(
        &mut self,
        is_old: impl Fn(&Waiting) -> bool,
        mut leaves: impl FnMut(RequestId),
    ) {
        for lane in &self.lanes {
            let mut at = lane.head;
            while let Some(node) = self.nodes.get_mut(at as usize)
                && (is_old(&node.waiting) || node.waiting.returned)
            {
                if is_old(&node.waiting) {
                    mark(&mut node.waiting, &mut leaves);
                }
                at = node.next;
            }
        }
    }

    /// Marks everybody who is bound to a rank.
    pub(super) fn mark_bound(&mut self, rank: WorkerIndex, mut leaves: impl FnMut(RequestId)) {
        let lane = self.lane_of_rank.get(rank.index()).copied().unwrap_or(NONE);
        let mut at = self.lanes.get(lane as usize).map_or(NONE, |lane| lane.head);
        while let Some(node) = self.nodes.get_mut(at as usize) {
            mark(&mut node.waiting, &mut leaves);
            at = node.next;
        }
    }

    /// Marks everybody of whom this is true.
    pub(super) fn mark_if(&mut self, is_so: impl Fn(&Request) -> bool, mut leaves: impl FnMut(RequestId)) {
        for lane in &self.lanes {
            let mut at = lane.head;
            while let Some(node) = self.nodes.get_mut(at as usize) {
                if is_so(&node.waiting.bound_to(lane.rank).request) {
                    mark(&mut node.waiting, &mut leaves);
                }
                at = node.next;
            }
        }
    }

    /// Marks everybody longer than the limit of the rank that it is bound to.
    pub(super) fn mark_longer(
        &mut self,
        limit_of: impl Fn(Option<WorkerIndex>) -> Option<i64>,
        mut leaves: impl FnMut(RequestId),
    ) {
        for lane in self.lanes.iter().filter(|lane| lane.count > 0) {
            let Some(wanted) = limit_of(lane.rank).map(Wanted::Above) else { continue };
            for stretch in lane.stretches.iter().filter(|stretch| wanted.takes_of(stretch).0) {
                let mut at = stretch.first;
                for _ in 0..stretch.count {
                    let node = &mut self.nodes[at as usize];
                    if wanted.takes(node.waiting.request.prompt_tokens) {
                        mark(&mut node.waiting, &mut leaves);
                    }
                    at = node.next;
                }
            }
        }
    }

    pub(super) fn unmark(&mut self, node: u32) {
        self.nodes[node as usize].waiting.leaves = false;
    }

    /// How many are wanted, of each rank.
    pub(super) fn count_of_length(&self, rank: Option<WorkerIndex>, wanted: Wanted) -> usize {
        let lane = match rank {
            None => UNBOUND as u32,
            Some(rank) => self.lane_of_rank.get(rank.index()).copied().unwrap_or(NONE),
        };
        let Some(lane) = self.lanes.get(lane as usize) else { return 0 };
        let in_stretch = |stretch: &Stretch| match wanted.takes_of(stretch) {
            (_, true) => stretch.count as usize,
            (false, _) => 0,
            _ => {
                let mut count = 0;
                self.each_of(stretch, |_, waiting| {
                    count += usize::from(wanted.takes(waiting.request.prompt_tokens));
                    true
                });
                count
            }
        };
        lane.stretches.iter().map(in_stretch).sum()
    }

    /// Ranks that somebody is bound to, none for those that are not bound, and how many each has.
    pub(super) fn ranks(&self) -> impl Iterator<Item = (Option<WorkerIndex>, usize)> {
        self.lanes.iter().filter(|lane| lane.count > 0).map(|lane| (lane.rank, lane.count))
    }

    fn each_of(&self, stretch: &Stretch, mut see: impl FnMut(u32, &Waiting) -> bool) {
        let mut at = stretch.first;
        for _ in 0..stretch.count {
            let node = &self.nodes[at as usize];
            if !see(at, &node.waiting) {
                break;
            }
            at = node.next;
        }
    }

    /// Begins a search that goes on in pieces, with those who did not arrive before. Each finds who comes
    /// next in order of arrival.
    pub(super) fn search_from(&mut self, arrival: u64) {
        self.lanes.iter_mut().for_each(|lane| lane.searched = arrival);
    }

    /// Goes on with a search: the next `most` of those whose length is wanted, into `found` in order of
    /// arrival.
    pub(super) fn search(
        &mut self,
        wanted: impl Fn(Option<WorkerIndex>) -> Option<Wanted>,
        most: usize,
        found: &mut Vec<u32>,
    ) {
        found.clear();
        let mut heads = std::mem::take(&mut self.heads);
        heads.clear();
        self.cursors.clear();
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            self.cursors.push(Cursor { stretch: lane.stretch_of(lane.searched), ..Cursor::default() });
            if let Some(wanted) = wanted(lane.rank) {
                heads.extend(self.next_wanted(index, wanted));
            }
        }
        while found.len() < most
            && let Some(Reverse((_, index))) = heads.pop()
        {
            found.push(self.cursors[index as usize].found);
            if let Some(wanted) = wanted(self.lanes[index as usize].rank) {
                heads.extend(self.next_wanted(index as usize, wanted));
            }
        }
        self.search_from(u64::MAX);
        for &Reverse((arrival, index)) in &heads {
            self.lanes[index as usize].searched = arrival;
        }
        self.heads = heads;
    }

    /// The next of a lane whose length is wanted: its arrival and its lane; the cursor says who it is.
    fn next_wanted(&mut self, index: usize, wanted: Wanted) -> Option<Reverse<(u64, u32)>> {
        let (lane, cursor) = (&mut self.lanes[index], &mut self.cursors[index]);
        loop {
            if cursor.left == 0 {
                let stretch = lane.stretches.get(cursor.stretch)?;
                cursor.stretch += 1;
                if wanted.takes_of(stretch).0 {
                    let (node, left) = (stretch.first, stretch.count);
                    *cursor = Cursor { node, left, low: u32::MAX, in_vain: true, ..*cursor };
                    cursor.high = 0;
                }
                continue;
            }
            let at = cursor.node;
            let Node { waiting, next, .. } = &self.nodes[at as usize];
            let tokens = waiting.request.prompt_tokens;
            (cursor.node, cursor.left) = (*next, cursor.left - 1);
            (cursor.low, cursor.high) = (cursor.low.min(tokens), cursor.high.max(tokens));
            let takes = wanted.takes(tokens);
            cursor.in_vain &= !takes;
            if cursor.left == 0 && cursor.in_vain {
                // Its bounds were those of who has left: a later search need not come here in vain.
                let stretch = &mut lane.stretches[cursor.stretch - 1];
                (stretch.low, stretch.high) = (cursor.low, cursor.high);
            }
            if takes && waiting.arrival >= lane.searched && !waiting.leaves {
                cursor.found = at;
                return Some(Reverse((waiting.arrival, index as u32)));
            }
        }
    }

    /// Renames ranks after one is gone to which nobody is bound any more.
    pub(super) fn drop_rank(&mut self, rank: WorkerIndex) {
        if rank.index() >= self.lane_of_rank.len() {
            return;
        }
        let lane = self.lane_of_rank.remove(rank.index());
        if lane != NONE {
            self.lanes[lane as usize].rank = None;
            self.spare.push(lane);
        }
        for (rank, &lane) in (0u32..).zip(&self.lane_of_rank) {
            if lane != NONE {
                self.lanes[lane as usize].rank = Some(WorkerIndex::new(rank));
            }
        }
    }

    #[cfg(test)]
    pub(super) fn stretches(&self) -> usize {
        self.lanes.iter().map(|lane| lane.stretches.len()).sum()
    }

    /// Sets the step at which each began to wait back by as many.
    pub(super) fn shift_steps(&mut self, shift: u32) {
        for node in &mut self.nodes {
            node.waiting.enqueued_step = node.waiting.enqueued_step.saturating_sub(shift);
        }
    }
}

fn has_terms(waiting: &Waiting) -> bool {
    waiting.request.pair_row.is_some() || waiting.request.survival_class.is_some()
}

fn mark(waiting: &mut Waiting, leaves: &mut impl FnMut(RequestId)) {
    if !std::mem::replace(&mut waiting.leaves, true) {
        leaves(waiting.request.id);
    }
}
