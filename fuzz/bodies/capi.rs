//! Bytes are calls of the C interface to a router, with structs and arrays of any size, alignment and
//! contents. Each answers what the Rust interface answers to what a caller can mean by it, by the status that
//! the header promises; what means nothing is refused, and has changed nothing.
//!
//! Included by the fuzz target and by `ffi/capi/tests/fuzz_bodies.rs`.

#[path = "columns.rs"]
mod columns;

use std::collections::HashMap;
use std::ffi::{CString, c_char};
use std::mem::{offset_of, zeroed};
use std::ops::AddAssign;

use arbitrary::{Arbitrary, Result as Drawn, Unstructured};
use balanceroute::batch::{MAX_BONUS_TOKENS, MAX_WORKERS};
use balanceroute::policy::{self, Parameters};
use balanceroute::router::{Counters, Decided, Metrics, RouterError};
use balanceroute::{
    Dispatch, Mode, PairTerms, Placement, PreemptionCost, Request, RequestId, Returned, Router, RouterConfig,
    Share, Verdict, WorkerConfig, WorkerId, WorkerReport,
};
use balanceroute_capi::*;
use columns::{Column, Plain, Versioned, column, one_in};

const MOST_CALLS: usize = 120;
const MOST_WAITING: usize = 40;
const MOST_RUNNING: usize = 60;

/// What the bytes came to.
#[derive(Clone, Copy, Debug, Default)]
#[allow(dead_code, reason = "who fuzzes reads none of it")]
pub(crate) struct Tally {
    pub(crate) refused_configs: usize,
    pub(crate) calls: usize,
    /// By their status.
    pub(crate) statuses: [usize; 11],
    /// Which calls were answered with `BR_OK`, a bit each.
    pub(crate) kinds: u64,
    pub(crate) admitted: usize,
    pub(crate) returned: usize,
    pub(crate) with_rows: usize,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.refused_configs += other.refused_configs;
        self.calls += other.calls;
        self.kinds |= other.kinds;
        self.admitted += other.admitted;
        self.returned += other.returned;
        self.with_rows += other.with_rows;
        self.statuses.iter_mut().zip(other.statuses).for_each(|(sum, more)| *sum += more);
    }
}

// SAFETY: numbers only.
unsafe impl Plain for br_dispatch {}
// SAFETY: numbers only.
unsafe impl Plain for br_returned {}
// SAFETY: numbers only.
unsafe impl Plain for br_rank_metrics {}

/// What the header says of each error.
fn status_of(error: &RouterError) -> br_status {
    match error {
        RouterError::Batch(_) | RouterError::Generated { .. } => br_status::BR_BATCH,
        RouterError::Policy(_) => br_status::BR_POLICY,
        RouterError::Unknown { .. } | RouterError::NotRunning { .. } | RouterError::OtherDispatch { .. } => {
            br_status::BR_UNKNOWN_REQUEST
        }
        RouterError::Worker { .. } | RouterError::NoWorker { .. } => br_status::BR_UNKNOWN_WORKER,
        RouterError::Panicked { .. } => panic!("{error}"),
        _ => br_status::BR_STATE,
    }
}

fn some32(found: u32) -> Option<u32> {
    (found != BR_NONE).then_some(found)
}

fn some64(found: u64) -> Option<u64> {
    (found != BR_NONE64).then_some(found)
}

/// Mostly below a bound, now and then anything.
fn mostly_below(u: &mut Unstructured<'_>, bound: u16) -> Drawn<u64> {
    if one_in(u, 48)? { u64::arbitrary(u) } else { Ok(u64::from(u16::arbitrary(u)? % bound)) }
}

fn mostly_below_32(u: &mut Unstructured<'_>, bound: u16) -> Drawn<u32> {
    Ok(mostly_below(u, bound)? as u32)
}

fn or_none(u: &mut Unstructured<'_>, bound: u16) -> Drawn<u64> {
    if one_in(u, 2)? { Ok(BR_NONE64) } else { mostly_below(u, bound) }
}

/// A place for one value: absent or unaligned now and then.
fn place_for<T: Plain>(u: &mut Unstructured<'_>) -> Drawn<Column<T>> {
    if one_in(u, 24)? { Ok(Column::absent()) } else { Ok(Column::zeroed(1, columns::offset(u)?)) }
}

fn is_place<T: Plain>(of: &Column<T>) -> bool {
    of.is_present() && of.is_aligned()
}

fn is_maybe_place<T: Plain>(of: &Column<T>) -> bool {
    of.is_aligned()
}

/// What a struct of a request means.
fn meant_request(seen: Option<br_request>) -> Result<Request<WorkerId>, br_status> {
    let of = seen.ok_or(br_status::BR_ARGUMENT)?;
    let has = |flag: u32| of.fields & flag != 0;
    let known = if of.struct_size > offset_of!(br_request, priority) { 15 } else { 7 };
    if of.fields & !known != 0 {
        return Err(br_status::BR_ARGUMENT);
    }
    let mut request = Request::new(of.id, of.prompt_tokens);
    request.priority = i8::try_from(of.priority).map_err(|_| br_status::BR_BATCH)?;
    request.waited_steps = of.waited_steps;
    request.passed = of.passed;
    request.generated_tokens = of.generated_tokens;
    request = request.cached(of.cached_tokens);
    if has(BR_HAS_RANK) {
        request.rank = Some(WorkerId(of.rank));
    }
    if has(BR_HAS_DEADLINE) {
        request.deadline_steps = Some(of.deadline_steps);
    }
    if has(BR_HAS_PROMPT_HASH) {
        request.prompt_hash = Some(of.prompt_hash);
    }
    if has(BR_HAS_MAX_TOKENS) {
        request.max_tokens = Some(of.max_tokens);
    }
    Ok(request)
}

/// Rows of a caller's, and what they mean.
struct Rows {
    of: Versioned<br_bonuses>,
    ids: Column<u64>,
    tokens: Column<f32>,
    eligible: Column<u8>,
}

/// Rows that are sound.
struct Meant {
    row_of: HashMap<u64, usize>,
    workers: usize,
    tokens: Vec<f32>,
    eligible: Vec<u8>,
}

impl Rows {
    /// What they mean to a router of so many workers: nothing, terms, or why they are refused.
    fn meant(&self, workers: usize) -> Result<Option<Meant>, br_status> {
        let is_absent = self.of.at().is_null();
        if is_absent {
            return Ok(None);
        }
        let of = self.of.seen.ok_or(br_status::BR_ARGUMENT)?;
        if of.count == 0 {
            return Ok(None);
        }
        if of.workers != 0 && of.workers != workers {
            return Err(br_status::BR_ARGUMENT);
        }
        let is_entry = of.count * workers > 0;
        let has_mask = !of.eligible.is_null();
        let needs_tokens = !has_mask && is_entry;
        let are_aligned = self.ids.is_aligned() && self.tokens.is_aligned();
        if !self.ids.is_present() || !are_aligned || needs_tokens && !self.tokens.is_present() {
            return Err(br_status::BR_ARGUMENT);
        }
        let (tokens, ids) = (self.tokens.read(), self.ids.read());
        if tokens.iter().any(|&tokens| !(-MAX_BONUS_TOKENS..=MAX_BONUS_TOKENS).contains(&tokens)) {
            return Err(br_status::BR_BATCH);
        }
        let row_of: HashMap<u64, usize> = ids.iter().enumerate().map(|(row, &id)| (id, row)).collect();
        if row_of.len() < ids.len() {
            return Err(br_status::BR_ARGUMENT);
        }
        let eligible = if has_mask { self.eligible.read() } else { Vec::new() };
        Ok(Some(Meant { row_of, workers, tokens, eligible }))
    }
}

