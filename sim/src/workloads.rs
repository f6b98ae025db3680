//! Built-in workloads: where the lengths of requests come from when no trace is given.
//!
//! Lengths are drawn from a ChaCha8 stream of the run's seed, so a workload is the same on every machine and
//! under every policy.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Geometric, LogNormal, StandardNormal};

use crate::error::SimError;
use crate::job::Job;
use crate::names::most_like;

/// A built-in workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Workload {
    /// The default of the BF-IO authors' code, with the means of the paper's proprietary trace: bivariate
    /// normal, prompt ~ N(3200, 2600), output ~ N(1200, 700), correlation -0.1, redrawn until both are at
    /// least 1.
    PaperProd,
    /// Stands for the week of Azure's 2024 trace cut to outputs above 1000 tokens, which is not public in
    /// that form. Prompts are lognormal with mean 4652 and sigma 0.22; outputs are 1000 plus a geometric
    /// length of mean 52 (the cut leaves a memoryless tail). Only the two means are published; the sigma is
    /// our choice.
    PaperAzure,
    /// Prompts lognormal with median 2000 and sigma 0.5 (mean 2266), outputs lognormal with median 200 and
    /// sigma 0.6 (mean 239).
    Lognormal,
    /// Prompts of `paper-prod`, outputs geometric with mean 1200: the age of a request says nothing about its
    /// end.
    Geometric,
    /// Recurring prompts: each request is one of 512 prompts with lengths as in `paper-prod`; its output is
    /// the prompt's own length times a lognormal factor of sigma 0.005 (nearly deterministic decoding). What
    /// a forecast by prompt hash can gain.
    Repeats,
    /// A heavy tail with short outputs in the manner of Mooncake's traces: prompts lognormal with median 6000
    /// and sigma 1.2, at most 128,000 (mean about 12,000), outputs lognormal with median 100 and sigma 0.9
    /// (mean 150).
    MooncakeLike,
    /// Outputs of reasoning models, far above their prompts: prompts lognormal with median 545 and sigma 0.7
    /// (mean 696), outputs lognormal with mean 8,000 and sigma 1.2 before they are cut at 60,000 (mean 7,560,
    /// median 3,894).
    Reasoning,
    /// Traffic that turns: [`Workload::Lognormal`] (chat) until the middle of the run, then
    /// [`Workload::Reasoning`]. The middle is half of the measured steps of a closed run, half of the
    /// requests of a Poisson run.
    ChatToReasoning,
    /// One long request in a steady stream of short ones that keep the KV cache busy: prompts uniform in
    /// 1,500..=2,500 and outputs in 50..=150; the first request drawn from step 2,000 on has 60,000 and 100.
    LongAmongShort,
}

/// The geometric tail of `paper-azure` above 1000 tokens, mean.
const AZURE_TAIL_MEAN: f64 = 52.0;
const AZURE_PROMPT_MEAN: f64 = 4652.0;
const AZURE_PROMPT_SIGMA: f64 = 0.22;
const REASONING_OUTPUT_MEAN: f64 = 8_000.0;
const REASONING_OUTPUT_SIGMA: f64 = 1.2;
/// Where `long-among-short` draws its long request.
const LONG_FROM_STEP: u64 = 2_000;

impl Workload {
    /// Every built-in workload.
    pub const ALL: [Self; 9] = [
        Self::PaperProd,
        Self::PaperAzure,
        Self::Lognormal,
        Self::Geometric,
        Self::Repeats,
        Self::MooncakeLike,
        Self::Reasoning,
        Self::ChatToReasoning,
        Self::LongAmongShort,
    ];

