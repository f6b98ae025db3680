//! Predicted ends of running requests in event buckets: projected loads and next completions without looking
//! at every request.
//!
//! A request with a predicted end sits in its worker's bucket of that step; one predicted past the window
//! sits in none. A step reads the buckets of its horizon, so it costs O(workers * horizon) plus the ends
//! within it, however many requests run.

use crate::batch::PredictedEnd;
use crate::ids::WorkerIndex;

const NONE: u32 = u32::MAX;

/// A prediction as it stands, for [`EventBuckets::restore`].
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Node {
    worker: u32,
    /// KV tokens minus the step of the count: constant while it grows by a token a step.
    base_tokens: i64,
    /// The bucket that it sits in, if any.
    end_step: Option<u64>,
    previous: u32,
    next: u32,
}

/// Event buckets of all workers.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub struct EventBuckets {
    window: u64,
    /// What the caller asked for; the ring has room for at least one step more.
    window_steps: u32,
    nodes: Vec<Node>,
    heads: Vec<u32>,
    /// One bit per bucket that holds somebody.
    busy: Vec<u64>,
    words: usize,
    now: u64,
}

impl EventBuckets {
    /// Buckets for ends up to `window_steps` ahead (at least 1), for a number of workers.
    #[must_use]
    pub fn new(workers: usize, window_steps: u32) -> Self {
        let window = (u64::from(window_steps.max(1)) + 1).next_multiple_of(64);
        let words = (window / 64) as usize;
        Self {
            window,
            window_steps: window_steps.max(1),
            nodes: Vec::new(),
            heads: vec![NONE; workers * window as usize],
            busy: vec![0; workers * words],
            words,
            now: 0,
        }
    }

    /// Steps ahead that a bucket exists for.
    #[must_use]
    pub fn window_steps(&self) -> u32 {
        self.window_steps
    }

    fn bucket(&self, worker: u32, step: u64) -> usize {
        worker as usize * self.window as usize + (step % self.window) as usize
    }

    fn mark(&mut self, worker: u32, step: u64, busy: bool) {
        let at = (step % self.window) as usize;
        let word = &mut self.busy[worker as usize * self.words + at / 64];
        if busy { *word |= 1 << (at % 64) } else { *word &= !(1 << (at % 64)) }
    }

    /// Sets the predicted end of a running request, `in_steps` from now (at least 1); `None`, or past the
    /// window, for none. `index` is the caller's small integer for it; `kv_tokens` is what it holds now.
    pub fn set(&mut self, index: u32, worker: impl Into<WorkerIndex>, kv_tokens: u64, in_steps: Option<u32>) {
        let worker = worker.into().get();
        self.remove(index);
        let node = Node {
            worker,
            base_tokens: kv_tokens as i64 - self.now as i64,
            end_step: in_steps
                .map(|steps| u64::from(steps.max(1)))
                .filter(|&steps| steps < self.window)
                .map(|steps| self.now + steps),
            previous: NONE,
            next: NONE,
        };
        if index as usize >= self.nodes.len() {
            self.nodes.resize(index as usize + 1, Node { end_step: None, ..node });
        }
        self.nodes[index as usize] = node;
        let Some(step) = node.end_step else { return };
        let bucket = self.bucket(worker, step);
        let head = std::mem::replace(&mut self.heads[bucket], index);
        self.nodes[index as usize].next = head;
        match head {
            NONE => self.mark(worker, step, true),
            head => self.nodes[head as usize].previous = index,
        }
    }

    /// Takes a request out of its bucket; unknown indices are fine.
    pub fn remove(&mut self, index: u32) {
        let Some(node) = self.nodes.get_mut(index as usize) else { return };
        let Some(step) = node.end_step.take() else { return };
        let Node { worker, previous, next, .. } = *node;
        let bucket = self.bucket(worker, step);
        match previous {
            NONE => self.heads[bucket] = next,
            previous => self.nodes[previous as usize].next = next,
        }
        if next != NONE {
            self.nodes[next as usize].previous = previous;
        }
        if self.heads[bucket] == NONE {
            self.mark(worker, step, false);
        }
    }

    /// What is predicted for a request.
    pub(crate) fn prediction(&self, index: u32) -> Option<Node> {
        self.nodes.get(index as usize).copied()
    }

    /// Steps to the predicted end of a request, if one is predicted.
    pub(crate) fn ends_in(&self, index: u32) -> Option<u32> {
        let end = self.nodes.get(index as usize)?.end_step?;
        Some(end.saturating_sub(self.now).min(self.window) as u32)
    }

