//! One body, every instruction set that this CPU has, lengths around every block boundary.

use super::column::{Found, Marks, Query};
use super::exchange::{Pairs, Place};
use super::*;
use crate::batch::Request;
use crate::pool::{BLOCK, Pool};
use crate::score::{Knot, Profile};

fn each(test: impl Fn(&'static Kernels)) {
    for kernels in Isa::ALL.into_iter().filter_map(Kernels::of) {
        println!("kernels: {}", kernels.isa);
        test(kernels);
    }
}

fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |bound| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % bound
    }
}

/// A scan of everything, in 64 bits.
fn scan(
    pool: &Pool,
    marks: &Marks,
    profile: &Profile,
    (age, unit): (Age, i64),
    longest: i64,
    wanted: i64,
) -> Option<Found> {
    let ordered = pool.ordered();
    let mut best: Option<(i64, std::cmp::Reverse<u64>, usize)> = None;
    for (position, &tokens) in ordered.tokens.iter().enumerate() {
        let waited = ordered.now_step - ordered.enqueued[position];
        let score = profile.score(i64::from(tokens)) + unit * age.tokens(waited);
        if !marks.is_taken(position) && i64::from(tokens) <= longest && score >= wanted {
            let arrived = ordered.arrived_blocks[position / BLOCK][position % BLOCK];
            best = best.max(Some((score, std::cmp::Reverse(arrived), position)));
        }
    }
    best.map(|(score, _, position)| Found { position, score })
}

#[test]
fn a_search_finds_what_a_scan_finds() {
    each(|kernels| {
        let mut next = random(3);
        let mut marks = Marks::default();
        for count in [1, 2, 15, 16, 17, 31, 32, 33, 255, 256, 257, 271, 272, 273, 511, 512, 513, 1025] {
            for round in 0..40 {
                let range = [3, 50, 4000][round % 3];
                let mut pool = Pool::new();
                // What is left over past the end must not be found.
                for id in 0..5 {
                    pool.insert(Request::new(1 << 40 | id, 1 + next(range) as u32)).expect("valid");
                }
                for id in 0..count {
                    let request = Request::new(id, 1 + next(range) as u32).waited(next(90) as u32);
                    pool.insert(request).expect("valid");
                }
                for id in 0..5 {
                    assert!(pool.remove(1 << 40 | id).is_some());
                }
                let ordered = pool.ordered();
                let age = Age { linear: next(5) as f64 * 0.37, quadratic: next(3) as f64 * 0.013 };
                let unit = 1 + next(70) as i64;
                marks.reset(ordered.tokens.len());
                (kernels.begin)(&ordered, age, unit as i32, &mut marks);
                let crowded = next(3);
                for position in 0..ordered.tokens.len() {
                    if next(3) < crowded {
                        marks.take(position);
                    }
                }
                for _ in 0..4 {
                    let slope = 1 + next(4) as i64;
                    let mut knots: Vec<Knot> = (0..next(5))
                        .map(|_| Knot { at_tokens: next(range) as i64, weight: next(60) as i64 })
                        .collect();
                    knots.sort_by_key(|knot| knot.at_tokens);
                    let profile = Profile { intercept: 0, slope, knots };
                    let (low, high) = (i64::from(ordered.tokens[0]), *ordered.tokens.last().expect("some"));
                    let longest = (low + next(range) as i64).min(i64::from(high));
                    let wanted = if next(2) == 0 { i64::from(i32::MIN) } else { next(range) as i64 };
                    let bends: Vec<(i32, i32)> = profile
                        .knots
                        .iter()
                        .map(|knot| (knot.at_tokens as i32, knot.weight as i32))
                        .collect();
                    let query = Query {
                        slope: slope as i32,
                        knots: [0, 1].map(|at| bends.get(at).copied().unwrap_or((0, 0))),
                        further: bends.get(2..).unwrap_or(&[]),
                        peak: profile.peak(low, longest, &mut Vec::new()) as i32,
                        longest: longest as i32,
                        wanted: wanted as i32,
                    };
                    let found = (kernels.search)(&ordered, &query, &mut marks);
                    let expected = scan(&pool, &marks, &profile, (age, unit), longest, wanted);
                    assert_eq!(found, expected, "{} of {count}: {profile:?} {query:?}", kernels.isa);
                }
            }
        }
    });
}

