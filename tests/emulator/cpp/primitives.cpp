// The primitives, as the machine's state has them.
#include "machine.hpp"
#include "thread_sanitizer.hpp"
#include <algorithm>
#include <cstring>

namespace emulator {

namespace {

// Stores of a thread, and of a block, that wait at most.
constexpr size_t MOST_OF_THREAD = 16;
constexpr size_t MOST_OF_BLOCK = 64;

bool is_store(Access access) {
    return access == Access::STORE || access == Access::STREAM_STORE || access == Access::ATOMIC;
}

uint64_t address_of(const void* at) { return reinterpret_cast<uint64_t>(at); }

void count(Thread& thread, EmulatorRegion& region, Access access, uint64_t address, unsigned bytes) {
    const uint64_t offset = address - region.base;
    const uint64_t row = offset / region.stride_bytes, column = offset % region.stride_bytes / region.element_bytes;
    const uint64_t element = row * (region.row_bytes / region.element_bytes) + column;
    for (unsigned i = 0; i * region.element_bytes < bytes; ++i) {
        if (is_store(access)) ++region.writes[element + i];
        if (!is_store(access) || access == Access::ATOMIC) ++region.reads[element + i];
    }
    WarpTraffic& traffic = thread.block.warps[thread.at.thread / LANES].traffic;
    traffic.add(region, thread.lane_counts, thread.site, address, bytes, is_store(access));
}

constexpr float LEAST_NORMAL = 0x1p-126f;

// A positive result that is up to `ulps` units in the last place off, as the argument decides.
float off_by(uint32_t ulps, float argument, float y) {
    if (!(y < HUGE_VALF && y >= LEAST_NORMAL) || ulps == 0) return y;
    uint32_t bits, result;
    std::memcpy(&bits, &argument, sizeof(bits));
    std::memcpy(&result, &y, sizeof(result));
    const uint32_t off = static_cast<uint32_t>(mix(mix(launch->options.exp_seed) ^ bits) % (2 * ulps + 1));
    result = std::min(result + off - ulps, 0x7f800000u);
    std::memcpy(&y, &result, sizeof(result));
    return y;
}

// What was done before is ordered before what each does afterwards.
void meet_in_order(Meeting& meeting, Site site) {
    // A round's and the next one's must not be the same, or the fast threads of the next would be ordered before the slow ones of this.
    char* const order = reinterpret_cast<char*>(&meeting) + meeting.round % 2;
    tsan::release(order);
    launch->meet(meeting, site);
    tsan::acquire(order);
}

void* shared_of(Block& block, const void* declaration, unsigned bytes) {
    void* const array = block.shared.declared(declaration, bytes);
    if (array) return array;
    launch->fault(SHARED_OVERRUN, launch->running().site, "more shared memory than the %u bytes a kernel may declare",
                  SharedMemory::MOST_DECLARED);
    launch->abandon();
}

} // namespace

bool admit(const void* at, unsigned bytes, Access access, Site site) {
    Thread& thread = launch->running();
    thread.site = site;
    launch->step(access);
    const uint64_t address = address_of(at);
    const char* const what = is_store(access) ? "store to" : "load from";
    EmulatorRegion* const region = launch->regions.find(address);
    if (!region) {
        launch->fault(OUT_OF_BOUNDS, site, "%u-byte %s %p, which is in no buffer", bytes, what, at);
    } else if (address % bytes != 0) {
        launch->fault(MISALIGNED, site, "%u-byte %s %p", bytes, what, at);
    } else if ((address - region->base) % region->stride_bytes + bytes > region->row_bytes) {
        const bool beyond = (address - region->base) / region->stride_bytes + 1 == region->rows;
        launch->fault(beyond ? OUT_OF_BOUNDS : STRIDE_GAP, site, "%u-byte %s %s, row %llu, byte %llu", bytes, what,
                      beyond ? "the end of a buffer" : "the gap between rows",
                      static_cast<unsigned long long>((address - region->base) / region->stride_bytes),
                      static_cast<unsigned long long>((address - region->base) % region->stride_bytes));
    } else if (is_store(access) && !region->writable) {
        launch->fault(READ_ONLY, site, "%u-byte %s a buffer that is only read", bytes, what);
    } else {
        if (region->element_bytes != 0) count(thread, *region, access, address, bytes);
        if (is_store(access) && access != Access::ATOMIC) thread.fenced = false;
        return true;
    }
    return false;
}

void overlay(const void* at, void* value, unsigned bytes) {
    if (!launch->buffers_stores()) return;
    Thread& thread = launch->running();
    thread.block.stores.overlay(address_of(at), value, bytes);
    thread.stores.overlay(address_of(at), value, bytes);
}

bool defer(void* to, const void* value, unsigned bytes, Access access) {
    if (!launch->buffers_stores()) return false;
    StoreBuffer& stores = launch->running().stores;
    stores.add(address_of(to), value, bytes, access == Access::STREAM_STORE);
    stores.shrink_to(MOST_OF_THREAD, launch->random);
    return true;
}

void before_atomic(const void* at, unsigned) {
    Thread& thread = launch->running();
    // The order at one address holds for atomics too.
    thread.block.stores.drain_line_of(address_of(at));
    thread.stores.drain_line_of(address_of(at));
}

void after_atomic(void* at) {
    Thread& thread = launch->running();
    // An atomic orders nothing by itself: with a fence before it, it publishes; with one after it, it receives.
    if (thread.fenced) tsan::release(at);
    thread.met.push_back(at);
    // What comes next may be a fence that hides that there was none before: it had better be late.
    if (launch->random.one_in(2)) launch->doze(thread);
    launch->yield();
}

void after_atomic_load(const void* at) {
    Thread& thread = launch->running();
    // As after a read-modify-write, but that it publishes nothing.
    thread.met.push_back(const_cast<void*>(at));
    launch->yield();
}

void device_fence() {
    Thread& thread = launch->running();
    // In this order: what the block has seen is older than what this thread stored since.
    thread.block.stores.drain(launch->random);
    thread.stores.drain(launch->random);
    for (void* met : thread.met) tsan::acquire(met);
    thread.met.clear();
    thread.fenced = true;
    launch->yield();
}

void block_barrier(Site site) {
    Thread& thread = launch->running();
    Block& block = thread.block;
    // Seen by the block from here on; by others, when it is drained.
    thread.stores.move_to(block.stores);
    block.stores.shrink_to(MOST_OF_BLOCK, launch->random);
    meet_in_order(block.barrier, site);
}

void warp_barrier(Site site) {
    Thread& thread = launch->running();
    meet_in_order(thread.block.warps[thread.at.thread / LANES].meeting, site);
}

void cluster_barrier(Site site) {
    Thread& thread = launch->running();
    // More than the device promises: blocks outside of the cluster see them too.
    thread.block.stores.drain(launch->random);
    thread.stores.drain(launch->random);
    meet_in_order(thread.block.cluster.barrier, site);
}

void exchange(const LaneValue& mine, Site site) {
    const Thread& thread = launch->running();
    Warp& warp = thread.block.warps[thread.at.thread / LANES];
    warp.values[warp.meeting.round % 2][thread.at.thread % LANES] = mine;
    launch->meet(warp.meeting, site);
}

LaneValue exchanged(unsigned lane) {
    const Thread& thread = launch->running();
    const Warp& warp = thread.block.warps[thread.at.thread / LANES];
    return warp.values[(warp.meeting.round - 1) % 2][lane % LANES];
}

void* shared(const void* declaration, unsigned bytes) { return shared_of(launch->running().block, declaration, bytes); }

void* dynamic_shared() { return launch->running().block.shared.dynamic(); }

const void* peer(const void* mine, unsigned bytes, unsigned rank, Site site) {
    Thread& thread = launch->running();
    thread.site = site;
    // One that is late finds what its peer did meanwhile: wrote there again, or ended.
    if (launch->random.one_in(8)) launch->doze(thread);
    launch->step(Access::PEER_LOAD);
    const std::vector<Block*>& blocks = thread.block.cluster.blocks;
    const SharedMemory::Array* const array = thread.block.shared.find(mine, bytes);
    if (!array) {
        launch->fault(PEER_ACCESS, site, "%u-byte load from a peer's %p, which is in no shared array", bytes, mine);
    } else if (reinterpret_cast<uint64_t>(mine) % bytes != 0) {
        launch->fault(MISALIGNED, site, "%u-byte load from a peer's %p", bytes, mine);
    } else if (rank >= blocks.size()) {
        launch->fault(PEER_ACCESS, site, "a load from the block of rank %u of a cluster of %zu", rank, blocks.size());
    } else if (blocks[rank]->has_ended()) {
        launch->fault(PEER_ACCESS, site, "a load from block %u, of rank %u, which has ended", blocks[rank]->index, rank);
    } else {
        // A peer that has not come by the declaration yet has the array all the same.
        const void* const theirs = shared_of(*blocks[rank], array->declaration, array->bytes);
        return static_cast<const unsigned char*>(theirs) + (static_cast<const unsigned char*>(mine) - array->data);
    }
    return nullptr;
}

float exp2_approximate(float x) {
    // Subnormal arguments count as 0, as `.ftz` says.
    if (fabsf(x) < LEAST_NORMAL) return 1.0f;
    const float y = off_by(launch->options.exp_ulps, x, static_cast<float>(exp2(static_cast<double>(x))));
    return y < LEAST_NORMAL ? 0.0f : y;
}

float reciprocal_approximate(float x) {
    return off_by(std::min(launch->options.exp_ulps, 1u), x, 1.0f / x);
}

} // namespace emulator
