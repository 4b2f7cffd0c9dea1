"""Tables of `learn evaluate`, `compare` and `sweep`, and lines of `finetune`, `recipes`, `report`
and `try`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from learn.commands.tables import (
    caveat_lines,
    episodes_table,
    metric_shown,
    mode_shown,
    scarce_text_line,
)
from learn.evaluation.wording import SHORT
from store.console import pairs, table, wrapped, write_line


def comparison_table(result: Mapping[str, Any]) -> None:
    """Print differences in points with their intervals and verdicts, a row per pair."""
    rows = result["differences"]
    keys = [k for k in rows[0]["a"] if len({row[s][k] for row in rows for s in "ab"}) > 1]
    wrapped(
        f"{result['episodes']} episodes ({result['sha256'][:12]}); difference in points of "
        f"accuracy with its 95 % interval ({result['ci_method']}), p adjusted by Holm's method; "
        f"same: within ± {100 * result['margin']:g}"
    )
    for shots in dict.fromkeys(row["shots"] for row in rows):
        write_line(f"\n{shots}-shot")
        wrapped(_in_a_sentence([row for row in rows if row["shots"] == shots], keys))
        for reference in dict.fromkeys(json.dumps(row["a"]) for row in rows):
            compared = [
                row for row in rows if row["shots"] == shots and json.dumps(row["a"]) == reference
            ]
            if not compared:
                continue
            first = compared[0]
            wrapped(f"against {_called(first['a'], keys)} ({100 * first['accuracy_a']:.1f} %)")
            table(
                [_compared(row, keys) for row in compared],
                ["result", "%", "points", "p", "verdict"],
            )
    write_line()
    wrapped("It holds for episodes of these clips, and says nothing of other clips or classes.")


def sweep_table(result: Mapping[str, Any]) -> None:
    """Print the validation loss and accuracy in percent by mode, a row per combination."""
    rows = []
    for number, cell in enumerate(result["cells"]):
        done = cell["training"] or {}
        row = {"#": f"{number + 1}{'*' if number == result['best'] else ''}"}
        row |= {key.rpartition(".")[2]: value for key, value in cell["settings"].items()}
        row["val loss"] = _number(done.get("val_loss"))
        for score in cell["scores"]:
            margin = f" ± {100 * score['ci95']:.1f}" if score["ci95"] is not None else ""
            row[mode_shown(score)] = f"{100 * score['accuracy']:.1f}{margin}"
        rows.append(row)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    columns = [c for c in columns if any(row.get(c, "-") != "-" for row in rows)]
    if result["scored_on"]:
        wrapped(
            f"{result['ways']}-way {result['shots']}-shot accuracy on split "
            f"{result['scored_on']}, percent; the same episodes for all"
        )
    else:
        wrapped(f"not scored: {result['not_scored']}")
    table([{c: row.get(c, "-") for c in columns} for row in rows], columns)
    if result["best"] is not None:
        write_line(f"* the best: {result['cells'][result['best']]['run']}")
    for number, cell in enumerate(result["cells"], 1):
        if cell["error"]:
            wrapped(f"{number}: {cell['error']}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _in_a_sentence(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> str:
    """What the differences of one number of shots come to: the best result, and against whom that
    is sure."""
    means = {_called(row[s], keys): row[f"accuracy_{s}"] for row in rows for s in "ab"}
    best = max(means, key=lambda name: means[name])
    against = {"beaten": 0, "the same": 0, "undecided": 0}
    for row in rows:
        names = [_called(row[s], keys) for s in "ab"]
        if best in names:
            sure = row["verdict"] in ("better", "worse")
            same = "the same" if row["verdict"] == "same" else "undecided"
            against["beaten" if sure else same] += 1
    others = ", ".join(f"{count} {word}" for word, count in against.items() if count)
    return f"best: {best}, {100 * means[best]:.1f} %; of those it is held against: {others}"


def _compared(row: Mapping[str, Any], keys: Sequence[str]) -> dict[str, str]:
    margin = "" if row["low"] is None else f" [{100 * row['low']:+.2f}, {100 * row['high']:+.2f}]"
    return {
        "result": _called(row["b"], keys),
        "%": f"{100 * row['accuracy_b']:.1f}",
        "points": f"{100 * row['difference']:+.2f}{margin}",
        "p": "<.001" if row["p_adjusted"] < 0.001 else f"{row['p_adjusted']:.3f}".lstrip("0"),
        "verdict": row["verdict"],
    }


def _called(key: Mapping[str, str], differing: Sequence[str]) -> str:
    """The name of a result: what tells it from the others."""
    parts = [key[k] for k in differing if k not in ("support", "query") and key[k]]
    if {"support", "query"} & set(differing):
        parts.insert(0, mode_shown(key))
    return " ".join(parts)


def evaluation_table(result: Mapping[str, Any], *, per_class: bool = False) -> None:
    """Print the metrics of a protocol, shares in percent, a row per mode and projection."""
    data, rows = result["data"], result["results"]
    wrapped(f"{result['protocol']}, split {data['split']}, {rows[0]['clips']} clips")
    scarce_text_line(data)
    kinds = [(row["label"], row.get("level", ""), row["projection"]) for row in rows]
    for label, level, projection in dict.fromkeys(kinds):
        chosen = [
            row for row, kind in zip(rows, kinds, strict=True) if kind == (label, level, projection)
        ]
        parts = {"label": label, "level": level, "projection": projection}
        facts = [f"{key} {value}" for key, value in parts.items() if value not in ("", "none")]
        write_line("\n" + ", ".join(facts))
        names = list(dict.fromkeys(name for row in chosen for name in row["metrics"]))
        lines = [
            {
                "mode": mode_shown(row)
                + "*" * bool(row["untrained"])
                + "!" * bool(row["seen_in_training"])
            }
            | {"fusion": row.get("fusion", ""), "clips": row["clips"]}
            | {SHORT.get(n, n): metric_shown(n, row["metrics"].get(n)) for n in names}
            for row in chosen
        ]
        joined = ["fusion"] if any(line["fusion"] for line in lines) else []
        table(lines, ["mode", *joined, "clips", *(SHORT.get(name, name) for name in names)])
        for fact in dict.fromkeys(_facts(row) for row in chosen):
            wrapped(fact, "  ")
        if per_class:
            for row in chosen:
                _class_table(row)
    caveat_lines(rows)


def _class_table(row: Mapping[str, Any]) -> None:
    """Print every class of a row, best first."""
    if not row["classes"]:
        return
    keys = [key for key in row["classes"][0] if key not in ("name", "clips")]
    ranked_by = "average_precision" if "average_precision" in keys else "recall"
    ranked = sorted(row["classes"], key=lambda c: -c[ranked_by])
    lines = [{**c, **{SHORT.get(k, k): metric_shown(k, c[k]) for k in keys}} for c in ranked]
    write_line(f"\nmode {mode_shown(row)}")
    table(lines, ["name", "clips", *(SHORT.get(key, key) for key in keys)])


def _facts(row: Mapping[str, Any]) -> str:
    """The facts that must be known beside a row's numbers."""
    shown = (
        "label", "level", "projection", "support", "query", "clips", "metrics", "classes",
        "untrained", "seen_in_training", "fusion",
    )  # fmt: skip
    facts = {key: value for key, value in row.items() if key not in shown and value not in ([], "")}
    texts = [f"{key.replace('_', ' ')}: {_listed(value)}" for key, value in facts.items()]
    mode = f"{mode_shown(row)} {row['fusion']}" if row.get("fusion") else mode_shown(row)
    return f"{mode}  " + ", ".join(texts) if texts else ""


