// The passes over a class's rows (SPEC 3), by whoever has the class: a warp or a block whose tile holds them all, or a gang of blocks that go
// through the steps together, a tile a block, or as many as there are for each where the grid is smaller. Tiles that are a block's only one
// are read once, others again in every pass.
//
// What a tile's rows give to g is, in a gang, one row of numbers in global memory. Between two barriers the gang adds these rows up, a few
// columns a warp, always in the order of the tiles: the sum does not depend on the number of blocks.
#pragma once
#include "learn_columns.cuh"

// Columns that a warp adds up side by side, a sector of memory; the other lanes share out the tiles.
#define SIDE_BY_SIDE 8

// A class as one of its blocks, or its warp, sees it.
struct Share {
    Gang gang;
    u32 place;
    // The team's place in its block.
    i32 team;
    // Where its rows begin in the order, how many there are, and in how many tiles.
    i64 first;
    i32 count;
    i32 tiles;
    // The first of the gang's rows: one a tile and one for all of them.
    u32 gang_row;

    MEMBER bool alone() const { return tiles == 1; }
    // Whether tiles take turns on chip.
    MEMBER bool streams() const { return tiles > static_cast<i32>(gang.members); }
    MEMBER bool leads() const { return gang.rank == 0; }
};

DEVICE Share share_of_class(const LearnArgs& args, u32 place, i32 team, Gang gang) {
    const Group* const group = args.groups + place;
    const u32 count = load(&group->count);
    const Share share = {gang, place, team, load(&group->first), static_cast<i32>(count),
                         static_cast<i32>(tiles_of(count, args.tile_rows)), load(&group->gang_row)};
    return share;
}

// The sums and the number of the gang's row of a tile, or of all of them.
DEVICE float* sums_of(const LearnArgs& args, const Share& share, i32 t) {
    return args.gang_sums + (static_cast<i64>(share.gang_row) + t) * args.outer.labels.classes;
}
DEVICE double* number_of(const LearnArgs& args, const Share& share, i32 t) {
    return args.gang_numbers + share.gang_row + t;
}

// Every tile that is this block's, or this warp's.
#define FOR_TILES(share, t) \
    for (i32 t = static_cast<i32>((share).gang.rank); t < (share).tiles; t += static_cast<i32>((share).gang.members))

// Adds up what the tiles gave to g.
DEVICE void add_tiles(const LearnArgs& args, const Share& share, const Tile& tile) {
    const i32 lane = static_cast<i32>(thread_index() % WARP), slices = static_cast<i32>(WARP) / SIDE_BY_SIDE;
    const i32 warp = static_cast<i32>(share.gang.rank) * tile.team.warps() + tile.team.warp();
    const i32 warps = static_cast<i32>(share.gang.members) * tile.team.warps();
    for (i32 from = warp * SIDE_BY_SIDE; from < tile.classes; from += warps * SIDE_BY_SIDE) {
        const i32 c = from + lane % SIDE_BY_SIDE;
        float sum = 0.0f;
        for (i32 t = lane / SIDE_BY_SIDE; t < share.tiles && c < tile.classes; t += slices) {
            sum += load_fresh(sums_of(args, share, t) + c);
        }
        for (u32 lanes = SIDE_BY_SIDE; lanes < WARP; lanes *= 2) sum += shuffle_xor(sum, lanes);
        if (lane < SIDE_BY_SIDE && c < tile.classes) store(sums_of(args, share, share.tiles) + c, sum);
    }
}

// The class's confidence and the one that decides.
struct Known {
    double confidence;
    double deciding;
};

// From `sum` over all rows where the team is alone; else from the tiles' numbers, which the gang's first block adds up.
DEVICE Known settle_confidence(const LearnArgs& args, Share& share, const Tile& tile, double sum, Scratch* scratch) {
    Known known;
    if (share.alone()) {
        known.confidence = sum / static_cast<double>(share.count);
        if (tile.team.thread() == 0) {
            scratch->deciding[share.team] = deciding_confidence(args.running, tile.label, args.momentum, known.confidence);
        }
        team_barrier(tile.team);
        known.deciding = scratch->deciding[share.team];
        return known;
    }
    Group* const group = args.groups + share.place;
    gang_barrier(share.gang);
    if (share.leads()) {
        const double confidence = sum_of_partials(number_of(args, share, 0), share.tiles, scratch->losses) / static_cast<double>(share.count);
        if (thread_index() == 0) {
            store(&group->confidence, confidence);
            store(&group->deciding, deciding_confidence(args.running, tile.label, args.momentum, confidence));
        }
    }
    gang_barrier(share.gang);
    known.confidence = load_fresh(&group->confidence);
    known.deciding = load_fresh(&group->deciding);
    return known;
}

