"""Trainings that know the names of classes, or several labels a clip."""

import json

import numpy as np
import pytest
import torch

import learn
from learn.data import class_embeddings
from learn.data.class_embeddings import ClassEmbeddings
from learn.training import runs
from store import testing
from store.errors import ConfigError, InputError

QUICK = ("optimiser.epochs=3",)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of six classes, those of the test split never trained on, and vectors of all."""
    folder = tmp_path_factory.mktemp("store")
    fs = testing.fill(folder / "s", clips=72, rows=3, dim=8, classes=6)
    names = sorted(set(fs.manifest().column("label")))
    vectors = np.random.default_rng(0).standard_normal((len(names), 5)).astype(np.float32)
    class_embeddings.write(
        folder / "l.csv", ClassEmbeddings(names=tuple(names[::-1]), vectors=vectors)
    )
    return folder / "s", folder / "l.csv"


@pytest.mark.parametrize("recipe", ["cjme", "avgzslnet", "avca", "tcaf", "cross_modal_probe"])
def test_a_run_knows_a_way_from_names_into_its_space(made, tmp_path, recipe):
    store_path, table = made
    learn.train(
        store_path, recipe, settings=(*QUICK, f"data.labels={table}"), run_dir=tmp_path / "r"
    )
    run = runs.load_run(tmp_path / "r")
    names = class_embeddings.read(table).names
    embeddings = run.class_embeddings(names)
    (size,) = set(run.space.outputs.values())
    assert embeddings.shape == (6, size)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(6))
    torch.testing.assert_close(run.class_embeddings(names[::-1]), embeddings.flip(0))
    assert len(run.classes) < len(names), "it was trained on all of them"
    with pytest.raises(InputError, match="'zebra'"):
        run.class_embeddings(["zebra"])


def test_a_run_without_names_says_how_to_get_them(made, tmp_path):
    store_path, _ = made
    with pytest.raises(ConfigError, match="learn labels"):
        learn.train(store_path, "cjme", settings=QUICK, run_dir=tmp_path / "r")
    learn.train(store_path, "infonce", settings=QUICK, run_dir=tmp_path / "i")
    with pytest.raises(ConfigError, match="--recipe cjme --labels"):
        runs.load_run(tmp_path / "i").class_embeddings(["a"])


def test_names_of_training_must_have_vectors_and_others_may(made, tmp_path):
    store_path, table = made
    whole = class_embeddings.read(table)
    learn.train(
        store_path, "cjme", settings=(*QUICK, f"data.labels={table}"), run_dir=tmp_path / "a"
    )
    known = runs.load_run(tmp_path / "a").classes
    kept = [i for i, name in enumerate(whole.names) if name in known]
    class_embeddings.write(tmp_path / "some.csv", ClassEmbeddings(
        names=tuple(whole.names[i] for i in kept), vectors=whole.vectors[kept]))  # fmt: skip
    fewer_settings = (*QUICK, f"data.labels={tmp_path / 'some.csv'}")
    learn.train(store_path, "cjme", settings=fewer_settings, run_dir=tmp_path / "b")
    fewer = tuple(whole.names[i] for i in kept[1:])
    class_embeddings.write(
        tmp_path / "less.csv", ClassEmbeddings(names=fewer, vectors=whole.vectors[kept[1:]])
    )
    with pytest.raises(InputError, match="have no vector"):
        learn.train(
            store_path, "cjme", settings=(*QUICK, f"data.labels={tmp_path / 'less.csv'}"),
            run_dir=tmp_path / "c",
        )  # fmt: skip
    assert not (tmp_path / "c").exists()


def test_other_vectors_are_another_training(made, tmp_path):
    store_path, table = made
    settings = (*QUICK, f"data.labels={tmp_path / 'l.csv'}")
    whole = class_embeddings.read(table)
    class_embeddings.write(tmp_path / "l.csv", whole)
    learn.train(store_path, "cjme", settings=settings, run_dir=tmp_path / "r")
    (tmp_path / "r" / "done.json").unlink()
    class_embeddings.write(
        tmp_path / "l.csv", ClassEmbeddings(names=whole.names, vectors=whole.vectors + 1)
    )
    with pytest.raises(InputError, match="labels_sha256"):
        learn.train(store_path, "cjme", settings=settings, run_dir=tmp_path / "r", resume=True)


def test_labels_of_a_run_are_sealed(made, tmp_path):
    store_path, table = made
    learn.train(
        store_path, "cjme", settings=(*QUICK, f"data.labels={table}"), run_dir=tmp_path / "r"
    )
    assert "labels.csv" in json.loads((tmp_path / "r" / "done.json").read_text())["files"]
    with (tmp_path / "r" / "labels.csv").open("a") as file:
        file.write("\n")
    with pytest.raises(InputError, match=r"labels\.csv was changed"):
        runs.load_run(tmp_path / "r")


def test_several_labels_a_clip(tmp_path):
    """Two labels, one told by sight, one by sound: both are learnt, and tell themselves apart."""
    fs = testing.fill(tmp_path / "s", clips=240, rows=2, dim=8, classes=4, disjoint=False)
    table = fs.manifest()
    lines = ["path,clip_id,split,label"]
    for path, clip_id, split, name in zip(
        table.paths, table.clip_ids, table.column("split"), table.column("label"), strict=True
    ):
        number = sorted(set(table.column("label"))).index(name)
        tags = ";".join(tag for tag, on in (("odd", number % 2), ("high", number > 1)) if on)
        lines.append(f"{path},{clip_id},{split},{tags}")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    result = learn.train(
        tmp_path / "s", "multi_label", manifest=tmp_path / "m.csv", run_dir=tmp_path / "r",
        settings=("optimiser.epochs=30",),
    )  # fmt: skip
    run = runs.load_run(tmp_path / "r")
    assert run.classes == ("high", "odd")
    assert result.clips < 120, "clips without any label are left out"
    assert result.val_loss is not None
    assert result.val_loss < 0.3
    with pytest.raises(InputError, match="several labels"):
        learn.train(
            tmp_path / "s", "cross_entropy", manifest=tmp_path / "m.csv", run_dir=tmp_path / "x"
        )


def test_labels_are_made_of_a_stores_classes(made, tmp_path):
    store_path, table = made
    facts = learn.make_labels(store_path, tmp_path / "l.csv", source=table)
    assert facts["names"] == 6
    again = class_embeddings.read(tmp_path / "l.csv")
    assert list(again.names) == sorted(again.names)
    np.testing.assert_array_equal(
        again.of(again.names), class_embeddings.read(table).of(again.names)
    )
    with pytest.raises(InputError, match="exists"):
        learn.make_labels(store_path, tmp_path / "l.csv", source=table)
    (tmp_path / "n.csv").write_text(
        "original,manual\n" + "".join(f"{name},thing {k}\n" for k, name in enumerate(again.names))
    )
    things = tuple(f"Thing{k}" for k in range(6))
    class_embeddings.write(
        tmp_path / "things.csv", ClassEmbeddings(names=things, vectors=np.eye(6, dtype=np.float32))
    )
    learn.make_labels(
        store_path, tmp_path / "t.csv", source=tmp_path / "things.csv", names=tmp_path / "n.csv"
    )
    np.testing.assert_array_equal(class_embeddings.read(tmp_path / "t.csv").vectors, np.eye(6))


def test_a_recipe_trusts_no_pickle(made, tmp_path):
    store_path, table = made
    known = class_embeddings.read(table)
    pickled = np.array(dict(zip(known.names, known.vectors, strict=True)), dtype=object)
    np.save(tmp_path / "w.npy", pickled, allow_pickle=True)
    settings = (*QUICK, f"data.labels={tmp_path / 'w.npy'}")
    with pytest.raises(InputError, match=r"w.npy is a pickle; .* learn labels DIR --from .*w.npy"):
        learn.train(store_path, "cjme", settings=settings, run_dir=tmp_path / "r")
    assert not (tmp_path / "r").exists()
