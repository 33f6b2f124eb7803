from pathlib import Path

import pytest

from mmclip.errors import UserError
from mmclip.objectives import SiglipConfig
from mmclip_data.loading.sources import IndexedTarsConfig, SyntheticConfig
from mmclip_launch.run.beginning.preflight import refuse_unwritable
from mmclip_launch.run.config import RunConfig, load_run_config, option_names
from mmclip_launch.run.tables import to_toml

REPOSITORY = Path(__file__).parents[3]
CONFIGS = sorted((REPOSITORY / "launch" / "configs").rglob("*.toml"))
OPTIONS = REPOSITORY / "tests" / "golden" / "train_options.txt"


def minimal(tmp_path: Path, extra: str = "") -> Path:
    path = tmp_path / "run.toml"
    path.write_text(
        f'output = "runs/x"\nglobal_batch_size = 8\nlength = {{ steps = 3 }}\n{extra}\n[data.source]\ntype = "synthetic"\n'
    )
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_packaged_run_file_loads(path: Path):
    assert isinstance(load_run_config(path), RunConfig)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_resolved_run_file_loads_back_to_an_equal_object(path: Path, tmp_path: Path):
    config = load_run_config(path, ["--optimizer.lr", "0.000123", "--seed", "7"])
    resolved = tmp_path / "config.toml"
    resolved.write_text(to_toml(config))
    assert load_run_config(resolved) == config


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path):
    path = minimal(tmp_path, "seed = 5\nlog_every_steps = 3")
    assert load_run_config(path).seed == 5
    config = load_run_config(path, ["--seed", "6", "--length.steps", "9", "--data.augment.crop_area", "0.5", "1.0"])
    assert (config.seed, config.log_every_steps, config.length.steps) == (6, 3, 9)
    assert config.data.augment.crop_area == (0.5, 1.0)
    assert config.optimizer.lr == 5e-4


@pytest.mark.parametrize("flags", [["--objective.type", "siglip"], ["--objective.type=siglip"]])
def test_a_flag_picks_the_member_of_a_union(tmp_path: Path, flags: list[str]):
    assert load_run_config(minimal(tmp_path), flags).objective == SiglipConfig()


def test_a_picked_member_takes_its_own_flags(tmp_path: Path):
    path = minimal(tmp_path)
    text = path.read_text().replace('type = "synthetic"', 'type = "tars"\nshards = "a.tar"')
    path.write_text(text)
    config = load_run_config(path, ["--data.source.type", "synthetic", "--data.source.image_size", "99"])
    assert config.data.source == SyntheticConfig(image_size=99)


def test_wrong_union_name_in_a_flag_is_one_line(tmp_path: Path):
    with pytest.raises(
        UserError,
        match=r"objective.type: expected one of clip, siglip, .*, masked, got 'siglib'; did you mean 'siglip'",
    ):
        load_run_config(minimal(tmp_path), ["--objective.type", "siglib"])


FLAGS = {
    "unknown": (["--optimizer.lrr", "1"], r"^flags: --optimizer.lrr: no such flag; did you mean --optimizer.lr\?"),
    "unknown and unlike any": (["--zzz", "1"], "^flags: --zzz: no such flag; `mmclip train CONFIG.toml --help` lists"),
    "no flag at all": (["extra"], "^flags: 'extra': expected a flag such as --seed 1"),
    "no number": (["--optimizer.lr", "fast"], "^flags: --optimizer.lr: expected a number, got 'fast'$"),
    "no whole number": (["--seed", "1.5"], "^flags: --seed: expected a whole number, got '1.5'$"),
    "no value": (["--seed"], "^flags: --seed: expected a value after it"),
    "one value of two": (["--data.augment.crop_area", "0"], "^flags: --data.augment.crop_area: expected 2 values"),
    "no such choice": (
        ["--precision", "fp8"],
        "^flags: --precision: expected one of 'auto', 'fp32', 'bf16', 'fp16', 'fp64', got 'fp8'$",
    ),
    "refused by the class": (["--seed", "-1"], "^flags: seed=-1: expected an integer from 0 "),
    "refused by a class within": (["--optimizer.lr", "50"], "^flags: optimizer.lr=50.0: expected a learning rate"),
}


@pytest.mark.parametrize(("flags", "message"), FLAGS.values(), ids=FLAGS.keys())
@pytest.mark.parametrize("width", ["40", "200"])
def test_a_wrong_flag_is_one_line_with_the_fix_however_wide_the_terminal(
    flags: list[str], message: str, width: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", width)
    with pytest.raises(UserError, match=message) as caught:
        load_run_config(minimal(tmp_path), flags)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("log_every_steps = 0", "log_every_steps=0"),
        ("seed = -1", "seed=-1"),
        ("[optimizer]\nlr = 50.0", "optimizer.lr=50.0"),
        ("[model]\ninit_ = 'x'", r"model.init_: unknown key; did you mean 'init'"),
    ],
)
def test_values_out_of_range_are_refused(tmp_path: Path, extra: str, message: str):
    with pytest.raises(UserError, match=message):
        load_run_config(minimal(tmp_path, extra))


def test_options_are_the_recorded_ones():
    """Flags are public: a new or a lost one is a change to this file that somebody reviews."""
    help_text = option_names(load_run_config(REPOSITORY / "launch" / "configs" / "tiny-vit.toml"))
    words = help_text.replace("│", " ").split()
    options = sorted({word.rstrip(",]").lstrip("[") for word in words if word.lstrip("[").startswith("--")})
    assert "\n".join(options) + "\n" == OPTIONS.read_text()


def test_a_tilde_in_a_run_file_is_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "run.toml").write_text(
        'output = "~/runs/x"\nglobal_batch_size = 8\nlength = { steps = 1 }\n'
        '[data]\nsource = { type = "tars", shards = ["~/a", "b~/c"], index_folder = "~/i" }\n'
    )
    config = load_run_config(tmp_path / "run.toml", ["--model.init", "~/w"])
    assert config.output == "/home/me/runs/x", "not a folder of the name ~, which somebody would remove by its name"
    assert isinstance(config.data.source, IndexedTarsConfig)
    assert config.data.source.shards == ("/home/me/a", "b~/c")
    assert config.data.source.index_folder == "/home/me/i"
    assert config.model.init == "/home/me/w"


def test_a_variable_that_nobody_replaces_does_not_become_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"output='\$SCRATCH/x': nothing is put in place of a \$NAME in a run file: write"
    ):
        refuse_unwritable(Path("$SCRATCH/x"))
    assert not list(tmp_path.iterdir())