impl PairTerms for Meant {
    fn bonus(&mut self, request: &Request, into: &mut [f32]) -> bool {
        match self.row_of.get(&request.id.0) {
            Some(row) if !self.tokens.is_empty() => {
                into.copy_from_slice(&self.tokens[row * self.workers..][..self.workers]);
                true
            }
            _ => false,
        }
    }

    fn eligible(&mut self, request: &Request, workers: &mut [u64]) -> bool {
        match self.row_of.get(&request.id.0) {
            Some(row) if !self.eligible.is_empty() => {
                for (place, &may) in self.eligible[row * self.workers..][..self.workers].iter().enumerate() {
                    let bit = 1 << (place % 64);
                    if may == 0 {
                        workers[place / 64] &= !bit;
                    }
                }
                true
            }
            _ => false,
        }
    }
}

struct World {
    router: *mut br_router,
    twin: Router,
    now_ms: Option<u64>,
    clock_ms: u64,
    /// Who has left and is not told of yet.
    returned: Vec<Returned>,
    lives: Vec<br_dispatch>,
    tally: Tally,
}

impl Drop for World {
    fn drop(&mut self) {
        // SAFETY: made by the library, and not used again.
        unsafe { br_router_free(self.router) };
    }
}

impl World {
    fn new(u: &mut Unstructured<'_>, tally: &mut Tally) -> Drawn<Option<Self>> {
        let count = match u8::arbitrary(u)? {
            0 => MAX_WORKERS + 1,
            1 => usize::MAX,
            2..=6 => 66,
            count => usize::from(count % 6),
        };
        let held = if count > MAX_WORKERS { 0 } else { count };
        let slots = if one_in(u, 64)? {
            Column::absent()
        } else {
            column(u, held, |u, _| Ok(u32::from(u8::arbitrary(u)? % 5)))?
        };
        let capacity = columns::perhaps(u, held, |u, _| or_none(u, 2_000))?;
        let weight = columns::perhaps(u, held, |u, _| Ok(*u.choose(&[1.0, 1.5, 0.0, 64.0, -0.0])?))?;
        let garbage: u8 = u.arbitrary()?;
        let defaults = Versioned::draw(u, defaults(), offset_of!(br_router_config, expire_after_ms) + 8)?;
        // Whatever was there, but for the size.
        // SAFETY: the struct lies in memory of its size.
        let status = unsafe { br_router_defaults(defaults.at()) };
        assert_eq!(status == br_status::BR_OK, is_known_size(&defaults), "{status:?}");
        let mut config = defaults.read();
        if status != br_status::BR_OK {
            config = self::defaults();
        }
        config.struct_size = size_of::<br_router_config>();
        if defaults.seen.is_some_and(|seen| seen.struct_size < size_of::<br_router_config>()) {
            config = self::defaults();
        }
        config.worker_count = count;
        (config.slots, config.kv_capacity_tokens, config.weight) = (slots.at(), capacity.at(), weight.at());
        config.mode = if one_in(u, 32)? { u.arbitrary()? } else { u32::from(garbage) % 3 };
        config.mixed_free_slots = mostly_below_32(u, 4)?;
        config.explaining = u32::from(garbage >> 4);
        config.in_order = u32::from(garbage >> 6);
        if one_in(u, 2)? {
            config.headroom_steps = mostly_below_32(u, 50)?;
            config.refresh_steps = mostly_below_32(u, 20)?;
            config.ends_horizon_steps = mostly_below_32(u, 600)?;
            config.dispatch_timeout_ms = or_none(u, 1_000)?;
            config.silence_timeout_ms = or_none(u, 20_000)?;
            config.expire_after_ms = or_none(u, 20_000)?;
        }
        if one_in(u, 8)? {
            (config.share_index, config.share_of) = (mostly_below_32(u, 3)?, mostly_below_32(u, 4)?);
        }
        if one_in(u, 4)? {
            config.lower_class_one_in = mostly_below_32(u, 6)?;
            config.step_base_ms = if one_in(u, 8)? { u.arbitrary()? } else { f64::from(u8::arbitrary(u)?) };
            config.prefill_us_per_token = f64::from(u8::arbitrary(u)?);
        }
        let config = Versioned::draw(u, config, offset_of!(br_router_config, expire_after_ms) + 8)?;
        let name = *u.choose(policy::NAMES)?;
        let text = CString::new(name).expect("no zero");
        let mut router = std::ptr::dangling_mut();
        let mut error = [1 as c_char; 32];
        // SAFETY: the name is closed by a zero, structs and arrays lie in memory of the sizes that they say.
        let status = unsafe {
            let size = error.len();
            br_router_new(text.as_ptr(), std::ptr::null(), config.at(), &mut router, error.as_mut_ptr(), size)
        };
        let expected = meant_config(&config, [&slots], &capacity, &weight)
            .map_err(|status| vec![status])
            .and_then(|(config, explaining)| {
                let built = Router::new(config, name, &Parameters::default());
                let mut twin = built.map_err(|error| vec![status_of(&error)])?;
                twin.set_explaining(explaining);
                Ok(twin)
            });
        assert_eq!(status == br_status::BR_OK, error[0] == 0, "{status:?}");
        match expected {
            Err(wrongs) => {
                assert!(wrongs.contains(&status), "{status:?} of {wrongs:?}");
                assert!(router.is_null());
                tally.refused_configs += 1;
                Ok(None)
            }
            Ok(twin) => {
                assert_eq!(status, br_status::BR_OK);
                let (returned, lives, tally) = (Vec::new(), Vec::new(), Tally::default());
                Ok(Some(Self { router, twin, now_ms: None, clock_ms: 0, returned, lives, tally }))
            }
        }
    }

    fn text(&self) -> String {
        let mut buffer = [0u8; 400];
        // SAFETY: alive, and the buffer has its size.
        unsafe { br_router_error(self.router, buffer.as_mut_ptr().cast(), buffer.len()) };
        let shown = buffer.iter().position(|&byte| byte == 0).expect("closed by a zero");
        String::from_utf8(buffer[..shown].to_vec()).expect("UTF-8")
    }

    /// A call has answered: the way it must, if that is known by now.
    fn counted(&mut self, kind: u32, status: br_status) {
        self.tally.statuses[status as usize] += 1;
        if status == br_status::BR_OK {
            self.tally.kinds |= 1 << kind;
        }
        assert_eq!(status == br_status::BR_OK, self.text().is_empty(), "{status:?}: {}", self.text());
    }

    /// A call that must be refused so.
    fn refused(&mut self, kind: u32, status: br_status, expected: br_status) {
        self.counted(kind, status);
        assert_eq!(status, expected, "{}", self.text());
    }

    /// A call that must answer what the twin does.
    fn agrees<T>(&mut self, kind: u32, status: br_status, expected: Result<T, RouterError>) -> Option<T> {
        self.counted(kind, status);
        match expected {
            Ok(answer) => {
                assert_eq!(status, br_status::BR_OK, "{}", self.text());
                Some(answer)
            }
            Err(error) => {
                assert_eq!(status, status_of(&error), "{}, expected {error}", self.text());
                let (text, expected) = (self.text(), error.to_string());
                assert!(expected.starts_with(&text), "{text}, expected {expected}");
                None
            }
        }
    }

