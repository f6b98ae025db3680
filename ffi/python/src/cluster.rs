//! What a router of Python's holds behind its lock.

use balanceroute::Router;

use crate::shared::State;
use crate::terms::Kept;

pub(crate) struct Cluster {
    pub(crate) router: Router,
    /// Of those who wait.
    pub(crate) terms: Kept,
    pub(crate) explaining: bool,
}

impl State for Cluster {
    const WAY_OUT: &'static str = "`recover` gives every request back and begins anew";
}

impl Cluster {
    /// How it stands, for people.
    pub(crate) fn in_short(&self, policy: &str) -> String {
        let (workers, waiting) = (self.router.worker_ids().len(), self.router.pool().len());
        let running = self.router.running_len();
        format!("Router({workers} workers, policy='{policy}', {waiting} waiting, {running} running)")
    }
}
