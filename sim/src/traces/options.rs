//! What to do with the rows of a trace, and what the trace itself does not tell: units and columns.

use std::fmt;
use std::str::FromStr;

use super::error::TraceError;
use super::layout::{Layout, Role};

/// Longest line of a trace in bytes, with its end, unless [`ReadOptions::max_line_bytes`] says otherwise: a
/// hundred times what the hashes of the longest prompt take.
pub const MAX_LINE_BYTES: usize = 16 << 20;

/// What to do with rows, and what numbers mean where the trace does not say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// Count malformed rows instead of refusing the trace.
    pub skip_bad_rows: bool,
    /// Leave out rows with fewer output tokens.
    pub min_output_tokens: u32,
    /// Longest line in bytes, with its end; of a JSON array the longest element.
    pub max_line_bytes: usize,
    /// Which columns or keys to read, instead of those that the layout is known by.
    pub columns: Option<ColumnMap>,
    /// Unit of times and delays that are plain numbers, instead of the layout's own.
    pub time_unit: Option<TimeUnit>,
    /// Tokens of a prefix block, instead of the layout's own.
    pub block_tokens: Option<u32>,
}

impl ReadOptions {
    /// Every row must be sound; units are those of the layout.
    pub const DEFAULT: Self = Self {
        skip_bad_rows: false,
        min_output_tokens: 0,
        max_line_bytes: MAX_LINE_BYTES,
        columns: None,
        time_unit: None,
        block_tokens: None,
    };
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Unit of a time that is a plain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    /// `s`
    Seconds,
    /// `ms`
    Milliseconds,
    /// `us`
    Microseconds,
    /// `ns`
    Nanoseconds,
}

impl TimeUnit {
    pub(super) const ALL: [Self; 4] =
        [Self::Seconds, Self::Milliseconds, Self::Microseconds, Self::Nanoseconds];

    pub(super) fn per_second(self) -> i128 {
        match self {
            Self::Seconds => 1,
            Self::Milliseconds => 1_000,
            Self::Microseconds => 1_000_000,
            Self::Nanoseconds => 1_000_000_000,
        }
    }
}

impl fmt::Display for TimeUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Seconds => "s",
            Self::Milliseconds => "ms",
            Self::Microseconds => "us",
            Self::Nanoseconds => "ns",
        })
    }
}

impl FromStr for TimeUnit {
    type Err = TraceError;

    fn from_str(text: &str) -> Result<Self, TraceError> {
        let unit = Self::ALL.into_iter().find(|unit| unit.to_string() == text);
        unit.ok_or_else(|| TraceError::option("time-unit", "s, ms, us or ns", text))
    }
}

/// Which columns of a table, or keys of JSON objects (`usage.prompt_tokens` for nested ones), hold what:
/// `time=Timestamp:s,prompt="Request tokens",output="Response tokens"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnMap {
    keys: Vec<(Role, String)>,
    unit: Option<TimeUnit>,
}

/// What a column map may name.
const NAMES: [(&str, Role); 6] = [
    ("time", Role::Time),
    ("prompt", Role::Prompt),
    ("output", Role::Output),
    ("session", Role::Session),
    ("delay", Role::Delay),
    ("hashes", Role::Hashes),
];

impl ColumnMap {
    pub(super) fn keys(&self) -> &[(Role, String)] {
        &self.keys
    }

    /// The layout that it stands for.
    pub(super) fn layout(&self, options: &ReadOptions) -> Result<Layout, TraceError> {
        if let (Some(unit), Some(flag)) = (self.unit, options.time_unit)
            && unit != flag
        {
            let expected = format!("{unit}, as in --columns");
            return Err(TraceError::option("time-unit", expected, flag.to_string()));
        }
        let has_hashes = self.keys.iter().any(|&(role, _)| role == Role::Hashes);
        if has_hashes && options.block_tokens.is_none() {
            let expected = "the tokens of a block, where --columns names hashes";
            return Err(TraceError::option("block-tokens", expected, "none"));
        }
        Ok(Layout { unit: self.unit, keys: self.keys.clone(), ..Layout::plain("columns") })
    }
}

