import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmclip.errors import UserError
from mmclip.towers.architecture import model_cfg_of
from mmclip.towers.two_tower import TwoTower
from mmclip_launch.models import main
from mmclip_launch.models.catalogue import Architecture, architectures, installed_versions, natural_key
from mmclip_launch.models.fill import fill_cache, live_tags
from mmclip_launch.models.listing import listing
from mmclip_launch.models.loading import Surroundings, hub_cache, loads, surroundings
from mmclip_launch.models.measure import measure
from mmclip_launch.models.records import SHIPPED, Measurement, Records, read_records, write_records
from mmclip_launch.models.rows import Row, build_rows, exact, find_measurement, search, sort

ROOT = Path(__file__).parents[3]
SHIPPED_RECORDS = read_records(SHIPPED)
ALL = {architecture.name: architecture for architecture in architectures()}
AT_HOME = Surroundings(has_transformers=True, offline=False, is_cached=lambda repository, file: False)

# Rows of open_clip's docs/model_profile.csv: total, image and text parameters in millions, then GFLOPs likewise.
PROFILE = {
    "ViT-B-32": (151.28, 87.85, 63.43, 14.78, 8.82, 5.96),
    "ViT-L-14": (427.62, 303.97, 123.65, 175.33, 162.03, 13.3),
    "ViT-bigG-14": (2539.57, 1844.91, 694.66, 1065.36, 967.5, 97.86),
    "RN50": (102.01, 38.32, 63.69, 18.18, 12.22, 5.96),
    "RN50x64": (623.26, 420.38, 202.88, 552.65, 529.11, 23.55),
    "convnext_xxlarge": (1200.58, 846.54, 354.03, 443.03, 395.94, 47.09),
    "EVA02-E-14-plus": (5044.89, 4350.56, 694.33, 2362.19, 2264.33, 97.86),
    "swin_base_patch4_window7_224": (178.56, 87.4, 91.16, 40.13, 30.86, 9.27),
    "ViT-B-16-SigLIP-i18n-256": (370.63, 92.93, 277.7, 57.84, 46.82, 11.02),
    "ViT-H-14-CLIPA-336": (968.64, 632.48, 336.16, 800.88, 781.45, 19.43),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No measurements and no downloads of whoever runs the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def rows(here: Surroundings = AT_HOME) -> list[Row]:
    return build_rows(list(ALL.values()), [SHIPPED_RECORDS], SHIPPED_RECORDS.tags, here)


def names(found: list[Row]) -> list[str]:
    return [row.name for row in found]


@pytest.mark.parametrize("name", PROFILE)
def test_shipped_figures_are_those_that_open_clip_documents(name: str):
    m = SHIPPED_RECORDS.measurements[name]
    millions = [(count or 0) / 1e6 for count in (m.total_params, m.image_params, m.text_params)]
    giga = [(count or 0) / 1e9 for count in (m.total_flops, m.image_flops, m.text_flops)]
    assert (*millions, *giga) == pytest.approx(PROFILE[name], abs=0.0101)


def test_a_text_tower_costs_what_the_closed_form_says():
    layers, width, tokens, embed = 12, 512, 77, 512
    # Per layer: query, key, value and output (4), and the hidden layer of four times the width, there and back (8), each a
    # multiply-add for each token; scores and their weighted sum are another 2 for each pair of tokens.
    multiply_adds = layers * (12 * width**2 * tokens + 2 * tokens**2 * width) + width * embed
    assert SHIPPED_RECORDS.measurements["ViT-B-32"].text_flops == 2 * multiply_adds
    assert SHIPPED_RECORDS.measurements["ViT-B-32"].total_params == 151_277_313


@pytest.mark.parametrize(
    "name", ["nano-vit-32", "tiny-resnet-48", "ViT-B-32", "RN50", "ViT-B-16-SigLIP", "roberta-ViT-B-32"]
)
def test_shipped_rows_equal_a_fresh_measurement(name: str):
    assert measure(ALL[name].model_cfg, ALL[name].fingerprint) == SHIPPED_RECORDS.measurements[name]


@pytest.mark.parametrize("name", ["nano-vit-32", "tiny-resnet-48"])
def test_parameters_are_what_a_real_model_holds(name: str):
    towers, m = TwoTower(model_cfg_of(name)), SHIPPED_RECORDS.measurements[name]
    assert m.total_params == sum(parameter.numel() for parameter in towers.parameters())
    assert m.image_params == sum(parameter.numel() for parameter in towers.backbone.visual.parameters())
    assert (m.embed_dim, m.context_length) == (towers.model_cfg["embed_dim"], towers.tokenizer.context_length)
    assert m.batch_norm is ("resnet" in name)


def smallest_of_each_kind() -> list[Architecture]:
    """An architecture for each family of image towers and each set of settings that describe the two towers."""
    kinds: dict[Any, Architecture] = {}
    for one in sorted(ALL.values(), key=lambda one: SHIPPED_RECORDS.measurements[one.name].total_params or 0):
        image, text = one.model_cfg["vision_cfg"], one.model_cfg["text_cfg"]
        family = image.get("timm_model_name", "").split("_")[0], isinstance(image.get("layers"), list)
        kinds.setdefault((family, frozenset(image), frozenset(text), frozenset(one.model_cfg)), one)
    return list(kinds.values())


@pytest.mark.slow
@pytest.mark.parametrize("half", range(2))
def test_each_kind_of_architecture_builds_or_fails_as_the_shipped_table_says(half: int):
    chosen = smallest_of_each_kind()
    assert len(chosen) > 30
    for one in chosen[half::2]:
        assert measure(one.model_cfg, one.fingerprint) == SHIPPED_RECORDS.measurements[one.name], one.name


def test_the_shipped_table_covers_the_pinned_versions():
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line[:60])
    pinned = {name: pins[name] for name in ("open_clip_torch", "timm", "torch")}
    assert SHIPPED_RECORDS.versions == pinned, f"mmclip models --measure --table {SHIPPED.relative_to(ROOT)}"
    assert set(SHIPPED_RECORDS.measurements) == set(ALL)
    assert all(SHIPPED_RECORDS.measurements[name].cfg == ALL[name].fingerprint for name in ALL)
    failing = {name for name, m in SHIPPED_RECORDS.measurements.items() if m.error}
    assert failing == {name for name in ALL if name.startswith("coca")}


