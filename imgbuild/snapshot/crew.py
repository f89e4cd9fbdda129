"""Threads that unpack the layers of an image side by side, though each may need those below."""

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

_HANDS = 6  # most layers wait for a lower one at their end, so more than there are processors


class Crew:
    """Do `act(number, ready)` for the layers `todo` of `count`, lowest first.

    From the descriptor `ready` a byte can be read when all lower layers are done, and an end
    when one of them failed.
    """

    def __init__(self, count: int, todo: Sequence[int], act: Callable[[int, int], None]) -> None:
        self._act = act
        self._todo = list(reversed(todo))
        self._missing = set(todo)
        self._count = count
        self._waiting: dict[int, int] = {}
        self._failed: dict[int, BaseException] = {}
        self._lock = threading.Lock()

    def run(self) -> None:
        """Return when all is done; raise the error of the lowest layer that failed."""
        hands = min(len(self._todo), _HANDS)
        threads = [threading.Thread(target=self._work) for _ in range(hands - 1)]
        for thread in threads:
            thread.start()
        self._work()
        for thread in threads:
            thread.join()
        if self._failed:
            raise self._failed[min(self._failed)]

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._todo or self._failed:
                    return
                number = self._todo.pop()
                ready, self._waiting[number] = os.pipe()
                self._signal()
            try:
                self._act(number, ready)
            except BaseException as error:
                self._finish(number, error)
            else:
                self._finish(number, None)
            os.close(ready)

    def _finish(self, number: int, error: BaseException | None) -> None:
        with self._lock:
            signal = self._waiting.pop(number, None)
            if signal is not None:
                os.close(signal)
            if error is not None:
                self._failed[number] = error
            else:
                self._missing.discard(number)
            self._signal()

    def _signal(self) -> None:
        """Tell whom the layers below no longer hold up; `_lock` is held."""
        lowest_missing = min(self._missing, default=self._count)
        lowest_failed = min(self._failed, default=self._count)
        for number in [n for n in self._waiting if n <= lowest_missing or n > lowest_failed]:
            signal = self._waiting.pop(number)
            with suppress(BrokenPipeError):
                if number <= lowest_missing:
                    os.write(signal, b"1")
            os.close(signal)
