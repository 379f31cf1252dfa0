// A launch as Rust and the driver ask for it. The same layouts as in src/ffi.rs.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {

// Global memory that a kernel may touch: rows with gaps between them.
struct EmulatorRegion {
    uint64_t base;
    uint64_t rows;
    uint64_t row_bytes;
    uint64_t stride_bytes;
    uint32_t writable;
    // 0 where accesses are not counted; else each of `reads` and `writes` has a counter an element, gaps left out.
    uint32_t element_bytes;
    uint32_t* reads;
    uint32_t* writes;
    // Of reads and of writes: 32-byte sectors that the warps' accesses touched, and the fewest that could hold as many bytes.
    uint64_t sectors[2];
    uint64_t ideal_sectors[2];
};

struct EmulatorOptions {
    uint64_t seed;
    uint64_t exp_seed;
    // Accesses and waits of the whole launch, after which it counts as stuck.
    uint64_t most_steps;
    uint32_t exp_ulps;
    uint32_t resident_blocks;
    uint32_t store_buffer;
    uint32_t padding;
};

enum EmulatorFaultKind : uint32_t {
    OUT_OF_BOUNDS,
    STRIDE_GAP,
    MISALIGNED,
    READ_ONLY,
    DIVERGENT_BARRIER,
    DIVERGENT_SHUFFLE,
    NO_PROGRESS,
    SHARED_OVERRUN,
    PEER_ACCESS,
};

struct EmulatorFault {
    // A string that lives as long as the program.
    const char* file;
    uint32_t line;
    uint32_t kind;
    uint32_t block;
    uint32_t thread;
    char text[200];
};

enum { EMULATOR_MOST_FAULTS = 16 };

struct EmulatorOutcome {
    uint64_t steps;
    uint64_t switches;
    // Shared memory that a block declares itself, bytes.
    uint64_t static_shared;
    uint64_t faults;
    EmulatorFault fault[EMULATOR_MOST_FAULTS];
};

struct EmulatorKernel {
    const char* name;
    void (*entry)(const void* args);
    const unsigned* args_bytes;
};

struct EmulatorGeometry {
    uint32_t grid;
    // Blocks of a cluster, which the grid is a multiple of.
    uint32_t cluster;
    uint32_t threads;
    uint32_t shared;
};

// Null where there is none of this name.
const EmulatorKernel* emulator_kernel(const char* name, size_t length);
void emulator_launch(const EmulatorKernel* kernel, const void* args, EmulatorGeometry geometry, const EmulatorOptions* options,
                     EmulatorRegion* regions, size_t region_count, EmulatorOutcome* outcome);
}
