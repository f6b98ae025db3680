//! The pool against a list that is looked through.

use super::*;
use crate::entities::worker::Worker;

struct Random(u64);

impl Random {
    fn next(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }
}

/// What the columns say agrees with what the requests say.
fn check(candidates: &Candidates) {
    let ordered = candidates.ordered();
    assert_eq!(candidates.iter().count(), candidates.len());
    let with_row = candidates.iter().filter(|(_, request, _)| request.pair_row.is_some());
    assert_eq!(candidates.with_pair_row(), with_row.count());
    assert_eq!(candidates.any_rank(), candidates.iter().any(|(_, request, _)| request.rank.is_some()));
    assert!(ordered.tokens.is_sorted());
    assert_eq!(ordered.token_blocks.len(), candidates.len().div_ceil(BLOCK));
    assert_eq!(ordered.most_passed.len(), candidates.len().div_ceil(BLOCK * BLOCK));
    let longest = candidates.iter().map(|(.., waited)| waited).max().unwrap_or(0);
    assert_eq!(candidates.longest_wait_steps(), longest);
    for (position, &slot) in ordered.slots.iter().enumerate() {
        let slot = PoolSlot(slot);
        assert!(candidates.holds(slot));
        assert_eq!(candidates.position(slot), Some(position));
        assert_eq!(candidates.request(slot).prompt_tokens, ordered.tokens[position]);
        assert_eq!(candidates.passed(slot), ordered.passed[position]);
        assert_eq!(candidates.arrival(slot), ordered.arrived_blocks[position / BLOCK][position % BLOCK]);
        assert_eq!(candidates.request(slot).pair_row.unwrap_or(NO_ROW), ordered.pair_rows[position]);
    }
    let lengths = || ordered.tokens.iter().map(|&tokens| f64::from(tokens));
    let mean = lengths().sum::<f64>() / lengths().count().max(1) as f64;
    let square =
        lengths().map(|length| (length - mean).powi(2)).sum::<f64>() / lengths().count().max(1) as f64;
    let (found, spread) = candidates.mean_and_spread();
    assert!((found - mean).abs() < 1e-6 * mean.max(1.0), "{found} {mean}");
    assert!((spread * spread - square).abs() < 1e-6 * (mean * mean).max(1.0), "{spread}^2 {square}");
    for (block, chunk) in ordered.passed.chunks(BLOCK).enumerate() {
        assert_eq!(chunk.iter().max(), Some(&ordered.most_passed[block / BLOCK][block % BLOCK]));
    }
    assert_eq!(candidates.most_passed(), ordered.passed.iter().copied().max().unwrap_or(0));
    for (block, chunk) in ordered.tokens.chunks(BLOCK).enumerate() {
        assert_eq!(chunk.first(), Some(&ordered.low[block / BLOCK][block % BLOCK]));
        assert_eq!(chunk.last(), Some(&ordered.high[block / BLOCK][block % BLOCK]));
    }
    let arrivals: Vec<u64> = candidates.iter().map(|(slot, ..)| candidates.arrival(slot)).collect();
    assert!(arrivals.is_sorted());
    let equals = ordered.tokens.windows(2).zip(ordered.arrived_blocks.as_flattened().windows(2));
    assert!(equals.into_iter().all(|(tokens, arrived)| tokens[0] < tokens[1] || arrived[0] < arrived[1]));
}

/// Everybody in order of arrival: the request with its wait in it.
fn all(pool: &Pool) -> Vec<Request> {
    pool.iter().map(|(request, waited_steps)| Request { waited_steps, ..request }).collect()
}

fn window(pool: &Pool) -> Vec<RequestId> {
    pool.candidates().iter().map(|(_, request, _)| request.id).collect()
}

