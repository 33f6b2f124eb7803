"""The chaos runner itself: a short round of it, and what it would say of a run that lost something."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUNNER = Path(__file__).with_name("chaos.py")


@pytest.mark.slow
def test_a_few_faults_are_survived_and_leave_no_trace():
    words = ["--seed", "3", "--faults", "4", "--minutes", "10"]
    for kind in ("rank killed", "loader process killed", "a bit flipped", "bytes of a shard rotten"):
        words += ["--kind", kind]
    done = subprocess.run(
        [sys.executable, str(RUNNER), *words], capture_output=True, text=True, check=False, timeout=1800
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert "samples silently lost: 0" in done.stdout
    assert "| **all** | **4** | **4** | **4** |" in done.stdout


CHECK = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from chaos_verdict import unexplained_steps
print(unexplained_steps(Path(sys.argv[2]), Path(sys.argv[3]), range(1, 5)))
"""


def test_a_sample_that_was_lost_in_silence_is_found(tmp_path: Path):
    """Swapped, left out or repeated: the ledger of the disturbed run then has another hash that nothing explains."""
    clean, run = tmp_path / "clean", tmp_path / "run"
    command = [sys.executable, "-m", "mmclip_launch.train", str(tmp_path / "run.toml"), "--output", str(clean)]
    (tmp_path / "run.toml").write_text(
        """
output = "none"
global_batch_size = 8
precision = "fp32"
device = "cpu"
length = { steps = 4 }
evaluation = { report = false }
data = { source = { type = "tars", shards = "embedded:emoji/unseen-concept-noto.tar" }, workers = 0 }
[model.inline]
embed_dim = 16
vision_cfg = { image_size = 32, patch_size = 16, width = 16, layers = 1, head_width = 16 }
text_cfg = { context_length = 8, vocab_size = 49408, width = 16, heads = 1, layers = 1 }
"""
    )
    subprocess.run(command, check=True, capture_output=True)
    run.mkdir()
    lines = [json.loads(line) for line in (clean / "ledger.jsonl").read_text().splitlines()]
    lines[2]["ids"] = f"{int(lines[2]['ids'], 16) ^ 1:016x}"
    (run / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:3]))
    words = [sys.executable, "-c", CHECK, str(RUNNER.parent), str(run), str(clean)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[3, 4]", done.stderr
