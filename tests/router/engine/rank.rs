//! One rank that does what engines do with KV blocks, and what it says about itself.

use std::collections::{BTreeMap, BTreeSet};

use balanceroute::{Dispatch, RequestId};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{Kind, Seen};

pub(super) const BLOCK: u64 = 16;
/// Prompt tokens that a step prefills.
const CHUNK: u64 = 256;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Phase {
    /// Waits for room.
    Queued,
    /// Its blocks are there, its KV cache comes from a prefill node for so many steps.
    Transfer(u32),
    /// Its prompt is prefilled part by part.
    Prefill,
    Decode,
    Preempted,
}

#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) id: RequestId,
    /// None of somebody else's.
    pub(super) dispatch: Option<Dispatch>,
    /// Who shares the first blocks with it, and how many; the same of all in a group.
    pub(super) group: u64,
    pub(super) prefix_blocks: u64,
    pub(super) prompt: u64,
    pub(super) generated: u64,
    pub(super) left: u64,
    pub(super) computed: u64,
    pub(super) phase: Phase,
    pub(super) transfers: bool,
}

impl Job {
    /// Blocks of its own.
    fn blocks(&self) -> u64 {
        let tokens = match self.phase {
            Phase::Queued | Phase::Preempted => return 0,
            Phase::Transfer(_) | Phase::Decode => self.prompt + self.generated,
            Phase::Prefill => self.computed,
        };
        tokens.div_ceil(BLOCK).saturating_sub(self.prefix_blocks)
    }
}

/// What a step has to tell of one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Voice {
    Tokens(RequestId, u32),
    Held(RequestId),
    Arrived(RequestId),
    Preempted(RequestId),
    Resumed(RequestId),
    Ended(Dispatch),
}

/// What is there, and what had happened up to then.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    pub(super) at_ms: u64,
    pub(super) kv_tokens: u64,
    pub(super) running: u32,
    pub(super) waiting: u32,
    /// KV tokens allocated and freed, requests come and gone, since the beginning, over all lives.
    pub(super) allocated: u64,
    pub(super) freed: u64,
    pub(super) came: u64,
    pub(super) went: u64,
    /// Ours that are there.
    pub(super) ours: Vec<RequestId>,
}

pub(super) struct Rank {
    pub(super) capacity_blocks: u64,
    pub(super) slots: usize,
    pub(super) jobs: Vec<Job>,
    /// Blocks that nobody holds who runs.
    pub(super) pinned_blocks: u64,
    pub(super) epoch: u64,
    pub(super) sequence: u64,
    /// Numbers of dispatches that this life has received.
    pub(super) received: BTreeSet<u64>,
    pub(super) now: Snapshot,
}

impl Rank {
    pub(super) fn new(capacity_blocks: u64, slots: usize) -> Self {
        Self {
            capacity_blocks,
            slots,
            jobs: Vec::new(),
            pinned_blocks: 0,
            epoch: 1,
            sequence: 0,
            received: BTreeSet::new(),
            now: Snapshot::default(),
        }
    }

    fn used_blocks(&self) -> u64 {
        let mut shared = BTreeMap::new();
        let mut blocks = self.pinned_blocks;
        for job in &self.jobs {
            if !matches!(job.phase, Phase::Queued | Phase::Preempted) {
                shared.insert(job.group, job.prefix_blocks);
                blocks += job.blocks();
            }
        }
        blocks + shared.values().sum::<u64>()
    }

    /// Counts anew, after anything that may have changed.
    pub(super) fn count(&mut self) {
        let kv_tokens = self.used_blocks() * BLOCK;
        self.now.allocated += kv_tokens.saturating_sub(self.now.kv_tokens);
        self.now.freed += self.now.kv_tokens.saturating_sub(kv_tokens);
        let decodes = |job: &&Job| job.phase == Phase::Decode;
        self.now.kv_tokens = kv_tokens;
        self.now.running = self.jobs.iter().filter(decodes).count() as u32;
        self.now.waiting = self.jobs.len() as u32 - self.now.running;
        self.now.ours = self.jobs.iter().filter(|job| job.dispatch.is_some()).map(|job| job.id).collect();
    }

