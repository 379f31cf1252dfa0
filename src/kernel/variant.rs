//! The kernel sources and the variants they are compiled in.

/// Every file under `kernels/`, by the name that the others include it by.
pub const SOURCES: [(&str, &str); 30] = [
    ("prelude.cuh", include_str!("../../kernels/prelude.cuh")),
    ("elements.cuh", include_str!("../../kernels/elements.cuh")),
    ("sync.cuh", include_str!("../../kernels/sync.cuh")),
    ("fixed_sum.cuh", include_str!("../../kernels/fixed_sum.cuh")),
    ("labels.cuh", include_str!("../../kernels/labels.cuh")),
    ("perturbation.cuh", include_str!("../../kernels/perturbation.cuh")),
    ("tally_labels.cu", include_str!("../../kernels/tally_labels.cu")),
    ("softmax.cuh", include_str!("../../kernels/softmax.cuh")),
    ("tile_rows.cuh", include_str!("../../kernels/tile_rows.cuh")),
    ("slot_rows.cuh", include_str!("../../kernels/slot_rows.cuh")),
    ("cross_entropy.cu", include_str!("../../kernels/cross_entropy.cu")),
    ("class_sums.cuh", include_str!("../../kernels/class_sums.cuh")),
    ("class_statistics.cu", include_str!("../../kernels/class_statistics.cu")),
    ("learner.cuh", include_str!("../../kernels/learner.cuh")),
    ("groups.cuh", include_str!("../../kernels/groups.cuh")),
    ("group_rows.cu", include_str!("../../kernels/group_rows.cu")),
    ("learn_tile.cuh", include_str!("../../kernels/learn_tile.cuh")),
    ("learn_group.cuh", include_str!("../../kernels/learn_group.cuh")),
    ("learn_columns.cuh", include_str!("../../kernels/learn_columns.cuh")),
    ("learn_passes.cuh", include_str!("../../kernels/learn_passes.cuh")),
    ("learn_cross_entropy.cu", include_str!("../../kernels/learn_cross_entropy.cu")),
    ("targets.cuh", include_str!("../../kernels/targets.cuh")),
    ("running_sum.cuh", include_str!("../../kernels/running_sum.cuh")),
    ("sigmoid.cuh", include_str!("../../kernels/sigmoid.cuh")),
    ("decode_targets.cu", include_str!("../../kernels/decode_targets.cu")),
    ("binary_cross_entropy.cu", include_str!("../../kernels/binary_cross_entropy.cu")),
    ("binary_class_statistics.cu", include_str!("../../kernels/binary_class_statistics.cu")),
    ("binary_learner.cuh", include_str!("../../kernels/binary_learner.cuh")),
    ("binary_confidences.cu", include_str!("../../kernels/binary_confidences.cu")),
    ("learn_binary_cross_entropy.cu", include_str!("../../kernels/learn_binary_cross_entropy.cu")),
];

/// What logits and gradients are made of; numbered as in `elements.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names say it")]
pub enum DType {
    F32 = 0,
    F16 = 1,
    BF16 = 2,
}

impl DType {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::BF16];

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// Elements of a 16-byte slot.
    pub fn width(self) -> usize {
        16 / self.bytes()
    }

    /// The name of the field.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        }
    }
}

/// Where a row lives between its read and its write; numbered as in `cross_entropy.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Regime {
    /// Short rows: a tile of them in shared memory, a thread a row.
    Tile = 0,
    /// In the registers of a warp.
    Warp = 1,
    /// In the registers of a block.
    Block = 2,
    /// In the shared memory of a block.
    Shared = 3,
    /// In the shared memory of a cluster of blocks.
    Cluster = 4,
    /// Nowhere: it is read twice.
    TwoRead = 5,
}

