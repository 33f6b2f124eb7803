import errno
import os
from pathlib import Path

import pytest

from mmclip.errors import MachineError
from mmclip.training.checkpoint.lease import StaleLeaseError, claim
from mmclip.training.checkpoint.patience import Patience
from mmclip_launch.run.records.journal import Journal


def journal_in(folder: Path, told: list[str], minutes: float = 5.0) -> Journal:
    return Journal(claim(folder), Patience(minutes, told.append))


def test_lines_come_behind_those_that_are_there(tmp_path: Path):
    journal = journal_in(tmp_path, [])
    journal.append(tmp_path / "ledger.jsonl", [{"step": 1}, {"step": 2}])
    journal.append(tmp_path / "ledger.jsonl", [{"step": 3, "loss": "nan"}])
    journal.settle()
    assert (tmp_path / "ledger.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3, "loss": "nan"}\n'


def test_a_disk_that_takes_half_a_line_gets_the_whole_one_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    told: list[str] = []
    journal, usual = journal_in(tmp_path, told), os.write
    full = iter([True, True])

    def write(descriptor: int, content: bytes) -> int:
        if next(full, False):
            usual(descriptor, content[:4])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return usual(descriptor, content)

    path = tmp_path / "ledger.jsonl"
    journal.append(path, [{"step": 1}])
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        journal.append(path, [{"step": 2}])
        assert path.read_text() == '{"step": 1}\n', "no torn line"
        journal.append(path, [{"step": 3}])
        journal.append(path, [{"step": 4}])
    assert path.read_text() == "".join(f'{{"step": {step}}}\n' for step in (1, 2, 3, 4))
    assert f"{path}: No space left on device; the run goes on" in told[0]
    assert "written again, after 2 failed tries" in told[-1]


def test_a_run_folder_that_is_gone_for_a_while_loses_no_line(tmp_path: Path):
    told: list[str] = []
    run = tmp_path / "run"
    journal = journal_in(run, told)
    run.rename(tmp_path / "away")
    journal.append(run / "ledger.jsonl", [{"step": 1}])
    assert "No such file or directory; the run goes on" in told[0]
    assert not run.exists(), "nothing is made beside the share that is gone"
    (tmp_path / "away").rename(run)
    journal.settle()
    assert (run / "ledger.jsonl").read_text() == '{"step": 1}\n'


def test_a_disk_that_fails_for_too_long_ends_the_run(tmp_path: Path):
    run = tmp_path / "run"
    journal = journal_in(run, [], minutes=0.0)
    run.rename(tmp_path / "away")
    with pytest.raises(MachineError, match="No such file or directory"):
        journal.append(run / "ledger.jsonl", [{"step": 1}])


def test_a_stale_trainer_adds_no_line(tmp_path: Path):
    old = journal_in(tmp_path, [])
    old.append(tmp_path / "ledger.jsonl", [{"step": 1}])
    claim(tmp_path)
    with pytest.raises(StaleLeaseError, match="has taken over this run"):
        old.append(tmp_path / "ledger.jsonl", [{"step": 2}])
    assert (tmp_path / "ledger.jsonl").read_text() == '{"step": 1}\n'
