//! What a trace is like: lengths of its requests, and when they come.

use super::plot::{Axis, Plot};
use super::{Figure, amount};
use crate::error::SimError;
use crate::report::per_second;
use crate::report::results::{ArrivalBins, SourceEntry};

fn share(percent: f64) -> String {
    format!("{percent:.0} %")
}

/// The edge of the next bin of lengths: bins are powers of the square root of 2.
fn next_edge(edge: u32) -> f64 {
    f64::from(edge) * std::f64::consts::SQRT_2
}

fn lengths(title: &str, bins: &[(u32, u64)], command: &str) -> Result<Option<Figure>, SimError> {
    // A file may say more of them than a u64 holds.
    let total: f64 = bins.iter().map(|&(_, requests)| requests as f64).sum();
    if total == 0.0 {
        return Ok(None);
    }
    let bars: Vec<(f64, f64, f64)> = (bins.iter())
        .map(|&(edge, requests)| {
            // Nothing has no place on such an axis; it is drawn as the half of one.
            let edge = edge.max(1);
            (f64::from(edge), next_edge(edge), 100.0 * requests as f64 / total)
        })
        .collect();
    let x = Axis::log(bars.iter().flat_map(|bar| [bar.0, bar.1]), amount).labelled("tokens");
    let mut plot = Plot::new(x, Axis::linear(bars.iter().map(|bar| bar.2), share))?;
    plot.bars("bar", bars);
    let words = format!("{title}: a histogram");
    Ok(Some(Figure::new(title, plot.finish(&words), "Share of the requests.", command)))
}

fn arrivals(bins: &ArrivalBins, command: &str) -> Result<Option<Figure>, SimError> {
    if bins.bin_s <= 0.0 || bins.requests.len() < 2 {
        return Ok(None);
    }
    let span_s = bins.bin_s * bins.requests.len() as f64;
    let (unit, scale) = super::time_unit(span_s);
    let bars = bins.requests.iter().enumerate().map(|(at, &requests)| {
        let from = at as f64 * bins.bin_s / scale;
        (from, from + bins.bin_s / scale, requests as f64 / bins.bin_s)
    });
    let bars: Vec<(f64, f64, f64)> = bars.collect();
    let x = Axis::between(0.0, span_s / scale, super::plain).labelled(unit);
    let mut plot = Plot::new(x, Axis::linear(bars.iter().map(|bar| bar.2), per_second))?;
    plot.bars("bar", bars);
    let note = format!("Requests a second, in bins of {} s.", bins.bin_s);
    Ok(Some(Figure::new("Arrivals", plot.finish("Arrivals over time: a histogram"), &note, command)))
}

/// Lengths and, where times are known, arrivals.
///
/// # Errors
/// One cannot be drawn.
pub(super) fn figures(source: &SourceEntry, command: &str) -> Result<Vec<Figure>, SimError> {
    let mut figures = Vec::new();
    figures.extend(lengths("Lengths of prompts", &source.prompt_tokens, command)?);
    figures.extend(lengths("Lengths of outputs", &source.output_tokens, command)?);
    if let Some(bins) = &source.arrivals {
        figures.extend(arrivals(bins, command)?);
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_a_file_may_be_more_than_a_number_holds() {
        let bins = [(1, u64::MAX), (2, u64::MAX), (4, 0)];
        let figure = lengths("Lengths", &bins, "").expect("drawn").expect("not empty");
        assert!(figure.svg.contains("class=\"bar\""), "{}", figure.svg);
        assert!(lengths("Lengths", &[(1, 0)], "").expect("drawn").is_none());
    }
}
