"""`mmclip import-flags`: read as open_clip reads it, every flag accounted for, and every file loads."""

import argparse
import math
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from open_clip_train import params
from open_clip_train.scheduler import const_lr, const_lr_cooldown, cosine_lr

from mmclip.errors import UserError
from mmclip.training.schedule import learning_rate
from mmclip_data.loading.sources import SyntheticConfig
from mmclip_launch.cli import run_verb
from mmclip_launch.import_flags import main, run_file, translate
from mmclip_launch.import_flags.command import read_command
from mmclip_launch.import_flags.flags import flags, parse
from mmclip_launch.import_flags.page import page
from mmclip_launch.run.config import RunConfig, load_run_config

ROOT = Path(__file__).parents[3]
TRAINER = "python -m open_clip_train.main "
WDS = (
    TRAINER
    + "--train-data d/{0..9}.tar --train-num-samples 1000 --dataset-type webdataset --model ViT-B-32 --warmup 2 "
)


def text_of(command: str) -> str:
    return run_file(translate(read_command(command)), "RUN.toml")


def config_of(command: str, folder: Path) -> RunConfig:
    (folder / "run.toml").write_text(text_of(command))
    return load_run_config(folder / "run.toml")


@pytest.fixture
def stock_parser(monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """The parser that open_clip builds, caught at the moment of use."""
    caught: list[argparse.ArgumentParser] = []
    parse_args = argparse.ArgumentParser.parse_args
    with monkeypatch.context() as patch:
        patch.setattr(
            argparse.ArgumentParser, "parse_args", lambda self, w: (caught.append(self), parse_args(self, w))[1]
        )
        params.parse_args([])
    return caught[0]


def test_the_table_holds_each_flag_of_the_installed_trainer_with_its_type_and_default(
    stock_parser: argparse.ArgumentParser,
):
    stock = {a.option_strings[0].removeprefix("--"): a for a in stock_parser._actions if a.dest != "help"}
    assert list(flags()) == list(stock)
    kinds = {str: "text", int: "whole", float: "number", None: "text"}
    for name, action in stock.items():
        flag = flags()[name]
        assert flag.value_by_default == action.default, name
        assert list(flag.choices) == list(action.choices or []), name
        kind = "switch" if action.nargs == 0 else "pairs" if action.nargs == "*" else kinds[action.type]
        assert flag.kind == (kind + "s" if action.nargs == "+" else kind), name
        assert flag.many == (action.nargs == "+"), name


LINES = [
    "--train-data=a.tar --lr 1e-3 --batch-size=7",
    "--train-data a.tar --train-n 5 --grad-clip 2 --acc 3",  # abbreviations
    "--aug-cfg scale='(0.4, 1.0)' color_jitter_prob=0.5 use_timm=True name=x --seed 4",
    "--image-mean 0.5 0.5 0.5 --force-image-size 224 --siglip --no-set-device-rank",
    "--epochs 1 --epochs 2 --wd 0",
]


@pytest.mark.parametrize("line", LINES)
def test_words_are_read_as_open_clip_reads_them(line: str):
    words = shlex.split(line)
    theirs = vars(params.parse_args(words))
    ours = parse(words)
    assert ours
    for name, value in ours.items():
        assert theirs[name.replace("-", "_")] == value
    given = {flag.partition("=")[0] for flag in words if flag.startswith("--")}
    assert len(ours) == len(given)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--train-data a.tar --lrr 3", r"--lrr is no flag of open_clip 3\.3\.0's trainer; nearest: --lr"),
        ("--hf-tokenizer-name x", "--hf-tokenizer-name is no flag"),
        ("--lock 3", "ambiguous option: --lock could match --lock-image"),
        ("--batch-size $BS", "shell variables are not filled in"),
        ("--train-data a.tar b.tar", "words that belong to no flag: b.tar; quote patterns"),
        ("--precision int8", "invalid choice: 'int8'"),
        ("--aug-cfg scale", "expected key=value, got 'scale'"),
    ],
)
def test_a_flag_that_cannot_be_read_is_named(words: str, message: str):
    with pytest.raises(UserError, match=message):
        parse(words.split())


