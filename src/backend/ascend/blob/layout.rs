//! The bytes of a launch, as `kernels/ascendc/tiling.h` declares them: its structures, constants and limits.
//!
//! This is the host's copy of that header. A test compiles the header and compares every size, offset and
//! public constant with the ones here.

/// The entry that scores columns, one block for each group of workers.
pub const ENTRY_COLUMNS: &str = "balanceroute_columns";
/// The entry that picks, one block for each batch.
pub const ENTRY_GREEDY: &str = "balanceroute_greedy";
/// Version of the layout; a kernel refuses any other.
pub const VERSION: u32 = 3;
/// First word of a launch, of each batch and of each answer.
pub const MAGIC: u32 = 0x314b_5242;
/// Blobs, and the batches in them, begin at multiples of this many bytes.
pub const BLOB_ALIGN: usize = 64;
/// Most requests of a batch on the device.
pub const MAX_REQUESTS: usize = 4096;
/// Most workers.
pub const MAX_WORKERS: usize = 256;
/// Most projected steps, `H + 1`, each a knot.
pub const MAX_STEPS: usize = 129;
/// Most knots of a profile: one for each of the others, and a few.
pub const MAX_KNOTS: usize = MAX_WORKERS + 16;
/// Most survival classes in use, plus one.
pub const MAX_RUNS: usize = 16;
/// Most batches of one launch.
pub const MAX_BATCHES: usize = 1024;

/// A run begins at a multiple of this many entries.
pub(super) const ENTRY_ALIGN: usize = 128;
/// Sections begin at multiples of this many bytes.
pub(super) const BLOCK_BYTES: usize = 32;
/// Scores stay below this, so that the kernel's sums do not overflow.
pub(super) const GREATEST: i64 = 1 << 56;
/// Below this, single precision holds every whole number.
pub(super) const EXACT_F32: i64 = 1 << 24;
/// The entry of no request.
pub(super) const NOBODY: u32 = u32::MAX;
// How a profile follows from loads.
pub(super) const MODE_F: u32 = 0;
pub(super) const MODE_LOOKAHEAD: u32 = 1;
pub(super) const MODE_LEVEL: u32 = 2;
pub(super) const MODE_FIXED: u32 = 3;
pub(super) const MODE_LEVELS: u32 = 4;
// How bonuses are stored.
pub(super) const BONUS_NONE: u32 = 0;
pub(super) const BONUS_F16: u32 = 1;
pub(super) const BONUS_F32: u32 = 2;
// What a batch has, beside lengths and ages.
pub(super) const FLAG_COLUMNS_READY: u32 = 1;
pub(super) const FLAG_ELIGIBILITY: u32 = 2;
pub(super) const FLAG_ROOM: u32 = 4;
// What the kernel says of its answer.
pub(super) const STATUS_OK: u32 = 1;
pub(super) const STATUS_TIES: u32 = 2;
/// Bytes of the unified buffer that a batch of any shape takes: for reductions, and for staging picks.
pub(super) const FIXED_UB: usize = 1024 + 64 + 2048;
/// Tiles of intermediate results.
pub(super) const WORK_TILES: usize = 9;

/// Declares structures of the layout: name, name in C, size, and the fields in order, without padding.
macro_rules! layout {
    ($(
        $(#[$doc:meta])*
        struct $name:ident = $c:literal, $size:literal { $($field:ident: $type:ty),* $(,)? }
    )*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
            #[repr(C)]
            pub(crate) struct $name { $(pub(super) $field: $type),* }

            const _: () = assert!(size_of::<$name>() == $size);

            impl $name {
                /// Writes its fields to the beginning of `bytes`.
                #[allow(dead_code, reason = "some are only read")]
                pub(super) fn put(&self, bytes: &mut [u8]) {
                    $(bytes[std::mem::offset_of!(Self, $field)..][..size_of::<$type>()]
                        .copy_from_slice(&Bytes::to_le(self.$field)[..size_of::<$type>()]);)*
                }

                /// Reads its fields from the beginning of `bytes`.
                #[allow(dead_code, reason = "some are only written")]
                pub(super) fn get(bytes: &[u8]) -> Self {
                    Self {
                        $($field: Bytes::from_le(
                            &bytes[std::mem::offset_of!(Self, $field)..][..size_of::<$type>()],
                        )),*
                    }
                }
            }
        )*

        /// Every field of the layout: structure and field as C names them, offset and size in bytes. A test
        /// compares them with the header.
        #[doc(hidden)]
        pub const FIELDS: &[(&str, &str, usize, usize)] =
            &[$($(($c, stringify!($field), std::mem::offset_of!($name, $field), size_of::<$type>()),)*)*];
        /// Every structure of the layout and its size in bytes.
        #[doc(hidden)]
        pub const SIZES: &[(&str, usize)] = &[$(($c, $size)),*];
    };
}

