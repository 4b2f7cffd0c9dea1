"""The promises of `EvaluationProtocol`, as tests of any protocol."""

import json
import math
from typing import Any

import numpy as np
import pytest

import learn
import store
from learn.data import class_embeddings
from learn.data.class_embeddings import ClassEmbeddings
from learn.evaluation.protocols import FAMILY, EvaluationProtocol
from store import plugins, testing

RECIPE = "cross_modal_probe"  # an own head, and a way from names into its space


class ProtocolContract:
    """Numbers are finite, the same each time, of the same clips, and fall with wrong labels."""

    @pytest.fixture(scope="class")
    @classmethod
    def path(cls, tmp_path_factory: Any) -> Any:
        """A store whose splits share classes, with labels that tell what is seen and heard."""
        folder = tmp_path_factory.mktemp("protocols")
        testing.fill(
            folder / "s", clips=300, rows=2, dim=6, classes=10, silent_share=0.1, separation=5.0,
            disjoint=False,
        )  # fmt: skip
        return folder / "s"

    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, path: Any) -> Any:
        """Knows the names of ten classes, and was trained on clips of eight."""
        fs = store.open(path)
        table, where = fs.manifest(), path.parent
        names = sorted(set(table.column("label")))
        means: dict[str, list[Any]] = {name: [] for name in names}
        for name in fs.features:
            packed = fs[name].packed(table.clip_ids)
            for i, label in enumerate(table.column("label")):
                rows = packed.values[packed.offsets[i] : packed.offsets[i + 1]]
                means[label].append(rows.mean(0) if len(rows) else np.zeros(rows.shape[1]))
        vectors = np.stack([np.mean(means[name], axis=0) for name in names]).astype(np.float32)
        class_embeddings.write(
            where / "names.csv", ClassEmbeddings(names=tuple(names), vectors=vectors)
        )
        columns = (table.clip_ids, table.column("split"), table.column("label"))
        lines = ["path,split,label"] + [
            f"{clip},{'away' if label in names[:2] else split},{label}"
            for clip, split, label in zip(*columns, strict=True)
        ]
        (where / "eight.csv").write_text("\n".join(lines) + "\n")
        settings = (
            "optimiser.epochs=30",
            "optimiser.learning_rate=1e-2",
            "optimiser.batch_size=32",
        )
        learn.train(
            path, RECIPE, settings=(*settings, f"data.labels={where / 'names.csv'}"),
            manifest=where / "eight.csv", run_dir=where / "run",
        )  # fmt: skip
        return where / "run"

    @pytest.fixture(scope="class")
    @classmethod
    def protocol(cls, name: str) -> str:
        """The SPEC that is asked for."""
        return name

    @pytest.fixture
    def score(self, path: Any, run: Any, protocol: Any) -> Any:
        def score(**asked: Any) -> Any:
            return learn.run_protocol(path, protocol, projections=(run,), **asked)

        return score

    @pytest.fixture(scope="class")
    @classmethod
    def usual(cls, path: Any, run: Any, protocol: Any) -> Any:
        """What it finds when it is asked nothing in particular, for every test that compares."""
        return learn.run_protocol(path, protocol, projections=(run,))

    def test_it_is_a_protocol_and_says_what_it_does(self, protocol: Any) -> None:
        assert isinstance(plugins.build(FAMILY, protocol), EvaluationProtocol)
        (told,) = (one for one in plugins.describe(FAMILY) if one["name"] == protocol)
        assert told["summary"].endswith((".", ":")) or len(told["summary"]) > 20

    def test_findings_are_finite_numbers_about_the_same_clips(self, usual: Any) -> None:
        assert usual.findings
        plain = json.loads(json.dumps(usual.to_dict(), allow_nan=False))
        assert len(plain["results"]) == len(usual.findings)
        kinds: dict[Any, set[int]] = {}
        for finding in usual.findings:
            assert finding.metrics
            assert all(math.isfinite(value) for value in finding.metrics.values())
            assert finding.clips > 0
            kinds.setdefault((finding.label, finding.about.get("level")), set()).add(finding.clips)
        assert all(len(clips) == 1 for clips in kinds.values()), kinds

    def test_it_repeats_itself(self, score: Any, usual: Any) -> None:
        assert score().to_dict() == usual.to_dict()

    def test_labels_that_mean_nothing_score_less(self, path: Any, score: Any, usual: Any) -> None:
        """ClassEmbeddings dealt out anew: whatever the protocol measures must fall."""
        table = store.open(path).manifest()
        names = table.column("label")
        others = np.random.default_rng(0).permutation(names)
        columns = (table.clip_ids, table.column("split"), table.column("group"), names, others)
        lines = ["path,split,group,label"] + [
            f"{clip},{split},{group},{other if split == 'test' else own}"
            for clip, split, group, own, other in zip(*columns, strict=True)
        ]
        dealt = path.parent / "dealt.csv"
        dealt.write_text("\n".join(lines) + "\n")
        right, wrong = (
            [finding for finding in evaluation.findings if finding.label]
            for evaluation in (usual, score(manifest=dealt))
        )
        name = next(iter(right[0].metrics))
        assert sum(f.metrics[name] for f in wrong) < 0.7 * sum(f.metrics[name] for f in right)

    def test_several_label_columns_and_modes_are_one_call(self, path: Any, score: Any) -> None:
        table = store.open(path).manifest()
        lines = ["path,split,label,again"] + [
            f"{clip},{split},{own},{own}"
            for clip, split, own in zip(
                table.clip_ids, table.column("split"), table.column("label"), strict=True
            )
        ]
        (path.parent / "two.csv").write_text("\n".join(lines) + "\n")
        found = score(manifest=path.parent / "two.csv", labels=("label", "again"))
        by_label = {
            name: [one.metrics for one in found.findings if one.label == name]
            for name in ("label", "again")
        }
        assert by_label["label"] == by_label["again"] != []
        alone = score(support=("v",)).findings
        assert {one.support for one in alone} == {"v"}

    def test_what_cannot_be_done_is_one_line(self, score: Any) -> None:
        for asked in (
            {"labels": ("lable",)},
            {"split": "tset"},
            {"labels": ()},
            {"support": ("x",)},
        ):
            with pytest.raises(store.errors.MicroshotError) as refusal:
                score(**asked)
            assert "\n" not in str(refusal.value)
