//! Bytes are calls of the C interface to a router; each answers as the Rust interface does.
#![no_main]

#[path = "../bodies/capi.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    body::calls(data);
});
