// Measures what this device can do at best, to compare kernels with: copy bandwidth, launches, barriers, reads from L2, clusters.
//
// `probe` measures all of it, `probe copy` the copies of 256 MiB alone. It writes rows of the results' CSV layout to the standard output; the
// first five columns come from LOGIT_PERTURB_HOST. What the device refuses becomes a row that says so, and exit status 1.
// Build: nvcc -O3 -std=c++17 -arch=native.

#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr size_t MIB = size_t(1) << 20;
constexpr size_t BASELINE = 256 * MIB; // the copy that shares are shares of
constexpr int CLUSTERS[] = {2, 4, 8, 16};

void check(cudaError_t status) {
    if (status != cudaSuccess) {
        throw std::runtime_error(cudaGetErrorString(status));
    }
}

// What this kind of device does not have; no failure.
struct Lacking : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Buffer {
    float4 *data = nullptr;
    size_t bytes;

    explicit Buffer(size_t size) : bytes(size) { check(cudaMalloc(&data, size)); }
    ~Buffer() { cudaFree(data); }
    Buffer(const Buffer &) = delete;
    size_t count() const { return bytes / sizeof(float4); }
};

// ---- rows

struct Row {
    std::string what, variant;
    long n = -1, c = -1; // negative: empty
    double bytes = 0, us = 0;
};

double copy_rate = 0; // bytes a microsecond
bool refused = false;

std::string number(double value, const char *format) {
    char text[64];
    std::snprintf(text, sizeof text, format, value);
    return text;
}

void print(const Row &row, const std::string &us) {
    const char *host = std::getenv("LOGIT_PERTURB_HOST");
    const std::string n = row.n < 0 ? "" : std::to_string(row.n), c = row.c < 0 ? "" : std::to_string(row.c);
    const std::string bytes = row.bytes > 0 ? number(row.bytes, "%.0f") : "";
    const bool has_share = row.bytes > 0 && row.us > 0 && copy_rate > 0;
    const std::string share = has_share ? number(row.bytes / row.us / copy_rate, "%.3f") : "";
    std::printf("%s,%s,%s,,%s,%s,%s,%s,%s,,\n", host ? host : ",,,,", row.what.c_str(), row.variant.c_str(), n.c_str(), c.c_str(),
                bytes.c_str(), us.c_str(), share.c_str());
    std::fflush(stdout);
}

void print(const Row &row) { print(row, row.us > 0 ? number(row.us, "%.3f") : ""); }

// One measurement that fails must not keep the others from running.
void attempt(const std::string &what, const std::string &variant, const std::function<void()> &measure) {
    try {
        measure();
    } catch (const std::runtime_error &error) {
        const bool lacking = dynamic_cast<const Lacking *>(&error) != nullptr;
        refused |= !lacking;
        cudaGetLastError(); // or the next measurement would find this error
        std::fprintf(stderr, "%s %s: %s\n", what.c_str(), variant.c_str(), error.what());
        Row row;
        row.what = what;
        row.variant = variant;
        print(row, lacking ? "not measurable" : "refused");
    }
}

// ---- timing

// The least time between two events around `run`, microseconds. `before` runs outside the time.
double best_us(int runs, const std::function<void()> &before, const std::function<void()> &run) {
    cudaEvent_t start, stop;
    check(cudaEventCreate(&start));
    check(cudaEventCreate(&stop));
    float best = 1e30f;
    for (int i = 0; i < runs; ++i) {
        before();
        check(cudaEventRecord(start));
        run();
        check(cudaEventRecord(stop));
        check(cudaEventSynchronize(stop));
        check(cudaGetLastError());
        float ms;
        check(cudaEventElapsedTime(&ms, start, stop));
        best = std::min(best, ms);
    }
    cudaEventDestroy(start);
    cudaEventDestroy(stop);
    return best * 1e3;
}

void nothing() {}

