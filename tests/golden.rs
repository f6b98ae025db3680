//! Golden vectors: batches and their answers as files, the same for every language and every backend.
//!
//! `BALANCEROUTE_BLESS=1 cargo test --test golden` draws the batches again and writes the oracle's answers; a
//! plain run replays the files. The keys are explained in `tests/golden/README.md`.

#[cfg(feature = "ascend")]
#[path = "device/support/mod.rs"]
mod device;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use balanceroute::policy::{self, Parameters};
use balanceroute::{
    Assignment, Batch, Pairs, Policy, Pool, PredictedEnd, PredictedEnds, Request, Traffic, WaitReason,
    Worker, WorkerIndex,
};
use serde_json::{Value, json};

const FORMAT: u64 = 1;

/// One batch as owned parts.
#[derive(Clone, Debug, Default, PartialEq)]
struct Case {
    name: String,
    workers: Vec<Worker>,
    requests: Vec<Request>,
    traffic: Traffic,
    request_growth_tokens: u32,
    /// One row of `horizon + 1` loads per worker.
    projection: Vec<Vec<u64>>,
    /// One list per worker; empty for no prediction at all.
    ends: Vec<Vec<PredictedEnd>>,
    bonus_tokens: Vec<Vec<f32>>,
    eligible: Vec<Vec<bool>>,
    classes: Vec<Vec<f32>>,
}

/// An answer in the shape of the file.
#[derive(Clone, Debug, PartialEq)]
struct Answer {
    admitted: Vec<(u64, u32, f64)>,
    waiting: Vec<(u64, &'static str)>,
    before: (f64, f64),
    after: (f64, f64),
}

fn reason_name(reason: WaitReason) -> &'static str {
    match reason {
        WaitReason::NoSlot => "no-slot",
        WaitReason::NoCapacity => "no-capacity",
        WaitReason::NotEligible => "not-eligible",
        WaitReason::OutsideWindow => "outside-window",
        WaitReason::Deferred => "deferred",
        other => panic!("{other:?} has no name in the files"),
    }
}

