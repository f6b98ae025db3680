//! What every entry does first and last: reads structs of any version, catches panics, keeps the text of an
//! error.

use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use balanceroute::policy::Parameters;
use balanceroute::{BatchError, PolicyError, UnknownName};

/// What a call answers. The text of the error is kept in the handle.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum br_status {
    /// Done.
    BR_OK = 0,
    /// A pointer that is NULL or not aligned, a `struct_size` that no version has, text that is not UTF-8, a
    /// number that is no enum value, or a segment that is too small or too large.
    BR_ARGUMENT = 1,
    /// An unknown policy, parameter, backend or instruction set, or a parameter out of its range.
    BR_POLICY = 2,
    /// Workers, requests or terms that contradict each other or pass a limit.
    BR_BATCH = 3,
    /// A buffer of the caller is too small; its count says what it must hold. Nothing has happened.
    BR_SPACE = 4,
    /// Another thread is inside this handle, or was as this process was forked. Nothing has happened.
    BR_BUSY = 5,
    /// The library itself has failed in this call. An assigner decides on; a router may have lost its count,
    /// and then answers BR_BROKEN.
    BR_INTERNAL = 6,
    /// The request neither waits nor runs; for calls about running requests: it does not run; for calls about
    /// a dispatch: it waits, or runs by another.
    BR_UNKNOWN_REQUEST = 7,
    /// No such worker: never there, or removed; for a request that any may take: there is none.
    BR_UNKNOWN_WORKER = 8,
    /// A call that does not fit the router's state: an id that runs already, a dispatch that was never made.
    BR_STATE = 9,
    /// An earlier call has failed inside (BR_INTERNAL) and the router is not whole: only `br_router_recover`
    /// helps. Nothing has happened.
    BR_BROKEN = 10,
    /// A file or folder of a recording refuses: the text says which and why.
    BR_IO = 11,
    /// Another router records into this folder.
    BR_IN_USE = 12,
    /// There is no recording, or several, or the file is none.
    BR_NO_RECORDING = 13,
    /// A recording that this library cannot go on from: another version wrote it, its policy is not one of
    /// this library's, its state is damaged, or it had stopped before the router did.
    BR_OTHER_RECORDING = 14,
}

/// A status and its text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failure {
    pub status: br_status,
    pub text: String,
    /// Whether the state may be half changed.
    pub lost: bool,
}

impl Failure {
    pub(crate) fn new(status: br_status, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), lost: false }
    }

    /// The library has failed with the state in its hands.
    pub(crate) fn lost(text: impl Into<String>) -> Self {
        Self { lost: true, ..Self::new(br_status::BR_INTERNAL, text) }
    }

    pub(crate) fn argument(text: impl Into<String>) -> Self {
        Self::new(br_status::BR_ARGUMENT, text)
    }
}

impl From<PolicyError> for Failure {
    fn from(error: PolicyError) -> Self {
        Self::new(br_status::BR_POLICY, error.to_string())
    }
}

impl From<BatchError> for Failure {
    fn from(error: BatchError) -> Self {
        Self::new(br_status::BR_BATCH, error.to_string())
    }
}

/// A state behind a handle.
pub(crate) trait Mend {
    /// What helps when a failure has left it half changed.
    const WAY_OUT: &'static str;

    /// Makes it usable again; whether that was possible.
    fn mend(&mut self) -> bool {
        false
    }
}

/// A handle: its state, and what a caller may read while the state is in use by another call.
pub(crate) struct Handle<T> {
    busy: AtomicBool,
    /// A failure has left the state half changed.
    broken: bool,
    error: String,
    state: T,
}

impl<T: Mend> Handle<T> {
    pub(crate) fn new(state: T) -> Self {
        Self { busy: AtomicBool::new(false), broken: false, error: String::new(), state }
    }

    /// Runs `f` on the state of a handle and keeps what it says.
    ///
    /// # Safety
    /// `handle` is NULL or points to a live handle.
    pub(crate) unsafe fn enter(
        handle: *mut Self,
        f: impl FnOnce(&mut T) -> Result<(), Failure>,
    ) -> br_status {
        // SAFETY: passed on.
        unsafe { Self::inside(handle, false, f) }
    }

    /// Runs `f` on a state that may be half changed, and which `f` makes whole.
    ///
    /// # Safety
    /// As [`Handle::enter`].
    pub(crate) unsafe fn repair(
        handle: *mut Self,
        f: impl FnOnce(&mut T) -> Result<(), Failure>,
    ) -> br_status {
        // SAFETY: passed on.
        unsafe { Self::inside(handle, true, f) }
    }

