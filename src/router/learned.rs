//! What traffic has taught, across restarts.

use crate::router::traffic::TrafficMeter;
use crate::router::{Call, Router, RouterError};

/// How it begins; the last byte is the version of what follows.
const HEAD: [u8; 8] = *b"brlearn\x01";

impl Router {
    /// What the traffic has taught so far, for [`Router::learn`] of a router to come: lengths of prompts and
    /// outputs and when requests end, a few thousand bytes of this library's own. Who waits or runs is no
    /// part of it, and what a classifier has learned is the classifier's to keep.
    #[must_use]
    pub fn learned(&self) -> Vec<u8> {
        let mut bytes = HEAD.to_vec();
        self.meter.write(&mut bytes);
        bytes
    }

    /// Goes on from what another router had learned, in place of what this one has. The other may have had
    /// other workers; of other traffic it soon learns better.
    ///
    /// # Errors
    /// Bytes that are none of [`Router::learned`], or of another version; nothing has changed then.
    pub fn learn(&mut self, learned: &[u8]) -> Result<(), RouterError> {
        let done = self.take_over_learned(learned);
        self.recorded("learn", done, || Call::Learn { learned: learned.into() })
    }

    fn take_over_learned(&mut self, learned: &[u8]) -> Result<(), RouterError> {
        let read = || {
            let mut from = learned.strip_prefix(&HEAD)?;
            let meter = TrafficMeter::read(&mut from)?;
            from.is_empty().then_some(meter)
        };
        let found = learned.len();
        self.meter = read().ok_or(RouterError::Learned { found })?;
        self.limits_changed();
        self.meter.outputs.sum();
        self.accounts.iter_mut().for_each(|account| account.remake_room());
        Ok(())
    }
}
