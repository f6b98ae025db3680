//! Classes take their turns in a step: the highest first, each on what those before it have left, and before
//! them all a class that higher ones have gone past for long enough
//! ([`crate::RouterConfig::lower_class_one_in`]).

use super::{PairTerms, Router, RouterError};

/// How the turn of a class ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It has had as many admissions as it was to have.
    Enough,
    /// Nobody is left of it who may enter a worker.
    Nobody,
    /// No worker has a slot any more, for this class and lower ones.
    NoSlot,
    /// Somebody of it could enter, and the policy keeps the slot.
    Kept,
}

/// Admissions of higher classes that each class which waits has seen, less those that it had for them.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Credits {
    of: Vec<(i8, u64)>,
    next: Vec<(i8, u64)>,
    /// Classes that could not use all their turns in the step under way.
    lapsed: Vec<i8>,
}

impl Credits {
    fn of(&self, priority: i8) -> u64 {
        self.of.iter().find(|&&(class, _)| class == priority).map_or(0, |&(_, credit)| credit)
    }

    /// Admissions that are a class's before any of a higher one.
    pub(super) fn due(&self, priority: i8, one_in: Option<u32>) -> usize {
        one_in.map_or(0, |one_in| (self.of(priority) / u64::from(one_in - 1)) as usize)
    }

    /// Takes in admissions by their classes; `waiting` are the classes of whom somebody waits after them.
    pub(super) fn count(
        &mut self,
        one_in: u32,
        waiting: impl Iterator<Item = i8>,
        admitted: impl Iterator<Item = i8> + Clone,
    ) {
        let price = u64::from(one_in - 1);
        self.next.clear();
        for class in waiting {
            let higher = admitted.clone().filter(|&other| other > class).count() as u64;
            let own = admitted.clone().filter(|&other| other == class).count() as u64;
            // What it cannot use is not saved up, but for one turn.
            let most = if self.lapsed.contains(&class) { price } else { u64::MAX };
            self.next.push((class, (self.of(class) + higher).saturating_sub(own * price).min(most)));
        }
        self.lapsed.clear();
        std::mem::swap(&mut self.of, &mut self.next);
    }

    /// The step under way has failed.
    pub(super) fn forget_step(&mut self) {
        self.lapsed.clear();
    }
}

impl Router {
    /// Decides class by class.
    pub(super) fn decide_classes(
        &mut self,
        by_reference: bool,
        terms: &mut Option<&mut (dyn PairTerms + '_)>,
    ) -> Result<(), RouterError> {
        let one_in = self.config.lower_class_one_in;
        let mut class = None;
        while one_in.is_some() && self.pool.turn_below(class) {
            let priority = self.pool.priority();
            class = Some(priority);
            match self.credits.due(priority, one_in) {
                0 => {}
                due => match self.decide_class(by_reference, terms, due)? {
                    // Others may have slots on a claimed worker that this class has not.
                    Turn::NoSlot if self.hidden_slots == 0 => return Ok(()),
                    Turn::NoSlot | Turn::Nobody => self.credits.lapsed.push(priority),
                    Turn::Enough | Turn::Kept => {}
                },
            }
        }
        class = None;
        while self.pool.turn_below(class) {
            class = Some(self.pool.priority());
            if self.decide_class(by_reference, terms, usize::MAX)? != Turn::Nobody {
                break;
            }
        }
        Ok(())
    }

    /// Decides the class whose turn it is, until it has had `most` admissions or nobody of it may enter.
    fn decide_class(
        &mut self,
        by_reference: bool,
        terms: &mut Option<&mut (dyn PairTerms + '_)>,
        most: usize,
    ) -> Result<Turn, RouterError> {
        let mut left = most;
        self.show_claimed();
        loop {
            self.decide_window(by_reference, true, left)?;
            let admitted = self.assignment.admitted.len();
            left -= admitted;
            self.admit_ahead();
            let of_any = self.find_most_tokens();
            // The joint repair may have left room for somebody who is left, and a turn may be short.
            let is_wanted = self.is_wanted(of_any);
            self.narrow_window();
            // First: who has had all its turns has not lapsed, wherever the slots are.
            if left == 0 {
                return Ok(Turn::Enough);
            }
            if of_any.is_none() {
                return Ok(Turn::NoSlot);
            }
            match (is_wanted, admitted) {
                (true, 0) => return Ok(Turn::Kept),
                (true, _) => {}
                _ if !self.move_window(of_any) => return Ok(Turn::Nobody),
                _ => {
                    if let Some(terms) = terms {
                        self.ask_terms(Some(&mut **terms), false)?;
                    }
                }
            }
        }
    }

    /// Whether somebody waits who goes before a request of this class that arrives, and whom this worker
    /// could take: of a higher class, of a lower one whose turn is due, or of its own who has been passed as
    /// often as may be. They go first, with the next step.
    pub(super) fn is_kept_from(&self, place: usize, priority: i8) -> bool {
        let room = self.workers[place].room_tokens() - i64::from(self.headroom_steps());
        let one_in = self.config.lower_class_one_in;
        let goes_first =
            |class: i8| class > priority || class < priority && self.credits.due(class, one_in) > 0;
        let mut classes = self.pool.classes();
        classes.any(|(class, _)| goes_first(class) && self.pool.any_for(class, place, room))
            || self.max_passed.is_some_and(|most| self.pool.any_passed_for(priority, place, room, most))
    }
}
