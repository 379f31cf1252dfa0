// What both learners (SPEC 3, 4) decide alike.
#pragma once
#include "prelude.cuh"

// Confidences within this of tau count as equal to it; the same number as TIE in src/perturbation/learned.rs.
#define TIE 1e-6
// As MAX_STEPS there.
#define MOST_STEPS 10000

DEVICE bool is_finite(double x) { return x - x == 0.0; }

// Which way a class is pushed whose confidence is so far below tau; no comparison with NaN holds.
DEVICE i32 direction_of(double gap) { return gap > TIE ? 1 : gap < -TIE ? -1 : 0; }

// K. A bound that is NaN gives no step.
DEVICE u32 steps_of(double bound, double alpha) {
    const double quotient = bound / alpha * (1.0 + 1e-6);
    return quotient < MOST_STEPS ? static_cast<u32>(quotient) : quotient == quotient ? MOST_STEPS : 0u;
}
