"""Text as the third modality: modes, fusion, masks, training, retrieval across modalities."""

import csv
import itertools

import numpy as np
import pytest

import learn
import store
import store.testing
from extract.pipeline.text import text as extract_text
from learn.evaluation.drop import Drop
from learn.fewshot.fusions._shipped import OF_TEXT, Encoder, shipped
from learn.fewshot.modes import MODES
from store import FeatureSpec, Manifest, Status
from store.errors import ConfigError, InputError, NotEnoughClips
from store.parts.unit_rows import UnitRows

CLIPS, CLASSES, HIDDEN = 240, 8, 6
DIMS = {"visual": 16, "audio": 12, "text": 20}


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Sight, sound and text come from one hidden vector, each through its own matrix; every tenth
    clip has no text. Languages take turns, and groups are languages."""
    path = tmp_path_factory.mktemp("text") / "three"
    rng = np.random.default_rng(0)
    label = np.arange(CLIPS) % CLASSES
    latent = 2.0 * rng.standard_normal((CLASSES, HIDDEN))[label]
    latent = latent + rng.standard_normal((CLIPS, HIDDEN))
    ids = tuple(f"clip{i:03d}" for i in range(CLIPS))
    language = (np.arange(CLIPS) // CLASSES) % 3
    fs = store.create(path)
    fs.add_manifest(
        Manifest(
            table={
                "path": ids,
                "clip_id": ids,
                "label": tuple(f"class{c}" for c in label),
                "split": tuple("train" if i < 160 else "test" for i in range(CLIPS)),
                "language": tuple(f"l{n}" for n in language),
            }
        )
    )
    for modality, dim in DIMS.items():
        rows = latent @ rng.standard_normal((HIDDEN, dim)) + 2 * rng.standard_normal((CLIPS, dim))
        there = np.ones(CLIPS, bool) if modality != "text" else np.arange(CLIPS) % 10 != 0
        spec = FeatureSpec(
            slug=modality, modality=modality, dim=dim, identity={"network": modality}
        )
        fs.add_feature(spec).commit(
            UnitRows(
                clip_ids=ids,
                values=rows[there].astype(np.float16),
                row_time_ms=np.zeros(there.sum(), np.int32),
                row_count=there.astype(np.uint16),
                status=np.where(there, Status.OK, Status.ABSENT).astype(np.uint8),
                media_sha256=np.zeros((CLIPS, 32), np.uint8),
                detail=("",) * CLIPS,
            )
        )
    return path


@pytest.fixture(scope="module")
def spoken(three, tmp_path_factory):
    """A run that has sound and text in one space."""
    run = tmp_path_factory.mktemp("runs") / "spoken"
    learn.train(
        three, "infonce", run_dir=run,
        settings=[
            "data.visual=none", "data.text=text", "projection.name=linear",
            "projection.residual=false", "projection.dim_out=16", "optimiser.watch=none",
            "optimiser.epochs=30",
        ],
    )  # fmt: skip
    return run


def accuracies(result):
    return {(r.support, r.query): r.accuracy for r in result.results}


def test_every_mode_of_three_modalities_is_scored_on_clips_that_have_all(three):
    result = learn.run_episodes(three, split="all", queries=3, episodes=200, shots=[5])
    assert [r.support for r in result.results] == list(MODES)
    assert len(result.clips) == CLIPS - CLIPS // 10
    assert result.sampling["dropped"]["no text"] == CLIPS // 10
    found = accuracies(result)
    assert found["avt", "avt"] > max(found[m, m] for m in ("v", "a", "t"))
    assert found["vt", "vt"] > found["v", "v"]


def test_modes_without_text_keep_the_clips_that_have_none(three):
    result = learn.run_episodes(
        three, split="all", queries=3, episodes=50, support=["av"], query=["av"]
    )
    assert len(result.clips) == CLIPS
    with pytest.raises(ConfigError, match="no mode 'ta'"):
        learn.run_episodes(three, support=["ta"])


@pytest.mark.parametrize("mode", [m for m in MODES if len(m) > 1])
def test_every_mode_of_several_weighs_what_it_looks_at(three, mode):
    asked = {"split": "all", "queries": 3, "episodes": 60, "support": [mode], "shots": [3]}
    (row,) = learn.run_episodes(three, **asked).results
    names = {m: store.open(three)[m].name for m in DIMS}
    assert set(row.weights) == {names[modality] for modality in MODES[mode]}
    assert sum(w["mean"] for w in row.weights.values()) == pytest.approx(1, abs=1e-5)


def test_where_weights_begin_text_counts_least_and_the_rest_as_without_it():
    pair = [Encoder("visual", "mobilenetv2"), Encoder("audio", "yamnet")]
    text, without = Encoder("text", "ngrams"), shipped(pair)
    for encoders in itertools.permutations([*pair, text]):
        prior = dict(zip(encoders, shipped(encoders).value, strict=True))
        assert prior[text] == pytest.approx(OF_TEXT)
        for encoder, weight in zip(pair, without.value, strict=True):
            assert prior[encoder] == pytest.approx((1 - OF_TEXT) * weight)
    two = shipped([text, text._replace(network="sentence"), pair[0]])
    assert two.value == pytest.approx((OF_TEXT / 2, OF_TEXT / 2, 1 - OF_TEXT))
    assert shipped([text]).value == (1.0,)


def test_sound_is_found_by_text_across_languages(three, spoken):
    """Groups are languages, and clips of the query's own are not in the gallery; chance is 1/8."""
    asked = {"projections": [str(spoken)], "support": ["a"], "query": ["t"], "split": "all"}
    result = learn.run_protocol(three, "retrieval", group="language", **asked)
    of_class = next(f for f in result.findings if f.about["level"] == "class")
    of_clip = next(f for f in result.findings if f.about["level"] == "instance")
    assert of_class.about["apart"] == "groups"
    assert of_class.metrics["map"] > 1.6 / CLASSES
    assert of_clip.metrics["r10"] > 0.1  # chance: 10 of 216
    back = learn.run_protocol(three, "retrieval", **{**asked, "support": ["t"], "query": ["a"]})
    assert max(f.metrics["map"] for f in back.findings) > 1.6 / CLASSES


