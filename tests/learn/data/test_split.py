"""Splits by classes and by clips: sources whole, the seed and names decide, refusals name."""

import csv
import random
from collections import defaultdict

import pytest

import learn
import store
from learn.data.split import SPLITS, SplitConfig, splits_of
from learn.data.stratified import Block, deal, whole_numbers
from store.errors import ConfigError, InputError, UnknownColumn


def manifest(rows, columns=("path", "label", "group")):
    table = {name: tuple(row[i] for row in rows) for i, name in enumerate(columns)}
    return store.Manifest(table={**table, "clip_id": table["path"]})


def clips(classes=12, each=20, groups=7, seed=0):
    """Clips with a group within their class, and a language that classes prefer."""
    rng = random.Random(seed)
    return manifest(
        [
            (f"{c}/{i}.mp4", f"c{c:02}", f"c{c}g{rng.randrange(groups)}", f"l{rng.randrange(3)}")
            for c in range(classes)
            for i in range(each)
        ],
        ("path", "label", "group", "language"),
    )


def by_split(table, column, splits):
    found = defaultdict(list)
    for cell, name in zip(table.column(column), splits, strict=True):
        found[name].append(cell)
    return found


@pytest.mark.parametrize("by", ["classes", "clips"])
@pytest.mark.parametrize("seed", range(4))
def test_no_source_is_in_two_splits(by, seed):
    table = clips(seed=seed)
    dealt = splits_of(table, SplitConfig(by=by, seed=seed))
    groups = [set(of) for of in by_split(table, "group", dealt.splits).values()]
    assert len(groups) == 3
    assert len(set.union(*groups)) == sum(map(len, groups))


def test_no_class_is_in_two_splits_and_test_can_be_asked_five_ways():
    table = clips()
    labels = by_split(table, "label", splits_of(table, SplitConfig()).splits)
    counts = {name: len(set(of)) for name, of in labels.items()}
    assert counts == {"train": 5, "val": 2, "test": 5}  # not the shares: .25 of 12 are too few
    shared = by_split(table, "label", splits_of(table, SplitConfig(shares=(0.5, 0, 0.5))).splits)
    assert {name: len(set(of)) for name, of in shared.items()} == {"train": 6, "test": 6}


@pytest.mark.parametrize("seed", range(3))
def test_by_clips_every_class_is_in_every_split_in_its_share(seed):
    table = clips(classes=8, each=100, groups=60, seed=seed)
    dealt = splits_of(table, SplitConfig(by="clips", stratify=("language",), seed=seed))
    for column, most in (("label", 0.04), ("language", 0.02)):
        shares = by_split(table, column, dealt.splits)
        for value in set(table.column(column)):
            of_value = [shares[name].count(value) for name in SPLITS]
            for count, share in zip(of_value, (0.6, 0.15, 0.25), strict=True):
                assert abs(count / sum(of_value) - share) < most, (value, of_value)


@pytest.mark.parametrize("settings", [{}, {"by": "clips", "stratify": ("language",)}])
def test_the_seed_decides_and_the_order_of_rows_does_not(settings):
    table = clips(each=30)
    order = list(range(len(table)))
    random.Random(1).shuffle(order)
    mixed = store.Manifest(
        table={name: tuple(cells[i] for i in order) for name, cells in table.table.items()}
    )

    def of(table, seed):
        splits = splits_of(table, SplitConfig(seed=seed, **settings)).splits
        return dict(zip(table.clip_ids, splits, strict=True))

    assert of(table, 0) == of(mixed, 0)
    assert of(table, 0) != of(table, 1)


def test_sources_that_classes_share_keep_them_together():
    rows = [(f"{c}/{i}.mp4", f"c{c}", f"{c}-{i}") for c in range(9) for i in range(4)]
    rows += [("x/1.mp4", "c0", "shared"), ("x/2.mp4", "c5", "shared")]
    dealt = splits_of(manifest(rows), SplitConfig())
    of_class = by_split(manifest(rows), "label", dealt.splits)
    (home,) = [name for name, labels in of_class.items() if "c0" in labels]
    assert "c5" in of_class[home]
    assert dealt.notes == (
        "2 classes stay together, in 1 set, as clips of one source or with several labels link "
        "them: c0, c5",
    )


def test_pieces_of_one_file_are_one_source():
    rows = [(f"{i // 2}.mp4", f"p{i}", "ab"[i % 2]) for i in range(40)]
    table = store.Manifest(
        table=dict(zip(("path", "clip_id", "label"), zip(*rows, strict=True), strict=True))
    )
    dealt = splits_of(table, SplitConfig(by="clips"))
    files = by_split(table, "path", dealt.splits).values()
    assert sum(len(set(of)) for of in files) == 20
    with pytest.raises(InputError, match=r"2 classes are 1 set that can be split, and 3 .*a, b"):
        splits_of(table, SplitConfig())


