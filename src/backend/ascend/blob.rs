//! One batch as the device kernel reads it, and the device's answer: the layout of `kernels/ascendc/tiling.h`, asserted here field by field.
//!
//! The header's text says how host and device split a decision and why no rounding on the device can change a pick. What the device
//! cannot hold is [`Kept`] by the host, with a reason.

use half::f16;
use thiserror::Error;

use crate::backend::loads::Loads;
use crate::batch::{Batch, Request};
use crate::pool::PoolSlot;
use crate::rule::{Order, Plan, ProfileSpec, step_weights};
use crate::score::Profile;

/// The entry that scores columns, one block for each group of workers.
pub const ENTRY_COLUMNS: &str = "balanceroute_columns";
/// The entry that picks, one block for each batch.
pub const ENTRY_GREEDY: &str = "balanceroute_greedy";
/// Version of the layout; a kernel of another version refuses.
pub const VERSION: u32 = 1;
/// First word of every part of a blob.
pub const MAGIC: u32 = 0x314b_5242;
/// Blobs and the batches in them begin at multiples of this many bytes.
pub const BLOB_ALIGN: usize = 64;
/// Most requests of a batch on the device.
pub const MAX_REQUESTS: usize = 4096;
/// Most workers.
pub const MAX_WORKERS: usize = 256;
/// Most knots of a profile, `H + 1`.
pub const MAX_STEPS: usize = 129;
/// Most survival classes in use, plus one.
pub const MAX_RUNS: usize = 16;
/// Most batches of one launch.
pub const MAX_BATCHES: usize = 1024;

const ENTRY_ALIGN: usize = 128;
const BLOCK_BYTES: usize = 32;
const GREATEST: i64 = 1 << 56;
const EXACT_F32: i64 = 1 << 24;
const NOBODY: u32 = u32::MAX;
const MODE_F: u32 = 0;
const MODE_LOOKAHEAD: u32 = 1;
const MODE_LEVEL: u32 = 2;
const MODE_FIXED: u32 = 3;
const BONUS_NONE: u32 = 0;
const BONUS_F16: u32 = 1;
const BONUS_F32: u32 = 2;
const FLAG_COLUMNS_READY: u32 = 1;
const FLAG_ELIGIBILITY: u32 = 2;
const FLAG_ROOM: u32 = 4;
const STATUS_OK: u32 = 1;
/// Bytes of the unified buffer that hold what does not depend on the shape: reduction, staging of picks.
const FIXED_UB: usize = 32 + 1024 + 2048;

/// Declares a structure of the layout: its C name, size and fields in order, without padding.
macro_rules! layout {
    ($($(#[$doc:meta])* struct $name:ident = $c:literal, $size:literal { $($field:ident: $type:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
            #[repr(C)]
            pub(crate) struct $name { $($field: $type),* }

            const _: () = assert!(size_of::<$name>() == $size);

            impl $name {
                /// Writes it to the beginning of `bytes`; what is reserved past the last field is zeroed.
                #[allow(dead_code, reason = "some are only read")]
                fn put(&self, bytes: &mut [u8]) {
                    $(bytes[std::mem::offset_of!(Self, $field)..][..size_of::<$type>()]
                        .copy_from_slice(&Bytes::to_le(self.$field)[..size_of::<$type>()]);)*
                }

                /// Reads it from the beginning of `bytes`.
                #[allow(dead_code, reason = "some are only written")]
                fn get(bytes: &[u8]) -> Self {
                    Self { $($field: Bytes::from_le(&bytes[std::mem::offset_of!(Self, $field)..][..size_of::<$type>()])),* }
                }
            }
        )*

        /// Every field of the layout: structure and field as C names them, offset and size in bytes. For the test that compares them.
        #[doc(hidden)]
        pub const FIELDS: &[(&str, &str, usize, usize)] =
            &[$($(($c, stringify!($field), std::mem::offset_of!($name, $field), size_of::<$type>()),)*)*];
        /// Every structure of the layout and its size in bytes.
        #[doc(hidden)]
        pub const SIZES: &[(&str, usize)] = &[$(($c, $size)),*];
    };
}

/// Numbers as bytes in the device's order.
trait Bytes: Sized {
    fn to_le(self) -> [u8; 64];
    fn from_le(bytes: &[u8]) -> Self;
}

macro_rules! bytes {
    ($($type:ty),*) => {$(
        impl Bytes for $type {
            fn to_le(self) -> [u8; 64] {
                let mut all = [0; 64];
                all[..size_of::<$type>()].copy_from_slice(&self.to_le_bytes());
                all
            }
            fn from_le(bytes: &[u8]) -> Self {
                let mut own = [0; size_of::<$type>()];
                own.copy_from_slice(bytes);
                Self::from_le_bytes(own)
            }
        }
    )*};
}
bytes!(u32, u64, i64);

impl<const N: usize> Bytes for [u32; N] {
    fn to_le(self) -> [u8; 64] {
        let mut all = [0; 64];
        for (into, word) in all.chunks_exact_mut(4).zip(self) {
            into.copy_from_slice(&word.to_le_bytes());
        }
        all
    }

    fn from_le(bytes: &[u8]) -> Self {
        let mut own = [0; N];
        for (word, from) in own.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = <u32 as Bytes>::from_le(from);
        }
        own
    }
}