impl Case {
    /// Lends the case to `f` as a batch.
    fn with<R>(&self, f: impl FnOnce(&Batch<'_>) -> R) -> R {
        let workers = self.workers.len();
        let pool = Pool::from_requests(&self.requests).expect("valid requests");
        let rows = self.projection.concat();
        let ends = self.ends.concat();
        let mut offsets = vec![0];
        offsets.extend(self.ends.iter().scan(0, |sum, of| {
            *sum += of.len() as u32;
            Some(*sum)
        }));
        let bonus_tokens = self.bonus_tokens.concat();
        let words = workers.div_ceil(64);
        let mut eligible = vec![0u64; self.eligible.len() * words];
        for (row, may) in self.eligible.iter().enumerate() {
            for (worker, _) in may.iter().enumerate().filter(|(_, may)| **may) {
                eligible[row * words + worker / 64] |= 1 << (worker % 64);
            }
        }
        let classes = self.classes.concat();
        let mut draft = Batch::draft(&self.workers, &pool)
            .traffic(self.traffic)
            .request_growth(self.request_growth_tokens)
            .pairs(Pairs { bonus_tokens: &bonus_tokens, eligible: &eligible, ..Pairs::default() });
        if let Some(row) = self.projection.first() {
            draft = draft.projection(row.len() - 1, &rows);
        }
        if !self.ends.is_empty() {
            draft = draft.ends(PredictedEnds { offsets: &offsets, ends: &ends });
        }
        if !self.classes.is_empty() {
            draft = draft.classes(&classes);
        }
        f(&draft.check().unwrap_or_else(|error| panic!("{}: {error}", self.name)))
    }
}

fn answer(batch: &Batch<'_>, out: &Assignment) -> Answer {
    Answer {
        admitted: out.admitted.iter().map(|pick| (pick.id.0, pick.worker.0, pick.score_tokens)).collect(),
        waiting: out.waiting(batch).map(|(id, reason)| (id.0, reason_name(reason))).collect(),
        before: (out.before.envelope_tokens, out.before.imbalance_tokens),
        after: (out.after.envelope_tokens, out.after.imbalance_tokens),
    }
}

// ---- files ----

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// A worker without the keys that have their default value.
fn worker_line(worker: &Worker) -> String {
    let mut text = format!(
        "{{\"load_tokens\": {}, \"running\": {}, \"free_slots\": {}",
        worker.load_tokens, worker.running, worker.free_slots
    );
    if let Some(capacity) = worker.kv_capacity_tokens {
        let _ = write!(text, ", \"kv_capacity_tokens\": {capacity}");
    }
    if worker.kv_used_tokens != worker.load_tokens {
        let _ = write!(text, ", \"kv_used_tokens\": {}", worker.kv_used_tokens);
    }
    if worker.kv_growth_tokens != 0 {
        let _ = write!(text, ", \"kv_growth_tokens\": {}", worker.kv_growth_tokens);
    }
    if worker.weight != 1.0 {
        let _ = write!(text, ", \"weight\": {}", worker.weight);
    }
    if !worker.accepting {
        text.push_str(", \"accepting\": false");
    }
    if let Some(steps) = worker.next_completion_steps {
        let _ = write!(text, ", \"next_completion_steps\": {steps}");
    }
    text + "}"
}

fn request_line(request: &Request) -> String {
    let mut text = format!("{{\"id\": {}, \"prompt_tokens\": {}", request.id, request.prompt_tokens);
    if request.passed != 0 {
        let _ = write!(text, ", \"passed\": {}", request.passed);
    }
    if request.waited_steps != 0 {
        let _ = write!(text, ", \"waited_steps\": {}", request.waited_steps);
    }
    for (key, value) in [
        ("deadline_steps", request.deadline_steps.map(u64::from)),
        ("prompt_hash", request.prompt_hash),
        ("rank", request.rank.map(|rank| rank.0.into())),
        ("pair_row", request.pair_row.map(u64::from)),
        ("survival_class", request.survival_class.map(u64::from)),
    ] {
        if let Some(value) = value {
            let _ = write!(text, ", \"{key}\": {value}");
        }
    }
    text + "}"
}

fn lines(out: &mut String, indent: &str, key: &str, items: impl IntoIterator<Item = String>) {
    let items: Vec<String> = items.into_iter().map(|item| format!("{indent}  {item}")).collect();
    if items.is_empty() {
        let _ = write!(out, "{indent}\"{key}\": []");
    } else {
        let _ = write!(out, "{indent}\"{key}\": [\n{}\n{indent}]", items.join(",\n"));
    }
}

impl Case {
    /// One worker, request, row or answer to a line.
    fn write(&self, out: &mut String, answers: &[(Vec<&str>, Answer)]) {
        const INDENT: &str = "      ";
        let text = |value: Value| value.to_string().replace(',', ", ").replace(':', ": ");
        let _ = write!(out, "    {{\n{INDENT}\"name\": \"{}\"", self.name);
        let key = |out: &mut String, name: &str, items: Vec<String>| {
            out.push_str(",\n");
            lines(out, INDENT, name, items);
        };
        key(out, "workers", self.workers.iter().map(worker_line).collect());
        key(out, "requests", self.requests.iter().map(request_line).collect());
        if self.traffic != Traffic::default() {
            let Traffic {
                mean_prompt_tokens, sd_prompt_tokens, small_prompt_tokens, mean_output_tokens, ..
            } = self.traffic;
            let _ = write!(
                out,
                ",\n{INDENT}\"traffic\": {{\"mean_prompt_tokens\": {mean_prompt_tokens}, \
                 \"sd_prompt_tokens\": {sd_prompt_tokens}, \"small_prompt_tokens\": {small_prompt_tokens}, \
                 \"mean_output_tokens\": {mean_output_tokens}}}"
            );
        }
        if self.request_growth_tokens != 0 {
            let _ = write!(out, ",\n{INDENT}\"request_growth_tokens\": {}", self.request_growth_tokens);
        }
        if !self.projection.is_empty() {
            key(out, "projection", self.projection.iter().map(|row| text(json!(row))).collect());
        }
        if !self.ends.is_empty() {
            let ends = self.ends.iter().map(|of| {
                let of: Vec<[u64; 2]> =
                    of.iter().map(|end| [u64::from(end.in_steps), end.freed_tokens]).collect();
                text(json!(of))
            });
            key(out, "ends", ends.collect());
        }
        if !self.bonus_tokens.is_empty() {
            key(out, "bonus_tokens", self.bonus_tokens.iter().map(|row| text(json!(row))).collect());
        }
        if !self.eligible.is_empty() {
            let rows = self.eligible.iter().map(|row| text(json!(row)));
            key(out, "eligible", rows.collect());
        }
        if !self.classes.is_empty() {
            key(out, "classes", self.classes.iter().map(|row| text(json!(row))).collect());
        }
        let answers = answers.iter().map(|(policies, answer)| {
            let head = format!("{{\"policies\": {}", text(json!(policies)));
            let pad = format!("\n{INDENT}   ");
            format!(
                "{head},{pad}\"admitted\": {},{pad}\"waiting\": {},{pad}\"before\": {}, \"after\": {}}}",
                text(json!(answer.admitted)),
                text(json!(answer.waiting)),
                text(json!([answer.before.0, answer.before.1])),
                text(json!([answer.after.0, answer.after.1])),
            )
        });
        key(out, "answers", answers.collect());
        out.push_str("\n    }");
    }