    fn reading(&mut self, u: &mut Unstructured<'_>) -> Drawn<u64> {
        self.clock_ms = match u8::arbitrary(u)? % 32 {
            0 => u.arbitrary()?,
            1 => return Ok(self.clock_ms.saturating_sub(u64::from(u16::arbitrary(u)?))),
            _ => self.clock_ms.saturating_add(u64::from(u8::arbitrary(u)?)),
        };
        Ok(self.clock_ms)
    }

    /// The id of a worker, now and then of none.
    fn worker(&self, u: &mut Unstructured<'_>) -> Drawn<u32> {
        let ids = self.twin.worker_ids();
        Ok(if ids.is_empty() || one_in(u, 24)? {
            mostly_below_32(u, 20)?
        } else {
            ids[usize::from(u8::arbitrary(u)?) % ids.len()].0
        })
    }

    /// The id of one that may be inside; few, so that they come again.
    fn id(&self, u: &mut Unstructured<'_>) -> Drawn<u64> {
        mostly_below(u, 48)
    }

    fn request(&self, u: &mut Unstructured<'_>) -> Drawn<Versioned<br_request>> {
        // SAFETY: every field may be zero.
        let mut request: br_request = unsafe { zeroed() };
        request.id = self.id(u)?;
        request.prompt_tokens = mostly_below_32(u, 400)?;
        let flags: u8 = u.arbitrary()?;
        request.fields = if one_in(u, 48)? { u.arbitrary()? } else { u32::from(flags & flags >> 4) };
        request.rank = self.worker(u)?;
        request.deadline_steps = mostly_below_32(u, 20)?;
        request.prompt_hash = u64::from(flags % 3);
        if one_in(u, 4)? {
            request.waited_steps = mostly_below_32(u, 100)?;
            request.passed = mostly_below_32(u, 100)?;
            request.cached_tokens = mostly_below_32(u, 100)?;
            request.generated_tokens = mostly_below_32(u, 20)?;
        }
        request.max_tokens = mostly_below_32(u, 60)?;
        request.priority = if one_in(u, 64)? { u.arbitrary()? } else { i32::from(i8::arbitrary(u)? % 2) };
        Versioned::draw(u, request, offset_of!(br_request, passed) + 4)
    }

    fn rows(&self, u: &mut Unstructured<'_>) -> Drawn<Rows> {
        let workers = self.twin.worker_ids().len();
        let count = usize::from(u8::arbitrary(u)? % 6);
        let first = self.id(u)?;
        let ids = column(u, count, |u, at| {
            Ok(if one_in(u, 8)? { mostly_below(u, 48)? } else { first.wrapping_add(7 * at as u64) })
        })?;
        let ids = if one_in(u, 64)? { Column::absent() } else { ids };
        let entries = count * workers;
        let tokens = columns::perhaps(u, entries, |u, _| Ok(f32::from(i16::arbitrary(u)?)))?;
        let eligible = columns::perhaps(u, entries, |u, _| Ok(u8::arbitrary(u)? & u8::arbitrary(u)?))?;
        // A size of none, of these workers, or of others.
        let said = [0, workers, workers, workers + 1][usize::from(u8::arbitrary(u)? % 4)];
        let said = if one_in(u, 4)? { said } else { workers };
        let of = br_bonuses {
            struct_size: size_of::<br_bonuses>(),
            count,
            ids: ids.at(),
            tokens: tokens.at(),
            eligible: eligible.at(),
            workers: said,
        };
        Ok(Rows { of: Versioned::draw(u, of, offset_of!(br_bonuses, eligible))?, ids, tokens, eligible })
    }

    fn is_same(&self, found: &br_dispatch, expected: &Dispatch) {
        assert_eq!(
            (found.id, found.number, found.worker, found.prompt_tokens, found.score_tokens.to_bits()),
            (
                expected.id.0,
                expected.number,
                expected.worker.0,
                expected.prompt_tokens,
                expected.score_tokens.to_bits()
            )
        );
    }

    fn begins(&mut self, dispatch: br_dispatch) {
        self.lives.push(dispatch);
        if self.lives.len() > 16 {
            let _ = self.lives.remove(0);
        }
    }

    fn arrive(&mut self, u: &mut Unstructured<'_>, kind: u32) -> Drawn<()> {
        let request = self.request(u)?;
        let meant = meant_request(request.seen);
        if self.twin.pool().len() >= MOST_WAITING || self.twin.running_len() >= MOST_RUNNING {
            return Ok(());
        }
        let router = self.router;
        match kind {
            0 => {
                // SAFETY: the struct lies in memory of its size, here and below.
                let status = unsafe { br_router_enqueue(router, request.at()) };
                match meant {
                    Err(expected) => self.refused(kind, status, expected),
                    Ok(meant) => {
                        let expected = self.twin.enqueue(meant, self.now_ms);
                        self.agrees(kind, status, expected);
                    }
                }
            }
            1 => {
                let (worker, generated) = (self.worker(u)?, mostly_below_32(u, 30)?);
                // SAFETY: as above.
                let status = unsafe { br_router_adopt(router, request.at(), worker, generated) };
                match meant {
                    Err(expected) => self.refused(kind, status, expected),
                    Ok(meant) => {
                        let expected = self.twin.adopt(meant, worker, generated);
                        self.agrees(kind, status, expected);
                    }
                }
            }
            2 => {
                let worker = if one_in(u, 2)? { BR_NONE } else { self.worker(u)? };
                let to = place_for::<br_dispatch>(u)?;
                // SAFETY: as above, and there is room for one.
                let status = unsafe { br_router_send(router, request.at(), worker, to.at_mut()) };
                match meant {
                    Err(expected) => self.refused(kind, status, expected),
                    Ok(_) if !is_place(&to) => self.refused(kind, status, br_status::BR_ARGUMENT),
                    Ok(meant) => {
                        let expected = self.twin.send(meant, some32(worker).map(WorkerId), self.now_ms);
                        if let Some(expected) = self.agrees(kind, status, expected) {
                            self.is_same(&to.read()[0], &expected);
                            self.begins(to.read()[0]);
                        }
                    }
                }
            }
            _ => self.place(u, kind, &request, meant)?,
        }
        Ok(())
    }

