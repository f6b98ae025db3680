//! What the router is told before a step: ends that it hears of late, and ranks that a rule has changed.

use balanceroute::batch::Request;

use super::Cluster;
use crate::error::SimError;

impl Cluster<'_> {
    /// Tells the router of the ends that it is due to hear of.
    pub(super) fn hear(&mut self) -> Result<(), SimError> {
        while let Some(&(due_ms, id)) = self.unheard.front()
            && due_ms <= self.now_ms
        {
            self.unheard.pop_front();
            self.router.finish(id, None)?;
        }
        Ok(())
    }

    /// Moves waiting requests between the queues of ranks, as far as the rule wants to.
    pub(super) fn rebind(&mut self) -> Result<(), SimError> {
        let Some(binding) = &mut self.binding else { return Ok(()) };
        let lives = &self.lives;
        let moved = binding.moves(|id| (lives[id as usize].worker, lives[id as usize].prompt_tokens));
        for (id, rank) in moved {
            let life = &mut self.lives[id as usize];
            life.worker = rank;
            // Behind those that wait there.
            self.router.abort(id, None)?;
            let request = Request::new(id, life.prompt_tokens).deadline(self.scenario.deadline_steps);
            self.router.enqueue(request.bound_to(rank), None)?;
        }
        Ok(())
    }
}
