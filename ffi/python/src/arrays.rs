//! Arrays of numpy: read once, while the caller has the GIL, into memory of our own.
//!
//! Of any layout: strides, order and alignment do not matter, since every entry is read as the bytes that it
//! is. What would have to be guessed is refused by name: another byte order, another type of entry, a mask.

use half::f16;
use numpy::{PyArray1, PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;

use crate::errors::Failure;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    F16,
    F32,
    F64,
    Bool,
}

/// Finds numpy. Its functions are looked up once, by code of Python's: here and not by the first call, whose
/// signal handler might ask for the same.
pub(crate) fn begin(py: Python<'_>) -> PyResult<()> {
    // An import that fails says so; a look-up that fails would panic.
    py.import("numpy")?;
    let made = PyArray1::<u32>::zeros(py, 1, false);
    made.as_any().cast::<PyUntypedArray>()?;
    Ok(())
}

fn refused(name: &'static str, expected: impl Into<String>, found: impl Into<String>) -> Failure {
    Failure::Argument { kind: "Array", name, index: None, expected: expected.into(), found: found.into() }
}

fn type_name(of: &Bound<'_, PyAny>) -> String {
    of.get_type().name().map_or_else(|_| "something else".to_owned(), |name| name.to_string())
}

/// An array whose entries are what their bytes say, and which bytes these are; `Kind` is none for a type that
/// no argument takes.
fn plain<'a, 'py>(
    name: &'static str,
    argument: &'a Bound<'py, PyAny>,
    expected: &str,
) -> Result<(&'a Bound<'py, PyUntypedArray>, Option<Kind>), Failure> {
    let Ok(array) = argument.cast::<PyUntypedArray>() else {
        return Err(refused(name, expected, type_name(argument)));
    };
    // Of what is derived, one kind means something else by its entries than they say.
    if !argument.is_exact_instance_of::<PyUntypedArray>() {
        let masked = argument.py().import("numpy.ma")?.getattr("MaskedArray")?;
        if argument.is_instance(&masked)? {
            return Err(refused(name, "an array without a mask", type_name(argument)));
        }
    }
    let dtype = array.dtype();
    if dtype.is_native_byteorder() == Some(false) {
        return Err(refused(name, "the byte order of this machine", dtype.to_string()));
    }
    let kind = match (dtype.kind(), dtype.itemsize()) {
        (b'i', 1) => Some(Kind::I8),
        (b'i', 2) => Some(Kind::I16),
        (b'i', 4) => Some(Kind::I32),
        (b'i', 8) => Some(Kind::I64),
        (b'u', 1) => Some(Kind::U8),
        (b'u', 2) => Some(Kind::U16),
        (b'u', 4) => Some(Kind::U32),
        (b'u', 8) => Some(Kind::U64),
        (b'f', 2) => Some(Kind::F16),
        (b'f', 4) => Some(Kind::F32),
        (b'f', 8) => Some(Kind::F64),
        (b'b', 1) => Some(Kind::Bool),
        _ => None,
    };
    Ok((array, kind))
}

fn data_of(array: &Bound<'_, PyUntypedArray>) -> *const u8 {
    // SAFETY: a live array object.
    unsafe { (*array.as_array_ptr()).fields.data.cast_const().cast::<u8>() }
}

/// A one-dimensional array, borrowed while Python waits for us: nobody who needs the GIL can change it
/// meanwhile.
pub(crate) struct Column<'a, 'py> {
    array: &'a Bound<'py, PyUntypedArray>,
    name: &'static str,
    data: *const u8,
    stride: isize,
    len: usize,
    kind: Kind,
}

