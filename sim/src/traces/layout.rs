//! The layouts that traces have: which column or key holds what, in which units.
//!
//! A layout that is known is one [`Preset`] here. What has other names is a log, known by names that can mean
//! one thing only, or needs a column map.

use super::error::TraceError;
use super::options::{ReadOptions, TimeUnit};

/// What a column or key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// When the request came.
    Time,
    Prompt,
    Output,
    /// Hashes of prefix blocks.
    Hashes,
    /// Turns with an equal one wait for each other.
    Session,
    /// Id of the turn, which later ones name as their [`Role::Parent`].
    Chat,
    Parent,
    /// How long after the end of the turn before it the turn comes.
    Delay,
    /// When the request ended.
    End,
    /// How long the request took.
    Elapsed,
    Images,
    /// Neither empty nor false: the request failed.
    Failed,
}

/// How the rows of a trace are read.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Its name in [`Trace::format`](super::Trace::format).
    pub(super) name: &'static str,
    /// Column or key of each role; of several with one role the first that a row has.
    pub(super) keys: Vec<(Role, String)>,
    /// Unit of times that are plain numbers; without one only dates and times since 1970 are clear.
    pub(super) unit: Option<TimeUnit>,
    pub(super) block_tokens: u32,
    /// Times are logged in coarse ticks: the arrivals of a tick are spread up to the next one.
    pub(super) ticked: bool,
    /// Times are whole numbers: others have another unit.
    pub(super) whole_times: bool,
    /// Rows that are no requests, such as other spans, are between those that are.
    pub(super) among_others: bool,
}

impl Layout {
    pub(super) fn plain(name: &'static str) -> Self {
        Self {
            name,
            keys: Vec::new(),
            unit: None,
            block_tokens: 512,
            ticked: false,
            whole_times: false,
            among_others: false,
        }
    }

    /// With what the options say instead.
    pub(super) fn with(self, options: &ReadOptions) -> Self {
        Self {
            unit: options.time_unit.or(self.unit),
            whole_times: self.whole_times && options.time_unit.is_none(),
            block_tokens: options.block_tokens.unwrap_or(self.block_tokens),
            ..self
        }
    }

    /// The first key of a role.
    pub(super) fn key(&self, role: Role) -> Option<&str> {
        self.keys.iter().find(|&&(other, _)| other == role).map(|(_, key)| key.as_str())
    }
}

/// A layout with a name.
struct Preset {
    name: &'static str,
    /// What it is known by, for whoever brings another.
    known_by: &'static str,
    /// All of these must be there.
    needs: &'static [(Role, &'static str)],
    /// These too, which are not read.
    marks: &'static [&'static str],
    /// These may be.
    may: &'static [(Role, &'static str)],
    unit: Option<TimeUnit>,
    block_tokens: u32,
    ticked: bool,
    whole_times: bool,
    among_others: bool,
    /// Its names are those of many: a table has them by chance, unless this column is there too.
    in_tables_with: Option<&'static str>,
}

const PLAIN: Preset = Preset {
    name: "",
    known_by: "",
    needs: &[],
    marks: &[],
    may: &[],
    unit: None,
    block_tokens: 512,
    ticked: false,
    whole_times: false,
    among_others: false,
    in_tables_with: None,
};

/// Every layout with a name, in the order in which a trace is tried.
const PRESETS: [Preset; 10] = [
    Preset {
        name: "bailian",
        known_by: "Bailian's chat_id, parent_chat_id, timestamp (s), input_length, output_length",
        needs: &[
            (Role::Time, "timestamp"),
            (Role::Prompt, "input_length"),
            (Role::Output, "output_length"),
            (Role::Chat, "chat_id"),
            (Role::Parent, "parent_chat_id"),
        ],
        may: &[(Role::Hashes, "hash_ids")],
        unit: Some(TimeUnit::Seconds),
        block_tokens: 16,
        ..PLAIN
    },
    Preset {
        name: "aiperf",
        known_by: "aiperf's session_id, timestamp or delay (ms), input_length, output_length",
        needs: &[
            (Role::Session, "session_id"),
            (Role::Prompt, "input_length"),
            (Role::Output, "output_length"),
        ],
        may: &[(Role::Time, "timestamp"), (Role::Delay, "delay"), (Role::Hashes, "hash_ids")],
        unit: Some(TimeUnit::Milliseconds),
        in_tables_with: Some("hash_ids"),
        ..PLAIN
    },
    Preset {
        name: "mooncake",
        known_by: "Mooncake's timestamp (ms), input_length, output_length",
        needs: &[(Role::Time, "timestamp"), (Role::Prompt, "input_length"), (Role::Output, "output_length")],
        may: &[(Role::Hashes, "hash_ids"), (Role::Session, "session_id"), (Role::Delay, "delay")],
        unit: Some(TimeUnit::Milliseconds),
        ticked: true,
        whole_times: true,
        in_tables_with: Some("hash_ids"),
        ..PLAIN
    },
    Preset {
        name: "azure",
        known_by: "Azure's TIMESTAMP, ContextTokens, GeneratedTokens",
        needs: &[
            (Role::Time, "TIMESTAMP"),
            (Role::Prompt, "ContextTokens"),
            (Role::Output, "GeneratedTokens"),
        ],
        may: &[(Role::Images, "NumImages")],
        ..PLAIN
    },
    Preset {
        name: "burstgpt",
        known_by: "BurstGPT's Timestamp (s), Request tokens, Response tokens",
        needs: &[
            (Role::Time, "Timestamp"),
            (Role::Prompt, "Request tokens"),
            (Role::Output, "Response tokens"),
        ],
        may: &[(Role::Session, "Session ID"), (Role::Elapsed, "Elapsed time")],
        unit: Some(TimeUnit::Seconds),
        ticked: true,
        ..PLAIN
    },
    Preset {
        name: "vidur",
        known_by: "Vidur's arrived_at (s), num_prefill_tokens, num_decode_tokens",
        needs: &[
            (Role::Time, "arrived_at"),
            (Role::Prompt, "num_prefill_tokens"),
            (Role::Output, "num_decode_tokens"),
        ],
        unit: Some(TimeUnit::Seconds),
        ..PLAIN
    },
    Preset {
        name: "vidur-lengths",
        known_by: "Vidur's num_prefill_tokens, num_decode_tokens, pd_ratio without times",
        needs: &[(Role::Prompt, "num_prefill_tokens"), (Role::Output, "num_decode_tokens")],
        marks: &["pd_ratio"],
        ..PLAIN
    },
    Preset {
        name: "splitwise",
        known_by: "splitwise-sim's arrival_timestamp (s), prompt_size, token_size",
        needs: &[
            (Role::Time, "arrival_timestamp"),
            (Role::Prompt, "prompt_size"),
            (Role::Output, "token_size"),
        ],
        unit: Some(TimeUnit::Seconds),
        ..PLAIN
    },
    Preset {
        name: "aiperf-result",
        known_by: "aiperf's results (metadata.request_start_ns, metrics)",
        needs: &[(Role::Time, "metadata.request_start_ns")],
        may: &[
            (Role::Prompt, "metrics.input_sequence_length.value"),
            (Role::Output, "metrics.output_sequence_length.value"),
            (Role::Session, "metadata.session_num"),
            (Role::End, "metadata.request_end_ns"),
            (Role::Failed, "error"),
            (Role::Failed, "metadata.was_cancelled"),
        ],
        unit: Some(TimeUnit::Nanoseconds),
        ..PLAIN
    },
    Preset {
        name: "otel",
        known_by: "OpenTelemetry spans (startTimeUnixNano, gen_ai.usage)",
        needs: &[(Role::Time, "startTimeUnixNano")],
        may: &[
            (Role::Prompt, "gen_ai.usage.prompt_tokens"),
            (Role::Prompt, "gen_ai.usage.input_tokens"),
            (Role::Output, "gen_ai.usage.completion_tokens"),
            (Role::Output, "gen_ai.usage.output_tokens"),
        ],
        unit: Some(TimeUnit::Nanoseconds),
        among_others: true,
        ..PLAIN
    },
];