layout! {
    /// Begins the input blob.
    struct Launch = "BrLaunch", 64 { magic: u32, version: u32, batches: u32, reserved: [u32; 13] }

    /// Where a batch lies in each blob.
    struct Slot = "BrSlot", 16 { in_offset: u64, out_offset: u64 }

    /// Begins a batch.
    struct Header = "BrHeader", 256 {
        magic: u32, version: u32, mode: u32, order: u32,
        flags: u32, bonus_format: u32, requests: u32, workers: u32,
        steps: u32, runs: u32, stride: u32, tile: u32,
        group: u32, max_picks: u32, stop_open_slots: u32, ub_bytes: u32,
        unit: i64, envelope: i64, refill_tokens: i64, drop_tokens: i64, growth_tokens: i64,
        f_slope: i64, f_weight: i64, shortest_tokens: i64, longest_tokens: i64, greatest_extra_tokens: i64,
        in_bytes: u32, workers_at: u32, envelope_at: u32, rows_at: u32, row_stride: u32,
        runs_at: u32, weights_at: u32, weight_stride: u32, tokens_at: u32, ages_at: u32,
        arrivals_at: u32, words_at: u32, bonus_at: u32, profiles_at: u32, profile_stride: u32,
        out_bytes: u32, out_columns_at: u32, column_stride: u32, out_picks_at: u32,
        reserved: [u32; 9],
    }

    /// A worker as the host's placements leave it.
    struct WorkerState = "BrWorker", 64 {
        cost: i64, cost_per_token: i64, anticipated: i64, longest_tokens: i64, row_added: i64,
        open_slots: u32, reserved: [u32; 5],
    }

    /// Entries of one survival class.
    struct Run = "BrRun", 32 { from: u32, count: u32, slope: i64, reserved: [u32; 4] }

    /// The head of a profile from the host.
    struct ProfileHead = "BrProfile", 32 { intercept: i64, slope: i64, knots: u32, reserved: [u32; 3] }

    /// A knot of it.
    struct KnotBytes = "BrKnot", 16 { at_tokens: i64, weight: i64 }

    /// Begins the answer to a batch.
    struct Out = "BrOut", 64 {
        magic: u32, version: u32, status: u32, picks: u32, columns: u32, rescored: u32, reserved: [u32; 10],
    }

    /// The best of a run on a worker.
    struct ColumnBytes = "BrColumn", 16 { score: i64, entry: u32, status: u32 }

    /// A pick.
    struct PickBytes = "BrPick", 16 { entry: u32, worker: u32, score: i64 }
}

/// Why the host keeps a batch: the CPU decides it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kept {
    /// No open slot, or nobody left after pinned and overdue requests.
    #[error("nobody to place")]
    Nobody,
    /// The rule's profiles cannot be drawn on the device.
    #[error("the device cannot draw this rule's profiles")]
    NoDrawer,
    /// A judge on the host chooses among several requests.
    #[error("the rule chooses among several requests on the host")]
    Judge,
    /// Nothing is scored.
    #[error("the longest go first: nothing to score")]
    LongestFirst,
    /// A limit of the device is passed.
    #[error("{what}: at most {limit} on the device, found {found}")]
    Limit {
        /// What is limited.
        what: &'static str,
        /// Its limit.
        limit: i64,
        /// Found.
        found: i64,
    },
    /// The unified buffer of the device cannot hold the planes of the batch.
    #[error("unified buffer: {planned} bytes planned, {needed} needed")]
    UnifiedBuffer {
        /// Bytes of the device.
        planned: usize,
        /// Bytes of the batch with the smallest tile.
        needed: usize,
    },
}

