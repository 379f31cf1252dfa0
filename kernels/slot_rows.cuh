// Rows that a team of threads shares, cut at 16-byte boundaries into slots (all REGIMEs of cross_entropy.cu but TILE). A row stays in the
// team's registers or shared memory between the read and the write, or is read again.
#pragma once
#include "softmax.cuh"

#if REGIME == WARP_ROWS || REGIME == BLOCK_ROW
#define IN_REGISTERS 1
#define SLOTS (VALUES / WIDTH)
#else
#define IN_REGISTERS 0
#endif

// Sums of a row: label_v (without a label, how many classes are at the maximum) and others, and where targets are spread total and distance.
#define SUMS (GENERAL ? 4 : 2)

struct TeamScratch {
    float max[MOST_WARPS];
    float sums[SUMS * MOST_WARPS];
    u64 key[MOST_WARPS];
    // What each block of a cluster adds, for the others to read.
    float block_max;
    float block_sums[SUMS];
    u64 block_key;
};

// The team of a row: its threads, and what they agree on.
#if REGIME == WARP_ROWS

DEVICE i32 team_threads() { return WARP; }
DEVICE i32 team_thread() { return static_cast<i32>(thread_index() % WARP); }
DEVICE i32 team_index() { return static_cast<i32>(thread_index() / WARP); }
DEVICE i64 place_in_grid() { return block_index(); }
DEVICE i64 places_in_grid() { return grid_blocks(); }
DEVICE float team_max(float x, TeamScratch*) { return warp_reduce(x, Maximum()); }
DEVICE u64 team_key(u64 x, TeamScratch*) { return warp_reduce(x, Maximal()); }
DEVICE void team_sums(float (&x)[SUMS], TeamScratch*) {
    for (i32 i = 0; i < SUMS; ++i) x[i] = warp_reduce(x[i], Sum());
}
DEVICE double sum_of_block(double mine, double* scratch) { return block_reduce(mine, 0.0, Sum(), scratch); }
DEVICE void leave_team() {}

#elif REGIME == CLUSTER_ROW

DEVICE i32 team_threads() { return static_cast<i32>(block_threads() * cluster_blocks()); }
DEVICE i32 team_thread() { return static_cast<i32>(cluster_rank() * block_threads() + thread_index()); }
DEVICE i32 team_index() { return 0; }
DEVICE i64 place_in_grid() { return block_index() / cluster_blocks(); }
DEVICE i64 places_in_grid() { return grid_blocks() / cluster_blocks(); }
// Each of the three stands between two uses of the others' places.
DEVICE float team_max(float x, TeamScratch* scratch) {
    return cluster_reduce(block_reduce(x, minus_infinity(), Maximum(), scratch->max), minus_infinity(), Maximum(), &scratch->block_max);
}
DEVICE u64 team_key(u64 x, TeamScratch* scratch) {
    return cluster_reduce(block_reduce<u64>(x, 0, Maximal(), scratch->key), 0ull, Maximal(), &scratch->block_key);
}
DEVICE void team_sums(float (&x)[SUMS], TeamScratch* scratch) {
    block_reduce_each(x, 0.0f, Sum(), scratch->sums);
    cluster_reduce_each(x, 0.0f, Sum(), scratch->block_sums);
}
DEVICE double sum_of_block(double mine, double*) { return mine; }
// No block ends while another may read its shared memory.
DEVICE void leave_team() { cluster_barrier(); }

#else

DEVICE i32 team_threads() { return static_cast<i32>(block_threads()); }
DEVICE i32 team_thread() { return static_cast<i32>(thread_index()); }
DEVICE i32 team_index() { return 0; }
DEVICE i64 place_in_grid() { return block_index(); }
DEVICE i64 places_in_grid() { return grid_blocks(); }
DEVICE float team_max(float x, TeamScratch* scratch) { return block_reduce(x, minus_infinity(), Maximum(), scratch->max); }
DEVICE u64 team_key(u64 x, TeamScratch* scratch) { return block_reduce<u64>(x, 0, Maximal(), scratch->key); }
DEVICE void team_sums(float (&x)[SUMS], TeamScratch* scratch) { block_reduce_each(x, 0.0f, Sum(), scratch->sums); }
// A row is the block's, and its loss that of the first thread.
DEVICE double sum_of_block(double mine, double*) { return mine; }
DEVICE void leave_team() {}

#endif

DEVICE bool stores_for_team() { return team_thread() == 0 && team_index() == 0; }

// A row on its way: where it is read, and what of it stays on chip.
struct Reading {
    const Element* logits;
    i32 shift;
#if IN_REGISTERS
    Slot v[SLOTS];
#endif
};

// Every slot of the row that is this thread's, and its place `j` among them.
#if IN_REGISTERS
#define FOR_SLOTS(args, reading, j, slot)                                                                              \
    UNROLL for (i32 j = 0, slot = team_thread(); j < SLOTS; ++j, slot += team_threads())
