//! A rule of one's own, run on the engine that runs the policies of this crate: `cargo run --example
//! custom_policy`.
//!
//! A rule says in which order workers choose and what a length is worth to each. The engine finds the best
//! request, the oracle scores everybody and must come to the same picks.

use std::error::Error;

use balanceroute::policy::{self, Order, Parameters, Plan, Rule, View};
use balanceroute::score::{Age, Knot, Profile};
use balanceroute::{Batch, Policy, Request, Router, RouterConfig};

/// Fill up: the least-loaded worker takes the request that brings it closest to the most loaded one. A token
/// short costs as much as a token past it, and a step of waiting is worth two tokens.
struct FillUp;

impl Rule for FillUp {
    fn begin(&mut self, _batch: &Batch<'_>, _load_offsets: &mut Vec<i64>) -> Plan {
        Plan::new().order(Order::LeastLoaded).age(Age { linear: 2.0, quadratic: 0.0 })
    }

    /// `s - 2 * max(0, s - margin)`: it rises up to the margin and falls past it.
    fn profile(&self, view: &View<'_>, _class: Option<&[f32]>, profile: &mut Profile) {
        profile.slope = 1;
        profile.knots.push(Knot { at_tokens: view.envelope - view.cost, weight: 2 });
    }
}

/// What a policy makes of 400 steps of eight ranks with 16 slots each: the mean imbalance of a step, in
/// tokens. A pool of 64 is kept full; prompts and outputs are drawn from two sequences that repeat in every
/// run.
fn mean_imbalance(mut made: impl FnMut() -> Box<dyn Policy>) -> Result<f64, Box<dyn Error>> {
    let mut routers = Vec::new();
    for _ in 0..2 {
        routers.push(Router::with_policy(RouterConfig::new(8, 16), made(), None)?);
    }
    let (mut running, mut next_id, mut sum) = (Vec::new(), 0u64, 0.0);
    for step in 0..400u64 {
        while routers[0].pool().len() < 64 {
            next_id += 1;
            let request = Request::new(next_id, 20 + (next_id * 7919 % 1_900) as u32);
            routers.iter_mut().try_for_each(|router| router.enqueue(request, None))?;
        }
        // The second router decides the step by the oracle.
        let expected = routers[1].step_by_reference(step * 50)?.clone();
        let plan = routers[0].step(step * 50)?;
        assert_eq!(*plan, expected, "the engine and the oracle differ in step {step}");
        sum += plan.after.imbalance_tokens;
        running.extend(plan.admissions.iter().map(|to| (to.id, 5 + to.id * 104_729 % 90)));
        routers.iter_mut().for_each(Router::advance);
        running.iter_mut().for_each(|(_, left)| *left -= 1);
        for (id, _) in running.extract_if(.., |(_, left)| *left == 0) {
            for router in &mut routers {
                router.finish(id, None)?;
            }
        }
    }
    Ok(sum / 400.0)
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let parameters = Parameters::new();
    let fill_up = mean_imbalance(|| policy::from_rule("fill-up", FillUp, &parameters).expect("valid"))?;
    let named = |name| mean_imbalance(|| policy::build(name, &parameters).expect("a policy"));
    let (level, least_kv) = (named("level")?, named("least-kv")?);
    println!("mean imbalance in tokens: fill-up {fill_up:.0}, level {level:.0}, least-kv {least_kv:.0}");
    assert!(level < least_kv && fill_up < least_kv, "lengths are worth a look");
    Ok(())
}