def test_names_and_tags_are_all_that_open_clip_lists():
    import open_clip

    assert sorted(name for name, a in ALL.items() if a.home == "open_clip") == sorted(open_clip.list_models())
    live = json.loads(json.dumps(live_tags()))
    assert live == SHIPPED_RECORDS.tags
    assert [(a, t) for a, tags in SHIPPED_RECORDS.tags.items() for t in tags] == open_clip.list_pretrained()


def test_another_model_cfg_of_the_same_name_has_no_figures():
    changed = json.loads(json.dumps(ALL["ViT-B-32"].model_cfg))
    changed["vision_cfg"]["layers"] += 1
    architecture = replace(ALL["ViT-B-32"], model_cfg=changed)
    assert find_measurement(architecture, [SHIPPED_RECORDS]) is None
    assert loads(architecture, None, AT_HOME).answer == "?"
    reordered = replace(ALL["ViT-B-32"], model_cfg=dict(reversed(ALL["ViT-B-32"].model_cfg.items())))
    assert find_measurement(reordered, [SHIPPED_RECORDS]) == SHIPPED_RECORDS.measurements["ViT-B-32"]


def test_measuring_fills_the_cache_with_what_no_table_holds(tmp_path: Path):
    cfg = {**model_cfg_of("nano-vit-32"), "embed_dim": 40}
    unknown_timm = {**cfg, "vision_cfg": {"timm_model_name": "no_such_network", "image_size": 32}}
    own = [
        Architecture(name=name, home="open_clip", model_cfg=c) for name, c in (("wide", cfg), ("lost", unknown_timm))
    ]
    said: list[str] = []
    cache = tmp_path / "models.json"
    fill_cache(cache, build_rows([*own, ALL["RN50"]], [SHIPPED_RECORDS], {}, AT_HOME), said.append)
    stored = read_records(cache)
    assert set(stored.measurements) == {"wide", "lost"}
    assert stored.versions == installed_versions()
    found = {row.name: row for row in build_rows(own, [stored, SHIPPED_RECORDS], {}, AT_HOME)}
    towers = TwoTower(cfg)
    assert found["wide"].loads.answer == "yes"
    assert found["wide"].measurement is not None
    assert found["wide"].measurement.total_params == sum(p.numel() for p in towers.parameters())
    assert found["lost"].loads.answer == "no"
    assert "no_such_network" in found["lost"].loads.reason
    fill_cache(cache, list(found.values()), said.append)
    assert said[-1] == "all 2 architectures are measured"


def test_records_survive_the_file_and_a_foreign_file_is_refused_by_name(tmp_path: Path):
    path = tmp_path / "a" / "models.json"
    write_records(path, SHIPPED_RECORDS)
    assert read_records(path) == SHIPPED_RECORDS
    assert path.read_bytes() == SHIPPED.read_bytes()
    path.write_text('{"architectures": []}')
    with pytest.raises(UserError, match=r"models\.json is not a table"):
        read_records(path)
    assert read_records(tmp_path / "none.json") == Records()


