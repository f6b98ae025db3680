//! Each layout that traces have, read with the right values; what could be read in two ways is refused. The
//! files are made here; those of `$BALANCEROUTE_TRACES/formats` or `../shared/traces/formats` are read too.

use std::io::Write;
use std::path::{Path, PathBuf};

use balanceroute_sim::traces::{ReadOptions, Shape, Target, TimeUnit, Trace, TraceError, Turn, convert};

fn read(text: &str) -> Trace {
    read_with(text, &ReadOptions::DEFAULT)
}

fn read_with(text: &str, options: &ReadOptions) -> Trace {
    Trace::from_reader(text.as_bytes(), "t", options).expect("a trace")
}

fn refused(text: &str, options: &ReadOptions) -> TraceError {
    Trace::from_reader(text.as_bytes(), "t", options).expect_err("refused")
}

fn columns(map: &str) -> ReadOptions {
    ReadOptions { columns: Some(map.parse().expect("a map")), ..ReadOptions::DEFAULT }
}

fn lengths(trace: &Trace) -> Vec<(u32, u32)> {
    trace.jobs.iter().map(|job| (job.prompt_tokens, job.output_tokens)).collect()
}

/// Layout, lengths, and arrivals to the resolution of a trace.
fn assert_rows(trace: &Trace, format: &str, rows: &[(f64, u32, u32)]) {
    assert_eq!(trace.format, format);
    assert_eq!(lengths(trace), rows.iter().map(|&(_, prompt, output)| (prompt, output)).collect::<Vec<_>>());
    assert_eq!(trace.arrival_s.len(), rows.len());
    for (found, (expected, ..)) in trace.arrival_s.iter().zip(rows) {
        assert!((found - expected).abs() < 2e-7, "{found} is not {expected}");
    }
}

const AZURE: [(f64, u32, u32); 3] = [(0.0, 374, 44), (4.314_579, 396, 109), (4.541_877, 879, 55)];
const AZURE_CSV: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n\
                         2023-11-16 18:15:50.9951690,396,109\n2023-11-16 18:15:51.2224670,879,55\n";

#[test]
fn azure_as_tools_export_it() {
    for text in [
        AZURE_CSV.to_owned(),
        AZURE_CSV.replace('\n', "\r\n"),
        AZURE_CSV.replace(',', ";"),
        AZURE_CSV.replace(',', "\t"),
        AZURE_CSV.replace("44\n", "44.0\n").replace(",374", ",\"374.0\""),
        format!("\u{feff}{AZURE_CSV}"),
    ] {
        assert_rows(&read(&text), "azure", &AZURE);
    }
    for numbers in [
        "1700158546.68059,1700158550.995169,1700158551.222467",
        "1700158546680.59,1700158550995.169,1700158551222.467",
    ] {
        let mut rows = numbers.split(',').zip(["374,44", "396,109", "879,55"]);
        let rows: String = rows.by_ref().map(|(at, lengths)| format!("{at},{lengths}\n")).collect();
        assert_rows(&read(&format!("TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}")), "azure", &AZURE);
    }
    let images = "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n2024-10-15 12:03:00.017335,1,1200,50\n\
                  2024-10-15 12:03:01.117335,0,300,150\n";
    let trace = read(images);
    assert_rows(&trace, "azure", &[(0.0, 1200, 50), (1.1, 300, 150)]);
    assert_eq!(trace.requests_with_images, 1);
}