    fn place(
        &mut self,
        u: &mut Unstructured<'_>,
        kind: u32,
        request: &Versioned<br_request>,
        meant: Result<Request<WorkerId>, br_status>,
    ) -> Drawn<()> {
        let (now_ms, to) = (self.reading(u)?, place_for::<br_dispatch>(u)?);
        let workers = self.twin.worker_ids().len();
        let router = self.router;
        // Who is refused by anything of the call.
        let mut wrongs = Vec::new();
        if let Err(status) = meant {
            wrongs.push(status);
        }
        if !is_place(&to) {
            wrongs.push(br_status::BR_ARGUMENT);
        }
        let mut terms = None;
        let status = if kind == 3 {
            let count = if one_in(u, 16)? { workers + 1 } else { workers };
            let row = columns::perhaps(u, count, |u, _| Ok(f32::from(i16::arbitrary(u)?)))?;
            let count = if row.is_present() || one_in(u, 32)? { count } else { 0 };
            let is_sound = |&tokens: &f32| (-MAX_BONUS_TOKENS..=MAX_BONUS_TOKENS).contains(&tokens);
            if !row.is_aligned() || (if row.is_present() { count != workers } else { count > 0 }) {
                wrongs.push(br_status::BR_ARGUMENT);
            } else if !row.read().iter().all(is_sound) {
                wrongs.push(br_status::BR_BATCH);
            } else if row.is_present()
                && let Ok(request) = meant
            {
                let row_of = HashMap::from([(request.id.0, 0)]);
                terms = Some(Meant { row_of, workers, tokens: row.read(), eligible: Vec::new() });
            }
            // SAFETY: the row has so many entries, there is room for one dispatch.
            unsafe { br_router_place(router, request.at(), now_ms, row.at(), count, to.at_mut()) }
        } else {
            let rows = self.rows(u)?;
            match rows.meant(workers) {
                Ok(meant) => terms = meant,
                Err(status) => wrongs.push(status),
            }
            // SAFETY: structs and arrays lie in memory of the sizes that they say.
            unsafe { br_router_place_with(router, request.at(), now_ms, rows.of.at(), to.at_mut()) }
        };
        let (Ok(meant), true) = (meant, wrongs.is_empty()) else {
            self.counted(kind, status);
            assert!(wrongs.contains(&status), "{status:?}: {}, of {wrongs:?}", self.text());
            return Ok(());
        };
        let expected = match &mut terms {
            None => self.twin.place(meant, now_ms),
            Some(terms) => self.twin.place_with(meant, now_ms, terms),
        };
        if let Some(expected) = self.agrees(kind, status, expected) {
            self.now_ms = None;
            self.tally.with_rows += usize::from(terms.is_some());
            let found = to.read()[0];
            match expected {
                Placement::Waits => {
                    assert_eq!((found.id, found.number, found.worker), (meant.id.0, 0, BR_NONE));
                }
                Placement::Placed(expected) => {
                    self.is_same(&found, &expected);
                    self.begins(found);
                }
            }
        }
        Ok(())
    }

    fn step(&mut self, u: &mut Unstructured<'_>) -> Drawn<()> {
        const KIND: u32 = 5;
        let (now_ms, rows) = (self.reading(u)?, self.rows(u)?);
        let configs =
            self.twin.worker_ids().iter().map(|&id| self.twin.worker_config(id).expect("there").slots);
        let slots: u64 = configs.map(u64::from).sum();
        let most = slots.min(self.twin.pool().len() as u64) as usize;
        let room = if one_in(u, 12)? { u.int_in_range(0..=most)? } else { most };
        let admissions = if one_in(u, 48)? {
            Column::<br_dispatch>::absent()
        } else {
            Column::zeroed(room, columns::offset(u)?)
        };
        let returned_room = usize::from(u8::arbitrary(u)? % 8);
        let returned = if one_in(u, 3)? {
            Column::<br_returned>::absent()
        } else {
            Column::zeroed(returned_room, columns::offset(u)?)
        };
        // SAFETY: every field may be zero.
        let mut plan: br_plan = unsafe { zeroed() };
        plan.struct_size = size_of::<br_plan>();
        (plan.admissions, plan.admission_capacity) = (admissions.at_mut(), room);
        (plan.returned, plan.returned_capacity) = (returned.at_mut(), returned_room);
        let plan = Versioned::draw(u, plan, size_of::<br_plan>())?;
        // SAFETY: structs and arrays lie in memory of the sizes that they say.
        let status = unsafe { br_router_step(self.router, now_ms, rows.of.at(), plan.at()) };
        let mut wrongs = Vec::new();
        let terms = rows.meant(self.twin.worker_ids().len());
        if let Err(status) = terms {
            wrongs.push(status);
        }
        if plan.seen.is_none() || !admissions.is_aligned() || !returned.is_aligned() {
            wrongs.push(br_status::BR_ARGUMENT);
        }
        if most > 0 && !admissions.is_present() {
            wrongs.push(br_status::BR_ARGUMENT);
        }
        if most > room {
            wrongs.push(br_status::BR_SPACE);
        }
        let (Ok(terms), true) = (terms, wrongs.is_empty()) else {
            self.counted(KIND, status);
            assert!(wrongs.contains(&status), "{status:?}: {}, of {wrongs:?}", self.text());
            if status == br_status::BR_SPACE {
                assert_eq!(plan.read().admission_count, most);
            }
            return Ok(());
        };
        let expected = match terms {
            None => self.twin.step(now_ms).cloned(),
            Some(mut terms) => {
                self.tally.with_rows += 1;
                self.twin.step_with(now_ms, &mut terms).cloned()
            }
        };
        let Some(expected) = self.agrees(KIND, status, expected) else { return Ok(()) };
        self.now_ms = None;
        let (plan, found) = (plan.read(), admissions.read());
        assert_eq!(plan.admission_count, expected.admissions.len());
        for (found, expected) in found.iter().zip(&expected.admissions) {
            self.is_same(found, expected);
            self.begins(*found);
        }
        self.tally.admitted += plan.admission_count;
        self.returned.extend_from_slice(&expected.returned);
        let told = if returned.is_present() { returned_room.min(self.returned.len()) } else { 0 };
        assert_eq!((plan.returned_count, plan.returned_left), (told, self.returned.len() - told));
        self.is_told(&returned.read(), told);
        Ok(())
    }

    /// The oldest who have left were told of.
    fn is_told(&mut self, found: &[br_returned], told: usize) {
        for (found, expected) in found.iter().zip(self.returned.drain(..told)) {
            assert_eq!(
                (found.id, found.worker, found.generated_tokens, found.reserved),
                (
                    expected.id.0,
                    expected.worker.map_or(BR_NONE, |worker| worker.0),
                    expected.generated_tokens,
                    0
                )
            );
            let reason = br_return_reason::from(expected.reason) as u32;
            assert_eq!(found.reason, reason);
        }
        self.tally.returned += told;
    }

    fn end(&mut self, u: &mut Unstructured<'_>, kind: u32) -> Drawn<()> {
        let (id, router) = (self.id(u)?, self.router);
        let (first, second) = (place_for::<u32>(u)?, place_for::<u32>(u)?);
        let are_places = is_maybe_place(&first) && is_maybe_place(&second);
        let is_one_place = is_maybe_place(&first);
        let says =
            |of: &Column<u32>, expected: u32| assert!(of.read().iter().all(|&found| found == expected));
        match kind {
            // SAFETY (all): places for one value each, or none.
            6 => {
                // SAFETY: see above.
                let status = unsafe { br_router_finish(router, id, first.at_mut(), second.at_mut()) };
                if !are_places {
                    self.refused(kind, status, br_status::BR_ARGUMENT);
                    return Ok(());
                }
                let expected = self.twin.finish(id, self.now_ms);
                if let Some(finished) = self.agrees(kind, status, expected) {
                    says(&first, finished.worker.0);
                    says(&second, finished.generated_tokens);
                }
            }
            7 => {
                // SAFETY: see above.
                let status = unsafe { br_router_abort(router, id, first.at_mut()) };
                if !is_one_place {
                    self.refused(kind, status, br_status::BR_ARGUMENT);
                    return Ok(());
                }
                let expected = self.twin.abort(id, self.now_ms);
                if let Some(worker) = self.agrees(kind, status, expected) {
                    says(&first, worker.map_or(BR_NONE, |worker| worker.0));
                }
            }
            8 => {
                // SAFETY: see above.
                let status = unsafe { br_router_preempt(router, id, first.at_mut()) };
                if !is_one_place {
                    self.refused(kind, status, br_status::BR_ARGUMENT);
                    return Ok(());
                }
                let expected = self.twin.preempt(id);
                if let Some(request) = self.agrees(kind, status, expected) {
                    says(&first, request.prompt_tokens);
                }
            }
            9 | 10 => {
                let dispatch = match self.lives.get(usize::from(u8::arbitrary(u)? % 16)) {
                    Some(&dispatch) => dispatch,
                    None => br_dispatch { id, number: 1, score_tokens: 0.0, worker: 0, prompt_tokens: 1 },
                };
                let told = Column::of(&[dispatch], columns::offset(u)?);
                let told = if one_in(u, 32)? { Column::absent() } else { told };
                let of = Dispatch {
                    id: RequestId(dispatch.id),
                    worker: WorkerId(dispatch.worker),
                    number: dispatch.number,
                    prompt_tokens: dispatch.prompt_tokens,
                    score_tokens: dispatch.score_tokens,
                };
                let is_sound = is_place(&told);
                if kind == 9 {
                    // SAFETY: see above.
                    let status = unsafe { br_router_finish_dispatch(router, told.at(), second.at_mut()) };
                    if !is_sound || !is_maybe_place(&second) {
                        self.refused(kind, status, br_status::BR_ARGUMENT);
                        return Ok(());
                    }
                    let expected = self.twin.finish_dispatch(&of, self.now_ms);
                    if let Some(finished) = self.agrees(kind, status, expected) {
                        says(&second, finished.generated_tokens);
                    }
                } else {
                    // SAFETY: see above.
                    let status = unsafe { br_router_abort_dispatch(router, told.at()) };
                    if !is_sound {
                        self.refused(kind, status, br_status::BR_ARGUMENT);
                        return Ok(());
                    }
                    let expected = self.twin.abort_dispatch(&of, self.now_ms);
                    self.agrees(kind, status, expected);
                }
            }
            _ => self.preempt_request(u, kind)?,
        }
        Ok(())
    }

