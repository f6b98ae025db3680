//! Who evaluates: the kernels of this machine's CPU.

pub mod cpu;
