//! The assertion of the error tests: which variant, and every word of its message.

use logit_perturb::{Error, Result};

#[derive(Debug, PartialEq)]
pub enum Kind {
    Value,
    Shape,
    Conflict,
    Label,
    Target,
}

#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T>, kind: Kind, message: &str) {
    let error = result.expect_err(message);
    let actual = match &error {
        Error::Value { .. } => Kind::Value,
        Error::Shape { .. } => Kind::Shape,
        Error::Conflict { .. } => Kind::Conflict,
        Error::Label { .. } => Kind::Label,
        Error::Target { .. } => Kind::Target,
        other => panic!("{other}"),
    };
    assert_eq!((actual, error.to_string().as_str()), (kind, message));
}