    /// Put off, and enqueued as it was told.
    fn preempt_request(&mut self, u: &mut Unstructured<'_>, kind: u32) -> Drawn<()> {
        // SAFETY: every field may be zero.
        let empty: br_request = unsafe { zeroed() };
        let again = Versioned::draw(u, empty, offset_of!(br_request, passed) + 4)?;
        let id = self.id(u)?;
        // SAFETY: the struct lies in memory of its size.
        let status = unsafe { br_router_preempt_request(self.router, id, again.at()) };
        if again.seen.is_none() {
            self.refused(kind, status, br_status::BR_ARGUMENT);
            return Ok(());
        }
        let expected = self.twin.preempt(id);
        let Some(expected) = self.agrees(kind, status, expected) else { return Ok(()) };
        let told = meant_request(Some(again.read())).expect("what is told can be enqueued");
        assert_eq!((told.id, told.rank), (expected.id, expected.rank));
        if again.read().struct_size == size_of::<br_request>() {
            let mut whole = told;
            (whole.pair_row, whole.survival_class) = (expected.pair_row, expected.survival_class);
            assert_eq!(whole, expected);
        }
        // SAFETY: as above.
        let status = unsafe { br_router_enqueue(self.router, again.at()) };
        let expected = self.twin.enqueue(told, self.now_ms);
        self.agrees(kind, status, expected);
        Ok(())
    }

    fn grow(&mut self, u: &mut Unstructured<'_>, kind: u32) -> Drawn<()> {
        let (router, tokens) = (self.router, mostly_below_32(u, 8)?);
        match kind {
            12 => {
                let worker = self.worker(u)?;
                // SAFETY: alive, here and below.
                let status = unsafe { br_router_progress(router, worker, tokens) };
                let expected = self.twin.progress(worker, tokens);
                self.agrees(kind, status, expected);
            }
            13 => {
                let id = self.id(u)?;
                // SAFETY: as above.
                let status = unsafe { br_router_progress_request(router, id, tokens) };
                let expected = self.twin.progress_request(id, tokens);
                self.agrees(kind, status, expected);
            }
            14 => {
                // SAFETY: as above.
                let status = unsafe { br_router_advance(router) };
                self.twin.advance();
                self.agrees(kind, status, Ok(()));
            }
            _ => {
                let count = usize::from(u8::arbitrary(u)? % 6);
                let ids = column(u, count, |u, _| mostly_below(u, 48))?;
                let ids = if one_in(u, 32)? { Column::absent() } else { ids };
                let tokens = columns::perhaps(u, count, |u, _| mostly_below_32(u, 8))?;
                let grown = place_for::<usize>(u)?;
                // SAFETY: arrays of so many entries, a place for one value.
                let status = unsafe {
                    br_router_progress_requests(router, ids.at(), tokens.at(), count, grown.at_mut())
                };
                let is_sound = (ids.is_present() || count == 0)
                    && ids.is_aligned()
                    && tokens.is_aligned()
                    && is_maybe_place(&grown);
                if !is_sound {
                    self.refused(kind, status, br_status::BR_ARGUMENT);
                    return Ok(());
                }
                let more = tokens.read();
                let more = |at: usize| more.get(at).copied().unwrap_or(1);
                let ids = ids.read();
                let told: Vec<_> =
                    ids.iter().enumerate().map(|(at, &id)| (RequestId(id), more(at))).collect();
                let expected = self.twin.progress_requests(&told);
                if let Some(expected) = self.agrees(kind, status, expected) {
                    assert!(grown.read().iter().all(|&found| found == expected));
                }
            }
        }
        Ok(())
    }

    fn change_stage(&mut self, u: &mut Unstructured<'_>, kind: u32) -> Drawn<()> {
        let (id, router) = (self.id(u)?, self.router);
        // SAFETY: alive.
        let (status, expected) = unsafe {
            match kind {
                16 => (br_router_held(router, id), self.twin.held(id)),
                17 => (br_router_transfer_done(router, id), self.twin.transfer_done(id)),
                18 => (br_router_preempted(router, id), self.twin.preempted(id)),
                _ => (br_router_resumed(router, id), self.twin.resumed(id)),
            }
        };
        self.agrees(kind, status, expected);
        Ok(())
    }

    fn disown(&mut self, u: &mut Unstructured<'_>, kind: u32) -> Drawn<()> {
        let (worker, until_ms) = (self.worker(u)?, or_none(u, 1_000)?);
        let unseen = self.twin.rank_metrics(worker).map_or(0, |rank| rank.unseen as usize);
        let room = if one_in(u, 4)? { u.int_in_range(0..=unseen)? } else { unseen };
        let ids = if one_in(u, 16)? { Column::absent() } else { Column::zeroed(room, columns::offset(u)?) };
        let count = place_for::<usize>(u)?;
        // SAFETY: room for so many, and a place for one value.
        let status = unsafe {
            br_router_disown_sent(self.router, worker, until_ms, ids.at_mut(), room, count.at_mut())
        };
        if !is_place(&count) {
            self.refused(kind, status, br_status::BR_ARGUMENT);
        } else if self.twin.worker_ids().contains(&WorkerId(worker)) && unseen > room {
            self.refused(kind, status, br_status::BR_SPACE);
            assert_eq!(count.read(), [unseen]);
        } else if unseen > 0 && !is_place(&ids) {
            self.refused(kind, status, br_status::BR_ARGUMENT);
        } else {
            let mut left = Vec::new();
            let expected = self.twin.disown_sent(worker, until_ms, &mut left);
            if self.agrees(kind, status, expected).is_some() {
                assert_eq!(count.read(), [left.len()]);
                assert!(ids.read().iter().zip(&left).all(|(&found, expected)| found == expected.0));
            }
        }
        Ok(())
    }

