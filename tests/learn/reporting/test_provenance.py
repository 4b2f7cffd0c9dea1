"""What the numbers rest on."""

from tests.learn.reporting.pages import result


def test_provenance_names_every_run(page, runs):
    found = {row["run"]: row for row in page[0].rows("Runs")}
    assert set(found) == set(runs)
    digest = result(runs["heads"])["episodes"]["sha256"]
    assert digest.startswith(found["heads"]["digest"])
    assert len(found["heads"]["digest"]) == 16
    assert found["heads"]["digest"] == found["crossed"]["digest"]