    /// The name that chooses it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PaperProd => "paper-prod",
            Self::PaperAzure => "paper-azure",
            Self::Lognormal => "lognormal",
            Self::Geometric => "geometric",
            Self::Repeats => "repeats",
            Self::MooncakeLike => "mooncake-like",
            Self::Reasoning => "reasoning",
            Self::ChatToReasoning => "chat-to-reasoning",
            Self::LongAmongShort => "long-among-short",
        }
    }

    /// The workload of this name.
    ///
    /// # Errors
    /// An unknown name; the error lists all names.
    pub fn from_name(name: &str) -> Result<Self, SimError> {
        Self::ALL.into_iter().find(|workload| workload.name() == name).ok_or_else(|| {
            SimError::UnknownWorkload {
                found: name.to_owned(),
                meant: most_like(name, Self::ALL.into_iter().map(Self::name)),
                expected: Self::ALL.map(Self::name).join(", "),
            }
        })
    }

    /// Draws one request.
    pub(crate) fn draw(self, rng: &mut ChaCha8Rng) -> Job {
        match self {
            Self::PaperProd => paper_prod(rng),
            Self::PaperAzure => {
                let mu = AZURE_PROMPT_MEAN.ln() - AZURE_PROMPT_SIGMA * AZURE_PROMPT_SIGMA / 2.0;
                Job::new(
                    lognormal(mu.exp(), AZURE_PROMPT_SIGMA, u32::MAX, rng),
                    1000 + geometric(AZURE_TAIL_MEAN, rng),
                )
            }
            Self::Lognormal => {
                Job::new(lognormal(2000.0, 0.5, 1 << 20, rng), lognormal(200.0, 0.6, 1 << 20, rng))
            }
            Self::Geometric => Job::new(paper_prod(rng).prompt_tokens, geometric(1200.0, rng)),
            Self::Repeats => {
                let prompt = rng.random_range(0..512u64);
                let own = paper_prod(&mut ChaCha8Rng::seed_from_u64(prompt));
                let output_tokens = lognormal(f64::from(own.output_tokens), 0.005, 1 << 20, rng);
                Job { prompt_hash: Some(prompt), output_tokens, ..own }
            }
            Self::MooncakeLike => {
                Job::new(lognormal(6000.0, 1.2, 128_000, rng), lognormal(100.0, 0.9, 1 << 20, rng))
            }
            Self::Reasoning => {
                let median = REASONING_OUTPUT_MEAN / (REASONING_OUTPUT_SIGMA.powi(2) / 2.0).exp();
                let output = lognormal(median, REASONING_OUTPUT_SIGMA, 60_000, rng);
                Job::new(lognormal(545.0, 0.7, 1 << 20, rng), output)
            }
            // Before it turns.
            Self::ChatToReasoning => Self::Lognormal.draw(rng),
            Self::LongAmongShort => Job::new(rng.random_range(1_500..=2_500), rng.random_range(50..=150)),
        }
    }

    /// What the workload turns into in the middle of a run, if it turns.
    pub(crate) fn later(self) -> Option<Self> {
        (self == Self::ChatToReasoning).then_some(Self::Reasoning)
    }

    /// The one request that is not drawn, and the step from which on it takes the place of the next that is.
    pub(crate) fn special(self) -> Option<(u64, Job)> {
        (self == Self::LongAmongShort).then(|| (LONG_FROM_STEP, Job::new(60_000, 100)))
    }

    /// How many of `count` sampled requests stand for the traffic at the start of a run; they come first.
    pub(crate) fn at_start(self, count: usize) -> usize {
        match (self.later(), self.special()) {
            (Some(_), _) => count.div_ceil(2),
            (None, Some(_)) => count.saturating_sub(1),
            (None, None) => count,
        }
    }

    /// `count` requests of a seed. A workload that turns does so after the first half; a request that is not
    /// drawn is the last.
    #[must_use]
    pub fn sample(self, seed: u64, count: usize) -> Vec<Job> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let first = self.at_start(count);
        let mut jobs: Vec<Job> = (0..first).map(|_| self.draw(&mut rng)).collect();
        let last = self.special().map(|(_, job)| job);
        jobs.extend((first..count).map(|_| match (&last, self.later()) {
            (Some(job), _) => job.clone(),
            (None, later) => later.unwrap_or(self).draw(&mut rng),
        }));
        jobs
    }
}

fn paper_prod(rng: &mut ChaCha8Rng) -> Job {
    const CORRELATION: f64 = -0.1;
    loop {
        let prompt: f64 = StandardNormal.sample(rng);
        let own: f64 = StandardNormal.sample(rng);
        let output = CORRELATION * prompt + (1.0 - CORRELATION * CORRELATION).sqrt() * own;
        let (prompt, output) = (3200.0 + 2600.0 * prompt, 1200.0 + 700.0 * output);
        if prompt >= 1.0 && output >= 1.0 {
            return Job::new(prompt.round() as u32, output.round() as u32);
        }
    }
}

/// Rounded to whole tokens, 1 at least and `limit` at most.
fn lognormal(median: f64, sigma: f64, limit: u32, rng: &mut ChaCha8Rng) -> u32 {
    match LogNormal::new(median.ln(), sigma) {
        Ok(distribution) => {
            let tokens: f64 = distribution.sample(rng);
            tokens.round().clamp(1.0, f64::from(limit)) as u32
        }
        // Constants of this file only; kept total so that no input can panic here.
        Err(_) => median as u32,
    }
}