    fn read(value: &Value) -> Self {
        known_keys(
            value,
            &[
                "name",
                "workers",
                "requests",
                "traffic",
                "request_growth_tokens",
                "projection",
                "ends",
                "bonus_tokens",
                "eligible",
                "classes",
                "answers",
            ],
        );
        let rows = |key: &str| value[key].as_array().cloned().unwrap_or_default();
        let whole = |value: &Value| value.as_u64().expect("a whole number");
        Self {
            name: value["name"].as_str().expect("a name").to_owned(),
            workers: rows("workers").iter().map(read_worker).collect(),
            requests: rows("requests").iter().map(read_request).collect(),
            traffic: read_traffic(&value["traffic"]),
            request_growth_tokens: value["request_growth_tokens"].as_u64().unwrap_or(0) as u32,
            projection: rows("projection").iter().map(|row| array(row, whole)).collect(),
            ends: rows("ends")
                .iter()
                .map(|of| {
                    array(of, |end| PredictedEnd {
                        in_steps: whole(&end[0]) as u32,
                        freed_tokens: whole(&end[1]),
                    })
                })
                .collect(),
            bonus_tokens: rows("bonus_tokens").iter().map(|row| array(row, float)).collect(),
            eligible: rows("eligible")
                .iter()
                .map(|row| array(row, |may| may.as_bool().expect("true or false")))
                .collect(),
            classes: rows("classes").iter().map(|row| array(row, float)).collect(),
        }
    }
}

/// A key that nobody reads would be a promise that nobody keeps.
fn known_keys(value: &Value, keys: &[&str]) {
    for key in value.as_object().expect("an object").keys() {
        assert!(keys.contains(&key.as_str()), "unknown key {key}");
    }
}

fn array<T>(value: &Value, item: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().expect("an array").iter().map(item).collect()
}

fn float(value: &Value) -> f32 {
    value.as_f64().expect("a number") as f32
}

fn read_worker(value: &Value) -> Worker {
    known_keys(
        value,
        &[
            "load_tokens",
            "running",
            "free_slots",
            "kv_capacity_tokens",
            "kv_used_tokens",
            "kv_growth_tokens",
            "weight",
            "accepting",
            "next_completion_steps",
        ],
    );
    let whole = |key: &str| value[key].as_u64();
    let load_tokens = whole("load_tokens").expect("load_tokens");
    Worker::new(
        load_tokens,
        whole("running").expect("running") as u32,
        whole("free_slots").expect("free_slots") as u32,
    )
    .capacity(whole("kv_capacity_tokens"))
    .kv_used(whole("kv_used_tokens").unwrap_or(load_tokens))
    .kv_growth(whole("kv_growth_tokens").unwrap_or(0))
    .weight(value["weight"].as_f64().unwrap_or(1.0) as f32)
    .accepting(value["accepting"].as_bool().unwrap_or(true))
    .next_completion(whole("next_completion_steps").map(|steps| steps as u32))
}

fn read_request(value: &Value) -> Request {
    known_keys(
        value,
        &[
            "id",
            "prompt_tokens",
            "waited_steps",
            "passed",
            "deadline_steps",
            "prompt_hash",
            "rank",
            "pair_row",
            "survival_class",
        ],
    );
    let whole = |key: &str| value[key].as_u64();
    let small = |key: &str| whole(key).map(|found| found as u32);
    Request::new(whole("id").expect("id"), small("prompt_tokens").expect("prompt_tokens"))
        .waited(small("waited_steps").unwrap_or(0))
        .passed(small("passed").unwrap_or(0))
        .deadline(small("deadline_steps"))
        .hash(whole("prompt_hash"))
        .rank(small("rank"))
        .pairs(small("pair_row"))
        .class(whole("survival_class").map(|class| class as u8))
}

fn read_traffic(value: &Value) -> Traffic {
    let tokens = |key: &str| value[key].as_i64().unwrap_or(0);
    Traffic::new()
        .prompts(tokens("mean_prompt_tokens"), tokens("sd_prompt_tokens"))
        .small_prompts(tokens("small_prompt_tokens"))
        .outputs(tokens("mean_output_tokens"))
}

fn read_answer(value: &Value) -> Answer {
    let pair =
        |value: &Value| (value[0].as_f64().expect("an envelope"), value[1].as_f64().expect("an imbalance"));
    Answer {
        admitted: array(&value["admitted"], |pick| {
            (
                pick[0].as_u64().expect("an id"),
                pick[1].as_u64().expect("a worker") as u32,
                pick[2].as_f64().expect("a score"),
            )
        }),
        waiting: array(&value["waiting"], |waits| {
            let name = waits[1].as_str().expect("a reason");
            let known = WaitReason::ALL.into_iter().map(reason_name).find(|&known| known == name);
            (waits[0].as_u64().expect("an id"), known.expect("a known reason"))
        }),
        before: pair(&value["before"]),
        after: pair(&value["after"]),
    }
}

// ---- batches ----

/// A small generator of its own, so that no dependency's next version changes the files.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn coin(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    fn case(&mut self, name: &str, workers: usize, waiting: usize) -> Case {
        let load = 2_000 + self.below(40_000);
        let workers =
            (0..workers).map(|_| Worker::new(load + self.below(8_000), 8, self.below(3) as u32)).collect();
        let requests = (0..waiting)
            .map(|at| {
                Request::new(100 + at as u64, 50 + self.below(6_000) as u32).passed(self.below(60) as u32)
            })
            .collect();
        let traffic = Traffic::new().prompts(3_000, 1_700).small_prompts(700).outputs(400);
        Case { name: name.to_owned(), workers, requests, traffic, ..Case::default() }
    }

    fn drawn(&mut self, cases: usize, mut change: impl FnMut(&mut Self, &mut Case)) -> Vec<Case> {
        (0..cases)
            .map(|at| {
                let (workers, waiting) = (2 + self.below(4) as usize, 3 + self.below(8) as usize);
                let mut case = self.case(&format!("drawn {}", at + 1), workers, waiting);
                change(self, &mut case);
                case
            })
            .collect()
    }
}