    fn report(&mut self, u: &mut Unstructured<'_>, kind: u32) -> Drawn<()> {
        let worker = self.worker(u)?;
        let sent = self.twin.rank_metrics(worker).map_or(0, |rank| rank.dispatches);
        // SAFETY: every field may be zero.
        let mut report: br_report = unsafe { zeroed() };
        report.struct_size = size_of::<br_report>();
        report.sequence = or_none(u, 50)?;
        report.last_dispatch = if one_in(u, 3)? { BR_NONE64 } else { mostly_below(u, 255)? % (sent + 2) };
        report.missing = if one_in(u, 4)? { u.arbitrary()? } else { 0 };
        report.kv_used_tokens = or_none(u, 1_500)?;
        report.kv_capacity_tokens = if one_in(u, 4)? { mostly_below(u, 3_000)? } else { BR_NONE64 };
        report.running = mostly_below_32(u, 5)?;
        report.waiting = mostly_below_32(u, 3)?;
        report.epoch = if one_in(u, 8)? { mostly_below(u, 2)? } else { 0 };
        report.age_ms = if one_in(u, 4)? { mostly_below_32(u, 9_000)? } else { 0 };
        report.kv_age_ms = if one_in(u, 4)? { or_none(u, 9_000)? } else { 0 };
        let report = Versioned::draw(u, report, offset_of!(br_report, waiting) + 4)?;
        let verdict = place_for::<u32>(u)?;
        // SAFETY: a struct in memory of its size, a place for one value.
        let status = unsafe { br_router_report(self.router, worker, report.at(), verdict.at_mut()) };
        let Some(of) = report.seen.filter(|_| is_maybe_place(&verdict)) else {
            self.refused(kind, status, br_status::BR_ARGUMENT);
            return Ok(());
        };
        let kv_age_ms = some64(of.kv_age_ms).filter(|&age_ms| age_ms > 0);
        let told = WorkerReport::requests(of.running, of.waiting)
            .kv_used(some64(of.kv_used_tokens))
            .sequence(some64(of.sequence))
            .last_dispatch(some64(of.last_dispatch))
            .missing(of.missing)
            .epoch((of.epoch != 0).then_some(of.epoch))
            .age(of.age_ms)
            .kv_age(kv_age_ms.map(|age_ms| age_ms.min(u64::from(u32::MAX)) as u32))
            .capacity(some64(of.kv_capacity_tokens));
        let expected = self.twin.report(worker, told, self.now_ms);
        if let Some(expected) = self.agrees(kind, status, expected) {
            let code = match expected {
                Verdict::Taken => br_verdict::BR_TAKEN,
                Verdict::Repeated => br_verdict::BR_REPEATED,
                Verdict::Late => br_verdict::BR_LATE,
                Verdict::Contradictory => br_verdict::BR_CONTRADICTORY,
                Verdict::Restarted => br_verdict::BR_RESTARTED,
                _ => br_verdict::BR_OTHER_VERDICT,
            };
            assert!(verdict.read().iter().all(|&found| found == code as u32));
        }
        Ok(())
    }

    fn change_workers(&mut self, u: &mut Unstructured<'_>, kind: u32) -> Drawn<()> {
        let (router, worker) = (self.router, self.worker(u)?);
        let (slots, capacity) = (mostly_below_32(u, 5)?, or_none(u, 2_000)?);
        let weight = if one_in(u, 16)? { u.arbitrary()? } else { 1.0 };
        let config = WorkerConfig::new(slots).capacity(some64(capacity)).weight(weight);
        match kind {
            22 | 23 if self.twin.worker_ids().len() >= 8 => {}
            22 | 23 => {
                let to = place_for::<u32>(u)?;
                let join = if kind == 22 { br_router_add_worker } else { br_router_announce_worker };
                // SAFETY: alive, and a place for one value, here and below.
                let status = unsafe { join(router, slots, capacity, weight, to.at_mut()) };
                if !is_place(&to) {
                    self.refused(kind, status, br_status::BR_ARGUMENT);
                    return Ok(());
                }
                let expected = match kind {
                    22 => self.twin.add_worker(config),
                    _ => self.twin.announce_worker(config),
                };
                if let Some(expected) = self.agrees(kind, status, expected) {
                    assert_eq!(to.read(), [expected.0]);
                }
            }
            24 => {
                // SAFETY: as above.
                let status = unsafe { br_router_configure_worker(router, worker, slots, capacity, weight) };
                let expected = self.twin.configure_worker(worker, config);
                self.agrees(kind, status, expected);
            }
            25 => {
                // SAFETY: as above.
                let status = unsafe { br_router_drain_worker(router, worker) };
                let expected = self.twin.drain_worker(worker);
                self.agrees(kind, status, expected);
            }
            26 => {
                let on: u32 = u.arbitrary()?;
                // SAFETY: as above.
                let status = unsafe { br_router_set_accepting(router, worker, on & 3) };
                let expected = self.twin.set_accepting(worker, on & 3 != 0);
                self.agrees(kind, status, expected);
            }
            27 => {
                // SAFETY: as above.
                let status = unsafe { br_router_remove_worker(router, worker) };
                let expected = self.twin.remove_worker(worker, &mut self.returned);
                self.agrees(kind, status, expected);
            }
            _ => {
                let (index, of) = (mostly_below_32(u, 3)?, mostly_below_32(u, 4)?);
                // SAFETY: as above.
                let status = unsafe { br_router_set_share(router, index, of) };
                let expected = self.twin.set_share(Share::new(index, of));
                self.agrees(kind, status, expected);
            }
        }
        Ok(())
    }

