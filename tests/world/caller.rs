//! What a caller supplies: pair terms, a policy, a classifier, each of which may break its promise or panic
//! when it is told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use balanceroute::forecast::{Running, Termination, TerminationClassifier};
use balanceroute::policy::Rank;
use balanceroute::{
    Assignment, Batch, Needs, PairTerms, Policy, PolicyError, Request, RequestId, WorkerId, WorkerIndex,
};

use crate::network::Draw;

pub(crate) const PANIC: &str = "the caller's own fault";

/// Without the hook: what is raised on purpose prints nothing.
fn raise() -> ! {
    std::panic::resume_unwind(Box::new(PANIC))
}

/// What pair terms are like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Manner {
    Sound,
    Neutral,
    /// A bonus out of its range, once so many rows were asked for.
    Bonus(f32, u64),
    Panics(u64),
}

/// Bonuses and masks that depend on who is asked for alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    pub(crate) salt: u64,
    pub(crate) manner: Manner,
    pub(crate) ids: &'a [WorkerId],
    pub(crate) masks: bool,
    pub(crate) bonuses: bool,
}

impl Terms<'_> {
    fn draw(&self, id: RequestId, of: u64) -> u64 {
        Draw(self.salt ^ id.0.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ of << 40).next()
    }

    fn has_mask(&self, id: RequestId) -> bool {
        self.masks && self.manner != Manner::Neutral && self.draw(id, 1 << 20).is_multiple_of(3)
    }

    /// Whether a request may enter a worker.
    pub(crate) fn may(&self, id: RequestId, worker: WorkerId) -> bool {
        !self.has_mask(id) || !self.draw(id, u64::from(worker.0)).is_multiple_of(3)
    }

    pub(crate) fn stores_half(&self) -> bool {
        self.salt.is_multiple_of(2)
    }
}

impl PairTerms for Terms<'_> {
    fn bonus(&mut self, request: &Request, bonus_tokens: &mut [f32]) -> bool {
        assert_eq!(bonus_tokens.len(), self.ids.len(), "a row has an entry for each worker");
        let drawn = |of: u64| self.draw(request.id, of | 2 << 20);
        for (place, bonus) in (0..).zip(&mut *bonus_tokens) {
            assert_eq!(*bonus, 0.0, "a row begins with nothing");
            *bonus = match self.manner {
                Manner::Neutral => [0.0, -0.0, 0.49, -0.49][drawn(place) as usize % 4],
                _ if self.bonuses => (drawn(place) >> 40) as f32 % 500.0 - 200.0,
                _ => 0.0,
            };
        }
        match &mut self.manner {
            Manner::Bonus(bonus, 0) => bonus_tokens[self.salt as usize % bonus_tokens.len()] = *bonus,
            Manner::Panics(0) => raise(),
            Manner::Bonus(_, left) | Manner::Panics(left) => *left -= 1,
            Manner::Sound | Manner::Neutral => {}
        }
        true
    }

    fn eligible(&mut self, request: &Request, workers: &mut [u64]) -> bool {
        for (place, &worker) in self.ids.iter().enumerate() {
            if !self.may(request.id, worker) {
                workers[place / 64] &= !(1 << (place % 64));
            }
        }
        self.has_mask(request.id) || self.manner == Manner::Neutral
    }

    fn stores_half(&self) -> bool {
        Terms::stores_half(self)
    }
}

/// What is to go wrong with the next call of the policy or the classifier; told from outside of the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Order {
    Nothing,
    Decides,
    Binds,
    Invents,
    Repeats,
    LeavesTheWorkers,
    Overfills,
    Predicts,
}

impl Order {
    pub(crate) const ALL: [Self; 8] = [
        Self::Nothing,
        Self::Decides,
        Self::Binds,
        Self::Invents,
        Self::Repeats,
        Self::LeavesTheWorkers,
        Self::Overfills,
        Self::Predicts,
    ];
}

#[derive(Clone, Default)]
pub(crate) struct Orders(Arc<AtomicU64>);

impl Orders {
    pub(crate) fn give(&self, order: Order) {
        self.0.store(order as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> Order {
        Order::ALL[self.0.load(Ordering::Relaxed) as usize]
    }
}

/// A policy of the library's behind one of the caller's.
pub(crate) struct Supplied {
    pub(crate) inner: Box<dyn Policy>,
    pub(crate) orders: Orders,
}

impl Supplied {
    fn spoil(&self, batch: &Batch<'_>, out: &mut Assignment) {
        match self.orders.get() {
            Order::Decides => raise(),
            Order::Invents => out.admitted.iter_mut().for_each(|admission| admission.id.0 ^= 1 << 60),
            Order::Repeats => out.admitted.extend(out.admitted.first().copied()),
            Order::LeavesTheWorkers => {
                let past = WorkerIndex::new(batch.workers().len() as u32);
                out.admitted.iter_mut().for_each(|admission| admission.worker = past);
            }
            Order::Overfills => {
                let shut = batch.workers().iter().position(|worker| worker.open_slots() == 0);
                if let (Some(shut), Some(first)) = (shut, out.admitted.first_mut()) {
                    first.worker = WorkerIndex::new(shut as u32);
                }
            }
            _ => {}
        }
    }
}

impl Policy for Supplied {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn needs(&self) -> Needs {
        self.inner.needs()
    }

    fn decide(&mut self, batch: &Batch<'_>, out: &mut Assignment) {
        self.inner.decide(batch, out);
        self.spoil(batch, out);
    }

    fn bind(&mut self, arrival: &Request, ranks: &[Rank]) -> Option<WorkerIndex> {
        if self.orders.get() == Order::Binds {
            raise();
        }
        self.inner.bind(arrival, ranks)
    }

    fn decide_by_reference(&mut self, batch: &Batch<'_>, out: &mut Assignment) -> Result<(), PolicyError> {
        self.inner.decide_by_reference(batch, out)
    }

    fn score_into(&mut self, batch: &Batch<'_>, score_tokens: &mut Vec<f64>) -> bool {
        self.inner.score_into(batch, score_tokens)
    }
}

/// A classifier that knows nothing, at times says what lies out of all ranges, and may panic.
pub(crate) struct Guesses {
    pub(crate) orders: Orders,
}

impl TerminationClassifier for Guesses {
    fn predict(&mut self, request: &Running, horizon_steps: u32) -> Termination {
        if self.orders.get() == Order::Predicts {
            raise();
        }
        let mut draw = Draw(request.id.0);
        let remaining_steps = draw.below(u64::from(horizon_steps) + 9) as f64;
        match draw.below(40) {
            0 => Termination { probability: f64::NAN, remaining_steps: f64::INFINITY },
            1 => Termination { probability: 7.0, remaining_steps: -3.0 },
            _ => Termination { probability: draw.below(1000) as f64 / 1000.0, remaining_steps },
        }
    }

    fn aborted(&mut self, _: RequestId) {
        if self.orders.get() == Order::Predicts {
            raise();
        }
    }
}
