"""Tables of `learn episodes` on a terminal, and what the other tables share with them."""

from collections.abc import Iterator, Mapping, Sequence
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
        if len({row["support"] for row in of_run}) > 1 and any(
            "→" in mode_shown(row) for row in of_run
        ):
            _matrices(of_run)
        else:
            _accuracies(of_run, most, list(dict.fromkeys(row["shots"] for row in rows)))
    caveat_lines(rows)
    _weights_table(rows)
    _guard_table(rows)
    _parts_table(rows)
    if "inflation" in result:
        _leakage_table(result["inflation"])
    if "missing" in result:
        _missing_table(result["missing"])
    if "augmented" in result:
        _augmented_table(result["augmented"])


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
    if shared := drawn.get("groups_in_both"):
        wrapped(
            f"{shared} groups have one name in both collections: if they are one source, its clips "
            "are on both sides, and numbers too high; leave them out with --query-manifest"
        )
    if drawn.get("until_ci_reached") is False:
        wrapped(
            f"stopped at {drawn['episodes']} episodes: half of some interval is still wider than "
            f"{100 * drawn['until_ci']:g} points"
        )


def _left_out_lines(drawn: Mapping[str, Any]) -> None:
    """Print the clips and classes that were left out."""
    if dropped := [f"{n} with {reason}" for reason, n in drawn["dropped"].items() if n]:
        write_line(f"left out: {', '.join(dropped)}")
    scarce_text_line(drawn)
    for draw in drawn["draws"]:
        for reason, names in never_drawn(draw):
            listed = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
            classes = f"{len(names)} class{'es' * (len(names) != 1)}"
            wrapped(f"{draw['shots']}-shot without {classes} {reason}: {listed}")


def scarce_text_line(drawn: Mapping[str, Any]) -> None:
    """Say that text was not looked at, and how it would be."""
    if scarce := drawn.get("scarce_text"):
        wrapped(
            f"text not looked at: {scarce['clips']} of {scarce['of']} clips have any, and all "
            "modes are about the same clips; name modes that look at it: --support t,avt"
        )


def _accuracies(rows: Sequence[Mapping[str, Any]], most: str, shots: Sequence[int]) -> None:
    """Print one projection's results: modes and heads down, shots across."""
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        key = mode_shown(row), row.get("guard", ""), row.get("fusion", ""), row["head"]
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
    mark = "*" * bool(row["untrained"]) + "!" * bool(row["seen_in_training"])
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
    features = list(dict.fromkeys(f for row in weighed for f in row["weights"]))
    modes = len({mode_shown(row) for row in weighed}) > 1
    fused = any(row["fusion"] for row in weighed)
    lines = [
        {"shots": row["shots"]}
        | ({"mode": mode_shown(row)} if modes else {})
        | ({"fusion": row["fusion"]} if fused else {})
        | ({} if _one_long_head(weighed) else {"head": row["head"]})
        | ({"projection": row["projection"]} if several else {})
        | ({"guard": row["guard"]} if both else {})
        | {
            feature_name(f): weight_text(row["weights"][f]) if f in row["weights"] else ""
            for f in features
        }
        for row in weighed
    ]
    table(lines, list(lines[0]))
    for which, origin in _origins(weighed, "prior"):
        wrapped(f"weights{which} begin at: {origin}", "  ")


def _origins(rows: Sequence[Mapping[str, Any]], of: str) -> Iterator[tuple[str, str]]:
    """Where weights began, each origin once, with the modes and shots that it is of."""
    modes, shots = {mode_shown(row) for row in rows}, {row["shots"] for row in rows}
    for origin in dict.fromkeys(row[of]["from"] for row in rows):
        at = [row for row in rows if row[of]["from"] == origin]
        named = list(dict.fromkeys(mode_shown(row) for row in at))
        numbers = sorted({row["shots"] for row in at})
        which = f" in {', '.join(named)}" if len(named) < len(modes) else ""
        which += (
            f" of {', '.join(f'{k}-shot' for k in numbers)}" if len(numbers) < len(shots) else ""
        )
        yield which, origin


