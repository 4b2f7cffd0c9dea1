"""The promises of `EpisodeTask`, as tests of any task."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from learn.data.clips import BASE, QUERY, SHOT, UNLABELLED, Clips
from learn.fewshot.tasks import FAMILY, EpisodeTask, Traits, traits_of
from store import plugins
from store.errors import NotEnoughClips

CLASSES, PER_CLASS = 10, 40


def has(pool: Any, indices: Any, classes: Any) -> Any:
    """Is each clip of the class beside it?"""
    if pool.targets is not None:
        return pool.targets[indices, classes]
    return pool.class_ids[indices] == classes


def state() -> Any:
    """Numpy's global state of chance."""
    known: Any = np.random.get_state()
    return known[1].copy()


class TaskContract:
    """Support and query share no clip and no group, and the seed decides everything."""

    @pytest.fixture
    def task(self, name: str) -> Any:
        """As the plug-in would have it, but fewer episodes."""
        return plugins.build(FAMILY, plugins.Spec(name, {"episodes": 300}))

    @pytest.fixture
    def clips(self, name: str) -> Any:
        """Makes classes of clips in groups of two, in mixed order, told apart as the task needs
        it: the last five are base classes, or every third clip has the next class's label too."""
        kind = traits_of(name).pool

        def make(per_class: int = PER_CLASS, grouped: bool = True) -> Clips:
            class_ids = np.arange(CLASSES * per_class, dtype=np.int32) % CLASSES
            pool = Clips(
                ids=tuple(f"c{i:05d}" for i in range(len(class_ids))),
                class_ids=class_ids,
                classes=tuple(f"class{c}" for c in range(CLASSES)),
                groups=(np.arange(len(class_ids), dtype=np.int32) // (2 * CLASSES))
                if grouped
                else None,
                split="test",
            )
            if kind == "base":
                roles = SHOT + QUERY + BASE * (class_ids >= 5)
                pool = replace(pool, roles=roles.astype(np.int32))
            if kind == "targets":
                targets = np.eye(CLASSES, dtype=bool)[class_ids]
                third = np.arange(len(class_ids)) % 3 == 0
                targets[third, (class_ids[third] + 1) % CLASSES] |= per_class > 1
                pool = replace(pool, class_ids=np.full_like(class_ids, UNLABELLED), targets=targets)
            return pool

        return make

    def test_it_is_a_task_that_keeps_the_format(self, name: str, task: Any, clips: Any) -> None:
        assert isinstance(task, EpisodeTask)
        assert type(traits_of(name)) is Traits
        episodes, pool = task(clips(), seed=0), clips()
        assert len(episodes) == 300
        assert episodes.indices.max() < len(pool)
        assert episodes.clips_sha256 == pool.sha256
        assert episodes.query.shape == (300, episodes.ways * episodes.queries)

    def test_support_and_query_never_share_a_clip_or_a_group(self, task: Any, clips: Any) -> None:
        pool = clips()
        episodes = task(pool, seed=0)
        for n in range(episodes.ways):
            shot, asked = episodes.support[:, n, :, None], episodes.asked[:, n, None]
            same = pool.groups[shot] == pool.groups[asked]
            assert not (same & (shot >= 0) & (asked >= 0)).any()
        assert all(
            len(np.unique(shots_of_class[shots_of_class >= 0])) == (shots_of_class >= 0).sum()
            for shots_of_class in episodes.indices
        )

    def test_clips_are_of_the_class_they_stand_for(self, task: Any, clips: Any) -> None:
        pool = clips()
        episodes = task(pool, seed=0)
        belongs = has(pool, episodes.indices, episodes.classes[..., None])
        assert belongs[episodes.indices >= 0].all()
        for row in episodes.classes.tolist():
            named = [c for c in row if c >= 0]
            assert len(set(named)) == len(named) >= 2
        belongs = has(pool, episodes.query, episodes.classes[:, episodes.targets])
        assert belongs[episodes.query >= 0].all()

    def test_blocks_hold_every_episode_once_and_nothing_else(self, task: Any, clips: Any) -> None:
        episodes = task(clips(), seed=0)
        shots, queries = np.zeros(len(episodes), int), np.full(episodes.query.shape, -1)
        for batch in episodes.batches():
            assert (batch.support >= 0).all()
            assert (batch.query >= 0).all()
            assert batch.classes.min() >= 0
            present = np.ones(batch.support.shape, bool) if batch.mask is None else batch.mask
            shots[batch.indices] += present.sum((1, 2))
            queries[batch.indices[:, None], batch.columns] = batch.query
            for index, shots_of_class, mask in zip(
                batch.indices, batch.support, present, strict=True
            ):
                whole = episodes.support[index]
                assert set(shots_of_class[mask].tolist()) == set(whole[whole >= 0].tolist())
        assert np.array_equal(shots, (episodes.support >= 0).sum((1, 2)))
        assert np.array_equal(queries, episodes.query)

    def test_every_clip_and_class_has_its_turn(self, task: Any, clips: Any) -> None:
        pool = clips()
        episodes = task(pool, seed=0)
        assert set(episodes.classes.ravel().tolist()) - {-1} == set(range(CLASSES))
        assert len(np.unique(episodes.query)) > 0.9 * len(pool)
        assert len({tuple(row) for row in episodes.classes.tolist()}) > 100

    def test_a_guard_across_classes_is_kept_where_there_is_one(
        self, task: Any, clips: Any, name: str
    ) -> None:
        config, pool = asdict(task.config), clips()
        strict = plugins.build(FAMILY, plugins.Spec(name, {**config, "groups": "strict"}))
        episodes = strict(pool, seed=0)
        for support, query in zip(episodes.support, episodes.query, strict=True):
            shared = set(pool.groups[support[support >= 0]]) & set(pool.groups[query[query >= 0]])
            assert not shared
        assert episodes.sha256 != task(pool, seed=0).sha256

    def test_clips_are_shots_or_queries_as_their_roles_say(self, task: Any, clips: Any) -> None:
        """Half of the groups are to learn from, and half to ask about."""
        pool = clips()
        base = 0 if pool.roles is None else pool.roles & BASE
        roles = (np.where(pool.groups % 2, SHOT, QUERY) + base).astype(np.int32)
        episodes = task(replace(pool, roles=roles), seed=0)
        support, query = (part[part >= 0] for part in (episodes.support, episodes.query))
        assert (roles[support] & SHOT).all()
        assert (roles[query] & QUERY).all()
        assert len(np.unique(support)) + len(np.unique(query)) > 0.9 * len(pool)
        assert has(pool, episodes.indices, episodes.classes[..., None])[episodes.indices >= 0].all()

    def test_the_seed_decides_everything(self, task: Any, clips: Any) -> None:
        first, again, other = (task(clips(), seed=seed) for seed in (0, 0, 1))
        assert np.array_equal(first.indices, again.indices)
        assert first.sha256 == again.sha256
        assert not np.array_equal(first.indices, other.indices)
        assert first.sha256 != other.sha256

    def test_numpys_global_state_is_neither_used_nor_moved(self, task: Any, clips: Any) -> None:
        before = state()
        first = task(clips(), seed=0)
        assert np.array_equal(state(), before)
        np.random.seed(5)
        assert task(clips(), seed=0).sha256 == first.sha256

    @pytest.mark.parametrize("grouped", [True, False])
    def test_too_few_clips_is_one_line_that_names_the_classes(
        self, task: Any, clips: Any, grouped: Any
    ) -> None:
        with pytest.raises(NotEnoughClips, match=r"class0: 1.*Lower") as refusal:
            task(clips(per_class=1, grouped=grouped), seed=0)
        assert "\n" not in str(refusal.value)
