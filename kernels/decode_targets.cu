// The pre-pass over multi-label targets, where one is needed: lists of classes become bits, and the entries that are known are counted,
// for `Mean` to divide by.
#include "targets.cuh"

struct DecodeArgs {
    // As the batch has them; where there are lists, `data` are their i32 offsets [N + 1].
    Targets targets;
    // The lists' class indices.
    const i32* indices;
    i64 index_count;
    // [N, words], what the lists become: bits of targets and of known entries.
    u32* bits;
    u32* mask;
    i64 rows;
    // The known entries counted so far, 0 between launches.
    u64* counting;
    // What the launch leaves: the number of known entries.
    u64* known;
    BadTargets* found;
    u32* ticket;
    TargetErrors* errors;
    // Rows that one block takes at a time.
    i32 chunk;
    // Whether there are lists.
    i32 lists;
};
static_assert(sizeof(DecodeArgs) == 128, "as in src/kernel/binary/args.rs");

// Threads that share a list: most lists are short.
#define LIST_THREADS 8u

struct List {
    i32 from;
    i32 to;
    // Whether the offsets ascend within the indices.
    bool valid;
};

DEVICE List list_of(const DecodeArgs& args, i64 row) {
    const i32* const offsets = static_cast<const i32*>(args.targets.data) + row;
    const i32 from = load(offsets), to = load(offsets + 1);
    const List list = {from, to, from >= 0 && from <= to && to <= args.index_count};
    return list;
}

DEVICE i32 words_of(i32 classes) { return (classes + 31) / 32; }

// How many entries a word of a mask makes known.
DEVICE u32 known_of(u32 mask, i32 word, i32 classes) {
    const i32 columns = classes - 32 * word;
    return count_bits(columns >= 32 ? mask : mask & ((1u << columns) - 1u));
}

DEVICE u32 mask_word(const Targets& targets, i64 row, i32 word) {
    return targets.mask ? load(targets.mask + row * targets.mask_stride + word) : ~0u;
}

// Decodes the lists of `rows` rows; the number of entries that are known, this thread's share.
DEVICE u64 decode_lists(const DecodeArgs& args, i64 first, i32 rows) {
    const i32 classes = args.targets.classes, words = words_of(classes);
    u64 known = 0;
    for (i32 i = thread_index(); i < rows * words; i += block_threads()) {
        const i64 row = first + i / words;
        const u32 mask = list_of(args, row).valid ? mask_word(args.targets, row, i % words) : 0u;
        store(args.bits + first * words + i, 0u);
        store(args.mask + first * words + i, mask);
        known += known_of(mask, i % words, classes);
    }
    // All bits are cleared before any is set.
    block_barrier();
    for (i32 i = thread_index() / LIST_THREADS; i < rows; i += block_threads() / LIST_THREADS) {
        const i64 row = first + i;
        const List list = list_of(args, row);
        const i32 lane = thread_index() % LIST_THREADS;
        u32 bad = !list.valid && lane == 0;
        for (i64 at = static_cast<i64>(list.from) + lane; list.valid && at < list.to; at += LIST_THREADS) {
            const i32 column = load(args.indices + at);
            if (is_inside(column, classes)) {
                atomic_or(args.bits + row * words + column / 32, 1u << (column % 32));
            } else {
                ++bad;
            }
        }
        if (bad != 0) note_bad(args.found, bad, row);
    }
    return known;
}

// Of packed bits, only the mask says what is known.
DEVICE u64 count_words(const Targets& targets, i64 first, i32 rows) {
    const i32 words = words_of(targets.classes);
    u64 known = 0;
    for (i32 i = thread_index(); i < rows * words; i += block_threads()) {
        known += known_of(mask_word(targets, first + i / words, i % words), i % words, targets.classes);
    }
    return known;
}

DEVICE u64 count_slots(const Targets& targets, i64 first, i32 rows) {
    const i32 slots = (targets.classes + WIDTH - 1) / WIDTH;
    u64 known = 0;
    for (i32 i = thread_index(); i < rows * slots; i += block_threads()) {
        known += count_bits(read_targets(targets, first + i / slots, first_column(i % slots, 0)).known);
    }
    return known;
}

// What is wrong with the list of a row that was found bad.
DEVICE void record_bad_list(const DecodeArgs& args) {
    u64 first;
    if (!take_bad(args.found, args.errors, &first)) return;
    const List list = list_of(args, static_cast<i64>(first));
    store(&args.errors->row, first);
    store<i64>(&args.errors->column, list.valid ? BAD_INDEX : BAD_OFFSETS);
    double value = list.from;
    if (list.valid) {
        const i32* at = args.indices + list.from;
        while (is_inside(load(at), args.targets.classes)) ++at;
        value = load(at);
    }
    store(&args.errors->value, value);
    store<i64>(&args.errors->end, list.to);
}

KERNEL(decode_targets, DecodeArgs) {
    SHARED(u64, scratch, MOST_WARPS);
    SHARED(u32, flag, 1);
    const i64 chunks = (args.rows + args.chunk - 1) / args.chunk;
    u64 mine = 0;
    for (i64 chunk = block_index(); chunk < chunks; chunk += grid_blocks()) {
        const i64 first = chunk * args.chunk;
        const i32 rows = static_cast<i32>(minimum<i64>(args.chunk, args.rows - first));
        mine += args.lists                             ? decode_lists(args, first, rows)
                : args.targets.format == TARGETS_BITS ? count_words(args.targets, first, rows)
                                                       : count_slots(args.targets, first, rows);
    }
    // Its barrier also stands between what any thread found and the ticket.
    const u64 known = block_reduce<u64>(mine, 0, Sum(), scratch);
    if (thread_index() == 0) atomic_add(args.counting, known);
    if (!last_block(args.ticket, flag) || thread_index() != 0) return;
    store(args.known, load_fresh(args.counting));
    store<u64>(args.counting, 0);
    if (args.lists) record_bad_list(args);
}
