"""What a RUN may ask for beyond the usual: only what the caller allows.

Source of the names: BuildKit's entitlements (`network.host`, `security.insecure`, `device`).
"""

from collections.abc import Collection
from typing import Literal

from imgbuild.dockerfile.csvfields import csv_pairs
from imgbuild.dockerfile.instructions import Run
from imgbuild.errors import DockerfileError
from imgbuild.options import NetworkMode
from imgbuild.plan.scope import Scope

_HOST, _INSECURE, _DEVICE = "network.host", "security.insecure", "device"


def network_of(run: Run, default: NetworkMode, allow: Collection[str]) -> NetworkMode:
    """Return the network of a RUN; raise `DockerfileError` for one that the caller withheld."""
    match run.network:
        case "none":
            return "none"
        case "host":
            # What listens on this machine's loopback often trusts whoever reaches it.
            if default != "host" and _HOST not in allow:
                raise DockerfileError(
                    f"{_HOST} is not allowed",
                    hint=f"build with --allow {_HOST}, or --network=host for all steps, when you"
                    " trust this Dockerfile",
                )
            return "host"
        case _:
            return default


def security_of(run: Run, allow: Collection[str]) -> Literal["sandbox", "insecure"]:
    """Return the mode of --security; raise `DockerfileError` for one that is not allowed."""
    if run.security != "insecure":
        return "sandbox"
    if _INSECURE not in allow:
        raise DockerfileError(
            f"{_INSECURE} is not allowed",
            hint=f"build with --allow {_INSECURE} when you trust this Dockerfile",
        )
    return "insecure"


def devices_of(run: Run, scope: Scope, allow: Collection[str]) -> tuple[str, ...]:
    """Return the devices of a RUN, expanded; raise `DockerfileError` for one that is not allowed."""
    devices = tuple(scope.expand(text) for text in run.devices)
    for device in devices:
        name = _name(device)
        if not {_DEVICE, f"{_DEVICE}={name}"} & set(allow):
            raise DockerfileError(
                f"device {name} is not allowed",
                hint=f"build with --allow {_DEVICE}={name} when you trust this Dockerfile",
            )
    return devices


def _name(device: str) -> str:
    try:
        pairs = csv_pairs(device)
    except ValueError as problem:
        raise DockerfileError(f"failed to parse csv devices: {problem}") from None
    named = [value for key, value in pairs if key == "name" and value]
    return named[0] if named else device.partition(",")[0]
