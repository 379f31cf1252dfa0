// Stacks that take turns on one thread of the host, known to the sanitizers.
#pragma once
#include <cstddef>
#include <vector>
// The context switch is written for one architecture; elsewhere the C library's does, at a system call a switch.
#if !defined(__x86_64__) && !defined(EMULATOR_UCONTEXT)
#define EMULATOR_UCONTEXT
#endif
#ifdef EMULATOR_UCONTEXT
#include <ucontext.h>
#endif

namespace emulator {

// With a guard page below, and the same memory for one fiber after another.
class Stack {
  public:
    static Stack take();
    void give_back();
    char* bottom() const { return bottom_; }

  private:
    friend struct StackPool;
    char* bottom_ = nullptr;
};

class Fiber {
  public:
    // The thread's own stack.
    Fiber();
    // Starts at `entry`, which never returns, when it is first switched to.
    Fiber(Stack stack, void (*entry)());
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;
    ~Fiber();

    void switch_to(Fiber& other);
    // What a fiber does first.
    void arrive();

  private:
#ifdef EMULATOR_UCONTEXT
    ucontext_t context_;
#else
    void* stack_pointer_ = nullptr;
#endif
    Stack stack_;
    bool owns_stack_;
    // What the sanitizers know of it; unused without them.
    void* fake_stack_ = nullptr;
    const void* bottom_ = nullptr;
    size_t size_ = 0;
    void* tsan_ = nullptr;
};

} // namespace emulator
