//! The published figures, in one place: BalanceRoute, arXiv 2605.06113, DeepSeek-V3 W8A8 on Ascend 910C.
//!
//! The mean imbalance of the print is said to be max - min, but its size fits `G * max - sum`, which is what
//! stands beside it here.

use serde::Serialize;

use crate::workloads::Workload;

/// Where the figures are from.
pub const SOURCE: &str = "BalanceRoute, arXiv 2605.06113";

/// One policy in the table of G = 8.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Printed {
    /// Our name of the policy.
    #[serde(skip)]
    pub policy: &'static str,
    /// Mean imbalance in tokens.
    pub imbalance: f64,
    /// 95th percentile of the time per output token in ms.
    pub tpot_p95_ms: f64,
    /// Tokens per second.
    pub tokens_per_s: f64,
}

const fn printed(policy: &'static str, imbalance: f64, tpot_p95_ms: f64, tokens_per_s: f64) -> Printed {
    Printed { policy, imbalance, tpot_p95_ms, tokens_per_s }
}

/// G = 8, the proprietary trace of means 3197 and 1185, for which `paper-prod` stands.
const PROD: [Printed; 8] = [
    printed("random", 438_225.0, 85.2, 811.0),
    printed("round-robin", 254_798.0, 83.2, 847.0),
    printed("power-of-two", 262_940.0, 84.0, 836.0),
    printed("jsq", 215_110.0, 83.2, 843.0),
    printed("br0", 51_927.0, 79.3, 943.0),
    printed("brh-oracle", 23_577.0, 78.0, 1_029.0),
    printed("brh-survival", 40_757.0, 78.7, 979.0),
    printed("brh-exactmatch", 36_277.0, 78.8, 977.0),
];

/// G = 8, Azure 2024 cut to outputs above 1000 (means 4652 and 1052), for which `paper-azure` stands.
const AZURE: [Printed; 8] = [
    printed("random", 146_564.0, 90.3, 706.0),
    printed("round-robin", 110_049.0, 89.1, 771.0),
    printed("power-of-two", 109_033.0, 89.3, 794.0),
    printed("jsq", 104_737.0, 89.3, 785.0),
    printed("br0", 54_051.0, 83.3, 854.0),
    printed("brh-oracle", 35_301.0, 77.3, 957.0),
    printed("brh-survival", 44_010.0, 82.1, 893.0),
    printed("brh-exactmatch", 38_496.0, 82.3, 909.0),
];

/// The table of G = 8 on a workload; empty where nothing was published.
#[must_use]
pub fn table(workload: Workload) -> &'static [Printed] {
    match workload {
        Workload::PaperProd => &PROD,
        Workload::PaperAzure => &AZURE,
        _ => &[],
    }
}

/// Tokens per second on the proprietary trace at so many workers: best baseline, BR-0, BR-H with true ends.
pub const SCALE: [(usize, [f64; 3]); 3] =
    [(4, [366.0, 407.0, 415.0]), (8, [847.0, 943.0, 1_029.0]), (16, [927.0, 1_118.0, 1_247.0])];

/// Tokens per second of the least and the greatest cell of the sweep over beta and gamma, all of them above
/// the best baseline; the grid itself was not published.
pub const SWEEP: [f64; 2] = [945.0, 1_043.0];

/// Steps looked ahead in the main runs.
pub const HORIZON_STEPS: usize = 80;

/// Requests whose subsets are tried.
pub const R_MAX: usize = 4;

/// Time of a dispatch by the authors' proxy, which is in Python, at the median and the 99th percentile.
pub const DISPATCH_US: [f64; 2] = [1_200.0, 2_770.0];
