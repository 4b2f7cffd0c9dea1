"""What must be known before a number is quoted, and only that."""

import json
import shutil

import learn
from tests.learn.reporting.pages import FEW, Page, result


def test_no_caveat_without_a_reason(filled, tmp_path):
    bare = {**FEW, "support": ("v",), "heads": ("prototypes",)}
    learn.run_episodes(filled, **bare).save(tmp_path / "plain")
    summary = learn.report((tmp_path / "plain",), tmp_path / "r.html", map_by="none")
    assert summary.caveats == ("pre-training",)


def test_every_caveat_has_its_reason(paired, filled, runs, tmp_path):
    bare = {**FEW, "support": ("v",), "heads": ("prototypes",)}
    learn.run_episodes(filled, **bare, group="none").save(tmp_path / "mixed")
    own = {"split": "train", "projections": (runs["space"],)}
    learn.run_episodes(paired, **bare, **own).save(tmp_path / "own")
    changed = tmp_path / "random"
    shutil.copytree(runs["heads"], changed)
    record = result(changed)
    record["results"][0]["untrained"] = True
    (changed / "result.json").write_text(json.dumps(record))
    unfinished = tmp_path / "unfinished"
    shutil.copytree(runs["space"], unfinished)
    (unfinished / "done.json").unlink()
    metrics = unfinished / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"event": "epo')

    def caveats(*paths):
        out = tmp_path / "r.html"
        out.unlink(missing_ok=True)
        summary = learn.report(paths, out, map_by="none")
        assert Page(out.read_text()).html.count("<strong>") >= len(summary.caveats)
        assert summary.to_dict()["stamps"] == list(summary.caveats)
        return set(summary.caveats) - {"pre-training"}

    assert caveats(tmp_path / "mixed") == {"groups-ignored"}
    alone = {"seen-in-training", "groups-ignored", "not-beside-stored"}
    assert caveats(tmp_path / "own") == alone
    assert caveats(runs["heads"]) == {"transductive", "groups-ignored"}
    assert caveats(changed) == {"untrained", "transductive", "groups-ignored"}
    assert caveats(unfinished) == {"unfinished"}
    assert caveats(runs["space"]) == set()
