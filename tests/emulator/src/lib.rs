//! The CUDA execution model on the CPU: the kernels of `logit-perturb` as they are, compiled by the host's C++ compiler, run under a
//! seeded random scheduler.
//!
//! - **Threads** are fibers. Barriers, shuffles, fences, atomics and some accesses hand over to a thread that the seed chooses. A barrier or
//!   shuffle to which some never come, and threads that wait for ever, are faults with the line they happened at.
//! - **Blocks**: a chosen number is resident at a time, each with shared memory of its own, which holds NaN before and after. Those of a
//!   cluster are resident together and read each other's while they run; a read of one that has ended is a fault.
//! - **Stores** to global memory reach other blocks at a fence or a barrier of the cluster, or late and in any order; other threads of the
//!   block after a barrier.
//! - **Accesses** through the primitives of `kernels/prelude.cuh` are checked against the buffers' rows, and counted where a buffer is
//!   watched: by element, and in 32-byte sectors a warp. A faulty access is reported and not executed.
//! - **The approximate exponential** is off by up to two units in the last place.
//!
//! Plain C++ accesses (shared memory, locals) are the compiler's: the sanitizers check those, in `scripts/sanitize.sh`, which replays
//! launches that were recorded ([`Options::record`]). Early loads, the caches' staleness and time are not modelled.
//!
//! ```
//! use bytemuck::bytes_of;
//! use logit_perturb::kernel::{
//!     Addresses, DType, ErrorWord, Form, LabelType, Limits, Plan, Sequence, Shape, Tally, Totals, Values, Variant, WorkspaceSizes,
//! };
//! use logit_perturb::{CrossEntropy, Reduction};
//! use logit_perturb_emulator::{Emulator, Layout, Options};
//!
//! // So little that 20 rows of 70 classes are a batch to tally first, and several tiles a block.
//! let limits = Limits {
//!     multiprocessors: 2, shared_memory: 4096, row_shared: 4096, multiprocessor_shared: 8192, cluster: 2, resident_threads: 128,
//!     resident_blocks: 2, block_threads: 64, labels_in_block: 16, chunks: 8,
//! };
//! let (rows, classes) = (20, 70);
//! let plan = Plan::new(Form { aligned: false, ..Form::plain(DType::F32, classes) }, limits);
//! let mut emulator = Emulator::new(Options { seed: 7, ..Options::default() });
//! let memory = &mut emulator.memory;
//!
//! // Rows 71 elements apart; what lies between them is not to be touched. The gradient goes in place.
//! let logits = memory.upload_rows(&vec![0.5f32; rows * classes], Layout::dense(rows, classes).stride(71));
//! memory.watch(logits);
//! let mut labels = vec![3i64; rows];
//! labels[1] = -100; // ignored
//! labels[4] = 70; // bad
//! let labels = memory.upload(&labels);
//! memory.read_only(labels);
//! let sizes = WorkspaceSizes::of([&plan], rows);
//! let (loss, error) = (memory.poisoned::<f32>(1), memory.upload(&[ErrorWord::default()]));
//! let at = Addresses {
//!     logits: logits.address(),
//!     gradient: logits.address(),
//!     labels: labels.address(),
//!     loss: loss.address(),
//!     partials: memory.poisoned::<f64>(sizes.partials).address(),
//!     tallies: memory.poisoned::<Tally>(sizes.chunks).address(),
//!     totals: memory.poisoned::<Totals>(1).address(),
//!     tickets: memory.upload(&[0u32; 3]).address(),
//!     error: error.address(),
//!     ..Addresses::default()
//! };
//!
//! let problem = CrossEntropy::builder().reduction(Reduction::Mean).build()?;
//! let shape = Shape { rows, classes, logits_stride: 71, gradient_stride: 71, label_type: LabelType::I64 };
//! let sequence = Sequence::new(&problem, &plan, &at, shape, Values::default());
//! if let Some((geometry, args)) = &sequence.tally {
//!     emulator.launch(&Variant::Tally, *geometry, bytes_of(args))?;
//! }
//! let (geometry, args) = &sequence.main;
//! let report = emulator.launch(&plan.variant, *geometry, bytes_of(args))?;
//!
//! let mean = emulator.memory.download(loss)[0];
//! assert!((mean - 70f32.ln()).abs() < 1e-5);
//! let gradient = emulator.memory.download(logits);
//! assert!((gradient[3] - (1.0 / 70.0 - 1.0) / 18.0).abs() < 1e-6);
//! assert_eq!(emulator.memory.download(error)[0], ErrorWord { bad_labels: 1, first_row: 4, first_label: 70 });
//! assert!(report.traffic(logits).writes.iter().all(|writes| *writes == 1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod binary_learn_operation;
mod binary_operation;
mod elements;
mod emulator;
mod fault;
mod ffi;
mod learn_operation;
mod memory;
mod operation;
mod place;
mod record;
mod report;
mod statistics;

pub use binary_learn_operation::{LearnedBinary, LearnedBinarySign};
pub use binary_operation::{BinaryBatch, BinaryOperation, BinaryOutcome, BinaryStatistics, DeviceTargets, PackedMask};
pub use emulator::{Emulator, Options};
pub use fault::{Fault, FaultKind, Faults};
pub use learn_operation::{LearnInputs, LearnOperation, LearnOutcome};
pub use memory::{Buffer, Layout, Memory};
pub use operation::{Batch, Beside, Given, Gradient, Operation, Outcome, Rows};
pub use report::{Report, Sectors, Traffic};
pub use statistics::Statistics;

/// Where the build left the kernels as C++ files, one a variant: `scripts/sanitize.sh` compiles them again.
pub const GENERATED_SOURCES: &str = env!("EMULATOR_GENERATED");
