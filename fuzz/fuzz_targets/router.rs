//! Bytes are calls to a router; whatever is refused has changed nothing, and whoever was let in leaves once.
#![no_main]

#[path = "../bodies/router.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    body::route(data);
});
