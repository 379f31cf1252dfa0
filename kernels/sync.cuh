// All waiting between threads and between blocks, and what is built of it: warp, block, team and cluster reductions, the ticket by which the
// last block to finish learns that it is the last, and the barrier of a gang of blocks. Nothing else in kernels/ waits.
#pragma once
#include "prelude.cuh"

#define WARP 32u
#define MOST_WARPS 32u

#ifndef EMULATED

DEVICE void block_barrier() { __syncthreads(); }
// What a lane stored in shared memory before, every lane of the warp sees afterwards.
DEVICE void warp_barrier() { __syncwarp(); }
// Every lane of the warp takes part.
template <class T> DEVICE T shuffle_xor(T x, u32 lanes) { return __shfl_xor_sync(0xffffffffu, x, lanes); }
// Whoever sees what this thread stores or adds afterwards sees what it stored before.
DEVICE void device_fence() { __threadfence(); }
DEVICE u32 atomic_add(u32* to, u32 x) { return atomicAdd(to, x); }
DEVICE u64 atomic_add(u64* to, u64 x) { return atomicAdd(to, x); }
DEVICE u64 atomic_min(u64* to, u64 x) { return atomicMin(to, x); }
DEVICE u64 atomic_max(u64* to, u64 x) { return atomicMax(to, x); }
DEVICE u32 atomic_or(u32* to, u32 x) { return atomicOr(to, x); }
// As it is in memory now. A fence behind it orders what the thread reads next.
DEVICE u32 atomic_load(const u32* from) {
    u32 x;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(from) : "memory");
    return x;
}

// Clusters are of sm_90 and later: before, a kernel that calls one of these does not assemble, and one that calls none is none the wiser.
DEVICE u32 cluster_blocks() {
    u32 blocks;
    asm("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(blocks));
    return blocks;
}
DEVICE u32 cluster_rank() {
    u32 rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
// All threads of the cluster take part. What one of them stored before, in shared memory too, each of them sees afterwards.
DEVICE void cluster_barrier() {
    asm volatile("barrier.cluster.arrive.release.aligned;\n\t"
                 "barrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}
// From the same place in the shared memory of block `rank` of the cluster.
template <class T> DEVICE T load_peer(const T* mine, u32 rank) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "one access of a register or two");
    u32 from;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(from) : "r"(static_cast<u32>(__cvta_generic_to_shared(mine))), "r"(rank));
    // The bits, whatever they mean.
    if constexpr (sizeof(T) == 4) {
        union {
            u32 bits;
            T x;
        };
        asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(bits) : "r"(from) : "memory");
        return x;
    } else {
        union {
            u64 bits;
            T x;
        };
        asm volatile("ld.shared::cluster.u64 %0, [%1];" : "=l"(bits) : "r"(from) : "memory");
        return x;
    }
}

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

// The same for several numbers behind one barrier; `scratch` holds `COUNT` times as much.
template <i32 COUNT, class Operation> DEVICE void block_reduce_each(float (&x)[COUNT], float nothing, Operation of, float* scratch) {
    const u32 lane = thread_index() % WARP, warp = thread_index() / WARP;
    for (i32 i = 0; i < COUNT; ++i) {
        x[i] = warp_reduce(x[i], of);
        if (lane == 0) scratch[i * MOST_WARPS + warp] = x[i];
    }
    block_barrier();
    for (i32 i = 0; i < COUNT; ++i) {
        x[i] = warp_reduce(lane < block_threads() / WARP ? scratch[i * MOST_WARPS + lane] : nothing, of);
    }
}

// What the threads before this one bring, and all of them, over a block of whole warps. As to `scratch`, as block_reduce.
DEVICE u32 block_prefix(u32 x, u32* all, u32* scratch) {
    const u32 lane = thread_index() % WARP, warp = thread_index() / WARP;
    u32 before = 0, sum = x;
    for (u32 lanes = 1; lanes < WARP; lanes *= 2) {
        const u32 others = shuffle_xor(sum, lanes);
        if ((lane & lanes) != 0) before += others;
        sum += others;
    }
    if (lane == 0) scratch[warp] = sum;
    block_barrier();
    *all = 0;
    for (u32 w = 0; w < block_threads() / WARP; ++w) {
        if (w < warp) before += scratch[w];
        *all += scratch[w];
    }
    return before;
}

