// Rows of one class on chip, or at least near by, for the steps of the learner (SPEC 3): a tile of E = exp(u - max u), the class's w =
// exp(delta) and g, and the three passes over them. E holds still while delta moves: a step is two products of E with a vector.
#pragma once
#include "groups.cuh"
#include "softmax.cuh"

struct LearnArgs {
    // Loss, gradient and outputs; `saved` and `from_saved` are not looked at.
    CrossEntropyArgs outer;
    // [N], [min(N, C)], [1] and [min(N, C)], as group_rows left them.
    const u32* order;
    Group* groups;
    GroupList* list;
    const u32* by_team;
    // (ARRAYS + tile_rows) * pitch a block, where they are not in shared memory.
    float* scratch;
    // What the blocks of a gang tell each other: a row of C a tile and one for all of them, and a number for each of these rows.
    float* gang_sums;
    double* gang_numbers;
    // [C], null where the confidences decide.
    const i32* directions;
    // [C], null where `eps` holds for every class.
    const double* bounds;
    // In place of `alpha` and `eps`, [1], or [C] where `eps_by_class`; null where those hold.
    const float* alpha_at;
    const float* eps_at;
    // Of the first class with a step size or a bound out of its range: C less the class in the high half, the bound in the low one.
    u64* bad_bound;
    // [C], null where there are none.
    double* running;
    // By group, null where not asked for: [min(N, C), C], and [min(N, C)] each.
    float* delta;
    i32* directions_taken;
    u32* steps_taken;
    double* confidences;
    double momentum;
    double alpha;
    double eps;
    // Of the bound by confidence, else 0.
    double delta_eps;
    i32 eps_by_class;
    // Whether a step has length 1, and whether the groups come with their confidences.
    i32 unit_l2;
    i32 confidences_known;
    // The most rows of a tile, and of a warp's; and of a block's whose threads have columns of their own in all of them.
    i32 tile_rows;
    i32 warp_rows;
    i32 column_rows;
};
static_assert(sizeof(LearnArgs) == 504, "as in src/kernel/learn/args.rs");

// The floats of a tile: in shared memory, or this block's part of global memory.
#if ON_CHIP
DEVICE float get(const float* from) { return *from; }
DEVICE void put(float* to, float x) { *to = x; }
#else
DEVICE float get(const float* from) { return load(from); }
DEVICE void put(float* to, float x) { store(to, x); }
#endif

// What a tile holds of a row. The sums over all columns are those of `Softmax`, before delta.
struct TileRow {
    u64 key;
    float max;
    // u and E of the label.
    float label_u;
    float label_e;
    // 1 / (E . w).
    float inverse;
    float total;
    float distance;
    u32 index;
    // The column of the maximum, where targets are spread.
    i32 top;
};
static_assert(sizeof(TileRow) == 40, "as in src/kernel/learn/plan.rs");

// What a warp finds in its part of a row.
struct Part {
    u64 key;
    float max;
    float others;
    float total;
    float distance;
    i32 top;
    i32 padding;
};
static_assert(sizeof(Part) == 32, "as in src/kernel/learn/plan.rs");

// Arrays of a class beside its rows; as in src/kernel/learn/plan.rs.
#define ARRAYS 2

// Floats from one array or row to the next, as there: every one begins on a 16-byte boundary.
DEVICE i32 pitch_of(i32 classes) { return (classes + 3) / 4 * 4; }

// A class's arrays, of the team that has the class. By rows, columns of w and delta are those of one thread each, which alone writes them; w is
// read by all. By columns (learn_columns.cuh) they are in registers until the last step is taken.
struct Tile {
    Team team;
    TileRow* rows;
    Part* parts_of;
    // w, 0 in the label's column, so that E . w leaves the label out; behind it the other arrays.
    float* w;
    // w of the label.
    float* label_w;
    i32 classes;
    i32 label;
    // Where its rows begin in the order, and how many there are.
    i64 first;
    i32 count;
    // Warps that share a row: few rows leave them to spare.
    i32 parts;

    MEMBER i32 pitch() const { return pitch_of(classes); }
    MEMBER float* delta() const { return w + pitch(); }
    // g takes the place of w once its rows' products with E are known, until delta has moved.
    MEMBER float* g() const { return w; }
    // E of a row, with 0 in the label's column or what `combine_dots` leaves there.
    MEMBER float* e(i32 r) const { return w + static_cast<i64>(ARRAYS + r) * pitch(); }

    MEMBER void cut(i64 from, i32 rows_of_tile) {
        first = from;
        count = rows_of_tile;
        parts = 1;
        while (2 * parts * count <= team.warps() && 2 * parts * static_cast<i32>(WARP) <= classes) parts *= 2;
    }
};

// Every part of a row that is this warp's.
#define FOR_PARTS(tile, unit) \
    for (i32 unit = (tile).team.warp(); unit < (tile).count * (tile).parts; unit += (tile).team.warps())
