// One class of the learner (SPEC 3): how it is pushed, and loss, gradient and outputs of a tile's rows once delta stands.
#pragma once
#include "learn_tile.cuh"

// As MOST_EPS in src/kernel/learn/rule.rs.
#define MOST_EPS 30.0

// As in src/kernel/learn/plan.rs: the most warps of a block, and rows of a class whose threads own columns.
#define LEARN_WARPS 16
#define MOST_COLUMN_ROWS 16

struct Scratch {
    double sums[LEARN_WARPS];
    double losses[LEARN_WARPS];
    float squares[LEARN_WARPS];
    // By team.
    float label_w[LEARN_WARPS];
    double deciding[LEARN_WARPS];
    // By warp and row.
    float dots[LEARN_WARPS][MOST_COLUMN_ROWS];
    u32 flag;
    u32 piece;
};

// How a class is pushed.
struct Decision {
    i32 direction;
    u32 steps;
    double alpha;
};

DEVICE Decision decide(const LearnArgs& args, i32 label, double confidence, bool records) {
    const double gap = load(&args.list->tau) - confidence;
    i32 direction = direction_of(gap);
    if (args.directions) direction = load(args.directions + label);
    const double alpha = args.alpha_at ? static_cast<double>(load(args.alpha_at)) : args.alpha;
    double eps = args.bounds ? load(args.bounds + label) : args.eps;
    if (args.eps_at) eps = static_cast<double>(load(args.eps_at + (args.eps_by_class ? label : 0)));
    const bool is_number = alpha > 0.0 && is_finite(alpha) && eps >= 0.0;
    if (args.delta_eps != 0.0) eps += args.delta_eps * fabs(gap);
    // What the host gave was checked there.
    if (!is_number || eps > MOST_EPS * (1.0 + 1e-6)) {
        const u64 first = static_cast<u64>(args.outer.labels.classes - label) << 32 | bits_of(static_cast<float>(eps));
        if (records) atomic_max(args.bad_bound, first);
        direction = 0;
    }
    const Decision decision = {direction, direction == 0 ? 0u : steps_of(eps, alpha), alpha};
    return decision;
}

// No step yet; NaN for a class whose confidence is not finite.
DEVICE void start_delta(const Tile& tile, double confidence) {
    const float start = is_finite(confidence) ? 0.0f : static_cast<float>(confidence - confidence);
    FOR_COLUMNS(tile, c) set_delta(tile, c, start);
    team_barrier(tile.team);
}

// A row's softmax under delta, from u's maximum or, where targets are spread, from v of u's top column. The label's logit takes the place of
// either where it leads: the loss is then log1p of the others. `rescale` is what E * w is to be multiplied by.
DEVICE Softmax perturbed_softmax(const LearnArgs& args, const Tile& tile, i32 r, float* rescale) {
    const TileRow& row = tile.rows[r];
    const float others = others_of(tile, r), label_v = row.label_u + get(tile.delta() + tile.label);
    const float label_exp = row.label_e * *tile.label_w;
    *rescale = 1.0f;
    Softmax softmax = {row.max, label_v, others, row.total, row.distance};
    if (is_spread(args.outer)) {
        for (i32 p = 0; p < tile.parts; ++p) softmax.distance -= tile.parts_of[r * tile.parts + p].distance;
        *rescale = 1.0f / (row.top == tile.label ? *tile.label_w : get(tile.w + row.top));
        softmax.max += get(tile.delta() + row.top);
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
    const float* const e = tile.e(r);
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

// Loss, gradient and outputs of a tile's rows, whose products with w are there; what they add to the loss, in this thread.
DEVICE double finish_tile(const LearnArgs& args, const Tile& tile, Divisors divisors) {
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

// What was learned of a class, by its team.
DEVICE void store_group(const LearnArgs& args, const Tile& tile, u32 place, Decision decision, double deciding) {
    if (args.delta) {
        FOR_COLUMNS(tile, c) store(args.delta + static_cast<i64>(place) * tile.classes + c, get(tile.delta() + c));
    }
    if (tile.team.thread() != 0) return;
    if (args.directions_taken) store(args.directions_taken + place, decision.direction);
    if (args.steps_taken) store(args.steps_taken + place, decision.steps);
    if (args.confidences) store(args.confidences + place, deciding);
}
