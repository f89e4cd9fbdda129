"""The environments that RUN has to work in: how each is simulated, and what is built there."""

import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from imgbuild.sandbox.child import capabilities
from tests.support.containers import (
    ALL_CAPABILITIES,
    DOCKER_CAPABILITIES,
    MOUNT_CALLS,
    PODMAN_CAPABILITIES,
    Container,
)

_PRIVILEGED = tuple(ALL_CAPABILITIES)
# A new user namespace has all of them, whatever the one around it lacks.
_EVERYTHING = tuple(capabilities.NAMES)
_DOCKER = tuple(DOCKER_CAPABILITIES)
_ADMIN = (*_DOCKER, "sys_admin")
_NO_MORE_NAMESPACES = "echo 0 >/proc/sys/user/max_user_namespaces"
# What `imgbuild` finds below a second root; the volume is bound there as well.
_CHROOT = """\
mkdir /jail && mount --rbind / /jail
exec chroot /jail "$@"
"""


@dataclass(frozen=True)
class Environment:
    """One row: `tier` is the one that has to be chosen, None where RUN cannot work at all."""

    name: str
    container: Container
    tier: str | None
    usual: bool = False  # run without being asked for


ENVIRONMENTS = (
    Environment(
        "laptop: user with subordinate ids",
        Container("unconfined", (), _PRIVILEGED, 1000, masked=False, newuidmap="set-uid"),
        "A",
    ),
    Environment(
        "laptop: user without subordinate ids",
        Container("unconfined", (), _PRIVILEGED, 1000, masked=False),
        "C",
    ),
    Environment(
        "docker --privileged, root",
        Container("unconfined", (), _PRIVILEGED, masked=False),
        "A",
    ),
    Environment(
        "docker seccomp=unconfined systempaths=unconfined, root",
        Container("unconfined", masked=False),
        "A",
    ),
    Environment(
        "podman default, root",
        Container("podman", (), tuple(PODMAN_CAPABILITIES)),
        "A",
        usual=True,
    ),
    Environment(
        "podman default, user without subordinate ids",
        Container("podman", (), tuple(PODMAN_CAPABILITIES), 1000),
        "C",
    ),
    Environment("Kubernetes default (no seccomp), root", Container("unconfined"), "A"),
    Environment(
        "Kubernetes no seccomp, user, newuidmap with file capabilities",
        Container("unconfined", uid=1000, newuidmap="file-capabilities"),
        "A",
        usual=True,
    ),
    Environment(
        "Kubernetes no seccomp, user, newuidmap set-uid",
        Container("unconfined", uid=1000, newuidmap="set-uid"),
        "C",
    ),
    Environment(
        "Kubernetes no seccomp, user, no_new_privs, drop ALL",
        Container("unconfined", (), (), 1000, no_new_privs=True, newuidmap="set-uid"),
        "C",
        usual=True,
    ),
    Environment(
        "the same with mount refused (AppArmor)",
        Container("unconfined", tuple(MOUNT_CALLS), (), 1000, no_new_privs=True),
        "D-userns",
        usual=True,
    ),
    Environment(
        "Kubernetes no seccomp, root, mount refused (AppArmor)",
        Container("unconfined", tuple(MOUNT_CALLS)),
        "D-userns",
    ),
    Environment("docker default, root", Container(), "D", usual=True),
    Environment("docker --cap-add SYS_ADMIN, root", Container("docker", (), _ADMIN), "A"),
    Environment("pivot_root refused, root", Container("unconfined", ("pivot_root",), _DOCKER), "A"),
    Environment("Kubernetes default, root, no volume", Container("unconfined", volume=False), "A"),
    Environment(
        "Kubernetes hostUsers: false, no seccomp, root",
        Container("unconfined", own_ids=True),
        "A",
    ),
    Environment(
        "Kubernetes hostUsers: false, RuntimeDefault, root",
        Container(own_ids=True),
        "D",
    ),
    Environment(
        "root of a user namespace, no more user namespaces",
        Container(
            "unconfined", (), _EVERYTHING, masked=False, own_ids=True, prelude=_NO_MORE_NAMESPACES
        ),
        "A",
    ),
    Environment(
        "inside a chroot, root",
        Container("unconfined", (), _PRIVILEGED, masked=False, prelude=_CHROOT),
        "D",
    ),
    Environment("docker default, user", Container(uid=1000), None, usual=True),
)

PYTHON = """\
FROM {base}
RUN apt-get update && \\
    apt-get -y install --no-install-recommends python3
CMD ["python3"]
"""
# Where owners are recorded instead of changed, some are guessed: nothing can be recorded on a
# symbolic link, so one in a set-group-ID directory is taken for its group's, even if it was made
# before the directory got that; and where nothing is mounted, backups of files lose their group.
GUESSED = {
    "C": frozenset({"srv/data/link"}),
    "D-userns": frozenset({"srv/data/link", "etc/shadow-", "etc/gshadow-"}),
}
# Owners, modes, links, removals, a user and a directory of its own, in less than a second.
SMALL = """\
FROM {base}
RUN set -e; groupadd -g 700 team; useradd -u 700 -g team -m worker; \\
    mkdir /srv/data; echo one >/srv/data/file; ln -s file /srv/data/link; \\
    chown 700:700 /srv/data /srv/data/file; chmod 2750 /srv/data; \\
    rm /etc/issue; test -c /dev/null; test -d /proc/self; id -u
WORKDIR /srv/data
RUN test "$(cat link)" = one && echo two >>file
CMD ["cat","/srv/data/file"]
"""


@contextmanager
def layers(layout: Path) -> Iterator[list[IO[bytes]]]:
    """Open the layers of the one image in a layout, lowest first."""
    index = json.loads((layout / "index.json").read_bytes())
    manifest = json.loads(_blob(layout, index["manifests"][0]["digest"]).read_bytes())
    opened = [_blob(layout, layer["digest"]).open("rb") for layer in manifest["layers"]]
    try:
        yield [*opened]
    finally:
        for file in opened:
            file.close()


def owners(layout: Path, above: int) -> dict[str, tuple[int, int, int, bytes]]:
    """Tell uid, gid, mode and type of what the layers from number `above` on hold."""
    found = {}
    with layers(layout) as files:
        for file in files[above:]:
            with tarfile.open(fileobj=file) as tar:
                for member in tar:
                    found[member.name] = (member.uid, member.gid, member.mode, member.type)
    return found


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")
