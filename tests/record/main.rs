//! The flight recorder: what was recorded is what happened, whatever became of the process or the files.

mod allocation;
mod calls;
#[path = "../support/counting.rs"]
mod counting;
mod crash;
mod environment;
mod fuzz;
mod replay;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use balanceroute::Router;
use balanceroute::router::Metrics;

/// A folder of a test's own, which goes with it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Its segments, the oldest first.
    pub(crate) fn segments(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.0).expect("a folder");
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a file").path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "brlog"));
        paths.sort_unstable();
        paths
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// All that can be asked of a router, but for how long its decisions took.
#[derive(Debug, PartialEq)]
pub(crate) struct Seen {
    waiting: Vec<(balanceroute::RequestId, balanceroute::WaitReason)>,
    running: Vec<(balanceroute::RequestId, balanceroute::WorkerId, u64, Option<u32>)>,
    workers: Vec<balanceroute::Worker>,
    plan: String,
    metrics: Metrics,
    learned: Vec<u8>,
}

pub(crate) fn seen(router: &Router) -> Seen {
    let mut metrics = Metrics::default();
    router.metrics(&mut metrics);
    metrics.counters.decide_ns = Default::default();
    Seen {
        waiting: router.waiting(),
        running: router
            .running()
            .map(|(id, worker, number)| (id, worker, number, router.generated_tokens(id)))
            .collect(),
        workers: router.workers().to_vec(),
        plan: format!("{:?}", router.plan()),
        metrics,
        learned: router.learned(),
    }
}