/// Results of load generators that hold all requests of a run in arrays.
pub(super) const RESULTS_KNOWN_BY: &str =
    "results with input_lens and output_lens (vllm bench serve --save-detailed, SGLang --output-details)";

/// What every layout is known by.
pub(super) fn known_by() -> String {
    let presets = PRESETS.iter().map(|preset| preset.known_by);
    presets.chain([RESULTS_KNOWN_BY]).collect::<Vec<_>>().join("; ")
}

/// The layout of a table with such columns, or of objects with such keys. `has` tells whether there is one of
/// a name.
pub(super) fn preset(is_table: bool, has: impl Fn(&str) -> bool) -> Option<Layout> {
    let fits = |preset: &&Preset| {
        preset.needs.iter().all(|&(_, key)| has(key))
            && preset.marks.iter().all(|key| has(key))
            && preset.in_tables_with.is_none_or(|key| !is_table || has(key))
    };
    PRESETS.iter().find(fits).map(|preset| Layout {
        name: preset.name,
        keys: preset.needs.iter().chain(preset.may).map(|&(role, key)| (role, key.to_owned())).collect(),
        unit: preset.unit,
        block_tokens: preset.block_tokens,
        ticked: preset.ticked,
        whole_times: preset.whole_times,
        among_others: preset.among_others,
    })
}

/// Names of logs, without capitals and without what is neither letter nor digit.
const LOG_TIMES: &str = "timestamp time datetime ts arrivaltime arrivedat arrivaltimestamp requesttime \
     requesttimestamp starttime createdat created receivedat";
const LOG_PROMPTS: &str = "prompttokens inputtokens numprompttokens numinputtokens promptlength inputlength \
     promptlen inputlen contexttokens numprefilltokens requesttokens prompttokencount inputtokencount \
     usageprompttokens usageinputtokens";
const LOG_OUTPUTS: &str = "completiontokens outputtokens generatedtokens responsetokens generationtokens \
     numcompletiontokens numoutputtokens numgeneratedtokens numgenerationtokens numdecodetokens \
     outputlength outputlen completiontokencount outputtokencount usagecompletiontokens usageoutputtokens";

/// The layout of a log, where each of time, prompt and output has one name that can mean nothing else. None
/// where one of them has no such name.
pub(super) fn log(file: &str, names: &[String]) -> Result<Option<Layout>, TraceError> {
    let bare = |name: &String| -> String {
        name.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect()
    };
    let mut keys = Vec::new();
    for (role, what, known) in [
        (Role::Time, "time", LOG_TIMES),
        (Role::Prompt, "prompt tokens", LOG_PROMPTS),
        (Role::Output, "output tokens", LOG_OUTPUTS),
    ] {
        let is_known = |name: &&String| known.split_whitespace().any(|known| known == bare(name));
        let found: Vec<&String> = names.iter().filter(is_known).collect();
        match found.as_slice() {
            [] => return Ok(None),
            [one] => keys.push((role, (*one).clone())),
            several => {
                let found = several.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
                return Err(TraceError::Ambiguous {
                    file: file.to_owned(),
                    line: 1,
                    what: what.to_owned(),
                    expected: "one column of such a name".into(),
                    found,
                    flag: "--columns",
                });
            }
        }
    }
    Ok(Some(Layout { keys, ..Layout::plain("log") }))
}
