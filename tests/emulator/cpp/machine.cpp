// The scheduler: which thread runs next is drawn at random, from the seed alone.
#include "machine.hpp"
#include "thread_sanitizer.hpp"
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>

namespace emulator {

__thread Launch* launch;
__thread const Coordinates* self;

Meeting::Meeting(EmulatorFaultKind divergence, const char* what, unsigned expected)
    : divergence(divergence), what(what), expected(expected) {
    waiting.reserve(expected);
}

// What every fiber runs.
void thread_main() {
    Thread& thread = launch->running();
    thread.fiber->arrive();
    launch->kernel.entry(launch->args);
    thread.done = true;
    // Not to memory yet: the end of a thread tells other blocks nothing.
    thread.stores.move_to(thread.block.stores);
    tsan::release(launch);
    launch->yield();
}

Thread::Thread(Block& of, unsigned index)
    : at{index, of.index, launch->geometry.threads, launch->geometry.grid, launch->geometry.cluster}, block(of),
      fiber(std::make_unique<Fiber>(Stack::take(), thread_main)), stores(&of.stores) {}

Cluster::Cluster() : barrier(DIVERGENT_BARRIER, "cluster barrier", launch->geometry.cluster * launch->geometry.threads) {}

Block::Block(Cluster& of, unsigned index)
    : cluster(of), index(index), shared(launch->geometry.shared), warps((launch->geometry.threads + LANES - 1) / LANES),
      barrier(DIVERGENT_BARRIER, "barrier", launch->geometry.threads) {
    for (unsigned i = 0; i < launch->geometry.threads; ++i) threads.push_back(std::make_unique<Thread>(*this, i));
}

Launch::Launch(const EmulatorKernel& kernel, const void* args, EmulatorGeometry geometry, const EmulatorOptions& options,
               EmulatorRegion* regions, size_t region_count, EmulatorOutcome& outcome)
    : kernel(kernel), args(args), geometry(geometry), options(options), regions(regions, region_count), random(options.seed),
      outcome_(outcome) {
    const unsigned yields[] = {4, 16, 64};
    yield_one_in_ = yields[random.below(3)];
    const unsigned dozes[] = {0, 4, 32};
    doze_one_in_ = dozes[random.below(3)];
}

void Launch::run() {
    std::vector<unsigned> waiting(geometry.grid / geometry.cluster);
    for (unsigned i = 0; i < waiting.size(); ++i) waiting[i] = i;
    while (!abandoned_) {
        // The blocks of a cluster may wait for each other: there is room for one cluster always.
        while (!waiting.empty() && (resident_ == 0 || resident_ + geometry.cluster <= options.resident_blocks)) {
            std::swap(waiting[random.below(waiting.size())], waiting.back());
            start_cluster(waiting.back());
            waiting.pop_back();
        }
        if (resident_ == 0) break;
        // Stores arrive some day, those of ended blocks too.
        if (buffers_stores() && random.one_in(512)) blocks_[random.below(blocks_.size())]->stores.drain_some(random);
        Thread* const next = pick();
        if (next) resume(*next);
        if (!next || outcome_.steps >= options.most_steps) {
            if (next) {
                fault(NO_PROGRESS, next->site, "still running after %llu steps",
                      static_cast<unsigned long long>(options.most_steps));
            }
            report_stuck();
            break;
        }
    }
    tsan::acquire(this);
    for (const auto& block : blocks_) block->stores.drain(random);
}

void Launch::start_cluster(unsigned index) {
    clusters_.push_back(std::make_unique<Cluster>());
    for (unsigned rank = 0; rank < geometry.cluster; ++rank) start_block(*clusters_.back(), index * geometry.cluster + rank);
}

void Launch::start_block(Cluster& cluster, unsigned index) {
    blocks_.push_back(std::make_unique<Block>(cluster, index));
    cluster.blocks.push_back(blocks_.back().get());
    ++resident_;
    for (const auto& thread : blocks_.back()->threads) {
        if (doze_one_in_ != 0 && random.one_in(doze_one_in_)) doze(*thread);
        ready_.push_back(thread.get());
    }
}

void Launch::finish_block(Block& block) {
    --resident_;
    for (Warp& warp : block.warps) warp.traffic.settle();
    outcome_.static_shared = std::max<uint64_t>(outcome_.static_shared, block.shared.declared_bytes());
    if (!block.shared.finish()) fault(SHARED_OVERRUN, {"", 0}, "a store outside of the block's shared arrays");
    // The stacks go to the blocks to come.
    if (!tsan::IS_ON) {
        for (const auto& thread : block.threads) thread->fiber.reset();
    }
}

void Launch::resume(Thread& thread) {
    running_ = &thread;
    self = &thread.at;
    ++outcome_.switches;
    main_.switch_to(*thread.fiber);
    if (thread.done) {
        ++thread.block.done;
        if (thread.block.has_ended()) finish_block(thread.block);
    } else if (thread.meeting) {
        arrive(thread, *thread.meeting);
    } else {
        ready_.push_back(&thread);
    }
}

void Launch::arrive(Thread& thread, Meeting& meeting) {
    thread.meeting = nullptr;
    if (!meeting.waiting.empty()) {
        const Thread& other = *meeting.waiting.front();
        const bool same_file = other.site.file == thread.site.file || std::strcmp(other.site.file, thread.site.file) == 0;
        if (other.site.line != thread.site.line || !same_file) {
            fault(meeting.divergence, thread.site, "a %s here, while thread %u of block %u waits in that of %s:%u",
                  meeting.what, other.at.thread, other.at.block, other.site.file, other.site.line);
            abandoned_ = true;
        }
    }
    meeting.waiting.push_back(&thread);
    if (meeting.waiting.size() < meeting.expected) return;
    for (Thread* met : meeting.waiting) {
        met->block.warps[met->at.thread / LANES].traffic.settle();
        met->lane_counts.clear();
        ready_.push_back(met);
    }
    // One that is slow to leave finds what the fast ones did meanwhile.
    if (doze_one_in_ != 0 && random.one_in(doze_one_in_)) doze(*meeting.waiting[random.below(meeting.waiting.size())]);
    meeting.waiting.clear();
    ++meeting.round;
}

Thread* Launch::pick() {
    if (ready_.empty()) return nullptr;
    size_t index = random.below(ready_.size());
    for (int tries = 0; tries < 8 && ready_[index]->dozes_until > outcome_.switches; ++tries) index = random.below(ready_.size());
    if (ready_[index]->dozes_until > outcome_.switches) {
        const auto earlier = [](const Thread* a, const Thread* b) { return a->dozes_until < b->dozes_until; };
        index = std::min_element(ready_.begin(), ready_.end(), earlier) - ready_.begin();
    }
    std::swap(ready_[index], ready_.back());
    Thread* const thread = ready_.back();
    ready_.pop_back();
    return thread;
}

void Launch::yield() { running_->fiber->switch_to(main_); }

void Launch::abandon() {
    abandoned_ = true;
    yield();
    __builtin_unreachable();
}

void Launch::meet(Meeting& meeting, Site site) {
    ++outcome_.steps;
    running_->site = site;
    running_->meeting = &meeting;
    yield();
}

void Launch::step(Access access) {
    if (buffers_stores()) {
        if (random.one_in(8)) running_->stores.drain_some(random);
        if (random.one_in(16)) running_->block.stores.drain_some(random);
    }
    // By these, threads wait for each other.
    const bool waits = access == Access::FRESH_LOAD || access == Access::PEER_LOAD || access == Access::ATOMIC;
    if (++outcome_.steps >= options.most_steps || random.one_in(waits ? 2 : yield_one_in_)) yield();
}

void Launch::fault(EmulatorFaultKind kind, Site site, const char* format, ...) {
    const uint64_t index = outcome_.faults++;
    if (index + 1 >= EMULATOR_MOST_FAULTS) abandoned_ = true;
    if (index < EMULATOR_MOST_FAULTS) {
        EmulatorFault& fault = outcome_.fault[index];
        fault.kind = kind;
        fault.file = site.file;
        fault.line = site.line;
        fault.block = running_ ? running_->at.block : 0;
        fault.thread = running_ ? running_->at.thread : 0;
        va_list arguments;
        va_start(arguments, format);
        std::vsnprintf(fault.text, sizeof(fault.text), format, arguments);
        va_end(arguments);
    }
}

// Every meeting that cannot take place, and who is missing.
void Launch::report_stuck() {
    for (const auto& cluster : clusters_) {
        std::vector<Thread*> of_cluster;
        for (const Block* block : cluster->blocks) {
            std::vector<Thread*> of_block;
            for (const auto& thread : block->threads) of_block.push_back(thread.get());
            for (size_t from = 0; from < of_block.size(); from += LANES) {
                const auto first = of_block.begin() + from, last = of_block.begin() + std::min(from + LANES, of_block.size());
                report_stuck(block->warps[from / LANES].meeting, {first, last});
            }
            report_stuck(block->barrier, of_block);
            of_cluster.insert(of_cluster.end(), of_block.begin(), of_block.end());
        }
        report_stuck(cluster->barrier, of_cluster);
    }
}

void Launch::report_stuck(const Meeting& meeting, const std::vector<Thread*>& members) {
    if (meeting.waiting.empty()) return;
    char missing[120] = "which the block does not have";
    for (const Thread* thread : members) {
        if (std::find(meeting.waiting.begin(), meeting.waiting.end(), thread) != meeting.waiting.end()) continue;
        const Coordinates& at = thread->at;
        if (thread->done) {
            std::snprintf(missing, sizeof(missing), "thread %u of block %u has returned", at.thread, at.block);
        } else {
            std::snprintf(missing, sizeof(missing), "thread %u of block %u is at %s:%u", at.thread, at.block, thread->site.file,
                          thread->site.line);
        }
        break;
    }
    running_ = meeting.waiting.front();
    fault(meeting.divergence, running_->site, "this %s waits for %zu more of %u threads: %s", meeting.what,
          meeting.expected - meeting.waiting.size(), meeting.expected, missing);
}

} // namespace emulator

extern "C" void emulator_launch(const EmulatorKernel* kernel, const void* args, EmulatorGeometry geometry,
                                const EmulatorOptions* options, EmulatorRegion* regions, size_t region_count,
                                EmulatorOutcome* outcome) {
    emulator::Launch launch(*kernel, args, geometry, *options, regions, region_count, *outcome);
    emulator::launch = &launch;
    launch.run();
    emulator::launch = nullptr;
}