#else
#define FOR_SLOTS(args, reading, j, slot)                                                                              \
    for (i32 j = 0, slot = team_thread(); first_column(slot, (reading).shift) < (args).labels.classes;                 \
         ++j, slot += team_threads())
#endif

// u of a slot as the first read finds it, and as the second does.
DEVICE Pack read_first(const CrossEntropyArgs& args, const Reading& reading, i32 j, i32 slot) {
    const i32 first = first_column(slot, reading.shift);
    const Pack pack = load_pack<REGIME == TWO_READ>(reading.logits, first, args.labels.classes, minus_infinity());
#if REGIME == SHARED_ROW || REGIME == CLUSTER_ROW
    // For this thread alone: no one else reads it.
    DYNAMIC_SHARED(Pack, row_data);
    row_data[j * static_cast<i32>(block_threads()) + static_cast<i32>(thread_index())] = pack;
#else
    static_cast<void>(j);
#endif
    return pack;
}
DEVICE Pack read_again(const CrossEntropyArgs& args, const Reading& reading, i32 j, i32 slot) {
#if REGIME == SHARED_ROW || REGIME == CLUSTER_ROW
    static_cast<void>(args), static_cast<void>(reading), static_cast<void>(slot);
    DYNAMIC_SHARED(Pack, row_data);
    return row_data[j * static_cast<i32>(block_threads()) + static_cast<i32>(thread_index())];
#else
    static_cast<void>(j);
    return load_pack<false>(reading.logits, first_column(slot, reading.shift), args.labels.classes, minus_infinity());
#endif
}

DEVICE Slot v_of(const CrossEntropyArgs& args, const Row& row, Pack u, i32 first) {
    return perturbed_slot(args.perturbation, unpack(u), row.delta, first, args.labels.classes, row.label, row.margin);
}

// u and its place, towards the prediction.
DEVICE u64 larger_key(u64 key, Pack u, i32 first, i32 classes) {
    const Slot slot = unpack(u);
    UNROLL
    for (i32 k = 0; k < WIDTH; ++k) {
        if (is_inside(first + k, classes)) key = Maximal()(key, prediction_key(slot.x[k], first + k));
    }
    return key;
}

// exp(v - max) of a slot, in place of v.
DEVICE Slot exp_slot(Slot v, float max) {
    UNROLL
    for (i32 k = 0; k < WIDTH; ++k) v.x[k] = exp_approximate(v.x[k] - max);
    return v;
}

// What a class at the label, or at the maximum where there is none, adds to the first sum, and whether that is where it counts.
DEVICE bool is_apart(const Row& row, i32 column, float v, float max) {
    return GENERAL && row.label < 0 ? v == max : column == row.label;
}
DEVICE float apart_value(const Row& row, float v) { return GENERAL && row.label < 0 ? 1.0f : v; }

DEVICE Softmax softmax_of(float max, const float (&sums)[SUMS], const Row& row) {
    const bool labelled = !GENERAL || row.label >= 0;
    Softmax softmax = {max, labelled ? sums[0] : v_of_maximal(max, sums[0]), sums[1], 0.0f, 0.0f};
#if GENERAL
    softmax.total = sums[2];
    softmax.distance = sums[3];
#endif
    return softmax;
}

#if IN_REGISTERS

DEVICE Softmax read_row(const CrossEntropyArgs& args, const Row& row, Reading& reading, u64* key, TeamScratch* scratch) {
    float max = minus_infinity();
    Pack u[SLOTS];
    FOR_SLOTS(args, reading, j, slot) u[j] = read_first(args, reading, j, slot);
    FOR_SLOTS(args, reading, j, slot) {
        const i32 first = first_column(slot, reading.shift);
        if (wants_prediction(args)) *key = larger_key(*key, u[j], first, args.labels.classes);
        reading.v[j] = v_of(args, row, u[j], first);
        UNROLL
        for (i32 k = 0; k < WIDTH; ++k) max = Maximum()(max, reading.v[j].x[k]);
    }
    max = team_max(max, scratch);
    float sums[SUMS] = {};
    FOR_SLOTS(args, reading, j, slot) {
        const i32 first = first_column(slot, reading.shift);
#if GENERAL
        if (is_spread(args)) {
            const Slot weighted = weighted_targets(args, row, first);
            UNROLL
            for (i32 k = 0; k < WIDTH; ++k) {
                sums[2] += weighted.x[k];
                sums[3] += weigh(weighted.x[k], max - reading.v[j].x[k]);
            }
        }
#endif
        UNROLL
        for (i32 k = 0; k < WIDTH; ++k) {
            const float v = reading.v[j].x[k], exp = exp_approximate(v - max);
            const bool apart = is_apart(row, first + k, v, max);
            sums[0] += apart ? apart_value(row, v) : 0.0f;
            sums[1] += apart ? 0.0f : exp;
            reading.v[j].x[k] = exp;
        }
    }
    team_sums(sums, scratch);
    return softmax_of(max, sums, row);
}

#else

// A thread's part of a row, gathered in one go: its maximum so far, and its sums relative to that.
struct Running {
    float max;
    float sums[SUMS];

