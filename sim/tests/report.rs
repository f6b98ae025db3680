//! `report` as a user meets it: a page that is whole by itself, in every window, light and dark, and errors
//! that say what is wrong with a folder.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_balanceroute");
/// A name that is markup, words and a quote.
const NAME: &str = "a<b>&\"c\"";

/// A folder of this test run only.
fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report").join(name);
    // It may be there of an earlier run.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder for scratch files");
    folder
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn balanceroute(arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).stdin(Stdio::null()).output().expect("the binary runs")
}

fn evaluate(out: &Path, arguments: &[&str]) {
    let out = out.display().to_string();
    let small = ["evaluate", "--workers", "3", "--slots", "8", "--quiet", "--out", &out];
    let run = balanceroute(&[&small[..], arguments].concat());
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
}

/// Requests at three a second, some of them long: of 300 s, so that windows have more than run at a time.
fn trace() -> &'static Path {
    static TRACE: OnceLock<PathBuf> = OnceLock::new();
    TRACE.get_or_init(|| {
        let row = |at: u32| {
            let (second, long) = (at / 3, if at.is_multiple_of(11) { 5 } else { 1 });
            format!(
                "2024-05-10 00:{:02}:{:02}.{}00000,{},{}\n",
                second / 60,
                second % 60,
                at % 3 * 3,
                200 + at * 7_919 % 1_900,
                5 + at * 104_729 % 97 * long
            )
        };
        let rows: String = (0..900).map(row).collect();
        let path = scratch("trace").join("log.csv");
        std::fs::write(&path, format!("TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}")).expect("writable");
        path
    })
}

const ASKED: [&str; 8] =
    ["--rates", "own,80%,120%", "--windows", "4", "--slo", "ttft=500ms,tpot=12ms", "--optimum", "6"];

/// An evaluation of a trace by three rules, one of them of an ugly name.
fn evaluated() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = scratch("evaluated").join("one");
        let (trace, rules) = (trace().display().to_string(), format!("today=vllm,{NAME}=level,exact"));
        evaluate(&folder, &[&[trace.as_str(), "--rules", &rules][..], &ASKED].concat());
        folder
    })
}

fn report(folders: &[&Path], out: &Path) -> Output {
    let mut names: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    names.extend(["--out".to_owned(), out.display().to_string()]);
    balanceroute(&[&["report"], &names.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat())
}

fn page(folders: &[&Path], out: &Path) -> String {
    let run = report(folders, out);
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    // Slashes and quotes are written as characters of markup, which are the same to a browser.
    std::fs::read_to_string(out).expect("written").replace("&#x2f;", "/").replace("&#x27;", "'")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in from.read_dir().expect("a folder").map(|entry| entry.expect("an entry")) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(&from, &to).expect("copied");
        }
    }
}

fn change(folder: &Path, change: impl FnOnce(&mut Value)) {
    let file = folder.join("results.json");
    let mut results = serde_json::from_slice(&std::fs::read(&file).expect("there")).expect("JSON");
    change(&mut results);
    std::fs::write(&file, results.to_string()).expect("writable");
}

