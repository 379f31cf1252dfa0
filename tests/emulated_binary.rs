//! Binary cross-entropy on the emulated device, against the f64 reference and an evaluation that shares no code with the crate, at the accuracy
//! of SPEC 6: every target format, element type, team of threads, place of the gradient, alignment, reduction and option.

#[path = "emulated_binary/case.rs"]
mod case;

use case::{Case, Format, TINY, bits, rounded};
use logit_perturb::kernel::{DType, Limits};
use logit_perturb::{BinaryCrossEntropy, BinaryPerturbation, Focusing, Reduction};
use logit_perturb_emulator::{Gradient, Options, Rows};
use std::collections::BTreeSet;

/// Teams of 1, 2, 4, 8, 16 and 32 threads and of a block, in f32 and in half types.
const LENGTHS: [usize; 13] = [1, 3, 4, 8, 17, 33, 64, 100, 130, 300, 520, 1100, 2100];

fn vector(classes: usize, frequency: f64, amplitude: f64) -> Vec<f64> {
    (0..classes).map(|k| f64::from(((k as f64 * frequency).sin() * amplitude) as f32)).collect()
}

#[test]
fn every_format_team_place_and_alignment_agrees() {
    let mut teams = BTreeSet::new();
    for dtype in DType::ALL {
        for c in LENGTHS {
            let rows = if c > 500 { 3 } else { 11 };
            let wide = c.next_multiple_of(dtype.width());
            let places = [(c, 0), (wide, 0), (c + 1, 0), (wide + dtype.width(), 1), (c + 3, 2)]
                .map(|(stride, offset)| Rows { stride, offset });
            for (f, format) in Format::ALL.into_iter().enumerate() {
                for (i, rows_at) in places.into_iter().enumerate() {
                    let gradients = [
                        Gradient::None,
                        Gradient::InPlace,
                        Gradient::Into(rows_at),
                        Gradient::Into(Rows { stride: c + 5, offset: 3 }),
                    ];
                    // Each place with two of the four, so that formats and lengths together see all.
                    for gradient in [gradients[(i + f) % 4], gradients[(i + f + 2 + c % 2) % 4]] {
                        let seed = (c + 7 * i + f) as u64;
                        let mut case = Case::random(dtype, format, c, rows, seed);
                        if (i + f) % 2 == 0 {
                            case = case.masked(seed);
                        }
                        let targets_at = places[(i + f) % 5];
                        (case.rows_at, case.gradient, case.targets_at) = (rows_at, gradient, targets_at);
                        teams.insert((dtype, case.check(seed).plan.team));
                    }
                }
            }
        }
    }
    for dtype in DType::ALL {
        let of_dtype: Vec<u32> = teams.iter().filter(|(of, _)| *of == dtype).map(|(_, team)| *team).collect();
        assert_eq!(&of_dtype[..6], [1, 2, 4, 8, 16, 32], "{dtype:?}");
        assert!(of_dtype[6] > 32, "{dtype:?}");
    }
}

/// Without an unknown entry, packed bits need no pre-pass; everything else does under `Mean`, and lists always.
#[test]
fn the_pre_pass_runs_where_it_must() {
    for format in Format::ALL {
        for masked in [false, true] {
            for reduction in [Reduction::Mean, Reduction::BatchMean, Reduction::Sum, Reduction::None] {
                let mut case = Case::random(DType::F32, format, 40, 9, 3);
                case.targets.iter_mut().for_each(|t| *t = t.max(0.0));
                case.problem = BinaryCrossEntropy::builder().reduction(reduction).build().unwrap();
                if masked {
                    case = case.masked(4);
                }
                let launches = case.check(5).launches;
                let needed =
                    format == Format::Csr || reduction == Reduction::Mean && (masked || format != Format::Bits);
                assert_eq!(
                    launches.len(),
                    1 + usize::from(needed),
                    "{format:?}, {masked}, {reduction:?}: {launches:?}"
                );
            }
        }
    }
}

