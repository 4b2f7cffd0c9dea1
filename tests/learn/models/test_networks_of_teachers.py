"""Networks with a teacher: what each of their vectors sees."""

import pytest
import torch

from learn.data.rows import Padded
from learn.models.embedder import Embedder
from learn.models.networks import preview, teachers
from store import plugins
from store.errors import ConfigError

DIMS = {"visual": 6, "audio": 5}


def inputs(frames=(4, 1), windows=(4, 2)):
    generator = torch.Generator().manual_seed(0)
    padded = {}
    for m, counts in (("visual", frames), ("audio", windows)):
        mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
        rows = torch.randn(len(counts), max(counts), DIMS[m], generator=generator)
        padded[m] = Padded(rows * mask[..., None], mask, torch.zeros(mask.shape))
    return padded


def test_the_image_is_the_middle_frame_and_any_frame_while_a_part_learns():
    torch.manual_seed(0)
    network = teachers.build(teachers.Config(dim_out=3, dropout=0.0), DIMS).eval()
    x = inputs()
    frames = x["visual"].rows
    shown = network(x)["visual.image"]
    torch.testing.assert_close(shown[0], network.image(frames[0, 2]))
    torch.testing.assert_close(shown[1], network.image(frames[1, 0]))
    network.student.train()  # as in a stage that trains the student alone
    seen = set()
    for _ in range(40):
        vector = network(x)["visual.image"][0]
        near = [i for i in range(4) if torch.allclose(vector, network.image(frames[0, i]))]
        assert len(near) == 1
        seen.add(near[0])
    assert seen == {0, 1, 2, 3}


def test_previews_are_of_the_stretches_of_a_clip_and_are_averaged():
    torch.manual_seed(0)
    network = preview.build(preview.Config(dim_out=3, previews=2), DIMS).eval()
    x = inputs(frames=(4, 1), windows=(5, 1))
    v, a = x["visual"].rows, x["audio"].rows
    first = torch.cat([v[0, 0], a[0, :2].mean(0)]), torch.cat([v[0, 2], a[0, 2:].mean(0)])
    alone = torch.cat([v[1, 0], a[1, 0]])  # shorter than its previews: the same row for both
    wanted = torch.stack(
        [(network.student(first[0]) + network.student(first[1])) / 2, network.student(alone)]
    )
    torch.testing.assert_close(network(x)["av"], wanted)


def test_a_stage_may_train_a_part_of_a_network():
    embedder = Embedder({}, plugins.Spec("teachers", {}), DIMS)
    assert embedder.part("network.student") is embedder.network.student
    assert embedder.part("network") is embedder.network
    with pytest.raises(ConfigError, match=r"network, network\.student, network\.audio"):
        embedder.part("network.pupil")