#[test]
fn the_filter_of_exchanges_passes_the_pairs_that_its_definition_passes() {
    each(|kernels| {
        let mut next = random(5);
        for count in [0usize, 1, 2, 15, 16, 17, 31, 32, 33, 65] {
            for round in 0..60 {
                let blocks = count.div_ceil(BLOCK);
                let mut pairs = Pairs { count, distances: round % 2 == 0, ..Pairs::default() };
                for _ in 0..blocks {
                    pairs.above.push(std::array::from_fn(|_| next(400) as i32 - 200));
                    pairs.length.push(std::array::from_fn(|_| next(100) as i32));
                    pairs.top.push(if next(3) == 0 { 1 << next(16) } else { 0 });
                    pairs.movable.push(!(1 << next(16)));
                }
                if let Some(last) = pairs.movable.last_mut()
                    && !count.is_multiple_of(BLOCK)
                {
                    *last &= (1 << (count % BLOCK)) - 1;
                }
                let bit = |bits: &[u16], at: usize| bits[at / BLOCK] >> (at % BLOCK) & 1 == 1;
                let value = |lanes: &[[i32; BLOCK]], at: usize| lanes[at / BLOCK][at % BLOCK];
                let passes = |first: usize, second: usize| {
                    let (a, b) = (value(&pairs.above, first), value(&pairs.above, second));
                    let moved = value(&pairs.length, first) - value(&pairs.length, second);
                    let nearer = (a - moved).abs() + (b + moved).abs() < a.abs() + b.abs();
                    let lower = if bit(&pairs.top, first) {
                        moved > 0 && b + moved < a
                    } else {
                        bit(&pairs.top, second) && moved < 0 && a - moved < b
                    };
                    bit(&pairs.movable, first)
                        && bit(&pairs.movable, second)
                        && ((pairs.distances && nearer) || lower)
                };
                let mut from = Place { first: 0, second: 1 };
                for first in 0..count {
                    for second in (first + 1..count).filter(|&second| passes(first, second)) {
                        let place = Place { first, second };
                        assert_eq!((kernels.next_exchange)(&pairs, from), Some(place), "{}", kernels.isa);
                        from = Place { second: second + 1, ..place };
                    }
                }
                assert_eq!((kernels.next_exchange)(&pairs, from), None, "{}", kernels.isa);
            }
        }
    });
}

#[test]
fn sums_and_greatest_values_are_those_of_a_loop() {
    each(|kernels| {
        let mut next = random(9);
        for count in [0, 1, 2, 15, 16, 17, 31, 32, 33, 64, 100] {
            let values: Vec<i64> = (0..count).map(|_| next(50) as i64).collect();
            let mut sorted: Vec<i64> = values.clone();
            sorted.sort_unstable_by(|a, b| b.cmp(a));
            let top = (kernels.top)(&values);
            let nth = |at: usize| sorted.get(at).copied().unwrap_or(i64::MIN);
            assert_eq!((top.first, top.second), (nth(0), nth(1)));
            assert_eq!(values.iter().position(|&value| value == top.first).unwrap_or(0), top.at);
            assert_eq!((kernels.sum_and_max)(&values), (values.iter().sum(), nth(0).max(0)));
        }
    });
}

#[test]
fn ages_are_the_definition_to_the_bit() {
    each(|kernels| {
        let mut next = random(11);
        for _ in 0..2000 {
            let age = Age { linear: next(1000) as f64 / 7.0, quadratic: next(1000) as f64 / 3e4 };
            let mut pool = Pool::new();
            for id in 0..20 {
                pool.insert(Request::new(id, 7).waited(next(20_000) as u32)).expect("valid");
            }
            let ordered = pool.ordered();
            let mut marks = Marks::default();
            marks.reset(20);
            (kernels.begin)(&ordered, age, 1, &mut marks);
            for (block, oldest) in pool.ordered().enqueued.chunks(BLOCK).enumerate() {
                let waited = ordered.now_step - oldest.iter().min().expect("some");
                assert_eq!(i64::from(marks.block_age(block)), age.tokens(waited), "{}", kernels.isa);
            }
        }
    });
}