fn named(name: &str, workers: Vec<Worker>, requests: Vec<Request>) -> Case {
    Case { name: name.to_owned(), workers, requests, ..Case::default() }
}

fn plain() -> Vec<Case> {
    let two = || vec![Worker::new(1_000, 4, 1), Worker::new(1_400, 4, 1)];
    let mut cases = vec![
        named("nobody waits", two(), vec![]),
        named("no slot is free", vec![Worker::new(10, 1, 0)], vec![Request::new(1, 5)]),
        named(
            "one worker, one slot",
            vec![Worker::new(10, 1, 1)],
            vec![Request::new(1, 5), Request::new(2, 9)],
        ),
        named(
            "the margin is met exactly",
            two(),
            vec![Request::new(1, 399), Request::new(2, 400), Request::new(3, 401)],
        ),
        named(
            "everything ties",
            vec![Worker::new(1_000, 4, 1); 3],
            vec![Request::new(9, 200), Request::new(5, 200), Request::new(7, 200), Request::new(1, 200)],
        ),
        named(
            "everybody fits",
            vec![Worker::new(0, 0, 4); 3],
            (1..=6).map(|id| Request::new(id, 100 * id as u32)).collect(),
        ),
        named(
            "a deadline has passed",
            two(),
            vec![Request::new(1, 300), Request::new(2, 5_000).waited(30).deadline(30), Request::new(3, 400)],
        ),
    ];
    cases.extend(Draw(1).drawn(9, |_, _| {}));
    cases
}