/// Plays random events on a pool and on a list; `window` and the lengths choose which roads are taken.
fn play(window_size: usize, events: u64, longest: u64, ranks: u64, seed: u64) {
    let mut random = Random(seed);
    let mut pool = Pool::with_window(window_size);
    let mut list: Vec<Request> = Vec::new();
    let (mut arrivals, mut away) = (HashMap::new(), Vec::new());
    let mut ranks = ranks;
    for id in 0..events {
        match random.next(100) {
            // Nobody, or somebody who is there.
            0..5 => {
                let twice = list.get(random.next(1 + list.len() as u64) as usize).map(|request| request.id);
                if let Some(id) = twice {
                    assert_eq!(pool.insert(Request::new(id, 5)), Err(BatchError::Waits { id }));
                }
                assert_eq!(pool.remove(u64::MAX), None);
            }
            5..35 if !list.is_empty() => {
                let gone = list.remove(random.next(list.len() as u64) as usize);
                assert_eq!(pool.remove(gone.id), Some(gone));
            }
            35..38 => {
                pool.advance(3);
                list.iter_mut().for_each(|request| request.waited_steps += 3);
            }
            // A few of those in the window, and of those behind it.
            38..42 => {
                let leaves = |at: u64| at.is_multiple_of(3);
                let gone: Vec<RequestId> = (0u64..)
                    .zip(&list)
                    .filter(|&(at, _)| leaves(at))
                    .map(|(_, request)| request.id)
                    .collect();
                let mut left = Vec::new();
                let unknown = std::iter::once(RequestId(u64::MAX));
                pool.leave_all(unknown.chain(gone.iter().copied()), |waiting| left.push(waiting.request.id));
                assert_eq!(left, gone);
                let mut at = 0..;
                list.retain(|_| !leaves(at.next().unwrap_or(0)));
            }
            // A rank is gone, and who was bound to it.
            42 if ranks > 1 => {
                let rank = WorkerIndex(random.next(ranks) as u32);
                ranks -= 1;
                let mut gone = Vec::new();
                pool.mark_bound(rank, |id| gone.push(id));
                gone.sort_unstable();
                let mut expected: Vec<RequestId> = list
                    .iter()
                    .filter(|request| request.rank == Some(rank))
                    .map(|request| request.id)
                    .collect();
                expected.sort_unstable();
                assert_eq!(gone, expected);
                pool.leave_all(gone.into_iter(), |_| {});
                pool.drop_rank(rank);
                list.retain(|request| request.rank != Some(rank));
                away.retain(|request: &Request| request.rank.is_none());
                for request in &mut list {
                    request.rank =
                        request.rank.map(|other| if other > rank { WorkerIndex(other.0 - 1) } else { other });
                }
            }
            43 => {
                let limit = random.next(longest);
                let limit_of = |rank: Option<WorkerIndex>| match rank {
                    Some(WorkerIndex(0)) => None,
                    Some(_) => Some(limit as i64 / 2),
                    None => Some(limit as i64),
                };
                let mut marked = Vec::new();
                pool.mark_longer(limit_of, |id| marked.push(id));
                marked.sort_unstable();
                let is_longer = |request: &&Request| {
                    limit_of(request.rank).is_some_and(|limit| i64::from(request.prompt_tokens) > limit)
                };
                let mut expected: Vec<RequestId> =
                    list.iter().filter(is_longer).map(|request| request.id).collect();
                expected.sort_unstable();
                assert_eq!(marked, expected);
                // The window looks past them, and back.
                pool.look_past_marked();
                let stay: Vec<RequestId> =
                    list.iter().filter(|request| !is_longer(request)).map(|request| request.id).collect();
                assert_eq!(window(&pool), stay[..stay.len().min(window_size)]);
                pool.move_back();
                pool.unmark(marked.into_iter());
            }
            // Some are admitted, and pass who came before them.
            45..50 => {
                let mut entered = Vec::new();
                for (at, request) in list.clone().into_iter().enumerate() {
                    if random.next(9) == 0 && entered.len() < 5 {
                        let any = WorkerIndex(random.next(ranks) as u32);
                        let worker = request.rank.unwrap_or(any);
                        entered.push((0, arrivals[&request.id], worker));
                        for before in &mut list[..at] {
                            before.passed += u32::from(before.rank.is_none_or(|rank| rank == worker));
                        }
                        away.push(request);
                    }
                }
                let gone: Vec<RequestId> =
                    away[away.len() - entered.len()..].iter().map(|request| request.id).collect();
                list.retain(|request| !gone.contains(&request.id));
                pool.leave_all(gone.into_iter(), |_| {});
                pool.count_passes(entered.into_iter(), |_, _| unreachable!("no masks"));
            }
            50 => {
                let (arrival, worker) = (pool.next_arrival(), WorkerIndex(random.next(ranks) as u32));
                pool.count_passes(std::iter::once((0, arrival, worker)), |_, _| unreachable!("no masks"));
                for request in &mut list {
                    request.passed += u32::from(request.rank.is_none_or(|rank| rank == worker));
                }
            }
            // And come back to their places.
            51..54 if !away.is_empty() => {
                let mut request = away.swap_remove(random.next(away.len() as u64) as usize);
                let arrival = arrivals[&request.id];
                pool.enter_again(request, Some(0), arrival);
                let at = list.partition_point(|other| arrivals[&other.id] < arrival);
                let younger = list[at..].iter().find(|other| other.rank == request.rank);
                request.passed = request.passed.max(younger.map_or(0, |other| other.passed));
                list.insert(at, request);
            }
            44 => moved_on(&mut pool, &list, window_size, random.next(longest) as i64),
            _ => {
                let request =
                    Request::new(id, 1 + random.next(longest) as u32).waited(random.next(50) as u32);
                let request = match random.next(4) {
                    0 => request.bound_to(random.next(ranks) as u32),
                    1 => request.deadline(7),
                    _ => request,
                };
                let request = request.passed(if random.next(9) == 0 { 3 } else { 0 });
                arrivals.insert(request.id, pool.arrivals);
                pool.insert(request).expect("valid");
                list.push(request);
            }
        }
        assert_eq!(pool.len(), list.len());
        if id % 37 == 0 {
            check(pool.candidates());
            assert_eq!(all(&pool), list);
            assert_eq!(
                window(&pool),
                list.iter().take(window_size).map(|request| request.id).collect::<Vec<_>>()
            );
            let rows = random.next(5) as u32;
            pool.set_pair_rows(|request| (request.id.0 % 3 == 0).then_some(rows));
            check(pool.candidates());
            pool.set_pair_rows(|_| None);
            for request in list.iter().step_by(7) {
                assert_eq!(pool.request(request.id), Some(*request));
                assert_eq!(pool.slot_of(request.id).is_some(), window(&pool).contains(&request.id));
            }
            let limit = random.next(longest) as u32;
            for (class, rank, count) in pool.queued() {
                let of_rank = list.iter().skip(window_size).filter(|request| request.rank == rank);
                assert_eq!(of_rank.clone().count(), count);
                let short = of_rank.filter(|request| request.prompt_tokens <= limit).count();
                assert_eq!(pool.queued_of_at_most(class, rank, i64::from(limit)), short);
            }
        }
    }
    for request in list {
        assert!(pool.remove(request.id).is_some());
    }
    assert!(pool.is_empty() && pool.iter().next().is_none());
    assert_eq!(pool.queued().count(), 0);
}

