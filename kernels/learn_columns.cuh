// The steps of a class that one team has to itself and that has few rows (SPEC 3). Each thread owns columns, the same ones in every row: their
// w, delta and g stay in its registers, and of the tile's E it reads nothing else, four columns an access. Threads meet twice a step: over the
// rows' E . w, and over the length of g. The label's column is no thread's: what it takes are the rows' sums, which every thread has.
#pragma once
#include "learn_group.cuh"

#if ON_CHIP

// Four columns of a row.
struct alignas(16) Four {
    float x[4];
};

// Rows whose sums are taken side by side.
#define BESIDE (VALUES > 8 ? 2 : 4)

// The fours of columns that are this thread's, by their place in its registers.
#define FOR_OWN(tile, own, c)                                                                                          \
    UNROLL                                                                                                             \
    for (i32 own = 0; own < VALUES; own += 4)                                                                          \
        if (const i32 c = 4 * (tile).team.thread() + own * (tile).team.threads(); c < (tile).classes)

// Sums over a warp of 1, 2 or 4 numbers: a lane has that of number `lane % COUNT`. A lane hands on the numbers that are not its own before it
// adds any up, so that four sums take little more than one.
template <i32 COUNT> DEVICE float warp_sums(float (&x)[COUNT]) {
    u32 lanes = 1;
    UNROLL
    for (i32 left = COUNT / 2; left > 0; left /= 2) {
        const bool odd = (thread_index() & lanes) != 0;
        UNROLL
        for (i32 i = 0; i < left; ++i) {
            const float mine = odd ? x[2 * i + 1] : x[2 * i], theirs = odd ? x[2 * i] : x[2 * i + 1];
            x[i] = mine + shuffle_xor(theirs, lanes);
        }
        lanes *= 2;
    }
    float sum = x[0];
    for (; lanes < WARP; lanes *= 2) sum += shuffle_xor(sum, lanes);
    return sum;
}

// What every thread knows of the label's column.
struct LabelColumn {
    float delta;
    float w;
};

// Columns of one thread. Those beyond the row's end have an E of 0.
struct Columns {
    float w[VALUES];
    float delta[VALUES];
    float g[VALUES];

    // E . w of ROWS rows, as far as this warp's columns go.
    template <i32 ROWS> MEMBER void dot(const Tile& tile, i32 first, Scratch* scratch) const {
        float sums[ROWS] = {};
        FOR_OWN(tile, own, c) {
            UNROLL
            for (i32 j = 0; j < ROWS; ++j) {
                const Four e = *reinterpret_cast<const Four*>(tile.e(first + j) + c);
                UNROLL
                for (i32 k = 0; k < 4; ++k) sums[j] += e.x[k] * w[own + k];
            }
        }
        const float sum = warp_sums(sums);
        if (lane_index() < ROWS) scratch->dots[thread_index() / WARP][first + lane_index()] = sum;
    }

    // What ROWS rows give to g, but for the factor w that all have in common. Returns what they take from the label's entry.
    template <i32 ROWS> MEMBER float gather(const Tile& tile, i32 first, float label_w, const Scratch* scratch) {
        const u32 warp = tile.team.is_warp ? thread_index() / WARP : 0;
        float inverse[ROWS], taken = 0.0f;
        UNROLL
        for (i32 j = 0; j < ROWS; ++j) {
            float others = scratch->dots[warp][first + j];
            for (i32 v = 1; v < tile.team.warps(); ++v) others += scratch->dots[v][first + j];
            inverse[j] = 1.0f / (others + tile.rows[first + j].label_e * label_w);
            taken += others * inverse[j];
        }
        FOR_OWN(tile, own, c) {
            UNROLL
            for (i32 j = 0; j < ROWS; ++j) {
                const Four e = *reinterpret_cast<const Four*>(tile.e(first + j) + c);
                UNROLL
                for (i32 k = 0; k < 4; ++k) g[own + k] += e.x[k] * inverse[j];
            }
        }
        return taken;
    }

    // A step [Alg. 1].
    MEMBER void step(const Tile& tile, Decision decision, bool unit_l2, LabelColumn& label, Scratch* scratch) {
        i32 r = 0;
        for (; r + BESIDE <= tile.count; r += BESIDE) dot<BESIDE>(tile, r, scratch);
        for (; r < tile.count; ++r) dot<1>(tile, r, scratch);
        team_barrier(tile.team);
        UNROLL
        for (i32 k = 0; k < VALUES; ++k) g[k] = 0.0f;
        float taken = 0.0f;
        for (r = 0; r + BESIDE <= tile.count; r += BESIDE) taken += gather<BESIDE>(tile, r, label.w, scratch);
        for (; r < tile.count; ++r) taken += gather<1>(tile, r, label.w, scratch);
        const float share = 1.0f / static_cast<float>(tile.count), label_g = -taken * share;
        float square = tile.team.thread() == 0 ? label_g * label_g : 0.0f;
        UNROLL
        for (i32 k = 0; k < VALUES; ++k) {
            g[k] *= w[k] * share;
            square += g[k] * g[k];
        }
        float factor = static_cast<float>(decision.direction) * static_cast<float>(decision.alpha);
        if (unit_l2) factor /= fmaxf(sqrtf(team_reduce(tile.team, square, 0.0f, Sum(), scratch->squares)), 1e-12f);
        // Nobody may still read the rows' sums. A block has just waited for that.
        if (!unit_l2 || tile.team.is_warp) team_barrier(tile.team);
        UNROLL
        for (i32 k = 0; k < VALUES; ++k) {
            delta[k] += factor * g[k];
            w[k] = exp_careful(delta[k]);
        }
        label.delta += factor * label_g;
        label.w = exp_careful(label.delta);
    }
};

// All steps of a class whose rows are in the tile; leaves w and delta there.
DEVICE void follow_columns(const LearnArgs& args, const Tile& tile, Decision decision, Scratch* scratch) {
    Columns columns;
    UNROLL
    for (i32 k = 0; k < VALUES; ++k) {
        columns.w[k] = 1.0f;
        columns.delta[k] = 0.0f;
    }
    LabelColumn label = {0.0f, 1.0f};
    for (u32 step = 0; step < decision.steps; ++step) columns.step(tile, decision, args.unit_l2, label, scratch);
    FOR_OWN(tile, own, c) {
        UNROLL
        for (i32 k = 0; k < 4; ++k) {
            if (c + k >= tile.classes) continue;
            put(tile.w + c + k, columns.w[own + k]);
            put(tile.delta() + c + k, columns.delta[own + k]);
        }
    }
    // The label's columns were just set by whoever owns them.
    team_barrier(tile.team);
    if (tile.team.thread() == 0) {
        put(tile.w + tile.label, 0.0f);
        put(tile.delta() + tile.label, label.delta);
        *tile.label_w = label.w;
    }
    team_barrier(tile.team);
}

#endif
