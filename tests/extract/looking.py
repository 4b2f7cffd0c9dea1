"""Decode a file and read what it shows and when it sounds."""

import numpy as np

from extract.media import packets, probe
from extract.media.clip import Request
from extract.media.decode import decode
from tests.extract import media_files as media

EVERY_40_MS = range(0, 2000, 40)  # 50 frames at 25 fps


def every(footage):
    return np.arange(len(footage.seconds))


def look(path, pick=every, side=4096, rates=(16_000,), decode_with=decode, **more):
    """By PyAV, unless told otherwise; decord stays out of a process that may hold a GPU."""
    more = {"decoder": "pyav"} | more
    return decode_with(
        Request(path=path, pick=pick, short_sides=(side,), sample_rates=rates, **more)
    )


def indices(clip, side=4096):
    return [media.read_index(p) for p in clip.visual.data[side].pixels]


def tracks(path):
    return packets.Media(probe.examined(path)).tracks()


def onset_seconds(sound):
    return np.flatnonzero(np.abs(sound.samples) > 0.2)[0] / sound.rate
