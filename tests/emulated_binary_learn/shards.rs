//! A batch that is spread over devices.

use crate::case::{Format, Numbers};
use crate::run::{compare_shard, explicit, occurrences, shards};
use logit_perturb::{BinaryStep, Reduction, Split};
use logit_perturb_emulator::{Emulator, Options};

/// Two devices with a part of a batch each, that add up what their rows have: confidences, tau and all that follows from them are those of the whole
/// batch, and delta is that of each device's rows.
#[test]
fn shards_of_a_batch_share_their_confidences() {
    for format in [Format::F32, Format::I8, Format::Bits, Format::Csr] {
        for step in [BinaryStep::Raw, BinaryStep::Sign, BinaryStep::Exact] {
            // Also more classes and signs than a block has threads.
            let splits =
                [Split::MeanConfidence, Split::Confidence { tau: 0.45 }, explicit(11)].map(|split| (11, split));
            for (c, split) in splits.into_iter().chain([(70, explicit(70))]) {
                for reduction in [Reduction::Mean, Reduction::Divisor(170.0)] {
                    let (whole, parts) = shards(format, c, step, split.clone(), reduction);
                    let options = Options { seed: 3, resident_blocks: 2, ..Options::default() };
                    let mut emulators = [(); 2].map(|()| Emulator::new(options.clone()));
                    let operations: Vec<_> = (parts.iter().zip(&mut emulators))
                        .map(|(part, emulator)| part.operation(emulator, None))
                        .collect();
                    // More than one batch: what is gathered begins at 0 every time.
                    for _ in 0..2 {
                        let found: Vec<_> = (operations.iter().zip(&mut emulators))
                            .map(|(operation, emulator)| operation.gather(emulator).unwrap())
                            .collect();
                        for ((counts, _), part) in found.iter().zip(&parts) {
                            assert_eq!(*counts, occurrences(part), "{}", part.describe());
                        }
                        let counts: Vec<u64> = found[0].0.iter().zip(&found[1].0).map(|(a, b)| a + b).collect();
                        let sums: Vec<f64> = found[0].1.iter().zip(&found[1].1).map(|(a, b)| a + b).collect();
                        for ((operation, part), emulator) in operations.iter().zip(&parts).zip(&mut emulators) {
                            operation.set_gathered(emulator, &counts, &sums);
                            let outcome = operation.run(emulator).unwrap();
                            assert!(outcome.idle && outcome.errors.bad == 0);
                            let learned = outcome.learned.as_ref().unwrap();
                            let signs = [&learned.positive, &learned.negative];
                            compare_shard(&whole, part, signs, &Numbers::from(&outcome));
                        }
                    }
                }
            }
        }
    }
}
