"""Tables of results of the `learn` commands, for people."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from learn.evaluation.wording import (
    CLASSIC,
    NOT_ASKED,
    NOT_SHARES,
    SHORT,
    TASK_SETTINGS,
    feature_name,
    never_drawn,
    weight_text,
)
from store.console import table, wrapped, write_line

LONG = 24  # letters of a head's SPEC
STRANGE = 0.95  # the novelty above which a clip is called stranger than what is known
CLIPS_FOR_STRANGE = 20  # clips left out, for a novelty that can be above that


def episodes_table(result: Mapping[str, Any]) -> None:
    """Print accuracies in percent with 95 % intervals: a row per mode, projection and head."""
    drawn, rows = result["episodes"], result["results"]
    _question_lines(drawn)
    _left_out_lines(drawn)
    most = "≤" if "max_shots" in drawn else ""  # as many as each episode came with
    projections = list(dict.fromkeys(row["projection"] for row in rows))
    for projection in projections:
        if projections != ["none"]:
            write_line(f"\nprojection: {projection}")
        of_run = [row for row in rows if row["projection"] == projection]
        if len({row["support"] for row in of_run}) > 1 and any("→" in _mode(row) for row in of_run):
            _matrices(of_run)
        else:
            _accuracies(of_run, most, list(dict.fromkeys(row["shots"] for row in rows)))
    _caveats(rows)
    _weights_table(rows)
    _guard_table(rows)
    _parts_table(rows)
    if "inflation" in result:
        _leakage_table(result["inflation"])
    if "missing" in result:
        _missing_table(result["missing"])


def _question_lines(drawn: Mapping[str, Any]) -> None:
    """Print the task and settings of the episodes, and the clips they were drawn from."""
    apart = {
        "within": f"{drawn['group']} kept apart",
        "strict": f"{drawn['group']} kept apart across classes",
        "mixed": "groups not separated",
    }[drawn["groups"]]
    asked = f"{drawn['ways']}-way, {drawn['queries']} queries a class"
    if drawn["task"] != CLASSIC:
        settings = [f"{key}={drawn[key]:g}" for key in TASK_SETTINGS if key in drawn]
        asked = f"{drawn['task']} ({', '.join(settings)})"
        if "measure" in drawn:
            asked += f", {drawn['measure'].replace('_', ' ')}"
    wrapped(
        f"{asked}, {drawn['episodes']} episodes; "
        f"{drawn['clips']} clips of {drawn['classes']} classes, split {drawn['split']}, {apart}"
    )
    if drawn["group"] is None:
        wrapped(
            "no groups are known: copies of a clip may be in support and query, and numbers too "
            f"high; find them: learn groups {drawn['store']} -o groups.csv, then --group-file"
        )
    if "query_store" in drawn:
        where = drawn["query_manifest"] or drawn["query_store"]
        wrapped(f"queries from {where}, split {drawn['query_split']}; shots from the others")
    if drawn.get("until_ci_reached") is False:
        wrapped(
            f"stopped at {drawn['episodes']} episodes: half of some interval is still wider than "
            f"{100 * drawn['until_ci']:g} points"
        )


def _left_out_lines(drawn: Mapping[str, Any]) -> None:
    """Print the clips and classes that were left out."""
    if dropped := [f"{n} with {reason}" for reason, n in drawn["dropped"].items() if n]:
        write_line(f"left out: {', '.join(dropped)}")
    for draw in drawn["draws"]:
        for reason, names in never_drawn(draw):
            listed = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
            classes = f"{len(names)} class{'es' * (len(names) != 1)}"
            wrapped(f"{draw['shots']}-shot without {classes} {reason}: {listed}")


def _accuracies(rows: Sequence[Mapping[str, Any]], most: str, shots: Sequence[int]) -> None:
    """Print one projection's results: modes and heads down, shots across."""
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        key = _mode(row), row.get("guard", ""), row.get("fusion", ""), row["head"]
        line = lines.setdefault(key, {})
        line[f"{most}{row['shots']}-shot"] = _percent(row)
    names = ["mode", "guard", "fusion", "head"]
    shown = [dict(zip(names, key, strict=True)) | line for key, line in lines.items()]
    said = [name for name in ("guard", "fusion") if any(line[name] for line in shown)]
    columns = ["mode", *said, "head"]
    if _one_long_head(rows):
        wrapped(f"head: {rows[0]['head']}")
        columns.remove("head")
    table(shown, [*columns, *(f"{most}{k}-shot" for k in shots)])


