"""How a process joins control groups that the session's owner has made for it."""

import os
from collections.abc import Mapping


def join(lent: Mapping[str, int]) -> None:
    """Move this process into the groups whose `cgroup.procs` it was lent, opened for writing.

    Whether it may is decided by who opened them.
    """
    for name, fd in lent.items():
        if name.startswith("cgroup:"):
            os.write(fd, b"0")
