//! Sums and greatest values of loads: plain loops in a shape that every instruction set's compiler turns into vectors.

const WIDTH: usize = 16;

/// The greatest values of a slice and where the first of them stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Top {
    pub first: i64,
    pub at: usize,
    pub second: i64,
}

#[inline(always)]
pub(super) fn top(values: &[i64]) -> Top {
    let (mut first, mut second) = ([i64::MIN; WIDTH], [i64::MIN; WIDTH]);
    let (chunks, rest) = values.as_chunks::<WIDTH>();
    for chunk in chunks {
        for lane in 0..WIDTH {
            second[lane] = second[lane].max(first[lane].min(chunk[lane]));
            first[lane] = first[lane].max(chunk[lane]);
        }
    }
    let mut top = Top { first: i64::MIN, at: 0, second: i64::MIN };
    for &value in first.iter().chain(&second).chain(rest) {
        top.second = top.second.max(top.first.min(value));
        top.first = top.first.max(value);
    }
    top.at = values.iter().position(|&value| value == top.first).unwrap_or_default();
    top
}

#[inline(always)]
pub(super) fn sum_and_max(values: &[i64]) -> (i64, i64) {
    let (mut sum, mut max) = ([0; WIDTH], [0; WIDTH]);
    let (chunks, rest) = values.as_chunks::<WIDTH>();
    for chunk in chunks {
        for lane in 0..WIDTH {
            sum[lane] += chunk[lane];
            max[lane] = max[lane].max(chunk[lane]);
        }
    }
    let (mut total, mut greatest) = (0, 0);
    for lane in 0..WIDTH {
        total += sum[lane];
        greatest = i64::max(greatest, max[lane]);
    }
    rest.iter().fold((total, greatest), |(sum, max), &value| (sum + value, i64::max(max, value)))
}
