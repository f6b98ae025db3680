//! Tables for people and what is in the JSON for programs.

mod calibration;
mod document;
mod figures;
pub mod folder;
pub mod json;
mod lines;
pub mod metric;
mod paired;
pub mod results;
mod rules;
mod table;
mod trace;
pub mod verdict;

pub use calibration::calibration;
pub use document::{Arguments, Document};
pub(crate) use figures::aligned;
pub use figures::{Spread, by_policy, short};
pub use lines::CsvLines;
pub use paired::{Paired, differences, paired};
pub use rules::{RulesDocument, rules};
pub use table::{footing, heading, latencies, table, waits};
pub use trace::{load, shape};