#[test]
fn reductions_divisors_and_upstream_gradients_agree() {
    let reductions = [Reduction::Mean, Reduction::Sum, Reduction::None, Reduction::BatchMean, Reduction::Divisor(7.5)];
    for c in [5, 130, 1100] {
        for (i, reduction) in reductions.into_iter().enumerate() {
            let mut case = Case::random(DType::F32, Format::I8, c, 7, i as u64);
            case.problem = BinaryCrossEntropy::builder().reduction(reduction).build().unwrap();
            for (upstream, on_device) in [(vec![-2.5], false), (vec![0.75], true)] {
                (case.upstream, case.device_upstream) = (upstream, on_device);
                case.check(i as u64);
            }
            if reduction == Reduction::None {
                case.upstream = vec![0.5, -1.0, 2.0, 0.0, 3.0, 1.0, -0.25];
                case.check(8);
            }
        }
        let mut case = Case::random(DType::F32, Format::Bits, c, 7, 9);
        case.problem = BinaryCrossEntropy::builder().reduction(Reduction::Divisor(1.0)).build().unwrap();
        case.device_divisor = Some(12.25);
        case.check(1);
    }
}

/// Every combination of options that may go together.
#[test]
fn every_option_agrees() {
    for dtype in DType::ALL {
        for format in [Format::Same, Format::Bits, Format::I8] {
            for c in [13, 100] {
                for set in 0..64u32 {
                    let has = |bit: u32| set >> bit & 1 == 1;
                    let mut fixed = BinaryPerturbation::none();
                    if has(0) {
                        fixed = fixed.offset(vector(c, 0.37, 2.0));
                    }
                    if has(1) {
                        fixed = fixed.positive(vector(c, 0.71, 1.5));
                    }
                    if has(2) {
                        fixed = fixed.negative(vector(c, 0.53, 1.0));
                    }
                    let mut builder = BinaryCrossEntropy::builder().perturbation(fixed);
                    if has(3) {
                        let weights: Vec<f64> = vector(c, 0.9, 3.0).into_iter().map(|x| x.max(0.0)).collect();
                        builder = builder.pos_weight(weights);
                    }
                    builder = match (set >> 4) & 3 {
                        0 => builder,
                        1 => builder.negative_scale(2.5),
                        2 => builder.focusing(Focusing { gamma_pos: 1.5, gamma_neg: 3.0, clip: 0.0 }),
                        _ => builder.focusing(Focusing { gamma_pos: 0.0, gamma_neg: 4.0, clip: 0.05 }),
                    };
                    let seed = u64::from(set);
                    let mut case = Case::random(dtype, format, c, 5, seed).masked(seed);
                    case.problem = builder.build().unwrap();
                    case.statistics = set % 3 == 0;
                    if set.count_ones() % 2 == 0 {
                        case = case.weighted(set % 4 == 0, seed);
                    }
                    case.gradient = Gradient::InPlace;
                    case.check(seed);
                }
            }
        }
    }
}

#[test]
fn focusing_agrees_for_all_exponents_and_margins() {
    for (i, gamma) in [0.0, 0.3, 1.0, 2.0, 5.0].into_iter().enumerate() {
        for clip in [0.0, 1e-4, 0.05, 0.5, 0.9] {
            for format in [Format::F32, Format::Bits] {
                let mut case = Case::random(DType::F32, format, 64, 8, i as u64);
                case.logits.iter_mut().for_each(|x| *x *= 5.0);
                let focusing = Focusing { gamma_pos: gamma, gamma_neg: 2.5 - gamma / 2.0, clip };
                case.problem = BinaryCrossEntropy::builder().focusing(focusing).build().unwrap();
                case.check(i as u64);
            }
        }
    }
}

/// Logits beside the one whose probability is the margin, and on it: what is left of a probability there is small, not noise.
#[test]
fn the_edge_of_the_margin_is_exact() {
    for (clip, edge) in [(0.5, 0.0f32), (0.25, -(3f32.ln())), (0.05, -2.944_439)] {
        for gamma in [0.0, 0.5, 1.0, 4.0] {
            let logits: Vec<f32> = (-20..=20)
                .map(|ulps| match edge {
                    0.0 => ulps as f32 * 1e-7,
                    edge => f32::from_bits(edge.to_bits().wrapping_add_signed(ulps)),
                })
                .collect();
            let mut case = Case::random(DType::F32, Format::Bits, logits.len(), 1, 1);
            case.targets.fill(0.0);
            case.logits = logits;
            let focusing = Focusing { gamma_pos: 0.0, gamma_neg: gamma, clip };
            case.problem = BinaryCrossEntropy::builder().focusing(focusing).reduction(Reduction::Sum).build().unwrap();
            case.check(2);
        }
    }
}

