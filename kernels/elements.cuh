// Rows of logits and gradients: the element type (DTYPE), the 16-byte slots that threads cut a row into, and operands of a row's shape or
// width in f32 or in the element type.
#pragma once
#include "prelude.cuh"

#define F32 0
#define F16 1
#define BF16 2

#if DTYPE == F32
typedef float Element;
DEVICE float to_float(Element x) { return x; }
DEVICE Element from_float(float x) { return x; }
#else
typedef u16 Element;
#if DTYPE == F16
DEVICE float to_float(Element x) { return float_of_half(x); }
DEVICE Element from_float(float x) { return half_of(x); }
#else
DEVICE float to_float(Element x) { return float_of_bfloat(x); }
DEVICE Element from_float(float x) { return bfloat_of(x); }
#endif
#endif

// Elements of a slot.
#define WIDTH static_cast<i32>(16 / sizeof(Element))

struct Slot {
    float x[16 / sizeof(Element)];
};

#if DTYPE == F32
DEVICE Slot unpack(Pack pack) {
    Slot slot;
    UNROLL
    for (i32 k = 0; k < WIDTH; ++k) slot.x[k] = float_of(pack.x[k]);
    return slot;
}
DEVICE Pack packed(Slot slot) {
    Pack pack;
    UNROLL
    for (i32 k = 0; k < WIDTH; ++k) pack.x[k] = bits_of(slot.x[k]);
    return pack;
}
#else
DEVICE Slot unpack(Pack pack) {
    Slot slot;
    UNROLL
    for (i32 k = 0; k < WIDTH; ++k) slot.x[k] = to_float(static_cast<u16>(pack.x[k / 2] >> (16 * (k % 2))));
    return slot;
}
DEVICE Pack packed(Slot slot) {
    Pack pack;
    UNROLL
    for (i32 k = 0; k < WIDTH; k += 2) {
        pack.x[k / 2] = static_cast<u32>(from_float(slot.x[k])) | static_cast<u32>(from_float(slot.x[k + 1])) << 16;
    }
    return pack;
}
#endif

// How far an address lies behind a 16-byte boundary, in elements.
DEVICE i32 shift_of(const Element* row) { return static_cast<i32>((reinterpret_cast<u64>(row) & 15) / sizeof(Element)); }

// The threads that share a row cut it at 16-byte boundaries: slot `slot` holds the WIDTH columns from first_column on, those outside of the
// row excepted. Where a slot lies inside the row, it moves as one access.
DEVICE i32 first_column(i32 slot, i32 shift) { return WIDTH * slot - shift; }
DEVICE bool is_inside(i32 column, i32 classes) { return column >= 0 && column < classes; }
DEVICE bool is_whole(i32 first, i32 classes) { return first >= 0 && first + WIDTH <= classes; }

// A slot of a row as it lies in memory. `outside` stands for the columns outside of the row.
template <bool KEEP> DEVICE Pack load_pack(const Element* row, i32 first, i32 classes, float outside) {
    if (is_whole(first, classes)) {
        const Pack* const from = reinterpret_cast<const Pack*>(row + first);
        return KEEP ? load_keep(from) : load_stream(from);
    }
    Slot slot;
    UNROLL
    for (i32 k = 0; k < WIDTH; ++k) {
        const Element* const from = row + first + k;
        slot.x[k] = !is_inside(first + k, classes) ? outside : to_float(KEEP ? load_keep(from) : load_stream(from));
    }
    return packed(slot);
}

// `aligned`: the row has the same shift as the one that the slots were cut from.
DEVICE void store_slot(Element* row, i32 first, i32 classes, bool aligned, const Slot& slot) {
    if (aligned && is_whole(first, classes)) {
        store_stream(reinterpret_cast<Pack*>(row + first), packed(slot));
        return;
    }
    UNROLL
    for (i32 k = 0; k < WIDTH; ++k) {
        if (is_inside(first + k, classes)) store_stream(row + first + k, from_float(slot.x[k]));
    }
}

// Numbers beside the logits: [C], [C, C] or [N, C], null where there are none.
struct Operand {
    const void* data;
    // Elements from row to row; 0 where all rows are the same.
    i64 stride;
    // Whether they are f32; else they are of the element type.
    i32 wide;
    i32 padding;
};

DEVICE float operand_at(const Operand& operand, i64 row, i32 column) {
    const i64 place = row * operand.stride + column;
#if DTYPE != F32
    if (!operand.wide) return to_float(load(static_cast<const Element*>(operand.data) + place));
#endif
    return load(static_cast<const float*>(operand.data) + place);
}

// A slot's columns of an operand, 0 outside of the row.
DEVICE Slot operand_slot(const Operand& operand, i64 row, i32 first, i32 classes) {
    Slot slot;
    const i64 place = row * operand.stride + first;
    if (is_whole(first, classes)) {
#if DTYPE != F32
        const Element* const narrow = static_cast<const Element*>(operand.data) + place;
        if (!operand.wide && shift_of(narrow) == 0) return unpack(load(reinterpret_cast<const Pack*>(narrow)));
#endif
        const float* const wide = static_cast<const float*>(operand.data) + place;
        if (operand.wide && (reinterpret_cast<u64>(wide) & 15) == 0) {
            UNROLL
            for (i32 k = 0; k < WIDTH; k += 4) {
                const Pack pack = load(reinterpret_cast<const Pack*>(wide + k));
                UNROLL
                for (i32 j = 0; j < 4; ++j) slot.x[k + j] = float_of(pack.x[j]);
            }
            return slot;
        }
    }
    UNROLL
    for (i32 k = 0; k < WIDTH; ++k) {
        slot.x[k] = is_inside(first + k, classes) ? operand_at(operand, row, first + k) : 0.0f;
    }
    return slot;
}

// Numbers of the classes, [C]; `nothing` stands for them where there are none.
DEVICE float vector_at(const float* data, i32 column, float nothing) { return data ? load(data + column) : nothing; }
DEVICE Slot vector_slot(const float* data, i32 first, i32 classes) {
    const Operand operand = {data, 0, 1, 0};
    return operand_slot(operand, 0, first, classes);
}
