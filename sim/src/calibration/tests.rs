use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp, LogNormal, Normal};
use serde_json::{Value, json};

use super::*;

/// One engine under Poisson arrivals, seen by a client. The law is written out here once more.
struct Engine {
    base_ms: f64,
    us_per_request: f64,
    us_per_kv_token: f64,
    us_per_prompt_token: f64,
    /// Standard deviation of a factor on each step, and the share of the steps that pause.
    noise: f64,
    pauses: f64,
    /// By how much a token comes late at the client, on average.
    late_ms: f64,
    max_batched_tokens: u32,
    slots: usize,
}

const MACHINE: Engine = Engine {
    base_ms: 12.0,
    us_per_request: 150.0,
    us_per_kv_token: 0.08,
    us_per_prompt_token: 9.0,
    noise: 0.05,
    pauses: 0.02,
    late_ms: 0.1,
    max_batched_tokens: u32::MAX,
    slots: 256,
};

struct Sent {
    at_ms: f64,
    prompt: u32,
    output: u32,
    computed: u32,
    tokens_ms: Vec<f64>,
}

impl Engine {
    /// The result of `vllm bench serve` for so many requests a second.
    fn serve(&self, per_second: f64, requests: usize, prompt: f64, seed: u64) -> Value {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let gaps = Exp::new(per_second / 1e3).expect("a rate");
        let prompts = LogNormal::new(prompt.ln(), 0.7).expect("lengths");
        let outputs = LogNormal::new(200f64.ln(), 0.6).expect("lengths");
        let factor = Normal::new(1.0, self.noise).expect("noise");
        let late = Exp::new(1.0 / self.late_ms.max(1e-9)).expect("a rate");
        let mut at_ms = 0.0;
        let mut sent: Vec<Sent> = (0..requests)
            .map(|_| {
                at_ms += gaps.sample(&mut rng);
                Sent {
                    at_ms,
                    prompt: prompts.sample(&mut rng).ceil().min(20_000.0) as u32,
                    output: outputs.sample(&mut rng).ceil().min(4_000.0) as u32,
                    computed: 0,
                    tokens_ms: Vec::new(),
                }
            })
            .collect();
        let (mut now_ms, mut next, mut running): (f64, usize, Vec<usize>) = (0.0, 0, Vec::new());
        while next < sent.len() || !running.is_empty() {
            if running.is_empty() {
                now_ms = now_ms.max(sent[next].at_ms);
            }
            while next < sent.len() && sent[next].at_ms <= now_ms && running.len() < self.slots {
                running.push(next);
                next += 1;
            }
            let decodes = running.iter().filter(|&&at| !sent[at].tokens_ms.is_empty()).count() as u32;
            let mut budget = self.max_batched_tokens - decodes;
            let (mut served, mut kv_tokens, mut prompt_tokens) = (Vec::new(), 0.0, 0.0);
            for &at in &running {
                let request = &mut sent[at];
                let part = (request.prompt - request.computed).min(budget);
                (request.computed, budget) = (request.computed + part, budget - part);
                prompt_tokens += f64::from(part);
                if request.computed == request.prompt {
                    kv_tokens += f64::from(request.prompt) + request.tokens_ms.len() as f64;
                    served.push(at);
                }
            }
            let us = self.us_per_request * served.len() as f64
                + self.us_per_kv_token * kv_tokens
                + self.us_per_prompt_token * prompt_tokens;
            let pause = if rng.random_bool(self.pauses) { rng.random_range(2.0..8.0) } else { 1.0 };
            now_ms += (self.base_ms + us / 1e3) * factor.sample(&mut rng) * pause;
            for at in served {
                let late_ms = if self.late_ms > 0.0 { late.sample(&mut rng) } else { 0.0 };
                let request = &mut sent[at];
                // Nothing overtakes what was sent before.
                let before_ms = request.tokens_ms.last().copied().unwrap_or(0.0);
                request.tokens_ms.push((now_ms + late_ms).max(before_ms));
            }
            running.retain(|&at| sent[at].tokens_ms.len() < sent[at].output as usize);
        }
        let list = |of: &dyn Fn(&Sent) -> Value| sent.iter().map(of).collect::<Vec<_>>();
        json!({
            "date": "20261101-101010", "endpoint_type": "vllm", "request_rate": per_second, "burstiness": 1.0,
            "duration": now_ms / 1e3, "completed": requests, "mean_ttft_ms": 60.0,
            "input_lens": list(&|one| one.prompt.into()),
            "output_lens": list(&|one| one.output.into()),
            "start_times": list(&|one| (71_000.0 + one.at_ms / 1e3).into()),
            "ttfts": list(&|one| ((one.tokens_ms[0] - one.at_ms) / 1e3).into()),
            "itls": list(&|one| one.tokens_ms.windows(2).map(|pair| (pair[1] - pair[0]) / 1e3).collect()),
            "generated_texts": list(&|_| "a".into()),
            "errors": list(&|_| "".into()),
        })
    }
}

