"""Linux capabilities by name, and how a process limits itself to some of them."""

import ctypes
import struct

from imgbuild.sandbox.child import syscalls
from imgbuild.sandbox.child.capability_names import NAMES

_BOUNDING_READ, _BOUNDING_DROP, _AMBIENT, _AMBIENT_CLEAR = 23, 24, 47, 4


def numbers(names: list[str]) -> set[int]:
    """Give the numbers of capabilities; ValueError for a name that is not known."""
    return {NAMES.index(name) for name in names}


def permitted() -> set[str]:
    """Give the names of the capabilities that this process may use."""
    header = struct.pack("Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    data = ctypes.create_string_buffer(24)
    syscalls.call("capget", header, data)
    words = struct.unpack("IIIIII", data.raw)
    mask = words[1] | words[4] << 32
    return {name for number, name in enumerate(NAMES) if mask & 1 << number}


def bound(keep: set[int]) -> None:
    """Take all other capabilities out of reach for good; needs CAP_SETPCAP."""
    for number in range(64):
        try:
            syscalls.prctl(_BOUNDING_READ, number)
        except OSError:
            break  # past the last one that this kernel knows
        if number not in keep:
            syscalls.prctl(_BOUNDING_DROP, number)
    syscalls.prctl(_AMBIENT, _AMBIENT_CLEAR)


def hold(keep: set[int]) -> None:
    """Hold these capabilities and no others; none are inherited."""
    mask = sum(1 << number for number in keep)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = struct.pack("Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    syscalls.call("capset", header, struct.pack("IIIIII", low, low, 0, high, high, 0))