def _guard_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print how much projections count beside stored vectors, and why some stand alone."""
    projected = [row for row in rows if row.get("projected")]
    guarded = [row for row in projected if row["guard"] == "on"]
    if guarded:
        write_line("\nguard: how much the projection counts beside stored vectors, of 1")
        several = len({row["projection"] for row in guarded}) > 1
        lines: dict[tuple[str, ...], dict[str, str]] = {}
        for row in guarded:
            key = (mode_shown(row), row["fusion"], row["head"], row["projection"])
            line = lines.setdefault(key, {})
            line[f"{row['shots']}-shot"] = weight_text(row["projected"])
        names = ["mode", "fusion", "head", "projection"]
        shown = [dict(zip(names, key, strict=True)) | line for key, line in lines.items()]
        one_head = len({row["head"] for row in guarded}) == 1
        left_out = {"head"} if one_head else set[str]()
        left_out |= set() if several else {"projection"}
        left_out |= set() if any(line["fusion"] for line in shown) else {"fusion"}
        table(shown, [n for n in shown[0] if n not in left_out])
        for which, origin in _origins(guarded, "projected"):
            wrapped(f"what counts{which} begins at: {origin}", "  ")
    bare = [row for row in projected if row["guard"] == "off"]
    for reason in dict.fromkeys(row["projected"]["from"] for row in bare):
        if reason != NOT_ASKED:
            of = dict.fromkeys(
                mode_shown(row) for row in bare if row["projected"]["from"] == reason
            )
            wrapped(f"not guarded ({', '.join(of)}): {reason}")


def _parts_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the parts of a metric, where it has any."""
    with_parts = [row for row in rows if row["parts"]]
    if not with_parts:
        return
    write_line(f"\n{with_parts[0]['metric'].replace('_', ' ')}, of")
    names = [key for key, value in with_parts[0]["parts"].items() if isinstance(value, float)]
    lines = [
        {"mode": mode_shown(row), "shots": row["shots"], "head": row["head"]}
        | {SHORT.get(n, n.replace("_", " ")): metric_shown(n, row["parts"][n]) for n in names}
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
        mode = " ".join(filter(None, (mode_shown(row), row.get("fusion", ""))))
        line = lines.setdefault((mode, row["head"], row["projection"]), {})
        margin = "" if row["ci95"] is None else f" ± {100 * row['ci95']:.1f}"
        line[f"{row['shots']}-shot"] = f"{100 * row['inflation']:+.1f}{margin}"
    names = ["mode", "head", "projection"]
    shown = [dict(zip(names, key, strict=True)) | line for key, line in lines.items()]
    table(shown, [*names[: 2 + several], *(f"{k}-shot" for k in shots)])


def _augmented_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print what features made for the support give, each against none on the same episodes."""
    write_line("\nwith features made for the support: paired with none")
    several = len({row["projection"] for row in rows}) > 1
    names = ["mode", "head", "projection", "augment"]
    shown = [
        {
            "mode": mode_shown(row), **{name: row[name] for name in names[1:]},
            "shots": row["shots"], "none": f"{100 * row['plain']:.1f}",
            "with": f"{100 * row['accuracy']:.1f}",
            "points": f"{100 * row['gain']:+.1f} ± {100 * (row['ci95'] or 0):.1f}",
        }
        for row in rows
    ]  # fmt: skip
    kept = [name for name in names if several or name != "projection"]
    table(shown, [*kept, "shots", "none", "with", "points"])
    if any(row["projection"] != "none" for row in rows):
        write_line("a projection's vectors alone, without stored ones beside them")


def mode_shown(row: Mapping[str, Any]) -> str:
    support, query = row["support"], row["query"]
    return str(support if support == query else f"{support}→{query}")


def metric_shown(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if name in NOT_SHARES else f"{100 * value:.1f}"


def caveat_lines(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the meaning of the marks behind numbers."""
    if any(row["untrained"] for row in rows):
        write_line(
            "* weights are UNTRAINED (random): this shows the plumbing, not an encoder's worth"
        )
    if any(row["seen_in_training"] for row in rows):
        write_line("! the projection, or an encoder, was trained on clips scored here")
