//! The target's baseline: lanes are an array, and the compiler makes of it what it can.

use crate::backend::cpu::lanes::Lanes;
use crate::backend::cpu::{ChainKernels, Far, Isa, Kernels, column, dense, level, levels, loads, swap};
use crate::pool::BLOCK;
use crate::score::Age;

#[derive(Clone, Copy)]
struct Scalar;

static KERNELS: Kernels = Kernels {
    isa: Isa::Scalar,
    begin: |ordered, age, slopes, marks| column::begin(Scalar, ordered, age, slopes, marks),
    take: |ordered, position, marks| column::take(Scalar, ordered, position, marks),
    search: |ordered, query, marks| column::search(Scalar, ordered, query, marks),
    level: ChainKernels {
        place: |chain| level::place(Scalar, chain),
        replace: |chain, first| level::replace(Scalar, chain, first),
    },
    levels: ChainKernels {
        place: |chain| levels::place(Scalar, chain),
        replace: |chain, first| levels::replace(Scalar, chain, first),
    },
    swap: |picks| swap::pass(Scalar, picks),
    loads: loads::LoadKernels {
        anticipate: |columns, refill, anticipated| loads::anticipate(columns, refill, anticipated),
        top: |values| loads::top(values),
        sum_and_max: |values| loads::sum_and_max(values),
        raise: |rows, greatest| loads::raise(rows, greatest),
    },
    sort_knots: |knots, profile, lengths| knots.take(Scalar, profile, lengths),
    bounds: |knots, edges| knots.bounds(Scalar, edges),
    best_of_run: |rows, knots, scores| dense::best_of_run::<_, 1>(Scalar, rows, knots, scores),
    spin: |rows, knots, blocks| dense::spin::<_, 1>(Scalar, rows, knots, blocks),
    find_bonuses: |bonuses, open, entries, hits| dense::find_bonuses(Scalar, bonuses, open, entries, hits),
    add_bonuses: |bonuses, workers, unit, from, into| {
        dense::add_bonuses(Scalar, bonuses, workers, unit, from, into)
    },
    words: |masks, rows, into| dense::words(Scalar, masks, rows, into),
    ages: |passed, age, into| dense::ages(Scalar, passed, age, into),
    top: |blocks, count| dense::top(Scalar, blocks, count),
    far: Far::PLAIN,
};

pub(in crate::backend::cpu) fn kernels() -> &'static Kernels {
    &KERNELS
}

#[inline(always)]
fn each(mut of: impl FnMut(usize) -> i32) -> [i32; BLOCK] {
    let mut lanes = [0; BLOCK];
    for (lane, value) in lanes.iter_mut().enumerate() {
        *value = of(lane);
    }
    lanes
}

#[inline(always)]
fn mask(mut of: impl FnMut(usize) -> bool) -> u16 {
    let mut bits = 0;
    for lane in 0..BLOCK {
        bits |= u16::from(of(lane)) << lane;
    }
    bits
}

impl Lanes for Scalar {
    type V = [i32; BLOCK];

    #[inline(always)]
    fn splat(self, value: i32) -> Self::V {
        [value; BLOCK]
    }

    #[inline(always)]
    fn load(self, values: &[i32; BLOCK]) -> Self::V {
        *values
    }

    #[inline(always)]
    fn load_unsigned(self, values: &[u32; BLOCK]) -> Self::V {
        each(|lane| values[lane] as i32)
    }

    #[inline(always)]
    fn store(self, lanes: Self::V, values: &mut [i32; BLOCK]) {
        *values = lanes;
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        each(|lane| a[lane].wrapping_add(b[lane]))
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        each(|lane| a[lane].wrapping_sub(b[lane]))
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        each(|lane| a[lane].wrapping_mul(b[lane]))
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        each(|lane| a[lane].max(b[lane]))
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        each(|lane| a[lane].min(b[lane]))
    }

    #[inline(always)]
    fn shift_left<const BITS: u32>(self, a: Self::V) -> Self::V {
        each(|lane| a[lane] << BITS)
    }

    #[inline(always)]
    fn greater(self, a: Self::V, b: Self::V) -> u16 {
        mask(|lane| a[lane] > b[lane])
    }

    #[inline(always)]
    fn equal(self, a: Self::V, b: Self::V) -> u16 {
        mask(|lane| a[lane] == b[lane])
    }

    #[inline(always)]
    fn keep(self, lanes: Self::V, mask: u16) -> Self::V {
        each(|lane| if mask >> lane & 1 == 1 { lanes[lane] } else { i32::MIN })
    }

    #[inline(always)]
    fn admit(self, scores: Self::V, words: Self::V, bit: i32, tokens: Self::V, longest: i32) -> Self::V {
        each(|lane| {
            let may = (words[lane] & bit != 0) & (tokens[lane] <= longest);
            if may { scores[lane] } else { i32::MIN }
        })
    }

    #[inline(always)]
    fn lift(self, a: Self::V, b: Self::V) -> Self::V {
        each(|lane| if a[lane] < b[lane] { a[lane] } else { i32::MAX })
    }

    #[inline(always)]
    fn put(self, mut lanes: Self::V, lane: usize, value: i32) -> Self::V {
        lanes[lane] = value;
        lanes
    }

    #[inline(always)]
    fn top(self, lanes: Self::V) -> i32 {
        lanes.into_iter().fold(i32::MIN, i32::max)
    }

    #[inline(always)]
    fn ages(self, passed: &[u32; BLOCK], age: Age) -> Self::V {
        each(|lane| age.tokens(passed[lane]) as i32)
    }

    #[inline(always)]
    fn round(self, bonuses: &[f32; BLOCK]) -> Self::V {
        each(|lane| {
            let whole = bonuses[lane] as i32;
            let rest = bonuses[lane] - whole as f32;
            whole + i32::from(rest >= 0.5) - i32::from(rest <= -0.5)
        })
    }

    #[inline(always)]
    fn round_halves(self, bonuses: &[u16; BLOCK]) -> Self::V {
        self.round(&bonuses.map(|bits| half::f16::from_bits(bits).to_f32()))
    }
}
