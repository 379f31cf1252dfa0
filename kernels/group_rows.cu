// Puts the rows of a batch in order by class, rows of a class by index, ignored and bad ones at the end; then lists the classes that are
// there, the team that each of them gets and, where the split wants it, the mean of their confidences (SPEC 3).
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
    // [min(N, C)]: places of the groups, those with a gang first, then those with a block.
    u32* by_team;
    // [C], where confidences are needed that cross-entropy gathered there; 0 afterwards. Else null.
    ClassSums* sums;
    // [C] each in their place where a batch is spread over devices: of all of it, how often each class occurs and the sum of its confidences.
    const u64* counts;
    const double* confidence_sums;
    // [C], null where there are none; taken in here where confidences are known.
    double* running;
    // [min(N, C)] and [1] each, null where not asked for.
    i32* classes;
    u32* present;
    double* tau_out;
    u32* ticket;
    double momentum;
    // Where it is no mean.
    double tau;
    // Whether it is.
    i32 mean;
    // The most rows that a block, and that a warp takes.
    i32 tile_rows;
    i32 warp_rows;
    i32 padding;
};
static_assert(sizeof(GroupArgs) == 168, "as in src/kernel/learn/args.rs");

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

// Of a class, over the whole batch.
struct Confidences {
    u64 count;
    double sum;
};

// What cross-entropy gathered, and 0 in its place for the next batch; or what came from all devices.
DEVICE Confidences take_confidences(const GroupArgs& args, i32 c, u32 count) {
    if (args.counts) {
        const Confidences all = {load(args.counts + c), load(args.confidence_sums + c)};
        return all;
    }
    Confidences mine = {count, 0.0};
    if (count == 0) return mine;
    ClassSums* const sums = args.sums + c;
    mine.sum = take(&sums->confidence, load(&sums->met_confidence));
    take(&sums->loss, 0);
    store<u64>(&sums->counts, 0);
    store(&sums->met_loss, 0u);
    store(&sums->met_confidence, 0u);
    return mine;
}

// Who takes a class.
#define GANG 0
#define BLOCK 1
#define A_WARP 2
#define TEAMS 3

DEVICE i32 team_of(const GroupArgs& args, u32 count) {
    return count > static_cast<u32>(args.tile_rows) ? GANG : count > static_cast<u32>(args.warp_rows) ? BLOCK : A_WARP;
}
// One a tile, and one for the gang.
DEVICE u32 gang_rows_of(const GroupArgs& args, u32 count) { return tiles_of(count, args.tile_rows) + 1; }

// In one block, a run of classes a thread.
DEVICE void list_groups(const GroupArgs& args, u32* counts, double* scratch) {
    const i32 classes = args.labels.classes, threads = static_cast<i32>(block_threads());
    const i32 run = (classes + threads - 1) / threads;
    const i32 from = minimum(classes, static_cast<i32>(thread_index()) * run), to = minimum(classes, from + run);
    // By team, of the classes of this thread, of those before and of all.
    u32 mine[TEAMS] = {}, before[TEAMS], all[TEAMS], my_rows = 0, all_rows;
    for (i32 c = from; c < to; ++c) {
        const u32 count = static_cast<u32>(load_fresh(args.found + c));
        if (count == 0) continue;
        const i32 team = team_of(args, count);
        UNROLL
        for (i32 k = 0; k < TEAMS; ++k) mine[k] += k == team;
        if (team == GANG) my_rows += gang_rows_of(args, count);
    }
    UNROLL
    for (i32 k = 0; k < TEAMS; ++k) before[k] = block_prefix(mine[k], all + k, counts + k * MOST_WARPS);
    u32 gang_row = block_prefix(my_rows, &all_rows, counts + TEAMS * MOST_WARPS);
    // The mean of the confidences that are finite.
    double sum = 0.0, known = 0.0;
    for (i32 c = from; c < to; ++c) {
        const u64 found = load_fresh(args.found + c);
        const u32 count = static_cast<u32>(found);
        double confidence = 0.0, deciding = 0.0;
        if (args.sums || args.counts) {
            const Confidences of = take_confidences(args, c, count);
            if (of.count != 0 || count != 0) {
                confidence = of.sum / static_cast<double>(of.count);
                deciding = deciding_confidence(args.running, c, args.momentum, confidence);
                if (is_finite(deciding)) {
                    sum += deciding;
                    known += 1.0;
                }
            }
        }
        if (count == 0) continue;
        store<u64>(args.found + c, 0);
        const i32 team = team_of(args, count);
        const u32 place = before[GANG] + before[BLOCK] + before[A_WARP];
        u32 in_order = 0;
        UNROLL
        for (i32 k = 0; k < TEAMS; ++k) {
            if (k < team) in_order += all[k];
            if (k == team) in_order += before[k]++;
        }
        store(args.by_team + in_order, place);
        Group* const group = args.groups + place;
        store(&group->label, c);
        store(&group->first, static_cast<u32>(found >> 32));
        store(&group->count, count);
        store(&group->arrived, 0u);
        store(&group->gang_row, gang_row);
        store(&group->confidence, confidence);
        store(&group->deciding, deciding);
        if (args.classes) store(args.classes + place, c);
        if (team == GANG) gang_row += gang_rows_of(args, count);
    }
    sum = block_reduce(sum, 0.0, Sum(), scratch);
    known = block_reduce(known, 0.0, Sum(), scratch + MOST_WARPS);
    if (thread_index() != 0) return;
    const u32 present = all[GANG] + all[BLOCK] + all[A_WARP];
    const u64 ignored = load_fresh(args.found + classes);
    store<u64>(args.found + classes, 0);
    const double tau = args.mean ? sum / known : args.tau;
    store(&args.list->present, present);
    store(&args.list->ignored, ignored != 0 ? static_cast<u32>(ignored >> 32) : static_cast<u32>(args.rows));
    store(&args.list->tau, tau);
    store(&args.list->gangs, all[GANG]);
    store(&args.list->blocks, all[BLOCK]);
    store(&args.list->gang_rows, all_rows);
    store(&args.list->taken, 0u);
    if (args.present) store(args.present, present);
    if (args.tau_out) store(args.tau_out, tau);
}

KERNEL(group_rows, GroupArgs) {
    SHARED(u32, counts, (TEAMS + 1) * MOST_WARPS);
    SHARED(double, scratch, 2 * MOST_WARPS);
    SHARED(u32, flag, 1);
    const i64 warps = block_threads() / WARP;
    const i64 step = PLACED * warps * grid_blocks();
    for (i64 from = PLACED * (warps * block_index() + thread_index() / WARP); from < args.rows; from += step) place_rows(args, from);
    // What every warp stored, thread 0 then publishes.
    block_barrier();
    if (last_block(args.ticket, flag)) list_groups(args, counts, scratch);
}
