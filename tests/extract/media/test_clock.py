"""Frames and sound of a clip on one clock, from the file to the rows in the store."""

from fractions import Fraction

import numpy as np
import pytest
import torch

import store
from extract.media.sampling import Sampling
from store import Status
from tests.extract import media_files as media
from tests.extract.fakes import quick
from tests.extract.pipeline.test_run import write_manifest

SECONDS, HOP, RATE = 4, 0.01, 44_100
RATES = {"24": Fraction(24), "25": Fraction(25), "29.97": Fraction(30_000, 1001), "variable": None}
DELAYS = (0.0, 1.5)
CONTAINERS = ("mp4", "mkv", "ts")


class Brightness:
    """One number a frame: how bright it is."""

    name, slug, modality, dim, short_side = "brightness", "brightness", "visual", 1, 32
    identity, notes = {"network": "brightness"}, {}

    def preprocess(self, x):
        return x.permute(0, 3, 1, 2).float() / 255

    def forward(self, x):
        return x.mean((1, 2, 3))[:, None]

    def __call__(self, x):
        return self.forward(self.preprocess(x))


class Loudness:
    """One number for every hundredth of a second: the loudest sample in it."""

    name, slug, modality, dim, sample_rate = "loudness", "loudness", "audio", 1, 32_000
    window_seconds, hop_seconds = HOP, HOP
    identity, notes = {"network": "loudness"}, {}

    def window_starts_seconds(self, samples):
        return np.arange(max(1, samples // 320)) * HOP

    def preprocess(self, x):
        return torch.nn.functional.pad(x, (0, 320)).unfold(1, 320, 320)[:, : x.shape[1] // 320][0]

    def forward(self, x):
        return x.abs().amax(1)[:, None]

    def __call__(self, x):
        return self.forward(self.preprocess(x))


def frame_times(rate):
    """Seconds at which frames appear."""
    if rate is None:  # frames of 17 to 120 ms
        gaps = np.random.default_rng(0).integers(17, 120, 400)
        return [Fraction(int(ms), 1000) for ms in np.cumsum([0, *gaps]) if ms < 1000 * SECONDS]
    return [k / rate for k in range(int(SECONDS * rate))]


def render(path, rate, delay):
    """A flash with the first frame of every second, and a click with it, once there is sound."""
    times = frame_times(rate)
    flashes = [next(k for k, t in enumerate(times) if t >= s) for s in range(1, SECONDS)]
    pictures = np.full((len(times), 96, 128, 3), 16, "u1")
    pictures[flashes] = 235
    sound = np.zeros((1, SECONDS * RATE), "f4")
    for k in flashes:
        first = round(times[k] * RATE)
        sound[:, first : first + RATE // 200] = 0.9
    tick = Fraction(1, 90_000) if rate is None else 1 / rate
    media.write(
        path, [1000 * t for t in times], pictures=pictures, gop=30, tick=tick,
        sound=sound[:, round(delay * RATE) :], sound_start=delay,
    )  # fmt: skip
    return len([k for k in flashes if times[k] >= delay])


def onsets(feature, clip_id):
    """Seconds at which rows become large."""
    values, _ = feature.read([clip_id])
    large = values[:, 0] > 0.5 * values.max()
    times = np.asarray(feature.read_times([clip_id]))
    return times[large & ~np.roll(large, 1)] / 1000


def cases(every):
    """Rate, delay and container; of every pair of them one case, or all cases."""
    for i, j, k in np.ndindex(len(RATES), len(DELAYS), len(CONTAINERS)):
        if every or (i + j + k) % 2 == 0:
            yield [*RATES][i], DELAYS[j], CONTAINERS[k]


def errors(folder, every):
    """By clip: seconds from each click to the flash nearest to it, and how many there must be."""
    clips = {}
    for name, delay, container in cases(every):
        clip_id = f"{name}-{delay}.{container}"
        clips[clip_id] = render(folder / clip_id, RATES[name], delay)
    manifest = write_manifest(folder, list(clips))
    # Looks so close together that every frame is taken, some of them again.
    policy = Sampling(fps=120.0)
    quick(
        manifest,
        folder / "s",
        visual=[Brightness()],
        audio=[Loudness()],
        sampling=policy,
        clips_per_unit=64,
    )
    fs = store.open(folder / "s")
    for clip_id, count in clips.items():
        statuses = [fs[slug].status_of([clip_id])[0] for slug in ("brightness", "loudness")]
        assert statuses == [Status.OK, Status.OK], clip_id
        flashes, clicks = onsets(fs["brightness"], clip_id), onsets(fs["loudness"], clip_id)
        yield (
            clip_id,
            count,
            np.array([click - flashes[np.abs(flashes - click).argmin()] for click in clicks]),
        )


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_flash_and_click_agree_to_within_a_frame_and_a_hop(tmp_path, every):
    measured = list(errors(tmp_path, every))
    assert len(measured) == len(RATES) * len(DELAYS) * len(CONTAINERS) // (1 if every else 2)
    for clip_id, count, apart in measured:
        assert len(apart) == count, clip_id
        # Better than asked: both times are exact, only the hop and the codecs' edges remain.
        assert np.abs(apart).max() <= HOP + 0.005, (clip_id, apart)
