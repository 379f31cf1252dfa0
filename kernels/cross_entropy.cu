// Softmax cross-entropy: loss and gradient in one pass over the logits, each read once and each gradient written once (SPEC 1).
//
// Compiled once per variant. REGIME says where a row lives between the read and the write:
//   TILE      short rows: a tile of them in shared memory, copied flat so that accesses are coalesced, a thread a row
//   WARP      in the registers of a warp, VALUES a thread
//   BLOCK     in the registers of a block, VALUES a thread
//   TWO_READ  nowhere: a block reads the row twice
// FUSED is 1 for loss and gradient, 0 for the loss alone.
//
// A block takes tiles of TILE_ROWS rows in turn. Sums over a row have an order that C and the row's alignment decide, those over rows one
// that the plan's tile decides, whatever the grid: the last block adds the tiles' sums up.
#include "labels.cuh"
#include "perturbation.cuh"

#define TILE 0
#define WARP_ROWS 1
#define BLOCK_ROW 2
#define TWO_READ 3

struct CrossEntropyArgs {
    const float* logits;
    // Null for the loss alone; may be the logits.
    float* gradient;
    Perturbation perturbation;
    Labels labels;
    // [N] each, null where not asked for.
    float* loss_rows;
    float* lse;
    // [1].
    float* loss;
    // [tiles]: each tile's sum of losses.
    double* partials;
    // The number of valid rows, where the pre-pass counted them; null where every block counts.
    const u64* valid_rows;
    u32* ticket;
    ErrorWord* error;
    i64 rows;
    i64 logits_stride;
    i64 gradient_stride;
    // Rows of a tile.
    i32 tile_rows;
    // Whether the divisor is the number of valid rows.
    i32 mean;
    float divisor;
    float upstream;
};
static_assert(sizeof(CrossEntropyArgs) == 152, "as in src/kernel/args.rs");

// What a row needs besides its logits.
struct Row {
    i64 index;
    // -1 where it does not count.
    i32 label;
};

DEVICE Row row_at(const CrossEntropyArgs& args, i64 index) {
    Row row = {index, index < args.rows ? class_of(args.labels, label_at(args.labels, index)) : -1};
    return row;
}

// The softmax of a row, as far as loss and gradient need it.
struct Softmax {
    float max;
    // v of the label, and the sum of exp(v - max) over all the other classes: with it nothing cancels as p approaches 1.
    float label_v;
    float others;

    MEMBER float label_exp() const { return exp_approximate(label_v - max); }
    MEMBER float sum() const { return others + label_exp(); }
    // The difference is 0 where the label leads, and NaN where both are +inf.
    MEMBER float loss() const { return (max - label_v) + (label_v == max ? log1pf(others) : logf(sum())); }
    MEMBER float lse() const { return max + logf(sum()); }
};

// The numbers that turn exp(v - max) into the gradient by u.
struct Gradient {
    float factor;
    float label;

    MEMBER Gradient(const Softmax& softmax, float outer) : factor(outer / softmax.sum()), label(-softmax.others * factor) {}
};

DEVICE void store_row(const CrossEntropyArgs& args, const Row& row, const Softmax& softmax) {
    const bool valid = row.label >= 0;
    if (args.loss_rows) store(args.loss_rows + row.index, valid ? softmax.loss() : 0.0f);
    if (args.lse) store(args.lse + row.index, valid ? softmax.lse() : 0.0f);
}

// What the sum of losses is divided by, in every thread. Where this launch counts by itself, every block does; the first also records the
// bad labels.
DEVICE float divisor_of(const CrossEntropyArgs& args, TallyScratch* scratch) {
    if (args.valid_rows) return args.mean ? static_cast<float>(load(args.valid_rows)) : args.divisor;
    if (!args.mean && block_index() != 0) return args.divisor;
    const Tally tally = tally_labels(args.labels, 0, args.rows, scratch);
    if (block_index() == 0 && thread_index() == 0) record_bad_labels(args.labels, tally, args.error);
    return args.mean ? static_cast<float>(tally.valid) : args.divisor;
}

// Adds up the tiles' losses, in the last block of the grid.
DEVICE void finish(const CrossEntropyArgs& args, i64 tiles, float divisor, u32* flag, double* scratch) {
    if (!last_block(args.ticket, flag)) return;
    double mine = 0.0;
    for (i64 tile = thread_index(); tile < tiles; tile += block_threads()) mine += load_fresh(args.partials + tile);
    const double sum = block_reduce(mine, 0.0, Sum(), scratch);
    if (thread_index() == 0 && args.loss) store(args.loss, divisor == 0.0f ? 0.0f : static_cast<float>(sum / divisor));
}

