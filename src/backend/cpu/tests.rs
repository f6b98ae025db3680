//! One body, every instruction set that this CPU has, lengths around every block boundary.

use super::column::{Found, Marks, Query};
use super::dense::{Rows, SortedKnots};
use super::lanes::Block;
use super::swap::{Pairs, Swap};
use super::*;
use crate::assignment::Assignment;
use crate::backend::greedy::Greedy;
use crate::backend::loads::Loads;
use crate::backend::picks::Pick;
use crate::batch::{Batch, Bonuses, MAX_PROMPT_TOKENS, Request, Traffic, Worker};
use crate::policy::Parameters;
use crate::policy::level::Level;
use crate::pool::{BLOCK, NO_ROW, Pool};
use crate::rule::{PairCost, Rule};
use crate::score::{Knot, Profile};

const TRAFFIC: Traffic =
    Traffic { mean_prompt_tokens: 40, sd_prompt_tokens: 20, small_prompt_tokens: 9, mean_output_tokens: 30 };

fn each(test: impl Fn(&'static Kernels)) {
    for kernels in Isa::ALL.into_iter().filter_map(Kernels::of) {
        println!("kernels: {}", kernels.isa);
        test(kernels);
    }
}

/// Sizes and rounds that an interpreter gets through: it looks for undefined behaviour, not for rare answers.
fn sizes<const N: usize>(all: [usize; N]) -> impl Iterator<Item = usize> {
    all.into_iter().filter(|&size| !cfg!(miri) || matches!(size, 0 | 1 | 17 | 33))
}

fn rounds(all: usize) -> std::ops::Range<usize> {
    0..if cfg!(miri) { 2 } else { all }
}

fn most(all: u64) -> u64 {
    if cfg!(miri) { all.min(3) } else { all }
}

fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |bound| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % bound
    }
}

