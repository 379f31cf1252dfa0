// A class of the learner (SPEC 3) with more rows than a tile holds: a gang of blocks goes through its steps together, a tile a block, or as many
// as there are for each where the grid is smaller. Tiles that are a block's only one are read once, others again for every step.
//
// What a tile's rows give to g is one row of numbers in global memory. Between two barriers the gang adds these rows up, a few columns a warp,
// always in the order of the tiles: the sum does not depend on the number of blocks.
#pragma once
#include "learn_group.cuh"

// Columns that a warp adds up side by side, a sector of memory; the other lanes share out the tiles.
#define SIDE_BY_SIDE 8

struct GangWork {
    Gang gang;
    // Of the class: its rows in the order, how many, in how many tiles, and where the gang keeps a row of numbers and a number a tile.
    i64 first;
    i32 count;
    i32 tiles;
    float* sums;
    double* numbers;

    // Whether tiles take turns on chip.
    MEMBER bool streams() const { return tiles > static_cast<i32>(gang.members); }
};

// Every tile that is this block's.
#define FOR_TILES(work, t) \
    for (i32 t = static_cast<i32>((work).gang.rank); t < (work).tiles; t += static_cast<i32>((work).gang.members))

// Reads a tile. The last one may still be in use: by then the block has met.
DEVICE double load_tile_of(const LearnArgs& args, const GangWork& work, Tile& tile, i32 t, bool finishing) {
    block_barrier();
    tile.cut(work.first + static_cast<i64>(t) * args.tile_rows, minimum(args.tile_rows, work.count - t * args.tile_rows));
    return load_tile(args, tile, finishing);
}

// Adds up what the tiles gave to g.
DEVICE void add_tiles(const GangWork& work, const Tile& tile) {
    const i32 lane = static_cast<i32>(thread_index() % WARP), slices = static_cast<i32>(WARP) / SIDE_BY_SIDE;
    const i32 warp = static_cast<i32>(work.gang.rank) * tile.team.warps() + tile.team.warp();
    const i32 warps = static_cast<i32>(work.gang.members) * tile.team.warps();
    for (i32 from = warp * SIDE_BY_SIDE; from < tile.classes; from += warps * SIDE_BY_SIDE) {
        const i32 c = from + lane % SIDE_BY_SIDE;
        float sum = 0.0f;
        for (i32 t = lane / SIDE_BY_SIDE; t < work.tiles && c < tile.classes; t += slices) {
            sum += load_fresh(work.sums + static_cast<i64>(t) * tile.classes + c);
        }
        for (u32 lanes = SIDE_BY_SIDE; lanes < WARP; lanes *= 2) sum += shuffle_xor(sum, lanes);
        if (lane < SIDE_BY_SIDE && c < tile.classes) store(work.sums + static_cast<i64>(work.tiles) * tile.classes + c, sum);
    }
}

// A step [Alg. 1] of the gang.
DEVICE void step_together(const LearnArgs& args, GangWork& work, Tile& tile, Decision decision, Scratch* scratch) {
    FOR_TILES(work, t) {
        if (work.streams()) load_tile_of(args, work, tile, t, false);
        dot_parts(args, tile, false);
        combine_dots(tile);
        FOR_COLUMNS(tile, c) store(work.sums + static_cast<i64>(t) * tile.classes + c, column_sum(tile, c));
    }
    gang_barrier(work.gang);
    add_tiles(work, tile);
    gang_barrier(work.gang);
    const float* const sums = work.sums + static_cast<i64>(work.tiles) * tile.classes;
    float square = 0.0f;
    FOR_COLUMNS(tile, c) square += set_gradient(tile, c, load_fresh(sums + c), 1.0f / static_cast<float>(work.count));
    follow_gradient(args, tile, static_cast<float>(decision.direction), decision.alpha, square, scratch->squares);
}

// The class's confidence and the one that decides, into its group, from those of the tiles.
DEVICE void gather_confidences(const LearnArgs& args, GangWork& work, Tile& tile, Group* group, Scratch* scratch) {
    FOR_TILES(work, t) {
        const double mine = load_tile_of(args, work, tile, t, !work.streams());
        const double sum = block_reduce(mine, 0.0, Sum(), scratch->sums);
        if (thread_index() == 0) store(work.numbers + t, sum);
    }
    gang_barrier(work.gang);
    if (work.gang.rank == 0) {
        const double confidence = sum_of_partials(work.numbers, work.tiles, scratch->losses) / static_cast<double>(work.count);
        if (thread_index() == 0) {
            store(&group->confidence, confidence);
            store(&group->deciding, deciding_confidence(args.running, tile.label, args.momentum, confidence));
        }
    }
    gang_barrier(work.gang);
}

// This block's part of a class. What comes next waits for all of the block.
DEVICE void take_group_together(const LearnArgs& args, Tile& tile, u32 place, Gang gang, Divisors divisors, Scratch* scratch) {
    Group* const group = args.groups + place;
    const i64 row = load(&group->gang_row);
    GangWork work = {gang,
                     load(&group->first),
                     static_cast<i32>(load(&group->count)),
                     static_cast<i32>(tiles_of(load(&group->count), args.tile_rows)),
                     args.gang_sums + row * tile.classes,
                     args.gang_numbers + row};
    tile.label = load(&group->label);
    if (!args.confidences_known) {
        gather_confidences(args, work, tile, group, scratch);
    } else if (!work.streams()) {
        load_tile_of(args, work, tile, static_cast<i32>(gang.rank), true);
    }
    const double confidence = load_fresh(&group->confidence), deciding = load_fresh(&group->deciding);
    const bool leads = gang.rank == 0;
    const Decision decision = decide(args, tile.label, deciding, leads && thread_index() == 0);
    start_delta(tile, confidence);
    for (u32 k = 0; k < (is_finite(confidence) ? decision.steps : 0u); ++k) step_together(args, work, tile, decision, scratch);
    FOR_TILES(work, t) {
        if (work.streams()) load_tile_of(args, work, tile, t, true);
        const double loss = block_reduce(finish_tile(args, tile, divisors), 0.0, Sum(), scratch->losses);
        if (thread_index() == 0) store(work.numbers + t, loss);
    }
    if (!leads) return;
    store_group(args, tile, place, decision, deciding);
    if (thread_index() != 0) return;
    // The losses are those of the tiles.
    store(work.numbers + work.tiles, 0.0);
    store(args.outer.partials + place, 0.0);
}