fn try_measured(results: &[Value], max_batched_tokens: Option<u32>) -> Result<Measurements, CalibrateError> {
    let mut measurements = Measurements::default();
    for result in results {
        let text = result.to_string();
        measurements.read_text(text.as_bytes(), "bench.json".to_owned(), max_batched_tokens)?;
    }
    Ok(measurements)
}

fn calibrated(results: &[Value], max_batched_tokens: Option<u32>) -> Calibration {
    try_measured(results, max_batched_tokens).and_then(Measurements::calibrate).expect("a law")
}

fn refused(results: &[Value]) -> CalibrateError {
    try_measured(results, None).and_then(Measurements::calibrate).expect_err("no law")
}

fn table(text: &str) -> Result<Calibration, CalibrateError> {
    let mut measurements = Measurements::default();
    measurements.read_text(text.as_bytes(), "steps.csv".to_owned(), None)?;
    measurements.calibrate()
}

/// By how much each term is off, as a share.
fn off(law: &StepCost, engine: &Engine) -> [f64; 4] {
    [
        law.base_ms / engine.base_ms - 1.0,
        law.us_per_request / engine.us_per_request - 1.0,
        law.us_per_token / engine.us_per_kv_token - 1.0,
        law.prefill_us_per_token.expect("prompts were computed") / engine.us_per_prompt_token - 1.0,
    ]
}

fn assert_within(law: &StepCost, engine: &Engine, most: f64) {
    let off = off(law, engine);
    assert!(off.iter().all(|share| share.abs() <= most), "{off:?}");
}

/// Four rates, a minute each, with short and long prompts in turn.
fn four_rates(engine: &Engine, seed: u64) -> Vec<Value> {
    let runs = [(3.0, 3_000.0), (6.0, 300.0), (9.0, 3_000.0), (18.0, 300.0)];
    let serve = |(at, (rate, prompt)): (u64, (f64, f64))| {
        engine.serve(rate, (60.0 * rate) as usize, prompt, 100 * seed + at)
    };
    (0..).zip(runs).map(serve).collect()
}

const NOISELESS: Engine = Engine { noise: 0.0, pauses: 0.0, late_ms: 0.0, ..MACHINE };

#[test]
fn noisy_results_at_four_rates_give_the_law_within_two_per_cent() {
    for seed in 0..5 {
        let calibration = calibrated(&four_rates(&MACHINE, seed), None);
        assert_within(&calibration.law, &MACHINE, 0.02);
        assert!((0.045..0.056).contains(&calibration.residual_sd), "{}", calibration.residual_sd);
        assert!((0.01..0.03).contains(&calibration.beyond_3_sd), "{}", calibration.beyond_3_sd);
        assert!(calibration.condition < 5.0 && calibration.explained > 0.9);
        // The errors are as large as they say: a term is off by no more than a few of them.
        for (term, share) in calibration.terms.iter().zip(off(&calibration.law, &MACHINE)) {
            assert!(term.error > 0.0 && term.error / term.value < 0.02, "{term:?}");
            assert!(share.abs() < 3.0 * term.error / term.value + 0.005, "{share} {term:?}");
        }
        let shares: f64 = calibration.terms.iter().map(|term| term.mean_ms).sum();
        // What pauses add is in no term.
        assert!((0.85..1.0).contains(&(shares / calibration.mean_ms)), "{shares} {}", calibration.mean_ms);
        assert_eq!(calibration.law.prompts, Prompts::Worker);
    }
}

