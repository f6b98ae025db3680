//! Rows whole and malformed, and the limits of the reader. Each layout with the right values:
//! `sim/tests/layouts.rs`.

use std::io::{self, BufReader, Read};
use std::path::Path;

use super::*;

fn parse(text: &str, options: ReadOptions) -> Result<Trace, TraceError> {
    Trace::from_reader(text.as_bytes(), "t", &options)
}

const SKIP: ReadOptions = ReadOptions { skip_bad_rows: true, ..ReadOptions::DEFAULT };

#[test]
fn azure_of_both_years() {
    let trace = parse(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n\
             2023-11-16 18:15:50.9951690,396,109\n",
        ReadOptions::default(),
    )
    .expect("valid");
    assert_eq!(trace.format, "azure");
    assert_eq!(trace.jobs, [Job::new(374, 44), Job::new(396, 109)]);
    approx::assert_abs_diff_eq!(trace.arrival_s[1], 4.314579, epsilon = 1e-9);

    let trace = parse(
        "\u{feff}TIMESTAMP,ContextTokens,GeneratedTokens\r\n\
             2024-05-10 00:00:00.009930+00:00,2162,5\r\n2024-05-10 02:00:01+02:00,1,7\r\n",
        ReadOptions::default(),
    )
    .expect("valid");
    assert_eq!(trace.jobs, [Job::new(2162, 5), Job::new(1, 7)]);
    approx::assert_abs_diff_eq!(trace.arrival_s[1], 0.99007, epsilon = 1e-9);
}

#[test]
fn columns_are_found_by_name_and_rows_are_sorted() {
    let trace = parse(
        "GeneratedTokens,TIMESTAMP,other,ContextTokens\n3,2024-02-29 00:00:01,x,30\n\
             4,2024-02-28 23:59:59,x,40\n",
        ReadOptions::default(),
    )
    .expect("valid");
    assert_eq!(trace.jobs, [Job::new(40, 4), Job::new(30, 3)]);
    assert_eq!(trace.arrival_s, [0.0, 2.0]);
}

#[test]
fn malformed_azure_rows_are_named() {
    let head = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n";
    for (row, what) in [
        ("2023-11-16 18:15:50.9951690,0,5", "ContextTokens"),
        ("2023-11-16 18:15:50.9951690,-1,5", "ContextTokens"),
        ("2023-11-16 18:15:50.9951690,396", "GeneratedTokens"),
        ("2023-13-16 18:15:50.9951690,396,5", "TIMESTAMP"),
        ("yesterday,396,5", "TIMESTAMP"),
        ("2023-11-16 18:15:50.,396,5", "TIMESTAMP"),
    ] {
        let text = format!("{head}{row}\n2023-11-16 18:16:00,1,1\n");
        match parse(&text, ReadOptions::default()) {
            Err(TraceError::Row { line: 3, what: found, .. }) => assert_eq!(found, what, "{row}"),
            other => panic!("{row}: {other:?}"),
        }
        let trace = parse(&text, SKIP).expect("skipped");
        assert_eq!((trace.jobs.len(), trace.skipped_rows), (2, 1), "{row}");
    }
}

const MOONCAKE: &str = r#"{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}
{"timestamp": 0, "input_length": 7322, "output_length": 490, "hash_ids": [0, 14]}
{"timestamp": 3000, "input_length": 6758, "output_length": 3, "hash_ids": [0, 1]}
"#;

#[test]
fn mooncake_rows_and_their_ticks() {
    let trace = parse(MOONCAKE, ReadOptions::default()).expect("valid");
    assert_eq!(trace.format, "mooncake");
    assert_eq!(trace.arrival_s, [0.0, 1.5, 3.0]);
    assert_eq!(trace.jobs[0].prompt_hash, trace.jobs[2].prompt_hash);
    assert_ne!(trace.jobs[0].prompt_hash, trace.jobs[1].prompt_hash);
    assert_eq!(trace.jobs[1].prefix_blocks.as_deref(), Some(&[0, 14][..]));
    let filtered =
        parse(MOONCAKE, ReadOptions { min_output_tokens: 100, ..Default::default() }).expect("valid");
    assert_eq!((filtered.jobs.len(), filtered.filtered_rows), (2, 1));
}

