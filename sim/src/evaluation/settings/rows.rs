//! The rows of the table: each is a call of `simulate` with few arguments.

use std::path::Path;

use crate::cluster::{Arrivals, DEFAULT_STEPS, DEFAULT_WARMUP, Scenario, Source, StepCost};
use crate::workloads::Workload;

/// What a setting draws its requests from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// A built-in workload.
    Workload(Workload),
    /// A trace of this file name, cut to outputs of at least so many tokens.
    Trace(&'static str, u32),
}

/// What a setting is there to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Slots bind, the pool is kept full, the run starts near its steady state.
    Closed,
    /// A trace in its own times, below and past what the cluster can serve.
    Open,
    /// The KV cache binds, with the headroom that is used where none is set.
    Kv,
    /// The KV cache binds, with a fixed headroom: none fits all.
    Headroom,
    /// Outputs far above prompts.
    Reasoning,
    /// The first steps of a cluster that starts empty.
    Cold,
    /// One long request among short ones that keep the KV cache busy.
    Starvation,
}

impl Group {
    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::Kv => "kv",
            Self::Headroom => "headroom",
            Self::Reasoning => "reasoning",
            Self::Cold => "cold",
            Self::Starvation => "starvation",
        }
    }
}

/// One row of the table. What is not set is as `simulate` has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    /// What it shows.
    pub group: Group,
    /// Lengths of requests.
    pub from: From,
    /// Decode workers.
    pub workers: usize,
    /// Slots of each.
    pub slots: u32,
    /// Requests kept waiting, unless the trace's own times are played.
    pub pool: usize,
    /// Plays the trace's own times so many times as fast.
    pub rate_scale: Option<f64>,
    /// Windows of the trace; 0 runs the whole of it.
    pub windows: u32,
    /// KV tokens of each worker.
    pub kv_capacity_tokens: Option<u64>,
    /// Steps of growth that an admission leaves free.
    pub headroom_steps: Option<u32>,
    /// Microseconds per token of prefill.
    pub prefill_us_per_token: Option<f64>,
    /// Measured steps.
    pub steps: Option<u64>,
    /// Starts empty and measures from the first step on.
    pub cold_start: bool,
    /// Deadline of every request in waited steps.
    pub deadline_steps: Option<u32>,
    /// Seeds where none are asked for.
    pub seeds: u64,
}

const fn row(from: From, workers: usize, slots: u32, pool: usize) -> Setting {
    Setting {
        group: Group::Closed,
        from,
        workers,
        slots,
        pool,
        rate_scale: None,
        windows: 0,
        kv_capacity_tokens: None,
        headroom_steps: None,
        prefill_us_per_token: None,
        steps: None,
        cold_start: false,
        deadline_steps: None,
        seeds: 5,
    }
}

const fn kv(from: From, slots: u32, pool: usize, capacity: u64) -> Setting {
    Setting { group: Group::Kv, kv_capacity_tokens: Some(capacity), ..row(from, 8, slots, pool) }
}

const PROD: From = From::Workload(Workload::PaperProd);
const LOGNORMAL: From = From::Workload(Workload::Lognormal);
const GEOMETRIC: From = From::Workload(Workload::Geometric);
const REASONING: From = From::Workload(Workload::Reasoning);
const CONV: From = From::Trace("azure_2023_conv.csv", 0);
const CODE: From = From::Trace("azure_2023_code.csv", 0);
const MOONCAKE: From = From::Trace("mooncake_conversation.jsonl", 0);

/// The rows where slots bind.
const CLOSED: [Setting; 19] = [
    row(PROD, 8, 72, 8),
    row(PROD, 8, 72, 32),
    row(PROD, 8, 72, 128),
    row(PROD, 8, 72, 512),
    row(PROD, 16, 72, 64),
    row(PROD, 32, 72, 128),
    row(PROD, 64, 72, 256),
    row(LOGNORMAL, 8, 64, 64),
    row(LOGNORMAL, 16, 64, 256),
    row(LOGNORMAL, 64, 64, 256),
    row(GEOMETRIC, 16, 72, 64),
    row(CONV, 8, 72, 32),
    row(CONV, 16, 72, 128),
    row(From::Trace("azure_2023_conv.csv", 301), 8, 72, 32),
    row(CODE, 8, 72, 32),
    row(CODE, 16, 72, 256),
    row(MOONCAKE, 8, 72, 32),
    row(MOONCAKE, 16, 72, 64),
    // A heavy tail of our own, in place of Mooncake's synthetic trace.
    row(From::Workload(Workload::MooncakeLike), 8, 72, 32),
];

