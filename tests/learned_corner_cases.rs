//! The corner cases of SPEC 3 to 5 with a learner: step counts, ties, ranks, absent and spoilt classes, far perturbations, running
//! confidences. `corner_cases.rs` has those without.

mod common;

use common::{assert_close, sigmoid, softmax, uniform};
use logit_perturb::cpu::{self, CrossEntropyOutput, Pass};
use logit_perturb::{
    BinaryLearner, BinaryStep, Bound, ClassCounts, GradientSemantics, Learner, Matrix, MatrixMut, NegativeSplit,
    Perturbation, Reduction, RunningConfidence, Split, Step,
};

const INF: f64 = f64::INFINITY;
const NAN: f64 = f64::NAN;

fn learner(step: Step, alpha: f64, split: Split, bound: Bound) -> Learner {
    Learner::new(step, alpha, split, bound).expect("in range")
}

fn fixed(eps: f64) -> Bound {
    Bound::Fixed { eps }
}

/// Two rows of class 0 and 1, which go up.
fn pair(step: Step, alpha: f64, eps: f64) -> softmax::Case {
    let split = Split::Explicit(vec![1, 1]);
    let learner = Some(learner(step, alpha, split, fixed(eps)));
    softmax::Case { learner, ..softmax::Case::new(2, vec![1.0, 0.0, 0.5, 1.0], vec![0, 1]) }
}

fn binary(step: BinaryStep, alpha: f64, split: Split, bound: Bound) -> BinaryLearner {
    BinaryLearner::new(step, alpha, split, bound).expect("in range")
}

#[test]
fn step_counts_forgive_rounding_and_nothing_else() {
    let table = [
        (0.3, 0.1, 3),
        (0.6, 0.2, 3),
        (0.7, 0.1, 7),
        (0.3 * (1.0 - 2e-6), 0.1, 2),
        (0.1, 0.1, 1),
        (0.0999, 0.1, 0),
        (0.0, 0.1, 0),
        (1.0, 1e-3, 1000),
        (1.0, 1e-4, 10_000),
        (1.0, 1e-5, 10_000),
        (1e300, 1e-300, 10_000),
    ];
    for (eps, alpha, steps) in table {
        let output = pair(Step::Raw, alpha, eps).check();
        assert_eq!(output.learned.expect("a learner is set").steps, [steps; 2], "{eps} / {alpha}");
        for kind in [BinaryStep::Raw, BinaryStep::Sign, BinaryStep::Exact] {
            let learner = Some(binary(kind, alpha, Split::Explicit(vec![1]), fixed(eps)));
            let learned =
                sigmoid::Case { learner, ..sigmoid::Case::new(1, vec![0.2, -0.3], vec![1.0, 0.0]) }.run().0.learned;
            let (learned, expected) =
                (learned.expect("a learner is set"), if kind == BinaryStep::Exact { 0 } else { steps });
            assert_eq!(
                (learned.positive.steps[0], learned.negative.steps[0]),
                (expected, expected),
                "{kind:?}: {eps} / {alpha}"
            );
            let sign = alpha * f64::from(steps);
            match kind {
                BinaryStep::Sign => assert_eq!((learned.positive.delta[0], learned.negative.delta[0]), (-sign, -sign)),
                BinaryStep::Exact => assert_eq!((learned.positive.delta[0], learned.negative.delta[0]), (-eps, -eps)),
                _ => {}
            }
        }
    }
}

#[test]
fn without_a_step_nothing_is_perturbed() {
    for semantics in [GradientSemantics::Detached, GradientSemantics::Through] {
        let mut case = pair(Step::UnitL2, 0.1, 0.05);
        case.learner = case.learner.map(|learner| learner.gradient(semantics));
        let (output, gradient) = case.run();
        let (plain, expected) = softmax::Case { learner: None, ..case }.run();
        assert_eq!((output.loss_rows, gradient), (plain.loss_rows, expected));
        assert_eq!(output.learned.expect("a learner is set").delta, [0.0; 4]);
    }
}

