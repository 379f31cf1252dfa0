"""Builds mutants, and runs the tests that they face."""

import concurrent.futures
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from mutation.changes import KERNELS, ROOT, apply

# Which tests a file's mutants have to face (of each test target, those whose names begin so), and which variants they are made of: tests run
# the others unchanged. Together these hold every line of the file.
SOFTMAX_TESTS = {"emulated": "", "emulated_edges": "", "grid": "emulated::cross_entropy"}
SIGMOID_TESTS = {"emulated_edges": "", "emulated_binary": "", "emulated_binary_learn": "", "grid": "emulated::binary"}
# Of what all losses share, and the learners take over as it is.
LOSS_TESTS = {"emulated": "", "emulated_edges": "", "emulated_binary": "", "grid": "emulated::"}
SIGMOID = "(decode_targets|binary_.*|learn_binary_.*)_(f32|bf16).*"
SOFTMAX = "cross_entropy_f32_(tile|tile_general|warp_4|block_8|cluster_general|two_read)|cross_entropy_bf16_(tile_general|shared_general)"
PROOFS = [
    (
        r"(binary_confidences|learn_binary_cross_entropy)\.cu|binary_learner\.cuh", {"emulated_binary_learn": ""},
        "(binary_confidences|learn_binary_cross_entropy)_(f32|bf16)",
    ),
    (r"(binary_.*|decode_targets)\.cu|(sigmoid|targets|running_sum)\.cuh", SIGMOID_TESTS, SIGMOID),
    (r"tally_labels\.cu", SOFTMAX_TESTS, "tally"),
    (r"(labels|perturbation)\.cuh", SOFTMAX_TESTS, "tally|class_statistics|" + SOFTMAX),
    (r"(elements|fixed_sum)\.cuh", LOSS_TESTS, "class_statistics|" + SOFTMAX + "|" + SIGMOID),
    (r"class_statistics\.cu", SOFTMAX_TESTS, "class_statistics"),
    (r"tile_rows\.cuh", SOFTMAX_TESTS, "cross_entropy_(f32|bf16)_tile.*"),
    (
        r"slot_rows\.cuh", SOFTMAX_TESTS,
        "cross_entropy_f32_(warp_4|warp_16_general|block_8|block_32_general|shared|shared_general|cluster_general|two_read)|"
        "cross_entropy_bf16_shared_general",
    ),
    (
        r"(group_rows|learn_cross_entropy)\.cu|(groups|learn_.*)\.cuh", {"emulated_learn": ""},
        "group_rows|learn_cross_entropy_f32_.*|learn_cross_entropy_bf16_8",
    ),
    (
        r".*", {**SOFTMAX_TESTS, "emulated_binary": "", "emulated_binary_learn": "", "emulated_learn": ""},
        "tally|class_statistics|" + SOFTMAX + "|" + SIGMOID + "|group_rows|learn_cross_entropy_f32_8",
    ),
]
# What a mutant is made of at first and then, as far as it is among the above: most are killed by then.
FEWEST = "tally|cross_entropy_f32_cluster_general|(learn_)?binary_cross_entropy_f32"
FEW = (
    "tally|class_statistics|cross_entropy_f32_(tile|cluster_general)|"
    "(decode_targets|binary_class_statistics|binary_confidences|binary_cross_entropy|learn_binary_cross_entropy)_f32|"
    "group_rows|learn_cross_entropy_f32_8"
)
# Seconds that a test may take to be run before a mutant is made of all its variants.
QUICK_S = 0.5
TEST_TARGETS = ["emulated", "emulated_edges", "emulated_binary", "emulated_binary_learn", "emulated_learn", "grid"]

# Binaries that take longer to start than a test takes to run: tests whose names begin alike run in one process.
GROUPS = {"grid": r"emulated::\w+"}

LIBRARY = "libkernels.so"

# Seconds of CPU that a test may take beyond ten times what it takes without a mutant. The emulator counts the steps of threads that wait,
# so only a loop that touches nothing lasts as long.
HANG_CPU_S = 20

# How a test ends that a mutant kills; by any other signal, it crashes.
NOTES = {101: "", -signal.SIGXCPU: " (hangs)", -signal.SIGILL: " (beyond an array)", -signal.SIGTRAP: " (beyond an array)"}


def proof_of(file):
    """The tests that a file's mutants face, and the variants they are made of."""
    return next((tests, variants) for files, tests, variants in PROOFS if re.fullmatch(files, file))


@dataclass(frozen=True)
class Test:
    """A test of a binary, or a group of them: the `members`, whose names begin with `name`."""

    binary: Path
    name: str
    members: tuple = ()


