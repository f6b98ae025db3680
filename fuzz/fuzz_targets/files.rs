//! Bytes are a file that the simulator reads; each is taken or refused.
#![no_main]

#[path = "../bodies/files.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    body::files(data);
});
