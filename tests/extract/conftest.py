import pytest

from tests.extract import media_files as media
from tests.extract.looking import EVERY_40_MS


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """Two seconds, B-frames, a key frame every 20, a click at 1.2 s."""
    path = tmp_path_factory.mktemp("media") / "plain.mp4"
    return media.write(path, EVERY_40_MS, gop=20, sound=media.click(2.0, 1.2))