/// The windows behind the first show everybody once who fits, and nobody else.
fn moved_on(pool: &mut Pool, list: &[Request], window_size: usize, limit: i64) {
    let limit_of = |rank: Option<WorkerIndex>| match rank {
        Some(WorkerIndex(0)) => None,
        Some(_) => Some(limit / 2),
        None => Some(limit),
    };
    let fits = |request: &&Request| {
        limit_of(request.rank).is_some_and(|limit| i64::from(request.prompt_tokens) <= limit)
    };
    let expected: Vec<RequestId> =
        list.iter().skip(window_size).filter(fits).map(|request| request.id).collect();
    let mut shown = Vec::new();
    pool.look_past_marked();
    while pool.move_on(limit_of) {
        check(pool.candidates());
        let ids = window(pool);
        assert!(ids.len() == window_size || shown.len() + ids.len() == expected.len());
        shown.extend(ids);
    }
    pool.move_back();
    assert_eq!(shown, expected);
}

#[test]
fn it_agrees_with_a_list() {
    play(4096, 2_500, 40, 5, 1);
    play(64, 6_000, 40, 5, 2);
    play(16, 4_000, 60_000, 9, 3);
    play(1, 2_000, 7, 1, 4);
    play(100, 9_000, 3, 2, 5);
}