    /// Takes back what [`EventBuckets::set`] has changed of a request since [`EventBuckets::prediction`], the
    /// last change first: everything is then as it was, the order within a bucket as well.
    pub(crate) fn restore(&mut self, index: u32, prediction: Node) {
        self.remove(index);
        self.nodes[index as usize] = prediction;
        let Node { worker, end_step: Some(step), previous, next, .. } = prediction else { return };
        match previous {
            NONE => {
                let bucket = self.bucket(worker, step);
                self.heads[bucket] = index;
            }
            previous => self.nodes[previous as usize].next = index,
        }
        if next != NONE {
            self.nodes[next as usize].previous = index;
        }
        self.mark(worker, step, true);
    }

    /// Lets a step pass, and collects into `due` the requests that were predicted to have ended by now: they
    /// need a new prediction.
    pub fn advance(&mut self, due: &mut Vec<u32>) {
        due.clear();
        self.now += 1;
        let workers = self.heads.len() / self.window as usize;
        for worker in 0..workers as u32 {
            let mut at = self.heads[self.bucket(worker, self.now)];
            while at != NONE {
                due.push(at);
                at = self.nodes[at as usize].next;
            }
        }
    }

    /// Lets many steps pass at once, unseen: whoever was predicted to end by then should be set again.
    pub fn skip(&mut self, steps: u64) {
        self.now += steps;
    }

    /// One worker more, the last one.
    pub fn add_worker(&mut self) {
        self.heads.resize(self.heads.len() + self.window as usize, NONE);
        self.busy.resize(self.busy.len() + self.words, 0);
    }

    /// Takes a worker out; those after it move up. Its requests must have been removed.
    pub fn remove_worker(&mut self, worker: usize) {
        let window = self.window as usize;
        self.heads.drain(worker * window..(worker + 1) * window);
        self.busy.drain(worker * self.words..(worker + 1) * self.words);
        for node in &mut self.nodes {
            if node.worker as usize > worker {
                node.worker -= 1;
            }
        }
    }

    /// Calls `visit(steps, kv_tokens_then)` for the predicted ends of a worker within `horizon` steps, in
    /// order of time, until it says no.
    fn walk(&self, worker: usize, horizon: u64, mut visit: impl FnMut(u32, u64) -> bool) {
        let horizon = horizon.min(self.window - 1);
        let busy = &self.busy[worker * self.words..(worker + 1) * self.words];
        let mut steps = 1;
        while steps <= horizon {
            let at = (self.now + steps) % self.window;
            let rest = busy[(at / 64) as usize] >> (at % 64);
            if rest == 0 {
                steps += 64 - at % 64;
                continue;
            }
            steps += u64::from(rest.trailing_zeros());
            if steps > horizon {
                return;
            }
            let mut node = self.heads[self.bucket(worker as u32, self.now + steps)];
            while node != NONE {
                let Node { base_tokens, next, .. } = self.nodes[node as usize];
                let then = base_tokens + (self.now + steps) as i64;
                if !visit(steps as u32, then.max(0) as u64) {
                    return;
                }
                node = next;
            }
            steps += 1;
        }
    }

    /// Appends the projected loads of a worker for `h` in `0..=horizon`: what runs now grows by a token a
    /// step, and counts until its predicted end.
    pub fn project(&self, worker: usize, load_tokens: u64, running: u32, horizon: usize, row: &mut Vec<u64>) {
        let (mut load, mut alive) = (load_tokens, u64::from(running));
        let mut h = 0u64;
        let start = row.len();
        self.walk(worker, horizon as u64, |steps, tokens| {
            while h < u64::from(steps) {
                row.push(load);
                load += alive;
                h += 1;
            }
            load = load.saturating_sub(tokens);
            alive = alive.saturating_sub(1);
            true
        });
        while row.len() <= start + horizon {
            row.push(load);
            load += alive;
        }
    }