#[test]
fn without_noise_the_steps_are_those_of_the_engine() {
    let calibration = calibrated(&four_rates(&NOISELESS, 1), None);
    assert_within(&calibration.law, &NOISELESS, 1e-4);
    assert!(calibration.residual_sd < 1e-6, "{}", calibration.residual_sd);
}

#[test]
fn prompts_over_several_steps_need_the_budget() {
    let engine = Engine { max_batched_tokens: 2_048, ..MACHINE };
    let results = four_rates(&engine, 2);
    let with = calibrated(&results, Some(2_048));
    assert_within(&with.law, &engine, 0.03);
    assert!(with.warnings().is_empty(), "{:?}", with.warnings());
    let without = calibrated(&results, None);
    assert!(off(&without.law, &engine)[3] < -0.1, "{:?}", without.law);
    assert!(without.warnings()[0].contains("--max-batched-tokens"), "{:?}", without.warnings());
}

#[test]
fn two_requests_by_hand() {
    // The first begins at 1,000.0 s and has its tokens at 0.5, 0.6, 0.8, 0.9 and 2.0 s, the second at 0.8,
    // 0.9. The third comes when nobody runs, so that no gap tells how long its first step was.
    let result = json!({
        "input_lens": [100, 50, 30], "output_lens": [5, 2, 2], "start_times": [1000.0, 1000.55, 1004.0],
        "ttfts": [0.5, 0.25, 0.1], "itls": [[0.1, 0.2, 0.1, 1.1], [0.1], [0.3]], "errors": ["", "", ""],
    });
    let step = |ms, running, kv_tokens, prefill_tokens| [ms, running, kv_tokens, prefill_tokens];
    let expected = [
        step(100.0, 1.0, 101.0, 0.0),
        step(200.0, 2.0, 102.0 + 50.0, 50.0),
        step(100.0, 2.0, 103.0 + 51.0, 0.0),
        step(1_100.0, 1.0, 104.0, 0.0),
        step(300.0, 1.0, 31.0, 0.0),
    ];
    let steps = try_measured(std::slice::from_ref(&result), None).expect("a result").steps;
    assert_eq!(steps.len(), expected.len(), "{steps:?}");
    for (step, expected) in steps.iter().zip(expected) {
        let found = [step.ms, step.running, step.kv_tokens, step.prefill_tokens];
        for (found, expected) in found.into_iter().zip(expected) {
            approx::assert_abs_diff_eq!(found, expected, epsilon = 1e-6);
        }
    }
    // Of 32 tokens a step, the second one's prompt takes what was left in the step before it was sent last.
    let steps = try_measured(&[result], Some(32)).expect("a result").steps;
    let prefill: Vec<f64> = steps.iter().map(|step| step.prefill_tokens).collect();
    assert_eq!(prefill, [31.0, 19.0, 0.0, 0.0, 0.0]);
}

