// Sums of floats whose terms come from any thread in any order and still have one value: in fixed point, by integer atomics. What is not
// finite sets a flag.
#pragma once
#include "sync.cuh"

// Of terms below 2^35 the integer parts, and the fractions in units of 2^-36: as many as 2^28 terms.
struct FixedSum {
    u64 whole;
    u64 fraction;
};

#define FRACTION_UNIT 68719476736.0f
#define LARGEST_TERM 34359738368.0f

// What a sum met that fixed point does not hold.
#define MET_NAN 1u
#define MET_INFINITY 2u
#define MET_MINUS_INFINITY 4u

DEVICE void add_to(FixedSum* sum, u32* met, float x) {
    if (!(fabsf(x) < LARGEST_TERM)) {
        atomic_or(met, x != x ? MET_NAN : x > 0.0f ? MET_INFINITY : MET_MINUS_INFINITY);
        return;
    }
    const float whole = floorf(x);
    const u64 fraction = static_cast<u64>((x - whole) * FRACTION_UNIT);
    if (whole != 0.0f) atomic_add(&sum->whole, static_cast<u64>(static_cast<i64>(whole)));
    if (fraction != 0) atomic_add(&sum->fraction, fraction);
}

// The value, and 0 in the sum's place for the next launch.
DEVICE double take(FixedSum* sum, u32 met) {
    const double value = static_cast<double>(static_cast<i64>(load(&sum->whole))) +
                         static_cast<double>(load(&sum->fraction)) / static_cast<double>(FRACTION_UNIT);
    store<u64>(&sum->whole, 0);
    store<u64>(&sum->fraction, 0);
    const double infinity = -static_cast<double>(minus_infinity());
    const bool up = (met & MET_INFINITY) != 0, down = (met & MET_MINUS_INFINITY) != 0;
    if ((met & MET_NAN) != 0 || (up && down)) return infinity - infinity;
    return up ? infinity : down ? -infinity : value;
}