/// Where KV binds; each of them with every headroom of [`HEADROOMS`] as well.
const KV: [Setting; 8] = [
    kv(PROD, 72, 32, 250_000),
    kv(GEOMETRIC, 72, 32, 250_000),
    kv(LOGNORMAL, 64, 64, 60_000),
    kv(CONV, 72, 32, 60_000),
    kv(CODE, 72, 32, 100_000),
    kv(MOONCAKE, 72, 32, 1_000_000),
    Setting { steps: Some(REASONING_STEPS), ..kv(REASONING, 72, 32, 300_000) },
    Setting { prefill_us_per_token: Some(2.0), ..kv(PROD, 72, 32, 250_000) },
];

/// Fixed headrooms in steps; 0 admits whatever fits.
const HEADROOMS: [u32; 7] = [0, 16, 32, 64, 96, 128, 512];
/// A request of this workload stays for 8,000 steps on average.
const REASONING_STEPS: u64 = 40_000;
/// Around what 8 workers of 72 slots can serve of these conversations, about 33 x.
const RATES: [f64; 4] = [31.0, 33.0, 36.0, 38.0];
const WINDOWS: u32 = 12;

/// Every row, in the order of the table.
#[must_use]
pub fn settings() -> Vec<Setting> {
    let mut rows = CLOSED.to_vec();
    let open = |rate_scale, windows| Setting {
        group: Group::Open,
        rate_scale: Some(rate_scale),
        windows,
        ..row(CONV, 8, 72, 32)
    };
    rows.extend(RATES.iter().map(|&rate| open(rate, 0)));
    rows.extend(RATES.iter().map(|&rate| open(rate, WINDOWS)));

    rows.extend(KV);
    rows.push(kv(MOONCAKE, 72, 32, 400_000));
    rows.push(Setting { group: Group::Kv, kv_capacity_tokens: Some(60_000), ..open(30.0, 0) });
    rows.extend(KV.iter().flat_map(|&setting| {
        HEADROOMS.map(|steps| Setting { group: Group::Headroom, headroom_steps: Some(steps), ..setting })
    }));

    let reasoning =
        |from| Setting { group: Group::Reasoning, steps: Some(REASONING_STEPS), ..row(from, 8, 72, 32) };
    rows.push(Setting { kv_capacity_tokens: Some(140_000), ..reasoning(REASONING) });
    rows.push(reasoning(REASONING));
    rows.push(reasoning(From::Workload(Workload::ChatToReasoning)));

    rows.extend([row(PROD, 8, 72, 32), row(CONV, 16, 72, 128), row(LOGNORMAL, 16, 64, 256)].map(|setting| {
        Setting { group: Group::Cold, cold_start: true, steps: Some(600), seeds: 8, ..setting }
    }));

    // Headroom as the library has it where none is set.
    let long = Setting {
        group: Group::Starvation,
        kv_capacity_tokens: Some(100_000),
        headroom_steps: Some(256),
        cold_start: true,
        steps: Some(20_000),
        ..row(From::Workload(Workload::LongAmongShort), 4, 64, 32)
    };
    rows.extend([long, Setting { deadline_steps: Some(500), ..long }]);
    rows
}

impl Setting {
    /// In words.
    #[must_use]
    pub fn name(&self) -> String {
        let mut name = match self.from {
            From::Workload(workload) => workload.name().to_owned(),
            From::Trace(file, 0) => stem(file).to_owned(),
            From::Trace(file, least) => format!("{} out>={least}", stem(file)),
        };
        name += &format!(" G={} B={}", self.workers, self.slots);
        name += &match self.rate_scale {
            Some(rate_scale) => format!(" open {rate_scale}x"),
            None => format!(" P={}", self.pool),
        };
        let mut add = |text: Option<String>| name += &text.unwrap_or_default();
        add((self.windows > 0).then(|| format!(" {} windows", self.windows)));
        add(self.kv_capacity_tokens.map(|tokens| format!(" kv={tokens}")));
        add(self.headroom_steps.map(|steps| format!(" headroom={steps}")));
        add(self.prefill_us_per_token.map(|us| format!(" prefill={us}us")));
        add(self.deadline_steps.map(|steps| format!(" deadline={steps}")));
        add(self.cold_start.then(|| " cold".to_owned()));
        name
    }

