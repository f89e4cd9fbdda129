"""One reader per instruction: from a node to its record.

Source of the rules and texts: BuildKit's frontend/dockerfile/instructions. The order of checks
within a reader is BuildKit's too, since it decides which message a user sees.
"""

import re
from collections.abc import Callable, Mapping

from imgbuild.dockerfile import instructions as ins
from imgbuild.dockerfile.csvfields import csv_fields
from imgbuild.dockerfile.durations import parse_duration
from imgbuild.dockerfile.flags import BOOL, FALSE, TEXT, TEXTS, TRUE, Flags, read_flags
from imgbuild.dockerfile.heredoc import chomp, parse_opener
from imgbuild.dockerfile.mounts import check_mount
from imgbuild.dockerfile.nodes import KEYWORDS, Node
from imgbuild.dockerfile.quoting import quote
from imgbuild.dockerfile.source import BLANKS
from imgbuild.dockerfile.suggest import did_you_mean
from imgbuild.errors import DockerfileError, Span

_STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]*\Z")
_INTEGER = re.compile(r"[+-]?[0-9]+\Z")
_ONBUILD = re.compile(rf"^[{BLANKS}]*onbuild[\t\n\f\r ]*", re.IGNORECASE)
_MILLISECOND = 10**6

_NO_FLAGS: Mapping[str, str] = {}
_FROM_FLAGS = {"platform": TEXT}
_RUN_FLAGS = {"mount": TEXTS, "network": TEXT, "security": TEXT, "device": TEXTS}
_COPY_FLAGS = {
    "from": TEXT,
    "chown": TEXT,
    "chmod": TEXT,
    "link": BOOL,
    "parents": BOOL,
    "exclude": TEXTS,
}
_ADD_FLAGS = {
    "chown": TEXT,
    "chmod": TEXT,
    "link": BOOL,
    "keep-git-dir": BOOL,
    "checksum": TEXT,
    "unpack": BOOL,
    "exclude": TEXTS,
}
_NETWORKS = ("default", "none", "host")
_SECURITIES = ("sandbox", "insecure")
_HEALTH_FLAGS = dict.fromkeys(
    ("interval", "timeout", "start-period", "start-interval", "retries"), TEXT
)


def read_instruction(node: Node, span: Span) -> ins.Instruction:
    """Return the record of a node; raises `DockerfileError` without a span."""
    reader = _READERS.get(node.keyword)
    if reader is None:
        guess = did_you_mean(node.name, KEYWORDS, ignore_case=True)
        raise DockerfileError(f"unknown instruction: {node.name}{guess}")
    return reader(node, span)


def _from(node: Node, span: Span) -> ins.From:
    name = None
    if len(node.args) == 3 and node.args[1].lower() == "as":
        name = node.args[2].lower()
        if not _STAGE_NAME.match(name):
            raise DockerfileError(
                f"invalid name for build stage: {quote(node.args[2])}, "
                "name can't start with a number or contain symbols"
            )
    elif len(node.args) != 1:
        raise DockerfileError(
            "FROM requires either one or three arguments", hint="write FROM IMAGE [AS NAME]"
        )
    flags = read_flags(node.flags, _FROM_FLAGS)
    comment = _description(node, name or "")
    return ins.From(span, node.args[0], name, _text(flags, "platform"), comment)


def _arg(node: Node, span: Span) -> ins.Arg:
    if not node.args:
        raise _at_least_one("ARG")
    args: list[tuple[str, str | None]] = []
    for word in node.args:
        name, equals, value = word.partition("=")
        if equals and not name:
            raise DockerfileError("ARG names can not be blank")
        args.append((name, value if equals else None))
    comments = tuple(_description(node, name) for name, _ in args)
    return ins.Arg(span, tuple(args), comments[0], comments)


def _env(node: Node, span: Span) -> ins.Env:
    return ins.Env(span, _pairs(node, "ENV"), node.legacy)


def _label(node: Node, span: Span) -> ins.Label:
    return ins.Label(span, _pairs(node, "LABEL"), node.legacy)


def _pairs(node: Node, name: str) -> tuple[tuple[str, str], ...]:
    read_flags(node.flags, _NO_FLAGS)
    if not node.args:
        raise _at_least_one(name)
    if not all(node.args[::2]):
        raise DockerfileError(f"{name} names can not be blank")
    return tuple(zip(node.args[::2], node.args[1::2], strict=True))


def _maintainer(node: Node, span: Span) -> ins.Maintainer:
    return ins.Maintainer(span, _only(node, "MAINTAINER"))