// What one turn of a loop inside a kernel takes: the difference of two lengths, so that the launch drops out.
double turn_us(const std::function<void(int)> &launch) {
    constexpr int FEW = 100, MANY = 1100;
    const double few = best_us(5, nothing, [&] { launch(FEW); });
    const double many = best_us(5, nothing, [&] { launch(MANY); });
    return (many - few) / (MANY - FEW);
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int blocks, int threads, cudaLaunchAttribute attribute, Arguments... arguments) {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(blocks);
    config.blockDim = dim3(threads);
    config.attrs = &attribute;
    config.numAttrs = 1;
    check(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}

cudaLaunchAttribute cooperative() {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
    return attribute;
}

cudaLaunchAttribute clusters_of(int size) {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {unsigned(size), 1, 1};
    return attribute;
}

int attribute(cudaDeviceAttr which) {
    int value;
    check(cudaDeviceGetAttribute(&value, which, 0));
    return value;
}

int multiprocessors() { return attribute(cudaDevAttrMultiProcessorCount); }

// ---- kernels

__global__ void empty_kernel() {}

// Any numbers but zeros, which can be faster than data.
__global__ void fill_kernel(uint32_t *out, size_t count) {
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < count; i += size_t(gridDim.x) * blockDim.x) {
        out[i] = uint32_t(i) * 2654435761u ^ uint32_t(i >> 9);
    }
}

__global__ void compare_kernel(const uint32_t *a, const uint32_t *b, size_t count, unsigned *different) {
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < count; i += size_t(gridDim.x) * blockDim.x) {
        if (a[i] != b[i]) {
            atomicAdd(different, 1u);
        }
    }
}

constexpr int COPY_THREADS = 512, COPY_VECTORS = 4;

// A tile a block; every thread has four 16-byte loads in flight.
template <bool STREAMING>
__global__ void __launch_bounds__(COPY_THREADS) copy_kernel(const float4 *in, float4 *out, size_t count) {
    const size_t base = blockIdx.x * size_t(COPY_THREADS * COPY_VECTORS) + threadIdx.x;
    float4 held[COPY_VECTORS];
#pragma unroll
    for (int k = 0; k < COPY_VECTORS; ++k) {
        const size_t i = base + k * COPY_THREADS;
        if (i < count) {
            held[k] = STREAMING ? __ldcs(in + i) : in[i];
        }
    }
#pragma unroll
    for (int k = 0; k < COPY_VECTORS; ++k) {
        const size_t i = base + k * COPY_THREADS;
        if (i < count) {
            STREAMING ? __stcs(out + i, held[k]) : void(out[i] = held[k]);
        }
    }
}

// Reads the buffer `passes` times, past L1.
__global__ void read_kernel(const float4 *in, size_t count, float *sink, int passes) {
    float sum = 0;
    for (int pass = 0; pass < passes; ++pass) {
#pragma unroll 4
        for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < count; i += size_t(gridDim.x) * blockDim.x) {
            const float4 v = __ldcg(in + i);
            sum += v.x + v.y + v.z + v.w;
        }
    }
    // Never true for what fill_kernel wrote, but the compiler does not know.
    if (sum == 1.0e-30f) {
        *sink = sum;
    }
}

__global__ void grid_barrier_kernel(int turns) {
    const auto grid = cooperative_groups::this_grid();
    for (int i = 0; i < turns; ++i) {
        grid.sync();
    }
}

__global__ void cluster_barrier_kernel(int turns) {
#if __CUDA_ARCH__ >= 900
    const auto cluster = cooperative_groups::this_cluster();
    for (int i = 0; i < turns; ++i) {
        cluster.sync();
    }
#endif
}

// ---- measurements

void fill(Buffer &buffer) {
    fill_kernel<<<multiprocessors() * 8, 256>>>(reinterpret_cast<uint32_t *>(buffer.data), buffer.bytes / 4);
    check(cudaGetLastError());
}

void require_equal(const Buffer &a, const Buffer &b) {
    Buffer different(sizeof(unsigned));
    check(cudaMemset(different.data, 0, different.bytes));
    compare_kernel<<<multiprocessors() * 8, 256>>>(reinterpret_cast<uint32_t *>(a.data), reinterpret_cast<uint32_t *>(b.data), a.bytes / 4,
                                                   reinterpret_cast<unsigned *>(different.data));
    unsigned found;
    check(cudaMemcpy(&found, different.data, sizeof found, cudaMemcpyDeviceToHost));
    if (found != 0) {
        throw std::runtime_error("the copy differs from the original");
    }
}

// An idle device runs at low clocks; it takes a while until they are up.
void warm_up() {
    Buffer buffer(64 * MIB);
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(300);
    while (std::chrono::steady_clock::now() < end) {
        fill(buffer);
        check(cudaDeviceSynchronize());
    }
}