// Every row of the tile that is this thread's.
#define FOR_ROWS(tile, r) for (i32 r = (tile).team.thread(); r < (tile).count; r += (tile).team.threads())
// Every column that is this thread's.
#define FOR_COLUMNS(tile, c) for (i32 c = (tile).team.thread(); c < (tile).classes; c += (tile).team.threads())
// Every column of a part that is this lane's.
#define FOR_LANE(tile, part, c)                                                                                        \
    for (i32 c = (part) * static_cast<i32>(WARP) + static_cast<i32>(thread_index() % WARP); c < (tile).classes;        \
         c += (tile).parts * static_cast<i32>(WARP))

DEVICE i32 lane_index() { return static_cast<i32>(thread_index() % WARP); }
DEVICE bool is_first_lane() { return lane_index() == 0; }

// Slots that a lane has on their way at a time: of sixteen logits.
#define IN_FLIGHT (16 / WIDTH)

// A part's slots of a row: v into the tile, the largest of them, and u's place towards the prediction.
DEVICE float read_part(const LearnArgs& args, const Tile& tile, const Row& row, i32 r, i32 part, bool finishing, u64* key) {
    const CrossEntropyArgs& outer = args.outer;
    const Element* const logits = outer.logits + row.index * outer.logits_stride;
    const i32 shift = shift_of(logits), classes = tile.classes, step = tile.parts * static_cast<i32>(WARP);
    float* const e = tile.e(r);
    float max = minus_infinity();
    i32 slot = part * static_cast<i32>(WARP) + lane_index();
    for (; first_column(slot, shift) < classes; slot += IN_FLIGHT * step) {
        Pack u[IN_FLIGHT];
        UNROLL
        for (i32 j = 0; j < IN_FLIGHT; ++j) {
            u[j] = load_pack<true>(logits, first_column(slot + j * step, shift), classes, minus_infinity());
        }
        UNROLL
        for (i32 j = 0; j < IN_FLIGHT; ++j) {
            const i32 first = first_column(slot + j * step, shift);
            const Slot plain = unpack(u[j]);
            const Slot v = perturbed_slot(outer.perturbation, plain, row.delta, first, classes, row.label, row.margin);
            UNROLL
            for (i32 k = 0; k < WIDTH; ++k) {
                if (!is_inside(first + k, classes)) continue;
                put(e + first + k, v.x[k]);
                max = Maximum()(max, v.x[k]);
                if (finishing && wants_prediction(outer)) *key = Maximal()(*key, prediction_key(plain.x[k], first + k));
            }
        }
    }
    return max;
}

// The same slots from v to E, and what they add to the row's sums.
DEVICE Part exp_part(const LearnArgs& args, const Tile& tile, const Row& row, i32 r, i32 part, float max, bool spread) {
    const CrossEntropyArgs& outer = args.outer;
    const i32 shift = shift_of(outer.logits + row.index * outer.logits_stride), classes = tile.classes;
    float* const e = tile.e(r);
    Part sums = {0, max, 0.0f, 0.0f, 0.0f, classes, 0};
    if (part == 0 && lane_index() < tile.pitch() - classes) put(e + classes + lane_index(), 0.0f);
    i32 slot = part * static_cast<i32>(WARP) + lane_index();
    for (; first_column(slot, shift) < classes; slot += tile.parts * static_cast<i32>(WARP)) {
        const i32 first = first_column(slot, shift);
        Slot weighted = {};
        if (spread) weighted = weighted_targets(outer, row, first);
        UNROLL
        for (i32 k = 0; k < WIDTH; ++k) {
            if (!is_inside(first + k, classes)) continue;
            const float v = get(e + first + k), exp = exp_careful(v - max);
            const bool is_label = first + k == tile.label;
            put(e + first + k, is_label ? 0.0f : exp);
            if (is_label) {
                tile.rows[r].label_e = exp;
                tile.rows[r].label_u = v;
            } else {
                sums.others += exp;
            }
            if (spread) {
                sums.total += weighted.x[k];
                sums.distance += weigh(weighted.x[k], max - v);
                if (v == max) sums.top = minimum(sums.top, first + k);
            }
        }
    }
    return sums;
}

