"""Tiny root trees that run offline: busybox-static where there is one, else programs of the host."""

import os
import shutil
import subprocess
from pathlib import Path

_TOOLS = (
    "sh cat echo true false ls id stat mount umount ln mkdir rm mv cp chmod chown touch kill sleep "
    "ps env pwd wc grep head tail tr tee test dd mknod mkfifo readlink rmdir find unshare hostname "
    "sync nproc ip nc seq tty setsid cut sort printf whoami"
)
_APPLETS = _TOOLS.split()


def make_root(root: Path) -> Path:
    """Fill a directory with a shell, the usual tools, /etc and an empty /tmp."""
    for folder in ("bin", "etc", "tmp", "root", "usr/bin"):
        (root / folder).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    busybox = shutil.which("busybox")
    if busybox is not None and is_static(Path(busybox)):
        shutil.copy(busybox, root / "bin/busybox")
        for name in _APPLETS:
            (root / "bin" / name).symlink_to("busybox")
        return root
    for name in _APPLETS:
        program = shutil.which(name)
        if program is not None:
            add_program(root, program, f"bin/{name}")
    return root


def make_skeleton(root: Path) -> Path:
    """Make the mount points that go below all layers."""
    for folder in ("proc", "sys", "dev", "etc"):
        (root / folder).mkdir(parents=True)
    for file in ("etc/hosts", "etc/resolv.conf"):
        (root / file).touch()
    return root


def add_program(root: Path, program: str, to: str) -> None:
    """Copy a program of the host with the libraries it names."""
    (root / to).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(program, root / to)
    for library in _libraries(program):
        place = root / library.lstrip("/")
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, place)


def give_to(tree: Path, uid: int, gid: int) -> None:
    """Change the owner of a tree, as unpacking would have."""
    os.chown(tree, uid, gid)
    for folder, folders, files in os.walk(tree):
        for name in (*folders, *files):
            os.chown(os.path.join(folder, name), uid, gid, follow_symlinks=False)


def is_static(program: Path) -> bool:
    return not _libraries(str(program))


def _libraries(program: str) -> list[str]:
    done = subprocess.run(["ldd", program], capture_output=True, text=True)
    words = done.stdout.split()
    return [word for word in words if word.startswith("/")]
