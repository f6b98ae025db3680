//! Arrays and structs as a caller of the C interface may hand them over: their addresses and lengths are
//! what they are said to be, and all else is drawn. Each lies in memory of exactly its size, so that a byte
//! read or written beyond it is seen by AddressSanitizer.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

use arbitrary::{Arbitrary, Result as Drawn, Unstructured};

/// As memory that C allocates.
const ALIGNMENT: usize = 16;

/// Plain old data: any bytes are a value.
///
/// # Safety
/// That is so, pointers included.
pub(crate) unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($type:ty),*) => {
        $(
            // SAFETY: a number.
            unsafe impl Plain for $type {}
        )*
    };
}
plain!(u8, u16, u32, u64, usize, i32, f32, f64);

/// Memory of a caller's: absent, aligned or not.
pub(crate) struct Column<T> {
    start: *mut u8,
    layout: Layout,
    offset: usize,
    len: usize,
    entries: std::marker::PhantomData<T>,
}

impl<T: Plain> Column<T> {
    /// None: NULL.
    pub(crate) fn absent() -> Self {
        let layout = Layout::from_size_align(0, ALIGNMENT).expect("a layout");
        Self { start: std::ptr::null_mut(), layout, offset: 0, len: 0, entries: std::marker::PhantomData }
    }

    /// So many zeros, `offset` bytes behind an aligned address.
    pub(crate) fn zeroed(len: usize, offset: usize) -> Self {
        let size = (offset + len * size_of::<T>()).max(1);
        let layout = Layout::from_size_align(size, ALIGNMENT).expect("a layout");
        // SAFETY: of one byte at least.
        let start = unsafe { alloc_zeroed(layout) };
        if start.is_null() {
            handle_alloc_error(layout);
        }
        Self { start, layout, offset, len, entries: std::marker::PhantomData }
    }

    pub(crate) fn of(entries: &[T], offset: usize) -> Self {
        let column = Self::zeroed(entries.len(), offset);
        // SAFETY: as many entries as there is room for, elsewhere.
        unsafe {
            std::ptr::copy_nonoverlapping(
                entries.as_ptr().cast::<u8>(),
                column.start.add(offset),
                size_of_val(entries),
            );
        }
        column
    }

    pub(crate) fn at(&self) -> *const T {
        self.at_mut()
    }

    pub(crate) fn at_mut(&self) -> *mut T {
        if self.start.is_null() {
            return std::ptr::null_mut();
        }
        // SAFETY: within the allocation, or one behind it.
        unsafe { self.start.add(self.offset) }.cast()
    }

    pub(crate) fn is_present(&self) -> bool {
        !self.start.is_null()
    }

    pub(crate) fn is_aligned(&self) -> bool {
        self.at().is_aligned()
    }

    /// What is there now.
    pub(crate) fn read(&self) -> Vec<T> {
        // SAFETY: of the length of this column, and any bytes are a value.
        (0..self.len).map(|at| unsafe { self.at().add(at).read_unaligned() }).collect()
    }
}

impl<T> Drop for Column<T> {
    fn drop(&mut self) {
        if !self.start.is_null() {
            // SAFETY: allocated with this layout.
            unsafe { dealloc(self.start, self.layout) };
        }
    }
}

pub(crate) fn one_in(u: &mut Unstructured<'_>, n: u8) -> Drawn<bool> {
    Ok(u8::arbitrary(u)?.is_multiple_of(n))
}

/// Where an array lies: mostly aligned.
pub(crate) fn offset(u: &mut Unstructured<'_>) -> Drawn<usize> {
    if one_in(u, 200)? { u.int_in_range(1..=9) } else { Ok(0) }
}