/// What the device answered, if it is no answer.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnswerError {
    /// The output is too short or of another version.
    #[error("answer of the device: {what}: expected {expected}, found {found}")]
    Malformed {
        /// What.
        what: &'static str,
        /// Expected.
        expected: u64,
        /// Found.
        found: u64,
    },
    /// Too many requests of a column are within the rounding of its vectors.
    #[error("the device found too many near ties in a column")]
    Ties,
    /// A pick that may not be.
    #[error("pick {index} of the device, request in pool slot {slot} on worker {worker}: {what}")]
    Pick {
        /// Its index.
        index: usize,
        /// The request's slot in its pool.
        slot: u32,
        /// The worker.
        worker: u32,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// The device that batches are packed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Soc {
    /// Vector cores: blocks that run at once.
    pub vector_cores: u32,
    /// Bytes of the unified buffer of each that a kernel may use.
    pub ub_bytes: u32,
    /// Most entries of a tile, for tests; none for what fits.
    pub tile_limit: Option<u32>,
}

impl Soc {
    /// Ascend 910B3/B4 and A3 with 40 cores: the least of the family.
    pub const ASCEND_910B: Self = Self { vector_cores: 40, ub_bytes: 184 * 1024, tile_limit: None };
}

/// Where profiles come from.
pub(crate) enum Source<'a> {
    /// The device draws them.
    Spec(ProfileSpec<'a>),
    /// The host has drawn them: `draw(worker, class, profile)`. Columns only.
    Fixed(&'a dyn Fn(usize, Option<u8>, &mut Profile)),
}

/// A decision after the host's placements.
pub(crate) struct Problem<'a> {
    pub batch: &'a Batch<'a>,
    pub plan: &'a Plan,
    pub source: Source<'a>,
    pub loads: &'a Loads,
    /// By pool slot: who has been placed by the host.
    pub taken: &'a [bool],
}

/// A pick of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DevicePick {
    pub slot: PoolSlot,
    pub worker: usize,
    pub score: i64,
}

/// The best of each survival class on each worker, as the device found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeviceColumn {
    pub worker: usize,
    pub class: Option<u8>,
    pub best: Option<(PoolSlot, i64)>,
}

/// What a launch did, for reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Columns scored by the greedy, after those of the first look.
    pub columns: u32,
    /// Requests scored again in integers.
    pub rescored: u32,
}

/// A packed batch: its shape, and whose entries are whose. Its buffers are kept from batch to batch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packing {
    header: Header,
    runs: Vec<Run>,
    classes: Vec<Option<u8>>,
    /// Pool slot, place in the arrival order, of each entry; of padding, nobody's.
    entries: Vec<(u32, u32)>,
    profiles: Vec<Profile>,
    weights: Vec<i32>,
}

fn align(bytes: usize, to: usize) -> usize {
    bytes.next_multiple_of(to)
}

fn limit(what: &'static str, limit: usize, found: usize) -> Result<(), Kept> {
    if found <= limit { Ok(()) } else { Err(Kept::Limit { what, limit: limit as i64, found: found as i64 }) }
}

fn limit_i64(what: &'static str, limit: i64, found: i64) -> Result<(), Kept> {
    if found < limit { Ok(()) } else { Err(Kept::Limit { what, limit, found }) }
}

/// Bytes that the launch's own head takes before the first batch.
#[must_use]
pub fn launch_head_bytes(batches: usize) -> usize {
    align(size_of::<Launch>() + batches * size_of::<Slot>(), BLOB_ALIGN)
}

/// Writes the head of a launch of batches at these (input, output) offsets.
pub fn write_launch_head(offsets: &[(usize, usize)], bytes: &mut [u8]) {
    Launch { magic: MAGIC, version: VERSION, batches: offsets.len() as u32, reserved: [0; 13] }.put(bytes);
    for (at, &(input, output)) in offsets.iter().enumerate() {
        let slot = Slot { in_offset: input as u64, out_offset: output as u64 };
        slot.put(&mut bytes[size_of::<Launch>() + at * size_of::<Slot>()..]);
    }
}

/// Bytes of the unified buffer that the kernel takes for a batch; `BR_UB_BYTES` of `tiling.h`.
fn ub_bytes(header: &Header) -> usize {
    let (stride, tile) = (header.stride as usize, header.tile as usize);
    let planes = if header.bonus_format == BONUS_NONE { 3 } else { 4 };
    let mut bytes = planes * stride * 4 + 4 * tile * 4 + FIXED_UB;
    if header.flags & (FLAG_ELIGIBILITY | FLAG_ROOM) != 0 {
        bytes += align(tile / 8, BLOCK_BYTES);
    }
    if header.flags & FLAG_ELIGIBILITY != 0 {
        bytes += 4 * tile * 2;
    }
    bytes
        + 2 * tile
            * match header.bonus_format {
                BONUS_F16 => 2,
                BONUS_F32 => 4,
                _ => 0,
            }
}

