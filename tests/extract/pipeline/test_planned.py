"""What a run is to do, against the rules applied clip by clip."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import store
from extract.pipeline.planned import planned
from store import FeatureSpec, Manifest, Status, UnitRows

CLIPS = tuple(f"clip{i}" for i in range(24))
KINDS = (Status.OK, Status.MISSING, Status.ABSENT, Status.CRASH)


def commit(feature, clip_ids, status, retry=0):
    return feature.commit(
        UnitRows(
            clip_ids=tuple(clip_ids),
            values=np.zeros((int((status == Status.OK).sum()), 2), np.float16),
            row_time_ms=np.zeros(int((status == Status.OK).sum()), np.int32),
            row_count=(status == Status.OK).astype(np.uint16),
            status=status.astype(np.uint8),
            media_sha256=np.zeros((len(clip_ids), 32), np.uint8),
            detail=("",) * len(clip_ids),
        ),
        retry=retry,
    )


def slowly(manifest, features, again, size):
    """Row by row, by what every clip is known as: how units were found before there were arrays."""
    known = [feature.committed() for feature in features]

    def wants(row, status):
        if status is None or status in again:
            return True
        there = manifest.root is not None and (manifest.root / manifest.paths[row]).exists()
        return status == Status.MISSING and there

    units = []
    for first in range(0, len(manifest), size):
        unit = []
        for row in range(first, min(first + size, len(manifest))):
            clip = manifest.clip_ids[row]
            mask = tuple(i for i, done in enumerate(known) if wants(row, done.get(clip)))
            if mask:
                unit.append((row, mask))
        if unit:
            units.append(unit)
    return units


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    for clip in CLIPS[::2]:
        (folder / clip).touch()
    return folder


UNIT = st.lists(st.tuples(st.integers(0, 23), st.sampled_from(KINDS)), min_size=1, max_size=9)


@settings(deadline=None, max_examples=25)
@given(
    committed=st.lists(st.tuples(st.integers(0, 1), UNIT), max_size=5),
    again=st.frozensets(st.sampled_from(KINDS[1:])),
    size=st.integers(1, 30),
)
def test_units_are_what_the_rules_give_row_by_row(tmp_path_factory, there, committed, again, size):
    fs = store.create(tmp_path_factory.mktemp("s") / "s")
    specs = [FeatureSpec(slug=s, modality="visual", dim=2, identity={}) for s in ("one", "two")]
    features = [fs.add_feature(spec) for spec in specs]
    for which, unit in committed:
        of_clip = dict(unit)
        ids = [CLIPS[i] for i in of_clip]
        feature = features[which]
        commit(feature, ids, np.array(list(of_clip.values())), retry=feature.tries(ids))
    manifest = Manifest(table={"path": CLIPS, "clip_id": CLIPS}, root=there)
    fresh = [fs[feature.name] for feature in features]
    found = planned(manifest, fresh, again, size)
    assert list(found) == slowly(manifest, features, again, size)
    assert list(found.all_rows()) == [row for unit in found for row in unit]
    assert found.clips == sum(map(len, found))
    for number, unit in enumerate(found):
        for i, feature in enumerate(features):
            clip_ids = [CLIPS[row] for row, mask in unit if i in mask]
            tried = feature.tries(clip_ids) if clip_ids else 0
            assert found.retries[number, i] == tried


def test_a_retry_that_another_run_has_done_is_not_done_again(tmp_path):
    fs = store.create(tmp_path / "s")
    feature = fs.add_feature(FeatureSpec(slug="f", modality="visual", dim=2, identity={}))
    failed = np.array([Status.CRASH] * 3)
    commit(feature, CLIPS[:3], failed)
    manifest = Manifest(table={"path": CLIPS[:3], "clip_id": CLIPS[:3]})
    plans = [planned(manifest, [fs[feature.name]], frozenset({Status.CRASH}), 8) for _ in "ab"]
    numbers = [int(plan.retries[0, 0]) for plan in plans]
    assert numbers == [1, 1]
    assert [commit(feature, CLIPS[:3], failed, retry=number) for number in numbers] == [True, False]


def test_nothing_is_wanted_of_nothing(tmp_path):
    fs = store.create(tmp_path / "s")
    manifest = Manifest(table={"path": CLIPS, "clip_id": CLIPS})
    assert list(planned(manifest, [], frozenset(), 4)) == []
    feature = fs.add_feature(FeatureSpec(slug="f", modality="visual", dim=2, identity={}))
    commit(feature, CLIPS, np.array([Status.OK] * 24))
    assert len(planned(manifest, [feature], frozenset(), 4)) == 0
