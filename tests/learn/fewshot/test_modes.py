import pytest
import torch
import torch.nn.functional as F

from learn.fewshot.modes import cells, pair
from store.errors import ConfigError, InputError

RNG = torch.Generator().manual_seed(0)
RAW = {"visual": 9 * torch.randn(5, 4, generator=RNG), "audio": torch.randn(5, 3, generator=RNG)}
UNIT = {m: F.normalize(torch.randn(5, 4, generator=RNG), dim=-1) for m in RAW}
BOTH = ("visual", "audio")


def test_modes_pair_up_as_asked():
    assert cells((), (), BOTH) == [("v", "v"), ("a", "a"), ("av", "av")]
    assert cells((), (), ("audio",)) == [("a", "a")]
    assert cells(("v",), (), BOTH) == [("v", "v")]
    assert cells((), ("av",), BOTH) == [("av", "av")]
    assert cells(("v", "a"), ("a",), BOTH) == [("v", "a"), ("a", "a")]
    with pytest.raises(ConfigError, match="no mode 'va'; there are a, at, av, avt, t, v, vt"):
        cells(("va",), (), BOTH)


def test_one_modality_is_left_as_it_is():
    single = pair(RAW, "v", "v", common=False)
    assert torch.equal(single.support, RAW["visual"])
    assert torch.equal(single.query, RAW["visual"])
    assert single.modality_dims == (4,)


def test_both_modalities_weigh_the_same():
    both = pair(RAW, "av", "av", common=False)
    assert both.modality_dims == (4, 3)
    for block, raw in zip(both.support.split(both.modality_dims, dim=1), RAW.values(), strict=True):
        torch.testing.assert_close(block, F.normalize(raw, dim=-1))


def test_different_modes_meet_in_the_common_space():
    mixed = pair(UNIT, "v", "av", common=True)
    assert torch.equal(mixed.support, UNIT["visual"])
    torch.testing.assert_close(mixed.query, (UNIT["visual"] + UNIT["audio"]) / 2)
    assert mixed.modality_dims == (4,)
    assert torch.equal(pair(UNIT, "v", "a", common=True).query, UNIT["audio"])


def test_without_a_common_space_different_modes_are_refused():
    with pytest.raises(InputError, match=r"v against query a needs a common space.*learn train"):
        pair(RAW, "v", "a", common=False)


def test_a_missing_modality_is_named():
    with pytest.raises(InputError, match="needs audio vectors, but the projection gives none"):
        pair({"visual": UNIT["visual"]}, "v", "a", common=True)


def test_one_vector_of_both_stands_for_both():
    both = F.normalize(torch.randn(len(UNIT["visual"]), UNIT["visual"].shape[1]), dim=-1)
    vectors = {"visual": UNIT["visual"], "av": both}
    assert torch.equal(pair(vectors, "av", "av", common=True).support, both)
    crossed = pair(vectors, "v", "av", common=True)
    assert torch.equal(crossed.support, UNIT["visual"])
    assert torch.equal(crossed.query, both)
    with pytest.raises(InputError, match="mode a needs audio vectors, but the projection gives"):
        pair(vectors, "a", "av", common=True)