impl Packing {
    /// Lays a batch out for a device, or says why the host keeps it.
    pub(crate) fn plan(&mut self, problem: &Problem<'_>, soc: Soc) -> Result<(), Kept> {
        let (batch, plan) = (problem.batch, problem.plan);
        let workers = batch.workers().len();
        // The kernel's number of the order, and how many open slots it leaves to the host.
        let (order, stop_open_slots) = match plan.order {
            Order::Matrix => (0, 0),
            Order::LeastLoaded => (1, 0),
            Order::MostOpenSlots(stage) => (2, stage.greedy_slots),
            Order::LongestFirst { .. } => return Err(Kept::LongestFirst),
        };
        limit("workers", MAX_WORKERS, workers)?;
        let open: i64 = (0..workers).map(|worker| problem.loads.open_slots(worker)).sum();
        if open <= i64::from(stop_open_slots) {
            return Err(Kept::Nobody);
        }
        let mut header = Header {
            magic: MAGIC,
            version: VERSION,
            workers: workers as u32,
            unit: plan.unit,
            refill_tokens: plan.refill_tokens,
            growth_tokens: i64::from(batch.request_growth_tokens()),
            order,
            stop_open_slots,
            ..Header::default()
        };
        self.gather(problem, &mut header)?;
        let per_token = problem.loads.dearest_token();
        let steepest = self.profile(problem, &mut header)?;
        limit("knots of a profile", MAX_STEPS, header.steps as usize)?;

        let mut greatest_bonus = 0;
        header.bonus_format = BONUS_NONE;
        for request in self.requests(batch) {
            let Some(row) = request.pair_row else { continue };
            if let Some(bonuses) = batch.bonuses() {
                if header.bonus_format == BONUS_NONE {
                    header.bonus_format = BONUS_F16;
                }
                for worker in 0..workers {
                    let bonus = bonuses.at(row as usize * workers + worker);
                    greatest_bonus = greatest_bonus.max(bonus.abs());
                    if !is_half(bonus) {
                        header.bonus_format = BONUS_F32;
                    }
                }
            }
        }
        let pool = batch.waiting();
        let greatest_age =
            self.occupied().map(|slot| plan.age.tokens(pool.waited_steps(slot))).max().unwrap_or(0);
        header.greatest_extra_tokens = greatest_age.saturating_add(greatest_bonus);
        limit_i64("age plus bonus in tokens", EXACT_F32, header.greatest_extra_tokens)?;
        let extra = header.unit.saturating_mul(header.greatest_extra_tokens);
        let dearest = if header.mode == MODE_FIXED { 1 } else { per_token };
        let bound =
            steepest.saturating_mul(dearest).saturating_mul(header.longest_tokens).saturating_add(extra);
        limit_i64("score units", GREATEST, bound)?;

        let any_eligible = self.requests(batch).any(|request| {
            request.rank.is_some()
                || (0..workers.div_ceil(64)).any(|word| batch.eligible_word(request, word) != u64::MAX)
        });
        if any_eligible {
            header.flags |= FLAG_ELIGIBILITY;
        }
        if batch.is_bounded() {
            header.flags |= FLAG_ROOM;
        }
        header.max_picks = (i64::from(header.requests)).min(open) as u32;
        let blocks = soc.vector_cores.clamp(1, workers as u32);
        header.group = (workers as u32).div_ceil(blocks);
        if header.order == 0 && header.mode != MODE_FIXED {
            header.flags |= FLAG_COLUMNS_READY;
        }
        fit_tile(&mut header, soc)?;
        place_sections(&mut header);
        self.header = header;
        Ok(())
    }

    /// Says that the batch shares its launch with others: its block scores the first columns itself.
    pub(crate) fn share(&mut self) {
        self.header.flags &= !FLAG_COLUMNS_READY;
    }

