"""Results of the `store` commands, printed for people."""

from collections.abc import Mapping
from typing import Any

from store.console import wrapped
from store.sizes import size


def info_table(facts: Mapping[str, Any]) -> None:
    """Print what is in a store."""
    kept = facts["manifests"]
    print(facts["path"])
    print(f"store {facts['store_id']}")
    wrapped(f"{kept['clips']} clips in the manifests, columns {', '.join(kept['columns'])}")
    for feature in facts["features"]:
        counts = ", ".join(f"{n} {kind}" for kind, n in feature["status"].items())
        mark = "  UNTRAINED" if feature["notes"].get("untrained") else ""
        print(f"\n{feature['name']}{mark}")
        print(f"    {feature['modality']}, dimension {feature['dim']}, {feature['dtype']}")
        print(f"    {feature['clips']} clips: {counts}")
        print(f"    {feature['rows']} rows, {size(feature['bytes'])} in {feature['parts']} parts")
        writers = (f"{key} {'/'.join(seen)}" for key, seen in feature["written_by"].items())
        wrapped(f"written by {', '.join(writers)}", indent="    ")


def verify_lines(report: Mapping[str, Any]) -> None:
    """Print the problems found and how much was checked."""
    for problem in report["problems"]:
        where = "/".join(filter(None, (problem["feature"], problem["unit"], problem["file"])))
        print(f"{problem['kind']}: {where}: {problem['message']}")
    garbage = report["garbage_parts"] + report["garbage_staging"]
    print(
        f"{len(report['problems'])} problems; {report['units']} units of {report['features']} "
        f"features, {report['files']} files, {size(report['bytes'])}"
    )
    if garbage:
        print(f"{garbage} leftovers of interrupted writes, which no reader sees")


def gc_lines(result: Mapping[str, Any]) -> None:
    """Print what was or would be removed."""
    for path in (*result["parts"], *result["staging"]):
        print(path)
    verb = "would go" if result["dry_run"] else "gone"
    count = len(result["parts"]) + len(result["staging"])
    print(f"{count} leftovers {verb}, {size(result['bytes'])}; {result['too_young']} are too young")


def repair_lines(result: Mapping[str, Any]) -> None:
    """Print what was set aside."""
    for unit in result["units"]:
        clips = "?" if unit["clips"] is None else len(unit["clips"])
        print(
            f"{unit['feature']}/{unit['unit']}: {clips} clips are to be made again; "
            f"{unit['reason']}"
        )
    for path in result["files"]:
        print(f"set aside: {path}")
    for problem in result["left"]:
        print(f"left alone: {problem['kind']}: {problem['message']}")
    again = "; run `extract run` again to make them" if result["units"] else ""
    print(f"{len(result['units'])} units set aside{again}")


def doctor_lines(result: Mapping[str, Any]) -> None:
    """Print what a store's storage can and cannot do."""
    for check in result["checks"]:
        print(f"{'ok' if check['ok'] else 'NO':<3} {check['name']}: {check['message']}")
    verdict = "may" if result["many_writers"] else "must not"
    print(f"many writers {verdict} share {result['path']}")
