//! Bytes are a trace file; the reader takes it or refuses it.
#![no_main]

#[path = "../bodies/trace.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    body::trace(data);
});
