"""Builds the wheel, installs it in a fresh environment, and runs the demo's commands from it.

    make wheel          (python .ci/wheel.py)

Other people's packages are those of the environment that runs this: nothing is downloaded but the
build's own tools. The clips are few, so that it takes a minute.
"""

import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("extract", "store", "learn")
FEW = "--split all --ways 3 --shots 1 --queries 2 --episodes 50"
WHERE = "import cli, extract, learn, store\nfor m in cli, extract, learn, store: print(m.__file__)"
COMMANDS = (  # (command, exit codes that are right)
    ("extract --version", {0}),
    ("extract weights list", {0}),
    ("extract encoders", {0}),
    ("extract synth clips --classes 4 --clips 6 --seconds 1 --silent 0.1", {0}),
    ("extract run clips/manifest.csv --store store --workers 1", {0, 1}),
    ("store info store", {0}),
    ("learn recipes", {0}),
    ("learn train store --recipe whiten -o run", {0, 1}),
    (f"learn episodes store {FEW} --projection none --projection run -o results", {0}),
    ("learn report results run -o report.html --media clips --map none", {0}),
    ("python -m store verify store", {0}),
    ("python -m learn heads", {0}),
)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="microshot-wheel-") as name:
        folder = Path(name)
        wheel = built(folder)
        refuse_other_contents(wheel)
        environment = installed(wheel, folder / "venv")
        run_commands(environment, folder)
        size = wheel.stat().st_size
        print(f"{wheel.name}: {size / 1e6:.2f} MB, whole, and works outside the checkout")


def built(folder: Path) -> Path:
    """The wheel of the checkout."""
    call(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def refuse_other_contents(wheel: Path) -> None:
    """End unless the wheel holds every file of the packages, `cli.py`, the licence, and no more."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    about = {name for name in names if ".dist-info/" in name}
    wanted = {"cli.py"} | {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    problems = [f"lacks {name}" for name in sorted(wanted - names)]
    problems += [f"has {name}" for name in sorted(names - wanted - about)]
    problems += [f"lacks {p}/py.typed" for p in PACKAGES if f"{p}/py.typed" not in names]
    if not any(name.endswith("licenses/LICENSE") for name in about):
        problems.append("lacks LICENSE")
    if problems:
        sys.exit(f"{wheel.name} " + "; ".join(problems[:8]))


def installed(wheel: Path, place: Path) -> Path:
    """A fresh environment with the wheel, and other people's packages by a path."""
    venv.create(place, with_pip=False, symlinks=True)
    python = place / "bin" / "python"
    call(
        sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps",
        "--no-index", wheel,
    )  # fmt: skip
    ours = sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)})
    # A path in a .pth is looked at last, and .pth files in there (an editable install) are not.
    (Path(ours) / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place


def run_commands(environment: Path, folder: Path) -> None:
    """Run the demo's commands with the wheel's files, in an empty directory."""
    place = folder / "elsewhere"
    place.mkdir()
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    variables |= {"PATH": f"{environment / 'bin'}{os.pathsep}{variables['PATH']}"}
    variables |= {"MICROSHOT_OFFLINE": "1", "COLUMNS": "100"}
    found = subprocess.run(
        ["python", "-c", WHERE], cwd=place, env=variables, check=True, capture_output=True
    ).stdout.decode().split()  # fmt: skip
    if strays := [file for file in found if not Path(file).is_relative_to(environment)]:
        sys.exit(f"not the wheel's: {', '.join(strays)}")
    for command, right in COMMANDS:
        done = subprocess.run(
            command.split(), cwd=place, env=variables, capture_output=True, text=True, check=False
        )
        if done.returncode not in right:
            sys.exit(f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        print(f"ok  {command}", flush=True)


def call(*words: object) -> None:
    """Run a command, and end with what it said if it fails."""
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    main()
