// What the device's primitives (device.hpp) ask of the runtime. Every variant of every kernel compiles this, so it is small.
#pragma once
#include <math.h>

namespace emulator {

struct Coordinates {
    unsigned thread, block, threads, blocks, cluster_blocks;
};
// Of the thread that runs. `__thread`, not `thread_local`: no wrapper to call, and kernels ask for it in every loop.
extern __thread const Coordinates* self;

// Where a kernel called a primitive.
struct Site {
    const char* file;
    unsigned line;
};

enum class Access : unsigned char { LOAD, FRESH_LOAD, PEER_LOAD, STORE, STREAM_STORE, ATOMIC };

// Whether an access to global memory may be executed; else it is a fault by now. Counts it, and may let others run first.
bool admit(const void* at, unsigned bytes, Access access, Site site);
// Lays over `value`, as memory has it, the stores that this thread sees before memory does.
void overlay(const void* at, void* value, unsigned bytes);
// Whether the store buffer took the store; else the caller stores.
bool defer(void* to, const void* value, unsigned bytes, Access access);
// Around a read-modify-write of memory itself.
void before_atomic(const void* at, unsigned bytes);
void after_atomic(void* at);
void after_atomic_load(const void* at);

void block_barrier(Site site);
void warp_barrier(Site site);
void cluster_barrier(Site site);
void device_fence();

enum { LANES = 32 };
struct alignas(16) LaneValue {
    unsigned char bytes[16];
};
// Brings a value to the other lanes of the warp and waits for all of them; then what `lane` brought, until the next exchange.
void exchange(const LaneValue& mine, Site site);
LaneValue exchanged(unsigned lane);

// The block's shared memory that belongs to `declaration`.
void* shared(const void* declaration, unsigned bytes);
void* dynamic_shared();
// The same place as `mine` in the shared memory of block `rank` of the cluster, to be read at once; null where that is a fault.
const void* peer(const void* mine, unsigned bytes, unsigned rank, Site site);

float exp2_approximate(float x);
float reciprocal_approximate(float x);

} // namespace emulator
