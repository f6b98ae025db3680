//! The rows that have been read: what becomes of each, and which turns wait for which.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use balanceroute::batch::MAX_PROMPT_TOKENS;
use serde_json::Value;

use super::error::TraceError;
use super::layout::{Layout, Role};
use super::options::ReadOptions;
use super::stamp::{Clock, MOST_TICKS};
use crate::job::Job;

/// Most tokens that a trace may ask one request to generate.
const MAX_OUTPUT_TOKENS: u32 = 1 << 24;

const PROMPT_EXPECTED: &str = "a whole number of tokens in 1..=4194304";
const OUTPUT_EXPECTED: &str = "a whole number of tokens in 0..=16777216";

/// A row refused, before the file and line are known.
#[derive(Debug)]
pub(super) struct Bad {
    what: String,
    expected: Cow<'static, str>,
    found: String,
    /// The flag without which nobody can know what it means.
    pub(super) settles: Option<&'static str>,
}

impl Bad {
    pub(super) fn new(what: &str, expected: impl Into<Cow<'static, str>>, found: impl Into<String>) -> Self {
        Self { what: what.to_owned(), expected: expected.into(), found: found.into(), settles: None }
    }

    pub(super) fn settled_by(self, flag: &'static str) -> Self {
        Self { settles: Some(flag), ..self }
    }

    pub(super) fn at(self, file: &str, line: u64) -> TraceError {
        let Self { what, expected, found, settles } = self;
        let (file, found) = (file.to_owned(), found.chars().take(80).collect());
        match settles {
            Some(flag) => TraceError::Ambiguous { file, line, what, expected, found, flag },
            None => TraceError::Row { file, line, what, expected, found },
        }
    }
}

/// What a row holds in one place.
pub(super) enum Cell<'a> {
    Text(Cow<'a, str>),
    List(&'a [Value]),
}

/// A row of a table, a JSON object, or a request within a result.
pub(super) trait Record {
    /// What is under the key at this place of the layout's list.
    fn cell(&self, at: usize) -> Option<Cell<'_>>;

    /// Why there is nothing.
    fn missing(&self) -> String;
}

/// A request that can be run.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Arrival; before sessions wait for each other the earliest that it can be.
    pub(super) ticks: i64,
    pub(super) job: Job,
    /// The row of the turn before it, and how long after its end it comes at the earliest.
    pub(super) after: Option<(u32, i64)>,
}

/// The last turn of a session, or the turn of an id.
#[derive(Clone, Copy, Debug)]
struct Turn {
    /// Its row, or that of the last one before it that was kept.
    kept: Option<u32>,
    ticks: i64,
    end: Option<i64>,
    /// What those left out after the kept one add to the delay of the next.
    delay: i64,
}

enum Taken {
    Kept(Row),
    WithoutOutput,
    Filtered,
    /// No request at all.
    Other,
}

/// What has been read so far, and what to do with the next row.
pub(super) struct Rows<'a> {
    /// File, for errors.
    pub(super) file: &'a str,
    pub(super) options: &'a ReadOptions,
    pub(super) layout: Layout,
    clock: Clock,
    turns: HashMap<String, Turn>,
    pub(super) rows: Vec<Row>,
    pub(super) skipped: u64,
    pub(super) filtered: u64,
    pub(super) without_output: u64,
    /// Rows that are no requests, and requests with images.
    pub(super) others: u64,
    pub(super) with_images: u64,
}

impl<'a> Rows<'a> {
    pub(super) fn new(file: &'a str, options: &'a ReadOptions, layout: Layout) -> Self {
        let layout = layout.with(options);
        let told = options.time_unit.is_some() || options.columns.is_some();
        Self {
            file,
            options,
            clock: Clock::new(layout.unit, layout.whole_times).told(told),
            layout,
            turns: HashMap::new(),
            rows: Vec::new(),
            skipped: 0,
            filtered: 0,
            without_output: 0,
            others: 0,
            with_images: 0,
        }
    }

