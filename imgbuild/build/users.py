"""Who a name is inside an image: /etc/passwd and /etc/group read as data, never through NSS.

Rules and words: github.com/moby/sys/user (GetExecUser) and BuildKit's readUser.
"""

from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple, Protocol

from imgbuild.build.copyrules import Tree, resolve
from imgbuild.errors import ContextError, ImageError
from imgbuild.layer.entry import ImagePath

# A passwd file of a large site has some thousand lines of 80 bytes.
_MAX_FILE = 4 << 20
_MAX_ID = (1 << 31) - 1


# Returns the first bytes of a regular file of the image, symlinks followed; None where none is.
ReadFile = Callable[[bytes, int], bytes | None]


class RootTree(Tree, Protocol):
    """A tree whose files can be read; `snapshot.view.RootView` is one."""

    def open(self, path: ImagePath) -> BinaryIO: ...


def reader(tree: RootTree) -> ReadFile:
    """Return how files of `tree` are read."""

    def read(path: bytes, size: int) -> bytes | None:
        real = resolve(tree.lstat, path)
        entry = tree.lstat(real)
        if entry is None or entry.type != "file":
            return None
        with tree.open(real) as stream:
            return stream.read(size)

    return read


class RunUser(NamedTuple):
    """Who a process runs as; `home` is what HOME is set to where nothing else sets it."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


class _User(NamedTuple):
    name: str
    uid: int
    gid: int
    home: str


class _Group(NamedTuple):
    name: str
    gid: int
    members: tuple[str, ...]


class UnknownUserError(ImageError):
    """A name that the image's passwd or group file lacks."""


def run_user(read: ReadFile, spec: str) -> RunUser:
    """Return who USER `spec` (`user[:group]`, names or numbers) is; empty is root.

    Raises `UnknownUserError` in BuildKit's words.
    """
    user_arg, _, group_arg = spec.partition(":")
    number = _number(user_arg)
    if number is not None and (group := _number(group_arg)) is not None:
        return RunUser(number, group, (group,), _home(read, number))
    known = _find_user(read, user_arg, number)
    if known is None and user_arg:
        if number is None:
            raise UnknownUserError(
                f"unable to find user {user_arg}: no matching entries in passwd file",
                hint="create the user in an earlier RUN, or use a number",
            )
        known = _User("", number, 0, "/")
    uid, gid, home = (known.uid, known.gid, known.home) if known else (0, 0, "/")
    groups: tuple[int, ...] = ()
    if group_arg:
        gid = _find_group(read, group_arg)
    elif known is not None and known.name:
        groups = tuple(g.gid for g in _groups(read) if known.name in g.members)
    # The runtime looks HOME up by number, whatever name led there.
    home = _home(read, uid) if number is not None else home or "/"
    # containerd puts the primary group among the others, where it is none of them.
    return RunUser(uid, gid, groups if gid in groups else (gid, *groups), home)


def owner(read: ReadFile, spec: str) -> tuple[int, int]:
    """Return the ids of `--chown=spec`, also the owner of a WORKDIR: a lone number is both ids.

    Raises `ContextError` in BuildKit's words.
    """
    user_arg, _, group_arg = spec.partition(":")
    uid = gid = 0
    if user_arg:
        number = _number(user_arg)
        if number is not None:
            uid = gid = number
        else:
            known = _find_user(read, user_arg, None)
            if known is None:
                raise _invalid_owner("user", user_arg, "passwd")
            uid, gid = known.uid, known.gid
    if group_arg:
        number = _number(group_arg)
        if number is not None:
            gid = number
        else:
            found = [g.gid for g in _groups(read) if g.name == group_arg]
            if not found:
                raise _invalid_owner("group", group_arg, "group")
            gid = found[0]
    return uid, gid


def _invalid_owner(kind: str, name: str, file: str) -> ContextError:
    return ContextError(
        f"invalid user index: -1: unable to find {kind} {name}: no matching entries in {file} file",
        hint="create it in an earlier RUN, or use numbers",
    )


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit()):
        return None
    # Python refuses to read a number of thousands of digits.
    digits = text.lstrip("0")
    value = int(digits or "0") if len(digits) < 11 else _MAX_ID + 1
    if value > _MAX_ID:
        raise UnknownUserError(f"uids and gids must be in range 0-{_MAX_ID}: {text}")
    return value


def _find_user(read: ReadFile, name: str, number: int | None) -> _User | None:
    for user in _users(read):
        if (user.uid == 0) if not name else user.name == name or user.uid == number:
            return user
    return None


def _find_group(read: ReadFile, name: str) -> int:
    number = _number(name)
    for group in _groups(read):
        if group.name == name or group.gid == number:
            return group.gid
    if number is None:
        raise UnknownUserError(
            f"unable to find group {name}: no matching entries in group file",
            hint="create the group in an earlier RUN, or use a number",
        )
    return number


def _home(read: ReadFile, uid: int) -> str:
    return next((u.home for u in _users(read) if u.uid == uid and u.home), "/")


def _users(read: ReadFile) -> Iterator[_User]:
    for fields in _rows(read, b"etc/passwd", 7):
        uid, gid = _plain(fields[2]), _plain(fields[3])
        if uid is not None and gid is not None:
            yield _User(fields[0], uid, gid, fields[5])


def _groups(read: ReadFile) -> Iterator[_Group]:
    for fields in _rows(read, b"etc/group", 4):
        gid = _plain(fields[2])
        if gid is not None:
            yield _Group(fields[0], gid, tuple(filter(None, fields[3].split(","))))


def _plain(text: str) -> int | None:
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 11 else None
    return value if value is not None and value <= _MAX_ID else None


def _rows(read: ReadFile, path: bytes, columns: int) -> Iterator[list[str]]:
    data = read(path, _MAX_FILE + 1) or b""
    if len(data) > _MAX_FILE:
        raise ImageError(f"/{path.decode()} of the image is larger than {_MAX_FILE} bytes")
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        text = line.strip()
        if text and not text.startswith("#"):
            fields = text.split(":")
            yield fields + [""] * (columns - len(fields))