/// Pieces between commas; quotes keep commas together and go.
fn pieces(text: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let mut quoted = false;
    for letter in text.chars() {
        match (letter, pieces.last_mut()) {
            ('"', _) => quoted = !quoted,
            (',', _) if !quoted => pieces.push(String::new()),
            (letter, Some(piece)) => piece.push(letter),
            (_, None) => {}
        }
    }
    pieces
}

impl FromStr for ColumnMap {
    type Err = TraceError;

    fn from_str(text: &str) -> Result<Self, TraceError> {
        let refused = |expected: &str, found: &str| TraceError::option("columns", expected.to_owned(), found);
        let mut map = Self { keys: Vec::new(), unit: None };
        for piece in pieces(text) {
            let known = piece.split_once('=').and_then(|(name, column)| {
                let (_, role) = NAMES.into_iter().find(|&(known, _)| known == name.trim())?;
                Some((role, column.trim()))
            });
            let Some((role, column)) = known else {
                let names = NAMES.map(|(name, _)| format!("{name}=COLUMN")).join(", ");
                return Err(refused(&format!("{names}, with commas between"), &piece));
            };
            let is_time = matches!(role, Role::Time | Role::Delay);
            let unit = column.rsplit_once(':').and_then(|(name, unit)| Some((name, unit.parse().ok()?)));
            let column = match unit.filter(|_| is_time) {
                Some((name, unit)) => {
                    if map.unit.is_some_and(|other| other != unit) {
                        return Err(refused("one unit for time and delay", text));
                    }
                    map.unit = Some(unit);
                    name.trim_end()
                }
                None => column,
            };
            if column.is_empty() || map.keys.iter().any(|&(other, _)| other == role) {
                return Err(refused("each name once, with a column", &piece));
            }
            map.keys.push((role, column.to_owned()));
        }
        let has = |role| map.keys.iter().any(|&(other, _)| other == role);
        if !has(Role::Prompt) || !has(Role::Output) {
            return Err(refused("prompt=COLUMN and output=COLUMN", text));
        }
        if has(Role::Delay) && !(has(Role::Session) && has(Role::Time)) {
            return Err(refused("session=COLUMN and time=COLUMN where there is a delay", text));
        }
        if has(Role::Session) && !has(Role::Time) {
            return Err(refused("time=COLUMN where there are sessions", text));
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_map_names_columns_and_a_unit() {
        let text = r#"time=Timestamp:s,prompt="Request, tokens",output=Response tokens"#;
        let map: ColumnMap = text.parse().expect("a map");
        assert_eq!(map.unit, Some(TimeUnit::Seconds));
        let keys = [(Role::Time, "Timestamp"), (Role::Prompt, "Request, tokens")];
        assert_eq!(map.keys[..2], keys.map(|(role, column)| (role, column.to_owned())));
        assert_eq!(map.keys[2], (Role::Output, "Response tokens".to_owned()));
        // What is no unit belongs to the name.
        let map: ColumnMap = "time=a:b,prompt=p:s,output=o".parse().expect("a map");
        assert_eq!((map.unit, &*map.keys[0].1, &*map.keys[1].1), (None, "a:b", "p:s"));
    }

    #[test]
    fn a_column_map_that_says_too_little_or_too_much_is_refused() {
        for text in [
            "",
            "time=a",
            "prompt=a",
            "prompt=a,output=",
            "prompt=a,output=b,prompt=c",
            "prompt=a,output=b,who=c",
            "prompt=a,output=b,delay=c",
            "prompt=a,output=b,session=c",
            "time=t:s,prompt=a,output=b,session=c,delay=d:ms",
        ] {
            let error = text.parse::<ColumnMap>().expect_err(text).to_string();
            assert!(error.starts_with("columns: expected "), "{text}: {error}");
        }
    }
}
