//! The router by its promises: every request leaves exactly once, no admission passes a capacity, waits are
//! bounded, and no report, however late, lost, repeated or reordered, breaks the account.

mod claims;
mod engine;
mod fronts;
mod herd;
mod model;
mod reports;
mod ruin;
mod rules;
mod whole;
