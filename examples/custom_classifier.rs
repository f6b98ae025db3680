//! A forecast of one's own for `brh-survival`, through the router: `cargo run --example custom_classifier`.
//!
//! `brh-*` look ahead along projected loads, and a load falls where a running request is predicted to end.
//! Whoever knows more of that than how outputs are distributed on the whole implements
//! [`TerminationClassifier`].

use std::error::Error;

use balanceroute::forecast::{Running, Survival, Termination, TerminationClassifier};
use balanceroute::policy::{self, Parameters};
use balanceroute::{Request, Router, RouterConfig};

/// Learns the mean output of short, middling and long prompts, and predicts it for every request of that
/// kind.
#[derive(Default)]
struct ByPromptLength {
    kinds: [(u64, u64); 3],
}

fn kind(prompt_tokens: u32) -> usize {
    (prompt_tokens as usize / 400).min(2)
}

impl TerminationClassifier for ByPromptLength {
    fn predict(&mut self, request: &Running, horizon_steps: u32) -> Termination {
        let (count, tokens) = self.kinds[kind(request.prompt_tokens)];
        let mean = tokens as f64 / count as f64;
        let left = (mean - f64::from(request.generated_tokens)).max(1.0);
        if count == 0 || left > f64::from(horizon_steps) {
            return Termination::NEVER;
        }
        Termination { probability: 1.0, remaining_steps: left }
    }

    fn finished(&mut self, request: &Running) {
        let (count, tokens) = &mut self.kinds[kind(request.prompt_tokens)];
        (*count, *tokens) = (*count + 1, *tokens + u64::from(request.generated_tokens));
    }
}

/// The mean imbalance of a step under `brh-survival`, in tokens, with a classifier: eight ranks of 16 slots,
/// and outputs that are the longer the longer the prompt.
fn mean_imbalance(classifier: Box<dyn TerminationClassifier>) -> Result<f64, Box<dyn Error>> {
    let policy = policy::build("brh-survival", &Parameters::new())?;
    let mut router = Router::with_policy(RouterConfig::new(8, 16), policy, Some(classifier))?;
    let (mut running, mut next_id, mut sum, mut steps) = (Vec::new(), 0u64, 0.0, 0u32);
    for step in 0..4_000u64 {
        while router.pool().len() < 48 {
            next_id += 1;
            router.enqueue(Request::new(next_id, 20 + (next_id * 7919 % 1_180) as u32), None)?;
        }
        let plan = router.step(step * 50)?;
        if step >= 1_000 {
            (sum, steps) = (sum + plan.after.imbalance_tokens, steps + 1);
        }
        for to in &plan.admissions {
            let output = [100, 200, 400][kind(to.prompt_tokens)] + to.id * 104_729 % 11;
            running.push((to.id, output));
        }
        router.advance();
        running.iter_mut().for_each(|(_, left)| *left -= 1);
        for (id, _) in running.extract_if(.., |(_, left)| *left == 0) {
            router.finish(id, None)?;
        }
    }
    Ok(sum / f64::from(steps))
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let own = mean_imbalance(Box::new(ByPromptLength::default()))?;
    let survival = mean_imbalance(Box::new(Survival::new()))?;
    println!("mean imbalance in tokens: by prompt length {own:.0}, survival {survival:.0}");
    assert!(own < survival, "who knows more balances better");
    Ok(())
}
