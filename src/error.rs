//! The one error type of the crate: what was wrong, by name, before anything runs.

use std::borrow::Cow;

/// `Result` with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a problem could not be stated or a batch could not be evaluated.
///
/// Every variant names the argument, the value it had and what is allowed. An error is returned before
/// any output is written.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A number or a choice outside its range.
    #[error("`{argument}` is {value}, must be {allowed}")]
    Value {
        /// The argument, with its index where it is a list: `counts[3]`.
        argument: Cow<'static, str>,
        /// The value it had.
        value: String,
        /// What is allowed.
        allowed: Cow<'static, str>,
    },
    /// A length, shape or stride that disagrees with the others.
    #[error("`{argument}` has {what} {actual}, must be {allowed}")]
    Shape {
        /// The argument.
        argument: Cow<'static, str>,
        /// Which of its measures: `length`, `columns`, `row stride`, ...
        what: &'static str,
        /// The measure it had.
        actual: usize,
        /// What is allowed.
        allowed: String,
    },
    /// Two options that exclude each other, or one that needs another.
    #[error("`{argument}` cannot be used {context}: {reason}")]
    Conflict {
        /// The argument.
        argument: &'static str,
        /// What it clashes with.
        context: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// Labels that are neither a class nor `ignore_index`.
    #[error("label {label} in row {row} is neither in 0..{classes} nor ignore_index; {count} such row(s) in the batch")]
    Label {
        /// The first such row.
        row: usize,
        /// Its label.
        label: i64,
        /// The number of classes.
        classes: usize,
        /// How many rows have such a label.
        count: usize,
    },
    /// A multi-label target outside its range.
    #[error("target of row {row}: {problem}")]
    Target {
        /// The first such row.
        row: usize,
        /// The class, the value and what is allowed.
        problem: String,
    },
    /// The CUDA driver, a device or a library of the toolkit is not there, or refused.
    #[error("CUDA is not available: {0}")]
    CudaUnavailable(String),
    /// The run-time compiler does not know the device's architecture.
    #[error("{compiler} does not know sm_{architecture}; it knows {known}")]
    Architecture {
        /// 90 for sm_90.
        architecture: i32,
        /// The compiler and its version.
        compiler: String,
        /// What it knows.
        known: String,
    },
    /// A kernel does not compile.
    #[error("kernel {kernel} does not compile: {log}")]
    Compile {
        /// The variant.
        kernel: String,
        /// The compiler's words.
        log: String,
    },
    /// The CUDA driver refused; the words are its own.
    #[error("{action} failed: {reason}")]
    Driver {
        /// What was attempted.
        action: &'static str,
        /// The driver's error.
        reason: String,
    },
    /// The device has too little memory left.
    #[error("device memory: {bytes} bytes for {what} cannot be had")]
    OutOfMemory {
        /// What for.
        what: &'static str,
        /// How much.
        bytes: usize,
    },
    /// What the problem asks for is not on this backend.
    #[error("{what} is not supported by the {backend} backend")]
    Unsupported {
        /// The option.
        what: String,
        /// The backend.
        backend: &'static str,
    },
}

impl Error {
    pub(crate) fn value(
        argument: impl Into<Cow<'static, str>>,
        value: impl std::fmt::Display,
        allowed: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::Value { argument: argument.into(), value: value.to_string(), allowed: allowed.into() }
    }

    pub(crate) fn conflict(argument: &'static str, context: &'static str, reason: &'static str) -> Self {
        Self::Conflict { argument, context, reason }
    }

    pub(crate) fn shape(
        argument: impl Into<Cow<'static, str>>,
        what: &'static str,
        actual: usize,
        allowed: impl std::fmt::Display,
    ) -> Self {
        Self::Shape { argument: argument.into(), what, actual, allowed: allowed.to_string() }
    }
}

/// Range checks of host numbers. Each names its argument in the error.
pub(crate) mod check {
    use super::{Error, Result};

    pub(crate) fn positive(argument: &'static str, value: f64) -> Result<()> {
        one(argument, value, value.is_finite() && value > 0.0, "finite and > 0")
    }

    pub(crate) fn non_negative(argument: &'static str, value: f64) -> Result<()> {
        one(argument, value, value.is_finite() && value >= 0.0, "finite and >= 0")
    }

    pub(crate) fn finite(argument: &'static str, value: f64) -> Result<()> {
        one(argument, value, value.is_finite(), "finite")
    }

    pub(crate) fn one(argument: &'static str, value: f64, ok: bool, allowed: &'static str) -> Result<()> {
        if ok { Ok(()) } else { Err(Error::value(argument, value, allowed)) }
    }

    pub(crate) fn each(
        argument: &'static str,
        values: &[f64],
        ok: impl Fn(f64) -> bool,
        allowed: &'static str,
    ) -> Result<()> {
        match values.iter().position(|&x| !ok(x)) {
            None => Ok(()),
            Some(i) => Err(Error::value(format!("{argument}[{i}]"), values[i], allowed)),
        }
    }

    pub(crate) fn each_positive(argument: &'static str, values: &[f64]) -> Result<()> {
        each(argument, values, |x| x.is_finite() && x > 0.0, "finite and > 0")
    }

    pub(crate) fn each_non_negative(argument: &'static str, values: &[f64]) -> Result<()> {
        each(argument, values, |x| x.is_finite() && x >= 0.0, "finite and >= 0")
    }

    pub(crate) fn each_finite(argument: &'static str, values: &[f64]) -> Result<()> {
        each(argument, values, f64::is_finite, "finite")
    }

    pub(crate) fn direction(argument: &'static str, values: &[i8]) -> Result<()> {
        match values.iter().position(|d| !(-1..=1).contains(d)) {
            None => Ok(()),
            Some(i) => Err(Error::value(format!("{argument}[{i}]"), values[i], "-1, 0 or 1")),
        }
    }

    pub(crate) fn length(argument: &'static str, actual: usize, expected: usize) -> Result<()> {
        if actual == expected { Ok(()) } else { Err(Error::shape(argument, "length", actual, expected)) }
    }

    /// The number of classes that a set of per-class vectors agrees on; `None` when there is no vector.
    pub(crate) fn classes(vectors: &[(&'static str, Option<usize>)]) -> Result<Option<usize>> {
        let mut found: Option<(&str, usize)> = None;
        for &(name, len) in vectors {
            match (len, found) {
                (Some(0), _) => return Err(Error::shape(name, "length", 0, "at least 1")),
                (Some(len), None) => found = Some((name, len)),
                (Some(len), Some((first, classes))) if len != classes => {
                    return Err(Error::shape(name, "length", len, format!("{classes}, as `{first}`")));
                }
                _ => {}
            }
        }
        Ok(found.map(|(_, classes)| classes))
    }
}
