//! The two stages by hand, and F as it is written.

use super::*;
use crate::assignment::Assignment;
use crate::batch::{MAX_HORIZON, Request};
use crate::policy::{MAX_SUBSET_WINDOW, Parameters, build};
use crate::pool::Pool;

fn pool(lengths: &[u32]) -> Pool {
    let requests: Vec<_> = lengths.iter().zip(1..).map(|(&tokens, id)| Request::new(id, tokens)).collect();
    Pool::from_requests(&requests).expect("valid")
}

fn workers(load_and_free: &[(u64, u32)]) -> Vec<Worker> {
    load_and_free.iter().map(|&(load, free)| Worker::new(load, 1, free)).collect()
}

fn decide(name: &str, parameters: BalanceRouteParameters, batch: &Batch<'_>) -> Vec<(u64, u32, f64)> {
    let parameters = Parameters::new().balance_route(parameters);
    let mut policy = build(name, &parameters).expect("a policy");
    let (mut out, mut oracle) = (Assignment::new(), Assignment::new());
    policy.decide(batch, &mut out);
    policy.decide_by_reference(batch, &mut oracle).expect("a rule");
    assert_eq!(out, oracle);
    out.admitted.iter().map(|admission| (admission.id, admission.worker, admission.score_tokens)).collect()
}

#[test]
fn plenty_goes_one_by_one_and_scarcity_begins_at_seven() {
    // Nine slots: worker 0 has most, margin 0, F(s) = -s: the shortest. Eight: a tie, worker 1 is lighter,
    // margin 90: the longest. Seven: worker 0 again, and though F(55) = -55 it goes in.
    let (workers, pool) = (workers(&[(100, 5), (40, 4)]), pool(&[30, 60, 55]));
    let batch = Batch::draft(&workers, &pool).check().expect("valid");
    let expected = [(1, 0, -30.0), (2, 1, 60.0), (3, 0, -55.0)];
    assert_eq!(decide("br0", BalanceRouteParameters::default(), &batch), expected);
}

#[test]
fn scarcity_admits_the_best_subset_of_the_window() {
    let (workers, pool) = (workers(&[(100, 0), (40, 3)]), pool(&[50, 25, 35, 10, 60]));
    let batch = Batch::draft(&workers, &pool).check().expect("valid");
    // Margin 60. {50, 10} and {25, 35} reach it with two requests each: the earlier pair. The fifth is
    // outside the window. Then margin 0 and one slot, nothing is worth anything: the best single, 25 - 2 *
    // 25.
    let expected = [(1, 1, 60.0), (4, 1, 60.0), (2, 1, -25.0)];
    assert_eq!(decide("br0", BalanceRouteParameters::default(), &batch), expected);
    // From the whole pool the single 60 reaches it with one request; past the margin a token costs 2 * 2
    // here.
    let parameters = BalanceRouteParameters::new().beta_workers(2.0);
    let expected = [(5, 1, 60.0), (4, 1, 10.0 - 40.0), (2, 1, 25.0 - 100.0)];
    assert_eq!(decide("brh-survival", parameters, &batch), expected);
    // A window of two cannot see them.
    let parameters = BalanceRouteParameters::new().subset_window(2);
    assert_eq!(decide("br0", parameters, &batch)[..1], [(1, 1, 50.0)]);
}

