// Class statistics of binary cross-entropy, from the logits: how many entries of each class are known, the sum of their targets, and the sum
// of their weighted losses. It runs before the kernel that may write its gradient over the logits.
#include "fixed_sum.cuh"
#include "running_sum.cuh"
#include "sigmoid.cuh"
#include "targets.cuh"

struct BinaryClassStatisticsArgs {
    const Element* logits;
    Targets targets;
    BinaryTerms terms;
    // [C] each, 0 between launches: what is added up.
    u64* counting;
    FixedSum* positives_sum;
    FixedSum* loss_sum;
    // What loss_sum met that it does not hold.
    u32* met;
    // [C] each, what the launch leaves.
    u64* count;
    double* positives;
    double* loss;
    u32* ticket;
    i64 rows;
    i64 logits_stride;
    // Rows that a thread takes at a time.
    i32 chunk;
    // Columns that a block takes at a time, a power of two.
    i32 columns;
    // Whether focusing is asked for.
    i32 focusing;
    i32 padding;
};
static_assert(sizeof(BinaryClassStatisticsArgs) == 232, "as in src/kernel/binary/args.rs");

// A class in some rows, as one thread adds it up.
struct Part {
    u32 count;
    RunningSum positives;
    RunningSum loss;
};

// A class's numbers.
struct ClassTerms {
    float offset;
    float positive;
    float negative;
    float pos_weight;
};

DEVICE void add_entry(const BinaryClassStatisticsArgs& args, const ClassTerms& of, i64 row, i32 column, Part& part) {
    float t;
    if (!is_known(args.targets, row, column, &t)) return;
    const float u = to_float(load_keep(args.logits + row * args.logits_stride + column));
    // A part with share 0 does not enter: a learned one can be NaN.
    float v = u + of.offset;
    if (t != 0.0f) v += t * of.positive;
    if (t != 1.0f) v += (1.0f - t) * of.negative;
    const float weight = args.terms.weights.data ? operand_at(args.terms.weights, row, column) : 1.0f;
    const Term term = args.focusing ? any_term<true>(args.terms, v, t, of.pos_weight, weight)
                                    : any_term<false>(args.terms, v, t, of.pos_weight, weight);
    ++part.count;
    part.positives.add(t);
    part.loss.add(term.loss);
}

KERNEL(binary_class_statistics, BinaryClassStatisticsArgs) {
    SHARED(u32, flag, 1);
    const i32 classes = args.targets.classes;
    // Threads next to each other take columns next to each other; what is left of the block takes more rows.
    const i32 side_by_side = static_cast<i32>(block_threads()) / args.columns;
    const i64 tile_rows = static_cast<i64>(args.chunk) * side_by_side;
    const i64 column_tiles = (classes + args.columns - 1) / args.columns;
    const i64 tiles = (args.rows + tile_rows - 1) / tile_rows * column_tiles;
    for (i64 tile = block_index(); tile < tiles; tile += grid_blocks()) {
        const i32 thread = static_cast<i32>(thread_index());
        const i32 column = static_cast<i32>(tile % column_tiles) * args.columns + thread % args.columns;
        if (column >= classes) continue;
        const ClassTerms of = {
            vector_at(args.terms.offset, column, 0.0f), vector_at(args.terms.positive, column, 0.0f),
            vector_at(args.terms.negative, column, 0.0f), vector_at(args.terms.pos_weight, column, 1.0f)};
        const i64 from = tile / column_tiles * tile_rows, to = minimum(args.rows, from + tile_rows);
        Part part = {0, {0.0f, 0.0f}, {0.0f, 0.0f}};
        for (i64 row = from + thread / args.columns; row < to; row += side_by_side) {
            add_entry(args, of, row, column, part);
        }
        if (part.count == 0) continue;
        atomic_add(args.counting + column, static_cast<u64>(part.count));
        add_to(args.positives_sum + column, args.met + column, part.positives.value());
        add_to(args.loss_sum + column, args.met + column, part.loss.value());
    }
    // What any thread added comes before the ticket.
    block_barrier();
    if (!last_block(args.ticket, flag)) return;
    for (i32 column = static_cast<i32>(thread_index()); column < classes; column += static_cast<i32>(block_threads())) {
        store(args.count + column, load_fresh(args.counting + column));
        store<u64>(args.counting + column, 0);
        store(args.positives + column, take(args.positives_sum + column, 0));
        store(args.loss + column, take(args.loss_sum + column, load(args.met + column)));
        store(args.met + column, 0u);
    }
}