#[test]
fn a_tie_is_direction_zero_and_its_edge_is_at_one_millionth() {
    // Every confidence is 1/2 exactly.
    for (offset, direction) in [(0.0, 0), (0.9e-6, 0), (-0.9e-6, 0), (1.1e-6, 1), (-1.1e-6, -1)] {
        let split = Split::Confidence { tau: 0.5 + offset };
        let case = softmax::Case::new(2, vec![0.0; 4], vec![0, 1]);
        let learner = Some(learner(Step::Raw, 0.1, split.clone(), fixed(0.2)));
        let learned = softmax::Case { learner, ..case }.check().learned.expect("a learner is set");
        let steps = if direction == 0 { 0 } else { 2 };
        assert_eq!((learned.direction, learned.steps), (vec![direction; 2], vec![steps; 2]), "tau = 1/2 + {offset:e}");
        let case = sigmoid::Case::new(1, vec![0.0; 2], vec![1.0, 0.0]);
        let learner = Some(binary(BinaryStep::Sign, 0.1, split, fixed(0.2)));
        let learned = sigmoid::Case { learner, ..case }.check().learned.expect("a learner is set");
        for sign in [learned.positive, learned.negative] {
            assert_eq!((sign.direction[0], sign.steps[0]), (direction, steps), "tau = 1/2 + {offset:e}");
        }
    }
}

#[test]
fn a_batch_of_one_class_is_its_own_mean() {
    let learner = learner(Step::UnitL2, 0.1, Split::MeanConfidence, Bound::Confidence { eps: 0.5, delta_eps: 3.0 });
    let case = softmax::Case { learner: Some(learner), ..softmax::Case::new(3, uniform(1, 6, -1.0..1.0), vec![1, 1]) };
    let learned = case.check().learned.expect("a learner is set");
    assert_eq!(learned.tau, learned.confidence[0]);
    assert_eq!(
        (learned.classes, learned.direction, learned.steps, learned.bound),
        (vec![1], vec![0], vec![0], vec![0.5])
    );
}

#[test]
fn the_mean_is_over_present_classes_each_counted_once() {
    // Confidences 1/2 (two rows) and 4/5; class 2 is absent.
    let logits = vec![0.0, 0.0, -INF, 0.0, 0.0, -INF, 0.0, 4f64.ln(), -INF];
    let bound = Bound::Confidence { eps: 0.25, delta_eps: 2.0 };
    let learner = learner(Step::Raw, 0.1, Split::MeanConfidence, bound);
    let case = softmax::Case { learner: Some(learner), ..softmax::Case::new(3, logits, vec![0, 0, 1]) };
    let learned = case.check().learned.expect("a learner is set");
    assert_close("tau", &[learned.tau], &[0.65], 1e-15);
    assert_close("bound", &learned.bound, &[0.55, 0.55], 1e-15);
    assert_eq!((learned.direction, learned.steps), (vec![1, -1], vec![5, 5]));
}

