//! Parameters by name, for callers that have no Rust structs: C, Python, command lines.

use super::{Parameters, PolicyError};

/// A field that a number can set.
trait Field {
    fn set(&mut self, name: &'static str, value: f64) -> Result<(), PolicyError>;
}

impl Field for f64 {
    fn set(&mut self, _: &'static str, value: f64) -> Result<(), PolicyError> {
        *self = value;
        Ok(())
    }
}

impl Field for bool {
    fn set(&mut self, name: &'static str, value: f64) -> Result<(), PolicyError> {
        *self = whole(name, value, 1)? == 1;
        Ok(())
    }
}

impl Field for u32 {
    fn set(&mut self, name: &'static str, value: f64) -> Result<(), PolicyError> {
        *self = whole(name, value, u32::MAX.into())? as u32;
        Ok(())
    }
}

impl Field for usize {
    fn set(&mut self, name: &'static str, value: f64) -> Result<(), PolicyError> {
        *self = whole(name, value, u32::MAX.into())? as usize;
        Ok(())
    }
}

impl Field for u64 {
    fn set(&mut self, name: &'static str, value: f64) -> Result<(), PolicyError> {
        *self = whole(name, value, 1 << 53)?;
        Ok(())
    }
}

fn whole(name: &'static str, found: f64, high: u64) -> Result<u64, PolicyError> {
    PolicyError::check(name, found, 0.0, high as f64)?;
    if found.fract() == 0.0 { Ok(found as u64) } else { Err(PolicyError::Whole { name, found }) }
}

macro_rules! fields {
    ($($name:literal => $($field:ident).+,)*) => {
        /// Every parameter that [`Parameters::set`] knows.
        pub const PARAMETER_NAMES: &[&str] = &[$($name),*];

        impl Parameters {
            /// Sets one parameter by its name among [`PARAMETER_NAMES`], true as 1. Ranges are checked when a policy is built.
            ///
            /// # Errors
            /// No such name, or a fraction where a whole number belongs.
            pub fn set(&mut self, name: &str, value: f64) -> Result<(), PolicyError> {
                match name {
                    $($name => self.$($field).+.set($name, value),)*
                    _ => Err(PolicyError::ParameterName {
                        found: name.to_owned(),
                        expected: PARAMETER_NAMES.join(", "),
                    }),
                }
            }
        }
    };
}

fields! {
    "seed" => seed,
    "candidate_window" => candidate_window,
    "baseline.stats_refresh_steps" => baseline.stats_refresh_steps,
    "balance_route.greedy_slots" => balance_route.greedy_slots,
    "balance_route.subset_window" => balance_route.subset_window,
    "balance_route.candidate_window" => balance_route.candidate_window,
    "balance_route.horizon_steps" => balance_route.horizon_steps,
    "balance_route.alpha" => balance_route.alpha,
    "balance_route.beta_workers" => balance_route.beta_workers,
    "balance_route.gamma" => balance_route.gamma,
    "exact.aging_tokens_per_step" => exact.aging_tokens_per_step,
    "exact.overdue_mean_waits" => exact.wait_bound.overdue_mean_waits,
    "exact.giant_spreads" => exact.wait_bound.giant_spreads,
    "exact.giant_mean_waits" => exact.wait_bound.giant_mean_waits,
    "exact.horizon_steps" => exact.horizon_steps,
    "exact.gamma" => exact.gamma,
    "exact.repair_rounds" => exact.repair_rounds,
    "level.aging_spread" => level.aging_spread,
    "level.overdue_mean_waits" => level.wait_bound.overdue_mean_waits,
    "level.giant_spreads" => level.wait_bound.giant_spreads,
    "level.giant_mean_waits" => level.wait_bound.giant_mean_waits,
    "level.repair_rounds" => level.repair_rounds,
    "level.repair_tolerance_spread" => level.repair_tolerance_spread,
    "level.ends_per_worker" => level.ends_per_worker,
    "level.reserve" => level.reserve,
    "level.reserve_mean_waits" => level.reserve_mean_waits,
    "level.reserve_enter_mean_waits" => level.reserve_enter_mean_waits,
    "level.reserve_share" => level.reserve_share,
    "level.rollout_candidates" => level.rollout_candidates,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_moves_one_field_of_its_own() {
        let mut seen = vec![Parameters::default()];
        for name in PARAMETER_NAMES {
            let mut parameters = Parameters::default();
            parameters.set(name, 1.0).expect("known");
            if parameters == Parameters::default() {
                parameters.set(name, 0.0).expect("known");
            }
            assert!(!seen.contains(&parameters), "{name} moves nothing, or what another name moves");
            seen.push(parameters);
        }
    }

    #[test]
    fn refusals_say_what_was_found() {
        let mut parameters = Parameters::default();
        assert!(matches!(parameters.set("level.aging", 1.0), Err(PolicyError::ParameterName { .. })));
        let name = "level.repair_rounds";
        assert_eq!(parameters.set(name, 1.5), Err(PolicyError::Whole { name, found: 1.5 }));
        assert!(matches!(parameters.set(name, -1.0), Err(PolicyError::Parameter { found: -1.0, .. })));
        assert!(parameters.set("level.reserve", f64::NAN).is_err());
        assert_eq!(parameters, Parameters::default());
    }
}
