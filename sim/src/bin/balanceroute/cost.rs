//! The step law as flags.

use std::path::PathBuf;

use balanceroute_sim::{Prompts, SimError, StepCost};
use clap::Args;

use crate::choices;

/// The step law; without any of these flags the published one.
#[derive(Args, Clone)]
pub(crate) struct CostArgs {
    /// Step law of a machine, as `calibrate --out` writes it; the flags below go before its terms [default:
    /// the published law].
    #[arg(long, value_name = "FILE")]
    cost: Option<PathBuf>,
    /// Step time without load in ms [default: (0.6 B + 35) / 16].
    #[arg(long, value_name = "C", allow_negative_numbers = true)]
    step_base_ms: Option<f64>,
    /// Step time per running request of the slowest worker in microseconds [default: 0].
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    step_us_per_request: Option<f64>,
    /// Step time per KV token of the slowest worker in microseconds [default: 0.1005].
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    step_us_per_token: Option<f64>,
    /// Time per prompt token that is computed on the worker which a request enters, in microseconds; the
    /// worker with most of them holds up the step. With --affinity those that are not cached; without it
    /// those of preempted requests that return, and with --prompts worker of every request [default: 10 with
    /// --kv-capacity or --prompts worker, else 2].
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    prefill_us_per_token: Option<f64>,
    /// Where the prompt of a request is computed that enters for the first time: elsewhere (prefill nodes) or
    /// on the worker (one engine for both) [default: elsewhere].
    #[arg(long, value_name = "P", value_parser = choices::one_of::<Prompts>(|| vec!["elsewhere", "worker"]))]
    prompts: Option<Prompts>,
}

impl CostArgs {
    /// Whether what a slot, a request or a token costs is given.
    pub(crate) fn is_given(&self) -> bool {
        let terms = [self.step_base_ms, self.step_us_per_request, self.step_us_per_token];
        self.cost.is_some() || terms.iter().any(Option::is_some)
    }

    /// The law of workers with so many slots.
    pub(crate) fn law(&self, slots: u32) -> Result<StepCost, SimError> {
        let law = match &self.cost {
            Some(path) => StepCost::read(path)?,
            None => StepCost::published(slots),
        };
        Ok(StepCost {
            base_ms: self.step_base_ms.unwrap_or(law.base_ms),
            us_per_request: self.step_us_per_request.unwrap_or(law.us_per_request),
            us_per_token: self.step_us_per_token.unwrap_or(law.us_per_token),
            prefill_us_per_token: self.prefill_us_per_token.or(law.prefill_us_per_token),
            prompts: self.prompts.unwrap_or(law.prompts),
        })
    }
}
