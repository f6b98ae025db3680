//! What people expect of a command line: completions, a manual, near names, formats, a legend, and tables
//! that fit the terminal.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use balanceroute_sim::rules;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_balanceroute");
const SHORT: [&str; 10] =
    ["--policy", "level,exact", "--seeds", "2", "--steps", "200", "--warmup", "20", "--workers", "3"];
const COMMANDS: [&str; 10] = [
    "simulate",
    "evaluate",
    "settings",
    "forecast",
    "kernels",
    "trace",
    "calibrate",
    "picture",
    "completions",
    "man",
];

fn sim(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output().expect("the binary runs")
}

fn said(arguments: &[&str]) -> String {
    let out = sim(arguments);
    assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text")
}

/// User errors: exit code 2, one line on stderr, nothing on stdout.
fn refused(arguments: &[&str]) -> String {
    let out = sim(arguments);
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{arguments:?}: {stderr}");
    assert!(out.stdout.is_empty() && stderr.lines().count() == 1, "{stderr}");
    stderr
}

fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("help_cli");
    std::fs::create_dir_all(&folder).expect("a folder for scratch files");
    folder.join(name)
}

fn simulated(more: &[&str]) -> String {
    said(&[&["simulate", "--quiet"], &SHORT[..], more].concat())
}

#[test]
fn a_shell_completes_commands_flags_and_names() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = said(&["completions", shell]);
        for command in COMMANDS {
            assert!(script.contains(command), "{shell} does not know {command}");
        }
        assert!(script.contains("first-seed"), "{shell} knows no flags");
    }
    assert!(refused(&["completions", "bsh"]).contains("similar value exists: 'bash'"));

    // What bash offers where somebody presses the tabulator.
    let offered = |words: &[&str]| {
        let quoted = shlex::try_join(words.iter().copied()).expect("no zeros");
        let quote = |word: &str| shlex::try_quote(word).expect("no zeros").into_owned();
        let (last, before) = (quote(words[words.len() - 1]), quote(words[words.len() - 2]));
        let line = [
            "source <(\"$0\" completions bash)".to_owned(),
            format!("COMP_WORDS=({quoted}) COMP_CWORD={}", words.len() - 1),
            format!("_balanceroute balanceroute {last} {before}"),
            "printf '%s\\n' \"${COMPREPLY[@]}\"".to_owned(),
        ]
        .join("\n");
        let out = Command::new("bash").args(["-c", &line, PROGRAM]).output().expect("bash runs");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(offered(&["balanceroute", "sim"]), ["simulate"]);
    assert_eq!(offered(&["balanceroute", "simulate", "--form"]), ["--format"]);
    assert_eq!(offered(&["balanceroute", "simulate", "--format", ""]), ["table", "json", "csv", "md"]);
    let policies = offered(&["balanceroute", "simulate", "--policy", ""]);
    assert_eq!(policies, rules::names().collect::<Vec<_>>());
    assert_eq!(offered(&["balanceroute", "simulate", "--workload", "paper-p"]), ["paper-prod"]);
    assert_eq!(offered(&["balanceroute", "trace", "convert", "--to", "v"]), ["vidur"]);
    assert_eq!(offered(&["balanceroute", "simulate", "--prompts", ""]), ["elsewhere", "worker"]);
}

#[test]
fn the_manual_has_a_page_of_every_command() {
    let page = said(&["man"]);
    assert!(page.contains(".TH balanceroute 1") && page.contains("Exit status"), "{page}");
    for command in COMMANDS {
        assert!(page.contains(&format!("balanceroute\\-{command}")), "{command} is missing");
    }
    let folder = scratch("man1");
    drop(std::fs::remove_dir_all(&folder));
    assert_eq!(said(&["man", "--out", &folder.display().to_string()]), "");
    for command in COMMANDS {
        let text = std::fs::read_to_string(folder.join(format!("balanceroute-{command}.1"))).expect(command);
        // Where commands lie below, their own pages have the examples.
        assert!(command == "trace" || text.contains("balanceroute "), "{command}");
    }
    let inspect = std::fs::read_to_string(folder.join("balanceroute-trace-inspect.1")).expect("a page");
    assert!(inspect.contains("columns") && inspect.contains("Examples"), "{inspect}");
    let taken = scratch("taken");
    std::fs::write(&taken, "").expect("writable");
    let out = sim(&["man", "--out", &taken.display().to_string()]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("taken: "));
}

