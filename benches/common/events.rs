//! Events of a router with so many requests waiting: what `tests/instructions.sh` counts instructions of.
//!
//! `events KIND WAITING COUNT` lets so many requests wait and then lets so many events happen: `churn` (a new
//! request, one that is there already, an abort), `expire` (a step in which all have waited too long),
//! `remove` (the worker leaves that all wait for) or `never-fits` (a report after which none fits any more);
//! the last three happen once, or never for a COUNT of 0.

use std::hint::black_box;
use std::process::ExitCode;

use balanceroute::policy::Parameters;
use balanceroute::{Request, Router, RouterConfig, WorkerConfig, WorkerReport};

/// Spread over the range, and no two alike in a row.
fn length(id: u64) -> u32 {
    1 + (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 49) as u32
}

fn play(kind: &str, waiting: u64, count: u64) -> Result<usize, String> {
    let worker = WorkerConfig::new(8);
    let worker = if kind == "never-fits" { worker.capacity(100_000) } else { worker };
    let config = RouterConfig::uniform(8, worker).expire_after_ms(1_000);
    let mut router =
        Router::new(config, "level", &Parameters::default()).map_err(|error| error.to_string())?;
    for id in 0..waiting {
        let request = Request::new(id, length(id));
        let request = if kind == "remove" { request.bound_to(3) } else { request };
        router.enqueue(request, 0).map_err(|error| error.to_string())?;
    }
    let mut left = 0;
    match kind {
        "churn" => {
            for at in 0..count {
                let request = Request::new(waiting + at, length(waiting + at));
                router.enqueue(request, 0).map_err(|error| error.to_string())?;
                left += usize::from(router.enqueue(black_box(request), 0).is_err());
                // Old ones and new ones, so that as many wait as before.
                let gone = if at % 2 == 0 { at * 97 % waiting } else { waiting + at - 1 };
                left += usize::from(router.abort(gone, 0).is_ok());
            }
        }
        _ if count == 0 => {}
        "expire" => left = router.step(10_000).map_err(|error| error.to_string())?.returned.len(),
        "remove" => {
            let mut returned = Vec::new();
            router.remove_worker(3, &mut returned).map_err(|error| error.to_string())?;
            left = returned.len();
        }
        "never-fits" => {
            for worker in 0..8 {
                let report = WorkerReport::new(0, 0).capacity(1);
                router.report(worker, report, None).map_err(|error| error.to_string())?;
            }
            left = router.step(0).map_err(|error| error.to_string())?.returned.len();
        }
        _ => return Err(format!("expected churn, expire, remove or never-fits, found {kind}")),
    }
    Ok(left)
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let kind = arguments.next().unwrap_or_else(|| "churn".to_owned());
    let mut number = || arguments.next().and_then(|number| number.parse().ok()).unwrap_or(1_000);
    let (waiting, count) = (number(), number());
    match play(&kind, waiting, count) {
        Ok(left) => {
            println!("{left} left or were refused");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
