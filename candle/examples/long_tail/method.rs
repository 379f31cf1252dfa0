//! The losses that are compared, each as a problem of `logit-perturb`.

use clap::ValueEnum;
use logit_perturb_candle::logit_perturb::{
    Bound, ClassCounts, CrossEntropy, Learner, Perturbation, Result, Split, Step,
};

/// How many of the most frequent classes LPL holds back.
const HEAD: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Method {
    /// Cross-entropy, the baseline
    Ce,
    /// LDAM (Cao 2019): the rarer the class, the larger its margin
    Ldam,
    /// Logit adjustment (Menon 2021)
    La,
    /// Learned class-level logit perturbation (Li 2022)
    Lpl,
    /// LPL on top of logit adjustment
    LaLpl,
}

impl Method {
    pub fn name(self) -> &'static str {
        match self {
            Method::Ce => "CE",
            Method::Ldam => "LDAM",
            Method::La => "LA",
            Method::Lpl => "LPL",
            Method::LaLpl => "LA + LPL",
        }
    }

    /// The loss for a training set with these class counts.
    pub fn problem(self, counts: &ClassCounts) -> Result<CrossEntropy> {
        let loss = CrossEntropy::builder();
        match self {
            Method::Ce => loss,
            // A scale of 1 and a margin of up to 4, not the authors' 30 and 0.5: those go with normalised features.
            Method::Ldam => loss.perturbation(Perturbation::ldam(counts, 4.0)?),
            Method::La => loss.perturbation(Perturbation::logit_adjustment(counts, 1.0)?),
            Method::Lpl => loss.learner(lpl(counts, 0.6 * 4.0, 4.0)?),
            Method::LaLpl => {
                loss.perturbation(Perturbation::logit_adjustment(counts, 1.0)?).learner(lpl(counts, 0.2 * 3.0, 3.0)?)
            }
        }
        .build()
    }
}

/// The most frequent class is pulled by up to `delta_head`, the rarest pushed by up to `delta_tail`, the others less.
fn lpl(counts: &ClassCounts, delta_head: f64, delta_tail: f64) -> Result<Learner> {
    let split = Split::Rank { head: HEAD, counts: counts.clone() };
    Learner::new(Step::UnitL2, 0.1, split, Bound::LongTail { eps: 0.0, delta_head, delta_tail, ratio: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldam_s_margins_are_4_times_the_fourth_root_of_the_rarest_class_s_share() {
        let counts = ClassCounts::new([162.0, 32.0, 2.0]).unwrap();
        let problem = Method::Ldam.problem(&counts).unwrap();
        let Perturbation::TargetMargin(margins) = problem.perturbation() else { panic!("LDAM is a target margin") };
        for (margin, expected) in margins.iter().zip([4.0 / 3.0, 2.0, 4.0]) {
            assert!((margin - expected).abs() < 1e-12);
        }
    }
}