#[test]
fn a_page_is_whole_by_itself_and_says_the_verdict_first() {
    let folder = scratch("whole");
    let html = page(&[evaluated()], &folder.join("page.html"));
    assert!(html.len() < 1_000_000, "{}", html.len());
    for outside in ["http:", "https:", "src=", "url(", "@import"] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert!(html.contains("default-src 'none'"));
    let results = std::fs::read(evaluated().join("results.json")).expect("there");
    let results: Value = serde_json::from_slice(&results).expect("JSON");
    let first_figure = html.find("class=\"plot\"").expect("a figure");
    for sentence in results["sentences"].as_array().expect("sentences") {
        let sentence = sentence.as_str().expect("words").replace(NAME, "a&lt;b&gt;&amp;&quot;c&quot;");
        let at = html.find(&sentence).unwrap_or_else(|| panic!("not there: {sentence}"));
        assert!(at < first_figure, "{sentence}");
    }
    assert!(!html.contains("<b>&"), "a name is no markup");
    // Every figure has the command of what it shows.
    let figures = html.matches("<figure>").count();
    assert!(figures > 20, "{figures}");
    assert_eq!(html.matches("<details class=\"command\">").count(), figures);
    for scenario in results["scenarios"].as_array().expect("scenarios").iter().rev().take(1) {
        let command = scenario["command"].as_str().expect("a command");
        assert!(html.contains(&command.replace('"', "&quot;").replace('<', "&lt;")), "{command}");
    }
    for what in [
        "Goodput",
        "p99 TTFT",
        "p99 TPOT",
        "Wait at own rate",
        "Throughput and p99 wait",
        "KV tokens under",
        "Imbalance over time",
        "heat map of 3 ranks",
        "A busy second, step by step",
        "Lengths of prompts",
        "Arrivals",
        "Differences to today, paired",
        "Decisions beside the best of their steps",
        "limit 500 ms",
        "limit 12 ms",
    ] {
        assert!(html.contains(what), "{what}");
    }
    // A folder has one page, however often it is asked for; and without a file the page lies in the folder.
    assert_eq!(html, page(&[evaluated()], &folder.join("page.html")));
    let own = scratch("own").join("one");
    copy(evaluated(), &own);
    assert_eq!(balanceroute(&["report", &own.display().to_string()]).status.code(), Some(0));
    assert!(own.join("report.html").exists());
    let stdout = balanceroute(&["report", &own.display().to_string(), "--out", "-"]).stdout;
    assert!(text(&stdout).starts_with("<!doctype html>"));
    // New results have no old page.
    evaluate(&own, &["--workload", "lognormal", "--rates", "80%", "--windows", "2", "--requests", "300"]);
    assert!(own.join("results.json").exists() && !own.join("report.html").exists());
}

#[test]
fn a_page_says_what_is_not_there() {
    let folder = scratch("part").join("one");
    copy(evaluated(), &folder);
    change(&folder, |results| {
        results["complete"] = false.into();
        results["runs_planned"] = 99.into();
    });
    let busiest = "s002.jsonl.gz";
    std::fs::remove_file(folder.join("series").join(busiest)).expect("there");
    let html = page(&[&folder], &folder.join("report.html"));
    assert!(html.contains("<strong>Interrupted.</strong> Of 99 runs 36 are done"));
    assert!(html.contains("series/s002.jsonl.gz is not in the folder") && !html.contains("KV tokens under"));
    // With loads and without requests there are lanes, and nobody who enters them.
    let without = scratch("no-requests").join("one");
    copy(evaluated(), &without);
    std::fs::remove_file(without.join("requests").join(busiest)).expect("there");
    let html = page(&[&without], &without.join("report.html"));
    assert!(html.contains("Who enters is not shown: requests/s002.jsonl.gz is not in the folder."));
    // Nothing was played to its end.
    change(&folder, |results| {
        for list in ["scenarios", "largest_rates", "gate", "sentences"] {
            results[list] = Vec::<Value>::new().into();
        }
    });
    let html = page(&[&folder], &folder.join("report.html"));
    assert!(html.contains("No rate has been played to its end.") && html.contains("Lengths of prompts"));
}

#[test]
fn two_folders_are_set_side_by_side() {
    let folder = scratch("two");
    let trace = trace().display().to_string();
    let asked = [&[trace.as_str(), "--rules", "today=vllm,exact"][..], &ASKED].concat();
    // Another step law: at the own rate the same arrivals, at a share of another capacity others.
    let (slow, cut) = (folder.join("slow"), folder.join("cut"));
    evaluate(&slow, &[&asked[..], &["--step-us-per-token", "1"]].concat());
    let html = page(&[evaluated(), &slow], &folder.join("page.html"));
    assert!(html.len() < 1_000_000);
    for what in [
        "step_us_per_token",
        "At its own rate today in B beside today in A: ",
        "B less A, paired",
        "At 80 % of capacity nothing is paired: other rates: ",
        "exact in B",
        "A: Means",
        "B: Means",
    ] {
        assert!(html.contains(what), "{what}");
    }
    // A rule that does as before differs by nothing.
    let again = page(&[evaluated(), evaluated()], &folder.join("again.html"));
    assert!(again.contains("At its own rate exact in B beside exact in A: a tie in all 12 figures."));
    assert!(!again.contains("nothing is paired") && !again.contains("What was asked for otherwise"));
    evaluate(&cut, &[&asked[..5], &["--windows", "5", "--slo", "none"]].concat());
    let html = page(&[evaluated(), &cut], &folder.join("cut.html"));
    assert!(html.contains("the trace is cut into 4 windows and into 5") && !html.contains("B less A"));
    let draws = |name: &str, asked: &[&str]| {
        let drawn = ["--workload", "lognormal", "--rates", "80%", "--windows", "2", "--rules", "jsq"];
        evaluate(&folder.join(name), &[&drawn[..], asked].concat());
        folder.join(name)
    };
    let other = draws("other", &["--requests", "300"]);
    let [seeds, requests] = [
        draws("seeds", &["--requests", "300", "--first-seed", "5"]),
        draws("requests", &["--requests", "330"]),
    ];
    let html = page(&[&other, &seeds, &requests], &folder.join("draws.html"));
    assert!(html.contains("nothing is paired: draws of other seeds: from 0 and from 5 on"));
    assert!(
        html.contains("nothing is paired: draws of other numbers of requests") && html.contains("jsq in C")
    );
    let html = page(&[evaluated(), &other], &folder.join("other.html"));
    assert!(html.contains("log.csv on 3 workers x 8 slots is in A only."));
    assert!(html.contains("lognormal on 3 workers x 8 slots is in B only."));
}