fn capacity() -> Vec<Case> {
    let mut cases = vec![
        named(
            "the cache is met exactly",
            vec![Worker::new(900, 4, 1).capacity(1_000), Worker::new(950, 4, 1).capacity(1_050)],
            vec![Request::new(1, 101), Request::new(2, 100)],
        ),
        named("all drain", vec![Worker::new(10, 1, 1).draining(); 2], vec![Request::new(1, 5)]),
        named(
            "a draining worker holds the step up",
            vec![Worker::new(9_000, 4, 2).draining(), Worker::new(1_000, 4, 1), Worker::new(1_500, 4, 1)],
            vec![Request::new(1, 7_000), Request::new(2, 8_000), Request::new(3, 9_000)],
        ),
    ];
    cases.extend(Draw(2).drawn(9, |draw, case| {
        case.request_growth_tokens = draw.below(200) as u32;
        for worker in &mut case.workers {
            worker.accepting = !draw.coin(5);
            worker.free_slots = 1 + draw.below(2) as u32;
            worker.kv_growth_tokens = draw.below(500);
            worker.kv_used_tokens = worker.load_tokens + draw.below(300);
            let spare = draw.below(6_000);
            worker.kv_capacity_tokens = (!draw.coin(4)).then_some(worker.kv_used_tokens + spare);
        }
    }));
    cases
}

fn pairs() -> Vec<Case> {
    let bonus = Case {
        bonus_tokens: vec![vec![0.0, 3_000.0]],
        ..named(
            "a bonus outweighs the load",
            vec![Worker::new(1_000, 4, 1), Worker::new(1_400, 4, 1)],
            vec![Request::new(1, 500).pairs(0), Request::new(2, 450)],
        )
    };
    let nowhere = Case {
        eligible: vec![vec![false, false], vec![true, false]],
        ..named(
            "nowhere eligible",
            vec![Worker::new(1_000, 4, 1), Worker::new(1_400, 4, 1)],
            vec![
                Request::new(1, 500).pairs(0),
                Request::new(2, 450).pairs(1),
                Request::new(3, 90).bound_to(0),
            ],
        )
    };
    let mut cases = vec![bonus, nowhere];
    cases.extend(Draw(3).drawn(10, |draw, case| {
        let workers = case.workers.len();
        let rows = 3;
        let both = draw.below(3);
        if both != 1 {
            // Whole tokens, fractions that round both ways, and penalties.
            let mut one = || match draw.below(4) {
                0 => 0.0,
                1 => draw.below(4_000) as f32 + 0.5,
                2 => draw.below(4_000) as f32 + 0.25,
                _ => -(draw.below(900) as f32),
            };
            case.bonus_tokens = (0..rows).map(|_| (0..workers).map(|_| one()).collect()).collect();
        }
        if both != 0 {
            case.eligible = (0..rows).map(|_| (0..workers).map(|_| !draw.coin(3)).collect()).collect();
        }
        for request in &mut case.requests {
            match draw.below(5) {
                0 => request.rank = Some(WorkerIndex(draw.below(workers as u64) as u32)),
                1..=3 => request.pair_row = Some(draw.below(rows as u64) as u32),
                _ => {}
            }
        }
    }));
    cases
}

