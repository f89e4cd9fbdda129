"""The network of a session: a namespace that all its commands share, with a way out of it.

The way out is made by pasta or slirp4netns, which are ordinary programs: they carry what is sent
in the namespace on by sockets of this machine's network. Nothing of that needs privileges.
"""

from collections.abc import Mapping

from imgbuild.sandbox.child import syscalls


def join(lent: Mapping[str, int]) -> None:
    """Enter the session's network if the command is to have it."""
    if "network" in lent:
        syscalls.setns(lent["network"], syscalls.CLONE_NEWNET)