def _one_long_head(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all rows have one head whose SPEC would make a column too wide."""
    return len({row["head"] for row in rows}) == 1 and len(rows[0]["head"]) > LONG


def _matrices(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print accuracies, support down and query across, for each head and number of shots."""
    for shots, head in dict.fromkeys((row["shots"], row["head"]) for row in rows):
        chosen = [row for row in rows if (row["shots"], row["head"]) == (shots, head)]
        queries = list(dict.fromkeys(row["query"] for row in chosen))
        lines = {row["support"]: dict.fromkeys(queries, "") for row in chosen}
        for row in chosen:
            lines[row["support"]][row["query"]] = _percent(row)
        write_line(f"\n{shots}-shot, {head}: support down, query across")
        table([{"": mode} | line for mode, line in lines.items()], ["", *queries])


def _percent(row: Mapping[str, Any]) -> str:
    """An accuracy with its interval and the mark of its caveat."""
    mark = "*" if row["untrained"] else "!" if row["seen_in_training"] else ""
    margin = "" if row["ci95"] is None else f" ± {100 * row['ci95']:.1f}"
    return f"{100 * row['accuracy']:.1f}{margin}{mark}"


def _weights_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print how much each sense counted, and what that started from."""
    weighed = [row for row in rows if row.get("weights")]
    if not weighed:
        return
    several = len({row["projection"] for row in rows}) > 1
    both = len({row.get("guard", "") for row in weighed} - {""}) > 1
    write_line("\nwhich sense decided: mean weight ± its deviation over episodes")
    lines = [
        {"shots": row["shots"], "fusion": row["fusion"]}
        | ({} if _one_long_head(weighed) else {"head": row["head"]})
        | ({"projection": row["projection"]} if several else {})
        | ({"guard": row["guard"]} if both else {})
        | {feature_name(f): weight_text(w) for f, w in row["weights"].items()}
        for row in weighed
    ]
    table(lines, list(lines[0]))
    for origin in dict.fromkeys(row["prior"]["from"] for row in weighed):
        wrapped(f"weights begin at: {origin}", "  ")


def _guard_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print how much projections count beside stored vectors, and why some stand alone."""
    projected = [row for row in rows if row.get("projected")]
    guarded = [row for row in projected if row["guard"] == "on"]
    if guarded:
        write_line("\nguard: how much the projection counts beside stored vectors, of 1")
        several = len({row["projection"] for row in guarded}) > 1
        lines: dict[tuple[str, ...], dict[str, str]] = {}
        for row in guarded:
            key = (_mode(row), row["fusion"], row["head"], row["projection"])
            line = lines.setdefault(key, {})
            line[f"{row['shots']}-shot"] = weight_text(row["projected"])
        names = ["mode", "fusion", "head", "projection"]
        shown = [dict(zip(names, key, strict=True)) | line for key, line in lines.items()]
        one_head = len({row["head"] for row in guarded}) == 1
        left_out = {"head"} if one_head else set[str]()
        left_out |= set() if several else {"projection"}
        left_out |= set() if any(line["fusion"] for line in shown) else {"fusion"}
        table(shown, [n for n in shown[0] if n not in left_out])
        for origin in dict.fromkeys(row["projected"]["from"] for row in guarded):
            wrapped(f"begins at: {origin}", "  ")
    bare = [row for row in projected if row["guard"] == "off"]
    for reason in dict.fromkeys(row["projected"]["from"] for row in bare):
        if reason != NOT_ASKED:
            of = dict.fromkeys(_mode(row) for row in bare if row["projected"]["from"] == reason)
            wrapped(f"not guarded ({', '.join(of)}): {reason}")


def _parts_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the parts of a metric, where it has any."""
    with_parts = [row for row in rows if row["parts"]]
    if not with_parts:
        return
    write_line(f"\n{with_parts[0]['metric'].replace('_', ' ')}, of")
    names = [key for key, value in with_parts[0]["parts"].items() if isinstance(value, float)]
    lines = [
        {"mode": _mode(row), "shots": row["shots"], "head": row["head"]}
        | {SHORT.get(n, n.replace("_", " ")): _shown(n, row["parts"][n]) for n in names}
        for row in with_parts
    ]
    table(lines, list(lines[0]))
    for chosen_on in dict.fromkeys(row["parts"].get("beta_chosen_on", "") for row in with_parts):
        if chosen_on:
            write_line(f"beta chosen on {chosen_on}")


def _missing_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print accuracy as queries lose a modality, rates across."""
    keys = ("dropped", "shots", "head", "projection")
    rates = list(dict.fromkeys(row["rate"] for row in rows))
    names = {rate: f"{100 * rate:g} %" for rate in rates}
    for kind in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        dropped, shots, head, projection = kind
        of = "" if projection == "none" else f", {projection}"
        write_line()
        wrapped(f"av, {shots}-shot, {head}{of}: queries without {dropped}, in % of the clips")
        chosen = [row for row in rows if tuple(row[key] for key in keys) == kind]
        lines: dict[tuple[str, str], dict[str, str]] = {}
        for row in chosen:
            line = lines.setdefault((row["fusion"], row["fill"]), {})
            line[names[row["rate"]]] = f"{100 * row['accuracy']:.1f}"
        shown = [{"fusion": fusion, "fill": fill} | lines[fusion, fill] for fusion, fill in lines]
        table(shown, ["fusion", "fill", *names.values()])
    if any(row["filled_from"] == "scored" for row in rows):
        write_line("mean and retrieved fills came from the clips scored: no train split is apart")


def _leakage_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the points that each result gains with groups not separated."""
    write_line("\nwith groups not separated: points more, on other episodes of the same classes")
    shots = list(dict.fromkeys(row["shots"] for row in rows))
    several = len({row["projection"] for row in rows}) > 1
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        mode = " ".join(filter(None, (_mode(row), row.get("fusion", ""))))
        line = lines.setdefault((mode, row["head"], row["projection"]), {})
        margin = "" if row["ci95"] is None else f" ± {100 * row['ci95']:.1f}"
        line[f"{row['shots']}-shot"] = f"{100 * row['inflation']:+.1f}{margin}"
    names = ["mode", "head", "projection"]
    shown = [dict(zip(names, key, strict=True)) | line for key, line in lines.items()]
    table(shown, [*names[: 2 + several], *(f"{k}-shot" for k in shots)])


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
            row[_mode(score)] = f"{100 * score['accuracy']:.1f}{margin}"
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
        for fitted in counts["calibration"]:
            wrapped(f"confidence by {fitted['parts']}: {_trust(fitted)}", indent="    ")
            if about_novelty := _novelty_limit(fitted):
                wrapped(f"novelty by {fitted['parts']}: {about_novelty}", indent="    ")
        for parts, weights in counts["weights"].items():
            told = ", ".join(f"{feature_name(f)} {w:.2f}" for f, w in weights.items())
            if "+" in parts:
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
    wrapped(
        f"{result['clip']}, {result['from']}→{result['to']}, the nearest of "
        f"{result['looked_at']} clips; projection: {result['projection']}"
    )
    if result["weights"]:
        told = ", ".join(f"{feature_name(f)} {w:.2f}" for f, w in result["weights"].items())
        wrapped(f"weights: {told} ({result['prior']}); a clip without one is compared by the other")
    rows = [{**row, "similarity": f"{row['similarity']:.4f}"} for row in result["results"]]
    table(rows, ["rank", "similarity", "clip_id"])


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
        parts.insert(0, _mode(key))
    return " ".join(parts)


def _mode(row: Mapping[str, Any]) -> str:
    support, query = row["support"], row["query"]
    return str(support if support == query else f"{support}→{query}")


def evaluation_table(result: Mapping[str, Any], *, per_class: bool = False) -> None:
    """Print the metrics of a protocol, shares in percent, a row per mode and projection."""
    data, rows = result["data"], result["results"]
    wrapped(f"{result['protocol']}, split {data['split']}, {rows[0]['clips']} clips")
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
                "mode": _mode(row)
                + ("*" if row["untrained"] else "!" * bool(row["seen_in_training"]))
            }
            | {"fusion": row.get("fusion", ""), "clips": row["clips"]}
            | {SHORT.get(n, n): _shown(n, row["metrics"].get(n)) for n in names}
            for row in chosen
        ]
        joined = ["fusion"] if any(line["fusion"] for line in lines) else []
        table(lines, ["mode", *joined, "clips", *(SHORT.get(name, name) for name in names)])
        for fact in dict.fromkeys(_facts(row) for row in chosen):
            wrapped(fact, "  ")
        if per_class:
            for row in chosen:
                _class_table(row)
    _caveats(rows)


def _class_table(row: Mapping[str, Any]) -> None:
    """Print every class of a row, best first."""
    if not row["classes"]:
        return
    keys = [key for key in row["classes"][0] if key not in ("name", "clips")]
    ranked_by = "average_precision" if "average_precision" in keys else "recall"
    ranked = sorted(row["classes"], key=lambda c: -c[ranked_by])
    lines = [{**c, **{SHORT.get(k, k): _shown(k, c[k]) for k in keys}} for c in ranked]
    write_line(f"\nmode {_mode(row)}")
    table(lines, ["name", "clips", *(SHORT.get(key, key) for key in keys)])


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if name in NOT_SHARES else f"{100 * value:.1f}"


def _facts(row: Mapping[str, Any]) -> str:
    """The facts that must be known beside a row's numbers."""
    shown = (
        "label", "level", "projection", "support", "query", "clips", "metrics", "classes",
        "untrained", "seen_in_training", "fusion",
    )  # fmt: skip
    facts = {key: value for key, value in row.items() if key not in shown and value not in ([], "")}
    texts = [f"{key.replace('_', ' ')}: {_listed(value)}" for key, value in facts.items()]
    mode = f"{_mode(row)} {row['fusion']}" if row.get("fusion") else _mode(row)
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
        wrapped(f"stamped: {', '.join(result['stamps'])}", "  ")
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


def _caveats(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the meaning of the marks behind numbers."""
    if any(row["untrained"] for row in rows):
        write_line(
            "* weights are UNTRAINED (random): this shows the plumbing, not an encoder's worth"
        )
    if any(row["seen_in_training"] for row in rows):
        write_line("! the projection was trained on clips scored here")


def recipe_lines(rows: Sequence[Mapping[str, str]]) -> None:
    """Print the recipes: each with its command, its time and the number to expect."""
    for row in rows:
        wrapped(f"{row['name']}: {row['summary']}")
        for fact in ("command", "time", "expect"):
            if row[fact]:
                wrapped(f"{fact + ':':<9}{row[fact]}", indent="    ")


def annotation_lines(result: Mapping[str, Any]) -> None:
    """Print what a session of `learn annotate` left."""
    for column, clips in result["labelled"].items():
        write_line(
            f"{column}: {clips} of {result['clips']} clips in {result['classes'][column]} classes, "
            f"{result['none_of_these'][column]} of none of these"
        )
    write_line(f"{result['acts']} acts appended to {result['output']}")
