"""The text of RUN --mount as its keys and values, checked as BuildKit's parseMount checks it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from imgbuild.dockerfile.csvfields import csv_fields
from imgbuild.dockerfile.flags import FALSE, TRUE
from imgbuild.dockerfile.quoting import quote
from imgbuild.dockerfile.sizes import parse_size
from imgbuild.dockerfile.suggest import did_you_mean
from imgbuild.errors import DockerfileError

MountType = Literal["bind", "cache", "tmpfs", "secret", "ssh"]
Sharing = Literal["shared", "private", "locked"]
T = TypeVar("T", bound=str)

_TYPES: tuple[MountType, ...] = ("bind", "cache", "tmpfs", "secret", "ssh")
_SHARINGS: tuple[Sharing, ...] = ("shared", "private", "locked")
_KEYS = ["type", "from", "source", "target", "readonly", "id", "sharing", "required", "size"]
_KEYS += ["mode", "uid", "gid", "src", "dst", "destination", "ro", "rw", "readwrite", "env"]
_LARGEST = (1 << 32) - 1


@dataclass(slots=True)
class MountText:
    """One --mount as it is written: what was not said is "" or None."""

    type: MountType = "bind"
    from_: str = ""
    source: str = ""
    target: str = ""
    readonly: bool | None = None
    size: int = 0
    id: str = ""
    sharing: Sharing | None = None
    required: bool = False
    env: str | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


def check_mount(text: str) -> None:
    """Check what can be told of a --mount before its variables are filled in."""
    for field in _fields(text):
        key, _, value = field.partition("=")
        if key.lower() == "from" and 0 <= value.find("$") < len(value) - 1:
            raise DockerfileError(
                "'from' doesn't support variable expansion, define alias stage instead"
            )


def mount_from(text: str) -> str:
    """Return where a --mount says that its files come from; it may hold no variables."""
    pairs = (field.partition("=") for field in _fields(text))
    found = [value for key, _, value in pairs if key.lower() == "from"]
    return found[-1] if found else ""


def parse_mount(text: str, expand: Callable[[str], str]) -> MountText:
    """Read a --mount, its values expanded; raise `DockerfileError` in BuildKit's words."""
    mount = MountText()
    for field in _fields(text):
        key, equals, value = field.partition("=")
        if equals:
            _set(mount, key.lower(), expand(value), field)
        else:
            _set_flag(mount, key.lower(), field)
    _check_together(mount)
    return mount


def _fields(text: str) -> list[str]:
    try:
        return csv_fields(text)
    except ValueError as problem:
        raise DockerfileError(f"failed to parse csv mounts: {problem}") from None


def _set_flag(mount: MountText, key: str, field: str) -> None:
    match key:
        case "readonly" | "ro":
            mount.readonly = True
        case "readwrite" | "rw":
            mount.readonly = False
        case "required":
            _of_types(mount, key, "secret", "ssh")
            mount.required = True
        case _:
            raise DockerfileError(f"invalid field '{field}' must be a key=value pair")


def _set(mount: MountText, key: str, value: str, field: str) -> None:
    match key:
        case "type":
            mount.type = _one_of(_TYPES, value, "unsupported mount type")
        case "from":
            mount.from_ = value
        case "source" | "src":
            mount.source = value
        case "target" | "dst" | "destination":
            mount.target = value
        case "readonly" | "ro":
            mount.readonly = _bool(key, value)
        case "readwrite" | "rw":
            mount.readonly = not _bool(key, value)
        case "id":
            mount.id = value
        case "sharing":
            mount.sharing = _one_of(_SHARINGS, value, "unsupported sharing value")
        case "env":
            mount.env = value
        case _:
            _set_number(mount, key, value, field)


def _set_number(mount: MountText, key: str, value: str, field: str) -> None:
    match key:
        case "required":
            _of_types(mount, key, "secret", "ssh")
            mount.required = _bool(key, value)
        case "size":
            _of_types(mount, key, "tmpfs")
            mount.size = _size(value)
        case "mode":
            mount.mode = _number(key, value, 8)
        case "uid":
            mount.uid = _number(key, value, 10)
        case "gid":
            mount.gid = _number(key, value, 10)
        case _:
            guess = did_you_mean(key, _KEYS, ignore_case=True)
            raise DockerfileError(f"unexpected key '{key}' in '{field}'{guess}")


def _of_types(mount: MountText, key: str, *types: MountType) -> None:
    if mount.type not in types:
        raise DockerfileError(
            f"unexpected key '{key}' for mount type '{mount.type}'",
            hint=f"{key} is for {' and '.join(types)} mounts, whose type has to stand before it",
        )


def _one_of(choices: tuple[T, ...], value: str, what: str) -> T:
    for choice in choices:
        if choice == value.lower():
            return choice
    guess = did_you_mean(value, choices, ignore_case=True)
    raise DockerfileError(f"{what} {quote(value)}{guess}", hint="use " + " or ".join(choices))


def _bool(key: str, value: str) -> bool:
    if value not in TRUE | FALSE:
        raise DockerfileError(f"invalid value for {key}: {value}", hint="use true or false")
    return value in TRUE


def _size(value: str) -> int:
    try:
        return parse_size(value)
    except ValueError:
        raise DockerfileError(
            f"invalid value for size: {value}", hint="write it like 64m or 1g"
        ) from None


def _number(key: str, value: str, base: int) -> int:
    digits = "01234567" if base == 8 else "0123456789"
    # More digits than these are too many, however many they are.
    if not value or value.strip(digits) or int(value.lstrip("0")[:12] or "0", base) > _LARGEST:
        raise DockerfileError(f"invalid value {value} for {key}")
    return int(value, base)


def _check_together(mount: MountText) -> None:
    if mount.type in {"bind", "tmpfs"}:
        for key in ("mode", "uid", "gid"):
            if getattr(mount, key) is not None:
                raise DockerfileError(f"{key} not allowed for {quote(mount.type)} type mounts")
    if mount.sharing is not None and mount.type != "cache":
        raise DockerfileError(f"invalid cache sharing set for {mount.type} mount")
    if mount.type != "secret":
        return
    if mount.from_:
        raise DockerfileError("secret mount should not have a from")
    if not (mount.source or mount.target or mount.id):
        raise DockerfileError("invalid secret mount. one of source, target required")
    if mount.source and mount.id:
        raise DockerfileError("both source and id can't be set")
