//! `sweep`: `simulate` over values of its flags.

use balanceroute_sim::evaluation::{self, sweep};
use balanceroute_sim::report::json::JsonFile;
use balanceroute_sim::{Scenario, SimError};
use clap::{Args, Parser};

use crate::arguments::SimulateArgs;
use crate::{in_one_line, tell};

#[derive(Args)]
pub(crate) struct SweepArgs {
    /// A flag of `simulate` and its values: --vary pool=8,32,128. Given again, every value is played with
    /// every value of the others.
    #[arg(long, value_name = "FLAG=V,V", required = true)]
    vary: Vec<Varied>,
    #[command(flatten)]
    simulate: SimulateArgs,
}

/// A flag and its values.
#[derive(Clone, Debug, PartialEq)]
struct Varied {
    flag: String,
    values: Vec<String>,
}

impl std::str::FromStr for Varied {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected a flag of simulate and its values: pool=8,32,128".to_owned();
        let (flag, values) = text.split_once('=').ok_or_else(expected)?;
        let flag = flag.trim().trim_start_matches("--").to_owned();
        let values: Vec<String> = values.split(',').map(|value| value.trim().to_owned()).collect();
        let sound = !flag.is_empty() && values.iter().all(|value| !value.is_empty());
        if sound { Ok(Self { flag, values }) } else { Err(expected()) }
    }
}

/// The flags of `simulate` by themselves.
#[derive(Parser)]
#[command(name = "simulate")]
struct Simulate {
    #[command(flatten)]
    args: SimulateArgs,
}

/// What was given to `sweep`, without what varies.
fn given(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let (mut kept, mut arguments) = (Vec::new(), arguments);
    while let Some(argument) = arguments.next() {
        match argument.strip_prefix("--vary") {
            Some("") => drop(arguments.next()),
            Some(value) if value.starts_with('=') => {}
            _ => kept.push(argument),
        }
    }
    kept
}

/// Every value of each with every value of the others, the last fastest.
fn grid(varied: &[Varied]) -> Vec<Vec<(String, String)>> {
    varied.iter().fold(vec![Vec::new()], |points, of| {
        let with = |point: &Vec<(String, String)>, value: &String| {
            let mut point = point.clone();
            point.push((of.flag.clone(), value.clone()));
            point
        };
        points.iter().flat_map(|point| of.values.iter().map(|value| with(point, value))).collect()
    })
}

fn scenario(given: &[String], point: &[(String, String)]) -> Result<Scenario, SimError> {
    let varied = point.iter().map(|(flag, value)| format!("--{flag}={value}"));
    let words = std::iter::once("simulate".to_owned()).chain(given.iter().cloned()).chain(varied);
    let parsed = Simulate::try_parse_from(words).map_err(|error| SimError::Argument {
        name: "vary",
        expected: "flags of simulate, each in one place".to_owned(),
        found: in_one_line(&error).trim_start_matches("error: ").to_owned(),
    })?;
    let scenario = parsed.args.of.scenario()?;
    scenario.check()?;
    Ok(scenario)
}

/// Flags of the table, not of what is played.
const OF_OUTPUT: [&str; 4] = ["format", "json", "legend", "quiet"];

/// Refuses flags that change nothing in what is played, and those that are given as well, which a list would
/// take without a word.
fn check(varied: &[Varied], given: &[String]) -> Result<(), SimError> {
    for (at, Varied { flag, .. }) in varied.iter().enumerate() {
        let long = format!("--{flag}");
        let is_given = |word: &String| *word == long || word.starts_with(&format!("{long}="));
        let expected = if OF_OUTPUT.contains(&flag.as_str()) {
            "a flag of what is played"
        } else if given.iter().any(is_given) || varied[..at].iter().any(|other| other.flag == *flag) {
            "flags of simulate, each in one place"
        } else {
            continue;
        };
        return Err(SimError::Argument { name: "vary", expected: expected.to_owned(), found: long });
    }
    Ok(())
}

