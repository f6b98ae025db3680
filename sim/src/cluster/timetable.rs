//! The requests of an open run, in order of time.
//!
//! Requests of a trace come in its own times. A turn of a session comes in its own time too, but not before
//! the turn before it has ended and its delay has passed: nobody answers what has not been said. A turn whose
//! turn before lies before the window comes in its own time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1};

use super::source::{Arrivals, RequestSource, Source, Stream, stream};
use super::window::Window;
use crate::job::Job;
use crate::traces::Trace;

/// A request that has arrived.
pub(crate) struct Arrival {
    pub(crate) job: Job,
    pub(crate) at_ms: f64,
    /// Its row of the trace, where that is played in its own times.
    pub(crate) row: Option<u32>,
}

/// The requests of an open run.
pub(crate) enum Timetable {
    /// A process of its own.
    Poisson(Poisson),
    /// In the times of a trace.
    Rows(Rows),
}

pub(crate) struct Poisson {
    requests: RequestSource,
    rng: Box<ChaCha8Rng>,
    per_second: f64,
    entered: u64,
    total: u64,
    next_ms: f64,
}

pub(crate) struct Rows {
    trace: Arc<Trace>,
    rate_scale: f64,
    origin_s: f64,
    /// Rows before it are not played.
    first: usize,
    /// The next row that waits for no other.
    next: usize,
    /// Turn before, and row, in order.
    followers: Vec<(u32, u32)>,
    /// Turns whose turn before has ended: time, whose bits are in order as it is not negative, and row.
    due: BinaryHeap<Reverse<(u64, u32)>>,
}

impl Timetable {
    pub(crate) fn new(source: &Source, arrivals: Arrivals, seed: u64, window: Option<Window>) -> Self {
        match (arrivals, source) {
            (Arrivals::Trace { rate_scale }, Source::Trace(trace)) => {
                Self::Rows(Rows::new(Arc::clone(trace), rate_scale, window))
            }
            (Arrivals::Poisson { per_second, requests }, _) => {
                let mut poisson = Poisson {
                    requests: RequestSource::new(source, seed, true),
                    rng: Box::new(stream(seed, Stream::Times)),
                    per_second,
                    entered: 0,
                    total: requests,
                    next_ms: 0.0,
                };
                poisson.schedule();
                Self::Poisson(poisson)
            }
            // Refused when the scenario is checked; nobody comes.
            _ => Self::Rows(Rows::new(Arc::default(), 1.0, None)),
        }
    }

    /// When the next request enters, in ms, as far as is known; none at the end, or where all others wait for
    /// one that has not ended.
    pub(crate) fn next_ms(&self) -> Option<f64> {
        match self {
            Self::Poisson(poisson) => (poisson.entered < poisson.total).then_some(poisson.next_ms),
            Self::Rows(rows) => rows.peek().map(|(at_ms, _)| at_ms),
        }
    }

    /// The next request, if it has arrived by `now_ms`, which is in this step.
    pub(crate) fn pop(&mut self, now_ms: f64, step: u64) -> Option<Arrival> {
        let at_ms = self.next_ms().filter(|&at_ms| at_ms <= now_ms)?;
        match self {
            Self::Poisson(poisson) => {
                let second_half = 2 * poisson.entered >= poisson.total;
                let job = poisson.requests.draw(step, second_half);
                poisson.entered += 1;
                poisson.schedule();
                Some(Arrival { job, at_ms, row: None })
            }
            Self::Rows(rows) => {
                let row = rows.take()?;
                Some(Arrival { job: rows.trace.jobs[row].clone(), at_ms, row: Some(row as u32) })
            }
        }
    }

    /// The request of this row has ended, or can never run: turns that wait for it are due.
    pub(crate) fn ended(&mut self, row: u32, now_ms: f64) {
        let Self::Rows(rows) = self else { return };
        let from = rows.followers.partition_point(|&(before, _)| before < row);
        for &(_, follower) in rows.followers[from..].iter().take_while(|&&(before, _)| before == row) {
            let delay_ms =
                rows.turn(follower as usize).map_or(0.0, |turn| turn.delay_s) / rows.rate_scale * 1e3;
            let at_ms = rows.own_ms(follower as usize).max(now_ms + delay_ms);
            rows.due.push(Reverse((at_ms.to_bits(), follower)));
        }
    }
}

impl Poisson {
    fn schedule(&mut self) {
        let gap: f64 = Exp1.sample(&mut self.rng);
        self.next_ms += gap / self.per_second * 1e3;
    }
}

impl Rows {
    fn new(trace: Arc<Trace>, rate_scale: f64, window: Option<Window>) -> Self {
        let (first, origin_s) = window.map_or((0, 0.0), |window| (window.first_row, window.origin_s));
        let turns = trace.turns.iter().zip(0..).filter_map(|(turn, row)| Some((turn.as_ref()?.after, row)));
        let mut followers: Vec<(u32, u32)> = turns.filter(|&(before, _)| before as usize >= first).collect();
        followers.sort_unstable();
        let mut rows =
            Self { trace, rate_scale, origin_s, first, next: first, followers, due: BinaryHeap::new() };
        rows.pass_over();
        rows
    }

    fn turn(&self, row: usize) -> Option<&crate::traces::Turn> {
        let turn = self.trace.turns.get(row)?.as_ref();
        turn.filter(|turn| turn.after as usize >= self.first)
    }

