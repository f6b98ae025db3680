//! The listing of rules.

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;

use crate::rules::{Decides, Need, RuleInfo};

/// The JSON of the listing.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RulesDocument {
    /// Version of this crate.
    pub version: &'static str,
    /// Every rule, those of the library first.
    pub policies: &'static [RuleInfo],
}

impl RulesDocument {
    /// Of all rules.
    #[must_use]
    pub fn new() -> Self {
        Self { version: env!("CARGO_PKG_VERSION"), policies: crate::rules::all() }
    }
}

impl Default for RulesDocument {
    fn default() -> Self {
        Self::new()
    }
}

/// Columns to the left, as wide as they are.
fn columns(rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt() + "\n"
}

fn name(rule: &RuleInfo) -> String {
    std::iter::once(rule.name).chain(rule.aliases.iter().copied()).collect::<Vec<_>>().join(", ")
}

/// A line a rule: its names, whose it is, when it decides, what it must be told, who uses it and what it
/// does; then what was chosen where sources leave something open.
#[must_use]
pub fn rules(rules: &[RuleInfo]) -> String {
    let head = ["policy", "ours", "decides", "needs", "used by", "rule"].map(str::to_owned).to_vec();
    let line = |rule: &RuleInfo| {
        let needs: Vec<&str> = rule.needs.iter().map(|&need| Need::name(need)).collect();
        vec![
            name(rule),
            (if rule.ours { "yes" } else { "-" }).to_owned(),
            (if rule.decides == Decides::Arrival { "arrival" } else { "step" }).to_owned(),
            if needs.is_empty() { "-".to_owned() } else { needs.join(", ") },
            rule.used_by.to_owned(),
            rule.about.to_owned(),
        ]
    };
    let table = |in_library: bool| {
        let of = rules.iter().filter(|rule| rule.in_library == in_library).map(line);
        let rows: Vec<Vec<String>> = std::iter::once(head.clone()).chain(of).collect();
        columns(&rows)
    };
    let open = rules.iter().filter_map(|rule| Some(format!("{}: {}\n", rule.name, rule.ours_to_choose?)));
    format!(
        "In the library:\n\n{}\nSimulated only, by name:\n\n{}\nChosen here, where their sources leave it \
         open:\n\n{}",
        table(true),
        table(false),
        open.collect::<String>()
    )
}
