//! What the pages say of files, links, commands and variables is so; the short commands run.
//!
//! Blocks of `sh` are checked: programs, files, subcommands, flags, features and targets. Blocks of `sh run`
//! are run as well, line by line. Blocks of `sh elsewhere` need something that is not in this repository.
//! Words in capitals (`FILE`, `DIR`) stand for something else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, OnceLock};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder, from the root; built and hidden ones aside.
fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")).collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if name.starts_with('.') || name == "target" || name == "__pycache__" {
            continue;
        }
        match entry.file_type().expect("a type") {
            kind if kind.is_dir() => walk(&path, found),
            _ => found.push(path),
        }
    }
}

fn files() -> &'static [PathBuf] {
    static FILES: OnceLock<Vec<PathBuf>> = OnceLock::new();
    FILES.get_or_init(|| {
        let mut found = Vec::new();
        walk(root(), &mut found);
        found
    })
}

/// A page as a reader has it.
struct Page {
    path: PathBuf,
    links: Vec<String>,
    anchors: BTreeSet<String>,
    /// What the fence says, and the text.
    blocks: Vec<(String, String)>,
    spans: Vec<String>,
}

impl Page {
    fn name(&self) -> String {
        self.path.strip_prefix(root()).unwrap_or(&self.path).display().to_string()
    }

    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).expect("a page");
        let (links, anchors) = (Vec::new(), BTreeSet::new());
        let mut page = Self { path: path.to_owned(), links, anchors, blocks: Vec::new(), spans: Vec::new() };
        let (mut heading, mut block): (Option<String>, Option<(String, String)>) = (None, None);
        for event in Parser::new_ext(&text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(dest_url.into_string());
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    page.anchors.extend(heading.take().map(|heading| anchor(&heading)));
                }
                Event::Start(Tag::CodeBlock(kind)) => {
                    let info = match kind {
                        CodeBlockKind::Fenced(info) => info.into_string(),
                        CodeBlockKind::Indented => String::new(),
                    };
                    block = Some((info, String::new()));
                }
                Event::End(TagEnd::CodeBlock) => page.blocks.extend(block.take()),
                Event::Code(code) => {
                    heading.iter_mut().for_each(|heading| heading.push_str(&code));
                    page.spans.push(code.into_string());
                }
                Event::Text(words) => {
                    heading.iter_mut().for_each(|heading| heading.push_str(&words));
                    block.iter_mut().for_each(|(_, text)| text.push_str(&words));
                }
                _ => {}
            }
        }
        page
    }
}

/// The name under which the hosting site links to a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().trim().to_lowercase().replace(' ', "-")
}

fn pages() -> Vec<Page> {
    let pages = files().iter().filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let pages: Vec<Page> = pages.map(|path| Page::read(path)).collect();
    assert!(pages.len() > 10, "{} pages", pages.len());
    pages
}

/// A path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(parts.pop()),
            Component::CurDir => {}
            part => parts.push(part),
        }
    }
    parts
}

fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn links_lead_somewhere() {
    let pages = pages();
    let mut wrong = Vec::new();
    for page in &pages {
        for link in &page.links {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.path.clone(),
                file => plain(&page.path.parent().expect("a folder").join(file)),
            };
            if !target.starts_with(root()) || !target.exists() {
                wrong.push(format!("{}: no file {link}", page.name()));
            } else if !fragment.is_empty() {
                let anchors = pages.iter().find(|page| page.path == target).map(|page| &page.anchors);
                if !anchors.is_some_and(|anchors| anchors.contains(fragment)) {
                    wrong.push(format!("{}: no heading {link}", page.name()));
                }
            }
        }
    }
    none(&wrong);
}

/// Whether a word stands for something else.
fn stands_for_something(word: &str) -> bool {
    let capital = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || "_,.".contains(c);
    word == "..." || word.chars().any(|c| c.is_ascii_uppercase()) && word.chars().all(capital)
}

/// Where a path of a page leads, from the root or from the page's folder; none where it is no path.
fn path_of(page: &Page, span: &str) -> Option<PathBuf> {
    let written = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    if !span.contains('/') || span.starts_with('/') || !span.chars().all(written) {
        return None;
    }
    let first = span.split('/').next()?;
    let beside = page.path.parent()?;
    let from = [root(), beside].into_iter().find(|folder| folder.join(first).is_dir())?;
    Some(plain(&from.join(span)))
}

#[test]
fn paths_are_there() {
    let mut wrong = Vec::new();
    for page in pages() {
        for span in &page.spans {
            let Some(path) = path_of(&page, span) else { continue };
            if !path.exists() {
                wrong.push(format!("{}: no {span}", page.name()));
            }
        }
    }
    none(&wrong);
}

