"""The platform of this machine."""

import os

from imgbuild.oci.platform import Platform


def host_platform() -> Platform:
    """Return what images must be for, to run here without emulation."""
    return Platform("linux", os.uname().machine).normalised()
