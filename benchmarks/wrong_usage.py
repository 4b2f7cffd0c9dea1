"""How soon a wrong usage is told, and in how much memory: each is a process of its own.

    python -m benchmarks wrong_usage

Seconds are the least of up to three whole processes, memory is the largest resident set (never
less than that of this script, which therefore imports nothing large). What a start costs beside
torch is told in processor time, which other programs disturb less.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).parents[1]
TRIES = 3
STARTS = 5
GOAL_SECONDS = 0.7
ROWS = 10_000
CALL = "import sys, cli; sys.argv = sys.argv[1:]; getattr(cli, sys.argv[0] + '_main')()"


def world(folder: Path, *, clips: int = ROWS) -> dict[str, Path]:
    """A store, manifests of so many rows, good and bad, a directory that is there, half a run."""
    import store
    from store import testing

    header = "path,label,split\n"
    rows = [f"clips/{i:05}.mp4,{'abcdefgh'[i % 8]},{'train' if i % 3 else 'test'}\n"
            for i in range(clips)]  # fmt: skip
    good, bad = folder / "clips.csv", folder / "bad.csv"
    good.write_text(header + "".join(rows))
    bad.write_text(header + "".join(rows) + "../outside.mp4,a,train\n")
    fs = testing.fill(folder / "store", clips=240, rows=2, dim=8, classes=8)
    fs.add_manifest(store.read_manifest(good))
    (folder / "there").mkdir()
    (folder / "half").mkdir()
    (folder / "half" / "config.json").write_text("{}")
    (folder / "support.csv").write_text("clip_id,label\nclips/00000.mp4,a\n")
    return paths(folder)


def paths(folder: Path) -> dict[str, Path]:
    """What `world` makes, by name, and a path that is free."""
    names = ("clips.csv", "bad.csv", "store", "there", "half", "support.csv", "new")
    return {name.partition(".")[0]: folder / name for name in names}


def usages(at: Mapping[str, Path]) -> list[str]:
    """Command lines with one thing wrong in each."""
    run = f"extract run {at['clips']} --store {at['new']}"
    episodes, train = f"learn episodes {at['store']}", f"learn train {at['store']}"
    predict = f"learn predict {at['store']} --support {at['support']} -o {at['new']}"
    return [
        f"extract run nowhere.csv --store {at['new']}",
        f"extract run {at['bad']} --store {at['new']}",
        f"extract run {at['clips']} --store {at['there'].parent}",
        f"{run} --visual simclr2",
        f"{run} --visual simclrv2:variant=r50_1x",
        f"{run} --visual simclrv2:wieghts=x.safetensors",
        f"{run} --visual mobilenetv2:weights=nowhere.safetensors",
        f"{run} --visual simclrv2 --offline",
        f"{run} --audio mobilenetv2:untrained",
        f"{run} --sample shot",
        f"{run} --device tpu",
        f"{run} --precision bf61",
        f"{run} --scheduler tcp://somewhere:8786",
        f"extract plan {at['clips']} --store {at['new']} --clips 0",
        f"extract manifest folders {at['there']} -o {at['new']}",
        "extract weights fetch panns-cn14",
        f"extract weights convert {at['clips']} --encoder simclrv2 -o {at['new']}.safetensors",
        "store info nowhere",
        f"store export {at['store']} --format npy -o {at['new']}",
        f"{episodes} --head rigde",
        f"{episodes} --head ridge:lamda=1",
        f"{episodes} --task n_way --shots 5",
        f"{episodes} --ways 0",
        f"{episodes} --fusion weighed",
        f"{episodes} --label emotion",
        f"{episodes} --split tset",
        f"{episodes} --visual simclrv2",
        f"{episodes} --projection {at['half']}",
        f"{episodes} --drop x",
        f"{episodes} --manifest {at['bad']}",
        f"{episodes} -o {at['there']}",
        f"learn evaluate {at['store']} --protocol liner",
        f"learn compare {at['there']}",
        f"{train} --recipe infonec -o {at['new']}",
        f"{train} --recipe infonce --set optimiser.epoch=2 -o {at['new']}",
        f"{train} --recipe infonce --set projection.name=mpl -o {at['new']}",
        f"{train} --recipe infonce -o {at['there']}",
        f"learn sweep {at['store']} --recipe infonce --grid optimiser.seed -o {at['new']}",
        f"{predict} --head rigde",
        f"{predict} --by ridge",
        f"{predict} --index ivf:probe=3",
        f"learn search {at['store']} clips/00000.mp4 --from b",
        f"learn report {at['there']} -o {at['new']}.html",
    ]


def timed(words: list[str]) -> dict[str, Any]:
    """Exit code, wall and processor seconds, largest resident set and what was said."""
    reading, writing = os.pipe()
    begun = perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.DEVNULL, stderr=writing, cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        | {"MICROSHOT_OFFLINE": "1"},  # byte code is kept, as by any installation
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    seconds = perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    os.close(writing)
    with os.fdopen(reading) as said:
        text = said.read()
    return {
        "code": process.returncode,
        "seconds": seconds,
        "cpu": usage.ru_utime + usage.ru_stime,
        "mb": usage.ru_maxrss / 1000,
        "said": text,
    }


def measure() -> Iterator[dict[str, Any]]:
    """A row for every wrong usage, then what starting costs."""
    with tempfile.TemporaryDirectory(prefix="microshot-wrong-") as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-m", "benchmarks.wrong_usage", name], cwd=ROOT, check=True)
        for usage in usages(paths(folder)):
            best = timed(["-c", CALL, *usage.split()])
            for _ in range(TRIES - 1):
                if best["seconds"] > GOAL_SECONDS:
                    again = timed(["-c", CALL, *usage.split()])
                    best = min(best, again, key=lambda outcome: outcome["seconds"])
            said = best["said"].replace(f"{folder}/", "").strip()
            assert best["code"] == 2, (usage, said)
            assert said.startswith("error["), said
            yield {
                "what": usage.replace(f"{folder}/", "").replace(str(folder), "DIR")[:56],
                "value": best["seconds"], "unit": "s", "ratio": None, "goal": GOAL_SECONDS,
                "against": f"{best['cpu']:.2f} CPU-s {best['mb']:.0f} MB {said[:60]}",
            }  # fmt: skip
    yield from _starts()


def _starts() -> Iterator[dict[str, Any]]:
    """What the modules of two commands cost beside a bare `import torch`, taken in turns."""
    codes = {"import torch": "import torch", "extract run": "import cli, extract.pipeline.run",
             "learn episodes": "import cli, learn.evaluation.episodes"}  # fmt: skip
    spent: dict[str, list[float]] = {name: [] for name in codes}
    for _ in range(STARTS):
        for name, code in codes.items():
            spent[name].append(timed(["-c", code])["cpu"])
    bare = min(spent["import torch"])
    for name, seconds in spent.items():
        yield {
            "what": f"start of {name}, processor time", "value": min(seconds), "unit": "s",
            "ratio": min(seconds) / bare, "goal": 1.15, "against": "import torch",
        }  # fmt: skip


if __name__ == "__main__":
    world(Path(sys.argv[1]))
