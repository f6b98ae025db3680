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
use super::{Own, Shape, Tampered, draw, enlarge, parameters, soc};

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
        "barrier after slope",
        "columns.h",
        "Muls(first_, tokens, FloatOf(profile_.slope), count);\nPipeBarrier<PIPE_V>();",
        "Muls(first_, tokens, FloatOf(profile_.slope), count);",
        NO_BARRIER,
    ),
    bug(
        "barrier before knots",
        "columns.h",
        "Add(scores, scores, first_, count);\nPipeBarrier<PIPE_V>();",
        "Add(scores, scores, first_, count);",
        NO_BARRIER,
    ),
    bug(
        "barrier after knot difference",
        "columns.h",
        "Sub(scores, scores, before, count);\n}\nPipeBarrier<PIPE_V>();",
        "Sub(scores, scores, before, count);\n}",
        NO_BARRIER,
    ),
    bug(
        "barrier after knot maximum",
        "columns.h",
        "done += 2;\n}\nPipeBarrier<PIPE_V>();",
        "done += 2;\n}",
        NO_BARRIER,
    ),
    bug(
        "barrier after knot product",
        "columns.h",
        "Muls(second, second, FloatOf(profile_.weight[k + 1]), count);\n}\nPipeBarrier<PIPE_V>();",
        "Muls(second, second, FloatOf(profile_.weight[k + 1]), count);\n}",
        NO_BARRIER,
    ),
    bug(
        "barrier between last knots",
        "columns.h",
        "Sub(scores, scores, done % 4 == 0 ? first_ : third_, count);\nPipeBarrier<PIPE_V>();",
        "Sub(scores, scores, done % 4 == 0 ? first_ : third_, count);",
        NO_BARRIER,
    ),
    bug(
        "barrier after last knot",
        "columns.h",
        "Sub(scores, scores, done % 4 == 0 ? second_ : fourth_, count);\nPipeBarrier<PIPE_V>();",
        "Sub(scores, scores, done % 4 == 0 ? second_ : fourth_, count);",
        NO_BARRIER,
    ),
    bug(
        "barrier after bonus cast",
        "columns.h",
        "bonuses_queue_.FreeTensor(bonuses);\nPipeBarrier<PIPE_V>();\nAscendC::Add(extras_",
        "bonuses_queue_.FreeTensor(bonuses);\nAscendC::Add(extras_",
        NO_BARRIER,
    ),
    bug(
        "barrier after f16 bonuses",
        "columns.h",
        "Add(extras_[entry], ages_[entry], first_, count);\nPipeBarrier<PIPE_V>();",
        "Add(extras_[entry], ages_[entry], first_, count);",
        NO_BARRIER,
    ),
    bug(
        "barrier after f32 bonuses",
        "columns.h",
        "ages_[entry], bonuses, count);\nbonuses_queue_.FreeTensor(bonuses);\nPipeBarrier<PIPE_V>();",
        "ages_[entry], bonuses, count);\nbonuses_queue_.FreeTensor(bonuses);",
        NO_BARRIER,
    ),
    bug(
        "barrier after eligibility bits",
        "columns.h",
        "words_queue_.FreeTensor(words);\nPipeBarrier<PIPE_V>();",
        "words_queue_.FreeTensor(words);",
        NO_BARRIER,
    ),
    bug(
        "barrier after eligibility cast",
        "columns.h",
        "Cast(first_, bits_, AscendC::RoundMode::CAST_NONE, count);\nPipeBarrier<PIPE_V>();",
        "Cast(first_, bits_, AscendC::RoundMode::CAST_NONE, count);",
        NO_BARRIER,
    ),
    bug(
        "barrier after eligibility comparison",
        "columns.h",
        "CompareScalar(mask_, first_, 0.0f, AscendC::CMPMODE::NE, whole);\nPipeBarrier<PIPE_V>();",
        "CompareScalar(mask_, first_, 0.0f, AscendC::CMPMODE::NE, whole);",
        NO_BARRIER,
    ),
    bug(
        "barrier after eligibility selection",
        "columns.h",
        "PipeBarrier<PIPE_V>();\n}\nif (room_ && ",
        "}\nif (room_ && ",
        NO_BARRIER,
    ),
    bug(
        "barrier after room comparison",
        "columns.h",
        "AscendC::CMPMODE::LE, whole);\nPipeBarrier<PIPE_V>();",
        "AscendC::CMPMODE::LE, whole);",
        NO_BARRIER,
    ),
    bug(
        "barrier after room selection",
        "columns.h",
        "PipeBarrier<PIPE_V>();\n}\n}\n\n// The greatest score of a run",
        "}\n}\n\n// The greatest score of a run",
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
        "event after entry is taken",
        "columns.h",
        "ages_.SetValue(entry, FromBits(kMinusInfinity));\nOrder<HardEvent::S_V>(pipe_);",
        "ages_.SetValue(entry, FromBits(kMinusInfinity));",
        By::Model("does not know that pipe S has finished"),
    ),
    bug(
        "event after score is crossed out",
        "columns.h",
        "scores_.SetValue(entry, FromBits(kMinusInfinity));\nOrder<HardEvent::S_V>(pipe_);",
        "scores_.SetValue(entry, FromBits(kMinusInfinity));",
        By::Model("does not know that pipe S has finished"),
    ),
    bug(
        "event after reduction",
        "columns.h",
        "Order<HardEvent::V_S>(pipe_);",
        "",
        By::Model("does not know that pipe V has finished"),
    ),
    bug(
        "event before next reduction",
        "columns.h",
        "// The next reduction writes what was read here.\nOrder<HardEvent::S_V>(pipe_);",
        "",
        By::Model(early!("V", "S")),
    ),
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
        "AscendC::Maxs(first, first, 0.0f, count);",
        "if (count > 8) {\nAscendC::Maxs(first, first[8], 0.0f, count - 8);\n}\n\
         AscendC::Maxs(first, first, 0.0f, count);",
        By::Model("overlap in part"),
    ),
    bug(
        "misaligned tile",
        "columns.h",
        "uint32_t entry = from + at;",
        "uint32_t entry = from + at + 1;",
        By::Model("not a multiple of 32"),
    ),
    bug(
        "reduction over padding",
        "columns.h",
        "uint32_t count = count_[run];",
        "uint32_t count = RoundUp(count_[run], 64);",
        By::Model("is dummy data"),
    ),
    bug(
        "part of a repeat",
        "columns.h",
        "uint32_t whole = RoundUp(size, 64);",
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
        "scratch too small",
        "columns.h",
        "InitBuffer(scratch_buffer_, BR_SCRATCH_BYTES);",
        "InitBuffer(scratch_buffer_, BR_BLOCK_BYTES);",
        By::Model("scratch of 32 bytes"),
    ),
    bug(
        "tile nobody takes",
        "columns.h",
        "if (at + tile < count) {\nFetch(worker, from, count, at + tile);\n}",
        "Fetch(worker, from, count, at + tile < count ? at + tile : at);",
        By::Model("waits for ever"),
    ),
    bug(
        "index as number",
        "columns.h",
        "index = bits.GetValue(1);",
        "index = static_cast<uint32_t>(reduce_.GetValue(1));",
        By::Model("holds the bits of an index"),
    ),
    bug(
        "mask read by scalar unit",
        "columns.h",
        "CompareScalar(mask_, first_, 0.0f, AscendC::CMPMODE::NE, whole);\nPipeBarrier<PIPE_V>();",
        "CompareScalar(mask_, first_, 0.0f, AscendC::CMPMODE::NE, whole);\nPipeBarrier<PIPE_V>();\n\
         Order<HardEvent::V_S>(pipe_);\n(void)mask_.GetValue(0);",
        By::Model("holds mask bits"),
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
        "bonuses_queue_.FreeTensor(bonuses);\nPipeBarrier<PIPE_V>();\nAscendC::Add(extras_",
        "PipeBarrier<PIPE_V>();\nAscendC::Add(extras_",
        By::Model("was never freed"),
    ),
    bug(
        "tensor freed twice",
        "columns.h",
        "bonuses_queue_.FreeTensor(bonuses);\nPipeBarrier<PIPE_V>();\nAscendC::Add(extras_",
        "bonuses_queue_.FreeTensor(bonuses);\nbonuses_queue_.FreeTensor(bonuses);\nPipeBarrier<PIPE_V>();\n\
         AscendC::Add(extras_",
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
    bug("bounds do not rise", "greedy.h", "rise_ += risen;", "rise_ += 0 * risen;", By::Oracle),
    bug(
        "rounding decides",
        "columns.h",
        "int64_t doubt = 4 * (profile_.knots + 7) * (((2 * reach - greatest) >> 24) + 1);",
        "int64_t doubt = -1;",
        By::Oracle,
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
        built(self.name, Some(self), build, machine)
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

/// The machine and the compiler for kernels with bugs, some of which are worth a warning.
fn tools() -> (cc::Build, Vec<PathBuf>) {
    let mut build = model::compiler();
    let folder = folder().join("seeded");
    std::fs::create_dir_all(&folder).expect("a folder");
    let machine = model::machine(&build, &folder);
    build.warnings(false).extra_warnings(false).warnings_into_errors(false);
    (build, machine)
}

/// Batches with everything in them, under rules that use every part of the kernel; the first failure or
/// mismatch.
fn first_failure(library: &Path, noticed: By) -> Option<String> {
    let runs_through = matches!(noticed, By::Oracle | By::Host(_));
    let (cases, most) = if runs_through { (4_000, 40) } else { (40, 200) };
    let mut rng = ChaCha8Rng::seed_from_u64(77);
    for name in ["exact", "level", "exact-oracle"] {
        let (model, tally) = Model::open(library, soc(Some(128)));
        let device = policy::build_on(name, &parameters(BackendKind::Reference), Box::new(model));
        let mut device = device.expect("a policy");
        let mut host = policy::build(name, &parameters(BackendKind::Reference)).expect("a policy");
        for case in 0..cases {
            let shape = Shape { requests: rng.random_range(8..most), workers: 6, horizon: 3, free: 2 };
            let mut parts = draw(&mut rng, shape);
            if runs_through && case % 2 == 0 {
                enlarge(&mut rng, &mut parts);
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

/// Why a bug does not count as noticed.
fn missed(bug: &Bug, found: Option<&str>) -> Option<String> {
    let Some(found) = found else { return Some(format!("{}: nobody noticed", bug.name)) };
    let as_expected = match bug.noticed {
        By::Model(says) | By::ModelInRefusal(says) => found.contains(says) && found.contains("block "),
        By::Host(says) => found.contains(says),
        By::Oracle => found == "another answer than the oracle's",
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
    assert!(all >= 24, "{all}");
}
