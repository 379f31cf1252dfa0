// The rows of a batch by class: what `group_rows` leaves and the learners (SPEC 3) start from.
#pragma once
#include "fixed_sum.cuh"
#include "learner.cuh"

// The rows of one class, places `first` to `first + count` of the order.
struct Group {
    i32 label;
    u32 first;
    u32 count;
    // Blocks of its gang that have come to its barriers, and the first of the gang's rows.
    u32 arrived;
    u32 gang_row;
    u32 padding;
    // q, the class's mean confidence, and the one that decides: q itself or the running one. Set where `tau` is their mean.
    double confidence;
    double deciding;
};
static_assert(sizeof(Group) == 40, "as in src/kernel/learn/args.rs");

// What the groups have in common.
struct GroupList {
    // Groups of classes, ascending; the places of the ignored rows begin at `ignored`.
    u32 present;
    u32 ignored;
    // NaN where the split has none.
    double tau;
    // How many groups, first in the order by team, have a gang of blocks, and how many, next in it, a block. The others have a warp.
    u32 gangs;
    u32 blocks;
    // Of all gangs: one a tile, and one for each gang as a whole.
    u32 gang_rows;
    // Pieces of work that blocks have taken.
    u32 taken;
};
static_assert(sizeof(GroupList) == 32, "as in src/kernel/learn/args.rs");

// Tiles of a class, as its gang shares them out.
DEVICE u32 tiles_of(u32 count, i32 tile_rows) { return (count + static_cast<u32>(tile_rows) - 1) / static_cast<u32>(tile_rows); }

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