pub(crate) fn run(args: &SweepArgs) -> Result<(), SimError> {
    let given = given(std::env::args().skip(2));
    check(&args.vary, &given)?;
    // All of them are looked at before the first is played.
    let points = grid(&args.vary)
        .into_iter()
        .map(|varied| Ok(sweep::Point { scenario: scenario(&given, &varied)?, varied }))
        .collect::<Result<Vec<_>, SimError>>()?;
    let json = args.simulate.json.as_deref().map(JsonFile::create).transpose()?;
    args.simulate.output.check(json.as_ref(), false)?;
    for sweep::Point { scenario, varied } in &points {
        if let Some(unfit) = scenario.unfit().filter(|unfit| unfit.requests < unfit.of) {
            let varied: Vec<String> = varied.iter().map(|(flag, value)| format!("{flag}={value}")).collect();
            tell(format_args!("warning: {}: {unfit}", varied.join(" ")));
        }
    }
    let found = evaluation::sweep::sweep(points, !args.simulate.quiet)?;
    let flags: Vec<String> = args.vary.iter().map(|of| format!("varied.{}", of.flag)).collect();
    let first: Vec<&str> = flags.iter().map(String::as_str).chain(["policy", "seed"]).collect();
    let rows = || found.lines();
    args.simulate.output.hand_over(json, &found, |_, legend| found.page(legend), rows, &first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn what_varies_is_taken_out_of_what_is_given() {
        let found = given(words("--vary pool=8,32 --seeds 2 --vary=slots=4 --policy level").into_iter());
        assert_eq!(found, words("--seeds 2 --policy level"));
    }

    #[test]
    fn every_value_meets_every_other() {
        let varied = ["pool=8,32", "--slots=4,5,6"].map(|text| text.parse::<Varied>().expect("a flag"));
        let points = grid(&varied);
        assert_eq!(points.len(), 6);
        let of = |flag: &str, value: &str| (flag.to_owned(), value.to_owned());
        assert_eq!(points[1], [of("pool", "8"), of("slots", "5")]);
        assert_eq!(points[5], [of("pool", "32"), of("slots", "6")]);
        for text in ["pool", "=3", "pool=", "pool=3,,4"] {
            assert!(text.parse::<Varied>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_changes_nothing_or_stands_twice_is_refused() {
        let refused = |vary: &str, given: &str| {
            let varied = vary.split(' ').map(|text| text.parse().expect("a flag")).collect::<Vec<Varied>>();
            check(&varied, &words(given)).expect_err("refused").to_string()
        };
        assert!(refused("format=csv,md", "--seeds 1").contains("a flag of what is played"));
        for given in ["--policy level", "--policy=level"] {
            assert!(refused("policy=jsq,level", given).contains("each in one place"), "{given}");
        }
        assert!(refused("pool=8 pool=9", "--seeds 1").contains("each in one place"));
        assert!(check(&["pool=8".parse().expect("a flag")], &words("--policy level")).is_ok());
    }

    #[test]
    fn a_point_is_what_simulate_plays_with_its_flags() {
        let point = [("pool".to_owned(), "9".to_owned()), ("max-passed".to_owned(), "7".to_owned())];
        let found = scenario(&words("--slots 4 --policy level"), &point).expect("sound");
        assert_eq!((found.pool, found.slots, found.parameters.max_passed), (9, 4, Some(7)));
        let refused = |given: &str, flag: &str| {
            let point = [(flag.to_owned(), "9".to_owned())];
            scenario(&words(given), &point).expect_err("refused").to_string()
        };
        assert!(refused("--pool 3", "pool").contains("--pool"), "clap's own word");
        assert!(refused("--pool 3", "pol").contains("'--pol'"));
        let many = [("workers".to_owned(), "0".to_owned())];
        let refused = scenario(&words("--pool 3"), &many).expect_err("refused").to_string();
        assert!(refused.starts_with("workers: expected a whole number in "), "{refused}");
    }
}
