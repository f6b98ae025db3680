//! Parameters by name, for callers that have no Rust structs (C, Python, command lines), and the range of
//! each.

use super::{MAX_SUBSET_WINDOW, Parameters, PolicyError};
use crate::batch::{MAX_HORIZON, MAX_PASSED, MAX_WAITING};

/// A field that a number can set.
trait Field {
    fn set(&mut self, name: &'static str, value: f64) -> Result<(), PolicyError>;
    fn value(&self) -> f64;
}

impl Field for f64 {
    fn set(&mut self, _: &'static str, value: f64) -> Result<(), PolicyError> {
        *self = value;
        Ok(())
    }

    fn value(&self) -> f64 {
        *self
    }
}

impl Field for bool {
    fn set(&mut self, name: &'static str, value: f64) -> Result<(), PolicyError> {
        *self = whole(name, value, 1)? == 1;
        Ok(())
    }

    fn value(&self) -> f64 {
        f64::from(u8::from(*self))
    }
}

impl Field for u32 {
    fn set(&mut self, name: &'static str, value: f64) -> Result<(), PolicyError> {
        *self = whole(name, value, u32::MAX.into())? as u32;
        Ok(())
    }

    fn value(&self) -> f64 {
        f64::from(*self)
    }
}

/// Not set until it is; what it is then is another's to say.
impl Field for Option<u32> {
    fn set(&mut self, name: &'static str, value: f64) -> Result<(), PolicyError> {
        *self = Some(whole(name, value, u32::MAX.into())? as u32);
        Ok(())
    }

    fn value(&self) -> f64 {
        self.map_or(0.0, f64::from)
    }
}

impl Field for usize {
    fn set(&mut self, name: &'static str, value: f64) -> Result<(), PolicyError> {
        *self = whole(name, value, u32::MAX.into())? as usize;
        Ok(())
    }

    fn value(&self) -> f64 {
        *self as f64
    }
}

impl Field for u64 {
    fn set(&mut self, name: &'static str, value: f64) -> Result<(), PolicyError> {
        *self = whole(name, value, 1 << 53)?;
        Ok(())
    }

    fn value(&self) -> f64 {
        *self as f64
    }
}

fn whole(name: &'static str, found: f64, high: u64) -> Result<u64, PolicyError> {
    PolicyError::check(name, found, 0.0, high as f64)?;
    if found.fract() == 0.0 { Ok(found as u64) } else { Err(PolicyError::Whole { name, found }) }
}

macro_rules! fields {
    ($($name:literal => $($field:ident).+, $low:expr, $high:expr;)*) => {
        /// Every parameter that [`Parameters::set`] knows.
        pub const PARAMETER_NAMES: &[&str] = &[$($name),*];

        impl Parameters {
            /// Sets one parameter by its name among [`PARAMETER_NAMES`], true as 1. Ranges are checked when a
            /// policy is built.
            ///
            /// # Errors
            /// No such name any more, or a fraction where a whole number belongs.
            pub fn set(&mut self, name: &str, value: f64) -> Result<(), PolicyError> {
                match name {
                    $($name => self.$($field).+.set($name, value),)*
                    _ => Err(unknown(name)),
                }
            }

            /// Checks every range.
            ///
            /// # Errors
            /// The first parameter out of its range.
            pub fn check(&self) -> Result<(), PolicyError> {
                $(PolicyError::check($name, self.$($field).+.value(), $low as f64, $high as f64)?;)*
                Ok(())
            }
        }
    };
}

fields! {
    "seed" => seed, 0, u64::MAX;
    "candidate_window" => candidate_window, 1, MAX_WAITING;
    "max_passed" => max_passed, 0, MAX_PASSED;
    "baseline.stats_refresh_steps" => baseline.stats_refresh_steps, 1, 1e6;
    "balance_route.greedy_slots" => balance_route.greedy_slots, 0, 1e6;
    "balance_route.subset_window" => balance_route.subset_window, 1, MAX_SUBSET_WINDOW;
    "balance_route.candidate_window" => balance_route.candidate_window, 1, MAX_WAITING;
    "balance_route.horizon_steps" => balance_route.horizon_steps, 0, MAX_HORIZON;
    "balance_route.alpha" => balance_route.alpha, 0, 16;
    "balance_route.beta_workers" => balance_route.beta_workers, 0, 16;
    "balance_route.gamma" => balance_route.gamma, 0, 1;
    "exact.horizon_steps" => exact.horizon_steps, 0, MAX_HORIZON;
    "exact.gamma" => exact.gamma, 0, 1;
    "exact.repair_rounds" => exact.repair_rounds, 0, 16;
    "level.repair_rounds" => level.repair_rounds, 0, 16;
    "level.repair_tolerance_spread" => level.repair_tolerance_spread, 0, 10;
    "level.ends_per_worker" => level.ends_per_worker, 1, 64;
    "level.rollout_candidates" => level.rollout_candidates, 1, 64;
}

/// Parameters of before, and what says the same now.
const GONE: &[(&str, &[&str])] = &[(
    "max_passed",
    &[
        "exact.aging_tokens_per_step",
        "exact.overdue_mean_waits",
        "exact.giant_spreads",
        "exact.giant_mean_waits",
        "level.aging_spread",
        "level.overdue_mean_waits",
        "level.giant_spreads",
        "level.giant_mean_waits",
        "level.reserve",
        "level.reserve_mean_waits",
        "level.reserve_enter_mean_waits",
        "level.reserve_share",
    ],
)];

fn unknown(name: &str) -> PolicyError {
    let found = name.to_owned();
    match GONE.iter().find(|(_, gone)| gone.contains(&name)) {
        Some(&(instead, _)) => PolicyError::Gone { found, instead },
        None => PolicyError::ParameterName { found, expected: PARAMETER_NAMES.join(", ") },
    }
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
        assert!(parameters.set("max_passed", f64::NAN).is_err());
        assert!(parameters.set("max_passed", -1.0).is_err());
        assert_eq!(parameters, Parameters::default());
    }

    #[test]
    fn a_name_that_has_gone_is_told_what_took_its_place() {
        for &(instead, gone) in GONE {
            assert!(PARAMETER_NAMES.contains(&instead));
            for name in gone {
                let refused = Parameters::default().set(name, 1.0).unwrap_err();
                assert_eq!(refused, PolicyError::Gone { found: (*name).to_owned(), instead });
                assert!(refused.to_string().ends_with("set max_passed instead"), "{refused}");
            }
        }
    }

    #[test]
    fn a_value_outside_its_range_is_refused_by_name() {
        let too_much = ["exact.gamma", "balance_route.alpha", "max_passed", "level.repair_tolerance_spread"];
        for name in too_much {
            let mut parameters = Parameters::new();
            parameters.set(name, 1e9).expect("a number");
            let found = parameters.check().expect_err("too much");
            assert!(matches!(found, PolicyError::Parameter { name: which, found: 1e9, .. } if which == name));
        }
        let parameters = Parameters::new().candidate_window(0);
        assert!(matches!(parameters.check(), Err(PolicyError::Parameter { name: "candidate_window", .. })));
        assert_eq!(Parameters::new().seed(u64::MAX).check(), Ok(()));
    }
}
