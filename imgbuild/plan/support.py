"""What the language has and a plan cannot say yet: refused by name, never ignored."""

from imgbuild.dockerfile.instructions import Run
from imgbuild.errors import DockerfileError


def unsupported(what: str, hint: str | None = None) -> DockerfileError:
    """Return the error for `what`, which starts with the instruction or names its option."""
    return DockerfileError(f"{what} is not supported yet", hint=hint)


def refuse_run_features(run: Run) -> None:
    """Raise `DockerfileError` for options of RUN."""
    if run.mounts:
        raise unsupported("RUN --mount", "COPY the files that the command needs")
    if run.devices:
        raise unsupported("RUN --device")
    if run.security not in {None, "", "sandbox"}:
        raise unsupported(f"RUN --security={run.security}")
