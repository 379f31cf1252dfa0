//! The kernels on a CUDA device. Without one the tests are shown as ignored, and fail where `LOGIT_PERTURB_REQUIRE` lists `gpu`.
//!
//! Those with `sanitize` in their names are the reduced set that also runs under compute-sanitizer.

#[path = "cuda/arguments.rs"]
mod arguments;
#[path = "cuda/batch.rs"]
mod batch;
#[path = "cuda/binary.rs"]
mod binary;
#[path = "cuda/binary_learned.rs"]
mod binary_learned;
#[path = "cuda/corners.rs"]
mod corners;
#[path = "cuda/device.rs"]
mod device;
#[path = "cuda/errors.rs"]
mod errors;
#[path = "cuda/graphs.rs"]
mod graphs;
#[path = "cuda/large.rs"]
mod large;
#[path = "cuda/learned.rs"]
mod learned;
#[allow(dead_code, reason = "what runs on the emulated device is not needed here")]
#[path = "emulated_binary_learn/run.rs"]
mod learned_run;
#[path = "cuda/options.rs"]
mod options;
#[path = "cuda/outputs.rs"]
mod outputs;
#[path = "../examples/check/run.rs"]
mod run;
#[path = "cuda/streams.rs"]
mod streams;
#[path = "cuda/values.rs"]
mod values;

