"""The `--name=value` words between an instruction and its arguments."""

from collections.abc import Mapping, Sequence

from imgbuild.dockerfile.source import BLANKS
from imgbuild.dockerfile.suggest import did_you_mean
from imgbuild.errors import DockerfileError

# What a flag takes: true or false, one value, or one value each time it is given.
BOOL, TEXT, TEXTS = "bool", "text", "texts"
# As Go's strconv.ParseBool.
TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
Flags = dict[str, list[str]]


def cut_flags(text: str) -> tuple[list[str], str]:
    """Take the leading flags off an instruction's arguments; `--` ends them.

    Quotes come off and a backslash escapes, whatever the file's escape character is.
    """
    flags: list[str] = []
    at = 0
    while True:
        while at < len(text) and text[at] in BLANKS:
            at += 1
        if not text.startswith("--", at):
            return flags, text[at:]
        word, quoted, at = _word(text, at)
        if word == "--":
            return flags, text[at:]
        if word or quoted:
            flags.append(word)


def _word(text: str, at: int) -> tuple[str, bool, int]:
    """Read one word; tell whether it had quotes and where it ends."""
    out: list[str] = []
    quote, quoted = "", False
    while at < len(text):
        char = text[at]
        if not quote and char in BLANKS:
            break
        at += 1
        if char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote, quoted = char, True
        elif char != "\\":
            out.append(char)
        elif at < len(text):
            out.append(text[at])
            at += 1
        else:
            quote = ""
    return "".join(out), quoted, at


def read_flags(words: Sequence[str], known: Mapping[str, str]) -> Flags:
    """Check flags against the ones an instruction knows; raises `DockerfileError`.

    A flag that was not given is not in the result; a bool is "true" or "false".
    """
    found: Flags = {}
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        kind = known.get(name)
        if kind is None:
            guess = did_you_mean(name, known)
            raise DockerfileError(f"unknown flag: --{name}{guess}", hint=_choices(known))
        if name in found and kind != TEXTS:
            raise DockerfileError(f"duplicate flag specified: --{name}")
        if kind == BOOL:
            value = _bool(name, equals, value)
        elif not equals:
            raise DockerfileError(f"missing a value on flag: --{name}")
        found.setdefault(name, []).append(value)
    return found


def _bool(name: str, equals: str, value: str) -> str:
    if equals and not value:
        raise DockerfileError(f"missing a value on flag: --{name}")
    lower = value.lower() or "true"
    if lower not in {"true", "false"}:
        raise DockerfileError(f"expecting boolean value for flag --{name}, not: {value}")
    return lower


def _choices(known: Mapping[str, str]) -> str:
    if not known:
        return "this instruction has no flags"
    return "its flags are " + ", ".join(f"--{name}" for name in known)
