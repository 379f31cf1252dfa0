"""What PyTorch can measure of scripts/gpu/probe.cu, for hosts without nvcc.

`probe.py [copy]` writes rows to standard output; exit status 1 where something failed.
"""

import sys
import time

import torch

from measure import BASELINE, Rows, Timer

CHAIN = 100
MIB = 2**20
ATTRIBUTES = """major minor multi_processor_count L2_cache_size shared_memory_per_multiprocessor shared_memory_per_block_optin
    regs_per_multiprocessor max_threads_per_multi_processor total_memory""".split()


def attributes(rows):
    properties = torch.cuda.get_device_properties(0)
    # Not every version of PyTorch knows them all.
    known = {name: getattr(properties, name) for name in ATTRIBUTES if hasattr(properties, name)}
    for name, value in known.items():
        rows.write("", what="attribute", variant=name, n=value)
    rows.write("", what="attribute", variant="unused memory bytes", n=torch.cuda.mem_get_info()[0])


def copies(rows, timer, sizes):
    for size in sizes:
        rows.write(timer.copy(size), what="copy", variant="torch copy_", n=size, bytes=2 * size)


def launches(rows, timer):
    """A kernel that adds one number stands in for an empty one, which PyTorch has not."""
    one = torch.ones(1, device="cuda")
    graph = torch.cuda.CUDAGraph()
    one.add_(1)
    with torch.cuda.graph(graph):
        for _ in range(CHAIN):
            one.add_(1)
    us = min(timer.times(graph.replay, 20, flush=False)) / CHAIN
    rows.write(us, what="launch", variant="kernel of one addition in a graph's chain of 100", n=1)
    rows.write(host_us(lambda: one.add_(1), 200), what="launch", variant="host time of PyTorch's add_", n=1)
    rows.write(host_us(graph.replay, 5), what="launch", variant="host time of a graph launch", n=CHAIN)


def host_us(call, calls):
    best = float("inf")
    for _ in range(10):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        best = min(best, (time.perf_counter() - start) / calls * 1e6)
    torch.cuda.synchronize()
    return best


def l2_read(rows, timer):
    """Sums in a graph's chain, so that neither the host nor the first read from memory counts."""
    size = torch.cuda.get_device_properties(0).L2_cache_size // 4 // MIB * MIB
    data = torch.rand(size // 4, device="cuda")
    data.sum()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CHAIN):
            data.sum()
    us = min(timer.times(graph.replay, 10, flush=False)) / CHAIN
    rows.write(us, what="l2_read", variant="torch sum, launches included", n=size, bytes=size)


def main():
    timer = Timer("cuda")
    rows = Rows("cuda", timer.copy(BASELINE))
    if sys.argv[1:] == ["copy"]:
        copies(rows, timer, [BASELINE])
        return 0
    failed = False
    for what, measure in {
        "attribute": lambda: attributes(rows),
        "copy": lambda: copies(rows, timer, [16 * MIB, 64 * MIB, BASELINE, 1024 * MIB]),
        "launch": lambda: launches(rows, timer),
        "l2_read": lambda: l2_read(rows, timer),
    }.items():
        try:
            measure()
        except RuntimeError as error:
            # The others still count.
            print(f"{what}: {error}", file=sys.stderr)
            rows.write("refused", what=what)
            failed = True
    for what in "grid_barrier", "cluster_barrier", "max_cluster":
        rows.write("not measurable", what=what, variant="needs nvcc")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
