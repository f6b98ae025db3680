//! Real C against the library: what its guards promise, the golden vectors to the last bit, and the example,
//! each linked statically under AddressSanitizer and UBSan and dynamically under valgrind.
#![cfg(unix)]

#[path = "../../../tests/support/compile.rs"]
mod compile;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Where cargo has put the library that this test was built with.
fn libraries() -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    test.parent().expect("a folder").to_owned()
}

fn run(mut command: Command, input: &str) -> String {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_owned();
    let feed = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("finished");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    // A program that reads nothing may have gone before.
    let _ = feed.join().expect("no panic");
    out.into_owned()
}

#[derive(Clone, Copy, Debug)]
enum How {
    /// Linked statically, under AddressSanitizer and UBSan.
    Sanitized,
    /// Linked dynamically, under valgrind.
    Valgrind,
}

/// Compiles a program and runs it on the input; none where valgrind is not installed.
fn compiled(source: &Path, how: How, input: &str) -> Option<String> {
    compiled_with(source, how, input, &[])
}

/// [`compiled`] with arguments for the program.
fn compiled_with(source: &Path, how: How, input: &str, arguments: &[&Path]) -> Option<String> {
    let installed = || Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_ok();
    if matches!(how, How::Valgrind) && !installed() {
        let name = source.file_name().expect("a name").to_string_lossy();
        // The harness leaves its dots on the line: begin one of our own.
        println!("\nNOT RUN: {name} under valgrind: it is not installed");
        return None;
    }
    let name = format!("{}-{how:?}", source.file_stem().expect("a name").to_string_lossy());
    let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let libraries = libraries();
    let mut build = compile::c("c11");
    build.flag("-Wpedantic").define("_POSIX_C_SOURCE", "200809L").include(root().join("include"));
    build.define("EXPECTED_VERSION", concat!("\"", env!("CARGO_PKG_VERSION"), "\""));
    if matches!(how, How::Sanitized) {
        build.flag("-fsanitize=address,undefined").flag("-fno-sanitize-recover=all");
    }
    compile::run(&build, |command| {
        command.arg(source).arg("-o").arg(&program);
        match how {
            How::Sanitized => {
                command.arg(libraries.join("libbalanceroute_capi.a")).args(["-lpthread", "-lm"]);
                if cfg!(target_os = "linux") {
                    command.arg("-ldl");
                }
            }
            How::Valgrind => {
                command.arg("-L").arg(&libraries).args(["-lbalanceroute_capi", "-lpthread"]);
                command.arg(format!("-Wl,-rpath,{}", libraries.display()));
            }
        }
    });
    let mut command = match how {
        How::Sanitized => Command::new(&program),
        How::Valgrind => {
            let mut valgrind = Command::new("valgrind");
            valgrind.args([
                "--quiet",
                "--error-exitcode=99",
                "--leak-check=full",
                "--show-leak-kinds=definite,indirect",
            ]);
            valgrind.arg("--errors-for-leak-kinds=definite,indirect").arg(&program);
            valgrind
        }
    };
    // Cargo's path begins with what was built last by itself, which may be an older library.
    command.args(arguments).env_remove("LD_LIBRARY_PATH").env_remove("BALANCEROUTE_RECORD");
    command.env("UBSAN_OPTIONS", "print_stacktrace=1");
    Some(run(command, input))
}

#[test]
fn the_guards_hold() {
    for how in [How::Sanitized, How::Valgrind] {
        if let Some(out) = compiled(&root().join("tests/c/guards.c"), how, "") {
            assert_eq!(out, "guards: all as promised\n");
        }
    }
}

#[test]
fn a_router_keeps_its_state() {
    for how in [How::Sanitized, How::Valgrind] {
        if let Some(out) = compiled(&root().join("tests/c/router.c"), how, "") {
            assert_eq!(out, "router: all as promised\n");
        }
    }
}

#[test]
fn a_request_has_stages_and_a_worker_may_change() {
    for how in [How::Sanitized, How::Valgrind] {
        if let Some(out) = compiled(&root().join("tests/c/stages.c"), how, "") {
            assert_eq!(out, "stages: all as promised\n");
        }
    }
}

