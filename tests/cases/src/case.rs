//! A case: the problem, the batch and the expectations of one file.

use crate::problem::Header;
use crate::{CaseError, Tensor, Values};
use logit_perturb::{BinaryCrossEntropy, CrossEntropy, DType};
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::Path;

/// The problem of a case.
#[derive(Clone, Debug)]
pub enum Problem {
    /// Cross-entropy.
    Softmax(CrossEntropy),
    /// Binary cross-entropy.
    Sigmoid(BinaryCrossEntropy),
}

/// The batch of a case; what is not given is `None`.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is to be computed.
    pub problem: Problem,
    /// N.
    pub rows: usize,
    /// C.
    pub classes: usize,
    /// The gradient of the loss; files hold that for 1.
    pub upstream: f64,
    /// One a row, in its place.
    pub upstream_rows: Option<Vec<f64>>,
    pub(crate) inputs: Tensors,
    /// Expected tensors by their names without `expect.`.
    pub expected: BTreeMap<String, Tensor>,
}

/// The tensors of a file that say what is to be computed, with checked access.
#[derive(Clone, Debug)]
pub(crate) struct Tensors(pub(crate) BTreeMap<String, Tensor>);

/// The names that a case's inputs may have. A name that is none of these would be an option silently left out.
const SOFTMAX: [&str; 10] = [
    "logits",
    "labels",
    "soft_targets",
    "class_weights",
    "class_scale",
    "class_counts",
    "ratio",
    "direction",
    "sample_weights",
    "perturbation",
];
const SIGMOID: [&str; 12] = [
    "logits",
    "targets",
    "pos_weight",
    "weights",
    "offset",
    "delta_pos",
    "delta_neg",
    "class_counts",
    "direction_pos",
    "direction_neg",
    "bound_pos",
    "bound_neg",
];

impl Case {
    /// Reads a case file.
    ///
    /// # Errors
    /// [`CaseError`]: the file cannot be read, is no safetensors file, or states no problem that SPEC allows.
    pub fn read(path: &Path) -> Result<Self, CaseError> {
        Self::from_bytes(&std::fs::read(path)?)
    }

    /// Reads a case from the bytes of its file.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CaseError> {
        let file = SafeTensors::deserialize(bytes)?;
        let (_, metadata) = SafeTensors::read_metadata(bytes)?;
        let header = metadata.metadata().as_ref().and_then(|metadata| metadata.get("problem"));
        let header: Header = serde_json::from_str(header.ok_or(CaseError::NoProblem)?)?;
        let known = if matches!(header, Header::Softmax { .. }) { &SOFTMAX[..] } else { &SIGMOID[..] };
        let (mut inputs, mut expected) = (BTreeMap::new(), BTreeMap::new());
        for (name, view) in file.iter() {
            let tensor = Tensor::read(name, &view)?;
            if let Some(name) = name.strip_prefix("expect.") {
                expected.insert(name.to_owned(), tensor);
            } else if known.contains(&name) {
                inputs.insert(name.to_owned(), tensor);
            } else {
                return Err(CaseError::tensor(name, "is no input of this kind of case"));
            }
        }
        let inputs = Tensors(inputs);
        if let Some(name) = header.unused().into_iter().find(|name| inputs.has(name)) {
            return Err(CaseError::tensor(name, "is there, but the problem does not ask for it"));
        }
        let &[rows, classes] = inputs.get("logits")?.shape.as_slice() else {
            return Err(CaseError::tensor("logits", "must have the shape [N, C]"));
        };
        if !matches!(inputs.get("logits")?.values, Values::Float(..)) {
            return Err(CaseError::tensor("logits", "must be f16, bf16, f32 or f64"));
        }
        let problem = header.build(&inputs, rows, classes)?;
        Ok(Self { problem, rows, classes, upstream: 1.0, upstream_rows: None, inputs, expected })
    }

    /// A case made by a test: logits `[N, C]`, no expectations. Targets and the like come by [`with_input`](Self::with_input).
    pub fn new(problem: Problem, (rows, classes): (usize, usize), logits: Vec<f64>) -> Self {
        assert_eq!(logits.len(), rows * classes, "the logits must be {rows} x {classes}");
        let (inputs, expected) = (Tensors(BTreeMap::new()), BTreeMap::new());
        let case = Self { problem, rows, classes, upstream: 1.0, upstream_rows: None, inputs, expected };
        case.with_input("logits", Tensor::float([rows, classes], logits))
    }

    /// The case with an input, by its name in files.
    #[must_use]
    pub fn with_input(mut self, name: &str, tensor: Tensor) -> Self {
        self.inputs.0.insert(name.to_owned(), tensor);
        self
    }

    /// The numbers of an input, by its name in files, where the case has it.
    pub fn input(&self, name: &str) -> Option<Vec<f64>> {
        self.inputs.0.get(name).map(Tensor::to_f64)
    }

    /// The type of the logits, and the logits `[N, C]`.
    pub fn logits(&self) -> (DType, &[f64]) {
        match self.inputs.0.get("logits").map(|tensor| &tensor.values) {
            Some(Values::Float(dtype, data)) => (*dtype, data),
            _ => unreachable!("a case is made with floating-point logits"),
        }
    }

    /// The labels, where the case has hard ones.
    pub fn labels(&self) -> Option<&[i64]> {
        match &self.inputs.0.get("labels")?.values {
            Values::Int(labels) => Some(labels),
            Values::Float(..) => None,
        }
    }
}

impl Tensors {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(crate) fn get(&self, name: &str) -> Result<&Tensor, CaseError> {
        self.0.get(name).ok_or_else(|| CaseError::tensor(name, "is missing"))
    }

    fn shaped(&self, name: &str, shape: &[usize]) -> Result<&Tensor, CaseError> {
        let tensor = self.get(name)?;
        if tensor.shape == shape {
            Ok(tensor)
        } else {
            Err(CaseError::tensor(name, format!("has shape {:?}, must have {shape:?}", tensor.shape)))
        }
    }

    /// A tensor of numbers, as f64.
    pub(crate) fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f64>, CaseError> {
        Ok(self.shaped(name, shape)?.to_f64())
    }

    pub(crate) fn optional_floats(&self, name: &str, shape: &[usize]) -> Result<Option<Vec<f64>>, CaseError> {
        if self.has(name) { self.floats(name, shape).map(Some) } else { Ok(None) }
    }

    /// A tensor of integers.
    pub(crate) fn ints(&self, name: &str, shape: &[usize]) -> Result<Vec<i64>, CaseError> {
        match &self.shaped(name, shape)?.values {
            Values::Int(data) => Ok(data.clone()),
            Values::Float(..) => Err(CaseError::tensor(name, "must be of an integer type")),
        }
    }

    pub(crate) fn directions(&self, name: &str, classes: usize) -> Result<Vec<i8>, CaseError> {
        let one = |d| i8::try_from(d).map_err(|_| CaseError::tensor(name, format!("holds {d}, must be -1, 0 or 1")));
        self.ints(name, &[classes])?.into_iter().map(one).collect()
    }
}
