//! Steps out of results of `vllm bench serve --save-result --save-detailed`.
//!
//! Such a result has for each request when it was sent, how long its first token took and the gaps between
//! its tokens. An engine sends a token of every running request at the end of a step, so the gaps of one
//! request are the steps that it was in. One request at a time is followed from token to token, and where it
//! ends another that runs. For each of its gaps:
//!
//! - the time of the step is the median of the gaps of all requests that run in the middle of it, since what
//!   a client sees is late by a little now and then;
//! - these requests, and those whose first token comes at its end, were in the step: how many they are, and
//!   their prompts with the tokens that they had before, as the simulator counts them;
//! - the prompts of the latter were computed in it, or with a budget of tokens a step in it and just before.
//!
//! While nobody decodes no gap says how long a step takes, and there is none.

use std::collections::BinaryHeap;
use std::io::BufRead;

use serde::Deserialize;
use serde_json::Deserializer;

use super::{CalibrateError, Step};
use crate::traces::Failed;

/// By how much the number of tokens and that of the chunks that brought them may differ, as a share.
const CHUNK_TOLERANCE: f64 = 0.05;

/// One run of the load generator. All else that it holds is passed over as it is read.
#[derive(Debug, Deserialize)]
struct Results {
    input_lens: Option<Vec<f64>>,
    output_lens: Option<Vec<f64>>,
    start_times: Option<Vec<f64>>,
    ttfts: Option<Vec<f64>>,
    itls: Option<Vec<Vec<f64>>>,
    errors: Option<Vec<Failed>>,
}

/// What a file had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub requests: u64,
    pub failed: u64,
}

/// A request that generated at least a token; times in seconds from the first request that was sent.
#[derive(Clone, Debug)]
struct Served {
    prompt_tokens: f64,
    sent_s: f64,
    /// When each of its tokens came.
    tokens_s: Vec<f64>,
}

impl Served {
    fn first_s(&self) -> f64 {
        self.tokens_s[0]
    }

    fn last_s(&self) -> f64 {
        self.tokens_s[self.tokens_s.len() - 1]
    }
}

fn wrong(
    file: &str,
    what: impl Into<String>,
    expected: impl Into<String>,
    found: impl ToString,
) -> CalibrateError {
    let (what, expected) = (what.into(), expected.into());
    CalibrateError::Measurement { file: file.to_owned(), what, expected, found: found.to_string() }
}

/// Adds the steps of all runs of a file.
pub(super) fn read(
    reader: impl BufRead,
    file: &str,
    max_batched_tokens: Option<u32>,
    run: &mut u32,
    steps: &mut Vec<Step>,
) -> Result<Taken, CalibrateError> {
    let mut taken = Taken::default();
    for results in Deserializer::from_reader(reader).into_iter::<Results>() {
        let results = results.map_err(|error| {
            let expected = "the JSON of `vllm bench serve --save-result --save-detailed`";
            wrong(file, format!("line {}", error.line()), expected, error)
        })?;
        let served = results.served(file, &mut taken)?;
        steps_of(&served, max_batched_tokens, *run, steps);
        *run += 1;
    }
    Ok(taken)
}

/// A list that there must be.
fn list<T>(file: &str, what: &str, list: Option<Vec<T>>) -> Result<Vec<T>, CalibrateError> {
    let expected = match what {
        "start_times" => {
            "a list (older versions of vLLM and SGLang's bench_serving write none; `vllm bench serve` of \
             today can send to their servers)"
        }
        _ => "a list, as `vllm bench serve` writes it with --save-result --save-detailed",
    };
    list.ok_or_else(|| wrong(file, what, expected, "none"))
}

