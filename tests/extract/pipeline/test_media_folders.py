"""Which folders the decode processes of a run may read, through real runs."""

import pytest

from extract.media.sampling import Sampling
from extract.pipeline import media_folders as module
from extract.pipeline.media_folders import media_folders
from extract.pipeline.options import Options
from extract.pipeline.outputs import decoded
from store import Manifest, Status
from tests.extract import media_files as media
from tests.extract.fakes import Frames as FakeFrames


def manifest(root, *paths):
    return Manifest(table={"path": paths, "clip_id": paths}, root=root)


@pytest.fixture
def place(tmp_path):
    for name in ("m/a", "m/b", "far/deep", "other"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("m/a/1.mp4", "far/2.mp4", "far/deep/3.mp4", "other/4.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "m/whole").symlink_to(tmp_path / "far")
    (tmp_path / "m/b/4.mp4").symlink_to(tmp_path / "other/4.mp4")
    return tmp_path


def test_the_manifests_folder_is_all_unless_links_are_followed(place):
    listed = manifest(place / "m", "a/1.mp4", "whole/2.mp4", "b/4.mp4")
    assert media_folders(listed, follow_links=False) == (place / "m",)


def test_folders_of_links_and_folders_that_are_links_are_looked_through(place):
    listed = manifest(place / "m", "a/1.mp4", "whole/2.mp4", "whole/deep/3.mp4", "b/4.mp4", "gone")
    root, *others = media_folders(listed, follow_links=True)
    assert root == place / "m"
    assert set(others) == {place / "far", place / "other"}


def test_a_root_that_is_a_link_is_where_it_leads(place):
    (place / "link").symlink_to(place / "m")
    assert media_folders(manifest(place / "link", "a/1.mp4"), follow_links=False) == (place / "m",)


def test_very_many_folders_become_the_one_around_them(place, monkeypatch):
    monkeypatch.setattr(module, "MANY", 1)
    listed = manifest(place / "m", "whole/2.mp4", "b/4.mp4")
    assert media_folders(listed, follow_links=True) == (place / "m", place)


@pytest.mark.parametrize("follow", [True, False])
def test_links_are_read_when_asked_for_and_only_then(place, follow):
    """A clip in the folder, a link to one outside, a hard link, a folder that is a link."""
    clip = media.write(place / "other/real.mp4", range(0, 400, 40))
    (place / "m/link.mp4").symlink_to(clip)
    (place / "m/hard.mp4").hardlink_to(clip)
    (place / "m/inner.mp4").symlink_to(place / "m/hard.mp4")
    (place / "far/deep/real.mp4").hardlink_to(clip)
    names = ("link.mp4", "hard.mp4", "inner.mp4", "whole/deep/real.mp4")
    listed = manifest(place / "m", *names)
    options = Options(workers=1, follow_links=follow, sandbox="require", device="cpu").resolved()
    wanted = ((k, [FakeFrames()]) for k in range(4))
    outcomes = decoded(listed, wanted, Sampling(frames=1), options, ordered=True)
    statuses = [outcome.value.visual.status for outcome in outcomes]
    outside = Status.OK if follow else Status.REFUSED
    assert statuses == [outside, Status.OK, Status.OK, outside]
