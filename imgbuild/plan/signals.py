"""STOPSIGNAL: what names a signal. A table, since the image's kernel is Linux whatever runs us.

Source: github.com/moby/sys/signal (signal_linux.go) and signal(7).
"""

import re

from imgbuild.errors import DockerfileError

_NAMES = (
    "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT"
    " STOP SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX"
)
_NUMBER = re.compile(r"[+-]?[0-9]{1,9}")
_REAL_TIME = re.compile(r"RTMIN\+([1-9]|1[0-5])|RTMAX-([1-9]|1[0-4])")


def check_signal(text: str) -> None:
    """Raise `DockerfileError` in BuildKit's words unless `text` names a signal."""
    if _NUMBER.fullmatch(text):
        known = int(text) != 0
    else:
        name = text.upper().removeprefix("SIG")
        known = name in _NAMES.split(" ") or _REAL_TIME.fullmatch(name) is not None
    if not known:
        raise DockerfileError(
            f"invalid signal: {text}", hint="write a name such as SIGTERM, or a number"
        )
