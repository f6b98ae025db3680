//! Tables for people and what is in the JSON for programs.

mod calibration;
mod document;
pub mod evaluated;
mod figures;
pub mod folder;
pub mod json;
mod legend;
mod lines;
pub mod metric;
pub mod page;
mod paired;
mod recorded;
pub mod results;
mod rules;
pub mod sizing;
mod table;
mod trace;
pub mod verdict;

pub use calibration::{calibration, calibration_page};
pub use document::{Arguments, Document};
pub use figures::{Spread, by_policy, short};
pub(crate) use legend::{
    FORECAST as FORECAST_LEGEND, OPTIMUM as OPTIMUM_LEGEND, SETTINGS as SETTINGS_LEGEND,
    SWEEP as SWEEP_LEGEND, of as legend_of,
};
pub use lines::{CsvLines, Records, records};
pub(crate) use paired::difference_grid;
pub use paired::{Paired, differences, paired};
pub use recorded::played;
pub use rules::{RulesDocument, rules};
pub use table::{footing, heading, latencies, page as simulation, table, waits};
pub(crate) use trace::{duration, per_second};
pub use trace::{load, shape, shape_page};