#[test]
fn what_is_no_evaluation_is_refused_in_one_line() {
    let folder = scratch("refused");
    let one = folder.join("one");
    let old = folder.join("page.html");
    std::fs::write(&old, "old").expect("writable");
    let refused = |says: &str, damage: &dyn Fn()| {
        let _ = std::fs::remove_dir_all(&one);
        copy(evaluated(), &one);
        damage();
        let run = report(&[&one], &old);
        let stderr = text(&run.stderr);
        assert_eq!(run.status.code(), Some(2), "{says}: {stderr}");
        assert!(stderr.contains(says) && stderr.lines().count() == 1, "{says}: {stderr}");
        assert_eq!(std::fs::read_to_string(&old).expect("there"), "old", "the old page stays");
    };
    let results = one.join("results.json");
    refused("found nothing", &|| std::fs::remove_dir_all(&one).expect("there"));
    refused("found no results.json in it", &|| std::fs::remove_file(&results).expect("there"));
    refused("expected schema 1, found 7", &|| change(&one, |results| results["schema"] = 7.into()));
    refused("results.json: line ", &|| {
        let bytes = std::fs::read(&results).expect("there");
        std::fs::write(&results, &bytes[..bytes.len() / 2]).expect("writable");
    });
    refused("s002.jsonl.gz: ", &|| {
        let series = one.join("series/s002.jsonl.gz");
        let bytes = std::fs::read(&series).expect("there");
        std::fs::write(&series, &bytes[..bytes.len() / 2]).expect("writable");
    });
    // Where it cannot be written: a failure, as everywhere.
    let run = report(&[evaluated()], &folder.join("nowhere/page.html"));
    assert_eq!(run.status.code(), Some(1), "{}", text(&run.stderr));
    let run = balanceroute(&["report"]);
    assert_eq!(run.status.code(), Some(2), "{}", text(&run.stderr));
}

/// The Chromium of this machine. None where nobody asked for one and none is there; the test then says that
/// it did not run.
fn chromium() -> Option<String> {
    let asked = std::env::var("CHROMIUM").ok().filter(|chromium| !chromium.is_empty());
    let chromium = asked.clone().unwrap_or_else(|| "/usr/bin/chromium".to_owned());
    if Command::new(&chromium).arg("--version").output().is_ok_and(|out| out.status.success()) {
        return Some(chromium);
    }
    assert!(asked.is_none(), "{chromium} does not run");
    println!("\nNOT RUN: pages in a browser: need chromium");
    None
}

/// What the probe finds on a page in a frame of so many pixels, since no window is as narrow as a phone; and
/// what the console says.
fn looked_at(chromium: &str, page: &Path, width: u32, dark: bool) -> (Value, Vec<String>) {
    let profile = tempfile::tempdir().expect("a folder");
    let frame = page.with_extension("frame.html");
    let listens = "addEventListener(\"message\", (event) => { document.body.dataset.found = event.data; });";
    let name = page.file_name().and_then(|name| name.to_str()).expect("a name");
    let inner = format!("<iframe src=\"{name}\" style=\"border:0;width:{width}px;height:900px\"></iframe>");
    std::fs::write(&frame, format!("<!doctype html><body><script>{listens}</script>{inner}"))
        .expect("writable");
    let scheme = if dark { 0 } else { 1 };
    let run = Command::new(chromium)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg("--window-size=1400,1000")
        .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
        .arg(format!("file://{}", frame.display()))
        .output()
        .expect("chromium runs");
    let (dom, log) = (text(&run.stdout), text(&run.stderr));
    let said = log.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect();
    let found = dom.split("data-found=\"").nth(1).and_then(|rest| rest.split('"').next());
    let found = found.unwrap_or_else(|| panic!("the probe says nothing: {log}"));
    let found = found.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    (serde_json::from_str(&found).expect("JSON"), said)
}

