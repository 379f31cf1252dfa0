#!/usr/bin/env python3
"""Mutation proof of kernels/: changes them in one place at a time and names the emulated test that notices.

usage: scripts/mutants.py                        every mutant; writes tests/mutants/results.csv (tests/mutants/README.md says more)
       scripts/mutants.py --changed [--file F]   those of files that are not as results.csv found them; updates the results
       scripts/mutants.py --survivors [--file F] those that survived, again; updates the results
       scripts/mutants.py --only TEXT            those whose file, line or mutation contains TEXT; writes nothing
       scripts/mutants.py --sample N --seed S    N that results.csv says are killed: must be killed again; writes nothing
       scripts/mutants.py --list                 lists the mutants

Cargo builds the test binary once, with the kernels in a shared library. A mutant costs the C++ units that its change reaches, that
library, and the tests until one fails.
"""

import argparse
import concurrent.futures
import csv
import os
import random
import re
import sys
import tempfile
import threading
from pathlib import Path

from mutation.bench import Bench
from mutation.changes import ROOT, all_mutants, hashes

RESULTS = ROOT / "tests/mutants/results.csv"
README = ROOT / "tests/mutants/README.md"

COLUMNS = ["file", "line", "mutation", "outcome", "killed_by"]


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
    parser.add_argument("--file", metavar="F", help="with --changed or --survivors: this file alone")
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
        mutants = [by_key[key_of(row)] for row in known if row["outcome"] == "survived" and options.file in (None, row["file"])]
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