/// Runs a command in a folder of the repository.
fn run(folder: &Path, command: &[&str]) -> Output {
    let program = if command[0] == "cargo" { env!("CARGO") } else { command[0] };
    let out = Command::new(program).args(&command[1..]).current_dir(folder).output();
    out.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// What `--help` prints after a command; none where there is no such command.
fn help(command: &[&str]) -> Option<String> {
    static KNOWN: Mutex<BTreeMap<String, Option<String>>> = Mutex::new(BTreeMap::new());
    // Held while it runs: two builds at once would only wait for each other.
    let mut known = KNOWN.lock().expect("no test has panicked here");
    let ask = || {
        let out = run(root(), &[command, &["--help"]].concat());
        let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        out.status.success().then_some(text)
    };
    known.entry(command.join(" ")).or_insert_with(ask).clone()
}

/// Whether a help text has a flag as a word of its own.
fn has_flag(help: &str, flag: &str) -> bool {
    let end = |c: char| !(c.is_ascii_alphanumeric() || c == '-');
    help.split(end).any(|word| word == flag)
}

/// Packages, targets and features of a workspace.
fn metadata(folder: &Path) -> Value {
    static KNOWN: Mutex<BTreeMap<PathBuf, Value>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().expect("no test has panicked here");
    let ask = || {
        let out = run(folder, &["cargo", "metadata", "--no-deps", "--format-version", "1"]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).expect("JSON")
    };
    known.entry(folder.to_owned()).or_insert_with(ask).clone()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Whether a package of the workspace has a target of this kind and name.
fn has_target(metadata: &Value, kind: &str, name: &str) -> bool {
    let targets = list(&metadata["packages"]).iter().flat_map(|package| list(&package["targets"]));
    targets
        .into_iter()
        .any(|target| target["name"] == name && list(&target["kind"]).iter().any(|of| of == kind))
}

/// What is wrong with one command, run in a folder; empty where nothing is.
fn check(words: &[String], folder: &Path) -> Result<(), String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["cargo", toolchain, ..] if toolchain.starts_with('+') => Ok(()),
        ["cargo", "sim", ref rest @ ..] => check_simulator(rest),
        ["cargo", "add", "--path", ..] => Ok(()),
        ["cargo", sub, ref rest @ ..] => check_cargo(sub, rest, folder),
        ["pip", "install", what, ..] => {
            let folder = folder.join(what.split('[').next().unwrap_or(what));
            if folder.join("pyproject.toml").exists() { Ok(()) } else { Err(format!("no package {what}")) }
        }
        ["python" | "python3", "-m", module, ..] => {
            let module = root().join("ffi/python").join(module.replace('.', "/"));
            if module.is_dir() { Ok(()) } else { Err(format!("no module {}", module.display())) }
        }
        ["python" | "python3" | "bash", file, ..] | [file, ..] if file.contains('/') => {
            let path = folder.join(file);
            let text = fs::read_to_string(&path).map_err(|error| format!("{file}: {error}"))?;
            let flags = words.iter().filter(|word| word.starts_with("--"));
            let unknown = flags.into_iter().find(|flag| !has_flag(&text, flag));
            unknown.map_or(Ok(()), |flag| Err(format!("{file} knows no {flag}")))
        }
        ["source" | "cc" | "cmake" | "export", ..] | [] => Ok(()),
        [program, ..] => Err(format!("what is {program}? A block of `sh elsewhere` is not checked")),
    }
}

/// Names of policies, as the program lists them.
fn policies() -> &'static BTreeSet<String> {
    static KNOWN: OnceLock<BTreeSet<String>> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let out = run(root(), &["cargo", "sim", "policies", "--json", "-"]);
        let listed: Value = serde_json::from_slice(&out.stdout).expect("JSON");
        let names = list(&listed["policies"])
            .iter()
            .flat_map(|policy| std::iter::once(&policy["name"]).chain(list(&policy["aliases"])));
        names.filter_map(Value::as_str).map(str::to_owned).collect()
    })
}

