// What every kernel stands on: the names of sizes, global memory through accessors, the approximate exponential. Header-free, so that
// NVRTC compiles it anywhere. The emulator puts its own definitions in place of the device's (EMULATED).
#pragma once

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef int i32;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

// Sixteen bytes that move as one access.
struct alignas(16) Pack {
    u32 x[4];
};

#ifdef EMULATED
#include "device.hpp"
#else

#define DEVICE static __device__ __forceinline__
#define MEMBER __device__ __forceinline__
// Before a loop over an array that is to stay in registers.
#define UNROLL _Pragma("unroll")
#define KERNEL(name, Args) extern "C" __global__ void name(const __grid_constant__ Args args)
// One whose blocks have at most so many threads, and of which a multiprocessor is to have registers for so many blocks.
#define BOUNDED_KERNEL(threads, blocks, name, Args)                                                                    \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Args args)
#define SHARED(type, name, count) __shared__ type name[count]
// Bytes that the launch chooses.
#define DYNAMIC_SHARED(type, name)                                             \
    extern __shared__ Pack dynamic_shared[];                                   \
    type* const name = reinterpret_cast<type*>(dynamic_shared)

DEVICE u32 thread_index() { return threadIdx.x; }
DEVICE u32 block_index() { return blockIdx.x; }
DEVICE u32 block_threads() { return blockDim.x; }
DEVICE u32 grid_blocks() { return gridDim.x; }

// Logits and gradients: each is touched once, so neither should push anything else out of the caches. Plain loads, not the read-only
// path: a gradient may be written in place.
DEVICE float load_stream(const float* from) {
    float x;
    asm volatile("ld.global.cs.f32 %0, [%1];" : "=f"(x) : "l"(from) : "memory");
    return x;
}
DEVICE u16 load_stream(const u16* from) {
    u16 x;
    asm volatile("ld.global.cs.u16 %0, [%1];" : "=h"(x) : "l"(from) : "memory");
    return x;
}
DEVICE Pack load_stream(const Pack* from) {
    Pack v;
    asm volatile("ld.global.cs.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x[0]), "=r"(v.x[1]), "=r"(v.x[2]), "=r"(v.x[3])
                 : "l"(from)
                 : "memory");
    return v;
}
DEVICE void store_stream(float* to, float x) {
    asm volatile("st.global.cs.f32 [%0], %1;" ::"l"(to), "f"(x) : "memory");
}
DEVICE void store_stream(u16* to, u16 x) {
    asm volatile("st.global.cs.u16 [%0], %1;" ::"l"(to), "h"(x) : "memory");
}
DEVICE void store_stream(Pack* to, Pack v) {
    asm volatile("st.global.cs.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.x[0]), "r"(v.x[1]), "r"(v.x[2]), "r"(v.x[3])
                 : "memory");
}

// A logit that the second of two reads of the same row will want again.
DEVICE float load_keep(const float* from) { return *static_cast<const volatile float*>(from); }
DEVICE u16 load_keep(const u16* from) { return *static_cast<const volatile u16*>(from); }
DEVICE Pack load_keep(const Pack* from) {
    Pack v;
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x[0]), "=r"(v.x[1]), "=r"(v.x[2]), "=r"(v.x[3])
                 : "l"(from)
                 : "memory");
    return v;
}

// Everything else in global memory.
template <class T> DEVICE T load(const T* from) { return *from; }
template <class T> DEVICE void store(T* to, T x) { *to = x; }
// What another block stored: past the first-level cache.
DEVICE float load_fresh(const float* from) {
    float x;
    asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(x) : "l"(from) : "memory");
    return x;
}
DEVICE double load_fresh(const double* from) {
    double x;
    asm volatile("ld.global.cg.f64 %0, [%1];" : "=d"(x) : "l"(from) : "memory");
    return x;
}
DEVICE u64 load_fresh(const u64* from) {
    u64 x;
    asm volatile("ld.global.cg.u64 %0, [%1];" : "=l"(x) : "l"(from) : "memory");
    return x;
}

DEVICE float minus_infinity() { return __int_as_float(0xff800000); }
DEVICE u32 bits_of(float x) { return __float_as_uint(x); }
DEVICE float float_of(u32 bits) { return __uint_as_float(bits); }

DEVICE float float_of_half(u16 bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}
// To the nearest, ties to even.
DEVICE u16 half_of(float x) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

// 2^x to 2 units in the last place; 0 below -126 and for -inf.
DEVICE float exp2_approximate(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// 1/x to 1 unit in the last place, for normal numbers.
DEVICE float reciprocal_approximate(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// How many bits are set.
DEVICE u32 count_bits(u32 bits) { return static_cast<u32>(__popc(bits)); }

#endif

DEVICE float float_of_bfloat(u16 bits) { return float_of(static_cast<u32>(bits) << 16); }
// To the nearest, ties to even. In integers: devices before sm_80 have no instruction for it.
DEVICE u16 bfloat_of(float x) {
#if !defined(EMULATED) && __CUDA_ARCH__ >= 800
    u16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
#else
    const u32 bits = bits_of(x);
    return static_cast<u16>(x == x ? (bits + 0x7fffu + (bits >> 16 & 1)) >> 16 : 0x7fffu);
#endif
}

// e^x.
DEVICE float exp_approximate(float x) { return exp2_approximate(x * 1.44269504088896341f); }

template <class T> DEVICE T minimum(T a, T b) { return b < a ? b : a; }
template <class T> DEVICE T maximum(T a, T b) { return a < b ? b : a; }
