// The device's primitives on the host: what prelude.cuh and sync.cuh define for CUDA, under the same names. Included by prelude.cuh, inside
// the namespace of one variant, after the names of sizes; runtime.hpp is included before, outside of it.
#pragma once

#define DEVICE static inline __attribute__((always_inline, unused))
#define MEMBER inline __attribute__((always_inline))
#define UNROLL

// The launch hands the bytes of the arguments over as they are, to a symbol that EMULATED_ENTRY makes of the kernel's name.
#define EMULATED_SIZE_(entry) entry##_args_bytes
#define EMULATED_SIZE(entry) EMULATED_SIZE_(entry)
#define KERNEL(name, Args)                                                                                             \
    static void name(const Args& args);                                                                                \
    extern "C" const unsigned EMULATED_SIZE(EMULATED_ENTRY(name)) = sizeof(Args);                                      \
    extern "C" void EMULATED_ENTRY(name)(const void* args) { name(*static_cast<const Args*>(args)); }                  \
    static void name(const Args& args)

#define BOUNDED_KERNEL(threads, blocks, name, Args) KERNEL(name, Args)

// A reference to an array, so that the sanitizers know its bounds.
#define SHARED(type, name, count)                                                                                      \
    static const char name##_declaration = 0;                                                                          \
    type(&name)[count] = *static_cast<type(*)[count]>(emulator::shared(&name##_declaration, sizeof(type[count])))
#define DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(emulator::dynamic_shared())

// The last parameters of every primitive that can fault or wait: where it was called.
#define EMULATED_HERE const char *file = __builtin_FILE(), unsigned line = __builtin_LINE()
#define EMULATED_SITE (emulator::Site{file, line})

DEVICE u32 thread_index() { return emulator::self->thread; }
DEVICE u32 block_index() { return emulator::self->block; }
DEVICE u32 block_threads() { return emulator::self->threads; }
DEVICE u32 grid_blocks() { return emulator::self->blocks; }

// The accesses themselves are executed here, in code that the sanitizers instrument. What must not be read is read as NaN, of every
// width.
template <class T> DEVICE T emulated_load(const T* from, emulator::Access access, emulator::Site site) {
    static_assert(sizeof(T) <= 16 && (sizeof(T) & (sizeof(T) - 1)) == 0, "one access, aligned to its size");
    T x;
    if (emulator::admit(from, sizeof(T), access, site)) {
        x = *from;
        emulator::overlay(from, &x, sizeof(T));
    } else {
        __builtin_memset(static_cast<void*>(&x), 0xff, sizeof(T));
    }
    return x;
}
template <class T> DEVICE void emulated_store(T* to, const T& x, emulator::Access access, emulator::Site site) {
    static_assert(sizeof(T) <= 16 && (sizeof(T) & (sizeof(T) - 1)) == 0, "one access, aligned to its size");
    if (emulator::admit(to, sizeof(T), access, site) && !emulator::defer(to, &x, sizeof(T), access)) *to = x;
}
// Memory is changed at once, whatever stores are still on their way.
template <class T, class Change> DEVICE T emulated_atomic(T* to, Change change, emulator::Site site) {
    if (!emulator::admit(to, sizeof(T), emulator::Access::ATOMIC, site)) return T();
    emulator::before_atomic(to, sizeof(T));
    const T old = __atomic_load_n(to, __ATOMIC_RELAXED);
    __atomic_store_n(to, change(old), __ATOMIC_RELAXED);
    emulator::after_atomic(to);
    return old;
}
template <class T> DEVICE emulator::LaneValue emulated_lane_value(T x) {
    static_assert(sizeof(T) <= sizeof(emulator::LaneValue), "what a lane can bring");
    emulator::LaneValue value = {};
    __builtin_memcpy(value.bytes, &x, sizeof(T));
    return value;
}
template <class T> DEVICE T emulated_of_lane(u32 lane) {
    const emulator::LaneValue value = emulator::exchanged(lane);
    T x;
    __builtin_memcpy(&x, value.bytes, sizeof(T));
    return x;
}

template <class T> DEVICE T load_stream(const T* from, EMULATED_HERE) {
    return emulated_load(from, emulator::Access::LOAD, EMULATED_SITE);
}
template <class T> DEVICE T load_keep(const T* from, EMULATED_HERE) {
    return emulated_load(from, emulator::Access::LOAD, EMULATED_SITE);
}
template <class T> DEVICE void store_stream(T* to, T x, EMULATED_HERE) {
    emulated_store(to, x, emulator::Access::STREAM_STORE, EMULATED_SITE);
}

template <class T> DEVICE T load(const T* from, EMULATED_HERE) {
    return emulated_load(from, emulator::Access::LOAD, EMULATED_SITE);
}
// The type is that of the address alone, as in prelude.cuh.
template <class T> DEVICE void store(T* to, T x, EMULATED_HERE) {
    emulated_store(to, x, emulator::Access::STORE, EMULATED_SITE);
}
DEVICE float load_fresh(const float* from, EMULATED_HERE) {
    return emulated_load(from, emulator::Access::FRESH_LOAD, EMULATED_SITE);
}
DEVICE double load_fresh(const double* from, EMULATED_HERE) {
    return emulated_load(from, emulator::Access::FRESH_LOAD, EMULATED_SITE);
}
DEVICE u64 load_fresh(const u64* from, EMULATED_HERE) {
    return emulated_load(from, emulator::Access::FRESH_LOAD, EMULATED_SITE);
}

DEVICE float minus_infinity() { return -__builtin_inff(); }
DEVICE u32 bits_of(float x) {
    u32 bits;
    __builtin_memcpy(&bits, &x, sizeof(bits));
    return bits;
}
DEVICE float float_of(u32 bits) {
    float x;
    __builtin_memcpy(&x, &bits, sizeof(x));
    return x;
}
DEVICE float float_of_half(u16 bits) {
    _Float16 x;
    __builtin_memcpy(&x, &bits, sizeof(x));
    return x;
}
DEVICE u16 half_of(float x) {
    const _Float16 half = static_cast<_Float16>(x);
    u16 bits;
    __builtin_memcpy(&bits, &half, sizeof(bits));
    return bits;
}
DEVICE float exp2_approximate(float x) { return emulator::exp2_approximate(x); }
DEVICE float reciprocal_approximate(float x) { return emulator::reciprocal_approximate(x); }
DEVICE u32 count_bits(u32 bits) { return static_cast<u32>(__builtin_popcount(bits)); }

DEVICE void block_barrier(EMULATED_HERE) { emulator::block_barrier(EMULATED_SITE); }
DEVICE void warp_barrier(EMULATED_HERE) { emulator::warp_barrier(EMULATED_SITE); }
template <class T> DEVICE T shuffle_xor(T x, u32 lanes, EMULATED_HERE) {
    emulator::exchange(emulated_lane_value(x), EMULATED_SITE);
    return emulated_of_lane<T>(thread_index() % emulator::LANES ^ lanes);
}
DEVICE u32 cluster_blocks() { return emulator::self->cluster_blocks; }
DEVICE u32 cluster_rank() { return emulator::self->block % emulator::self->cluster_blocks; }
DEVICE void cluster_barrier(EMULATED_HERE) { emulator::cluster_barrier(EMULATED_SITE); }
template <class T> DEVICE T load_peer(const T* mine, u32 rank, EMULATED_HERE) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "as in sync.cuh");
    const void* const from = emulator::peer(mine, sizeof(T), rank, EMULATED_SITE);
    T x;
    if (from) {
        x = *static_cast<const T*>(from);
    } else {
        __builtin_memset(static_cast<void*>(&x), 0xff, sizeof(T));
    }
    return x;
}
DEVICE void device_fence() { emulator::device_fence(); }
DEVICE u32 atomic_add(u32* to, u32 x, EMULATED_HERE) {
    return emulated_atomic(to, [x](u32 old) { return old + x; }, EMULATED_SITE);
}
DEVICE u64 atomic_add(u64* to, u64 x, EMULATED_HERE) {
    return emulated_atomic(to, [x](u64 old) { return old + x; }, EMULATED_SITE);
}
DEVICE u64 atomic_max(u64* to, u64 x, EMULATED_HERE) {
    return emulated_atomic(to, [x](u64 old) { return old < x ? x : old; }, EMULATED_SITE);
}
DEVICE u32 atomic_load(const u32* from, EMULATED_HERE) {
    if (!emulator::admit(from, sizeof(u32), emulator::Access::FRESH_LOAD, EMULATED_SITE)) return ~0u;
    emulator::before_atomic(from, sizeof(u32));
    const u32 x = __atomic_load_n(from, __ATOMIC_RELAXED);
    emulator::after_atomic_load(from);
    return x;
}
DEVICE u64 atomic_min(u64* to, u64 x, EMULATED_HERE) {
    return emulated_atomic(to, [x](u64 old) { return x < old ? x : old; }, EMULATED_SITE);
}
DEVICE u32 atomic_or(u32* to, u32 x, EMULATED_HERE) {
    return emulated_atomic(to, [x](u32 old) { return old | x; }, EMULATED_SITE);
}
