//! The multi-label learner on the emulated device, against the f64 reference at the accuracy of SPEC 6: every split, bound, step, fixed form,
//! element type, target format, mask and outer option, strips that are kept, kept in part, and read again for every step.

#[path = "emulated_binary/case.rs"]
#[allow(dead_code, reason = "what only the fixed perturbations' tests use")]
mod case;
#[path = "emulated_binary_learn/corners.rs"]
mod corners;
#[path = "common/devices.rs"]
mod devices;
#[path = "common/draw.rs"]
mod draw;
#[path = "emulated_binary_learn/run.rs"]
mod run;
#[path = "emulated_binary_learn/shards.rs"]
mod shards;
#[path = "emulated_binary_learn/structure.rs"]
mod structure;
#[path = "emulated_binary_learn/values.rs"]
mod values;