    /// Whether one of the patterns is part of `group: name`, in any case of letters; without patterns always.
    #[must_use]
    pub fn matches(&self, patterns: &[String]) -> bool {
        let name = format!("{}: {}", self.group.name(), self.name()).to_lowercase();
        patterns.is_empty() || patterns.iter().any(|pattern| name.contains(&pattern.to_lowercase()))
    }

    /// The arguments of `simulate` that play it, with the traces of this folder.
    #[must_use]
    pub fn flags(&self, traces: &Path) -> Vec<String> {
        let mut flags = Vec::new();
        let mut add = |flag: &str, value: Option<String>| {
            if let Some(value) = value {
                flags.extend([flag.to_owned(), value]);
            }
        };
        match self.from {
            From::Workload(workload) => add("--workload", Some(workload.name().to_owned())),
            From::Trace(file, least) => {
                add("--trace", Some(traces.join(file).display().to_string()));
                add("--min-output", (least > 0).then(|| least.to_string()));
            }
        }
        add("--workers", Some(self.workers.to_string()));
        add("--slots", Some(self.slots.to_string()));
        match self.rate_scale {
            None => add("--pool", Some(self.pool.to_string())),
            Some(rate_scale) => {
                add("--arrivals", Some("open".to_owned()));
                add("--rate-scale", Some(rate_scale.to_string()));
            }
        }
        add("--windows", (self.windows > 0).then(|| self.windows.to_string()));
        add("--kv-capacity", self.kv_capacity_tokens.map(|tokens| tokens.to_string()));
        add("--headroom-steps", self.headroom_steps.map(|steps| steps.to_string()));
        add("--prefill-us-per-token", self.prefill_us_per_token.map(|us| us.to_string()));
        add("--steps", self.steps.map(|steps| steps.to_string()));
        add("--warmup", self.cold_start.then(|| "0".to_owned()));
        add("--deadline-steps", self.deadline_steps.map(|steps| steps.to_string()));
        flags.extend(self.cold_start.then(|| "--cold-start".to_owned()));
        flags
    }

    /// What is simulated, without policies.
    #[must_use]
    pub fn scenario(&self, source: Source) -> Scenario {
        let defaults = Scenario::default();
        let open = self.rate_scale.is_some();
        let warmup = if open || self.cold_start { 0 } else { DEFAULT_WARMUP };
        Scenario {
            source,
            arrivals: match self.rate_scale {
                Some(rate_scale) => Arrivals::Trace { rate_scale },
                None => Arrivals::Closed,
            },
            workers: self.workers,
            slots: self.slots,
            pool: self.pool,
            windows: self.windows,
            steps: self.steps.or((!open).then_some(DEFAULT_STEPS)),
            warmup,
            kv_capacity_tokens: self.kv_capacity_tokens,
            headroom_steps: self.headroom_steps.or(defaults.headroom_steps),
            deadline_steps: self.deadline_steps,
            cost: StepCost {
                prefill_us_per_token: self.prefill_us_per_token,
                ..StepCost::published(self.slots)
            },
            cold_start: self.cold_start,
            ..defaults
        }
    }
}