#[test]
fn a_long_queue_is_cut_into_stretches_that_stay_few() {
    let mut pool = Pool::with_window(8);
    let mut random = Random(9);
    for id in 0..40_000 {
        pool.insert(Request::new(id, 1 + random.next(9_000) as u32)).expect("valid");
    }
    // One in a hundred stays.
    let gone = (0..40_000).filter(|id| id % 100 != 0).map(RequestId);
    pool.leave_all(gone, |_| {});
    assert_eq!(pool.len(), 400);
    let list: Vec<Request> = all(&pool);
    assert_eq!(
        pool.queued_of_at_most(0, None, 4_500),
        list.iter().skip(8).filter(|request| request.prompt_tokens <= 4_500).count()
    );
    moved_on(&mut pool, &list, 8, 700);
    // Bounds that were too wide are not any more: the same answer again.
    moved_on(&mut pool, &list, 8, 700);
    let stretches = pool.lines[0].queue.stretches();
    assert!(stretches <= 3, "{stretches} stretches of 392 requests");
}

#[test]
fn a_pool_of_one_decision_shows_those_who_may_enter() {
    let workers = [Worker::new(0, 0, 1).capacity(50), Worker::new(0, 0, 0), Worker::new(0, 0, 1).draining()];
    let mut random = Random(4);
    for _ in 0..200 {
        let requests: Vec<Request> = (0..1 + random.next(60))
            .map(|id| {
                let request = Request::new(id, 1 + random.next(80) as u32);
                match random.next(4) {
                    0 => request.bound_to(random.next(4) as u32),
                    1 => request.pairs(random.next(4) as u32),
                    _ => request,
                }
            })
            .collect();
        let mut pool = Pool::with_window(1 + random.next(9) as usize);
        pool.refill(&requests).expect("valid");
        // The third row lets nobody in, the fourth is not there.
        pool.look_past_shut(&workers, 10, &[0b111, 0b101, 0b110]);
        let may = |request: &&Request| {
            // What is wrong is left to the batch.
            let ranked = request.rank.is_none_or(|rank| rank == 0 || rank == 3);
            request.prompt_tokens <= 40 && ranked && request.pair_row.is_none_or(|row| row != 2)
        };
        let expected: Vec<RequestId> =
            requests.iter().filter(may).map(|request| request.id).take(pool.window).collect();
        if pool.len() > pool.window && !expected.is_empty() {
            assert_eq!(window(&pool), expected);
        } else {
            assert_eq!(
                window(&pool),
                (0..pool.len().min(pool.window) as u64).map(RequestId).collect::<Vec<_>>()
            );
        }
        for (slot, request, _) in pool.candidates().iter() {
            assert_eq!(pool.row_of(slot) as u64, request.id.0);
            assert_eq!(pool.slot_of(request.id), Some(slot));
        }
    }
}

#[test]
fn refusals_name_the_place_and_change_nothing() {
    let error = Pool::from_requests(&[Request::new(1, 5), Request::new(2, 5), Request::new(1, 7)]);
    assert_eq!(error.unwrap_err(), BatchError::DuplicateId { index: 2, id: RequestId(1), first: 0 });
    let mut pool = Pool::new();
    assert!(matches!(pool.insert(Request::new(1, 0)), Err(BatchError::PromptTokens { found: 0, .. })));
    assert!(pool.insert(Request::new(1, MAX_PROMPT_TOKENS + 1)).is_err());
    assert!(pool.insert(Request::new(1, 1).waited(MAX_WAITED_STEPS + 1)).is_err());
    assert!(pool.insert(Request::new(1, 1).passed(MAX_PASSED + 1)).is_err());
    assert!(pool.is_empty());
    // Behind the window as well.
    let mut pool = Pool::with_window(2);
    let requests: Vec<Request> = [4, 7, 9, 8, 7].map(|id| Request::new(id, 5)).into();
    assert_eq!(
        pool.refill(&requests[..]),
        Err(BatchError::DuplicateId { index: 4, id: RequestId(7), first: 1 })
    );
    let requests: Vec<Request> = [4, 7, 9, 8, 9].map(|id| Request::new(id, 5)).into();
    assert_eq!(
        pool.refill(&requests[..]),
        Err(BatchError::DuplicateId { index: 4, id: RequestId(9), first: 2 })
    );
    assert!(pool.is_empty());
}