def _run(node: Node, span: Span) -> ins.Run:
    flags = read_flags(node.flags, _RUN_FLAGS)
    for device in flags.get("device", ()):
        _check_device(device)
    for mount in flags.get("mount", ()):
        check_mount(mount)
    return ins.Run(
        span,
        _command(node),
        mounts=tuple(flags.get("mount", ())),
        network=_choice(flags, "network", _NETWORKS, "invalid network mode {}"),
        security=_choice(flags, "security", _SECURITIES, "security {} is not valid"),
        devices=tuple(flags.get("device", ())),
    )


def _choice(flags: Flags, name: str, choices: tuple[str, ...], message: str) -> str | None:
    if name not in flags:
        return None
    value = flags[name][-1]
    if value not in choices:
        raise DockerfileError(
            message.format(quote(value)) + did_you_mean(value, choices),
            hint="use " + " or ".join(choices),
        )
    return value


def _check_device(text: str) -> None:
    try:
        fields = csv_fields(text)
    except ValueError as problem:
        raise DockerfileError(f"failed to parse csv devices: {problem}") from None
    name = ""
    for field in fields:
        key, equals, value = field.partition("=")
        key = key.lower()
        if key == "required":
            if equals and value not in TRUE | FALSE:
                raise DockerfileError(f"invalid value for {key}: {value}")
        elif key == "name" and equals:
            if name:
                raise DockerfileError(f"device name already set to {name}")
            name = value
        elif not name:
            name = field
        elif equals:
            guess = did_you_mean(key, ("name", "required"))
            raise DockerfileError(f"unexpected key '{key}' in '{field}'{guess}")
        else:
            raise DockerfileError(f"invalid field '{field}' must be a key=value pair")


def _cmd(node: Node, span: Span) -> ins.Cmd:
    read_flags(node.flags, _NO_FLAGS)
    return ins.Cmd(span, _command(node))


def _entrypoint(node: Node, span: Span) -> ins.Entrypoint:
    read_flags(node.flags, _NO_FLAGS)
    return ins.Entrypoint(span, _command(node))


def _command(node: Node) -> ins.Command:
    return ins.Command(tuple(node.args), not node.json, node.heredocs)


def _copy(node: Node, span: Span) -> ins.Copy:
    _check_sources(node, "COPY")
    flags = read_flags(node.flags, _COPY_FLAGS)
    sources, heredocs, dest = _sources(node, "COPY")
    return ins.Copy(
        span,
        sources,
        dest,
        heredocs,
        from_=_text(flags, "from"),
        chown=_text(flags, "chown"),
        chmod=_text(flags, "chmod"),
        link=_bool(flags, "link") or False,
        parents=_bool(flags, "parents") or False,
        exclude=tuple(flags.get("exclude", ())),
    )


def _add(node: Node, span: Span) -> ins.Add:
    _check_sources(node, "ADD")
    flags = read_flags(node.flags, _ADD_FLAGS)
    sources, heredocs, dest = _sources(node, "ADD")
    return ins.Add(
        span,
        sources,
        dest,
        heredocs,
        chown=_text(flags, "chown"),
        chmod=_text(flags, "chmod"),
        link=_bool(flags, "link") or False,
        exclude=tuple(flags.get("exclude", ())),
        keep_git_dir=_bool(flags, "keep-git-dir"),
        checksum=_text(flags, "checksum"),
        unpack=_bool(flags, "unpack"),
    )


def _check_sources(node: Node, name: str) -> None:
    if len(node.args) < 2:
        raise DockerfileError(
            f"{name} requires at least two arguments, but only one was provided. "
            "Destination could not be determined",
            hint=f"write {name} SOURCE... DEST",
        )


def _sources(node: Node, name: str) -> tuple[tuple[str, ...], tuple[ins.Heredoc, ...], str]:
    """Tell sources from here-documents, which are named by their words."""
    *words, dest = node.args
    bodies = {document.name: document for document in node.heredocs}
    if _opener(dest) is not None:
        raise DockerfileError(f"{name} cannot accept a heredoc as a destination")
    sources, heredocs = [], []
    for word in words:
        opener = _opener(word)
        if opener is None:
            sources.append(word)
        else:
            body = bodies.get(opener.name, opener)
            heredocs.append(
                chomp(
                    ins.Heredoc(opener.name, body.content, opener.expand, opener.chomp, opener.fd)
                )
            )
    return tuple(sources), tuple(heredocs), dest


def _opener(word: str) -> ins.Heredoc | None:
    if "<<" not in word:
        return None
    try:
        return parse_opener(word)
    except DockerfileError:
        return None


def _workdir(node: Node, span: Span) -> ins.Workdir:
    return ins.Workdir(span, _only(node, "WORKDIR"))


def _user(node: Node, span: Span) -> ins.User:
    return ins.User(span, _only(node, "USER"))


def _expose(node: Node, span: Span) -> ins.Expose:
    if not node.args:
        raise _at_least_one("EXPOSE")
    read_flags(node.flags, _NO_FLAGS)
    return ins.Expose(span, tuple(sorted(node.args)))


