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

struct Tally {
    u64 valid;
    u64 bad;
    u64 first_bad;
};

struct TallyScratch {
    u64 valid[MOST_WARPS];
    u64 bad[MOST_WARPS];
    u64 first_bad[MOST_WARPS];
};

DEVICE Tally reduce_tally(Tally mine, TallyScratch* scratch) {
    Tally all;
    all.valid = block_reduce<u64>(mine.valid, 0, Sum(), scratch->valid);
    all.bad = block_reduce<u64>(mine.bad, 0, Sum(), scratch->bad);
    all.first_bad = block_reduce<u64>(mine.first_bad, NO_ROW, Minimum(), scratch->first_bad);
    return all;
}

// The tally of rows from..to, in every thread of the block.
DEVICE Tally tally_labels(const Labels& labels, i64 from, i64 to, TallyScratch* scratch) {
    Tally mine = {0, 0, NO_ROW};
    for (i64 row = from + thread_index(); row < to; row += block_threads()) {
        const i64 label = label_at(labels, row);
        if (class_of(labels, label) >= 0) {
            mine.valid += 1;
        } else if (label != labels.ignore_index) {
            mine.bad += 1;
            mine.first_bad = Minimum()(mine.first_bad, static_cast<u64>(row));
        }
    }
    return reduce_tally(mine, scratch);
}

// For one thread of one block of a launch.
DEVICE void record_bad_labels(const Labels& labels, const Tally& tally, ErrorWord* error) {
    if (tally.bad == 0) return;
    if (load(&error->bad_labels) == 0) {
        store(&error->first_row, tally.first_bad);
        store(&error->first_label, label_at(labels, static_cast<i64>(tally.first_bad)));
    }
    store(&error->bad_labels, load(&error->bad_labels) + tally.bad);
}
