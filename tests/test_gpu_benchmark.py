"""The script for a machine with a GPU: every step runs, and what goes wrong is a row."""

import json
import sys

import pytest

from benchmarks import gpu
from benchmarks.gpu import STEPS, Step, in_a_process, measured, rows_of, table


def test_every_step_runs_on_a_processor(tmp_path, capsys):
    """In tiny sizes, as `--dry` does."""
    output = tmp_path / "gpu.jsonl"
    code = gpu.main(["--dry", "-o", str(output), "--table", str(tmp_path / "table.md")])
    records = [json.loads(line) for line in output.read_text().splitlines()]
    steps = {record["step"]: record for record in records if record["event"] == "step"}
    assert {name: of["why"] for name, of in steps.items()} == {step.name: "" for step in STEPS}
    assert code == 0
    assert records[0]["event"] == "machine"
    assert records[0]["dry"]
    rows = [record for record in records if record["event"] == "row"]
    assert {row["step"] for row in rows} == set(steps)
    assert any("frames as planes" in row["what"] for row in rows)
    right = [row["value"] for row in rows if row["step"] == "right"]
    assert right == [0, 1, 0, 1]  # the processor against itself
    text = (tmp_path / "table.md").read_text()
    assert text in capsys.readouterr().out
    assert all(f"| {name} |" in text for name in steps)


def failing(_kit):
    raise ValueError("of 3 | 4")
    yield


def test_a_step_that_fails_is_a_row(monkeypatch):
    monkeypatch.setitem(sys.modules, "benchmarks.broken", sys.modules[__name__])
    steps = [Step("one", "broken", "failing", 5, ""), Step("two", "_gpu_kit", "nothing", 5, "")]
    records = list(measured(steps, dry=True, deadline=60))
    assert [record.get("status") for record in records] == [None, "failed", "failed"]
    assert "ValueError: of 3 | 4" in records[1]["why"]
    assert "AttributeError" in records[2]["why"]
    assert gpu.bad(records)
    lines = table(records).splitlines()
    assert {line.count("|") for line in lines[2:]} == {11}  # nothing breaks the table


ROW = json.dumps({"event": "row", "step": "s", "what": "w"})


@pytest.mark.parametrize(
    ("program", "status", "why"),
    [
        (f"print({ROW!r}); import time; time.sleep(60)", "killed", "not done after 1 s"),
        (f"print({ROW!r}); import os; os._exit(7)", "died", "exit code 7"),
        (f"print('talk'); print({ROW!r}); import sys; sys.exit('no memory')", "died", "no memory"),
    ],
)
def test_a_process_that_hangs_or_dies_ends_its_step_only(program, status, why):
    step = Step("s", "", "", 1, "")
    records = list(in_a_process(step, [sys.executable, "-u", "-c", program], 1.0))
    if status == "killed" and len(records) == 1:
        pytest.skip("this machine took a second to start Python")
    assert records[0] == json.loads(ROW)
    assert records[-1]["status"] == status
    assert why in records[-1]["why"]


def test_what_no_longer_fits_is_said():
    records = list(measured(STEPS, dry=True, deadline=1))
    assert {record.get("status") for record in records[1:]} == {"skipped"}
    assert "1 s left of the deadline" in records[1]["why"]
    assert not gpu.bad(records)


def test_rows_before_a_fault_are_kept(monkeypatch):
    from benchmarks import _gpu_kit

    def half(_kit):
        yield _gpu_kit.Row(what="first")
        raise RuntimeError("then")

    monkeypatch.setattr(_gpu_kit, "half", half, raising=False)
    first, last = rows_of(Step("s", "_gpu_kit", "half", 5, ""), dry=True)
    assert first["what"] == "first"
    assert last["status"] == "failed"


def test_without_a_card_it_says_what_can_be_done(monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "--dry" in capsys.readouterr().err
    with pytest.raises(SystemExit) as refused:
        gpu.main(["--dry", "--steps", "rigth"])
    assert refused.value.code == 2