/// A file's name without its extension.
fn stem(file: &str) -> &str {
    file.split('.').next().unwrap_or(file)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_row_that_is_promised_is_there_once() {
        let rows = settings();
        let names: BTreeSet<String> = rows.iter().map(Setting::name).collect();
        assert_eq!(names.len(), rows.len(), "a name is there twice");
        let mut promised: Vec<String> = Vec::new();
        for rate in [31, 33, 36, 38] {
            promised.push(format!("azure_2023_conv G=8 B=72 open {rate}x"));
            promised.push(format!("azure_2023_conv G=8 B=72 open {rate}x 12 windows"));
        }
        let closed = [
            "paper-prod G=8 B=72 P=8",
            "paper-prod G=8 B=72 P=32",
            "paper-prod G=8 B=72 P=128",
            "paper-prod G=8 B=72 P=512",
            "paper-prod G=16 B=72 P=64",
            "paper-prod G=32 B=72 P=128",
            "paper-prod G=64 B=72 P=256",
            "geometric G=16 B=72 P=64",
            "lognormal G=8 B=64 P=64",
            "lognormal G=16 B=64 P=256",
            "lognormal G=64 B=64 P=256",
            "azure_2023_conv G=8 B=72 P=32",
            "azure_2023_conv G=16 B=72 P=128",
            "azure_2023_conv out>=301 G=8 B=72 P=32",
            "azure_2023_code G=8 B=72 P=32",
            "azure_2023_code G=16 B=72 P=256",
            "mooncake_conversation G=8 B=72 P=32",
            "mooncake_conversation G=16 B=72 P=64",
        ];
        let kv = [
            "paper-prod G=8 B=72 P=32 kv=250000",
            "geometric G=8 B=72 P=32 kv=250000",
            "lognormal G=8 B=64 P=64 kv=60000",
            "azure_2023_conv G=8 B=72 P=32 kv=60000",
            "azure_2023_code G=8 B=72 P=32 kv=100000",
            "mooncake_conversation G=8 B=72 P=32 kv=1000000",
            "reasoning G=8 B=72 P=32 kv=300000",
        ];
        for name in kv {
            promised.extend([0, 16, 32, 64, 96, 128, 512].map(|steps| format!("{name} headroom={steps}")));
        }
        promised.extend(closed.iter().chain(&kv).map(|&name| name.to_owned()));
        promised.extend(
            [
                "paper-prod G=8 B=72 P=32 kv=250000 prefill=2us",
                "mooncake_conversation G=8 B=72 P=32 kv=400000",
                "reasoning G=8 B=72 P=32 kv=140000",
                "reasoning G=8 B=72 P=32",
                "chat-to-reasoning G=8 B=72 P=32",
                "paper-prod G=8 B=72 P=32 cold",
                "azure_2023_conv G=16 B=72 P=128 cold",
                "lognormal G=16 B=64 P=256 cold",
                "long-among-short G=4 B=64 P=32 kv=100000 headroom=256 cold",
                "long-among-short G=4 B=64 P=32 kv=100000 headroom=256 deadline=500 cold",
            ]
            .map(str::to_owned),
        );
        let missing: Vec<&String> = promised.iter().filter(|name| !names.contains(*name)).collect();
        assert!(missing.is_empty(), "{missing:?} of {names:#?}");
        let cold: Vec<Setting> = rows.into_iter().filter(|row| row.group == Group::Cold).collect();
        assert!(cold.len() == 3 && cold.iter().all(|row| (row.seeds, row.steps) == (8, Some(600))));
    }

    #[test]
    fn the_record_has_every_row() {
        let record = include_str!("../../../records/second_edition.csv");
        let mut lines = csv::Reader::from_reader(record.as_bytes());
        let rows: Vec<(String, String)> = lines
            .records()
            .map(|line| line.expect("CSV"))
            .map(|line| (line[0].into(), line[1].into()))
            .collect();
        let known: BTreeSet<String> = settings().iter().map(Setting::name).collect();
        assert!(rows.iter().all(|(row, _)| known.contains(row)));
        for name in known {
            assert!(rows.contains(&(name.clone(), "level".to_owned())), "{name} is not on record");
        }
    }

    #[test]
    fn patterns_choose_by_group_and_name() {
        let chosen = |patterns: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
            settings().iter().filter(|row| row.matches(&patterns)).count()
        };
        assert_eq!(chosen(&[]), settings().len());
        assert_eq!(chosen(&["closed:"]), 19);
        assert_eq!(chosen(&["Open: AZURE"]), 8);
        assert_eq!(chosen(&["starvation", "cold: paper"]), 3);
        assert_eq!(chosen(&["headroom:"]), 56);
        assert_eq!(chosen(&["nothing of this name"]), 0);
    }
}