    /// Appends the next predicted ends of a worker, at most `most`, in order of time.
    pub fn next_ends(&self, worker: usize, most: usize, ends: &mut Vec<PredictedEnd>) {
        let enough = ends.len() + most;
        if most == 0 {
            return;
        }
        self.walk(worker, self.window, |in_steps, freed_tokens| {
            ends.push(PredictedEnd { in_steps, freed_tokens });
            ends.len() < enough
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition: every running request looked at for every step.
    fn naive(running: &[(u32, u64, Option<u64>)], worker: u32, now: u64, h: u64) -> u64 {
        running
            .iter()
            .filter(|&&(on, _, end)| on == worker && end.is_none_or(|end| end > now + h))
            .map(|&(_, kv, _)| kv + h)
            .sum()
    }

    #[test]
    fn equals_looking_at_every_request() {
        let mut seed = 11u64;
        let mut next = |bound: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % bound
        };
        let (workers, horizon) = (3usize, 40usize);
        let mut buckets = EventBuckets::new(workers, 100);
        // (worker, KV now, predicted end) by index; None where nobody runs.
        let mut running: Vec<Option<(u32, u64, Option<u64>)>> = vec![None; 50];
        let mut due = Vec::new();
        for now in 0..2000u64 {
            for _ in 0..3 {
                let index = next(50) as u32;
                if running[index as usize].is_some() && next(2) == 0 {
                    running[index as usize] = None;
                    buckets.remove(index);
                    continue;
                }
                let (worker, kv) =
                    running[index as usize].map_or((next(3) as u32, next(500)), |(w, kv, _)| (w, kv));
                let steps = (next(4) > 0).then(|| 1 + next(160) as u32);
                buckets.set(index, worker, kv, steps);
                let end = steps.filter(|&s| u64::from(s) < buckets.window).map(|s| now + u64::from(s));
                running[index as usize] = Some((worker, kv, end));
            }
            let all: Vec<_> = running.iter().flatten().copied().collect();
            for worker in 0..workers {
                let load = naive(&all, worker as u32, now, 0);
                let alive = all.iter().filter(|r| r.0 as usize == worker).count() as u32;
                let mut row = Vec::new();
                buckets.project(worker, load, alive, horizon, &mut row);
                let expected: Vec<u64> =
                    (0..=horizon as u64).map(|h| naive(&all, worker as u32, now, h)).collect();
                assert_eq!(row, expected, "worker {worker} at {now}");

                let mut ends = Vec::new();
                buckets.next_ends(worker, 5, &mut ends);
                let mut expected: Vec<(u64, u64)> = all
                    .iter()
                    .filter(|r| r.0 as usize == worker)
                    .filter_map(|&(_, kv, end)| Some((end? - now, kv + end? - now)))
                    .collect();
                expected.sort_unstable();
                assert_eq!(ends.len(), expected.len().min(5));
                assert!(ends.iter().zip(&expected).all(|(a, b)| u64::from(a.in_steps) == b.0));
            }
            buckets.advance(&mut due);
            running.iter_mut().flatten().for_each(|request| request.1 += 1);
            for &index in &due {
                let request = running[index as usize].as_mut().expect("it runs");
                assert_eq!(request.2, Some(now + 1));
                request.2 = None;
                buckets.set(index, request.0, request.1, None);
            }
            assert!(running.iter().flatten().all(|r| r.2.is_none_or(|end| end > now + 1)));
        }
    }

    #[test]
    fn workers_join_and_leave_without_a_trace_in_the_others() {
        let mut buckets = EventBuckets::new(3, 100);
        let mut due = Vec::new();
        for index in 0..30u32 {
            buckets.set(index, index % 3, u64::from(100 + index), Some(1 + index * 7 % 40));
            if index % 5 == 0 {
                buckets.advance(&mut due);
            }
        }
        let rows = |buckets: &EventBuckets, worker: usize| {
            let mut row = Vec::new();
            buckets.project(worker, 5_000, 10, 60, &mut row);
            row
        };
        let (first, last) = (rows(&buckets, 0), rows(&buckets, 2));
        (0..30).filter(|index| index % 3 == 1).for_each(|index| buckets.remove(index));
        buckets.remove_worker(1);
        assert_eq!((rows(&buckets, 0), rows(&buckets, 1)), (first, last));
        buckets.add_worker();
        assert!(rows(&buckets, 2).windows(2).all(|pair| pair[1] == pair[0] + 10), "nobody ends there");
        // Requests of the one that moved up can still be taken out, and the last one be used.
        (0..30).filter(|index| index % 3 == 2).for_each(|index| buckets.remove(index));
        assert!(rows(&buckets, 1).windows(2).all(|pair| pair[1] == pair[0] + 10));
        buckets.set(40, 2, 300, Some(5));
        assert_eq!(rows(&buckets, 2)[5], 5_000 + 50 - 305);
    }
}
