"""What goes wrong inside, named by the operation, so that the session can say what to do."""


class Failed(Exception):
    """One operation was refused; hints go by `operation`, the message is for people."""

    def __init__(self, operation: str, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.operation = operation
        self.message = message
        self.code = code

    def to_json(self) -> dict[str, object]:
        return {"op": self.operation, "errno": self.code, "message": self.message}


class naming:  # noqa: N801 - used as a statement
    """Turn an OSError inside into the failure of an operation."""

    def __init__(self, operation: str) -> None:
        self._operation = operation

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, problem: BaseException | None, _trace: object) -> None:
        if isinstance(problem, OSError):
            message = problem.strerror or str(problem)
            raise Failed(self._operation, message, problem.errno) from None