// A step [Alg. 1], from what the tiles' rows give.
DEVICE void take_step(const LearnArgs& args, Share& share, const Tile& tile, Decision decision, Scratch* scratch) {
    if (!share.alone()) {
        gang_barrier(share.gang);
        add_tiles(args, share, tile);
        gang_barrier(share.gang);
    }
    const float* const sums = sums_of(args, share, share.tiles);
    const float part = 1.0f / static_cast<float>(share.count);
    float square = 0.0f;
    FOR_COLUMNS(tile, c) square += set_gradient(tile, c, share.alone() ? column_sum(tile, c) : load_fresh(sums + c), part);
    follow_gradient(args, tile, static_cast<float>(decision.direction), decision.alpha, square, scratch->squares);
}

// All of a class: a pass for the confidence, one a step where steps are taken by rows, and one for loss and gradient.
DEVICE void take_group(const LearnArgs& args, Tile& tile, Share share, Divisors divisors, Scratch* scratch) {
    tile.label = load(&args.groups[share.place].label);
    Known known = {0.0, 0.0};
    Decision decision = {0, 0, 0.0};
    u32 last = 1;
    for (u32 pass = 0; pass <= last; ++pass) {
        double sum = 0.0;
        FOR_TILES(share, t) {
            const bool wanted = !share.streams() || pass != 0 || !args.confidences_known;
            if (wanted && (share.streams() || pass == 0)) {
                // Whatever was in the tile is free.
                team_barrier(tile.team);
                tile.cut(share.first + static_cast<i64>(t) * args.tile_rows, minimum(args.tile_rows, share.count - t * args.tile_rows));
                sum = load_tile(args, tile, !share.streams() || pass == last);
            }
            if (pass == 0) {
                sum = team_reduce(tile.team, sum, 0.0, Sum(), scratch->sums);
                if (!share.alone() && thread_index() == 0) store(number_of(args, share, t), sum);
                continue;
            }
            dot_parts(args, tile, pass == last);
            if (pass == last) {
                const double loss = team_reduce(tile.team, finish_tile(args, tile, divisors), 0.0, Sum(), scratch->losses);
                double* const to = share.alone() ? args.outer.partials + share.place : number_of(args, share, t);
                if (tile.team.thread() == 0) store(to, loss);
                continue;
            }
            combine_dots(tile);
            if (share.alone()) continue;
            FOR_COLUMNS(tile, c) store(sums_of(args, share, t) + c, column_sum(tile, c));
        }
        if (pass == 0) {
            if (args.confidences_known) {
                known.confidence = load(&args.groups[share.place].confidence);
                known.deciding = load(&args.groups[share.place].deciding);
            } else {
                known = settle_confidence(args, share, tile, sum, scratch);
            }
            decision = decide(args, tile.label, known.deciding, share.leads() && tile.team.thread() == 0);
            start_delta(tile, known.confidence);
            const bool moves = is_finite(known.confidence) && decision.steps != 0;
#if ON_CHIP
            if (moves && share.alone() && (tile.team.is_warp || tile.count <= args.column_rows)) {
                follow_columns(args, tile, decision, scratch);
                continue;
            }
#endif
            if (moves) last = decision.steps + 1;
        } else if (pass < last) {
            take_step(args, share, tile, decision, scratch);
        }
    }
    if (!share.leads()) return;
    store_group(args, tile, share.place, decision, known.deciding);
    if (share.alone() || thread_index() != 0) return;
    // The losses are those of the tiles.
    store(number_of(args, share, share.tiles), 0.0);
    store(args.outer.partials + share.place, 0.0);
}
