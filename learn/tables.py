"""What the `learn` commands found, for people."""

from collections.abc import Mapping
from typing import Any

from store.text import table, wrapped


def episodes_table(result: Mapping[str, Any]) -> None:
    """Accuracy in percent with its 95 % interval: a row per mode, projection and head."""
    drawn, rows = result["episodes"], result["results"]
    apart = f"{drawn['group']} kept apart" if drawn["group"] else "groups may meet"
    wrapped(
        f"{drawn['ways']}-way, {drawn['queries']} queries a class, {drawn['episodes']} episodes; "
        f"{drawn['clips']} clips of {drawn['classes']} classes, split {drawn['split']}, {apart}"
    )
    if dropped := [f"{n} with {why}" for why, n in drawn["dropped"].items() if n]:
        print(f"left out: {', '.join(dropped)}")
    for draw in drawn["draws"]:
        if idle := draw["classes_never_drawn"]:
            listed = ", ".join(idle[:8]) + (", …" if len(idle) > 8 else "")
            wrapped(f"{draw['shots']}-shot without {len(idle)} classes of too few clips: {listed}")
    shots = list(dict.fromkeys(row["shots"] for row in rows))
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        mode = (
            row["support"] if row["support"] == row["query"] else "{support}→{query}".format(**row)
        )
        mark = "*" if row["untrained"] else "!" if row["seen_in_training"] else ""
        line = lines.setdefault((mode, row["projection"], row["head"]), {})
        margin = "" if row["ci95"] is None else f" ± {100 * row['ci95']:.1f}"
        line[f"{row['shots']}-shot"] = f"{100 * row['accuracy']:.1f}{margin}{mark}"
    runs = list(dict.fromkeys(row["projection"] for row in rows))
    for run in runs:
        if runs != ["none"]:
            print(f"\nprojection: {run}")
        shown = [
            {"mode": mode, "head": head} | line
            for (mode, projection, head), line in lines.items()
            if projection == run
        ]
        table(shown, ["mode", "head", *(f"{k}-shot" for k in shots)])
    if any(row["untrained"] for row in rows):
        print("* weights are UNTRAINED (random): this shows the plumbing, not an encoder's worth")
    if any(row["seen_in_training"] for row in rows):
        print("! the projection was trained on clips scored here")
