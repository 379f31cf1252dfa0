// What orders accesses, told to the thread sanitizer; nothing without it.
#pragma once
#ifdef EMULATOR_TSAN
#include <sanitizer/tsan_interface.h>
#endif

namespace emulator {
namespace tsan {

// It takes a fiber that is created after another was destroyed for the same: none is destroyed before the launch ends.
#ifdef EMULATOR_TSAN
constexpr bool IS_ON = true;
#else
constexpr bool IS_ON = false;
#endif

// What was done before a release of `object` is ordered before what follows an acquire.
inline void release([[maybe_unused]] void* object) {
#ifdef EMULATOR_TSAN
    __tsan_release(object);
#endif
}
inline void acquire([[maybe_unused]] void* object) {
#ifdef EMULATOR_TSAN
    __tsan_acquire(object);
#endif
}

} // namespace tsan
} // namespace emulator
