// Class statistics: turns the sums that cross-entropy gathered for every class into numbers, and leaves 0 for the next batch.
#include "class_sums.cuh"

struct ClassStatisticsArgs {
    // [C].
    ClassSums* sums;
    u64* count;
    u64* correct;
    double* loss;
    double* confidence;
    // Two: valid rows, and those of them that were predicted right.
    u64* rows;
    // Two, 0 before and after.
    u64* gathered;
    u32* ticket;
    i64 classes;
};
static_assert(sizeof(ClassStatisticsArgs) == 72, "as in src/kernel/args.rs");

KERNEL(class_statistics, ClassStatisticsArgs) {
    SHARED(u64, scratch, 2 * MOST_WARPS);
    SHARED(u32, flag, 1);
    u64 count = 0, correct = 0;
    for (i64 c = block_index() * block_threads() + thread_index(); c < args.classes; c += grid_blocks() * block_threads()) {
        ClassSums* const sums = args.sums + c;
        const u64 counts = load(&sums->counts);
        store(args.count + c, counts & 0xffffffffu);
        store(args.correct + c, counts >> 32);
        store(args.loss + c, take(&sums->loss, load(&sums->met_loss)));
        store(args.confidence + c, take(&sums->confidence, load(&sums->met_confidence)));
        store<u64>(&sums->counts, 0);
        store(&sums->met_loss, 0u);
        store(&sums->met_confidence, 0u);
        count += counts & 0xffffffffu;
        correct += counts >> 32;
    }
    count = block_reduce<u64>(count, 0, Sum(), scratch);
    correct = block_reduce<u64>(correct, 0, Sum(), scratch + MOST_WARPS);
    if (thread_index() == 0) {
        atomic_add(args.gathered, count);
        atomic_add(args.gathered + 1, correct);
    }
    if (!last_block(args.ticket, flag) || thread_index() != 0) return;
    for (u32 i = 0; i < 2; ++i) {
        store(args.rows + i, load_fresh(args.gathered + i));
        store<u64>(args.gathered + i, 0);
    }
}
