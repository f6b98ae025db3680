//! Sums and greatest values of loads: plain loops, written so that compilers turn them into vectors.

use crate::batch::MAX_WORKERS;

/// What loads ask of an instruction set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoadKernels {
    /// Anticipated loads from costs, load offsets and open slots, and the refill of a slot; returns their
    /// sum.
    pub anticipate: fn([&[i64]; 3], u32, &mut [i64]) -> i64,
    /// The two greatest values, the first of equals first.
    pub top: fn(&[i64]) -> Top,
    /// Sum and greatest value, at least zero.
    pub sum_and_max: fn(&[i64]) -> (i64, i64),
    /// Raises each value of a row to the greatest of its column: all rows one after the other, and that one.
    pub raise: fn(&[i64], &mut [i64]),
}

const WIDTH: usize = 16;
/// Lanes of the search for the two greatest: the rest is compared one by one.
const TOPS: usize = 8;

/// The two greatest of some values, and where they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Top {
    pub first: i64,
    pub at: usize,
    pub second: i64,
    pub second_at: usize,
}

impl Top {
    /// Nothing seen yet.
    pub(crate) const NONE: Self =
        Self { first: i64::MIN, at: usize::MAX, second: i64::MIN, second_at: usize::MAX };

    /// Sees one more.
    #[inline(always)]
    pub(crate) fn see(&mut self, at: usize, value: i64) {
        if value > self.first {
            (self.second, self.second_at) = (self.first, self.at);
            (self.first, self.at) = (value, at);
        } else if value > self.second {
            (self.second, self.second_at) = (value, at);
        }
    }

    /// Follows a change of one value; false when only a new scan can tell.
    #[inline(always)]
    pub(crate) fn follow(&mut self, at: usize, new: i64) -> bool {
        if at == self.at {
            // Still first, or the second takes over and the third is unknown.
            if new < self.second {
                return false;
            }
            self.first = new;
        } else if new > self.first {
            (self.second, self.second_at) = (self.first, self.at);
            (self.first, self.at) = (new, at);
        } else if new >= self.second {
            (self.second, self.second_at) = (new, at);
        } else if at == self.second_at {
            return false;
        }
        true
    }

    /// The greatest of all but two, where the two greatest tell.
    pub(crate) fn without(&self, first: usize, second: usize) -> Option<i64> {
        if self.at != first && self.at != second {
            Some(self.first)
        } else if self.second_at != first && self.second_at != second {
            Some(self.second)
        } else {
            None
        }
    }
}

/// Bits of a key that hold the place.
const PLACE: u32 = MAX_WORKERS.trailing_zeros();
const PLACES: i64 = MAX_WORKERS as i64 - 1;

/// Keeps the two greatest keys.
#[inline(always)]
fn keep(first: &mut i64, second: &mut i64, other: (i64, i64)) {
    *second = i64::max((*first).min(other.0), i64::max(*second, other.1));
    *first = i64::max(*first, other.0);
}

/// The two greatest values, the first of equals first. Values are below 2^53 on either side of zero, so that
/// value and place fit one key.
#[inline(always)]
pub(super) fn top(values: &[i64]) -> Top {
    let (mut first, mut second) = ([i64::MIN; TOPS], [i64::MIN; TOPS]);
    let (chunks, rest) = values.as_chunks::<TOPS>();
    let mut places: [i64; TOPS] = std::array::from_fn(|lane| PLACES - lane as i64);
    for chunk in chunks {
        for lane in 0..TOPS {
            let key = chunk[lane] << PLACE | places[lane];
            keep(&mut first[lane], &mut second[lane], (key, i64::MIN));
            places[lane] -= TOPS as i64;
        }
    }
    for (lane, value) in rest.iter().enumerate() {
        keep(&mut first[lane], &mut second[lane], (value << PLACE | places[lane], i64::MIN));
    }
    let mut half = TOPS / 2;
    while half > 0 {
        for lane in 0..half {
            let other = (first[lane + half], second[lane + half]);
            keep(&mut first[lane], &mut second[lane], other);
        }
        half /= 2;
    }
    let place = |key: i64| (PLACES - (key & PLACES)) as usize;
    let value = |key: i64| if key == i64::MIN { i64::MIN } else { key >> PLACE };
    let (first, second) = (first[0], second[0]);
    Top { first: value(first), at: place(first), second: value(second), second_at: place(second) }
}

/// Anticipated loads, `cost + load offset + open_slots * refill`, from columns of the same length; returns
/// their sum.
#[inline(always)]
pub(super) fn anticipate(
    [cost, load_offsets, open_slots]: [&[i64]; 3],
    refill: u32,
    anticipated: &mut [i64],
) -> i64 {
    let count = anticipated.len();
    let (cost, load_offsets, open_slots) = (&cost[..count], &load_offsets[..count], &open_slots[..count]);
    let mut sum = 0;
    for at in 0..count {
        // Slots are fewer than 2^32 as well: a 32-bit multiplication does.
        let refills = u64::from(open_slots[at] as u32) * u64::from(refill);
        anticipated[at] = cost[at] + load_offsets[at] + refills as i64;
        sum += anticipated[at];
    }
    sum
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

#[inline(always)]
pub(super) fn raise(rows: &[i64], greatest: &mut [i64]) {
    for row in rows.chunks_exact(greatest.len().max(1)) {
        for (greatest, &value) in greatest.iter_mut().zip(row) {
            *greatest = i64::max(*greatest, value);
        }
    }
}
