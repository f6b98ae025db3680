//! The Ascend NPU: batches packed for the device kernel, and its picks brought back.

pub mod blob;
pub mod offload;
