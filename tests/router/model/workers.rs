//! Workers join, are announced, change, drain, fail; and what their engines do.

use balanceroute::{RequestId, ReturnReason, Returned, WorkerConfig, WorkerReport};

use super::account::{Side, State};
use super::{MOST_WORKERS, World};

impl World {
    fn worker_config(&mut self) -> WorkerConfig {
        let slots = 1 + self.rng.below(12);
        let bounded = self.setting.bounded && !self.rng.one_in(12);
        let capacity = if self.rng.one_in(12) { 0 } else { 800 + self.rng.below(4_000) };
        WorkerConfig::new(slots as u32).capacity(bounded.then_some(capacity))
    }

    pub(super) fn join(&mut self) {
        if self.sides.len() >= MOST_WORKERS {
            return;
        }
        let (config, comes_later) = (self.worker_config(), self.rng.one_in(4));
        let id =
            if comes_later { self.router.announce_worker(config) } else { self.router.add_worker(config) };
        let id = id.expect("room for a worker");
        assert!(self.sides.iter().all(|side| side.id != id) && !self.removed.contains(&id));
        let mut side = Side {
            id,
            slots: config.slots.into(),
            accepting: !comes_later,
            reach: self.clock,
            mute: self.rng.one_in(5),
            life: self.rng.one_in(2).then(|| self.rng.next()),
            ..Side::default()
        };
        side.set_capacity(config.kv_capacity_tokens);
        self.sides.push(side);
        // Rows of pair terms have an entry for each worker.
        self.masked.clear();
        self.tally.meets(if comes_later { "announced" } else { "joined" });
    }

    /// A worker has other slots, another capacity.
    pub(super) fn configure(&mut self) {
        if self.sides.is_empty() || !self.rng.one_in(6) {
            return;
        }
        let at = self.rng.index(self.sides.len());
        let (worker, config) = (self.sides[at].id, self.worker_config());
        self.router.configure_worker(worker, config).expect("a worker");
        assert_eq!(self.router.worker_config(worker), Ok(config));
        self.sides[at].slots = config.slots.into();
        self.sides[at].set_capacity(config.kv_capacity_tokens);
        let wrong = config.weight(f32::NAN);
        assert!(self.router.configure_worker(worker, wrong).is_err());
        assert!(self.router.configure_worker(u32::MAX, config).is_err());
        self.tally.meets("configured");
    }

    pub(super) fn change_worker(&mut self) {
        if self.sides.is_empty() {
            return self.join();
        }
        let at = self.rng.index(self.sides.len());
        let worker = self.sides[at].id;
        match self.rng.below(9) {
            0..3 => self.join(),
            3 => {
                self.router.drain_worker(worker).expect("a worker");
                (self.sides[at].accepting, self.sides[at].draining) = (false, true);
            }
            4..7 => {
                let accepting = self.rng.below(4) > 0;
                self.router.set_accepting(worker, accepting).expect("a worker");
                self.sides[at].accepting = accepting;
                self.sides[at].draining &= !accepting;
            }
            _ => self.remove(at),
        }
    }

    /// Failed, or drained and taken out.
    fn remove(&mut self, at: usize) {
        let worker = self.sides[at].id;
        let drained = self.router.is_drained(worker).expect("a worker");
        let runs = self.own(&self.sides[at]).0;
        assert_eq!(drained, self.sides[at].draining && runs == 0);
        let mut returned: Vec<Returned> = Vec::new();
        self.router.remove_worker(worker, &mut returned).expect("a worker");
        let mut found: Vec<RequestId> = returned.iter().map(|back| back.id).collect();
        found.sort_unstable();
        let on = |state: State, rank| match state {
            State::Waits => rank == Some(worker),
            State::Runs { worker: on, .. } => on == worker,
        };
        let records = self.records.iter().filter(|(_, record)| on(record.state, record.rank));
        let mut expected: Vec<RequestId> = records.map(|(&id, _)| id).collect();
        expected.sort_unstable();
        assert_eq!(found, expected);
        for back in returned {
            let record = self.strike(back.id);
            assert_eq!((back.worker, back.reason), (Some(worker), ReturnReason::WorkerRemoved));
            // Of one that waited it is known to who had it.
            let generated = if record.state == State::Waits { 0 } else { record.generated };
            assert_eq!(u64::from(back.generated_tokens), generated);
            self.left += 1;
            self.tally.returned[back.reason as usize] += 1;
        }
        self.sides.remove(at);
        self.masked.clear();
        self.removed.push(worker);
        self.removed.drain(..self.removed.len().saturating_sub(4));
        self.tally.meets("removed");
        assert!(self.router.progress(worker, 1).is_err() && self.router.drain_worker(worker).is_err());
    }

    /// The engines move: dispatches arrive, and a report goes out.
    pub(super) fn engines(&mut self) {
        if self.sides.is_empty() {
            return;
        }
        let at = self.rng.index(self.sides.len());
        for _ in 0..self.rng.below(5) {
            let Some((number, id)) = self.sides[at].on_the_way.pop_front() else { break };
            if !self.sides[at].dead {
                self.sides[at].holds.push((number, id));
            }
            self.sides[at].received.push(number);
        }
        if self.rng.one_in(4) {
            // Whoever was given up, or taken for lost, ends there as well.
            self.sides[at].holds.retain(|(_, id)| self.records.contains_key(id));
        }
        let turns = self.rng.one_in(if self.sides[at].dead { 8 } else { 300 });
        let side = &mut self.sides[at];
        if turns {
            side.dead = !side.dead;
            side.holds.clear();
            if let Some(life) = side.life.as_mut().filter(|_| !side.dead) {
                *life += 1;
            }
        }
        if side.mute {
            return;
        }
        let last = side.received.last().copied().unwrap_or(0);
        let missing = (0..64)
            .filter(|back| last > *back + 1 && !side.received.contains(&(last - 1 - back)))
            .fold(0u64, |missing, back| missing | 1 << back);
        let from = side.received.len().saturating_sub(70);
        side.received.drain(..from);
        side.reports += 1;
        let (numbered, counts_dispatches) = (self.rng.below(6) > 0, self.rng.below(8) > 0);
        let length = |(_, id): &(u64, RequestId)| self.records.get(id).map_or(150, |record| record.length());
        let tokens: u64 = side.holds.iter().map(length).sum();
        let foreign = if self.rng.one_in(3) { self.rng.below(500) } else { 0 };
        let waiting = self.rng.below(side.holds.len() as u64 + 1);
        let capacity = match self.rng.below(24) {
            0 | 1 if self.setting.bounded => Some(800 + self.rng.below(4_000)),
            2 if self.setting.bounded => Some(0),
            _ => None,
        };
        let running = (side.holds.len() as u64 - waiting + foreign / 200) as u32;
        let used = (self.rng.below(8) > 0).then_some(tokens + foreign);
        let report = WorkerReport::requests(running, waiting as u32)
            .kv_used(used)
            .sequence(numbered.then_some(side.reports))
            .last_dispatch(counts_dispatches.then_some(last))
            .missing(missing)
            .epoch(side.life)
            .age(if self.rng.one_in(3) { self.rng.below(600) as u32 } else { 0 })
            .kv_age(if self.rng.one_in(4) { Some(self.rng.below(900) as u32) } else { None })
            .capacity(capacity);
        self.network.push((side.id, report));
    }
}