#if REGIME == TILE

// Element `i` of a tile, by rows without gaps.
struct Place {
    i32 row;
    i32 column;
};

DEVICE Place place_of(i32 i, i32 classes) {
    Place place = {i / classes, i % classes};
    return place;
}

KERNEL(cross_entropy, CrossEntropyArgs) {
    SHARED(TallyScratch, tally_scratch, 1);
    SHARED(double, scratch, MOST_WARPS);
    SHARED(u32, flag, 1);
    DYNAMIC_SHARED(float, tile_data);
    const i32 classes = args.labels.classes;
    // An odd number of banks from row to row: a thread a row then meets no other's bank.
    const i32 pitch = classes | 1;
    const float divisor = divisor_of(args, tally_scratch);
#if FUSED
    const float outer = divisor == 0.0f ? 0.0f : args.upstream * args.perturbation.scale / divisor;
#endif
    const i64 tiles = (args.rows + args.tile_rows - 1) / args.tile_rows;
    for (i64 tile = block_index(); tile < tiles; tile += grid_blocks()) {
        const i64 first = tile * args.tile_rows;
        const i32 rows = static_cast<i32>(minimum<i64>(args.tile_rows, args.rows - first));
        for (i32 i = thread_index(); i < rows * classes; i += block_threads()) {
            const Place place = place_of(i, classes);
            tile_data[place.row * pitch + place.column] =
                load_stream(args.logits + (first + place.row) * args.logits_stride + place.column);
        }
        block_barrier();
        double loss = 0.0;
        if (static_cast<i32>(thread_index()) < rows) {
            const Row row = row_at(args, first + thread_index());
            float* const x = tile_data + thread_index() * pitch;
            Softmax softmax = {minus_infinity(), 0.0f, 0.0f};
            if (row.label >= 0) {
                for (i32 c = 0; c < classes; ++c) {
                    x[c] = perturbed(args.perturbation, x[c], c);
                    softmax.max = Maximum()(softmax.max, x[c]);
                }
                softmax.label_v = x[row.label];
                for (i32 c = 0; c < classes; ++c) {
                    x[c] = exp_approximate(x[c] - softmax.max);
                    softmax.others += c == row.label ? 0.0f : x[c];
                }
                loss = softmax.loss();
            }
#if FUSED
            const Gradient gradient(softmax, outer);
            for (i32 c = 0; c < classes; ++c) {
                const float g = c == row.label ? gradient.label : x[c] * gradient.factor;
                x[c] = row.label >= 0 ? g : 0.0f;
            }
#endif
            store_row(args, row, softmax);
        }
        // Its barrier also stands between what threads computed by rows and what they copy out, or load next, by places. No other is
        // needed after the copy: a thread loads the next tile into the very places that it copied out of, and the barrier after that load
        // frees the scratch.
        const double sum = block_reduce(loss, 0.0, Sum(), scratch);
        if (thread_index() == 0) store(args.partials + tile, sum);
#if FUSED
        for (i32 i = thread_index(); i < rows * classes; i += block_threads()) {
            const Place place = place_of(i, classes);
            store_stream(args.gradient + (first + place.row) * args.gradient_stride + place.column,
                         tile_data[place.row * pitch + place.column]);
        }
#endif
    }
    finish(args, tiles, divisor, flag, scratch);
}

#else

// How far a row's start lies behind a 16-byte boundary, in elements.
DEVICE i32 shift_of(const float* row) { return static_cast<i32>((reinterpret_cast<u64>(row) & 15) / sizeof(float)); }

// The threads that share a row cut it at 16-byte boundaries: slot `slot` holds the columns first_column .. + 3, those outside of the row
// excepted. Where a slot lies inside the row, it moves as one access.
DEVICE i32 first_column(i32 slot, i32 shift) { return 4 * slot - shift; }
DEVICE bool is_whole(i32 first, i32 classes) { return first >= 0 && first + 4 <= classes; }

template <bool KEEP> DEVICE float4v load_slot(const float* row, i32 first, i32 classes) {
    if (is_whole(first, classes)) return KEEP ? load_keep4(row + first) : load_stream4(row + first);
    float4v v;
    for (i32 k = 0; k < 4; ++k) {
        const i32 column = first + k;
        const bool inside = column >= 0 && column < classes;
        v.x[k] = !inside ? minus_infinity() : KEEP ? load_keep(row + column) : load_stream(row + column);
    }
    return v;
}