/// One compilation of one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Variant {
    /// The label pre-pass.
    Tally,
    /// Class statistics, from the sums that cross-entropy left to their final form.
    ClassStatistics,
    /// Cross-entropy.
    CrossEntropy {
        /// What logits and gradient are made of.
        dtype: DType,
        /// Where a row lives.
        regime: Regime,
        /// Numbers of a row that a thread holds in registers; 0 where it holds none.
        values: u32,
        /// Whether targets may be spread over classes, and classes have scales of their own.
        general: bool,
    },
    /// The rows of a batch by class.
    GroupRows,
    /// Cross-entropy under a learned perturbation.
    LearnCrossEntropy {
        /// What logits and gradient are made of.
        dtype: DType,
        /// Columns that a thread may own, where a class's arrays are in shared memory; else 0.
        values: u32,
    },
    /// The pre-pass over multi-label targets.
    DecodeTargets {
        /// What logits and targets are made of.
        dtype: DType,
    },
    /// Binary cross-entropy.
    BinaryCrossEntropy {
        /// What logits and gradient are made of.
        dtype: DType,
        /// Whether the focal or the asymmetric loss is asked for.
        focusing: bool,
    },
    /// Class statistics of binary cross-entropy.
    BinaryClassStatistics {
        /// What logits are made of.
        dtype: DType,
    },
    /// Confidences of classes and signs, and what is learned from them alone.
    BinaryConfidences {
        /// What logits are made of.
        dtype: DType,
    },
    /// The raw steps of the multi-label learner.
    LearnBinaryCrossEntropy {
        /// What logits are made of.
        dtype: DType,
    },
}

/// Numbers a thread that the register regimes are compiled for, ascending. A slot of half-precision numbers has 8.
const REGISTERS: [(Regime, u32); 5] =
    [(Regime::Warp, 4), (Regime::Warp, 8), (Regime::Warp, 16), (Regime::Block, 8), (Regime::Block, 32)];

/// Columns that a thread of a learner owns at most, ascending.
pub(super) const LEARN_VALUES: [u32; 2] = [8, 40];

const NO_REGISTERS: [Regime; 4] = [Regime::Tile, Regime::Shared, Regime::Cluster, Regime::TwoRead];