// Before each copy L2 is filled with the flush's own written lines: the copy pays for writing these back, and leaves as many of its own behind.
// A flush that only reads would let a copy keep the last of its writes in L2 for nothing.
std::vector<Row> measure_copies(size_t bytes) {
    Buffer in(bytes), out(bytes), flush(std::max(BASELINE, 2 * size_t(attribute(cudaDevAttrL2CacheSize))));
    fill(in);
    const int tiles = int((in.count() + COPY_THREADS * COPY_VECTORS - 1) / (COPY_THREADS * COPY_VECTORS));
    const std::pair<const char *, std::function<void()>> ways[] = {
        {"memcpy", [&] { check(cudaMemcpyAsync(out.data, in.data, bytes, cudaMemcpyDeviceToDevice)); }},
        {"kernel", [&] { copy_kernel<false><<<tiles, COPY_THREADS>>>(in.data, out.data, in.count()); }},
        {"kernel streaming", [&] { copy_kernel<true><<<tiles, COPY_THREADS>>>(in.data, out.data, in.count()); }},
    };
    std::vector<Row> rows;
    for (const auto &[name, copy] : ways) {
        check(cudaMemset(out.data, 0xff, bytes));
        copy();
        require_equal(in, out);
        Row row{"copy", name, long(bytes)};
        row.bytes = 2.0 * double(bytes);
        row.us = best_us(20, [&] { check(cudaMemsetAsync(flush.data, 1, flush.bytes)); }, copy);
        rows.push_back(row);
    }
    return rows;
}

void copies(const std::vector<size_t> &sizes) {
    std::vector<Row> rows;
    for (const size_t bytes : sizes) {
        attempt("copy", std::to_string(bytes / MIB) + " MiB", [&] {
            for (const Row &row : measure_copies(bytes)) {
                rows.push_back(row);
                if (bytes == BASELINE) {
                    copy_rate = std::max(copy_rate, row.bytes / row.us);
                }
            }
        });
    }
    // Only now is it known what they are shares of.
    for (const Row &row : rows) {
        print(row);
    }
}

double host_us(int calls, const std::function<void()> &call) {
    double best = 1e30;
    for (int run = 0; run < 10; ++run) {
        check(cudaDeviceSynchronize());
        const auto start = std::chrono::steady_clock::now();
        for (int i = 0; i < calls; ++i) {
            call();
        }
        const std::chrono::duration<double, std::micro> spent = std::chrono::steady_clock::now() - start;
        best = std::min(best, spent.count() / calls);
    }
    check(cudaDeviceSynchronize());
    return best;
}

void launches() {
    constexpr int CHAIN = 100;
    cudaStream_t stream;
    check(cudaStreamCreate(&stream));
    cudaGraph_t graph;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    for (int i = 0; i < CHAIN; ++i) {
        empty_kernel<<<1, 32, 0, stream>>>();
    }
    check(cudaStreamEndCapture(stream, &graph));
    cudaGraphExec_t executable;
    check(cudaGraphInstantiate(&executable, graph, 0));
    const auto replay = [&] { check(cudaGraphLaunch(executable, 0)); };
    Row row{"launch", "empty kernel in a graph's chain of 100", 1, -1};
    row.us = best_us(20, nothing, replay) / CHAIN;
    print(row);
    // Few enough that the queue never fills and the host never waits for the device.
    row = {"launch", "host time of a kernel launch", 1, -1};
    row.us = host_us(200, [] { empty_kernel<<<1, 32>>>(); });
    print(row);
    row = {"launch", "host time of a graph launch", CHAIN, -1};
    row.us = host_us(5, replay);
    print(row);
    check(cudaGraphExecDestroy(executable));
    check(cudaGraphDestroy(graph));
    check(cudaStreamDestroy(stream));
}

void l2_read(size_t bytes) {
    Buffer in(bytes), sink(sizeof(float));
    fill(in);
    Row row{"l2_read", "", long(bytes)};
    row.bytes = double(bytes);
    row.us = turn_us([&](int turns) {
        read_kernel<<<multiprocessors() * 2, 1024>>>(in.data, in.count(), reinterpret_cast<float *>(sink.data), turns);
    });
    print(row);
}

void grid_barrier(int blocks) {
    Row row{"grid_barrier", "256 threads a block", blocks};
    row.us = turn_us([&](int turns) { launch(grid_barrier_kernel, blocks, 256, cooperative(), turns); });
    print(row);
}

