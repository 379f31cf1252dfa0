//! The CUDA backend. The driver is loaded at run time: without one, everything here is a typed error and nothing panics.

mod availability;

pub use availability::{Device, devices, is_available};
