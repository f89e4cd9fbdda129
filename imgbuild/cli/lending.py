"""`--secret` and `--ssh`: what the user lends to a build, as docker writes it."""

from pathlib import Path

from imgbuild.cli import environment
from imgbuild.errors import UsageError
from imgbuild.options import Secret, SshAgent

_HINT = "write it as id=NAME,src=FILE or id=NAME,env=VARIABLE"
_TYPES = ("file", "env")


def secret(text: str) -> Secret:
    """Read one `--secret`; a value of the environment is taken now. Raises `UsageError`."""
    fields = _fields(text)
    name, source, variable = fields["id"], fields["src"], fields["env"]
    if not name:
        raise UsageError("secret missing ID", hint=_HINT)
    if fields["type"] == "env" and not variable:
        variable, source = source, ""
    if not variable and not source and environment.variable(name) is not None:
        variable = name
    if variable:
        # As docker has it: a variable that is not set is an empty secret.
        return Secret(name, value=environment.variable(variable) or b"")
    return Secret(name, Path(source or name))


def agent(text: str) -> SshAgent:
    """Read one `--ssh`: `ID[=SOCKET|=KEY,…]`; without a path it is the user's agent."""
    name, _, places = text.partition("=")
    if not places:
        own = environment.ssh_agent()
        return SshAgent(name or "default", (own,) if own else ())
    return SshAgent(name or "default", tuple(Path(place) for place in places.split(",")))


def _fields(text: str) -> dict[str, str]:
    from imgbuild.dockerfile.csvfields import csv_fields

    found = dict.fromkeys(("id", "src", "env", "type"), "")
    try:
        fields = csv_fields(text)
    except ValueError as error:
        raise UsageError(f"failed to parse csv secret: {error}", hint=_HINT) from None
    for field in fields:
        key, equals, value = field.partition("=")
        if not equals:
            raise UsageError(f"invalid field '{key}' must be a key=value pair", hint=_HINT)
        key = key.lower()
        if key == "type" and value not in _TYPES:
            raise UsageError(f'unsupported secret type "{value}"', hint="types are file and env")
        if key not in found and key != "source":
            raise UsageError(f"unexpected key '{key}' in '{field}'", hint=_HINT)
        found["src" if key == "source" else key] = value
    return found