impl<'a, 'py> Column<'a, 'py> {
    /// The array in an argument, `len` entries long if that is known already.
    pub(crate) fn new(
        name: &'static str,
        argument: &'a Bound<'py, PyAny>,
        len: Option<usize>,
    ) -> Result<Self, Failure> {
        const EXPECTED: &str = "a one-dimensional numpy array";
        let (array, kind) = plain(name, argument, EXPECTED)?;
        let ([found], [stride]) = (array.shape(), array.strides()) else {
            return Err(refused(name, EXPECTED, format!("{} dimensions", array.ndim())));
        };
        if let Some(len) = len.filter(|len| len != found) {
            return Err(refused(name, format!("{len} entries"), found.to_string()));
        }
        let kind = kind.ok_or_else(|| refused(name, "whole numbers", array.dtype().to_string()))?;
        Ok(Self { array, name, data: data_of(array), stride: *stride, len: *found, kind })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Refuses more entries than anybody can mean: a view may show more of them than memory holds.
    pub(crate) fn at_most(&self, limit: usize) -> Result<(), Failure> {
        if self.len <= limit {
            return Ok(());
        }
        Err(refused(self.name, format!("at most {limit} entries"), self.len.to_string()))
    }

    /// Every entry as it lies in memory, which need not be aligned.
    ///
    /// # Safety
    /// `T` is what the entries are.
    unsafe fn entries<T: Copy>(&self) -> impl Iterator<Item = T> + '_ {
        // SAFETY: within the array, which lives as long as the borrow and is not changed while Python waits.
        (0..self.len as isize)
            .map(|at| unsafe { self.data.offset(at * self.stride).cast::<T>().read_unaligned() })
    }

    fn wrong_type(&self, expected: &str) -> Failure {
        refused(self.name, expected, self.array.dtype().to_string())
    }

    fn out_of_range(&self, index: usize, limit: u64, found: i128) -> Failure {
        let expected = format!("a number in 0..={limit}");
        let found = found.to_string();
        Failure::Argument { kind: "Range", name: self.name, index: Some(index), expected, found }
    }

    /// Gives every entry to `f`; a negative one, or one above `limit`, is refused.
    pub(crate) fn whole(&self, limit: u64, mut f: impl FnMut(usize, u64)) -> Result<(), Failure> {
        macro_rules! each {
            ($($kind:ident $type:ty),*) => {
                // SAFETY (every line): the type of the kind.
                match self.kind {
                    $(Kind::$kind => {
                        // SAFETY: see above.
                        for (at, found) in unsafe { self.entries::<$type>() }.enumerate() {
                            match u64::try_from(found) {
                                Ok(value) if value <= limit => f(at, value),
                                _ => return Err(self.out_of_range(at, limit, found.into())),
                            }
                        }
                        Ok(())
                    })*
                    _ => Err(self.wrong_type("whole numbers")),
                }
            };
        }
        each!(I8 i8, I16 i16, I32 i32, I64 i64, U8 u8, U16 u16, U32 u32, U64 u64)
    }

    /// Gives every entry to `f`, which may refuse it.
    pub(crate) fn signed(&self, mut f: impl FnMut(usize, i64) -> Result<(), Failure>) -> Result<(), Failure> {
        macro_rules! each {
            ($($kind:ident $type:ty),*) => {
                // SAFETY (every line): the type of the kind.
                match self.kind {
                    $(Kind::$kind => {
                        // SAFETY: see above.
                        let mut entries = unsafe { self.entries::<$type>() }.enumerate();
                        entries.try_for_each(|(at, found)| f(at, i64::try_from(found).unwrap_or(i64::MAX)))
                    })*
                    _ => Err(self.wrong_type("whole numbers")),
                }
            };
        }
        each!(I8 i8, I16 i16, I32 i32, I64 i64, U8 u8, U16 u16, U32 u32, U64 u64)
    }

    /// Gives every entry to `f`, where a negative entry, or the greatest of an unsigned type, is none.
    pub(crate) fn optional(&self, limit: u64, mut f: impl FnMut(usize, Option<u64>)) -> Result<(), Failure> {
        macro_rules! each {
            ($($kind:ident $type:ty),*) => {
                // SAFETY (every line): the type of the kind.
                match self.kind {
                    $(Kind::$kind => {
                        // SAFETY: see above.
                        for (at, found) in unsafe { self.entries::<$type>() }.enumerate() {
                            match u64::try_from(found) {
                                Err(_) => f(at, None),
                                Ok(_) if <$type>::MIN == 0 && found == <$type>::MAX => f(at, None),
                                Ok(value) if value <= limit => f(at, Some(value)),
                                Ok(_) => return Err(self.out_of_range(at, limit, found.into())),
                            }
                        }
                        Ok(())
                    })*
                    _ => Err(self.wrong_type("whole numbers")),
                }
            };
        }
        each!(I8 i8, I16 i16, I32 i32, I64 i64, U8 u8, U16 u16, U32 u32, U64 u64)
    }