    /// Orders the waiting requests into runs of entries.
    fn gather(&mut self, problem: &Problem<'_>, header: &mut Header) -> Result<(), Kept> {
        let batch = problem.batch;
        let by_class = batch.classes().is_some()
            && match problem.source {
                Source::Spec(ProfileSpec::Lookahead { by_class, .. }) => by_class,
                Source::Spec(_) => false,
                Source::Fixed(_) => true,
            };
        let class_of = |request: &Request| if by_class { batch.class_of(request) } else { None };
        self.runs.clear();
        self.classes.clear();
        self.runs.push(Run::default());
        self.classes.push(None);
        let (mut shortest, mut longest, mut count) = (i64::MAX, 0, 0usize);
        for (slot, request, _) in batch.waiting().iter() {
            if problem.taken[slot.index()] {
                continue;
            }
            count += 1;
            shortest = shortest.min(i64::from(request.prompt_tokens));
            longest = longest.max(i64::from(request.prompt_tokens));
            let class = class_of(request);
            let run = match self.classes.iter().position(|&other| other == class) {
                Some(run) => run,
                None => {
                    self.classes.push(class);
                    self.runs.push(Run::default());
                    self.runs.len() - 1
                }
            };
            self.runs[run].count += 1;
        }
        if count == 0 {
            return Err(Kept::Nobody);
        }
        limit("waiting requests", MAX_REQUESTS, count)?;
        limit("survival classes in use", MAX_RUNS, self.runs.len())?;
        let mut at = 0;
        for run in &mut self.runs {
            run.from = at as u32;
            at += align(run.count as usize, ENTRY_ALIGN);
            run.count = 0;
        }
        self.entries.clear();
        self.entries.resize(at, (NOBODY, 0));
        let mut arrival = 0;
        for (slot, request, _) in batch.waiting().iter() {
            if problem.taken[slot.index()] {
                continue;
            }
            let class = class_of(request);
            let run = self.classes.iter().position(|&other| other == class).unwrap_or(0);
            let run = &mut self.runs[run];
            self.entries[(run.from + run.count) as usize] = (slot.0, arrival);
            run.count += 1;
            arrival += 1;
        }
        header.requests = count as u32;
        header.runs = self.runs.len() as u32;
        header.stride = at as u32;
        header.shortest_tokens = shortest;
        header.longest_tokens = longest;
        Ok(())
    }

    /// What draws profiles; returns the greatest sum of slope and weights per cost unit.
    fn profile(&mut self, problem: &Problem<'_>, header: &mut Header) -> Result<i64, Kept> {
        let (envelope, envelope_row) = problem.loads.envelopes();
        header.envelope = envelope;
        self.weights.clear();
        match problem.source {
            Source::Spec(ProfileSpec::Margin { slope, weight }) => {
                header.mode = MODE_F;
                (header.f_slope, header.f_weight) = (slope, weight);
                Ok(slope.abs().saturating_add(weight))
            }
            Source::Spec(ProfileSpec::Level { drop_tokens }) => {
                header.mode = MODE_LEVEL;
                header.drop_tokens = drop_tokens;
                Ok(i64::from(header.workers) + 3)
            }
            Source::Spec(ProfileSpec::Lookahead { discounts, alpha, beta, .. }) => {
                header.mode = MODE_LOOKAHEAD;
                let steps = discounts.len().min(envelope_row.len());
                if steps == 0 {
                    return Err(Kept::NoDrawer);
                }
                header.steps = steps as u32;
                let width = envelope_row.len().max(1);
                let mut steepest = 0;
                for (run, class) in self.runs.iter_mut().zip(&self.classes) {
                    let survival = problem.batch.survival(*class, width);
                    let (mut slope, mut sum) = (0i64, 0i64);
                    for (h, &discount) in discounts[..steps].iter().enumerate() {
                        let alive =
                            survival.and_then(|row| row.get(h)).map_or(1.0, |&alive| f64::from(alive));
                        let (gain, lost) = step_weights((alpha, beta), discount, alive);
                        slope += gain;
                        limit_i64("weight of a step", 1 << 31, lost)?;
                        sum = sum.saturating_add(lost);
                        self.weights.push(lost as i32);
                    }
                    run.slope = slope;
                    steepest = steepest.max(sum.saturating_add(slope));
                }
                Ok(steepest)
            }
            Source::Fixed(draw) => {
                header.mode = MODE_FIXED;
                let count = self.runs.len() * header.workers as usize;
                self.profiles.resize_with(count, Profile::default);
                let mut steepest = 0;
                let mut profiles = self.profiles.iter_mut();
                for worker in 0..header.workers as usize {
                    for (&class, profile) in self.classes.iter().zip(&mut profiles) {
                        profile.clear();
                        draw(worker, class, profile);
                        header.steps = header.steps.max(profile.knots.len() as u32);
                        let sum = profile.knots.iter().map(|knot| knot.weight);
                        steepest = sum.fold(profile.slope.abs(), i64::saturating_add).max(steepest);
                    }
                }
                Ok(steepest)
            }
        }
    }

