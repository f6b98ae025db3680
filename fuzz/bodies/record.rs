//! Bytes are what lies in the folder of a recording: damaged files, and whole ones with calls that no router
//! has made. Nothing panics; what is before the damage is replayed as it was.
//!
//! Included by the fuzz target and by `tests/record/fuzz.rs`.

use std::path::Path;
use std::sync::OnceLock;

use balanceroute::policy::Parameters;
use balanceroute::record::{RecordConfig, RecordError, Replay};
use balanceroute::{Request, Router, RouterConfig, WorkerConfig};

/// What was met, over all cases.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Met {
    pub refused: usize,
    pub torn: usize,
    pub calls: u64,
    pub differ: u64,
}

impl std::ops::AddAssign for Met {
    fn add_assign(&mut self, other: Self) {
        self.refused += other.refused;
        self.torn += other.torn;
        self.calls += other.calls;
        self.differ += other.differ;
    }
}

/// A segment of a router that has a few requests, up to its last record, and where the first call begins.
fn segment(folder: &Path) -> &'static (Vec<u8>, usize) {
    static SEGMENT: OnceLock<(Vec<u8>, usize)> = OnceLock::new();
    SEGMENT.get_or_init(|| {
        let config = RouterConfig::uniform(3, WorkerConfig::new(2).capacity(9_000))
            .lower_class_one_in(3)
            .dispatch_timeout_ms(100)
            .expire_after_ms(5_000);
        let mut router = Router::new(config, "level", &Parameters::default()).expect("a router");
        for id in 1..9 {
            router.enqueue(Request::new(id, 700 * id as u32).priority(id as i8 % 2), 0).expect("new");
        }
        router.step(1).expect("sound");
        router.record(&RecordConfig::new(folder).segment_bytes(1 << 16)).expect("a folder");
        let begun = router.recording().expect("under way").bytes as usize;
        router.advance();
        router.finish(1, 20).expect("it runs");
        router.step(30).expect("sound");
        let end = router.recording().expect("under way").bytes as usize;
        drop(router);
        let path = folder.join("00000001.brlog");
        let mut bytes = std::fs::read(&path).expect("a segment");
        bytes.truncate(end);
        std::fs::remove_file(path).expect("a segment");
        (bytes, begun)
    })
}

/// A record of these bytes, with its length and its sum.
fn push(bytes: &mut Vec<u8>, record: &[u8]) {
    bytes.extend((record.len() as u32).to_le_bytes());
    bytes.extend(crc32fast::hash(record).to_le_bytes());
    bytes.extend(record);
}

/// Replays what the bytes make of a folder. The first byte says how they are taken.
pub(crate) fn replay(data: &[u8], folder: &Path) -> Met {
    let mut met = Met::default();
    let Some((&choice, data)) = data.split_first() else { return met };
    let (whole, calls_at) = segment(folder);
    let mut bytes = Vec::new();
    // Calls with their sums are as if they had been made.
    let is_made = choice % 3 == 2;
    match choice % 3 {
        0 => bytes.extend_from_slice(data),
        1 => {
            bytes.extend_from_slice(whole);
            for change in data.chunks_exact(3) {
                // The calls are a small part of it, and as often hit as all of it.
                let from = if change[2] & 1 == 0 { 0 } else { *calls_at };
                let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % (bytes.len() - from);
                bytes[from + at] ^= change[2];
            }
        }
        _ => {
            bytes.extend_from_slice(&whole[..*calls_at]);
            let mut rest = data;
            while let Some((&length, after)) = rest.split_first() {
                let (record, after) = after.split_at(after.len().min(usize::from(length)));
                push(&mut bytes, record);
                rest = after;
            }
        }
    }
    let path = folder.join("00000001.brlog");
    std::fs::write(&path, &bytes).expect("a folder");
    match Replay::open(folder) {
        Ok(mut replay) => loop {
            match replay.next_event() {
                Ok(Some(event)) => {
                    met.calls += 1;
                    met.differ += u64::from(event.differs());
                    assert!(is_made || !event.differs(), "{event:?}");
                }
                Ok(None) => {
                    met.torn += usize::from(!replay.torn().is_empty());
                    break;
                }
                Err(error @ RecordError::Panicked { .. }) => panic!("{error}"),
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    met.refused += 1;
                    break;
                }
            }
        },
        Err(error @ RecordError::Panicked { .. }) => panic!("{error}"),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            met.refused += 1;
        }
    }
    met
}