    /// Gives every entry of a column of real numbers to `f`.
    pub(crate) fn real(&self, mut f: impl FnMut(usize, f32)) -> Result<(), Failure> {
        match self.kind {
            Kind::F32 => {
                // SAFETY: the type of the kind.
                unsafe { self.entries::<f32>() }.enumerate().for_each(|(at, value)| f(at, value));
                Ok(())
            }
            Kind::F64 => {
                // SAFETY: the type of the kind.
                unsafe { self.entries::<f64>() }.enumerate().for_each(|(at, value)| f(at, value as f32));
                Ok(())
            }
            _ => Err(self.wrong_type("float32 or float64")),
        }
    }

    /// Appends a row of bonuses; half precision is widened exactly.
    pub(crate) fn bonuses(&self, into: &mut Vec<f32>) -> Result<(), Failure> {
        match self.kind {
            // SAFETY: the type of the kind.
            Kind::F32 => into.extend(unsafe { self.entries::<f32>() }),
            // SAFETY: the type of the kind.
            Kind::F16 => into.extend(unsafe { self.entries::<f16>() }.map(f16::to_f32)),
            _ => return Err(self.wrong_type("float32 or float16")),
        }
        Ok(())
    }

    /// Gives every entry of a column of flags to `f`.
    pub(crate) fn flags(&self, mut f: impl FnMut(usize, bool)) -> Result<(), Failure> {
        match self.kind {
            Kind::Bool | Kind::U8 => {
                // SAFETY: both are a byte, and any byte is a u8.
                unsafe { self.entries::<u8>() }.enumerate().for_each(|(at, value)| f(at, value != 0));
                Ok(())
            }
            _ => Err(self.wrong_type("bool or uint8")),
        }
    }
}

/// A two-dimensional array, borrowed as a [`Column`] is, to be read row by row.
pub(crate) struct Matrix<'a, 'py> {
    array: &'a Bound<'py, PyUntypedArray>,
    name: &'static str,
    data: *const u8,
    strides: [isize; 2],
    rows: usize,
    columns: usize,
    kind: Kind,
}

impl<'a, 'py> Matrix<'a, 'py> {
    fn new(
        name: &'static str,
        argument: &'a Bound<'py, PyAny>,
        kinds: &[Kind],
        expected: &str,
    ) -> Result<Self, Failure> {
        let expected = || format!("a two-dimensional numpy array of {expected}");
        let (array, kind) = plain(name, argument, &expected())?;
        let found = || format!("{} dimensions of {}", array.ndim(), array.dtype());
        let kind =
            kind.filter(|kind| kinds.contains(kind)).ok_or_else(|| refused(name, expected(), found()))?;
        let (&[rows, columns], &[down, along]) = (array.shape(), array.strides()) else {
            return Err(refused(name, expected(), found()));
        };
        Ok(Self { array, name, data: data_of(array), strides: [down, along], rows, columns, kind })
    }

    /// Of 64-bit whole numbers.
    pub(crate) fn whole(name: &'static str, argument: &'a Bound<'py, PyAny>) -> Result<Self, Failure> {
        Self::new(name, argument, &[Kind::U64], "uint64")
    }

    /// Of real numbers in single precision.
    pub(crate) fn single(name: &'static str, argument: &'a Bound<'py, PyAny>) -> Result<Self, Failure> {
        Self::new(name, argument, &[Kind::F32], "float32")
    }

    /// Of real numbers in single or half precision.
    pub(crate) fn bonuses(name: &'static str, argument: &'a Bound<'py, PyAny>) -> Result<Self, Failure> {
        Self::new(name, argument, &[Kind::F32, Kind::F16], "float32 or float16")
    }

