//! The golden cases: numbers made in float64 by an implementation that shares nothing with this crate (SPEC 7).

use logit_perturb_cases::{Case, Precision, compare, evaluate_cpu};
use std::path::PathBuf;

fn golden() -> Vec<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_golden_case_agrees_with_the_reference() {
    let (mut cases, mut tensors, mut failures) = (0, 0, Vec::new());
    for file in golden() {
        let case = Case::read(&file).unwrap();
        let report = compare(&case, &evaluate_cpu(&case).unwrap(), Precision::F64);
        cases += 1;
        tensors += report.comparisons.len();
        if !report.passed() {
            failures.push(format!("{}: {report:?}", file.display()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // A case lost on the way would go unnoticed otherwise.
    assert_eq!((cases, tensors), (51, 301));
    println!("{cases} cases, {tensors} tensors");
}

#[test]
fn an_expectation_a_little_off_fails() {
    for file in golden() {
        let case = Case::read(&file).unwrap();
        let results = evaluate_cpu(&case).unwrap();
        for name in case.expected.keys() {
            let mut off = case.clone();
            let tensor = off.expected.get_mut(name).unwrap();
            match &mut tensor.values {
                logit_perturb_cases::Values::Float(_, data) => {
                    let Some(x) = data.iter_mut().find(|x| x.is_finite()) else { continue };
                    *x += 4e-9 * x.abs() + 4e-12;
                }
                logit_perturb_cases::Values::Int(data) => data[0] += 1,
            }
            let report = compare(&off, &results, Precision::F64);
            let failed: Vec<&str> =
                report.comparisons.iter().filter(|c| c.failure.is_some()).map(|c| c.name.as_str()).collect();
            assert_eq!(failed, [name.as_str()], "{}", file.display());
        }
    }
}
