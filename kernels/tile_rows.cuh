// Short rows: a tile of them in shared memory, a thread a row (REGIME TILE of cross_entropy.cu).
#pragma once
#include "softmax.cuh"

// Numbers that a thread has on their way from memory at a time.
#define BATCH 8

struct TeamScratch {
    u32 none;
};

DEVICE i64 place_in_grid() { return block_index(); }
DEVICE i64 places_in_grid() { return grid_blocks(); }
DEVICE double sum_of_block(double mine, double* scratch) { return block_reduce(mine, 0.0, Sum(), scratch); }
DEVICE bool stores_for_team() { return thread_index() == 0; }
DEVICE void leave_team() {}

// An element of a tile, counted by rows without gaps.
struct Place {
    i32 row;
    i32 column;

    // The element `step` further on, where `step` is rows and columns.
    MEMBER void advance(const Place& step, i32 classes) {
        row += step.row;
        column += step.column;
        if (column < classes) return;
        column -= classes;
        ++row;
    }
};

// The elements of a tile that a thread copies, in turn: neighbours take neighbouring elements.
struct Copies {
    Place place;
    Place step;
    i32 left;

    MEMBER Copies(i32 rows, i32 classes) {
        const i32 mine = static_cast<i32>(thread_index()), all = static_cast<i32>(block_threads());
        place = {mine / classes, mine % classes};
        step = {all / classes, all % classes};
        left = (rows * classes - mine + all - 1) / all;
    }
};

DEVICE void copy_in(const CrossEntropyArgs& args, i64 first, i32 rows, float* tile) {
    const i32 classes = args.labels.classes, pitch = classes | 1;
    for (Copies copies(rows, classes); copies.left > 0; copies.left -= BATCH) {
        Element x[BATCH];
        i32 to[BATCH];
        for (i32 k = 0; k < BATCH; ++k) {
            if (k >= copies.left) continue;
            x[k] = load_stream(args.logits + (first + copies.place.row) * args.logits_stride + copies.place.column);
            to[k] = copies.place.row * pitch + copies.place.column;
            copies.place.advance(copies.step, classes);
        }
        for (i32 k = 0; k < BATCH; ++k) {
            if (k < copies.left) tile[to[k]] = to_float(x[k]);
        }
    }
}

DEVICE void copy_out(const CrossEntropyArgs& args, i64 first, i32 rows, const float* tile) {
    const i32 classes = args.labels.classes, pitch = classes | 1;
    for (Copies copies(rows, classes); copies.left > 0; --copies.left) {
        store_stream(args.gradient + (first + copies.place.row) * args.gradient_stride + copies.place.column,
                     from_float(tile[copies.place.row * pitch + copies.place.column]));
        copies.place.advance(copies.step, classes);
    }
}

// From u in x to exp(v - max), and the row's sums.
DEVICE Softmax read_row(const CrossEntropyArgs& args, const Row& row, float* x, u64* key) {
    const i32 classes = args.labels.classes;
    const bool spread = is_spread(args);
    Softmax softmax = {minus_infinity(), 0.0f, 0.0f, 0.0f, 0.0f};
    for (i32 c = 0; c < classes; ++c) {
        if (wants_prediction(args)) *key = Maximal()(*key, prediction_key(x[c], c));
        x[c] = perturbed(args.perturbation, x[c], row.delta, c, row.label, row.margin);
        softmax.max = Maximum()(softmax.max, x[c]);
    }
    float maximal = 0.0f;
    for (i32 c = 0; c < classes; ++c) {
        const bool apart = row.label >= 0 ? c == row.label : x[c] == softmax.max;
        maximal += apart ? 1.0f : 0.0f;
        if (spread) {
            const float weighted = weighted_target(args, row, c);
            softmax.total += weighted;
            softmax.distance += weigh(weighted, softmax.max - x[c]);
        }
        if (c == row.label) softmax.label_v = x[c];
        x[c] = exp_approximate(x[c] - softmax.max);
        softmax.others += apart ? 0.0f : x[c];
    }
    if (row.label < 0) softmax.label_v = v_of_maximal(softmax.max, maximal);
    return softmax;
}

// The same from what an earlier launch saved.
DEVICE Softmax restore_row(const CrossEntropyArgs& args, const Row& row, float* x) {
    const Saved saved = load(args.from_saved + row.index);
    const Softmax softmax = {saved.max, saved.label_v, saved.others, saved.total, 0.0f};
    for (i32 c = 0; c < args.labels.classes; ++c) {
        const float v = perturbed(args.perturbation, x[c], row.delta, c, row.label, row.margin);
        x[c] = exp_approximate(v - softmax.max);
    }
    return softmax;
}

// Loss and gradient of the rows from `first` on; what this thread's adds to the loss.
DEVICE double take_tile(const CrossEntropyArgs& args, i64 first, Divisors divisors, TeamScratch*) {
    DYNAMIC_SHARED(float, tile);
    const i32 classes = args.labels.classes;
    const i32 rows = static_cast<i32>(minimum<i64>(args.tile_rows, args.rows - first));
    copy_in(args, first, rows, tile);
    block_barrier();
    double loss = 0.0;
    if (static_cast<i32>(thread_index()) < rows) {
        const Row row = row_at(args, first + thread_index());
        // An odd number of banks from row to row: a thread a row then meets no other's bank.
        float* const x = tile + static_cast<i32>(thread_index()) * (classes | 1);
        Softmax softmax = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
        u64 key = 0;
        if (row.counts) softmax = args.from_saved ? restore_row(args, row, x) : read_row(args, row, x, &key);
        if (!args.from_saved) loss = store_row(args, row, softmax, key, divisors);
        if (args.gradient) {
            const Gradient gradient(args, row, softmax, divisors);
            for (i32 c = 0; c < classes; ++c) {
                const float weighted = gradient.spread ? weighted_target(args, row, c) : 0.0f;
                const float scale = class_scale(args.perturbation, c);
                x[c] = row.counts ? gradient.at(x[c], c == row.label, weighted, scale) : 0.0f;
            }
        }
    }
    // Between what threads computed by rows and what they copy out, or load next, by places. No other is needed after the copy: a thread
    // loads the next tile into the very places that it copied out of.
    block_barrier();
    if (args.gradient) copy_out(args, first, rows, tile);
    return loss;
}