/// An array of so many entries, each as `draw` has it and now and then any bits.
pub(crate) fn column<T: Plain + for<'a> Arbitrary<'a>>(
    u: &mut Unstructured<'_>,
    count: usize,
    mut draw: impl FnMut(&mut Unstructured<'_>, usize) -> Drawn<T>,
) -> Drawn<Column<T>> {
    let spoilt = if one_in(u, 24)? { usize::from(u8::arbitrary(u)?) } else { usize::MAX };
    let entries = (0..count).map(|at| if at == spoilt { u.arbitrary() } else { draw(u, at) });
    let entries = entries.collect::<Drawn<Vec<T>>>()?;
    Ok(Column::of(&entries, offset(u)?))
}

/// As [`column`], absent every second time.
pub(crate) fn perhaps<T: Plain + for<'a> Arbitrary<'a>>(
    u: &mut Unstructured<'_>,
    count: usize,
    draw: impl FnMut(&mut Unstructured<'_>, usize) -> Drawn<T>,
) -> Drawn<Column<T>> {
    if bool::arbitrary(u)? { column(u, count, draw) } else { Ok(Column::absent()) }
}

/// A struct that begins with its size, as a caller of some version has it.
pub(crate) struct Versioned<T> {
    memory: Column<u8>,
    /// What the library must see: nothing where it must refuse the struct.
    pub(crate) seen: Option<T>,
}

impl<T: Copy> Versioned<T> {
    /// A struct of this version or an earlier one, whose first had `first` bytes; of a later one; or none at
    /// all. Every size that is a multiple of the alignment may be one's.
    pub(crate) fn draw(u: &mut Unstructured<'_>, value: T, first: usize) -> Drawn<Self> {
        let (ours, alignment) = (size_of::<T>(), align_of::<T>());
        let later = ours + alignment * usize::from(u8::arbitrary(u)? % 8);
        let (size, tail, offset) = match u8::arbitrary(u)? {
            0 => return Ok(Self { memory: Column::absent(), seen: None }),
            1 => (ours, 0, u.int_in_range(1..=alignment - 1)?),
            2 | 3 => (u.int_in_range(0..=ours)?, 0, 0),
            4 => (u.arbitrary()?, 0, 0),
            5..=8 => (first + alignment * u.int_in_range(0..=(ours - first) / alignment)?, 0, 0),
            9 => (later, 0, 0),
            10 => (later, u.arbitrary()?, 0),
            _ => (ours, 0, 0),
        };
        let is_known = (first..=4096).contains(&size) && size.is_multiple_of(alignment);
        // Of what is no struct, its size alone can be read.
        let bytes = if is_known { size } else { size_of::<usize>().max(size.min(ours)) };
        let memory = Column::<u8>::zeroed(bytes, offset);
        let known = bytes.min(ours);
        // SAFETY: that many bytes are there on both sides; the size comes first in every struct.
        unsafe {
            std::ptr::copy_nonoverlapping((&raw const value).cast::<u8>(), memory.at_mut(), known);
            memory.at_mut().cast::<usize>().write_unaligned(size);
            if bytes > ours {
                memory.at_mut().add(bytes - 1).write(tail);
            }
        }
        let is_later = bytes > ours && tail != 0;
        let seen = (is_known && !is_later && offset == 0).then(|| {
            // SAFETY: every field of a struct of this interface may be zero.
            let mut seen = unsafe { std::mem::zeroed::<T>() };
            // SAFETY: as above, and the first field is the size.
            unsafe {
                let to = (&raw mut seen).cast::<u8>();
                std::ptr::copy_nonoverlapping(memory.at(), to, known);
            }
            seen
        });
        Ok(Self { memory, seen })
    }

    pub(crate) fn at(&self) -> *mut T {
        self.memory.at_mut().cast()
    }

    /// What is there now, as far as this version knows it.
    pub(crate) fn read(&self) -> T {
        // SAFETY: every field of a struct of this interface may be zero.
        let mut found = unsafe { std::mem::zeroed::<T>() };
        let known = self.memory.len.min(size_of::<T>());
        // SAFETY: that many bytes are there on both sides.
        unsafe { std::ptr::copy_nonoverlapping(self.memory.at(), (&raw mut found).cast::<u8>(), known) };
        found
    }
}