def test_a_run_of_sound_and_text_answers_across_them_and_refuses_sight(three, spoken):
    result = learn.run_episodes(
        three, split="test", queries=3, episodes=100, projections=[str(spoken)], guard="both",
        support=["t", "at"], query=["t", "a", "at"], shots=[2],
    )  # fmt: skip
    found = {(r.support, r.query, r.guard): r.accuracy for r in result.results}
    assert found["t", "a", "off"] > 0.28  # chance: 0.2
    assert ("at", "at", "on") in found
    with pytest.raises(InputError, match="visual"):
        learn.run_episodes(three, projections=[str(spoken)], support=["v"], queries=3)


def test_a_projection_of_all_three_is_guarded_in_every_mode(three, tmp_path):
    run = tmp_path / "all"
    learn.train(three, "whiten", run_dir=run, settings=["data.text=text"])
    result = learn.run_episodes(
        three, split="test", queries=3, episodes=60, projections=[str(run)], shots=[3]
    )
    assert [r.support for r in result.results] == list(MODES)
    assert all(r.guard == "on" for r in result.results)


def test_recipes_of_sight_and_sound_leave_text_out_unless_it_is_named(three, tmp_path):
    learn.train(three, "whiten", run_dir=tmp_path / "two")
    modes = {r.support for r in learn.run_episodes(
        three, split="test", queries=3, episodes=20, projections=[str(tmp_path / "two")]
    ).results}  # fmt: skip
    assert modes == {"v", "a", "av"}
    for recipe in ("avid", "ccl", "missing_modality"):
        with pytest.raises((ConfigError, InputError)) as said:
            learn.train(three, recipe, run_dir=tmp_path / recipe, settings=["data.text=text"])
        assert "\n" not in str(said.value)


def test_text_that_goes_missing_and_a_sense_that_does_beside_two(three):
    result = learn.run_episodes(
        three, split="all", queries=3, episodes=60, shots=[3],
        drop=Drop(modes=("t", "a"), rates=(0.0, 1.0), fusions=("early", "late", "weighted")),
    )  # fmt: skip
    points = {(m.fusion, m.fill, m.dropped, m.rate): m.accuracy for m in result.missing}
    assert {fusion for fusion, *_ in points} == {"early", "late", "weighted"}
    for fusion, fill in (("late", "ignored"), ("weighted", "ignored"), ("early", "retrieved")):
        assert points[fusion, fill, "t", 1.0] <= points[fusion, fill, "t", 0.0] + 0.02
    # Without text at all, what is left is sight and sound as they answer by themselves.
    whole = learn.run_episodes(
        three, split="all", queries=3, episodes=60, shots=[3], support=["av", "avt"],
        fusions=["late"],
    )  # fmt: skip
    assert points["late", "ignored", "t", 0.0] == pytest.approx(accuracies(whole)["avt", "avt"])


def test_predict_and_search_look_at_text(three, tmp_path):
    ids = [f"clip{i:03d}" for i in range(CLIPS)]
    support = tmp_path / "support.csv"
    support.write_text(
        "clip_id,label\n" + "".join(f"{c},class{i % CLASSES}\n" for i, c in enumerate(ids[:80]))
    )
    query = tmp_path / "query.csv"
    query.write_text("clip_id\n" + "\n".join(ids[160:]) + "\n")
    scores = {}
    for mode in ("t", "avt"):
        output = tmp_path / f"{mode}.csv"
        learn.predict(three, support=support, query=query, output=output, mode=mode)
        with output.open() as file:
            answers = [row for row in csv.DictReader(file) if row["label"]]
        assert len(answers) == (CLIPS - 160) * (9 if mode == "t" else 10) // 10
        scores[mode] = np.mean(
            [int(a["clip_id"][4:]) % CLASSES == int(a["label"][5:]) for a in answers]
        )
    assert scores["avt"] > scores["t"] > 0.4
    found = learn.search(three, ids[1], source="avt", top=5)
    assert len(found.weights) == 3
    with pytest.raises(InputError, match="clip000 has no text rows"):
        learn.search(three, ids[0], source="t")


