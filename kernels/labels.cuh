// Class labels: reading one, and the tally of a batch that `Mean` divides by and bad labels are reported from.
#pragma once
#include "sync.cuh"

// How the labels are stored; the same numbers as LabelType in src/kernel/args.rs.
#define LABELS_I32 0
#define LABELS_I64 1
#define LABELS_U32 2

#define NO_ROW (~0ull)

// Errors found on the device, kept until the host reads them. The first row is that of the first launch that found any.
struct ErrorWord {
    u64 bad_labels;
    u64 first_row;
    i64 first_label;
};

struct Labels {
    // Null where targets are soft: every row counts then.
    const void* data;
    i64 ignore_index;
    i32 type;
    i32 classes;
};

DEVICE i64 label_at(const Labels& labels, i64 row) {
    switch (labels.type) {
    case LABELS_I32: return load(static_cast<const i32*>(labels.data) + row);
    case LABELS_I64: return load(static_cast<const i64*>(labels.data) + row);
    default: return load(static_cast<const u32*>(labels.data) + row);
    }
}

// The class of a row, -1 where it is ignored or its label is bad.
DEVICE i32 class_of(const Labels& labels, i64 label) {
    const bool valid = label != labels.ignore_index && label >= 0 && label < labels.classes;
    return valid ? static_cast<i32>(label) : -1;
}

// Weights of classes, [C], and of samples, [N]; null where they are 1.
struct Weights {
    const float* classes;
    const float* samples;
};

// What the rows of a batch add up to: how many are valid, and the sum of their weights.
struct Totals {
    u64 valid;
    double weight;
};

struct Tally {
    Totals totals;
    u64 bad;
    u64 first_bad;
};

struct TallyScratch {
    u64 valid[MOST_WARPS];
    double weight[MOST_WARPS];
    u64 bad[MOST_WARPS];
    u64 first_bad[MOST_WARPS];
};

DEVICE Tally empty_tally() {
    const Tally tally = {{0, 0.0}, 0, NO_ROW};
    return tally;
}

DEVICE Tally reduce_tally(Tally mine, TallyScratch* scratch) {
    Tally all;
    all.totals.valid = block_reduce<u64>(mine.totals.valid, 0, Sum(), scratch->valid);
    all.totals.weight = block_reduce(mine.totals.weight, 0.0, Sum(), scratch->weight);
    all.bad = block_reduce<u64>(mine.bad, 0, Sum(), scratch->bad);
    all.first_bad = block_reduce<u64>(mine.first_bad, NO_ROW, Minimum(), scratch->first_bad);
    return all;
}

// The tally of rows from..to, in every thread of the block.
DEVICE Tally tally_labels(const Labels& labels, const Weights& weights, i64 from, i64 to, TallyScratch* scratch) {
    // Not for every row where it is not needed: doubles are slow on most devices.
    const bool weighted = weights.classes || weights.samples;
    Tally mine = empty_tally();
    for (i64 row = from + thread_index(); row < to; row += block_threads()) {
        const i64 label = labels.data ? label_at(labels, row) : 0;
        if (class_of(labels, label) >= 0 || !labels.data) {
            mine.totals.valid += 1;
            if (weighted) {
                const float of_class = weights.classes && labels.data ? load(weights.classes + label) : 1.0f;
                const float of_sample = weights.samples ? load(weights.samples + row) : 1.0f;
                mine.totals.weight += static_cast<double>(of_class) * static_cast<double>(of_sample);
            }
        } else if (label != labels.ignore_index) {
            mine.bad += 1;
            mine.first_bad = Minimum()(mine.first_bad, static_cast<u64>(row));
        }
    }
    if (!weighted) mine.totals.weight = static_cast<double>(mine.totals.valid);
    return reduce_tally(mine, scratch);
}

// For one thread of one block of a launch; `error` is null where the batch was tallied before.
DEVICE void record_bad_labels(const Labels& labels, const Tally& tally, ErrorWord* error) {
    if (tally.bad == 0 || !error) return;
    if (load(&error->bad_labels) == 0) {
        store(&error->first_row, tally.first_bad);
        store(&error->first_label, label_at(labels, static_cast<i64>(tally.first_bad)));
    }
    store(&error->bad_labels, load(&error->bad_labels) + tally.bad);
}