    pub(super) fn receive(&mut self, job: Job) {
        self.received.extend(job.dispatch.map(|dispatch| dispatch.number));
        self.jobs.push(job);
        self.now.came += 1;
        self.count();
    }

    /// A request leaves at once.
    pub(super) fn drop(&mut self, id: RequestId) -> bool {
        let before = self.jobs.len();
        self.jobs.retain(|job| job.id != id);
        self.now.went += (before - self.jobs.len()) as u64;
        self.count();
        before > self.jobs.len()
    }

    /// Begins anew: nothing is left.
    pub(super) fn restart(&mut self) {
        self.now.went += self.jobs.len() as u64;
        self.jobs.clear();
        self.received.clear();
        self.pinned_blocks = 0;
        self.epoch += 1;
        self.sequence = 0;
        self.count();
    }

    /// The greatest dispatch number that it has, and which of the 64 before that it lacks.
    pub(super) fn last_dispatch(&self) -> (u64, u64) {
        let last = self.received.last().copied().unwrap_or(0);
        let lacks = |back: u64| last > back + 1 && !self.received.contains(&(last - 1 - back));
        (last, (0..64).filter(|&back| lacks(back)).map(|back| 1 << back).sum())
    }

    /// One step. What it has to tell is appended to `said`.
    pub(super) fn step(&mut self, now_ms: u64, rng: &mut ChaCha8Rng, said: &mut Vec<Voice>, seen: &mut Seen) {
        self.now.at_ms = now_ms;
        let mut at = 0;
        while at < self.jobs.len() {
            let job = &mut self.jobs[at];
            let ours = job.dispatch.is_some();
            match job.phase {
                Phase::Queued | Phase::Preempted => {
                    let needs = (job.prompt + job.generated).div_ceil(BLOCK) + 1;
                    let again = job.phase == Phase::Preempted;
                    let (transfers, prefix) = (job.transfers && !again, job.prefix_blocks);
                    let active = self
                        .jobs
                        .iter()
                        .filter(|job| !matches!(job.phase, Phase::Queued | Phase::Preempted))
                        .count();
                    if active < self.slots && self.used_blocks() + needs <= self.capacity_blocks {
                        let job = &mut self.jobs[at];
                        (job.computed, job.phase) = (prefix * BLOCK, Phase::Prefill);
                        if transfers {
                            job.phase = Phase::Transfer(rng.random_range(1..20));
                            seen.add(Kind::Transfer);
                        }
                        if ours && again {
                            said.push(Voice::Resumed(job.id));
                        } else if ours {
                            said.push(Voice::Held(job.id));
                        }
                        if self
                            .jobs
                            .iter()
                            .any(|other| other.group == self.jobs[at].group && other.id != self.jobs[at].id)
                        {
                            seen.add(Kind::SharedPrefix);
                        }
                    }
                }
                Phase::Transfer(0) => {
                    job.phase = Phase::Decode;
                    if ours {
                        said.push(Voice::Arrived(job.id));
                    }
                }
                Phase::Transfer(steps) => job.phase = Phase::Transfer(steps - 1),
                Phase::Prefill => {
                    seen.add(Kind::PrefillChunk);
                    job.computed = (job.computed + CHUNK).min(job.prompt + job.generated);
                    if job.computed == job.prompt + job.generated {
                        job.phase = Phase::Decode;
                    }
                }
                Phase::Decode => {
                    job.generated += 1;
                    job.left -= 1;
                    if ours {
                        said.push(Voice::Tokens(job.id, 1));
                    }
                    if job.left == 0 {
                        said.extend(job.dispatch.map(Voice::Ended));
                        self.jobs.remove(at);
                        self.now.went += 1;
                        self.count();
                        continue;
                    }
                }
            }
            self.count();
            at += 1;
        }
        // The newest gives way.
        while self.used_blocks() > self.capacity_blocks
            && let Some(last) = self.jobs.iter_mut().rfind(|job| job.blocks() > 0)
        {
            last.phase = Phase::Preempted;
            if last.dispatch.is_some() {
                said.push(Voice::Preempted(last.id));
            }
            self.count();
        }
    }
}