#[test]
fn claims_and_classes_hold() {
    for how in [How::Sanitized, How::Valgrind] {
        if let Some(out) = compiled(&root().join("tests/c/order.c"), how, "") {
            assert_eq!(out, "order: all as promised\n");
        }
    }
}

#[test]
fn a_router_goes_on_from_its_log() {
    for how in [How::Sanitized, How::Valgrind] {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("record-{how:?}-logs"));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("writable");
        if let Some(out) = compiled_with(&root().join("tests/c/record.c"), how, "", &[&folder]) {
            assert_eq!(out, "record: all as promised\n");
        }
        std::fs::remove_dir_all(&folder).expect("writable");
    }
}

#[test]
fn the_readme_compiles_and_runs() {
    let readme = std::fs::read_to_string(root().join("../../README.md")).expect("readable");
    let (_, from) = readme.split_once("```c\n").expect("a block of C");
    let (block, _) = from.split_once("```").expect("its end");
    let source = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("readme.c");
    std::fs::write(&source, block).expect("writable");
    let out = compiled(&source, How::Sanitized, "").expect("sanitizers are always there");
    assert_eq!(out.lines().count(), 2);
    assert!(out.contains("enters worker 0") && out.contains("enters worker 1"), "{out}");
}

#[test]
fn the_example_runs_and_is_short() {
    let source = root().join("examples/loop.c");
    let lines = std::fs::read_to_string(&source).expect("readable").lines().count();
    assert!(lines < 50, "{lines} lines");
    let outs: Vec<String> =
        [How::Sanitized, How::Valgrind].into_iter().filter_map(|how| compiled(&source, how, "")).collect();
    assert!(outs[0].contains("finished") && outs.iter().all(|out| *out == outs[0]), "{outs:?}");
}

// ---- golden vectors ----

/// A counted array.
fn array(out: &mut String, values: impl IntoIterator<Item = u64>) {
    let values: Vec<u64> = values.into_iter().collect();
    let _ = write!(out, "{}", values.len());
    values.iter().for_each(|value| _ = write!(out, " {value}"));
    out.push('\n');
}

fn rows<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn whole(value: &Value) -> u64 {
    value.as_u64().expect("a whole number")
}

fn bits(value: &Value) -> u64 {
    u64::from((value.as_f64().expect("a number") as f32).to_bits())
}

/// A field of every entry; an absent array where every entry has the default.
fn column(out: &mut String, entries: &[Value], key: &str, default: u64) {
    let values: Vec<u64> = entries.iter().map(|entry| entry[key].as_u64().unwrap_or(default)).collect();
    let absent = values.iter().all(|&value| value == default);
    array(out, if absent { Vec::new() } else { values });
}

