"""Whether commands for another architecture can run here: natively, or by an emulator of binfmt_misc.

The kernel hands a program whose first bytes fit a registered pattern to an interpreter:
https://docs.kernel.org/admin-guide/binfmt-misc.html. ELF header: elf(5).
"""

import errno
import os
from pathlib import Path
from typing import Literal, NamedTuple

from imgbuild.errors import DockerfileError
from imgbuild.oci.platform import Platform
from imgbuild.plan.model import BuildPlan, RunStep, ScratchBase, Stage, StageBase

BINFMT = Path("/proc/sys/fs/binfmt_misc")
# What the processor of an architecture runs beside its own.
_ALSO = {"amd64": ("386",), "arm64": ("arm",)}
_BITS = {32: 1, 64: 2}
_ORDER = {"little": 1, "big": 2}
# Word size, byte order and e_machine (https://www.sco.com/developers/gabi/latest/ch4.eheader.html).
_MACHINES: dict[str, tuple[Literal[32, 64], Literal["little", "big"], int]] = {
    "386": (32, "little", 3),
    "amd64": (64, "little", 62),
    "arm": (32, "little", 40),
    "arm64": (64, "little", 183),
    "loong64": (64, "little", 258),
    "mips": (32, "big", 8),
    "mips64": (64, "big", 8),
    "mips64le": (64, "little", 8),
    "mipsle": (32, "little", 8),
    "ppc64": (64, "big", 21),
    "ppc64le": (64, "little", 21),
    "riscv64": (64, "little", 243),
    "s390x": (64, "big", 22),
}
_EXECUTABLE = 2
_PROBE_SECONDS = 10


class Handler(NamedTuple):
    """A registered pattern; `fixed` when its interpreter is open already, so found in any root."""

    enabled: bool
    fixed: bool
    offset: int
    magic: bytes
    mask: bytes

    def takes(self, header: bytes) -> bool:
        """Tell whether a file that starts with `header` goes to this handler."""
        part = header[self.offset : self.offset + len(self.magic)]
        if not self.magic or len(part) < len(self.magic):
            return False
        mask = self.mask or b"\xff" * len(self.magic)
        return all(not (a ^ b) & m for a, b, m in zip(part, self.magic, mask, strict=False))


def elf_header(architecture: str) -> bytes | None:
    """Return the first bytes of a program for `architecture`; None when it is unknown."""
    machine = _MACHINES.get(architecture)
    if machine is None:
        return None
    bits, order, number = machine
    start = bytes((0x7F, *b"ELF", _BITS[bits], _ORDER[order], 1)).ljust(16, b"\0")
    fields = b"".join(
        value.to_bytes(size, order) for value, size in ((_EXECUTABLE, 2), (number, 2), (1, 4))
    )
    return (start + fields).ljust(64, b"\0")


def parse_handler(text: str) -> Handler:
    """Read a file of binfmt_misc; what it does not say stays empty, so that nothing fits."""
    lines = text.splitlines()
    fields = dict(line.partition(" ")[::2] for line in lines)
    try:
        magic, mask = (bytes.fromhex(fields.get(key, "")) for key in ("magic", "mask"))
        offset = int(fields.get("offset", "0"))
    except ValueError:
        magic, mask, offset = b"", b"", 0
    flags = fields.get("flags:", "")
    return Handler(lines[:1] == ["enabled"], "F" in flags, offset, magic, mask)


def can_run(wanted: Platform, host: Platform, binfmt: Path = BINFMT) -> bool:
    """Tell whether commands of an image for `wanted` can run on `host`, this machine."""
    want, have = wanted.normalised(), host.normalised()
    if want.os != have.os:
        return False
    if want.architecture in (have.architecture, *_ALSO.get(have.architecture, ())):
        return True
    header = elf_header(want.architecture)
    if header is None:
        return False
    status = _read(binfmt / "status")
    if status is None:
        # In a container it is not mounted, but counts all the same.
        return _starts(header)
    return status.strip() == "enabled" and any(
        handler.enabled and handler.fixed and handler.takes(header) for handler in _handlers(binfmt)
    )


def check_runnable(plan: BuildPlan, host: Platform, source: str, binfmt: Path = BINFMT) -> None:
    """Raise `DockerfileError` for the first RUN whose commands cannot run on `host`.

    `source` is the Dockerfile. What a stage from scratch runs is not known before it is built.
    """
    known: dict[Platform, bool] = {}
    for stage in plan.stages:
        run = next((step for step in stage.steps if isinstance(step, RunStep)), None)
        platform = stage.config.platform
        if run is None or _is_from_scratch(plan, stage):
            continue
        if platform not in known:
            known[platform] = can_run(platform, host, binfmt)
        if not known[platform]:
            raise DockerfileError(
                f"{run.name}: the image is for {platform}, whose commands this machine"
                f" ({host}) cannot run",
                hint=_remedy(platform, host),
                span=run.span,
                source=source,
            )


def _remedy(platform: Platform, host: Platform) -> str:
    if platform.os != host.os:
        return f"only images for {host.os} can have a RUN"
    return (
        "install an emulator: the package qemu-user-static (with binfmt-support), or"
        f" docker run --privileged --rm tonistiigi/binfmt --install {platform.architecture};"
        " or leave --platform out"
    )


def _is_from_scratch(plan: BuildPlan, stage: Stage) -> bool:
    base = stage.base
    while isinstance(base, StageBase):
        base = plan.stage(base.index).base
    return isinstance(base, ScratchBase) or not base.layers


def _handlers(binfmt: Path) -> list[Handler]:
    names = sorted(entry for entry in os.listdir(binfmt) if entry not in {"register", "status"})
    texts = (_read(binfmt / name) for name in names)
    return [parse_handler(text) for text in texts if text is not None]


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None


def _starts(header: bytes) -> bool:
    """Try to start a program of that header only: the kernel says at once when nothing takes it."""
    import subprocess

    try:
        fd = os.memfd_create("imgbuild-probe", 0)
    except OSError:
        return True  # nothing is known: the RUN itself will tell
    try:
        os.write(fd, header)
        os.fchmod(fd, 0o755)
        subprocess.run(
            [f"/proc/self/fd/{fd}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(fd,),
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except OSError as error:
        return error.errno != errno.ENOEXEC
    except subprocess.TimeoutExpired:
        return True
    finally:
        os.close(fd)
    return True
