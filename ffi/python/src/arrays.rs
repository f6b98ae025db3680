//! Columns of numpy, read where they lie.

use numpy::{
    Element, PyArray2, PyArrayDescrMethods, PyArrayMethods, PyReadonlyArray2, PyUntypedArray,
    PyUntypedArrayMethods,
};
use pyo3::prelude::*;

use crate::errors::Failure;

#[derive(Clone, Copy)]
enum Kind {
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    F32,
    F64,
    Bool,
}

/// A one-dimensional array, borrowed while Python waits for us: nobody can change it meanwhile.
pub(crate) struct Column<'a> {
    array: &'a Bound<'a, PyUntypedArray>,
    name: &'static str,
    data: *const u8,
    stride: isize,
    len: usize,
    kind: Kind,
}

fn refused(name: &'static str, expected: impl Into<String>, found: impl Into<String>) -> Failure {
    Failure::Argument { kind: "Array", name, index: None, expected: expected.into(), found: found.into() }
}

fn type_name(of: &Bound<'_, PyAny>) -> String {
    of.get_type().name().map_or_else(|_| "something else".to_owned(), |name| name.to_string())
}

impl<'a> Column<'a> {
    /// The array in an argument, `len` entries long if that is known already.
    pub(crate) fn new(
        name: &'static str,
        argument: &'a Bound<'a, PyAny>,
        len: Option<usize>,
    ) -> Result<Self, Failure> {
        const EXPECTED: &str = "a one-dimensional numpy array";
        let Ok(array) = argument.cast::<PyUntypedArray>() else {
            return Err(refused(name, EXPECTED, type_name(argument)));
        };
        let ([found], [stride]) = (array.shape(), array.strides()) else {
            return Err(refused(name, EXPECTED, format!("{} dimensions", array.ndim())));
        };
        if let Some(len) = len.filter(|len| len != found) {
            return Err(refused(name, format!("{len} entries"), found.to_string()));
        }
        let dtype = array.dtype();
        let kind = match (dtype.kind(), dtype.itemsize()) {
            (b'i', 1) => Kind::I8,
            (b'i', 2) => Kind::I16,
            (b'i', 4) => Kind::I32,
            (b'i', 8) => Kind::I64,
            (b'u', 1) => Kind::U8,
            (b'u', 2) => Kind::U16,
            (b'u', 4) => Kind::U32,
            (b'u', 8) => Kind::U64,
            (b'f', 4) => Kind::F32,
            (b'f', 8) => Kind::F64,
            (b'b', 1) => Kind::Bool,
            _ => return Err(refused(name, "whole numbers", dtype.to_string())),
        };
        if dtype.is_native_byteorder() == Some(false) {
            return Err(refused(name, "the byte order of this machine", dtype.to_string()));
        }
        // SAFETY: a live array object.
        let data = unsafe { (*array.as_array_ptr()).fields.data.cast_const().cast::<u8>() };
        Ok(Self { array, name, data, stride: *stride, len: *found, kind })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
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

    /// The same where a negative entry, or the greatest of an unsigned type, is none.
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

/// A matrix that is used in place: contiguous rows of exactly this type.
pub(crate) fn matrix<'py, T: Element>(
    name: &'static str,
    argument: &Bound<'py, PyAny>,
    expected: &str,
) -> Result<PyReadonlyArray2<'py, T>, Failure> {
    let expected = || format!("a two-dimensional contiguous numpy array of {expected}");
    let array = argument.cast::<PyArray2<T>>().map_err(|_| {
        let found = match argument.cast::<PyUntypedArray>() {
            Ok(array) => format!("{} dimensions of {}", array.ndim(), array.dtype()),
            Err(_) => type_name(argument),
        };
        refused(name, expected(), found)
    })?;
    if !array.is_c_contiguous() {
        return Err(refused(name, expected(), "one that is not contiguous"));
    }
    array.try_readonly().map_err(|_| refused(name, expected(), "one that is being written"))
}

/// Refuses a matrix of another shape; `None` in `expected` stands for any number.
pub(crate) fn shaped(
    name: &'static str,
    shape: &[usize],
    rows: Option<usize>,
    columns: Option<usize>,
) -> Result<(), Failure> {
    let fits = |expected: Option<usize>, found: usize| expected.is_none_or(|expected| expected == found);
    if shape.len() == 2 && fits(rows, shape[0]) && fits(columns, shape[1]) {
        return Ok(());
    }
    let text = |count: Option<usize>| count.map_or_else(|| "any".to_owned(), |count| count.to_string());
    Err(refused(name, format!("shape ({}, {})", text(rows), text(columns)), format!("{shape:?}")))
}
