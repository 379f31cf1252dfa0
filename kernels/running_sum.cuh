// A thread's sum of many floats, with what its additions lose.
#pragma once
#include "prelude.cuh"

struct RunningSum {
    float sum;
    float lost;

    // Exact: sum + lost is what it was, plus x (Knuth's two-sum).
    MEMBER void add(float x) {
        const float total = sum + x, added = total - sum;
        lost += (sum - (total - added)) + (x - added);
        sum = total;
    }
    // Of an infinite sum nothing that counts is lost.
    MEMBER float value() const { return fabsf(sum) < -minus_infinity() ? sum + lost : sum; }
};
