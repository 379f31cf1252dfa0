// Softmax cross-entropy of one row (SPEC 1), once its sums are known, wherever its logits live: what a row brings beside them, its loss, its
// gradient, its outputs.
#pragma once
#include "class_sums.cuh"
#include "labels.cuh"
#include "perturbation.cuh"

// What a row leaves for a backward pass of its own.
struct alignas(16) Saved {
    float max;
    float others;
    float label_v;
    float total;
};

struct CrossEntropyArgs {
    const Element* logits;
    // Null for the loss alone; may be the logits.
    Element* gradient;
    Perturbation perturbation;
    Labels labels;
    // Soft targets [N, C], null where there are labels; looked at where GENERAL.
    Operand targets;
    Weights weights;
    // On the device in place of `upstream` and `divisor`; null where those hold.
    const float* upstreams;
    const float* divisor_at;
    // [N]: from an earlier launch, for the gradient alone; null to compute everything.
    const Saved* from_saved;
    // [N] each, null where not asked for.
    Saved* saved;
    float* loss_rows;
    float* lse;
    i32* predictions;
    // [C], null where not asked for.
    ClassSums* statistics;
    // [1].
    float* loss;
    // [chunks]: what each chunk adds to the loss.
    double* partials;
    // Where the pre-pass tallied the labels; null where every block does.
    const Totals* totals;
    u32* ticket;
    ErrorWord* error;
    i64 rows;
    i64 logits_stride;
    i64 gradient_stride;
    // Tiles of the batch, the chunks that they make, and tiles of a chunk: what a block takes together.
    i64 tiles;
    i64 chunks;
    i64 chunk_tiles;
    i32 tile_rows;
    // Whether the divisors are the totals of the batch.
    i32 mean;
    float divisor;
    float upstream;
    // Whether `upstreams` has one a row.
    i32 upstream_by_row;
    // Looked at where GENERAL.
    float label_smoothing;
    float z_loss;
    i32 padding;
};
static_assert(sizeof(CrossEntropyArgs) == 312, "as in src/kernel/args.rs");

// Z and V.
struct Divisors {
    float ce;
    float z;
};

// The divisors, in every thread. Where this launch tallies by itself, every block does; the first also records the bad labels.
DEVICE Divisors divisors_of(const CrossEntropyArgs& args, TallyScratch* scratch) {
    const float given = args.divisor_at ? load(args.divisor_at) : args.divisor;
    Divisors divisors = {given, given};
    Totals totals = {0, 0.0};
    if (args.totals) {
        totals.valid = load(&args.totals->valid);
        totals.weight = load(&args.totals->weight);
    } else if (args.mean || (block_index() == 0 && args.labels.data && args.error)) {
        const Tally tally = tally_labels(args.labels, args.weights, 0, args.rows, scratch);
        if (block_index() == 0 && thread_index() == 0) record_bad_labels(args.labels, tally, args.error);
        totals = tally.totals;
    }
    if (args.mean) {
        divisors.ce = static_cast<float>(totals.weight);
        divisors.z = static_cast<float>(totals.valid);
    }
    return divisors;
}

// Whether targets lie on all classes: smoothed or soft.
DEVICE bool is_spread(const CrossEntropyArgs& args) { return GENERAL && (args.targets.data || args.label_smoothing != 0.0f); }

// What a row brings besides its logits.
struct Row {
    i64 index;
    // -1 where it does not count, and where targets are soft.
    i32 label;
    bool counts;
    // Of the label, and omega.
    float margin;
    float class_weight;
    float weight;
    // The row of `delta`.
    i64 delta;
};

DEVICE Row row_at(const CrossEntropyArgs& args, i64 index) {
    Row row = {index, -1, false, 0.0f, 1.0f, 1.0f, 0};
    if (index >= args.rows) return row;
    if (args.labels.data) row.label = class_of(args.labels, label_at(args.labels, index));
    row.counts = row.label >= 0 || !args.labels.data;
    if (!row.counts) return row;
    if (row.label >= 0) {
        if (args.perturbation.margins) row.margin = load(args.perturbation.margins + row.label);
        row.class_weight = vector_at(args.weights.classes, row.label, 1.0f);
    }
    if (args.weights.samples) row.weight = load(args.weights.samples + index);
    row.delta = delta_row(args.perturbation, index, row.label);
    return row;
}

// t * w of one column.
DEVICE float weighted_target(const CrossEntropyArgs& args, const Row& row, i32 column) {
    const float even = args.label_smoothing / static_cast<float>(args.labels.classes);
    const float hard = even + (column == row.label ? 1.0f - args.label_smoothing : 0.0f);
    return (args.targets.data ? operand_at(args.targets, row.index, column) : hard) * vector_at(args.weights.classes, column, 1.0f);
}

// t * w of a slot, 0 outside of the row.
DEVICE Slot weighted_targets(const CrossEntropyArgs& args, const Row& row, i32 first) {
    const i32 classes = args.labels.classes;
    Slot slot;
    if (args.targets.data) {
        slot = operand_slot(args.targets, row.index, first, classes);
    } else {
        const float even = args.label_smoothing / static_cast<float>(classes);
        UNROLL
        for (i32 k = 0; k < WIDTH; ++k) {
            const float hard = even + (first + k == row.label ? 1.0f - args.label_smoothing : 0.0f);
            slot.x[k] = is_inside(first + k, classes) ? hard : 0.0f;
        }
    }
    if (args.weights.classes) {
        const Slot weights = vector_slot(args.weights.classes, first, classes);
        UNROLL
        for (i32 k = 0; k < WIDTH; ++k) slot.x[k] *= weights.x[k];
    }
    return slot;
}