SAMPLES: dict[str, str] = {
    "train-data-upsampling-factors": "1::1",
    "val-data": "v.tar",
    "opt": "AdamW",
    "resume": "there/epoch_1.pt",
    "lr-cooldown-end": "1e-6",
    "pretrained": "laion2b_s34b_b79k",
    "model": "ViT-B-16",
    "lr-scheduler": "const",
    "report-to": "wandb",
    "device": "cpu:0",
    "distill-model": "ViT-B-32",
    "aug-cfg": "scale='(0.5,1.0)'",
    "train-data": "e.tar",
}
NEEDED = {
    "epochs-cooldown": "--lr-scheduler const-cooldown",
    "lr-cooldown-end": "--lr-scheduler const-cooldown --epochs-cooldown 1",
    "lr-cooldown-power": "--lr-scheduler const-cooldown --epochs-cooldown 1",
    "lock-image-unlocked-groups": "--lock-image",
    "lock-image-freeze-bn-stats": "--lock-image",
    "lock-text-unlocked-layers": "--lock-text --lock-text-freeze-layer-norm",
}
"""Flags that others read, in open_clip too."""
BY_KIND = {"text": "word", "whole": "3", "number": "0.5", "switch": "", "numbers": "0.5 0.5 0.5", "wholes": "64"}


@pytest.mark.parametrize("name", flags())
def test_each_flag_is_in_the_file_or_refused_by_name(name: str, tmp_path: Path):
    flag = flags()[name]
    value = SAMPLES.get(name) or (flag.choices[0] if flag.choices else BY_KIND[flag.kind])
    command = f"{WDS} --{name} {value} {NEEDED.get(name, '')}"
    if flag.effect == "refused" and name not in SAMPLES or name == "distill-model":
        with pytest.raises(UserError, match=rf"something else[^$]*--{name}"):
            text_of(command)
        return
    text = text_of(command)
    config_of(command, tmp_path)
    assert f"--{name}" in text
    if flag.effect == "loud":
        assert re.match(rf"# NOT carried over:\n(#   .*\n)*#   --{name} ", text)
    first = flag.field.partition(" ")[0]
    exempt = {
        "imagenet-v2",
        "opt",
        "zeroshot-frequency",
        "val-frequency",
        "wandb-project-name",
        "force-quick-gelu",
    }
    if flag.status == "mapped" and name not in exempt:
        place: Any = tomllib.loads(text)
        for key in first.split("."):
            assert key in place, f"--{name}: no field {first}"
            place = place[key]


@pytest.mark.parametrize("model", ["RN50", "ViT-B-32", "ViTamin-S", "convnext_base"])
def test_defaults_that_depend_on_the_model_are_open_clips(model: str, tmp_path: Path):
    theirs = params.parse_args(["--model", model])
    ours = config_of(f"{TRAINER} --train-data a.tar --model {model}", tmp_path)
    optimizer = ours.optimizer
    assert (optimizer.lr, optimizer.beta1, optimizer.beta2, optimizer.eps, optimizer.weight_decay) == (
        theirs.lr, theirs.beta1, theirs.beta2, theirs.eps, theirs.wd
    )  # fmt: skip
    assert optimizer.max_grad_norm == math.inf  # open_clip does not clip; mmclip's own default is 1
    assert (ours.length.epochs, ours.global_batch_size, ours.log_every_steps, ours.data.workers) == (32, 64, 100, 4)
    assert ours.schedule.warmup_samples == 10_000 * 64
    assert ours.precision == "bf16"


