//! One file per instruction set: its vector operations and its table. They look alike, and the only `unsafe` of the CPU
//! backend is here.
//!
//! Why `std::arch` and not `fearless_simd`: the inner loop takes 0.93 to 1.14 times as long over the other, 1.03 on average (`cd benches/peers
//! && cargo run --release --no-default-features --bin simd`); the most where an instruction is chosen by hand. `std::arch` also has dot products
//! that add up (VNNI), gathers and half-precision conversions. The other's gain, no `unsafe`, is worth less than a dependency here: the `unsafe` is one
//! line an operation, and all of it is in this folder.
//!
//! Kernels take no closures that do vector operations: such a closure may be compiled apart from its caller, without the
//! instruction set, and then every operation is a call.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
pub(super) mod scalar;

/// The table of an instruction set that needs `target_feature`, and the kernels behind it.
macro_rules! instantiate {
    ($table:ident, $isa:expr, $token:expr, $features:literal, ($blocks:literal, $wide_blocks:literal), $tiers:expr, $far:expr) => {
        static $table: Kernels = Kernels {
            isa: $isa,
            begin: |ordered, age, slopes, marks| {
                #[target_feature(enable = $features)]
                fn begin(
                    ordered: &Ordered<'_>,
                    age: (Age, i32),
                    slopes: Option<[i32; 2]>,
                    marks: &mut Marks,
                ) {
                    column::begin($token, ordered, age, slopes, marks);
                }
                // SAFETY: `kernels` hands out the table only where the CPU has the features.
                unsafe { begin(ordered, age, slopes, marks) }
            },
            take: |ordered, position, marks| {
                #[target_feature(enable = $features)]
                fn take(ordered: &Ordered<'_>, position: usize, marks: &mut Marks) {
                    column::take($token, ordered, position, marks);
                }
                // SAFETY: as above.
                unsafe { take(ordered, position, marks) }
            },
            search: |ordered, query, marks| {
                #[target_feature(enable = $features)]
                fn search(ordered: &Ordered<'_>, query: &Query<'_>, marks: &mut Marks) -> Option<Found> {
                    column::search($token, ordered, query, marks)
                }
                // SAFETY: as above.
                unsafe { search(ordered, query, marks) }
            },
            level: |chain| {
                #[target_feature(enable = $features)]
                fn place(chain: &mut Chain<'_>) -> Option<usize> {
                    level::place($token, chain)
                }
                // SAFETY: as above.
                unsafe { place(chain) }
            },
            level_repair: |chain, first| {
                #[target_feature(enable = $features)]
                fn replace(chain: &mut Chain<'_>, first: usize) -> (bool, Option<usize>) {
                    level::replace($token, chain, first)
                }
                // SAFETY: as above.
                unsafe { replace(chain, first) }
            },
            swap: |picks| {
                #[target_feature(enable = $features)]
                fn pass(picks: &mut Swap<'_>) -> bool {
                    swap::pass($token, picks)
                }
                // SAFETY: as above.
                unsafe { pass(picks) }
            },
            loads: LoadKernels {
                anticipate: |columns, refill, anticipated| {
                    #[target_feature(enable = $features)]
                    fn anticipate(columns: [&[i64]; 3], refill: u32, anticipated: &mut [i64]) -> i64 {
                        loads::anticipate(columns, refill, anticipated)
                    }
                    // SAFETY: as above.
                    unsafe { anticipate(columns, refill, anticipated) }
                },
                top: |values| {
                    #[target_feature(enable = $features)]
                    fn top(values: &[i64]) -> Top {
                        loads::top(values)
                    }
                    // SAFETY: as above.
                    unsafe { top(values) }
                },
                sum_and_max: |values| {
                    #[target_feature(enable = $features)]
                    fn sum_and_max(values: &[i64]) -> (i64, i64) {
                        loads::sum_and_max(values)
                    }
                    // SAFETY: as above.
                    unsafe { sum_and_max(values) }
                },
                raise: |rows, greatest| {
                    #[target_feature(enable = $features)]
                    fn raise(rows: &[i64], greatest: &mut [i64]) {
                        loads::raise(rows, greatest)
                    }
                    // SAFETY: as above.
                    unsafe { raise(rows, greatest) }
                },
            },
            prepare: |query, profile, lengths| {
                #[target_feature(enable = $features)]
                fn prepare(query: &mut DenseQuery, profile: &Profile, lengths: (i64, i64)) -> bool {
                    query.prepare($token, profile, lengths)
                }
                // SAFETY: as above.
                unsafe { prepare(query, profile, lengths) }
            },
            bounds: |query, edges| {
                #[target_feature(enable = $features)]
                fn bounds(query: &DenseQuery, edges: &dense::Edges) -> [i64; crate::pool::BLOCK] {
                    query.bounds($token, edges)
                }
                // SAFETY: as above.
                unsafe { bounds(query, edges) }
            },
            cut: |query, lengths, greatest_base, tiers| {
                #[target_feature(enable = $features)]
                fn cut(
                    query: &mut DenseQuery,
                    lengths: (i32, i32),
                    greatest_base: i64,
                    tiers: &[Tier],
                ) -> Option<(Tier, i64)> {
                    query.cut($token, lengths, greatest_base, tiers)
                }
                // SAFETY: as above.
                unsafe { cut(query, lengths, greatest_base, tiers) }
            },
            dense: |tier, rows, query, kept| {
                #[target_feature(enable = $features)]
                fn column(tier: Tier, rows: &Rows<'_>, query: &DenseQuery, kept: &mut Kept) -> Option<Best> {
                    dense::column::<_, $blocks, $wide_blocks>($token, tier, rows, query, kept)
                }
                // SAFETY: as above.
                unsafe { column(tier, rows, query, kept) }
            },
            spin: |tier, query, blocks, kept| {
                #[target_feature(enable = $features)]
                fn spin(tier: Tier, query: &DenseQuery, blocks: usize, kept: &mut Kept) -> i64 {
                    dense::spin::<_, $blocks, $wide_blocks>($token, tier, query, blocks, kept)
                }
                // SAFETY: as above.
                unsafe { spin(tier, query, blocks, kept) }
            },
            add_bonuses: |bonuses, workers, unit, from, bases| {
                #[target_feature(enable = $features)]
                fn add_bonuses(
                    bonuses: (Bonuses<'_>, u32),
                    workers: &[u32],
                    unit: i32,
                    from: dense::Plain<'_>,
                    bases: &mut [Block],
                ) -> i64 {
                    dense::add_bonuses($token, bonuses, workers, unit, from, bases)
                }
                // SAFETY: as above.
                unsafe { add_bonuses(bonuses, workers, unit, from, bases) }
            },
            find_bonuses: |bonuses, workers, open, entries, hits| {
                #[target_feature(enable = $features)]
                fn find_bonuses(
                    bonuses: Bonuses<'_>,
                    workers: usize,
                    open: (&[Block], &[dense::Span]),
                    entries: &mut [[u32; 2]],
                    hits: &mut [dense::Hit],
                ) -> usize {
                    dense::find_bonuses($token, bonuses, workers, open, entries, hits)
                }
                // SAFETY: as above.
                unsafe { find_bonuses(bonuses, workers, open, entries, hits) }
            },
            words: |masks, rows, into| {
                #[target_feature(enable = $features)]
                fn words(
                    masks: (&[u64], usize, usize),
                    rows: &[[u32; crate::pool::BLOCK]],
                    into: (&mut [Block], &mut [Block]),
                ) {
                    dense::words($token, masks, rows, into);
                }
                // SAFETY: as above.
                unsafe { words(masks, rows, into) }
            },
            ages: |now_step, enqueued, age, unit, into| {
                #[target_feature(enable = $features)]
                fn ages(
                    now_step: u32,
                    enqueued: &[[u32; crate::pool::BLOCK]],
                    age: Age,
                    unit: i32,
                    into: &mut [Block],
                ) {
                    dense::ages($token, now_step, enqueued, age, unit, into);
                }
                // SAFETY: as above.
                unsafe { ages(now_step, enqueued, age, unit, into) }
            },
            top: |blocks, count| {
                #[target_feature(enable = $features)]
                fn top(blocks: &[Block], count: usize) -> i32 {
                    dense::top($token, blocks, count)
                }
                // SAFETY: as above.
                unsafe { top(blocks, count) }
            },
            tiers: $tiers,
            far: $far,
        };
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use instantiate;