impl Variant {
    /// Every variant: what the plans can ask for, and what the tests compile.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::Tally, Self::ClassStatistics, Self::GroupRows];
        for dtype in DType::ALL {
            let shapes = NO_REGISTERS.map(|regime| (regime, 0)).into_iter().chain(REGISTERS);
            for (regime, values) in shapes.filter(|(_, values)| *values == 0 || *values as usize >= dtype.width()) {
                all.extend([false, true].map(|general| Self::CrossEntropy { dtype, regime, values, general }));
            }
            all.extend([0].into_iter().chain(LEARN_VALUES).map(|values| Self::LearnCrossEntropy { dtype, values }));
        }
        for dtype in DType::ALL {
            all.extend([Self::DecodeTargets { dtype }, Self::BinaryClassStatistics { dtype }]);
            all.extend([Self::BinaryConfidences { dtype }, Self::LearnBinaryCrossEntropy { dtype }]);
            all.extend([false, true].map(|focusing| Self::BinaryCrossEntropy { dtype, focusing }));
        }
        all
    }

    /// Numbers a thread that a register regime is compiled for, ascending.
    pub(super) fn values(dtype: DType, regime: Regime) -> impl Iterator<Item = u32> {
        let of = move |(r, values): &(Regime, u32)| *r == regime && *values as usize >= dtype.width();
        REGISTERS.into_iter().filter(of).map(|(_, values)| values)
    }

    /// A name that no other variant has, fit for a symbol.
    pub fn name(&self) -> String {
        match self {
            Self::Tally => "tally".to_owned(),
            Self::ClassStatistics => "class_statistics".to_owned(),
            Self::CrossEntropy { dtype, regime, values, general } => {
                let regime = match regime {
                    Regime::Tile => "tile",
                    Regime::Warp => "warp",
                    Regime::Block => "block",
                    Regime::Shared => "shared",
                    Regime::Cluster => "cluster",
                    Regime::TwoRead => "two_read",
                };
                let values = if *values == 0 { String::new() } else { format!("_{values}") };
                let general = if *general { "_general" } else { "" };
                format!("cross_entropy_{}_{regime}{values}{general}", dtype.name())
            }
            Self::GroupRows => "group_rows".to_owned(),
            Self::LearnCrossEntropy { dtype, values: 0 } => format!("learn_cross_entropy_{}_global", dtype.name()),
            Self::LearnCrossEntropy { dtype, values } => format!("learn_cross_entropy_{}_{values}", dtype.name()),
            Self::DecodeTargets { dtype } => format!("decode_targets_{}", dtype.name()),
            Self::BinaryCrossEntropy { dtype, focusing } => {
                format!("binary_cross_entropy_{}{}", dtype.name(), if *focusing { "_focusing" } else { "" })
            }
            Self::BinaryClassStatistics { dtype } => format!("binary_class_statistics_{}", dtype.name()),
            Self::BinaryConfidences { dtype } => format!("binary_confidences_{}", dtype.name()),
            Self::LearnBinaryCrossEntropy { dtype } => format!("learn_binary_cross_entropy_{}", dtype.name()),
        }
    }

    /// The source file.
    pub fn source(&self) -> &'static str {
        match self {
            Self::Tally => "tally_labels.cu",
            Self::ClassStatistics => "class_statistics.cu",
            Self::CrossEntropy { .. } => "cross_entropy.cu",
            Self::GroupRows => "group_rows.cu",
            Self::LearnCrossEntropy { .. } => "learn_cross_entropy.cu",
            Self::DecodeTargets { .. } => "decode_targets.cu",
            Self::BinaryCrossEntropy { .. } => "binary_cross_entropy.cu",
            Self::BinaryClassStatistics { .. } => "binary_class_statistics.cu",
            Self::BinaryConfidences { .. } => "binary_confidences.cu",
            Self::LearnBinaryCrossEntropy { .. } => "learn_binary_cross_entropy.cu",
        }
    }

    /// The kernel's name in its source.
    pub fn entry(&self) -> &'static str {
        match self {
            Self::Tally => "tally",
            Self::ClassStatistics => "class_statistics",
            Self::CrossEntropy { .. } => "cross_entropy",
            Self::GroupRows => "group_rows",
            Self::LearnCrossEntropy { .. } => "learn_cross_entropy",
            Self::DecodeTargets { .. } => "decode_targets",
            Self::BinaryCrossEntropy { .. } => "binary_cross_entropy",
            Self::BinaryClassStatistics { .. } => "binary_class_statistics",
            Self::BinaryConfidences { .. } => "binary_confidences",
            Self::LearnBinaryCrossEntropy { .. } => "learn_binary_cross_entropy",
        }
    }

    /// The macros that make it this variant.
    pub fn defines(&self) -> Vec<(&'static str, u32)> {
        match self {
            Self::Tally | Self::ClassStatistics | Self::GroupRows => Vec::new(),
            Self::CrossEntropy { dtype, regime, values, general } => vec![
                ("DTYPE", *dtype as u32),
                ("REGIME", *regime as u32),
                ("VALUES", *values),
                ("GENERAL", u32::from(*general)),
            ],
            // What a smoothed target costs does not show beside the steps.
            Self::LearnCrossEntropy { dtype, values } => {
                vec![("DTYPE", *dtype as u32), ("GENERAL", 1), ("VALUES", *values)]
            }
            Self::DecodeTargets { dtype }
            | Self::BinaryClassStatistics { dtype }
            | Self::BinaryConfidences { dtype }
            | Self::LearnBinaryCrossEntropy { dtype } => vec![("DTYPE", *dtype as u32)],
            Self::BinaryCrossEntropy { dtype, focusing } => {
                vec![("DTYPE", *dtype as u32), ("FOCUSING", u32::from(*focusing))]
            }
        }
    }

    /// The oldest architecture that it runs on: 90 for sm_90.
    pub fn oldest_architecture(&self) -> i32 {
        match self {
            Self::CrossEntropy { regime: Regime::Cluster, .. } => 90,
            _ => 0,
        }
    }
}
