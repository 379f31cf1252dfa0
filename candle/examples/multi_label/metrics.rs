//! How well a label is ranked and how well it is decided.

/// Average precision: over the distinct scores from the highest down, the sum of (recall gained there) * (precision there), without
/// interpolation. `None` where no row carries the label.
pub fn average_precision(scores: &[f32], labels: &[bool]) -> Option<f64> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let (mut rows, mut hits, mut sum) = (0, 0, 0.0);
    for tied in order.chunk_by(|&a, &b| scores[a] == scores[b]) {
        let gained = tied.iter().filter(|&&row| labels[row]).count();
        rows += tied.len();
        hits += gained;
        sum += gained as f64 * hits as f64 / rows as f64;
    }
    (hits > 0).then(|| sum / hits as f64)
}

/// F1 = 2 TP / (2 TP + FP + FN) where a positive logit, a probability above 0.5, decides for the label; 0 where there is nothing to
/// find and nothing was found.
pub fn f1(logits: &[f32], labels: &[bool]) -> f64 {
    let count = |decided: bool, carried: bool| {
        logits.iter().zip(labels).filter(|(logit, label)| (**logit > 0.0, **label) == (decided, carried)).count() as f64
    };
    let (found, wrong) = (count(true, true), count(true, false) + count(false, true));
    if found == 0.0 { 0.0 } else { 2.0 * found / (2.0 * found + wrong) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn average_precision_worked_by_hand() {
        // Ranked: +, -, +, -, +. Precision at the positives: 1/1, 2/3, 3/5.
        let labels = [false, true, true, false, true];
        let ap = average_precision(&[0.8, 0.9, 0.7, 0.6, 0.5], &labels).unwrap();
        assert!((ap - (1.0 + 2.0 / 3.0 + 3.0 / 5.0) / 3.0).abs() < 1e-15);
    }

    #[test]
    fn tied_scores_are_one_threshold() {
        // At 0.9 one of two is a hit and half the recall, at 0.1 the rest: 1/2 * 1/2 + 1/2 * 2/4, in whatever order the rows come.
        for labels in [[true, false, true, false], [false, true, false, true]] {
            assert_eq!(average_precision(&[0.9, 0.9, 0.1, 0.1], &labels), Some(0.5));
        }
        assert_eq!(average_precision(&[0.1, 0.2], &[false, false]), None);
    }

    #[test]
    fn f1_worked_by_hand() {
        // 1 found, 1 false alarm, 2 missed: 2 / (2 + 3).
        assert_eq!(f1(&[1.0, 2.0, -1.0, -2.0, -3.0], &[true, false, true, true, false]), 0.4);
        assert_eq!(f1(&[-1.0], &[false]), 0.0);
    }
}
