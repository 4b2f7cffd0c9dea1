"""Work that a thread does behind the page, woken by what is wanted."""

from threading import Condition, Thread, current_thread

ENDS_IN_SECONDS = 30  # what a thread does at once, at most


class Background:
    """A thread that works from `start` to `close`; `_wake` guards what is wanted of it."""

    def __init__(self, name: str) -> None:
        self._wake, self._closed = Condition(), False
        self._thread = Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def close(self) -> None:
        """End after what is done now: a fit that outlives the interpreter would abort it."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread.is_alive() and self._thread is not current_thread():
            self._thread.join(ENDS_IN_SECONDS)

    def _run(self) -> None:
        """Do what is wanted until it is closed."""
        raise NotImplementedError
