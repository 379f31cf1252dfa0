// What cross-entropy gathers of every class, and `class_statistics` turns into numbers.
#pragma once
#include "fixed_sum.cuh"

// What the rows of a class add up to.
struct ClassSums {
    FixedSum loss;
    FixedSum confidence;
    // Rows in the low half, those predicted right in the high one.
    u64 counts;
    u32 met_loss;
    u32 met_confidence;
};
static_assert(sizeof(ClassSums) == 48, "as in src/kernel/args.rs");