void allow_large_clusters() {
    if (attribute(cudaDevAttrClusterLaunch) == 0) {
        throw Lacking("the device has no clusters");
    }
    check(cudaFuncSetAttribute(cluster_barrier_kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
}

void cluster_barrier(int size) {
    allow_large_clusters();
    Row row{"cluster_barrier", "256 threads a block", multiprocessors() / size * size, size};
    row.us = turn_us([&](int turns) { launch(cluster_barrier_kernel, int(row.n), 256, clusters_of(size), turns); });
    print(row);
}

// Shared memory decides how many blocks of a cluster find a place.
void max_cluster(int shared) {
    allow_large_clusters();
    check(cudaFuncSetAttribute(cluster_barrier_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(16);
    config.blockDim = dim3(256);
    config.dynamicSmemBytes = size_t(shared);
    int size;
    check(cudaOccupancyMaxPotentialClusterSize(&size, cluster_barrier_kernel, &config));
    const std::string memory = std::to_string(shared) + " bytes of shared memory a block";
    print({"max_cluster", memory, size, -1});
    for (const int cluster : CLUSTERS) {
        cudaLaunchAttribute dimension = clusters_of(cluster);
        config.attrs = &dimension;
        config.numAttrs = 1;
        config.gridDim = dim3(cluster);
        int resident = 0;
        if (cluster <= size) {
            check(cudaOccupancyMaxActiveClusters(&resident, cluster_barrier_kernel, &config));
        }
        print({"resident_clusters", memory, resident, cluster});
    }
}

void attributes() {
    const std::pair<const char *, cudaDeviceAttr> asked[] = {
        {"compute capability major", cudaDevAttrComputeCapabilityMajor},
        {"compute capability minor", cudaDevAttrComputeCapabilityMinor},
        {"multiprocessors", cudaDevAttrMultiProcessorCount},
        {"L2 bytes", cudaDevAttrL2CacheSize},
        {"shared memory a multiprocessor", cudaDevAttrMaxSharedMemoryPerMultiprocessor},
        {"shared memory a block with opt-in", cudaDevAttrMaxSharedMemoryPerBlockOptin},
        {"shared memory reserved a block", cudaDevAttrReservedSharedMemoryPerBlock},
        {"registers a multiprocessor", cudaDevAttrMaxRegistersPerMultiprocessor},
        {"threads a multiprocessor", cudaDevAttrMaxThreadsPerMultiProcessor},
        {"blocks a multiprocessor", cudaDevAttrMaxBlocksPerMultiprocessor},
        {"clock kHz", cudaDevAttrClockRate},
        {"memory clock kHz", cudaDevAttrMemoryClockRate},
        {"memory bus bits", cudaDevAttrGlobalMemoryBusWidth},
        {"cooperative launch", cudaDevAttrCooperativeLaunch},
        {"cluster launch", cudaDevAttrClusterLaunch},
    };
    for (const auto &[name, which] : asked) {
        print({"attribute", name, attribute(which), -1});
    }
    int version;
    check(cudaDriverGetVersion(&version));
    print({"attribute", "driver's CUDA version", version, -1});
    check(cudaRuntimeGetVersion(&version));
    print({"attribute", "runtime's CUDA version", version, -1});
    size_t unused, memory;
    check(cudaMemGetInfo(&unused, &memory));
    print({"attribute", "memory bytes", long(memory), -1});
    print({"attribute", "unused memory bytes", long(unused), -1});
}

} // namespace

int main(int arguments, char **values) {
    attempt("warm_up", "", warm_up);
    if (arguments == 2 && std::string(values[1]) == "copy") {
        copies({BASELINE});
        return refused;
    }
    attempt("attribute", "", attributes);
    copies({16 * MIB, 64 * MIB, BASELINE, 1024 * MIB});
    attempt("launch", "", launches);
    for (const size_t part : {4, 2}) {
        attempt("l2_read", "", [&] { l2_read(size_t(attribute(cudaDevAttrL2CacheSize)) / part / MIB * MIB); });
    }
    for (const int blocks_each : {1, 2, 4}) {
        attempt("grid_barrier", "", [&] { grid_barrier(multiprocessors() * blocks_each); });
    }
    for (const int size : CLUSTERS) {
        attempt("cluster_barrier", "clusters of " + std::to_string(size), [&] { cluster_barrier(size); });
    }
    for (const int shared : {0, 96 * 1024, -1}) {
        attempt("max_cluster", "", [&] { max_cluster(shared < 0 ? attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) : shared); });
    }
    return refused;
}
