// Fixed perturbations: what is added to a row's logits.
#pragma once
#include "prelude.cuh"

// `delta` is null for none, else [C], the same for every row.
struct Perturbation {
    const float* delta;
    float scale;
};

// v = scale * (u + delta_c).
DEVICE float perturbed(const Perturbation& perturbation, float u, i32 column) {
    const float delta = perturbation.delta ? load(perturbation.delta + column) : 0.0f;
    return perturbation.scale * (u + delta);
}
