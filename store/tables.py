"""What the `store` commands found, for people."""

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
    for one in facts["features"]:
        counts = ", ".join(f"{n} {kind}" for kind, n in one["status"].items())
        stamp = "  UNTRAINED" if one["notes"].get("untrained") else ""
        print(f"\n{one['name']}{stamp}")
        print(f"    {one['modality']}, dimension {one['dim']}, {one['dtype']}")
        print(f"    {one['clips']} clips: {counts}")
        print(f"    {one['rows']} rows, {size(one['bytes'])} in {one['parts']} parts")
        writers = (f"{key} {'/'.join(seen)}" for key, seen in one["written_by"].items())
        wrapped(f"written by {', '.join(writers)}", indent="    ")


def verify_lines(report: Mapping[str, Any]) -> None:
    """Print the problems found and how much was checked."""
    for one in report["problems"]:
        where = "/".join(filter(None, (one["feature"], one["unit"], one["file"])))
        print(f"{one['kind']}: {where}: {one['message']}")
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
    for one in result["units"]:
        clips = "?" if one["clips"] is None else len(one["clips"])
        print(
            f"{one['feature']}/{one['unit']}: {clips} clips are to be made again; {one['reason']}"
        )
    for path in result["files"]:
        print(f"set aside: {path}")
    for one in result["left"]:
        print(f"left alone: {one['kind']}: {one['message']}")
    again = "; run `extract run` again to make them" if result["units"] else ""
    print(f"{len(result['units'])} units set aside{again}")


def doctor_lines(result: Mapping[str, Any]) -> None:
    """Print what a store's place can and cannot do."""
    for one in result["checks"]:
        print(f"{'ok' if one['ok'] else 'NO':<3} {one['name']}: {one['message']}")
    verdict = "may" if result["many_writers"] else "must not"
    print(f"many writers {verdict} share {result['path']}")