#[test]
fn malformed_mooncake_rows_are_named() {
    for (row, what) in [
        ("{\"timestamp\": 1,", "row"),
        ("{\"timestamp\": 1, \"input_length\": 5}", "output_length"),
        ("{\"timestamp\": -1, \"input_length\": 5, \"output_length\": 5}", "timestamp"),
        ("{\"timestamp\": 1, \"input_length\": 5.5, \"output_length\": 1}", "input_length"),
        ("{\"timestamp\": 1, \"input_length\": 5, \"output_length\": 1, \"hash_ids\": 3}", "hash_ids"),
    ] {
        let text = format!("{MOONCAKE}{row}\n");
        match parse(&text, ReadOptions::default()) {
            Err(TraceError::Row { line: 4, what: found, .. }) => assert_eq!(found, what, "{row}"),
            other => panic!("{row}: {other:?}"),
        }
        assert_eq!(parse(&text, SKIP).expect("skipped").skipped_rows, 1);
    }
}

const HEAD: &str = "TIMESTAMP,ContextTokens,GeneratedTokens";
const ROW: &str = "2023-11-16 18:15:46.6805900,374,44";

#[test]
fn lines_have_a_limit_to_the_byte() {
    // Of an end of one byte and of two, the head being shorter than the row.
    for end in ["\n", "\r\n"] {
        let azure = format!("{HEAD}{end}{ROW}{end}{ROW},{}{end}", "x".repeat(20));
        let hashes = "1, ".repeat(20);
        let mooncake = MOONCAKE.lines().map(|line| format!("{line}{end}")).collect::<String>()
            + &format!(
                "{{\"timestamp\": 9, \"input_length\": 5, \"output_length\": 5, \
                 \"hash_ids\": [{hashes}1]}}{end}"
            );
        for (text, number) in [(azure, 3), (mooncake, 4)] {
            let longest = text.split_inclusive('\n').map(str::len).max().expect("lines");
            let within = |max_line_bytes| parse(&text, ReadOptions { max_line_bytes, ..SKIP });
            assert_eq!(within(longest).expect("within the limit").skipped_rows, 0);
            match within(longest - 1) {
                Err(TraceError::LineTooLong { line, limit, found_at_least, .. }) => {
                    assert_eq!((line, limit, found_at_least), (number, longest - 1, longest));
                }
                other => panic!("{other:?}"),
            }
            // Even the first one.
            assert!(matches!(within(20), Err(TraceError::LineTooLong { line: 1, .. })));
        }
    }
}

#[test]
fn a_quoted_field_over_several_lines_counts_as_one() {
    let quoted = format!("{ROW},\"{}\"\n", "x\n".repeat(100));
    let text = format!("{HEAD}\n\n{quoted}{ROW}\n\r\n\nno row\n");
    match parse(&text, ReadOptions::default()) {
        Err(TraceError::Row { line, .. }) => assert_eq!(line, 107),
        other => panic!("{other:?}"),
    }
    let within = |max_line_bytes| parse(&text, ReadOptions { max_line_bytes, ..SKIP });
    assert_eq!(within(quoted.len()).expect("within the limit").jobs.len(), 2);
    assert!(matches!(within(quoted.len() - 1), Err(TraceError::LineTooLong { line: 3, .. })));
    // A carriage return alone ends a row and no line.
    match parse(&format!("{HEAD}\r\n{ROW}\rno row\r\n"), ReadOptions::default()) {
        Err(TraceError::Row { line, .. }) => assert_eq!(line, 2),
        other => panic!("{other:?}"),
    }
}

