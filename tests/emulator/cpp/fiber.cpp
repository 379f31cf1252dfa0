// Fibers: stacks from a pool, a context switch, and what each sanitizer wants to hear of it.
#include "fiber.hpp"
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>

// Macros of ours: the runtime is not instrumented under the thread sanitizer, and compilers differ in what they define.
#ifdef EMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef EMULATOR_TSAN
#include <sanitizer/tsan_interface.h>
#endif

namespace emulator {

namespace {

constexpr size_t GUARD = 4096;
#if defined(EMULATOR_ASAN) || defined(EMULATOR_TSAN)
constexpr size_t STACK = 256 * 1024;
#else
constexpr size_t STACK = 64 * 1024;
#endif
constexpr size_t STACKS_A_MAPPING = 64;

// The fiber that is being left, for the one that arrives.
__thread Fiber* leaving;

void* map_memory(void* at, size_t bytes, int flags) {
    void* const memory = mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
    if (memory == MAP_FAILED) {
        std::perror("emulator: no memory for stacks");
        std::abort();
    }
    return memory;
}

} // namespace

// One a thread of the host: launches on other threads have their own.
struct StackPool {
    std::vector<Stack> free;
    std::vector<char*> mappings;

    ~StackPool() {
        for (char* mapping : mappings) munmap(mapping, STACKS_A_MAPPING * (GUARD + STACK));
    }
    void grow() {
        char* const mapping = static_cast<char*>(map_memory(nullptr, STACKS_A_MAPPING * (GUARD + STACK), 0));
        mappings.push_back(mapping);
        for (size_t i = 0; i < STACKS_A_MAPPING; ++i) {
            mprotect(mapping + i * (GUARD + STACK), GUARD, PROT_NONE);
            Stack stack;
            stack.bottom_ = mapping + i * (GUARD + STACK) + GUARD;
            free.push_back(stack);
        }
    }
};

static thread_local StackPool pool;

Stack Stack::take() {
    if (pool.free.empty()) pool.grow();
    const Stack stack = pool.free.back();
    pool.free.pop_back();
#ifdef EMULATOR_ASAN
    // An abandoned fiber leaves its frames' red zones behind.
    __asan_unpoison_memory_region(stack.bottom_, STACK);
#endif
#ifdef EMULATOR_TSAN
    // A new mapping forgets who touched the old one.
    map_memory(stack.bottom_, STACK, MAP_FIXED);
#endif
    return stack;
}

void Stack::give_back() { pool.free.push_back(*this); }

#ifndef EMULATOR_UCONTEXT

// Saves what a function must preserve, on the stack that is left; takes it back from the other.
extern "C" void emulator_switch(void** save, void* load);
asm(R"(
.text
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulator_switch, . - emulator_switch
)");

#endif

Fiber::Fiber() : owns_stack_(false) {
#ifdef EMULATOR_TSAN
    tsan_ = __tsan_get_current_fiber();
#endif
}

Fiber::Fiber(Stack stack, void (*entry)()) : stack_(stack), owns_stack_(true), bottom_(stack.bottom()), size_(STACK) {
#ifdef EMULATOR_UCONTEXT
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack.bottom();
    context_.uc_stack.ss_size = STACK;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#else
    // As if `entry` had been called: its return address, which it never uses, on top, and six registers to take back below.
    uint64_t* const top = reinterpret_cast<uint64_t*>(stack.bottom() + STACK);
    for (int i = 1; i <= 8; ++i) top[-i] = 0;
    top[-2] = reinterpret_cast<uint64_t>(entry);
    stack_pointer_ = top - 8;
#endif
#ifdef EMULATOR_TSAN
    tsan_ = __tsan_create_fiber(0);
#endif
}

Fiber::~Fiber() {
    if (!owns_stack_) return;
#ifdef EMULATOR_TSAN
    __tsan_destroy_fiber(tsan_);
#endif
    stack_.give_back();
}

void Fiber::switch_to(Fiber& other) {
    leaving = this;
#ifdef EMULATOR_ASAN
    __sanitizer_start_switch_fiber(&fake_stack_, other.bottom_, other.size_);
#endif
#ifdef EMULATOR_TSAN
    // Taking turns orders nothing: only the primitives do.
    __tsan_switch_to_fiber(other.tsan_, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef EMULATOR_UCONTEXT
    swapcontext(&context_, &other.context_);
#else
    emulator_switch(&stack_pointer_, other.stack_pointer_);
#endif
    arrive();
}

void Fiber::arrive() {
#ifdef EMULATOR_ASAN
    __sanitizer_finish_switch_fiber(fake_stack_, &leaving->bottom_, &leaving->size_);
#endif
}

} // namespace emulator