fn weights() -> Vec<Case> {
    let mut cases = vec![
        named(
            "a slow worker holds less",
            vec![Worker::new(2_000, 4, 1), Worker::new(1_200, 4, 1).weight(2.0)],
            vec![Request::new(1, 400), Request::new(2, 200), Request::new(3, 800)],
        ),
        named(
            "equal weights other than one",
            vec![Worker::new(2_000, 4, 1).weight(1.5), Worker::new(1_200, 4, 1).weight(1.5)],
            vec![Request::new(1, 400), Request::new(2, 200), Request::new(3, 800)],
        ),
    ];
    cases.extend(Draw(4).drawn(9, |draw, case| {
        for worker in &mut case.workers {
            worker.weight = [1.0, 1.5, 0.25, 2.0, 1.1][draw.below(5) as usize];
        }
    }));
    cases
}

fn lookahead() -> Vec<Case> {
    Draw(5).drawn(12, |draw, case| {
        const HORIZON: usize = 6;
        for worker in &case.workers {
            let mut ends: Vec<PredictedEnd> = (0..draw.below(5))
                .map(|_| PredictedEnd {
                    in_steps: 1 + draw.below(2 * HORIZON as u64) as u32,
                    freed_tokens: 100 + draw.below(worker.load_tokens / 8 + 1),
                })
                .collect();
            ends.sort_unstable_by_key(|end| end.in_steps);
            let row = (0..=HORIZON as u64).map(|h| {
                let ended = ends.iter().filter(|end| u64::from(end.in_steps) <= h);
                let (count, freed) =
                    ended.fold((0, 0), |(count, freed), end| (count + 1, freed + end.freed_tokens));
                (worker.load_tokens + (u64::from(worker.running) - count) * h).saturating_sub(freed)
            });
            case.projection.push(row.collect());
            case.ends.push(ends);
        }
        for (worker, ends) in case.workers.iter_mut().zip(&case.ends) {
            worker.next_completion_steps = ends.first().map(|end| end.in_steps);
        }
        if draw.coin(3) {
            // Exact in binary, so that every language reads the same f32.
            let falls = |by: f32| (0..=HORIZON).map(|h| (1.0 - by * h as f32).max(0.0)).collect::<Vec<f32>>();
            case.classes = vec![falls(0.0), falls(0.125), falls(0.25)];
            for request in &mut case.requests {
                request.survival_class = (!draw.coin(4)).then_some(draw.below(3) as u8);
            }
        }
    })
}

/// Name, what it holds, and how its cases are made.
type File = (&'static str, &'static str, fn() -> Vec<Case>);

const FILES: [File; 5] = [
    ("plain", "Loads, free slots, lengths, waits and deadlines.", plain),
    ("capacity", "KV capacity with room for growth, and draining workers.", capacity),
    ("pairs", "Bonus and eligibility per (request, worker), and requests bound to a rank.", pairs),
    ("weights", "Workers on which a token costs more or less.", weights),
    ("lookahead", "Projected loads, predicted ends and survival classes.", lookahead),
];

/// Policies whose answer is a function of the batch alone; the others bind requests before they wait, with a
/// memory.
fn policies() -> Vec<&'static str> {
    let parameters = Parameters::default();
    let binds = |name: &str| policy::build(name, &parameters).expect("known").needs().binds_on_arrival;
    policy::NAMES.iter().copied().filter(|name| !binds(name)).collect()
}