def _listed(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name} {part:.2f}" for name, part in value.items())
    if not isinstance(value, list):
        return f"{value:g}" if isinstance(value, float) else str(value)
    return " ".join(map(str, value[:8])) + (f" … ({len(value)})" if len(value) > 8 else "")


def report_lines(result: Mapping[str, Any]) -> None:
    """Print the page that was written, and the caveats of its numbers."""
    runs = ", ".join(f"{n} of learn {command}" for command, n in result["runs"].items() if n)
    wrapped(
        f"{result['output']}: {result['bytes'] / 1e6:.1f} MB, {result['figures']} figures, "
        f"{result['thumbnails']} pictures; from {runs}"
    )
    if result["files"]:
        wrapped(f"{result['files']} files of figures and tables for a paper", "  ")
    if result["stamps"]:
        wrapped(f"caveats that it begins with: {', '.join(result['stamps'])}", "  ")
    for note in result["notes"]:
        wrapped(note, "  ")


def trial_lines(result: Mapping[str, Any]) -> None:
    """Print what was made of clips: accuracies, the page, and what to do next."""
    for note in result["notes"]:
        wrapped(note)
    if result["report"]:
        write_line()
        episodes_table(result)
        write_line(f"\nreport: {result['report']}")
        wrapped(f"next: learn predict {result['store']} --support CSV -o answers.csv", "  ")
    for finding in result["findings"]:
        wrapped(f"finding: {finding}")


def recipe_lines(rows: Sequence[Mapping[str, str]]) -> None:
    """Print the recipes: each with its command, its time and the number to expect."""
    for row in rows:
        wrapped(f"{row['name']}: {row['summary']}")
        for fact in ("command", "time", "expect"):
            if row[fact]:
                wrapped(f"{fact + ':':<9}{row[fact]}", indent="    ")


def finetuned_lines(result: Mapping[str, Any]) -> None:
    """Print how a training of encoders went, what it did to unseen classes, and what comes next."""
    from learn.finetuning.gains import sentence

    shown = ("run", "recipe", "clips", "classes", "val_clips", "epochs", "steps", "loss", "seconds",
             "frames_per_second")  # fmt: skip
    pairs({key: result[key] for key in shown})
    for kind, count in result["failed"].items():
        write_line(f"left out: {count} clips ({kind})")
    if result["gains"]:
        write_line()
        rows = [
            {
                "mode": row["mode"], "shots": row["shots"], "ways": row["ways"],
                "before": f"{100 * row['before']:.1f}", "after": f"{100 * row['after']:.1f}",
                "difference": f"{100 * row['difference']:+.1f} ± {100 * (row['ci95'] or 0):.1f}",
            }
            for row in result["gains"]
        ]  # fmt: skip
        table(rows, list(rows[0]))
    wrapped(sentence(result["gains"], result["validation"]))
    wanted = " ".join(f"--{modality} {spec}" for modality, spec in result["specs"].items())
    write_line(f"use: extract run CLIPS --store DIR {wanted}")