def test_classes_that_are_too_small_are_named():
    rows = [(f"{c}{i}.mp4", c, f"{c}{i}") for c in "abc" for i in range(9)]
    rows += [(f"d{i}.mp4", "d", "same") for i in range(9)] + [("e.mp4", "", "")]
    with pytest.raises(InputError, match=r"1 of 4 classes .* 3 sources.* d \(9 clips of 1 sources"):
        splits_of(manifest(rows), SplitConfig(by="clips"))
    dealt = splits_of(manifest(rows), SplitConfig(by="clips", drop_small=True))
    assert {dealt.splits[i] for i in range(27, 37)} == {""}
    assert set(dealt.why_none.values()) == {"no label", "a class that is too small"}
    few = [*rows, ("f.mp4", "f", "f"), ("g.mp4", "g", "g")]
    trained = splits_of(manifest(few), SplitConfig(min_clips=5))
    small = [s for row, s in zip(few, trained.splits, strict=True) if row[1] in ("f", "g")]
    assert small == ["train", "train"]
    assert "2 classes of fewer than 5 clips are for training only: f, g" in trained.notes


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"by": "clip"}, ConfigError, "did you mean 'clips'"),
        ({"shares": (0.5, 0.5, 0.5)}, ConfigError, "make 1"),
        ({"shares": (1.0, 0.0, 0.0)}, ConfigError, "make 1"),
        ({"min_clips": 0}, ConfigError, "at least 1"),
        ({"label": "lable"}, UnknownColumn, "did you mean 'label'"),
        ({"stratify": ("tongue",)}, UnknownColumn, "tongue"),
        ({"group": "sauce"}, UnknownColumn, "sauce"),
    ],
)
def test_what_cannot_be(settings, error, says):
    with pytest.raises(error, match=says):
        splits_of(clips(), SplitConfig(**settings))


def test_the_table_is_what_other_commands_take(tmp_path):
    """Paths hold where it lies, ids stay those of the store, and every cell is kept."""
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "m.csv").write_text(
        "path,label,split,words\n"
        + "".join(f'{i}.mp4,c{i % 6},old,"a, ""{i}"""\n' for i in range(24))
    )
    result = learn.split(tmp_path / "media" / "m.csv", tmp_path / "s.csv").to_dict()
    assert result["notes"] == ["the manifest had splits already: the new ones stand in their place"]
    table = store.read_manifest(tmp_path / "s.csv")
    assert table.paths[:2] == ("media/0.mp4", "media/1.mp4")
    assert table.clip_ids[:2] == ("0.mp4", "1.mp4")
    assert table.column("words")[:2] == ('a, "0"', 'a, "1"')
    assert {name: c["clips"] for name, c in result["splits"].items()} == {
        name: table.column("split").count(name) for name in SPLITS
    }
    with (tmp_path / "s.csv").open(newline="") as file:
        assert set(next(csv.reader(file))) == {"path", "clip_id", "label", "split", "words"}
    with pytest.raises(InputError, match="exists; move it away"):
        learn.split(tmp_path / "media" / "m.csv", tmp_path / "s.csv")
    with pytest.raises(InputError, match=r"not called \.csv"):
        learn.split(tmp_path / "media" / "m.csv", tmp_path / "s.parquet")


def test_a_store_is_split_and_asked_by_its_table(filled, tmp_path):
    note = learn.split(filled, tmp_path / "s.csv", shares=(0.4, 0.2, 0.4)).notes[-1]
    assert "it is for --manifest" in note
    few = {"ways": 2, "queries": 2, "episodes": 20, "support": ("v",)}
    asked = learn.run_episodes(filled, manifest=tmp_path / "s.csv", **few)
    assert asked.sampling["split"] == "test"


@pytest.mark.parametrize(
    ("total", "shares", "least", "counts"),
    [
        (10, (0.6, 0.15, 0.25), (1, 1, 1), [6, 2, 2]),
        (3, (0.9, 0.05, 0.05), (1, 1, 1), [1, 1, 1]),
        (2, (0.6, 0.15, 0.25), (1, 1, 1), [1, 1, 1]),  # that is refused elsewhere
        (20, (0.6, 0.0, 0.4), (1, 2, 5), [12, 0, 8]),
        (10, (0.6, 0.15, 0.25), (1, 2, 5), [3, 2, 5]),
    ],
)
def test_whole_numbers(total, shares, least, counts):
    assert whole_numbers(total, shares, least) == counts


def test_a_block_that_fits_nowhere_goes_where_most_room_is():
    blocks = [Block(name=f"{i}", amounts={"n": n}) for i, n in enumerate((3.0, 3.0))]
    assert sorted(deal(blocks, (0.5, 0.0, 0.5), seed=0, room=("n", (2, 0, 2)))) == [0, 2]


@pytest.mark.soak
def test_150000_rows(tmp_path):
    rng = random.Random(0)
    rows = [
        (f"{i}.mp4", f"c{min(int(rng.expovariate(1 / 80)), 339):03}", f"g{rng.randrange(50_000)}")
        for i in range(150_000)
    ]
    table = manifest([(path, label, label + group) for path, label, group in rows])
    for config in (SplitConfig(), SplitConfig(by="clips", drop_small=True)):
        dealt = splits_of(table, config)
        groups = [set(of) for name, of in by_split(table, "group", dealt.splits).items() if name]
        assert len(set.union(*groups)) == sum(map(len, groups))
