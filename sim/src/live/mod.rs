//! A cluster as it is now: from a simulation that runs, or from the metrics that a router's process shows.

mod scraped;
mod simulated;
#[cfg(test)]
mod tests;
mod view;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use self::scraped::Scraper;
pub use self::simulated::play;
pub use self::view::View;

/// A worker.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rank {
    /// Its id.
    pub worker: String,
    /// KV tokens that it reads each step.
    pub load_tokens: f64,
    /// Requests that run there.
    pub running: u64,
    /// Slots that an admission could take.
    pub free_slots: u64,
    /// KV tokens that it holds, and that fit, where that is bounded.
    pub kv_tokens: Option<(f64, f64)>,
    /// Whether it takes new requests.
    pub accepting: bool,
    /// Whether it is kept for a request that is overdue and fits nowhere.
    pub claimed: bool,
}

/// A moment. What a source does not tell is missing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moment {
    /// When, in words.
    pub at: String,
    /// All workers.
    pub ranks: Vec<Rank>,
    /// Requests that wait.
    pub waiting: u64,
    /// These by what they wait for; reasons of nobody are left out.
    pub reasons: Vec<(String, u64)>,
    /// The longest wait of those who wait, in ms.
    pub longest_wait_ms: Option<f64>,
    /// Median and 99th percentile of the waits of the admitted, in ms, to a factor of two.
    pub wait_ms: Option<(f64, f64)>,
    /// By how many that came later one who waits has been passed, at most.
    pub most_passed: Option<u64>,
    /// Admissions so far.
    pub admitted: Option<u64>,
    /// Median and 99th percentile of the time of a decision in microseconds, to a factor of two.
    pub decide_us: Option<(f64, f64)>,
}

impl Moment {
    /// The greatest load: a step lasts as long as this.
    #[must_use]
    pub fn envelope_tokens(&self) -> f64 {
        self.ranks.iter().map(|rank| rank.load_tokens).fold(0.0, f64::max)
    }

    /// `G * max - sum` of the loads.
    #[must_use]
    pub fn imbalance_tokens(&self) -> f64 {
        let envelope = self.envelope_tokens();
        self.ranks.iter().map(|rank| envelope - rank.load_tokens).sum()
    }
}

/// What a source tells.
#[derive(Clone, Debug)]
pub enum Message {
    /// How it is now, and what has been decided since, a line each.
    Moment(Box<Moment>, Vec<String>),
    /// It could not be asked; the next attempt may succeed.
    Failed(String),
    /// Nothing more comes, and why.
    Over(String),
}

/// How fast a source goes on, as somebody says who looks on.
#[derive(Debug)]
pub struct Control {
    stop: AtomicBool,
    paused: AtomicBool,
    /// Steps that may be played although it is paused.
    single: AtomicU64,
    /// Between two steps.
    pause_us: AtomicU64,
}

/// The slowest and the fastest: one step a second, and as fast as it goes.
const SLOWEST_US: u64 = 1_000_000;
/// A shorter time between two steps is none.
const FASTEST_US: u64 = 50;
/// How often somebody who waits looks whether it goes on.
const LOOK: Duration = Duration::from_millis(5);

impl Control {
    /// So many steps a second.
    #[must_use]
    pub fn new(steps_per_s: f64) -> Self {
        let pause_us = (1e6 / steps_per_s).round() as u64;
        Self {
            stop: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            single: AtomicU64::new(0),
            pause_us: AtomicU64::new(pause_us),
        }
    }

    /// Ends the source.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether it is to end.
    #[must_use]
    pub fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Holds on, or goes on.
    pub fn pause(&self) {
        self.paused.fetch_xor(true, Ordering::Relaxed);
    }

    /// Whether it holds on.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// One step, and holds on.
    pub fn step(&self) {
        self.paused.store(true, Ordering::Relaxed);
        self.single.fetch_add(1, Ordering::Relaxed);
    }

    /// Twice as fast.
    pub fn faster(&self) {
        let pause_us = self.pause_us.load(Ordering::Relaxed) / 2;
        self.pause_us.store(if pause_us < FASTEST_US { 0 } else { pause_us }, Ordering::Relaxed);
    }

    /// Half as fast.
    pub fn slower(&self) {
        let pause_us = self.pause_us.load(Ordering::Relaxed);
        self.pause_us.store((2 * pause_us).clamp(FASTEST_US, SLOWEST_US), Ordering::Relaxed);
    }

    /// Steps a second; none for as fast as it goes.
    #[must_use]
    pub fn steps_per_s(&self) -> Option<f64> {
        let pause_us = self.pause_us.load(Ordering::Relaxed);
        (pause_us > 0).then(|| 1e6 / pause_us as f64)
    }

    /// Until the next step is due, or it is to end.
    fn wait_since(&self, last: Instant) {
        loop {
            let next = Duration::from_micros(self.pause_us.load(Ordering::Relaxed));
            let left = next.saturating_sub(last.elapsed());
            if self.stops() {
                return;
            }
            if self.is_paused() {
                let take = |left: u64| left.checked_sub(1);
                if self.single.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                    return;
                }
                std::thread::sleep(LOOK);
            } else if left.is_zero() {
                return;
            } else {
                std::thread::sleep(left.min(LOOK));
            }
        }
    }
}