    fn occupied(&self) -> impl Iterator<Item = PoolSlot> {
        self.entries.iter().filter(|(slot, _)| *slot != NOBODY).map(|&(slot, _)| PoolSlot(slot))
    }

    fn requests<'a>(&'a self, batch: &'a Batch<'a>) -> impl Iterator<Item = &'a Request> {
        self.occupied().map(move |slot| batch.waiting().request(slot))
    }

    /// Bytes of the batch in the input blob.
    pub(crate) fn in_bytes(&self) -> usize {
        self.header.in_bytes as usize
    }

    /// Bytes of its answer in the output blob.
    pub(crate) fn out_bytes(&self) -> usize {
        self.header.out_bytes as usize
    }

    /// Bytes at the beginning of its answer that are zeroed before a launch: an unwritten status is an error then.
    pub(crate) fn zeroed_bytes(&self) -> usize {
        self.header.out_picks_at as usize
    }

    /// What to launch for this batch alone, in one stream: entries and their blocks.
    pub(crate) fn launches(&self) -> impl Iterator<Item = (&'static str, u32)> {
        let blocks = self.header.workers.div_ceil(self.header.group.max(1));
        let fixed = self.header.mode == MODE_FIXED;
        let columns = fixed || self.header.flags & FLAG_COLUMNS_READY != 0;
        [columns.then_some((ENTRY_COLUMNS, blocks)), (!fixed).then_some((ENTRY_GREEDY, 1))]
            .into_iter()
            .flatten()
    }

    /// Writes the batch as planned to `bytes`, [`Packing::in_bytes`] long. Padding keeps whatever is there.
    pub(crate) fn write(&self, problem: &Problem<'_>, bytes: &mut [u8]) {
        let header = &self.header;
        header.put(bytes);
        let at = |section: u32| section as usize;
        let (batch, pool) = (problem.batch, problem.batch.waiting());
        for worker in 0..header.workers as usize {
            let view = problem.loads.view(worker);
            let first = batch.projection().map_or(0, |projection| {
                projection.rows[worker * (projection.horizon + 1)] as i64 * view.cost_per_token
            });
            WorkerState {
                cost: view.cost,
                cost_per_token: view.cost_per_token,
                anticipated: view.anticipated,
                longest_tokens: problem.loads.longest_tokens(worker),
                row_added: view.row.first().map_or(0, |now| now - first),
                open_slots: view.open_slots as u32,
                reserved: [0; 5],
            }
            .put(&mut bytes[at(header.workers_at) + worker * size_of::<WorkerState>()..]);
        }
        for (index, run) in self.runs.iter().enumerate() {
            run.put(&mut bytes[at(header.runs_at) + index * size_of::<Run>()..]);
        }
        if header.mode == MODE_LOOKAHEAD {
            self.write_lookahead(problem, bytes);
        }
        if header.mode == MODE_FIXED {
            for (index, profile) in self.profiles.iter().enumerate() {
                let into = &mut bytes[at(header.profiles_at) + index * at(header.profile_stride)..];
                let (intercept, slope, knots) =
                    (profile.intercept, profile.slope, profile.knots.len() as u32);
                ProfileHead { intercept, slope, knots, reserved: [0; 3] }.put(into);
                for (index, knot) in profile.knots.iter().enumerate() {
                    KnotBytes { at_tokens: knot.at_tokens, weight: knot.weight }
                        .put(&mut into[size_of::<ProfileHead>() + index * size_of::<KnotBytes>()..]);
                }
            }
        }
        for (entry, &(slot, arrival)) in self.entries.iter().enumerate() {
            if slot == NOBODY {
                continue;
            }
            let slot = PoolSlot(slot);
            let tokens = pool.request(slot).prompt_tokens as f32;
            let age = problem.plan.age.tokens(pool.waited_steps(slot)) as f32;
            for (section, word) in [
                (header.tokens_at, tokens.to_bits()),
                (header.ages_at, age.to_bits()),
                (header.arrivals_at, arrival),
            ] {
                bytes[at(section) + entry * 4..][..4].copy_from_slice(&word.to_le_bytes());
            }
        }
        if header.flags & FLAG_ELIGIBILITY != 0 {
            self.write_words(batch, &mut bytes[at(header.words_at)..]);
        }
        if header.bonus_format != BONUS_NONE {
            self.write_bonuses(batch, &mut bytes[at(header.bonus_at)..]);
        }
    }

    fn write_lookahead(&self, problem: &Problem<'_>, bytes: &mut [u8]) {
        let header = &self.header;
        let steps = header.steps as usize;
        let (_, envelope_row) = problem.loads.envelopes();
        for (h, envelope) in envelope_row[..steps].iter().enumerate() {
            bytes[header.envelope_at as usize + h * 8..][..8].copy_from_slice(&envelope.to_le_bytes());
        }
        for (run, weights) in self.weights.chunks_exact(steps).enumerate() {
            let from = header.weights_at as usize + run * header.weight_stride as usize;
            for (into, weight) in bytes[from..].chunks_exact_mut(4).zip(weights) {
                into.copy_from_slice(&weight.to_le_bytes());
            }
        }
        if let Some(projection) = problem.batch.projection() {
            for (worker, row) in projection.rows.chunks_exact(projection.horizon + 1).enumerate() {
                let from = header.rows_at as usize + worker * header.row_stride as usize;
                for (into, &tokens) in bytes[from..].chunks_exact_mut(4).zip(&row[..steps]) {
                    into.copy_from_slice(&(tokens as u32).to_le_bytes());
                }
            }
        }
    }

    fn write_words(&self, batch: &Batch<'_>, bytes: &mut [u8]) {
        let stride = self.header.stride as usize;
        for (entry, &(slot, _)) in self.entries.iter().enumerate() {
            if slot == NOBODY {
                continue;
            }
            let request = batch.waiting().request(PoolSlot(slot));
            for plane in 0..(self.header.workers as usize).div_ceil(16) {
                let mut word = (batch.eligible_word(request, plane / 4) >> (plane % 4 * 16)) as u16;
                if let Some(rank) = request.rank {
                    word &= if rank as usize / 16 == plane { 1 << (rank % 16) } else { 0 };
                }
                bytes[(plane * stride + entry) * 2..][..2].copy_from_slice(&word.to_le_bytes());
            }
        }
    }

    fn write_bonuses(&self, batch: &Batch<'_>, bytes: &mut [u8]) {
        let (stride, workers) = (self.header.stride as usize, self.header.workers as usize);
        let half = self.header.bonus_format == BONUS_F16;
        for (entry, &(slot, _)) in self.entries.iter().enumerate() {
            if slot == NOBODY {
                continue;
            }
            let request = batch.waiting().request(PoolSlot(slot));
            for worker in 0..workers {
                let bonus = batch.bonus_tokens(request, worker) as f32;
                let at = worker * stride + entry;
                if half {
                    bytes[at * 2..][..2].copy_from_slice(&f16::from_f32(bonus).to_bits().to_le_bytes());
                } else {
                    bytes[at * 4..][..4].copy_from_slice(&bonus.to_bits().to_le_bytes());
                }
            }
        }
    }

    /// The picks of an answer, [`Packing::out_bytes`] long, into `picks`.
    pub(crate) fn read(&self, bytes: &[u8], picks: &mut Vec<DevicePick>) -> Result<Work, AnswerError> {
        picks.clear();
        let out = self.head(bytes)?;
        match out.status {
            STATUS_OK => {}
            2 => return Err(AnswerError::Ties),
            found => return Err(malformed("status", STATUS_OK.into(), found.into())),
        }
        if out.picks > self.header.max_picks {
            return Err(malformed("picks at most", self.header.max_picks.into(), out.picks.into()));
        }
        for index in 0..out.picks as usize {
            let pick =
                PickBytes::get(&bytes[self.header.out_picks_at as usize + index * size_of::<PickBytes>()..]);
            let slot = self.slot(pick.entry).ok_or(malformed("entry of a pick", 0, pick.entry.into()))?;
            if pick.worker >= self.header.workers {
                return Err(malformed(
                    "worker of a pick below",
                    self.header.workers.into(),
                    pick.worker.into(),
                ));
            }
            picks.push(DevicePick { slot, worker: pick.worker as usize, score: pick.score });
        }
        Ok(Work { columns: out.columns, rescored: out.rescored })
    }

    /// The columns of an answer, worker by worker.
    pub(crate) fn read_columns(
        &self,
        bytes: &[u8],
        columns: &mut Vec<DeviceColumn>,
    ) -> Result<(), AnswerError> {
        columns.clear();
        if bytes.len() < self.out_bytes() {
            return Err(malformed("bytes", self.out_bytes() as u64, bytes.len() as u64));
        }
        for worker in 0..self.header.workers as usize {
            for (run, &class) in self.classes.iter().enumerate() {
                let from = self.header.out_columns_at as usize
                    + worker * self.header.column_stride as usize
                    + run * size_of::<ColumnBytes>();
                let column = ColumnBytes::get(&bytes[from..]);
                match column.status {
                    STATUS_OK => {}
                    2 => return Err(AnswerError::Ties),
                    found => return Err(malformed("status of a column", STATUS_OK.into(), found.into())),
                }
                let best = match column.entry {
                    NOBODY => None,
                    entry => {
                        let slot = self.slot(entry).ok_or(malformed("entry of a column", 0, entry.into()))?;
                        Some((slot, column.score))
                    }
                };
                columns.push(DeviceColumn { worker, class, best });
            }
        }
        Ok(())
    }

    fn head(&self, bytes: &[u8]) -> Result<Out, AnswerError> {
        if bytes.len() < self.out_bytes() {
            return Err(malformed("bytes", self.out_bytes() as u64, bytes.len() as u64));
        }
        let out = Out::get(bytes);
        if out.magic != MAGIC {
            return Err(malformed("magic", MAGIC.into(), out.magic.into()));
        }
        if out.version != VERSION {
            return Err(malformed("version", VERSION.into(), out.version.into()));
        }
        Ok(out)
    }

    fn slot(&self, entry: u32) -> Option<PoolSlot> {
        let &(slot, _) = self.entries.get(entry as usize)?;
        (slot != NOBODY).then_some(PoolSlot(slot))
    }
}

