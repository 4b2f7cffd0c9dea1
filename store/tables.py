"""Results of the `store` commands, printed for people."""

from collections.abc import Mapping
from typing import Any

from store.console import pairs, wrapped, write_line
from store.sizes import size


def info_table(facts: Mapping[str, Any]) -> None:
    """Print what is in a store."""
    kept = facts["manifests"]
    write_line(facts["path"])
    write_line(f"store {facts['store_id']}")
    wrapped(f"{kept['clips']} clips in the manifests, columns {', '.join(kept['columns'])}")
    for feature in facts["features"]:
        counts = ", ".join(f"{n} {kind}" for kind, n in feature["status"].items())
        mark = "  UNTRAINED" if feature["notes"].get("untrained") else ""
        write_line(f"\n{feature['name']}{mark}")
        write_line(f"    {feature['modality']}, dimension {feature['dim']}, {feature['dtype']}")
        write_line(f"    {feature['clips']} clips: {counts}")
        write_line(
            f"    {feature['rows']} rows, {size(feature['bytes'])} in {feature['parts']} parts"
        )
        writers = (f"{key} {'/'.join(seen)}" for key, seen in feature["written_by"].items())
        wrapped(f"written by {', '.join(writers)}", indent="    ")


def verify_lines(report: Mapping[str, Any]) -> None:
    """Print the problems found and how much was checked."""
    for problem in report["problems"]:
        where = "/".join(filter(None, (problem["feature"], problem["unit"], problem["file"])))
        write_line(f"{problem['kind']}: {where}: {problem['message']}")
    garbage = report["garbage_parts"] + report["garbage_staging"]
    write_line(
        f"{len(report['problems'])} problems; {report['units']} units of {report['features']} "
        f"features, {report['files']} files, {size(report['bytes'])}"
    )
    if garbage:
        write_line(f"{garbage} leftovers of interrupted writes, which no reader sees")


def gc_lines(result: Mapping[str, Any]) -> None:
    """Print what was or would be removed."""
    for path in (*result["parts"], *result["staging"]):
        write_line(path)
    verb = "would go" if result["dry_run"] else "gone"
    count = len(result["parts"]) + len(result["staging"])
    write_line(
        f"{count} leftovers {verb}, {size(result['bytes'])}; {result['too_young']} are too young"
    )


def repair_lines(result: Mapping[str, Any]) -> None:
    """Print what was set aside."""
    for unit in result["units"]:
        clips = "?" if unit["clips"] is None else len(unit["clips"])
        write_line(
            f"{unit['feature']}/{unit['unit']}: {clips} clips are to be made again; "
            f"{unit['reason']}"
        )
    for path in result["files"]:
        write_line(f"set aside: {path}")
    for problem in result["left"]:
        write_line(f"left alone: {problem['kind']}: {problem['message']}")
    again = "; run `extract run` again to make them" if result["units"] else ""
    write_line(f"{len(result['units'])} units set aside{again}")


def doctor_lines(result: Mapping[str, Any]) -> None:
    """Print what a store's storage can and cannot do."""
    for check in result["checks"]:
        write_line(f"{'ok' if check['ok'] else 'NO':<3} {check['name']}: {check['message']}")
    verdict = "may" if result["many_writers"] else "must not"
    write_line(f"many writers {verdict} share {result['path']}")


def import_lines(result: Mapping[str, Any]) -> None:
    """Print what was imported, what was not, and what may be missed."""
    pairs({key: value for key, value in result.items() if key not in ("left_out", "notes", "bent")})
    if result["left_out"]:
        write_line(f"left out: {', '.join(result['left_out'])}")
    for line in result["notes"]:
        write_line(f"note: {line}")
