// The multi-label learner's raw steps (SPEC 4): for each class and sign the delta that K gradient steps lead to. Cross-entropy then takes it as
// it takes a fixed perturbation.
//
// A block takes a strip of columns, as wide as a sector of memory, so that accesses are coalesced: threads next to each other take columns
// next to each other, and what is left of the block their rows in turn. A step wants of an entry 1 / (1 + e * w), where e = e^u never changes
// and w = e^delta is the column's: so e is what is kept, in shared memory, by the one thread that uses it. Rows for which there is no room are
// read again for every step.
#include "binary_learner.cuh"
#include "running_sum.cuh"

struct LearnBinaryArgs {
    const Element* logits;
    Targets targets;
    BinaryLearner learner;
    // [2, C] and [2], what `binary_confidences` left; null where it did not run.
    const SignGroup* groups;
    const double* taus;
    i64 rows;
    i64 logits_stride;
    // Rows of a strip that are kept.
    i32 kept;
    // Columns of a strip, a power of two up to half a warp.
    i32 columns;
};
static_assert(sizeof(LearnBinaryArgs) == 320, "as in src/kernel/binary/learn/args.rs");

// Entries that a thread has on their way at a time, and adds up before it takes care of what additions lose.
#define IN_FLIGHT 4

// Where a thread is, and what a block shares.
struct Strip {
    i32 column;
    // Whether the column is one of the classes.
    bool inside;
    // The thread's first row, and the step to the next.
    i32 lane;
    i32 lanes;
    Shifts shifts;
    // [kept, columns]: e, minus e of a negative, 0 where an entry is in no group or spoils it.
    float* kept;
    // Two, [warps, 2, columns] each, in turn: the barrier of one sum frees the other's.
    double* scratch;
    i32 turn;
};

// A pair of numbers over the threads of a column, in each of them, in an order that the shape of the block alone decides.
DEVICE void column_sums(const LearnBinaryArgs& args, Strip& strip, double (&x)[2]) {
    const u32 columns = static_cast<u32>(args.columns), warps = block_threads() / WARP;
    const u32 warp = thread_index() / WARP, place = thread_index() % columns;
    double* const scratch = strip.scratch + strip.turn * 2 * static_cast<i32>(warps * columns);
    strip.turn ^= 1;
    for (u32 lanes = columns; lanes < WARP; lanes *= 2) {
        x[0] += shuffle_xor(x[0], lanes);
        x[1] += shuffle_xor(x[1], lanes);
    }
    if (thread_index() % WARP < columns) {
        scratch[2 * warp * columns + place] = x[0];
        scratch[(2 * warp + 1) * columns + place] = x[1];
    }
    block_barrier();
    x[0] = x[1] = 0.0;
    for (u32 w = 0; w < warps; ++w) {
        x[0] += scratch[2 * w * columns + place];
        x[1] += scratch[(2 * w + 1) * columns + place];
    }
}

// Rows from `end` on have none.
DEVICE Entry entry_of(const LearnBinaryArgs& args, const Strip& strip, i64 row, i64 end) {
    if (row >= end) return {0.0f, SIGNS};
    return entry_at(args.logits, args.logits_stride, args.targets, strip.shifts, row, strip.column);
}

// What of an entry the steps want.
DEVICE float signed_exp(const Entry& entry) {
    const float e = exp_clamped(entry.turned);
    if (entry.sign == SIGNS || e != e) return 0.0f;
    return entry.sign == POSITIVE ? e : -e;
}

// Reads the strip, keeps what there is room for, and makes the groups.
DEVICE void read_strip(const LearnBinaryArgs& args, Strip& strip, SignGroup (&groups)[SIGNS]) {
    double count[SIGNS] = {};
    RunningSum sums[SIGNS] = {};
    const i64 end = args.groups ? args.kept : args.rows;
    for (i64 from = strip.lane; strip.inside && from < end; from += IN_FLIGHT * strip.lanes) {
        Entry entries[IN_FLIGHT];
        UNROLL
        for (i32 j = 0; j < IN_FLIGHT; ++j) entries[j] = entry_of(args, strip, from + j * strip.lanes, end);
        UNROLL
        for (i32 j = 0; j < IN_FLIGHT; ++j) {
            const i64 row = from + j * strip.lanes;
            if (row < args.kept) strip.kept[row * args.columns + thread_index() % args.columns] = signed_exp(entries[j]);
            const float confidence = confidence_of(exp_clamped(entries[j].turned));
            UNROLL
            for (i32 sign = 0; sign < SIGNS; ++sign) {
                // Selected, not skipped: what is chosen by a branch here, the compiler keeps in memory.
                const bool belongs = entries[j].sign == sign;
                count[sign] += belongs ? 1.0 : 0.0;
                sums[sign].add(belongs ? confidence : 0.0f);
            }
        }
    }
    UNROLL
    for (i32 sign = 0; sign < SIGNS; ++sign) {
        double sum[2] = {count[sign], sums[sign].value()};
        if (!args.groups) {
            column_sums(args, strip, sum);
            sum[1] /= sum[0];
        } else if (strip.inside) {
            const SignGroup* const at = args.groups + static_cast<i64>(sign) * args.targets.classes + strip.column;
            sum[0] = load(&at->count);
            sum[1] = load(&at->confidence);
        }
        groups[sign].count = sum[0];
        groups[sign].confidence = sum[1];
    }
}