def test_length_batch_and_frequencies(tmp_path: Path):
    command = (
        "torchrun --nnodes 2 --nproc_per_node=4 -m training.main --train-data 'd/{0..9}.tar' --train-num-samples 100_000 "
        "--epochs 3 --batch-size 25 --accum-freq 2 --warmup 10 --save-frequency 2 --val-data v.tar --val-frequency 3 "
        "--model ViT-B/32 --name here --logs out/ --delete-previous-checkpoint --grad-clip-norm 2"
    )
    config = config_of(command, tmp_path)
    assert config.global_batch_size == 25 * 8 * 2
    assert config.accumulation.micro_batch_size == 25
    assert config.accumulation.micro_batches(config.global_batch_size, 8) == 2
    assert config.length.samples == 300_000
    assert config.schedule.warmup_samples == 10 * 400
    assert (config.checkpoint.every_steps, config.checkpoint.keep) == (2 * 250, 1)
    assert config.evaluation.every_steps == 3 * 250
    (dataset,) = config.evaluation.datasets
    assert (dataset.path, [task.type for task in dataset.tasks]) == ("v.tar", ["zero_shot_retrieval"])
    assert (config.model.arch, config.output, config.optimizer.max_grad_norm) == ("ViT-B-32", "out/here", 2)


@pytest.mark.parametrize("flag", ["--lr-scheduler cosine", "--lr-scheduler const", "--skip-scheduler"])
def test_learning_rates_are_open_clips(flag: str, tmp_path: Path):
    """Warmup and constant rates to the last digit; a cosine is a step ahead, as its last step ends at zero."""
    steps = 40
    config = config_of(f"{WDS} --train-num-samples {steps * 64} --epochs 1 --warmup 7 --lr 0.002 {flag}", tmp_path)
    optimizer: Any = argparse.Namespace(param_groups=[{}])
    stock = (const_lr if "const" in flag else cosine_lr)(optimizer, 0.002, 7, steps)
    theirs = [0.002 if "skip" in flag else stock(step) for step in range(steps)]
    ours = [
        learning_rate(config.schedule, config.optimizer.lr, (step + 1) * 64, steps * 64) for step in range(steps)
    ]  # fmt: skip
    if "cosine" in flag:
        assert ours[:7] == pytest.approx(theirs[:7])
        assert ours[7:-1] == pytest.approx(theirs[8:])
    else:
        assert ours == pytest.approx(theirs)


@pytest.mark.parametrize(("power", "end"), [(1.0, 0.0), (0.5, 1e-4)])
def test_cooldowns_are_open_clips(power: float, end: float, tmp_path: Path):
    """As a cosine, a step ahead: the last step of a cooldown has its last rate."""
    command = f"{WDS} --train-num-samples 640 --epochs 4 --warmup 7 --lr 0.002 --lr-scheduler const-cooldown"
    cooled = f"--epochs-cooldown 2 --lr-cooldown-power {power} --lr-cooldown-end {end}"
    config = config_of(f"{command} {cooled}", tmp_path)
    optimizer: Any = argparse.Namespace(param_groups=[{}])
    stock = const_lr_cooldown(optimizer, 0.002, 7, 40, 20, power, end)
    theirs = [stock(step) for step in range(41)]  # the last is where the fall ends
    ours = [learning_rate(config.schedule, config.optimizer.lr, (step + 1) * 64, 40 * 64) for step in range(40)]
    assert ours[:19] == pytest.approx(theirs[:19])
    assert ours[19:] == pytest.approx(theirs[20:])
    assert ours[-1] == pytest.approx(end)
    with pytest.raises(UserError, match="const-cooldown needs --epochs-cooldown, in open_clip too"):
        text_of(command)


PROCESSES = {
    "python -m open_clip_train.main": 1,
    "CUDA_VISIBLE_DEVICES=0 python -u src/training/main.py": 1,
    "torchrun --nproc_per_node 4 -m open_clip_train.main": 4,
    "torchrun --nproc-per-node=4 --nnodes=3 -m training.main": 12,
    "torchrun --nproc_per_node gpu -m open_clip_train.main": None,
    "torchrun --nnodes 1:4 --nproc_per_node 2 -m open_clip_train.main": None,
    "python -m torch.distributed.launch --nproc_per_node=2 --use_env -m training.main": 2,
    "srun -n 16 python -u src/open_clip_train/main.py": 16,
    "srun --nodes=4 --ntasks-per-node 8 python main.py": 32,
    "srun -N4 torchrun --nproc_per_node 8 -m open_clip_train.main": 32,
    "srun -N 2 torchrun --nnodes $SLURM_NNODES --nproc_per_node 8 -m open_clip_train.main": 16,
    "srun python main.py": None,
    "torchrun --nproc_per_node 2 src/main.py": 2,
    "accelerate launch --num_processes 3 -m open_clip_train.main": 3,
    "mpirun -np 5 python -m open_clip_train.main": 5,
    "": None,
}