    MEMBER void add(const Slot& v, i32 first, const Row& row) {
        float larger = max;
        UNROLL
        for (i32 k = 0; k < WIDTH; ++k) larger = Maximum()(larger, v.x[k]);
        move_to(larger, row);
        UNROLL
        for (i32 k = 0; k < WIDTH; ++k) {
            const bool apart = is_apart(row, first + k, v.x[k], max);
            sums[0] += apart ? apart_value(row, v.x[k]) : 0.0f;
            // NaN takes this way too once it meets a number, and is kept by the sum; before, there is nothing to relate it to.
            const float exp = max == minus_infinity() ? (v.x[k] == v.x[k] ? 0.0f : v.x[k]) : exp_approximate(v.x[k] - max);
            sums[1] += apart ? 0.0f : exp;
        }
    }
    MEMBER void add_targets(Slot weighted, Slot v) {
#if GENERAL
        UNROLL
        for (i32 k = 0; k < WIDTH; ++k) {
            sums[2] += weighted.x[k];
            // Under a maximum of -inf, v is -inf.
            sums[3] += weigh(weighted.x[k], max == minus_infinity() ? -max : max - v.x[k]);
        }
#else
        static_cast<void>(weighted);
        static_cast<void>(v);
#endif
    }
    // Sums are relative to the maximum, and so are distances; those to -inf are infinite under any.
    MEMBER void move_to(float larger, const Row& row) {
        if (larger == max) return;
        const float shrink = exp_approximate(max - larger);
#if GENERAL
        // What was at the maximum is no more.
        if (row.label < 0) {
            sums[1] += max == minus_infinity() ? 0.0f : sums[0];
            sums[0] = 0.0f;
        }
        if (max != minus_infinity()) sums[3] += weigh(sums[2], larger - max);
#else
        static_cast<void>(row);
#endif
        sums[1] *= shrink;
        max = larger;
    }
};

DEVICE Softmax read_row(const CrossEntropyArgs& args, const Row& row, Reading& reading, u64* key, TeamScratch* scratch) {
    Running mine = {minus_infinity(), {}};
    FOR_SLOTS(args, reading, j, slot) {
        const i32 first = first_column(slot, reading.shift);
        const Pack u = read_first(args, reading, j, slot);
        if (wants_prediction(args)) *key = larger_key(*key, u, first, args.labels.classes);
        const Slot v = v_of(args, row, u, first);
        mine.add(v, first, row);
        if (is_spread(args)) mine.add_targets(weighted_targets(args, row, first), v);
    }
    const float max = team_max(mine.max, scratch);
    mine.move_to(max, row);
    team_sums(mine.sums, scratch);
    return softmax_of(max, mine.sums, row);
}

#endif

DEVICE void write_row(const CrossEntropyArgs& args, const Row& row, const Reading& reading, const Softmax& softmax, Divisors divisors) {
    Element* const to = args.gradient + row.index * args.gradient_stride;
    const bool aligned = shift_of(to) == reading.shift;
    const i32 classes = args.labels.classes;
    const Gradient gradient(args, row, softmax, divisors);
    FOR_SLOTS(args, reading, j, slot) {
        const i32 first = first_column(slot, reading.shift);
        Slot g = {};
        if (row.counts) {
#if IN_REGISTERS
            g = reading.v[j];
#else
            g = exp_slot(v_of(args, row, read_again(args, reading, j, slot), first), softmax.max);
#endif
            Slot weighted = {};
            if (gradient.spread) weighted = weighted_targets(args, row, first);
            const Slot scale = class_scales(args.perturbation, first, classes);
            UNROLL
            for (i32 k = 0; k < WIDTH; ++k) g.x[k] = gradient.at(g.x[k], first + k == row.label, weighted.x[k], scale.x[k]);
        }
        store_slot(to, first, classes, aligned, g);
    }
}

// Loss and gradient of this team's row of the tile that starts at `first`; what it adds to the loss, in the team's first thread.
DEVICE double take_tile(const CrossEntropyArgs& args, i64 first, Divisors divisors, TeamScratch* scratch) {
    const Row row = row_at(args, first + team_index());
    if (row.index >= args.rows) return 0.0;
    Reading reading;
    reading.logits = args.logits + row.index * args.logits_stride;
    reading.shift = shift_of(reading.logits);
    Softmax softmax = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    double loss = 0.0;
    u64 key = 0;
    if (args.from_saved) {
#if REGIME == TWO_READ
        const Saved saved = load(args.from_saved + row.index);
        softmax = {saved.max, saved.label_v, saved.others, saved.total, 0.0f};
#endif
    } else if (row.counts) {
        softmax = read_row(args, row, reading, &key, scratch);
        if (wants_prediction(args)) key = team_key(key, scratch);
    }
    if (args.gradient) write_row(args, row, reading, softmax, divisors);
    if (!args.from_saved && team_thread() == 0) loss = store_row(args, row, softmax, key, divisors);
    return loss;
}