/// The program's own arguments.
fn check_simulator(rest: &[&str]) -> Result<(), String> {
    let deep = if rest.first() == Some(&"trace") { 2 } else { 1 };
    let sub: Vec<&str> = rest.iter().take(deep).filter(|word| !word.starts_with('-')).copied().collect();
    let command = [&["cargo", "sim"], &sub[..]].concat();
    let help = help(&command).ok_or_else(|| format!("no command {}", command.join(" ")))?;
    for word in rest.iter().filter(|word| word.starts_with("--")) {
        let flag = word.split('=').next().unwrap_or(word);
        if !has_flag(&help, flag) {
            return Err(format!("{} knows no {flag}", command.join(" ")));
        }
    }
    let after = |flag: &str| rest.iter().position(|&word| word == flag).and_then(|at| rest.get(at + 1));
    let named = after("--policy").into_iter().flat_map(|names| names.split(','));
    for name in named.filter(|name| !stands_for_something(name)) {
        if !policies().contains(name) {
            return Err(format!("no policy {name}"));
        }
    }
    Ok(())
}

/// Cargo's own arguments: flags, and the packages, targets and features that they name.
fn check_cargo(sub: &str, rest: &[&str], folder: &Path) -> Result<(), String> {
    // Programs of others, which a machine may lack.
    if ["deny", "mutants"].contains(&sub) {
        return Ok(());
    }
    let help = help(&["cargo", sub]).ok_or_else(|| format!("no command cargo {sub}"))?;
    let metadata = metadata(folder);
    let own = rest.split(|&word| word == "--").next().unwrap_or(&[]);
    let packages = list(&metadata["packages"]);
    let mut package = None;
    let mut words = own.iter();
    while let Some(&word) = words.next() {
        if !word.starts_with('-') {
            continue;
        }
        if !has_flag(&help, word) {
            return Err(format!("cargo {sub} knows no {word}"));
        }
        let mut value = || words.next().copied().unwrap_or_default();
        let kind = match word {
            "--test" | "--bench" | "--example" | "--bin" => &word[2..],
            "-p" | "--package" => {
                let name = value();
                package = packages.iter().find(|package| package["name"] == name);
                package.ok_or_else(|| format!("no package {name}"))?;
                continue;
            }
            "--features" => {
                let named = |feature: &&str| packages.iter().any(|of| !of["features"][*feature].is_null());
                if let Some(feature) = value().split(',').find(|feature| !named(feature)) {
                    return Err(format!("no feature {feature}"));
                }
                continue;
            }
            "--path" => {
                let path = value();
                if !folder.join(path).join("Cargo.toml").exists() {
                    return Err(format!("no package in {path}"));
                }
                continue;
            }
            _ => continue,
        };
        let name = value();
        if !has_target(&metadata, kind, name) && !stands_for_something(name) {
            return Err(format!("no {kind} {name}"));
        }
    }
    let simulator = package.is_some_and(|package| package["name"] == "balanceroute-sim");
    match rest.iter().position(|&word| word == "--") {
        Some(at) if sub == "run" && simulator => check_simulator(&rest[at + 1..]),
        _ => Ok(()),
    }
}

/// Whether a source names a variable of ours.
fn is_read(variable: &str) -> bool {
    static SOURCES: OnceLock<String> = OnceLock::new();
    let sources = SOURCES.get_or_init(|| {
        let of_code = |path: &&PathBuf| {
            let extension = path.extension().and_then(|extension| extension.to_str());
            matches!(extension, Some("rs" | "py" | "sh"))
                || path.ends_with("tests/run")
                || path.ends_with("engines/run")
        };
        let own = Path::new("tests/documents.rs");
        let sources = files().iter().filter(of_code).filter(|path| !path.ends_with(own));
        sources.filter_map(|path| fs::read_to_string(path).ok()).collect()
    });
    let end = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    sources.split(end).any(|word| word == variable)
}

/// What is wrong with a line of a shell.
fn check_line(line: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut folder = root().to_owned();
    let line = line.split(" #").next().unwrap_or(line);
    for command in line.split("&&").flat_map(|part| part.split(['|', ';'])) {
        let Some(mut words) = shlex::split(command) else {
            wrong.push(format!("`{command}` does not end"));
            continue;
        };
        while let Some((variable, _)) = words.first().and_then(|word| word.split_once('=')) {
            if variable.starts_with("BALANCEROUTE_") && !is_read(variable) {
                wrong.push(format!("nothing reads {variable}"));
            }
            words.remove(0);
        }
        if let [cd, to] = &words[..]
            && cd == "cd"
        {
            folder = folder.join(to);
            continue;
        }
        if !folder.is_dir() {
            wrong.push(format!("no folder {}", folder.display()));
        } else if let Err(what) = check(&words, &folder) {
            wrong.push(what);
        }
    }
    wrong
}

/// The lines of a block with a command in them.
fn lines(block: &str) -> impl Iterator<Item = &str> {
    block.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
}