    /// # Safety
    /// As [`Handle::enter`].
    unsafe fn inside(
        handle: *mut Self,
        repairs: bool,
        f: impl FnOnce(&mut T) -> Result<(), Failure>,
    ) -> br_status {
        if handle.is_null() {
            return br_status::BR_ARGUMENT;
        }
        // SAFETY: the handle is alive, and the flag is shared by all threads.
        let busy = unsafe { &(*handle).busy };
        if busy.swap(true, Ordering::Acquire) {
            return br_status::BR_BUSY;
        }
        // SAFETY: the flag was down, so nobody else has the rest of the handle; it goes up again after the
        // last use.
        let (broken, error, state) =
            unsafe { (&mut (*handle).broken, &mut (*handle).error, &mut (*handle).state) };
        error.clear();
        let status = if *broken && !repairs {
            error.push_str("an earlier call has failed inside: ");
            error.push_str(T::WAY_OUT);
            br_status::BR_BROKEN
        } else {
            match caught(|| f(state)) {
                Ok(()) => {
                    *broken = false;
                    br_status::BR_OK
                }
                Err(failure) => {
                    // What mends may fail as well.
                    *broken |= failure.lost && !caught(|| Ok(state.mend())).unwrap_or(false);
                    *error = failure.text;
                    failure.status
                }
            }
        };
        busy.store(false, Ordering::Release);
        status
    }

    /// Copies the text of the last error, see [`copy_text`]; "" for NULL and while another thread is inside.
    ///
    /// # Safety
    /// `handle` is NULL or points to a live handle; `buffer` as for [`copy_text`].
    pub(crate) unsafe fn last_error(handle: *const Self, buffer: *mut c_char, size: usize) -> usize {
        if handle.is_null() {
            // SAFETY: passed on.
            return unsafe { copy_text("", buffer, size) };
        }
        // SAFETY: the handle is alive, and the flag is shared by all threads.
        let busy = unsafe { &(*handle).busy };
        if busy.swap(true, Ordering::Acquire) {
            // SAFETY: passed on.
            return unsafe { copy_text("", buffer, size) };
        }
        // SAFETY: the flag was down; the caller answers for the buffer.
        let length = unsafe { copy_text(&(*handle).error, buffer, size) };
        busy.store(false, Ordering::Release);
        length
    }
}

/// Runs `f`; a panic becomes an error.
pub(crate) fn caught<T>(f: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    // Whoever continues after a panic looks at `broken` first.
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no text".to_owned());
        Err(Failure::lost(format!("the library has failed inside: {text}")))
    })
}

/// Makes an object into `*out`, NULL when that fails; the text of the error goes into `error`.
///
/// # Safety
/// `out` is NULL, or a pointer may be written there if it is aligned; `error` and `error_size` as for
/// [`copy_text`].
pub(crate) unsafe fn make<T>(
    name: &str,
    out: *mut *mut T,
    (error, error_size): (*mut c_char, usize),
    f: impl FnOnce() -> Result<T, Failure>,
) -> br_status {
    let made = caught(|| {
        if out.is_null() || !out.is_aligned() {
            return Err(Failure::argument(format!("{name}: expected an aligned pointer to a pointer")));
        }
        // SAFETY: not NULL, and the caller's word.
        unsafe { *out = std::ptr::null_mut() };
        let made = Box::new(f()?);
        // SAFETY: as above.
        unsafe { *out = Box::into_raw(made) };
        Ok(())
    });
    let (status, text) = match made {
        Ok(()) => (br_status::BR_OK, String::new()),
        Err(failure) => (failure.status, failure.text),
    };
    // SAFETY: passed on.
    unsafe { copy_text(&text, error, error_size) };
    status
}

/// Frees what [`make`] has made; NULL is allowed.
///
/// # Safety
/// It is NULL, or comes from [`make`] and is not used again.
pub(crate) unsafe fn free<T>(made: *mut T) {
    if !made.is_null() {
        let _ = caught(|| {
            // SAFETY: the caller's word.
            drop(unsafe { Box::from_raw(made) });
            Ok(())
        });
    }
}

/// Copies text into a caller's buffer, cut to fit and closed by a zero: its length in bytes without the zero,
/// whatever the buffer holds.
///
/// # Safety
/// `buffer` is NULL, or `size` bytes from it on may be written.
pub(crate) unsafe fn copy_text(text: &str, buffer: *mut c_char, size: usize) -> usize {
    if !buffer.is_null() && size > 0 {
        let mut fits = text.len().min(size - 1);
        while !text.is_char_boundary(fits) {
            fits -= 1;
        }
        // SAFETY: `fits < size`, and the text lies elsewhere.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr().cast(), buffer, fits);
            *buffer.add(fits) = 0;
        }
    }
    text.len()
}