@pytest.mark.parametrize(
    ("here", "answer", "reason"),
    [
        (AT_HOME, "hub", "fetched from the Hugging Face hub"),
        (replace(AT_HOME, has_transformers=False), "no", "mmclip[hf]"),
        (replace(AT_HOME, offline=True), "no", "HF_HUB_OFFLINE"),
        (replace(AT_HOME, offline=True, is_cached=lambda repository, file: True), "yes", ""),
    ],
    ids=["hub", "without-transformers", "offline", "cached"],
)
def test_a_text_side_from_the_hub_loads_where_its_files_are(here: Surroundings, answer: str, reason: str):
    found = loads(ALL["ViT-B-16-SigLIP"], SHIPPED_RECORDS.measurements["ViT-B-16-SigLIP"], here)
    assert found.answer == answer
    assert reason in found.reason
    assert loads(ALL["RN50"], SHIPPED_RECORDS.measurements["RN50"], here).answer == "yes"


def test_files_in_the_hub_cache_are_found_where_huggingface_hub_keeps_them(tmp_path: Path):
    file = tmp_path / "hub/models--timm--ViT-B-16-SigLIP/snapshots/0a1b/tokenizer_config.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    here = surroundings({"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"})
    assert here.offline
    assert here.is_cached("timm/ViT-B-16-SigLIP", "tokenizer_config.json")
    assert not here.is_cached("timm/ViT-B-16-SigLIP", "config.json")
    code = "from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"
    for variables in ({"HF_HOME": "/a/b"}, {"HF_HUB_CACHE": "/c"}, {"XDG_CACHE_HOME": "/d"}):
        environment = {"PATH": "/usr/bin", "HOME": "/root", **variables}
        told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert str(hub_cache(environment)) == told.stdout.strip()


def test_words_must_meet_in_one_name_or_in_one_set_of_weights():
    everything = rows()
    assert names(search(everything, ["vit-b-32", "LAION2B"])) == ["coca_ViT-B-32", "roberta-ViT-B-32", "ViT-B-32"]
    (hit,) = [row for row in search(everything, ["vit-b-32", "laion2b"]) if row.name == "ViT-B-32"]
    assert list(hit.tags) == ["laion2b_e16", "laion2b_s34b_b79k"]
    assert names(search(everything, ["open_clip:ViT-B-32/laion2b_e16"])) == ["ViT-B-32"]
    (by_name,) = search(everything, ["rn50x16-quick"])
    assert by_name.tags == SHIPPED_RECORDS.tags["RN50x16-quickgelu"]
    assert len(search(everything, [])) == len(everything)
    with pytest.raises(UserError, match="nearest"):
        search(everything, ["openai", "laion2b"])


def test_a_wrong_word_is_answered_with_the_nearest_names():
    with pytest.raises(UserError, match=r"'ViTB32'; nearest: ViT-B-32"):
        main(["ViTB32"])
    with pytest.raises(UserError, match=r"'zzzzqq'; `mmclip models --all` lists"):
        main(["zzzzqq"])


def test_the_whole_name_wins_over_names_that_contain_it():
    everything = rows()
    found = exact(everything, ["vit-b-32"])
    assert found is not None
    assert found.name == "ViT-B-32"
    one_tag = exact(everything, ["ViT-B-32/openai"])
    assert one_tag is not None
    assert list(one_tag.tags) == ["openai"]
    assert exact(everything, ["ViT-B"]) is None
    assert exact(everything, ["ViT-B-32/nothing"]) is None


def test_order_is_by_figure_with_the_unknown_last():
    everything = rows()
    for order, figure in (("params", "total_params"), ("flops", "total_flops")):
        values = [getattr(row.measurement, figure) for row in sort(everything, order)]
        known = [value for value in values if value is not None]
        assert known == sorted(known)
        assert values == known + [None] * (len(values) - len(known))
    numbers = ["RN101", "RN50x16", "RN50x4", "RN50"]
    assert sorted(numbers, key=natural_key) == ["RN50", "RN50x4", "RN50x16", "RN101"]


@pytest.mark.parametrize("show_weights", [False, True])
@pytest.mark.parametrize("width", [80, 120, 200])
def test_no_line_of_the_listing_is_wider_than_the_terminal(width: int, show_weights: bool):
    lines = [line.plain for line in listing(rows(), width, show_weights)]
    assert max(map(len, lines)) <= width
    assert [line.split()[0] for line in lines[1:]] == list(ALL)


