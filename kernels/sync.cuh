// All waiting between threads and between blocks, and what is built of it: warp and block reductions, and the ticket by which the last
// block to finish learns that it is the last. Nothing else in kernels/ waits.
#pragma once
#include "prelude.cuh"

#define WARP 32u
#define MOST_WARPS 32u

#ifndef EMULATED

DEVICE void block_barrier() { __syncthreads(); }
// Every lane of the warp takes part.
template <class T> DEVICE T shuffle_xor(T x, u32 lanes) { return __shfl_xor_sync(0xffffffffu, x, lanes); }
// Whoever sees what this thread stores or adds afterwards sees what it stored before.
DEVICE void device_fence() { __threadfence(); }
DEVICE u32 atomic_add(u32* to, u32 x) { return atomicAdd(to, x); }

#endif

// NaN is dropped here; the sum that goes with every maximum keeps it.
struct Maximum {
    MEMBER float operator()(float a, float b) const { return fmaxf(a, b); }
};
struct Minimum {
    template <class T> MEMBER T operator()(T a, T b) const { return b < a ? b : a; }
};
struct Sum {
    template <class T> MEMBER T operator()(T a, T b) const { return a + b; }
};

// The same bits in every lane: each pair is combined both ways round, and the operations commute.
template <class T, class Operation> DEVICE T warp_reduce(T x, Operation of) {
    for (u32 lanes = WARP / 2; lanes > 0; lanes /= 2) x = of(x, shuffle_xor(x, lanes));
    return x;
}

// Over a block of whole warps, in an order that the number of threads alone decides. No thread may still read `scratch` from before: two
// reductions in a row take two scratches, and the barrier of the second frees the first.
template <class T, class Operation> DEVICE T block_reduce(T x, T nothing, Operation of, T* scratch) {
    x = warp_reduce(x, of);
    if (thread_index() % WARP == 0) scratch[thread_index() / WARP] = x;
    block_barrier();
    const u32 lane = thread_index() % WARP;
    return warp_reduce(lane < block_threads() / WARP ? scratch[lane] : nothing, of);
}

// True in every thread of the block that comes last of the grid; `flag` is shared. What thread 0 of any block stored before is then seen
// by loads past the first-level cache. The ticket is back at 0 afterwards, for the next launch.
DEVICE bool last_block(u32* ticket, u32* flag) {
    if (thread_index() == 0) {
        device_fence();
        const bool last = atomic_add(ticket, 1u) == grid_blocks() - 1;
        // The other side of the fence above, in the thread that drew the ticket; the barrier passes it on. No load below may have been
        // served before.
        device_fence();
        *flag = last;
        if (last) store(ticket, 0u);
    }
    block_barrier();
    return *flag != 0;
}
