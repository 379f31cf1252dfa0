// Shared memory: where arrays lie, and what is written around and into them.
#include "shared_memory.hpp"
#ifdef EMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(from, bytes) static_cast<void>(0)
#define ASAN_UNPOISON_MEMORY_REGION(from, bytes) static_cast<void>(0)
#endif

namespace emulator {

namespace {

constexpr unsigned MARGIN = 64;
// Declarations of a kernel, at most; each has a margin and is rounded up.
constexpr unsigned MOST_ARRAYS = 64;

// NaN in every floating-point width, and no small integer.
constexpr unsigned char POISON[2] = {0xf5, 0x7f};

// Byte by byte: the thread sanitizer would see memset.
void poison(unsigned char* from, unsigned bytes) {
    for (unsigned i = 0; i < bytes; ++i) from[i] = POISON[i % 2];
}

bool is_poisoned(const unsigned char* from, unsigned bytes) {
    for (unsigned i = 0; i < bytes; ++i) {
        if (from[i] != POISON[i % 2]) return false;
    }
    return true;
}

unsigned rounded(unsigned bytes) { return (bytes + 15) / 16 * 16; }

} // namespace

SharedMemory::SharedMemory(unsigned dynamic_bytes) {
    const unsigned bytes = MOST_DECLARED + rounded(dynamic_bytes) + (MOST_ARRAYS + 2) * (MARGIN + 16);
    memory_.reset(new unsigned char[bytes]);
    next_ = memory_.get() + 16 - reinterpret_cast<uintptr_t>(memory_.get()) % 16;
    poison(next_, MARGIN);
    ASAN_POISON_MEMORY_REGION(memory_.get(), bytes);
    next_ += MARGIN;
    dynamic_ = take(nullptr, dynamic_bytes);
}

void* SharedMemory::declared(const void* declaration, unsigned bytes) {
    for (const Array& array : arrays_) {
        if (array.declaration == declaration) return array.data;
    }
    if (declared_ + rounded(bytes) > MOST_DECLARED || arrays_.size() > MOST_ARRAYS) return nullptr;
    declared_ += rounded(bytes);
    return take(declaration, bytes);
}

const SharedMemory::Array* SharedMemory::find(const void* from, unsigned bytes) const {
    const uintptr_t first = reinterpret_cast<uintptr_t>(from);
    for (const Array& array : arrays_) {
        const uintptr_t data = reinterpret_cast<uintptr_t>(array.data);
        if (first >= data && first + bytes <= data + array.bytes) return &array;
    }
    return nullptr;
}

unsigned char* SharedMemory::take(const void* declaration, unsigned bytes) {
    unsigned char* const data = next_;
    next_ += rounded(bytes) + MARGIN;
    ASAN_UNPOISON_MEMORY_REGION(data, next_ - data);
    poison(data, next_ - data);
    ASAN_POISON_MEMORY_REGION(data + bytes, next_ - data - bytes);
    arrays_.push_back({declaration, data, bytes});
    return data;
}

bool SharedMemory::finish() {
    bool intact = true;
    for (const Array& array : arrays_) {
#ifndef EMULATOR_ASAN
        // Behind an array, and before the first.
        intact = intact && is_poisoned(array.data - MARGIN, MARGIN) && is_poisoned(array.data + array.bytes, MARGIN);
#endif
        poison(array.data, array.bytes);
    }
    return intact;
}

} // namespace emulator
