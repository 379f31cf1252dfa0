// The state of a launch: its blocks, their threads, and who waits for whom.
#pragma once
#include "fiber.hpp"
#include "launch.hpp"
#include "random.hpp"
#include "runtime.hpp"
#include "shared_memory.hpp"
#include "store_buffer.hpp"
#include "traffic.hpp"
#include <memory>
#include <vector>

namespace emulator {

struct Block;
struct Thread;

// Threads that go on together once the last of them has come.
struct Meeting {
    Meeting(EmulatorFaultKind divergence, const char* what, unsigned expected);

    EmulatorFaultKind divergence;
    const char* what;
    unsigned expected;
    std::vector<Thread*> waiting;
    // How often it has taken place; its parity tells a round from the next.
    unsigned round = 0;
};

struct Thread {
    Thread(Block& of, unsigned index);

    Coordinates at;
    Block& block;
    // None once it has ended.
    std::unique_ptr<Fiber> fiber;
    StoreBuffer stores;
    // Where it last called a primitive.
    Site site = {"", 0};
    bool done = false;
    // What it goes to meet as it hands over to the scheduler.
    Meeting* meeting = nullptr;
    // Up to this switch, others go first.
    uint64_t dozes_until = 0;
    LaneCounts lane_counts;
    // For the thread sanitizer: nothing stored since its last fence, and what its atomics met since.
    bool fenced = false;
    std::vector<void*> met;
};

struct Warp {
    Meeting meeting{DIVERGENT_SHUFFLE, "shuffle", LANES};
    // By the parity of the round: a fast lane brings its next value while a slow one still reads the last.
    LaneValue values[2][LANES];
    WarpTraffic traffic;
};

struct Cluster {
    Cluster();

    Meeting barrier;
    // By rank.
    std::vector<Block*> blocks;
};

struct Block {
    Block(Cluster& of, unsigned index);

    bool has_ended() const { return done == threads.size(); }

    Cluster& cluster;
    unsigned index;
    SharedMemory shared;
    std::vector<Warp> warps;
    Meeting barrier;
    std::vector<std::unique_ptr<Thread>> threads;
    // Stores that the block has seen and others may not have.
    StoreBuffer stores;
    unsigned done = 0;
};

class Launch {
  public:
    Launch(const EmulatorKernel& kernel, const void* args, EmulatorGeometry geometry, const EmulatorOptions& options,
           EmulatorRegion* regions, size_t region_count, EmulatorOutcome& outcome);

    void run();

    // For the running thread: lets others run, goes to meet others, counts a step and perhaps lets others run.
    void yield();
    void meet(Meeting& meeting, Site site);
    void step(Access access);
    // Leaves the thread behind for a while: a switch or tens of thousands, all orders of magnitude alike.
    void doze(Thread& thread) { thread.dozes_until = outcome_.switches + (uint64_t(1) << random.below(17)); }
    // Ends the launch with the faults found so far.
    [[noreturn]] void abandon();
    // Found by the running thread, which goes on unless there are too many.
    void fault(EmulatorFaultKind kind, Site site, const char* format, ...) __attribute__((format(printf, 4, 5)));

    Thread& running() { return *running_; }
    bool buffers_stores() const { return options.store_buffer != 0; }

    const EmulatorKernel& kernel;
    const void* const args;
    const EmulatorGeometry geometry;
    const EmulatorOptions& options;
    Regions regions;
    Random random;

  private:
    friend void thread_main();

    // The scheduler's own: fibers touch none of its state, so that the thread sanitizer sees one owner.
    void start_cluster(unsigned index);
    void start_block(Cluster& cluster, unsigned index);
    void finish_block(Block& block);
    void resume(Thread& thread);
    void arrive(Thread& thread, Meeting& meeting);
    Thread* pick();
    void report_stuck();
    void report_stuck(const Meeting& meeting, const std::vector<Thread*>& members);

    EmulatorOutcome& outcome_;
    Fiber main_;
    Thread* running_ = nullptr;
    std::vector<Thread*> ready_;
    // Ended ones too: their last stores may still be on their way.
    std::vector<std::unique_ptr<Block>> blocks_;
    std::vector<std::unique_ptr<Cluster>> clusters_;
    unsigned resident_ = 0;
    // By a fault after which nothing can go on.
    bool abandoned_ = false;
    // One access in so many lets others run; one thread in so many starts by dozing, 0 for none.
    unsigned yield_one_in_;
    unsigned doze_one_in_;
};

// Of this thread of the host.
extern __thread Launch* launch;

} // namespace emulator