/// A stream without an end, of which no more is taken than the limit and what a reader asks for at once.
#[test]
fn an_endless_line_is_read_to_the_limit() {
    const SOME: u64 = 1 << 17;
    for head in ["", HEAD, &format!("{HEAD}\n{ROW}\n\n"), &format!("{HEAD}\n\""), MOONCAKE] {
        let mut endless = io::repeat(b'0').take(u64::MAX);
        let stream = head.as_bytes().chain(&mut endless);
        let options = ReadOptions { max_line_bytes: 1 << 20, ..SKIP };
        let result = Trace::from_reader(BufReader::new(stream), "t", &options);
        assert!(matches!(result, Err(TraceError::LineTooLong { .. })), "{head}: {result:?}");
        let taken = u64::MAX - endless.limit();
        assert!(taken < (1 << 20) + SOME, "{head}: {taken}");
    }
}

#[test]
fn unknown_and_empty_files_are_refused() {
    assert!(matches!(parse("a,b,c\n1,2,3\n", SKIP), Err(TraceError::Unrecognised { .. })));
    assert!(matches!(parse("", SKIP), Err(TraceError::Unrecognised { .. })));
    assert!(matches!(
        parse("TIMESTAMP,ContextTokens,GeneratedTokens\n", SKIP),
        Err(TraceError::Empty { .. })
    ));
}

/// The folder of public traces, or None where they are not needed.
fn traces() -> Option<std::path::PathBuf> {
    let folder = std::env::var_os("BALANCEROUTE_TRACES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/traces"), Into::into);
    if folder.is_dir() {
        return Some(folder);
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{} is missing", folder.display());
    println!("skipped: {} is missing", folder.display());
    None
}

#[test]
fn public_traces_are_read_whole() {
    let Some(folder) = traces() else { return };
    for (name, format, rows) in [
        ("azure_2023_conv.csv", "azure", 19_366),
        ("azure_2023_code.csv", "azure", 8_819),
        ("mooncake_conversation.jsonl", "mooncake", 12_031),
    ] {
        let trace = Trace::read(&folder.join(name), &ReadOptions::DEFAULT).expect("readable");
        assert_eq!((trace.format, trace.jobs.len(), trace.skipped_rows), (format, rows, 0), "{name}");
        assert!(trace.arrival_s.is_sorted());
        assert!((3300.0..3700.0).contains(trace.arrival_s.last().expect("rows")), "{name}");
    }
}

#[test]
fn turns_are_named_by_the_first_of_their_session() {
    let row = |session: &str, at: &str| {
        format!("{{\"session_id\": \"{session}\", {at}, \"input_length\": 9, \"output_length\": 2}}\n")
    };
    let text = [
        row("a", "\"timestamp\": 0"),
        row("b", "\"timestamp\": 5"),
        row("a", "\"delay\": 2000"),
        row("c", "\"timestamp\": 6"),
        row("a", "\"delay\": 500"),
        row("b", "\"delay\": 100"),
    ];
    let trace = parse(&text.concat(), ReadOptions::default()).expect("valid");
    let sessions: Vec<Option<u64>> = trace.jobs.iter().map(|job| job.session).collect();
    // In order of arrival: a, b, c, then the turns that wait; c is alone.
    let turns: Vec<Option<u32>> = trace.turns.iter().map(|turn| turn.map(|turn| turn.after)).collect();
    for (at, after) in turns.iter().enumerate().filter_map(|(at, after)| Some((at, (*after)?))) {
        assert_eq!(sessions[at], sessions[after as usize]);
    }
    assert_eq!((sessions[0], sessions[1], sessions[2]), (Some(0), Some(1), None));
    assert_eq!(sessions.iter().filter(|&&session| session == Some(0)).count(), 3, "{sessions:?}");
    assert_eq!(sessions.iter().filter(|&&session| session == Some(1)).count(), 2, "{sessions:?}");
}
