//! What a router's process shows on its metrics page, in the text format of Prometheus: that of the Python
//! package, or an engine's own with the series of a plug-in.

use std::collections::BTreeMap;
use std::io;

use prometheus_parse::{Scrape, Value};

use super::{Moment, Rank};

/// Longest time for an answer, in seconds.
const TIMEOUT_S: u64 = 5;

/// Asks an address again and again.
#[derive(Debug)]
pub struct Scraper {
    url: String,
    prefix: String,
    /// What histograms counted when they were read last, by name.
    before: BTreeMap<String, Vec<(f64, f64)>>,
}

impl Scraper {
    /// `http://HOST:PORT/metrics`, and what the names of the series begin with.
    #[must_use]
    pub fn new(url: &str, prefix: &str) -> Self {
        Self { url: url.to_owned(), prefix: prefix.to_owned(), before: BTreeMap::new() }
    }

    /// Asks once.
    ///
    /// # Errors
    /// In words: no answer, another status than 200, no such text, or no series of a router.
    pub fn ask(&mut self) -> Result<Moment, String> {
        let url = &self.url;
        let answer = minreq::get(url).with_timeout(TIMEOUT_S).send();
        let answer = answer.map_err(|error| format!("{url}: {error}"))?;
        if answer.status_code != 200 {
            return Err(format!("{url}: expected 200, found {}", answer.status_code));
        }
        let page = answer.as_str().map_err(|error| format!("{url}: {error}"))?.to_owned();
        self.read(&page)
    }

    /// Reads a page.
    pub(super) fn read(&mut self, page: &str) -> Result<Moment, String> {
        let lines = page.lines().map(|line| Ok::<_, io::Error>(line.to_owned()));
        let scrape = Scrape::parse(lines).map_err(|error| format!("{}: {error}", self.url))?;
        let mut ranks: BTreeMap<String, Rank> = BTreeMap::new();
        let mut moment = Moment { at: format!("read at {}", now()), ..Moment::default() };
        let (mut admitted, mut capacities) = (None, BTreeMap::new());
        for sample in &scrape.samples {
            let Some(name) = sample.metric.strip_prefix(&self.prefix).and_then(|name| name.strip_prefix('_'))
            else {
                continue;
            };
            let (Value::Gauge(value) | Value::Counter(value) | Value::Untyped(value)) = sample.value else {
                continue;
            };
            if let Some(worker) = sample.labels.get("worker") {
                let empty = || Rank { worker: worker.to_owned(), accepting: true, ..Rank::default() };
                let rank = ranks.entry(worker.to_owned()).or_insert_with(empty);
                match name.strip_prefix("worker_").unwrap_or(name) {
                    "load_tokens" => rank.load_tokens = value.max(rank.load_tokens),
                    // Of several front ends each tells its part.
                    "running_requests" => rank.running += value as u64,
                    "free_slots" => rank.free_slots += value as u64,
                    "kv_used_tokens" => rank.kv_tokens = Some((value, f64::NAN)),
                    "kv_capacity_tokens" => drop(capacities.insert(worker.to_owned(), value)),
                    "accepting" => rank.accepting = value != 0.0,
                    "claimed" => rank.claimed = value != 0.0,
                    _ => {}
                }
                continue;
            }
            match name {
                "waiting_requests" => {
                    moment.waiting += value as u64;
                    let reason = sample.labels.get("reason").unwrap_or("waits");
                    if value > 0.0 {
                        moment.reasons.push((reason.to_owned(), value as u64));
                    }
                }
                "held_requests" => moment.waiting += value as u64,
                "longest_wait_seconds" => moment.longest_wait_ms = Some(1e3 * value),
                "most_passed_waiting" => moment.most_passed = Some(value as u64),
                "decisions_total" => *admitted.get_or_insert(0) += value as u64,
                _ => {}
            }
        }
        if ranks.is_empty() {
            let expected = format!("{0}_worker_load_tokens or {0}_load_tokens of workers", self.prefix);
            return Err(format!("{}: expected the series {expected}, found none", self.url));
        }
        for rank in ranks.values_mut() {
            let fit = capacities.get(&rank.worker);
            rank.kv_tokens = rank.kv_tokens.zip(fit).map(|((used, _), &fit)| (used, fit));
        }
        moment.ranks = ranks.into_values().collect();
        // As numbers where they are numbers.
        moment.ranks.sort_by_key(|rank| (rank.worker.parse().unwrap_or(u64::MAX), rank.worker.clone()));
        moment.admitted = admitted;
        moment.wait_ms = self.quantiles(&scrape, "wait_seconds", 1e3);
        moment.decide_us = self.quantiles(&scrape, "decide_seconds", 1e6);
        Ok(moment)
    }

    /// Of what has been counted since the last time, or of all where that is nothing.
    fn quantiles(&mut self, scrape: &Scrape, name: &str, scale: f64) -> Option<(f64, f64)> {
        let name = format!("{}_{name}", self.prefix);
        let sample = scrape.samples.iter().find(|sample| sample.metric == name)?;
        let Value::Histogram(buckets) = &sample.value else { return None };
        let counts: Vec<(f64, f64)> = buckets.iter().map(|of| (of.less_than, of.count)).collect();
        let before = self.before.insert(name, counts.clone()).filter(|before| before.len() == counts.len());
        let fresh = before.map(|before| -> Vec<(f64, f64)> {
            counts.iter().zip(before).map(|(now, before)| (now.0, now.1 - before.1)).collect()
        });
        let total = |counts: &[(f64, f64)]| counts.last().map_or(0.0, |&(_, count)| count);
        let of = fresh.filter(|fresh| total(fresh) > 0.0).unwrap_or(counts);
        let at =
            |q: f64| of.iter().find(|&&(_, count)| count >= q * total(&of)).map(|&(bound, _)| scale * bound);
        (total(&of) > 0.0).then(|| Some((at(0.5)?, at(0.99)?)))?
    }
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%H:%M:%S UTC").to_string()
}
