//! The best decision of a step as an integer program.

use std::time::Duration;

#[cfg(feature = "highs")]
use good_lp::solvers::highs::HighsParallelType;
use good_lp::variable::UnsolvedProblem;
use good_lp::{
    Expression, ProblemVariables, Solution, SolutionStatus, SolverModel, Variable, WithInitialSolution,
    WithTimeLimit, constraint, variable,
};

use super::state::Decision;

/// Several decisions are solved at a time, each by one thread, until nothing better is possible.
#[cfg(feature = "highs")]
fn solver(problem: UnsolvedProblem) -> good_lp::solvers::highs::HighsProblem {
    let exact = [("mip_rel_gap", 0.0), ("mip_abs_gap", 0.0)];
    let model = good_lp::highs(problem).set_threads(1).set_parallel(HighsParallelType::Off);
    exact.into_iter().fold(model, |model, (option, value)| model.set_option(option, value))
}

#[cfg(not(feature = "highs"))]
fn solver(problem: UnsolvedProblem) -> good_lp::solvers::microlp::MicroLpProblem {
    good_lp::microlp(problem)
}

/// The admissions, as many as were made, that leave the least `G * max - sum` of the workers' costs; none
/// where the time did not suffice to prove it.
///
/// Slots and KV capacity are kept. Growth is not counted, and who is bound to a worker may go anywhere: what
/// is found is a bound from below for every rule.
pub(super) fn best(decision: &Decision, limit: Duration) -> Option<Vec<(u64, u32)>> {
    let state = &decision.state;
    let cost = |worker: usize| state.loads[worker].tokens as f64 * state.loads[worker].weight;
    let envelope = state.envelope_after(&[]);
    let mut variables = ProblemVariables::new();
    let pairs: Vec<Vec<Variable>> = state
        .waiting
        .iter()
        .map(|_| state.open.iter().map(|_| variables.add(variable().binary())).collect())
        .collect();
    // Tokens that the admissions add to an open worker.
    let added = |open: usize| -> Expression {
        state.waiting.iter().zip(&pairs).map(|(&(_, tokens), pairs)| f64::from(tokens) * pairs[open]).sum()
    };
    // By how much the envelope grows. The sum without admissions and `G` times the old envelope are given.
    let growth = variables.add(variable().min(0.0));
    let mut objective = state.loads.len() as f64 * growth;
    for (at, open) in state.open.iter().enumerate() {
        objective -= added(at) * state.loads[open.worker].weight;
    }
    let chosen = |id: u64, worker: usize| decision.admissions.contains(&(id, worker as u32));
    let mut start: Vec<(Variable, f64)> = Vec::new();
    for (&(id, _), pairs) in state.waiting.iter().zip(&pairs) {
        for (open, &pair) in state.open.iter().zip(pairs) {
            start.push((pair, f64::from(u8::from(chosen(id, open.worker)))));
        }
    }
    start.push((growth, (state.envelope_after(&decision.admissions) - envelope).max(0.0)));
    let mut model = variables.minimise(objective).using(solver);
    for (at, open) in state.open.iter().enumerate() {
        let weight = state.loads[open.worker].weight;
        model.add_constraint(constraint!(added(at) * weight - growth <= envelope - cost(open.worker)));
        let taken: Expression = pairs.iter().map(|pairs| pairs[at]).sum();
        model.add_constraint(constraint!(taken <= f64::from(open.slots)));
        if let Some(room) = open.room_tokens {
            model.add_constraint(constraint!(added(at) <= room as f64));
        }
    }
    for pairs in &pairs {
        let placed: Expression = pairs.iter().sum();
        model.add_constraint(constraint!(placed <= 1));
    }
    let all: Expression = pairs.iter().flatten().sum();
    model.add_constraint(constraint!(all == decision.admissions.len() as f64));
    let model = model.with_initial_solution(start).with_time_limit(limit.as_secs_f64());
    // A gap is what rounding leaves: none is asked for.
    let is_best = |status| matches!(status, SolutionStatus::Optimal | SolutionStatus::GapLimit);
    let solution = model.solve().ok().filter(|solution| is_best(solution.status()))?;
    let mut admissions = Vec::new();
    for (&(id, _), pairs) in state.waiting.iter().zip(&pairs) {
        for (open, &pair) in state.open.iter().zip(pairs) {
            if solution.value(pair) > 0.5 {
                admissions.push((id, open.worker as u32));
            }
        }
    }
    Some(admissions)
}