def test_a_dataset_of_torch_has_text(three):
    clips = learn.to_torch(three, split="train")
    assert {"visual", "audio", "text"} <= set(clips[1])
    assert clips[0]["text"].shape[0] == 0


def test_modes_have_words_in_reports():
    from learn.data.records import Mode
    from learn.reporting.in_short import SENSES
    from learn.reporting.naming import MODES as NAMED

    assert set(MODES) == set(SENSES) == set(NAMED) == set(Mode.__args__)


@pytest.fixture(scope="module")
def scarce(tmp_path_factory):
    """Stores of the same clips without text, with text of ten test clips, and with text of all."""
    root = tmp_path_factory.mktemp("scarce")
    found = {}
    for name, count in (("none", 0), ("ten", 10), ("all", 400)):
        fs = store.testing.fill(root / name)
        ids = fs.manifest().clip_ids
        test = fs.manifest().select(split="test").clip_ids
        chosen = (test[:10] if count == 10 else ids)[:count]
        if chosen:
            lines = "".join(f"{clip},said {i % 7} {i % 5}\n" for i, clip in enumerate(chosen))
            (root / "said.csv").write_text("clip_id,text\n" + lines)
            extract_text(root / "said.csv", root / name)
        found[name] = root / name
    return found


def test_text_of_a_few_clips_changes_no_episodes_that_nobody_asked_of_text(scarce):
    asked = {"episodes": 100, "queries": 10}
    before, few = (learn.run_episodes(scarce[name], **asked) for name in ("none", "ten"))
    assert accuracies(few) == accuracies(before)
    assert "text" not in few.sampling["features"]
    assert few.sampling["scarce_text"] == {"clips": 10, "of": 100}
    assert "scarce_text" not in before.sampling
    everything = learn.run_episodes(scarce["all"], **asked)
    assert [r.support for r in everything.results] == list(MODES)
    assert "scarce_text" not in everything.sampling


@pytest.mark.parametrize(
    "asked", [{"support": ["t"]}, {"text": "ngrams"}, {"drop": Drop(modes=("t",))}]
)
def test_text_of_a_few_clips_is_looked_at_where_it_is_named(scarce, asked):
    with pytest.raises(NotEnoughClips, match="with no text"):
        learn.run_episodes(scarce["ten"], episodes=10, **asked)


def test_queries_of_a_store_without_text_leave_text_out(scarce):
    result = learn.run_episodes(scarce["all"], episodes=10, queries=5, query_store=scarce["none"])
    assert result.sampling["scarce_text"] == {"clips": 0, "of": 100}
    assert {r.support for r in result.results} == {"v", "a", "av"}


def test_probes_leave_scarce_text_out_too(scarce):
    found = learn.run_protocol(scarce["ten"], "linear:folds=2")
    assert found.data["scarce_text"] == {"clips": 10, "of": 100}
    assert {f.support for f in found.findings} == {"v", "a", "av"}


def test_text_of_a_few_clips_changes_no_answer_about_clips_without_text(scarce, tmp_path):
    fs = store.open(scarce["ten"])
    table = fs.manifest().select(split="test")
    labelled = list(zip(table.clip_ids, table.column("label"), strict=True))[60:90]
    support = tmp_path / "support.csv"
    support.write_text("clip_id,label\n" + "".join(f"{c},{name}\n" for c, name in labelled))
    query = tmp_path / "query.csv"
    query.write_text("clip_id\n" + "".join(f"{clip}\n" for clip in table.clip_ids[20:50]))
    answers = {}
    for name in ("none", "ten"):
        output = tmp_path / f"{name}.csv"
        learn.predict(scarce[name], support=support, query=query, output=output)
        with output.open(newline="") as file:
            answers[name] = [
                {k: v for k, v in row.items() if "ngrams" not in k} for row in csv.DictReader(file)
            ]
    assert {row["mode"] for row in answers["ten"]} == {"av"}
    assert answers["ten"] == answers["none"]


def test_a_store_of_text_alone_says_how_training_finds_it(tmp_path):
    fs = store.create(tmp_path / "words")
    fs.add_manifest(Manifest(table={"path": ("a", "b"), "clip_id": ("a", "b")}))
    (tmp_path / "said.csv").write_text("clip_id,text\na,one\nb,two\n")
    name = extract_text(tmp_path / "said.csv", fs.path).feature
    with pytest.raises(InputError, match=f"name its text: `text` {name}"):
        learn.train(fs.path, "whiten", run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
