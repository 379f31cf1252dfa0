#!/usr/bin/env python3
"""Mutation proof of kernels/: changes them in one place at a time and names the emulated test that notices.

usage: scripts/mutants.py                        every mutant; writes tests/mutants/results.csv (tests/mutants/README.md says more)
       scripts/mutants.py --changed [--file F]   those of files that are not as results.csv found them; updates the results
       scripts/mutants.py --survivors            those that survived, again; updates the results
       scripts/mutants.py --only TEXT            those whose file, line or mutation contains TEXT; writes nothing
       scripts/mutants.py --sample N --seed S    N that results.csv says are killed: must be killed again; writes nothing
       scripts/mutants.py --list                 lists the mutants

Cargo builds the test binary once, with the kernels in a shared library. A mutant costs the C++ units that its change reaches, that
library, and the tests until one fails.
"""

import argparse
import concurrent.futures
import csv
import hashlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "kernels"
RESULTS = ROOT / "tests/mutants/results.csv"
README = ROOT / "tests/mutants/README.md"
# Which tests a file's mutants have to face (of each test target, those whose names begin so), and which variants they are made of: tests run
# the others unchanged. Together these hold every line of the file.
SOFTMAX_TESTS = {"emulated": "", "emulated_edges": "", "grid": "emulated::cross_entropy"}
SIGMOID_TESTS = {"emulated_binary": "", "emulated_binary_learn": "", "grid": "emulated::binary"}
# Of what all losses share, and the learners take over as it is.
LOSS_TESTS = {"emulated": "", "emulated_edges": "", "emulated_binary": "", "grid": "emulated::"}
SIGMOID = "(decode_targets|binary_.*|learn_binary_.*)_(f32|bf16).*"
SOFTMAX = "cross_entropy_f32_(tile_general|warp_4|cluster_general|two_read)|cross_entropy_bf16_(tile|shared_general)"
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
        "cross_entropy_f32_(warp_4|warp_16_general|block_8|block_32_general|shared_general|cluster_general|two_read)|"
        "cross_entropy_bf16_shared_general",
    ),
    (
        r"(group_rows|learn_cross_entropy)\.cu|(groups|learn_.*)\.cuh", {"emulated_learn": ""},
        "group_rows|learn_cross_entropy_f32_.*|learn_cross_entropy_bf16_shared_general",
    ),
    (
        r".*", {**SOFTMAX_TESTS, "emulated_binary": "", "emulated_binary_learn": "", "emulated_learn": ""},
        "tally|class_statistics|" + SOFTMAX + "|" + SIGMOID + "|group_rows|learn_cross_entropy_f32_shared_general",
    ),
]
# What a mutant is made of at first and then, as far as it is among the above: most are killed by then.
FEWEST = "tally|cross_entropy_f32_cluster_general|(learn_)?binary_cross_entropy_f32"
FEW = (
    "tally|class_statistics|cross_entropy_f32_(tile|cluster_general)|"
    "(decode_targets|binary_class_statistics|binary_confidences|binary_cross_entropy|learn_binary_cross_entropy)_f32|"
    "group_rows|learn_cross_entropy_f32_shared"
)
# Seconds that a test may take to be run before a mutant is made of all its variants.
QUICK_S = 0.5
TEST_TARGETS = ["emulated", "emulated_edges", "emulated_binary", "emulated_binary_learn", "emulated_learn", "grid"]

# Binaries that take longer to start than a test takes to run: tests whose names begin alike run in one process.
GROUPS = {"grid": r"emulated::\w+"}

LIBRARY = "libkernels.so"

COLUMNS = ["file", "line", "mutation", "outcome", "killed_by"]

# Seconds of CPU that a test may take beyond ten times what it takes without a mutant. The emulator counts the steps of threads that wait,
# so only a loop that touches nothing lasts as long.
HANG_CPU_S = 20

# How a test ends that a mutant kills; by any other signal, it crashes.
NOTES = {101: "", -signal.SIGXCPU: " (hangs)", -signal.SIGILL: " (beyond an array)", -signal.SIGTRAP: " (beyond an array)"}

