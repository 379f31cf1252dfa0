// What every kernel stands on: the names of sizes, global memory through accessors, the approximate exponential. Header-free, so that
// NVRTC compiles it anywhere. The emulator puts its own definitions in place of the device's (EMULATED).
#pragma once

typedef unsigned char u8;
typedef int i32;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

// Four floats that move as one 16-byte access.
struct alignas(16) float4v {
    float x[4];
};

#ifdef EMULATED
#include "device.hpp"
#else

#define DEVICE static __device__ __forceinline__
#define MEMBER __device__ __forceinline__
#define KERNEL(name, Args) extern "C" __global__ void name(const __grid_constant__ Args args)
#define SHARED(type, name, count) __shared__ type name[count]
// Bytes that the launch chooses.
#define DYNAMIC_SHARED(type, name)                                             \
    extern __shared__ float4v dynamic_shared[]; \
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
DEVICE float4v load_stream4(const float* from) {
    float4v v;
    asm volatile("ld.global.cs.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x[0]), "=f"(v.x[1]), "=f"(v.x[2]), "=f"(v.x[3])
                 : "l"(from)
                 : "memory");
    return v;
}
DEVICE void store_stream(float* to, float x) {
    asm volatile("st.global.cs.f32 [%0], %1;" ::"l"(to), "f"(x) : "memory");
}
DEVICE void store_stream4(float* to, float4v v) {
    asm volatile("st.global.cs.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(v.x[0]), "f"(v.x[1]), "f"(v.x[2]), "f"(v.x[3])
                 : "memory");
}

// A logit that the second of two reads of the same row will want again.
DEVICE float load_keep(const float* from) { return *static_cast<const volatile float*>(from); }
DEVICE float4v load_keep4(const float* from) {
    float4v v;
    asm volatile("ld.global.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x[0]), "=f"(v.x[1]), "=f"(v.x[2]), "=f"(v.x[3])
                 : "l"(from)
                 : "memory");
    return v;
}

// Everything else in global memory.
template <class T> DEVICE T load(const T* from) { return *from; }
template <class T> DEVICE void store(T* to, T x) { *to = x; }
// What another block stored: past the first-level cache.
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

// 2^x to 2 units in the last place; 0 below -126 and for -inf.
DEVICE float exp2_approximate(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif

// e^x.
DEVICE float exp_approximate(float x) { return exp2_approximate(x * 1.44269504088896341f); }

template <class T> DEVICE T minimum(T a, T b) { return b < a ? b : a; }
