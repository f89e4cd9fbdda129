"""Build the same workloads with imgbuild and with every peer that is installed, in turn.

    python benchmarks/compare.py [--runs 5] [--only NAME] [--debian LAYOUT] [--files 20000]

Peers are buildah and docker (with a daemon). Prints the median wall time of each and the ratio to
imgbuild's; every tool builds once per round, so that a busy machine is unfair to none. The base image is
made of programs of this machine; --debian names an OCI layout (`PATH:TAG`) for the apt-get workload.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HOST_BASE = "host://sh,ls,true,cat"


@dataclass
class Workload:
    """`prepare` makes a context; `before` runs before each timed build (with its round's number);
    `cached` lets the tool use what it built before."""

    name: str
    prepare: Callable[[Path], None]
    cached: bool = False
    before: Callable[[Path, int], None] | None = None
    debian: bool = False


class Imgbuild:
    name = "imgbuild"

    def __init__(self, work: Path, debian: str | None) -> None:
        self.store = work / "imgbuild-store"
        self.bases = {False: HOST_BASE, True: f"oci-layout://{debian}"}

    def build(self, context: Path, cached: bool, debian: bool) -> None:
        command = [sys.executable, "-m", "imgbuild", "build", "--store", str(self.store)]
        command += ["--progress", "plain", "--build-context", f"bench-base={self.bases[debian]}"]
        run([*command, *([] if cached else ["--no-cache"]), "-t", "bench", str(context)])


class Buildah:
    name = "buildah"

    def __init__(self, work: Path, debian: str | None, layout: Path) -> None:
        self.options = ["--root", str(work / "buildah"), "--runroot", str(work / "buildah-run")]
        self.layouts = {False: f"{layout}:latest", True: debian}

    def build(self, context: Path, cached: bool, debian: bool) -> None:
        command = ["buildah", *self.options, "build", "--layers", "--isolation", "chroot"]
        command += ["--build-context", f"bench-base=docker-image://oci:{self.layouts[debian]}"]
        run([*command, *([] if cached else ["--no-cache"]), "-t", "bench", str(context)])


class Docker:
    name = "docker"

    def __init__(self, work: Path, debian: str | None, layout: Path) -> None:  # noqa: ARG002
        self.layouts = {False: f"{layout}:latest", True: debian}

    def build(self, context: Path, cached: bool, debian: bool) -> None:
        command = ["docker", "buildx", "build", "--progress", "plain"]
        command += ["--build-context", f"bench-base=oci-layout://{self.layouts[debian]}"]
        run([*command, *([] if cached else ["--no-cache"]), "-t", "bench", str(context)])


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def dockerfile(*lines: str) -> Callable[[Path], None]:
    def prepare(context: Path) -> None:
        (context / "Dockerfile").write_text("\n".join(("FROM bench-base", *lines)) + "\n")

    return prepare


def many_files(count: int, *lines: str) -> Callable[[Path], None]:
    def prepare(context: Path) -> None:
        dockerfile(*lines)(context)
        for number in range(count):
            folder = context / "files" / f"{number % 100:02}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.txt").write_bytes(os.urandom(2048) * 2)

    return prepare


def big_file(context: Path) -> None:
    dockerfile("COPY big /big")(context)
    with (context / "big").open("wb") as out:
        for _ in range(256):
            out.write(os.urandom(1 << 20) + bytes(1 << 20))


def change_one(context: Path, number: int) -> None:
    (context / "files/00/0.txt").write_text(f"changed {number} {time.time_ns()}")


def workloads(files: int) -> list[Workload]:
    labels = [f"ENV E{n}=v{n}\nLABEL l{n}=v{n}" for n in range(10)]
    apt = "RUN apt-get update && apt-get -y install --no-install-recommends python3"
    copy = ("RUN true", "COPY files /files")
    return [
        Workload("ten RUN true", dockerfile(*["RUN true"] * 10)),
        Workload(f"no-op, {files} files", many_files(files, *copy), cached=True),
        Workload(f"fresh COPY, {files} files", many_files(files, *copy)),
        Workload(f"1 of {files} changed", many_files(files, *copy), cached=True, before=change_one),
        Workload("one 512 MiB file", big_file),
        Workload("twenty ENV/LABEL", dockerfile(*labels)),
        Workload("apt-get install python3", dockerfile(apt), debian=True),
    ]


def measure(
    workload: Workload, tools: list[Imgbuild | Buildah | Docker], runs: int, work: Path
) -> None:
    context = Path(tempfile.mkdtemp(dir=work))
    workload.prepare(context)
    times: dict[str, list[float]] = {tool.name: [] for tool in tools}
    for number in range(runs + 1):
        if workload.before is not None:
            workload.before(context, number)
        for tool in tools:
            start = time.perf_counter()
            tool.build(context, workload.cached, workload.debian)
            if number:  # the first round warms caches and is not counted
                times[tool.name].append(time.perf_counter() - start)
    ours = statistics.median(times["imgbuild"])
    cells = [f"imgbuild {ours:7.3f} s"]
    for name, values in times.items():
        if name != "imgbuild":
            median = statistics.median(values)
            cells.append(f"{name} {median:7.3f} s ({median / ours:.1f}x)")
    print(f"{workload.name:26}", " | ".join(cells), flush=True)
    shutil.rmtree(context)


def base_layout(work: Path) -> Path:
    """Write the base made of this machine's programs as a layout that peers can read."""
    context = work / "base"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM bench-base\n")
    layout = work / "base-layout"
    run(
        [sys.executable, "-m", "imgbuild", "build", "--store", str(work / "imgbuild-store")]
        + ["--build-context", f"bench-base={HOST_BASE}", "-t", "base", str(context)]
        + ["--output", f"type=oci,tar=false,dest={layout}"]
    )
    return layout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", help="run the workloads whose name has this text")
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--debian", help="an OCI layout with a Debian image, PATH:TAG")
    parser.add_argument("--work", type=Path, help="where to keep stores while measuring")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="imgbuild-bench-", dir=options.work))
    layout = base_layout(work)
    tools: list[Imgbuild | Buildah | Docker] = [Imgbuild(work, options.debian)]
    if shutil.which("buildah"):
        tools.append(Buildah(work, options.debian, layout))
    if (
        shutil.which("docker")
        and not subprocess.run(["docker", "info"], capture_output=True).returncode
    ):
        tools.append(Docker(work, options.debian, layout))
    print("tools:", ", ".join(tool.name for tool in tools), f"; median of {options.runs}")
    for workload in workloads(options.files):
        if options.only and options.only not in workload.name:
            continue
        if workload.debian and not options.debian:
            print(f"{workload.name:26} skipped: give --debian LAYOUT")
            continue
        measure(workload, tools, options.runs, work)
    run(
        [
            sys.executable,
            "-m",
            "imgbuild",
            "reset",
            "--yes",
            "--store",
            str(work / "imgbuild-store"),
        ]
    )
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
