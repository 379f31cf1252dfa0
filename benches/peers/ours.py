"""Ours on the CPU: a process that times a case file whenever it is told to, so that a peer and it take turns in one run."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import safetensors.torch
import torch

from methods import ALPHA, BOUND

LEARNED = {"alpha": ALPHA, "step": "unit_l2", "split": {"by": "mean_confidence"}, "bound": {"form": "fixed", "eps": BOUND}}


def case(point, batch):
    """The problem and the tensors of a case file (SPEC 7)."""
    if point.what == "binary_cross_entropy":
        return {"kind": "sigmoid"}, {"logits": batch.logits, "targets": batch.targets.to(torch.int8)}
    problem, tensors = {"kind": "softmax"}, {"logits": batch.logits, "labels": batch.labels}
    if point.what == "learner":
        problem["learned"] = LEARNED
    elif batch.delta is not None:
        problem["perturbation"] = point.variant
        tensors["perturbation"] = batch.delta.double()
    return problem, tensors


class Ours:
    """`program` is the example time_case. `loss` and `gradient` are the reference's, in float64."""

    def __init__(self, program, point, batch, threads):
        problem, tensors = case(point, batch)
        with tempfile.TemporaryDirectory() as folder:
            given, expected = Path(folder, "given.safetensors"), Path(folder, "expected.safetensors")
            safetensors.torch.save_file(tensors, given, {"problem": json.dumps(problem)})
            self.process = subprocess.Popen(
                [program, given, expected],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"RAYON_NUM_THREADS": str(threads)},
            )
            if self.process.stdout.readline() != "ready\n":
                raise RuntimeError(f"{program} ended with status {self.process.wait()}")
            found = safetensors.torch.load_file(expected)
        self.loss, self.gradient = found["expect.loss"][0], found["expect.grad"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()

    def us(self):
        """Microseconds of one run."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())
