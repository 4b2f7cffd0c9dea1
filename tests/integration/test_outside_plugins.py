"""Two packages of other people: a head, as CONTRIBUTING.md has it word for word, and an encoder.

They run through `extract run` and `learn episodes`, and through the contract suites, with nothing
of ours changed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.extract import media_files as media

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
HEAD, TOML, HEAD_TEST = (
    re.search(rf"^```{kind}\n({start}.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)[1]
    for kind, start in (("python", '"""Medians'), ("toml", "# pyproject"), ("python", "# tests/"))
)
ENCODER = '''
"""Flat colours: the mean and spread of each channel."""

from dataclasses import dataclass

import torch

from extract.encoders import Description
from store.settings import Settings, setting

DESCRIPTION = Description(modality="visual", dims={"": 6}, licence="none needed", weights="none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    gain: float = setting(1.0, above=0, main=True)


class Flat:
    name, slug, modality, dim, short_side = "flat", "flat", "visual", 6, 16
    notes = {"licence": "none needed"}

    def __init__(self, config, device, precision):
        self.config, self.device = config, device
        self.identity = {
            "network": "flat", "revision": 1, "weights": None, "precision": precision,
            "gain": config.gain, "preprocessing": {"crop": "none"},
        }

    def preprocess(self, x):
        x = x.to(self.device).permute(0, 3, 1, 2).float() / 255
        return torch.nn.functional.interpolate(x, (16, 16))

    def forward(self, x):
        return self.config.gain * torch.cat([x.mean((2, 3)), x.std((2, 3), correction=0)], 1)

    def __call__(self, x):
        return self.forward(self.preprocess(x))


def build(config, device="cpu", precision="fp32"):
    return Flat(config, device, precision)
'''
ENCODER_TEST = """
import pytest
from extract.testing import VisualEncoderContract

@pytest.mark.parametrize("name", ["flat"], scope="class")
class TestFlat(VisualEncoderContract):
    pass
"""


def package(folder: Path, name: str, module: str, source: str, test: str, group: str) -> Path:
    """A package as its author has it, and as an installer would leave it on Python's path."""
    inner = name.replace("-", "_")
    for path, text in {
        "pyproject.toml": TOML.replace("microshot-medians", name)
        .replace("microshot.heads", group)
        .replace('medians = "microshot_medians.medians"', f'{module} = "{inner}.{module}"'),
        f"src/{inner}/__init__.py": "",
        f"src/{inner}/{module}.py": source,
        f"tests/test_{module}.py": test,
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    info = folder / "src" / f"{inner}-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{module} = {inner}.{module}\n")
    return folder


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """The folders of both packages."""
    home = tmp_path_factory.mktemp("outside")
    return (
        package(home / "a", "microshot-medians", "medians", HEAD, HEAD_TEST, "microshot.heads"),
        package(home / "b", "flat-colours", "flat", ENCODER, ENCODER_TEST, "microshot.encoders"),
    )


def environment(outside):
    path = [str(ROOT), *(str(folder / "src") for folder in outside)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def call(outside, *words, cwd):
    done = subprocess.run(
        [sys.executable, *map(str, words)], env=environment(outside), cwd=cwd,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def colours(folder: Path) -> Path:
    """A folder of clips of three flat colours, four a class."""
    for number in range(12):
        name = ("red", "green", "blue")[number % 3]
        (folder / name).mkdir(parents=True, exist_ok=True)
        picture = np.zeros((96, 128, 3), np.uint8)
        picture[..., number % 3] = 100 + 10 * number
        media.write(folder / name / f"{number}.mp4", (0, 500, 1000), pictures=[picture] * 3)
    return folder


def test_an_outside_encoder_and_head_answer_episodes(outside, tmp_path):
    clips = colours(tmp_path / "clips")
    store = tmp_path / "fs"
    words = ("--visual", "flat:2", "--store", store, "--json")
    run = json.loads(call(outside, "-m", "extract", "run", clips, *words, cwd=tmp_path))
    assert run["features"][0]["feature"].startswith("flat-")
    about = json.loads(call(outside, "-m", "store", "info", store, "--json", cwd=tmp_path))
    assert "flat-colours 0.1" in str(about["features"]), "who made the encoder is written down"
    asked = (
        "--ways",
        3,
        "--shots",
        1,
        "--queries",
        2,
        "--episodes",
        50,
        "--split",
        "all",
        "--json",
    )
    found = json.loads(
        call(outside, "-m", "learn", "episodes", store, *asked, "--head", "medians:power=1",
             "--head", "microshot_medians.medians/build", "--head", "prototypes", cwd=tmp_path)
    )  # fmt: skip
    by_head = {row["head"]: row["accuracy"] for row in found["results"]}
    assert len(by_head) == 3
    assert min(by_head.values()) > 0.9
    listed = json.loads(call(outside, "-m", "learn", "heads", "--json", cwd=tmp_path))["heads"]
    assert [row["distribution"] for row in listed if row["name"] == "medians"] == [
        "microshot-medians 0.1"
    ]
    assert "flat [flat-colours 0.1]" in call(outside, "-m", "extract", "encoders", cwd=tmp_path)


def test_outside_packages_run_through_the_contracts_and_a_broken_promise_is_seen(outside, tmp_path):
    """The third is a head whose answers depend on the episodes that are scored beside them."""
    leaky = HEAD.replace("centre, p=self", "centre.mean(0, keepdim=True), p=self")
    assert leaky != HEAD
    test = HEAD_TEST.replace("medians", "leaky")
    third = package(tmp_path, "leaky-head", "leaky", leaky, test, "microshot.heads")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c",
         str(third / "pyproject.toml"), *(str(folder / "tests") for folder in (*outside, third))],
        env=environment((*outside, third)), cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    broken = re.findall(r"^FAILED \S*?tests/(\w+)\.py::\w+::(\w+)", done.stdout, re.MULTILINE)
    assert {module for module, _ in broken} == {"test_leaky"}, done.stdout
    assert "test_all_episodes_at_once_are_each_alone" in {test for _, test in broken}
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 30


@pytest.mark.soak
def test_an_installed_package_is_found(outside, tmp_path):
    """By pip, into a folder of its own: what the entry points are is then the installer's word."""
    pytest.importorskip("hatchling")
    shutil.rmtree(next((outside[0] / "src").glob("*.dist-info")))
    target = tmp_path / "installed"
    call(
        [], "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--target",
        target, outside[0], cwd=tmp_path,
    )  # fmt: skip
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(target)))}
    told = subprocess.run(
        [sys.executable, "-m", "learn", "heads", "--json"], env=env, cwd=tmp_path,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    heads = {row["name"]: row for row in json.loads(told.stdout)["heads"]}
    assert heads["medians"]["distribution"] == "microshot-medians 0.1"
    assert heads["medians"]["settings"] == {"power": 2.0}
