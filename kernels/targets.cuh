// Multi-label targets in the formats that data loaders produce, read a slot at a time; which entries are known; and the record of targets
// out of range. Lists of classes are decoded to bits before (decode_targets.cu).
#pragma once
#include "elements.cuh"
#include "sync.cuh"

// How targets are stored; the same numbers as TargetFormat in src/kernel/binary/args.rs. ELEMENT is the logits' type.
#define TARGETS_F32 0
#define TARGETS_ELEMENT 1
#define TARGETS_I8 2
#define TARGETS_U8 3
#define TARGETS_BITS 4
// As the first two where a learner wants each target to be 0 or 1.
#define TARGETS_HARD_F32 5
#define TARGETS_HARD_ELEMENT 6

struct Targets {
    const void* data;
    // A bit an entry, 0 where it is masked; null where all are known.
    const u32* mask;
    // From row to row, in elements or words.
    i64 stride;
    i64 mask_stride;
    i32 format;
    i32 classes;
};

// Bits of columns: bit k stands for column first + k.
#define ALL_COLUMNS ((1u << WIDTH) - 1u)

DEVICE u32 columns_inside(i32 first, i32 classes) {
    if (is_whole(first, classes)) return ALL_COLUMNS;
    const i32 from = maximum(-first, 0), to = minimum(classes - first, WIDTH);
    return ((1u << to) - 1u) & ~((1u << from) - 1u);
}

// The bits of a slot's columns in a row of packed bits. Those of columns outside of the row are anything.
DEVICE u32 slot_bits(const u32* row, i32 first, i32 classes) {
    const i32 from = maximum(first, 0), last = minimum(first + WIDTH, classes) - 1;
    u64 bits = load(row + from / 32);
    if (last / 32 != from / 32) bits |= static_cast<u64>(load(row + last / 32)) << 32;
    return static_cast<u32>(bits >> (from % 32)) << (from - first);
}

// What a slot's targets are. Only columns of the row are known, positive or bad; what is bad is not known.
struct SlotTargets {
    u32 known;
    u32 bad;
    // Those that are 1.
    u32 positive;
    // Where they are soft: their values where known, else 0.
    Slot soft;
};

DEVICE bool are_soft(const Targets& targets) { return targets.format <= TARGETS_ELEMENT; }
DEVICE bool are_hard_floats(const Targets& targets) { return targets.format >= TARGETS_HARD_F32; }
DEVICE Operand float_targets(const Targets& targets) {
    const bool wide = targets.format == TARGETS_F32 || targets.format == TARGETS_HARD_F32;
    const Operand operand = {targets.data, targets.stride, wide, 0};
    return operand;
}

// Whether a number is a target.
DEVICE bool is_target(const Targets& targets, float t) {
    return are_hard_floats(targets) ? t == 0.0f || t == 1.0f : t >= 0.0f && t <= 1.0f;
}

#if DTYPE == F32
typedef u32 ByteSlot;
#else
typedef u64 ByteSlot;
#endif
static_assert(sizeof(ByteSlot) == 16 / sizeof(Element), "a byte a column");

// A byte a column; 0 outside of the row.
DEVICE ByteSlot load_bytes(const u8* row, i32 first, i32 classes) {
    const u8* const from = row + first;
    if (is_whole(first, classes) && reinterpret_cast<u64>(from) % sizeof(ByteSlot) == 0) {
        return load(reinterpret_cast<const ByteSlot*>(from));
    }
    ByteSlot bytes = 0;
    UNROLL
    for (i32 k = 0; k < WIDTH; ++k) {
        if (is_inside(first + k, classes)) bytes |= static_cast<ByteSlot>(load(from + k)) << (8 * k);
    }
    return bytes;
}

// The lowest bits of four bytes, as bits 0 to 3.
DEVICE u32 lowest_bits(u32 bytes) { return ((bytes & 0x01010101u) * 0x10204080u) >> 28; }

DEVICE void read_bytes(const Targets& targets, i64 row, i32 first, SlotTargets& slot) {
    const ByteSlot bytes =
        load_bytes(static_cast<const u8*>(targets.data) + row * targets.stride, first, targets.classes);
    u32 ones = 0, others = 0, unknown = 0;
    UNROLL
    for (i32 k = 0; k < WIDTH; k += 4) {
        const u32 four = static_cast<u32>(bytes >> (8 * k));
        ones |= lowest_bits(four) << k;
        if ((four & 0xfefefefeu) == 0) continue;
        UNROLL
        for (i32 j = 0; j < 4; ++j) {
            const u32 byte = four >> (8 * j) & 0xffu;
            if (byte == 0xffu && targets.format == TARGETS_I8) {
                unknown |= 1u << (k + j);
            } else if (byte > 1u) {
                others |= 1u << (k + j);
            }
        }
    }
    slot.bad = slot.known & others;
    slot.known &= ~(others | unknown);
    slot.positive = slot.known & ones;
}

