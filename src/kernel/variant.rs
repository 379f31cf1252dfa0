//! The kernel sources and the variants they are compiled in.

/// Every file under `kernels/`, by the name that the others include it by.
pub const SOURCES: [(&str, &str); 6] = [
    ("prelude.cuh", include_str!("../../kernels/prelude.cuh")),
    ("sync.cuh", include_str!("../../kernels/sync.cuh")),
    ("labels.cuh", include_str!("../../kernels/labels.cuh")),
    ("perturbation.cuh", include_str!("../../kernels/perturbation.cuh")),
    ("tally_labels.cu", include_str!("../../kernels/tally_labels.cu")),
    ("cross_entropy.cu", include_str!("../../kernels/cross_entropy.cu")),
];

/// Where a row lives between its read and its write; numbered as in `cross_entropy.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Regime {
    /// Short rows: a tile of them in shared memory, a thread a row.
    Tile,
    /// In the registers of a warp.
    Warp,
    /// In the registers of a block.
    Block,
    /// Nowhere: it is read twice.
    TwoRead,
}

/// One compilation of one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Variant {
    /// The label pre-pass.
    Tally,
    /// Cross-entropy.
    CrossEntropy {
        /// Where a row lives.
        regime: Regime,
        /// f32 of a row that a thread holds; 0 where it holds none.
        values: u32,
        /// Loss and gradient, or the loss alone.
        fused: bool,
    },
}

/// Numbers a thread that the register regimes are compiled for, ascending.
const REGISTERS: [(Regime, u32); 7] = [
    (Regime::Warp, 4),
    (Regime::Warp, 8),
    (Regime::Warp, 16),
    (Regime::Warp, 32),
    (Regime::Block, 8),
    (Regime::Block, 16),
    (Regime::Block, 32),
];

impl Variant {
    /// Every variant: what the plans can ask for, and what the tests compile.
    pub fn all() -> Vec<Self> {
        let shapes = [(Regime::Tile, 0), (Regime::TwoRead, 0)].into_iter().chain(REGISTERS);
        let cross_entropy =
            shapes.flat_map(|(regime, values)| [true, false].map(|fused| Self::CrossEntropy { regime, values, fused }));
        std::iter::once(Self::Tally).chain(cross_entropy).collect()
    }

    /// Numbers a thread that a register regime is compiled for, ascending.
    pub(super) fn values(regime: Regime) -> impl Iterator<Item = u32> {
        REGISTERS.into_iter().filter(move |(of, _)| *of == regime).map(|(_, values)| values)
    }

    /// A name that no other variant has, fit for a symbol.
    pub fn name(&self) -> String {
        match self {
            Self::Tally => "tally".to_owned(),
            Self::CrossEntropy { regime, values, fused } => {
                let regime = match regime {
                    Regime::Tile => "tile",
                    Regime::Warp => "warp",
                    Regime::Block => "block",
                    Regime::TwoRead => "two_read",
                };
                let values = if *values == 0 { String::new() } else { format!("_{values}") };
                format!("cross_entropy_{regime}{values}_{}", if *fused { "fused" } else { "forward" })
            }
        }
    }

    /// The source file.
    pub fn source(&self) -> &'static str {
        match self {
            Self::Tally => "tally_labels.cu",
            Self::CrossEntropy { .. } => "cross_entropy.cu",
        }
    }

    /// The kernel's name in its source.
    pub fn entry(&self) -> &'static str {
        match self {
            Self::Tally => "tally",
            Self::CrossEntropy { .. } => "cross_entropy",
        }
    }

    /// The macros that make it this variant.
    pub fn defines(&self) -> Vec<(&'static str, u32)> {
        match self {
            Self::Tally => Vec::new(),
            Self::CrossEntropy { regime, values, fused } => {
                let regime = match regime {
                    Regime::Tile => 0,
                    Regime::Warp => 1,
                    Regime::Block => 2,
                    Regime::TwoRead => 3,
                };
                vec![("REGIME", regime), ("VALUES", *values), ("FUSED", u32::from(*fused))]
            }
        }
    }
}
