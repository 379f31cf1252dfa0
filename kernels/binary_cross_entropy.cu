// Sigmoid cross-entropy of multi-label batches: loss and gradient in one pass, each logit read once and each gradient written once (SPEC 4).
//
// Compiled once per element type, with and without FOCUSING. A row belongs to a team of threads: a part of a warp, a warp, or a block. The
// team cuts it into slots and takes them in turn, neighbours in the team neighbours in the row. Sums over a row have an order that C and the
// row's alignment decide; those over rows are made by tiles, whatever the grid: the last block adds the tiles' sums up.
#include "running_sum.cuh"
#include "sigmoid.cuh"
#include "targets.cuh"

struct BinaryCrossEntropyArgs {
    const Element* logits;
    // Null for the loss alone; may be the logits.
    Element* gradient;
    Targets targets;
    BinaryTerms terms;
    // [N], null where not asked for.
    float* loss_rows;
    // [1].
    float* loss;
    // [tiles]: each tile's sum of losses.
    double* partials;
    // What the losses' sum is divided by: the number of known entries that the pre-pass counted, or a number on the device, or, where both
    // are null, `divisor`.
    const u64* known;
    const float* device_divisor;
    // The upstream gradient: one number, or one a row; where null, `upstream`.
    const float* device_upstream;
    u32* ticket;
    // Null where no target can be bad.
    BadTargets* found;
    TargetErrors* errors;
    i64 rows;
    i64 logits_stride;
    i64 gradient_stride;
    // Rows of a tile.
    i32 tile_rows;
    // Threads of a team: a power of two up to a warp, or the block.
    i32 team;
    // Elements from a row's upstream gradient to the next one's: 0 or 1.
    i32 upstream_stride;
    // Whether targets are hard, and nothing else is asked for than the plain loss.
    i32 plain;
    float divisor;
    float upstream;
};
static_assert(sizeof(BinaryCrossEntropyArgs) == 264, "as in src/kernel/binary/args.rs");

DEVICE float divisor_of(const BinaryCrossEntropyArgs& args) {
    if (args.known) return static_cast<float>(load(args.known));
    return args.device_divisor ? load(args.device_divisor) : args.divisor;
}

DEVICE float upstream_of(const BinaryCrossEntropyArgs& args, i64 row) {
    return args.device_upstream ? load(args.device_upstream + row * args.upstream_stride) : args.upstream;
}

// The loss of a slot, whose logits become derivatives: both 0 where the entry is not known.
DEVICE float plain_slot(const SlotTargets& targets, Slot& x) {
    float loss = 0.0f;
    UNROLL
    for (i32 k = 0; k < WIDTH; ++k) {
        const bool is_known = targets.known >> k & 1, is_positive = targets.positive >> k & 1;
        const Term term = softplus(is_positive ? -x.x[k] : x.x[k]);
        loss += is_known ? term.loss : 0.0f;
        x.x[k] = !is_known ? 0.0f : is_positive ? -term.derivative : term.derivative;
    }
    return loss;
}

// A slot's targets as numbers.
DEVICE float share_of(const SlotTargets& targets, bool soft, i32 k) {
    return soft ? targets.soft.x[k] : static_cast<float>(targets.positive >> k & 1u);
}

// A part of a perturbation, by the target's share in it. One with share 0 does not enter: a learned one can be NaN.
DEVICE float part_of(float share, float part) { return share == 0.0f ? 0.0f : share * part; }

// v in place of u.
DEVICE void perturb_slot(const BinaryTerms& terms, i32 first, i32 classes, const SlotTargets& targets, bool soft, Slot& x) {
    if (terms.offset) {
        const Slot slot = vector_slot(terms.offset, first, classes);
        UNROLL
        for (i32 k = 0; k < WIDTH; ++k) x.x[k] += slot.x[k];
    }
    if (terms.positive) {
        const Slot slot = vector_slot(terms.positive, first, classes);
        UNROLL
        for (i32 k = 0; k < WIDTH; ++k) x.x[k] += part_of(share_of(targets, soft, k), slot.x[k]);
    }
    if (terms.negative) {
        const Slot slot = vector_slot(terms.negative, first, classes);
        UNROLL
        for (i32 k = 0; k < WIDTH; ++k) x.x[k] += part_of(1.0f - share_of(targets, soft, k), slot.x[k]);
    }
}

// As above, with all options.
DEVICE float general_slot(const BinaryCrossEntropyArgs& args, i64 row, i32 first, const SlotTargets& targets, Slot& x) {
    const i32 classes = args.targets.classes;
    const bool soft = are_soft(args.targets);
    perturb_slot(args.terms, first, classes, targets, soft, x);
    Slot weights, pos_weights;
    UNROLL
    for (i32 k = 0; k < WIDTH; ++k) weights.x[k] = pos_weights.x[k] = 1.0f;
    if (args.terms.weights.data) weights = operand_slot(args.terms.weights, row, first, classes);
    if (args.terms.pos_weight) pos_weights = vector_slot(args.terms.pos_weight, first, classes);
    float loss = 0.0f;
    UNROLL
    for (i32 k = 0; k < WIDTH; ++k) {
#if FOCUSING
        const float t = share_of(targets, soft, k);
        const Term term = any_term<true>(args.terms, x.x[k], t, pos_weights.x[k], weights.x[k]);
#else
        const bool is_positive = targets.positive >> k & 1;
        const float weight = is_positive ? weights.x[k] * pos_weights.x[k] : weights.x[k];
        const Term term = soft ? any_term<false>(args.terms, x.x[k], targets.soft.x[k], pos_weights.x[k], weights.x[k])
                               : hard_term(args.terms, x.x[k], is_positive, weight);
#endif
        const bool is_known = targets.known >> k & 1;
        loss += is_known ? term.loss : 0.0f;
        x.x[k] = is_known ? term.derivative : 0.0f;
    }
    return loss;
}