#[test]
fn a_table_of_steps_gives_the_law() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let rows: Vec<(f64, u32, u32, u32)> = (0..4_000)
        .map(|_| {
            let (running, length) = (rng.random_range(1..100), rng.random_range(200..4_000));
            let (kv_tokens, prefill) =
                (running * length, if rng.random_bool(0.1) { rng.random_range(1..4_000) } else { 0 });
            let us = 12_000.0
                + 150.0 * f64::from(running)
                + 0.08 * f64::from(kv_tokens)
                + 9.0 * f64::from(prefill);
            (us * rng.random_range(0.95..1.05), running, kv_tokens, prefill)
        })
        .collect();
    let text = |head: &str, row: &dyn Fn(&(f64, u32, u32, u32)) -> String| {
        format!("{head}\n{}", rows.iter().map(row).collect::<String>())
    };
    let plain = text("step_us,running,kv_tokens,prefill_tokens", &|(us, running, kv_tokens, prefill)| {
        format!("{us},{running},{kv_tokens},{prefill}\n")
    });
    let first = table(&plain).expect("a law");
    assert_within(&first.law, &MACHINE, 0.01);
    // Other units, separators, places and columns beside; without prefill the steps that have some are late.
    let other =
        text("gpu;running;prefill_tokens; kv_tokens;step_ms", &|(us, running, kv_tokens, prefill)| {
            format!("a100;{running};{prefill};{kv_tokens};{}\n", us / 1e3)
        });
    assert_eq!(table(&other).expect("a law").law, first.law);
    let without = text("step_s,running,kv_tokens", &|(us, running, kv_tokens, _)| {
        format!("{},{running},{kv_tokens}\n", us / 1e6)
    });
    let law = table(&without).expect("a law").law;
    assert_eq!((law.prefill_us_per_token, law.prompts), (None, Prompts::Elsewhere));
    assert!((law.us_per_token / 0.08 - 1.0).abs() < 0.02, "{law:?}");

    for (text, words) in [
        ("step_ms,running\n3,1\n", "kv_tokens"),
        ("step_ms,running,kv_tokens\n3,1,90\n3,x,90\n", "line 3: running: expected a number"),
        ("step_ms,running,kv_tokens\n3,1,90\n0,1,90\n", "line 3: step_ms: expected a number above 0"),
        ("step_ms,running,kv_tokens\n3,1,90\n3,1\n", "line 3"),
        ("step_ms,running,kv_tokens\n3,1,-90\n", "not negative"),
        ("step_ms,running,kv_tokens\n3,1,90\n", "at least 200"),
        ("", "a CSV of steps"),
    ] {
        let error = table(text).expect_err("refused").to_string();
        assert!(error.contains(words) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn one_rate_and_one_mix_are_refused() {
    for (rate, seconds) in [(1.0, 400.0), (4.0, 100.0), (18.0, 60.0), (40.0, 30.0)] {
        let one = [MACHINE.serve(rate, (rate * seconds) as usize, 800.0, 7)];
        let error = refused(&one);
        assert!(
            matches!(
                error,
                CalibrateError::OnePoint { .. }
                    | CalibrateError::NotSeparable { .. }
                    | CalibrateError::Negative { .. }
            ),
            "{rate}: {error}"
        );
        let text = error.to_string();
        assert!(text.contains("--request-rate"), "{text}");
    }
    // Three times the one rate are no other.
    let again = [1, 2, 3].map(|seed| MACHINE.serve(4.0, 400, 800.0, seed));
    assert!(matches!(refused(&again), CalibrateError::OnePoint { .. }));
    // Two rates of one mix are enough, and so is a rate that rises.
    let two = [3.0, 12.0].map(|rate| MACHINE.serve(rate, (100.0 * rate) as usize, 800.0, 9));
    calibrated(&two, None);
}

#[test]
fn load_that_does_not_explain_time_is_refused() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let rows: String = (0..2_000)
        .map(|_| {
            let running = rng.random_range(1..100);
            let kv_tokens = running * rng.random_range(200..4_000);
            format!("{},{running},{kv_tokens}\n", rng.random_range(10.0..20.0))
        })
        .collect();
    let error = table(&format!("step_ms,running,kv_tokens\n{rows}")).expect_err("refused");
    assert!(matches!(error, CalibrateError::Unexplained { explained } if explained.abs() < 0.1), "{error}");
}

#[test]
fn columns_that_cannot_be_told_apart_are_refused() {
    // Every request has 1,000 tokens.
    let rows = |tokens: fn(u32) -> u32| -> String {
        (0..2_000u32)
            .map(|at| (at, 1 + at * 37 % 90))
            .map(|(at, running)| {
                let kv_tokens = running * tokens(at);
                let ms = 10.0 + 0.05 * f64::from(running) + 1e-4 * f64::from(kv_tokens);
                format!("{},{running},{kv_tokens}\n", ms * (1.0 + 0.03 * f64::from(at % 7) - 0.09))
            })
            .collect()
    };
    let error = table(&format!("step_ms,running,kv_tokens\n{}", rows(|_| 1_000))).expect_err("refused");
    assert!(matches!(error, CalibrateError::NotSeparable { .. }), "{error}");
    let apart = table(&format!("step_ms,running,kv_tokens\n{}", rows(|at| 500 + 1_000 * (at % 2))));
    assert!(apart.expect("a law").condition < 20.0);
}

#[test]
fn a_term_below_nothing_is_refused_or_left_out() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut rows = |us_per_request: f64| -> String {
        (0..4_000)
            .map(|_| {
                let running = rng.random_range(1..100);
                let kv_tokens = running * rng.random_range(200..4_000);
                let us = 12_000.0 + us_per_request * f64::from(running) + 0.2 * f64::from(kv_tokens);
                format!("{},{running},{kv_tokens}\n", us * rng.random_range(0.9..1.1))
            })
            .collect()
    };
    let head = "step_us,running,kv_tokens\n";
    let error = table(&format!("{head}{}", rows(-90.0))).expect_err("refused");
    assert!(
        matches!(&error, CalibrateError::Negative { term }
            if term.term == Term::Request && term.value < -60.0),
        "{error}"
    );
    // None at all comes out as a little above or below, and below is none.
    let none: Vec<f64> =
        (0..8).map(|_| table(&format!("{head}{}", rows(0.0))).expect("a law").law.us_per_request).collect();
    assert!(none.contains(&0.0) && none.iter().all(|&us| (0.0..5.0).contains(&us)), "{none:?}");
}