#[test]
#[cfg(all(miri, target_arch = "x86_64"))]
fn the_interpreter_runs_avx2() {
    assert!(Isa::Avx2.is_available(), "tests/run has the flags");
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
    let ordered = pool.candidates().ordered();
    let mut best: Option<(i64, std::cmp::Reverse<u64>, usize)> = None;
    for (position, &tokens) in ordered.tokens.iter().enumerate() {
        let passed = ordered.passed[position];
        let score = profile.score(i64::from(tokens)) + unit * age.tokens(passed);
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
        for count in sizes([
            1, 2, 15, 16, 17, 31, 32, 33, 255, 256, 257, 271, 272, 273, 511, 512, 513, 1025, 1300, 2100,
        ]) {
            for round in rounds(40) {
                // Where all are alike, groups of blocks can only tie.
                let range = [3, 50, 4000, 1, 2][round % 5];
                let waits = [90, 1, 2][round / 5 % 3];
                let mut pool = Pool::new();
                // What is left over past the end must not be found.
                for id in 0..5 {
                    pool.insert(Request::new(1 << 40 | id, 1 + next(range) as u32)).expect("valid");
                }
                for id in 0..count as u64 {
                    let request = Request::new(id, 1 + next(range) as u32).passed(next(waits) as u32);
                    pool.insert(request).expect("valid");
                }
                for id in 0..5 {
                    assert!(pool.remove(1 << 40 | id).is_some());
                }
                let ordered = pool.candidates().ordered();
                let age = Age { linear: next(5) as f64 * 0.37, quadratic: next(3) as f64 * 0.013 };
                let unit = 1 + next(70) as i64;
                marks.reset(ordered.tokens.len());
                // Profiles of one or two knots share their first two slopes, and blocks are bounded by lines
                // every other time.
                let (shared_slope, shared_weight) = (1 + next(4) as i64, next(60) as i64);
                let slopes = [shared_slope as i32, (shared_slope - shared_weight) as i32];
                let lines = (round % 2 == 0).then_some(slopes);
                (kernels.begin)(&ordered, (age, unit as i32), lines, &mut marks);
                let crowded = next(3);
                for position in 0..ordered.tokens.len() {
                    if next(3) < crowded {
                        (kernels.take)(&ordered, position, &mut marks);
                    }
                }
                for _ in 0..8 {
                    // Entries come and go between two searches.
                    for _ in 0..next(6) {
                        let position = next(count as u64) as usize;
                        if position >= ordered.tokens.len() {
                        } else if marks.is_taken(position) {
                            marks.give_back(position);
                            marks.raise_lines(position, ordered.tokens[position]);
                        } else {
                            (kernels.take)(&ordered, position, &mut marks);
                        }
                    }
                    let few = next(3) > 0;
                    let slope = if few { shared_slope } else { 1 + next(4) as i64 };
                    let mut knots: Vec<Knot> = (0..if few { 1 + next(2) } else { next(5) })
                        .map(|_| Knot { at_tokens: next(range) as i64, weight: next(60) as i64 })
                        .collect();
                    knots.sort_by_key(|knot| knot.at_tokens);
                    if few {
                        knots[0].weight = shared_weight;
                    }
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
                        lines: bends.first().map_or([0; 2], |&(at, weight)| [0, at * weight]),
                        lined: few && lines.is_some(),
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
fn a_filtered_pass_of_exchanges_is_the_one_pair_by_pair() {
    each(|kernels| {
        let mut next = random(5);
        for count in sizes([0, 1, 2, 15, 16, 17, 31, 32, 33, 65, 130]) {
            for round in rounds(60) {
                let workers: Vec<Worker> = (0..2 + next(most(40)))
                    .map(|_| Worker::new(next([40, 900, 1 << 29][round % 3]), 0, 200))
                    .map(|worker| if round % 4 == 0 { worker.capacity(1 << 30) } else { worker })
                    .collect();
                let pool = Pool::new();
                let batch = Batch::draft(&workers, &pool).traffic(TRAFFIC).check().expect("valid");
                let plan = Level::new(&Parameters::default(), None).begin(&batch, &mut Vec::new());
                let mut loads = Loads::new(kernels.loads);
                loads.prepare(&batch);
                loads.load(&batch, &plan, false);
                let mut picks: Vec<Pick> = (0..count)
                    .map(|position| Pick {
                        position,
                        worker: next(workers.len() as u64) as usize,
                        tokens: 1 + next([20, 500, 1 << 22][round % 3]) as i64,
                        score: 0,
                        overdue: next(9) == 0,
                        held: false,
                        wanted_tokens: None,
                        best_at: 0,
                    })
                    .collect();
                for pick in &picks {
                    loads.admit(pick.worker, pick.tokens);
                }
                let cost = match round % 2 {
                    0 => PairCost::Envelope,
                    _ => {
                        PairCost::Level { offset: next(3000) as i64, overflow_weight: next(2) as i64 * 1600 }
                    }
                };
                let (mut plain_loads, mut plain_picks) = (loads.clone(), picks.clone());
                let mut pairs = Pairs::default();
                let mut swap = |loads, picks, filtered: bool| {
                    let pairs = &mut pairs;
                    let mut swap = Swap { loads, picks, pairs, cost, changes: 1 };
                    let changed = if filtered { (kernels.swap)(&mut swap) } else { swap.plain(0, 1) };
                    (changed, swap.changes)
                };
                assert_eq!(
                    swap(&mut loads, &mut picks, true),
                    swap(&mut plain_loads, &mut plain_picks, false)
                );
                let placed = |picks: &[Pick]| -> Vec<(usize, usize, i64)> {
                    picks.iter().map(|pick| (pick.position, pick.worker, pick.tokens)).collect()
                };
                assert_eq!(placed(&picks), placed(&plain_picks), "{}", kernels.isa);
            }
        }
    });
}

/// The level kernel against the matrix, which knows no block bounds: sizes round groups and blocks, lengths
/// that tie, giants, rooms, and scores that leave its lanes.
#[test]
fn level_refill_picks_what_the_matrix_picks() {
    each(|kernels| {
        let mut next = random(21);
        // What is kept from step to step is kept here as well.
        let mut greedy = Greedy::new(kernels);
        let mut chained = 0;
        for count in sizes([1, 2, 15, 16, 17, 33, 255, 256, 257, 300, 511, 513, 768, 1023, 1025]) {
            for round in rounds(24) {
                let range = [4, 60, 4000, 1 << 22][round % 4];
                let mut pool = Pool::new();
                for id in 0..count as u64 {
                    let giant = next(60) == 0;
                    let tokens = 1 + next(if giant { 20 * range } else { range }).min(1 << 23) as u32;
                    let waited = next([3, 90, 5000][round % 3]) as u32;
                    pool.insert(Request::new(id, tokens.min(MAX_PROMPT_TOKENS)).passed(waited))
                        .expect("valid");
                }
                let workers: Vec<Worker> = (0..2 + next(most(70)))
                    .map(|_| {
                        let worker = Worker::new(next(30 * range), 20, next(2 + round as u64 % 3) as u32);
                        let capacity = worker.load_tokens + next(3 * range);
                        if round % 5 == 0 { worker.capacity(capacity) } else { worker }
                    })
                    .collect();
                let traffic = Traffic {
                    mean_prompt_tokens: range as i64 / 2,
                    sd_prompt_tokens: next(range) as i64,
                    small_prompt_tokens: 1,
                    mean_output_tokens: 1 + next(range) as i64,
                };
                let batch = Batch::draft(&workers, &pool)
                    .traffic(traffic)
                    .request_growth(next(9) as u32)
                    .check()
                    .expect("valid");
                let mut rule = Level::new(&Parameters::default(), None);
                let (mut out, mut expected) = (Assignment::new(), Assignment::new());
                greedy.assign(&mut rule, &batch, &mut out);
                Greedy::new(kernels).dense().assign(&mut rule, &batch, &mut expected);
                assert_eq!(out, expected, "{}, {count} waiting, round {round}", kernels.isa);
                chained += usize::from(!out.admitted.is_empty());
            }
        }
        assert!(chained > 0);
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
            let top = (kernels.loads.top)(&values);
            let nth = |at: usize| sorted.get(at).copied().unwrap_or(i64::MIN);
            assert_eq!((top.first, top.second), (nth(0), nth(1)));
            let first = |than: i64, except: usize| {
                (0..count).find(|&at| at != except && values[at] == than).unwrap_or(usize::MAX)
            };
            if count > 0 {
                assert_eq!(top.at, first(top.first, usize::MAX));
            }
            if count > 1 {
                assert_eq!(top.second_at, first(top.second, top.at));
            }
            assert_eq!((kernels.loads.sum_and_max)(&values), (values.iter().sum(), nth(0).max(0)));
        }
    });
}

#[test]
fn ages_are_the_definition_to_the_bit() {
    each(|kernels| {
        let mut next = random(11);
        for _ in rounds(2000) {
            let age = Age { linear: next(1000) as f64 / 7.0, quadratic: next(1000) as f64 / 3e4 };
            let mut pool = Pool::new();
            for id in 0..20 {
                pool.insert(Request::new(id, 7).passed(next(20_000) as u32)).expect("valid");
            }
            let ordered = pool.candidates().ordered();
            let mut marks = Marks::default();
            marks.reset(20);
            (kernels.begin)(&ordered, (age, 1), None, &mut marks);
            for (block, passed) in pool.candidates().ordered().passed.chunks(BLOCK).enumerate() {
                let most = *passed.iter().max().expect("some");
                assert_eq!(i64::from(marks.block_age(block)), age.tokens(most), "{}", kernels.isa);
            }
        }
    });
}

#[test]
fn an_instruction_set_that_this_cpu_lacks_is_refused_and_names_come_back() {
    use crate::policy::{Parameters, PolicyError, build};
    for isa in Isa::ALL {
        assert_eq!(isa.name().parse(), Ok(isa));
        let built = build("level", &Parameters::new().isa(Some(isa)));
        match built {
            Ok(_) => assert!(isa.is_available()),
            Err(error) => assert_eq!(error, PolicyError::Isa { found: isa.name().to_owned() }),
        }
    }
    assert!("sse9".parse::<Isa>().is_err());
}

/// A dense column as it stands in memory: tokens, ages plus bonuses, eligibility words, ranks in an arrival
/// order that is not the column's.
struct DenseColumn {
    tokens: Vec<Block>,
    base: Vec<Block>,
    words: Vec<Block>,
    arrived: Vec<u64>,
}

impl DenseColumn {
    fn new(count: usize, next: &mut impl FnMut(u64) -> u64, longest: u64, base: u64) -> Self {
        let blocks = count.div_ceil(BLOCK).next_multiple_of(dense::STRIDE);
        let mut column = Self {
            tokens: vec![Block([7; BLOCK]); blocks],
            base: vec![Block::default(); blocks],
            words: vec![Block::default(); blocks],
            arrived: (0..blocks * BLOCK).map(|at| next(1 << 20) << 20 | at as u64).collect(),
        };
        for at in 0..count {
            let (block, lane) = (at / BLOCK, at % BLOCK);
            column.tokens[block].0[lane] = 1 + next(longest) as i32;
            column.base[block].0[lane] = next(2 * base + 1) as i32 - base as i32;
            column.words[block].0[lane] = next(1 << 32) as u32 as i32;
        }
        column
    }

    fn rows(&self, lengths: (i32, i32), greatest_base: i64, bit: i32) -> Rows<'_> {
        let Self { tokens, base, words, arrived } = self;
        Rows { tokens, base, words, arrived, lengths, greatest_base, bit }
    }

    /// The earliest of the best, by the definition of a score.
    fn scan(&self, count: usize, profile: &Profile, longest: i64, bit: i32) -> Option<(usize, i64)> {
        let mut best: Option<(usize, i64)> = None;
        for at in 0..count {
            let of = |column: &[Block]| column[at / BLOCK].0[at % BLOCK];
            let tokens = i64::from(of(&self.tokens));
            if of(&self.words) & bit == 0 || tokens > longest {
                continue;
            }
            let score = profile.score(tokens) + i64::from(of(&self.base));
            let earlier = |other: usize| self.arrived[at] < self.arrived[other];
            if best.is_none_or(|(index, other)| score > other || (score == other && earlier(index))) {
                best = Some((at, score));
            }
        }
        best
    }
}

#[test]
fn a_dense_column_finds_what_a_scan_finds() {
    each(|kernels| {
        let mut next = random(11);
        let (mut held, mut too_wide) = (0, 0);
        for count in sizes([
            0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1023, 1025,
        ]) {
            // 2, 5 and 17 knots.
            for round in if cfg!(miri) { 2..5 } else { 0..24 } {
                let longest = [3, 50, 1500, 30_000, 1 << 22][next(5) as usize];
                let base = [0, 5, 900, 1 << 28][next(4) as usize];
                let column = DenseColumn::new(count, &mut next, longest, base);
                let factor = [1, 1, 3, 64, 4096][next(5) as usize];
                let heaviest = [1, 4, 300, 1 << 17][next(4) as usize];
                let knots = [0, 1, 2, 5, 17, 128][round % 6];
                let profile = Profile {
                    intercept: next(1 << 40) as i64 - (1 << 39),
                    slope: next(1 << 12) as i64 - 5,
                    knots: (0..knots)
                        .map(|_| Knot {
                            at_tokens: next(longest + longest / 2 + 4) as i64 - 3,
                            weight: factor * next(heaviest + 1) as i64,
                        })
                        .collect(),
                };
                let most = [longest, longest / 2, 1][next(3) as usize] as i64;
                for bit in [1, 1 << 5, i32::MIN].into_iter().skip(2 * usize::from(cfg!(miri))) {
                    let expected = column.scan(count, &profile, most, bit);
                    let lengths = (1, most.min(longest as i64));
                    let mut knots = SortedKnots::default();
                    assert!((kernels.sort_knots)(&mut knots, &profile, lengths));
                    let rows = column.rows((1, lengths.1 as i32), base as i64, bit);
                    let mut scores = vec![Block([5; BLOCK]); column.tokens.len()];
                    match (kernels.best_of_run)(&rows, &knots, &mut scores) {
                        Ok(best) => {
                            let best = best.map(|best| (best.index as usize, best.score));
                            assert_eq!(best, expected, "{} {count} {profile:?}", kernels.isa);
                            held += 1;
                        }
                        Err(dense::TooWide) => too_wide += 1,
                    }
                }
            }
        }
        assert!(held > if cfg!(miri) { 0 } else { 900 }, "{held} columns in lanes");
        assert!(cfg!(miri) || too_wide > 100, "{too_wide} columns too wide for them");
    });
}

#[test]
fn bonuses_are_rounded_as_the_definition_rounds_them() {
    let mut bonuses: Vec<f32> =
        vec![0.0, -0.0, 0.5, -0.5, 0.49999997, -0.49999997, 1.5, 2.5, -2.5, 8388607.5, -8388608.0, 1e9];
    bonuses.extend((0..500).map(|at| (at as f32 - 250.0) * 1.37));
    let halves: Vec<half::f16> =
        bonuses.iter().map(|&bonus| half::f16::from_f32(bonus.clamp(-65504.0, 65504.0))).collect();
    each(|kernels| {
        for matrix in [Bonuses::F32(&bonuses), Bonuses::F16(&halves)] {
            for (from, worker) in (0..bonuses.len() - 4).step_by(13).zip((0..4).cycle()) {
                let mut at = [NO_ROW; BLOCK];
                let mut ages = [0; BLOCK];
                for lane in 0..BLOCK {
                    ages[lane] = lane as i32 * 5;
                    if lane % 5 != 3 {
                        at[lane] = ((from + lane * 7) % (bonuses.len() - 4)) as u32;
                    }
                }
                // Two blocks, the second empty, and two workers: a column each.
                let mut bases = [Block::default(); 4];
                let rows = (&[at, [NO_ROW; BLOCK]][..], &[Block(ages); 2][..]);
                let workers = [worker, (worker + 1) % 4];
                let greatest = (kernels.add_bonuses)((matrix, 1), &workers, 2, rows, &mut bases);
                let mut most = 0;
                for (column, worker) in workers.into_iter().enumerate() {
                    for lane in 0..BLOCK {
                        let bonus = match at[lane] {
                            NO_ROW => 0,
                            row => matrix.at(row as usize + worker as usize),
                        };
                        most = most.max(bonus.abs());
                        let expected = ages[lane].wrapping_add(2i32.wrapping_mul(bonus as i32));
                        assert_eq!(bases[2 * column].0[lane], expected, "{}", kernels.isa);
                        assert_eq!(bases[2 * column + 1].0[lane], ages[lane], "{}", kernels.isa);
                    }
                }
                assert_eq!(greatest, most);
            }
        }
    });
}

/// Every open worker has its own bonuses, whatever the width, to the end of the matrix.
#[test]
fn bonuses_of_many_workers_go_to_their_columns() {
    let mut state = 3u64;
    let mut next = |bound: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % bound
    };
    let widths: &[usize] =
        if cfg!(miri) { &[5, 70] } else { &[1, 2, 5, 8, 15, 16, 17, 33, 64, 70, 144, 300] };
    for &width in widths {
        for odds in [1, 2, 6, 20] {
            let waiting = 1 + next(40) as usize;
            let blocks = waiting.div_ceil(BLOCK);
            let bonuses: Vec<f32> = (0..waiting * width).map(|_| next(2000) as f32 - 300.0).collect();
            let halves: Vec<half::f16> = bonuses.iter().map(|&bonus| half::f16::from_f32(bonus)).collect();
            let workers: Vec<u32> = (0..width as u32).filter(|_| next(odds) == 0).collect();
            let mut rows = vec![[NO_ROW; BLOCK]; blocks];
            for row in rows.as_flattened_mut().iter_mut().take(waiting) {
                *row = if next(5) == 0 { NO_ROW } else { next(waiting as u64) as u32 };
            }
            let ages: Vec<Block> =
                (0..blocks).map(|_| Block(std::array::from_fn(|_| next(900) as i32))).collect();
            each(|kernels| {
                for matrix in [Bonuses::F32(&bonuses), Bonuses::F16(&halves)] {
                    let mut bases = vec![Block::default(); workers.len() * blocks];
                    let plain = (&rows[..], &ages[..]);
                    (kernels.add_bonuses)((matrix, width), &workers, 3, plain, &mut bases);
                    for (&worker, base) in workers.iter().zip(bases.chunks_exact(blocks)) {
                        for (at, &row) in rows.as_flattened().iter().enumerate() {
                            let bonus = match row {
                                NO_ROW => 0,
                                row => matrix.at(row as usize * width + worker as usize),
                            };
                            let expected = ages[at / BLOCK].0[at % BLOCK] + 3 * bonus as i32;
                            let found = base[at / BLOCK].0[at % BLOCK];
                            assert_eq!(found, expected, "{}, worker {worker} of {width}", kernels.isa);
                        }
                    }
                }
            });
        }
    }
}

/// What the operating system says that this CPU has must run here: nothing falls back in silence.
#[test]
#[cfg_attr(miri, ignore = "the interpreter is not this CPU")]
#[cfg(target_os = "linux")]
fn every_instruction_set_of_this_cpu_runs() {
    let info = std::fs::read_to_string("/proc/cpuinfo").expect("readable");
    let flags = info.lines().find(|line| line.starts_with("flags") || line.starts_with("Features"));
    let has = |flag: &str| flags.is_some_and(|flags| flags.split_whitespace().any(|other| other == flag));
    // Under an emulator the list may be the host's, so it counts for this program's architecture only; NEON
    // is part of AArch64.
    let x86 = cfg!(target_arch = "x86_64");
    for (isa, expected) in [
        (Isa::Scalar, true),
        (Isa::Avx2, x86 && has("avx2") && has("f16c") && has("bmi2")),
        (Isa::Avx512, x86 && has("avx512f") && has("avx512bw") && has("avx512dq") && has("avx512vl")),
        (Isa::Neon, cfg!(target_arch = "aarch64")),
    ] {
        if expected {
            let kernels = Kernels::of(isa).unwrap_or_else(|| panic!("{isa} is listed but does not run"));
            assert_eq!(kernels.isa, isa);
            let mut probe = ColumnProbe::new(isa, 100, 16).expect("it fits the lanes");
            assert_eq!(probe.pass(), probe.by_definition(), "{isa}");
        }
    }
}