# What is replaced, and by what. Applied to code, never to comments; every match is a mutant.
RULES = [
    # Waiting.
    (r"\b(?:block_barrier|device_fence|cluster_barrier)\(\);", ""),
    (r"\bturn \^= 1;", ""),
    (r"\bWARP / 2\b", "WARP / 4"),
    (r"\blanes > 0\b", "lanes > 1"),
    (r"\bgrid_blocks\(\) - 1\b", "grid_blocks()"),
    # Bounds.
    (r" < ", " <= "),
    (r" <= ", " < "),
    (r" >= ", " > "),
    (r"(?<=\+= )(block_threads|grid_blocks|team_threads)\(\)", r"\1() + 1"),
    (r"(?<== )(thread_index|block_index|team_thread)\(\);", r"\1() + 1;"),
    (r"(?<=from )\+ thread_index\(\)", ""),
    (r"(\w+ = )0; (?=\w+ < |j < )", r"\g<1>1; "),
    (r"\+ args\.(tile_rows|chunk) - 1\b", ""),
    (r"\(chunk \+ 1\)", "chunk"),
    (r"(?<=first \+ )[14]\b(?= <=)", "3"),
    # What things start from.
    (r"\bminus_infinity\(\)(?!\s*\{)", "0.0f"),
    (r"\b0\.0f\b", "1.0f"),
    (r"\b0\.0\b(?!f)", "1.0"),
    (r"(?<!define )\bNO_ROW\b", "0"),
    (r"\{0, 0, ", "{1, 1, "),
    (r"(?<=valid, )0\b|(?<=bad, )0\b", "1"),
    (r": -1(?=[;)])", ": 0"),
    # Operations.
    (r"\bMaximum\(\)", "Minimum()"),
    (r"\bMinimum\(\)", "Maximum()"),
    (r"\bSum\(\)", "Maximum()"),
    (r"\bMaximal\(\)", "Minimum()"),
    (r"\bweigh\(([\w.\[\]]+), ((?:[^(),]|\([^()]*\))+)\)", r"(\1 * (\2))"),
    (r" == ", " != "),
    (r" != ", " == "),
    (r"(?<=return b < a \? )b : a", "a : b"),
    (r"\blog1pf\((\w+)\)", r"logf(1.0f + \1)"),
    (r"\brow\.(?:class_weight|weight|margin)\b(?! =)", "1.25f"),
    (r"\brow\.delta\b(?! =)", "0"),
    (r"\brow\.index\b(?=,|\))", "0"),
    # Selections, where a name alone decides.
    (r"(?<![=<>&|] )(?<![\w.])([a-z][\w.]*)(?= \? )", r"!\1"),
    (r"!(inside)(?= \? )", r"\1"),
    (r"\bKEEP\b(?= \? )", "!KEEP"),
    # Widths.
    (r"((?:\([^()]*\)|[\w.]+) \* args\.(?:\w+_stride|tile_rows|chunk))\b", r"static_cast<i64>(static_cast<i32>(\1))"),
    (r"\bstatic_cast<const i64\*>", "static_cast<const i32*>"),
    (r"\bstatic_cast<const i32\*>", "static_cast<const i64*>"),
    (r"\bstatic_cast<const u32\*>", "static_cast<const i32*>"),
    # Places in memory.
    (r"(?<=scratch) \+ turn \* MOST_WARPS", ""),
    (r"(?<=scratch\[)turn(?=\])", "0"),
    (r"\* pitch\b", "* classes"),
    (r"\bclasses \| 1\b", "classes"),
    (r"& 15\b", "& 7"),
    (r"\b4 \* slot - shift\b", "4 * slot"),
    (r"\baligned && ", ""),
    (r"(?<=aligned = )shift_of\(to\) == reading\.shift", "true"),
    (r"\bargs\.gradient_stride\b", "args.logits_stride"),
    (r"\bload_fresh\((&?[\w.\[\]>-]+(?: \+ tile)?)\)", r"load_fresh(\1) * 0"),
    (r"\boperand\.stride\b", "1"),
    (r"\bload_peer\((\w+)( \+ i)?, lane\)", r"load_peer(\1\2, 0)"),
    (r"\bcluster_rank\(\) \* ", ""),
    (r" / cluster_blocks\(\)", ""),
    (r"\bj \* (?=static_cast<i32>\(block_threads)", ""),
    (r"\bi \* MOST_WARPS \+ ", ""),
    (r"\[k \+ 1\]", "[k]"),
    # Numbers.
    (r"\b16 \* \(k % 2\)", "0"),
    (r"\b0x7fffu \+", "0x8000u +"),
    (r"\blabel_exp\(\)(?=; \})", "0.0f"),
    (r"-softmax\.others\b", "softmax.others"),
    (r"\* (?:args\.)?perturbation\.scale\b", "* 1.0f"),
    (r"1\.44269504088896341f", "1.4426f"),
    # Statements.
    (r"(?<=[ {])(?<!= )(?:store|store_row|store_slot|store_stream|record_bad_labels|write_row|atomic_add|atomic_or|atomic_min|atomic_max|add_to|copy_out)\((?!(?:T|const|float)\b).*\);", ";"),
]