#[test]
fn results_of_other_layouts_are_refused_with_a_reason() {
    let result = MACHINE.serve(4.0, 60, 300.0, 1);
    let without = |key: &str| {
        let mut result = result.clone();
        result.as_object_mut().expect("an object").remove(key);
        result
    };
    let with = |key: &str, value: Value| {
        let mut result = result.clone();
        result[key] = value;
        result
    };
    let mut gap = result["itls"].clone();
    gap[3][0] = (-0.5).into();
    for (result, words) in [
        // As SGLang's bench_serving writes it.
        (without("start_times"), "vllm bench serve"),
        (without("itls"), "--save-detailed"),
        (without("ttfts"), "ttfts: expected"),
        (with("ttfts", json!([0.1])), "as many as input_lens (60), found 1"),
        (with("itls", gap), "itls[3]: expected seconds, not negative, found -0.5"),
        (with("input_lens", json!(vec![0; 60])), "input_lens[0]: expected a number above 0"),
        // Four tokens a chunk.
        (with("output_lens", json!(vec![900; 60])), "--stream-interval"),
        (json!({"timestamp": 0, "input_length": 9, "output_length": 5}), "input_lens: expected"),
        (json!([1, 2]), "measurements: expected the JSON"),
    ] {
        let error = refused(&[result]).to_string();
        assert!(
            error.starts_with("bench.json: ") && error.contains(words) && !error.contains('\n'),
            "{error}"
        );
    }
    let mut half = result.to_string();
    half.truncate(900);
    let mut measurements = Measurements::default();
    let error = measurements.read_text(half.as_bytes(), "half.json".to_owned(), None).expect_err("refused");
    assert!(error.to_string().contains("line 1"), "{error}");
}

#[test]
fn failed_requests_are_counted_and_runs_may_share_a_file() {
    let mut results = four_rates(&MACHINE, 3);
    // As vLLM writes a request that failed.
    for (key, value) in [
        ("errors", json!("Bad Request")),
        ("output_lens", json!(0)),
        ("ttfts", json!(0.0)),
        ("itls", json!([])),
    ] {
        results[1][key][5] = value;
    }
    let calibration = calibrated(&results, None);
    assert_within(&calibration.law, &MACHINE, 0.02);
    assert!(
        calibration.warnings()[0].starts_with("1 of 2160 requests failed"),
        "{:?}",
        calibration.warnings()
    );
    assert_eq!((calibration.files[1].failed, calibration.files[1].requests), (1, 360));
    // --append-result: a run a line, each with a clock of its own.
    let lines: String = results.iter().map(|result| format!("{result}\n")).collect();
    let mut measurements = Measurements::default();
    measurements.read_text(lines.as_bytes(), "all.jsonl".to_owned(), None).expect("results");
    assert_eq!(measurements.runs, 4);
    assert_eq!(measurements.calibrate().expect("a law").law, calibration.law);
}

#[test]
fn the_file_is_the_law_and_says_where_it_is_from() {
    let calibration = calibrated(&four_rates(&MACHINE, 4), None);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("gpu.toml");
    std::fs::write(&path, calibration.toml().expect("text")).expect("writable");
    assert_eq!(StepCost::read(&path).expect("a law"), calibration.law);
    let text = std::fs::read_to_string(&path).expect("text");
    assert!(text.contains("# per KV token: 0.0") && text.contains("condition number"), "{text}");
    assert_eq!(four_digits(0.080_123_4), 0.080_12);
}
