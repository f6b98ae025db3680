//! What stands below the help of a command: for whom it is, and commands to begin with.

pub(crate) const SIMULATE: &str = "\
For whoever compares rules on a fixed load, as the paper does. Loads are KV tokens; times are simulated.

Examples:
  balanceroute simulate
  balanceroute simulate --policy vllm-0.33,level --workers 16 --slots 64 --seeds 5 --legend
  balanceroute simulate --trace conversations.csv --arrivals open --rate-scale 38 --policy jsq,level
  balanceroute simulate --workload paper-azure --arrivals open --rate 12 --kv-capacity 400000 --format md";

pub(crate) const EVALUATE: &str = "\
For operators who decide whether to switch: the first rule is what runs today. Times are in ms, rates in \
requests per second.

Examples:
  balanceroute evaluate --quick
  balanceroute evaluate conversations.csv --workers 8 --slots 64 --rules vllm-0.33,level --out verdict
  balanceroute evaluate conversations.csv --slo ttft=2s,tpot=50ms --gate 'tok/s>=-1%'
  balanceroute evaluate --study paper --only table,scale --quick";

pub(crate) const REPORT: &str = "\
The page needs nothing but itself: send it, print it, open it on a phone. It says first what the \
evaluation comes to, then shows goodput, waits and times to tokens against the rate, distributions, the \
loads of the ranks over time, the trace, and tables that can be sorted. Of two folders the second is set \
beside the first, replicate by replicate where both have the same requests at the same rate; where not, \
the page says why.

Examples:
  balanceroute report verdict
  balanceroute report verdict other --out both.html";

pub(crate) const RECOMMEND: &str = "\
For whoever sizes a cluster: the fewest workers, for each number of slots. Limits are times with their unit, \
rates requests per second.

Examples:
  balanceroute recommend conversations.csv --slo ttft=2s,tpot=50ms
  balanceroute recommend conversations.csv --slots 32,64 --kv-capacity 400000 --cost gpu.toml
  balanceroute recommend --workload lognormal --rate 40/s --rules vllm-0.33,level --most-workers 32";

pub(crate) const SWEEP: &str = "\
For whoever sets a parameter: one row for each value and policy, the flags of `simulate` for all else.

Examples:
  balanceroute sweep --vary pool=8,32,128 --policy level,exact
  balanceroute sweep --vary max-passed=64,512 --vary workers=8,16 --policy level --format csv";

pub(crate) const OPTIMUM: &str = "\
For whoever wonders what is left to gain. Imbalance is in KV tokens.

Examples:
  balanceroute optimum --policy level,exact,jsq
  balanceroute optimum --trace conversations.csv --policy level --decisions 500 --seeds 5";

#[cfg(feature = "watch")]
pub(crate) const WATCH: &str = "\
For whoever wants to see it work. Loads are KV tokens.

Examples:
  balanceroute watch
  balanceroute watch --policy jsq --workers 16 --steps-per-s 100
  balanceroute watch http://127.0.0.1:9100/metrics";

pub(crate) const SETTINGS: &str = "\
For whoever changes a rule: the table on which it may lose nothing.

Examples:
  balanceroute settings --list
  balanceroute settings --only closed: --policy level,exact --seeds 2
  balanceroute settings --traces traces --record table.csv --json table.json";

pub(crate) const FORECAST: &str = "\
For whoever wonders whether a policy that predicts ends (-survival, -exactmatch) pays on a trace.

Examples:
  balanceroute forecast --workload repeats
  balanceroute forecast --trace conversations.csv --horizon 40";

pub(crate) const KERNELS: &str = "\
For whoever deploys on a machine: 0 when every instruction set answers as the oracle does.

Examples:
  balanceroute kernels
  balanceroute kernels --batches 300 --json kernels.json";

pub(crate) const INSPECT: &str = "\
For whoever has a trace and wonders how loaded a cluster would be by it. Lengths are tokens, times seconds.

Examples:
  balanceroute trace inspect conversations.csv --workers 8 --slots 64
  balanceroute trace inspect log.csv --columns 'time=When:ms,prompt=In,output=Out' --out trace.svg";

