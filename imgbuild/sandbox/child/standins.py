"""What a root holds at /dev, /proc and /sys where nothing can be mounted there.

No device node is ever made: what is here only stands for what `emulation` answers, so that
listings and links find something. None of it becomes part of an image.
"""

import contextlib
import os
from collections.abc import Iterator

DEVICES = (b"null", b"zero", b"full", b"random", b"urandom", b"tty")
LINKS = (
    (b"/proc/self/fd", b"fd"),
    (b"/proc/self/fd/0", b"stdin"),
    (b"/proc/self/fd/1", b"stdout"),
    (b"/proc/self/fd/2", b"stderr"),
)
MOUNTS = b"none / rootfs rw,relatime 0 0\nproc /proc proc rw,nosuid,nodev,noexec,relatime 0 0\n"
MOUNT_INFO = (
    b"1 0 0:1 / / rw,relatime - rootfs none rw\n"
    b"2 1 0:2 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw\n"
)
# Read once by whoever comes by a link, such as /etc/mtab.
_PROC = {
    b"proc/mounts": MOUNTS,
    b"proc/self/mounts": MOUNTS,
    b"proc/self/mountinfo": MOUNT_INFO,
}
_STREAMS = 3  # of which attributes may be asked for, which are not made up
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class StandIns:
    """Make them for a step. `aside` is a directory beside the root; `owner` the id of its root."""

    def __init__(self, root_fd: int, aside: int, owner: int) -> None:
        self._root = root_fd
        self._aside = aside
        self._owner = owner

    def make(self) -> None:
        """Put new ones in place of what an image or an earlier step left there."""
        with keeping_times(self._root):
            for name in (b"dev", b"proc", b"sys"):
                with contextlib.suppress(FileNotFoundError):
                    away = name + b"-" + os.urandom(8).hex().encode()
                    os.rename(name, away, src_dir_fd=self._root, dst_dir_fd=self._aside)
                self._directory(name, 0o755)
        self._fill_dev()
        self._directory(b"proc/self", 0o555)
        self._directory(b"proc/self/fd", 0o555)
        for number in range(_STREAMS):
            os.symlink(b"/dev/null", b"proc/self/fd/%d" % number, dir_fd=self._root)
        for path, content in _PROC.items():
            self._file(path, content, 0o444)

    def _fill_dev(self) -> None:
        for name in DEVICES:
            self._file(b"dev/" + name, b"", 0o666)
        self._directory(b"dev/shm", 0o1777)
        self._directory(b"dev/pts", 0o755)
        for text, name in LINKS:
            os.symlink(text, b"dev/" + name, dir_fd=self._root)
            self._give(b"dev/" + name)

    def _directory(self, path: bytes, mode: int) -> None:
        os.mkdir(path, 0o700, dir_fd=self._root)
        self._give(path)
        fd = os.open(path, _DIRECTORY, dir_fd=self._root)
        os.fchmod(fd, mode)
        os.close(fd)

    def _file(self, path: bytes, content: bytes, mode: int) -> None:
        fd = os.open(path, _NEW, 0o600, dir_fd=self._root)
        try:
            os.write(fd, content)
            os.fchown(fd, self._owner, self._owner)
            os.fchmod(fd, mode)
        finally:
            os.close(fd)

    def _give(self, path: bytes) -> None:
        os.chown(path, self._owner, self._owner, dir_fd=self._root, follow_symlinks=False)


@contextlib.contextmanager
def keeping_times(directory: int) -> Iterator[None]:
    """Let what is done in a directory not show in its times."""
    before = os.fstat(directory)
    try:
        yield
    finally:
        os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))