// The slopes of a column's entries, added up by sign: this thread's share.
DEVICE void add_slopes(const LearnBinaryArgs& args, const Strip& strip, const float (&w)[SIGNS], double (&sum)[SIGNS]) {
    RunningSum sums[SIGNS] = {};
    for (i64 from = strip.lane; from < args.rows; from += IN_FLIGHT * strip.lanes) {
        float e[IN_FLIGHT];
        UNROLL
        for (i32 j = 0; j < IN_FLIGHT; ++j) {
            const i64 row = from + j * strip.lanes;
            e[j] = row < args.kept ? strip.kept[row * args.columns + thread_index() % args.columns]
                                   : signed_exp(entry_of(args, strip, row, args.rows));
        }
        float positives = 0.0f, negatives = 0.0f;
        UNROLL
        for (i32 j = 0; j < IN_FLIGHT; ++j) {
            const float slope = slope_of(fabsf(e[j]), e[j] > 0.0f ? w[POSITIVE] : w[NEGATIVE]);
            positives += e[j] > 0.0f ? slope : 0.0f;
            negatives += e[j] < 0.0f ? slope : 0.0f;
        }
        sums[POSITIVE].add(positives);
        sums[NEGATIVE].add(negatives);
    }
    sum[POSITIVE] = sums[POSITIVE].value();
    sum[NEGATIVE] = sums[NEGATIVE].value();
}

KERNEL(learn_binary_cross_entropy, LearnBinaryArgs) {
    // The doubles come first: the launch sees to it that there is room for both.
    DYNAMIC_SHARED(double, scratch);
    // Two in turn, as above.
    SHARED(float, most_scratch, 2 * MOST_WARPS);
    const i32 thread = static_cast<i32>(thread_index()), classes = args.targets.classes;
    const i32 warps = static_cast<i32>(block_threads() / WARP);
    Strip strip = {};
    strip.lane = thread / args.columns;
    strip.lanes = static_cast<i32>(block_threads()) / args.columns;
    strip.scratch = scratch;
    strip.kept = reinterpret_cast<float*>(scratch + 4 * warps * args.columns);
    strip.turn = 0;
    u32 most_turn = 0;
    double tau[SIGNS];
    UNROLL
    for (i32 sign = 0; sign < SIGNS; ++sign) {
        tau[sign] = args.taus ? load(args.taus + sign) : args.learner.rules[sign].tau;
        double* const to = args.learner.outputs[sign].tau;
        if (!args.taus && to && block_index() == 0 && thread == 0) store(to, tau[sign]);
    }
    const i64 strips = (static_cast<i64>(classes) + args.columns - 1) / args.columns;
    for (i64 place = block_index(); place < strips; place += grid_blocks()) {
        strip.column = static_cast<i32>(place) * args.columns + thread % args.columns;
        strip.inside = strip.column < classes;
        if (strip.inside) strip.shifts = shifts_of(args.learner, strip.column);
        SignGroup groups[SIGNS];
        read_strip(args, strip, groups);
        SignDecision decisions[SIGNS] = {};
        u32 steps[SIGNS] = {};
        double factor[SIGNS] = {}, delta[SIGNS] = {};
        float w[SIGNS];
        UNROLL
        for (i32 sign = 0; sign < SIGNS; ++sign) {
            w[sign] = 1.0f;
            if (strip.inside) decisions[sign] = decide(args.learner, sign, strip.column, tau[sign], groups[sign]);
            if (is_finite(groups[sign].confidence)) steps[sign] = decisions[sign].steps;
            factor[sign] = towards(sign, decisions[sign].direction) * args.learner.alpha / groups[sign].count;
        }
        const u32 mine = maximum(steps[POSITIVE], steps[NEGATIVE]);
        // A number of steps is exact in f32.
        const u32 most = static_cast<u32>(block_reduce(static_cast<float>(mine), 0.0f, Maximum(), most_scratch + most_turn * MOST_WARPS));
        most_turn ^= 1u;
        for (u32 k = 0; k < most; ++k) {
            double sum[SIGNS] = {};
            if (k < mine) add_slopes(args, strip, w, sum);
            column_sums(args, strip, sum);
            UNROLL
            for (i32 sign = 0; sign < SIGNS; ++sign) {
                if (k < steps[sign]) delta[sign] += factor[sign] * sum[sign];
                const float moved = static_cast<float>(delta[sign]);
                w[sign] = exp_clamped(sign == POSITIVE ? moved : -moved);
            }
        }
        if (!strip.inside || strip.lane != 0) continue;
        UNROLL
        for (i32 sign = 0; sign < SIGNS; ++sign) {
            leave(args.learner, sign, strip.column, groups[sign], decisions[sign], delta[sign]);
        }
    }
}