#[test]
fn ranks_break_ties_by_index_and_count_absent_classes() {
    let table: [(&[f64], usize, &[i8]); 6] = [
        (&[5.0, 5.0, 5.0], 1, &[-1, 1, 1]),
        (&[5.0, 5.0, 5.0], 2, &[-1, -1, 1]),
        (&[1.0, 7.0, 3.0], 1, &[1, -1, 1]),
        (&[0.0, 7.0, 7.0], 1, &[1, -1, 1]),
        (&[1.0, 2.0, 3.0], 0, &[1, 1, 1]),
        (&[1.0, 2.0, 3.0], 3, &[-1, -1, -1]),
    ];
    for (counts, head, directions) in table {
        let split = Split::Rank { head, counts: ClassCounts::new(counts.to_vec()).expect("counts") };
        // Class 1 is absent.
        let case = softmax::Case::new(3, uniform(1, 6, -1.0..1.0), vec![0, 2]);
        let learner = Some(learner(Step::Raw, 0.1, split.clone(), fixed(0.2)));
        let learned = softmax::Case { learner, ..case }.check().learned.expect("a learner is set");
        assert_eq!(learned.direction, [directions[0], directions[2]], "{counts:?}, head {head}");
        let case = sigmoid::Case::new(3, uniform(1, 6, -1.0..1.0), vec![1.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
        let learner = Some(binary(BinaryStep::Exact, 0.1, split, fixed(0.2)));
        let learned = sigmoid::Case { learner, ..case }.check().learned.expect("a learner is set");
        assert_eq!(learned.positive.direction, directions);
        assert_eq!(learned.negative.direction, directions.iter().map(|d| -d).collect::<Vec<_>>());
    }
}

#[test]
fn long_tail_bounds_compare_with_the_first_and_the_last_rank() {
    let table: [(Option<Vec<f64>>, [f64; 3]); 2] = [
        (None, [0.1 + 0.9 * 10.0 / 50.0, 0.1 + 0.4, 0.1 + 0.9]),
        (Some(vec![1.0, 2.0, 4.0]), [0.1 + 0.9 * 4.0, 0.1 + 0.4, 0.1 + 0.9]),
    ];
    for (ratio, bounds) in table {
        let split = Split::Rank { head: 1, counts: ClassCounts::new([50.0, 100.0, 10.0]).expect("counts") };
        let bound = Bound::LongTail { eps: 0.1, delta_head: 0.4, delta_tail: 0.9, ratio };
        let learner = learner(Step::Raw, 0.1, split, bound);
        let case = softmax::Case::new(3, uniform(1, 9, -1.0..1.0), vec![0, 1, 2]);
        let learned = softmax::Case { learner: Some(learner), ..case }.check().learned.expect("a learner is set");
        assert_close("bound", &learned.bound, &bounds, 1e-15);
    }
}

#[test]
fn perturbations_beyond_the_range_of_exp_follow_the_naive_loop() {
    let table = [
        (Step::UnitL2, 1.0, 90.0),
        (Step::UnitL2, 7.0, 70.0),
        (Step::UnitL2, 100.0, 900.0),
        (Step::UnitL2, 2000.0, 6000.0),
        (Step::Raw, 40.0, 400.0),
        (Step::Raw, 800.0, 4000.0),
    ];
    for (step, alpha, eps) in table {
        for (direction, spread) in [(1, 2.0), (-1, 2.0), (1, 60.0), (-1, 60.0)] {
            let learner = Some(learner(step, alpha, Split::Explicit(vec![direction; 4]), fixed(eps)));
            let mut case = softmax::Case::new(4, uniform(3, 20, -spread..spread), vec![0, 1, 1, 3, 3]);
            case.logits[2] = -INF;
            case.learner = learner;
            let learned = case.check().learned.expect("a learner is set");
            let most = learned.delta.iter().fold(0.0, |most: f64, d| most.max(d.abs()));
            // Downhill, raw steps end where the gradient does, and unit steps where it falls below 1e-12.
            assert!(most > 30.0 || direction == -1, "{step:?} {alpha}: {most}");
        }
    }
}

#[test]
fn only_the_target_and_the_logits_teach() {
    let plain = pair(Step::UnitL2, 0.1, 0.5);
    let learned = plain.run().0.learned;
    let mut case = plain.clone();
    (case.smoothing, case.z, case.class_weights) = (0.3, 0.5, Some(vec![0.0, 7.0]));
    (case.sample_weights, case.reduction, case.upstream) = (Some(vec![0.0, 3.0]), Reduction::Divisor(5.0), vec![-2.0]);
    assert_eq!(format!("{:?}", case.run().0.learned), format!("{learned:?}"));
    let split = Split::Explicit(vec![1, -1]);
    let learner = Some(binary(BinaryStep::Raw, 0.3, split, fixed(2.0)));
    let plain = sigmoid::Case { learner, ..sigmoid::Case::new(2, vec![1.0, 0.0, 0.5, 1.0], vec![1.0, 0.0, 0.0, 1.0]) };
    let learned = plain.run().0.learned;
    let mut case = plain.clone();
    (case.pos_weight, case.weights, case.negative_scale) = (Some(vec![0.0, 7.0]), Some(vec![0.0, 3.0, 1.0, 2.0]), 4.0);
    (case.reduction, case.upstream) = (Reduction::Divisor(5.0), vec![-2.0]);
    assert_eq!(format!("{:?}", case.run().0.learned), format!("{learned:?}"));
}

/// The numbers of a class, for comparison.
fn of_class(output: &CrossEntropyOutput, class: usize) -> (Vec<f64>, i8, u32, f64, f64) {
    let learned = output.learned.as_ref().expect("a learner is set");
    let at = learned.classes.iter().position(|&c| c == class).expect("present");
    let delta = learned.delta.chunks(3).nth(at).expect("a row a class").to_vec();
    (delta, learned.direction[at], learned.steps[at], learned.bound[at], learned.confidence[at])
}

#[test]
fn a_spoilt_row_spoils_its_class_and_no_other() {
    let rank = Split::Rank { head: 1, counts: ClassCounts::new([9.0, 5.0, 2.0]).expect("counts") };
    let splits = [Split::MeanConfidence, Split::Confidence { tau: 0.4 }, rank, Split::Explicit(vec![1, 1, -1])];
    let rows = [[NAN, 0.0, 1.0], [0.0, INF, 1.0], [-INF; 3]];
    let semantics = [GradientSemantics::Detached, GradientSemantics::Through];
    let combinations =
        splits.iter().flat_map(|split| rows.iter().flat_map(move |row| semantics.map(|s| (split, row, s))));
    for (split, row, semantics) in combinations {
        let learner = learner(Step::UnitL2, 0.1, split.clone(), fixed(0.4)).gradient(semantics);
        let mut case = softmax::Case::new(3, uniform(5, 15, -1.0..1.0), vec![0, 1, 2, 1, 0]);
        (case.learner, case.reduction) = (Some(learner), Reduction::Sum);
        // The others' numbers are those of a batch without the class.
        let mut without = case.clone();
        (without.labels[1], without.labels[3]) = (-100, -100);
        let (expected, unspoilt) = without.run();
        case.logits[9..12].copy_from_slice(row);
        let (output, gradient) = case.run();
        for i in 0..5 {
            let gradient = &gradient[i * 3..][..3];
            if i % 2 == 1 {
                assert!(output.loss_rows[i].is_nan() && gradient.iter().all(|g| g.is_nan()), "{split:?}: row {i}");
            } else {
                assert_eq!(
                    (output.loss_rows[i], gradient),
                    (expected.loss_rows[i], &unspoilt[i * 3..][..3]),
                    "{split:?}: row {i}"
                );
            }
        }
        assert!(of_class(&output, 1).0.iter().all(|d| d.is_nan()) && of_class(&output, 1).4.is_nan());
        for class in [0, 2] {
            assert_eq!(of_class(&output, class), of_class(&expected, class), "{split:?}");
        }
        let tau = |output: &CrossEntropyOutput| output.learned.as_ref().map(|learned| learned.tau.to_bits());
        assert_eq!(tau(&output), tau(&expected), "the class enters no mean");
    }
}

#[test]
fn a_nan_logit_spoils_its_group_and_no_other() {
    for (step, split) in [
        (BinaryStep::Raw, Split::MeanConfidence),
        (BinaryStep::Raw, Split::Explicit(vec![1, -1])),
        (BinaryStep::Sign, Split::Confidence { tau: 0.4 }),
        (BinaryStep::Exact, Split::Explicit(vec![1, -1])),
    ] {
        for semantics in [GradientSemantics::Detached, GradientSemantics::Through] {
            let learner = Some(binary(step, 0.1, split.clone(), fixed(0.4)).gradient(semantics));
            // Column 1: positives in rows 0 and 2, a negative in row 1.
            let case = sigmoid::Case::new(2, uniform(6, 6, -1.0..1.0), vec![1.0, 1.0, 0.0, 0.0, 1.0, 1.0]);
            let mut case = sigmoid::Case { learner, reduction: Reduction::Sum, ..case };
            // The others' numbers are those of a batch without the group.
            let mut without = case.clone();
            (without.targets[1], without.targets[5]) = (-1.0, -1.0);
            let (expected, unspoilt) = without.run();
            case.logits[5] = NAN;
            let (output, gradient) = case.run();
            assert!(gradient[1].is_nan() && gradient[5].is_nan() && output.loss_rows[0].is_nan());
            let others = |g: &[f64]| [g[0], g[2], g[3], g[4]];
            assert_eq!(others(&gradient), others(&unspoilt), "{split:?}");
            assert_eq!(output.loss_rows[1], expected.loss_rows[1]);
            let (learned, expected) = (output.learned.expect("a learner"), expected.learned.expect("a learner"));
            assert!(learned.positive.delta[1].is_nan());
            assert_eq!(learned.positive.delta[0], expected.positive.delta[0]);
            assert_eq!(learned.negative.delta, expected.negative.delta);
            assert_eq!(learned.positive.tau.to_bits(), expected.positive.tau.to_bits(), "the group enters no mean");
        }
    }
}

#[test]
fn empty_groups_stay_put_and_infinite_logits_are_learned_from() {
    let learner = Some(binary(BinaryStep::Raw, 0.5, Split::Explicit(vec![1, 1]), fixed(2.0)));
    // Column 0 has no negative, column 1 no positive.
    let case = sigmoid::Case::new(2, vec![INF, INF, 0.0, -1.0], vec![1.0, 0.0, 1.0, 0.0]);
    let case = sigmoid::Case { learner, ..case };
    for semantics in [GradientSemantics::Detached, GradientSemantics::Through] {
        let case = sigmoid::Case { learner: case.learner.clone().map(|l| l.gradient(semantics)), ..case.clone() };
        let (output, gradient) = case.run();
        let learned = output.learned.expect("a learner is set");
        assert_eq!((learned.positive.delta[1], learned.positive.steps[1]), (0.0, 0));
        assert_eq!((learned.negative.delta[0], learned.negative.steps[0]), (0.0, 0));
        // u = +inf has sigmoid 1: half of the positives push, all the negatives do, one of them with full strength.
        let mut delta = [0.0f64; 2];
        for _ in 0..4 {
            delta[0] += 0.5 * -0.5 / (1.0 + delta[0].exp());
            delta[1] -= 0.5 * 0.5 * (1.0 + 1.0 / (1.0 + (1.0 - delta[1]).exp()));
        }
        assert_close("delta", &[learned.positive.delta[0], learned.negative.delta[1]], &delta, 1e-14);
        assert!(gradient.iter().all(|g| g.is_finite()) && output.loss_rows[0].is_infinite());
    }
}

#[test]
fn a_class_masked_by_a_shared_perturbation_is_never_learned() {
    for semantics in [GradientSemantics::Detached, GradientSemantics::Through] {
        let learner = learner(Step::UnitL2, 0.1, Split::Explicit(vec![1; 3]), fixed(0.5)).gradient(semantics);
        let mut case = softmax::Case::new(3, uniform(8, 9, -1.0..1.0), vec![0, 2, 0]);
        (case.learner, case.form) = (Some(learner), Perturbation::Shared(vec![0.0, -INF, 0.3]));
        let learned = case.check().learned.expect("a learner is set");
        assert!(learned.delta.chunks(3).all(|delta| delta[1] == 0.0 && delta[0] != 0.0));
        assert!(case.run().1.chunks(3).all(|row| row[1] == 0.0 && row[0].is_finite()));
        // A label there: loss +inf, numbers otherwise.
        case.labels[1] = 1;
        let (output, gradient) = case.run();
        assert!(output.loss_rows[1].is_infinite() && gradient.iter().all(|g| g.is_finite()), "{gradient:?}");
    }
}

#[test]
fn confident_rows_keep_their_digits_under_a_learner() {
    for lead in [20.0, 40.0, 300.0] {
        for direction in [1, -1] {
            let case = softmax::Case::new(3, vec![lead, 0.0, 0.5, lead + 1.0, 0.2, -0.5], vec![0, 0]);
            let learner = Some(learner(Step::UnitL2, 0.1, Split::Explicit(vec![direction; 3]), fixed(0.5)));
            let case = softmax::Case { learner, ..case };
            case.check();
            for row in case.run().1.chunks(3) {
                let others = row[1] + row[2];
                assert!(others > 0.0 && (row[0] / -others - 1.0).abs() < 1e-12, "lead {lead}: {row:?}");
            }
        }
    }
}

/// A number added to a row changes no loss, so the gradient of each row sums to 0, to the reference's accuracy of SPEC 6.
#[test]
fn through_gradients_of_confident_rows_sum_to_zero() {
    for step in [Step::Raw, Step::UnitL2] {
        for (lead, smoothing) in [5.0, 15.0, 20.0, 25.0, 30.0].into_iter().flat_map(|lead| [(lead, 0.0), (lead, 0.1)]) {
            let learner =
                learner(step, 0.1, Split::Explicit(vec![1; 3]), fixed(0.5)).gradient(GradientSemantics::Through);
            let mut case = softmax::Case::new(3, vec![lead, 0.0, 0.5, lead + 0.3, 0.7, -0.2], vec![0, 0]);
            (case.learner, case.smoothing) = (Some(learner), smoothing);
            for row in case.run().1.chunks(3) {
                let tolerance = 1e-9 * row[0].abs() + 2e-15 * (lead + 1.0);
                let sum: f64 = row.iter().sum();
                assert!(
                    sum.abs() <= tolerance,
                    "{step:?}, lead {lead}, smoothing {smoothing}: {row:?} sums to {sum:e}"
                );
            }
        }
    }
}

/// Confidences 1/2 for class 0, or 4/5 for class 1; class 2 never comes.
fn one_row(class: i64) -> Matrix<'static> {
    const LOGITS: [[f64; 3]; 2] = [[0.0, 0.0, -INF], [0.0, 1.386_294_361_119_890_6, -INF]];
    Matrix::new(&LOGITS[class as usize], 1, 3).expect("1 x 3")
}

#[test]
fn running_confidences_are_used_before_they_take_the_batch_in() {
    let learner =
        learner(Step::Raw, 0.1, Split::Confidence { tau: 0.6 }, Bound::Confidence { eps: 0.0, delta_eps: 1.0 });
    let problem = softmax::Case { learner: Some(learner), ..softmax::Case::new(3, vec![], vec![]) }.problem();
    let mut running = RunningConfidence::new(3, 0.75).expect("in range");
    assert_eq!(running.values(), [None; 3]);
    // (class of the batch, confidence of the row, the running value that is used, all values afterwards)
    let mut batch = |class: i64, logits: Matrix<'_>| {
        let labels = [class];
        let batch = cpu::CrossEntropyBatch::labels(&labels).running_confidence(&mut running);
        let learned = cpu::cross_entropy(&problem, logits, batch).expect("a valid batch").learned.expect("a learner");
        (
            learned.confidence[0],
            learned.batch_confidence[0],
            learned.direction[0],
            learned.bound[0],
            running.values().to_vec(),
        )
    };
    let check = |actual: (f64, f64, i8, f64, Vec<Option<f64>>), used: f64, q: f64, direction: i8, values: [f64; 2]| {
        let (confidence, batch_confidence, d, bound, after) = actual;
        assert_close("confidence", &[confidence, batch_confidence, bound], &[used, q, (0.6 - used).abs()], 1e-15);
        assert_eq!(d, direction);
        // NaN: never seen.
        assert_close("values", &[after[0].unwrap_or(NAN), after[1].unwrap_or(NAN)], &values, 1e-15);
        assert_eq!(after[2], None);
    };
    let certain = [0.0, -INF, -INF];
    check(batch(0, one_row(0)), 0.5, 0.5, 1, [0.5, NAN]);
    check(batch(1, one_row(1)), 0.8, 0.8, -1, [0.5, 0.8]);
    let certainly = Matrix::new(&certain, 1, 3).expect("1 x 3");
    check(batch(0, certainly), 0.5, 1.0, 1, [0.625, 0.8]);
    check(batch(0, certainly), 0.625, 1.0, -1, [0.71875, 0.8]);
    // A spoilt class keeps its value.
    let spoilt = batch(1, Matrix::new(&[NAN, 0.0, 0.0], 1, 3).expect("1 x 3"));
    assert!(spoilt.1.is_nan() && spoilt.0.is_nan());
    assert_eq!(spoilt.4[1], Some(0.8));
}

