"""A RUN for another architecture, through binfmt_misc: the host's busybox stands in for the emulator."""

import ctypes
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbuild.build.emulation import can_run, elf_header
from imgbuild.build.platforms import host_platform
from imgbuild.oci.platform import Platform
from tests.support.command import imgbuild

pytestmark = pytest.mark.rootless

# Few machines have an emulator for this one.
ARCHITECTURE = "loong64"
FOREIGN = Platform("linux", ARCHITECTURE)
MACHINE = slice(18, 20)
SUFFIX = 20


@pytest.fixture
def busybox() -> Path:
    found = shutil.which("busybox")
    if os.geteuid() != 0 or found is None:
        pytest.skip("needs root to register an emulator, and a static busybox")
    if can_run(FOREIGN, host_platform()):
        pytest.skip(f"cannot apply: this machine runs programs for {ARCHITECTURE}")
    return Path(found)


@pytest.fixture
def emulator(busybox: Path, tmp_path: Path) -> Iterator[None]:
    folder = tmp_path / "binfmt"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", os.fsencode(folder), b"binfmt_misc", 0, None):
        pytest.skip(f"needs root that may mount binfmt_misc: {os.strerror(ctypes.get_errno())}")
    name = f"imgbuild-test-{os.getpid()}"
    header = elf_header(ARCHITECTURE)
    assert header is not None
    magic = "".join(f"\\x{byte:02x}" for byte in header[:SUFFIX])
    try:
        (folder / "register").write_text(f":{name}:M:0:{magic}::{busybox}:F")
        yield
    finally:
        if (folder / name).exists():
            (folder / name).write_text("-1")
        libc.umount2(os.fsencode(folder), 2)  # MNT_DETACH


@pytest.fixture
def context(busybox: Path, tmp_path: Path) -> Path:
    """A base for the other architecture, whose only program is busybox in disguise, and a RUN on it."""
    path = tmp_path / "context"
    path.mkdir()
    program = bytearray(busybox.read_bytes())
    header = elf_header(ARCHITECTURE)
    assert header is not None
    program[MACHINE] = header[MACHINE]
    program[7] = 0  # as Linux has it: no ABI of its own
    (path / "sh").write_bytes(program)
    (path / "sh").chmod(0o755)
    (path / "base").write_text("FROM scratch\nCOPY sh /bin/sh\n")
    (path / "Dockerfile").write_text("FROM foreign\nRUN echo emulated > /x && cat /x\n")
    store = tmp_path / "store"
    flags = ("--platform", str(FOREIGN))
    imgbuild("-t", "foreign", "-f", path / "base", *flags, path, store=store)
    return path


def test_without_an_emulator_nothing_is_started(context: Path, tmp_path: Path) -> None:
    done = imgbuild("--platform", str(FOREIGN), context, store=tmp_path / "store", check=False)
    error = done.stderr.decode()
    assert done.returncode == 1
    assert "[2/2] RUN echo emulated > /x && cat /x: the image is for linux/loong64" in error
    assert "hint: install an emulator" in error


def test_an_emulator_runs_it(context: Path, tmp_path: Path, emulator: None) -> None:
    flags = ("--progress=plain", "--platform", str(FOREIGN))
    done = imgbuild(*flags, context, store=tmp_path / "store", check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert b" emulated\n" in done.stderr
