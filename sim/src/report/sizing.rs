//! The smallest cluster in sentences, and a table of what was found for each number of slots.

use super::figures::short;
use super::legend::{SIZING, of as legend_of};
use super::page::{Grid, Page};
use super::trace::per_second;
use super::verdict::{limits, load};
use crate::evaluation::sizing::{SizeOption, Sizing};

fn workers(count: usize) -> String {
    if count == 1 { "1 worker".to_owned() } else { format!("{count} workers") }
}

/// `99.62 %`: near the whole every hundredth counts.
fn kept(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// `3`, or `3 (2 to 4)` where the windows leave a doubt.
fn with_doubt(option: &SizeOption) -> String {
    match (option.workers, option.low, option.high) {
        (None, ..) => "-".to_owned(),
        (Some(workers), Some(low), Some(high)) if low == workers && high == workers => workers.to_string(),
        (Some(workers), low, Some(high)) => {
            format!("{workers} ({} to {high})", low.unwrap_or(workers))
        }
        (Some(workers), low, None) => format!("{workers} ({} or more)", low.unwrap_or(workers)),
    }
}

/// Sentences: the smallest cluster, what one worker fewer does, and what the other rules need.
#[must_use]
pub fn sentences(sizing: &Sizing) -> Vec<String> {
    let comes = format!("{} at {}", sizing.source, per_second(sizing.rate.requests_per_s));
    let limits = limits(&sizing.limits);
    let Some(best) = sizing.best.map(|at| &sizing.options[at]) else {
        let most = sizing.options.iter().max_by(|a, b| a.there.kept.total_cmp(&b.there.kept));
        let nearest = most.map_or(String::new(), |option| {
            let (count, share) = (workers(option.there.workers), kept(option.there.kept));
            format!(" The nearest: {} on {count} x {} slots, {share}.", option.rule, option.slots)
        });
        let most = workers(sizing.most_workers);
        return vec![format!("{comes}: no cluster of up to {most} keeps {limits}.{nearest}")];
    };
    let count = best.there.workers;
    let mut said = vec![format!(
        "{comes}: {} x {} slots under {} are enough for {limits}: {} keep them, over {} {}s; what comes is \
         {} of what the cluster can serve.",
        workers(count),
        best.slots,
        best.rule,
        kept(best.there.kept),
        sizing.replicates,
        sizing.replicate,
        load(best.there.offered_load),
    )];
    let doubt = match (best.low, best.high) {
        _ if sizing.replicates < 2 => {
            format!("One {} leaves the doubt unknown (--windows).", sizing.replicate)
        }
        (Some(low), Some(high)) if low == count && high == count => {
            format!("The {}s leave no doubt about the number of workers.", sizing.replicate)
        }
        (low, Some(high)) => format!(
            "By what the {}s vary it may be {} to {}.",
            sizing.replicate,
            low.unwrap_or(count),
            workers(high)
        ),
        (low, None) => format!(
            "By what the {}s vary it may be {} or more: no number up to {} is enough beyond doubt.",
            sizing.replicate,
            low.unwrap_or(count),
            sizing.most_workers
        ),
    };
    said.push(doubt);
    if let Some(less) = best.with_one_less {
        said.push(format!("With {} it is {}.", workers(less.workers), kept(less.kept)));
    }
    for rule in rules(sizing).into_iter().filter(|rule| *rule != best.rule) {
        let of_rule = sizing.options.iter().filter(|option| option.rule == rule);
        let least = of_rule.filter_map(|option| Some((option.workers?, option.slots))).min();
        said.push(match least {
            None => format!("{rule} keeps them on no cluster of up to {}.", workers(sizing.most_workers)),
            Some(size) if size == (count, best.slots) => format!("{rule} keeps them there as well."),
            Some((more, slots)) => format!("{rule} needs {} x {slots} slots.", workers(more)),
        });
    }
    said
}

fn rules(sizing: &Sizing) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for option in &sizing.options {
        if !names.contains(&option.rule.as_str()) {
            names.push(&option.rule);
        }
    }
    names
}

/// The sentences, the table, and notes; with what the names of the columns mean where that is asked for.
#[must_use]
pub fn page(sizing: &Sizing, with_legend: bool) -> Page {
    const HEAD: [[&str; 9]; 2] = [
        ["slots", "rule", "workers", "offered", "kept", "kept with", "TTFT", "TPOT", "tok/s"],
        ["", "", "(95 %)", "load", "", "one less", "p99 ms", "p99 ms", "a worker"],
    ];
    let mut rows = HEAD.map(|row| row.map(str::to_owned).to_vec()).to_vec();
    for option in &sizing.options {
        let there = &option.there;
        rows.push(vec![
            option.slots.to_string(),
            option.rule.clone(),
            with_doubt(option),
            load(there.offered_load),
            kept(there.kept),
            option.with_one_less.map_or("-".to_owned(), |less| kept(less.kept)),
            short(there.ttft_p99_ms),
            format!("{:.1}", there.tpot_p99_ms),
            short(there.tokens_per_s / there.workers as f64),
        ]);
    }
    let grid = Grid::new(rows, HEAD.len());
    let names = grid.names();
    let mut notes = Vec::new();
    if sizing.options.iter().any(|option| option.workers.is_none()) {
        let most = sizing.most_workers;
        notes.push(format!("-: no number of workers up to {most}; the row is that which keeps most."));
    }
    notes.extend(sizing.notes.iter().cloned());
    let mut page = Page::new().text(sentences(sizing).join("\n") + "\n").grid(grid);
    if !notes.is_empty() {
        page = page.text(notes.join("\n") + "\n");
    }
    if with_legend { page.legend(legend_of(&SIZING, &names)) } else { page }
}