#[test]
fn running_confidences_average_over_the_classes_present() {
    let learner = learner(Step::Raw, 0.1, Split::MeanConfidence, fixed(0.2));
    let mut case = softmax::Case::new(3, vec![0.0, 0.0, -INF, -INF, 0.0, -INF], vec![0, 1]);
    case.learner = Some(learner);
    let mut running = RunningConfidence::new(3, RunningConfidence::DEFAULT_MOMENTUM).expect("in range");
    let mut tau = |case: &softmax::Case| {
        let logits = Matrix::new(&case.logits, case.rows(), 3).expect("N x 3");
        let batch = case.batch().running_confidence(&mut running);
        cpu::cross_entropy(&case.problem(), logits, batch).expect("a valid batch").learned.expect("a learner").tau
    };
    assert_eq!(tau(&case), 0.75);
    // Class 1 alone: the running value 1, though the row has 1/2.
    (case.logits, case.labels) = (vec![0.0, 0.0, -INF], vec![1]);
    assert_eq!(tau(&case), 1.0);
    assert_close("class 1", &[tau(&case)], &[0.9 + 0.1 * 0.5], 1e-15);
}

#[test]
fn a_failed_call_leaves_running_confidences_alone() {
    let problem = pair(Step::Raw, 0.1, 0.2).problem();
    let mut running = RunningConfidence::new(2, 0.9).expect("in range");
    let logits = [0.0; 4];
    let batch = cpu::CrossEntropyBatch::labels(&[0i64, 7]).running_confidence(&mut running);
    assert!(cpu::cross_entropy(&problem, Matrix::new(&logits, 2, 2).expect("2 x 2"), batch).is_err());
    assert_eq!(running.values(), [None; 2]);
}

