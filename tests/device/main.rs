//! What belongs to the Ascend device, beside the kernel on its model (`kernel/`) and the host's path over a
//! fake runtime (`runtime.rs`, `allocation.rs`), each of which is a program of its own.

#[cfg(feature = "regen-bindings")]
mod bindings;
mod build_script;
mod contract;
#[cfg(feature = "ascend")]
mod cpu_mode;
#[cfg(feature = "ascend")]
mod real;
#[cfg(feature = "ascend")]
mod support;