use binary::case;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A test: its name and what it does.
type Test = (&'static str, fn() -> Result<(), Failed>);
/// A test that learns only when it runs whether the device is fit for it.
type Demanding = (&'static str, fn() -> Result<Completion, Failed>);

const TESTS: &[Test] = &[
    ("golden_cases", golden_cases),
    ("sanitize_every_regime_alignment_and_place_agrees_with_the_reference", values::every_regime_alignment_and_place),
    ("sanitize_reductions_scales_and_perturbations_agree_with_the_reference", values::reductions_and_perturbations),
    ("sanitize_label_types_agree", values::label_types),
    ("sanitize_half_types_agree_with_the_reference", values::half_types),
    ("sanitize_everything_at_once_agrees_with_the_reference", options::everything_at_once),
    ("sanitize_class_statistics_agree_and_start_over", outputs::class_statistics),
    ("sanitize_predictions_are_the_lowest_of_the_largest", outputs::predictions),
    ("sanitize_values_that_are_not_finite_stay_in_their_rows", corners::not_finite),
    ("sanitize_no_row_one_class_and_all_ignored", corners::empty_and_ignored),
    ("sanitize_bad_labels_are_recorded_until_checked", corners::bad_labels),
    ("sanitize_label_pre_pass", corners::label_pre_pass),
    ("long_rows_agree_with_the_reference", values::long_rows),
    ("forms_of_perturbations_agree_with_the_reference", options::forms),
    ("targets_scales_and_weights_agree_with_the_reference", options::targets_and_weights),
    ("divisors_and_upstreams_of_host_and_device_agree_with_the_reference", options::divisors_and_upstreams),
    ("gradients_from_what_was_saved_agree_with_the_reference", outputs::backward_from_saved),
    ("gradients_from_what_was_not_saved_are_refused", outputs::backward_without_saved),
    ("batches_of_many_tiles_agree_with_the_reference", values::many_tiles),
    ("confident_rows_keep_their_gradient", values::confident_rows),
    ("repeated_runs_are_bit_equal", values::repeated_runs),
    ("in_place_equals_into_another_buffer", values::in_place_equals_into),
    ("rows_do_not_depend_on_the_grid", values::rows_do_not_depend_on_the_grid),
    ("sanitize_graphs_hold_the_kernels_and_nothing_else", graphs::nodes_are_the_kernels),
    ("sanitize_graphs_replay_with_new_labels", graphs::replay_with_new_labels),
    ("graphs_replay_with_new_divisors_and_upstreams", graphs::replay_with_new_numbers),
    ("graphs_outlive_the_operation", graphs::outlive_the_operation),
    ("captures_under_event_tracking_are_refused", graphs::refused_under_event_tracking),
    ("other_streams_are_waited_for", streams::other_streams_are_waited_for),
    ("enqueueing_neither_allocates_nor_waits", streams::enqueueing_neither_allocates_nor_waits),
    ("operations_may_move_to_another_thread", streams::another_thread),
    ("sanitize_errors_leave_the_context_usable", errors::before_launch),
    ("wrong_arguments_of_a_batch_are_named", arguments::of_a_batch),
    ("class_vectors_of_a_batch_take_the_problems_place", arguments::class_vectors_of_a_batch),
    ("sanitize_multi_label_formats_and_places_agree", binary::formats_and_places),
    ("sanitize_multi_label_options_agree", binary::options),
    ("sanitize_multi_label_corner_cases", binary::corners),
    ("sanitize_bad_targets_are_recorded_until_checked", binary::bad_targets),
    ("sanitize_multi_label_graphs_replay_with_new_targets", binary::graphs),
    ("sanitize_multi_label_errors_leave_the_operation_usable", binary::errors),
    ("sanitize_learned_multi_label_batches_agree", binary_learned::batches),
    ("strips_that_are_read_again_for_every_step_agree", binary_learned::streamed),
    ("learned_multi_label_batches_are_bit_equal", binary_learned::repeated),
    ("sanitize_soft_targets_of_a_learner_are_recorded", binary_learned::soft_targets),
    ("sanitize_multi_label_shards_share_their_confidences", binary_learned::shards),
    ("multi_label_learners_out_of_range_are_refused", binary_learned::errors),
    ("sanitize_learned_classes_of_every_team_agree", learned::every_team),
    ("sanitize_learned_graphs_take_new_bounds", learned::graphs_take_new_bounds),
    ("learned_shards_share_their_confidences", learned::shards),
    ("devices_are_named", errors::devices_are_named),
    ("memory_that_cannot_be_had_is_an_error", errors::out_of_memory),
];

const DEMANDING: &[Demanding] = &[
    ("rows_more_than_two_to_the_31_elements_apart", large::rows_far_apart),
    ("batches_of_more_than_two_to_the_31_elements", large::more_elements),
];

/// Counts what the program allocates: an enqueue must not.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every request is handed to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often memory was allocated so far; growing it counts too.
fn allocations() -> usize {
    ALLOCATIONS.load(Ordering::Relaxed)
}

fn main() {
    let mut arguments = Arguments::from_args();
    // A capture in global mode refuses what other threads ask of the driver at the same time.
    arguments.test_threads = Some(1);
    let required = std::env::var("LOGIT_PERTURB_REQUIRE").is_ok_and(|list| list.split(',').any(|name| name == "gpu"));
    if required {
        arguments.ignored = false;
    }
    let ignored = !required && !logit_perturb::cuda::is_available();
    let tests = TESTS.iter().map(|&(name, test)| Trial::test(name, test));
    let demanding = DEMANDING.iter().map(|&(name, test)| Trial::ignorable_test(name, test));
    let trials = tests.chain(demanding).map(|trial| trial.with_ignored_flag(ignored)).collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// Every golden case that the emulated device passes, this one does too.
fn golden_cases() -> Result<(), Failed> {
    let folder = std::env::var_os("LOGIT_PERTURB_GOLDEN")
        .unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden").into());
    let files = std::fs::read_dir(&folder)?.map(|entry| Ok(entry?.path().into_os_string()));
    let files = files.collect::<Result<Vec<_>, std::io::Error>>()?;
    let check = |backend: &str| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let options = ["check", "--backend", backend].map(Into::into);
        let status = run::run(options.into_iter().chain(files.clone()), &mut out, &mut err);
        (status, String::from_utf8_lossy(&out).into_owned(), String::from_utf8_lossy(&err).into_owned())
    };
    let counts = |out: &str| out.lines().rev().take(2).map(str::to_owned).collect::<Vec<_>>();
    let ((status, out, err), (_, emulated, _)) = (check("cuda"), check("emulated"));
    if status != 0 || counts(&out) != counts(&emulated) || out.contains("\n0 passed") {
        return Err(format!("exit status {status}\n{out}{err}").into());
    }
    Ok(())
}
