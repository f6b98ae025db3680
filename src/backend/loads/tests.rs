use super::*;
use crate::backend::cpu::Kernels;
use crate::pool::Pool;

/// Workers without an open slot count only through sums and greatest values: leaving them out changes no
/// answer.
#[test]
fn open_workers_alone_tell_the_same() {
    let mut seed = 3u64;
    let mut next = |bound: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % bound
    };
    let kernels = Kernels::best().loads;
    let (mut alone, mut whole) = (Loads::new(kernels), Loads::new(kernels));
    let pool = Pool::new();
    let mut left_out = 0;
    for round in 0..2000 {
        let count = [1, 2, 3, 40, 70, 130][next(6) as usize];
        let most = [10, 100_000][next(2) as usize];
        let workers: Vec<Worker> = (0..count)
            .map(|_| Worker::new(next(most), 5, u32::from(next(4) == 0) * next(4) as u32))
            .collect();
        let open: Vec<usize> = (0..count).filter(|&at| workers[at].open_slots() > 0).collect();
        let batch = Batch::draft(&workers, &pool).check().expect("valid");
        let plan = Plan { refill_tokens: next(2000) as i64, follows_envelope: false, ..Plan::default() };
        for (loads, open_only) in [(&mut alone, next(8) > 0), (&mut whole, false)] {
            loads.prepare(&batch);
            loads.load(&batch, &plan, open_only);
        }
        left_out += u32::from(alone.open_only);
        for _ in 0..if open.is_empty() { 0 } else { 6 } {
            let worker = open[next(open.len() as u64) as usize];
            let (tokens, kind) = (next(3000) as i64, next(4));
            for loads in [&mut alone, &mut whole] {
                match kind {
                    0 => loads.admit_alike(worker, tokens),
                    1 => loads.release(worker, tokens),
                    2 => loads.change_tokens(worker, tokens - 1500),
                    _ => loads.change_all([(worker, tokens - 1500)].into_iter(), true),
                }
            }
            assert_eq!((alone.sum, alone.before), (whole.sum, whole.before), "round {round}");
            for &at in &open {
                assert_eq!(alone.others(at), whole.others(at), "round {round}, worker {at}");
                assert_eq!(alone.refilled(at), whole.refilled(at));
                assert_eq!((alone.cost(at), alone.open_slots(at)), (whole.cost(at), whole.open_slots(at)));
                if at != worker {
                    assert_eq!(alone.pair(at, worker), whole.pair(at, worker), "round {round}");
                }
            }
            assert_eq!(alone.open_workers(), whole.open_workers());
        }
    }
    assert!(left_out > 1000);
}

#[test]
fn the_top_two_follow_every_change() {
    let mut seed = 7u64;
    let mut next = |bound: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % bound
    };
    for workers in [1usize, 2, 3, 7] {
        let mut values: Vec<i64> = (0..workers).map(|_| next(10) as i64).collect();
        let mut top = (Kernels::best().loads.top)(&values);
        for _ in 0..3000 {
            let at = next(workers as u64) as usize;
            values[at] = next(10) as i64;
            if !top.follow(at, values[at]) {
                top = (Kernels::best().loads.top)(&values);
            }
            for except in 0..workers {
                let others = values.iter().enumerate().filter(|&(other, _)| other != except);
                let expected = others.map(|(_, &value)| value).max().unwrap_or(i64::MIN);
                let found = if except == top.at { top.second } else { top.first };
                assert_eq!(found, expected, "{values:?} without {except}");
                for other in (0..workers).filter(|&other| other != except) {
                    let rest = (0..workers).filter(|&rest| rest != except && rest != other);
                    if let Some(found) = top.without(except, other) {
                        let expected = rest.map(|rest| values[rest]).max().unwrap_or(i64::MIN);
                        assert_eq!(found, expected, "{values:?} without {except} and {other}");
                    }
                }
            }
        }
    }
}
