"""Does another checkout of the project give the same answers? Records them, and compares.

    python benchmarks/same_answers.py record CHECKOUT OUTDIR
    python benchmarks/same_answers.py compare OUTDIR_A OUTDIR_B

`record` runs the commands below of a checkout, two at a time, on small stores in a scratch
directory, with one thread each: clips are rendered and extracted with random weights, looked
after, exported, learnt from, asked about, and a number of wrong calls is made. OUTDIR gets a text
for each: exit code, stdout, stderr, and the files that came of it, as they are where they are text
and as digests where they are not. Commands are started as the checkout's own `[project.scripts]`
says, so modules may lie and be called as they like. Each is a process forked from one that has
loaded torch and the like, and no module of the checkout. Three minutes on two free cores.

`compare` prints a line for each command, `same` or the first differences, and exits with 1 if there
are any. Texts of `--help` are shown where they differ, but do not count.

Placeholders stand for what two runs of one checkout do not share, and for what is known to follow
from the source rather than from what it does:

    times, durations, rates     keys of JSON (`TIMES`), and the bottleneck that follows from them;
                                how far decoding was at a commit; dates; whatever looks like a
                                duration or a rate in plain text
    the machine                 free space, cores, memory of decoders, versions, absolute paths
    random names                store ids, nonces, attempts (u-UNIT-ATTEMPT), and what follows from
                                them: names of views, digests of files with any of all these in them
    the source                  its digest in the provenance of a training; the folder of a recipe
    order without meaning       the header of safetensors files; columns of plain text, as spaces
                                follow the width of durations

Not covered: buckets, dask schedulers, processes of a sweep, GPUs, bf16, trained weights, Ctrl-C,
and how a process ends once its command has returned.
"""

import argparse
import csv
import difflib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from queue import Queue
from threading import Timer
from typing import Any

AT_ONCE = 2  # commands
TIMEOUT_SECONDS = 300
SHOWN = 24  # lines of a difference
HELP = "help-"  # names of what does not count begin so

