//! Seeded bugs: what a slip in the kernel's source would be, and what must notice it. Each is a substitution
//! of text, made in a copy of the sources that is compiled and run. The source itself knows nothing of them.
//!
//! Each bug is compiled by itself: that costs a second and a half of one core, needs nothing of the text but
//! that it compiles, and is what somebody would run who had made the mistake.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use balanceroute::backend::offload::Offload;
use balanceroute::backend::{Backend, BackendKind};
use balanceroute::{Assignment, policy};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::support::model::{self, Model, Tally};
use super::support::{folder, root};
use super::{Own, Shape, Tampered, crowd, draw, enlarge, parameters, soc};

/// What must notice a bug.
#[derive(Clone, Copy, Debug)]
enum By {
    /// The model, which says this.
    Model(&'static str),
    /// The model, which says this where the kernel refuses a header.
    ModelInRefusal(&'static str),
    /// The host, which says this of an answer that no machine minds.
    Host(&'static str),
    /// The oracle alone, which answers otherwise.
    Oracle,
    /// Both modes of the device, in which the answers differ.
    Modes,
}

/// Text of a source file, without the indentation of its lines, and what takes its place.
struct Bug {
    name: &'static str,
    file: &'static str,
    what: &'static str,
    by: &'static str,
    noticed: By,
}

const fn bug(
    name: &'static str,
    file: &'static str,
    what: &'static str,
    by: &'static str,
    noticed: By,
) -> Bug {
    Bug { name, file, what, by, noticed }
}

const NO_BARRIER: By = By::Model("without a barrier");

/// A pipe that goes on before another has finished.
macro_rules! early {
    ($pipe:literal, $other:literal) => {
        concat!("pipe ", $pipe, " does not know that pipe ", $other, " has finished")
    };
}

/// Left-out barriers and events first: every one of the kernel's is here.
const BUGS: &[Bug] = &[
    bug(
        "barrier after scores are crossed out",
        "columns.h",
        "static_cast<int32_t>(batch.stride));\nPipeBarrier<PIPE_V>();",
        "static_cast<int32_t>(batch.stride));",
        NO_BARRIER,
    ),
    bug(
        "event after first copies",
        "columns.h",
        "Order<HardEvent::MTE2_V>(pipe);",
        "",
        By::Model(early!("V", "MTE2")),
    ),
    bug(
        "event before next column",
        "columns.h",
        "Order<HardEvent::S_V>(pipe_);\nif (eligibility_) {",
        "if (eligibility_) {",
        By::Model(early!("V", "S")),
    ),
    bug(
        "barrier after eligibility bit",
        "columns.h",
        "static_cast<int32_t>(tile));\nPipeBarrier<PIPE_V>();",
        "static_cast<int32_t>(tile));",
        NO_BARRIER,
    ),
    bug(
        "barrier between intervals",
        "columns.h",
        "}\nPipeBarrier<PIPE_V>();\n}\nif (eligibility_) {",
        "}\n}\nif (eligibility_) {",
        NO_BARRIER,
    ),
    bug(
        "barrier after masking",
        "columns.h",
        "AscendC::SELMODE::VSEL_TENSOR_SCALAR_MODE, size);\nPipeBarrier<PIPE_V>();",
        "AscendC::SELMODE::VSEL_TENSOR_SCALAR_MODE, size);",
        NO_BARRIER,
    ),
    bug(
        "event after score is crossed out",
        "columns.h",
        "scores_.SetValue(entry, FromBits(kTaken));\nOrder<HardEvent::S_V>(pipe_);",
        "scores_.SetValue(entry, FromBits(kTaken));",
        By::Model(early!("V", "S")),
    ),
    bug(
        "barrier between reductions",
        "columns.h",
        "static_cast<int32_t>(repeats), 1, 1, 8);\nPipeBarrier<PIPE_V>();",
        "static_cast<int32_t>(repeats), 1, 1, 8);",
        NO_BARRIER,
    ),
    bug(
        "event after reduction",
        "columns.h",
        "Order<HardEvent::V_S>(pipe_);",
        "",
        By::Model(early!("S", "V")),
    ),
    // Steps of pairs of knots, an interval too early or in another's tile.
    bug(
        "maximum too early",
        "columns.h",
        "int32_t pair = interval - 1;",
        "int32_t pair = interval;",
        NO_BARRIER,
    ),
    bug("product too early", "columns.h", "pair = interval - 2;", "pair = interval - 1;", NO_BARRIER),
    bug("sum of a pair too early", "columns.h", "pair = interval - 3;", "pair = interval - 2;", NO_BARRIER),
    bug("difference too early", "columns.h", "pair = interval - 4;", "pair = interval - 3;", NO_BARRIER),
    bug("four first tiles", "columns.h", "work_[pair % 5]", "work_[pair % 4]", NO_BARRIER),
    bug("three second tiles", "columns.h", "work_[5 + pair % 4]", "work_[5 + pair % 3]", NO_BARRIER),
    bug("base in a pair's tile", "columns.h", "&sum = work_[4]", "&sum = work_[2]", NO_BARRIER),
    bug("bits in a pair's tile", "columns.h", "&bits = work_[8]", "&bits = work_[6]", NO_BARRIER),
    bug("base too early", "columns.h", "break;\ncase 3:", "", NO_BARRIER),
    bug("bonus too early", "columns.h", "break;\ncase 1:", "", NO_BARRIER),
    bug("eligibility too early", "columns.h", "break;\ncase 2:", "", NO_BARRIER),
    bug(
        "event before picks go out",
        "greedy.h",
        "Order<HardEvent::S_MTE3>(pipe_);\nuint32_t words",
        "uint32_t words",
        By::Model(early!("MTE3", "S")),
    ),
    bug(
        "event after picks go out",
        "greedy.h",
        "Order<HardEvent::MTE3_S>(pipe_);",
        "",
        By::Model(early!("S", "MTE3")),
    ),
    bug(
        "event after first look comes in",
        "greedy.h",
        "Order<HardEvent::MTE2_S>(pipe_);",
        "",
        By::Model(early!("S", "MTE2")),
    ),
    bug(
        "event before next first look",
        "greedy.h",
        "Order<HardEvent::S_MTE2>(pipe_);",
        "",
        By::Model(early!("MTE2", "S")),
    ),
    bug(
        "event before head goes out",
        "greedy.h",
        "Order<HardEvent::S_MTE3>(pipe_);\nCopyOut(batch_",
        "CopyOut(batch_",
        By::Model(early!("MTE3", "S")),
    ),
    bug(
        "event before refusal goes out",
        "common.h",
        "Order<HardEvent::S_MTE3>(pipe);",
        "",
        By::ModelInRefusal(early!("MTE3", "S")),
    ),
    bug(
        "event before column goes out",
        "balanceroute.cpp",
        "Order<HardEvent::S_MTE3>(pipe);",
        "",
        By::Model(early!("MTE3", "S")),
    ),
    bug(
        "event after column goes out",
        "balanceroute.cpp",
        "Order<HardEvent::MTE3_S>(pipe);",
        "",
        By::Model(early!("S", "MTE3")),
    ),
    bug(
        "partial overlap",
        "columns.h",
        "AscendC::Maxs(First(pair), First(pair), 0.0f, count);",
        "if (count > 8) {\nAscendC::Maxs(First(pair), First(pair)[8], 0.0f, count - 8);\n}\n\
         AscendC::Maxs(First(pair), First(pair), 0.0f, count);",
        By::Model("overlap in part"),
    ),
    bug(
        "misaligned tile",
        "columns.h",
        "entry = from + at;\nint32_t pairs",
        "entry = from + at + 1;\nint32_t pairs",
        By::Model("not a multiple of 32"),
    ),
    bug(
        "reduction over padding",
        "columns.h",
        "AscendC::Duplicate(scores_, FromBits(kTaken), static_cast<int32_t>(batch.stride));",
        "",
        By::Model("is dummy data"),
    ),
    bug(
        "part of a repeat",
        "columns.h",
        "uint32_t whole = RoundUp(size, kLanes);",
        "uint32_t whole = size;",
        By::Model("not a multiple of 256"),
    ),
    bug(
        "buffers too large",
        "columns.h",
        "uint32_t tile = batch.tile,",
        "uint32_t tile = 200 * batch.tile,",
        By::Model("of the unified buffer are taken"),
    ),
    bug(
        "room for no repeat",
        "columns.h",
        "InitBuffer(repeats_buffer_, BR_REPEATS_BYTES);",
        "InitBuffer(repeats_buffer_, BR_BLOCK_BYTES);",
        By::Model("bytes of a tensor of 32"),
    ),
    bug(
        "tile nobody takes",
        "columns.h",
        "if (interval == 1 && at + batch_->tile < count) {\n\
         Fetch(worker, from, count, at + batch_->tile);\n}",
        "if (interval == 1) {\nFetch(worker, from, count, at);\n}",
        By::Model("waits for ever"),
    ),
    bug(
        "next tile too early",
        "columns.h",
        "if (interval == 1 && at",
        "if (interval == 0 && at",
        By::Model("buffers of the queue are in use"),
    ),
    bug(
        "index as number",
        "columns.h",
        "lane = greatest.GetValue(1);",
        "lane = static_cast<uint32_t>(greatest_.GetValue(1));",
        By::Model("holds the bits of an index"),
    ),
    bug(
        "indices among the scores",
        "columns.h",
        "UINT64_C(0x5555555555555555)",
        "UINT64_C(0xffffffffffffffff)",
        By::Model("holds the bits of an index, not a number"),
    ),
    bug(
        "mask read by scalar unit",
        "columns.h",
        "LocalTensor<float> scores = scores_[entry];\nAscendC::Select(",
        "LocalTensor<float> scores = scores_[entry];\nOrder<HardEvent::V_S>(pipe_);\n\
         (void)mask.GetValue(0);\nAscendC::Select(",
        By::Model("holds mask bits"),
    ),
    bug(
        "beyond the input",
        "common.h",
        "return u32.GetValue(offset / 4);",
        "return u32.GetValue(offset / 4 + (1u << 24));",
        By::Model("outside of what was allocated"),
    ),
    bug(
        "copy larger than buffer",
        "columns.h",
        "uint32_t size = count - at < batch_->tile ? count - at : batch_->tile;",
        "uint32_t size = batch_->tile + BR_ENTRY_ALIGN;",
        By::Model("bytes of a tensor of"),
    ),
    bug(
        "tensor never freed",
        "columns.h",
        "words_queue_.FreeTensor(words);",
        "",
        By::Model("buffers of the queue are in use"),
    ),
    bug(
        "tensor freed twice",
        "columns.h",
        "words_queue_.FreeTensor(words);",
        "words_queue_.FreeTensor(words);\nwords_queue_.FreeTensor(words);",
        By::Model("is free already"),
    ),
    bug(
        "event never set",
        "greedy.h",
        "uint32_t words = staged_ * (sizeof(BrPick) / 4);",
        "AscendC::WaitFlag<HardEvent::MTE3_S>(1);\nuint32_t words = staged_ * (sizeof(BrPick) / 4);",
        By::Model("was never set"),
    ),
    bug(
        "event never waited for",
        "greedy.h",
        "CopyOut(batch_->Answer<uint32_t>(0, sizeof(BrOut) / 4), stage, offsetof(BrOut, reserved) / 4);",
        "CopyOut(batch_->Answer<uint32_t>(0, sizeof(BrOut) / 4), stage, offsetof(BrOut, reserved) / 4);\n\
         AscendC::SetFlag<HardEvent::MTE3_S>(0);",
        By::Model("nobody waited for it"),
    ),
    bug(
        "one pick too many",
        "greedy.h",
        "uint32_t words = staged_ * (sizeof(BrPick) / 4);",
        "uint32_t words = (staged_ + 1) * (sizeof(BrPick) / 4);",
        By::Model("bytes of a global tensor of"),
    ),
    bug(
        "columns in one place",
        "balanceroute.cpp",
        "CopyOut(out[static_cast<uint64_t>(g) * stride], stage, stride);",
        "CopyOut(out[0], stage, stride);",
        By::Model("has written in this launch"),
    ),
    bug(
        "bounds do not rise",
        "greedy.h",
        "rise_ += risen;",
        "rise_ += 0 * risen;",
        By::Host("its score is another"),
    ),
    bug(
        "rounding decides",
        "columns.h",
        "int64_t doubt = 4 * (profile_.knots + 7) * (((2 * reach - greatest) >> 24) + 1);",
        "int64_t doubt = -1;",
        By::Oracle,
    ),
    bug(
        "infinity for what is taken",
        "common.h",
        "constexpr uint32_t kTaken = 0xe2800000;\n\
         // Whether a score is that of an entry that is taken: at most -2^64, far below every other.\n\
         __aicore__ inline bool IsTaken(uint32_t bits) { return bits >= 0xdf800000; }",
        "constexpr uint32_t kTaken = 0xff800000;\n\
         __aicore__ inline bool IsTaken(uint32_t bits) { return bits == kTaken; }",
        By::Modes,
    ),
    bug(
        "nobody is taken",
        "common.h",
        "return bits >= 0xdf800000;",
        "return bits == 0xff800000;",
        By::Host("too many near ties"),
    ),
    bug(
        "lane of another repeat",
        "columns.h",
        "GetValue(lane + 1);",
        "GetValue(1);",
        By::Host("too many near ties"),
    ),
    bug("just fits, left out", "columns.h", "AscendC::CMPMODE::LE", "AscendC::CMPMODE::LT", By::Oracle),
    bug(
        "later of equals wins",
        "columns.h",
        "arrivals_.GetValue(other.entry) < arrivals_.GetValue(best.entry));",
        "arrivals_.GetValue(other.entry) > arrivals_.GetValue(best.entry));",
        By::Oracle,
    ),
    bug(
        "refills not counted",
        "profiles.h",
        "int64_t more = (tokens - refill_tokens_) * per_token;",
        "int64_t more = tokens * per_token;",
        By::Host("its score is another"),
    ),
    bug(
        "levels stay where they were",
        "profiles.h",
        "MoveLevel(anticipated_[worker], anticipated_[worker] + more);",
        "",
        By::Model("of a global tensor of"),
    ),
    bug(
        "lowest of all and not of the others",
        "profiles.h",
        "levels_[others] == level ? levels_[others - 1] : levels_[others];",
        "levels_[others];",
        By::Host("its score is another"),
    ),
    bug(
        "last knot of the reserve left out",
        "profiles.h",
        "knot < batch_->steps; knot++",
        "knot + 1 < batch_->steps; knot++",
        By::Host("its score is another"),
    ),
    bug(
        "rise of one lower",
        "profiles.h",
        "int64_t before = Here(rises_.GetValue(0), per_token);",
        "int64_t before = Here(rises_.GetValue(1), per_token);",
        By::Host("its score is another"),
    ),
    bug(
        "prices of another weight",
        "profiles.h",
        "return per_token == token_cost_ ? units : units * per_token / token_cost_;",
        "return units;",
        By::Host("its score is another"),
    ),
];

const FILES: [&str; 6] = ["balanceroute.cpp", "greedy.h", "columns.h", "profiles.h", "common.h", "tiling.h"];

/// A source file of the kernel without indentation, so that a substitution need not know it.
fn source(file: &str) -> String {
    let text = std::fs::read_to_string(root("kernels/ascendc").join(file)).expect("a source");
    text.lines().map(|line| format!("{}\n", line.trim_start())).collect()
}

impl Bug {
    /// Where its text is; it must be there once.
    fn at(&self, text: &str) -> usize {
        let found: Vec<usize> = text.match_indices(self.what).map(|(at, _)| at).collect();
        let [at] = found[..] else {
            panic!("{}: its text is {} times in {}: {}", self.name, found.len(), self.file, self.what)
        };
        at
    }

    /// Copies the sources with the bug, and compiles and links them.
    fn built(&self, build: &cc::Build, machine: &[PathBuf]) -> PathBuf {
        let mut build = build.clone();
        if runs_through(self.noticed) {
            build.opt_level(1);
        }
        built(self.name, Some(self), &build, machine)
    }
}

fn built(name: &str, bug: Option<&Bug>, build: &cc::Build, machine: &[PathBuf]) -> PathBuf {
    let folder = folder().join("seeded").join(name.replace([' ', ','], "_"));
    std::fs::create_dir_all(&folder).expect("a folder");
    for file in FILES {
        let mut text = source(file);
        if let Some(bug) = bug.filter(|bug| bug.file == file) {
            let at = bug.at(&text);
            text.replace_range(at..at + bug.what.len(), bug.by);
        }
        std::fs::write(folder.join(file), text).expect("written");
    }
    let library = folder.join("kernel.so");
    model::link(build, &folder, machine, &library);
    library
}

/// The machine, and the compiler for kernels with bugs, some of which are worth a warning. Most bugs are
/// noticed in the first batch: what is compiled fast is done first.
fn tools() -> (cc::Build, Vec<PathBuf>) {
    let folder = folder().join("seeded");
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut build = model::compiler();
    let machine = model::machine(build.opt_level(2), &folder);
    build.opt_level(0).debug(false);
    build.warnings(false).extra_warnings(false).warnings_into_errors(false);
    (build, machine)
}

/// Batches with everything in them, under rules that use every part of the kernel; the first failure or
/// mismatch.
fn first_failure(library: &Path, noticed: By) -> Option<String> {
    let runs_through = runs_through(noticed);
    let cases = if runs_through { 4_000 } else { 40 };
    let mut rng = ChaCha8Rng::seed_from_u64(77);
    for name in ["exact", "level", "exact-oracle"] {
        let (model, tally) = Model::open(library, soc(Some(128)));
        let device = policy::build_on(name, &parameters(BackendKind::Reference), Box::new(model));
        let mut device = device.expect("a policy");
        let mut host = policy::build(name, &parameters(BackendKind::Reference)).expect("a policy");
        for case in 0..cases {
            // Enough knots for every tile of theirs; now and then more requests than a few repeats have.
            let most = if runs_through && case % 8 != 0 { 40 } else { 300 };
            let shape = Shape { requests: rng.random_range(8..most), workers: 6, horizon: 24, free: 2 };
            let mut parts = draw(&mut rng, shape);
            if runs_through && case % 2 == 0 {
                enlarge(&mut rng, &mut parts);
            } else if case % 4 == 1 {
                crowd(&mut rng, &mut parts);
            }
            let pool = parts.pool();
            let batch = parts.batch(&pool);
            let (mut found, mut expected) = (Assignment::new(), Assignment::new());
            device.decide(&batch, &mut found);
            host.decide(&batch, &mut expected);
            // Whatever the device does, the answer is right, or the bug is one of those that only the oracle
            // sees.
            if let Some(failed) = last_complaint(&tally) {
                assert_eq!(
                    found,
                    expected,
                    "{}: the CPU decides what the device could not",
                    library.display()
                );
                return Some(failed);
            }
            if found != expected {
                return Some("another answer than the oracle's".to_owned());
            }
        }
    }
    None
}

fn last_complaint(tally: &Arc<Mutex<Tally>>) -> Option<String> {
    let mut tally = tally.lock().expect("no panic while it is held");
    tally.failed.pop().or(tally.refused.pop())
}

/// What a kernel does that refuses a header.
fn refusal(library: &Path) -> Option<String> {
    let (model, tally) = Model::open(library, soc(None));
    let mut device = Offload::new(Box::new(Tampered { model, word: 15, value: 64 }));
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let parts = draw(&mut rng, Shape { requests: 20, workers: 4, horizon: 3, free: 2 });
    let pool = parts.pool();
    device.assign(&mut Own::Level, &parts.batch(&pool), &mut Assignment::new());
    tally.lock().expect("no panic").failed.pop()
}

/// Whether a bug breaks no rule of the machine, so that it takes many batches to notice it.
fn runs_through(noticed: By) -> bool {
    matches!(noticed, By::Oracle | By::Host(_) | By::Modes)
}

/// Why a bug does not count as noticed.
fn missed(bug: &Bug, found: Option<&str>) -> Option<String> {
    let Some(found) = found else { return Some(format!("{}: nobody noticed", bug.name)) };
    let as_expected = match bug.noticed {
        By::Model(says) | By::ModelInRefusal(says) => found.contains(says) && found.contains("block "),
        By::Host(says) => found.contains(says),
        By::Oracle => found == "another answer than the oracle's",
        By::Modes => found.contains(model::MODES_DIFFER),
    };
    (!as_expected).then(|| format!("{}: {:?} was expected, found {found}", bug.name, bug.noticed))
}

#[test]
fn every_seeded_bug_is_noticed() {
    let (build, machine) = tools();
    let sound = built("none", None, &build, &machine);
    assert_eq!(first_failure(&sound, By::Model("")), None, "the kernel without a bug");
    let (next, misses) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(bug) = BUGS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let library = bug.built(&build, &machine);
                    let found = match bug.noticed {
                        By::ModelInRefusal(_) => refusal(&library),
                        noticed => first_failure(&library, noticed),
                    };
                    let first = found.as_deref().and_then(|text| text.lines().next());
                    println!("{}: {}", bug.name, first.unwrap_or_default());
                    misses.lock().expect("no panic").extend(missed(bug, found.as_deref()));
                }
            });
        }
    });
    let misses = misses.into_inner().expect("no panic");
    assert!(misses.is_empty(), "{}", misses.join("\n"));
}

/// Each barrier and each pair of events of the kernel is left out by some bug.
#[test]
fn every_barrier_and_event_has_its_bug() {
    let orders = |text: &str| {
        ["PipeBarrier<PIPE", "Order<HardEvent::"].iter().map(|what| text.matches(what).count()).sum::<usize>()
    };
    let mut all = 0;
    for file in FILES {
        let text = source(file);
        let mut from = 0;
        let left_out: Vec<std::ops::Range<usize>> = BUGS
            .iter()
            .filter(|bug| bug.file == file && orders(bug.by) < orders(bug.what))
            .map(|bug| bug.at(&text)..bug.at(&text) + bug.what.len())
            .collect();
        for line in text.split_inclusive('\n') {
            if orders(line) > 0 {
                let known = left_out.iter().any(|range| range.contains(&from));
                assert!(
                    known,
                    "{file}: no seeded bug leaves out the order at: {}",
                    &text[from - 80..from + line.len()]
                );
                all += 1;
            }
            from += line.len();
        }
    }
    assert!(all >= 17, "{all}");
}
