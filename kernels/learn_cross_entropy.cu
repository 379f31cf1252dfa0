// Softmax cross-entropy under a learned class-level perturbation (SPEC 3): for each class of the batch the steps that lead to its delta, then
// loss, gradient and outputs of its rows. A class has a warp, a block or a gang of blocks, as its number of rows asks; `group_rows` ran
// before, and cross-entropy where confidences of the whole batch decide.
//
// Compiled once per variant. DTYPE is that of logits and gradient. VALUES is how many columns a thread may own where a class's arrays and at
// least one row fit into shared memory, and 0 where they lie in global memory of the block's own.
//
// Sums over a class's rows and over columns have an order that its own rows, C and the number of threads decide, whatever the grid; the last
// block adds up the classes' losses in theirs.
#define ON_CHIP (VALUES > 0)
#include "learn_passes.cuh"

// As in src/kernel/learn/plan.rs.
#define MOST_THREADS (VALUES == 8 ? LEARN_WARPS * WARP : 256)

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
    const i64 before = reinterpret_cast<u8*>(tile.parts_of + maximum(rows, tile.team.warps())) - bytes;
    tile.w = reinterpret_cast<float*>(bytes + (before + 15) / 16 * 16);
#else
    tile.w = args.scratch + static_cast<i64>(block_index()) * (ARRAYS + rows) * tile.pitch();
#endif
    return tile;
}

// What a block has yet to do. All blocks take the gangs in the same order, one after the other or, where there are blocks for several, side by
// side: none waits for a block that comes to the same gang only after another for which it waits. Then come the pieces of work that one block
// does by itself, a class, or one for each warp, as blocks ask for them; where none is late, the first are given away without a word.
struct Agenda {
    u32 gangs;
    u32 blocks;
    u32 present;
    // Of gangs, the next one, and how many blocks those side by side with it have.
    u32 gang;
    u32 used;
    u32 piece;
    u32 pieces;
    u32 given;
};

DEVICE Agenda agenda_of(const LearnArgs& args, u32 warps) {
    Agenda agenda = {load(&args.list->gangs), load(&args.list->blocks), load(&args.list->present), 0, 0, 0, 0, 0};
    agenda.pieces = agenda.blocks + (agenda.present - agenda.gangs - agenda.blocks + warps - 1) / warps;
    agenda.given = agenda.gangs == 0 ? grid_blocks() : 0;
    // Before the first.
    agenda.piece = ~0u;
    return agenda;
}

// A team's next class.
struct Task {
    bool any;
    bool is_warp;
    // Of the order by team; `present` for none.
    u32 in_order;
    Gang gang;
};

DEVICE Task next_task(const LearnArgs& args, Agenda& agenda, u32 warps, u32 warp, u32* shared_piece) {
    Task task = {true, false, 0, {nullptr, 1, 0, 0}};
    while (agenda.gang < agenda.gangs) {
        task.in_order = agenda.gang++;
        Group* const group = args.groups + load(args.by_team + task.in_order);
        const u32 members = minimum(tiles_of(load(&group->count), args.tile_rows), grid_blocks());
        if (agenda.used + members > grid_blocks()) agenda.used = 0;
        const u32 rank = block_index() - agenda.used;
        agenda.used += members;
        if (rank >= members) continue;
        task.gang = {&group->arrived, members, rank, 0};
        return task;
    }
    const bool is_first = agenda.piece == ~0u;
    if (is_first && agenda.given != 0) {
        agenda.piece = block_index();
    } else if (agenda.given < agenda.pieces) {
        agenda.piece = agenda.given + take_work(&args.list->taken, shared_piece);
    } else {
        agenda.piece = agenda.pieces;
    }
    task.any = agenda.piece < agenda.pieces;
    task.is_warp = agenda.piece >= agenda.blocks;
    task.in_order = agenda.gangs + agenda.piece;
    if (task.is_warp) task.in_order = agenda.gangs + agenda.blocks + (agenda.piece - agenda.blocks) * warps + warp;
    return task;
}

BOUNDED_KERNEL(MOST_THREADS, 1, learn_cross_entropy, LearnArgs) {
    SHARED(TallyScratch, tally_scratch, 1);
    SHARED(Scratch, scratch, 1);
    DYNAMIC_SHARED(u8, bytes);
    const CrossEntropyArgs& outer = args.outer;
    const i32 warps = static_cast<i32>(block_threads() / WARP), warp = static_cast<i32>(thread_index() / WARP);
    const i32 warp_bytes = (args.warp_rows * static_cast<i32>(sizeof(TileRow) + sizeof(Part)) + 15) / 16 * 16 +
                           (ARRAYS + args.warp_rows) * pitch_of(outer.labels.classes) * static_cast<i32>(sizeof(float));
    const Divisors divisors = divisors_of(outer, tally_scratch);
    Agenda agenda = agenda_of(args, warps);
    for (;;) {
        const Task task = next_task(args, agenda, warps, warp, &scratch->piece);
        if (!task.any) break;
        if (task.in_order >= agenda.present) continue;
        const i32 team = task.is_warp ? warp : 0;
        Tile tile = tile_at(args, bytes + team * warp_bytes, task.is_warp,
                            task.is_warp ? args.warp_rows : args.tile_rows, scratch->label_w + team);
        const Share share = share_of_class(args, load(args.by_team + task.in_order), team, task.gang);
        take_group(args, tile, share, divisors, scratch);
    }
    const u32 ignored = load(&args.list->ignored);
    for (i64 place = ignored + block_index() * warps + warp; place < outer.rows; place += grid_blocks() * warps) {
        take_ignored(args, place, divisors);
    }
    // What any warp stored comes before the ticket.
    block_barrier();
    if (!last_block(outer.ticket, &scratch->flag)) return;
    double sum = sum_of_partials(outer.partials, agenda.present, scratch->sums);
    sum += sum_of_partials(args.gang_numbers, load(&args.list->gang_rows), scratch->losses);
    if (thread_index() == 0 && outer.loss) store(outer.loss, static_cast<float>(sum));
}
