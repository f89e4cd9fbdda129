"""Packages of Debian installed where one user id is mapped: the layer is the one that root gets."""

import gzip
import json
from pathlib import Path

import pytest

from imgbuild.layer.entry import Entry
from imgbuild.layer.tarread import scan
from imgbuild.snapshot.attribution import APT_NAME
from tests.support import debian, users
from tests.support.command import imgbuild, imgbuild_as

pytestmark = [pytest.mark.rootless, pytest.mark.system, pytest.mark.online]

DOCKERFILE = """\
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends openssh-client dbus python3
RUN useradd -m app && install -d -o app -g www-data -m 2750 /srv/app && cp -a /etc/apt /copied
USER app
RUN id -un && touch ~/mine /srv/app/shared
"""


@pytest.fixture(scope="module")
def arguments(public: Path) -> list[str]:
    layout, context = public / "layout", public / "context"
    debian.pack(debian.tree(), layout, "bookworm-slim")
    context.mkdir(mode=0o755)
    (context / "Dockerfile").write_text(DOCKERFILE)
    source = f"debian:bookworm-slim=oci-layout://{layout}:bookworm-slim"
    # A proxy on this host may be on its loopback.
    return ["--network=host", "--build-context", source, *debian.proxy_arguments(), str(context)]


def _layers(layout: Path) -> list[dict[bytes, Entry]]:
    def blob(digest: str) -> Path:
        return layout / "blobs/sha256" / digest.removeprefix("sha256:")

    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(index["manifests"][0]["digest"]).read_text())
    layers = []
    for layer in manifest["layers"][1:]:
        found: list[Entry] = []
        with gzip.open(blob(layer["digest"])) as stream:
            scan(stream, found.append)
        layers.append({entry.path: entry for entry in found})
    return layers


def _facts(layers: list[dict[bytes, Entry]]) -> list[dict[bytes, tuple[object, ...]]]:
    """What does not depend on when and where it ran."""
    return [
        {
            path: (e.type, oct(e.mode), e.uid, e.gid, e.linkname, str(e.xattrs))
            for path, e in layer.items()
        }
        for layer in layers
    ]


def test_the_layers_have_the_owners_that_root_would_give(
    tmp_path: Path, arguments: list[str]
) -> None:
    store = tmp_path / "store"
    imgbuild("--output", f"type=oci,tar=false,dest={tmp_path / 'root'}", *arguments, store=store)
    imgbuild("reset", "--yes", store=store)
    with users.folder_of("single", tmp_path) as folder:
        output = f"type=oci,tar=false,dest={folder / 'single'}"
        built = imgbuild_as("single", "--output", output, *arguments)
        assert built.returncode == 0, built.stderr.decode()
        single = _layers(folder / "single")
    imgbuild_as("single", "reset", "--yes")
    pairs = zip(_facts(single), _facts(_layers(tmp_path / "root")), strict=True)
    assert [set(ours.items()) ^ set(roots.items()) for ours, roots in pairs] == [set()] * 3
    packages, files, used = single
    agent = packages[b"usr/bin/ssh-agent"]
    assert (agent.uid, agent.mode) == (0, 0o2755)
    assert agent.gid >= 100, "of a group that the package made"
    assert packages[b"var/log/apt/term.log"].gid == 4
    assert packages[b"usr/lib/dbus-1.0/dbus-daemon-launch-helper"].gid >= 100
    assert not [path for layer in single for path in layer if path.endswith(APT_NAME)]
    assert (files[b"home/app"].uid, files[b"srv/app"].gid) == (1000, 33)
    assert (used[b"home/app/mine"].uid, used[b"srv/app/shared"].gid) == (1000, 33)