// Over the blocks of a cluster, at most a warp's lanes, in an order that their number alone decides: the same bits in every thread of the
// cluster. `x` is the block's value, in every thread; `place` is in shared memory. No thread of the cluster may still read `place` from
// before: reductions in a row take two places in turn, and the barrier of each frees the other's. No block may end while a peer may still
// read its place: a last cluster_barrier() sees to that.
template <class T, class Operation> DEVICE T cluster_reduce(T x, T nothing, Operation of, T* place) {
    if (thread_index() == 0) *place = x;
    cluster_barrier();
    const u32 lane = thread_index() % WARP;
    return warp_reduce(lane < cluster_blocks() ? load_peer(place, lane) : nothing, of);
}

// The same for several numbers behind one barrier.
template <i32 COUNT, class Operation> DEVICE void cluster_reduce_each(float (&x)[COUNT], float nothing, Operation of, float* places) {
    if (thread_index() == 0) {
        for (i32 i = 0; i < COUNT; ++i) places[i] = x[i];
    }
    cluster_barrier();
    const u32 lane = thread_index() % WARP;
    for (i32 i = 0; i < COUNT; ++i) x[i] = warp_reduce(lane < cluster_blocks() ? load_peer(places + i, lane) : nothing, of);
}

// Threads that work on something of their own: a block, or one of its warps.
struct Team {
    bool is_warp;

    MEMBER i32 threads() const { return static_cast<i32>(is_warp ? WARP : block_threads()); }
    MEMBER i32 thread() const { return static_cast<i32>(is_warp ? thread_index() % WARP : thread_index()); }
    MEMBER i32 warps() const { return threads() / static_cast<i32>(WARP); }
    MEMBER i32 warp() const { return thread() / static_cast<i32>(WARP); }
};

DEVICE void team_barrier(Team team) {
    if (team.is_warp) {
        warp_barrier();
    } else {
        block_barrier();
    }
}

// As block_reduce; a warp needs no scratch.
template <class T, class Operation> DEVICE T team_reduce(Team team, T x, T nothing, Operation of, T* scratch) {
    return team.is_warp ? warp_reduce(x, of) : block_reduce(x, nothing, of, scratch);
}

// Some blocks of a grid whose blocks are all resident, as a cooperative launch promises.
struct Gang {
    // 0 before the first barrier.
    u32* arrived;
    u32 members;
    // Of this block in the gang.
    u32 rank;
    // How many have arrived once the barrier at hand is over.
    u32 expected;
};

// All threads of the gang's blocks take part. What one of them stored before, each of them sees afterwards by loads past the first-level
// cache.
DEVICE void gang_barrier(Gang& gang) {
    gang.expected += gang.members;
    block_barrier();
    if (thread_index() == 0) {
        device_fence();
        atomic_add(gang.arrived, 1u);
        while (atomic_load(gang.arrived) < gang.expected) {}
        // The other side of the fence above, as in last_block().
        device_fence();
    }
    block_barrier();
}

// The next piece of work that no block has taken, in every thread of the block; `next` is 0 at first, `place` shared.
DEVICE u32 take_work(u32* next, u32* place) {
    // Whatever the block shares, `place` included, is free again.
    block_barrier();
    if (thread_index() == 0) *place = atomic_add(next, 1u);
    block_barrier();
    return *place;
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

// What blocks stored before their tickets, added up by the last one in an order that `count` and the number of threads alone decide.
DEVICE double sum_of_partials(const double* partials, i64 count, double* scratch) {
    double mine = 0.0;
    for (i64 place = thread_index(); place < count; place += block_threads()) mine += load_fresh(partials + place);
    return block_reduce(mine, 0.0, Sum(), scratch);
}