#[test]
fn packed_traces_are_unpacked_and_what_is_no_text_is_named() {
    let packed = |text: &str| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text.as_bytes()).expect("memory");
        gzip.finish().expect("memory")
    };
    let zstd = |text: &str| {
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        ruzstd::encoding::compress_to_vec(text.as_bytes(), level)
    };
    let (first, rest) = AZURE_CSV.split_at(60);
    // In one piece and in two, and with a frame between that is to be skipped.
    let skipped = b"\x50\x2a\x4d\x18\x03\0\0\0abc";
    for bytes in [
        packed(AZURE_CSV),
        [packed(first), packed(rest)].concat(),
        zstd(AZURE_CSV),
        [zstd(first), skipped.to_vec(), zstd(rest)].concat(),
        [skipped.to_vec(), zstd(AZURE_CSV)].concat(),
    ] {
        assert_rows(&Trace::parse_bytes(&bytes, &ReadOptions::DEFAULT).expect("a trace"), "azure", &AZURE);
        let cut = Trace::parse_bytes(&bytes[..bytes.len() - 6], &ReadOptions::DEFAULT);
        assert!(matches!(cut, Err(TraceError::Io { .. })), "{cut:?}");
    }
    // The last bytes are those of the checksum.
    let mut wrong = zstd(AZURE_CSV);
    *wrong.last_mut().expect("bytes") ^= 1;
    let error = Trace::parse_bytes(&wrong, &ReadOptions::DEFAULT).expect_err("refused");
    assert!(error.to_string().contains("checksum"), "{error}");
    let utf16: Vec<u8> = AZURE_CSV.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let utf16 = [b"\xff\xfe".to_vec(), utf16].concat();
    for (bytes, name) in [
        (utf16.clone(), "UTF-16"),
        (packed("").into_iter().chain(packed("BZh9")).collect(), "bzip2"),
        (b"PAR1".to_vec(), "Parquet"),
    ] {
        match Trace::parse_bytes(&bytes, &ReadOptions::DEFAULT) {
            Err(TraceError::Encoding { found, .. }) => assert_eq!(found, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    let error = Trace::parse_bytes(&utf16, &ReadOptions::DEFAULT).expect_err("refused").to_string();
    assert!(error.contains("iconv -f UTF-16"), "{error}");
}

const BAILIAN: &str = concat!(
    r#"{"chat_id": 159, "parent_chat_id": -1, "timestamp": 0.114, "input_length": 21, "#,
    r#""output_length": 132, "type": "text", "turn": 1, "hash_ids": [9, 8]}"#,
    "\n",
    r#"{"chat_id": 160, "parent_chat_id": -1, "timestamp": 20.5, "input_length": 64, "#,
    r#""output_length": 300, "type": "search", "turn": 1, "hash_ids": [5, 6, 7, 4]}"#,
    "\n",
    r#"{"chat_id": 161, "parent_chat_id": 159, "timestamp": 61.114, "input_length": 40, "#,
    r#""output_length": 99, "type": "text", "turn": 2, "hash_ids": [9, 8, 1]}"#,
    "\n",
    r#"{"chat_id": 162, "parent_chat_id": 77, "timestamp": 120.0, "input_length": 9, "#,
    r#""output_length": 40, "type": "file", "turn": 4, "hash_ids": [3]}"#,
    "\n",
);

#[test]
fn bailian_counts_in_seconds_and_blocks_of_16() {
    let trace = read(BAILIAN);
    assert_rows(&trace, "bailian", &[(0.0, 21, 132), (20.386, 64, 300), (61.0, 40, 99), (119.886, 9, 40)]);
    assert_eq!(trace.block_tokens, 16);
    assert_eq!(trace.jobs[2].prefix_blocks.as_deref(), Some(&[9, 8, 1][..]));
    // A parent that is not in the trace is nobody to wait for.
    assert_eq!(trace.turns, [None, None, Some(Turn { after: 0, delay_s: 0.0 }), None]);
    // Without its ids it is no other layout that would be read a thousand times too fast.
    let bare: String = BAILIAN
        .lines()
        .map(|line| format!("{{{}\n", &line[line.find("\"timestamp\"").expect("a key")..]))
        .collect();
    let error = refused(&bare, &ReadOptions::DEFAULT);
    assert!(matches!(&error, TraceError::Ambiguous { line: 1, what, .. } if what == "timestamp"), "{error}");
    assert!(error.to_string().contains("--time-unit s, ms, us or ns settles it"), "{error}");
    let seconds = ReadOptions { time_unit: Some(TimeUnit::Seconds), ..ReadOptions::DEFAULT };
    let error = refused(&bare, &seconds);
    assert!(matches!(error, TraceError::Blocks { block_tokens: 512, blocks: 10, .. }), "{error}");
    let told = read_with(&bare, &ReadOptions { block_tokens: Some(16), ..seconds });
    assert_eq!((told.arrival_s, told.block_tokens), (trace.arrival_s, 16));
}

#[test]
fn a_tenth_of_each_prompt_is_shared() {
    let row = |at: u64| {
        let blocks: Vec<u64> = (0..10).chain((0..90).map(|block| 1_000 + 90 * at + block)).collect();
        format!(
            "{{\"chat_id\": {at}, \"parent_chat_id\": -1, \"timestamp\": {at}, \"input_length\": 1600, \
             \"output_length\": 5, \"hash_ids\": {blocks:?}}}\n"
        )
    };
    let prefix = Shape::of(&read(&(0..20).map(row).collect::<String>())).prefix.expect("blocks");
    assert!((prefix.shared - 0.1).abs() < 1e-12 && (prefix.seen_before - 0.095).abs() < 1e-12, "{prefix:?}");
}

#[test]
fn mooncake_rows_without_output_are_counted_and_arrays_are_read() {
    let rows = [
        "{\"timestamp\": 0, \"input_length\": 655, \"output_length\": 52}",
        "{\"timestamp\": 500, \"input_length\": 655, \"output_length\": 0}",
        "{\"timestamp\": 1000, \"input_length\": 900, \"output_length\": 26}",
    ];
    for text in [
        rows.join("\n"),
        format!("[{}]", rows.join(",")),
        format!("\n [\n{}\n]\n", rows.join(",\n")).trim_start().to_owned(),
        // As a tool prints an object over several lines.
        rows.join("\n").replace(',', ",\n"),
    ] {
        let trace = read(&text);
        assert_rows(&trace, "mooncake", &[(0.0, 655, 52), (1.0, 900, 26)]);
        assert_eq!((trace.rows_without_output, trace.block_tokens), (1, 512), "{text}");
    }
    let broken = format!("[{},\n{{\"timestamp\": 1]", rows[0]);
    let error = refused(&broken, &ReadOptions::DEFAULT);
    assert!(matches!(error, TraceError::Row { line: 2, .. }), "{error}");
    let wrong = format!("[{},\n\n{}]", rows[0], rows[2].replace("900", "\"many\""));
    let error = refused(&wrong, &ReadOptions::DEFAULT);
    assert!(matches!(&error, TraceError::Row { line: 3, what, .. } if what == "input_length"), "{error}");
    assert_eq!(
        read_with(&wrong, &ReadOptions { skip_bad_rows: true, ..ReadOptions::DEFAULT }).skipped_rows,
        1
    );
    // An element has the limit of a line, and the array none.
    let whole = ReadOptions { max_line_bytes: 65, ..ReadOptions::DEFAULT };
    assert_eq!(read_with(&format!("[{}]", rows.repeat(50).join(",")), &whole).jobs.len(), 100);
    let long = format!("[{},\n{{\"x\": \"{}\"}}]", rows[0], "x".repeat(500));
    let error = refused(&long, &ReadOptions { max_line_bytes: 200, ..ReadOptions::DEFAULT });
    assert!(matches!(error, TraceError::LineTooLong { line: 2, limit: 200, .. }), "{error}");
}

#[test]
fn burstgpt_of_three_editions() {
    let text = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
                5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,230,1317,Conversation log\n\
                119,GPT-4,300,0,300,API log\n120.5,ChatGPT,900,120,1020,API log\n";
    let trace = read(text);
    assert_rows(&trace, "burstgpt", &[(0.0, 472, 18), (40.0, 1087, 230), (115.5, 900, 120)]);
    assert_eq!(trace.rows_without_output, 1);
    // The third tells sessions, and how long a request took.
    let text = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,\
                Log Type\n\
                5,a,3,ChatGPT,472,18,490,Conversation log\n9,b,1,ChatGPT,10,3,13,Conversation log\n\
                20,a,2.5,ChatGPT,600,30,630,Conversation log\n21,a,1,ChatGPT,700,30,730,Conversation log\n";
    let trace = read(text);
    assert_rows(&trace, "burstgpt", &[(0.0, 472, 18), (4.0, 10, 3), (15.0, 600, 30), (16.0, 700, 30)]);
    let after = |after, delay_s| Some(Turn { after, delay_s });
    // Where the logged turn came before the end of the one before, nothing is between them.
    assert_eq!(trace.turns, [None, None, after(0, 12.0), after(2, 0.0)]);
}

#[test]
fn vidur_with_and_without_times() {
    let text =
        "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,374,44\n4.314579,396,109\n4.541877,879,55\n";
    assert_rows(&read(text), "vidur", &AZURE);
    let text = "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n3772,54,3826,69.85\n\
                2015,156,2171,12.9\n";
    let trace = read(text);
    assert_eq!((trace.format, lengths(&trace)), ("vidur-lengths", vec![(3772, 54), (2015, 156)]));
    assert_eq!((trace.span_s(), trace.requests_per_s()), (None, None));
}

#[test]
fn splitwise_counts_in_seconds() {
    let text = "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n\
                0,2,0,0.0,1,374,44\n1,2,0,4.314579,1,396,109\n2,2,0,4.541877,1,879,55\n";
    assert_rows(&read(text), "splitwise", &AZURE);
}

#[test]
fn turns_of_a_session_wait_for_each_other() {
    let text = &r#"
{"session_id": "s1", "timestamp": 0, "input_length": 655, "output_length": 52, "hash_ids": [0]}
{"session_id": "s2", "timestamp": 1500.5, "input_length": 70, "output_length": 7}
{"session_id": "s1", "delay": 2000, "input_length": 900, "output_length": 26, "hash_ids": [0, 1]}
{"session_id": "s1", "delay": 500, "input_length": 950, "output_length": 0}
{"session_id": "s1", "delay": 250, "input_length": 1000, "output_length": 9}
"#[1..];
    let trace = read(text);
    // The earliest that the turns can come; the delay before what was left out is not lost.
    assert_rows(&trace, "aiperf", &[(0.0, 655, 52), (1.5005, 70, 7), (2.0, 900, 26), (2.75, 1000, 9)]);
    let after = |after, delay_s| Some(Turn { after, delay_s });
    assert_eq!(trace.turns, [None, None, after(0, 2.0), after(2, 0.75)]);
    for (row, expected) in [
        (
            r#"{"session_id": "s3", "delay": 5, "input_length": 1, "output_length": 1}"#,
            "a delay after a turn",
        ),
        (r#"{"session_id": "s2", "timestamp": 3, "input_length": 1, "output_length": 1}"#, "no time before"),
    ] {
        let error = refused(&format!("{text}{row}\n"), &ReadOptions::DEFAULT);
        assert!(matches!(&error, TraceError::Row { line: 6, what, .. } if what == "timestamp"), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn results_of_aiperf_tell_sessions_and_what_failed() {
    let row = |session: u32, start_ms: u64, end_ms: u64, prompt: u32, error: &str| {
        let ns = |ms: u64| 1_759_813_207_532_900_363 + ms * 1_000_000;
        format!(
            "{{\"metadata\":{{\"session_num\":{session},\"request_start_ns\":{},\"request_end_ns\":{},\
             \"was_cancelled\":false}},\"metrics\":{{\"input_sequence_length\":{{\"value\":{prompt},\
             \"unit\":\"tokens\"}},\"output_sequence_length\":{{\"value\":9,\"unit\":\"tokens\"}}}},\
             \"error\":{error}}}\n",
            ns(start_ms),
            ns(end_ms)
        )
    };
    let text = row(0, 0, 300, 550, "null")
        + &row(1, 1_000, 1_100, 150, "{\"code\": 500}")
        + &row(0, 2_000, 2_100, 600, "null");
    let trace = read(&text);
    assert_rows(&trace, "aiperf-result", &[(0.0, 550, 9), (2.0, 600, 9)]);
    assert_eq!(trace.rows_without_output, 1);
    assert_eq!(trace.turns[1].map(|turn| turn.after), Some(0));
    assert!((trace.turns[1].expect("a turn").delay_s - 1.7).abs() < 2e-7);
}

const VLLM: &str = concat!(
    r#"{"date": "20261101", "completed": 3, "input_lens": [374, 396, 20, 879], "#,
    r#""output_lens": [44, 109, 0, 55], "start_times": [1000.1, 1000.6, 1000.7, 1001.4], "#,
    r#""ttfts": [0.05, 0.06, 0, 0.08], "itls": [[0.02, 0.021], [0.02], [], [0.022]], "#,
    r#""generated_texts": ["a", "b", "", "c"], "errors": ["", "", "timeout", ""], "#,
    r#""request_throughput": 0.7}"#
);

#[test]
fn results_of_load_generators() {
    let expected = [(0.0, 374, 44), (0.5, 396, 109), (1.3, 879, 55)];
    let pretty: serde_json::Value = serde_json::from_str(VLLM).expect("JSON");
    let pretty = serde_json::to_string_pretty(&pretty).expect("JSON");
    for text in [VLLM, &pretty] {
        let trace = read(text);
        assert_rows(&trace, "vllm-bench", &expected);
        assert_eq!(trace.rows_without_output, 1);
    }
    // However long its texts are.
    let long = VLLM.replace("\"a\"", &format!("\"{}\"", "x".repeat(5_000)));
    let short_lines = ReadOptions { max_line_bytes: 1_000, ..ReadOptions::DEFAULT };
    assert_rows(&read_with(&long, &short_lines), "vllm-bench", &expected);
    let error = refused(&format!("{VLLM}\n{VLLM}"), &ReadOptions::DEFAULT);
    assert!(matches!(&error, TraceError::Row { line: 2, what, .. } if what == "start_times"), "{error}");
    let error = refused(&VLLM.replace("[44, 109, 0, 55]", "[44, 109, 0]"), &ReadOptions::DEFAULT);
    assert!(
        error.to_string().contains("output_lens: expected as many as input_lens (4), found \"3\""),
        "{error}"
    );
    let error = refused(&VLLM.replace("109, 0", "-1, 0"), &ReadOptions::DEFAULT);
    assert!(error.to_string().contains("output_lens[1]: expected a whole number"), "{error}");
    // Without its details it is no trace.
    let error = refused(r#"{"completed": 3, "request_throughput": 0.7}"#, &ReadOptions::DEFAULT).to_string();
    assert!(error.contains("--save-detailed") && !error.contains("Azure"), "{error}");

    let sglang = concat!(
        r#"{"backend": "sglang", "completed": 2, "input_lens": [374, 396], "#,
        r#""output_lens": [44, 109], "ttfts": [0.05, 0.06], "errors": ["", ""]}"#
    );
    let trace = read(&format!("{sglang}\n{sglang}\n"));
    let run = [(374, 44), (396, 109)];
    assert_eq!((trace.format, lengths(&trace)), ("sglang-bench", run.repeat(2)));
    assert!(trace.arrival_s.is_empty());
}

#[test]
fn spans_with_tokens_are_requests() {
    let span = |start: &str, attributes: &str| {
        format!(
            "{{\"name\":\"llm_request\",\"startTimeUnixNano\":\"{start}\",\"attributes\":[{attributes}]}}"
        )
    };
    let tokens = |prompt: u32, output: u32| {
        format!(
            "{{\"key\":\"gen_ai.usage.prompt_tokens\",\"value\":{{\"intValue\":\"{prompt}\"}}}},\
             {{\"key\":\"gen_ai.usage.completion_tokens\",\"value\":{{\"intValue\":\"{output}\"}}}}"
        )
    };
    let (first, last) =
        (span("1759813207532900363", &tokens(374, 44)), span("1759813209532900363", &tokens(396, 109)));
    let other = span("1759813208532900363", "{\"key\":\"http.route\",\"value\":{\"stringValue\":\"/\"}}");
    // As single lines, and as a collector writes them.
    let batch = format!(
        "{{\"resourceSpans\":[{{\"scopeSpans\":[{{\"spans\":[{first},{other}]}},{{\"spans\":[{last}]}}]}}]}}"
    );
    for text in [format!("{other}\n{last}\n{first}\n"), batch] {
        let trace = read(&text);
        assert_rows(&trace, "otel", &[(0.0, 374, 44), (2.0, 396, 109)]);
        assert_eq!(trace.other_rows, 1);
    }
}

#[test]
fn logs_are_known_by_names_that_mean_one_thing() {
    let text = "created_at,model,Prompt Tokens,completion-tokens\n2026-01-02T03:04:05Z,m,374,44\n\
                2026-01-02T03:04:07.5Z,m,396,\n2026-01-02T03:04:08Z,m,879,55\n";
    let trace = read(text);
    assert_rows(&trace, "log", &[(0.0, 374, 44), (3.0, 879, 55)]);
    assert_eq!(trace.rows_without_output, 1);
    let text = "{\"ts\": 1700158546, \"usage\": {\"prompt_tokens\": 5, \"completion_tokens\": 6}}\n";
    assert_rows(&read(text), "log", &[(0.0, 5, 6)]);
    // Numbers whose unit nobody can know, and names of which two would do.
    let plain = "time,input_tokens,output_tokens\n0,5,6\n250,7,8\n";
    let error = refused(plain, &ReadOptions::DEFAULT);
    assert!(matches!(error, TraceError::Ambiguous { line: 2, .. }), "{error}");
    let unit = ReadOptions { time_unit: Some(TimeUnit::Milliseconds), ..ReadOptions::DEFAULT };
    assert_rows(&read_with(plain, &unit), "log", &[(0.0, 5, 6), (0.25, 7, 8)]);
    // Not even where bad rows are skipped.
    let skip = ReadOptions { skip_bad_rows: true, ..ReadOptions::DEFAULT };
    assert!(matches!(refused(plain, &skip), TraceError::Ambiguous { .. }));
    let two = "time,prompt_tokens,input_tokens,output_tokens\n";
    let error = refused(two, &ReadOptions::DEFAULT).to_string();
    assert!(error.contains("found \"prompt_tokens, input_tokens\"; --columns settles it"), "{error}");
}

#[test]
fn names_that_many_logs_have_tell_no_unit() {
    // As Mooncake's and aiperf's keys, but in a table; their ms would be a guess.
    for (head, who) in [("", ""), ("session_id,", "a,")] {
        let text = format!("{head}timestamp,input_length,output_length\n{who}0,5,6\n{who}250,7,8\n");
        let error = refused(&text, &ReadOptions::DEFAULT);
        assert!(matches!(error, TraceError::Ambiguous { line: 2, .. }), "{error}");
        let seconds = ReadOptions { time_unit: Some(TimeUnit::Seconds), ..ReadOptions::DEFAULT };
        assert_rows(&read_with(&text, &seconds), "log", &[(0.0, 5, 6), (250.0, 7, 8)]);
    }
    let blocks = "timestamp,input_length,output_length,hash_ids\n0,500,6,[1]\n250,700,8,\"[1, 2]\"\n";
    assert_rows(&read(blocks), "mooncake", &[(0.0, 500, 6), (0.25, 700, 8)]);
    // Objects whose times are seconds since 1970.
    let epoch = "{\"timestamp\": 1700158546, \"input_length\": 5, \"output_length\": 6}\n";
    let error = refused(epoch, &ReadOptions::DEFAULT).to_string();
    assert!(error.contains("none that can be s since 1970") && error.contains("--time-unit"), "{error}");
    let ms = ReadOptions { time_unit: Some(TimeUnit::Milliseconds), ..ReadOptions::DEFAULT };
    for told in [ms, columns("time=timestamp:ms,prompt=input_length,output=output_length")] {
        assert_eq!(read_with(epoch, &told).jobs.len(), 1);
    }
}

#[test]
fn other_columns_are_named_by_a_map() {
    let text = "When;Who;In, all;Out\n5;a;472;18\n45;a;1087;230\n";
    let map = columns("time=When:s,prompt=\"In, all\",output=Out");
    assert_rows(&read_with(text, &map), "columns", &[(0.0, 472, 18), (40.0, 1087, 230)]);
    // Without a time the trace has lengths only.
    let trace = read_with(text, &columns("prompt=\"In, all\",output=Out"));
    assert_eq!((lengths(&trace).len(), trace.arrival_s.len()), (2, 0));
    let trace = read_with(text, &columns("time=When:ms,session=Who,prompt=\"In, all\",output=Out"));
    assert_eq!(trace.turns[1], Some(Turn { after: 0, delay_s: 0.0 }));
    let error = refused(text, &columns("time=When,prompt=\"In, all\",output=Out"));
    assert!(matches!(error, TraceError::Ambiguous { line: 2, .. }), "{error}");
    let error = refused(text, &columns("time=When:s,prompt=In,output=Out")).to_string();
    assert_eq!(error, "t: --columns: expected one of the columns When, Who, In, all, Out; found \"In\"");
    let json = "{\"at\": {\"ms\": 3}, \"n\": [1, 2], \"p\": 30, \"o\": 4}\n";
    let map = columns("time=at.ms:ms,prompt=p,output=o,hashes=n");
    let error = refused(json, &map).to_string();
    assert!(error.starts_with("block-tokens: expected"), "{error}");
    let trace = read_with(json, &ReadOptions { block_tokens: Some(16), ..map.clone() });
    assert_eq!((trace.block_tokens, trace.jobs[0].prefix_blocks.as_deref()), (16, Some(&[1, 2][..])));
    let other = ReadOptions { time_unit: Some(TimeUnit::Seconds), block_tokens: Some(16), ..map };
    let error = refused(json, &other).to_string();
    assert_eq!(error, "time-unit: expected ms, as in --columns, found \"s\"");
}

#[test]
fn texts_need_a_tokenizer() {
    for text in [
        "[{\"id\":\"a\",\"conversations\":[{\"from\":\"human\",\"value\":\"Hi\"}]},\n{\"id\":\"b\"}]",
        "{\"conversation_id\": \"x\", \"conversation\": [{\"role\": \"user\", \"content\": \"Hi\"}]}\n",
    ] {
        let error = refused(text, &ReadOptions::DEFAULT);
        assert!(matches!(error, TraceError::Texts { .. }), "{error}");
        assert!(error.to_string().contains("tokenizer") && error.to_string().contains("--save-detailed"));
    }
}

#[test]
fn what_is_converted_is_read_back() {
    let sessions = &r#"
{"session_id": "s1", "timestamp": 0, "input_length": 655, "output_length": 52, "hash_ids": [0]}
{"session_id": "s2", "timestamp": 1500.5, "input_length": 70, "output_length": 7}
{"session_id": "s1", "delay": 2000, "input_length": 900, "output_length": 26, "hash_ids": [0, 1]}
{"session_id": "s2", "timestamp": 9000, "delay": 250, "input_length": 1000, "output_length": 9}
"#[1..];
    let written = |trace: &Trace, target| {
        let mut bytes = Vec::new();
        let lost = convert(trace, target, &mut bytes).expect("a conversion");
        (String::from_utf8(bytes).expect("text"), lost)
    };
    for text in [sessions, AZURE_CSV] {
        let trace = read(text);
        let (aiperf, lost) = written(&trace, Target::Aiperf);
        assert_eq!(lost, Default::default());
        let again = read(&aiperf);
        assert_eq!((again.jobs, again.turns, again.arrival_s), (trace.jobs, trace.turns, trace.arrival_s));
    }
    let (vidur, lost) = written(&read(sessions), Target::Vidur);
    assert_eq!((lost.turns_lost, lost.blocks_lost), (2, true));
    assert_rows(&read(&vidur), "vidur", &[(0.0, 655, 52), (1.5005, 70, 7), (2.0, 900, 26), (9.0, 1000, 9)]);

    // Blocks of 16 go together to 512, equal where all of them are and all before them.
    let row = |at: u64, first: u64, own: u64| {
        let blocks: Vec<u64> = (first..first + 32).chain((0..40).map(|block| own + block)).collect();
        format!(
            "{{\"chat_id\": {at}, \"parent_chat_id\": -1, \"timestamp\": {at}, \"input_length\": 1152, \
             \"output_length\": 5, \"hash_ids\": {blocks:?}}}\n"
        )
    };
    let rows = row(0, 0, 100) + &row(1, 0, 200) + &row(2, 0, 100) + &row(3, 50, 100);
    let (aiperf, lost) = written(&read(&rows), Target::Aiperf);
    assert!(lost.blocks_merged);
    let again = read(&aiperf);
    let blocks = |at: usize| again.jobs[at].prefix_blocks.clone().expect("blocks");
    assert_eq!(
        (blocks(0).len(), blocks(0)[0] == blocks(1)[0], blocks(0)[1] == blocks(1)[1]),
        (3, true, false)
    );
    assert_eq!(blocks(0), blocks(2));
    assert!(blocks(0).iter().all(|block| !blocks(3).contains(block)));

    let lengths =
        read("num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n3772,54,3826,69.85\n");
    assert!(convert(&lengths, Target::Aiperf, &mut Vec::new()).is_err());
    let (vidur, _) = written(&lengths, Target::Vidur);
    assert_eq!(read(&vidur).jobs, lengths.jobs);
}

/// The folder of small files; `None` skips loudly, which CI does not allow.
fn formats() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/traces");
    let folder = std::env::var_os("BALANCEROUTE_TRACES").map_or_else(beside, PathBuf::from).join("formats");
    if folder.is_dir() {
        return Some(folder);
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "no {}", folder.display());
    eprintln!("SKIPPED: no {}; set BALANCEROUTE_TRACES", folder.display());
    None
}

#[test]
fn files_that_people_have() {
    let Some(folder) = formats() else { return };
    let read = |name: &str| Trace::read(&folder.join(name), &ReadOptions::DEFAULT);
    // Layout, requests, rows left out, span, the last request.
    let some = |seconds: f64| Some(seconds);
    for (name, format, requests, without, span_s, last) in [
        ("qwen_bailian.jsonl", "bailian", 4, 0, some(119.886), (900, 40)),
        ("mooncake_zero_out.jsonl", "mooncake", 1, 1, some(0.0), (655, 52)),
        ("mooncake_array.json", "mooncake", 2, 0, some(1.0), (900, 26)),
        ("azure_2025_lmm.csv", "azure", 3, 0, some(2.2), (4000, 20)),
        ("azure_2023.csv.gz", "azure", 3, 0, some(4.541877), (879, 55)),
        ("azure_crlf.csv", "azure", 2, 0, some(4.314579), (396, 109)),
        ("azure_semicolon.csv", "azure", 3, 0, some(4.541877), (879, 55)),
        ("azure_tab.tsv", "azure", 3, 0, some(4.541877), (879, 55)),
        ("azure_epoch.csv", "azure", 2, 0, some(4.31), (396, 109)),
        ("azure_fraction_tokens.csv", "azure", 1, 0, some(0.0), (374, 44)),
        ("burstgpt_1.csv", "burstgpt", 4, 1, some(115.5), (900, 120)),
        ("vidur.csv", "vidur", 3, 0, some(4.541877), (879, 55)),
        ("vidur_lengths.csv", "vidur-lengths", 2, 0, None, (2015, 156)),
        ("aiperf_mooncake_session.jsonl", "aiperf", 2, 0, some(2.0), (900, 26)),
        ("aiperf_profile_export.jsonl", "aiperf-result", 2, 0, some(1.0), (150, 90)),
        ("vllm_bench_serve.json", "vllm-bench", 3, 0, some(1.3), (879, 55)),
        ("sglang_bench.jsonl", "sglang-bench", 3, 0, None, (879, 55)),
        ("otel_span.jsonl", "otel", 1, 0, some(0.0), (374, 44)),
    ] {
        let trace = read(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            (trace.format, trace.jobs.len(), trace.rows_without_output),
            (format, requests, without),
            "{name}"
        );
        assert_eq!(lengths(&trace).last(), Some(&last), "{name}");
        match (trace.span_s(), span_s) {
            (Some(found), Some(expected)) => assert!((found - expected).abs() < 2e-7, "{name}: {found}"),
            (found, expected) => assert_eq!(found, expected, "{name}"),
        }
    }
    let session = read("aiperf_mooncake_session.jsonl").expect("a trace");
    assert_eq!(session.turns[1], Some(Turn { after: 0, delay_s: 2.0 }));
    let shared = Shape::of(&read("qwen_prefix10of100.jsonl").expect("a trace")).prefix.expect("blocks");
    assert!((shared.shared - 0.1).abs() < 1e-9, "{shared:?}");
    assert!(matches!(read("azure_utf16.csv"), Err(TraceError::Encoding { found: "UTF-16", .. })));
    assert!(matches!(read("sharegpt.json"), Err(TraceError::Texts { .. })));
}
