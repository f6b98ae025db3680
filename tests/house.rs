//! The rules of the house that no compiler checks: lengths of lines and files, how comments begin, and that
//! modules do not import in circles.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

const LONGEST_LINE: usize = 110;
const LONGEST_FILE: usize = 600;

/// Made by programs: nobody reads them from end to end.
const GENERATED: [&str; 2] = ["ffi/acl/bindings.rs", "ffi/capi/include/balanceroute.h"];

/// Folders of tests, and of what exists for tests only: long lists of cases are fine there.
const TESTS: [&str; 4] = ["tests/", "fuzz/", "ffi/acl/fake/", "kernels/model/"];

/// Python's stub files declare what the extension holds: one list, which mirrors the source file by file.
const DECLARATIONS: &str = ".pyi";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Path and text of every tracked file that is written by hand and is no prose.
fn files() -> Vec<(String, String)> {
    let listed = Command::new("git").arg("-C").arg(root()).arg("ls-files").output().expect("git runs");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stdout).expect("names in UTF-8");
    let paths = listed.lines().filter(|path| !GENERATED.contains(path));
    let read = paths.filter_map(|path| {
        let name = path.rsplit('/').next().expect("a name");
        let ours = match name.rsplit_once('.') {
            Some((_, end)) => {
                ["rs", "c", "h", "hpp", "cpp", "py", "pyi", "sh", "toml", "cmake"].contains(&end)
            }
            // Scripts.
            None => name != "LICENSE",
        };
        // Listed and not here: removed, and not yet from the index.
        let text =
            (ours || name == "CMakeLists.txt").then(|| std::fs::read_to_string(root().join(path)).ok());
        Some((path.to_owned(), text.flatten()?))
    });
    let files: Vec<(String, String)> = read.collect();
    assert!(files.len() > 100, "only {} files", files.len());
    files
}

fn is_test(path: &str) -> bool {
    let name = path.rsplit('/').next().expect("a name");
    name == "tests.rs"
        || TESTS.iter().any(|folder| path.starts_with(folder) || path.contains(&format!("/{folder}")))
}

#[test]
fn no_line_is_too_long() {
    let long: Vec<String> = files()
        .iter()
        .flat_map(|(path, text)| {
            text.lines().enumerate().filter_map(move |(at, line)| {
                let length = line.chars().count();
                (length > LONGEST_LINE).then(|| format!("{path}:{}: {length} columns", at + 1))
            })
        })
        .collect();
    assert!(
        long.is_empty(),
        "{} lines of more than {LONGEST_LINE} columns:\n{}",
        long.len(),
        long.join("\n")
    );
}

#[test]
fn no_file_is_too_long() {
    let long: Vec<String> = files()
        .iter()
        .filter(|(path, _)| !is_test(path) && !path.ends_with(DECLARATIONS))
        .filter(|(_, text)| text.lines().count() > LONGEST_FILE)
        .map(|(path, text)| format!("{path}: {} lines", text.lines().count()))
        .collect();
    assert!(long.is_empty(), "files of more than {LONGEST_FILE} lines:\n{}", long.join("\n"));
}

/// What a comment line says, or nothing.
fn comment(line: &str) -> Option<&str> {
    let (code, text) = match line.trim_start() {
        text if text.starts_with("* ") || text.starts_with("\"\"\"") => ("", text),
        _ => line
            .find("//")
            .or_else(|| line.find("/*"))
            .or_else(|| line.find("# "))
            .map(|at| line.split_at(at))?,
    };
    // A quote that is open: the mark is part of a string.
    let is_code = code.matches('"').count() % 2 == 1;
    (!is_code).then(|| text.trim_start_matches(['/', '!', '*', '#', '"', ' ']))
}

#[test]
fn no_comment_begins_with_what_came_before() {
    let begins = ["The", "same"].join(" ");
    let found: Vec<String> = files()
        .iter()
        .flat_map(|(path, text)| {
            let lines = text.lines().enumerate();
            lines
                .filter(|(_, line)| comment(line).is_some_and(|text| text.starts_with(&begins)))
                .map(move |(at, line)| format!("{path}:{}: {}", at + 1, line.trim()))
        })
        .collect();
    assert!(found.is_empty(), "comments that begin with `{begins}`:\n{}", found.join("\n"));
}

/// Rust without comment lines and without items that are compiled for tests only.
fn shipped(text: &str) -> String {
    let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let mut code = code.join("\n");
    while let Some(from) = code.find("#[cfg(test)]") {
        let (mut depth, mut to) = (0i32, code.len());
        for (at, letter) in code[from..].char_indices() {
            depth += i32::from(letter == '{') - i32::from(letter == '}');
            if depth == 0 && (letter == '}' || letter == ';') {
                to = from + at + 1;
                break;
            }
        }
        code.replace_range(from..to, "");
    }
    code
}

