"""What a run may switch on beside sharding: kinds of towers, locked ones, compiled ones, a teacher."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig

from mmclip.release import create
from mmclip.towers.architecture import ModelConfig
from mmclip.towers.weights import save_weights

WORKER = Path(__file__).with_name("steps_worker.py")
TORCHRUN = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node", "2"]
RUN = """
output = "unused"
global_batch_size = 12
precision = "fp64"
device = "cpu"
length = { steps = 9 }
data = { source = { type = "tars", shards = "embedded:emoji/unseen-concept-noto.tar" }, workers = 0 }
"""
NANO = 'model = { arch = "nano-vit-32" }\n'
FOREIGN = """towers.text_groups = 1
[model.inline]
embed_dim = 12
vision_cfg = { timm_model_name = "test_vit", timm_pool = "token", timm_proj = "linear", image_size = 32 }
[model.inline.text_cfg]
context_length = 12
vocab_size = 49408
hf_model_name = "FOLDER/bert"
hf_pooler_type = "mean_pooler"
hf_proj_type = "linear"
"""
BERT: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
PIECES = "accumulation = { micro_batch_size = 3, graph_gib = 1.0 }\n"
VARIANTS = {
    "locked": NANO + "[towers]\nlock_image = true\nunlocked_image_groups = 1\n",
    "locked-text": NANO + PIECES + "[towers]\nlock_text = true\n",
    "compiled": NANO + '[towers]\ncompile = true\ncompile_backend = "aot_eager"\ntext_groups = 1\n',
    "slowed-below": NANO + "[optimizer]\nlr = 1e-3\nimage_layer_decay = 0.5\n",
    "taught": NANO + '[objective]\ntype = "distill"\nteacher = "FOLDER/teacher"\n',
    "foreign": FOREIGN,
    "foreign-recomputed": PIECES + "towers.activation_checkpointing = true\n" + FOREIGN,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    bert = BertConfig(vocab_size=49408, max_position_embeddings=16, pad_token_id=0, hidden_dropout_prob=0.0,
                      attention_probs_dropout_prob=0.0, **BERT)  # fmt: skip
    bert.save_pretrained(folder / "bert")
    torch.manual_seed(5)
    (folder / "teacher").mkdir()
    save_weights(create(ModelConfig(arch="nano-vit-32"), False), folder / "teacher")
    for name, own in VARIANTS.items():
        (folder / f"{name}.toml").write_text(RUN + own.replace("FOLDER", str(folder)))
    return folder


def figures_of(command: list[str], runs: Path, *flags: str) -> dict[str, list[list[float]]]:
    answers = runs / f"answers-{len(command)}.json"
    done = subprocess.run(
        [*command, str(WORKER), str(runs), str(answers), *flags],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(answers.read_text())


@pytest.mark.slow
def test_two_ranks_of_shards_take_the_steps_of_one_process(runs: Path):
    alone, sharded = figures_of([sys.executable], runs), figures_of(TORCHRUN, runs, "--sharding.method", "fsdp2")
    assert set(sharded) == set(alone) == set(VARIANTS)
    for name, steps in alone.items():
        rounding = 1e-6 if name == "taught" else 1e-9  # a teacher is read in single precision
        for number, step in enumerate(steps):
            assert sharded[name][number] == pytest.approx(step, rel=rounding), f"{name}, step {number + 1}"
