// Global memory: which of it there is, how often each element is touched, and how well a warp's accesses share sectors.
#pragma once
#include "launch.hpp"
#include "runtime.hpp"
#include <vector>

namespace emulator {

class Regions {
  public:
    Regions(EmulatorRegion* regions, size_t count) : regions_(regions), count_(count) {}
    // The region that the address lies in, its gaps included.
    EmulatorRegion* find(uint64_t address);

  private:
    EmulatorRegion* regions_;
    size_t count_;
    size_t last_ = 0;
};

// How often a lane has come by each line since its warp last met.
class LaneCounts {
  public:
    unsigned next(Site site);
    void clear() { counts_.clear(); }

  private:
    struct Count {
        Site site;
        unsigned count;
    };
    std::vector<Count> counts_;
};

// Accesses since the lanes last met. Those of the same line and the same turn are one access of the warp.
class WarpTraffic {
  public:
    void add(EmulatorRegion& region, LaneCounts& lane, Site site, uint64_t address, unsigned bytes, bool write);
    // Adds the sectors up, into the regions.
    void settle();

  private:
    struct LaneAccess {
        EmulatorRegion* region;
        Site site;
        unsigned turn;
        bool write;
        uint64_t address;
        unsigned bytes;

        bool same_access(const LaneAccess& other) const;
        bool operator<(const LaneAccess& other) const;
    };
    std::vector<LaneAccess> accesses_;
};

} // namespace emulator
