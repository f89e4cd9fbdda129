"""Bytes that a command wrote, cut into lines of text."""

import codecs

# A command may write for ever without ending a line.
_LONGEST = 64 << 10


class LineSplitter:
    """Cut the output of a step into lines; bytes that are not UTF-8 are shown as U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes, *, final: bool = False) -> list[str]:
        """Return the lines that `data` completes; `final` flushes an unfinished one."""
        text = self._rest + self._decoder.decode(data, final)
        # A progress bar's carriage returns would overwrite our prefix: each is a line of its own.
        *lines, self._rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        if len(self._rest) > _LONGEST:
            lines.append(self._rest)
            self._rest = ""
        if final and self._rest:
            lines.append(self._rest)
            self._rest = ""
        return lines