#[test]
fn subsets_respect_slots_and_room() {
    let mut workers = workers(&[(100, 0), (40, 1)]);
    let pool = pool(&[25, 35, 10, 50]);
    let batch = Batch::draft(&workers, &pool).check().expect("valid");
    assert_eq!(decide("br0", BalanceRouteParameters::default(), &batch), [(4, 1, 50.0)]);
    // Two slots and room for 58 tokens, five of growth each: 25 + 10, 35 + 10 and 50 alone fit, 25 + 35 and
    // 50 + 10 do not.
    workers[1].free_slots = 2;
    workers[1].kv_capacity_tokens = Some(98);
    let batch = Batch::draft(&workers, &pool).request_growth(5).check().expect("valid");
    assert_eq!(decide("br0", BalanceRouteParameters::default(), &batch), [(4, 1, 50.0)]);
    workers[1].kv_capacity_tokens = Some(96);
    let batch = Batch::draft(&workers, &pool).request_growth(3).check().expect("valid");
    assert_eq!(decide("br0", BalanceRouteParameters::default(), &batch), [(4, 1, 50.0)]);
    workers[1].kv_capacity_tokens = Some(92);
    let batch = Batch::draft(&workers, &pool).request_growth(3).check().expect("valid");
    let expected = [(2, 1, 45.0), (3, 1, 45.0)];
    assert_eq!(decide("br0", BalanceRouteParameters::default(), &batch), expected);
}

#[test]
fn lookahead_weighs_every_step() {
    let parameters = BalanceRouteParameters::new().horizon_steps(1).gamma(0.5).beta_workers(1.0);
    let (workers, pool) = (workers(&[(100, 0), (50, 1)]), pool(&[20, 5, 60, 50]));
    let rows = [100, 60, 50, 55];
    let batch = Batch::draft(&workers, &pool).projection(1, &rows).check().expect("valid");
    // Margins 50 and 5: F(20) = 30 - 15, F(5) = 7.5, F(60) = 90 - 2 * (10 + 27.5), F(50) = 75 - 45; a token
    // over both steps is 1.5.
    assert_eq!(decide("brh-oracle", parameters, &batch), [(4, 1, 20.0)]);
    // br0 looks at today: 50 fits exactly.
    assert_eq!(decide("br0", parameters, &batch), [(4, 1, 50.0)]);
    // A worker that stays this low takes the longest.
    let rows = [100, 160, 50, 55];
    let batch = Batch::draft(&workers, &pool).projection(1, &rows).check().expect("valid");
    assert_eq!(decide("brh-oracle", parameters, &batch), [(4, 1, 50.0)]);
    let rows = [100, 160, 40, 55];
    let batch = Batch::draft(&workers, &pool).projection(1, &rows).check().expect("valid");
    assert_eq!(decide("brh-oracle", parameters, &batch), [(3, 1, 60.0)]);
}

#[test]
fn an_overdue_request_goes_first_and_nothing_blocks_the_window() {
    let workers = workers(&[(100, 1), (40, 1)]);
    let mut requests: Vec<_> = (1..7).map(|id| Request::new(id, 10).bound_to(0)).collect();
    requests.push(Request::new(7, 30));
    requests.push(Request::new(8, 500).waited(9).deadline(9));
    let pool = Pool::from_requests(&requests).expect("valid");
    let batch = Batch::draft(&workers, &pool).check().expect("valid");
    let expected = [(8, 1, 0.0), (1, 0, 10.0)];
    assert_eq!(decide("br0", BalanceRouteParameters::default(), &batch), expected);
    requests.pop();
    let pool = Pool::from_requests(&requests).expect("valid");
    let batch = Batch::draft(&workers, &pool).check().expect("valid");
    // Six that may not go to worker 1 wait before the one that may.
    let expected = [(7, 1, 30.0), (1, 0, -10.0)];
    assert_eq!(decide("br0", BalanceRouteParameters::default(), &batch), expected);
}

