//! Tables for people and what is in the JSON for programs.

mod document;
mod figures;
pub mod json;
mod table;

pub use document::{Arguments, Document};
pub(crate) use figures::aligned;
pub use figures::{Spread, by_policy, short};
pub use table::{footing, heading, table};