// One thread's part of a row: its loss, and its slots' gradients. `outer` is what derivatives are multiplied by.
DEVICE float row_part(const BinaryCrossEntropyArgs& args, i64 row, i32 lane, float outer) {
    const i32 classes = args.targets.classes;
    const Element* const logits = args.logits + row * args.logits_stride;
    Element* const gradient = args.gradient ? args.gradient + row * args.gradient_stride : nullptr;
    const i32 shift = shift_of(logits);
    const bool aligned = shift_of(gradient) == shift;
    const i32 slots = (classes + shift + WIDTH - 1) / WIDTH;
    RunningSum loss = {0.0f, 0.0f};
    for (i32 slot = lane; slot < slots; slot += args.team) {
        const i32 first = first_column(slot, shift);
        Slot x = unpack(load_pack<false>(logits, first, classes, 0.0f));
        const SlotTargets targets = read_targets(args.targets, row, first);
        if (args.found) note_bad_slot(args.found, targets.bad, row, first, classes);
#if FOCUSING
        loss.add(general_slot(args, row, first, targets, x));
#else
        loss.add(args.plain ? plain_slot(targets, x) : general_slot(args, row, first, targets, x));
#endif
        if (!gradient) continue;
        // A derivative of 0 stays 0 under an upstream gradient that is not finite.
        UNROLL
        for (i32 k = 0; k < WIDTH; ++k) x.x[k] = x.x[k] == 0.0f ? 0.0f : x.x[k] * outer;
        store_slot(gradient, first, classes, aligned, x);
    }
    return loss.value();
}

// Over a team that is part of a warp. Every lane of the warp takes part.
DEVICE float team_sum(float x, i32 team) {
    for (i32 lanes = team / 2; lanes > 0; lanes /= 2) x += shuffle_xor(x, static_cast<u32>(lanes));
    return x;
}

// Adds up the tiles' losses, in the last block of the grid.
DEVICE void finish(const BinaryCrossEntropyArgs& args, i64 tiles, float divisor, u32* flag, double* scratch) {
    // What any thread stored or found comes before the ticket.
    block_barrier();
    if (!last_block(args.ticket, flag)) return;
    const double sum = sum_of_partials(args.partials, tiles, scratch);
    if (thread_index() != 0) return;
    // Of nothing, the sum is 0 and so is the mean.
    store(args.loss, sum == 0.0 ? 0.0f : static_cast<float>(sum / divisor));
    if (args.found) record_bad_targets(args.targets, args.found, args.errors);
}

KERNEL(binary_cross_entropy, BinaryCrossEntropyArgs) {
    SHARED(float, row_scratch, 2 * MOST_WARPS);
    SHARED(double, scratch, MOST_WARPS);
    SHARED(u32, flag, 1);
    const float divisor = divisor_of(args);
    // A warp or a block takes a tile, some rows at a time.
    const bool by_block = args.team > static_cast<i32>(WARP);
    const i32 threads = by_block ? static_cast<i32>(block_threads()) : static_cast<i32>(WARP);
    const i32 member = static_cast<i32>(thread_index()) % threads, lane = member % args.team;
    const i32 side_by_side = static_cast<i32>(block_threads()) / threads;
    const i64 tiles = (args.rows + args.tile_rows - 1) / args.tile_rows;
    u32 turn = 0;
    for (i64 tile = static_cast<i64>(block_index()) * side_by_side + thread_index() / threads; tile < tiles;
         tile += static_cast<i64>(grid_blocks()) * side_by_side) {
        const i64 end = minimum(args.rows, (tile + 1) * args.tile_rows);
        double tile_loss = 0.0;
        for (i64 first = tile * args.tile_rows; first < end; first += threads / args.team) {
            const i64 row = first + member / args.team;
            float loss = 0.0f;
            if (row < end) loss = row_part(args, row, lane, upstream_of(args, row) / divisor);
            // Two scratches in turn: the barrier of one row's sum frees the other's.
            turn ^= 1u;
            loss = by_block ? block_reduce(loss, 0.0f, Sum(), row_scratch + turn * MOST_WARPS) : team_sum(loss, args.team);
            if (lane != 0 || row >= end) continue;
            if (args.loss_rows) store(args.loss_rows + row, loss);
            tile_loss += loss;
        }
        if (!by_block) tile_loss = warp_reduce(tile_loss, Sum());
        if (member == 0) store(args.partials + tile, tile_loss);
    }
    finish(args, tiles, divisor, flag, scratch);
}
