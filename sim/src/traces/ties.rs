//! Arrivals that are logged in coarse ticks.

/// Spreads the arrivals of a tick evenly up to the next one; they are in order.
pub(super) fn spread(arrival_s: &mut [f64]) {
    let starts: Vec<(f64, usize)> =
        arrival_s.chunk_by(|a, b| a == b).map(|tick| (tick[0], tick.len())).collect();
    // A silent gap is not spread over: no tick is longer than the shortest distance between two.
    let tick = starts.windows(2).map(|pair| pair[1].0 - pair[0].0).fold(f64::INFINITY, f64::min);
    let tick = if tick.is_finite() { tick } else { 0.0 };
    let mut at = 0;
    for (start, count) in starts {
        for position in 0..count {
            arrival_s[at] = start + tick * position as f64 / count as f64;
            at += 1;
        }
    }
}
