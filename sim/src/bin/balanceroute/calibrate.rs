//! `calibrate`: the step law of a machine out of what was measured on it.

use std::path::PathBuf;

use balanceroute_sim::calibration::{Calibration, Measurements};
use balanceroute_sim::report::json::JsonFile;
use balanceroute_sim::report::page::Style;
use balanceroute_sim::{SimError, evaluation, report};
use clap::Args;
use serde::Serialize;

use crate::output::OutputArgs;
use crate::tell;

const EXAMPLES: &str = "\
A step takes base + a per running request + b per KV token + p per prompt token. Measure one engine (data \
parallel size 1, no speculative decoding, prefix caching off or distinct prompts) at two rates or more, and \
two mixes of lengths:

  for rate in 2 4 8 16; do for input in 512 4096; do
    vllm bench serve --model MODEL --dataset-name random --random-input-len $input --random-range-ratio 0.8 \\
      --request-rate $rate --num-prompts $((60 * rate)) --ignore-eos \\
      --save-result --save-detailed --result-filename $rate-$input.json
  done; done
  balanceroute calibrate *-512.json *-4096.json --max-batched-tokens 8192 --out gpu.toml --plot fit.svg
  balanceroute simulate --trace TRACE --cost gpu.toml

or give a CSV of the engine's own steps, with the columns step_ms, running, kv_tokens, prefill_tokens.

Exit status: 2 where the measurements make no law: it says why, and what to measure.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CalibrateArgs {
    /// Results of `vllm bench serve --save-result --save-detailed` (seconds), or tables of steps: CSV with
    /// step_ms (or step_us, step_s), running requests, kv_tokens and prefill_tokens; also in gzip or zstd; -
    /// is standard input.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Tokens that the engine computes in a step at most (vLLM: max_num_batched_tokens, SGLang:
    /// chunked_prefill_size), where prompts are longer than that: they take several steps then [default: no
    /// limit].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_batched_tokens: Option<u32>,
    /// Write the step law to this file, for `simulate --cost`; - is standard output, in place of the text.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Draw measured against fitted times, and the residuals, to this file, as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Write terms, errors and residuals to this file; - is standard output, in place of the text.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// What is in the JSON.
#[derive(Serialize)]
struct Calibrated<'a> {
    version: &'static str,
    max_batched_tokens: Option<u32>,
    calibration: &'a Calibration,
}

pub(crate) fn run(args: &CalibrateArgs) -> Result<(), SimError> {
    let create = |path: &Option<PathBuf>| path.as_deref().map(JsonFile::create).transpose();
    let (out, plot, json) = (create(&args.out)?, create(&args.plot)?, create(&args.json)?);
    let to_stdout = [&out, &plot, &json].map(|file| file.as_ref().is_some_and(JsonFile::is_stdout));
    if to_stdout.iter().filter(|&&is| is).count() > 1 {
        let expected = "a file for all but one of --out, --plot and --json".to_owned();
        return Err(SimError::Argument { name: "out", expected, found: "-".to_owned() });
    }
    args.output.check(json.as_ref(), to_stdout[0] || to_stdout[1])?;
    let mut measurements = Measurements::default();
    for file in &args.files {
        measurements.read(file, args.max_batched_tokens)?;
    }
    let calibration = measurements.calibrate()?;
    calibration.warnings().iter().for_each(|warning| tell(format_args!("warning: {warning}")));
    let law = calibration.toml()?;
    if let Some(plot) = plot {
        let document = evaluation::residuals::svg(&calibration)?;
        plot.write_with(|out| out.write_all(document.as_bytes()))?.publish()?;
    }
    if let Some(out) = out {
        out.write_with(|out| out.write_all(law.as_bytes()))?.publish()?;
    }
    let version = env!("CARGO_PKG_VERSION");
    let max_batched_tokens = args.max_batched_tokens;
    let document = Calibrated { version, max_batched_tokens, calibration: &calibration };
    if to_stdout.contains(&true) {
        return json.map_or(Ok(()), |json| json.write(&document)?.publish());
    }
    let page = |_: Style, _: bool| report::calibration_page(&calibration).text(law.as_str());
    args.output.hand_over(json, &document, page, || calibration.terms.clone(), &["term", "value", "error"])
}