/// Half types: at most a unit in the last place off, and the nearest number nearly always.
#[test]
fn half_gradients_are_rounded_once() {
    for dtype in [DType::F16, DType::BF16] {
        for spread in [1.0, 2.0] {
            for reduction in [Reduction::Sum, Reduction::Mean] {
                let (mut counted, mut off) = (0, 0);
                for (seed, format) in Format::ALL.into_iter().enumerate() {
                    let mut case = Case::random(dtype, format, 300, 20, seed as u64);
                    case.logits.iter_mut().for_each(|x| *x = rounded(dtype, f64::from(*x) * spread) as f32);
                    case.problem = BinaryCrossEntropy::builder().reduction(reduction).build().unwrap();
                    let (more, wrong) = case.compare(&case.run(seed as u64));
                    (counted, off) = (counted + more, off + wrong);
                }
                assert!(counted > 10_000 && off * 200 <= counted, "{dtype:?}: {off} of {counted}");
            }
        }
    }
}

/// Large logits, and sums of many small losses.
#[test]
fn logits_may_lie_far_from_0() {
    for c in [40, 1100, 5000] {
        for (scale, shift) in [(6.0, 0.0), (1000.0, 0.0), (1.0, -20.0), (0.5, -12.0), (1.0, 30.0), (0.1, -5.0)] {
            let mut case = Case::random(DType::F32, Format::Bits, c, 4, 13);
            case.targets.iter_mut().step_by(2).for_each(|t| *t = 0.0);
            case.logits.iter_mut().for_each(|x| *x = *x * scale + shift);
            case.check(1);
        }
    }
}

/// Equal losses are rounded the same way in every addition: a thread that adds up thousands must not keep what that loses.
#[test]
fn long_rows_keep_their_sum() {
    for (u, dtype) in [(-0.7, DType::F32), (0.3, DType::F32), (-2.3, DType::F16)] {
        let c = 200_000;
        let mut case = Case::random(dtype, Format::Bits, c, 1, 1);
        case.limits.block_threads = 32;
        case.logits.fill(rounded(dtype, u) as f32);
        case.targets.fill(0.0);
        case.check(1);
    }
}

/// Each logit read once and each gradient written once; each target too, but for the bits that neighbours share.
#[test]
fn every_element_moves_once() {
    for dtype in DType::ALL {
        for c in LENGTHS {
            for format in Format::ALL {
                for fused in [true, false] {
                    let at = Rows { stride: c + 2, offset: 1 };
                    let gradient = if fused { Gradient::Into(at) } else { Gradient::None };
                    let mut case = Case { rows_at: at, gradient, ..Case::random(dtype, format, c, 4, 1) };
                    case.problem = BinaryCrossEntropy::builder().reduction(Reduction::Sum).build().unwrap();
                    case.targets_at = at;
                    let outcome = case.run(2);
                    let what = case.describe();
                    assert!(outcome.logits_traffic.reads.iter().all(|&n| n == 1), "{what}");
                    assert!(outcome.logits_traffic.writes.iter().all(|&n| n == 0), "{what}");
                    if let Some(traffic) = &outcome.gradient_traffic {
                        assert!(
                            traffic.writes.iter().all(|&n| n == 1) && traffic.reads.iter().all(|&n| n == 0),
                            "{what}"
                        );
                    }
                    match outcome.main_targets_traffic {
                        Some(traffic) if format != Format::Bits => {
                            assert!(traffic.reads.iter().all(|&n| n == 1), "{what}: {traffic:?}");
                        }
                        Some(traffic) => assert!(traffic.reads.iter().all(|&n| n >= 1), "{what}"),
                        None => assert!(outcome.targets_traffic.reads.iter().all(|&n| n <= 1), "{what}"),
                    }
                }
            }
        }
    }
}