/// Whether a code span is a command of this repository.
fn is_command(page: &Page, span: &str) -> bool {
    let mut words = span.split_whitespace().skip_while(|word| word.starts_with("BALANCEROUTE_"));
    let Some(first) = words.next() else { return false };
    match first {
        // Alone, the name of a program.
        "cargo" | "pip" => words.next().is_some(),
        "cd" => true,
        first => path_of(page, first).is_some_and(|path| path.starts_with(root()) && words.next().is_some()),
    }
}

#[test]
fn commands_and_their_flags_are_there() {
    let mut wrong = Vec::new();
    let mut checked = 0;
    for page in pages() {
        let name = page.name();
        let blocks = page.blocks.iter().filter(|(info, _)| matches!(&info[..], "sh" | "sh run"));
        let spans = page.spans.iter().filter(|span| is_command(&page, span)).map(String::as_str);
        for line in blocks.flat_map(|(_, text)| lines(text)).chain(spans) {
            checked += 1;
            wrong.extend(check_line(line).into_iter().map(|what| format!("{name}: {what}\n    in {line}")));
        }
    }
    none(&wrong);
    assert!(checked > 30, "{checked} commands");
}

#[test]
fn flags_and_variables_alone_are_there() {
    let subcommands = [
        "simulate",
        "evaluate",
        "report",
        "recommend",
        "sweep",
        "optimum",
        "watch",
        "settings",
        "forecast",
        "kernels",
        "picture",
        "trace",
        "replay",
        "calibrate",
        "man",
    ];
    let run = fs::read_to_string(root().join("tests/run")).expect("tests/run");
    let mut help: String = subcommands.iter().filter_map(|sub| help(&["cargo", "sim", sub])).collect();
    help += &self::help(&["cargo", "run"]).expect("cargo");
    let board = root().join("ffi/python/balanceroute/dashboard/__main__.py");
    help += &fs::read_to_string(board).expect("a command of Python's");
    let known = |flag: &str| has_flag(&help, flag) || has_flag(&run, flag);
    let mut wrong = Vec::new();
    for page in pages() {
        for span in &page.spans {
            let word = span.split([' ', '=']).next().unwrap_or(span);
            if word.starts_with("--") && !known(word) {
                wrong.push(format!("{}: nothing knows {word}", page.name()));
            } else if word.starts_with("BALANCEROUTE_") && !is_read(word) {
                wrong.push(format!("{}: nothing reads {word}", page.name()));
            }
        }
    }
    none(&wrong);
}

#[test]
fn the_short_commands_run() {
    let mut ran = 0;
    for page in pages() {
        for (_, text) in page.blocks.iter().filter(|(info, _)| info == "sh run") {
            for line in lines(text) {
                let out = run(root(), &["bash", "-euo", "pipefail", "-c", line]);
                let said = String::from_utf8_lossy(&out.stderr);
                assert!(out.status.success(), "{}: {line}: {}\n{said}", page.name(), out.status);
                ran += 1;
            }
        }
    }
    assert!(ran >= 3, "{ran} commands");
}

#[test]
fn the_picture_is_what_its_command_draws() {
    let drawn = Path::new(env!("CARGO_TARGET_TMPDIR")).join("loads.svg");
    let out = run(root(), &["cargo", "sim", "picture", "--out", &drawn.display().to_string()]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let same = fs::read(&drawn).expect("drawn") == fs::read(root().join("docs/loads.svg")).expect("there");
    assert!(same, "docs/loads.svg is old: cargo sim picture --out docs/loads.svg");
}

#[test]
fn every_policy_has_its_line() {
    let page = Page::read(&root().join("docs/algorithms.md"));
    // Families are written as `brh-*` in formulas, and by name where they are told apart.
    let named = |name: &str| {
        page.spans
            .iter()
            .any(|span| span == name || span.strip_suffix('*').is_some_and(|of| name.starts_with(of)))
    };
    let missing: Vec<_> = policies().iter().filter(|name| !named(name.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn docs_rs_has_every_feature_that_needs_no_tools() {
    let metadata = metadata(root());
    let of_library = |package: &&Value| package["name"] == "balanceroute";
    let library = list(&metadata["packages"]).iter().find(of_library).expect("the library");
    let built: BTreeSet<&str> =
        list(&library["metadata"]["docs"]["rs"]["features"]).iter().filter_map(Value::as_str).collect();
    let features = library["features"].as_object().expect("a table").keys().map(String::as_str);
    // Makes bindings again, which needs libclang.
    let wanted: BTreeSet<&str> =
        features.filter(|feature| !["default", "regen-bindings"].contains(feature)).collect();
    assert_eq!(built, wanted);
}
