//! The learned class-level perturbation on the emulated device, against the f64 reference and an evaluation that shares no code with the crate
//! (`common::softmax`), at the accuracy of SPEC 6: every split, bound, step, fixed form, element type and outer option; classes that a
//! warp, a block or a gang of blocks takes, on chip and streamed, in shared and in global memory.

#[path = "emulated_learn/columns.rs"]
mod columns;
#[allow(dead_code, reason = "the multi-label half")]
mod common;
#[path = "emulated_learn/corners.rs"]
mod corners;
#[path = "common/devices.rs"]
mod devices;
#[path = "common/draw.rs"]
mod draw;
#[path = "emulated_learn/run.rs"]
mod run;
#[path = "emulated_learn/structure.rs"]
mod structure;
#[path = "emulated_learn/teams.rs"]
mod teams;
#[path = "common/tiny.rs"]
#[allow(dead_code, reason = "the regimes of cross-entropy are not the learner's")]
mod tiny;
#[path = "emulated_learn/values.rs"]
mod values;