/// A struct of the interface: it begins with its own size as the caller knows it.
///
/// # Safety
/// `repr(C)`, begins with a `usize` size, and every field may be zero.
pub(crate) unsafe trait Versioned: Copy {
    /// Its name in the header.
    const NAME: &'static str;
    /// Its size in the first version of the interface.
    const FIRST_SIZE: usize;
}

/// Whether a version of a struct may have this size. One that ends within a field is none: half a pointer
/// would be read as a whole one. One far beyond ours was most likely never set.
pub(crate) fn is_size_of<T: Versioned>(size: usize) -> bool {
    (T::FIRST_SIZE..=4096).contains(&size) && size.is_multiple_of(align_of::<T>())
}

/// Reads a struct of the caller's version: what it does not have yet is zero, what it has beyond ours must
/// be.
///
/// # Safety
/// `from` is NULL or points to as many readable bytes as the `usize` at its beginning says.
pub(crate) unsafe fn read_versioned<T: Versioned>(from: *const T) -> Result<T, Failure> {
    let name = T::NAME;
    if from.is_null() || !from.is_aligned() {
        return Err(Failure::argument(format!("{name}: expected an aligned pointer, found {from:p}")));
    }
    // SAFETY: a struct of any version begins with its size.
    let found = unsafe { from.cast::<usize>().read() };
    if !is_size_of::<T>(found) {
        let expected = size_of::<T>();
        return Err(Failure::argument(format!(
            "{name}.struct_size: expected sizeof({name}) = {expected}, found {found}"
        )));
    }
    let known = found.min(size_of::<T>());
    // SAFETY: the caller's struct has `found` bytes, and ours may be zero.
    unsafe {
        let beyond = std::slice::from_raw_parts(from.cast::<u8>().add(known), found - known);
        if beyond.iter().any(|&byte| byte != 0) {
            return Err(Failure::argument(format!(
                "{name}: uses fields that this version ({}) does not know",
                env!("CARGO_PKG_VERSION")
            )));
        }
        let mut read = std::mem::MaybeUninit::<T>::zeroed();
        std::ptr::copy_nonoverlapping(from.cast::<u8>(), read.as_mut_ptr().cast::<u8>(), known);
        Ok(read.assume_init())
    }
}

/// Writes back as much of a struct as the caller knows.
///
/// # Safety
/// `to` was read by [`read_versioned`] and may be written.
pub(crate) unsafe fn write_versioned<T: Versioned>(value: &T, to: *mut T) {
    // SAFETY: the caller's struct begins with its size, unchanged since it was read.
    unsafe {
        let size = to.cast::<usize>().read().min(size_of::<T>());
        let head = size_of::<usize>();
        let from = std::ptr::from_ref(value).cast::<u8>();
        std::ptr::copy_nonoverlapping(from.add(head), to.cast::<u8>().add(head), size - head);
    }
}

/// An array of the caller: none for NULL.
///
/// # Safety
/// `at` is NULL or points to `count` readable entries that stay as they are during `'a`.
pub(crate) unsafe fn array<'a, T>(
    what: &str,
    at: *const T,
    count: usize,
) -> Result<Option<&'a [T]>, Failure> {
    if at.is_null() {
        return Ok(None);
    }
    if !at.is_aligned() || count.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX as usize) {
        return Err(Failure::argument(format!("{what}: expected {count} aligned entries, found {at:p}")));
    }
    // SAFETY: aligned, within the address space, and readable by the caller's word.
    Ok(Some(unsafe { std::slice::from_raw_parts(at, count) }))
}

/// An array of the caller, where NULL is an error unless there is nothing to read.
///
/// # Safety
/// As [`array`].
pub(crate) unsafe fn needed<'a, T>(what: &str, at: *const T, count: usize) -> Result<&'a [T], Failure> {
    // SAFETY: passed on.
    match unsafe { array(what, at, count) }? {
        Some(entries) => Ok(entries),
        None if count == 0 => Ok(&[]),
        None => Err(Failure::argument(format!("{what}: expected {count} entries, found NULL"))),
    }
}

/// A struct of one size for all versions.
///
/// # Safety
/// `at` is NULL or points to one that may be read.
pub(crate) unsafe fn input<T: Copy>(what: &str, at: *const T) -> Result<T, Failure> {
    if at.is_null() || !at.is_aligned() {
        return Err(Failure::argument(format!("{what}: expected an aligned pointer, found {at:p}")));
    }
    // SAFETY: not NULL, aligned, and the caller's word.
    Ok(unsafe { at.read() })
}

