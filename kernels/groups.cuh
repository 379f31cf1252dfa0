// The rows of a batch by class: what `group_rows` leaves and the learners (SPEC 3) start from.
#pragma once
#include "fixed_sum.cuh"

// The rows of one class, places `first` to `first + count` of the order.
struct Group {
    i32 label;
    u32 first;
    u32 count;
    u32 padding;
    // q, the class's mean confidence, and the one that decides: q itself or the running one. Set where `tau` is their mean.
    double confidence;
    double deciding;
};
static_assert(sizeof(Group) == 32, "as in src/kernel/learn/args.rs");

// What the groups have in common.
struct GroupList {
    // Groups of classes, ascending; the places of the ignored rows begin at `ignored`.
    u32 present;
    u32 ignored;
    // NaN where the split has none.
    double tau;
};
static_assert(sizeof(GroupList) == 16, "as in src/kernel/learn/args.rs");

DEVICE bool is_finite(double x) { return x - x == 0.0; }

// The confidence that decides for a class, given this batch's. With `running`, [C] and NaN for a class never seen: the mean so far, which
// then takes this batch in. For one thread a class and batch.
DEVICE double deciding_confidence(double* running, i32 label, double momentum, double confidence) {
    if (!is_finite(confidence)) return static_cast<double>(minus_infinity()) * 0.0;
    if (!running) return confidence;
    const double mean = load(running + label);
    const bool seen = mean == mean;
    store(running + label, seen ? momentum * mean + (1.0 - momentum) * confidence : confidence);
    return seen ? mean : confidence;
}
