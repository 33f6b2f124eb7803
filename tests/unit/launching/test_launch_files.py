"""Every file that starts a run says what the launcher that is installed understands, and reaches the same entry point."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from torch.distributed.run import config_from_args, get_args_parser, parse_args

LAUNCH = Path(__file__).parents[3] / "launch"
SCRIPTS = sorted([*LAUNCH.glob("torchrun/*"), *LAUNCH.glob("slurm/*")])
CONFIGS = sorted(LAUNCH.glob("accelerate/*.yaml"))
RECORD = """#!/usr/bin/env bash
[[ $* == --help ]] && exec cat {words}.help
printf '%s\\n' "$@" > {words}
env > {words}.env
"""
KNOWS_GRACE = "shutdown_timeout" in vars(parse_args(["script"]))


def recorded(
    name: str, script: Path, words: list[str], place: Path, help_text: str | None = None, **variables: str
) -> tuple[list[str], dict[str, str]]:
    """The words and the environment with which `script` starts the program of this name."""
    stub = place / name
    stub.write_text(RECORD.format(words=place / "words"))
    stub.chmod(0o755)
    (place / "words.help").write_text(get_args_parser().format_help() if help_text is None else help_text)
    environment = {"PATH": f"{place}:/usr/bin:/bin", **variables}
    done = subprocess.run([str(script), *words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = (place / "words.env").read_text().splitlines()
    return (place / "words").read_text().splitlines(), dict(line.split("=", 1) for line in lines if "=" in line)


def test_all_the_files_are_there():
    assert {path.stem for path in CONFIGS} == {"cpu2", "single_gpu", "multi_gpu", "multi_node", "fsdp2"}
    assert {path.name for path in SCRIPTS} >= {"local.sh", "elastic.sh", "multi_node.sh"}
    assert {path.name for path in SCRIPTS} >= {"train.sbatch", "rank.sh", "eval_array.sbatch"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_sound_bash_that_stops_at_its_first_error(script: Path):
    assert os.access(script, os.X_OK)
    assert "\nset -euo pipefail\n" in script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True)
    if (shellcheck := shutil.which("shellcheck")) is not None:
        done = subprocess.run([shellcheck, str(script)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def launch(config: Path, *flags: str) -> tuple[object, dict[str, str]]:
    words = ["--config_file", str(config), *flags, "-m", "mmclip_launch.train", "run.toml"]
    options, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    return options, prepare_multi_gpu_env(options)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_accelerate_knows_every_word_of_a_configuration(config: Path):
    table = yaml.safe_load(config.read_text())
    options, _ = launch(config)
    assert options.num_processes == table["num_processes"]  # pyright: ignore[reportAttributeAccessIssue]
    assert options.training_script == "mmclip_launch.train"  # pyright: ignore[reportAttributeAccessIssue]
    known = set(vars(launch_command_parser().parse_args(["script"])))
    assert set(table.get("fsdp_config", {})) <= known
    named = {"compute_environment", "distributed_type", "use_cpu", "fsdp_config"}
    assert set(table) - named <= known


def test_the_configuration_of_many_machines_takes_its_number_and_its_head_from_the_command():
    options, _ = launch(LAUNCH / "accelerate/multi_node.yaml", "--machine_rank", "1", "--main_process_ip", "head")
    given = vars(options)
    assert (given["nnodes"], given["node_rank"], given["nproc_per_node"]) == ("2", 1, "8")
    assert (given["rdzv_backend"], given["rdzv_endpoint"]) == ("static", "head:29500")


def test_the_sharding_configuration_asks_for_the_second_version():
    _, environment = launch(LAUNCH / "accelerate/fsdp2.yaml")
    assert (environment["ACCELERATE_USE_FSDP"], environment["FSDP_VERSION"]) == ("true", "2")


def test_the_script_for_one_machine_starts_as_many_processes_as_are_asked_for(tmp_path: Path):
    words, environment = recorded("torchrun", LAUNCH / "torchrun/local.sh", ["a b.toml"], tmp_path, PROCESSES="3")
    options = parse_args(words)
    assert (options.nproc_per_node, options.standalone) == ("3", True)
    assert (options.training_script, options.training_script_args) == ("mmclip_launch.train", ["a b.toml"])
    assert int(environment["OMP_NUM_THREADS"]) >= 1


def test_the_elastic_script_allows_for_machines_that_come_and_go(tmp_path: Path):
    words, _ = recorded(
        "torchrun", LAUNCH / "torchrun/elastic.sh", ["run.toml", "--output", "a b"], tmp_path,
        PROCESSES="2", NODES="1:4", HEAD="node0:29400", JOB="first",
    )  # fmt: skip
    options = parse_args(words)
    config, _, arguments = config_from_args(options)
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (1, 4, 2)
    assert (config.rdzv_backend, config.rdzv_endpoint, config.run_id) == ("c10d", "node0:29400", "first")
    assert config.max_restarts == 100
    assert not KNOWS_GRACE or config.shutdown_timeout == 300
    assert {"SIGTERM", "SIGUSR1", "SIGINT"} <= set(config.signals_to_handle.split(","))
    assert arguments[-5:] == ["mmclip_launch.train", "run.toml", "--output", "a b", "--resume"]


def test_the_script_for_a_fixed_number_of_machines_says_which_this_is(tmp_path: Path):
    script = LAUNCH / "torchrun/multi_node.sh"
    words, _ = recorded("torchrun", script, ["run.toml"], tmp_path, PROCESSES="8", NODES="2", NODE="1", HEAD="node0")
    config, _, _ = config_from_args(parse_args(words))
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (2, 2, 8)
    assert (config.rdzv_configs["rank"], config.rdzv_endpoint) == (1, "node0:29500")


@pytest.mark.parametrize("script", ["elastic.sh", "multi_node.sh"])
def test_time_to_end_is_asked_for_where_the_launcher_has_a_word_for_it(script: str, tmp_path: Path):
    place = {"PROCESSES": "2", "NODES": "2", "NODE": "0", "HEAD": "node0"}
    for word in ("--shutdown-timeout SECONDS", ""):
        words, _ = recorded(
            "torchrun", LAUNCH / "torchrun" / script, ["run.toml"], tmp_path, word, GRACE_SECONDS="7", **place
        )
        assert ("--shutdown-timeout=7" in words) is bool(word)


@pytest.mark.parametrize(
    ("nodes", "node", "expected"), [("8", "0", "8"), ("8(x2)", "1", "8"), ("2(x3),1", "2", "2"), ("2(x3),1", "3", "1")]
)
def test_a_task_of_slurm_is_one_rank(nodes: str, node: str, expected: str, tmp_path: Path):
    variables = {"SLURM_PROCID": "5", "SLURM_NTASKS": "16", "SLURM_LOCALID": "3", "SLURM_NODEID": node}
    words, environment = recorded(
        "python", LAUNCH / "slurm/rank.sh", ["run.toml", "--resume"], tmp_path,
        **variables, SLURM_STEP_TASKS_PER_NODE=nodes, SLURM_CPUS_PER_TASK="7",
    )  # fmt: skip
    assert words == ["-m", "mmclip_launch.train", "run.toml", "--resume"]
    expected_ones = {"RANK": "5", "WORLD_SIZE": "16", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": expected}
    assert {name: environment[name] for name in expected_ones} == expected_ones
    assert environment["OMP_NUM_THREADS"] == "7"


def test_a_task_of_the_array_evaluates_its_own_line(tmp_path: Path):
    (tmp_path / "list.txt").write_text("runs/first\nopen_clip:ViT-B-32/$(touch ran)\n")
    script, words = LAUNCH / "slurm/eval_array.sbatch", [str(tmp_path / "list.txt"), "--suite", "s.toml"]
    got, _ = recorded("srun", script, words, tmp_path, SLURM_ARRAY_TASK_ID="2")
    expected = ["python", "-m", "mmclip_launch.evaluate", "open_clip:ViT-B-32/$(touch ran)", "--skip-existing"]
    assert got == ["--ntasks=1", *expected, "--suite", "s.toml"]
    environment = {"PATH": "/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "3"}
    done = subprocess.run([str(script), *words], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "has 2 lines, and this is task 3" in done.stderr) == (2, True)


def test_python_alone_is_a_launcher_too():
    done = subprocess.run(
        [sys.executable, "-m", "mmclip_launch.train", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "--global_batch_size" in done.stdout or "--global-batch-size" in done.stdout
