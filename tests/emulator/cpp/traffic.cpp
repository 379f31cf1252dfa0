// Regions of global memory, counters and sectors.
#include "traffic.hpp"
#include <algorithm>
#include <tuple>

namespace emulator {

namespace {
constexpr uint64_t SECTOR = 32;
}

EmulatorRegion* Regions::find(uint64_t address) {
    const auto holds = [address](const EmulatorRegion& region) {
        return address >= region.base && address < region.base + (region.rows - 1) * region.stride_bytes + region.row_bytes;
    };
    if (last_ < count_ && holds(regions_[last_])) return &regions_[last_];
    for (size_t i = 0; i < count_; ++i) {
        if (!holds(regions_[i])) continue;
        last_ = i;
        return &regions_[i];
    }
    return nullptr;
}

unsigned LaneCounts::next(Site site) {
    for (Count& count : counts_) {
        if (count.site.line == site.line && count.site.file == site.file) return ++count.count;
    }
    counts_.push_back({site, 0});
    return 0;
}

bool WarpTraffic::LaneAccess::same_access(const LaneAccess& other) const {
    return std::tie(region, write, site.file, site.line, turn) ==
           std::tie(other.region, other.write, other.site.file, other.site.line, other.turn);
}

bool WarpTraffic::LaneAccess::operator<(const LaneAccess& other) const {
    return std::tie(region, write, site.file, site.line, turn, address) <
           std::tie(other.region, other.write, other.site.file, other.site.line, other.turn, other.address);
}

void WarpTraffic::add(EmulatorRegion& region, LaneCounts& lane, Site site, uint64_t address, unsigned bytes, bool write) {
    accesses_.push_back({&region, site, lane.next(site), write, address, bytes});
}

void WarpTraffic::settle() {
    std::sort(accesses_.begin(), accesses_.end());
    for (size_t i = 0; i < accesses_.size();) {
        const LaneAccess& first = accesses_[i];
        // By address: bytes and sectors that an earlier lane touched lie below these.
        uint64_t bytes = 0, sectors = 0, next_byte = 0, next_sector = 0;
        for (; i < accesses_.size() && accesses_[i].same_access(first); ++i) {
            const uint64_t from = accesses_[i].address, to = from + accesses_[i].bytes;
            bytes += to - std::min(to, std::max(from, next_byte));
            next_byte = std::max(next_byte, to);
            const uint64_t last_sector = (to - 1) / SECTOR + 1;
            sectors += last_sector - std::min(last_sector, std::max(from / SECTOR, next_sector));
            next_sector = std::max(next_sector, last_sector);
        }
        first.region->sectors[first.write] += sectors;
        first.region->ideal_sectors[first.write] += (bytes + SECTOR - 1) / SECTOR;
    }
    accesses_.clear();
}

} // namespace emulator
