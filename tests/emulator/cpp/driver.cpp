// Replays launches that src/record.rs wrote, each in a process of its own, compiled with a sanitizer. What a launch leaves in memory must
// be what it left when it was recorded.
#include "launch.hpp"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>
#ifdef EMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(from, bytes) static_cast<void>(0)
#endif

namespace {

// Memory further than this is mapped sparsely, and its gaps are left as they are.
constexpr uint64_t MOST_ALLOCATED = uint64_t(1) << 26;

class Reader {
  public:
    explicit Reader(const char* path) : path_(path) {
        std::FILE* const file = std::fopen(path, "rb");
        if (!file) fail("cannot be opened");
        unsigned char part[1 << 16];
        while (const size_t count = std::fread(part, 1, sizeof(part), file)) bytes_.insert(bytes_.end(), part, part + count);
        std::fclose(file);
    }
    std::vector<unsigned char> take(uint64_t count) {
        if (count > bytes_.size() - next_) fail("ends too early");
        next_ += count;
        return std::vector<unsigned char>(bytes_.begin() + (next_ - count), bytes_.begin() + next_);
    }
    uint64_t number() {
        uint64_t x;
        std::memcpy(&x, take(sizeof(x)).data(), sizeof(x));
        return x;
    }
    std::vector<unsigned char> counted() { return take(number()); }
    [[noreturn]] void fail(const char* why) const {
        std::fprintf(stderr, "%s: %s\n", path_, why);
        std::exit(2);
    }

  private:
    const char* path_;
    std::vector<unsigned char> bytes_;
    size_t next_ = 0;
};

struct Buffer {
    EmulatorRegion region;
    std::vector<unsigned char> after;

    unsigned char* row(uint64_t row) const { return reinterpret_cast<unsigned char*>(region.base + row * region.stride_bytes); }
};

Buffer read_buffer(Reader& reader) {
    Buffer buffer = {};
    EmulatorRegion& region = buffer.region;
    region.rows = reader.number();
    region.row_bytes = reader.number();
    region.stride_bytes = reader.number();
    const uint64_t misalignment = reader.number();
    region.writable = reader.number() != 0;
    const std::vector<unsigned char> before = reader.counted();
    buffer.after = reader.counted();

    // It ends where the last row does: the address sanitizer watches what is beyond.
    const uint64_t bytes = misalignment + (region.rows - 1) * region.stride_bytes + region.row_bytes;
    void* memory = nullptr;
    if (bytes <= MOST_ALLOCATED) {
        if (posix_memalign(&memory, 256, bytes) != 0) reader.fail("too little memory");
    } else {
        memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) reader.fail("too little address space");
    }
    region.base = reinterpret_cast<uint64_t>(memory) + misalignment;
    for (uint64_t row = 0; row < region.rows; ++row) {
        std::memcpy(buffer.row(row), before.data() + row * region.row_bytes, region.row_bytes);
        if (bytes <= MOST_ALLOCATED && row + 1 < region.rows) {
            ASAN_POISON_MEMORY_REGION(buffer.row(row) + region.row_bytes, region.stride_bytes - region.row_bytes);
        }
    }
    return buffer;
}

bool replay(const char* path) {
    Reader reader(path);
    const std::vector<unsigned char> magic = reader.take(8);
    if (std::memcmp(magic.data(), "LAUNCH02", 8) != 0) reader.fail("is no launch");
    const std::vector<unsigned char> name = reader.counted();
    const EmulatorKernel* const kernel = emulator_kernel(reinterpret_cast<const char*>(name.data()), name.size());
    if (!kernel) reader.fail("is of a kernel that there is none of");
    EmulatorGeometry geometry;
    geometry.grid = reader.number();
    geometry.cluster = reader.number();
    geometry.threads = reader.number();
    geometry.shared = reader.number();
    EmulatorOptions options = {};
    options.seed = reader.number();
    options.exp_seed = reader.number();
    options.most_steps = reader.number();
    options.exp_ulps = reader.number();
    options.resident_blocks = reader.number();
    options.store_buffer = reader.number();
#ifdef EMULATOR_TSAN
    // It knows by itself which stores a thread need not see.
    options.store_buffer = 0;
#endif
    std::vector<unsigned char> args = reader.counted();
    if (args.size() != *kernel->args_bytes) reader.fail("has arguments of another size");
    struct Pointer {
        uint64_t at, buffer, offset;
    };
    std::vector<Pointer> pointers(reader.number());
    for (Pointer& pointer : pointers) pointer = {reader.number(), reader.number(), reader.number()};
    std::vector<Buffer> buffers;
    std::vector<EmulatorRegion> regions;
    for (uint64_t left = reader.number(); left > 0; --left) {
        buffers.push_back(read_buffer(reader));
        regions.push_back(buffers.back().region);
    }
    for (const Pointer& pointer : pointers) {
        const uint64_t address = regions[pointer.buffer].base + pointer.offset;
        std::memcpy(args.data() + pointer.at, &address, sizeof(address));
    }

    static EmulatorOutcome outcome;
    emulator_launch(kernel, args.data(), geometry, &options, regions.data(), regions.size(), &outcome);
    for (uint64_t i = 0; i < std::min<uint64_t>(outcome.faults, EMULATOR_MOST_FAULTS); ++i) {
        const EmulatorFault& fault = outcome.fault[i];
        std::fprintf(stderr, "%s:%u: block %u, thread %u: %s\n", fault.file, fault.line, fault.block, fault.thread, fault.text);
    }
    bool passed = outcome.faults == 0;
    for (size_t i = 0; i < buffers.size(); ++i) {
        const Buffer& buffer = buffers[i];
        for (uint64_t row = 0; row < buffer.region.rows; ++row) {
            if (std::memcmp(buffer.row(row), buffer.after.data() + row * buffer.region.row_bytes, buffer.region.row_bytes) != 0) {
                std::fprintf(stderr, "row %llu of buffer %zu is not what was recorded\n", static_cast<unsigned long long>(row), i);
                passed = false;
            }
        }
    }
    return passed;
}

} // namespace

int main(int count, char** paths) {
    int passed = 0, failed = 0;
    for (int i = 1; i < count; ++i) {
        // A sanitizer ends the process at its first report.
        const pid_t child = fork();
        if (child == 0) std::exit(replay(paths[i]) ? 0 : 1);
        int status = 1;
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
            std::fprintf(stderr, "FAILED: %s\n", paths[i]);
            ++failed;
        } else {
            ++passed;
        }
    }
    std::printf("%d passed, %d failed\n", passed, failed);
    return failed == 0 && passed > 0 ? 0 : 1;
}
