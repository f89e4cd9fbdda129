"""What other tools say about our store, layouts and archives, where they are installed."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from imgbuild.oci.descriptor import Descriptor
from imgbuild.store.archive import write_docker_archive, write_oci_archive
from imgbuild.store.layout import new_layout
from imgbuild.store.store import Store
from imgbuild.transfer import copy_image
from tests.support.memory import MemoryStore, add_image

pytestmark = pytest.mark.system

NAMES = ("docker.io/library/my-python-image:latest", "localhost:5000/team/app:v1.2")


def needs(tool: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")


def run(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@pytest.fixture
def source() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def image(source: MemoryStore) -> Descriptor:
    return add_image(source)


@pytest.fixture
def store(tmp_path: Path, source: MemoryStore, image: Descriptor) -> Path:
    with Store.open(tmp_path / "store") as opened:
        copy_image(source, opened.blobs, image)
        for name in (*NAMES, f"docker.io/library/app@{image.digest}"):
            opened.names.tag(name, image)
    return tmp_path / "store"


@needs("skopeo")
def test_skopeo_finds_every_name_of_the_store(store: Path, image: Descriptor) -> None:
    for name in (*NAMES, f"docker.io/library/app@{image.digest}"):
        assert json.loads(run("skopeo", "inspect", f"oci:{store}:{name}"))["Digest"] == image.digest


@needs("umoci")
def test_umoci_reads_the_store(store: Path, tmp_path: Path) -> None:
    assert NAMES[0] in run("umoci", "ls", "--layout", store)
    run("umoci", "stat", "--image", f"{store}:{NAMES[0]}")
    rootless = [] if os.geteuid() == 0 else ["--rootless"]
    run("umoci", "unpack", *rootless, "--image", f"{store}:{NAMES[0]}", tmp_path / "bundle")
    assert (tmp_path / "bundle" / "rootfs" / "file1").read_bytes() == b"two"


@needs("skopeo")
def test_the_store_survives_what_skopeo_writes_into_it(store: Path, image: Descriptor) -> None:
    run("skopeo", "copy", f"oci:{store}:{NAMES[0]}", f"oci:{store}:theirs")
    with Store.open(store) as opened:
        assert opened.names.resolve("theirs").digest == image.digest
        opened.names.tag("docker.io/library/more:latest", image)
    run("skopeo", "inspect", f"oci:{store}:theirs")


@needs("skopeo")
def test_skopeo_reads_layouts_and_archives(
    tmp_path: Path, source: MemoryStore, image: Descriptor
) -> None:
    with new_layout(tmp_path / "layout") as layout:
        copy_image(source, layout, image)
        layout.name_all(NAMES, image)
    write_oci_archive(source, image, NAMES[:1], tmp_path / "oci.tar")
    write_docker_archive(source, image, NAMES, tmp_path / "docker.tar")
    for place in (
        f"oci:{tmp_path}/layout:latest",
        f"oci:{tmp_path}/layout:v1.2",
        f"oci-archive:{tmp_path}/oci.tar",
        f"oci-archive:{tmp_path}/oci.tar:latest",
        f"oci-archive:{tmp_path}/docker.tar:{NAMES[0]}",
    ):
        assert json.loads(run("skopeo", "inspect", place))["Digest"] == image.digest
    for name in NAMES:
        found = json.loads(run("skopeo", "inspect", f"docker-archive:{tmp_path}/docker.tar:{name}"))
        assert len(found["Layers"]) == 2


@needs("podman")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: podman's store wants it")
def test_podman_loads_archives_under_their_full_names(
    tmp_path: Path,
    source: MemoryStore,
    image: Descriptor,
    request: pytest.FixtureRequest,
) -> None:
    run_root = tempfile.mkdtemp(prefix="imgbuild-", dir="/tmp")
    request.addfinalizer(lambda: shutil.rmtree(run_root, ignore_errors=True))
    podman = ("podman", "--storage-driver", "vfs", "--root", tmp_path / "root")
    # podman takes no longer path than 50 characters here.
    podman = (*podman, "--runroot", run_root)
    write_docker_archive(source, image, NAMES[:1], tmp_path / "one.tar")
    write_docker_archive(source, image, NAMES, tmp_path / "two.tar")
    assert NAMES[0] in run(*podman, "load", "-i", tmp_path / "one.tar")
    loaded = run(*podman, "load", "-i", tmp_path / "two.tar")
    assert all(name in loaded for name in NAMES)
