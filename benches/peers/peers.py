"""Times what others offer for loss and gradient, each checked before it is timed.

On a GPU the result is compared with float64 and the time with what `--ours` tells. On the CPU (`--device cpu --ours PROGRAM`, the example
time_case) ours runs beside each peer: both get the same tensors and the same threads, the result is compared with ours, and they take turns.

Rows go to standard output as README.md tells; errors, and how far each result is off, go to standard error. Exit status 1 where a peer failed
or gave another result. `--device cpu --quick` tries the script itself where there is no GPU.
"""

import argparse
import csv
import statistics
import sys
import time
import traceback
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch

from measure import BASELINE, Rows, Timer, captured, in_turns, launches
from methods import authors_steps, binary_cross_entropy, cross_entropy, peers
from ours import Ours

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
# Of f32, rounding alone; of a learner, rounding of every step. PyTorch keeps the log-probabilities of bf16 logits in bf16, which is good for a
# few percent.
TOLERANCE = {"cross_entropy": 1e-5, "binary_cross_entropy": 1e-5, "learner": 1e-3, "bf16": 5e-2}
KEY = "what", "variant", "dtype", "n", "c"

LARGE_CLASSES = 10, 100, 256, 1000, 1024, 4096, 10000, 32768, 50257, 128256, 262144
SMALL = (128, 10), (128, 100), (1024, 100), (1024, 1000)
MOST_MATRIX_CLASSES = 10000
BINARY_CLASSES = 10, 80, 100, 1000, 10000
LEARNER = *SMALL, (4096, 1000), (4096, 10000)


@dataclass(frozen=True)
class Point:
    what: str
    variant: str
    dtype: str
    n: int
    c: int
    small: bool = field(default=False, compare=False)

    def bytes(self):
        """Logits read, gradient written, targets read, perturbation read: each once. Of a learner nothing is said: it depends on who learns."""
        if self.what == "learner":
            return None
        targets = self.n * self.c if self.what == "binary_cross_entropy" else 8 * self.n
        perturbation = {"shared": 4 * self.c, "class_matrix": 4 * self.c * min(self.c, self.n)}.get(self.variant, 0)
        return 2 * self.n * self.c * DTYPES[self.dtype].itemsize + targets + perturbation

    def __str__(self):
        return f"{self.what} {self.variant} {self.dtype} {self.n}x{self.c}"


def gpu_points(megabytes=256, classes=LARGE_CLASSES, learner=LEARNER):
    """In the order of worth, as far as the time goes."""

    def rows(c, dtype):
        return megabytes * 2**20 // (c * DTYPES[dtype].itemsize)

    yield from (Point("learner", variant, "f32", n, c, True) for n, c in learner for variant in ("uniform", "skewed"))
    for dtype in DTYPES:
        yield from (Point("binary_cross_entropy", "plain", dtype, rows(c, dtype), c) for c in BINARY_CLASSES)
    for variant in "plain", "shared", "class_matrix":
        for dtype in DTYPES:
            sizes = [(n, c, True) for n, c in SMALL] + [(rows(c, dtype), c, False) for c in classes]
            for n, c, small in sizes:
                if variant != "class_matrix" or c <= MOST_MATRIX_CLASSES:
                    yield Point("cross_entropy", variant, dtype, n, c, small)


def cpu_points(quick):
    """In the order of worth, as far as the time goes."""
    sizes = ((128, 10), (1024, 100)) if quick else ((4096, 1000), *reversed(SMALL))
    yield from (Point("learner", "uniform", "f32", n, c) for n, c in sizes if n < 4096)
    yield from (Point("cross_entropy", "plain", "f32", n, c) for n, c in sizes)
    yield from (Point("binary_cross_entropy", "plain", "f32", n, c) for n, c in ((1024, 80), (128, 100)))
    yield from (Point("cross_entropy", variant, "f32", 1024, c) for c in (100, 1000) for variant in ("shared", "class_matrix"))
    yield from (Point("learner", "skewed", "f32", n, c) for n, c in sizes if n < 4096)


class Batch:
    """Normal logits; labels uniform, or half of them of one class; 5 % of the targets positive; perturbations as logit adjustment has them."""

    def __init__(self, point, device):
        generator = torch.Generator(device).manual_seed(1)

        def random(*shape):
            return torch.randn(*shape, generator=generator, device=device)

        self.logits = random(point.n, point.c).mul_(3).to(DTYPES[point.dtype])
        self.labels = torch.randint(point.c, (point.n,), generator=generator, device=device)
        if point.variant == "skewed":
            self.labels[::2] = 0
        self.targets = (random(point.n, point.c) > 1.645).to(DTYPES[point.dtype]) if point.what == "binary_cross_entropy" else None
        counts = 100.0 ** -torch.linspace(0, 1, point.c, dtype=torch.float64, device=device)
        prior = (counts / counts.sum()).log().float()
        self.delta = {"shared": lambda: prior, "class_matrix": lambda: prior + random(point.c, point.c)}.get(point.variant, lambda: None)()

    def perturb(self, u):
        """v of `u`, as a trainer writes it."""
        if self.delta is None:
            return u
        return u + (self.delta if self.delta.dim() == 1 else self.delta[self.labels])


