use super::bonuses::BonusStorage;
use super::*;
use crate::batch::{Pairs, Request, Worker};
use crate::pool::Pool;
use crate::score::Knot;
use half::f16;

fn random(seed: &mut u64, bound: u64) -> u64 {
    *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    (*seed >> 33) % bound
}

/// Every column's best, however bonuses are kept, is that of the definition, one request at a time.
#[test]
fn the_best_of_a_column_is_that_of_the_definition() {
    let (mut filled, mut sparse, mut searched) = (0, 0, 0);
    let mut matrices: Vec<Matrix> =
        crate::backend::cpu::Isa::ALL.into_iter().filter_map(Kernels::of).map(Matrix::new).collect();
    let seed = &mut 3u64;
    let rounds = if cfg!(miri) { 4 } else { 400 };
    for round in 0..rounds {
        // As many as an interpreter gets through.
        let (sizes, most) = if cfg!(miri) { (2, 20) } else { (7, 200) };
        let workers = [1usize, 5, 16, 31, 64, 70, 130][random(seed, sizes) as usize];
        let waiting = random(seed, most) as usize;
        // None has a bonus up to all.
        let density = [0, 1, 4, 30, 100][random(seed, 5) as usize];
        let (malus, halves, masks) = (random(seed, 3) == 0, random(seed, 2) == 0, random(seed, 2) == 0);
        let requests: Vec<Request> = (0..waiting as u64)
            .map(|id| {
                let request = Request::new(id, 1 + random(seed, 60) as u32).passed(random(seed, 30) as u32);
                if random(seed, 3) > 0 { request.pairs(random(seed, 40) as u32) } else { request }
            })
            .collect();
        let list: Vec<Worker> =
            (0..workers).map(|_| Worker::new(1000, 1, u32::from(random(seed, 3) > 0))).collect();
        let bonus: Vec<f32> = (0..40 * workers)
            .map(|_| {
                let bonus = if random(seed, 100) < density { random(seed, 900) as f32 / 8.0 } else { 0.0 };
                if malus && random(seed, 2) == 0 { -bonus } else { bonus }
            })
            .collect();
        let half: Vec<f16> = bonus.iter().map(|&bonus| f16::from_f32(bonus)).collect();
        let eligible: Vec<u64> =
            (0..40 * workers.div_ceil(64)).map(|_| random(seed, 1 << 31) * random(seed, 1 << 31)).collect();
        let pool = Pool::from_requests(&requests).expect("valid");
        let pairs = Pairs {
            bonus_tokens: if halves { &[] } else { &bonus },
            bonus_half_tokens: if halves { &half } else { &[] },
            eligible: if masks { &eligible } else { &[] },
        };
        let batch = Batch::draft(&list, &pool).pairs(pairs).check().expect("valid");
        let candidates = pool.candidates();
        let ordered = candidates.ordered();
        let profile = Profile {
            intercept: 7,
            slope: 2,
            knots: vec![Knot { at_tokens: random(seed, 60) as i64, weight: 5 }],
        };
        let longest = 20 + random(seed, 60) as i64;
        let age = Age { linear: 1.0, quadratic: 0.25 };
        for matrix in &mut matrices {
            matrix.load(&batch, age, 3, false);
            assert!(!matrix.is_searchable() && matrix.bonuses.storage() != BonusStorage::Sparse);
            filled += u32::from(matrix.bonuses.storage() == BonusStorage::Columns);
            let taken: Vec<usize> = (0..waiting).filter(|_| random(seed, 6) == 0).collect();
            taken.iter().for_each(|&position| matrix.take(position));
            let best_of = |matrix: &mut Matrix, worker: usize| {
                matrix.prepare((worker, None), &profile, longest);
                assert!(matrix.held);
                matrix.best(&batch, matrix.run(0), &profile, worker, longest)
            };
            let open = || (0..workers).filter(|&worker| list[worker].open_slots() > 0);
            for worker in open().filter(|_| waiting > 0) {
                let expected = matrix.best_by_definition(&batch, matrix.run(0), &profile, worker, longest);
                assert_eq!(best_of(matrix, worker), expected, "round {round}, worker {worker}");
            }
            if waiting == 0 {
                continue;
            }
            let expected: Vec<Option<Found>> = open().map(|worker| best_of(matrix, worker)).collect();
            matrix.load(&batch, age, 3, true);
            assert!(!matrix.is_searchable() || !masks);
            if !matrix.is_searchable() {
                continue;
            }
            sparse += u32::from(matrix.bonuses.storage() == BonusStorage::Sparse);
            let scan = |worker: Option<usize>| {
                let free = (0..waiting).filter(|position| !taken.contains(position));
                let fits = free.filter(|&position| i64::from(ordered.tokens[position]) <= longest);
                let found = fits.map(|position| {
                    let slot = PoolSlot(ordered.slots[position]);
                    let extra = age.tokens(candidates.passed(slot))
                        + worker.map_or(0, |worker| batch.bonus_tokens(candidates.request(slot), worker));
                    let tokens = i64::from(ordered.tokens[position]);
                    (profile.score(tokens) + 3 * extra, std::cmp::Reverse(candidates.arrival(slot)), position)
                });
                found.max().map(|(score, _, position)| Found { position, score })
            };
            for (worker, expected) in open().zip(expected) {
                assert_eq!(scan(Some(worker)), expected);
                let is_taken = |position: usize| taken.contains(&position);
                let fit = (worker, longest);
                let found =
                    matrix.sparse().best(&ordered, scan(None), |tokens| profile.score(tokens), fit, is_taken);
                assert_eq!(found, expected, "round {round}, worker {worker}");
                searched += 1;
            }
        }
    }
    assert!(cfg!(miri) || (sparse.min(filled).min(searched) > 20), "{sparse} {filled} {searched}");
}

