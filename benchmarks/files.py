"""COPY a tree of small files and push it, with imgbuild and with buildah, and pack it with tar.

    python benchmarks/files.py [--files 20000] [--runs 5] [--size 4096]

Needs docker-registry; buildah is measured where it is installed. Each round every tool starts from
an empty store and an empty registry, in turn; `tar | gzip -1` packs the same tree. Then imgbuild
alone: again with nothing changed, and with one file changed. Prints medians and their ratios.
"""

import argparse
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

REGISTRY = """version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: {address}}}
"""


def make_tree(context: Path, files: int, size: int) -> None:
    """Write files of which half are text and half cannot be compressed, fifty to a directory."""
    rng = random.Random(1)
    words = [
        bytes(rng.choices(b"abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(2000)
    ]
    for number in range(files):
        folder = context / f"src/{number // 1000:03}/{number // 50 % 20:02}"
        if number % 50 == 0:
            folder.mkdir(parents=True)
        text = b" ".join(rng.choices(words, k=size // 3))[:size]
        data = rng.randbytes(size) if number % 2 else text
        (folder / f"file{number:06}.txt").write_bytes(data)
    (context / "Dockerfile").write_text("FROM scratch\nCOPY src /src\n")


class Bench:
    def __init__(self, work: Path, files: int, size: int) -> None:
        self.work = work
        self.context = work / "context"
        self.context.mkdir()
        make_tree(self.context, files, size)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.registry = f"127.0.0.1:{free.getsockname()[1]}"
        config = work / "registry.yml"
        config.write_text(REGISTRY.format(root=work / "registry", address=self.registry))

    @contextmanager
    def running_registry(self) -> Iterator[None]:
        serve = ["docker-registry", "serve", str(self.work / "registry.yml")]
        process = subprocess.Popen(serve, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        host, port = self.registry.split(":")
        try:
            for _ in range(100):
                with socket.socket() as probe:
                    if probe.connect_ex((host, int(port))) == 0:
                        break
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            process.wait()

    def imgbuild(self) -> None:
        command = [sys.executable, "-m", "imgbuild", "build", "--progress", "quiet", "--push"]
        command += ["--store", str(self.work / "store"), "-t", f"{self.registry}/imgbuild"]
        run([*command, str(self.context)])

    def buildah(self) -> None:
        options = ["--root", str(self.work / "buildah"), "--runroot", str(self.work / "runroot")]
        name = f"{self.registry}/buildah"
        run(["buildah", *options, "build", "-q", "--layers", "-t", name, str(self.context)])
        run(["buildah", *options, "push", "-q", "--tls-verify=false", name])

    def tar(self) -> None:
        packed = self.work / "packed.tar.gz"
        run(["sh", "-c", f"tar -C {self.context} -cf - src | gzip -1 > {packed}"])

    def forget(self) -> None:
        run(["rm", "-rf", *(str(self.work / n) for n in ("store", "registry"))])
        if shutil.which("buildah"):
            options = [
                "--root",
                str(self.work / "buildah"),
                "--runroot",
                str(self.work / "runroot"),
            ]
            subprocess.run(["buildah", *options, "rmi", "-af"], capture_output=True)


def run(command: list[str]) -> None:
    # Python's own compiled modules are kept, as they are for users.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def first_copies(bench: Bench, runs: int) -> None:
    tools = {"imgbuild": bench.imgbuild, "tar | gzip -1": bench.tar}
    if shutil.which("buildah"):
        tools["buildah"] = bench.buildah
    times: dict[str, list[float]] = {name: [] for name in tools}
    for number in range(runs + 1):
        for name, work in tools.items():
            bench.forget()
            with bench.running_registry():
                seconds = timed(work)
            if number:  # the first round warms the page cache and is not counted
                times[name].append(seconds)
    ours = statistics.median(times["imgbuild"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"first COPY and push  {name:14} {median:7.3f} s  {median / ours:5.2f}x", flush=True)


def again(bench: Bench, runs: int) -> None:
    bench.forget()
    changed = next(bench.context.rglob("file*.txt"))
    with bench.running_registry():
        bench.imgbuild()
        time.sleep(2.5)  # a tree that was changed just now is not trusted
        bench.imgbuild()
        same = [timed(bench.imgbuild) for _ in range(runs)]
        other = []
        for number in range(runs):
            changed.write_text(f"changed {number}")
            other.append(timed(bench.imgbuild))
    print(f"nothing changed      imgbuild       {statistics.median(same):7.3f} s")
    print(f"one file changed     imgbuild       {statistics.median(other):7.3f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=4096, help="bytes of each file")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--work", type=Path, help="where to keep stores while measuring")
    options = parser.parse_args()
    if not shutil.which("docker-registry"):
        sys.exit("docker-registry is not installed (Debian package docker-registry)")
    work = Path(tempfile.mkdtemp(prefix="imgbuild-bench-", dir=options.work))
    try:
        bench = Bench(work, options.files, options.size)
        print(f"{options.files} files of {options.size} bytes; median of {options.runs}")
        first_copies(bench, options.runs)
        again(bench, options.runs)
    finally:
        subprocess.run(["rm", "-rf", str(work)])


if __name__ == "__main__":
    main()