@pytest.mark.parametrize(("start", "processes"), PROCESSES.items())
def test_processes_are_those_of_the_launcher(start: str, processes: int | None):
    command = (
        f"cd /somewhere/src && {start} --train-data a.tar --epochs 2 2>&1 | tee log.txt" if start else "--epochs 2"
    )
    found = read_command(command)
    assert found.processes == processes
    assert found.flags[-2:] == ("--epochs", "2")


def test_unknown_number_of_processes_is_said_loudly_and_can_be_given(capsys: pytest.CaptureFixture[str]):
    command = "srun python main.py --train-data a.tar --model ViT-B-32"
    main([command])
    printed = capsys.readouterr()
    assert printed.out.startswith("# NOT carried over:\n#   the number of processes")
    assert "NOT carried over: the number of processes" in printed.err
    main(["--processes", "16", command])
    printed = capsys.readouterr()
    assert "global_batch_size = 1024" in printed.out
    assert printed.err == ""


def test_what_would_train_something_else_is_refused():
    others = {
        "--distill-model ViT-L-14 --distill-pretrained openai": "--distill-model",
        "--opt timm/lion": "--opt timm/lion: AdamW",
        "--train-data-upsampling-factors 1::2": "weights are those of a `mixture`",
        "--pretrained openai --force-custom-text": "weights bring their own architecture",
        "--force-image-size 64 32": "square pictures",
        "--pretrained-image": "--pretrained-image",
        "--model hf-hub:org/name": "local-dir:FOLDER",
        "--train-data 'pipe:aws s3 cp s3://bucket/{0..9}.tar -'": "name the shards themselves (s3://",
        "--dataset-type auto --train-data folder/x": "cannot tell its type",
    }
    for flag, message in others.items():
        with pytest.raises(UserError, match=re.escape(message)):
            text_of(f"{WDS} {flag}")


def test_texts_without_one_trainer_are_refused():
    for text, message in {
        "python train.py --lr 1": "no open_clip trainer",
        f"{WDS}\n{WDS}": "2 open_clip trainers",
        f"{TRAINER} --name 'x": "cannot be split",
    }.items():
        with pytest.raises(UserError, match=message):
            read_command(text)


def test_weights_architecture_and_objective(tmp_path: Path):
    assert (
        config_of(f"{WDS} --pretrained laion2b_s34b_b79k", tmp_path).model.init
        == "open_clip:ViT-B-32/laion2b_s34b_b79k"
    )
    resumed = config_of(f"{WDS} --resume x/epoch_3.pt", tmp_path)
    assert (resumed.model.arch, resumed.resume_open_clip) == ("ViT-B-32", "x/epoch_3.pt")
    assert config_of(f"{WDS} --model local-dir:here", tmp_path).model.init == "local-dir:here"
    assert config_of(f"{WDS} --force-quick-gelu", tmp_path).model.arch == "ViT-B-32-quickgelu"
    assert config_of(f"{WDS} --siglip --precision fp32", tmp_path).objective.type == "siglip"
    table = config_of(f"{WDS} --force-custom-text --force-image-size 64", tmp_path).model.inline
    assert table is not None
    assert table["custom_text"] is True
    with pytest.raises(UserError, match="nearest: ViT-B-32"):
        text_of(f"{WDS} --model ViT-B-33")