impl Results {
    fn served(self, file: &str, taken: &mut Taken) -> Result<Vec<Served>, CalibrateError> {
        let input_lens = list(file, "input_lens", self.input_lens)?;
        let output_lens = list(file, "output_lens", self.output_lens)?;
        let ttfts = list(file, "ttfts", self.ttfts)?;
        let itls = list(file, "itls", self.itls)?;
        let start_times = list(file, "start_times", self.start_times)?;
        let requests = input_lens.len();
        let errors = self.errors.unwrap_or_else(|| vec![Failed(false); requests]);
        for (what, found) in [
            ("output_lens", output_lens.len()),
            ("start_times", start_times.len()),
            ("ttfts", ttfts.len()),
            ("itls", itls.len()),
            ("errors", errors.len()),
        ] {
            if found != requests {
                return Err(wrong(file, what, format!("as many as input_lens ({requests})"), found));
            }
        }
        let start_s = start_times.iter().copied().fold(f64::INFINITY, f64::min);
        let mut served = Vec::new();
        for at in 0..requests {
            taken.requests += 1;
            if errors[at].0 || output_lens[at] == 0.0 {
                taken.failed += 1;
                continue;
            }
            for (what, list) in
                [("input_lens", &input_lens), ("output_lens", &output_lens), ("ttfts", &ttfts)]
            {
                if list[at] <= 0.0 {
                    return Err(wrong(file, format!("{what}[{at}]"), "a number above 0", list[at]));
                }
            }
            if let Some(gap_s) = itls[at].iter().find(|&&gap_s| gap_s < 0.0) {
                return Err(wrong(file, format!("itls[{at}]"), "seconds, not negative", gap_s));
            }
            let sent_s = start_times[at] - start_s;
            let first_s = sent_s + ttfts[at];
            let later = itls[at].iter().scan(first_s, |now_s, gap_s| {
                *now_s += gap_s;
                Some(*now_s)
            });
            let tokens_s = std::iter::once(first_s).chain(later).collect();
            served.push(Served { prompt_tokens: input_lens[at], sent_s, tokens_s });
        }
        let tokens: f64 =
            output_lens.iter().zip(&errors).filter(|(_, failed)| !failed.0).map(|(of, _)| of).sum();
        let chunks: usize = served.iter().map(|request| request.tokens_s.len()).sum();
        if (tokens - chunks as f64).abs() > CHUNK_TOLERANCE * chunks as f64 {
            let expected = format!("a gap between any two of {tokens} tokens, so that a gap is a step");
            let found = format!(
                "{chunks} chunks; a chunk has several tokens where the server decodes speculatively or has \
                 --stream-interval above 1"
            );
            return Err(wrong(file, "itls", expected, found));
        }
        Ok(served)
    }
}

/// A gap of the request that is followed.
#[derive(Clone, Copy, Debug)]
struct Gap {
    from_s: f64,
    to_s: f64,
}

impl Gap {
    fn middle_s(self) -> f64 {
        self.from_s.midpoint(self.to_s)
    }
}

/// The requests in order of their first tokens.
fn by_first_token(served: &[Served]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..served.len()).collect();
    order.sort_by(|&a, &b| served[a].first_s().total_cmp(&served[b].first_s()));
    order
}

/// All gaps in order of time.
fn gaps(served: &[Served], by_first: &[usize]) -> Vec<Gap> {
    // Who runs longest is followed, so that there are few changes. Bits of such times sort as they do.
    let mut running: BinaryHeap<(u64, usize)> = BinaryHeap::new();
    let mut coming = by_first.iter().copied().peekable();
    let (mut gaps, mut now_s, mut half_s) = (Vec::new(), f64::NEG_INFINITY, 0.0);
    loop {
        while let Some(at) = coming.next_if(|&at| served[at].first_s() <= now_s + half_s) {
            running.push((served[at].last_s().to_bits(), at));
        }
        let longest = running.peek().map(|&(_, at)| &served[at]);
        if let Some(Served { tokens_s, .. }) = longest.filter(|request| request.last_s() > now_s + half_s) {
            // Its token of the step whose end is now came up to half a step before or after.
            let from = tokens_s.partition_point(|&token_s| token_s < now_s - half_s);
            for pair in tokens_s[from..].windows(2).filter(|pair| pair[1] > pair[0]) {
                gaps.push(Gap { from_s: pair[0], to_s: pair[1] });
                half_s = (pair[1] - pair[0]) / 2.0;
            }
            now_s = tokens_s[tokens_s.len() - 1];
        } else {
            // Nobody decodes until the next first token.
            let Some(&next) = coming.peek() else { return gaps };
            (now_s, half_s) = (served[next].first_s(), 0.0);
        }
    }
}

