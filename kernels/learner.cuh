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

// e^x, the product with log2(e) carried on in two numbers: an exponent of 30 would cost four digits of the last eight otherwise.
DEVICE float exp_careful(float x) {
    const float product = x * 1.44269504088896341f;
    const float y = exp2_approximate(product);
    // Where it is 0 there is nothing to mend, and the rest of -inf is NaN.
    if (y == 0.0f) return y;
    const float rest = fmaf(x, 1.44269504088896341f, -product) + x * 1.925963033e-8f;
    return y + y * (rest * 0.693147180559945309f);
}
