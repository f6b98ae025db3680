//! Bytes are arrays and structs of a caller of the C interface; the answer is the oracle's on what they mean.
#![no_main]

#[path = "../bodies/arrays.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    body::arrays(data);
});
