//! The guard against panics, threads, text that is cut and structs of other versions.

use super::*;

/// Mended as often as it says.
struct Mended(usize);

impl Mend for Mended {
    const WAY_OUT: &'static str = "seven is the way";

    fn mend(&mut self) -> bool {
        let left = self.0.checked_sub(1);
        self.0 = left.expect("an end to mending");
        left.is_some()
    }
}

type Call = fn(&mut Mended) -> Result<(), Failure>;

#[test]
fn a_panic_stays_inside_and_is_told_once() {
    let mut handle = Handle::new(Mended(1));
    let at = &raw mut handle;
    let status = |f: Call| {
        // SAFETY: the handle is alive.
        unsafe { Handle::enter(at, f) }
    };
    let repaired = |f: Call| {
        // SAFETY: the handle is alive.
        unsafe { Handle::repair(at, f) }
    };
    let error = || {
        let mut buffer = [1; 64];
        // SAFETY: the handle is alive, the buffer has its size.
        let length = unsafe { Handle::last_error(at, buffer.as_mut_ptr(), buffer.len()) };
        // SAFETY: closed by a zero.
        let text = unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_str().expect("UTF-8").to_owned();
        assert_eq!(length, text.len());
        text
    };
    let panics: Call = |_| std::panic::resume_unwind(Box::new("seven 7"));
    let fine: Call = |_| Ok(());
    assert_eq!(status(|_| Err(Failure::argument("no"))), br_status::BR_ARGUMENT);
    assert_eq!(error(), "no");
    assert_eq!(status(fine), br_status::BR_OK);
    assert_eq!(error(), "");
    // The first time it is mended, the second time mending panics.
    assert_eq!(status(panics), br_status::BR_INTERNAL);
    assert_eq!(error(), "the library has failed inside: seven 7");
    assert_eq!(status(fine), br_status::BR_OK);
    assert_eq!(status(panics), br_status::BR_INTERNAL);
    for _ in 0..2 {
        assert_eq!(status(fine), br_status::BR_BROKEN);
        assert_eq!(error(), "an earlier call has failed inside: seven is the way");
    }
    // A repair that is refused or fails leaves it as it was.
    assert_eq!(repaired(|_| Err(Failure::argument("no"))), br_status::BR_ARGUMENT);
    assert_eq!(repaired(panics), br_status::BR_INTERNAL);
    assert_eq!(status(fine), br_status::BR_BROKEN);
    assert_eq!(repaired(fine), br_status::BR_OK);
    assert_eq!(status(fine), br_status::BR_OK);
    // An error of the library that has changed nothing ends nothing.
    assert_eq!(status(|_| Err(Failure::new(br_status::BR_INTERNAL, "x"))), br_status::BR_INTERNAL);
    assert_eq!(status(fine), br_status::BR_OK);
}

#[test]
fn a_size_that_ends_within_a_field_is_no_version_s() {
    #[repr(C)]
    #[derive(Clone, Copy, Debug)]
    struct Two {
        struct_size: usize,
        first: usize,
        added: *const u8,
    }
    // SAFETY: begins with its size; NULL and zero are allowed.
    unsafe impl Versioned for Two {
        const NAME: &'static str = "two";
        const FIRST_SIZE: usize = 2 * size_of::<usize>();
    }
    let mut two = Two { struct_size: 0, first: 7, added: std::ptr::dangling() };
    for size in 0..=size_of::<Two>() {
        two.struct_size = size;
        // SAFETY: as many bytes as it says, and more.
        let read = unsafe { read_versioned(&two) };
        if size == Two::FIRST_SIZE || size == size_of::<Two>() {
            let read = read.expect("a version");
            assert_eq!((read.first, read.added.is_null()), (7, size == Two::FIRST_SIZE));
        } else {
            let text = format!("two.struct_size: expected sizeof(two) = {}, found {size}", size_of::<Two>());
            assert_eq!(read.expect_err("no version"), Failure::argument(text));
        }
    }
}

#[test]
fn one_thread_at_a_time() {
    let mut handle = Handle::new(Mended(0));
    let at = &raw mut handle;
    // SAFETY: the handle is alive.
    let inner = unsafe {
        Handle::enter(at, |_| {
            // The second call does not come in.
            assert_eq!(Handle::enter(at, |_| Ok(())), br_status::BR_BUSY);
            assert_eq!(Handle::repair(at, |_| Ok(())), br_status::BR_BUSY);
            Ok(())
        })
    };
    assert_eq!(inner, br_status::BR_OK);
}

#[test]
fn text_is_cut_between_characters() {
    let mut buffer = [7 as c_char; 8];
    // SAFETY: the buffer has more bytes than are said.
    assert_eq!(unsafe { copy_text("aäö", buffer.as_mut_ptr(), 5) }, 5);
    // SAFETY: closed by a zero.
    assert_eq!(unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_str(), Ok("aä"));
    assert_eq!(buffer[4..], [7; 4]);
    // SAFETY: nothing is written.
    assert_eq!(unsafe { copy_text("aäö", std::ptr::null_mut(), 5) }, 5);
}
