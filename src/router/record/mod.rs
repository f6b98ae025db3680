//! A flight recorder (feature `record`): every call that changes a router, with its answer, in a log that
//! outlives the process.
//!
//! A router decides by nothing but the calls that were made to it, so a log of these is everything: it can be
//! replayed, call by call, and each decision explained ([`Replay`]); and a process that has died goes on from
//! it ([`Router::resume`](crate::Router::resume)), with everybody who waited or ran accounted for once.
//!
//! ```
//! use balanceroute::policy::Parameters;
//! use balanceroute::record::{RecordConfig, Replay};
//! use balanceroute::{Request, Router, RouterConfig};
//!
//! let folder = std::env::temp_dir().join(format!("balanceroute-doc-{}", std::process::id()));
//! let mut router = Router::new(RouterConfig::new(2, 8), "level", &Parameters::default())?;
//! router.record(&RecordConfig::new(&folder))?;
//! router.enqueue(Request::new(1, 900), 0)?;
//! let plan = router.step(10)?.clone();
//! drop(router);
//!
//! let mut replay = Replay::open(&folder)?;
//! while let Some(event) = replay.next_event()? {
//!     assert!(!event.differs());
//! }
//! assert_eq!(replay.router().plan(), &plan);
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # From outside
//! With `BALANCEROUTE_RECORD=FOLDER` in the environment every router that is built records itself, into a
//! folder of its own below that one (`router-PID-N`); of those that ended the latest sixteen are kept. No
//! line of code changes, in C, Python and the plug-ins of engines neither.
//!
//! # The log
//! A folder of segments `00000001.brlog`, `00000002.brlog` and so on, each of
//! [`RecordConfig::segment_bytes`]; of these the newest [`RecordConfig::segments`] are kept. A segment is
//! eight bytes of magic and records, each a length, a CRC-32 and that many bytes: first a header (versions,
//! policy and parameters, the time of day), then the state of the router, then calls with their answers. So
//! every segment is replayed by itself, and the oldest can go. The end of a log is where a record's sum is
//! wrong: what is before it was written whole.
//!
//! Records go through a memory map: what a call had recorded when it returned is in the log also when the
//! process is killed right after. (It is not when the machine loses power: nothing is synchronised to disk.)
//! Space is written before it is mapped, so a full disk ends the recording and not the process: a recording
//! that fails ends, says so ([`Router::recording`](crate::Router::recording)), and the router goes on
//! without; no router goes on from such a log.
//!
//! Prompts never reach a router. Their hashes ([`Request::prompt_hash`](crate::Request::prompt_hash)) are
//! written under a key that is drawn for each recording and kept nowhere: equal ones are equal in a log, and
//! a router that goes on from it does not know them again. Ids are written as they are.
//!
//! # Cost
//! A call costs the time to copy it, some tens of nanoseconds and bytes; a step some for each request that
//! moves; pair terms some for each request and worker of whom they say something. Nothing is allocated but
//! when a segment is full, which costs a few milliseconds for 16 MiB and the time to write the state
//! (`cargo bench --bench record --features record`).
//!
//! # Limits
//! A policy or classifier of the caller's is replayed only by who has it ([`Replay::with_policy`]). The state
//! is this version's own: another version of the library refuses it by name. A decision that was made on an
//! Ascend device is replayed on the CPU.

mod error;
mod log;
mod recorder;
mod replay;
mod ring;
mod segment;
mod untold;

pub use self::error::RecordError;
pub use self::log::{Header, Log};
pub use self::recorder::{RecordConfig, Recording};
pub use self::replay::{Event, Replay};
pub use self::untold::Untold;

pub(super) use self::recorder::Recorder;
pub(super) use self::replay::{built_as, built_of};
