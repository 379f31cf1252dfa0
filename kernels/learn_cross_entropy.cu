// Softmax cross-entropy under a learned class-level perturbation (SPEC 3): for each class of the batch the steps that lead to its delta, then
// loss, gradient and outputs of its rows. A block a class; `group_rows` ran before, and cross-entropy where the mean of the classes'
// confidences decides.
//
// Compiled once per variant. DTYPE is that of logits and gradient. ON_CHIP is 1 where a class's arrays and at least one row fit into shared
// memory, else they lie in global memory of the block's own. A class whose rows all fit into a tile has its logits read once; others are read
// again for every step. GENERAL is 1 where targets may be smoothed, and off chip.
//
// Sums over a class's rows and over columns have an order that its own rows, C and the number of threads decide, whatever the grid; the last
// block adds up the classes' losses in theirs.
#include "learn_tile.cuh"

// Confidences within this of tau count as equal to it; the same number as TIE in src/perturbation/learned.rs.
#define TIE 1e-6
// As MAX_STEPS there.
#define MOST_STEPS 10000

struct Scratch {
    double sums[MOST_WARPS];
    double losses[MOST_WARPS];
    float squares[MOST_WARPS];
    float label_w;
    u32 flag;
    // Of the class.
    double deciding;
};

// How a class is pushed.
struct Decision {
    i32 direction;
    u32 steps;
};

DEVICE Decision decide(const LearnArgs& args, i32 label, double tau, double confidence) {
    const double gap = tau - confidence;
    // No comparison with NaN holds.
    i32 direction = gap > TIE ? 1 : gap < -TIE ? -1 : 0;
    if (args.directions) direction = load(args.directions + label);
    u32 steps = args.same_steps;
    if (args.steps) steps = load(args.steps + label);
    if (args.bound_by_confidence) {
        const double quotient = (args.eps + args.delta_eps * fabs(gap)) / args.alpha * (1.0 + 1e-6);
        steps = quotient < MOST_STEPS ? static_cast<u32>(quotient) : quotient == quotient ? MOST_STEPS : 0u;
    }
    const Decision decision = {direction, direction == 0 ? 0u : steps};
    return decision;
}

// A step of the class [Alg. 1]: g over all tiles, and delta along it. Of several tiles each is read again.
DEVICE void step(const LearnArgs& args, Tile& tile, const Group& group, float direction, Scratch* scratch) {
    const i64 end = static_cast<i64>(group.first) + group.count;
    const float share = 1.0f / static_cast<float>(group.count);
    const bool streams = group.count > static_cast<u32>(args.tile_rows);
    float square = 0.0f;
    for (i64 from = group.first; from < end; from += args.tile_rows) {
        const bool is_last = from + args.tile_rows >= end;
        if (streams) {
            tile.cut(from, static_cast<i32>(minimum<i64>(args.tile_rows, end - from)));
            load_tile(args, tile, false);
        }
        dot_parts(args, tile, false);
        combine_dots(tile);
        square = add_to_gradient(tile, from == group.first, is_last, share);
        // Before the tile is loaded over.
        if (streams && !is_last) block_barrier();
    }
    float factor = direction * static_cast<float>(args.alpha);
    if (args.unit_l2) factor /= fmaxf(sqrtf(block_reduce(square, 0.0f, Sum(), scratch->squares)), 1e-12f);
    FOR_COLUMNS(tile, c) set_delta(tile, c, get(tile.delta + c) + factor * get(tile.g + c));
    block_barrier();
}

// A row's softmax under delta, from u's maximum or, where targets are spread, from v of u's top column. The label's logit takes the place of
// either where it leads: the loss is then log1p of the others. `rescale` is what E * w is to be multiplied by.
DEVICE Softmax perturbed_softmax(const LearnArgs& args, const Tile& tile, i32 r, float* rescale) {
    const TileRow& row = tile.rows[r];
    const float others = others_of(tile, r), label_v = row.label_u + get(tile.delta + tile.label);
    const float label_exp = row.label_e * *tile.label_w;
    *rescale = 1.0f;
    Softmax softmax = {row.max, label_v, others, row.total, row.distance};
    if (is_spread(args.outer)) {
        for (i32 p = 0; p < tile.parts; ++p) softmax.distance -= tile.parts_of[r * tile.parts + p].distance;
        *rescale = 1.0f / (row.top == tile.label ? *tile.label_w : get(tile.w + row.top));
        softmax.max += get(tile.delta + row.top);
    }
    if (label_exp > others) {
        *rescale = 1.0f / label_exp;
        softmax.distance += weigh(row.total, label_v - softmax.max);
        softmax.max = label_v;
    }
    softmax.others *= *rescale;
    return softmax;
}

DEVICE void write_part(const LearnArgs& args, const Tile& tile, const Row& row, i32 r, i32 part, const Softmax& softmax, float rescale,
                       Divisors divisors) {
    const CrossEntropyArgs& outer = args.outer;
    Element* const to = outer.gradient + row.index * outer.gradient_stride;
    const i32 shift = shift_of(to), classes = tile.classes;
    const float* const e = tile.e + static_cast<i64>(r) * classes;
    const Gradient gradient(outer, row, softmax, divisors);
    i32 slot = part * static_cast<i32>(WARP) + static_cast<i32>(thread_index() % WARP);
    for (; first_column(slot, shift) < classes; slot += tile.parts * static_cast<i32>(WARP)) {
        const i32 first = first_column(slot, shift);
        Slot g = {}, weighted = {};
        if (gradient.spread) weighted = weighted_targets(outer, row, first);
        UNROLL
        for (i32 k = 0; k < WIDTH; ++k) {
            const i32 c = first + k;
            if (!is_inside(c, classes)) continue;
            const bool is_label = c == tile.label;
            const float exp = is_label ? softmax.label_exp() : get(e + c) * get(tile.w + c) * rescale;
            g.x[k] = gradient.at(exp, is_label, weighted.x[k], 1.0f);
        }
        store_slot(to, first, classes, true, g);
    }
}