pub(crate) const CONVERT: &str = "\
For whoever plays the same trace with another tool.

Examples:
  balanceroute trace convert conversations.csv --to vidur --out conversations.vidur.csv
  balanceroute trace convert sessions.jsonl.gz --to aiperf";

pub(crate) const TRACE: &str = "\
A recording is the folder of a router that was recorded (BALANCEROUTE_RECORD).

Example:
  balanceroute trace recordings/router-4711-1 --out recorded.jsonl";

pub(crate) const REPLAY: &str = "\
For whoever was called at night: the recording of a router (BALANCEROUTE_RECORD=FOLDER, one folder below it \
for each router) tells what it decided and why. 1 when a call answers otherwise than it did.

Examples:
  balanceroute replay recordings/router-4711-1
  balanceroute replay recordings/router-4711-1 --at 5200 --explain --legend
  balanceroute replay recordings/router-4711-1 --policy level,vllm-0.33 --cost gpu.toml";

pub(crate) const POLICIES: &str = "\
For whoever looks for the rule that runs today.

Examples:
  balanceroute policies
  balanceroute policies --json -";

pub(crate) const PICTURE: &str = "\
For slides: how far apart the loads of the workers are under each policy.

Example:
  balanceroute picture --policy vllm-0.33,level --out loads.svg";

pub(crate) const COMPLETIONS: &str = "\
Examples:
  balanceroute completions bash > ~/.local/share/bash-completion/completions/balanceroute
  balanceroute completions zsh > ~/.zfunc/_balanceroute
  balanceroute completions fish > ~/.config/fish/completions/balanceroute.fish";

pub(crate) const MAN: &str = "\
Examples:
  balanceroute man | man -l -
  balanceroute man --out ~/.local/share/man/man1";

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory, Parser};

    use crate::arguments::Cli;

    /// Commands that are no folder of others, with their names from the program on.
    fn leaves(command: &Command, above: &str, found: &mut Vec<(String, Command)>) {
        let name = format!("{above}{}", command.get_name());
        let mut below = command.get_subcommands().filter(|of| of.get_name() != "help").peekable();
        if below.peek().is_none() {
            found.push((name.clone(), command.clone()));
        }
        below.for_each(|of| leaves(of, &format!("{name} "), found));
    }

    fn commands() -> Vec<(String, Command)> {
        let mut found = Vec::new();
        leaves(&Cli::command(), "", &mut found);
        assert!(found.len() >= 10, "{} commands", found.len());
        found
    }

    #[test]
    fn every_command_has_examples_that_parse() {
        for (name, command) in commands() {
            let below = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let mut examples = 0;
            for line in below.lines().filter_map(|line| line.strip_prefix("  balanceroute ")) {
                let words = shlex::split(line.split([';', '|']).next().unwrap_or(line)).expect(line);
                let words = words.into_iter().take_while(|word| word != ">");
                let words: Vec<String> = std::iter::once("balanceroute".to_owned()).chain(words).collect();
                if let Err(error) = Cli::try_parse_from(&words) {
                    panic!("{name}: {line}: {error}");
                }
                examples += u32::from(words.join(" ").starts_with(&name));
            }
            assert!(examples > 0, "{name} has no example");
        }
    }

    #[test]
    fn every_argument_is_explained_and_says_what_it_is_without() {
        for (name, command) in commands() {
            for argument in command.get_arguments().filter(|argument| argument.get_id() != "help") {
                let flag = format!("{name} {}", argument.get_id());
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.len() > 8, "{flag} is not explained");
                let takes = argument.get_action().takes_values();
                let named = argument.get_value_names().is_some_and(|names| names[0].as_str() != "");
                assert!(!takes || named, "{flag} has no name for its value");
                // A number that is left out stands for something.
                let number = argument.get_value_names().is_some_and(|names| {
                    ["N", "G", "B", "H", "T", "P", "S", "C"].contains(&names[0].as_str())
                });
                let said = !argument.get_default_values().is_empty()
                    || help.contains("default")
                    || argument.is_required_set();
                assert!(!number || said, "{flag} does not say what it is when it is left out");
            }
        }
    }
}
