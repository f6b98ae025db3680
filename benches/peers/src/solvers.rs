//! Assignment solvers: the best total of F as it stands before the first admission. They know neither aging
//! nor how an admission changes the scores of the others.

use std::collections::HashSet;
use std::time::Duration;

use pathfinding::matrix::Matrix;
use pathfinding::prelude::kuhn_munkres;

use crate::time;

/// Times of `kuhn_munkres` and `lsap` for one row per free slot and one column per request.
pub(crate) fn solve(rows: &[Vec<i64>]) -> [Duration; 2] {
    let (slots, requests) = (rows.len(), rows[0].len());
    let whole = Matrix::from_rows(rows.iter().cloned()).expect("a rectangle");
    let flat: Vec<f64> = rows.iter().flatten().map(|&score| score as f64).collect();

    let (total, picks) = kuhn_munkres(&whole);
    assert_eq!(picks.iter().collect::<HashSet<_>>().len(), slots, "a request for every slot");
    let (slot_of, request_of) = lsap::solve(slots, requests, &flat, true).expect("a finite matrix");
    assert_eq!(request_of.iter().collect::<HashSet<_>>().len(), slots, "a request for every slot");
    let found: i64 = slot_of.iter().zip(&request_of).map(|(&slot, &request)| rows[slot][request]).sum();
    assert_eq!(found, total, "both are optimal");

    [
        time(|| kuhn_munkres(&whole)),
        time(|| lsap::solve(slots, requests, &flat, true).map(|pair| pair.0.len())),
    ]
}