/// The first names of all paths that begin at the crate's root.
fn from_the_root(code: &str) -> BTreeSet<String> {
    let name = |path: &str| -> String {
        path.trim_start().chars().take_while(|&letter| letter.is_alphanumeric() || letter == '_').collect()
    };
    let mut names = BTreeSet::new();
    for (at, found) in code.match_indices("crate::") {
        let rest = &code[at + found.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            names.insert(name(rest));
            continue;
        };
        let mut depth = 0;
        let parts = list.split_inclusive(|letter| {
            depth += i32::from(letter == '{') - i32::from(letter == '}');
            letter == ',' && depth == 0 || depth < 0
        });
        let mut depth = 0;
        for part in parts {
            names.insert(name(part));
            depth += part.matches('{').count() as i32 - part.matches('}').count() as i32;
            if depth < 0 {
                break;
            }
        }
    }
    names
}

/// Which top module of the library uses which, and in which files.
fn imports() -> BTreeMap<String, BTreeMap<String, BTreeSet<String>>> {
    let files = files();
    let module = |path: &str| -> Option<String> {
        let below = path.strip_prefix("src/")?;
        let name = below.split(['/', '.']).next().expect("a name");
        (path.ends_with(".rs") && !["lib", "main", "bin"].contains(&name)).then(|| name.to_owned())
    };
    let modules: BTreeSet<String> = files.iter().filter_map(|(path, _)| module(path)).collect();
    // What the root gives again under its own name: `pub use batch::{Batch, Request};`.
    let mut given_again = BTreeMap::new();
    let library = &files.iter().find(|(path, _)| path == "src/lib.rs").expect("a library").1;
    for uses in shipped(library).split(';').filter_map(|item| item.trim().split("pub use ").nth(1)) {
        let (from, names) = uses.split_once("::").unwrap_or((uses, ""));
        for name in names.split([',', '{', '}', ':']).map(str::trim).filter(|name| !name.is_empty()) {
            given_again.insert(name.to_owned(), from.trim_start_matches("crate::").to_owned());
        }
    }
    let mut edges: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for (path, text) in files.iter().filter(|(path, _)| !is_test(path)) {
        let Some(from) = module(path) else { continue };
        for name in from_the_root(&shipped(text)) {
            let to = given_again.get(&name).unwrap_or(&name);
            if *to != from && modules.contains(to) {
                edges.entry(from.clone()).or_default().entry(to.clone()).or_default().insert(path.clone());
            }
        }
    }
    assert!(edges.len() >= 5, "only {edges:?}");
    edges
}

/// A way along edges from one module to another, the first left out.
fn way<'a>(
    edges: &'a BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
    from: &'a str,
    to: &str,
    seen: &mut BTreeSet<&'a str>,
) -> Option<Vec<&'a str>> {
    for next in edges.get(from).into_iter().flat_map(BTreeMap::keys) {
        if next == to {
            return Some(vec![next]);
        }
        if seen.insert(next)
            && let Some(mut rest) = way(edges, next, to, seen)
        {
            rest.insert(0, next);
            return Some(rest);
        }
    }
    None
}

#[test]
fn modules_do_not_import_in_circles() {
    let edges = imports();
    let mut circles = Vec::new();
    for (from, targets) in &edges {
        for (to, files) in targets {
            if let Some(back) = way(&edges, to, from, &mut BTreeSet::new()) {
                let files: Vec<&str> = files.iter().map(String::as_str).collect();
                circles.push(format!("{from} -> {to} -> {}: {}", back.join(" -> "), files.join(", ")));
            }
        }
    }
    assert!(circles.is_empty(), "{} imports close a circle:\n{}", circles.len(), circles.join("\n"));
}

#[test]
fn the_checks_see_what_they_look_for() {
    let code = "use crate::{Batch, pool::{Pool, queue}, score};\nlet x = crate::rule::new();\n// crate::no\n\
                #[cfg(test)]\nmod tests {\n use crate::sim;\n}\nuse crate::policy;";
    let names: Vec<String> = from_the_root(&shipped(code)).into_iter().collect();
    assert_eq!(names, ["Batch", "policy", "pool", "rule", "score"]);
    assert_eq!(comment("    /// Words."), Some("Words."));
    assert_eq!(comment("let x = 1; // Words."), Some("Words."));
    assert_eq!(comment(" * Words of C."), Some("Words of C."));
    assert_eq!(comment("x = 1  # Words of Python."), Some("Words of Python."));
    assert_eq!(comment("let x = \"https://words\";"), None);
    assert!(is_test("tests/golden.rs") && is_test("ffi/capi/tests/c.rs") && !is_test("src/batch/mod.rs"));
}
