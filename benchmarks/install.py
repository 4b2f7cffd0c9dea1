"""What an installation costs: size, time, start-up, memory (`make footprint`; needs no package).

    python benchmarks/install.py [--cpu] [--python python3.12]     # installs anew, in a directory
    python benchmarks/install.py --of .venv                        # looks at one that is there

Sizes are those of files (a hard link counts once), in 10^9 bytes. Start-up is the least of five
whole processes, memory the largest resident set of such a process, never less than that of
this script (some 26 MB). The time of an installation depends on the line and on what pip has
kept.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
LARGEST = 12
STARTS = {
    "python, nothing imported": ["-c", "pass"],
    "extract --help": [
        "-c",
        "import sys, cli; sys.argv = ['extract', '--help']; cli.extract_main()",
    ],
    "store --help": ["-c", "import sys, cli; sys.argv = ['store', '--help']; cli.store_main()"],
    "learn --help": ["-c", "import sys, cli; sys.argv = ['learn', '--help']; cli.learn_main()"],
    "import numpy": ["-c", "import numpy"],
    "import torch": ["-c", "import torch"],
    "import torch, torchaudio": ["-c", "import torch, torchaudio"],
    "import av": ["-c", "import av"],
    "import zarr": ["-c", "import zarr"],
    "import faiss": ["-c", "import faiss"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what an installation costs.")
    parser.add_argument("--of", type=Path, help="an environment that is there already")
    parser.add_argument("--cpu", action="store_true", help="without the CUDA libraries")
    parser.add_argument("--python", default=sys.executable, help="the interpreter to install for")
    parser.add_argument("--no-cache", action="store_true", help="download everything anew")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    if options.of is not None:
        figures = measure(options.of.absolute())
    else:
        with tempfile.TemporaryDirectory(prefix="microshot-install-") as folder:
            environment = Path(folder) / "venv"
            seconds = install(
                environment, options.python, cpu=options.cpu, cache=not options.no_cache
            )
            figures = {"seconds": round(seconds, 1), "cache": not options.no_cache}
            figures |= measure(environment)
    print(json.dumps(figures, indent=1) if options.json else table(figures))


def install(environment: Path, python: str, *, cpu: bool, cache: bool) -> float:
    """Seconds to make an environment as `make` does."""
    command = ["make", "--no-print-directory", f"VENV={environment}", f"PYTHON={python}"]
    command += ["CPU=1"] if cpu else []
    variables = os.environ | ({} if cache else {"PIP_NO_CACHE_DIR": "1"})
    begun = time.perf_counter()
    subprocess.run(
        [*command, f"{environment}/.ready"], cwd=ROOT, env=variables, check=True, stdout=2
    )
    return time.perf_counter() - begun


def measure(environment: Path) -> dict[str, object]:
    """All figures of an environment."""
    python = environment / "bin" / "python"
    version = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout
    return {
        "python": version.split()[1],
        "gigabytes": round(size(environment) / 1e9, 3),
        "largest": largest(environment),
        "starts": {name: start(python, arguments) for name, arguments in STARTS.items()},
    }


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    seen, total = set[tuple[int, int]](), 0
    for parent, _, names in os.walk(folder):
        for name in names:
            status = Path(parent, name).lstat()
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += status.st_size
    return total


def largest(environment: Path) -> dict[str, float]:
    """Gigabytes of the largest folders of site-packages; all of CUDA in one line."""
    (packages,) = environment.glob("lib/python*/site-packages")
    sizes = Counter[str]()
    for path in packages.iterdir():
        cuda = re.match(r"nvidia|cuda|triton", path.name)
        name = "CUDA and triton" if cuda else path.name.partition("-")[0].removesuffix(".libs")
        sizes[name] += size(path) if path.is_dir() else path.stat().st_size
    return {name: round(number / 1e9, 3) for name, number in sizes.most_common(LARGEST)}


def start(python: Path, arguments: list[str]) -> dict[str, float] | None:
    """Seconds and megabytes of a process: the least of five; None where it fails."""
    measured = []
    for _ in range(5):
        begun = time.perf_counter()
        child = subprocess.Popen(
            [python, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(child.pid, 0)
        measured.append((time.perf_counter() - begun, usage))
        if status:
            return None
    seconds = min(seconds for seconds, _ in measured)
    return {"seconds": round(seconds, 3), "megabytes": round(min(map(memory, measured)))}


def memory(measured: tuple[float, resource.struct_rusage]) -> float:
    """Megabytes of the largest resident set (Linux counts in KiB, macOS in bytes)."""
    return measured[1].ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def table(figures: dict[str, object]) -> str:
    """The figures as lines."""
    lines = [f"Python {figures['python']}: {figures['gigabytes']} GB"]
    if "seconds" in figures:
        kept = "with what pip had kept" if figures["cache"] else "all downloaded"
        lines.append(f"installed in {figures['seconds']} s, {kept}")
    lines += [f"  {gigabytes:8.3f} GB  {name}" for name, gigabytes in figures["largest"].items()]
    for name, cost in figures["starts"].items():
        shown = (
            f"{cost['seconds']:8.3f} s  {cost['megabytes']:6.0f} MB" if cost else f"{'fails':>21}"
        )
        lines.append(f"  {shown}  {name}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