/// Numbers as the device orders their bytes: little-endian.
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
    /// The head of the input blob.
    struct Launch = "BrLaunch", 64 { magic: u32, version: u32, batches: u32, reserved: [u32; 13] }

    /// Where a batch lies in each blob.
    struct Slot = "BrSlot", 16 { in_offset: u64, out_offset: u64 }

    /// The head of a batch.
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
        terms_at: u32, levels_at: u32, rises_at: u32,
        reserved: [u32; 6],
    }

    /// A worker after the host's placements.
    struct WorkerState = "BrWorker", 64 {
        cost: i64, cost_per_token: i64, anticipated: i64, longest_tokens: i64, row_added: i64,
        open_slots: u32, reserved: [u32; 5],
    }

    /// A run: the entries of one survival class.
    struct Run = "BrRun", 32 { from: u32, count: u32, slope: i64, reserved: [u32; 4] }

    /// What profiles that follow the loads of all others are made of; knots of the reserve follow.
    struct LevelTermsBytes = "BrLevelTerms", 64 {
        mean: i64, least: i64, base: i64, fall: i64, reserve: i64, reserve_slope: i64, token_cost: i64,
        reserved: [u32; 2],
    }

    /// The head of a profile that the host computed.
    struct ProfileHead = "BrProfile", 32 { intercept: i64, slope: i64, knots: u32, reserved: [u32; 3] }

    /// A knot of such a profile.
    struct KnotBytes = "BrKnot", 16 { at_tokens: i64, weight: i64 }

    /// The head of the answer to a batch.
    struct Out = "BrOut", 64 {
        magic: u32, version: u32, status: u32, picks: u32, columns: u32, rescored: u32, reserved: [u32; 10],
    }

    /// The best request of a run on a worker.
    struct ColumnBytes = "BrColumn", 16 { score: i64, entry: u32, status: u32 }

    /// A pick of the device.
    struct PickBytes = "BrPick", 16 { entry: u32, worker: u32, score: i64 }
}

/// Rounds up to a multiple of `to`.
pub(super) fn align(bytes: usize, to: usize) -> usize {
    bytes.next_multiple_of(to)
}

/// Bytes before the first batch of a launch.
#[must_use]
pub fn launch_head_bytes(batches: usize) -> usize {
    align(size_of::<Launch>() + batches * size_of::<Slot>(), BLOB_ALIGN)
}

/// Writes the head of a launch: where each batch begins in the input and in the output.
pub fn write_launch_head(offsets: &[(usize, usize)], bytes: &mut [u8]) {
    Launch { magic: MAGIC, version: VERSION, batches: offsets.len() as u32, reserved: [0; 13] }.put(bytes);
    for (at, &(input, output)) in offsets.iter().enumerate() {
        let slot = Slot { in_offset: input as u64, out_offset: output as u64 };
        slot.put(&mut bytes[size_of::<Launch>() + at * size_of::<Slot>()..]);
    }
}

/// Bytes of the unified buffer that the kernel takes for a batch; `BR_UB_BYTES` of `tiling.h`.
pub(super) fn ub_bytes(header: &Header) -> usize {
    let (stride, tile) = (header.stride as usize, header.tile as usize);
    let planes = if header.bonus_format == BONUS_NONE { 3 } else { 4 };
    let mask = align(tile / 8, BLOCK_BYTES);
    let mut bytes = planes * stride * 4 + WORK_TILES * tile * 4 + FIXED_UB;
    if header.flags & FLAG_ROOM != 0 {
        bytes += mask;
    }
    if header.flags & FLAG_ELIGIBILITY != 0 {
        bytes += mask + 3 * tile * 2;
    }
    let bonus = match header.bonus_format {
        BONUS_F16 => 2,
        BONUS_F32 => 4,
        _ => 0,
    };
    bytes + tile * bonus
}
