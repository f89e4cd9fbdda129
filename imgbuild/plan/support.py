"""What the language has and a plan cannot say yet: refused by name, never ignored."""

from imgbuild.dockerfile.instructions import Add, Copy, Run
from imgbuild.errors import DockerfileError


def unsupported(what: str, hint: str | None = None) -> DockerfileError:
    """Return the error for `what`, which starts with the instruction or names its option."""
    return DockerfileError(f"{what} is not supported yet", hint=hint)


def refuse_copy_features(instruction: Copy | Add) -> None:
    """Raise `DockerfileError` for options and here-documents of COPY and ADD."""
    name = "COPY" if isinstance(instruction, Copy) else "ADD"
    if instruction.heredocs:
        raise unsupported(f"{name} of a here-document", "put the text into a file of the context")
    if instruction.link:
        raise unsupported(f"{name} --link", f"{name} without it gives the same files")
    if instruction.exclude:
        raise unsupported(f"{name} --exclude", "list what to leave out in .dockerignore")
    if isinstance(instruction, Copy):
        if instruction.parents:
            raise unsupported("COPY --parents", "name the directories in the destination")
        return
    if instruction.checksum is not None:
        raise unsupported("ADD --checksum")
    if instruction.keep_git_dir is not None:
        raise unsupported("ADD --keep-git-dir")


def refuse_run_features(run: Run) -> None:
    """Raise `DockerfileError` for options and here-documents of RUN."""
    if run.mounts:
        raise unsupported("RUN --mount", "COPY the files that the command needs")
    if run.devices:
        raise unsupported("RUN --device")
    if run.security not in {None, "", "sandbox"}:
        raise unsupported(f"RUN --security={run.security}")
    if run.command.heredocs:
        raise unsupported("RUN with a here-document", "join the commands with && and \\")