#[test]
fn a_wrong_word_is_answered_with_the_one_that_is_near() {
    for (arguments, near) in [
        (&["simulate", "--policy", "levl"][..], "(did you mean level?)"),
        (&["simulate", "--policy", "vllm-033"], "(did you mean vllm-0.33?)"),
        (&["evaluate", "--rules", "today=jqs,level"], "(did you mean jsq?)"),
        (&["forecast", "--workload", "lognormel"], "(did you mean lognormal?)"),
        (&["simulate", "--backend", "refrence"], "similar value exists: 'reference'"),
        (&["simulate", "--format", "jsn"], "similar value exists: 'json'"),
        (&["simulate", "--polcy", "level"], "similar argument exists: '--policy'"),
        (&["simulat"], "similar subcommand exists: 'simulate'"),
    ] {
        let error = refused(arguments);
        assert!(error.contains(near), "{arguments:?}: {error}");
    }
    // What is like nothing is answered with all names only.
    assert!(!refused(&["simulate", "--policy", "xyz"]).contains("did you mean"));
}

/// Leaves out wall-clock times, by which two runs of a command differ.
fn without_clock(mut document: Value) -> Value {
    for run in document["runs"].as_array_mut().expect("runs") {
        run["decide_us"] = Value::Null;
    }
    document
}

#[test]
fn one_comparison_in_every_format() {
    let parsed = |text: &str| without_clock(serde_json::from_str(text).expect("JSON"));
    let json = parsed(&simulated(&["--format", "json"]));
    assert_eq!(json, parsed(&simulated(&["--json", "-"])));
    let file = scratch("format.json").display().to_string();
    let csv = simulated(&["--format", "csv", "--json", &file]);
    assert_eq!(json, parsed(&std::fs::read_to_string(&file).expect("written")));
    let mut lines = csv::Reader::from_reader(csv.as_bytes());
    let head = lines.headers().expect("names").clone();
    assert_eq!(head.iter().take(4).collect::<Vec<_>>(), ["policy", "affinity", "seed", "window"]);
    let of = |name: &str| head.iter().position(|column| column == name).expect("a column");
    let lines: Vec<csv::StringRecord> = lines.records().map(|line| line.expect("a line")).collect();
    assert_eq!(lines.len(), 4);
    for (line, run) in lines.iter().zip(json["runs"].as_array().expect("runs")) {
        assert_eq!(line[0], run["policy"]);
        assert_eq!(line[of("seed")], run["seed"].to_string());
        assert_eq!(line[of("wait_ms.p99")], run["wait_ms"]["p99"].to_string());
        assert_eq!(line[of("wait_by_length.3.steps_p99")], run["wait_by_length"][3]["steps_p99"].to_string());
    }
    let md = simulated(&["--format", "md"]);
    let rows = md.lines().filter(|line| line.starts_with("| level ")).count();
    assert_eq!(rows, 3, "{md}");
    assert!(md.contains("| wait p99 ms |") && md.contains("| steps p99 |"), "{md}");
    let table = simulated(&["--format", "table"]);
    let plain = |text: &str| text.lines().map(|line| line.len()).collect::<Vec<_>>().len();
    assert_eq!(plain(&table), plain(&simulated(&[])));
    // One thing at a time on standard output.
    for format in ["csv", "md"] {
        let error = refused(&[&["simulate", "--json", "-", "--format", format], &SHORT[..]].concat());
        assert!(
            error.contains(&format!(
                "format: expected table, since something else goes to standard output, found {format}"
            )),
            "{error}"
        );
    }
    assert_eq!(json, parsed(&simulated(&["--json", "-", "--format", "json"])));
}

