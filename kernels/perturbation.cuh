// Fixed perturbations and logit scales (SPEC 1, 2): what makes the perturbed v of a row's u.
#pragma once
#include "elements.cuh"

// Which row of `delta` a sample takes; the same numbers as DeltaRow in src/kernel/args.rs.
#define DELTA_SHARED 0
#define DELTA_OF_LABEL 1
#define DELTA_OF_ROW 2

// v = scale * (u + delta), less the margin at the label.
struct Perturbation {
    Operand delta;
    // [C], what a label's own logit loses; null for none.
    const float* margins;
    // [C], beside `scale`; null for none, and looked at where GENERAL.
    const float* scales;
    i32 delta_row;
    float scale;
};

DEVICE i64 delta_row(const Perturbation& perturbation, i64 row, i32 label) {
    return perturbation.delta_row == DELTA_OF_ROW ? row : perturbation.delta_row == DELTA_OF_LABEL ? label : 0;
}

// What a class's scale is beside the uniform one.
DEVICE float class_scale(const Perturbation& perturbation, i32 column) {
    return GENERAL ? vector_at(perturbation.scales, column, 1.0f) : 1.0f;
}
// The same for a slot, 0 outside of the row.
DEVICE Slot class_scales(const Perturbation& perturbation, i32 first, i32 classes) {
    if (GENERAL && perturbation.scales) return vector_slot(perturbation.scales, first, classes);
    Slot slot;
    UNROLL
    for (i32 k = 0; k < WIDTH; ++k) slot.x[k] = 1.0f;
    return slot;
}

// v of one column; `row` is that of `delta`.
DEVICE float perturbed(const Perturbation& perturbation, float u, i64 row, i32 column, i32 label, float margin) {
    float x = perturbation.delta.data ? u + operand_at(perturbation.delta, row, column) : u;
    if (column == label) x -= margin;
    return class_scale(perturbation, column) * x * perturbation.scale;
}

// v of a slot. What lies outside of the row stays -inf.
DEVICE Slot perturbed_slot(const Perturbation& perturbation, Slot u, i64 row, i32 first, i32 classes, i32 label, float margin) {
    if (perturbation.delta.data) {
        const Slot delta = operand_slot(perturbation.delta, row, first, classes);
        UNROLL
        for (i32 k = 0; k < WIDTH; ++k) u.x[k] += delta.x[k];
    }
    if (margin != 0.0f) {
        UNROLL
        for (i32 k = 0; k < WIDTH; ++k) u.x[k] -= first + k == label ? margin : 0.0f;
    }
    if (GENERAL && perturbation.scales) {
        const Slot scale = class_scales(perturbation, first, classes);
        UNROLL
        for (i32 k = 0; k < WIDTH; ++k) u.x[k] *= is_inside(first + k, classes) ? scale.x[k] : 1.0f;
    }
    UNROLL
    for (i32 k = 0; k < WIDTH; ++k) u.x[k] *= perturbation.scale;
    return u;
}
