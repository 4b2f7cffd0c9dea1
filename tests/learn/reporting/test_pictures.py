"""Pictures of confused clips."""

import json

import learn
from tests.learn.reporting.pages import result


def test_pictures_are_of_the_confused_clips_that_are_there(paired, runs, tmp_path):
    answers = json.loads((runs["heads"] / "answers.json").read_text())
    kinds = [(r["shots"], r["head"]) for r in result(runs["heads"])["results"]]
    pairs = answers[kinds.index((2, "prototypes"))]["confusions"]
    first = pairs[0]["clips"][0]["clip_id"]
    (tmp_path / first).write_bytes(b"")
    asked = []

    def thumbnails(media):
        asked.extend(media)
        return [b"\xff\xd8jpeg"]

    out = tmp_path / "r.html"
    learn.report((runs["heads"],), out, map_by="none", media=(tmp_path,), thumbnails=thumbnails)
    (media,) = asked
    assert (media.root, media.path, media.start_seconds) == (tmp_path, first, 0.0)
    assert len({clip["clip_id"] for pair in pairs for clip in pair["clips"]}) > 1
    html = out.read_text()
    assert "data:image/jpeg;base64,/9hqcGVn" in html
    assert "have no picture" in html