fn median(values: &mut [f64]) -> Option<f64> {
    let middle = values.len() / 2;
    (middle < values.len()).then(|| *values.select_nth_unstable_by(middle, f64::total_cmp).1)
}

/// A prompt whose last tokens were computed in a step.
#[derive(Clone, Copy, Debug)]
struct Computed {
    tokens: f64,
    sent_s: f64,
    /// Among the gaps.
    step: usize,
}

/// Adds a step for each gap.
fn steps_of(served: &[Served], max_batched_tokens: Option<u32>, run: u32, steps: &mut Vec<Step>) {
    let by_first = by_first_token(served);
    let gaps = gaps(served, &by_first);
    let first_step = steps.len();
    // Request, and how many of its tokens have come.
    let mut running: Vec<(usize, usize)> = Vec::new();
    let (mut durations_s, mut prompts, mut came_first) = (Vec::new(), Vec::new(), 0);
    for (number, gap) in gaps.iter().enumerate() {
        let middle_s = gap.middle_s();
        while let Some(&at) = by_first.get(came_first).filter(|&&at| served[at].first_s() < middle_s) {
            running.push((at, 1));
            came_first += 1;
        }
        durations_s.clear();
        let mut step = Step { run, ..Step::default() };
        running.retain_mut(|(at, came)| {
            let Served { prompt_tokens, tokens_s, .. } = &served[*at];
            while tokens_s.get(*came).is_some_and(|&token_s| token_s < middle_s) {
                *came += 1;
            }
            let Some(next_s) = tokens_s.get(*came) else { return false };
            durations_s.push(next_s - tokens_s[*came - 1]);
            step.running += 1.0;
            step.kv_tokens += prompt_tokens + *came as f64;
            true
        });
        // First tokens of this step come about its end; later ones are of the next.
        let after_s = gap.to_s + (gap.to_s - middle_s);
        let until_s = gaps.get(number + 1).map_or(after_s, |next| after_s.min(next.middle_s()));
        for &at in by_first[came_first..].iter().take_while(|&&at| served[at].first_s() < until_s) {
            let Served { prompt_tokens, sent_s, .. } = served[at];
            step.running += 1.0;
            step.kv_tokens += prompt_tokens;
            prompts.push(Computed { tokens: prompt_tokens, sent_s, step: number });
        }
        step.ms = 1e3 * median(&mut durations_s).unwrap_or(gap.to_s - gap.from_s);
        steps.push(step);
    }
    compute(&prompts, &gaps, max_batched_tokens, &mut steps[first_step..]);
}

/// Puts the prompts into the steps that computed them. With a budget an engine begins with what is left of it
/// in a step, goes on with whole ones and ends with the rest: so a prompt goes back from its last step as far
/// as it must.
fn compute(prompts: &[Computed], gaps: &[Gap], max_batched_tokens: Option<u32>, steps: &mut [Step]) {
    let budget = max_batched_tokens.map_or(f64::INFINITY, f64::from);
    for &Computed { tokens, sent_s, step: last } in prompts {
        let left = |step: &Step| (budget - step.running - step.prefill_tokens).max(0.0);
        let (mut first, mut room) = (last, left(&steps[last]));
        // Not past where nobody decoded, nor to before it was sent.
        while room < tokens && first > 0 {
            let (before, gap) = (gaps[first - 1], gaps[first]);
            if before.to_s < gap.from_s - (gap.to_s - gap.from_s) / 2.0 || before.to_s < sent_s {
                break;
            }
            first -= 1;
            room += left(&steps[first]);
        }
        let mut rest = tokens;
        for step in &mut steps[first..=last] {
            let here = rest.min(left(step));
            step.prefill_tokens += here;
            rest -= here;
        }
    }
}