/// With the probe, before all else.
fn probed(html: &str) -> String {
    assert_eq!(html.matches("<head>").count(), 1);
    html.replace("<head>", &format!("<head>\n<script>{}</script>", include_str!("probe.js")))
}

#[test]
fn a_browser_shows_all_of_it() {
    let Some(chromium) = chromium() else { return };
    let folder = scratch("browser");
    let one = page(&[evaluated()], &folder.join("one.html"));
    let two = page(&[evaluated(), evaluated()], &folder.join("two.html"));
    let at = |name: &str| folder.join(name).with_extension("probed.html");
    for (name, html) in [("one", &one), ("two", &two)] {
        std::fs::write(at(name), probed(html)).expect("writable");
    }
    for (name, width, dark) in
        [("one", 360, false), ("one", 1_280, true), ("two", 360, true), ("two", 1_280, false)]
    {
        let (found, said) = looked_at(&chromium, &at(name), width, dark);
        assert!(said.is_empty(), "{said:?}");
        let what = format!("{name} at {width}, dark: {dark}: {found:#}");
        assert_eq!((&found["width"], &found["dark"]), (&width.into(), &dark.into()), "{what}");
        assert_eq!(
            (&found["requests"], &found["wrong"]),
            (&Value::from([""; 0]), &Value::from([""; 0])),
            "{what}"
        );
        assert!(found["texts"].as_u64() > Some(300) && found["drawings"].as_u64() > Some(20), "{what}");
        assert!(found["tables"].as_u64() > Some(3), "{what}");
    }
}

#[test]
fn the_probe_sees_what_it_looks_for() {
    let Some(chromium) = chromium() else { return };
    let page = scratch("probe").join("wrong.html");
    let drawing = |inner: &str| {
        format!("<svg class=\"plot\" aria-label=\"d\" viewBox=\"0 0 300 200\" width=\"300\">{inner}</svg>")
    };
    let text = |x: u32, text: &str| format!("<text x=\"{x}\" y=\"50\">{text}</text>");
    let wrong = [
        "<p style=\"color: #aaa\">pale</p>",
        "<p style=\"width: 3em; overflow: hidden; white-space: nowrap\">longer than that</p>",
        "<p style=\"width: 900px\">wide</p>",
        &drawing(&text(290, "beyond")),
        &drawing(&format!("{}{}<path d=\"M0 0h9\"/>", text(9, "one"), text(12, "other"))),
        "<svg class=\"plot\" aria-label=\"d\" viewBox=\"0 0 9 9\" width=\"9\"></svg>",
        "<a href=\"#nowhere\">away</a><i id=\"i\"></i><i id=\"i\"></i>",
        "<table><thead><tr><th>head</th></tr></thead><tbody><tr><td>1</td></tr></tbody></table>",
        "<img src=\"http://127.0.0.1:9/nowhere.png\" alt=\"\"><script>nothing();</script>",
    ];
    let html = format!("<!doctype html><html><head></head><body>{}</body></html>", wrong.join("\n"));
    std::fs::write(&page, probed(&html)).expect("writable");
    let (found, said) = looked_at(&chromium, &page, 360, false);
    assert!(said.iter().any(|line| line.contains("nothing is not defined")), "{said:?}");
    assert_eq!(found["requests"].as_array().map(Vec::len), Some(1), "{found:#}");
    let found: Vec<&str> =
        found["wrong"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    for says in [
        "error: ",
        "contrast 2.",
        "cut: P",
        "beside the page: P",
        "the page is ",
        "outside of its drawing: ",
        "on one another: ",
        "empty: d",
        "size 9 x 9",
        "leads nowhere: #nowhere",
        "an id is there twice",
        "cannot be sorted by TH",
    ] {
        assert!(found.iter().any(|wrong| wrong.contains(says)), "{says}: {found:#?}");
    }
}