/// Every run's best is that of the definition, whatever the profile, and lies below its bound; without
/// bonuses the bound is exact.
#[test]
fn the_best_of_a_run_lies_below_its_bound() {
    let (mut bounded, mut empty, mut counts) = (0, 0, (0, 0));
    let mut matrices: Vec<Matrix> =
        crate::backend::cpu::Isa::ALL.into_iter().filter_map(Kernels::of).map(Matrix::new).collect();
    let seed = &mut 5u64;
    let horizon = 3;
    for _ in 0..if cfg!(miri) { 1 } else { 60 } {
        let waiting = if cfg!(miri) { 140 } else { 1 + random(seed, 700) as usize };
        let workers = 3;
        let density = [0, 0, 2, 40][random(seed, 4) as usize];
        let classed = random(seed, 2) == 0;
        let longest = [60, 3000, 30_000][random(seed, 3) as usize];
        let requests: Vec<Request> = (0..waiting as u64)
            .map(|id| {
                let request = Request::new(id, 1 + random(seed, longest) as u32);
                let request = request.passed(random(seed, 30) as u32).pairs(id as u32);
                if classed && random(seed, 3) > 0 { request.class(random(seed, 2) as u8) } else { request }
            })
            .collect();
        let list: Vec<Worker> = (0..workers).map(|_| Worker::new(1000, 1, 1)).collect();
        let rows = vec![1000u64; workers * (horizon + 1)];
        let classes = vec![0.5f32; 2 * (horizon + 1)];
        let bonus: Vec<f32> = (0..waiting * workers)
            .map(|_| if random(seed, 100) < density { random(seed, 900) as f32 - 200.0 } else { 0.0 })
            .collect();
        let pool = Pool::from_requests(&requests).expect("valid");
        let eligible: Vec<u64> = (0..waiting).map(|_| random(seed, 8) | random(seed, 8)).collect();
        let bonus_tokens = if density > 0 { &bonus[..] } else { &[] };
        let pairs = Pairs { bonus_tokens, eligible: &eligible, ..Pairs::default() };
        let mut draft = Batch::draft(&list, &pool).projection(horizon, &rows).pairs(pairs);
        if classed {
            draft = draft.classes(&classes);
        }
        let batch = draft.check().expect("valid");
        let age = Age { linear: 1.0, quadratic: 0.25 };
        for matrix in &mut matrices {
            matrix.load(&batch, age, 3, false);
            let taken: Vec<usize> = (0..waiting).filter(|_| random(seed, 6) == 0).collect();
            taken.iter().for_each(|&position| matrix.take(position));
            let sizes: &[u64] = if cfg!(miri) { &[1, 17] } else { &[0, 1, 2, 3, 17, 81, 129, 144, 145] };
            for &knots in sizes {
                // Up to weights that only fit a run's lengths, and such that fit no lanes.
                let heaviest = [3, 1 << 12, 1 << 20, 1 << 32][random(seed, 4) as usize];
                let inside = random(seed, 2) == 0;
                let profile = Profile {
                    intercept: random(seed, 1 << 40) as i64 - (1 << 39),
                    slope: (knots * random(seed, heaviest) / 2) as i64 + random(seed, 5) as i64 - 2,
                    knots: (0..knots)
                        .map(|_| Knot {
                            at_tokens: match inside {
                                true => 2 + random(seed, longest - 3) as i64,
                                false => random(seed, longest + longest / 4) as i64 - longest as i64 / 8,
                            },
                            weight: random(seed, heaviest) as i64,
                        })
                        .collect(),
                };
                let (worker, fits) = (random(seed, 3) as usize, 1 + random(seed, longest * 3 / 2) as i64);
                for at in 0..matrix.runs() {
                    let run = matrix.run(at);
                    if !matrix.is_prepared(worker, run.class) {
                        matrix.prepare((worker, run.class), &profile, fits);
                    }
                    let found = matrix.best(&batch, run, &profile, worker, fits);
                    let expected = matrix.best_by_definition(&batch, run, &profile, worker, fits);
                    assert_eq!(found, expected, "{knots} knots, {}", matrix.kernels.isa);
                    let Some(&bound) = matrix.bounds().get(at) else { continue };
                    bounded += 1;
                    assert!(found.is_none_or(|found| found.score <= bound), "{knots} knots");
                    let (shortest, longest) = (i64::from(run.lengths.0), i64::from(run.lengths.1));
                    if shortest > fits {
                        empty += 1;
                        assert_eq!(bound, NO_REQUEST);
                    } else if density == 0 {
                        let scores = (shortest..=longest.min(fits)).map(|tokens| profile.score(tokens));
                        let oldest =
                            matrix.bonuses.of_column(0)[run.from..run.to].iter().flat_map(|block| block.0);
                        let top = oldest.take(run.count()).max().expect("somebody");
                        assert_eq!(Some(bound - i64::from(top)), scores.max(), "{knots} knots");
                    }
                }
                matrix.forget();
            }
        }
    }
    for matrix in &matrices {
        let (scored, unheld) = matrix.counts();
        counts = (counts.0 + scored - unheld, counts.1 + unheld);
    }
    let (held, unheld) = counts;
    assert!(cfg!(miri) || held.min(unheld).min(bounded).min(empty) > 100, "{counts:?} {bounded} {empty}");
}
