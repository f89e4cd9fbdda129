"""Parse, check and plan a Dockerfile of 2,000 lines and 200 stages.

    python benchmarks/language.py [--stages 200] [--lines 10] [--runs 10]

Prints the best and the median time of each part in milliseconds, build checks included and imports not; the goal is
200 ms for both together. Ends with status 1 when the median is above it.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from imgbuild.build.checking import parse_checked, plan_checks
from imgbuild.dockerfile.instructions import Dockerfile
from imgbuild.dockerfile.lint import Linter
from imgbuild.events import ignore
from imgbuild.oci.config import ImageConfig, RunConfig
from imgbuild.oci.platform import Platform
from imgbuild.plan.model import BaseImage, BuildPlan
from imgbuild.plan.planner import PlanOptions, make_plan

HOST = Platform("linux", "amd64")
GOAL_MS = 200.0
BODY = (
    "ARG VERSION_{n}=1.${{GLOBAL}}.{n}",
    'ENV APP_{n}="${{VERSION_{n}:-none}}" HOME_{n}=/srv/app-{n}',
    "WORKDIR $HOME_{n}",
    "RUN apt-get update \\",
    "    && apt-get install -y --no-install-recommends package-{n}=$VERSION_{n} \\",
    "    && rm -rf /var/lib/apt/lists/*",
    "COPY --chown=1000:1000 src/{n}/*.py config-${{VERSION_{n}}}.toml ./",
    'LABEL stage.{n}="number {n}" version=$VERSION_{n}',
    'CMD ["python3", "-m", "app_{n}"]',
)


def dockerfile(stages: int, lines: int) -> str:
    """Write a Dockerfile in which every stage is needed by the next one."""
    out = ["ARG GLOBAL=7"]
    for number in range(stages):
        base = "debian:12" if number % 2 == 0 else f"stage-a{number - 1}"
        out.append(f"FROM {base} AS stage-a{number}")
        body = [line.format(n=number) for line in BODY[: lines - 1]]
        if number >= 2 and number % 2 == 0 and body:
            body[-1] = f"COPY --from=stage-a{number - 1} /srv /srv-{number}"
        out += body
    return "\n".join(out) + "\n"


def resolve(name: str, platform: Platform) -> BaseImage:
    return BaseImage(name, None, ImageConfig(platform, RunConfig(env=(("PATH", "/bin"),))), ())


def measure(work: Callable[[], object], runs: int) -> list[float]:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1000)
    return times


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--stages", type=int, default=200)
    options.add_argument("--lines", type=int, default=10, help="lines of each stage")
    options.add_argument("--runs", type=int, default=10)
    given = options.parse_args()
    text = dockerfile(given.stages, given.lines)
    data = text.encode()
    plan_options = PlanOptions(platform=HOST, build_platform=HOST)

    def read() -> tuple[Dockerfile, Linter]:
        return parse_checked(data, "Dockerfile", {}, ignore)

    parsed, linter = read()

    def plan() -> BuildPlan:
        return make_plan(parsed, plan_options, resolve, plan_checks(linter, tuple))

    built = plan()
    print(f"{text.count(chr(10))} lines, {len(built.stages)} stages needed")
    total = 0.0
    for name, work in (("parse", read), ("plan", plan)):
        times = measure(work, given.runs)
        total += statistics.median(times)
        print(f"{name:6} best {min(times):6.1f} ms  median {statistics.median(times):6.1f} ms")
    print(f"both   median {total:6.1f} ms, goal {GOAL_MS:.0f} ms")
    return int(total > GOAL_MS)


if __name__ == "__main__":
    sys.exit(main())