#[test]
fn every_command_with_tables_has_the_formats() {
    let trace = scratch("requests.csv");
    let rows = (0..40).map(|at| format!("{at}.0,{},{}\n", 100 + at, 5 + at % 7));
    let text: String =
        std::iter::once("arrived_at,num_prefill_tokens,num_decode_tokens\n".to_owned()).chain(rows).collect();
    std::fs::write(&trace, text).expect("writable");
    let trace = trace.display().to_string();
    let steps = scratch("steps.csv");
    let rows = (1..400u32).map(|at| {
        // Two rates, two mixes of lengths.
        let (least, length) = if at < 200 { (1, 300) } else { (8, 300 + at % 2 * 1_700) };
        let running = least + at % 5;
        let (kv, prompt) = (running * length, at * 7 % 900);
        let ms = 5.0 + 0.1 * f64::from(running) + 0.002 * f64::from(kv) + 0.01 * f64::from(prompt);
        format!("{ms},{running},{kv},{prompt}\n")
    });
    let text: String =
        std::iter::once("step_ms,running,kv_tokens,prefill_tokens\n".to_owned()).chain(rows).collect();
    std::fs::write(&steps, text).expect("writable");
    let steps = steps.display().to_string();
    let evaluated =
        ["evaluate", &trace, "--workers", "1", "--slots", "4", "--rates", "own", "--windows", "2", "--quiet"];
    for (command, lines) in [
        (&["forecast", "--trace", &trace][..], 3),
        (&["trace", "inspect", &trace], 1),
        (&["calibrate", &steps], 4),
        (&evaluated, 2),
    ] {
        let with = |format: &str| said(&[command, &["--format", format]].concat());
        let csv = with("csv");
        assert_eq!(csv.lines().count(), 1 + lines, "{command:?}: {csv}");
        let document: Value = serde_json::from_str(&with("json")).expect("JSON");
        assert!(document["version"].is_string(), "{command:?}");
        let md = with("md");
        assert!(md.lines().any(|line| line.starts_with("|--")), "{command:?}: {md}");
        let table = with("table");
        assert!(!table.contains('|'), "{command:?}: {table}");
    }
    assert!(
        refused(&["trace", "inspect", &trace, "--out", "-", "--format", "json"]).contains("format: expected")
    );
    assert!(refused(&["calibrate", &steps, "--out", "-", "--format", "csv"]).contains("format: expected"));
}

#[test]
fn a_legend_explains_what_is_there() {
    let plain = simulated(&[]);
    let legend = simulated(&["--legend"]);
    let below: Vec<&str> = legend.lines().skip(plain.lines().count()).collect();
    assert!(below.iter().any(|line| line.starts_with("imbalance G*max-sum  workers times")), "{legend}");
    assert!(below.iter().all(|line| !line.contains("claims")), "{legend}");
    let forecast = said(&["forecast", "--workload", "repeats", "--legend"]);
    assert!(forecast.contains("AUC         how well"), "{forecast}");
}

#[test]
fn seed_is_the_first_seed() {
    let runs = |flag: &str| {
        let text = simulated(&[flag, "7", "--format", "json"]);
        without_clock(serde_json::from_str(&text).expect("JSON"))["runs"].clone()
    };
    assert_eq!(runs("--seed"), runs("--first-seed"));
    assert_eq!(runs("--seed")[0]["seed"], 7);
}

/// Runs a line of a shell on a terminal of so many columns; none where `script` is missing.
fn on_a_terminal(columns: u32, line: &str) -> Option<String> {
    let line = format!("stty cols {columns} rows 50; {line}");
    let out = Command::new("script").args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output().ok()?;
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    Some(String::from_utf8_lossy(&out.stdout).replace('\r', ""))
}

#[test]
fn tables_fit_the_terminal_and_colours_can_be_turned_off() {
    let command = format!("{PROGRAM} simulate {} --quiet --legend", SHORT.join(" "));
    let Some(text) = on_a_terminal(64, &command) else {
        println!("NOT RUN: tables on a terminal: needs script (bsdutils)");
        return;
    };
    let of_tables: Vec<&str> = text
        .lines()
        .filter(|line| ["policy ", "level ", "exact "].iter().any(|name| line.starts_with(name)))
        .collect();
    assert!(of_tables.iter().all(|line| line.chars().count() <= 64), "{text}");
    // The first table goes on below, and has its first column there too.
    assert!(of_tables.iter().filter(|line| line.starts_with("level ")).count() > 3, "{text}");
    assert!(simulated(&[]).lines().any(|line| line.len() > 64));

    let help = on_a_terminal(80, &format!("{PROGRAM} simulate --help")).expect("script is there");
    assert!(help.contains('\x1b'), "{help}");
    let plain = on_a_terminal(80, &format!("NO_COLOR=1 {PROGRAM} simulate --help")).expect("script is there");
    assert!(!plain.contains('\x1b') && plain.contains("--policy"), "{plain}");

    // A bar in steps, with the time that is left.
    let bar = on_a_terminal(100, &format!("{PROGRAM} simulate {}", SHORT.join(" ")).replace("200", "9000"));
    let bar = bar.expect("script is there");
    assert!(bar.contains("% of 36,080 steps") && bar.contains(" left: "), "{bar}");
    let quiet = on_a_terminal(100, &format!("{command} 2>&1")).expect("script is there");
    assert!(!quiet.contains(" steps, ") || !quiet.contains(" left: "), "{quiet}");
}
