// The seeded randomness of a launch.
#pragma once
#include <cstdint>

namespace emulator {

// A finaliser whose every output bit depends on every input bit (splitmix64).
inline uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

class Random {
  public:
    explicit Random(uint64_t seed) : state_(mix(seed) | 1) {}
    // Below `bound`, which is below 2^32.
    uint32_t below(uint64_t bound) { return static_cast<uint32_t>(((next() >> 32) * bound) >> 32); }
    bool one_in(uint32_t n) { return below(n) == 0; }

  private:
    uint64_t next() {
        state_ ^= state_ << 13;
        state_ ^= state_ >> 7;
        state_ ^= state_ << 17;
        return state_ * 0x2545f4914f6cdd1du;
    }
    uint64_t state_;
};

} // namespace emulator
