"""Several label columns learnt at once: the equation, and a training of two columns."""

import json

import pytest
import torch

import learn
import store
from learn.data.clips import labels_of, load_clips
from learn.training.objectives import Batch, ObjectiveContext, multi_aspect
from learn.training.runs import load_run
from store import testing
from store.errors import UnknownColumn

CLASSES = ("mood=glad", "mood=sad", "topic=cars", "topic=food", "topic=pets")


@torch.no_grad()
def test_an_aspect_costs_the_clips_that_have_it():
    sizes = {"visual": 4, "audio": 4}
    context = ObjectiveContext(outputs=sizes, inputs=sizes, classes=CLASSES, clips=3)
    objective = multi_aspect.build(multi_aspect.Config(label_smoothing=0.0), context)
    assert {k: v.tolist() for k, v in objective.aspects.items()} == {
        "mood": [0, 1], "topic": [2, 3, 4],
    }  # fmt: skip
    visual, audio = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    # The second clip has no mood, the third two topics.
    targets = torch.tensor([[1.0, 0, 1, 0, 0], [0, 0, 0, 0, 1], [0, 1, 0, 1, 1]])
    batch = Batch(
        embeddings={"visual": visual, "audio": audio}, labels=torch.full((3,), -1),
        clips=torch.arange(3), targets=targets,
    )  # fmt: skip
    terms = {name: x.item() for name, x in objective.terms(batch).items()}
    for output, x in batch.embeddings.items():
        logits = x @ objective.classifier.weight.T + objective.classifier.bias
        mood, topic = logits[:, :2].log_softmax(1), logits[:, 2:].log_softmax(1)
        wanted = -(mood[0, 0] + mood[2, 1]) / 2 / 2
        assert terms[f"mood_{output}"] == pytest.approx(float(wanted), rel=1e-5)
        wanted = -(topic[0, 0] + topic[1, 2] + (topic[2, 1] + topic[2, 2]) / 2) / 3 / 2
        assert terms[f"topic_{output}"] == pytest.approx(float(wanted), rel=1e-5)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Eight classes told twice: as four topics and two moods; a fifth of the moods is not known."""
    where = tmp_path_factory.mktemp("aspects")
    fs = testing.fill(where / "s", clips=320, rows=2, dim=8, classes=8, disjoint=False)
    table = fs.manifest()
    names = sorted(set(table.column("label")))
    lines = ["path,split,topic,mood"]
    cells = zip(table.clip_ids, table.column("split"), table.column("label"), strict=True)
    for number, (clip, split, label) in enumerate(cells):
        mood = "" if number % 5 == 0 else ("glad", "sad")[names.index(label) % 2]
        lines.append(f"{clip},{split},topic{names.index(label) // 2},{mood}")
    (where / "m.csv").write_text("\n".join(lines) + "\n")
    return where


def test_columns_are_named_together(made):
    manifest = store.read_manifest(made / "m.csv", ids_suffice=True)
    both = load_clips(manifest, split="train", label="topic, mood", group="none", several=True)
    assert both.classes == ("mood=glad", "mood=sad", *(f"topic=topic{i}" for i in range(4)))
    assert set(both.targets.sum(1)) == {1, 2}
    assert labels_of(manifest, "topic") == manifest.labels("topic")
    with pytest.raises(UnknownColumn, match="moods"):
        labels_of(manifest, "topic,moods")


def test_one_space_answers_about_every_aspect(made, tmp_path):
    learn.train(
        made / "s", "multi_aspect", settings=("data.label=topic,mood", "optimiser.epochs=25"),
        manifest=made / "m.csv", run_dir=tmp_path / "run",
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    first, *_, last = [line["terms"] for line in lines if line["event"] == "epoch"]
    assert set(first) == {"topic_visual", "topic_audio", "mood_visual", "mood_audio"}
    assert all(last[name] < 0.8 * first[name] for name in first)
    run = load_run(tmp_path / "run")
    assert run.classes[:2] == ("mood=glad", "mood=sad")
    for column, ways in (("topic", 4), ("mood", 2)):
        results = learn.run_episodes(
            made / "s", label=column, manifest=made / "m.csv", projections=(tmp_path / "run",),
            ways=ways, shots=(5,), queries=5, episodes=100, support=("v",), query=("v", "a"),
            guard="off", group="none",
        ).results  # fmt: skip
        accuracy = {r.query: r.accuracy for r in results}
        chance = 1 / ways
        assert min(accuracy.values()) > chance + 0.3, (column, accuracy)


def test_val_clips_without_a_label_that_training_knows_tell_no_best_epoch(made, tmp_path):
    """Their loss would be 0 in every epoch."""
    text = (made / "m.csv").read_text().splitlines()
    new = [
        ",".join([*line.split(",")[:2], "other", ""]) if ",val," in line else line for line in text
    ]
    (tmp_path / "m.csv").write_text("\n".join(new) + "\n")
    result = learn.train(
        made / "s", "multi_aspect", settings=("data.label=topic,mood", "optimiser.epochs=2"),
        manifest=tmp_path / "m.csv", run_dir=tmp_path / "run",
    )  # fmt: skip
    assert (result.val_clips, result.val_loss) == (0, None)
