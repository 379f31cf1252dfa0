// The label pre-pass: where a batch has more labels than a block should count by itself, this runs first. It adds up the valid rows and
// their weights, for `Mean` to divide by, and records the bad labels.
#include "labels.cuh"

struct TallyArgs {
    Labels labels;
    Weights weights;
    i64 rows;
    // Rows that one block tallies, in turn.
    i64 chunk;
    // [chunks]: each chunk's tally.
    Tally* partials;
    // What the launch leaves.
    Totals* totals;
    u32* ticket;
    ErrorWord* error;
};
static_assert(sizeof(TallyArgs) == 88, "as in src/kernel/args.rs");

KERNEL(tally, TallyArgs) {
    SHARED(TallyScratch, scratch, 1);
    SHARED(u32, flag, 1);
    const i64 chunks = (args.rows + args.chunk - 1) / args.chunk;
    for (i64 chunk = block_index(); chunk < chunks; chunk += grid_blocks()) {
        const i64 to = minimum(args.rows, (chunk + 1) * args.chunk);
        const Tally tally = tally_labels(args.labels, args.weights, chunk * args.chunk, to, scratch);
        if (thread_index() == 0) {
            store(&args.partials[chunk].totals.valid, tally.totals.valid);
            store(&args.partials[chunk].totals.weight, tally.totals.weight);
            store(&args.partials[chunk].bad, tally.bad);
            store(&args.partials[chunk].first_bad, tally.first_bad);
        }
    }
    if (!last_block(args.ticket, flag)) return;
    Tally mine = empty_tally();
    for (i64 chunk = thread_index(); chunk < chunks; chunk += block_threads()) {
        mine.totals.valid += load_fresh(&args.partials[chunk].totals.valid);
        mine.totals.weight += load_fresh(&args.partials[chunk].totals.weight);
        mine.bad += load_fresh(&args.partials[chunk].bad);
        mine.first_bad = Minimum()(mine.first_bad, load_fresh(&args.partials[chunk].first_bad));
    }
    const Tally all = reduce_tally(mine, scratch);
    if (thread_index() == 0) {
        store(&args.totals->valid, all.totals.valid);
        store(&args.totals->weight, all.totals.weight);
        record_bad_labels(args.labels, all, args.error);
    }
}
