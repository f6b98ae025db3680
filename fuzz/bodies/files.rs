//! Bytes are a file of one of the kinds that the simulator reads beside plain traces: packed traces and maps
//! of their columns, step laws, measured steps, and the folder of an evaluation with the page that is made of
//! it. Each is taken or refused; nothing panics, and what is taken holds what its reader promises.
//!
//! Included by the fuzz target and by `sim/tests/fuzz_bodies.rs`.

use std::fs;
use std::io::Write;
use std::path::Path;

use arbitrary::{Arbitrary, Result as Drawn, Unstructured};
use balanceroute_sim::StepCost;
use balanceroute_sim::calibration::Measurements;
use balanceroute_sim::evaluation::html;
use balanceroute_sim::report::evaluated::Evaluated;
use balanceroute_sim::traces::{ColumnMap, ReadOptions, TimeUnit, Trace};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

/// Results as `evaluate --out` writes them, of one scenario and two rules.
const RESULTS: &str = include_str!("../seeds/results.json");

const SERIES: &str = concat!(
    r#"{"rule":"level","kind":"sample","step":5,"t_ms":19.5,"step_ms":4.1,"loads":[1,2],"imbalance":1.0,"#,
    r#""running":6,"waiting":7}"#
);

const LANE: &str = concat!(
    r#"{"scenario":"s000","every":[{"rule":"level","requests":44,"every":1}]}"#,
    "\n",
    r#"{"rule":"level","replicate":0,"id":1,"prompt":57,"output":18,"arrived_ms":1.3,"admitted_ms":2.2,"#,
    r#""first_token_ms":3.2,"ended_ms":9.2,"worker":1,"preempted":0,"sampled":false,"lane":true}"#
);

/// Which reader took the bytes; none where it refused them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "who fuzzes reads none of it")]
pub(crate) enum Taken {
    Gzip,
    Zstd,
    Columns,
    Law,
    Steps,
    Page,
}

/// Values that are of the wrong kind, too large, too small, or many.
fn value(u: &mut Unstructured<'_>) -> Drawn<Value> {
    Ok(match u8::arbitrary(u)? % 16 {
        0 => Value::Null,
        1 => 0.into(),
        2 => (-1).into(),
        3 => u64::MAX.into(),
        4 => 1e308.into(),
        5 => (-1e308).into(),
        6 => 5e-324.into(),
        7 => u.arbitrary::<i32>()?.into(),
        8 => f64::from(u.arbitrary::<i16>()?).into(),
        9 => "".into(),
        10 => "level".into(),
        11 => "<script>&\"'".into(),
        12 => "../../etc/passwd".into(),
        13 => Value::Array(Vec::new()),
        14 => Value::Object(serde_json::Map::new()),
        _ => true.into(),
    })
}

/// Changes what lies at a drawn place: another value, none, twice, or that of a neighbour.
fn change(at: &mut Value, u: &mut Unstructured<'_>) -> Drawn<()> {
    let goes_on = !u8::arbitrary(u)?.is_multiple_of(8);
    match at {
        Value::Object(of) if goes_on && !of.is_empty() => {
            let place = usize::from(u8::arbitrary(u)?) % of.len();
            if u8::arbitrary(u)?.is_multiple_of(32) {
                let key = of.keys().nth(place).cloned().expect("there");
                of.remove(&key);
                return Ok(());
            }
            change(of.values_mut().nth(place).expect("there"), u)
        }
        Value::Array(of) if goes_on && !of.is_empty() => {
            let place = usize::from(u8::arbitrary(u)?) % of.len();
            match u8::arbitrary(u)? % 16 {
                0 => drop(of.remove(place)),
                1 => of.push(of[place].clone()),
                _ => return change(&mut of[place], u),
            }
            Ok(())
        }
        other => {
            *other = value(u)?;
            Ok(())
        }
    }
}

fn packed(text: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(text).and_then(|()| out.finish()).expect("into memory")
}

/// The bytes, now and then with one of them changed or the rest cut off.
fn torn(mut bytes: Vec<u8>, u: &mut Unstructured<'_>) -> Drawn<Vec<u8>> {
    let (how, at) = (u8::arbitrary(u)? % 16, usize::from(u16::arbitrary(u)?));
    if how < 2 && !bytes.is_empty() {
        let at = at % bytes.len();
        if how == 0 {
            bytes.truncate(at);
        } else {
            bytes[at] ^= u8::arbitrary(u)?;
        }
    }
    Ok(bytes)
}

fn trace(bytes: &[u8], options: &ReadOptions) -> bool {
    let Ok(trace) = Trace::parse_bytes(bytes, options) else { return false };
    assert!(!trace.jobs.is_empty() && trace.arrival_s.is_sorted());
    assert!(trace.jobs.iter().all(|job| job.prompt_tokens > 0 && job.output_tokens > 0));
    true
}

/// What is packed reads as what it was.
fn unpacked(u: &mut Unstructured<'_>, pack: impl Fn(&[u8]) -> Vec<u8>) -> Drawn<bool> {
    const HEAD: &[u8] = b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,44\n";
    let tear = u8::arbitrary(u)? % 2 == 0;
    let text = [HEAD, u.peek_bytes(u.len()).unwrap_or_default()].concat();
    let whole = pack(&text);
    let bytes = if tear { torn(whole.clone(), u)? } else { whole.clone() };
    // A line is bounded, whatever it was packed from.
    let options = ReadOptions { max_line_bytes: 1 << 12, ..ReadOptions::DEFAULT };
    let taken = trace(&bytes, &options);
    if bytes == whole {
        assert_eq!(taken, trace(&text, &options), "packing changes nothing");
    }
    Ok(taken)
}