def proof_of(file):
    """The tests that a file's mutants face, and the variants they are made of."""
    return next((tests, variants) for files, tests, variants in PROOFS if re.fullmatch(files, file))


@dataclass(frozen=True)
class Mutant:
    """A change of `length` characters at `column` of a line, `replacement` in their place."""

    file: str
    line: int
    column: int
    length: int
    replacement: str
    mutation: str


def sources():
    """The kernels' files, without the tables beside them."""
    return sorted(path for path in KERNELS.iterdir() if path.suffix in (".cu", ".cuh"))


def hashes():
    """The sha256 of each of the kernels' files, by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sources()}


def emulated_code(text):
    """The lines that the host compiles as code, by number: no comments, no definitions for the device alone."""
    # For each conditional that is open: whether it asks for EMULATED, and whether its present branch is the device's.
    branches = []
    for number, line in enumerate(text.splitlines(), 1):
        code = line.split("//")[0]
        directive = re.match(r"\s*#\s*(\w+)\s*(\w*)", code)
        word, name = directive.groups() if directive else ("", "")
        if word in ("if", "ifdef", "ifndef"):
            asks = name == "EMULATED"
            branches.append((asks, asks and word == "ifndef"))
        elif word == "else":
            asks, device = branches.pop()
            branches.append((asks, asks and not device))
        elif word == "endif":
            branches.pop()
        elif word not in ("include", "pragma") and "static_assert" not in code:
            if not any(device for _, device in branches):
                yield number, code


def conditions(code):
    """Where the conditions of a line's `if`s begin and end."""
    for match in re.finditer(r"\bif \(", code):
        end, depth = match.end(), 1
        while depth:
            depth += {"(": 1, ")": -1}.get(code[end], 0)
            end += 1
        yield match.end(), end - 1


def changes(code):
    """Every change of a line: column, length, replacement."""
    guards = list(conditions(code))
    for begin, end in guards:
        yield begin, end - begin, "true"
        yield begin, end - begin, "false"
    for pattern, replacement in RULES:
        for match in re.finditer(pattern, code):
            # A guard that is always or never taken says more than one that is turned round.
            guarded = any(begin <= match.start() < end for begin, end in guards)
            if not (guarded and replacement in (" == ", " != ")):
                yield match.start(), len(match.group()), match.expand(replacement)


def all_mutants():
    """Every mutant, in the order of the sources."""
    mutants = []
    for path in sources():
        for number, code in emulated_code(path.read_text()):
            for column, length, replacement in sorted(set(changes(code))):
                before, old, after = code[:column], code[column : column + length], code[column + length :]
                mutation = f"{before[-24:].lstrip()}[{old.strip()} => {replacement.strip()}]{after[:16].rstrip()}"
                mutants.append(Mutant(path.name, number, column, length, replacement, mutation))
    return mutants


def apply(mutant, folder):
    """Leaves the kernels with the change in the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in sources():
        text = path.read_text()
        if path.name == mutant.file:
            lines = text.splitlines(keepends=True)
            line = lines[mutant.line - 1]
            lines[mutant.line - 1] = line[: mutant.column] + mutant.replacement + line[mutant.column + mutant.length :]
            text = "".join(lines)
        (folder / path.name).write_text(text)


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


def row_of(mutant, outcome, killed_by):
    """A mutant's row of the results."""
    return dict(zip(COLUMNS, (mutant.file, str(mutant.line), mutant.mutation, outcome, killed_by)))


def key_of(row):
    """What tells a row's mutant from the others."""
    return row["file"], row["line"], row["mutation"]