DEVICE void read_floats(const Targets& targets, i64 row, i32 first, SlotTargets& slot) {
    slot.soft = operand_slot(float_targets(targets), row, first, targets.classes);
    UNROLL
    for (i32 k = 0; k < WIDTH; ++k) {
        const float t = slot.soft.x[k];
        const u32 bit = 1u << k;
        if (is_target(targets, t) && (slot.known & bit) != 0) {
            if (t == 1.0f) slot.positive |= bit;
            continue;
        }
        slot.soft.x[k] = 0.0f;
        if (t != -1.0f) slot.bad |= slot.known & bit;
        slot.known &= ~bit;
    }
}

// The targets of the slot that starts at column `first` of a row.
DEVICE SlotTargets read_targets(const Targets& targets, i64 row, i32 first) {
    SlotTargets slot;
    slot.known = columns_inside(first, targets.classes);
    slot.bad = 0;
    slot.positive = 0;
    if (targets.mask) slot.known &= slot_bits(targets.mask + row * targets.mask_stride, first, targets.classes);
    if (targets.format == TARGETS_BITS) {
        const u32* const bits = static_cast<const u32*>(targets.data) + row * targets.stride;
        slot.positive = slot.known & slot_bits(bits, first, targets.classes);
    } else if (are_soft(targets) || are_hard_floats(targets)) {
        read_floats(targets, row, first, slot);
    } else {
        read_bytes(targets, row, first, slot);
    }
    return slot;
}

#define NO_ENTRY (~0ull)

// What was found out of range, kept until the host reads it: how many, and the first of the first launch that found any.
struct TargetErrors {
    u64 bad;
    u64 row;
    // The column of a target, -1 for an index in a list of classes, -2 for the offsets of a list.
    i64 column;
    // The target, the index, or the offset where the list starts.
    double value;
    // The offset where the list ends.
    i64 end;
};
#define BAD_INDEX -1
#define BAD_OFFSETS -2

// A launch's finds, {0, NO_ENTRY} between launches.
struct BadTargets {
    u64 count;
    // The least row * classes + column, or the least row with a bad list.
    u64 first;
};

DEVICE void note_bad(BadTargets* found, u32 count, i64 place) {
    atomic_add(&found->count, static_cast<u64>(count));
    atomic_min(&found->first, static_cast<u64>(place));
}

// The bit that is set first.
DEVICE i32 lowest_set(u32 bits) { return static_cast<i32>(count_bits((bits & (0u - bits)) - 1u)); }

DEVICE void note_bad_slot(BadTargets* found, u32 bad, i64 row, i32 first, i32 classes) {
    if (bad != 0) note_bad(found, count_bits(bad), row * classes + first + lowest_set(bad));
}

// One target as a number, exactly.
DEVICE float target_at(const Targets& targets, i64 row, i32 column) {
    const i64 place = row * targets.stride + column;
    switch (targets.format) {
    case TARGETS_I8: return load(static_cast<const i8*>(targets.data) + place);
    case TARGETS_U8: return load(static_cast<const u8*>(targets.data) + place);
    case TARGETS_BITS: {
        const u32* const bits = static_cast<const u32*>(targets.data) + row * targets.stride;
        return static_cast<float>(load(bits + column / 32) >> (column % 32) & 1u);
    }
    default: return operand_at(float_targets(targets), row, column);
    }
}

// Whether an entry is known, and its target then.
DEVICE bool is_known(const Targets& targets, i64 row, i32 column, float* t) {
    const u32* const mask = targets.mask;
    if (mask && (load(mask + row * targets.mask_stride + column / 32) >> (column % 32) & 1u) == 0) return false;
    *t = target_at(targets, row, column);
    return is_target(targets, *t);
}

// Takes a launch's finds into the errors, in one thread of its last block, and clears them. True where the first is new: what it is, is to
// be stored then.
DEVICE bool take_bad(BadTargets* found, TargetErrors* errors, u64* first) {
    const u64 count = load_fresh(&found->count);
    if (count == 0) return false;
    *first = load_fresh(&found->first);
    store<u64>(&found->count, 0);
    store<u64>(&found->first, NO_ENTRY);
    const u64 before = load(&errors->bad);
    store(&errors->bad, before + count);
    return before == 0;
}

// For one thread of the last block of a launch.
DEVICE void record_bad_targets(const Targets& targets, BadTargets* found, TargetErrors* errors) {
    u64 first;
    if (!take_bad(found, errors, &first)) return;
    const i64 row = static_cast<i64>(first / targets.classes);
    const i32 column = static_cast<i32>(first % targets.classes);
    store(&errors->row, static_cast<u64>(row));
    store<i64>(&errors->column, column);
    store<double>(&errors->value, target_at(targets, row, column));
    store<i64>(&errors->end, 0);
}
