"""What the scripts here measure with and write: rows of the results' CSV layout, a flushed L2, times from CUDA events, turns on the CPU."""

import csv
import datetime
import os
import statistics
import sys
import time

import torch

COLUMNS = "device driver cuda date commit what variant dtype n c bytes us share_of_copy peer ratio".split()
BASELINE = 2**28  # bytes of the copy that shares are shares of


class Rows:
    """Writes rows to standard output as they come, so that a script that is stopped has written what it had."""

    def __init__(self, device, copy_us):
        """`copy_us`: the time of a copy of `BASELINE` bytes; None where shares of it say nothing."""
        self.host = host(device)
        self.copy_rate = 2 * BASELINE / copy_us if copy_us else None  # bytes a microsecond
        self.writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")

    def header(self):
        self.writer.writeheader()

    def write(self, us, ratio=None, **row):
        """`us` is microseconds, or a word that says why there are none; `ratio` is to ours."""
        if ratio is not None:
            row["ratio"] = f"{ratio:.3f}"
        if isinstance(us, float):
            if row.get("bytes") and self.copy_rate:
                row["share_of_copy"] = f"{row['bytes'] / us / self.copy_rate:.3f}"
            us = f"{us:.3f}"
        self.writer.writerow(self.host | row | {"us": us})
        sys.stdout.flush()


def host(device):
    """The first five columns: as run.sh found them, else what PyTorch knows."""
    given = os.environ.get("LOGIT_PERTURB_HOST")
    if given:
        return dict(zip(COLUMNS, next(csv.reader([given]))))
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return dict(zip(COLUMNS, [name, "", torch.version.cuda or "", datetime.date.today().isoformat(), ""]))


class Timer:
    """Times a call, with L2 flushed before each run or left warm."""

    def __init__(self, device):
        self.device = device
        # Filled, not read: what is timed pays for writing these lines back and leaves as many of its own behind. After a flush that only
        # reads, the last of its writes would stay in L2 for nothing.
        size = max(BASELINE, 2 * torch.cuda.get_device_properties(0).L2_cache_size) if device == "cuda" else 1
        self.flush = torch.empty(size, dtype=torch.int8, device=device)

    def times(self, call, runs, flush=True, before=lambda: None):
        """Microseconds of each run; `before` runs outside the time."""
        self.synchronize()
        if self.device != "cuda":
            return [self.host_time(call) for _ in range(runs)]
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
        for start, end in events:
            before()
            if flush:
                self.flush.zero_()
            start.record()
            call()
            end.record()
        self.synchronize()
        return [start.elapsed_time(end) * 1e3 for start, end in events]

    @staticmethod
    def host_time(call):
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1e6

    def synchronize(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def copy(self, size):
        """The best time of a copy of `size` bytes, which moves twice as many."""
        source = torch.randint(-128, 128, (size,), dtype=torch.int8, device=self.device)
        target = torch.empty_like(source)
        return min(self.times(lambda: target.copy_(source), 20))


TURN = 20e3  # microseconds, about
REST = 2e-3  # seconds, in which the other's threads stop looking for work


def in_turns(ours, theirs, pairs):
    """Pairs of turns, one ours and one theirs; both return the microseconds of a run. A turn begins with a run that does not count, so that it is
    no matter of how fast threads wake up, and is as long as the best of some runs, so that it is none of what else the machine does. The median
    of theirs, and of the pairs' ratios of theirs to ours."""

    def turn(run):
        time.sleep(REST)
        first = run()
        return min(run() for _ in range(max(1, min(30, int(TURN / first)))))

    times = [(turn(ours), turn(theirs)) for _ in range(pairs)]
    return statistics.median(their_us for _, their_us in times), statistics.median(their_us / our_us for our_us, their_us in times)


def captured(call):
    """The call as a CUDA graph's replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay():
        graph.replay()
        return result

    return replay


LAUNCHES = "cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaMemcpyAsync", "cudaMemsetAsync"


def launches(call):
    """What the call hands to the device: kernels, copies and fills."""
    call()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=list(torch.profiler.supported_activities())) as profile:
        call()
        torch.cuda.synchronize()
    return sum(event.count for event in profile.key_averages() if event.key in LAUNCHES)
