//! Placement on arrival: one request, at once, while there is room.
//!
//! It goes where F of `br0` is greatest ([`super::balance_route`]): the worker whose margin it fits, or
//! exceeds least.

use crate::batch::{Batch, Request, WEIGHT_ONE};

/// Where a request goes on arrival, and where it would have gone otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routed {
    /// Index of the worker.
    pub worker: usize,
    /// Its score there in tokens, bonus included.
    pub score_tokens: f64,
    /// The second-best worker and the score there, if another one may take it.
    pub runner_up: Option<(usize, f64)>,
}

/// The worker for one request that arrives while there is room: greatest `br0` F, then least load, then
/// lowest index, among the workers that may take it. Looks at nobody who waits, so it can be asked before the
/// request joins the pool.
#[must_use]
pub fn route_one(batch: &Batch<'_>, request: &Request) -> Option<usize> {
    route_scored(batch, request).map(|routed| routed.worker)
}

/// Where one request goes that arrives while there is room ([`route_one`]), and its scores.
#[must_use]
pub fn route_scored(batch: &Batch<'_>, request: &Request) -> Option<Routed> {
    let workers = batch.workers();
    let uniform = batch.is_uniform();
    let per_token = |g: usize| if uniform { 1 } else { workers[g].cost_per_token() };
    let cost = |g: usize| workers[g].load_tokens as i64 * per_token(g);
    let envelope = (0..workers.len()).map(cost).max()?;
    let tokens = i64::from(request.prompt_tokens);
    let needs = tokens + i64::from(batch.request_growth_tokens());
    let unit = if uniform { 1 } else { WEIGHT_ONE };
    let score = |g: usize| {
        let margin = envelope - cost(g);
        let over = (tokens - if uniform { margin } else { margin.div_euclid(per_token(g)) }).max(0);
        per_token(g) * (tokens - workers.len() as i64 * over) + batch.bonus_tokens(request, g) * unit
    };
    // Greatest first: score, then least cost; of equals the first found stays.
    let (mut best, mut second): (Option<(i64, i64, usize)>, Option<(i64, i64, usize)>) = (None, None);
    for (g, worker) in workers.iter().enumerate() {
        let room = worker.open_slots() > 0 && needs <= worker.room_tokens();
        if !room || !batch.eligible(request, g) {
            continue;
        }
        let found = (score(g), -cost(g), g);
        let beats = |other: Option<(i64, i64, usize)>| {
            other.is_none_or(|other| (found.0, found.1) > (other.0, other.1))
        };
        if beats(best) {
            second = best.replace(found);
        } else if beats(second) {
            second = Some(found);
        }
    }
    let in_tokens = |score: i64| score as f64 / unit as f64;
    best.map(|(score, _, worker)| Routed {
        worker,
        score_tokens: in_tokens(score),
        runner_up: second.map(|(score, _, worker)| (worker, in_tokens(score))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Worker;
    use crate::pool::Pool;

    #[test]
    fn one_arrival_goes_where_f_is_greatest() {
        let mut workers = [Worker::new(100, 1, 1), Worker::new(40, 1, 1), Worker::new(70, 1, 1)];
        let nobody = Pool::new();
        let route = |workers: &[Worker], request: &Request| {
            route_one(&Batch::draft(workers, &nobody).check().expect("valid"), request)
        };
        // Margins 0, 60, 30. 50 tokens: -100, 50, -10. 20 tokens: -40, 20, 20, a tie for the lesser load.
        assert_eq!(route(&workers, &Request::new(1, 50)), Some(1));
        assert_eq!(route(&workers, &Request::new(1, 20)), Some(1));
        assert_eq!(route(&workers, &Request::new(1, 20).bound_to(0)), Some(0));
        workers[1].kv_capacity_tokens = Some(55);
        assert_eq!(route(&workers, &Request::new(1, 20)), Some(2));
        assert_eq!(route(&workers, &Request::new(1, 15)), Some(1));
        workers[1].free_slots = 0;
        assert_eq!(route(&workers, &Request::new(1, 15)), Some(2));
        workers[2].accepting = false;
        assert_eq!(route(&workers, &Request::new(1, 15)), Some(0));
        workers[0].accepting = false;
        assert_eq!(route(&workers, &Request::new(1, 15)), None);
    }
}
