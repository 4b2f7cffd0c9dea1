"""Classes and confused pairs are those of the answers."""

import json

from tests.learn.reporting.pages import result, shown


def test_classes_and_confusions_are_those_of_the_answers(page, runs):
    answers = json.loads((runs["heads"] / "answers.json").read_text())
    rows = result(runs["heads"])["results"]
    table = page[0].rows("Right answers of each class, %, in every result")
    by_class = {row["class"]: row for row in table}
    for row, of in zip(rows, answers, strict=True):
        column = f"{row['head']} · stored vectors {row['support']} {row['shots']}-shot"
        for tally in of["classes"]:
            assert by_class[tally["name"]][column] == shown(tally["right"] / tally["asked"])
    first = next(
        of for row, of in zip(rows, answers, strict=True)
        if (row["shots"], row["support"], row["head"]) == (2, "a", "prototypes")
    )  # fmt: skip
    worst = first["confusions"][0]
    assert (
        f"{worst['truth']} taken for {worst['answer']} : {worst['times']} of {worst['of']} "
        f"({100 * worst['times'] / worst['of']:.1f} %)" in page[0].words
    )
    for clip in worst["clips"]:
        assert f"{clip['clip_id']} , {clip['times']} times" in page[0].words
