"""Why a command of a RUN may have failed, where its status or its last words give that away."""

_SINGLE = (
    "only one user id is mapped here, so all files seem to belong to whoever asks and commands "
    "cannot become other users; give this user ranges in /etc/subuid and /etc/subgid (see `imgbuild doctor`)"
)
# What the kernel answers to ids that are not mapped (user_namespaces(7)), as libc words it.
_REFUSALS = (b"Invalid argument", b"Operation not permitted")
_NOT_EXECUTABLE = 126
_KILLED = 137


def remedy(
    status: int, output: bytes, *, single_id: bool, foreign: str, memory: int | None = None
) -> str | None:
    """Return what to do about `status`, or None where nothing is known.

    `output` is the last that the command wrote; `foreign` names the platform of the image when
    it is not this machine's, and is empty otherwise. `memory` is the limit that a process was
    ended for, in bytes.
    """
    if status == _NOT_EXECUTABLE and foreign:
        return (
            f"the image is for {foreign}, which this machine does not run; "
            "leave --platform out, or set up an emulator (binfmt_misc)"
        )
    if memory is not None:
        return f"it ran out of memory: {out_of_memory(memory)}"
    if single_id and any(words in output for words in _REFUSALS):
        return _SINGLE
    if status == _KILLED:
        return "it was killed (SIGKILL): the machine may have run out of memory"
    return None


def out_of_memory(limit: int | None) -> str:
    """Say what to do when the kernel ended a command for its limit of memory, in bytes."""
    shown = "" if limit is None else f" {limit >> 20}m"
    return f"--memory{shown} was not enough for its processes together"