    /// Takes the row of a line, leaves it out, or refuses the trace for it.
    pub(super) fn take(&mut self, line: u64, record: &dyn Record) -> Result<(), TraceError> {
        match self.read(record) {
            Ok(Taken::Kept(row)) => self.rows.push(row),
            Ok(Taken::WithoutOutput) => self.without_output += 1,
            Ok(Taken::Filtered) => self.filtered += 1,
            Ok(Taken::Other) => self.others += 1,
            Err(bad) => self.refuse(line, bad)?,
        }
        Ok(())
    }

    /// A row that is malformed.
    pub(super) fn refuse(&mut self, line: u64, bad: Bad) -> Result<(), TraceError> {
        if bad.settles.is_none() && self.options.skip_bad_rows {
            self.skipped += 1;
            return Ok(());
        }
        Err(bad.at(self.file, line))
    }

    fn cell<'r>(&self, record: &'r dyn Record, role: Role) -> Option<Cell<'r>> {
        let keys = self.layout.keys.iter().enumerate().filter(|(_, (other, _))| *other == role);
        keys.filter_map(|(at, _)| record.cell(at)).next()
    }

    /// The text of a cell that is there and not empty.
    fn text<'r>(&self, record: &'r dyn Record, role: Role) -> Option<Cow<'r, str>> {
        match self.cell(record, role)? {
            Cell::Text(text) if text.is_empty() => None,
            Cell::Text(text) => Some(text),
            Cell::List(list) => Some(Cow::Owned(format!("a list of {}", list.len()))),
        }
    }

    fn key(&self, role: Role) -> &str {
        self.layout.key(role).unwrap_or_default()
    }

    fn has_failed(&self, record: &dyn Record) -> bool {
        let keys = self.layout.keys.iter().enumerate().filter(|(_, (role, _))| *role == Role::Failed);
        keys.filter_map(|(at, _)| record.cell(at))
            .any(|cell| !matches!(cell, Cell::Text(text) if ["", "false"].contains(&&*text)))
    }

    fn read(&mut self, record: &dyn Record) -> Result<Taken, Bad> {
        let (prompt, output) = (self.cell(record, Role::Prompt), self.cell(record, Role::Output));
        if self.layout.among_others && prompt.is_none() && output.is_none() {
            return Ok(Taken::Other);
        }
        let time = self.time(record)?;
        let job = if self.has_failed(record) { None } else { self.job(record)? };
        let filtered = job.as_ref().is_some_and(|job| job.output_tokens < self.options.min_output_tokens);
        let row = self.rows.len() as u32;
        let kept = job.filter(|_| !filtered);
        let (ticks, after) = self.follow(record, time, kept.is_some().then_some(row))?;
        let has_images = self.text(record, Role::Images).is_some_and(|images| images != "0");
        self.with_images += u64::from(has_images && kept.is_some());
        Ok(match kept {
            Some(job) => Taken::Kept(Row { ticks, job, after }),
            None if filtered => Taken::Filtered,
            None => Taken::WithoutOutput,
        })
    }

    fn time(&mut self, record: &dyn Record) -> Result<Option<i64>, Bad> {
        let key = self.layout.key(Role::Time).map(str::to_owned);
        match (key, self.text(record, Role::Time)) {
            (Some(key), Some(text)) => self.clock.ticks(&key, &text).map(Some),
            (Some(key), None) if self.layout.key(Role::Delay).is_none() => {
                let found = match self.cell(record, Role::Time) {
                    Some(_) => String::new(),
                    None => record.missing(),
                };
                Err(Bad::new(&key, "a time", found))
            }
            _ => Ok(None),
        }
    }

    /// The request of a row; none where it generated nothing.
    fn job(&self, record: &dyn Record) -> Result<Option<Job>, Bad> {
        let tokens = |role, least, most: u32, expected: &'static str| {
            let Some(Cell::Text(text)) = self.cell(record, role) else {
                return Err(Bad::new(self.key(role), expected, record.missing()));
            };
            // What generated nothing is often logged as nothing.
            if role == Role::Output && text.is_empty() {
                return Ok(0);
            }
            let tokens = whole(&text).filter(|tokens| (least..=most).contains(tokens));
            tokens.ok_or_else(|| Bad::new(self.key(role), expected, text))
        };
        let output = tokens(Role::Output, 0, MAX_OUTPUT_TOKENS, OUTPUT_EXPECTED)?;
        if output == 0 {
            return Ok(None);
        }
        let mut job = Job::new(tokens(Role::Prompt, 1, MAX_PROMPT_TOKENS, PROMPT_EXPECTED)?, output);
        if let Some(blocks) = self.blocks(record)? {
            // Equal blocks and equal length: the nearest that the trace has to "the same prompt".
            let mut hasher = DefaultHasher::new();
            (job.prompt_tokens, &blocks).hash(&mut hasher);
            job.prompt_hash = Some(hasher.finish());
            job.prefix_blocks = Some(Arc::from(blocks));
        }
        Ok(Some(job))
    }

    fn blocks(&self, record: &dyn Record) -> Result<Option<Vec<u64>>, Bad> {
        let numbers = |list: &[Value]| list.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>();
        let (blocks, found) = match self.cell(record, Role::Hashes) {
            None => return Ok(None),
            Some(Cell::Text(text)) if text.is_empty() => return Ok(None),
            Some(Cell::List(list)) => (numbers(list), Value::from(list).to_string()),
            // A table holds a list as text.
            Some(Cell::Text(text)) => (serde_json::from_str(&text).ok(), text.into_owned()),
        };
        let expected = "an array of whole numbers";
        blocks.map(Some).ok_or_else(|| Bad::new(self.key(Role::Hashes), expected, found))
    }

    /// Where the row stands in its session: its earliest arrival and the turn that it waits for. `kept` is
    /// the row that it becomes, if it becomes one.
    fn follow(
        &mut self,
        record: &dyn Record,
        time: Option<i64>,
        kept: Option<u32>,
    ) -> Result<(i64, Option<(u32, i64)>), Bad> {
        if self.layout.key(Role::Time).is_none() {
            return Ok((0, None));
        }
        let session = self.text(record, Role::Session);
        let own = self.text(record, Role::Chat).or_else(|| session.clone()).map(Cow::into_owned);
        let parent = self.text(record, Role::Parent).or(session);
        let before = parent.and_then(|parent| self.turns.get(&*parent)).copied();
        let delay = match self.text(record, Role::Delay) {
            Some(text) => Some(self.clock.duration(self.key(Role::Delay), &text)?),
            None => None,
        };
        let ticks = match (time, before, delay) {
            (Some(ticks), Some(turn), _) if ticks < turn.ticks => {
                let expected = "no time before that of the turn before it";
                let text = self.text(record, Role::Time).unwrap_or_default();
                return Err(Bad::new(self.key(Role::Time), expected, text));
            }
            (Some(ticks), ..) => ticks,
            (None, Some(turn), Some(delay)) if turn.ticks + delay < MOST_TICKS => turn.ticks + delay,
            _ => {
                let expected = "a time, or a delay after a turn of its session before it";
                return Err(Bad::new(self.key(Role::Time), expected, record.missing()));
            }
        };
        let since_end = time.zip(before.and_then(|turn| turn.end)).map(|(ticks, end)| (ticks - end).max(0));
        let delay = before.map_or(0, |turn| turn.delay) + delay.or(since_end).unwrap_or(0);
        let after = before.and_then(|turn| turn.kept).map(|row| (row, delay));
        let end = self.end(record, ticks)?;
        if let Some(own) = own {
            let turn = match kept {
                Some(_) => Turn { kept, ticks, end, delay: 0 },
                None => Turn { kept: after.map(|(row, _)| row), ticks, end, delay },
            };
            self.turns.insert(own, turn);
        }
        Ok((ticks, after))
    }

    /// When the request ended where it was logged.
    fn end(&mut self, record: &dyn Record, ticks: i64) -> Result<Option<i64>, Bad> {
        if let Some(text) = self.text(record, Role::End) {
            let key = self.key(Role::End).to_owned();
            return self.clock.ticks(&key, &text).map(Some);
        }
        let Some(text) = self.text(record, Role::Elapsed) else { return Ok(None) };
        Ok(Some(ticks + self.clock.duration(self.key(Role::Elapsed), &text)?))
    }
}

/// `374`, and `374.0` as tools that know no whole numbers write it.
fn whole(text: &str) -> Option<u32> {
    text.parse().ok().or_else(|| {
        let number: f64 = text.parse().ok()?;
        let is_whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
        is_whole.then_some(number as u32)
    })
}