    fn own_ms(&self, row: usize) -> f64 {
        let at_s = self.trace.arrival_s.get(row).copied().unwrap_or_default();
        ((at_s - self.origin_s) / self.rate_scale * 1e3).max(0.0)
    }

    /// Turns that wait for another come when that has ended.
    fn pass_over(&mut self) {
        while self.next < self.trace.arrival_s.len() && self.turn(self.next).is_some() {
            self.next += 1;
        }
    }

    /// Time and row of the next request that waits for none; of two at a time that of the trace's order.
    fn peek(&self) -> Option<(f64, usize)> {
        let own = (self.next < self.trace.arrival_s.len()).then(|| (self.own_ms(self.next), self.next));
        let due = self.due.peek().map(|&Reverse((bits, row))| (f64::from_bits(bits), row as usize));
        match (own, due) {
            (Some(own), Some(due)) => Some(if due < own { due } else { own }),
            (own, due) => own.or(due),
        }
    }

    fn take(&mut self) -> Option<usize> {
        let (_, row) = self.peek()?;
        if row == self.next {
            self.next += 1;
            self.pass_over();
        } else {
            self.due.pop();
        }
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traces::Turn;

    fn trace(arrival_s: &[f64], turns: Vec<Option<Turn>>) -> Source {
        Source::Trace(Arc::new(Trace {
            name: "rows".to_owned(),
            jobs: (1..=arrival_s.len() as u32).map(|prompt| Job::new(prompt, 1)).collect(),
            arrival_s: arrival_s.to_vec(),
            turns,
            ..Trace::default()
        }))
    }

    fn popped(table: &mut Timetable, until_ms: f64) -> Vec<(u32, f64)> {
        let next = || table.pop(until_ms, 0).map(|arrival| (arrival.job.prompt_tokens, arrival.at_ms));
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn a_window_begins_with_the_rows_that_lead_in() {
        let source = trace(&[0.0, 4.0, 8.0, 12.0, 16.0], Vec::new());
        let arrivals = Arrivals::Trace { rate_scale: 2.0 };
        // Three windows: four spans of four seconds, played twice as fast.
        let spans: Vec<Window> =
            (0..3).filter_map(|index| Window::new(&source, arrivals, index, 3)).collect();
        assert_eq!(spans.iter().map(|span| span.first_row).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(spans.iter().all(|span| (span.from_ms, span.to_ms) == (2_000.0, 4_000.0)));
        let mut table = Timetable::new(&source, arrivals, 0, Some(spans[1]));
        assert_eq!(popped(&mut table, 1e9), [(2, 0.0), (3, 2_000.0), (4, 4_000.0), (5, 6_000.0)]);
    }

    #[test]
    fn a_turn_comes_when_the_one_before_has_ended_and_not_before_its_time() {
        let after = |after, delay_s| Some(Turn { after, delay_s });
        // The second waits two seconds after the first, the fourth and fifth for the second.
        let turns = vec![None, after(0, 2.0), None, after(1, 0.0), after(1, 1.0)];
        let source = trace(&[0.0, 2.0, 3.0, 9.0, 9.0], turns);
        let mut table = Timetable::new(&source, Arrivals::Trace { rate_scale: 1.0 }, 0, None);
        assert_eq!(popped(&mut table, 1e9), [(1, 0.0), (3, 3_000.0)]);
        assert_eq!(table.next_ms(), None);
        table.ended(0, 4_000.0);
        assert_eq!((table.next_ms(), popped(&mut table, 5_999.0)), (Some(6_000.0), vec![]));
        assert_eq!(popped(&mut table, 6_000.0), [(2, 6_000.0)]);
        // One in its own time, the other a second after the end.
        table.ended(1, 8_500.0);
        assert_eq!(popped(&mut table, 1e9), [(4, 9_000.0), (5, 9_500.0)]);
        table.ended(4, 10_000.0);
        assert_eq!(table.next_ms(), None);

        // Twice as fast the delay is half as long.
        let mut table = Timetable::new(&source, Arrivals::Trace { rate_scale: 2.0 }, 0, None);
        assert_eq!(popped(&mut table, 1e9), [(1, 0.0), (3, 1_500.0)]);
        table.ended(0, 4_000.0);
        assert_eq!(popped(&mut table, 1e9), [(2, 5_000.0)]);
    }

    #[test]
    fn a_turn_of_a_session_that_began_before_the_window_waits_for_nobody() {
        let turns =
            vec![None, None, Some(Turn { after: 0, delay_s: 1.0 }), Some(Turn { after: 2, delay_s: 1.0 })];
        let source = trace(&[0.0, 4.0, 8.0, 12.0], turns);
        let arrivals = Arrivals::Trace { rate_scale: 1.0 };
        let window = Window::new(&source, arrivals, 1, 2).expect("times");
        assert_eq!((window.first_row, window.origin_s), (1, 4.0));
        let mut table = Timetable::new(&source, arrivals, 0, Some(window));
        assert_eq!(popped(&mut table, 1e9), [(2, 0.0), (3, 4_000.0)]);
        table.ended(2, 4_500.0);
        assert_eq!(popped(&mut table, 1e9), [(4, 8_000.0)]);
    }
}
