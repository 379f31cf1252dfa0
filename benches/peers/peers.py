"""Times what others offer for cross-entropy's loss and gradient, each checked before it is timed.

Rows go to standard output as README.md tells; errors, and how far each result is from float64, go to standard error. Exit status 1 where a
peer failed or gave another result. `--device cpu --quick` tries the script itself where there is no GPU.
"""

import argparse
import csv
import importlib.metadata
import statistics
import sys
import time
import traceback
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from measure import BASELINE, Rows, Timer

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
VARIANTS = "plain", "shared"
LARGE_CLASSES = 10, 100, 1000, 1024, 4096, 10000, 16384, 32768, 50257, 128256
SMALL_SIZES = (128, 10), (128, 100), (1024, 1000)
# Of f32, rounding alone. PyTorch keeps the log-probabilities of bf16 logits in bf16, which is good for a few percent.
TOLERANCE = {"f32": 1e-5, "bf16": 5e-2}
KEY = "what", "variant", "dtype", "n", "c"


@dataclass(frozen=True)
class Point:
    variant: str
    dtype: str
    n: int
    c: int
    small: bool

    def bytes(self):
        """Logits read, gradient written, labels read, perturbation read: each once."""
        return 2 * self.n * self.c * DTYPES[self.dtype].itemsize + 8 * self.n + (4 * self.c if self.variant == "shared" else 0)


class Batch:
    """Normal logits, and a perturbation as logit adjustment of a long tail makes it."""

    def __init__(self, point, device):
        generator = torch.Generator(device).manual_seed(1)
        self.logits = torch.randn(point.n, point.c, generator=generator, device=device).mul_(3).to(DTYPES[point.dtype])
        self.labels = torch.randint(point.c, (point.n,), generator=generator, device=device)
        counts = 100.0 ** -torch.linspace(0, 1, point.c, dtype=torch.float64, device=device)
        self.delta = (counts / counts.sum()).log().float() if point.variant == "shared" else None


# ---- peers: each makes a function of logits, perturbation and labels that returns the mean loss; None where it is not installed


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def plainly(logits, delta, labels):
    return F.cross_entropy(logits if delta is None else logits + delta, labels)


def eager():
    return plainly


def compiled():
    # Sizes are compiled for one by one: code for any size is slower.
    torch._dynamo.reset()
    return torch.compile(plainly, dynamic=False)


def liger():
    if not version("liger-kernel"):
        return None
    from liger_kernel.ops import LigerCrossEntropyFunction

    def loss(logits, delta, labels):
        return LigerCrossEntropyFunction.apply(logits if delta is None else logits + delta, labels, None)[0]

    return loss


PEERS = {
    f"torch-eager {torch.__version__}": eager,
    f"torch-compile {torch.__version__}": compiled,
    f"liger-kernel {version('liger-kernel')}".strip(): liger,
}

# ---- checking


def errors(batch, loss, gradient):
    """Against float64, over all rows: of the loss; of the gradient in norm, at the labels and, far smaller, elsewhere."""
    n, c = batch.logits.shape
    total, squares = 0, torch.zeros(2, 2, dtype=torch.float64, device=batch.logits.device)
    rows = max(1, 2**24 // c)
    for start in range(0, n, rows):
        part = slice(start, start + rows)
        labels = batch.labels[part, None]
        v = batch.logits[part].double()
        if batch.delta is not None:
            v += batch.delta
        log_p = v.log_softmax(1)
        total -= log_p.gather(1, labels).sum()
        reference = log_p.exp()
        reference.scatter_add_(1, labels, torch.full_like(labels, -1, dtype=torch.float64))
        difference = gradient[part].double() * n - reference
        for i, values in enumerate((difference, reference)):
            squares[0, i] += values.gather(1, labels).square().sum()
            squares[1, i] += values.scatter(1, labels, 0.0).square().sum()
    reference = total / n
    return [float((loss.detach() - reference).abs() / reference), *(squares[:, 0] / squares[:, 1]).sqrt().tolist()]


# ---- timing


def measure(peer, point, timer, quick):
    """The medians of runs with L2 flushed and, for a small batch, with L2 warm; or a word why there are none."""
    try:
        function = PEERS[peer]()
        if function is None:
            return ["not installed"]
        batch = Batch(point, timer.device)
        logits = batch.logits.clone().requires_grad_()

        def call():
            loss = function(logits, batch.delta, batch.labels)
            return loss, torch.autograd.grad(loss, logits)[0]

        def restore():
            # Liger-Kernel leaves the gradient where the logits were.
            with torch.no_grad():
                logits.copy_(batch.logits)

        found = errors(batch, *call())
        print(f"{peer} {point}: errors of loss, gradient at labels, elsewhere: {found}", file=sys.stderr)
        # Written so that NaN fails.
        if not all(error <= TOLERANCE[point.dtype] for error in found):
            return ["wrong result"]
        runs = 3 if quick else 50 if point.small else 20
        timer.times(call, 3, before=restore)
        flushed = statistics.median(timer.times(call, runs, before=restore))
        return [flushed] + ([statistics.median(timer.times(call, runs, flush=False, before=restore))] if point.small else [])
    except torch.cuda.OutOfMemoryError:
        return ["out of memory"]
    except Exception:  # whatever a peer raises is a result about it
        traceback.print_exc()
        return ["failed"]


def points(quick):
    megabytes, classes = (1, (10, 1000, 50257)) if quick else (256, LARGE_CLASSES)
    for dtype in DTYPES:
        for variant in VARIANTS:
            for n, c in SMALL_SIZES:
                yield Point(variant, dtype, n, c, True)
            for c in classes:
                yield Point(variant, dtype, megabytes * 2**20 // (c * DTYPES[dtype].itemsize), c, False)


def ours(path):
    """Our times by point, from a results file; points that have a word instead are left out."""
    with open(path, newline="") as file:
        rows = [row for row in csv.DictReader(file) if not row["peer"] and row["us"].replace(".", "", 1).isdigit()]
    return {tuple(row[name] for name in KEY): float(row["us"]) for row in rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="few small sizes, 3 runs each")
    parser.add_argument("--seconds", type=float, default=210, help="points not begun by then are not reached")
    parser.add_argument("--ours", help="a results file with our times, for the column `ratio`")
    parser.add_argument("--filter", default="", help="only points whose 'peer variant dtype nxc' contains this")
    options = parser.parse_args()
    deadline = time.monotonic() + options.seconds

    timer = Timer(options.device)
    rows = Rows(options.device, timer.copy(BASELINE))
    rows.header()
    reference = ours(options.ours) if options.ours else {}
    failed = False
    for point in points(options.quick):
        for peer in PEERS:
            if options.filter not in f"{peer} {point.variant} {point.dtype} {point.n}x{point.c}":
                continue
            late = time.monotonic() > deadline
            results = ["not reached"] if late else measure(peer, point, timer, options.quick)
            failed |= any(result in ("wrong result", "failed") for result in results)
            for variant, us in zip([point.variant, f"{point.variant} warm"], results):
                row = dict(what="cross_entropy", variant=variant, dtype=point.dtype, n=point.n, c=point.c)
                our_us = reference.get(tuple(str(value) for value in row.values()))
                if our_us and isinstance(us, float):
                    row["ratio"] = f"{us / our_us:.3f}"
                rows.write(us, **row, bytes=point.bytes(), peer=peer)
            if options.device == "cuda":
                torch.cuda.empty_cache()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