def test_a_pipe_gets_every_column_and_every_tag():
    head, *lines = [line.plain for line in listing(rows(), None, show_weights=False)]
    words = "architecture params M image M text M GFLOPs image GF text GF px tokens embed loads weights"
    assert " ".join(head.split()) == words
    (line,) = [line for line in lines if line.startswith("ViT-B-32 ")]
    assert line.split()[1:11] == ["151", "87.8", "63.4", "14.8", "8.82", "5.96", "224", "77", "512", "yes"]
    assert line.endswith(", ".join(SHIPPED_RECORDS.tags["ViT-B-32"]))


def test_one_architecture_is_shown_in_full_with_lines_to_copy(capsys: pytest.CaptureFixture[str]):
    main(["ViT-B-32"])
    shown = capsys.readouterr().out
    assert "151,277,313: image tower 87,849,216, text tower 63,428,096, logit scale and bias 1" in shown
    assert "--model.arch ViT-B-32\n" in shown
    for tag in SHIPPED_RECORDS.tags["ViT-B-32"]:
        assert f"  open_clip:ViT-B-32/{tag}\n" in shown
    assert "quick GELU; hub timm/vit_base_patch32_clip_224.openai\n" in shown
    assert "mean 0.4815 0.4578 0.4082, std 0.2686 0.2613 0.2758, bicubic, shortest" in shown
    assert "also match: coca_roberta-ViT-B-32" in shown


def test_what_does_not_load_is_left_out_until_asked_for_and_says_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    main([])
    listed = capsys.readouterr()
    assert "coca" not in listed.out
    assert "4 that do not load here are left out" in listed.err
    main(["--all"])
    listed = capsys.readouterr()
    assert len(listed.out.splitlines()) == len(ALL) + 1
    assert "coca_ViT-L-14: model_cfg is a CoCa model (multimodal_cfg): mmclip trains two towers" in listed.err
    main(["coca_ViT-L-14"])
    assert "loads         no: model_cfg is a CoCa model" in capsys.readouterr().out
    main(["siglip", "--loads"])
    listed = capsys.readouterr()
    assert "hub: files of the text tower" in listed.err, "where nothing loads, what matches is shown with the reason"
    main(["ViT-B-16-SigLIP"])
    assert "hub files     timm/ViT-B-16-SigLIP/tokenizer_config.json\n" in capsys.readouterr().out
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    main(["ViT", "--loads"])
    listed = capsys.readouterr().out
    assert "ViT-B-32 " in listed
    assert "SigLIP" not in listed


def test_json_holds_exact_counts_and_the_settings_of_each_tag(capsys: pytest.CaptureFixture[str]):
    main(["convnext", "--sort", "flops", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["versions"] == installed_versions()
    assert [entry["name"] for entry in told["architectures"]][0] == "convnext_tiny"
    by_name = {entry["name"]: entry for entry in told["architectures"]}
    assert by_name["convnext_base"]["measurement"]["total_params"] == 151_518_849
    assert by_name["convnext_base"]["measurement"]["total_flops"] == 30_708_459_520 + 5_959_540_736
    assert by_name["convnext_base"]["weights"]["laion400m_s13b_b51k"]["hf_hub"]
    assert by_name["convnext_base"]["loads"] == "yes"


def test_a_cache_made_with_other_versions_is_not_believed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    wrong = {"RN50": Measurement(cfg=ALL["RN50"].fingerprint, total_params=1, image_params=1, text_params=0)}
    cache = tmp_path / "cache/mmclip/models.json"
    for versions, total in ((installed_versions(), 1), ({**installed_versions(), "timm": "0.1"}, 102_007_137)):
        write_records(cache, Records(versions=versions, measurements=wrong, tags=SHIPPED_RECORDS.tags))
        main(["RN50", "--json"])
        (entry,) = json.loads(capsys.readouterr().out)["architectures"]
        assert entry["measurement"]["total_params"] == total


def test_listing_and_details_import_neither_torch_nor_open_clip():
    code = (
        "import sys; from mmclip_launch.models import main; main([]); main(['ViT-B-32']); "
        "sys.exit(str({'torch', 'open_clip', 'timm', 'transformers', 'numpy'} & set(sys.modules) or 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.endswith("0\n"), done.stderr


def test_another_open_clip_is_asked_itself_and_the_difference_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    old = replace(SHIPPED_RECORDS, versions={**SHIPPED_RECORDS.versions, "open_clip_torch": "2.0"}, tags={})
    write_records(tmp_path / "old.json", old)
    monkeypatch.setattr("mmclip_launch.models.command.SHIPPED", tmp_path / "old.json")
    main(["convnext_base"])
    shown = capsys.readouterr()
    assert "the table is of open_clip 2.0" in shown.err
    assert "open_clip:convnext_base/laion400m_s13b_b51k" in shown.out
    main(["convnext"])
    assert f"figures are those of open_clip_torch 2.0; installed is {installed_versions()['open_clip_torch']}" in (
        capsys.readouterr().err
    )
