"""A clip as a sequence of so many rows."""

import pytest
import torch

from learn.models.projections.frames import middles
from store import plugins
from store.errors import ConfigError


@pytest.mark.parametrize(
    ("rows", "frames", "expected"),
    [
        (8, 8, list(range(8))),
        (16, 8, [1, 3, 5, 7, 9, 11, 13, 15]),
        (9, 3, [1, 4, 7]),
        (3, 8, [0, 0, 0, 1, 1, 2, 2, 2]),
        (1, 4, [0, 0, 0, 0]),
    ],
)
def test_rows_in_the_middle_of_equal_parts_are_kept(rows, frames, expected):
    mask = torch.arange(20) < rows
    assert middles(mask[None], frames)[0].tolist() == expected


def test_holes_between_rows_are_stepped_over():
    mask = torch.tensor([[False, True, False, True, True]])
    assert middles(mask, 3)[0].tolist() == [1, 3, 4]


def test_frames_lie_end_to_end_in_order_of_time():
    torch.manual_seed(0)
    frames = plugins.build("learn.models.projections", "frames:frames=3,width=2", 5)
    rows = torch.randn(2, 3, 5)
    out = frames(rows, torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3))
    torch.testing.assert_close(out.view(2, 3, 2), frames.linear(rows))


@pytest.mark.parametrize("setting", ["frames=0", "width=0"])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        plugins.build("learn.models.projections", f"frames:{setting}", 5)