def read_results(changed=False):
    """The rows of the committed results, of the files that are as they were. Says which are not, unless they are asked for."""
    with RESULTS.open(newline="") as file:
        lines = file.read().splitlines()
    found = dict(line[2:].split() for line in lines if line.startswith("# "))
    stale = {name for name, digest in hashes().items() if found.get(name) != digest}
    if stale and not changed:
        print(f"not proven as they are, run scripts/mutants.py --changed: {', '.join(sorted(stale))}")
    rows = csv.DictReader(line for line in lines if not line.startswith("# "))
    return [row for row in rows if row["file"] in hashes() and row["file"] not in stale]


def write_results(rows):
    """Writes the results, with the hashes of the files they are of: those without a mutant need none."""
    files = {row["file"] for row in rows} | (hashes().keys() - {mutant.file for mutant in all_mutants()})
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="") as file:
        file.writelines(f"# {name} {digest}\n" for name, digest in hashes().items() if name in files)
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def run(bench, mutants, first=None):
    """Judges mutants, several at a time; their rows, in order."""
    print_lock = threading.Lock()
    done = [0]

    def one(mutant):
        outcome, killed_by = bench.judge(mutant, (first or {}).get(mutant, ""))
        with print_lock:
            done[0] += 1
            place = f"{mutant.file}:{mutant.line}"
            print(f"{done[0]}/{len(mutants)} {outcome:9} {place} {mutant.mutation}  {killed_by}", flush=True)
        return row_of(mutant, outcome, killed_by)

    with concurrent.futures.ThreadPoolExecutor(bench.jobs) as pool:
        return list(pool.map(one, mutants))


def summary(rows):
    """Prints the counts; the problems that keep the run from passing."""
    counts = {}
    for row in rows:
        counts[row["outcome"]] = counts.get(row["outcome"], 0) + 1
    print(", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())))
    explained = README.read_text() if README.exists() else ""
    problems = [row for row in rows if row["outcome"] == "does not compile"]
    problems += [row for row in rows if row["outcome"] == "survived" and f"`{row['mutation']}`" not in explained]
    for row in problems:
        what = "not explained" if row["outcome"] == "survived" else row["killed_by"]
        print(f"{row['file']}:{row['line']}: {row['mutation']}: {row['outcome']}, {what}")
    return problems


def main():
    """Runs what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="list the mutants")
    parser.add_argument("--only", metavar="TEXT", help="mutants whose file, line or mutation contains TEXT")
    parser.add_argument("--changed", action="store_true", help="run those of changed files, and update the results")
    parser.add_argument("--file", metavar="F", help="with --changed: this file alone")
    parser.add_argument("--survivors", action="store_true", help="run the survivors again, and update their results")
    parser.add_argument("--sample", type=int, metavar="N", help="N of those known to be killed")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants at a time")
    options = parser.parse_args()
    mutants = all_mutants()
    by_key = {key_of(row_of(mutant, "", "")): mutant for mutant in mutants}
    if options.only:
        mutants = [m for m in mutants if options.only in f"{m.file}:{m.line}: {m.mutation}"]
    if options.list:
        print("".join(f"{m.file}:{m.line}: {m.mutation}\n" for m in mutants) + f"{len(mutants)} mutants")
        return
    known = read_results(options.changed) if options.sample or options.survivors or options.changed else []
    unnoted = re.compile(r" \((hangs|crashes|beyond an array)\)$")
    first = {by_key[key_of(row)]: unnoted.sub("", row["killed_by"]) for row in known if row["outcome"] == "killed"}
    if options.sample:
        mutants = random.Random(options.seed).sample(list(first), min(options.sample, len(first)))
    if options.changed:
        same = {row["file"] for row in known}
        mutants = [mutant for mutant in mutants if mutant.file not in same and options.file in (None, mutant.file)]
    if options.survivors:
        mutants = [by_key[key_of(row)] for row in known if row["outcome"] == "survived"]
    if not mutants:
        print("no mutant to run")
        sys.exit(bool(options.sample))
    order = [key_of(row_of(mutant, "", "")) for mutant in all_mutants()]
    rows = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as work:
        bench = Bench(Path(work), options.jobs)
        # File by file, so that what is done is kept.
        for file in dict.fromkeys(mutant.file for mutant in mutants):
            rows += run(bench, [mutant for mutant in mutants if mutant.file == file], first)
            if not (options.sample or options.only):
                fresh = {key_of(row): row for row in [*known, *rows]}
                write_results([fresh[key] for key in order if key in fresh])
    problems = summary(rows)
    if options.sample:
        problems = [row for row in rows if row["outcome"] != "killed"]
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
