// What a multi-label learner (SPEC 4) decides for a class and sign, from its confidence and the numbers of the host, and what it leaves for
// the loss and for the user. Positives come first everywhere.
#pragma once
#include "learner.cuh"
#include "sigmoid.cuh"
#include "targets.cuh"

#define SIGNS 2
#define POSITIVE 0
#define NEGATIVE 1

// How a class and sign moves; the same numbers as step_number in src/kernel/binary/learn/rule.rs.
#define STEP_RAW 0
#define STEP_SIGN 1
#define STEP_EXACT 2

// Which classes of a sign are pushed which way, and how far.
struct SignRule {
    // [C] each. Without directions, confidences decide; without bounds, `eps` and `delta_eps`.
    const i32* directions;
    const double* bounds;
    // NaN where the split has none, and where it is `mean`.
    double tau;
    double eps;
    double delta_eps;
    // Whether tau is the mean of the confidences, which `binary_confidences` then left.
    i32 mean;
    // Whether all directions are 0.
    i32 off;
};
static_assert(sizeof(SignRule) == 48, "as in src/kernel/binary/learn/args.rs");

// Where what is learned for a sign goes: [C] each, tau [1]. Null where not asked for, but for `perturbation`.
struct SignOutputs {
    // The fixed perturbation, null for 0, and the learned one on top of it: what the loss takes.
    const float* fixed;
    float* perturbation;
    float* delta;
    i32* directions;
    u32* steps;
    double* confidences;
    double* tau;
};
static_assert(sizeof(SignOutputs) == 56, "as in src/kernel/binary/learn/args.rs");

struct BinaryLearner {
    SignRule rules[SIGNS];
    SignOutputs outputs[SIGNS];
    // [C], null for 0: the fixed perturbation of both signs.
    const float* offset;
    double alpha;
    i32 step;
    i32 padding;
};
static_assert(sizeof(BinaryLearner) == 232, "as in src/kernel/binary/learn/args.rs");

// The entries of a class and sign.
struct SignGroup {
    double count;
    // NaN where there is no entry or one is NaN.
    double confidence;
};
static_assert(sizeof(SignGroup) == 16, "as in src/kernel/binary/learn/args.rs");

struct SignDecision {
    i32 direction;
    // Steps to take: 0 where the group is empty or is not pushed.
    u32 steps;
    double bound;
};

DEVICE SignDecision decide(const BinaryLearner& learner, i32 sign, i32 column, double tau, const SignGroup& group) {
    const SignRule& rule = learner.rules[sign];
    const double gap = tau - group.confidence;
    i32 direction = direction_of(gap);
    if (rule.directions) direction = load(rule.directions + column);
    if (rule.off) direction = 0;
    double bound = rule.eps;
    if (rule.delta_eps != 0.0) bound += rule.delta_eps * fabs(gap);
    if (rule.bounds) bound = load(rule.bounds + column);
    const u32 steps = steps_of(bound, learner.alpha);
    const bool takes = direction != 0 && group.count != 0.0 && learner.step != STEP_EXACT;
    const SignDecision decision = {direction, takes ? steps : 0u, bound};
    return decision;
}

// The sign of delta: where the loss rises, times the direction.
DEVICE double towards(i32 sign, i32 direction) { return sign == POSITIVE ? -direction : direction; }

// The delta of a rule in closed form.
DEVICE double closed_delta(const BinaryLearner& learner, i32 sign, const SignDecision& decision) {
    const double way = learner.step == STEP_EXACT ? decision.bound : learner.alpha * decision.steps;
    return decision.direction == 0 ? 0.0 : towards(sign, decision.direction) * way;
}

// Leaves what was learned for a class and sign, from one thread. An entry that is not finite spoils its group.
DEVICE void leave(const BinaryLearner& learner, i32 sign, i32 column, const SignGroup& group, const SignDecision& decision, double delta) {
    const SignOutputs& to = learner.outputs[sign];
    float learned = static_cast<float>(is_finite(group.confidence) ? delta : group.confidence);
    if (group.count == 0.0) learned = 0.0f;
    store(to.perturbation + column, vector_at(to.fixed, column, 0.0f) + learned);
    if (to.delta) store(to.delta + column, learned);
    if (to.directions) store(to.directions + column, decision.direction);
    if (to.steps) store(to.steps + column, decision.steps);
    if (to.confidences) store(to.confidences + column, group.confidence);
}

// What is added to a column's logits, by sign.
struct Shifts {
    float of[SIGNS];
};

DEVICE Shifts shifts_of(const BinaryLearner& learner, i32 column) {
    const float offset = vector_at(learner.offset, column, 0.0f);
    Shifts shifts;
    UNROLL
    for (i32 sign = 0; sign < SIGNS; ++sign) shifts.of[sign] = offset + vector_at(learner.outputs[sign].fixed, column, 0.0f);
    return shifts;
}

// An entry's logit with the fixed perturbation, turned so that it rises as the entry is more likely to be right: -u of a negative. `sign` is
// SIGNS where the entry is not known.
struct Entry {
    float turned;
    i32 sign;
};

DEVICE Entry entry_at(const Element* logits, i64 logits_stride, const Targets& targets, const Shifts& shifts, i64 row, i32 column) {
    const float u = to_float(load_keep(logits + row * logits_stride + column));
    float t;
    if (!is_known(targets, row, column, &t)) return {0.0f, SIGNS};
    if (t != 0.0f) return {u + shifts.of[POSITIVE], POSITIVE};
    return {-(u + shifts.of[NEGATIVE]), NEGATIVE};
}

// e^x, which beyond 80 either way stays where it is: what is made of it is 0 or 1 to f32 by then, under any delta up to 30, and no product is
// inf * 0.
DEVICE float exp_clamped(float x) { return exp_careful(x > 80.0f ? 80.0f : x < -80.0f ? -80.0f : x); }

// From e = e^turned, what the loss makes of the entry: how likely it is to be right.
DEVICE float confidence_of(float e) { return e * reciprocal_approximate(1.0f + e); }
// The size of the loss's slope there, under a perturbation whose exponential is w.
DEVICE float slope_of(float e, float w) { return reciprocal_approximate(1.0f + e * w); }