/// A batch as tests/c/golden.c reads it.
fn batch_text(case: &Value) -> String {
    const NONE: u64 = u32::MAX as u64;
    let mut out = String::new();
    let (workers, requests) = (rows(case, "workers"), rows(case, "requests"));
    let of = |entries: &[Value], key: &str| -> Vec<u64> {
        entries.iter().map(|entry| whole(&entry[key])).collect()
    };
    array(&mut out, of(workers, "load_tokens"));
    array(&mut out, of(workers, "running"));
    array(&mut out, of(workers, "free_slots"));
    column(&mut out, workers, "kv_capacity_tokens", u64::MAX);
    let used = workers.iter().map(|of| of["kv_used_tokens"].as_u64().unwrap_or(whole(&of["load_tokens"])));
    array(&mut out, used);
    column(&mut out, workers, "kv_growth_tokens", 0);
    let weights = workers
        .iter()
        .map(|of| if of["weight"].is_null() { 1.0f32.to_bits().into() } else { bits(&of["weight"]) });
    array(&mut out, weights);
    array(&mut out, workers.iter().map(|of| of["accepting"].as_bool().unwrap_or(true).into()));
    column(&mut out, workers, "next_completion_steps", NONE);
    array(&mut out, of(requests, "prompt_tokens"));
    array(&mut out, of(requests, "id"));
    column(&mut out, requests, "waited_steps", 0);
    for key in ["deadline_steps", "rank", "pair_row", "survival_class"] {
        column(&mut out, requests, key, NONE);
    }
    column(&mut out, requests, "passed", 0);
    let traffic = &case["traffic"];
    for key in ["mean_prompt_tokens", "sd_prompt_tokens", "small_prompt_tokens", "mean_output_tokens"] {
        let _ = write!(out, "{} ", traffic[key].as_u64().unwrap_or(0));
    }
    let horizon = rows(case, "projection").first().map_or(0, |row| row.as_array().expect("a row").len() - 1);
    let _ = writeln!(out, "{} {horizon}", case["request_growth_tokens"].as_u64().unwrap_or(0));
    let flat = |key: &str| rows(case, key).iter().flat_map(|row| row.as_array().expect("a row"));
    array(&mut out, flat("projection").map(whole));
    let ends = rows(case, "ends");
    let mut offset = 0;
    let offsets = ends.iter().map(|of| {
        offset += of.as_array().expect("a list").len() as u64;
        offset
    });
    let offsets: Vec<u64> =
        if ends.is_empty() { Vec::new() } else { std::iter::once(0).chain(offsets).collect() };
    array(&mut out, offsets);
    array(&mut out, flat("ends").map(|end| whole(&end[0])));
    array(&mut out, flat("ends").map(|end| whole(&end[1])));
    let _ = writeln!(out, "{}", rows(case, "bonus_tokens").len().max(rows(case, "eligible").len()));
    array(&mut out, flat("bonus_tokens").map(bits));
    array(&mut out, []);
    assert!(workers.len() <= 64, "one word to a row");
    let words = rows(case, "eligible").iter().map(|row| {
        let row = row.as_array().expect("a row").iter().enumerate();
        row.fold(0u64, |word, (at, may)| word | u64::from(may.as_bool().expect("true or false")) << at)
    });
    array(&mut out, words);
    let _ = writeln!(out, "{}", rows(case, "classes").len());
    array(&mut out, flat("classes").map(bits));
    out
}

/// An answer as tests/c/golden.c writes it.
fn answer_text(answer: &Value) -> String {
    const REASONS: [&str; 5] = ["no-slot", "no-capacity", "not-eligible", "outside-window", "deferred"];
    let double = |value: &Value| format!("{:016x}", value.as_f64().expect("a number").to_bits());
    let mut out = String::new();
    for pick in rows(answer, "admitted") {
        let _ = writeln!(out, "admitted {} {} {}", pick[0], pick[1], double(&pick[2]));
    }
    for waits in rows(answer, "waiting") {
        let code = REASONS.iter().position(|name| waits[1] == *name).expect("a known reason") + 1;
        let _ = writeln!(out, "waiting {} {code}", waits[0]);
    }
    let (before, after) = (&answer["before"], &answer["after"]);
    let balance = [&before[0], &before[1], &after[0], &after[1]].map(double);
    let _ = writeln!(out, "balance {}", balance.join(" "));
    out
}

#[test]
fn the_golden_vectors_give_the_same_bytes() {
    let folder = root().join("../../tests/golden");
    let (mut asked, mut expected, mut files, mut decisions) = (String::new(), String::new(), 0, 0);
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|end| end == "json")) {
        let file: Value =
            serde_json::from_str(&std::fs::read_to_string(path).expect("readable")).expect("JSON");
        assert_eq!(file["format"], 1);
        for case in rows(&file, "batches") {
            let batch = batch_text(case);
            for answer in rows(case, "answers") {
                for policy in rows(answer, "policies") {
                    let _ = write!(asked, "{}\n{batch}", policy.as_str().expect("a name"));
                    expected += &answer_text(answer);
                    decisions += 1;
                }
            }
        }
        files += 1;
    }
    assert!(files >= 5 && decisions >= 500);
    for how in [How::Sanitized, How::Valgrind] {
        let found = compiled(&root().join("tests/c/golden.c"), how, &asked);
        if let Some(found) = found.filter(|found| *found != expected) {
            let at = found.lines().zip(expected.lines()).position(|(found, expected)| found != expected);
            let line = |text: &str| at.and_then(|at| text.lines().nth(at)).unwrap_or_default().to_owned();
            panic!("{how:?}, line {at:?}: found {}, expected {}", line(&found), line(&expected));
        }
    }
}
