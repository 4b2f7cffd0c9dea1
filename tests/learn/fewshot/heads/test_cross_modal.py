"""The cross-modal probe against PyTorch's optimiser, and where its further shots come from."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

import learn
from learn.data import class_embeddings
from learn.data.rows import choose_feature, load_rows
from learn.fewshot.heads import Context
from learn.training.runs import load_run
from store import open as open_store
from store import plugins
from store.errors import ConfigError
from tests.learn.fewshot.heads.named import task
from tests.learn.references.cross_modal import literal

FEW = {"ways": 4, "queries": 5, "episodes": 12}


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize(
    "settings", [{}, {"scale": 10.0, "lr": 0.02, "steps": 30}, {"wise": 0.5, "weight_decay": 1.0}]
)
@pytest.mark.parametrize("sources", ["all", "other", "names"])
def test_equals_the_optimiser_of_pytorch(shots, settings, sources):
    support, query, other, names = task(shots)
    spec = ",".join(f"{k}={v}" for k, v in {"sources": sources, **settings}.items())
    context = Context(modality_dims=(12,), extra_shots={"other": other, "names": names[:, :, None]})
    got = plugins.build("learn.fewshot.heads", f"cross_modal:{spec}").fit(support, context)(query)
    for i in range(len(got)):
        beside = (other[i],) if sources in ("all", "other") else ()
        text = names[i] if sources in ("all", "names") else None
        expected = literal(support[i], query[i], beside, names=text, **settings)
        torch.testing.assert_close(got[i], expected, rtol=1e-6, atol=1e-8)


def test_the_other_modality_and_the_names_tell_what_the_shots_do_not():
    """Shots of noise: only what is beside them knows the classes."""
    _, _, other, names = task(5, count=20)
    rng = torch.Generator().manual_seed(9)
    centre = torch.randn(20, 4, 12, generator=rng, dtype=torch.float64)
    noise = torch.randn(20, 4, 1, 12, generator=rng, dtype=torch.float64)
    query = centre + 0.1 * names
    beside = {"other": centre[:, :, None] + 0.1 * other, "names": centre[:, :, None]}
    head = plugins.build("learn.fewshot.heads", "cross_modal")
    answer = torch.arange(4)

    def right(known):
        scores = head.fit(noise, Context(modality_dims=(12,), extra_shots=known))(query)
        return float((scores.argmax(-1) == answer).double().mean())

    assert right({}) < 0.5
    for source in beside:
        assert right({source: beside[source]}) > 0.95


@pytest.fixture(scope="module")
def run(paired, tmp_path_factory):
    """A space of both modalities that class names lead into."""
    folder = tmp_path_factory.mktemp("probe")
    names = sorted({c for c in open_store(paired).manifest().column("label") if c})
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((len(names), 8)).astype(np.float32)
    class_embeddings.write(
        folder / "labels.csv", class_embeddings.ClassEmbeddings(names=tuple(names), vectors=vectors)
    )
    learn.train(
        paired, "cross_modal_probe", run_dir=folder / "run",
        settings=[
            "optimiser.epochs=3", "projection.dim_out=16", f"data.labels={folder}/labels.csv",
        ],
    )  # fmt: skip
    return folder / "run"


def test_every_answer_is_that_of_a_loop_over_the_saved_episodes(paired, run, tmp_path):
    file = tmp_path / "episodes.safetensors"
    heads = ("cross_modal", "cross_modal:sources=other", "cross_modal:sources=names")
    results = learn.run_episodes(
        paired, **{**FEW, "episodes": 4}, shots=(2,), heads=heads, projections=(run,),
        support=("v",), query=("v", "a"), save_episodes=file,
    )  # fmt: skip
    with safe_open(file, framework="numpy") as opened:
        ids, indices = json.loads(opened.metadata()["clips"]), opened.get_tensor("0.indices")
        classes = opened.get_tensor("0.classes")
    fs, loaded = open_store(paired), load_run(run)
    rows = {m: load_rows(choose_feature(fs, m, None), ids) for m in ("visual", "audio")}
    x = {m: vectors.double() for m, vectors in loaded.embed(rows).items()}
    text = loaded.class_embeddings(results.clips.classes).double()
    for result in results.results:
        sources = result.head.partition("sources=")[2] or "all"
        seen = x["visual" if result.query == "v" else "audio"]
        for indices_of_episode, class_ids, share in zip(
            indices, classes, result.of_episodes, strict=True
        ):
            shots = torch.from_numpy(indices_of_episode[:, :2]).long()
            expected = literal(
                x["visual"][shots],
                seen[torch.from_numpy(indices_of_episode[:, 2:]).long()].flatten(0, 1),
                (x["audio"][shots],) if sources != "names" else (),
                names=text[torch.from_numpy(class_ids).long()] if sources != "other" else None,
            )
            right = torch.arange(4).repeat_interleave(5)
            accuracy = float((expected.argmax(-1) == right).double().mean())
            assert share == pytest.approx(accuracy), (result.head, result.query)
    assert len({tuple(r.of_episodes) for r in results.results}) > 2
    alone = learn.run_episodes(
        paired, episodes_file=file, heads=heads, projections=(run,), support=("v",)
    )
    for first, other in zip(alone.results, results.results[: len(heads)], strict=True):
        assert np.array_equal(first.of_episodes, other.of_episodes), "sound is looked at unasked"


@pytest.mark.parametrize(
    ("head", "projected", "support"),
    [
        ("cross_modal", False, "v"),  # stored vectors share no space
        ("cross_modal:sources=other", True, "av"),  # nothing is left out
        ("lp_plus_plus", False, "v"),
        ("clap", False, "v"),
    ],
)
def test_nothing_beside_the_shots_is_refused(paired, run, head, projected, support):
    with pytest.raises(ConfigError, match="give as `projection` a run"):
        learn.run_episodes(
            paired, **FEW, heads=(head,), projections=(run,) if projected else (),
            support=(support,), fusions=("early",) if support == "av" else (),
        )  # fmt: skip


def test_a_joint_view_meets_names_in_both_of_its_blocks(paired, run):
    heads = ("cross_modal:sources=names", "lp_plus_plus", "clap")
    results = learn.run_episodes(paired, **FEW, heads=heads, projections=(run,), support=("av",))
    assert all(result.accuracy > 0.5 for result in results.results)
    assert len({tuple(r.of_episodes) for r in results.results}) > 1


@pytest.mark.parametrize("setting", ["sources=text", "scale=-1", "steps=-1", "wise=2", "lr=nan"])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        plugins.build("learn.fewshot.heads", f"cross_modal:{setting}")