#[test]
fn the_greatest_numbers_do_not_overflow() {
    use crate::batch::{MAX_LOAD_TOKENS, MAX_PROMPT_TOKENS, MAX_WEIGHT, MAX_WORKERS};
    let mut workers = vec![Worker::new(0, 0, 0).weight(MAX_WEIGHT); MAX_WORKERS];
    workers[0] = Worker::new(MAX_LOAD_TOKENS, 0, 0).weight(0.0);
    workers[1].free_slots = 8;
    workers[2].free_slots = 9;
    let pool = pool(&[MAX_PROMPT_TOKENS; 12]);
    let rows = vec![0; MAX_WORKERS * (MAX_HORIZON + 1)];
    let batch = Batch::draft(&workers, &pool).projection(MAX_HORIZON, &rows).check().expect("valid");
    let parameters = BalanceRouteParameters::new()
        .greedy_slots(12)
        .subset_window(MAX_SUBSET_WINDOW)
        .horizon_steps(MAX_HORIZON)
        .alpha(16.0)
        .beta_workers(16.0)
        .gamma(1.0);
    let parameters = Parameters::new().balance_route(parameters);
    for name in ["br0", "brh-oracle"] {
        let mut out = Assignment::new();
        build(name, &parameters).expect("a policy").decide(&batch, &mut out);
        assert_eq!(out.admitted.len(), 12, "{name}");
        assert!(out.admitted.iter().all(|admission| admission.score_tokens.is_finite()));
    }
}

/// F once more, straight from the rows of a batch, as the module's documentation writes it.
fn f_as_written(batch: &Batch<'_>, parameters: &BalanceRouteParameters, worker: usize, tokens: i64) -> i64 {
    let projection = batch.projection().expect("rows");
    let width = projection.horizon + 1;
    let (alpha, beta) = (parameters.alpha, parameters.beta_workers * batch.workers().len() as f64);
    (0..width.min(parameters.horizon_steps + 1))
        .map(|h| {
            let load = |at: usize| {
                let cost = if batch.is_uniform() { 1 } else { batch.workers()[at].cost_per_token() };
                projection.rows[at * width + h] as i64 * cost
            };
            let envelope = (0..batch.workers().len()).map(load).max().expect("a worker");
            let cost = if batch.is_uniform() { 1 } else { batch.workers()[worker].cost_per_token() };
            let margin = (envelope - load(worker)).div_euclid(cost);
            let discount = (parameters.gamma.powi(h as i32) * 1024.0).round();
            (alpha * discount).round() as i64 * cost * tokens
                - (beta * discount).round() as i64 * cost * (tokens - margin).max(0)
        })
        .sum()
}

#[test]
fn the_profile_is_f_as_it_is_written() {
    let mut seed = 5u64;
    let mut next = |bound: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % bound
    };
    for round in 0..300 {
        let count = 1 + next(6) as usize;
        let horizon = 1 + next(9) as usize;
        let mut workers: Vec<Worker> = (0..count).map(|_| Worker::new(next(4_000), 3, 1)).collect();
        if round % 3 == 0 {
            workers[0].weight = 2.0;
        }
        let rows: Vec<u64> = (0..count * (horizon + 1)).map(|_| next(5_000)).collect();
        let lengths: Vec<u32> = (0..8).map(|_| 1 + next(3_000) as u32).collect();
        let pool = pool(&lengths);
        let batch = Batch::draft(&workers, &pool).projection(horizon, &rows).check().expect("valid");
        let parameters = BalanceRouteParameters::new()
            .horizon_steps(1 + next(9) as usize)
            .alpha([0.5, 1.0, 2.0][next(3) as usize])
            .beta_workers([1.0, 4.0, 5.4][next(3) as usize])
            .gamma([0.86, 0.98, 1.0][next(3) as usize]);
        let rule = BalanceRoute::new(&parameters, Some(Forecast::Survival));
        let unit = rule.clone().begin(&batch, &mut Vec::new()).unit as f64;
        let parameters = Parameters::new().balance_route(parameters);
        let mut scores = Vec::new();
        let mut policy = build("brh-survival", &parameters).expect("a policy");
        assert!(policy.score_into(&batch, &mut scores));
        for (row, &tokens) in lengths.iter().enumerate() {
            for worker in 0..count {
                let expected = f_as_written(&batch, &parameters.balance_route, worker, i64::from(tokens));
                assert_eq!(scores[row * count + worker], expected as f64 / unit, "round {round}");
            }
        }
    }
}
