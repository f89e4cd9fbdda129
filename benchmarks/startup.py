"""How long a command takes to start and end in the sandbox, beside what other programs take.

    python benchmarks/startup.py [--runs 50] [--isolation A] [--store DIR]

Every round runs `true` once with each, so that a busy machine is unfair to none. imgbuild's session
is started once, as in a build; its rows are what each RUN adds: namespaces, root, /proc, /sys, /dev,
masks, capabilities, seccomp, and the same with a network namespace. The others do what their names
say and less: `unshare` mounts nothing but /proc, `bwrap` has no masks and no seccomp filter. crun gets
the same root as a bundle.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.bench import Bench

Run = Callable[[], None]


def imgbuild_runs(bench: Bench, rounds: int) -> dict[str, Run]:
    # A work directory of overlayfs serves once; a build makes them while a step runs.
    steps = [bench.step() for _ in range(3 * (rounds + 1))]
    files = tuple(bench.mount("x\n", f"/etc/file{n}") for n in range(5))

    def run(**fields: object) -> None:
        running, reading = bench.start(["/bin/true"], root=steps.pop(), **fields)  # type: ignore[arg-type]
        status = running.wait()
        os.close(reading)
        if status:
            raise RuntimeError(f"status {status}")

    return {
        f"imgbuild, tier {bench.session.tier.name}": run,
        "imgbuild, network none": lambda: run(network="none"),
        "imgbuild, five files mounted": lambda: run(mounts=files),
    }


def other_runs(root: Path, bundle: Path) -> dict[str, Run]:
    """Give the programs that are installed, as this user can use them."""
    namespaces = ["--mount", "--pid", "--ipc", "--uts", "--cgroup", "--fork", "--mount-proc"]
    user = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
    commands = {
        "unshare": ["unshare", *user, *namespaces, "true"],
        "bwrap": [
            "bwrap",
            "--unshare-all",
            "--share-net",
            "--bind",
            str(root),
            "/",
            "--proc",
            "/proc",
        ]
        + ["--dev", "/dev", "true"],
        "crun": ["crun", "--root", str(bundle / "state"), "run", "--bundle", str(bundle), "bench"],
        "runc": ["runc", "--root", str(bundle / "state"), "run", "--bundle", str(bundle), "bench"],
    }
    if os.getuid() == 0:
        write_bundle(root, bundle)
    else:  # rootless bundles need more of a set-up than a comparison is worth
        commands = {name: commands[name] for name in ("unshare", "bwrap")}
    found = {}
    for name, command in commands.items():
        if shutil.which(name) is None:
            print(f"{name}: not installed")
        elif (tried := subprocess.run(command, capture_output=True, text=True)).returncode:
            print(f"{name}: does not work here: {(tried.stderr.strip().splitlines() or ['?'])[-1]}")
        else:
            found[name] = lambda command=command: subprocess.run(command, check=True)  # type: ignore[misc]
    return found


def write_bundle(root: Path, bundle: Path) -> None:
    """Write an OCI bundle with a runtime's own idea of a container."""
    subprocess.run(["crun", "spec"], cwd=bundle, check=True)
    config = json.loads((bundle / "config.json").read_text())
    config["process"] |= {"args": ["/bin/true"], "terminal": False}
    config["root"] = {"path": str(root), "readonly": False}
    (bundle / "config.json").write_text(json.dumps(config))


def measure(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            before = time.perf_counter()
            run()
            if number:  # the first round fills caches
                taken[name].append((time.perf_counter() - before) * 1000)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--isolation", default="auto")
    parser.add_argument("--store", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.store) as place:
        folder = Path(place)
        (folder / "bundle").mkdir()
        (folder / "bench").mkdir()
        before = time.perf_counter()
        with Bench(folder / "bench", options.isolation) as bench:
            print(f"session ready after {(time.perf_counter() - before) * 1000:.0f} ms")
            plain = shutil.copytree(bench.base, folder / "root", symlinks=True)
            bench.finish()
            runs = imgbuild_runs(bench, options.runs) | other_runs(plain, folder / "bundle")
            taken = measure(runs, options.runs)
    print(f"{'':32} {'least':>8} {'median':>8} {'p90':>8}  ms, {options.runs} runs")
    for name, times in taken.items():
        figures = (min(times), statistics.median(times), statistics.quantiles(times, n=10)[-1])
        print(f"{name:32}", *(f"{figure:8.1f}" for figure in figures))


if __name__ == "__main__":
    main()