#[test]
fn negatives_may_have_bounds_and_splits_of_their_own() {
    let case = sigmoid::Case::new(2, uniform(9, 8, -2.0..2.0), vec![1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
    let explicit = || binary(BinaryStep::Exact, 0.1, Split::Explicit(vec![1, -1]), fixed(0.4));
    let own = NegativeSplit::Own(Split::Explicit(vec![0, -1]));
    // Down is up for the negatives' logits.
    for (split, delta) in [
        (NegativeSplit::Opposite, [-0.7, 0.7]),
        (NegativeSplit::Same, [0.7, -0.7]),
        (NegativeSplit::Off, [0.0, 0.0]),
        (own, [0.0, -0.7]),
    ] {
        let learner = explicit().negatives(split, fixed(0.7)).expect("in range");
        let learned =
            sigmoid::Case { learner: Some(learner), ..case.clone() }.check().learned.expect("a learner is set");
        assert_eq!((learned.positive.delta, learned.negative.delta), (vec![-0.4, 0.4], delta.to_vec()));
    }
}

/// Where logits near the end of f64 overflow with their perturbation, the class is NaN, and nothing panics; without a gradient nothing is
/// differentiated.
#[test]
fn logits_that_overflow_with_their_perturbation_are_nan() {
    let logits = [1.7e308, 1.7e308];
    let far = learner(Step::UnitL2, 0.5e308, Split::Explicit(vec![-1, -1]), fixed(1e308));
    for semantics in [GradientSemantics::Detached, GradientSemantics::Through] {
        let problem =
            softmax::Case { learner: Some(far.clone().gradient(semantics)), ..softmax::Case::new(2, vec![], vec![]) };
        let mut gradient = [0f64; 2];
        let logits = Matrix::new(&logits, 1, 2).expect("1 x 2");
        let into = Pass::Into { logits, gradient: MatrixMut::new(&mut gradient, 1, 2).expect("1 x 2") };
        for pass in [Pass::Forward(logits), into] {
            let output = cpu::cross_entropy(&problem.problem(), pass, cpu::CrossEntropyBatch::labels(&[0i64]));
            assert!(output.expect("a valid batch").loss.is_nan());
        }
        assert!(gradient.iter().all(|g| g.is_nan()), "{semantics:?}: {gradient:?}");
    }
}