    fn ask(&mut self, u: &mut Unstructured<'_>, kind: u32) -> Drawn<()> {
        let (router, worker) = (self.router, self.worker(u)?);
        match kind {
            29 => {
                let (slots, capacity, weight) =
                    (place_for::<u32>(u)?, place_for::<u64>(u)?, place_for::<f32>(u)?);
                // SAFETY: alive, and places for one value each, here and below.
                let status = unsafe {
                    br_router_worker_config(
                        router,
                        worker,
                        slots.at_mut(),
                        capacity.at_mut(),
                        weight.at_mut(),
                    )
                };
                let are_places =
                    is_maybe_place(&slots) && is_maybe_place(&capacity) && is_maybe_place(&weight);
                if !are_places {
                    self.refused(kind, status, br_status::BR_ARGUMENT);
                    return Ok(());
                }
                let expected = self.twin.worker_config(worker);
                if let Some(expected) = self.agrees(kind, status, expected) {
                    assert!(slots.read().iter().all(|&found| found == expected.slots));
                    let tokens = expected.kv_capacity_tokens.unwrap_or(BR_NONE64);
                    assert!(capacity.read().iter().all(|&found| found == tokens));
                    assert!(weight.read().iter().all(|&found| found == expected.weight));
                }
            }
            30 => {
                let drained = place_for::<u32>(u)?;
                // SAFETY: as above.
                let status = unsafe { br_router_is_drained(router, worker, drained.at_mut()) };
                if !is_place(&drained) {
                    self.refused(kind, status, br_status::BR_ARGUMENT);
                    return Ok(());
                }
                let expected = self.twin.is_drained(worker);
                if let Some(expected) = self.agrees(kind, status, expected) {
                    assert_eq!(drained.read(), [u32::from(expected)]);
                }
            }
            31 => {
                let ids: Vec<u32> = self.twin.worker_ids().iter().map(|id| id.0).collect();
                let room = if one_in(u, 4)? { u.int_in_range(0..=ids.len())? } else { ids.len() };
                let to = Column::<u32>::zeroed(room, columns::offset(u)?);
                let count = place_for::<usize>(u)?;
                // SAFETY: room for so many.
                let status = unsafe { br_router_worker_ids(router, to.at_mut(), room, count.at_mut()) };
                let expected = (is_place(&count), room >= ids.len(), ids.is_empty() || to.is_aligned());
                match expected {
                    (false, ..) | (_, true, false) => self.refused(kind, status, br_status::BR_ARGUMENT),
                    (_, false, _) => self.refused(kind, status, br_status::BR_SPACE),
                    _ => {
                        self.agrees(kind, status, Ok(()));
                        assert_eq!(to.read(), ids);
                    }
                }
                assert!(!is_place(&count) || count.read() == [ids.len()]);
            }
            32 => {
                let expected = self.twin.waiting();
                let room = if one_in(u, 4)? { u.int_in_range(0..=expected.len())? } else { expected.len() };
                let ids = Column::<u64>::zeroed(room, columns::offset(u)?);
                let reasons = Column::<u8>::zeroed(room, 0);
                let count = place_for::<usize>(u)?;
                // SAFETY: room for so many.
                let status = unsafe {
                    br_router_waiting(router, ids.at_mut(), reasons.at_mut(), room, count.at_mut())
                };
                let is_sound = expected.is_empty() || ids.is_aligned();
                match (is_place(&count), room >= expected.len(), is_sound) {
                    (false, ..) | (_, true, false) => self.refused(kind, status, br_status::BR_ARGUMENT),
                    (_, false, _) => self.refused(kind, status, br_status::BR_SPACE),
                    _ => {
                        self.agrees(kind, status, Ok(()));
                        let (ids, reasons) = (ids.read(), reasons.read());
                        for (at, (id, reason)) in expected.iter().enumerate() {
                            assert_eq!((ids[at], reasons[at]), (id.0, br_reason::from(*reason) as u8));
                        }
                    }
                }
            }
            33 => {
                let id = self.id(u)?;
                // SAFETY: every field may be zero.
                let mut told: br_explanation = unsafe { zeroed() };
                told.struct_size = size_of::<br_explanation>();
                let told = Versioned::draw(u, told, offset_of!(br_explanation, passed) + 4)?;
                // SAFETY: a struct in memory of its size.
                let status = unsafe { br_router_explain(router, id, told.at()) };
                if told.seen.is_none() {
                    self.refused(kind, status, br_status::BR_ARGUMENT);
                    return Ok(());
                }
                self.agrees(kind, status, Ok(()));
                let told = told.read();
                let expected = self.twin.explain(id);
                let decided = match expected.as_ref().map(|found| found.decided) {
                    None => br_decided::BR_UNDECIDED,
                    Some(Decided::Step) => br_decided::BR_BY_STEP,
                    Some(Decided::Arrival) => br_decided::BR_BY_ARRIVAL,
                    Some(Decided::Waits(_)) => br_decided::BR_WAITS,
                };
                let worker = expected.and_then(|found| found.worker).map_or(BR_NONE, |worker| worker.0);
                assert_eq!((told.decided, told.worker), (decided as u32, worker));
            }
            34 => {
                let on: u8 = u.arbitrary()?;
                // SAFETY: alive.
                let status = unsafe { br_router_set_explaining(router, u32::from(on % 2)) };
                self.twin.set_explaining(on % 2 == 1);
                self.agrees(kind, status, Ok(()));
            }
            35 => {
                // SAFETY: every field may be zero.
                let mut rank: br_rank = unsafe { zeroed() };
                rank.struct_size = size_of::<br_rank>();
                let rank = Versioned::draw(u, rank, offset_of!(br_rank, foreign_requests) + 4)?;
                // SAFETY: a struct in memory of its size.
                let status = unsafe { br_router_rank(router, worker, rank.at()) };
                if rank.seen.is_none() {
                    self.refused(kind, status, br_status::BR_ARGUMENT);
                    return Ok(());
                }
                let expected = self.twin.rank_metrics(worker);
                if let Some(expected) = self.agrees(kind, status, expected) {
                    let found = rank.read();
                    assert_eq!((found.worker, found.load_tokens), (worker, expected.load_tokens));
                    assert_eq!((found.running, found.unseen), (expected.running, expected.unseen));
                    let told = found.struct_size > offset_of!(br_rank, claimed_by);
                    let claims = expected.claimed_by.map_or(BR_NONE64, |id| id.0);
                    assert!(!told || found.claimed_by == claims);
                }
            }
            36 => self.metrics(u, kind)?,
            37 => {
                let room = usize::from(u8::arbitrary(u)? % 8);
                let to = Column::<br_returned>::zeroed(room, columns::offset(u)?);
                let (count, left) = (place_for::<usize>(u)?, place_for::<usize>(u)?);
                // SAFETY: room for so many, and places for one value each.
                let status =
                    unsafe { br_router_returned(router, to.at_mut(), room, count.at_mut(), left.at_mut()) };
                if !is_place(&count) || !is_maybe_place(&left) || !to.is_aligned() {
                    self.refused(kind, status, br_status::BR_ARGUMENT);
                    return Ok(());
                }
                self.agrees(kind, status, Ok(()));
                let told = room.min(self.returned.len());
                assert_eq!(count.read(), [told]);
                self.is_told(&to.read(), told);
                assert!(left.read().iter().all(|&found| found == self.returned.len()));
            }
            _ => self.learn(u, kind)?,
        }
        Ok(())
    }

    fn metrics(&mut self, u: &mut Unstructured<'_>, kind: u32) -> Drawn<()> {
        let mut expected = Metrics::default();
        self.twin.metrics(&mut expected);
        let workers = expected.ranks.len();
        let room = if one_in(u, 4)? { u.int_in_range(0..=workers)? } else { workers };
        let ranks = if one_in(u, 4)? {
            Column::<br_rank_metrics>::absent()
        } else {
            Column::zeroed(room, columns::offset(u)?)
        };
        // SAFETY: every field may be zero.
        let mut told: br_metrics = unsafe { zeroed() };
        told.struct_size = size_of::<br_metrics>();
        (told.ranks, told.rank_capacity) = (ranks.at_mut(), room);
        let first = offset_of!(br_metrics, wait_steps) + size_of::<br_histogram>();
        let told = Versioned::draw(u, told, first)?;
        // SAFETY: a struct and an array in memory of their sizes.
        let status = unsafe { br_router_metrics(self.router, told.at()) };
        let is_sound = told.seen.is_some() && (ranks.is_aligned() || room < workers);
        if !is_sound {
            self.refused(kind, status, br_status::BR_ARGUMENT);
        } else if ranks.is_present() && room < workers {
            self.refused(kind, status, br_status::BR_SPACE);
            assert_eq!(told.read().rank_count, workers);
        } else {
            self.agrees(kind, status, Ok(()));
            let found = told.read();
            assert_eq!((found.waiting, found.running), (expected.waiting, expected.running));
            assert_eq!(found.rank_count, workers);
            let Counters { arrived, finished, aborted, .. } = expected.counters;
            assert_eq!((found.arrived, found.finished, found.aborted), (arrived, finished, aborted));
            assert_eq!((found.now_ms, found.step), (expected.now_ms, expected.step));
            for (found, expected) in ranks.read().iter().zip(&expected.ranks) {
                assert_eq!((found.worker, found.load_tokens), (expected.worker.0, expected.load_tokens));
            }
        }
        Ok(())
    }

