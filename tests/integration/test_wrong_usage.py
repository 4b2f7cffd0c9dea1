"""What is wrong is told before torch is imported, command by command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import wrong_usage

ROOT = Path(__file__).parents[2]
# All usages in one process that has never imported torch: what each said, and whether it did then.
SCRIPT = """
import contextlib, io, json, sys
import cli
outcomes = []
for usage in json.load(sys.stdin):
    sys.argv = usage.split()
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            getattr(cli, sys.argv[0] + "_main")()
        except SystemExit as exit:
            code = exit.code
    outcomes.append((usage, code, said.getvalue(), "torch" in sys.modules))
print(json.dumps(outcomes))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    usages = wrong_usage.usages(wrong_usage.world(folder, clips=20))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=json.dumps(usages), capture_output=True, text=True,
        cwd=ROOT, check=True,
    )  # fmt: skip
    return json.loads(done.stdout), folder


def test_every_wrong_usage_is_one_line(outcomes):
    for usage, code, said, _ in outcomes[0]:
        assert (code, said.count("\n")) == (2, 1), (usage, said)
        assert said.startswith("error["), usage
    assert len(outcomes[0]) >= 40


def test_torch_is_never_imported_for_it(outcomes):
    assert [usage for usage, _, _, torch in outcomes[0] if torch] == []


def test_nothing_is_left_behind(outcomes):
    left = {path.name for path in outcomes[1].iterdir()}
    assert left == {"clips.csv", "bad.csv", "store", "there", "half", "support.csv"}