def _volume(node: Node, span: Span) -> ins.Volume:
    if not node.args:
        raise _at_least_one("VOLUME")
    read_flags(node.flags, _NO_FLAGS)
    paths = tuple(path.strip(BLANKS) for path in node.args)
    if not all(paths):
        raise DockerfileError("VOLUME specified can not be an empty string")
    return ins.Volume(span, paths)


def _stopsignal(node: Node, span: Span) -> ins.StopSignal:
    # BuildKit does not look at flags here.
    return ins.StopSignal(span, _only(node._replace(flags=[]), "STOPSIGNAL"))


def _shell(node: Node, span: Span) -> ins.Shell:
    read_flags(node.flags, _NO_FLAGS)
    if not node.args:
        raise _at_least_one("SHELL")
    if not node.json:
        raise DockerfileError(
            "SHELL requires the arguments to be in JSON form",
            hint='write it like SHELL ["/bin/bash", "-c"]',
        )
    return ins.Shell(span, tuple(node.args))


def _healthcheck(node: Node, span: Span) -> ins.Healthcheck:
    if not node.args:
        raise _at_least_one("HEALTHCHECK")
    kind, *command = node.args
    kind = kind.upper()
    if kind == "NONE":
        if command:
            raise DockerfileError("HEALTHCHECK NONE takes no arguments")
        return ins.Healthcheck(span, ("NONE",))
    flags = read_flags(node.flags, _HEALTH_FLAGS)
    if kind != "CMD":
        raise DockerfileError(f"Unknown type {quote(kind)} in HEALTHCHECK (try CMD)")
    if not command:
        raise DockerfileError("Missing command after HEALTHCHECK CMD")
    return ins.Healthcheck(
        span,
        ("CMD" if node.json else "CMD-SHELL", *command),
        interval=_interval(flags, "interval"),
        timeout=_interval(flags, "timeout"),
        start_period=_interval(flags, "start-period"),
        start_interval=_interval(flags, "start-interval"),
        retries=_retries(_text(flags, "retries")),
    )


def _interval(flags: Flags, name: str) -> int:
    text = _text(flags, name)
    if text is None:
        return 0
    try:
        duration = parse_duration(text)
    except ValueError as problem:
        raise DockerfileError(str(problem), hint="write it like 30s or 1m30s") from None
    if duration and duration < _MILLISECOND:
        raise DockerfileError(f"Interval {quote(name)} cannot be less than 1ms")
    return duration


def _retries(text: str | None) -> int:
    if text is None:
        return 0
    if not _INTEGER.match(text):
        raise DockerfileError(f"strconv.ParseInt: parsing {quote(text)}: invalid syntax")
    digits = text.lstrip("+-").lstrip("0")
    number = int(digits or "0") if len(digits) < 12 else 1 << 40
    if text.startswith("-"):
        number = -number
    if not -(1 << 31) <= number < 1 << 31:
        raise DockerfileError(f"strconv.ParseInt: parsing {quote(text)}: value out of range")
    if number < 0:
        raise DockerfileError(f"--retries cannot be negative ({number})")
    return number


def _onbuild(node: Node, span: Span) -> ins.OnBuild:
    if not node.args:
        raise _at_least_one("ONBUILD")
    read_flags(node.flags, _NO_FLAGS)
    trigger = node.args[0].upper()
    if trigger == "ONBUILD":
        raise DockerfileError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in {"MAINTAINER", "FROM"}:
        raise DockerfileError(f"{trigger} isn't allowed as an ONBUILD trigger")
    bodies = "".join(f"\n{document.content}{document.name}" for document in node.heredocs)
    return ins.OnBuild(span, _ONBUILD.sub("", node.text, count=1) + bodies)


def _only(node: Node, name: str) -> str:
    if len(node.args) != 1:
        raise DockerfileError(f"{name} requires exactly one argument")
    read_flags(node.flags, _NO_FLAGS)
    return node.args[0]


def _text(flags: Flags, name: str) -> str | None:
    """Return a flag's value; an empty one is the same as none."""
    return flags.get(name, [""])[-1] or None


def _bool(flags: Flags, name: str) -> bool | None:
    return flags[name][-1] == "true" if name in flags else None


def _description(node: Node, name: str) -> str:
    """Find the comment `name text` above an instruction."""
    if name:
        for comment in node.comments:
            if comment.startswith(name + " "):
                return comment.removeprefix(name + " ")
    return ""


def _at_least_one(name: str) -> DockerfileError:
    return DockerfileError(f"{name} requires at least one argument")


_READERS: dict[str, Callable[[Node, Span], ins.Instruction]] = {
    "ADD": _add,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