/// Behind the window too, where a list for each rank up to this one would take all memory.
#[test]
fn a_rank_of_no_batch_is_refused() {
    let refused = |index, id, found| {
        let (id, found) = (RequestId(id), WorkerIndex(found));
        Err(BatchError::Rank { index, id, workers: MAX_WORKERS, found })
    };
    let mut pool = Pool::with_window(1);
    pool.insert(Request::new(1, 10)).unwrap();
    assert_eq!(pool.insert(Request::new(2, 10).bound_to(u32::MAX)), refused(None, 2, u32::MAX));
    pool.insert(Request::new(2, 10).bound_to(1023)).unwrap();
    let requests = [Request::new(0, 10), Request::new(1, 10).bound_to(1024)];
    assert_eq!(pool.refill(&requests), refused(Some(1), 1, 1024));
    assert!(pool.is_empty());
}

#[test]
fn a_refilled_pool_is_the_one_filled_request_by_request() {
    let mut random = Random(7);
    for window_size in [4096, 20] {
        let mut bulk = Pool::with_window(window_size);
        for size in [0, 1, 2, 15, 16, 17, 31, 256, 257, 40, 3] {
            for (first_id, longest) in
                [(0, 40), (1, 40), (0, 300), (0, 70_000), (1, u64::from(MAX_PROMPT_TOKENS))]
            {
                let requests: Vec<Request> = (0..size)
                    .map(|at| {
                        Request::new(first_id + at, 1 + random.next(longest) as u32)
                            .waited(random.next(50) as u32)
                            .passed(random.next(50) as u32)
                    })
                    .collect();
                let mut single = Pool::with_window(window_size);
                requests.iter().for_each(|&request| single.insert(request).expect("valid"));
                bulk.refill(&requests).expect("valid");
                let same = |bulk: &Pool, single: &Pool| {
                    check(bulk.candidates());
                    let ordered = |pool: &Pool| -> Vec<RequestId> {
                        let slots = pool.candidates().ordered().slots.iter();
                        slots.map(|&slot| pool.candidates().request(PoolSlot(slot)).id).collect()
                    };
                    assert_eq!((all(bulk), ordered(bulk)), (all(single), ordered(single)));
                };
                same(&bulk, &single);
                assert!(!bulk.contains(size + first_id));
                // It lives on like any other.
                for id in [first_id, 12, 30, size] {
                    assert_eq!(bulk.remove(id), single.remove(id));
                    let late = Request::new(1000 + id, 1 + random.next(40) as u32);
                    bulk.insert(late).expect("valid");
                    single.insert(late).expect("valid");
                    assert_eq!(bulk.remove(1000 + id), single.remove(1000 + id));
                }
                same(&bulk, &single);
            }
        }
        let twice = [Request::new(0, 5), Request::new(1, 5), Request::new(0, 7)];
        assert_eq!(
            bulk.refill(&twice),
            Err(BatchError::DuplicateId { index: 2, id: RequestId(0), first: 0 })
        );
        assert!(bulk.is_empty() && bulk.iter().next().is_none());
        let late = [Request::new(0, 5), Request::new(1, 5).waited(MAX_WAITED_STEPS + 1)];
        assert!(matches!(
            bulk.refill(&late),
            Err(BatchError::WaitedSteps { index: Some(1), id: RequestId(1), .. })
        ));
        let none = [Request::new(0, 5), Request::new(0, 0)];
        assert!(matches!(
            bulk.refill(&none),
            Err(BatchError::PromptTokens { index: Some(1), id: RequestId(0), .. })
        ));
        let candidates = bulk.candidates();
        assert!(bulk.is_empty() && !candidates.any_pair_terms() && !candidates.any_deadline());
    }
}

#[test]
fn waits_survive_the_rebase_of_the_clock() {
    let mut pool = Pool::with_window(1);
    pool.insert(Request::new(1, 5).waited(7)).expect("valid");
    pool.insert(Request::new(2, 5).waited(5)).expect("valid");
    let mut passed = 0u64;
    while passed < 1 << 32 {
        pool.advance(MAX_WAITED_STEPS);
        passed += u64::from(MAX_WAITED_STEPS);
        // As if they had just come.
        for id in [1, 2] {
            pool.remove(id);
        }
        pool.insert(Request::new(1, 5).waited(7)).expect("valid");
        pool.insert(Request::new(2, 5).waited(5)).expect("valid");
        pool.advance(1);
        assert_eq!(all(&pool).iter().map(|request| request.waited_steps).collect::<Vec<_>>(), [8, 6]);
        check(pool.candidates());
    }
}
