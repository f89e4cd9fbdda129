"""What is written into a program's memory, read back by the layouts of the C library."""

import ctypes
import os
import struct
from pathlib import Path

import pytest

from imgbuild.sandbox.child.statlayout import stat_bytes, statfs_bytes, statx_bytes

SIZES = {"x86_64": 144, "aarch64": 128}


@pytest.fixture
def status(tmp_path: Path) -> os.stat_result:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 5000)
    path.chmod(0o640)
    os.utime(path, ns=(1_000_000_001, 2_000_000_002))
    return path.stat()


@pytest.mark.parametrize(
    ("machine", "call", "size"),
    [
        ("x86_64", "stat", 144),
        ("aarch64", "newfstatat", 128),
        ("i386", "stat64", 96),
        ("arm", "fstatat64", 104),
        ("i386", "stat", 64),
        ("arm", "lstat", 64),
    ],
)
def test_sizes(status: os.stat_result, machine: str, call: str, size: int) -> None:
    data = stat_bytes(machine, call, status, 7, 8)
    assert len(data) == size
    assert struct.pack("<I", status.st_mode)[:2] in data


@pytest.mark.skipif(os.uname().machine not in SIZES, reason="cannot apply: another machine")
def test_it_is_what_the_kernel_writes(status: os.stat_result, tmp_path: Path) -> None:
    machine = os.uname().machine
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(SIZES[machine])
    number = {"x86_64": 4, "aarch64": 79}[machine]  # stat, newfstatat
    path = os.fsencode(tmp_path / "f")
    arguments = (path, buffer) if machine == "x86_64" else (-100, path, buffer, 0)
    assert libc.syscall(number, *arguments) == 0
    assert stat_bytes(machine, "stat", status, status.st_uid, status.st_gid) == buffer.raw


@pytest.mark.skipif(os.uname().machine not in SIZES, reason="cannot apply: another machine")
def test_statx_is_what_the_kernel_writes(status: os.stat_result, tmp_path: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(256)
    number = {"x86_64": 332, "aarch64": 291}[os.uname().machine]
    path = os.fsencode(tmp_path / "f")
    assert libc.syscall(number, -100, path, 0, 0x7FF, buffer) == 0
    ours = bytearray(statx_bytes(status, status.st_uid, status.st_gid))
    theirs = bytearray(buffer.raw)
    for data in (ours, theirs):
        data[0:4] = data[8:16] = data[56:64] = b""  # masks of what is told
    # Up to the device numbers; behind them stands what newer kernels add.
    assert len(ours) == len(theirs)
    assert ours[4:40] == theirs[4:40]


@pytest.mark.skipif(os.uname().machine not in SIZES, reason="cannot apply: another machine")
def test_statfs_has_the_places_of_the_kernel(tmp_path: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(120)
    number = {"x86_64": 137, "aarch64": 43}[os.uname().machine]
    assert libc.syscall(number, os.fsencode(tmp_path), buffer) == 0
    (kind,) = struct.unpack_from("<q", buffer.raw)
    ours = statfs_bytes(os.uname().machine, os.statvfs(tmp_path), kind)
    assert len(ours) == 120
    assert ours[:24] == buffer.raw[:24]  # the counts behind change all the time
    assert ours[64:80] == buffer.raw[64:80]
    assert len(statfs_bytes("i386", os.statvfs(tmp_path), 0x1021994)) == 84
