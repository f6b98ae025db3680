//! What a replay has found, for people.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::page::{Grid, Page};
use crate::recording::{Explained, Played};

const HEAD: [[&str; 11]; 2] = [
    ["request", "", "worker", "score", "second", "score", "margin", "waited", "passed", "class", "reason"],
    ["", "", "", "tokens", "worker", "tokens", "tokens", "steps", "", "", ""],
];

/// What the columns of an explained step mean.
const LEGEND: [(&str, &str); 9] = [
    ("worker", "that it enters, or claims while it waits"),
    ("score tokens", "what the policy gives for the pair as the step begins, if it scores pairs"),
    ("second worker", "the best other one with a free slot and room as the step begins"),
    ("score tokens", "the score there"),
    ("margin tokens", "by which the worker is below the most loaded one as the step begins"),
    ("waited steps", "since it was enqueued"),
    ("passed", "requests of its class that came later and were admitted before it"),
    ("class", "its priority"),
    ("reason", "why it waits or comes back"),
];

/// A replay in words, and the last step as a table where it was to be explained.
#[must_use]
pub fn played(played: &Played, with_legend: bool) -> Page {
    let mut text = String::new();
    let began = i64::try_from(played.began_unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let began = began.map_or_else(|| "?".to_owned(), |began| began.to_string());
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}: policy {}, from {began}", played.log, played.policy);
    if played.calls_before > 0 {
        let _ = writeln!(text, "{} calls before it are gone", played.calls_before);
    }
    let _ = writeln!(
        text,
        "{} calls, {} steps: {} requests came, {} were admitted, {} finished, {} were given up, {} returned",
        played.calls,
        played.steps,
        played.arrived,
        played.admitted,
        played.finished,
        played.aborted,
        played.returned
    );
    let _ = writeln!(text, "{} wait and {} run where it ends", played.waiting, played.running);
    for torn in &played.torn {
        let _ = writeln!(text, "{} cannot be read from byte {} on", torn.segment, torn.byte);
    }
    match &played.difference {
        None => text.push_str("every call answers as it did\n"),
        Some(found) => {
            let _ = writeln!(
                text,
                "call {} (step {}) answers otherwise:\n  made      {}\n  recorded  {}\n  now       {}",
                found.call, found.step, found.made, found.recorded, found.answered
            );
        }
    }
    let page = Page::new().text(text);
    let Some(explained) = &played.explained else { return page };
    if explained.is_empty() {
        return page.text(format!("step {}: nobody enters, waits or comes back\n", played.steps));
    }
    let head = HEAD.map(|row| row.map(str::to_owned).to_vec());
    let rows = head.into_iter().chain(explained.iter().map(row)).collect();
    let page = page.captioned(format!("step {}\n", played.steps), Grid::new(rows, HEAD.len()));
    if with_legend { page.legend(LEGEND) } else { page }
}

fn row(explained: &Explained) -> Vec<String> {
    fn shown<T: ToString>(value: Option<T>) -> String {
        value.map_or_else(|| "-".to_owned(), |value| value.to_string())
    }
    let tokens = |value: Option<f64>| shown(value.map(|tokens| format!("{tokens:.0}")));
    vec![
        explained.request.to_string(),
        explained.decided.to_owned(),
        shown(explained.worker),
        tokens(explained.score_tokens),
        shown(explained.second_worker),
        tokens(explained.second_score_tokens),
        tokens(explained.margin_tokens),
        shown(explained.waited_steps),
        shown(explained.passed),
        shown(explained.priority),
        explained.reason.clone().unwrap_or_default(),
    ]
}