// `aligned`: the gradient's row has the same shift as the logits'.
DEVICE void store_slot(float* row, i32 first, i32 classes, bool aligned, float4v v) {
    if (aligned && is_whole(first, classes)) {
        store_stream4(row + first, v);
        return;
    }
    for (i32 k = 0; k < 4; ++k) {
        const i32 column = first + k;
        if (column >= 0 && column < classes) store_stream(row + column, v.x[k]);
    }
}

DEVICE float4v perturbed_slot(const Perturbation& perturbation, float4v v, i32 first, i32 classes) {
    for (i32 k = 0; k < 4; ++k) {
        const i32 column = first + k;
        if (column >= 0 && column < classes) v.x[k] = perturbed(perturbation, v.x[k], column);
    }
    return v;
}

// The team of a row: its threads, and what they add up to.
#if REGIME == WARP_ROWS
DEVICE i32 team_threads() { return WARP; }
DEVICE i32 team_thread() { return static_cast<i32>(thread_index() % WARP); }
DEVICE i32 team_index() { return static_cast<i32>(thread_index() / WARP); }
template <class Operation> DEVICE float team_reduce(float x, float, Operation of, float*) { return warp_reduce(x, of); }
#else
DEVICE i32 team_threads() { return static_cast<i32>(block_threads()); }
DEVICE i32 team_thread() { return static_cast<i32>(thread_index()); }
DEVICE i32 team_index() { return 0; }
template <class Operation> DEVICE float team_reduce(float x, float nothing, Operation of, float* scratch) {
    return block_reduce(x, nothing, of, scratch);
}
#endif

struct TeamScratch {
    float max[MOST_WARPS];
    float label_v[MOST_WARPS];
    float others[MOST_WARPS];
};

#if REGIME == TWO_READ
#define KEEP true
#else
#define KEEP false
#define SLOTS (VALUES / 4)
#endif

// A row on its way: where it is read, and what of it stays on chip.
struct Reading {
    const float* logits;
    i32 shift;
    i32 label;
#if REGIME != TWO_READ
    float4v v[SLOTS];
#endif
};

DEVICE float4v read_slot(const CrossEntropyArgs& args, const Reading& row, i32 slot) {
    const i32 first = first_column(slot, row.shift);
    const i32 classes = args.labels.classes;
    return perturbed_slot(args.perturbation, load_slot<KEEP>(row.logits, first, classes), first, classes);
}

// exp(v - max) of a slot, in place of v.
DEVICE float4v exp_slot(float4v v, float max) {
    for (i32 k = 0; k < 4; ++k) v.x[k] = exp_approximate(v.x[k] - max);
    return v;
}

#if REGIME == TWO_READ

// A thread's part of a row, gathered in one go: its maximum so far, and its sum relative to that.
struct Running {
    float max;
    float label_v;
    float others;

    MEMBER void add(float4v v, i32 first, i32 label) {
        float larger = max;
        for (i32 k = 0; k < 4; ++k) larger = Maximum()(larger, v.x[k]);
        // NaN takes this way too once it meets a number, and is kept by the sum.
        if (larger == minus_infinity()) {
            for (i32 k = 0; k < 4; ++k) others += v.x[k] == v.x[k] ? 0.0f : v.x[k];
        } else {
            others *= exp_approximate(max - larger);
            for (i32 k = 0; k < 4; ++k) others += first + k == label ? 0.0f : exp_approximate(v.x[k] - larger);
        }
        for (i32 k = 0; k < 4; ++k) label_v += first + k == label ? v.x[k] : 0.0f;
        max = larger;
    }
};

DEVICE Softmax read_row(const CrossEntropyArgs& args, Reading& row, TeamScratch* scratch) {
    Running mine = {minus_infinity(), 0.0f, 0.0f};
    for (i32 slot = team_thread(); first_column(slot, row.shift) < args.labels.classes; slot += team_threads()) {
        mine.add(read_slot(args, row, slot), first_column(slot, row.shift), row.label);
    }
    Softmax softmax;
    softmax.max = team_reduce(mine.max, minus_infinity(), Maximum(), scratch->max);
    softmax.label_v = team_reduce(mine.label_v, 0.0f, Sum(), scratch->label_v);
    softmax.others = team_reduce(mine.others * exp_approximate(mine.max - softmax.max), 0.0f, Sum(), scratch->others);
    return softmax;
}

#else