// Reads a tile's rows, with what loss and outputs need where `finishing`. Returns this thread's rows' confidences, added up. No thread may
// still use the tile from before.
DEVICE double load_tile(const LearnArgs& args, const Tile& tile, bool finishing) {
    const bool spread = finishing && is_spread(args.outer);
    FOR_PARTS(tile, unit) {
        const i32 r = unit / tile.parts, part = unit % tile.parts;
        const Row row = row_at(args.outer, load(args.order + tile.first + r));
        u64 key = 0;
        const float max = warp_reduce(read_part(args, tile, row, r, part, finishing, &key), Maximum());
        if (finishing && wants_prediction(args.outer)) key = warp_reduce(key, Maximal());
        if (is_first_lane()) {
            tile.parts_of[unit].key = key;
            tile.parts_of[unit].max = max;
            if (part == 0) tile.rows[r].index = static_cast<u32>(row.index);
        }
    }
    team_barrier(tile.team);
    FOR_PARTS(tile, unit) {
        const i32 r = unit / tile.parts, part = unit % tile.parts;
        const Row row = row_at(args.outer, tile.rows[r].index);
        float max = tile.parts_of[r * tile.parts].max;
        for (i32 p = 1; p < tile.parts; ++p) max = Maximum()(max, tile.parts_of[r * tile.parts + p].max);
        Part sums = exp_part(args, tile, row, r, part, max, spread);
        sums.others = warp_reduce(sums.others, Sum());
        if (spread) {
            sums.total = warp_reduce(sums.total, Sum());
            sums.distance = warp_reduce(sums.distance, Sum());
            sums.top = warp_reduce(sums.top, Minimum());
        }
        if (is_first_lane()) {
            Part* const to = tile.parts_of + unit;
            to->others = sums.others;
            to->total = sums.total;
            to->distance = sums.distance;
            to->top = sums.top;
            if (part == 0) tile.rows[r].max = max;
        }
    }
    team_barrier(tile.team);
    double confidence = 0.0;
    FOR_ROWS(tile, r) {
        TileRow* const row = tile.rows + r;
        Part sums = tile.parts_of[r * tile.parts];
        for (i32 p = 1; p < tile.parts; ++p) {
            const Part part = tile.parts_of[r * tile.parts + p];
            sums.key = Maximal()(sums.key, part.key);
            sums.others += part.others;
            sums.total += part.total;
            sums.distance += part.distance;
            sums.top = minimum(sums.top, part.top);
        }
        row->key = sums.key;
        row->total = sums.total;
        row->distance = sums.distance;
        // None in a row of NaN.
        row->top = sums.top < tile.classes ? sums.top : tile.label;
        confidence += static_cast<double>(row->label_e / (row->label_e + sums.others));
    }
    team_barrier(tile.team);
    return confidence;
}

// (E . w) of a row without its label, from its parts.
DEVICE float others_of(const Tile& tile, i32 r) {
    float others = tile.parts_of[r * tile.parts].others;
    for (i32 p = 1; p < tile.parts; ++p) others += tile.parts_of[r * tile.parts + p].others;
    return others;
}

// Every row's part of E . w without the label; for a last time also what delta takes off the distance, as seen from
// the top column: nothing is left to cancel where that one has all the weight.
DEVICE void dot_parts(const LearnArgs& args, const Tile& tile, bool finishing) {
    const bool spread = finishing && is_spread(args.outer);
    FOR_PARTS(tile, unit) {
        const i32 r = unit / tile.parts, part = unit % tile.parts;
        const float* const e = tile.e(r);
        float others = 0.0f, nearer = 0.0f;
        FOR_LANE(tile, part, c) others += get(e + c) * get(tile.w + c);
        others = warp_reduce(others, Sum());
        if (spread) {
            const Row row = row_at(args.outer, tile.rows[r].index);
            const float of_top = get(tile.delta() + tile.rows[r].top);
            FOR_LANE(tile, part, c) nearer += weigh(weighted_target(args.outer, row, c), get(tile.delta() + c) - of_top);
            nearer = warp_reduce(nearer, Sum());
        }
        if (is_first_lane()) {
            tile.parts_of[unit].others = others;
            tile.parts_of[unit].distance = nearer;
        }
    }
    team_barrier(tile.team);
}

// What a row gives to g: 1 / (E . w), and in E's label column minus the sum over the others, so that the label's entry never cancels.
DEVICE void combine_dots(const Tile& tile) {
    FOR_ROWS(tile, r) {
        const float others = others_of(tile, r);
        tile.rows[r].inverse = 1.0f / (others + tile.rows[r].label_e * *tile.label_w);
        put(tile.e(r) + tile.label, -others);
    }
    team_barrier(tile.team);
}

// What the tile's rows give to g in one column, but for the factor w that all have in common.
DEVICE float column_sum(const Tile& tile, i32 c) {
    float sum = 0.0f;
    for (i32 r = 0; r < tile.count; ++r) sum += get(tile.e(r) + c) * tile.rows[r].inverse;
    return sum;
}

// g of a column of this thread, from the sum over all rows of the class; its square.
DEVICE float set_gradient(const Tile& tile, i32 c, float sum, float share) {
    const float g = sum * (c == tile.label ? share : get(tile.w + c) * share);
    put(tile.g() + c, g);
    return g * g;
}

// Sets delta and with it w, in a column of this thread.
DEVICE void set_delta(const Tile& tile, i32 c, float delta) {
    const float w = exp_careful(delta);
    put(tile.delta() + c, delta);
    put(tile.w + c, c == tile.label ? 0.0f : w);
    if (c == tile.label) *tile.label_w = w;
}

// A step along g [Alg. 1], of which this thread's columns have `square`.
DEVICE void follow_gradient(const LearnArgs& args, const Tile& tile, float direction, double alpha, float square, float* scratch) {
    float factor = direction * static_cast<float>(alpha);
    if (args.unit_l2) factor /= fmaxf(sqrtf(team_reduce(tile.team, square, 0.0f, Sum(), scratch)), 1e-12f);
    FOR_COLUMNS(tile, c) set_delta(tile, c, get(tile.delta() + c) + factor * get(tile.g() + c));
    team_barrier(tile.team);
}