/// Aligned rows move no sector that they do not fill.
#[test]
fn aligned_rows_move_no_excess_sectors() {
    for dtype in DType::ALL {
        for c in [16, 32, 64, 128, 256, 1024, 2048, 4096] {
            for format in [Format::F32, Format::Same, Format::I8, Format::U8, Format::Bits] {
                let mut case = Case::random(dtype, format, c, 32, 1);
                case.targets.iter_mut().for_each(|t| *t = t.max(0.0));
                if c > 256 {
                    (case.logits, case.targets) = (case.logits[..4 * c].to_vec(), case.targets[..4 * c].to_vec());
                }
                let outcome = case.run(3);
                let (read, written) =
                    (outcome.logits_traffic.read_sectors, outcome.gradient_traffic.unwrap().write_sectors);
                assert_eq!(read.moved, read.distinct, "{}: {read:?}", case.describe());
                assert_eq!(written.moved, written.distinct, "{}: {written:?}", case.describe());
                if format.is_soft() {
                    let targets = outcome.main_targets_traffic.unwrap().read_sectors;
                    // Eight f32 beside eight half-precision logits are two accesses to the same sectors.
                    let accesses = if dtype != DType::F32 && format == Format::F32 { 2 } else { 1 };
                    assert_eq!(targets.moved, accesses * targets.distinct, "{}: {targets:?}", case.describe());
                }
            }
        }
    }
}

/// The same bits for every order of threads and blocks, and whether stores come early or late.
#[test]
fn results_do_not_depend_on_the_schedule() {
    for (c, rows, format) in
        [(3, 90, Format::Csr), (40, 30, Format::I8), (300, 10, Format::Csr), (1100, 6, Format::F32)]
    {
        let mut case = Case::random(DType::F32, format, c, rows, 9).masked(9);
        case.logits.iter_mut().for_each(|x| *x *= 3.0);
        (case.gradient, case.statistics) = (Gradient::InPlace, true);
        let expected = bits(&case.run_with(Options::default()));
        for seed in 1..10 {
            for resident_blocks in [1, 2, 64] {
                let options = Options { seed, resident_blocks, store_buffer: seed % 2 == 0, ..Options::default() };
                let outcome = case.run_with(options);
                assert_eq!(bits(&outcome), expected, "{c} classes, seed {seed}, {resident_blocks} blocks resident");
            }
        }
    }
}

/// More blocks, or more threads, on the device change no bit of a row.
#[test]
fn rows_do_not_depend_on_the_grid() {
    let large = Limits { multiprocessors: 5, resident_threads: 512, resident_blocks: 4, chunks: 100, ..TINY };
    for c in [3, 40, 300, 1100] {
        let case = Case::random(DType::F32, Format::Bits, c, 40, 4);
        let other = Case { limits: large, ..case.clone() };
        let (a, b) = (case.run(1), other.run(1));
        assert_eq!((a.loss_rows, a.gradient), (b.loss_rows, b.gradient), "{c} classes");
    }
}

/// A row's numbers do not depend on the rows around it, nor on their number, given divisor and alignment.
#[test]
fn a_row_does_not_depend_on_the_others() {
    for dtype in DType::ALL {
        for c in [8, 40, 304, 2104] {
            let mut all = Case::random(dtype, Format::F32, c, 6, 4).weighted(true, 4);
            all.problem = BinaryCrossEntropy::builder().reduction(Reduction::Sum).build().unwrap();
            let mut alone = all.clone();
            let part = |x: &[f32]| x[4 * c..5 * c].to_vec();
            (alone.logits, alone.targets) = (part(&all.logits), part(&all.targets));
            alone.weights = all.weights.as_deref().map(part);
            let (all, alone) = (all.run(1), alone.run(1));
            assert_eq!(all.loss_rows[4].to_bits(), alone.loss_rows[0].to_bits(), "{c} classes");
            assert_eq!(all.gradient[4 * c..5 * c], alone.gradient, "{c} classes");
        }
    }
}

#[path = "emulated_binary/corners.rs"]
mod corners;
