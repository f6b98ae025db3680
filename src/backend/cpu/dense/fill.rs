//! What the dense columns are filled with: ages, bonuses and eligibility.

use crate::backend::cpu::lanes::{Block, Lanes, gather};
use crate::batch::Bonuses;
use crate::pool::BLOCK;
use crate::score::Age;

/// Each request's row of pair terms, and its age in score units.
pub(crate) type Plain<'a> = (&'a [[u32; BLOCK]], &'a [Block]);

/// Bonuses that are not zero: which of the 64 workers from `from` on have one for an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hit {
    pub entry: u32,
    pub from: u32,
    pub bits: u64,
}

/// Workers with an open slot: a bit for each of the 64 from the first of these on.
pub(crate) type Span = (u32, u64);

/// Fills the bases of some workers, one column after the other: ages plus bonuses. The matrix has `width`
/// workers and fewer than 2^32 - `width` entries. Returns the greatest magnitude of a bonus in tokens.
#[inline(always)]
pub(in crate::backend::cpu) fn add_bonuses<L: Lanes>(
    lanes: L,
    (bonuses, width): (Bonuses<'_>, usize),
    workers: &[u32],
    unit: i32,
    (rows, ages): Plain<'_>,
    bases: &mut [Block],
) -> i64 {
    // Block by block, so that the next worker finds the rows in the nearest cache.
    let (unit, mut greatest) = (lanes.splat(unit), lanes.splat(0));
    for (block, (rows, of_age)) in rows.iter().zip(ages).enumerate() {
        let of_age = lanes.load(&of_age.0);
        // A request without a row begins past the end, `width` before 2^32.
        let mut offsets = [0; BLOCK];
        lanes.store(lanes.mul(lanes.load_unsigned(rows), lanes.splat(width as i32)), &mut offsets);
        for (&worker, base) in workers.iter().zip(bases.chunks_exact_mut(ages.len())) {
            let bonus = match bonuses {
                Bonuses::F32(matrix) => lanes.gather(matrix, &offsets, worker),
                Bonuses::F16(matrix) => {
                    lanes.round_halves(&gather(matrix, &offsets, worker, half::f16::to_bits))
                }
            };
            greatest = lanes.max(greatest, lanes.abs(bonus));
            lanes.store(lanes.add(of_age, lanes.mul(bonus, unit)), &mut base[block].0);
        }
    }
    i64::from(lanes.greatest(greatest, u16::MAX))
}

/// Finds the bonuses of some entries, given with their rows, that are not zero on an open worker; returns the
/// number of hits. `open` has every bit of a worker that is open and none of others, `hits` a place for every
/// entry and span and one more. The entries are left in another order.
#[inline(always)]
pub(in crate::backend::cpu) fn find_bonuses<L: Lanes>(
    lanes: L,
    (bonuses, workers): (Bonuses<'_>, usize),
    open: (&[Block], &[Span]),
    entries: &mut [[u32; 2]],
    hits: &mut [Hit],
) -> usize {
    match bonuses {
        Bonuses::F32(matrix) => {
            find_nonzero(lanes, (matrix, |value| value.to_bits() & 0x7fff_ffff), workers, open, entries, hits)
        }
        Bonuses::F16(matrix) => {
            let magnitude = |value: half::f16| u32::from(value.to_bits() & 0x7fff);
            find_nonzero(lanes, (matrix, magnitude), workers, open, entries, hits)
        }
    }
}

/// [`find_bonuses`] for one type; `magnitude` is zero where a value is.
#[inline(always)]
fn find_nonzero<L: Lanes, T: Copy>(
    lanes: L,
    (matrix, magnitude): (&[T], impl Fn(T) -> u32 + Copy),
    workers: usize,
    (open, spans): (&[Block], &[Span]),
    entries: &mut [[u32; 2]],
    hits: &mut [Hit],
) -> usize {
    // Most rows have no bonus: one test for all of a row. An entry is written before it is known whether it
    // counts, so that no branch is mispredicted.
    let mut kept = 0;
    for at in 0..entries.len() {
        let [entry, row] = entries[at];
        let from = row as usize * workers;
        let mut any = [0; BLOCK];
        match matrix.get(from..from + open.len() * BLOCK) {
            // Values of the next row belong to no open worker.
            Some(values) => {
                for (values, open) in values.as_chunks::<BLOCK>().0.iter().zip(open) {
                    any = std::array::from_fn(|lane| {
                        any[lane] | (magnitude(values[lane]) as i32 & open.0[lane])
                    });
                }
            }
            // The end of the matrix.
            None => any[0] = 1,
        }
        let zero = lanes.equal(lanes.load(&any), lanes.splat(0));
        entries[kept] = [entry, row];
        kept += usize::from(zero != u16::MAX);
    }
    let mut count = 0;
    for &[entry, row] in &entries[..kept] {
        for &(from, open) in spans {
            let at = row as usize * workers + from as usize;
            let parts = (workers - from as usize).min(64).div_ceil(BLOCK);
            let mut bits = 0;
            match matrix.get(at..at + parts * BLOCK) {
                Some(values) => {
                    for (part, values) in values.as_chunks::<BLOCK>().0.iter().enumerate() {
                        let magnitudes = values.map(|value| magnitude(value) as i32);
                        let zero = lanes.equal(lanes.load(&magnitudes), lanes.splat(0));
                        bits |= u64::from(!zero) << (part * BLOCK);
                    }
                }
                None => {
                    for (worker, &value) in matrix[at..].iter().enumerate() {
                        bits |= u64::from(magnitude(value) != 0) << worker;
                    }
                }
            }
            hits[count] = Hit { entry, from, bits: bits & open };
            count += usize::from(bits & open != 0);
        }
    }
    count
}

/// Eligibility words of 64 workers, 32 in each half of `into`, by row of a matrix of `stride` words a row, of
/// which `word` is wanted. The second half may be empty.
#[inline(always)]
pub(in crate::backend::cpu) fn words<L: Lanes>(
    lanes: L,
    (masks, stride, word): (&[u64], usize, usize),
    rows: &[[u32; BLOCK]],
    into: (&mut [Block], &mut [Block]),
) {
    let mut seconds = into.1.iter_mut();
    for (first, rows) in into.0.iter_mut().zip(rows) {
        let halves = lanes.gather_words(masks, stride, word, rows);
        lanes.store(halves[0], &mut first.0);
        if let Some(second) = seconds.next() {
            lanes.store(halves[1], &mut second.0);
        }
    }
}

/// Ages in score units, where both stay below 2^29.
#[inline(always)]
pub(in crate::backend::cpu) fn ages<L: Lanes>(
    lanes: L,
    passed: &[[u32; BLOCK]],
    (age, unit): (Age, i32),
    into: &mut [Block],
) {
    for (passed, into) in passed.iter().zip(into) {
        lanes.store(lanes.mul(lanes.ages(passed, age), lanes.splat(unit)), &mut into.0);
    }
}

/// The greatest of the first `count` entries of these blocks, at least one.
#[inline(always)]
pub(in crate::backend::cpu) fn top<L: Lanes>(lanes: L, blocks: &[Block], count: usize) -> i32 {
    let (whole, rest) = blocks.split_at(count / BLOCK);
    let mut top = lanes.splat(i32::MIN);
    for block in whole {
        top = lanes.max(top, lanes.load(&block.0));
    }
    let top = lanes.top(top);
    match rest.first() {
        Some(block) if !count.is_multiple_of(BLOCK) => {
            let inside = u16::MAX >> (BLOCK - count % BLOCK);
            top.max(lanes.greatest(lanes.load(&block.0), inside))
        }
        _ => top,
    }
}
