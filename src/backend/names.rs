//! The names of backends and instruction sets.

use std::fmt;
use std::str::FromStr;

use super::BackendKind;
use super::cpu::Isa;
use crate::names::{UnknownName, find};

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BackendKind {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        find("backend", &Self::ALL, Self::name, name)
    }
}

impl FromStr for Isa {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        find("instruction set", &Self::ALL, Self::name, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Forecast;

    #[test]
    fn every_name_finds_what_it_names_and_others_are_refused() {
        for kind in BackendKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse(), Ok(isa));
        }
        for forecast in Forecast::ALL {
            assert_eq!(forecast.to_string().parse(), Ok(forecast));
        }
        let error = "mmx".parse::<Isa>().expect_err("there is none").to_string();
        assert_eq!(error, "unknown instruction set \"mmx\"; expected one of scalar, neon, avx2, avx512");
    }
}