def test_augmentation(tmp_path: Path):
    jitter = "color_jitter='(0.3, 0.2, 0.1, 0.0)' color_jitter_prob=1 gray_scale_prob=0.2"
    augment = config_of(f"{WDS} --aug-cfg scale='(0.4, 1.0)' {jitter}", tmp_path).data.augment
    assert augment.crop_area == (0.4, 1.0)
    assert (augment.brightness, augment.contrast, augment.saturation, augment.grayscale) == (0.3, 0.2, 0.1, 0.2)
    text = text_of(
        f"{WDS} --aug-cfg color_jitter='(0.3, 0.2, 0.1, 0.1)' color_jitter_prob=0.8 use_timm=True re_prob=0.2"
    )
    head = text.partition("# From a command line")[0]
    assert "changes no hue" in head
    assert "re_prob=0.2: mmclip does not have it yet" in head


def test_synthetic_data(tmp_path: Path):
    config = config_of(f"{TRAINER} --dataset-type synthetic --train-num-samples 500 --model ViT-B-32", tmp_path)
    assert config.data.source == SyntheticConfig(samples=500)
    assert config.length.epochs == 32


def test_a_warmup_longer_than_the_run_is_said_loudly():
    text = text_of(f"{WDS} --epochs 1 --warmup 10000")
    assert text.startswith("# NOT carried over:\n#   --warmup 10000: as long as the run or longer (1,000 samples)")


def test_shell_variables_are_said_loudly():
    text = text_of(f"{TRAINER} --train-data $DATA/0.tar --model ViT-B-32")
    assert "#   --train-data '$DATA/0.tar': a shell variable stands in it" in text.partition("# From a command")[0]


def test_imagenet_table_is_a_run_file_once_it_is_switched_on(tmp_path: Path):
    text = text_of(f"{WDS} --imagenet-val /imagenet/val")
    table = text.partition("# [[evaluation.datasets]]")
    switched = table[0] + "[[evaluation.datasets]]" + re.sub(r"^# (?=\w+ = )", "", table[2], flags=re.MULTILINE)
    (tmp_path / "run.toml").write_text(switched)
    (dataset,) = load_run_config(tmp_path / "run.toml").evaluation.datasets
    assert (dataset.path, dataset.templates) == ("data/imagenet", "data/templates.txt")
    commands = [line.removeprefix("#   ") for line in text.splitlines() if line.startswith("#   python -c")]
    assert len(commands) == 2


def test_output_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO(f"#!/bin/bash\n# {WDS}\nset -e\n{WDS} \\  \n   --lr 3e-4 # mine\n"))
    main(["--output", str(tmp_path / "run.toml"), "-"])
    assert capsys.readouterr().out == ""
    assert load_run_config(tmp_path / "run.toml").optimizer.lr == 3e-4
    assert run_verb(main, ["--output", str(tmp_path / "run.toml"), WDS]) == 2
    main(shlex.split(WDS))  # several words
    assert tomllib.loads(capsys.readouterr().out)["data"]["source"]["shards"] == "d/{0..9}.tar"
    assert run_verb(main, ["--processes", "0", WDS]) == 2


def test_shards_on_a_store_are_carried_over_as_they_are():
    text = text_of(f"{WDS} --train-data s3://bucket/{{0..9}}.tar")
    assert tomllib.loads(text)["data"]["source"]["shards"] == "s3://bucket/{0..9}.tar"
    assert "mmclip shards index 's3://bucket/{0..9}.tar'" in text


def test_the_file_of_a_script_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "train.sh").write_text(f"#!/bin/bash\nset -e\n{WDS}\n")
    main([str(tmp_path / "train.sh")])
    assert tomllib.loads(capsys.readouterr().out)["data"]["source"]["shards"] == "d/{0..9}.tar"
    with pytest.raises(UserError, match=r"gone.sh: no such file: expected a script, or a command in quotes"):
        main([str(tmp_path / "gone.sh")])


def test_the_page_is_made_of_the_same_data():
    assert (ROOT / "docs" / "from_open_clip.md").read_text() == page()
    assert all(f"| `--{name}` |" in page() for name in flags())