// Loss, gradient and outputs of a tile's rows; what they add to the loss, in this thread.
DEVICE double finish_tile(const LearnArgs& args, const Tile& tile, Divisors divisors) {
    dot_parts(args, tile, true);
    double loss = 0.0;
    FOR_PARTS(tile, unit) {
        const i32 r = unit / tile.parts, part = unit % tile.parts;
        const Row row = row_at(args.outer, tile.rows[r].index);
        float rescale;
        const Softmax softmax = perturbed_softmax(args, tile, r, &rescale);
        if (args.outer.gradient) write_part(args, tile, row, r, part, softmax, rescale, divisors);
        if (part == 0 && is_first_lane()) loss += store_row(args.outer, row, softmax, tile.rows[r].key, divisors);
    }
    return loss;
}

// All of a class. The caller's barrier frees the tile.
DEVICE void take_group(const LearnArgs& args, Tile& tile, u32 place, Divisors divisors, Scratch* scratch) {
    const Group* const at = args.groups + place;
    Group group = {load(&at->label), load(&at->first), load(&at->count), 0, 0.0, 0.0};
    const i64 end = static_cast<i64>(group.first) + group.count;
    const bool streams = group.count > static_cast<u32>(args.tile_rows);
    tile.label = group.label;
    tile.cut(group.first, static_cast<i32>(minimum(group.count, static_cast<u32>(args.tile_rows))));
    double confidence = streams ? 0.0 : load_tile(args, tile, true);
    if (args.confidences_known) {
        group.confidence = load(&at->confidence);
        group.deciding = load(&at->deciding);
    } else {
        for (i64 from = group.first; streams && from < end; from += args.tile_rows) {
            tile.cut(from, static_cast<i32>(minimum<i64>(args.tile_rows, end - from)));
            confidence += load_tile(args, tile, false);
        }
        group.confidence = block_reduce(confidence, 0.0, Sum(), scratch->sums) / static_cast<double>(group.count);
        if (thread_index() == 0) scratch->deciding = deciding_confidence(args.running, group.label, args.momentum, group.confidence);
        block_barrier();
        group.deciding = scratch->deciding;
    }
    const Decision decision = decide(args, group.label, load(&args.list->tau), group.deciding);
    const bool learns = is_finite(group.confidence);
    FOR_COLUMNS(tile, c) set_delta(tile, c, learns ? 0.0f : static_cast<float>(group.confidence - group.confidence));
    block_barrier();
    for (u32 k = 0; k < (learns ? decision.steps : 0u); ++k) {
        step(args, tile, group, static_cast<float>(decision.direction), scratch);
    }
    double loss = 0.0;
    for (i64 from = group.first; from < end; from += args.tile_rows) {
        if (streams) {
            // Before the tile is loaded over.
            block_barrier();
            tile.cut(from, static_cast<i32>(minimum<i64>(args.tile_rows, end - from)));
            load_tile(args, tile, true);
        }
        loss += finish_tile(args, tile, divisors);
    }
    loss = block_reduce(loss, 0.0, Sum(), scratch->losses);
    if (args.delta) {
        FOR_COLUMNS(tile, c) store(args.delta + static_cast<i64>(place) * tile.classes + c, get(tile.delta + c));
    }
    if (thread_index() != 0) return;
    store(args.outer.partials + place, loss);
    if (args.directions_taken) store(args.directions_taken + place, decision.direction);
    if (args.steps_taken) store(args.steps_taken + place, decision.steps);
    if (args.confidences) store(args.confidences + place, group.deciding);
}

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

KERNEL(learn_cross_entropy, LearnArgs) {
    SHARED(TallyScratch, tally_scratch, 1);
    SHARED(Scratch, scratch, 1);
    DYNAMIC_SHARED(u8, bytes);
    const CrossEntropyArgs& outer = args.outer;
    const i32 classes = outer.labels.classes, warps = static_cast<i32>(block_threads() / WARP);
    Tile tile = {};
    tile.classes = classes;
    tile.label_w = &scratch->label_w;
    tile.rows = reinterpret_cast<TileRow*>(bytes);
    tile.parts_of = reinterpret_cast<Part*>(tile.rows + args.tile_rows);
#if ON_CHIP
    // As many parts as there may be: every warp's, or one of every row.
    tile.w = reinterpret_cast<float*>(tile.parts_of + (args.tile_rows < warps ? warps : args.tile_rows));
#else
    tile.w = args.scratch + static_cast<i64>(block_index()) * (3 + args.tile_rows) * classes;
#endif
    tile.delta = tile.w + classes;
    tile.g = tile.delta + classes;
    tile.e = tile.g + classes;
    const Divisors divisors = divisors_of(outer, tally_scratch);
    const u32 present = load(&args.list->present), ignored = load(&args.list->ignored);
    for (u32 place = block_index(); place < present; place += grid_blocks()) {
        take_group(args, tile, place, divisors, scratch);
        // Between one class's use of what the block shares and the next one's.
        block_barrier();
    }
    for (i64 place = ignored + block_index() * warps + thread_index() / WARP; place < outer.rows; place += grid_blocks() * warps) {
        take_ignored(args, place, divisors);
    }
    if (!last_block(outer.ticket, &scratch->flag)) return;
    const double sum = sum_of_partials(outer.partials, present, scratch->sums);
    if (thread_index() == 0 && outer.loss) store(outer.loss, static_cast<float>(sum));
}
