// Softmax cross-entropy under a learned class-level perturbation (SPEC 3): for each class of the batch the steps that lead to its delta, then
// loss, gradient and outputs of its rows. A class has a warp, a block or a gang of blocks, as its number of rows asks; `group_rows` ran
// before, and cross-entropy where confidences of the whole batch decide.
//
// Compiled once per variant. DTYPE is that of logits and gradient. ON_CHIP is 1 where a class's arrays and at least one row fit into shared
// memory, else they lie in global memory of the block's own. GENERAL is 1 where targets may be smoothed, and off chip.
//
// Sums over a class's rows and over columns have an order that its own rows, C and the number of threads decide, whatever the grid; the last
// block adds up the classes' losses in theirs.
#include "learn_gang.cuh"

// A row that does not count: zeros, by a warp.
DEVICE void take_ignored(const LearnArgs& args, i64 place, Divisors divisors) {
    const CrossEntropyArgs& outer = args.outer;
    const Row row = row_at(outer, load(args.order + place));
    if (outer.gradient) {
        Element* const to = outer.gradient + row.index * outer.gradient_stride;
        const i32 shift = shift_of(to), classes = outer.labels.classes;
        const Slot zeros = {};
        for (i32 slot = static_cast<i32>(thread_index() % WARP); first_column(slot, shift) < classes; slot += WARP) {
            store_slot(to, first_column(slot, shift), classes, true, zeros);
        }
    }
    const Softmax none = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    if (is_first_lane()) store_row(outer, row, none, 0, divisors);
}

// The tile of a team whose part of shared memory begins at `bytes`, for so many rows.
DEVICE Tile tile_at(const LearnArgs& args, u8* bytes, bool is_warp, i32 rows, float* label_w) {
    Tile tile = {};
    tile.team.is_warp = is_warp;
    tile.classes = args.outer.labels.classes;
    tile.label_w = label_w;
    tile.rows = reinterpret_cast<TileRow*>(bytes);
    tile.parts_of = reinterpret_cast<Part*>(tile.rows + rows);
#if ON_CHIP
    // As many parts as there may be: every warp's, or one of every row.
    tile.w = reinterpret_cast<float*>(tile.parts_of + maximum(rows, tile.team.warps()));
#else
    tile.w = args.scratch + static_cast<i64>(block_index()) * (3 + rows) * tile.classes;
#endif
    tile.delta = tile.w + tile.classes;
    tile.g = tile.delta + tile.classes;
    tile.e = tile.g + tile.classes;
    return tile;
}

// Classes with a gang, in turn; two of them at a time where there are blocks for both. No block waits for one that comes to the same gang
// only after another for which it waits: all of them take the gangs in the same order.
DEVICE void take_gangs(const LearnArgs& args, Tile& tile, Divisors divisors, Scratch* scratch) {
    const u32 gangs = load(&args.list->gangs);
    u32 used = 0;
    for (u32 i = 0; i < gangs; ++i) {
        const u32 place = load(args.by_team + i);
        const u32 members = minimum(tiles_of(load(&args.groups[place].count), args.tile_rows), grid_blocks());
        if (used + members > grid_blocks()) used = 0;
        const u32 rank = block_index() - used;
        used += members;
        if (rank >= members) continue;
        const Gang gang = {&args.groups[place].arrived, members, rank, 0};
        take_group_together(args, tile, place, gang, divisors, scratch);
        block_barrier();
    }
}

KERNEL(learn_cross_entropy, LearnArgs) {
    SHARED(TallyScratch, tally_scratch, 1);
    SHARED(Scratch, scratch, 1);
    DYNAMIC_SHARED(u8, bytes);
    const CrossEntropyArgs& outer = args.outer;
    const i32 warps = static_cast<i32>(block_threads() / WARP), warp = static_cast<i32>(thread_index() / WARP);
    Tile of_block = tile_at(args, bytes, false, args.tile_rows, scratch->label_w);
    const i32 warp_bytes = args.warp_rows * static_cast<i32>(sizeof(TileRow) + sizeof(Part)) +
                           (3 + args.warp_rows) * outer.labels.classes * static_cast<i32>(sizeof(float));
    Tile of_warp = tile_at(args, bytes + warp * ((warp_bytes + 7) / 8 * 8), true, args.warp_rows, scratch->label_w + warp);
    const Divisors divisors = divisors_of(outer, tally_scratch);
    take_gangs(args, of_block, divisors, scratch);
    const u32 present = load(&args.list->present), gangs = load(&args.list->gangs), blocks = load(&args.list->blocks);
    // A piece of work is a block's class, or one for each warp. Where no block is late, the first pieces are given away without a word.
    const u32 pieces = blocks + (present - gangs - blocks + warps - 1) / warps;
    const u32 given = gangs == 0 ? grid_blocks() : 0;
    u32 piece = gangs == 0 ? block_index() : take_work(&args.list->taken, &scratch->piece);
    while (piece < pieces) {
        if (piece < blocks) {
            take_group(args, of_block, load(args.by_team + gangs + piece), 0, divisors, scratch);
        } else {
            const u32 in_order = gangs + blocks + (piece - blocks) * warps + warp;
            if (in_order < present) take_group(args, of_warp, load(args.by_team + in_order), warp, divisors, scratch);
        }
        piece = given < pieces ? given + take_work(&args.list->taken, &scratch->piece) : pieces;
    }
    const u32 ignored = load(&args.list->ignored);
    for (i64 place = ignored + block_index() * warps + warp; place < outer.rows; place += grid_blocks() * warps) {
        take_ignored(args, place, divisors);
    }
    // What any warp stored comes before the ticket.
    block_barrier();
    if (!last_block(outer.ticket, &scratch->flag)) return;
    double sum = sum_of_partials(outer.partials, present, scratch->sums);
    sum += sum_of_partials(args.gang_numbers, load(&args.list->gang_rows), scratch->losses);
    if (thread_index() == 0 && outer.loss) store(outer.loss, static_cast<float>(sum));
}
