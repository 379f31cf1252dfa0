// How many entries of each class and sign are known, and how confident the model is in them on average (SPEC 4); with that the thresholds of
// splits by mean, and where delta has a closed form, delta itself. Where only logits say delta, `learn_binary_cross_entropy` comes next.
#include "binary_learner.cuh"
#include "fixed_sum.cuh"
#include "running_sum.cuh"

struct BinaryConfidencesArgs {
    const Element* logits;
    Targets targets;
    BinaryLearner learner;
    // [2, C] each, 0 between launches: what is added up.
    u64* counting;
    FixedSum* sums;
    // What a sum met that it does not hold.
    u32* met;
    // [2, C] and [2], what the launch leaves.
    SignGroup* groups;
    double* taus;
    // [2, C] each, where a batch is spread over devices: how often a group occurs and the sum of its confidences. Null where it is not.
    u64* counts;
    double* confidence_sums;
    u32* ticket;
    i64 rows;
    i64 logits_stride;
    // Rows that a thread takes at a time.
    i32 chunk;
    // Columns that a block takes at a time, a power of two.
    i32 columns;
    // Whether this launch leaves in `counts` and `confidence_sums` what its rows add up to; else it starts from what all devices' do.
    i32 gathers;
    i32 padding;
};
static_assert(sizeof(BinaryConfidencesArgs) == 376, "as in src/kernel/binary/learn/args.rs");

DEVICE void add_rows(const BinaryConfidencesArgs& args, i32 column, i64 from, i64 to, i32 step) {
    const Shifts shifts = shifts_of(args.learner, column);
    u32 count[SIGNS] = {};
    RunningSum sums[SIGNS] = {};
    for (i64 row = from; row < to; row += step) {
        const Entry entry = entry_at(args.logits, args.logits_stride, args.targets, shifts, row, column);
        const float confidence = confidence_of(exp_clamped(entry.turned));
        UNROLL
        for (i32 sign = 0; sign < SIGNS; ++sign) {
            if (entry.sign != sign) continue;
            ++count[sign];
            sums[sign].add(confidence);
        }
    }
    UNROLL
    for (i32 sign = 0; sign < SIGNS; ++sign) {
        if (count[sign] == 0) continue;
        const i64 place = static_cast<i64>(sign) * args.targets.classes + column;
        atomic_add(args.counting + place, static_cast<u64>(count[sign]));
        add_to(args.sums + place, args.met + place, sums[sign].value());
    }
}

// Of a class and sign.
struct Confidences {
    u64 count;
    double sum;
};

// What was added up, and 0 in its place for the next batch.
DEVICE Confidences take_confidences(const BinaryConfidencesArgs& args, i64 place) {
    const Confidences mine = {load_fresh(args.counting + place), take(args.sums + place, load(args.met + place))};
    store<u64>(args.counting + place, 0);
    store(args.met + place, 0u);
    return mine;
}

// What this device's rows add up to, in one block.
DEVICE void gather(const BinaryConfidencesArgs& args) {
    const i64 groups = static_cast<i64>(SIGNS) * args.targets.classes;
    for (i64 place = thread_index(); place < groups; place += block_threads()) {
        const Confidences mine = take_confidences(args, place);
        store(args.counts + place, mine.count);
        store(args.confidence_sums + place, mine.sum);
        // Steps follow this device's rows alone.
        store(&args.groups[place].count, static_cast<double>(mine.count));
    }
}

DEVICE SignGroup take_group(const BinaryConfidencesArgs& args, i64 place) {
    SignGroup group;
    if (args.counts) {
        group.count = load(&args.groups[place].count);
        group.confidence = load(args.confidence_sums + place) / static_cast<double>(load(args.counts + place));
    } else {
        const Confidences mine = take_confidences(args, place);
        group.count = static_cast<double>(mine.count);
        group.confidence = mine.sum / group.count;
    }
    return group;
}

// The groups of a sign, in one block; tau, in every thread.
DEVICE double list_groups(const BinaryConfidencesArgs& args, i32 sign, double* scratch) {
    const i32 classes = args.targets.classes;
    // The mean of the confidences that are finite.
    double sum = 0.0, known = 0.0;
    for (i32 column = static_cast<i32>(thread_index()); column < classes; column += static_cast<i32>(block_threads())) {
        const i64 place = static_cast<i64>(sign) * classes + column;
        const SignGroup group = take_group(args, place);
        store(&args.groups[place].count, group.count);
        store(&args.groups[place].confidence, group.confidence);
        if (!is_finite(group.confidence)) continue;
        sum += group.confidence;
        known += 1.0;
    }
    sum = block_reduce(sum, 0.0, Sum(), scratch);
    known = block_reduce(known, 0.0, Sum(), scratch + MOST_WARPS);
    return args.learner.rules[sign].mean ? sum / known : args.learner.rules[sign].tau;
}

KERNEL(binary_confidences, BinaryConfidencesArgs) {
    SHARED(double, scratch, 2 * SIGNS * MOST_WARPS);
    SHARED(u32, flag, 1);
    const i32 classes = args.targets.classes, thread = static_cast<i32>(thread_index());
    // Threads next to each other take columns next to each other; what is left of the block takes more rows.
    const i32 side_by_side = static_cast<i32>(block_threads()) / args.columns;
    const i64 tile_rows = static_cast<i64>(args.chunk) * side_by_side;
    const i64 column_tiles = (classes + args.columns - 1) / args.columns;
    const i64 tiles = (args.rows + tile_rows - 1) / tile_rows * column_tiles;
    for (i64 tile = block_index(); tile < tiles; tile += grid_blocks()) {
        const i32 column = static_cast<i32>(tile % column_tiles) * args.columns + thread % args.columns;
        if (column >= classes) continue;
        const i64 from = tile / column_tiles * tile_rows, to = minimum(args.rows, from + tile_rows);
        add_rows(args, column, from + thread / args.columns, to, side_by_side);
    }
    // What any thread added comes before the ticket.
    block_barrier();
    if (!last_block(args.ticket, flag)) return;
    if (args.gathers) {
        gather(args);
        return;
    }
    UNROLL
    for (i32 sign = 0; sign < SIGNS; ++sign) {
        const double tau = list_groups(args, sign, scratch + 2 * sign * MOST_WARPS);
        if (thread == 0) {
            store(args.taus + sign, tau);
            if (args.learner.outputs[sign].tau) store(args.learner.outputs[sign].tau, tau);
        }
        if (args.learner.step == STEP_RAW) continue;
        for (i32 column = thread; column < classes; column += static_cast<i32>(block_threads())) {
            // This thread's own.
            const SignGroup* const at = args.groups + static_cast<i64>(sign) * classes + column;
            const SignGroup group = {load(&at->count), load(&at->confidence)};
            const SignDecision decision = decide(args.learner, sign, column, tau, group);
            leave(args.learner, sign, column, group, decision, closed_delta(args.learner, sign, decision));
        }
    }
}