    /// Of flags, a byte each.
    pub(crate) fn flags(name: &'static str, argument: &'a Bound<'py, PyAny>) -> Result<Self, Failure> {
        Self::new(name, argument, &[Kind::Bool, Kind::U8], "bool or uint8")
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    pub(crate) fn is_half(&self) -> bool {
        self.kind == Kind::F16
    }

    /// Refuses another shape; `None` stands for any number.
    pub(crate) fn shaped(&self, rows: Option<usize>, columns: Option<usize>) -> Result<(), Failure> {
        let fits = |expected: Option<usize>, found: usize| expected.is_none_or(|expected| expected == found);
        if fits(rows, self.rows) && fits(columns, self.columns) {
            return Ok(());
        }
        let text = |count: Option<usize>| count.map_or_else(|| "any".to_owned(), |count| count.to_string());
        let found = format!("({}, {})", self.rows, self.columns);
        Err(refused(self.name, format!("shape ({}, {})", text(rows), text(columns)), found))
    }

    /// Refuses more rows than anybody can mean: a view may show more of them than memory holds.
    pub(crate) fn at_most(&self, rows: usize) -> Result<(), Failure> {
        if self.rows <= rows {
            return Ok(());
        }
        Err(refused(self.name, format!("at most {rows} rows"), self.rows.to_string()))
    }

    /// All entries, row by row; `out` is cleared first.
    ///
    /// # Safety
    /// `T` is what the entries are.
    unsafe fn read<T: Copy>(&self, out: &mut Vec<T>) -> Result<(), Failure> {
        out.clear();
        let room = self.rows.checked_mul(self.columns).filter(|&count| out.try_reserve(count).is_ok());
        let count = room.ok_or_else(|| {
            refused(
                self.name,
                "as many entries as memory holds",
                format!("({}, {})", self.rows, self.columns),
            )
        })?;
        if count == 0 {
            return Ok(());
        }
        if self.array.is_c_contiguous() {
            // SAFETY: `count` entries lie at `data` one after the other, aligned or not, and as many were
            // made room for.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    self.data,
                    out.as_mut_ptr().cast::<u8>(),
                    count * size_of::<T>(),
                );
                out.set_len(count);
            }
            return Ok(());
        }
        let [down, along] = self.strides;
        for row in 0..self.rows as isize {
            // SAFETY: within the array, which lives as long as the borrow and is not changed while Python
            // waits.
            out.extend((0..self.columns as isize).map(|column| unsafe {
                self.data.offset(row * down + column * along).cast::<T>().read_unaligned()
            }));
        }
        Ok(())
    }

    /// All entries of a matrix of [`Matrix::whole`] numbers.
    pub(crate) fn read_whole(&self, out: &mut Vec<u64>) -> Result<(), Failure> {
        assert!(self.kind == Kind::U64);
        // SAFETY: the type of the kind.
        unsafe { self.read(out) }
    }

    /// All entries in single precision.
    pub(crate) fn read_single(&self, out: &mut Vec<f32>) -> Result<(), Failure> {
        assert!(self.kind == Kind::F32);
        // SAFETY: the type of the kind.
        unsafe { self.read(out) }
    }

    /// All entries in half precision.
    pub(crate) fn read_half(&self, out: &mut Vec<f16>) -> Result<(), Failure> {
        assert!(self.kind == Kind::F16);
        // SAFETY: the type of the kind.
        unsafe { self.read(out) }
    }

    /// Flags as bits, 64 to a word, each row from a word of its own on; any byte but 0 is true.
    pub(crate) fn read_bits(&self, bytes: &mut Vec<u8>, words: &mut Vec<u64>) -> Result<(), Failure> {
        assert!(matches!(self.kind, Kind::Bool | Kind::U8));
        // SAFETY: both are a byte, and any byte is a u8.
        unsafe { self.read(bytes) }?;
        words.clear();
        for row in bytes.chunks(self.columns.max(1)) {
            words.extend(row.chunks(64).map(word_of));
        }
        Ok(())
    }
}

/// Up to 64 flags as the bits of a word, the first one lowest.
fn word_of(flags: &[u8]) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let (eights, rest) = flags.as_chunks::<8>();
    let rest = rest.iter().enumerate().fold(0, |bits, (at, &flag)| bits | u64::from(flag != 0) << at);
    let word = rest.checked_shl(8 * eights.len() as u32).unwrap_or(0);
    eights.iter().enumerate().fold(word, |word, (at, &eight)| {
        let eight = u64::from_le_bytes(eight);
        // The highest bit of every byte that is not zero, and these as the eight bits of one.
        let set = (((eight & LOW) + LOW) | eight) & !LOW;
        word | (((set >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * at))
    })
}
