//! An engine's loop around the router: requests arrive, a step decides, every rank decodes, some end.

use balanceroute::policy::Parameters;
use balanceroute::{Request, Router, RouterConfig, WorkerConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Four ranks of eight slots; an admission leaves room for 64 tokens of growth each.
    let worker = WorkerConfig::new(8).capacity(20_000);
    let config = RouterConfig::uniform(4, worker).headroom_steps(64);
    let mut router = Router::new(config, "level", &Parameters::default())?;
    let (mut running, mut served, mut next_id) = (Vec::new(), 0, 0u64);
    for step in 0..1_000u64 {
        while next_id < 500 && router.pool().len() < 16 {
            next_id += 1;
            router.enqueue(Request::new(next_id, 50 + (next_id * 7919 % 1_500) as u32), None)?;
        }
        let plan = router.step(step * 50)?; // the clock in milliseconds
        for back in &plan.returned {
            println!("request {} came back: {}", back.id, back.reason);
        }
        for to in &plan.admissions {
            running.push((to.id, 10 + to.id.0 * 31 % 90)); // hand it to rank `to.worker` here
        }
        router.advance(); // the ranks decoded a token for every running request
        running.iter_mut().for_each(|(_, left)| *left -= 1);
        for (id, _) in running.extract_if(.., |(_, left)| *left == 0) {
            served += router.finish(id, None)?.generated_tokens;
        }
    }
    println!("{next_id} requests, {served} tokens, {} still there", router.pool().len() + running.len());
    Ok(())
}