/// A place of the caller to write to.
pub(crate) fn output<T>(what: &str, at: *mut T) -> Result<*mut T, Failure> {
    if at.is_null() || !at.is_aligned() {
        return Err(Failure::argument(format!("{what}: expected an aligned pointer, found {at:p}")));
    }
    Ok(at)
}

/// Tells the caller how many there are, and refuses where there is room for fewer.
///
/// # Safety
/// `count` is NULL or may be written.
pub(crate) unsafe fn counted(
    what: &str,
    found: usize,
    capacity: usize,
    count: *mut usize,
) -> Result<(), Failure> {
    // SAFETY: a place to write to, by the caller's word.
    unsafe { output("count", count)?.write(found) };
    if found > capacity {
        let text = format!("capacity: {found} {what}, found room for {capacity}");
        return Err(Failure::new(br_status::BR_SPACE, text));
    }
    Ok(())
}

/// A place of the caller to write to, where NULL says that nobody wants to know.
pub(crate) fn maybe_output<T>(what: &str, at: *mut T) -> Result<*mut T, Failure> {
    if at.is_null() { Ok(at) } else { output(what, at) }
}

/// Text of the caller: none for NULL.
///
/// # Safety
/// `at` is NULL or points to text closed by a zero that stays as it is during `'a`.
pub(crate) unsafe fn text<'a>(what: &str, at: *const c_char) -> Result<Option<&'a str>, Failure> {
    if at.is_null() {
        return Ok(None);
    }
    // SAFETY: closed by a zero, by the caller's word.
    let text = unsafe { CStr::from_ptr(at) };
    text.to_str().map(Some).map_err(|error| Failure::argument(format!("{what}: expected UTF-8, {error}")))
}

/// How a policy is built. All fields but the first may be zero.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct br_options {
    /// `sizeof(br_options)`.
    pub struct_size: usize,
    /// Who evaluates: "auto", "cpu", "ascend" (where built in) or "reference"; NULL for "auto".
    pub backend: *const c_char,
    /// "scalar", "avx2", "avx512" or "neon"; NULL for what `BALANCEROUTE_ISA` says, or else the best of this
    /// CPU.
    pub isa: *const c_char,
    /// Number of parameters.
    pub parameter_count: usize,
    /// Their names, such as "max_passed".
    pub parameter_names: *const *const c_char,
    /// Their values; 1 for true.
    pub parameter_values: *const f64,
}

// SAFETY: begins with its size; NULL and zero are allowed everywhere.
unsafe impl Versioned for br_options {
    const NAME: &'static str = "br_options";
    const FIRST_SIZE: usize = 6 * size_of::<usize>();
}

/// The name of a policy ("level" for NULL) and what options (none for NULL) say of its parameters.
///
/// # Safety
/// `name` is NULL or text, `options` NULL or a struct whose pointers are what they are said to be, during
/// `'a`.
pub(crate) unsafe fn read_policy<'a>(
    name: *const c_char,
    options: *const br_options,
) -> Result<(&'a str, Parameters), Failure> {
    // SAFETY: the caller's word, for everything below.
    let name = unsafe { text("policy", name) }?.unwrap_or("level");
    let mut parameters = Parameters::default();
    if !options.is_null() {
        // SAFETY: as above.
        let options = unsafe { read_versioned(options) }?;
        // SAFETY: as above.
        if let Some(found) = unsafe { text("br_options.backend", options.backend) }? {
            parameters.backend = found
                .parse()
                .map_err(|unknown: UnknownName| Failure::new(br_status::BR_POLICY, unknown.to_string()))?;
        }
        // SAFETY: as above.
        if let Some(found) = unsafe { text("br_options.isa", options.isa) }? {
            let isa = found.parse().map_err(|_| PolicyError::Isa { found: found.to_owned() })?;
            parameters.isa = Some(isa);
        }
        let count = options.parameter_count;
        // SAFETY: as above.
        let (names, values) = unsafe {
            (
                needed("br_options.parameter_names", options.parameter_names, count)?,
                needed("br_options.parameter_values", options.parameter_values, count)?,
            )
        };
        for (at, (&name, &value)) in names.iter().zip(values).enumerate() {
            // SAFETY: as above.
            let name = unsafe { text("br_options.parameter_names", name) }?.ok_or_else(|| {
                Failure::argument(format!(
                    "br_options.parameter_names, entry {at}: expected a name, found NULL"
                ))
            })?;
            parameters.set(name, value)?;
        }
    }
    Ok((name, parameters))
}

#[cfg(test)]
mod tests;
