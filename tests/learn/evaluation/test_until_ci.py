"""Episodes until intervals are narrow: no fewer blocks than that takes, the same each time."""

import numpy as np
import pytest

import learn
from learn.commands.tables import episodes_table
from learn.evaluation.config import Until
from learn.evaluation.until_ci import joined, seed_of
from store.errors import ConfigError

ASKED = {
    "ways": 4, "queries": 3, "shots": (1, 2), "heads": ("prototypes", "nearest"), "episodes": 40,
}  # fmt: skip


def test_it_stops_when_every_interval_is_narrow_and_not_much_later(filled):
    result = learn.run_episodes(filled, **ASKED, until_ci=0.02)
    assert result.sampling["until_ci_reached"] is True
    assert all(row.ci95 <= 0.02 for row in result.results)
    blocks = result.sampling["blocks"]
    assert result.sampling["episodes"] == 40 * blocks == len(result.draws[0])
    # A row's spread hardly changes, so two blocks in three would leave one too wide.
    fewer = 40 * (2 * blocks // 3)
    rows = (row.of_episodes[:fewer] for row in result.results)
    assert max(1.96 * row.std(ddof=1) / np.sqrt(fewer) for row in rows) > 0.02


def test_blocks_have_seeds_of_their_own_and_come_again(filled, tmp_path):
    result = learn.run_episodes(filled, **ASKED, until_ci=0.022, save_episodes=tmp_path / "e")
    again = learn.run_episodes(filled, **ASKED, until_ci=0.022)
    assert [d.sha256 for d in again.draws] == [d.sha256 for d in result.draws]
    assert result.sampling["seed"] == 0
    blocks = result.sampling["blocks"]
    assert blocks > 2
    alone = [learn.run_episodes(filled, **ASKED, seed=seed_of(b, 0)) for b in range(blocks)]
    assert len({single.draws[0].sha256 for single in alone}) == blocks
    for i, row in enumerate(result.results):
        by_hand = np.concatenate([single.results[i].of_episodes for single in alone])
        assert np.array_equal(row.of_episodes, by_hand)
    of_file = learn.run_episodes(filled, **ASKED, episodes_file=tmp_path / "e")
    assert [r.accuracy for r in of_file.results] == [r.accuracy for r in result.results]
    assert np.array_equal(
        joined([single.draws[0] for single in alone]).indices, result.draws[0].indices
    )


def test_it_gives_up_at_the_most_and_says_so(filled, capsys):
    result = learn.run_episodes(filled, **ASKED, until_ci=0.0001, max_episodes=99)
    assert result.sampling["episodes"] == 80
    assert result.sampling["until_ci_reached"] is False
    episodes_table(result.to_dict())
    assert "stopped at 80 episodes" in capsys.readouterr().out
    plain = learn.run_episodes(filled, **ASKED)
    assert "until_ci_reached" not in plain.sampling


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"until_ci": 0.0}, "not above 0"),
        ({"until_ci": 2.0}, "not above 0"),
        ({"until_ci": 0.1, "max_episodes": 39}, "`max_episodes` 39"),
        ({"until_ci": 0.1, "episodes": 1}, "blocks of 1"),
        ({"until_ci": 0.1, "episodes_file": "e"}, "name one"),
    ],
)
def test_what_makes_no_sense_is_one_line(filled, asked, says):
    with pytest.raises(ConfigError, match=says):
        learn.run_episodes(filled, **ASKED | asked)


def test_by_default_blocks_are_of_a_thousand():
    assert (Until(width=0.002).block, Until(width=0.002).most) == (1000, 100_000)