fn malformed(what: &'static str, expected: u64, found: u64) -> AnswerError {
    AnswerError::Malformed { what, expected, found }
}

/// Whether half precision holds a whole number exactly.
fn is_half(whole: i64) -> bool {
    let single = whole as f32;
    single.abs() <= f32::from(f16::MAX) && f32::from(f16::from_f32(single)) == single
}

/// The largest tile with which the batch fits.
fn fit_tile(header: &mut Header, soc: Soc) -> Result<(), Kept> {
    let most = soc.tile_limit.unwrap_or(2048).max(ENTRY_ALIGN as u32);
    header.tile = (most / ENTRY_ALIGN as u32 * ENTRY_ALIGN as u32).min(header.stride);
    header.ub_bytes = soc.ub_bytes;
    while ub_bytes(header) > soc.ub_bytes as usize {
        if header.tile <= ENTRY_ALIGN as u32 {
            return Err(Kept::UnifiedBuffer { planned: soc.ub_bytes as usize, needed: ub_bytes(header) });
        }
        header.tile -= ENTRY_ALIGN as u32;
    }
    Ok(())
}

fn place_sections(header: &mut Header) {
    let (workers, runs) = (header.workers as usize, header.runs as usize);
    let (steps, stride) = (header.steps as usize, header.stride as usize);
    let mut end = size_of::<Header>();
    let mut section = |bytes: usize| {
        let at = end;
        end = align(end + bytes, BLOCK_BYTES);
        if bytes == 0 { 0 } else { at as u32 }
    };
    header.workers_at = section(workers * size_of::<WorkerState>());
    header.runs_at = section(runs * size_of::<Run>());
    if header.mode == MODE_LOOKAHEAD {
        header.row_stride = align(steps * 4, BLOCK_BYTES) as u32;
        header.weight_stride = header.row_stride;
        header.envelope_at = section(steps * 8);
        header.rows_at = section(workers * header.row_stride as usize);
        header.weights_at = section(runs * header.weight_stride as usize);
    }
    if header.mode == MODE_FIXED {
        let bytes = size_of::<ProfileHead>() + steps * size_of::<KnotBytes>();
        header.profile_stride = align(bytes, BLOCK_BYTES) as u32;
        header.profiles_at = section(workers * runs * header.profile_stride as usize);
    }
    header.tokens_at = section(stride * 4);
    header.ages_at = section(stride * 4);
    header.arrivals_at = section(stride * 4);
    if header.flags & FLAG_ELIGIBILITY != 0 {
        header.words_at = section(workers.div_ceil(16) * stride * 2);
    }
    header.bonus_at = match header.bonus_format {
        BONUS_F16 => section(workers * stride * 2),
        BONUS_F32 => section(workers * stride * 4),
        _ => 0,
    };
    header.in_bytes = align(end, BLOB_ALIGN) as u32;

    header.column_stride = align(runs * size_of::<ColumnBytes>(), BLOCK_BYTES) as u32;
    header.out_columns_at = size_of::<Out>() as u32;
    header.out_picks_at = header.out_columns_at + workers as u32 * header.column_stride;
    let end = header.out_picks_at as usize + header.max_picks as usize * size_of::<PickBytes>();
    header.out_bytes = align(end, BLOB_ALIGN) as u32;
}