def reference(point, batch):
    """Loss and gradient in float64."""
    function = {"cross_entropy": cross_entropy, "binary_cross_entropy": binary_cross_entropy, "learner": authors_steps}[point.what]
    targets, u = batch.targets, batch.logits.double().requires_grad_()
    try:
        batch.targets = None if targets is None else targets.double()
        loss = function(u, batch)
        return loss.detach(), torch.autograd.grad(loss, u)[0]
    finally:
        batch.targets = targets


def errors(found, expected):
    """Relative, of the loss, and of the gradient in norm and row by row at the worst."""
    (loss, gradient), (expected_loss, expected_gradient) = found, expected
    difference = (gradient.double() - expected_gradient).norm(dim=1)
    norms = expected_gradient.norm(dim=1)
    of_loss = (loss.detach() - expected_loss).abs() / expected_loss
    of_rows = difference / norms.clamp(min=norms.max() / 1e3)
    return [float(of_loss), float(difference.norm() / norms.norm()), float(of_rows.max())]


def call_of(make, point, batch, timer):
    """What is timed: loss and gradient; None where the peer is not installed. And what is to be done before each run."""
    function = make()
    if function is None:
        return None, None
    logits = batch.logits.clone().requires_grad_()

    def call():
        loss = function(logits, batch)
        return loss, torch.autograd.grad(loss, logits)[0]

    def restore():
        # Liger-Kernel leaves the gradient where the logits were.
        if point.what == "cross_entropy" and timer.device == "cuda":
            with torch.no_grad():
                logits.copy_(batch.logits)

    return call, restore


def measure(name, make, point, batch, expected, timer, rows, quick, ours):
    """The medians of runs with L2 flushed and, for a small batch, with L2 warm, each with the ratio to ours where that took turns; or a word
    why there are none."""
    try:
        call, restore = call_of(make, point, batch, timer)
        if call is None:
            return [("not installed", None)]
        call = captured(call) if "torch-graph" in name else call
        found = errors(call(), expected)
        print(f"{name}, {point}: errors of loss, gradient, its worst row: {found}", file=sys.stderr)
        # Written so that NaN fails.
        tolerance = TOLERANCE["bf16" if point.dtype == "bf16" else point.what]
        if not all(error <= tolerance for error in found):
            return [("wrong result", None)]
        if ours:
            return [in_turns(ours.us, lambda: timer.host_time(call), 2 if quick else 15)]
        runs = 3 if quick else 50 if point.small else 20
        timer.times(call, 3, before=restore)
        times = [timer.times(call, runs, before=restore)]
        if point.small:
            times.append(timer.times(call, runs, flush=False, before=restore))
        if point.what == "learner" and "torch-graph" not in name and timer.device == "cuda":
            rows.write(launches(call), what="launches", variant=f"learner {point.variant}", dtype=point.dtype, n=point.n, c=point.c, peer=name)
        return [(statistics.median(each), None) for each in times]
    except torch.cuda.OutOfMemoryError:
        return [("out of memory", None)]
    except Exception:  # whatever a peer raises is a result about it
        traceback.print_exc()
        return [("failed", None)]


def times_of_ours(path):
    """Our times by point, from a results file; points that have a word instead are left out."""
    with open(path, newline="") as file:
        rows = [row for row in csv.DictReader(file) if not row["peer"] and row["us"].replace(".", "", 1).isdigit()]
    return {tuple(row[name] for name in KEY): float(row["us"]) for row in rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="few small sizes, few runs each")
    parser.add_argument("--seconds", type=float, default=210, help="points not begun by then are not reached")
    parser.add_argument("--ours", help="on a GPU: a results file with our times; on the CPU: the program time_case")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="on the CPU")
    parser.add_argument("--filter", default="", help="only points whose 'peer, what variant dtype nxc' contains this")
    options = parser.parse_args()
    deadline = time.monotonic() + options.seconds
    cpu = options.device == "cpu"
    torch.set_num_threads(options.threads)

    timer = Timer(options.device)
    rows = Rows(options.device, None if cpu else timer.copy(BASELINE))
    rows.header()
    known = times_of_ours(options.ours) if options.ours and not cpu else {}
    quick_gpu = (1, (10, 1000, 50257), ((128, 10),))
    all_points = cpu_points(options.quick) if cpu else gpu_points(*quick_gpu) if options.quick else gpu_points()
    failed = False
    for point in all_points:
        chosen = {name: make for name, make in peers(point.what, not cpu).items() if options.filter in f"{name}, {point}"}
        if not chosen:
            continue
        late = time.monotonic() > deadline
        batch = None if late else Batch(point, options.device)
        expected = None if late else reference(point, batch)
        beside = Ours(options.ours, point, batch, options.threads) if cpu and options.ours and not late else nullcontext()
        with beside as ours:
            for name, make in chosen.items():
                against = (ours.loss, ours.gradient) if ours else expected
                late |= time.monotonic() > deadline
                results = [("not reached", None)] if late else measure(name, make, point, batch, against, timer, rows, options.quick, ours)
                way = f"{point.variant} graph" if "torch-graph" in name else point.variant
                for variant, (us, ratio) in zip([way, f"{way} warm"], results):
                    failed |= us in ("wrong result", "failed")
                    row = dict(what=point.what, variant=variant, dtype=point.dtype, n=point.n, c=point.c)
                    our_us = known.get(tuple(str(value) for value in row.values()))
                    if our_us and isinstance(us, float):
                        ratio = us / our_us
                    rows.write(us, **row, bytes=point.bytes(), peer=name, ratio=ratio)
        if not cpu:
            del batch, expected
            torch.cuda.empty_cache()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
