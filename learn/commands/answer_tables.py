"""What `learn predict`, `search` and `annotate` say on a terminal."""

from collections.abc import Mapping
from typing import Any

from learn.evaluation.wording import feature_name
from store.console import table, wrapped, write_line

STRANGE = 0.95  # the novelty above which a clip is called stranger than what is known
CLIPS_FOR_STRANGE = 20  # clips left out, for a novelty that can be above that


def prediction_lines(result: Mapping[str, Any]) -> None:
    """Print the file of answers, their number, and how far their confidence can be trusted."""
    wrapped(
        f"{result['output']}: {result['clips']} clips by {result['mode']}, {result['by']}"
        + (f", index {result['index']}" if result["index"] != "exact" else "")
        + f", in {result['seconds']:.1f} s"
    )
    for counts in result["labels"]:
        write_line()
        wrapped(
            f"{counts['label']}: {counts['answered']} answered, {counts['abstained']} abstained, "
            f"{counts['no-rows']} without rows"
            + (f", {n} with rows that no support clip has" if (n := counts["no-match"]) else "")
            + f"; {counts['classes']} class{'es' * (counts['classes'] != 1)}, "
            f"{counts['support']} support clips"
            + (f", {n} more without rows" if (n := counts["support_without_rows"]) else "")
        )
        if lost := counts["classes_without_rows"]:
            wrapped(f"never answered, having no rows: {', '.join(lost)}", indent="    ")
        if lacking := counts["classes_without_name"]:
            wrapped(
                f"class names are not used: {len(lacking)} of {counts['classes']} have no vector "
                f"in the projection, {lacking[0]!r} for one",
                indent="    ",
            )
        for fitted in counts["calibration"]:
            wrapped(f"confidence by {fitted['parts']}: {_trust(fitted)}", indent="    ")
            if about_novelty := _novelty_limit(fitted):
                wrapped(f"novelty by {fitted['parts']}: {about_novelty}", indent="    ")
        for parts, weights in counts["weights"].items():
            told = ", ".join(f"{feature_name(f)} {w:.2f}" for f, w in weights.items())
            if parts in counts["prior"]:
                wrapped(f"weights by {parts}: {told}", indent="    ")
                wrapped(f"begin at {counts['prior'][parts]}", indent="        ")
        for parts, recall in counts.get("recall", {}).items():
            write_line(f"    recall of the index by {parts}: {recall:.4f}")


def _trust(fitted: Mapping[str, Any]) -> str:
    if fitted["classes"] < 2:
        return "none, as there is one class and nothing that it could be mistaken for; left empty"
    if not fitted["clips"]:
        reason = "as no class has two clips apart"
        if not fitted["exact"]:
            return f"none, {reason} to tell what the index misses; left empty"
        return f"not calibrated, {reason}; take it as a rank"
    right = f"{100 * fitted['accuracy']:.1f} % right"
    if not fitted["enough"]:  # a share of a few would sound like one of many
        right = f"{round(fitted['accuracy'] * fitted['clips'])} right"
    text = (
        f"{fitted['clips']} clips left out in turn ({fitted['apart']}): "
        f"{right}, {100 * fitted['confidence']:.1f} % sure"
    )
    if fitted["found"] is not None:
        text += f"; the index finds the class of {100 * fitted['found']:.1f} %, and no confidence "
        text += "is above that"
    return text if fitted["enough"] else f"{text}; too few clips to call it calibrated"


def _novelty_limit(fitted: Mapping[str, Any]) -> str:
    """The most that novelty can be, where it cannot tell what is strange from what is not."""
    if fitted["novelty_at_most"] is None:
        return "none, as no clip could be left out"
    if fitted["novelty_at_most"] > STRANGE:
        return ""
    return (
        f"{fitted['novelty_at_most']:.2f} at most with {fitted['clips']} clips left out, so no "
        f"clip can be above {STRANGE:g}; that takes {CLIPS_FOR_STRANGE}"
    )


def neighbours_table(result: Mapping[str, Any]) -> None:
    """Print the nearest clips, best first."""
    asked = result["clip"] or repr(result["words"])
    wrapped(
        f"{asked}, {result['from']}→{result['to']}, the nearest of "
        f"{result['looked_at']} clips; projection: {result['projection']}"
    )
    if result["weights"]:
        told = ", ".join(f"{feature_name(f)} {w:.2f}" for f, w in result["weights"].items())
        wrapped(f"weights: {told} ({result['prior']}); a clip without one is compared by the other")
    rows = [{**row, "similarity": f"{row['similarity']:.4f}"} for row in result["results"]]
    table(rows, ["rank", "similarity", "clip_id"])


def annotation_lines(result: Mapping[str, Any]) -> None:
    """Print what a session of `learn annotate` left."""
    for column, clips in result["labelled"].items():
        write_line(
            f"{column}: {clips} of {result['clips']} clips in {result['classes'][column]} classes, "
            f"{result['none_of_these'][column]} of none of these"
        )
    write_line(f"{result['acts']} acts appended to {result['output']}")
