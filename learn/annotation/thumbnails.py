"""Small pictures of clips, made behind the page a few at a time."""

from collections import OrderedDict
from collections.abc import Iterable

from learn.annotation.background import Background
from learn.annotation.media import MediaFiles
from learn.data.media import Pictures
from store.errors import MicroshotError

AT_ONCE = 24
REST_SECONDS = 3.0  # between two lots: to start what decodes costs more than a picture
KEPT = 5000  # of some 5 kB each


class Thumbnails(Background):
    """Pictures by clip id; what was asked for last is made first."""

    def __init__(self, files: MediaFiles, pictures: Pictures) -> None:
        super().__init__("annotate-pictures")
        self._files, self._pictures = files, pictures
        self._made: OrderedDict[str, bytes | None] = OrderedDict()
        self._wanted: OrderedDict[str, None] = OrderedDict()

    def want(self, clips: Iterable[str]) -> None:
        """Ask for the pictures of these clips, the first first."""
        with self._wake:
            for clip in reversed([c for c in clips if c not in self._made]):
                self._wanted[clip] = None
                self._wanted.move_to_end(clip)
            while len(self._wanted) > KEPT:
                self._wanted.popitem(last=False)
            self._wake.notify()

    def get(self, clip: str) -> bytes | None:
        """The picture, if it is made and there is anything to see."""
        return self._made.get(clip)

    def ready(self, clip: str) -> bool:
        """Whether there is a picture."""
        return self._made.get(clip) is not None

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._wanted and not self._closed:
                    self._wake.wait()
                if self._made and not self._closed:
                    self._wake.wait_for(lambda: self._closed, timeout=REST_SECONDS)
                if self._closed:
                    return
                count = min(AT_ONCE, len(self._wanted))
                clips = [self._wanted.popitem()[0] for _ in range(count)]
            self._make(clips)

    def _make(self, clips: list[str]) -> None:
        media = {clip: found for clip in clips if (found := self._files.find(clip)) is not None}
        try:
            made = list(self._pictures(list(media.values()))) if media else []
        except (MicroshotError, OSError):
            made = [None] * len(media)  # a page without pictures still serves
        of = dict(zip(media, made, strict=True))
        with self._wake:
            self._made |= {clip: of.get(clip) for clip in clips}
            while len(self._made) > KEPT:
                self._made.popitem(last=False)
