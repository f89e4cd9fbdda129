"""`WWW-Authenticate` headers and token scopes, read and written. Pure.

Challenges: RFC 9110 section 11. Scopes: distribution's docs/spec/auth/scope.md.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TOKEN68 = re.compile(r"[A-Za-z0-9\-._~+/]+=*(?=\s*(?:,|$))")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"?', re.DOTALL)
_MAX_HEADER = 16 << 10

# What a token allows: pairs of a resource (`repository:library/debian`) and an action (`pull`).
Grants = frozenset[tuple[str, str]]
NOTHING: Grants = frozenset()


class Challenge(NamedTuple):
    """One way to authenticate; `scheme` and the names of `params` are in lower case."""

    scheme: str
    params: Mapping[str, str]


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """Return every challenge of all headers in order; what cannot be read is passed over."""
    found: list[Challenge] = []
    for header in headers:
        found += _parse_one(header[:_MAX_HEADER])
    return found


def _parse_one(text: str) -> list[Challenge]:
    found: list[tuple[str, dict[str, str]]] = []
    at = 0
    while at < len(text):
        word = _TOKEN.match(text, at)
        if word is None:
            at += 1
            continue
        at = _skip_blanks(text, word.end())
        if found and text[at : at + 1] == "=":
            value, at = _parse_value(text, _skip_blanks(text, at + 1))
            # The first of two equal names counts: a second one may be smuggled in.
            found[-1][1].setdefault(word[0].lower(), value)
        else:
            found.append((word[0].lower(), {}))
            if secret := _TOKEN68.match(text, at):
                at = secret.end()
    return [Challenge(scheme, params) for scheme, params in found]


def _skip_blanks(text: str, at: int) -> int:
    while text[at : at + 1] in {" ", "\t"}:
        at += 1
    return at


def _parse_value(text: str, at: int) -> tuple[str, int]:
    if quoted := _QUOTED.match(text, at):
        return re.sub(r"\\(.)", r"\1", quoted[1], flags=re.DOTALL), quoted.end()
    # Not a quoted string: some servers leave out the quotes around URLs too.
    end = at
    while end < len(text) and text[end] not in ", \t":
        end += 1
    return text[at:end], end


def choose(challenges: Iterable[Challenge]) -> Challenge | None:
    """Return the challenge to answer: Bearer (when it names a realm) before Basic, else None."""
    usable = [c for c in challenges if c.scheme == "basic" or _is_bearer(c)]
    return next((c for c in usable if c.scheme == "bearer"), usable[0] if usable else None)


def _is_bearer(challenge: Challenge) -> bool:
    return challenge.scheme == "bearer" and bool(challenge.params.get("realm"))


def grants_for(repository: str, *actions: str) -> Grants:
    """Return what is needed to do `actions` in `repository`."""
    return frozenset((f"repository:{repository}", action) for action in actions)


def parse_scopes(text: str) -> Grants:
    """Read a `scope` parameter: scopes between blanks, actions between commas."""
    pairs: set[tuple[str, str]] = set()
    for scope in text.split():
        resource, colon, actions = scope.rpartition(":")
        if colon:
            pairs |= {(resource, action) for action in actions.split(",") if action}
        else:
            pairs.add((scope, ""))  # public.ecr.aws asks for the scope "aws"
    return frozenset(pairs)


def format_scopes(grants: Grants) -> list[str]:
    """Write one scope a resource, both sorted."""
    actions: dict[str, list[str]] = {}
    for resource, action in sorted(grants):
        actions.setdefault(resource, []).append(action)
    return [
        f"{resource}:{','.join(filter(None, names))}" if any(names) else resource
        for resource, names in actions.items()
    ]