/// 1, 2, ... with the given mean.
fn geometric(mean: f64, rng: &mut ChaCha8Rng) -> u32 {
    match Geometric::new(1.0 / mean) {
        Ok(distribution) => distribution.sample(rng).min(1 << 20) as u32 + 1,
        Err(_) => mean as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn means(workload: Workload) -> (f64, f64) {
        let jobs = workload.sample(7, 200_000);
        assert!(jobs.iter().all(|job| job.prompt_tokens >= 1 && job.output_tokens >= 1));
        let mean = |tokens: fn(&Job) -> u32| {
            jobs.iter().map(|job| f64::from(tokens(job))).sum::<f64>() / jobs.len() as f64
        };
        (mean(|job| job.prompt_tokens), mean(|job| job.output_tokens))
    }

    fn near(found: f64, expected: f64, share: f64) {
        assert!((found - expected).abs() < share * expected, "{found} is not near {expected}");
    }

    #[test]
    fn paper_azure_has_the_published_means_and_cut() {
        let (prompt, output) = means(Workload::PaperAzure);
        near(prompt, 4652.0, 0.01);
        near(output, 1052.0, 0.005);
        assert!(Workload::PaperAzure.sample(1, 10_000).iter().all(|job| job.output_tokens > 1000));
    }

    #[test]
    fn paper_prod_is_the_truncated_bivariate_normal() {
        // Means of the two normals cut at 1 (inverse Mills ratio); the correlation shifts them by less than
        // the tolerance.
        let (prompt, output) = means(Workload::PaperProd);
        near(prompt, 3746.0, 0.01);
        near(output, 1262.0, 0.01);
        let jobs = Workload::PaperProd.sample(3, 200_000);
        let n = jobs.len() as f64;
        let (mut sp, mut so, mut spp, mut soo, mut spo) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for job in &jobs {
            let (p, o) = (f64::from(job.prompt_tokens), f64::from(job.output_tokens));
            (sp, so, spp, soo, spo) = (sp + p, so + o, spp + p * p, soo + o * o, spo + p * o);
        }
        let correlation = (spo / n - sp / n * (so / n))
            / ((spp / n - (sp / n).powi(2)) * (soo / n - (so / n).powi(2))).sqrt();
        assert!((-0.12..-0.04).contains(&correlation), "{correlation}");
    }

    #[test]
    fn the_other_means_are_as_documented() {
        let (prompt, output) = means(Workload::Lognormal);
        near(prompt, 2266.0, 0.01);
        near(output, 239.0, 0.01);
        let (prompt, output) = means(Workload::Geometric);
        near(prompt, 3746.0, 0.01);
        near(output, 1200.0, 0.01);
        let (prompt, output) = means(Workload::MooncakeLike);
        near(prompt, 12_000.0, 0.03);
        near(output, 150.0, 0.01);
    }

    /// The middle of a sample.
    fn median(mut tokens: Vec<u32>) -> f64 {
        tokens.sort_unstable();
        f64::from(tokens[tokens.len() / 2])
    }

    #[test]
    fn reasoning_has_long_outputs_that_are_cut() {
        let (prompt, output) = means(Workload::Reasoning);
        near(prompt, 545.0 * (0.7f64 * 0.7 / 2.0).exp(), 0.01);
        // The mean of min(X, 60000) for a lognormal X with mean 8000 and sigma 1.2.
        near(output, 7_558.0, 0.02);
        let jobs = Workload::Reasoning.sample(3, 100_000);
        near(median(jobs.iter().map(|job| job.prompt_tokens).collect()), 545.0, 0.01);
        near(median(jobs.iter().map(|job| job.output_tokens).collect()), 3_894.0, 0.02);
        let cut = jobs.iter().filter(|job| job.output_tokens == 60_000).count() as f64;
        near(cut / jobs.len() as f64, 0.0113, 0.15);
        assert!(jobs.iter().all(|job| job.output_tokens <= 60_000));
    }

    #[test]
    fn chat_turns_to_reasoning_in_the_middle() {
        let (chat, reasoning) = (Workload::Lognormal, Workload::Reasoning);
        let jobs = Workload::ChatToReasoning.sample(5, 2_000);
        assert_eq!(Workload::ChatToReasoning.at_start(2_000), 1_000);
        assert_eq!(jobs[..1_000], chat.sample(5, 1_000));
        let mean = |jobs: &[Job]| jobs.iter().map(|job| f64::from(job.output_tokens)).sum::<f64>() / 1e3;
        assert!(mean(&jobs[1_000..]) > 20.0 * mean(&jobs[..1_000]));
        assert!((chat.later(), reasoning.later()) == (None, None));
    }

    #[test]
    fn one_request_is_long() {
        let jobs = Workload::LongAmongShort.sample(5, 5_000);
        let (last, others) = jobs.split_last().expect("many");
        assert_eq!((last.prompt_tokens, last.output_tokens), (60_000, 100));
        assert!(others.iter().all(|job| (1_500..=2_500).contains(&job.prompt_tokens)));
        assert!(others.iter().all(|job| (50..=150).contains(&job.output_tokens)));
        near(others.iter().map(|job| f64::from(job.prompt_tokens)).sum::<f64>() / 4_999.0, 2_000.0, 0.01);
    }

    #[test]
    fn a_seed_fixes_the_sequence_and_unknown_names_are_refused() {
        assert_eq!(Workload::PaperProd.sample(5, 20), Workload::PaperProd.sample(5, 20));
        assert_ne!(Workload::PaperProd.sample(5, 20), Workload::PaperProd.sample(6, 20));
        // A golden draw: the stream must not change with a library update unnoticed.
        for workload in Workload::ALL {
            assert_eq!(Workload::from_name(workload.name()).expect("known"), workload);
        }
        let error = Workload::from_name("nope").expect_err("unknown").to_string();
        assert!(error.contains("nope") && error.contains("paper-prod"), "{error}");
    }
}
