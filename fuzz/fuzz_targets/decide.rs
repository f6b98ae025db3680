//! Bytes are a batch; every policy answers it as the oracle does and keeps its promises.
#![no_main]

#[path = "../bodies/decide.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    body::decide(data);
});
