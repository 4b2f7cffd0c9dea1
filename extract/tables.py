"""Results of the `extract` commands, printed for people."""

from collections.abc import Mapping
from typing import Any

from store.console import offered_by, wrapped, write_line
from store.sizes import size


def run_table(result: Mapping[str, Any]) -> None:
    """Print what became of the clips, and what bounded the run."""
    for feature in result["features"]:
        counts = ", ".join(f"{n} {kind}" for kind, n in feature["counts"].items())
        others = f"; {n} another run committed first" if (n := feature["by_others"]) else ""
        write_line(f"{feature['feature']}  {counts}; {feature['new']} new{others}")
    evidence = result["evidence"]
    write_line(
        f"{result['clips']} clips in {result['seconds']:.1f} s, {result['clips_per_second']:.2f}/s"
    )
    if result["clips"]:
        fill = ", ".join(f"{share:.0%}" for share in evidence["batch_fill"].values())
        write_line(
            f"bounded by: {result['bottleneck']} (encoders {evidence['encoder_seconds']:.1f} s, "
            f"waiting for decode {evidence['waiting_for_decode_seconds']:.1f} s,"
        )
        wrapped(
            f"for the disk {evidence['waiting_for_disk_seconds']:.1f} s; decode "
            f"{evidence['decode_cpu_seconds_per_clip']:.3f} CPU-s a clip on {evidence['workers']} "
            f"processes; batch fill {fill})",
            indent="    ",
        )
    _sandbox_line(result["sandbox"])
    for finding in result["findings"]:
        write_line(f"finding: {finding}")
    for note in result["notes"]:
        wrapped(f"note: {note}", indent="    ")


def text_lines(result: Mapping[str, Any]) -> None:
    """Print what became of a table of text."""
    counts = ", ".join(f"{n} {kind}" for kind, n in result["counts"].items())
    write_line(f"{result['feature']}  {counts}; {result['new']} new")
    if result["not_named"]:
        wrapped(
            f"{result['not_named']} clips of the manifest are not in the table: learners leave "
            "them out where they look at text"
        )


def manifest_lines(facts: Mapping[str, Any]) -> None:
    """Print what a manifest of a dataset holds, and what it lacks."""
    kinds = ", ".join(f"{count} of {name}" for name, count in facts["distinct"].items())
    write_line(facts["manifest"])
    wrapped(f"{facts['clips']} clips; different values: {kinds}")
    for kind, problem in (
        ("missing", "clips have no file"),
        ("ambiguous", "clips may be several files"),
        ("unread", "files are of a kind that is not decoded, and left out"),
        ("unnamed", "files have names that are not plain UTF-8, and are left out"),
    ):
        if facts[kind]:
            wrapped(f"{facts[kind]} {problem}: {', '.join(facts[f'{kind}_examples'])}, …")
    if facts["files_not_listed"]:
        write_line(f"{facts['files_not_listed']} files are in no list")


def plan_table(result: Mapping[str, Any]) -> None:
    """Print what a run would take."""
    write_line(f"{result['pending']} of {result['clips']} clips are left to do")
    if not result["sampled"]:
        return
    for feature in result["features"]:
        write_line(
            f"{feature['feature']}  {feature['pending']} clips, about {feature['rows']} rows "
            f"({feature['rows_per_clip']:g} a clip), {size(feature['bytes'])}"
        )
    low, high = _duration(result["hours_low"]), _duration(result["hours_high"])
    write_line(
        f"about {_duration(result['hours'])} ({low} to {high}), {result['clips_per_second']:.2f}/s"
    )
    wrapped(
        f"bounded by: {result['bottleneck']} (decode {result['decode_cpu_seconds_per_clip']:.3f} "
        f"CPU-s a clip on {result['workers']} processes, encoders "
        f"{result['encoder_seconds_per_clip']:.3f} s a clip on {result['device']})"
    )
    free = result["free_bytes"]
    room = "" if free is None else f" of {size(free)} that are free"
    write_line(f"{size(result['bytes'])} on disk{room}")
    write_line(f"of {result['sampled']} clips tried: {_counts(result['statuses'])}")
    if result["decoders"]:
        wrapped(f"frames decoded by: {_counts(result['decoders'])}")
    _sandbox_line(result["sandbox"])
    for kind, example in result["examples"].items():
        wrapped(f"{kind}: {example}", indent="    ")
    for finding in result["findings"]:
        wrapped(f"finding: {finding}")
    for note in result["notes"]:
        wrapped(f"note: {note}", indent="    ")


def status_table(result: Mapping[str, Any]) -> None:
    """Print which clips of a manifest are committed."""
    write_line(f"{result['clips']} clips")
    for feature in result["features"]:
        done = "all" if not feature["pending"] else f"{feature['committed']}"
        write_line(f"{feature['feature']}  {done} committed, {feature['pending']} pending")
        if feature["counts"]:
            wrapped(_counts(feature["counts"]), indent="    ")
    for finding in result["findings"]:
        wrapped(f"finding: {finding}")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def _sandbox_line(confinement: Mapping[str, Any] | None) -> None:
    """Print how the decode processes were confined, if there were any."""
    if confinement is None:
        return
    if not confinement["layers"]:
        write_line("sandbox of the decode processes: off")
        return
    missing = "".join(f"; no {layer}: {why}" for layer, why in confinement["missing"].items())
    wrapped(f"sandbox of the decode processes: {', '.join(confinement['layers'])}{missing}")


def _duration(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{60 * hours:.0f} min" if hours >= 1 / 60 else f"{3600 * hours:.0f} s"


def encoder_lines(rows: list[dict[str, Any]]) -> None:
    """Print the encoders, their variants and licences."""
    for row in rows:
        modality = row["modality"] or "visual or audio"
        wrapped(f"{row['name']}{offered_by(row)} ({modality}): {row['summary']}")
        dims = ", ".join(f"{variant} {dim}".strip() for variant, dim in row["dims"].items())
        wrapped(f"dimension: {dims or 'the model says it'}", indent="    ")
        settings = ", ".join(
            f"{key}={value}" + (" (main)" if key == row["main"] else "")
            for key, value in row["settings"].items()
        )
        wrapped(f"settings: {settings}", indent="    ")
        wrapped(f"precisions: {', '.join(row['precisions'])}", indent="    ")
        wrapped(f"weights: {row['licence']}", indent="    ")


def weights_table(rows: list[dict[str, Any]]) -> None:
    """Print the published weights."""
    for row in rows:
        mark = "*" if row["present"] else " "
        download_size = size(row["size_bytes"]) if row["size_bytes"] else ""
        accuracy = (row["accuracy"] or "").partition(",")[0]
        told = "" if row["verified"] else "unverified"
        line = f"{mark} {row['name']:<37} {accuracy:<21} {row['licence'] or '':<12} {told:<10}"
        write_line(f"{line} {download_size}".rstrip())
    wrapped(
        "\n* is here; unverified: no digest of the publisher is known, so `extract weights fetch` "
        "wants --sha256 or --accept-unverified. Encoders take them by name: "
        "simclrv2:variant=r50_1x_sk1,weights=supervised, and `pretrained` without a word. SPECs, "
        "sources, attributions and how accuracy was measured: --json"
    )


def fetched_lines(result: Mapping[str, Any]) -> None:
    """Print what was fetched."""
    for path, digest in result["files"].items():
        write_line(f"{path}\n    sha256 {digest}")
    write_line(result["next_step"])
    if result["spec"]:
        write_line(f"or, by name: {result['spec']}")
