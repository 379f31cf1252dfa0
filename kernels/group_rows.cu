// Puts the rows of a batch in order by class, rows of a class by index, ignored and bad ones at the end; then lists the classes that are
// there and, where the split wants it, the mean of their confidences (SPEC 3).
//
// A row's place is the number of rows that come before it, which a warp counts over all labels: integers alone, so the same whatever the
// grid, and no block waits for another. That is a quick N * N / 32 steps for batches that a class-level learner is given, and still right for
// others. The last block lists the groups.
#include "class_sums.cuh"
#include "groups.cuh"
#include "labels.cuh"

// Rows that a warp places together: each label it looks at serves all of them.
#define PLACED 4

struct GroupArgs {
    Labels labels;
    i64 rows;
    // [N].
    u32* order;
    // [C + 1], 0 before and after: of each class, and of the ignored rows, the first place in the high half and the number in the low one.
    u64* found;
    // [min(N, C)].
    Group* groups;
    GroupList* list;
    // [C], where `tau` is the mean of the confidences that cross-entropy gathered there; 0 afterwards. Else null.
    ClassSums* sums;
    // [C], null where there are none; taken in here where there are sums.
    double* running;
    // [min(N, C)] and [1] each, null where not asked for.
    i32* classes;
    u32* present;
    double* tau_out;
    u32* ticket;
    double momentum;
    // Where it is no mean.
    double tau;
};
static_assert(sizeof(GroupArgs) == 128, "as in src/kernel/learn/args.rs");

// The ignored come after every class.
DEVICE i32 key_at(const Labels& labels, i64 row) {
    const i32 label = class_of(labels, label_at(labels, row));
    return label >= 0 ? label : labels.classes;
}

DEVICE void place_rows(const GroupArgs& args, i64 from) {
    const u32 lane = thread_index() % WARP;
    i32 key[PLACED];
    // Rows of classes before this one's, and of this one: before this row, and all.
    u32 below[PLACED] = {}, earlier[PLACED] = {}, equal[PLACED] = {};
    UNROLL
    for (i32 k = 0; k < PLACED; ++k) key[k] = from + k < args.rows ? key_at(args.labels, from + k) : -1;
    for (i64 row = lane; row < args.rows; row += WARP) {
        const i32 other = key_at(args.labels, row);
        UNROLL
        for (i32 k = 0; k < PLACED; ++k) {
            below[k] += other < key[k];
            earlier[k] += other == key[k] && row < from + k;
            equal[k] += other == key[k];
        }
    }
    UNROLL
    for (i32 k = 0; k < PLACED; ++k) {
        below[k] = warp_reduce(below[k], Sum());
        earlier[k] = warp_reduce(earlier[k], Sum());
        equal[k] = warp_reduce(equal[k], Sum());
        if (lane != 0 || from + k >= args.rows) continue;
        store(args.order + below[k] + earlier[k], static_cast<u32>(from + k));
        if (earlier[k] == 0) store(args.found + key[k], static_cast<u64>(below[k]) << 32 | equal[k]);
    }
}

// A class's q, from what cross-entropy gathered, and 0 in its place for the next batch.
DEVICE double take_confidence(ClassSums* sums, u32 count) {
    const double confidence = take(&sums->confidence, load(&sums->met_confidence)) / static_cast<double>(count);
    take(&sums->loss, 0);
    store<u64>(&sums->counts, 0);
    store(&sums->met_loss, 0u);
    store(&sums->met_confidence, 0u);
    return confidence;
}

// In one block, a run of classes a thread.
DEVICE void list_groups(const GroupArgs& args, u32* counts, double* scratch) {
    const i32 classes = args.labels.classes, threads = static_cast<i32>(block_threads());
    const i32 run = (classes + threads - 1) / threads;
    const i32 from = minimum(classes, static_cast<i32>(thread_index()) * run), to = minimum(classes, from + run);
    u32 mine = 0;
    for (i32 c = from; c < to; ++c) mine += load_fresh(args.found + c) != 0;
    u32 present;
    u32 place = block_prefix(mine, &present, counts);
    // The mean of the confidences that are finite.
    double sum = 0.0, known = 0.0;
    for (i32 c = from; c < to; ++c) {
        const u64 found = load_fresh(args.found + c);
        if (found == 0) continue;
        store<u64>(args.found + c, 0);
        Group* const group = args.groups + place;
        const u32 count = static_cast<u32>(found);
        store(&group->label, c);
        store(&group->first, static_cast<u32>(found >> 32));
        store(&group->count, count);
        if (args.classes) store(args.classes + place, c);
        if (args.sums) {
            const double confidence = take_confidence(args.sums + c, count);
            const double deciding = deciding_confidence(args.running, c, args.momentum, confidence);
            store(&group->confidence, confidence);
            store(&group->deciding, deciding);
            if (is_finite(deciding)) {
                sum += deciding;
                known += 1.0;
            }
        }
        ++place;
    }
    sum = block_reduce(sum, 0.0, Sum(), scratch);
    known = block_reduce(known, 0.0, Sum(), scratch + MOST_WARPS);
    if (thread_index() != 0) return;
    const u64 ignored = load_fresh(args.found + classes);
    store<u64>(args.found + classes, 0);
    const double tau = args.sums ? sum / known : args.tau;
    store(&args.list->present, present);
    store(&args.list->ignored, ignored != 0 ? static_cast<u32>(ignored >> 32) : static_cast<u32>(args.rows));
    store(&args.list->tau, tau);
    if (args.present) store(args.present, present);
    if (args.tau_out) store(args.tau_out, tau);
}

KERNEL(group_rows, GroupArgs) {
    SHARED(u32, counts, MOST_WARPS);
    SHARED(double, scratch, 2 * MOST_WARPS);
    SHARED(u32, flag, 1);
    const i64 warps = block_threads() / WARP;
    const i64 step = PLACED * warps * grid_blocks();
    for (i64 from = PLACED * (warps * block_index() + thread_index() / WARP); from < args.rows; from += step) place_rows(args, from);
    // What every warp stored, thread 0 then publishes.
    block_barrier();
    if (last_block(args.ticket, flag)) list_groups(args, counts, scratch);
}
