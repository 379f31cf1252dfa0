"""What others compute: each function gives the mean loss of logits `u` [N, C], to be differentiated by autograd.

The losses are those that PyTorch and libraries of kernels offer. The learner is the single-label one of the case files (SPEC 3) with unit-norm
steps, a fixed bound and the mean confidence as its threshold: in the way that the authors' code works, and in the fewest operations.
"""

import importlib.metadata

import torch
import torch.nn.functional as F

ALPHA, BOUND = 0.1, 4.0
STEPS = int(BOUND / ALPHA * (1 + 1e-6))


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


# ---- losses


def cross_entropy(u, batch):
    return F.cross_entropy(batch.perturb(u), batch.labels)


def binary_cross_entropy(u, batch):
    return F.binary_cross_entropy_with_logits(u, batch.targets)


def compiled(function):
    # Sizes are compiled for one by one: code for any size is slower.
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False)


def liger():
    if not version("liger-kernel"):
        return None
    from liger_kernel.ops import LigerCrossEntropyFunction

    return lambda u, batch: LigerCrossEntropyFunction.apply(batch.perturb(u), batch.labels, None)[0]


def quack():
    if not version("quack-kernels"):
        return None
    from quack.cross_entropy import cross_entropy

    return lambda u, batch: cross_entropy(batch.perturb(u), batch.labels, reduction="mean")


# ---- the learner


def directions(confidence, counts):
    """-1 for the classes above the mean confidence of those present, 1 for those below, 0 for absent ones."""
    tau = confidence.where(counts > 0, 0).sum() / (counts > 0).sum()
    distance = tau - confidence
    return torch.sign(distance).where((counts > 0) & (distance.abs() > 1e-6), 0)


def one_hot_step(u, delta, one_hot, counts, direction, labels):
    """A step as the authors take it: every row has its class's perturbation, found by a matrix product with the one-hot labels."""
    residual = (u + delta).softmax(1) - one_hot
    g = one_hot.T @ residual / counts.clamp(min=1)[:, None]
    g = g / g.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return delta + ALPHA * (direction[:, None] * g)[labels]


def one_hot_setup(u, labels):
    one_hot = F.one_hot(labels, u.shape[1]).to(u.dtype)
    counts = one_hot.sum(0)
    confidence = (u.softmax(1) * one_hot).sum(0) / counts
    return one_hot, counts, directions(confidence, counts)


def authors_way(logits, batch):
    """All steps' perturbations are stored; a loop over the classes then takes each one's own, and asks the device how many steps it made."""
    labels, u = batch.labels, logits.detach()
    with torch.no_grad():
        one_hot, counts, direction = one_hot_setup(u, labels)
        steps = STEPS * direction.abs()
        delta, stored = torch.zeros_like(u), []
        for _ in range(int(steps.max())):
            delta = one_hot_step(u, delta, one_hot, counts, direction, labels)
            stored.append(delta.clone())
        chosen = torch.zeros_like(u)
        for label in range(u.shape[1]):
            taken = int(steps[label])
            if taken > 0:
                rows = labels == label
                chosen[rows] = stored[taken - 1][rows]
    return F.cross_entropy(logits + chosen, labels)


def authors_steps(logits, batch):
    """The same steps without what a CUDA graph cannot hold: nothing is read by the host, since all classes that move take as many steps."""
    labels, u = batch.labels, logits.detach()
    with torch.no_grad():
        one_hot, counts, direction = one_hot_setup(u, labels)
        delta = torch.zeros_like(u)
        for _ in range(STEPS):
            delta = one_hot_step(u, delta, one_hot, counts, direction, labels)
    return F.cross_entropy(logits + delta, labels)


def class_sums(logits, batch):
    """As few operations as PyTorch allows: a perturbation for each class present, and sums by class in place of the matrix product."""
    u = logits.detach()
    with torch.no_grad():
        _, place, counts = batch.labels.unique(return_inverse=True, return_counts=True)
        labels = batch.labels[:, None]
        minus_one = torch.full_like(labels, -1, dtype=u.dtype)
        q = u.softmax(1).gather(1, labels)[:, 0]
        zeros = u.new_zeros(len(counts))
        direction = directions(zeros.index_add(0, place, q) / counts, counts)[:, None]
        delta = u.new_zeros(len(counts), u.shape[1])
        for _ in range(STEPS):
            residual = (u + delta[place]).softmax(1).scatter_add_(1, labels, minus_one)
            g = torch.zeros_like(delta).index_add_(0, place, residual) / counts[:, None]
            delta += ALPHA * direction * g / g.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return F.cross_entropy(logits + delta[place], batch.labels)


# ---- who is measured: a name with its version, and what makes its function (None where it is not installed) by what is computed


def torch_name(kind):
    return f"torch-{kind} {torch.__version__}"


def peers(what, cuda):
    if what == "cross_entropy":
        kernels = {"liger-kernel": liger, "quack-kernels": quack} if cuda else {}
        named = {f"{package} {version(package)}".strip(): make for package, make in kernels.items()}
        return {
            torch_name("eager"): lambda: cross_entropy,
            torch_name("compile"): lambda: compiled(cross_entropy),
        } | named
    if what == "binary_cross_entropy":
        return {
            torch_name("eager"): lambda: binary_cross_entropy,
            torch_name("compile"): lambda: compiled(binary_cross_entropy),
        }
    ways = {f"authors' way, {torch_name('eager')}": lambda: authors_way, f"class sums, {torch_name('eager')}": lambda: class_sums}
    return ways | ({f"authors' steps, {torch_name('graph')}": lambda: authors_steps} if cuda else {})