/// Any text as a map of columns, and rows that have them.
fn columns(u: &mut Unstructured<'_>) -> Drawn<bool> {
    const MAPS: [&str; 4] = [
        "time=t:ms,prompt=p,output=o,session=s,delay=d",
        "prompt=usage.prompt_tokens,output=usage.completion_tokens",
        "time=\"a,b\",prompt=p,output=o,hashes=h",
        "prompt=0,output=1",
    ];
    let text = if u.arbitrary()? {
        (*u.choose(&MAPS)?).to_owned()
    } else {
        let length = usize::from(u8::arbitrary(u)?).min(u.len());
        String::from_utf8_lossy(u.bytes(length)?).into_owned()
    };
    let (unit, blocks) = (u8::arbitrary(u)? % 4, u8::arbitrary(u)? % 3);
    let Ok(map) = text.parse::<ColumnMap>() else { return Ok(false) };
    // A map is read from what a refusal of it would show.
    assert!(text.contains('='), "{text:?}");
    let options = ReadOptions {
        columns: Some(map),
        time_unit: (unit == 1).then_some(TimeUnit::Microseconds),
        block_tokens: [None, Some(0), Some(16)][usize::from(blocks)],
        max_line_bytes: 1 << 12,
        ..ReadOptions::DEFAULT
    };
    const ROWS: [&[u8]; 3] = [
        b"t,p,o,s,d,h\n1,20,3,a,0,\n2,30,4,a,5,\n",
        b"{\"usage\": {\"prompt_tokens\": 3, \"completion_tokens\": 4}, \"t\": 1, \"p\": 3, \"o\": 4}\n",
        b"",
    ];
    let head = u.choose(&ROWS)?;
    let rest = u.peek_bytes(u.len()).unwrap_or_default();
    Ok(trace(&[head, rest].concat(), &options))
}

fn law(bytes: &[u8], folder: &Path) -> bool {
    let path = folder.join("law.toml");
    fs::write(&path, bytes).expect("writable");
    match StepCost::read(&path) {
        Ok(law) => {
            let terms = [law.base_ms, law.us_per_token, law.us_per_request];
            assert!(
                terms.iter().all(|term| term.is_finite() && *term >= 0.0) && law.base_ms > 0.0,
                "{law:?}"
            );
            assert!(law.prefill_us_per_token.is_none_or(|term| term.is_finite() && term >= 0.0), "{law:?}");
            true
        }
        Err(error) => {
            assert!(error.to_string().contains("law.toml"), "{error}");
            false
        }
    }
}

fn steps(bytes: &[u8], budget: u8, folder: &Path) -> bool {
    let path = folder.join("steps");
    fs::write(&path, bytes).expect("writable");
    let mut measured = Measurements::default();
    let budget = [None, None, Some(1), Some(512)][usize::from(budget % 4)];
    if measured.read(&path, budget).is_err() {
        return false;
    }
    if let Ok(found) = measured.calibrate() {
        let terms = [found.law.base_ms, found.law.us_per_token, found.law.us_per_request];
        assert!(terms.iter().all(|term| term.is_finite()), "{:?}", found.law);
    }
    true
}

/// Results in which some values are others, or any text at all.
fn page(u: &mut Unstructured<'_>, folder: &Path) -> Drawn<bool> {
    let changes = u8::arbitrary(u)? % 4;
    let results = if changes == 0 {
        let length = u.len() / 2;
        u.bytes(length)?.to_vec()
    } else {
        let mut results: Value = serde_json::from_str(RESULTS).expect("JSON");
        for _ in 1..changes {
            change(&mut results, u)?;
        }
        serde_json::to_vec(&results).expect("into memory")
    };
    fs::write(folder.join("results.json"), results).expect("writable");
    for (name, lines) in [("series", SERIES), ("requests", LANE)] {
        let path = folder.join(name).join("s000.jsonl.gz");
        fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
        let mut text = lines.to_owned();
        if u8::arbitrary(u)?.is_multiple_of(3)
            && let Some((head, last)) = lines.rsplit_once('\n').or(Some(("", lines)))
            && let Ok(mut last) = serde_json::from_str::<Value>(last)
        {
            change(&mut last, u)?;
            text = format!("{head}\n{last}");
        }
        fs::write(path, torn(packed(text.trim_start().as_bytes()), u)?).expect("writable");
    }
    let Ok(evaluated) = Evaluated::read(folder) else { return Ok(false) };
    let Ok(page) = html::page(&[evaluated], "balanceroute report") else { return Ok(false) };
    // What a file says is text of the page, not a part of it.
    assert!(!page.contains("<script>&\"'"), "a name from a file is written as it is");
    Ok(true)
}

/// What the bytes came to.
pub(crate) fn files(data: &[u8]) -> Option<Taken> {
    let mut u = Unstructured::new(data);
    let kind = u8::arbitrary(&mut u).ok()? % 8;
    let folder = tempfile::tempdir().expect("a folder");
    let zstd =
        |text: &[u8]| ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest);
    match kind {
        0 => unpacked(&mut u, packed).ok()?.then_some(Taken::Gzip),
        1 => unpacked(&mut u, zstd).ok()?.then_some(Taken::Zstd),
        2 | 3 => columns(&mut u).ok()?.then_some(Taken::Columns),
        4 => law(&data[1..], folder.path()).then_some(Taken::Law),
        5 => {
            let budget = u8::arbitrary(&mut u).ok()?;
            steps(u.peek_bytes(u.len())?, budget, folder.path()).then_some(Taken::Steps)
        }
        _ => page(&mut u, folder.path()).ok()?.then_some(Taken::Page),
    }
}
