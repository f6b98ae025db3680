//! The C ABI: `include/balanceroute.h` is made from this file by cbindgen.
//!
//! Everything that crosses is a plain struct of arrays that the caller owns; the library keeps no pointer
//! after a call and no state outside its handles. Panics stop at the guard.

#![allow(non_camel_case_types, reason = "the names of the header")]

mod assign;
mod columns;
mod guard;
mod router;

pub use assign::{
    br_assign, br_assigner, br_assigner_describe, br_assigner_error, br_assigner_free, br_assigner_new,
};
pub use columns::{br_answer, br_batch, br_reason, br_requests, br_workers};
pub use guard::{br_options, br_status};
pub use router::*;

/// Version of this interface: the major number in the upper 16 bits changes when a caller must be changed,
/// the minor number below when something is added.
pub const BR_ABI_VERSION: u32 = 1 << 16 | 4;
/// In a `uint32_t` array: no value for this entry.
pub const BR_NONE: u32 = u32::MAX;
/// In a `uint64_t` array: no value for this entry.
pub const BR_NONE64: u64 = u64::MAX;

/// The `BR_ABI_VERSION` of the library at hand: its major number must be the header's, its minor number at
/// least the header's.
#[unsafe(no_mangle)]
pub extern "C" fn br_abi_version() -> u32 {
    BR_ABI_VERSION
}

/// The version of the library, such as "0.1.0"; never freed.
#[unsafe(no_mangle)]
pub extern "C" fn br_version() -> *const std::ffi::c_char {
    const VERSION: &std::ffi::CStr =
        match std::ffi::CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => unreachable!(),
        };
    VERSION.as_ptr()
}
