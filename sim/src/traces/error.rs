//! What can be wrong with a trace, as values.

use std::borrow::Cow;

use thiserror::Error;

/// A trace that cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The file cannot be read.
    #[error("{file}: {source}")]
    Io {
        /// Path as given.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// A folder, a device, a fifo or a socket; nothing of it has been read.
    #[error("{file}: a trace: expected a regular file or - for stdin, found {found}")]
    NotAFile {
        /// Path as given.
        file: String,
        /// What it is.
        found: &'static str,
    },
    /// An encoding, a compression or a container that is not read.
    #[error("{file}: a trace: expected text in UTF-8, also in gzip or zstd, found {found}; {hint}")]
    Encoding {
        /// Path as given.
        file: String,
        /// What it is.
        found: &'static str,
        /// What makes text of it.
        hint: &'static str,
    },
    /// A line, or a CSV row over several, that does not end within the limit. Never skipped: where it ends is
    /// not known.
    #[error(
        "{file}:{line}: a line of a trace: expected at most {limit} bytes, found at least {found_at_least}"
    )]
    LineTooLong {
        /// Path as given.
        file: String,
        /// Line number, from 1; of a row over several, the first.
        line: u64,
        /// Most bytes that it may have.
        limit: usize,
        /// Bytes that it has at least.
        found_at_least: usize,
    },
    /// None of the known layouts.
    #[error(
        "{file}: not a known trace: expected {expected}, or --columns to say which columns hold what; \
         found {found:?}"
    )]
    Unrecognised {
        /// Path as given.
        file: String,
        /// What traces of the known layouts begin with.
        expected: String,
        /// Its first line, or its columns.
        found: String,
    },
    /// Texts and no numbers of tokens.
    #[error(
        "{file}: {what}: expected numbers of tokens, found texts; a tokenizer has to count them: serve them \
         with `vllm bench serve --dataset-name sharegpt --save-detailed` and give its result"
    )]
    Texts {
        /// Path as given.
        file: String,
        /// The key that holds them.
        what: &'static str,
    },
    /// What could be read in two ways. Never skipped: every row would be read wrongly.
    #[error("{file}:{line}: {what}: expected {expected}, found {found:?}; {flag} settles it")]
    Ambiguous {
        /// Path as given.
        file: String,
        /// Line number, from 1.
        line: u64,
        /// The column or key.
        what: String,
        /// What would be clear.
        expected: Cow<'static, str>,
        /// What it holds.
        found: String,
        /// The flag that settles it.
        flag: &'static str,
    },
    /// Prefix blocks of another size than the layout has.
    #[error(
        "{file}: hash_ids: expected blocks of {block_tokens} tokens, found {blocks} blocks for \
         {prompt_tokens} prompt tokens; --block-tokens settles it"
    )]
    Blocks {
        /// Path as given.
        file: String,
        /// Tokens of a block as the layout has them.
        block_tokens: u32,
        /// Blocks of all prompts.
        blocks: u64,
        /// Tokens of all prompts with blocks.
        prompt_tokens: u64,
    },
    /// A column that `--columns` names and the head does not.
    #[error("{file}: --columns: expected one of the columns {expected}; found {found:?}")]
    NoColumn {
        /// Path as given.
        file: String,
        /// Columns that there are.
        expected: String,
        /// The one asked for.
        found: String,
    },
    /// A malformed row.
    #[error("{file}:{line}: {what}: expected {expected}, found {found:?}")]
    Row {
        /// Path as given.
        file: String,
        /// Line number, from 1.
        line: u64,
        /// The column or key.
        what: String,
        /// What it should hold.
        expected: Cow<'static, str>,
        /// What it holds.
        found: String,
    },
    /// Nothing left to run.
    #[error(
        "{file}: no rows to run ({skipped} skipped as malformed, {without_output} without output, {filtered} \
         below the least output)"
    )]
    Empty {
        /// Path as given.
        file: String,
        /// Malformed rows.
        skipped: u64,
        /// Rows that failed or generated nothing.
        without_output: u64,
        /// Rows below the least output length.
        filtered: u64,
    },
    /// What is asked of the reader, or of what converts, contradicts itself or the trace.
    #[error("{what}: expected {expected}, found {found:?}")]
    Option {
        /// The option.
        what: &'static str,
        /// What it should be.
        expected: Cow<'static, str>,
        /// What it is.
        found: String,
    },
}

impl TraceError {
    pub(super) fn option(
        what: &'static str,
        expected: impl Into<Cow<'static, str>>,
        found: impl Into<String>,
    ) -> Self {
        Self::Option { what, expected: expected.into(), found: found.into() }
    }
}
