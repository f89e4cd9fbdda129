"""One build inside a container, from a base in a registry to an image in that registry."""

import re
import resource
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import debian
from tests.support.command import imgbuild
from tests.support.containers import started, tree
from tests.support.docker_registry import docker_registry
from tests.system.environments import Environment

_CONTEXT = "/context"


@dataclass(frozen=True)
class Outcome:
    """How a build in a container ended; `tier` is what `doctor` says of RUN there."""

    image: str
    status: int
    tier: str | None
    said: str


@dataclass(frozen=True)
class PeerWay:
    """Flags of buildah and podman: those of every command, and those of a build."""

    name: str = ""
    everywhere: tuple[str, ...] = ()
    build: tuple[str, ...] = ()


def peer_ways() -> list[PeerWay]:
    """Give what their documentation says to try, in that order."""
    # Raising limits is not what is tried here: root of a virtual machine may not be allowed to.
    limits: list[str] = []
    for name in ("memlock", "nofile", "nproc"):
        _, hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))
        hard = 1024 if name == "nofile" else hard
        limits += ["--ulimit", f"{name}={hard}:{hard}"]
    return [
        PeerWay(build=tuple(limits)),
        PeerWay("vfs, chroot", ("--storage-driver", "vfs"), ("--isolation", "chroot", *limits)),
    ]


@dataclass(frozen=True)
class Yard:
    """What all builds share: a registry that has a Debian at `base`, and a folder for files."""

    host: str
    base: str
    place: Path

    def context(self, dockerfile: str) -> Path:
        """Make a context with a Dockerfile on this yard's base."""
        folder = self.place / f"context-{hash(dockerfile):x}"
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        (folder / "Dockerfile").write_text(dockerfile.format(base=self.base))
        return folder

    def fetched(self, image: str) -> Path:
        """Copy an image of the registry to a new layout, with a tool that is not ours."""
        layout = self.place / image.rpartition("/")[2]
        copy = ["skopeo", "copy", "-q", "--src-tls-verify=false"]
        _call(*copy, f"docker://{image}", f"oci:{layout}:image")
        return layout


@contextmanager
def yard(place: Path) -> Iterator[Yard]:
    """Start a registry with a Debian base; skip where one cannot be had."""
    layout = place / "base"
    debian.pack(debian.tree(), layout, "bookworm")
    with docker_registry(place / "registry") as running:
        base = f"{running.host}/library/debian:bookworm"
        copy = ["skopeo", "copy", "-q", "--dest-tls-verify=false"]
        _call(*copy, f"oci:{layout}:bookworm", f"docker://{base}")
        yield Yard(running.host, base, place)


def build_here(ground: Yard, dockerfile: str) -> str:
    """Build and push an image as whoever runs this, on this machine; give its name."""
    image = f"{ground.host}/here/image-{abs(hash(dockerfile)):x}"
    store = ground.place / "store-here"
    folder = ground.context(dockerfile)
    flags = ["--network=host", "-t", image, "--push", *debian.proxy_arguments()]
    imgbuild(*flags, folder, store=store, timeout=600)
    imgbuild("reset", "--yes", store=store)
    return image


def build_inside(environment: Environment, ground: Yard, dockerfile: str, number: int) -> Outcome:
    """Build and push an image in a container of `environment`."""
    image = f"{ground.host}/rows/image-{number}"
    build = ["build", "--progress=plain", "-t", image, "--push", *debian.proxy_arguments()]
    script = (
        'python3 -m imgbuild doctor; echo "doctor ended with $?"; exec python3 -m imgbuild "$@"'
    )
    with started(environment.container) as container:
        done = container.run(
            *("sh", "-c", script, "sh", *build, _CONTEXT),
            binds={ground.context(dockerfile): _CONTEXT},
            env=_variables(environment),
        )
    found = re.search(r"^RUN .*\btier ([A-Z][\w-]*)", done.stdout, re.MULTILINE)
    return Outcome(image, done.returncode, found and found[1], done.stdout + done.stderr)


def build_with(
    peer: str, way: PeerWay, environment: Environment, ground: Yard, dockerfile: str
) -> Outcome:
    """Let `peer`, buildah or podman, do the same."""
    image = f"{ground.host}/peers/{peer}"
    build = ["build", *way.build, *debian.proxy_arguments(), "--tls-verify=false", "-t", image]
    everywhere = " ".join(way.everywhere)
    script = f'{peer} {everywhere} "$@" && exec {peer} {everywhere} push --tls-verify=false {image}'
    with started(environment.container, tree("buildah", "podman", "crun", "netavark")) as container:
        done = container.run(
            *("sh", "-c", script, "sh", *build, _CONTEXT),
            binds={ground.context(dockerfile): _CONTEXT},
            env={"XDG_DATA_HOME": "/work/data"} if environment.container.volume else {},
        )
    return Outcome(image, done.returncode, None, done.stdout + done.stderr)


def _variables(environment: Environment) -> Mapping[str, str]:
    store = {"IMGBUILD_STORE": "/work/store"} if environment.container.volume else {}
    return {**store, "PYTHONDONTWRITEBYTECODE": "1"}


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