// A weight of 0 takes its term out, an infinite one included.
DEVICE float weigh(float weight, float x) { return weight == 0.0f ? 0.0f : weight * x; }

// The softmax of a row, as far as loss and gradient need it.
struct Softmax {
    float max;
    // v of the label, and the sum of exp(v - max) over all the other classes: with it nothing cancels as p approaches 1. Without a label, the
    // classes at the maximum stand for it together.
    float label_v;
    float others;
    // The sums of t * w and of t * w * (max - v), where targets are spread.
    float total;
    float distance;

    MEMBER float label_exp() const { return exp_approximate(label_v - max); }
    MEMBER float sum() const { return others + label_exp(); }
    MEMBER float log_sum() const { return label_v == max ? log1pf(others) : logf(sum()); }
    MEMBER float lse() const { return max + (sum() == sum() ? log_sum() : sum()); }
    // omega times the row's cross-entropy. A row that is NaN is so under any weight.
    MEMBER float cross_entropy(const Row& row, bool spread) const {
        if (sum() != sum()) return sum();
        // The difference is 0 where the label leads.
        const float hard = (max - label_v) + log_sum();
        const float terms = spread ? distance + weigh(total, log_sum()) : weigh(row.class_weight, hard);
        return weigh(row.weight, terms);
    }
};

// v of so many classes at the maximum, as if they were one.
DEVICE float v_of_maximal(float max, float count) { return count == 1.0f ? max : max + logf(count); }

// u of the largest logit and its column, as a number that is larger for a larger logit, and for a lower column among equals.
DEVICE u64 prediction_key(float u, i32 column) {
    // -0 is 0.
    const u32 bits = bits_of(u + 0.0f);
    const u32 ordered = u != u ? ~0u : bits >> 31 ? ~bits : bits | 0x80000000u;
    return static_cast<u64>(ordered) << 32 | static_cast<u32>(~column);
}
// -1 where a logit is NaN or all are -inf.
DEVICE i32 prediction_of(u64 key) {
    const u32 ordered = static_cast<u32>(key >> 32), least = ~bits_of(minus_infinity());
    return ordered == ~0u || ordered <= least ? -1 : static_cast<i32>(~static_cast<u32>(key));
}
DEVICE bool wants_prediction(const CrossEntropyArgs& args) { return args.predictions || args.statistics; }

struct Maximal {
    MEMBER u64 operator()(u64 a, u64 b) const { return a < b ? b : a; }
};

// Writes what was asked for of a row; what it adds to the loss.
DEVICE double store_row(const CrossEntropyArgs& args, const Row& row, const Softmax& softmax, u64 key, Divisors divisors) {
    const float ce = row.counts ? softmax.cross_entropy(row, is_spread(args)) : 0.0f;
    const float lse = row.counts ? softmax.lse() : 0.0f;
    const float z = args.z_loss == 0.0f ? 0.0f : args.z_loss * lse * lse;
    const i32 prediction = row.counts ? prediction_of(key) : -1;
    if (args.loss_rows) store(args.loss_rows + row.index, ce + z);
    if (args.lse) store(args.lse + row.index, lse);
    if (args.predictions) store(args.predictions + row.index, prediction);
    if (args.saved) {
        const Saved saved = {softmax.max, softmax.others, softmax.label_v, softmax.total};
        store(args.saved + row.index, saved);
    }
    if (args.statistics && row.label >= 0) {
        ClassSums* const sums = args.statistics + row.label;
        add_to(&sums->loss, &sums->met_loss, ce + z);
        add_to(&sums->confidence, &sums->met_confidence, softmax.label_exp() / softmax.sum());
        atomic_add(&sums->counts, prediction == row.label ? 1ull << 32 | 1ull : 1ull);
    }
    if (!row.counts) return 0.0;
    // Where every weight is 0 the sum counts for nothing, unless it is NaN.
    const float of_ce = divisors.ce != 0.0f ? ce / divisors.ce : ce != ce ? ce : 0.0f;
    return args.z_loss == 0.0f ? of_ce : static_cast<double>(of_ce) + static_cast<double>(z / divisors.z);
}

// The numbers that turn exp(v - max) into the gradient by u.
struct Gradient {
    // Of exp(v - max), of the label as a whole, of t * w.
    float factor;
    float label;
    float targets;
    // Apart only where it is not finite: a gradient of 0 stays 0 then.
    float upstream;
    bool apart;
    bool spread;

    MEMBER Gradient(const CrossEntropyArgs& args, const Row& row, const Softmax& softmax, Divisors divisors)
        : upstream(!args.upstreams ? args.upstream : load(args.upstreams + (args.upstream_by_row ? row.index : 0))),
          apart(!(fabsf(upstream) < -minus_infinity())), spread(is_spread(args)) {
        const float outer = divisors.ce == 0.0f ? 0.0f : row.weight / divisors.ce;
        const float of_z = args.z_loss == 0.0f ? 0.0f : 2.0f * args.z_loss * softmax.lse() / divisors.z;
        const float of_ce = outer * (spread ? softmax.total : row.class_weight);
        const float unit = (apart ? 1.0f : upstream) * args.perturbation.scale;
        factor = unit * (of_ce + of_z) / softmax.sum();
        label = unit * (softmax.label_exp() * of_z - softmax.others * of_ce) / softmax.sum();
        targets = unit * outer;
    }
    // Of one class, from its exp(v - max), t * w and scale.
    MEMBER float at(float exp, bool is_label, float weighted, float scale) const {
        const float hard = is_label ? label : exp * factor;
        const float x = (spread ? exp * factor - weighted * targets : hard) * scale;
        return apart && x != 0.0f ? x * upstream : x;
    }
};
