// A block's shared memory: its arrays with margins between them, poisoned before and after.
#pragma once
#include <cstdint>
#include <list>
#include <memory>

namespace emulator {

class SharedMemory {
  public:
    // As CUDA has it.
    static constexpr unsigned MOST_DECLARED = 48 * 1024;

    // Allocated by the scheduler, before the threads that share it: to the thread sanitizer it is then nobody's in particular.
    explicit SharedMemory(unsigned dynamic_bytes);
    SharedMemory(const SharedMemory&) = delete;
    SharedMemory& operator=(const SharedMemory&) = delete;

    // The array of a declaration, the same for all threads; null where there is no room.
    void* declared(const void* declaration, unsigned bytes);
    void* dynamic() const { return dynamic_; }

    struct Array {
        // Null for the dynamic one.
        const void* declaration;
        unsigned char* data;
        unsigned bytes;
    };
    // The array that holds all of these bytes; null where none does.
    const Array* find(const void* from, unsigned bytes) const;

    unsigned declared_bytes() const { return declared_; }
    // Whether only the arrays were written to. Poisons them again.
    bool finish();

  private:
    unsigned char* take(const void* declaration, unsigned bytes);

    std::unique_ptr<unsigned char[]> memory_;
    // What is left of it.
    unsigned char* next_;
    unsigned declared_ = 0;
    void* dynamic_;
    std::list<Array> arrays_;
};

} // namespace emulator
