"""The nearest clips, of a loop and across modalities."""

import numpy as np
import pytest

import learn
import store
from store.errors import ConfigError, InputError
from tests.learn.inference.tables import unit, vectors


def test_the_nearest_clips_of_a_loop(filled):
    fs = store.open(filled)
    visual = next(fs[name] for name in fs.features if fs[name].modality == "visual")
    ids = list(fs.manifest().clip_ids)
    x = unit(vectors(visual, ids))
    clip = ids[next(i for i in range(len(ids)) if not np.isnan(x[i, 0]))]
    score = x @ x[ids.index(clip)]
    want = sorted((-s, c) for s, c in zip(score, ids, strict=True) if s == s and c != clip)[:7]
    result = learn.search(filled, clip, source="v", top=7)
    assert [n.clip_id for n in result.neighbours] == [c for _, c in want]
    np.testing.assert_allclose([n.similarity for n in result.neighbours],
                               [-s for s, _ in want], atol=1e-5)  # fmt: skip
    assert result.looked_at == int((~np.isnan(x[:, 0])).sum()) - 1


def test_both_senses_are_weighed_and_a_silent_clip_is_compared_by_sight(filled):
    fs = store.open(filled)
    ids = list(fs.manifest().clip_ids)
    sight, sound = (
        unit(vectors(next(fs[name] for name in fs if fs[name].modality == modality), ids))
        for modality in ("visual", "audio")
    )
    whole = [i for i in range(len(ids)) if not np.isnan(sight[i, 0] + sound[i, 0])]
    silent = [i for i in range(len(ids)) if np.isnan(sound[i, 0]) and not np.isnan(sight[i, 0])]
    for clip in (whole[0], silent[0]):
        v, a = sight @ sight[clip], sound @ sound[clip]
        score = np.where(np.isnan(a), v, (v + a) / 2)  # weights are equal: none is known of these
        want = sorted((-s, ids[i]) for i, s in enumerate(score) if s == s and i != clip)[:9]
        result = learn.search(filled, ids[clip], top=9)
        assert [n.clip_id for n in result.neighbours] == [c for _, c in want]
        assert result.looked_at == int((~np.isnan(sight[:, 0])).sum()) - 1
        assert set(result.weights.values()) == {0.5}
        assert "none is known" in result.prior
    early = learn.search(filled, ids[whole[0]], top=9, fusion="early")
    assert early.looked_at == len(whole) - 1
    with pytest.raises(InputError, match="no audio rows"):
        learn.search(filled, ids[silent[0]], fusion="early")
    with pytest.raises(ConfigError, match="compares no two clips"):
        learn.search(filled, ids[silent[0]], fusion="late")


def test_spaces_without_anything_in_common(filled):
    clip = store.open(filled).manifest().clip_ids[0]
    with pytest.raises(InputError, match="no common space"):
        learn.search(filled, clip, source="v", target="a")
    with pytest.raises(InputError, match=f"did you mean '{clip}'"):
        learn.search(filled, clip[:-1])


def test_across_modalities_in_a_trained_space(paired, tmp_path):
    """What is heard of a clip finds what is seen of its class, and mostly of itself."""
    run = tmp_path / "run"
    learn.train(paired, "infonce", settings=("optimiser.epochs=20",), run_dir=run)
    table = store.open(paired).manifest()
    truth = dict(zip(table.clip_ids, table.column("label"), strict=True))
    hits = []
    for clip in table.clip_ids[480:490]:
        result = learn.search(paired, clip, projection=run, source="a", target="v", top=5)
        assert (result.source, result.target, result.looked_at) == ("a", "v", 600)
        hits += [truth[n.clip_id] == truth[clip] for n in result.neighbours]
    assert np.mean(hits) > 0.5  # chance: 0.1
