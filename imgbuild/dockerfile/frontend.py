"""Which language a build definition is in: `# syntax=` names a frontend, and one is built in.

Source of the rules: https://docs.docker.com/build/buildkit/frontend/ and BuildKit's
frontend/dockerfile/builder (forwardGateway).
"""

from imgbuild.dockerfile.directives import find_syntax
from imgbuild.dockerfile.source import Source, read_source
from imgbuild.errors import DockerfileError

# The build argument that names a frontend in place of the directive.
ARGUMENT = "BUILDKIT_SYNTAX"
# The second is where docker publishes versions before they are released.
_OWN = ("docker/dockerfile", "docker/dockerfile-upstream")
# What BuildKit calls its built-in frontend.
_BUILT_IN = "dockerfile.v0"


def refuse_foreign_frontend(text: str | bytes, file: str, override: str | None = None) -> None:
    """Raise `DockerfileError` for a definition in a language other than this one.

    `override` is the build argument BUILDKIT_SYNTAX, which wins over the directive.
    Call it before `parse`: a text in another language has errors that mean nothing.
    """
    source = read_source(text, file)
    if override:
        if not is_own(override):
            raise _foreign(override, source, 0)
        return
    found = find_syntax(source.text)
    if found is not None and not is_own(found.value):
        raise _foreign(found.value, source, found.line)


def is_own(value: str) -> bool:
    """Tell whether `value` names this language: docker/dockerfile on any registry, of any version."""
    image = _image(value)
    if not image or image == _BUILT_IN:
        return True
    name = image.partition("@")[0]
    folder, slash, last = name.rpartition("/")
    name = f"{folder}{slash}{last.partition(':')[0]}"
    return any(name == own or name.endswith(f"/{own}") for own in _OWN)


def _image(value: str) -> str:
    # Words after the image are the frontend's own arguments.
    return (value.split(None, 1) or [""])[0]


def _foreign(value: str, source: Source, line: int) -> DockerfileError:
    message = f"the frontend {_image(value)} cannot be used: only docker/dockerfile is built in"
    if not line:
        return DockerfileError(message, hint=f"leave the build argument {ARGUMENT} out")
    return source.error(
        message, line, hint="remove the syntax directive, or write # syntax=docker/dockerfile:1"
    )
