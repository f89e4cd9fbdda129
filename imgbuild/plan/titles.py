"""Progress names of steps: `[build 2/5] RUN make`, as BuildKit writes them."""

from collections.abc import Sequence

from imgbuild.dockerfile.lines import join
from imgbuild.dockerfile.source import BLANKS
from imgbuild.errors import Span


def written(lines: Sequence[str], span: Span, escape: str) -> str:
    """Return the instruction at `span` as written, with its continuations joined."""
    return join(lines[span.first - 1 : span.last] or [""], escape).strip(BLANKS)


def upper_first_word(text: str) -> str:
    """Return `text` with the instruction's name in capitals."""
    first, blank, rest = text.partition(" ")
    return first.upper() + blank + rest


class Counter:
    """Numbers the steps of one stage; `label` is the stage's name, empty where it is the only one."""

    __slots__ = ("_count", "_label", "_total")

    def __init__(self, label: str, total: int) -> None:
        self._label = f"{label} " if label else ""
        self._total = total
        self._count = 0

    def title(self, text: str) -> str:
        """Return the name of the next step."""
        self._count += 1
        width = len(str(self._total))
        return f"[{self._label}{self._count:>{width}}/{self._total}] {text}"
