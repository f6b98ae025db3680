//! Decides one step again and again: what `tests/instructions.sh` counts instructions of.
//!
//! `decisions POLICY COUNT [affinity]` prints the admissions of one decision and the instruction set's choice
//! is `BALANCEROUTE_ISA`'s.

#[path = "paired.rs"]
mod paired;
#[path = "step.rs"]
mod step;

use std::hint::black_box;
use std::process::ExitCode;

use balanceroute::Assignment;
use balanceroute::policy::{self, Parameters};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_else(|| "level".to_owned());
    let count: u32 = arguments.next().and_then(|count| count.parse().ok()).unwrap_or(1000);
    let mut policy = match policy::build(&name, &Parameters::default()) {
        Ok(policy) => policy,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    let (step, paired) = (step::Step::new(1, (512, 64, 8)), paired::Paired::new((512, 64, 0), 8, true));
    let batch = if arguments.next().as_deref() == Some("affinity") { paired.batch() } else { step.batch() };
    let mut out = Assignment::new();
    // Once more than asked for, so that the difference of two counts holds no first decision.
    for _ in 0..=count {
        policy.decide(black_box(&batch), &mut out);
    }
    println!("{} admissions", out.admitted.len());
    ExitCode::SUCCESS
}
