"""The Dockerfile of the README's promise on a real Debian base, pushed, and taken up by other tools."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support import debian, users, validate
from tests.support.command import imgbuild, imgbuild_as
from tests.support.docker_registry import docker_registry

pytestmark = [pytest.mark.rootless, pytest.mark.system, pytest.mark.online]

DOCKERFILE = """\
FROM debian:bookworm-slim
RUN apt-get update && \\
    apt-get -y install --no-install-recommends python3
COPY my-app.py /app/
WORKDIR /app
CMD ["python3","my-app.py"]
"""
APP = "import os, sys\nprint('hello from', os.getcwd(), sys.version_info[:2] >= (3, 9))\n"


@pytest.fixture(scope="module")
def base_layout(public: Path) -> Path:
    layout = public / "layout"
    debian.pack(debian.tree(), layout, "bookworm-slim")
    return layout


@pytest.fixture(scope="module")
def context(public: Path) -> Path:
    folder = public / "context"
    folder.mkdir(mode=0o755)
    (folder / "Dockerfile").write_text(DOCKERFILE)
    (folder / "my-app.py").write_text(APP)
    return folder


def _tool(*command: str | Path) -> str:
    # buildah refuses a DOCKER_CONFIG whose file is not there.
    env = {name: value for name, value in os.environ.items() if name != "DOCKER_CONFIG"}
    done = subprocess.run([str(w) for w in command], capture_output=True, text=True, env=env)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def test_as_root_with_a_base_from_a_registry(
    tmp_path: Path, base_layout: Path, context: Path
) -> None:
    store = tmp_path / "store"
    with docker_registry(tmp_path / "registry") as running:
        host = running.host
        _tool(
            *(
                "skopeo",
                "copy",
                "-q",
                "--dest-tls-verify=false",
                f"oci:{base_layout}:bookworm-slim",
            ),
            f"docker://{host}/library/debian:bookworm-slim",
        )
        source = f"debian:bookworm-slim=docker-image://{host}/library/debian:bookworm-slim"
        image = f"{host}/team/my-python-image:1.0"
        arguments = ["-t", image, "--build-context", source, *debian.proxy_arguments()]
        imgbuild(*arguments, "--push", context, store=store, timeout=600)
        assert validate.image(store, image) == []
        ran = imgbuild("run", image, store=store)
        assert ran.stdout == b"hello from /app True\n"
        _check_consumers(tmp_path, host, image)
    imgbuild("reset", "--yes", store=store)


def _check_consumers(tmp_path: Path, host: str, image: str) -> None:
    """Let skopeo, umoci, buildah and podman take the pushed image."""
    seen = json.loads(_tool("skopeo", "inspect", "--tls-verify=false", f"docker://{image}"))
    assert len(seen["Layers"]) == 4
    layout = tmp_path / "copied"
    _tool("skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{image}", f"oci:{layout}:x")
    assert validate.image(layout, "x") == []
    _tool("umoci", "unpack", "--image", f"{layout}:x", tmp_path / "bundle")
    assert (tmp_path / "bundle/rootfs/app/my-app.py").read_text() == APP
    term = (tmp_path / "bundle/rootfs/var/log/apt/term.log").stat()
    assert (term.st_uid, term.st_gid) == (0, 4)
    shutil.rmtree(tmp_path / "bundle")
    # podman refuses a run root of more than 50 characters.
    peer = Path(tempfile.mkdtemp(prefix="peer-"))
    try:
        _check_peers(peer, image)
    finally:
        shutil.rmtree(peer)


def _check_peers(peer: Path, image: str) -> None:
    # vfs and chroot: neither overlayfs nor a runtime is what is tested here.
    where = ["--root", peer / "r", "--runroot", peer / "s", "--storage-driver", "vfs"]
    limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
    from_ = ["from", "--tls-verify=false", *limits, "--name", "taken"]
    _tool("buildah", *where, *from_, f"docker://{image}")
    run = ["run", "--isolation", "chroot", "taken", "--", "python3", "/app/my-app.py"]
    assert _tool("buildah", *where, *run).startswith("hello from /")
    _tool("buildah", *where, "rm", "taken")
    _tool("podman", *where, "pull", "-q", "--tls-verify=false", f"docker://{image}")
    shown = json.loads(_tool("podman", *where, "image", "inspect", image))
    assert shown[0]["Config"]["Cmd"] == ["python3", "my-app.py"]
    # runc and the host's cgroup namespace work where cgroups are mounted in any way.
    ran = _tool(
        *("podman", *where, "--runtime", "runc", "--cgroup-manager", "cgroupfs", "run", "--rm"),
        *(*limits, "--cgroupns", "host", "--network", "none", image),
    )
    assert ran == "hello from /app True\n"


def test_as_an_ordinary_user_with_subordinate_ids(
    tmp_path: Path, base_layout: Path, context: Path
) -> None:
    source = f"debian:bookworm-slim=oci-layout://{base_layout}:bookworm-slim"
    arguments = ["-t", "my-python-image", "--build-context", source, *debian.proxy_arguments()]
    built = imgbuild_as("subids", *arguments, context)
    assert built.returncode == 0, built.stderr.decode()
    ran = imgbuild_as("subids", "run", "my-python-image")
    assert ran.stdout == b"hello from /app True\n", ran.stderr.decode()
    with users.folder_of("subids", tmp_path) as folder:
        exported = folder / "exported"
        output = f"type=oci,tar=false,dest={exported}"
        again = imgbuild_as("subids", *arguments, "--output", output, context)
        assert again.returncode == 0, again.stderr.decode()
        assert b" DONE" not in again.stderr, "the second build was not cached"
        assert validate.image(exported, "docker.io/library/my-python-image:latest") == []
    imgbuild_as("subids", "reset", "--yes")
