// Kernels with one fault each, and the same without it: what the emulator must and must not report.
#include "sync.cuh"

struct ToyArgs {
    const float* in;
    float* out;
    // [blocks].
    double* partials;
    u32* ticket;
    u64* flag;
    i64 n;
};

DEVICE i64 global_index() { return static_cast<i64>(block_index()) * block_threads() + thread_index(); }

KERNEL(neighbour, ToyArgs) {
    SHARED(float, x, 1024);
    x[thread_index()] = load(args.in + thread_index());
    block_barrier();
    store(args.out + thread_index(), x[(thread_index() + 1) % block_threads()]);
}

KERNEL(neighbour_without_barrier, ToyArgs) {
    SHARED(float, x, 1024);
    x[thread_index()] = load(args.in + thread_index());
    store(args.out + thread_index(), x[(thread_index() + 1) % block_threads()]);
}

// Each block sums a part; the last one adds the parts up.
template <bool FENCE> DEVICE void sum_by_ticket(const ToyArgs& args) {
    SHARED(double, scratch, 2 * MOST_WARPS);
    SHARED(u32, is_last, 1);
    double mine = 0.0;
    for (i64 i = global_index(); i < args.n; i += static_cast<i64>(block_threads()) * grid_blocks()) mine += load_stream(args.in + i);
    const double part = block_reduce(mine, 0.0, Sum(), scratch);
    if (thread_index() == 0) {
        store(args.partials + block_index(), part);
        if (FENCE) device_fence();
        const bool last = atomic_add(args.ticket, 1u) == grid_blocks() - 1;
        device_fence();
        *is_last = last;
    }
    block_barrier();
    if (!*is_last) return;
    double all = 0.0;
    for (u32 i = thread_index(); i < grid_blocks(); i += block_threads()) all += load_fresh(args.partials + i);
    all = block_reduce(all, 0.0, Sum(), scratch + MOST_WARPS);
    if (thread_index() == 0) store(args.out, static_cast<float>(all));
}
KERNEL(sum, ToyArgs) { sum_by_ticket<true>(args); }
KERNEL(sum_without_fence, ToyArgs) { sum_by_ticket<false>(args); }

KERNEL(sum_by_last_block, ToyArgs) {
    SHARED(u32, flag, 1);
    if (thread_index() == 0) store(args.partials + block_index(), static_cast<double>(load(args.in + block_index())));
    if (!last_block(args.ticket, flag)) return;
    double all = 0.0;
    for (u32 i = 0; i < grid_blocks(); ++i) all += load_fresh(args.partials + i);
    if (thread_index() == 0) store(args.out, static_cast<float>(all));
}

KERNEL(barrier_after_exit, ToyArgs) {
    if (thread_index() >= args.n) return;
    block_barrier();
}

KERNEL(two_barriers, ToyArgs) {
    if (thread_index() < args.n) {
        block_barrier();
    } else {
        block_barrier();
    }
}

KERNEL(shuffle_in_half_a_warp, ToyArgs) {
    float x = 1.0f;
    if (thread_index() % WARP < WARP / 2) x += shuffle_xor(x, 1);
    store(args.out + thread_index(), x);
}

KERNEL(shuffle_past_a_barrier, ToyArgs) {
    if (thread_index() == 0) {
        block_barrier();
    } else {
        store(args.out + thread_index(), shuffle_xor(1.0f, 1));
    }
}

KERNEL(warp_sum, ToyArgs) { store(args.out + thread_index(), warp_reduce(load(args.in + thread_index()), Sum())); }

KERNEL(copy, ToyArgs) {
    const i64 i = global_index();
    if (i < args.n) store_stream(args.out + i, load_stream(args.in + i));
}

KERNEL(copy_too_far, ToyArgs) {
    const i64 i = global_index();
    store_stream(args.out + i, load_stream(args.in + i));
}

// Each thread a run of 8 of its own.
KERNEL(copy_by_runs, ToyArgs) {
    for (i64 i = 8 * global_index(); i < 8 * global_index() + 8; ++i) {
        if (i < args.n) store_stream(args.out + i, load_stream(args.in + i));
    }
}

KERNEL(copy_by_four, ToyArgs) {
    const i64 i = 4 * global_index();
    if (i + 4 > args.n) return;
    store_stream(reinterpret_cast<Pack*>(args.out + i), load_stream(reinterpret_cast<const Pack*>(args.in + i)));
}

KERNEL(touch_twice, ToyArgs) {
    const i64 i = global_index();
    const float twice = load_stream(args.in + i) + load_stream(args.in + i);
    store_stream(args.out + i, 0.0f);
    store_stream(args.out + i, twice);
}

KERNEL(write_what_is_read, ToyArgs) { store(const_cast<float*>(args.in), 0.0f); }

KERNEL(wait_for_nobody, ToyArgs) {
    while (load_fresh(args.flag) == 0) {}
}

