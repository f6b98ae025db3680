//! How results are laid out on standard output, and where their document goes.

use std::io;
use std::path::Path;

use balanceroute_sim::SimError;
use balanceroute_sim::report::json::JsonFile;
use balanceroute_sim::report::page::{Page, Style};
use balanceroute_sim::report::{Records, records};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::hand_over;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Columns for people, as wide as the terminal.
    Table,
    /// The document for programs: all figures of all runs.
    Json,
    /// A line a run, all figures.
    Csv,
    /// The tables in Markdown.
    Md,
}

#[derive(Args)]
pub(crate) struct OutputArgs {
    /// What is written to standard output.
    #[arg(long, value_enum, default_value = "table", value_name = "F")]
    format: Format,
    /// Say below the tables what their columns mean.
    #[arg(long)]
    legend: bool,
}

/// How wide the terminal is, where standard output is one.
fn style() -> Style {
    let terminal = console::Term::stdout();
    let size = if terminal.is_term() { terminal.size_checked() } else { None };
    size.map_or(Style::Plain, |(_, columns)| Style::Within(columns.into()))
}

impl OutputArgs {
    /// Refuses two things on standard output, before anything runs: the document and another format, or
    /// `other` and any.
    pub(crate) fn check(&self, json: Option<&JsonFile>, other: bool) -> Result<(), SimError> {
        let taken = match self.format {
            Format::Table => false,
            Format::Json => other,
            Format::Csv | Format::Md => other || json.is_some_and(JsonFile::is_stdout),
        };
        if taken {
            let found = self.format.to_possible_value().map_or(String::new(), |of| of.get_name().to_owned());
            let expected = "table, since something else goes to standard output".to_owned();
            return Err(SimError::Argument { name: "format", expected, found });
        }
        Ok(())
    }

    /// Results to standard output in the format that was asked for, the document to its file.
    pub(crate) fn hand_over<R: Serialize>(
        &self,
        json: Option<JsonFile>,
        document: &impl Serialize,
        page: impl FnOnce(Style, bool) -> Page,
        rows: impl FnOnce() -> Vec<R>,
        first: &[&str],
    ) -> Result<(), SimError> {
        match self.format {
            Format::Table => {
                let style = style();
                hand_over(json, &page(style, self.legend).show(style), document)
            }
            Format::Md => {
                hand_over(json, &page(Style::Markdown, self.legend).show(Style::Markdown), document)
            }
            Format::Csv => hand_over(json, &text(records(&rows(), first)?)?, document),
            Format::Json => {
                // A document on standard output already is the one that is asked for.
                if let Some(file) = json.filter(|file| !file.is_stdout()) {
                    file.write(document)?.publish()?;
                }
                JsonFile::create(Path::new("-"))?.write(document)?.publish()
            }
        }
    }

    /// As [`OutputArgs::hand_over`], where the document has no file of its own.
    pub(crate) fn show<R: Serialize>(
        &self,
        document: &impl Serialize,
        page: impl FnOnce(Style, bool) -> Page,
        rows: impl FnOnce() -> Vec<R>,
        first: &[&str],
    ) -> Result<(), SimError> {
        self.hand_over(None, document, page, rows, first)
    }
}

fn text(records: Records) -> Result<String, SimError> {
    records.csv().map_err(|error| SimError::Stdout { source: io::Error::other(error) })
}
