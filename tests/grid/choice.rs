//! Choices that both losses have.

use crate::numbers::Numbers;
use logit_perturb::kernel::DType;
use logit_perturb_emulator::{Given, Gradient, Rows};

macro_rules! choice {
    ($name:ident: $($variant:ident),+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($variant),+
        }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
        }
    };
}
pub(crate) use choice;

choice!(Upstream: One, Host, Device, Rows, Infinite);
choice!(Place: Forward, Same, Into, Shifted);

pub const DIVISOR: f32 = 3.3;

impl Upstream {
    /// One number, or one a row.
    pub fn numbers(self, numbers: &mut Numbers, rows: usize) -> Vec<f32> {
        match self {
            Self::One => vec![1.0],
            Self::Host | Self::Device => vec![-2.3],
            Self::Rows => numbers.uniform(rows, -2.0, 2.0),
            Self::Infinite => vec![f32::INFINITY],
        }
    }

    pub fn given(self, numbers: &[f32]) -> Given<'_> {
        match self {
            Self::One | Self::Host => Given::Host(numbers[0].into()),
            Self::Device | Self::Infinite => Given::Device(numbers[0]),
            Self::Rows => Given::Rows(numbers),
        }
    }
}

impl Place {
    /// Where the gradient of logits goes that lie at `rows`.
    pub fn gradient(self, rows: Rows, c: usize) -> Gradient {
        match self {
            Self::Forward => Gradient::None,
            Self::Same => Gradient::InPlace,
            Self::Into => Gradient::Into(rows),
            Self::Shifted => Gradient::Into(Rows { stride: c + 5, offset: 1 }),
        }
    }
}

/// Elements from row to row, and before the first.
pub fn rows_at(dtype: DType, layout: usize, c: usize) -> Rows {
    let aligned = c.next_multiple_of(dtype.width());
    match layout {
        0 => Rows { stride: aligned, offset: 0 },
        1 => Rows { stride: aligned, offset: 3 },
        2 => Rows { stride: c + 1, offset: 0 },
        // Two rows of it already want 64-bit offsets.
        _ => Rows { stride: (1 << 31) + 1, offset: 0 },
    }
}
