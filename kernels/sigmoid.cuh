// The loss and the derivative of one entry of binary cross-entropy (SPEC 4), without cancellation.
#pragma once
#include "elements.cuh"

// What an entry's loss is made of besides its logit and its target.
struct BinaryTerms {
    // [C] each, null for 0.
    const float* offset;
    const float* positive;
    const float* negative;
    // [C], null for 1.
    const float* pos_weight;
    // [N, C], null for 1.
    Operand weights;
    // lam, and 1/lam.
    float negative_scale;
    float inverse_scale;
    // Focusing.
    float gamma_pos;
    float gamma_neg;
    float clip;
    // 1 - clip, and the v at which the probability is clip, in two parts.
    float one_minus_clip;
    float edge;
    float edge_rest;
};
static_assert(sizeof(BinaryTerms) == 88, "as in src/kernel/binary/args.rs");

struct Term {
    float loss;
    float derivative;
};

// softplus at x and at -x, from one exponential: with e = exp(-|x|), softplus(x) is max(x, 0) + log1p(e), and its derivative, the sigmoid,
// 1/(1+e) or e/(1+e).
struct Softplus {
    Term up;
    Term down;
};

DEVICE Softplus softplus_both(float x) {
    const float e = exp_approximate(-fabsf(x));
    // log1p(e)/e as a polynomial on [0, 1], to 1.3e-7: half of what log1pf costs.
    float y = -0.00317605701f;
    y = y * e + 0.019542526453f;
    y = y * e - 0.05637361109f;
    y = y * e + 0.105436235666f;
    y = y * e - 0.15269666910f;
    y = y * e + 0.196632742881f;
    y = y * e - 0.24951615929f;
    y = y * e + 0.333297103643f;
    y = y * e - 0.49999892711f;
    y = y * e + 1.0f;
    const float log = y * e, larger = reciprocal_approximate(1.0f + e), smaller = e * larger;
    const bool positive = x >= 0.0f;
    const Softplus both = {{fmaxf(x, 0.0f) + log, positive ? larger : smaller},
                           {fmaxf(-x, 0.0f) + log, positive ? smaller : larger}};
    return both;
}

DEVICE Term softplus(float x) { return softplus_both(x).up; }

// Weighted: a weight of 0 takes an infinite loss out, but no NaN.
DEVICE Term weighted(Term term, float v, float weight) {
    Term result = {weight * term.loss, weight * term.derivative};
    if (weight == 0.0f) result.loss = result.derivative = v == v ? 0.0f : v;
    return result;
}

// A hard target's term: one softplus, of the v that is wrong. The positives' weight is in `weight`.
DEVICE Term hard_term(const BinaryTerms& terms, float v, bool is_positive, float weight) {
    Term term = softplus(is_positive ? -v : terms.negative_scale * v);
    term.loss *= is_positive ? 1.0f : terms.inverse_scale;
    term.derivative = is_positive ? -term.derivative : term.derivative;
    return weighted(term, v, weight);
}

// x^gamma = exp(gamma * log(x)), 1 for a gamma of 0, whatever the logarithm.
DEVICE float power(float log, float gamma) { return gamma == 0.0f ? 1.0f : exp_approximate(gamma * log); }

// (1 - p)^gamma * softplus(-v), where log(1 - p) is -softplus(v).
DEVICE Term focused_positive(const BinaryTerms& terms, const Softplus& of) {
    const float weight = power(-of.up.loss, terms.gamma_pos);
    // p * loss tends to 0 as v -> -inf, where p is 0 and the loss infinite.
    const float p_loss = of.up.derivative == 0.0f ? 0.0f : of.up.derivative * of.down.loss;
    const Term term = {weight * of.down.loss, -weight * (terms.gamma_pos * p_loss + of.down.derivative)};
    return term;
}

// pm^gamma * -log(1 - pm).
DEVICE Term focused_negative(const BinaryTerms& terms, const Softplus& of, float v) {
    const float p = of.up.derivative, q = of.down.derivative, gamma = terms.gamma_neg;
    Term term = {0.0f, 0.0f};
    if (terms.clip == 0.0f) {
        const float weight = power(-of.down.loss, gamma);
        const float q_log = q == 0.0f ? 0.0f : q * of.up.loss;
        term.loss = weight * of.up.loss;
        term.derivative = weight * (gamma * q_log + p);
        return term;
    }
    // pm = p - clip = p * (1 - clip) * (1 - exp(edge - v)): near the edge the difference of the probabilities would cancel, that of the
    // logits is exact.
    const float beyond = v - terms.edge - terms.edge_rest;
    if (!(beyond > 0.0f)) return term;
    const float pm = p * terms.one_minus_clip * -expm1f(-beyond);
    // -log(1 - pm): from q = 1 - p where pm is large, from pm where it is small.
    const float rest = q + terms.clip;
    const float log = pm > 0.5f ? -logf(rest) : -log1pf(-pm);
    const float weight = power(logf(pm), gamma);
    term.loss = weight * log;
    term.derivative = weight * p * q * (gamma * log / pm + 1.0f / rest);
    return term;
}

DEVICE Term scaled(Term term, float by) {
    const Term result = {by * term.loss, by * term.derivative};
    return result;
}

// Any target's term: the positive's and the negative's by their shares, of which one of 0 does not enter.
template <bool FOCUSED>
DEVICE Term any_term(const BinaryTerms& terms, float v, float t, float pos_weight, float weight) {
    Term sum = {v != v ? v : 0.0f, v != v ? v : 0.0f};
    const Softplus of = softplus_both(v);
    const float up = pos_weight * t, down = 1.0f - t;
    if (up != 0.0f) {
        const Term term = scaled(FOCUSED ? focused_positive(terms, of) : of.down, up);
        sum.loss += term.loss;
        sum.derivative += FOCUSED ? term.derivative : -term.derivative;
    }
    if (down != 0.0f) {
        Term term = of.up;
        if (FOCUSED) {
            term = focused_negative(terms, of, v);
        } else if (terms.negative_scale != 1.0f) {
            term = softplus(terms.negative_scale * v);
            term.loss *= terms.inverse_scale;
        }
        term = scaled(term, down);
        sum.loss += term.loss;
        sum.derivative += term.derivative;
    }
    return weighted(sum, v, weight);
}