    fn learn(&mut self, u: &mut Unstructured<'_>, kind: u32) -> Drawn<()> {
        let learned = self.twin.learned();
        if kind == 38 {
            let room = if one_in(u, 4)? { u.int_in_range(0..=learned.len())? } else { learned.len() };
            let (to, count) = (Column::<u8>::zeroed(room, 0), place_for::<usize>(u)?);
            // SAFETY: room for so many.
            let status = unsafe { br_router_learned(self.router, to.at_mut(), room, count.at_mut()) };
            match (is_place(&count), room >= learned.len()) {
                (false, _) => self.refused(kind, status, br_status::BR_ARGUMENT),
                (_, false) => self.refused(kind, status, br_status::BR_SPACE),
                _ => {
                    self.agrees(kind, status, Ok(()));
                    assert_eq!(to.read(), learned);
                }
            }
            assert!(!is_place(&count) || count.read() == [learned.len()]);
            return Ok(());
        }
        let bytes = spoilt(u, learned)?;
        let from = Column::of(&bytes, 0);
        // SAFETY: so many bytes.
        let status = unsafe { br_router_learn(self.router, from.at(), bytes.len()) };
        let expected = self.twin.learn(&bytes);
        self.agrees(kind, status, expected);
        Ok(())
    }

    fn call(&mut self, u: &mut Unstructured<'_>) -> Drawn<()> {
        match u32::from(u8::arbitrary(u)? % 64) {
            kind @ 0..=4 => self.arrive(u, kind)?,
            5 | 42..=48 => self.step(u)?,
            kind @ 6..=11 => self.end(u, kind)?,
            kind @ 12..=15 => self.grow(u, kind)?,
            kind @ 16..=19 => self.change_stage(u, kind)?,
            kind @ 20 => self.disown(u, kind)?,
            kind @ 21 => self.report(u, kind)?,
            kind @ 22..=28 => self.change_workers(u, kind)?,
            kind @ 29..=39 => self.ask(u, kind)?,
            kind @ 40 => {
                let now_ms = self.reading(u)?;
                // SAFETY: alive.
                let status = unsafe { br_router_at(self.router, now_ms) };
                self.now_ms = Some(now_ms);
                self.agrees(kind, status, Ok(()));
            }
            kind @ 41 if one_in(u, 4)? => {
                // SAFETY: alive.
                let status = unsafe { br_router_recover(self.router) };
                self.now_ms = None;
                let mut returned = self.twin.recover();
                self.returned.append(&mut returned);
                self.agrees(kind, status, Ok(()));
            }
            49..=56 => self.arrive(u, 0)?,
            57 | 58 => self.report(u, 21)?,
            _ => self.arrive(u, 4)?,
        }
        self.tally.calls += 1;
        let (mut waiting, mut running) = (0, 0);
        // SAFETY: alive, and two places to write to.
        let status = unsafe { br_router_counts(self.router, &mut waiting, &mut running) };
        assert_eq!(status, br_status::BR_OK);
        assert_eq!((waiting, running), (self.twin.pool().len(), self.twin.running_len()));
        Ok(())
    }
}

/// Bytes of [`Router::learned`] as they are, with some changed, cut off or added.
fn spoilt(u: &mut Unstructured<'_>, mut bytes: Vec<u8>) -> Drawn<Vec<u8>> {
    for _ in 0..u8::arbitrary(u)? % 4 {
        let at = usize::from(u16::arbitrary(u)?) % bytes.len().max(1);
        match u8::arbitrary(u)? % 8 {
            0 => bytes.truncate(at),
            1 => bytes.push(u.arbitrary()?),
            2 => bytes = u.arbitrary()?,
            _ => {
                let value: u8 = u.arbitrary()?;
                bytes.iter_mut().skip(at).take(usize::from(value % 9)).for_each(|byte| *byte ^= value);
            }
        }
    }
    Ok(bytes)
}

/// A configuration as `br_router_defaults` must have it.
fn defaults() -> br_router_config {
    // SAFETY: every field may be zero.
    let empty: br_router_config = unsafe { zeroed() };
    br_router_config {
        struct_size: size_of::<br_router_config>(),
        headroom_steps: BR_NONE,
        refresh_steps: 16,
        ends_horizon_steps: 512,
        share_of: 1,
        dispatch_timeout_ms: BR_NONE64,
        silence_timeout_ms: BR_NONE64,
        expire_after_ms: BR_NONE64,
        ..empty
    }
}

/// Whether the size is one of a struct's, whatever its fields are.
fn is_known_size(of: &Versioned<br_router_config>) -> bool {
    if of.at().is_null() || !of.at().is_aligned() {
        return false;
    }
    // SAFETY: a struct begins with its size.
    let size = unsafe { of.at().cast::<usize>().read() };
    let first = offset_of!(br_router_config, expire_after_ms) + 8;
    (first..=4096).contains(&size) && size.is_multiple_of(align_of::<br_router_config>())
}

/// What a configuration means.
fn meant_config(
    of: &Versioned<br_router_config>,
    [slots]: [&Column<u32>; 1],
    capacity: &Column<u64>,
    weight: &Column<f32>,
) -> Result<(RouterConfig, bool), br_status> {
    let seen = of.seen.ok_or(br_status::BR_ARGUMENT)?;
    let count = seen.worker_count;
    if count > MAX_WORKERS {
        return Err(br_status::BR_BATCH);
    }
    let has_slots = slots.is_present() || count == 0;
    if !has_slots || !slots.is_aligned() || !capacity.is_aligned() || !weight.is_aligned() || seen.mode > 2 {
        return Err(br_status::BR_ARGUMENT);
    }
    let (slots, capacity, weight) = (slots.read(), capacity.read(), weight.read());
    let worker = |at: usize| {
        let of = WorkerConfig::new(slots[at]).capacity(capacity.get(at).copied().and_then(some64));
        of.weight(weight.get(at).copied().unwrap_or(1.0))
    };
    let mode = [Mode::Step, Mode::Arrival, Mode::Mixed { free_slots: seen.mixed_free_slots }];
    let is_cost = seen.step_base_ms != 0.0 || seen.prefill_us_per_token != 0.0;
    let config = RouterConfig::default()
        .workers((0..count).map(worker).collect::<Vec<_>>())
        .headroom_steps(some32(seen.headroom_steps))
        .preemption_cost(is_cost.then(|| PreemptionCost::new(seen.step_base_ms, seen.prefill_us_per_token)))
        .refresh_steps(seen.refresh_steps)
        .ends_horizon_steps(seen.ends_horizon_steps)
        .mode(mode[seen.mode as usize])
        .lower_class_one_in(Some(seen.lower_class_one_in).filter(|&one_in| one_in != 0))
        .share(Share::new(seen.share_index, seen.share_of))
        .in_order(seen.in_order != 0)
        .dispatch_timeout_ms(some64(seen.dispatch_timeout_ms))
        .silence_timeout_ms(some64(seen.silence_timeout_ms))
        .expire_after_ms(some64(seen.expire_after_ms));
    Ok((config, seen.explaining != 0))
}

/// How many kinds of calls there are.
#[allow(dead_code, reason = "who fuzzes counts none of it")]
pub(crate) const KINDS: u32 = 42;

/// What the bytes came to.
pub(crate) fn calls(data: &[u8]) -> Tally {
    let (mut tally, mut u) = (Tally::default(), Unstructured::new(data));
    let Ok(Some(mut world)) = World::new(&mut u, &mut tally) else { return tally };
    for _ in 0..MOST_CALLS {
        if u.is_empty() || world.call(&mut u).is_err() {
            break;
        }
    }
    tally += world.tally;
    tally
}
