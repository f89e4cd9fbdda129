"""Install Python with apt in every simulated environment, with imgbuild, buildah and podman.

    python -m benchmarks.environments [--only TEXT] [--without-peers]

prints a table in Markdown. Needs root, a Debian mirror and an OCI runtime; kaniko is not run: it is
not packaged, and what its documentation says stands in docs/sandbox.md.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.support import validate
from tests.system.environments import ENVIRONMENTS, PYTHON, Environment
from tests.system.journeys import Yard, build_inside, build_with, peer_ways, yard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--without-peers", action="store_true")
    chosen = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="imgbuild-environments-"))
    place.chmod(0o755)
    print("| environment | tier | imgbuild | buildah | podman |\n|---|---|---|---|---|")
    try:
        with yard(place) as ground:
            for number, row in enumerate(ENVIRONMENTS):
                if chosen.only in row.name:
                    _show(number, row, ground, peers=not chosen.without_peers)
    finally:
        shutil.rmtree(place)


def _show(number: int, row: Environment, ground: Yard, *, peers: bool) -> None:
    started = time.monotonic()
    outcome = build_inside(row, ground, PYTHON, number)
    seconds = time.monotonic() - started
    if outcome.status:
        result = f"status {outcome.status}"
        print(f"--- {row.name}\n{outcome.said[-3000:]}", file=sys.stderr)
    else:
        problems = validate.image(ground.fetched(outcome.image))
        result = "; ".join(problems) or f"ok, {seconds:.0f} s"
    others = [_peer(name, row, ground) if peers else "" for name in ("buildah", "podman")]
    print("|", " | ".join([row.name, outcome.tier or "none", result, *others]), "|", flush=True)


def _peer(name: str, row: Environment, ground: Yard) -> str:
    said = ""
    for way in peer_ways():
        started = time.monotonic()
        outcome = build_with(name, way, row, ground, PYTHON)
        if outcome.status == 0:
            how = f" ({way.name})" if way.name else ""
            return f"ok, {time.monotonic() - started:.0f} s{how}"
        said = outcome.said
    print(f"--- {row.name}: {name}\n{said[-1500:]}", file=sys.stderr)
    lines = [line for line in said.splitlines() if "rror" in line] or said.splitlines()
    return f"fails: {lines[-1][-80:]}" if lines else "fails"


if __name__ == "__main__":
    main()
