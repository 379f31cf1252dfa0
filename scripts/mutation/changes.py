"""The changes that make mutants of the kernels."""

import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
KERNELS = ROOT / "kernels"

# What is replaced, and by what. Applied to code, never to comments; every match is a mutant.
RULES = [
    # Waiting.
    (r"\b(?:block_barrier|device_fence|cluster_barrier)\(\);", ""),
    (r"\b(?:strip\.)?turn \^= 1;", ""),
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
    # Not of a product that a cast widens, or that a number of i32 is compared with.
    (r"(?<!count - )((?:(?<!>)\([^()]*\)|[\w.]+) \* args\.(?:\w+_stride|tile_rows|chunk))\b", r"static_cast<i64>(static_cast<i32>(\1))"),
    (r"(?<=load\()static_cast<const i64\*>", "static_cast<const i32*>"),
    (r"(?<=load\()static_cast<const i32\*>", "static_cast<const i64*>"),
    (r"(?<=load\()static_cast<const u32\*>", "static_cast<const i32*>"),
    # Places in memory.
    (r"(?<=scratch) \+ turn \* MOST_WARPS", ""),
    (r"(?<=scratch\[)turn(?=\])", "0"),
    (r"\* pitch\b(?!\()", "* classes"),
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
    """Where the conditions of a line's `if`s begin and end, behind what an `if` declares."""
    for match in re.finditer(r"\bif \(", code):
        end, depth = match.end(), 1
        while depth:
            depth += {"(": 1, ")": -1}.get(code[end], 0)
            end += 1
        declared = code.rfind("; ", match.end(), end)
        yield (declared + 2 if declared >= 0 else match.end()), end - 1


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
