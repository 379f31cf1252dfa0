//! The `check` example as a user meets it: what it prints, its exit status, and files that are no cases.

#[path = "../examples/check/run.rs"]
mod run;

use logit_perturb::half::{bf16, f16};
use logit_perturb_cases::{Case, Precision, Values, compare};
use proptest::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/");

/// Runs `check` with these arguments: exit status, standard output, standard error.
fn check(arguments: &[&str]) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let arguments = std::iter::once("check").chain(arguments.iter().copied()).map(Into::into);
    let status = run::run(arguments, &mut out, &mut err);
    (status, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}

/// A file in the tests' own folder, a name for each test.
fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("check-{name}.safetensors"))
}

/// A golden case with its tensors changed by `edit`.
fn edited(name: &str, edit: impl Fn(Edit<'_>)) -> PathBuf {
    edited_with(name, edit, |problem| problem)
}

type Edit<'a> = &'a mut Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

fn edited_with(name: &str, edit: impl Fn(Edit<'_>), problem: impl Fn(String) -> String) -> PathBuf {
    let bytes = std::fs::read(format!("{GOLDEN}plain.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> = file
        .iter()
        .map(|(name, view)| (name.to_owned(), view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        .collect();
    edit(&mut tensors);
    let views =
        tensors.iter().map(|(name, dtype, shape, data)| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    let mut metadata: HashMap<String, String> =
        SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone().unwrap();
    let stated = metadata.remove("problem").unwrap();
    metadata.insert("problem".to_owned(), problem(stated));
    let path = scratch(name);
    safetensors::serialize_to_file(views, Some(metadata), &path).unwrap();
    path
}

fn check_file(path: &Path) -> (u8, String, String) {
    check(&[path.to_str().unwrap()])
}

#[test]
fn a_right_case_passes() {
    let (status, out, err) = check(&[&format!("{GOLDEN}plain.safetensors"), &format!("{GOLDEN}ldam.safetensors")]);
    assert_eq!((status, last_line(&out), err.as_str()), (0, "2 passed, 0 failed", ""));
    assert!(out.starts_with("ok     plain: 3 tensors compared; worst error: grad "), "{out}");
}

#[test]
fn a_wrong_number_fails_and_is_named() {
    let path = edited("wrong", |tensors| {
        let grad = tensors.iter_mut().find(|tensor| tensor.0 == "expect.grad").unwrap();
        grad.3[80..88].copy_from_slice(&0.5f64.to_le_bytes());
    });
    let (status, out, _) = check_file(&path);
    assert_eq!((status, last_line(&out)), (1, "0 passed, 1 failed"));
    assert!(out.contains("expect.grad [10] expected 5e-1"), "{out}");
}

#[test]
fn a_case_without_expectations_fails() {
    let path = edited("none", |tensors| tensors.retain(|tensor| !tensor.0.starts_with("expect.")));
    let (status, out, _) = check_file(&path);
    assert_eq!((status, last_line(&out)), (1, "0 passed, 1 failed"));
    assert!(out.contains("0 tensors compared"), "{out}");
}

#[test]
fn an_unknown_expectation_fails() {
    let path = edited("unknown", |tensors| {
        tensors.push(("expect.los".to_owned(), Dtype::F64, vec![1], 1f64.to_le_bytes().to_vec()));
    });
    let (status, out, _) = check_file(&path);
    assert_eq!((status, last_line(&out)), (1, "0 passed, 1 failed"));
    assert!(out.contains("expect.los is no expectation of this case"), "{out}");
}

#[test]
fn what_a_case_cannot_hold_is_refused_by_name() {
    let rename = |from: &'static str, to: &'static str| {
        move |tensors: Edit<'_>| tensors.iter_mut().filter(|t| t.0 == from).for_each(|t| t.0 = to.to_owned())
    };
    let problem = |json: &'static str| {
        let name: String = json.chars().filter(char::is_ascii_alphanumeric).collect();
        edited_with(&name, |_| {}, move |_| json.to_owned())
    };
    for (path, complaint) in [
        (edited("renamed", rename("labels", "lables")), "`lables` is no input"),
        (edited("missing", |tensors| tensors.retain(|t| t.0 != "labels")), "`labels` or `soft_targets` must be there"),
        (
            edited("shape", |t| t.iter_mut().for_each(|t| t.2 = vec![t.2.iter().product()])),
            "`logits` must have the shape",
        ),
        (
            edited("unused", |tensors| tensors.push(("ratio".to_owned(), Dtype::F64, vec![1], vec![0; 8]))),
            "`ratio` is there, but the problem does not ask for it",
        ),
        (problem(r#"{"kind": "softmax", "label_smothing": 0.1}"#), "unknown field `label_smothing`"),
        (problem(r#"{"kind": "softmax", "label_smoothing": 1.5}"#), "`label_smoothing` is 1.5, must be in [0, 1)"),
        (problem(r#"{"kind": "softmax", "reduction": "divisor"}"#), "needs the key `divisor`"),
        (problem(r#"{"kind": "softmin"}"#), "unknown variant `softmin`"),
    ] {
        let (status, out, err) = check_file(&path);
        assert_eq!((status, out.as_str()), (2, ""), "{complaint}: {err}");
        assert!(err.contains(complaint) && err.contains("check-"), "{complaint:?} is not in {err:?}");
    }
}

#[test]
fn files_that_cannot_be_read_are_refused() {
    let (status, _, err) = check(&["/nowhere/at-all.safetensors"]);
    assert!(status == 2 && err.contains("/nowhere/at-all.safetensors: No such file"), "{err}");
    let text = scratch("text");
    std::fs::write(&text, "not a case").unwrap();
    let (status, _, err) = check_file(&text);
    assert!(status == 2 && err.contains("not a safetensors file"), "{err}");
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    for arguments in [
        &[][..],
        &["--backend", "abacus", "x"],
        &["--write", "o", "a", "b"],
        &["--backend", "all", "--write", "o", "a"],
    ] {
        let (status, out, err) = check(arguments);
        assert!(status == 2 && out.is_empty() && !err.is_empty(), "{arguments:?}: {err}");
    }
    assert_eq!(check(&["--help"]).0, 0);
}

/// The names after a word in the lines of an output.
fn names<'a>(out: &'a str, word: &str) -> Vec<&'a str> {
    let name = |line: &'a str| line.strip_prefix(word)?.split([':', ' ']).find(|name| !name.is_empty());
    out.lines().filter_map(name).collect()
}

fn golden_files() -> Vec<String> {
    let mut files: Vec<String> = std::fs::read_dir(GOLDEN)
        .unwrap()
        .map(|entry| entry.unwrap().path().into_os_string().into_string().unwrap())
        .collect();
    files.sort();
    files
}

/// Whether a case of the CUDA kernels' kind can be computed on a device.
#[cfg(feature = "cuda")]
fn has_device() -> bool {
    logit_perturb::cuda::is_available() && logit_perturb::cuda::compiler_version().is_ok()
}

#[cfg(not(feature = "cuda"))]
fn has_device() -> bool {
    false
}

#[test]
fn without_a_device_the_cuda_backend_is_refused() {
    let (status, out, err) = check(&["--backend", "cuda", &format!("{GOLDEN}plain.safetensors")]);
    if has_device() {
        assert_eq!((status, last_line(&out), err.as_str()), (0, "1 passed, 0 failed", ""));
    } else {
        assert_eq!((status, out.as_str()), (2, ""));
        assert!(err.contains("CUDA") || err.contains("cuda"), "{err}");
    }
}

/// Every golden case is computed by the kernels on the emulated device and right, or listed with what the kernels lack.
#[test]
fn the_emulated_backend_passes_what_it_covers_and_lists_the_rest() {
    let files = golden_files();
    let arguments = ["--backend", "emulated"].into_iter().chain(files.iter().map(String::as_str));
    let (status, out, err) = check(&arguments.collect::<Vec<_>>());
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    let (passed, uncovered) = (names(&out, "ok "), names(&out, "not covered: "));
    // What the kernels lack: a gradient through the steps.
    let header = |file: &String| String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned();
    let lacks = |file: &&String| {
        let header = header(file);
        let has = |text: &str| header.contains(text);
        has("\\\"learned\\\"") && has("\\\"gradient\\\": \\\"through\\\"")
    };
    let (lacking, expected): (Vec<_>, Vec<_>) = files.iter().partition(lacks);
    let stem = |file: &&String| Path::new(file).file_stem().unwrap().to_str().unwrap().to_owned();
    assert_eq!(passed, expected.iter().map(stem).collect::<Vec<_>>());
    assert_eq!(uncovered.len(), lacking.len());
    assert!(passed.len() > 45 && uncovered.len() == 3, "{passed:?}");
    let last = [format!("{} not covered", uncovered.len()), format!("{} passed, 0 failed", passed.len())];
    assert_eq!(out.lines().rev().take(2).collect::<Vec<_>>(), [last[1].as_str(), last[0].as_str()]);
    let line = "not covered: through_raw (a gradient through the learner's steps)";
    assert!(out.lines().any(|found| found == line), "{line:?} is not in {out}");
    println!("{} covered, {} not covered", passed.len(), uncovered.len());
}

/// `plain` with logits of a narrower or wider type, and what the reference makes of them as expectations.
fn plain_in(dtype: Dtype, name: &str, encode: fn(f32) -> Vec<u8>) -> PathBuf {
    let bare = edited(&format!("{name}-bare"), |tensors| {
        tensors.retain(|tensor| !tensor.0.starts_with("expect."));
        let logits = tensors.iter_mut().find(|tensor| tensor.0 == "logits").unwrap();
        let numbers = logits.3.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        (logits.1, logits.3) = (dtype, numbers.flat_map(encode).collect());
    });
    let full = scratch(name);
    let (status, _, err) = check(&["--write", full.to_str().unwrap(), bare.to_str().unwrap()]);
    assert_eq!((status, err.as_str()), (0, ""));
    full
}

fn bf16_bytes(x: f32) -> Vec<u8> {
    bf16::from_f32(x).to_le_bytes().to_vec()
}

/// Logits of a half type have a gradient of that type, which is compared as such; those in f64 are nothing for the kernels.
#[test]
fn the_emulated_backend_takes_logits_in_their_own_type() {
    let f16_bytes = |x| f16::from_f32(x).to_le_bytes().to_vec();
    for path in [plain_in(Dtype::F16, "f16", f16_bytes), plain_in(Dtype::BF16, "bf16", bf16_bytes)] {
        let (status, out, _) = check(&["--backend", "emulated", path.to_str().unwrap()]);
        assert_eq!((status, last_line(&out)), (0, "1 passed, 0 failed"), "{out}");
    }
    let path = plain_in(Dtype::F64, "f64", |x| f64::from(x).to_le_bytes().to_vec());
    let (status, out, _) = check(&["--backend", "emulated", path.to_str().unwrap()]);
    assert_eq!((status, last_line(&out)), (0, "0 passed, 0 failed"));
    assert!(out.starts_with("not covered: check-") && out.contains("(f64 logits)"), "{out}");
}

/// Two steps of a half type are one too many.
#[test]
fn the_emulated_backend_fails_a_wrong_number_of_a_half_type() {
    let path = plain_in(Dtype::BF16, "bf16-wrong", bf16_bytes);
    let mut case = Case::read(&path).unwrap();
    let results = logit_perturb_cases::evaluate_cpu(&case).unwrap();
    let in_half = |steps: u16| {
        let mut tensors = results.tensors.clone();
        let grad = tensors.get_mut("grad").unwrap();
        let off = |(i, x): (usize, f64)| {
            let bits = bf16::from_f32(x as f32).to_bits();
            bf16::from_bits(if i == 10 { bits + steps } else { bits }).to_f64()
        };
        let numbers = grad.to_f64().into_iter().enumerate().map(off).collect();
        grad.values = Values::Float(logit_perturb::DType::BF16, numbers);
        compare(&case, &results.with_tensors(tensors), Precision::F32).passed()
    };
    assert_eq!([in_half(0), in_half(1), in_half(2)], [true, true, false]);
    // Without the type, the rounding itself is far too much.
    let grad = case.expected.get_mut("grad").unwrap();
    let numbers = grad.to_f64().into_iter().map(|x| bf16::from_f64(x).to_f64()).collect();
    grad.values = Values::Float(logit_perturb::DType::F64, numbers);
    assert!(!compare(&case, &results, Precision::F32).passed());
}

#[test]
fn the_emulated_backend_fails_a_wrong_number() {
    let path = edited("wrong-emulated", |tensors| {
        let grad = tensors.iter_mut().find(|tensor| tensor.0 == "expect.grad").unwrap();
        let number = f64::from_le_bytes(grad.3[80..88].try_into().unwrap());
        grad.3[80..88].copy_from_slice(&(number + 2e-7).to_le_bytes());
    });
    let (status, out, _) = check(&["--backend", "emulated", path.to_str().unwrap()]);
    assert_eq!((status, last_line(&out)), (1, "0 passed, 1 failed"));
    assert!(out.contains("expect.grad [10] expected"), "{out}");
}

#[test]
fn all_backends_name_themselves_on_every_line() {
    let files = ["plain", "through_raw"].map(|name| format!("{GOLDEN}{name}.safetensors"));
    let (status, out, err) = check(&["--backend", "all", &files[0], &files[1]]);
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    for line in [
        "cpu      ok     plain: ",
        "cpu      ok     through_raw: ",
        "emulated ok     plain: ",
        "emulated not covered: through_raw ",
    ] {
        assert!(out.lines().any(|found| found.starts_with(line)), "{line:?} is not in {out}");
    }
    let (device, counts) = match has_device() {
        true => ("cuda     ok     plain: ", "4 passed, 0 failed"),
        false => ("not at hand: cuda: ", "3 passed, 0 failed"),
    };
    assert!(out.lines().any(|line| line.starts_with(device)), "{device:?} is not in {out}");
    assert_eq!(last_line(&out), counts);
}

#[test]
fn written_results_pass_afterwards() {
    let bare = edited("bare", |tensors| tensors.retain(|tensor| !tensor.0.starts_with("expect.")));
    let full = scratch("written");
    let (status, out, err) = check(&["--write", full.to_str().unwrap(), bare.to_str().unwrap()]);
    assert_eq!((status, err.as_str()), (0, ""));
    assert!(out.starts_with("wrote 3 tensors"), "{out}");
    assert_eq!(last_line(&check_file(&full).1), "1 passed, 0 failed");
    let (status, _, err) = check(&["--write", bare.to_str().unwrap(), full.to_str().unwrap()]);
    assert!(status == 2 && err.contains("has expectations"), "{err}");
}

/// Expectations of a narrower type are compared at the tolerance of SPEC 6.
#[test]
fn the_type_of_an_expectation_chooses_the_tolerance() {
    let rounded = |name: &'static str, nudge: f64, round: fn(f64) -> Vec<u8>, dtype: Dtype| {
        edited(name, move |tensors| {
            let grad = tensors.iter_mut().find(|tensor| tensor.0 == "expect.grad").unwrap();
            let numbers = grad.3.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes));
            grad.3 = numbers.enumerate().flat_map(|(i, x)| round(if i == 7 { x + nudge } else { x })).collect();
            grad.1 = dtype;
        })
    };
    let single = |x: f64| (x as f32).to_le_bytes().to_vec();
    let half = |x: f64| bf16::from_f64(x).to_le_bytes().to_vec();
    // G is 1 / 64 here: 1e-6 * G is 1.6e-8.
    for (path, status) in [
        (rounded("f32-near", 1e-8, single, Dtype::F32), 0),
        (rounded("f32-far", 2e-8, single, Dtype::F32), 1),
        (rounded("bf16-near", 0.0, half, Dtype::BF16), 0),
        (rounded("bf16-far", 1e-3, half, Dtype::BF16), 1),
    ] {
        let (found, out, _) = check_file(&path);
        assert_eq!(found, status, "{}: {out}", path.display());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Any bytes give a case or an error.
    #[test]
    fn arbitrary_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Case::from_bytes(&bytes);
    }

    /// So do cases with some bytes of the header or the data changed, and cases cut short.
    #[test]
    fn damaged_cases_are_read_without_panic(
        which in 0usize..51,
        damage in prop::collection::vec((0usize..2000, any::<u8>()), 0..6),
        length in 0usize..4000,
    ) {
        let file = std::fs::read_dir(GOLDEN).unwrap().nth(which).unwrap().unwrap().path();
        let mut bytes = std::fs::read(file).unwrap();
        damage.iter().for_each(|&(at, to)| if at < bytes.len() { bytes[at] = to });
        if length < 2000 { bytes.truncate(length) }
        if let Ok(case) = Case::from_bytes(&bytes) {
            let _ = logit_perturb_cases::evaluate_cpu(&case);
        }
    }
}
