"""Walk a context whose ignore file hides nearly all of it, and the same one without an ignore file, in turn.

    python benchmarks/ignore.py [--files 300000] [--runs 5] [--work DIR]

Prints the medians and what share of a full walk the other one costs. The first ignore file lets whole directories
be passed by; the second may bring something back anywhere, so that every directory has to be listed. Exits with 1 when
the first costs a tenth of the full walk or more.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from imgbuild.build.context import ContextTree
from imgbuild.dockerfile.ignore import IgnoreMatcher

PRUNED = "node_modules\n!node_modules/keep/**\n**/*.log\n"
REVIVED = PRUNED + "!**/important.log\n"
EACH = 100  # files in a directory
MOST = 0.1


def make_tree(root: Path, files: int) -> None:
    """Make packages of files below `node_modules`, one of which is kept, and a few sources."""
    for number in range(files // EACH):
        package = root / "node_modules" / f"package-{number:05}" / "lib"
        package.mkdir(parents=True)
        for file in range(EACH):
            (package / f"{file}.js").touch()
    for folder in (root / "node_modules/keep", root / "src"):
        folder.mkdir(parents=True)
        for name in ("a.js", "b.log", "important.log"):
            (folder / name).touch()


def walk(root: Path, ignored: str) -> tuple[float, int]:
    """Return how long a walk took, in seconds, and how much it found."""
    started = time.perf_counter()
    with ContextTree(root, IgnoreMatcher.read(ignored)) as tree:
        found = sum(1 for _ in tree.walk(b""))
    return time.perf_counter() - started, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--files", type=int, default=300_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--work", type=Path, help="where to make the tree")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="imgbuild-bench-", dir=options.work))
    try:
        make_tree(root, options.files)
        cases = {"everything": "", "pruned": PRUNED, "brought back anywhere": REVIVED}
        times: dict[str, list[float]] = {name: [] for name in cases}
        counts = {}
        for number in range(options.runs + 1):
            for name, ignored in cases.items():
                took, counts[name] = walk(root, ignored)
                if number:  # the first round warms caches and is not counted
                    times[name].append(took)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    whole = statistics.median(times["everything"])
    print(f"{options.files} files; median of {options.runs}")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:22} {median:8.4f} s  {median / whole:7.4f}  {counts[name]} found")
    if statistics.median(times["pruned"]) >= MOST * whole:
        sys.exit(f"pruning costs more than {MOST} of a full walk")


if __name__ == "__main__":
    main()