class DoesNotCompile(Exception):
    """The compiler's message."""


class Bench:
    """The test binaries, and what mutants are built with."""

    def __init__(self, work, most_jobs):
        self.work = work
        self.cxx = shlex.split(os.environ.get("CXX", "g++"))
        self.flags = ["-std=c++17", "-O0", "-fPIC", "-fno-strict-aliasing", "-ffp-contract=off", "-DEMULATED", "-w"]
        # Locals are the compiler's, not the emulator's: it checks their bounds, as scripts/sanitize.sh does, and needs no library to trap.
        bounds = "bounds" if "clang" in subprocess.check_output([*self.cxx, "--version"], text=True) else "bounds-strict"
        self.flags += [f"-fsanitize={bounds},object-size", "-fsanitize-undefined-trap-on-error"]
        self.jobs = most_jobs
        messages = self.cargo("test", "--no-run", *[f"--test={name}" for name in TEST_TARGETS])
        outs = [m["out_dir"] for m in messages if m.get("out_dir") and "logit-perturb-emulator" in m["out_dir"]]
        self.units = self.read_units(Path(outs[0]) / "sources")
        self.precompile()
        library = work / "unchanged" / LIBRARY
        library.parent.mkdir()
        with concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:
            compiled = pool.map(lambda name: self.compile(name, KERNELS, library.parent), self.units)
            self.objects = dict(zip(self.units, compiled))
        self.build(KERNELS, library.parent, lambda name: True, {})
        linker = work / "linker"
        # Before everything else, so that no kernel is taken from the emulator's archive.
        linker.write_text(f'#!/bin/sh\nexec {os.environ.get("CC", "cc")} -Wl,--no-as-needed {library} "$@"\n')
        linker.chmod(0o755)
        self.tests = [test for name in TEST_TARGETS for test in self.link(name, linker)]
        self.time_tests(library.parent)

    def cargo(self, command, *arguments):
        """Runs cargo; its messages."""
        done = subprocess.run(
            ["cargo", command, "--locked", "--message-format=json-render-diagnostics", *arguments],
            cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False,
        )
        if done.returncode != 0:
            sys.exit(f"cargo {command} failed")
        return [json.loads(line) for line in done.stdout.splitlines()]

    @staticmethod
    def read_units(folder):
        """The C++ units made of kernels, by name: their text, with a mark where the folder of the kernels is named."""
        units = {}
        for path in sorted(folder.glob("*.cpp")):
            text = path.read_text()
            if f'"{KERNELS}/' in text:
                units[path.stem] = text.replace(f'"{KERNELS}/', '"@KERNELS@/')
        return units

    def compiler(self, kernels, *arguments):
        """The command that compiles a unit from standard input."""
        return [*self.cxx, *self.flags, f"-I{self.work}", f"-I{kernels}", f"-I{ROOT}/tests/emulator/cpp", *arguments]

    def precompile(self):
        """What all units begin with, once; compilers that do not know GCC's way ignore it."""
        header = ROOT / "tests/emulator/cpp/runtime.hpp"
        to = self.work / "runtime.hpp.gch"
        subprocess.run(self.compiler(KERNELS, "-x", "c++-header", str(header), "-o", str(to)), check=True)

    def compile(self, name, kernels, folder, known=None):
        """A unit's preprocessed text and its object: `known`, where that is of the same text."""
        text = self.units[name].replace("@KERNELS@", str(kernels))
        pure = subprocess.run(
            self.compiler(kernels, "-E", "-P", "-x", "c++", "-"), input=text, capture_output=True, text=True, check=True
        ).stdout
        if known and known[0] == pure:
            return known
        to = folder / f"{name}.o"
        done = subprocess.run(
            self.compiler(kernels, "-c", "-x", "c++", "-", "-o", str(to)), input=text, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise DoesNotCompile(done.stderr)
        return pure, to

    def build(self, kernels, folder, variants, built):
        """The kernels of a folder as a shared library. Units of other variants, or that the change does not reach, are as they were; `built` are
        those that are not, by name, and grows."""
        before = len(built)
        for name in self.units:
            if name not in built and variants(name):
                unit = self.compile(name, kernels, folder, self.objects[name])
                if unit != self.objects[name]:
                    built[name] = unit
        library = folder / LIBRARY
        if len(built) > before or not library.exists():
            objects = [str(path) for _, path in {**self.objects, **built}.values()]
            subprocess.run([*self.cxx, "-shared", f"-Wl,-soname,{library.name}", "-o", str(library), *objects], check=True)

    def link(self, name, linker):
        """A test binary that takes the kernels from the library: it and the names of its tests."""
        messages = self.cargo("rustc", f"--test={name}", "--profile=test", "--", "-C", f"linker={linker}")
        binary = next(m["executable"] for m in messages if m.get("executable"))
        copy = self.work / name
        shutil.copy(binary, copy)
        environment = {**os.environ, "LD_LIBRARY_PATH": str(linker.parent / "unchanged")}
        listed = subprocess.run([copy, "--list"], env=environment, capture_output=True, text=True, check=True).stdout
        names = [name for name in re.findall(r"^(.+?) *: test$", listed, re.M) if not name.startswith("cpu::")]
        groups = {}
        for test in names:
            group = re.match(GROUPS.get(name, "$"), test)
            groups.setdefault(group[0] if group else test, []).append(test)
        return [Test(copy, prefix, tuple(tests) if tests != [prefix] else ()) for prefix, tests in groups.items()]

    def run_test(self, test, folder, **environment):
        """How a test ends with the library of a folder: its return code, and what it prints."""
        # A limit on the processor's time, which does not depend on what else the machine does.
        # How long a test takes is not known at first, and of a member of a group no more than that of all.
        limit = int(HANG_CPU_S + 10 * self.seconds.get(test, 1.0 if self.seconds else 100.0))
        exact = [] if test.members else ["--exact"]
        command = ["sh", "-c", f'ulimit -S -t {limit}; exec "$@"', "sh", str(test.binary), *exact, test.name, "--test-threads=1"]
        environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "RUST_BACKTRACE": "0", **environment}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
        return done.returncode, done.stdout.decode(errors="replace")

    def killer(self, test, folder, code, output):
        """The name of the test that failed, and a note on how."""
        if test.members:
            failed = re.search(r"^test (.+?) +\.\.\. FAILED$", output, re.M)
            passed = set(re.findall(r"^test (.+?) +\.\.\. ok$", output, re.M))
            # One that ends the process is not named: it is the first that fails alone.
            for name in [failed[1]] if failed else [name for name in test.members if name not in passed]:
                code = self.run_test(Test(test.binary, name), folder)[0]
                if code != 0:
                    test = Test(test.binary, name)
                    break
        return test.name + NOTES.get(code, " (crashes)")

    def time_tests(self, folder):
        """Sorts the tests by the time they take, requires that they pass, and notes which kernels they launch."""
        self.launched, self.seconds = {}, {}

        def timed(test):
            with tempfile.NamedTemporaryFile("r", dir=self.work) as names:
                start = time.monotonic()
                if self.run_test(test, folder, EMULATOR_LAUNCHED=names.name)[0] != 0:
                    sys.exit(f"{test.name} fails without a mutant")
                seconds = time.monotonic() - start
                self.launched[test] = set(names.read().split())
            return seconds

        with concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:
            seconds = dict(zip(self.tests, pool.map(timed, self.tests)))
        self.tests.sort(key=seconds.get)
        self.seconds = seconds
        self.kills = {test: 0 for test in self.tests}

    def judge(self, mutant, first=""):
        """A mutant's outcome and what killed it; the test called `first` runs first."""
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            kernels = Path(folder) / "kernels"
            apply(mutant, kernels)
            targets, all_variants = proof_of(mutant.file)
            tests = [test for test in self.tests if test.name.startswith(targets.get(test.binary.name, "none"))]
            built, passed = {}, set()
            for few, most in ((FEWEST, QUICK_S), (FEW, QUICK_S), (".*", float("inf"))):
                before = set(built)
                try:
                    self.build(kernels, Path(folder), lambda name: re.fullmatch(all_variants, name) and re.fullmatch(few, name), built)
                except DoesNotCompile as error:
                    return "does not compile", next(line for line in str(error).splitlines() if "error" in line)
                # A test has something to find where it launches what is new to it.
                new = built.keys() - before
                facing = [
                    test for test in tests
                    if self.seconds[test] <= most * max(1, len(test.members))
                    and self.launched[test] & (new if test in passed else built.keys())
                ]
                # What has killed many soon is likely to kill the next.
                promise = {test: self.kills[test] / (0.1 + self.seconds[test]) for test in facing}
                for test in sorted(facing, key=lambda test: (first not in (test.name, *test.members), -promise[test])):
                    code, output = self.run_test(test, folder)
                    if code != 0:
                        self.kills[test] += 1
                        return "killed", self.killer(test, folder, code, output)
                    passed.add(test)
        return "survived", ""
