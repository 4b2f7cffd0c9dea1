"""What the `extract` commands found, for people."""

from collections.abc import Mapping
from typing import Any

from store.text import size, wrapped


def run_table(result: Mapping[str, Any]) -> None:
    """What became of the clips, and what bounded the run."""
    for one in result["features"]:
        counts = ", ".join(f"{n} {kind}" for kind, n in one["counts"].items())
        print(f"{one['feature']}  {counts}; {one['new']} new")
    evidence = result["evidence"]
    print(
        f"{result['clips']} clips in {result['seconds']:.1f} s, {result['clips_per_second']:.2f}/s"
    )
    if result["clips"]:
        fill = ", ".join(f"{share:.0%}" for share in evidence["batch_fill"].values())
        print(
            f"bounded by: {result['bottleneck']} (encoders {evidence['encoder_seconds']:.1f} s, "
            f"waiting for decode {evidence['waiting_for_decode_seconds']:.1f} s,\n"
            f"    for the disk {evidence['waiting_for_disk_seconds']:.1f} s; decode "
            f"{evidence['decode_cpu_seconds_per_clip']:.3f} CPU-s a clip on {evidence['workers']} "
            f"processes; batch fill {fill})"
        )
    for finding in result["findings"]:
        print(f"finding: {finding}")


def encoder_lines(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        wrapped(f"{row['name']} ({row['modality']}): {row['summary']}")
        dims = ", ".join(f"{variant} {dim}".strip() for variant, dim in row["dims"].items())
        wrapped(f"numbers a row: {dims}", indent="    ")
        settings = ", ".join(f"{key}={value}" for key, value in row["settings"].items())
        wrapped(f"settings: {settings}", indent="    ")
        wrapped(f"precisions: {', '.join(row['precisions'])}", indent="    ")
        wrapped(f"weights: {row['licence']}", indent="    ")


def weights_table(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        mark = "*" if row["present"] else " "
        much = size(row["size_bytes"]) if row["size_bytes"] else ""
        accuracy = (row["accuracy"] or "").partition(",")[0]
        line = f"{mark} {row['name']:<37} {accuracy:<21} {row['licence'] or '':<10} {much}"
        print(line.rstrip())
    print("\n* is here; sources, attributions and how accuracy was measured: --json")


def fetched_lines(result: Mapping[str, Any]) -> None:
    for path, digest in result["files"].items():
        print(f"{path}\n    sha256 {digest}")
    print(result["next_step"])