DEVICE Softmax read_row(const CrossEntropyArgs& args, Reading& row, TeamScratch* scratch) {
    Softmax softmax = {minus_infinity(), 0.0f, 0.0f};
    for (i32 j = 0; j < SLOTS; ++j) row.v[j] = read_slot(args, row, team_thread() + j * team_threads());
    for (i32 j = 0; j < SLOTS; ++j) {
        const i32 first = first_column(team_thread() + j * team_threads(), row.shift);
        for (i32 k = 0; k < 4; ++k) {
            softmax.max = Maximum()(softmax.max, row.v[j].x[k]);
            softmax.label_v += first + k == row.label ? row.v[j].x[k] : 0.0f;
        }
    }
    softmax.max = team_reduce(softmax.max, minus_infinity(), Maximum(), scratch->max);
    softmax.label_v = team_reduce(softmax.label_v, 0.0f, Sum(), scratch->label_v);
    for (i32 j = 0; j < SLOTS; ++j) {
        const i32 first = first_column(team_thread() + j * team_threads(), row.shift);
        row.v[j] = exp_slot(row.v[j], softmax.max);
        for (i32 k = 0; k < 4; ++k) softmax.others += first + k == row.label ? 0.0f : row.v[j].x[k];
    }
    softmax.others = team_reduce(softmax.others, 0.0f, Sum(), scratch->others);
    return softmax;
}

#endif

// Every slot of the row that is this thread's, and its place `j` among them.
#if REGIME == TWO_READ
#define FOR_SLOTS(args, shift, j, slot)                                                                                \
    for (i32 j = 0, slot = team_thread(); first_column(slot, shift) < (args).labels.classes; ++j, slot += team_threads())
#else
#define FOR_SLOTS(args, shift, j, slot)                                                                                \
    for (i32 j = 0, slot = team_thread(); j < SLOTS; ++j, slot += team_threads())
#endif

#if FUSED
DEVICE void write_row(const CrossEntropyArgs& args, const Row& row, const Reading& reading, const Softmax& softmax, float outer) {
    float* const to = args.gradient + row.index * args.gradient_stride;
    const bool aligned = shift_of(to) == reading.shift;
    const Gradient gradient(softmax, outer);
    FOR_SLOTS(args, reading.shift, j, slot) {
        const i32 first = first_column(slot, reading.shift);
        float4v g = {};
        if (row.label >= 0) {
#if REGIME == TWO_READ
            g = exp_slot(read_slot(args, reading, slot), softmax.max);
#else
            g = reading.v[j];
#endif
        }
        for (i32 k = 0; k < 4; ++k) {
            const float of_class = first + k == row.label ? gradient.label : g.x[k] * gradient.factor;
            g.x[k] = row.label >= 0 ? of_class : 0.0f;
        }
        store_slot(to, first, args.labels.classes, aligned, g);
    }
}
#endif

KERNEL(cross_entropy, CrossEntropyArgs) {
    SHARED(TallyScratch, tally_scratch, 1);
    SHARED(TeamScratch, team_scratch, 1);
    SHARED(double, scratch, 2 * MOST_WARPS);
    SHARED(u32, flag, 1);
    const float divisor = divisor_of(args, tally_scratch);
#if FUSED
    const float outer = divisor == 0.0f ? 0.0f : args.upstream * args.perturbation.scale / divisor;
#endif
    const i64 tiles = (args.rows + args.tile_rows - 1) / args.tile_rows;
    u32 turn = 0;
    for (i64 tile = block_index(); tile < tiles; tile += grid_blocks()) {
        const Row row = row_at(args, tile * args.tile_rows + team_index());
        double loss = 0.0;
        if (row.index < args.rows) {
            Reading reading;
            reading.logits = args.logits + row.index * args.logits_stride;
            reading.shift = shift_of(reading.logits);
            reading.label = row.label;
            Softmax softmax = {0.0f, 0.0f, 0.0f};
            if (row.label >= 0) softmax = read_row(args, reading, team_scratch);
#if FUSED
            write_row(args, row, reading, softmax, outer);
#endif
            if (team_thread() == 0) {
                store_row(args, row, softmax);
                loss = row.label >= 0 ? softmax.loss() : 0.0f;
            }
        }
        const double sum = block_reduce(loss, 0.0, Sum(), scratch + turn * MOST_WARPS);
        turn ^= 1;
        if (thread_index() == 0) store(args.partials + tile, sum);
    }
    finish(args, tiles, divisor, flag, scratch);
}

#endif