fn bless(name: &str, about: &str, cases: &[Case]) {
    let mut out = format!("{{\n  \"format\": {FORMAT},\n  \"about\": \"{about}\",\n  \"batches\": [\n");
    for (at, case) in cases.iter().enumerate() {
        let mut answers: Vec<(Vec<&str>, Answer)> = Vec::new();
        for name in policies() {
            let found = case.with(|batch| {
                let mut out = Assignment::new();
                let mut policy = policy::build(name, &Parameters::default()).expect("known");
                policy.decide_by_reference(batch, &mut out).expect("a rule");
                answer(batch, &out)
            });
            match answers.iter_mut().find(|(_, other)| *other == found) {
                Some((same, _)) => same.push(name),
                None => answers.push((vec![name], found)),
            }
        }
        case.write(&mut out, &answers);
        out.push_str(if at + 1 < cases.len() { ",\n" } else { "\n" });
    }
    out.push_str("  ]\n}\n");
    std::fs::write(folder().join(format!("{name}.json")), out).expect("writable");
}

fn replay(name: &str, build: impl Fn(&'static str) -> Box<dyn Policy>) {
    let path = folder().join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(file["format"], FORMAT);
    // One policy for the whole file: an answer that depends on earlier batches would show here.
    let mut built: BTreeMap<&str, _> = policies().into_iter().map(|name| (name, build(name))).collect();
    let batches = file["batches"].as_array().expect("batches");
    assert!((10..=20).contains(&batches.len()));
    for value in batches {
        let case = Case::read(value);
        let mut answered: Vec<String> = Vec::new();
        for entry in value["answers"].as_array().expect("answers") {
            let expected = read_answer(entry);
            for of in array(&entry["policies"], |of| of.as_str().expect("a name").to_owned()) {
                let policy = built.get_mut(of.as_str()).expect("a policy without memory");
                let mut out = Assignment::new();
                case.with(|batch| {
                    policy.decide(batch, &mut out);
                    assert_eq!(answer(batch, &out), expected, "{name}, {}: {of} decided", case.name);
                    policy.decide_by_reference(batch, &mut out).expect("a rule");
                    assert_eq!(answer(batch, &out), expected, "{name}, {}: {of} by the oracle", case.name);
                });
                answered.push(of);
            }
        }
        answered.sort_unstable();
        assert!(answered.iter().eq(built.keys()), "{name}, {}: not every policy is answered", case.name);
    }
}

#[test]
fn every_file_is_answered_as_written() {
    for (name, about, cases) in FILES {
        if std::env::var_os("BALANCEROUTE_BLESS").is_some_and(|bless| bless == "1") {
            bless(name, about, &cases());
        }
        replay(name, |policy| policy::build(policy, &Parameters::default()).expect("known"));
    }
}

/// The device kernel answers the files too, on the model of its machine.
#[cfg(feature = "ascend")]
#[test]
fn every_file_is_answered_by_the_device_kernel() {
    use balanceroute::backend::ascend::blob::Soc;
    use device::model::{Model, plain};
    let tallies = std::cell::RefCell::new(Vec::new());
    for (name, ..) in FILES {
        replay(name, |policy| {
            let soc = Soc { vector_cores: 3, tile_limit: Some(128), ..Soc::ASCEND_910B };
            let (model, tally) = Model::open(plain(), soc);
            tallies.borrow_mut().push(tally);
            policy::build_on(policy, &Parameters::default(), Box::new(model)).expect("known")
        });
    }
    let mut decided = 0;
    for tally in tallies.borrow().iter() {
        let tally = tally.lock().expect("no panic");
        assert!(tally.failed.is_empty() && tally.refused.is_empty(), "{tally:?}");
        decided += tally.decided;
    }
    assert!(decided > 300, "only {decided} answers by the device");
}

#[test]
fn no_file_is_forgotten() {
    let mut found: Vec<String> = std::fs::read_dir(folder())
        .expect("the folder")
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .filter(|file| file.ends_with(".json"))
        .collect();
    found.sort_unstable();
    let mut known: Vec<String> = FILES.iter().map(|(name, ..)| format!("{name}.json")).collect();
    known.sort_unstable();
    assert_eq!(found, known);
}