SERVER = """
import atexit, importlib, json, os, pathlib, sys, traceback

def run(name, script, checkout, words, out, err):
    for place, number in ((os.devnull, 0), (out, 1), (err, 2)):
        with open(place, "r" if number == 0 else "w") as file:
            os.dup2(file.fileno(), number)
    sys.argv = [name, *words]
    module, _, function = script.partition(":")
    found = importlib.import_module(module)
    if not pathlib.Path(found.__file__).resolve().is_relative_to(checkout):
        raise ImportError(f"{module} is {found.__file__}, outside {checkout}")
    getattr(found, function)()

for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError:
        pass
for line in sys.stdin:
    child = os.fork()
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    code = 0
    try:
        run(**json.loads(line))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 70
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
"""
# A command begins with these loaded, which is most of the time that a small one takes.
LIBRARIES = (
    "numpy torch torch._dynamo torchaudio zarr scipy.stats sklearn.linear_model sklearn.manifold "
    "matplotlib.figure dask.array"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A command, and the files or folders it makes that are kept."""

    name: str
    line: str
    keeps: tuple[str, ...] = ()


def case(name: str, line: str, *keeps: str) -> Case:
    return Case(name=name, line=line, keeps=keeps)


# ── what is asked ────────────────────────────────────────────────────────────────────────────────

HOW = "--workers 1 --device cpu --precision fp32 --max-failures 0.5"
ENCODERS = "--visual mobilenetv2:untrained --audio yamnet:untrained"
OTHERS = (
    "--visual simclrv2:variant=r50_1x_sk0,untrained --visual mae:untrained "
    "--audio panns:variant=cnn6,untrained --audio vggish:untrained"
)
DRAWN = "--split all --ways 5 --queries 3 --episodes 40"
SHORT = "--set optimiser.epochs=8 --set optimiser.batch_size=16"
UNSEEN = "--set optimiser.batch_size=16 --set optimiser.watch=none --set objective.negatives=16"
APART = "--manifest clips/manifest.csv"  # the renderer's own: a class is in one split

ALONE = (
    case("synth", "extract synth clips --classes 8 --clips 10 --seconds 1.6 --silent 0.08 "
         "--broken 0.04 --json", "clips"),
    case("encoders", "extract encoders --json"),
    case("encoders-text", "extract encoders"),
    case("samplers", "extract samplers --json"),
    case("layouts", "extract layouts --json"),
    case("layouts-text", "extract layouts"),
    case("weights-list", "extract weights list --json"),
    case("weights-list-text", "extract weights list"),
    case("formats", "store formats --json"),
    case("recipes", "learn recipes --json"),
    case("recipes-text", "learn recipes"),
    case("tasks", "learn tasks --json"),
    case("protocols", "learn protocols --json"),
    case("doctor", "store doctor place --json"),
    case("error-command", "extract rum"),
    case("error-weights", "extract weights fetch simclrv2-r50"),
    case("error-no-store", "store info nowhere"),
    case("error-no-manifest", f"extract run no.csv --store wrong {ENCODERS}"),
    case("error-no-encoder", "learn labels nowhere -o no.csv"),
)  # fmt: skip

EXTRACTED = (
    case("run", f"extract run clips/tasks.csv --store made {ENCODERS} {HOW} "
         "--metrics metrics.jsonl --json", "metrics.jsonl", "made"),
    case("run-others", f"extract run clips/few.csv --store others {OTHERS} {HOW} --frames 2 --json",
         "others"),
    case("run-shots", "extract run clips/few.csv --store shots --visual mobilenetv2:untrained "
         f"--sample shots {HOW} --json", "shots"),
    case("run-keyframes", "extract run clips/few.csv --store keyframes --sample keyframes "
         f"--visual mobilenetv2:untrained {HOW}", "keyframes"),
    case("plan", f"extract plan clips/tasks.csv --store planned {ENCODERS} {HOW} --clips 12 "
         "--json"),
    case("manifest-folder", "extract manifest folder clips/videos -o folder.csv --media "
         "clips/videos --json", "folder.csv"),
    case("error-manifest", f"extract run bad.csv --store wrong {ENCODERS}"),
    case("error-encoder", "extract run clips/few.csv --store wrong --visual mobilenet2:untrained"),
    case("error-modality", "extract run clips/few.csv --store wrong --visual yamnet:untrained"),
    case("error-weights-needed", "extract run clips/few.csv --store wrong --visual mobilenetv2"),
    case("error-sampling", f"extract run clips/few.csv --store wrong {ENCODERS} --fps 0"),
)  # fmt: skip

STORED = (
    case("run-again", f"extract run clips/tasks.csv --store made {ENCODERS} {HOW} --json"),
    case("run-retry", f"extract run clips/tasks.csv --store made {ENCODERS} {HOW} "
         "--retry unreadable --json"),
    case("status", "extract status clips/manifest.csv --store made --json"),
    case("status-text", "extract status clips/manifest.csv --store made"),
    case("status-part", "extract status clips/tasks.csv --store others --json"),
    case("info", "store info made --json"),
    case("info-text", "store info made"),
    case("verify", "store verify others --deep --json"),
    case("verify-text", "store verify others"),
    case("gc", "store gc made --dry-run --json"),
    case("repair", "store repair others --deep --json"),
    case("export-npz", "store export made --format npz --feature yamnet -o sound.npz --json",
         "sound.npz"),
    case("export-hdf5", "store export made --format hdf5 -o both.h5 --json", "both.h5"),
    case("export-parquet", "store export made --format parquet:rows=mean --feature mobilenetv2 "
         "-o sight.parquet --json", "sight.parquet"),
    case("export-simpleshot", "store export made --format simpleshot --feature mobilenetv2 "
         "-o sight --json", "sight"),
    case("labels", "learn labels made --from words.csv -o names.csv --json", "names.csv"),
    case("train-infonce", f"learn train made --recipe infonce {SHORT} -o runs/infonce --json",
         "runs/infonce"),
    case("train-cross-entropy", f"learn train made --recipe cross_entropy {SHORT} "
         "-o runs/cross_entropy --json", "runs/cross_entropy"),
    case("train-protonet", "learn train made --recipe protonet --set optimiser.epochs=6 "
         "--set optimiser.batch_size=16 --set optimiser.ways=4 -o runs/protonet --json",
         "runs/protonet"),
    case("train-avid", f"learn train made --recipe avid {UNSEEN} --set optimiser.epochs=4 "
         "-o runs/avid --json",
         "runs/avid"),
    case("train-sscl", f"learn train made --recipe sscl {UNSEEN} --set optimiser.epochs=2 "
         "-o runs/sscl --json",
         "runs/sscl"),
    case("train-xdc", "learn train made --recipe xdc --set optimiser.epochs=2 "
         "--set optimiser.batch_size=16 --set objective.clusters=4 -o runs/xdc --json",
         "runs/xdc"),
    case("train-trx", "learn train made --recipe trx --set optimiser.epochs=2 "
         "--set optimiser.batch_size=16 --set optimiser.ways=4 -o runs/trx --json", "runs/trx"),
    case("train-streamed", f"learn train made --recipe infonce {SHORT} --memory 300kB "
         "-o runs/streamed --json", "runs/streamed"),
    case("train-text", f"learn train made --recipe supcon {SHORT} -o runs/supcon", "runs/supcon"),
    case("sweep", f"learn sweep made --recipe infonce {APART} --ways 2 --queries 2 {SHORT} "
         "--grid optimiser.learning_rate=1e-3,1e-2 -o runs/grid --json", "runs/grid"),
    case("episodes-text", f"learn episodes made {DRAWN} --shots 1 --shots 2 --support v,a,av"),
    case("episodes-strict", f"learn episodes made {DRAWN} --groups strict --inflation --json"),
    case("episodes-uneven", f"learn episodes made {DRAWN} --task imbalanced:alpha=1 --json"),
    case("episodes-any", "learn episodes made --split all --episodes 40 --json "
         "--task any_way_any_shot:min_ways=3,max_ways=6,max_queries=3,max_shots=3,max_support=18"),
    case("episodes-generalised", f"learn episodes made {APART} --split test --ways 2 --queries 2 "
         "--task generalised:base_ways=2,base_shots=4 --episodes 40 --json"),
    case("episodes-labels", f"learn episodes made {DRAWN} --label tags --task multi_label --json"),
    case("episodes-until", "learn episodes made --split all --ways 3 --queries 3 --support a "
         "--until-ci 0.008 --max-episodes 4000 --json"),
    case("episodes-manifest", f"learn episodes made {APART} --split train --ways 3 --queries 2 "
         "--episodes 40 --seed 3 --group none --head nearest --ci normal-ddof0 --json"),
    case("linear", "learn evaluate made --protocol linear -o results/linear --json",
         "results/linear"),
    case("linear-text", "learn evaluate made --protocol linear:c=1,fusion=late --per-class"),
    case("linear-folds", "learn evaluate made --protocol linear:folds=2,c=1 --split train --json"),
    case("multilabel", "learn evaluate made --protocol multilabel --label tags --json"),
    case("predict", "learn predict made --support support.csv --label label --label mood --top 2 "
         "--abstain-below 0.5 -o answers.csv --json", "answers.csv"),
    case("predict-text", "learn predict made --support support.csv --by nearest --mode a "
         "--query query.csv -o answers_nearest.csv", "answers_nearest.csv"),
    case("search", "learn search made videos/class_003/class_003_0001.mp4 --top 4 --json"),
    case("search-text", "learn search made videos/class_004/class_004_0001.mp4 --from v --top 3"),
    case("error-recipe", "learn train made --recipe infonc -o runs/wrong"),
    case("error-setting", "learn train made --recipe infonce --set optimiser.epoch=3 -o no"),
    case("error-value", "learn train made --recipe infonce --set views.copies=3 -o runs/wrong"),
    case("error-labels", "learn train made --recipe avca -o runs/wrong"),
    case("error-head", "learn episodes made --head prototype"),
    case("error-ways", "learn episodes made --split all --ways 90"),
    case("error-column", "learn episodes made --label lable"),
    case("error-task", "learn episodes made --task imbalanced:alpha=-1"),
    case("error-across", "learn episodes made --support v --query a"),
    case("error-protocol", "learn evaluate made --protocol linar"),
    case("error-own-head", "learn evaluate made --protocol classify"),
    case("error-clip", "learn search made videos/class_003.mp4"),
    case("error-support", "learn predict made --support words.csv -o no.csv"),
    case("error-export", "store export made --format npz -o no.npz"),
    case("error-age", "store gc made --older-than soon"),
    case("error-view", "store view made resnet"),
    case("error-argument", "learn episodes"),
)  # fmt: skip

TRAINED = (
    case("train-avca", "learn train made --recipe avca --labels names.csv "
         f"{SHORT} -o runs/avca --json", "runs/avca"),
    case("train-resumed", f"learn train made --recipe infonce {SHORT} -o runs/infonce --resume "
         "--json"),
    case("episodes-heads", f"learn episodes made {DRAWN} --shots 1 --shots 2 --head prototypes "
         "--head nearest --head logistic --head ridge --head tim --projection none "
         "--projection runs/infonce --support v,a,av --query v,a,av --save-episodes kept "
         "-o results/heads --json", "results/heads", "kept"),
    case("episodes-drop", f"learn episodes made {DRAWN} --projection runs/infonce --support av "
         "--drop v,a --drop-rates 0,0.5,1 -o results/drop --json", "results/drop"),
    case("episodes-own", "learn episodes made --split all --ways 4 --queries 2 --episodes 20 "
         "--projection runs/trx --head own --support v,a --json"),
    case("episodes-protonet", f"learn episodes made {DRAWN} --projection runs/protonet --head own "
         "--json"),
    case("retrieval", "learn evaluate made --protocol retrieval --projection runs/infonce "
         "--label label --label fps --json"),
    case("classify", "learn evaluate made --protocol classify --projection runs/cross_entropy "
         "--json"),
    case("predict-projected", "learn predict made --support support.csv --projection runs/infonce "
         "-o answers_projected.csv --json", "answers_projected.csv"),
    case("search-across", "learn search made videos/class_003/class_003_0001.mp4 --from a --to v "
         "--projection runs/infonce --top 4 --json"),
    case("import", "store import sound.npz --format npz --store imported --json", "imported"),
    case("merge", "store merge merged made others --json", "merged"),
    case("error-run-exists", f"learn train made --recipe infonce {SHORT} -o runs/infonce"),
    case("error-resume", "learn train made --recipe infonce -o runs/infonce --resume"),
    case("error-run-kind", "learn compare runs/infonce"),
)  # fmt: skip

LAST = (
    case("zero-shot", "learn evaluate made --protocol zero_shot --projection runs/avca --json"),
    case("episodes-kept", "learn episodes made --split all --episodes-file kept --support av "
         "--head bdcspn --head laplacian --head pt_map --head label_propagation --head finetune "
         "--json"),
    case("episodes-cross-modal", "learn episodes made --split all --episodes-file kept "
         "--projection runs/infonce --support v --query v --head cross_modal --json"),
    case("episodes-of-stores", "learn episodes made --query-store merged --split all "
         "--query-split all --ways 5 --queries 3 --episodes 40 --support a --json"),
    case("compare", "learn compare results/heads --against best --json"),
    case("compare-text", "learn compare results/heads --ci bootstrap"),
    case("report", "learn report results/heads results/drop results/linear runs/infonce "
         "-o page.html --media clips --json", "page.html"),
    case("view", "store view made yamnet --json", "made/views"),
    case("error-page-exists", "learn report runs/infonce -o names.csv"),
)  # fmt: skip

STAGES = (ALONE, EXTRACTED, STORED, TRAINED, LAST)

COMMANDS = {
    "extract": "run plan status encoders samplers layouts manifest synth weights "
    "weights+list weights+fetch weights+convert",
    "store": "info verify gc repair merge view doctor export import formats",
    "learn": "episodes tasks evaluate protocols compare report train sweep predict search labels "
    "recipes",
}


def helps() -> tuple[Case, ...]:
    """`--help` of every command."""
    lines = [[name, *words.split("+")] for name, of in COMMANDS.items() for words in of.split()]
    lines = [[name] for name in COMMANDS] + lines
    return tuple(case(HELP + "-".join(line), " ".join([*line, "--help"])) for line in lines)


# ── files that commands read ─────────────────────────────────────────────────────────────────────


def write_inputs(scratch: Path) -> None:
    """Manifests of the rendered clips for other tasks, a support, names of classes."""
    with (scratch / "clips/manifest.csv").open(newline="") as file:
        rows = [_task(row) for row in csv.DictReader(file)]
    sound = [row for row in rows if row["sound"] == "yes" and not row["fault"]]
    _write_table(scratch / "clips/tasks.csv", rows)
    _write_table(scratch / "clips/few.csv", [*rows[:2], *sound[4:8]])
    known = [row for row in sound if row["label"] < "class_004"]
    support = [
        {"clip_id": row["path"], "label": row["label"], "mood": "ab"[number % 2]}
        for number, row in enumerate(known)
        if number % 2
    ]
    _write_table(scratch / "support.csv", support)
    _write_table(scratch / "query.csv", [{"clip_id": row["path"]} for row in rows[::7]])
    names = sorted({row["label"] for row in rows})
    vectors = [
        {"name": name, **{str(i): (i + 1) * (n + 2) % 7 - 3 + n / 8 for i in range(12)}}
        for n, name in enumerate(names)
    ]
    _write_table(scratch / "words.csv", vectors)
    (scratch / "bad.csv").write_text("path,label\na.mp4,x\nb.mp4,y\na.mp4,z\n")


def _task(row: Mapping[str, str]) -> dict[str, str]:
    """The row of a clip: splits that share classes, but for two that are new; several tags."""
    number = int(Path(row["path"]).stem.rsplit("_", 1)[1])
    split = ("train", "train", "train", "val", "test")[number % 5]
    new = row["label"] >= "class_006"
    tags = sorted({f"of_{row['label'][-1]}", f"third_{number % 3}", f"half_{number % 2}"})
    return {**row, "split": "test" if new else split, "tags": ";".join(tags)}


def _write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)


# ── what is not compared ─────────────────────────────────────────────────────────────────────────

TIMES = (
    "seconds seconds_per_clip clips_per_second decode_cpu_seconds decode_cpu_seconds_per_clip "
    "waiting_for_decode_seconds waiting_for_disk_seconds encoder_seconds encoder_seconds_per_clip "
    "commit_seconds write_seconds hours hours_low hours_high bottleneck time created written"
)
PLACES = "free_bytes decoder_bytes cores written_by writer versions store_id attempt code_sha256"
DIGESTS = "provenance.json result.json"  # keyed by the names of files that have such things
VARYING = frozenset(f"{TIMES} {PLACES} {DIGESTS}".split())  # keys of JSON

IDENTIFIERS = (
    (r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<id>"),
    (r"(u-[0-9a-f]{20})-[0-9a-f]{12}", r"\1-<attempt>"),
    (r"(views/[\w.-]+)/[0-9a-f]{32}", r"\1/<view>"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?(?:\.\d+)?(?:Z|\+00:00)?", "<time>"),
    (r"\d{8}t\d{6}\.\d+z", "<time>"),
    (r"microshot \d+(?:\.\w+)+", "microshot <version>"),
    (r"a flush takes [\d.]+ ms", "a flush takes <time>"),
    (r"[\d.]+ [kMGTP]?B and \d+ files are free", "<space> is free"),
    (r"clock is -?[\d.]+ s", "clock is <time>"),
)
PLAIN = (
    (r"\d[\d,.]*(?: ?(?:ms|s|min|h)\b|/s\b| clips/s\b)", "<duration>"),
    (r"(?m)^(\s*seconds\s+)\d[\d.]*", r"\1<duration>"),
    (r"(?m)^bounded by: .*(?:\n +.*)*$", "bounded by: <bottleneck>"),
    (r"[ \t]+", " "),
)

Mask = Callable[[str], str]


def mask(text: str, *, places: Mapping[str, str]) -> str:
    """Text without what two runs do not share; `places` are absolute paths and their names."""
    for path, name in sorted(places.items(), key=lambda pair: -len(pair[0])):
        text = text.replace(path, name)
    text = re.sub(r"<checkout>/[\w/.-]*/(?=[\w.-]+)", "<checkout>/…/", text)
    for pattern, name in IDENTIFIERS:
        text = re.sub(pattern, name, text)
    return text


def mask_plain(text: str) -> str:
    """Plain text for people: durations and alignment, too."""
    for pattern, name in PLAIN:
        text = re.sub(pattern, name, text)
    return text


def mask_json(value: Any) -> Any:
    """Parsed JSON, varying values replaced."""
    if isinstance(value, dict):
        varying = VARYING
        if "nonce" in value:  # the record of a commit
            varying |= {"nonce", "crc32c"}
        if "clips_done" in value:  # a line of metrics: decoding is somewhere ahead of what it tells
            varying |= {"clips_done", "failures"}
        if value.get("key") == "zarr.json":  # a line of it: the file that says when
            varying |= {"sha256", "crc32c"}
        return {
            key: f"<{key}>" if key in varying and not isinstance(inner, list) else mask_json(inner)
            for key, inner in value.items()
        }
    return [mask_json(inner) for inner in value] if isinstance(value, list) else value


def shown(text: str) -> str:
    """JSON, or lines of it, pretty and masked; else plain text masked."""
    try:
        return json.dumps(mask_json(json.loads(text)), indent=1, ensure_ascii=False)
    except ValueError:
        pass
    try:
        lines = [json.loads(line) for line in text.splitlines()]
    except ValueError:
        return mask_plain(text)
    return "\n".join(json.dumps(mask_json(line), ensure_ascii=False) for line in lines)


def file_text(path: Path) -> str:
    """What is kept of a file: text, or size and digest."""
    if not path.exists():
        return "is not there"
    if path.suffix in (".json", ".jsonl"):
        return shown(path.read_text())
    if path.suffix == ".csv":
        return path.read_text()
    if path.suffix == ".html":
        return re.sub(r"data:[\w/+;-]+,[\w+/=]{80,}", _digest_of, path.read_text()).replace(
            "><", ">\n<"
        )
    content = path.read_bytes()
    if content[8:10] == b'{"':
        return _tensors(content)
    return f"{len(content)} bytes, sha256 {sha256(content).hexdigest()}"


def _tensors(content: bytes) -> str:
    """A file of safetensors: its header is in no order."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    notes = header.pop("__metadata__", {})
    lines = [f"{key}: {value}" for key, value in sorted(notes.items())]
    lines += [f"{name} {json.dumps(facts)}" for name, facts in sorted(header.items())]
    return "\n".join([*lines, f"data of sha256 {sha256(content[end:]).hexdigest()}"])


def _digest_of(match: re.Match[str]) -> str:
    return f"data of sha256 {sha256(match[0].encode()).hexdigest()}"


# ── recording ────────────────────────────────────────────────────────────────────────────────────


class Servers:
    """Processes of a checkout, with its libraries loaded, that fork to run a command."""

    def __init__(self, checkout: Path, scratch: Path) -> None:
        self._checkout, self._scratch = checkout, scratch
        scripts = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]["scripts"]
        self._scripts: dict[str, str] = scripts
        self._free: Queue[subprocess.Popen[str]] = Queue()
        self._all = [self._start() for _ in range(AT_ONCE)]
        for server in self._all:
            self._free.put(server)

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", SERVER, *LIBRARIES.split()], cwd=self._scratch, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
            env=_environment(self._checkout, self._scratch),
        )  # fmt: skip

    def run(self, line: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command; one at a time for each server."""
        server = self._free.get()
        name, *words = shlex.split(line)
        streams = [Path(f"{self._scratch}.{server.pid}.{kind}") for kind in ("out", "err")]
        asked = {
            "name": name, "script": self._scripts[name], "checkout": str(self._checkout),
            "words": words, "out": str(streams[0]), "err": str(streams[1]),
        }  # fmt: skip
        assert server.stdin is not None
        assert server.stdout is not None
        clock = Timer(TIMEOUT_SECONDS, os.killpg, (server.pid, signal.SIGKILL))
        clock.start()
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        code = server.stdout.readline()
        clock.cancel()
        if not code:
            raise RuntimeError(f"{line}: no end in {TIMEOUT_SECONDS} s, or its server died")
        self._free.put(server)
        out, err = (path.read_text() for path in streams)
        for path in streams:
            path.unlink()
        return int(code), out, err

    def close(self) -> None:
        for server in self._all:
            server.communicate()


def record(checkout: Path, outdir: Path) -> int:
    """Run everything; 1 if a command that is not wrong was refused, so that little is said."""
    outdir.mkdir(parents=True)
    checkout = checkout.resolve()
    scratch = Path(tempfile.mkdtemp(prefix="same_answers_")).resolve()
    begun = time.monotonic()
    servers = Servers(checkout, scratch)
    places = {
        str(scratch): "<scratch>", str(checkout): "<checkout>", sys.prefix: "<python>",
        str(Path.home()): "<home>",
    }  # fmt: skip
    run = partial(_record_case, servers=servers, scratch=scratch, places=places, outdir=outdir)
    broken = 0
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for number, stage in enumerate((*STAGES, helps())):
                if number == 1:
                    write_inputs(scratch)
                broken += sum(pool.map(run, stage))
    finally:
        servers.close()
        shutil.rmtree(scratch)
    cases = sum(map(len, STAGES))
    print(f"{cases} commands and {len(helps())} helps in {time.monotonic() - begun:.0f} s")
    return int(broken > 0)


def _record_case(
    one: Case, *, servers: Servers, scratch: Path, places: Mapping[str, str], outdir: Path
) -> bool:
    """Run one command and write what came of it; whether it is broken."""
    begun = time.monotonic()
    code, out, err = servers.run(one.line)
    told = mask_plain(err) if code < 2 else err
    parts = [f"$ {one.line}", f"exit {code}", "── stdout", shown(out), "── stderr", told]
    for path in _files(one, scratch):
        parts += [f"── {path.relative_to(scratch)}", file_text(path)]
    text = "\n".join(part.rstrip("\n") for part in parts) + "\n"
    (outdir / f"{one.name}.txt").write_text(mask(text, places=places))
    broken = code not in ((2,) if one.name.startswith("error-") else (0, 1))
    line = f"{time.monotonic() - begun:6.1f} s  exit {code:3}  {one.name}"
    print(f"{line}  BROKEN: {' '.join(err.split())[-300:]}" if broken else line, flush=True)
    return broken


def _environment(checkout: Path, scratch: Path) -> dict[str, str]:
    """One thread, one width of terminal, no colours, and no settings of whoever runs this.

    One seed of hashes too: where a report ranks classes that are level, the order is that of a set.
    """
    dropped = ("PYTHON", "MICROSHOT_", "AWS_", "FORCE_COLOR")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    return kept | {
        "PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0", "PYTHONIOENCODING": "utf-8",
        "MICROSHOT_WEIGHTS_DIR": str(scratch / "weights"),
        "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "120",
        "NO_COLOR": "1", "TERM": "dumb",
    }  # fmt: skip


def _files(one: Case, scratch: Path) -> Iterator[Path]:
    """The files to keep, in the order of their names."""
    for kept in one.keeps:
        place = scratch / kept
        yield from sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]


# ── comparing ────────────────────────────────────────────────────────────────────────────────────


def compare(a: Path, b: Path) -> int:
    """Print a line for each command; 1 if any differs."""
    names = sorted({path.stem for folder in (a, b) for path in folder.glob("*.txt")})
    if not names:
        sys.exit(f"nothing is recorded in {a} and {b}")
    different = [name for name in names if not _same(name, a, b)]
    counted = [name for name in different if not name.startswith(HELP)]
    asked = sum(not name.startswith(HELP) for name in names)
    print(f"{asked - len(counted)} of {asked} commands give the same answers", end="; ")
    print(f"{len(different) - len(counted)} texts of --help differ, which does not count")
    return int(bool(counted))


def _same(name: str, a: Path, b: Path) -> bool:
    texts = []
    for folder in (a, b):
        path = folder / f"{name}.txt"
        if not path.is_file():
            print(f"DIFFERS  {name}: only in one, not in {folder}")
            return False
        texts.append(path.read_text().splitlines())
    if texts[0] == texts[1]:
        print(f"same     {name}")
        return True
    print(f"{'differs ' if name.startswith(HELP) else 'DIFFERS '} {name}")
    _show(difflib.unified_diff(*texts, str(a), str(b), lineterm="", n=1))
    return False


def _show(lines: Iterable[str]) -> None:
    """The first lines of a difference, none of them endless."""
    for number, line in enumerate(lines):
        if number == SHOWN:
            print("    …")
            return
        print(f"    {line[:240]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    recording = verbs.add_parser("record", help="run the commands of a checkout")
    recording.add_argument("checkout", type=Path)
    recording.add_argument("outdir", type=Path, help="a new directory")
    comparing = verbs.add_parser("compare", help="tell two recordings apart")
    comparing.add_argument("a", type=Path)
    comparing.add_argument("b", type=Path)
    asked = parser.parse_args()
    if asked.verb == "compare":
        return compare(asked.a, asked.b)
    if asked.outdir.exists():
        parser.error(f"{asked.outdir} exists; name a new directory")
    return record(asked.checkout, asked.outdir)


if __name__ == "__main__":
    sys.exit(main())