// The blocks go in the order of their numbers.
KERNEL(blocks_in_turn, ToyArgs) {
    if (thread_index() != 0) return;
    while (load_fresh(args.flag) != block_index()) {}
    store(args.out + block_index(), load(args.in + block_index()));
    device_fence();
    store(args.flag, static_cast<u64>(block_index() + 1));
}

KERNEL(write_past_shared, ToyArgs) {
    DYNAMIC_SHARED(float, x);
    x[args.n] = 1.0f;
}

KERNEL(read_shared, ToyArgs) {
    SHARED(float, x, 32);
    DYNAMIC_SHARED(float, y);
    store(args.out + thread_index(), thread_index() % 2 ? x[thread_index()] : y[thread_index()]);
}

// A thread's stores as the block sees them after a barrier, and as the thread itself does.
KERNEL(exchange_through_memory, ToyArgs) {
    const u32 i = thread_index();
    float* const own = args.out + i;
    store(own, 0.0f);
    store(own, load(args.in + i) + load(own));
    block_barrier();
    const float theirs = load(args.out + (i ^ 1));
    block_barrier();
    store(own, theirs);
}

// Each number is rewritten by one thread after the other.
KERNEL(add_in_turn, ToyArgs) {
    for (u32 turn = 0; turn < 24; ++turn) {
        float* const at = args.out + (thread_index() + turn) % block_threads();
        store(at, turn == 0 ? 0.0f : load(at) + 1.0f);
        block_barrier();
    }
}

KERNEL(exponentials, ToyArgs) {
    const i64 i = global_index();
    if (i < args.n) store(args.out + i, exp2_approximate(load(args.in + i)));
}

// Sixteen threads of every block, evenly spread, leave what they got.
DEVICE void keep_of_block(const ToyArgs& args, float x) {
    const u32 each = block_threads() / 16;
    if (thread_index() % each == 0) store(args.out + 16 * block_index() + thread_index() / each, x);
}

// The cluster's sum, twice its sum, and a thousand times its least.
template <u32 PLACES> DEVICE void reduce_in_cluster(const ToyArgs& args) {
    SHARED(float, places, PLACES);
    SHARED(u64, place_of_least, 1);
    const float mine = load(args.in + block_index());
    float x = cluster_reduce(mine, 0.0f, Sum(), places);
    x += cluster_reduce(2.0f * mine, 0.0f, Sum(), places + PLACES - 1);
    x += 1000.0f * static_cast<float>(cluster_reduce(static_cast<u64>(mine), ~0ull, Minimum(), place_of_least));
    cluster_barrier();
    keep_of_block(args, x);
}
KERNEL(cluster_sums, ToyArgs) { reduce_in_cluster<2>(args); }
KERNEL(cluster_sums_in_one_place, ToyArgs) { reduce_in_cluster<1>(args); }

// What the next block of the cluster has read.
template <bool BEFORE, bool AFTER> DEVICE void read_next_block(const ToyArgs& args) {
    // Every other block comes by another array first.
    if (cluster_rank() % 2 == 1) {
        SHARED(float, another, 40);
        if (thread_index() == 0) another[0] = -1.0f;
    }
    SHARED(float, x, 4);
    DYNAMIC_SHARED(double, y);
    if (thread_index() == 0) x[3] = y[2] = load(args.in + block_index());
    if (BEFORE) cluster_barrier();
    const u32 next = (cluster_rank() + 1) % cluster_blocks();
    const float of_next = load_peer(x + 3, next) + static_cast<float>(load_peer(y + 2, next));
    if (AFTER) cluster_barrier();
    keep_of_block(args, of_next);
}
KERNEL(next_block, ToyArgs) { read_next_block<true, true>(args); }
KERNEL(next_block_too_early, ToyArgs) { read_next_block<false, true>(args); }
KERNEL(next_block_too_late, ToyArgs) { read_next_block<true, false>(args); }

KERNEL(next_block_through_memory, ToyArgs) {
    if (thread_index() == 0) store(args.partials + block_index(), 2.0 * load(args.in + block_index()));
    cluster_barrier();
    const u32 first = block_index() - cluster_rank();
    keep_of_block(args, static_cast<float>(load(args.partials + first + (cluster_rank() + 1) % cluster_blocks())));
}

KERNEL(peer_beyond_cluster, ToyArgs) {
    SHARED(float, x, 1);
    if (thread_index() == 0) *x = 1.0f;
    cluster_barrier();
    store(args.out + thread_index(), load_peer(x, cluster_blocks()));
}

KERNEL(peer_beyond_array, ToyArgs) {
    SHARED(float, x, 1);
    store(args.out + thread_index(), load_peer(x + 1, 0));
}

KERNEL(cluster_barrier_after_exit, ToyArgs) {
    if (cluster_rank() == 1 && thread_index() >= args.n) return;
    cluster_barrier();
}

KERNEL(cluster_barrier_of_some_blocks, ToyArgs) {
    if (cluster_rank() < args.n) cluster_barrier();
}

KERNEL(two_cluster_barriers, ToyArgs) {
    if (cluster_rank() < args.n) {
        cluster_barrier();
    } else {
        cluster_barrier();
    }
}
