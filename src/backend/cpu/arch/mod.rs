//! One file per instruction set: its vector operations and its table. They look alike, and the only `unsafe`
//! of the CPU backend is here.
//!
//! Why `std::arch` and not `fearless_simd`: `std::arch` has gathers, packed stores of the lanes of a mask,
//! half-precision conversions and reductions of two blocks at once. The inner loop of the dense columns,
//! which needs none of them, is as fast over either (`cd benches/peers && cargo run --release
//! --no-default-features --bin simd`). The other's gain, no `unsafe`, is worth less than a dependency here:
//! the `unsafe` is one line an operation, and all of it is in this folder.
//!
//! Kernels take no closures that do vector operations: such a closure may be compiled apart from its caller,
//! without the instruction set, and then every operation is a call.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
pub(super) mod scalar;

/// A function of a table: compiled with an instruction set, called without.
macro_rules! compiled {
    ($features:tt, ($($name:ident: $type:ty),* $(,)?) -> $answer:ty $body:block) => {
        |$($name),*| {
            #[target_feature(enable = $features)]
            fn kernel($($name: $type),*) -> $answer $body
            // SAFETY: `kernels` hands out the table only where the CPU has the features.
            unsafe { kernel($($name),*) }
        }
    };
}

/// The table of an instruction set that needs `target_feature`. Dense columns take `$blocks` blocks at once.
macro_rules! instantiate {
    ($isa:expr, $token:expr, $features:tt, $blocks:literal, $far:expr) => {
        static KERNELS: Kernels = Kernels {
            isa: $isa,
            begin: compiled!($features, (
                ordered: &Ordered<'_>,
                age: (Age, i32),
                slopes: Option<[i32; 2]>,
                marks: &mut Marks,
            ) -> () {
                column::begin($token, ordered, age, slopes, marks)
            }),
            take: compiled!($features, (ordered: &Ordered<'_>, position: usize, marks: &mut Marks) -> () {
                column::take($token, ordered, position, marks)
            }),
            search: compiled!($features, (
                ordered: &Ordered<'_>,
                query: &Query<'_>,
                marks: &mut Marks,
            ) -> Option<Found> {
                column::search($token, ordered, query, marks)
            }),
            level: ChainKernels {
                place: compiled!($features, (chain: &mut Chain<'_>) -> Option<usize> {
                    level::place($token, chain)
                }),
                replace: compiled!($features, (
                    chain: &mut Chain<'_>,
                    first: usize,
                ) -> (bool, Option<usize>) {
                    level::replace($token, chain, first)
                }),
            },
            levels: ChainKernels {
                place: compiled!($features, (chain: &mut Chain<'_>) -> Option<usize> {
                    levels::place($token, chain)
                }),
                replace: compiled!($features, (
                    chain: &mut Chain<'_>,
                    first: usize,
                ) -> (bool, Option<usize>) {
                    levels::replace($token, chain, first)
                }),
            },
            swap: compiled!($features, (picks: &mut Swap<'_>) -> bool {
                swap::pass($token, picks)
            }),
            loads: LoadKernels {
                anticipate: compiled!($features, (
                    columns: [&[i64]; 3],
                    refill: u32,
                    anticipated: &mut [i64],
                ) -> i64 {
                    loads::anticipate(columns, refill, anticipated)
                }),
                top: compiled!($features, (values: &[i64]) -> Top {
                    loads::top(values)
                }),
                sum_and_max: compiled!($features, (values: &[i64]) -> (i64, i64) {
                    loads::sum_and_max(values)
                }),
                raise: compiled!($features, (rows: &[i64], greatest: &mut [i64]) -> () {
                    loads::raise(rows, greatest)
                }),
            },
            sort_knots: compiled!($features, (
                knots: &mut SortedKnots,
                profile: &Profile,
                lengths: (i64, i64),
            ) -> bool {
                knots.take($token, profile, lengths)
            }),
            bounds: compiled!($features, (knots: &SortedKnots, edges: &Edges) -> [i64; BLOCK] {
                knots.bounds($token, edges)
            }),
            best_of_run: compiled!($features, (
                rows: &Rows<'_>,
                knots: &SortedKnots,
                scores: &mut [Block],
            ) -> Result<Option<Best>, TooWide> {
                dense::best_of_run::<_, $blocks>($token, rows, knots, scores)
            }),
            spin: compiled!($features, (rows: &Rows<'_>, knots: &SortedKnots, blocks: usize) -> i32 {
                dense::spin::<_, $blocks>($token, rows, knots, blocks)
            }),
            find_bonuses: compiled!($features, (
                bonuses: (Bonuses<'_>, usize),
                open: (&[Block], &[Span]),
                entries: &mut [[u32; 2]],
                hits: &mut [Hit],
            ) -> usize {
                dense::find_bonuses($token, bonuses, open, entries, hits)
            }),
            add_bonuses: compiled!($features, (
                bonuses: (Bonuses<'_>, usize),
                workers: &[u32],
                unit: i32,
                from: Plain<'_>,
                into: &mut [Block],
            ) -> i64 {
                dense::add_bonuses($token, bonuses, workers, unit, from, into)
            }),
            words: compiled!($features, (
                masks: (&[u64], usize, usize),
                rows: &[[u32; BLOCK]],
                into: (&mut [Block], &mut [Block]),
            ) -> () {
                dense::words($token, masks, rows, into)
            }),
            ages: compiled!($features, (
                passed: &[[u32; BLOCK]],
                age: (Age, i32),
                into: &mut [Block],
            ) -> () {
                dense::ages($token, passed, age, into)
            }),
            top: compiled!($features, (blocks: &[Block], count: usize) -> i32 {
                dense::top($token, blocks, count)
            }),
            far: $far,
        };
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use {compiled, instantiate};
