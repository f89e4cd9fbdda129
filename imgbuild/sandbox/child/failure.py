"""What goes wrong inside, named by the operation, so that the session can say what to do."""

import contextlib
from collections.abc import Iterator
from typing import Any


class Failed(Exception):
    """One operation was refused; hints go by `operation`, the message is for people."""

    def __init__(self, operation: str, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.operation = operation
        self.message = message
        self.code = code

    def to_json(self) -> dict[str, Any]:
        return {"op": self.operation, "errno": self.code, "message": self.message}


@contextlib.contextmanager
def naming(operation: str) -> Iterator[None]:
    """Turn an OSError inside into the failure of an operation."""
    try:
        yield
    except OSError as problem:
        raise Failed(operation, problem.strerror or str(problem), problem.errno) from None
