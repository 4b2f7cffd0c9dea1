"""What the numbers rest on."""

from tests.learn.reporting.pages import result


def test_provenance_names_every_run(page, runs):
    rows = {row["run"]: row for row in page[0].rows("Runs")}
    assert set(rows) == set(runs)
    digest = result(runs["heads"])["episodes"]["sha256"]
    assert digest.startswith(rows["heads"]["digest"])
    assert len(rows["heads"]["digest"]) == 16
    assert rows["heads"]["digest"] == rows["crossed"]["digest"]
