import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mmclip_launch.doctor.command import SECTIONS, examine_all, finding_lines, main
from mmclip_launch.doctor.conflicts import (
    claim_findings,
    closure,
    double_installations,
    format_findings,
    requirement_findings,
    torchvision_operators,
)
from mmclip_launch.doctor.finding import Finding, examine
from mmclip_launch.doctor.limits import shared_memory_finding
from mmclip_launch.doctor.packages import extra_findings, python_version, required_findings


def states(findings: Iterator[Finding] | list[Finding]) -> dict[str, str]:
    return {finding.name: finding.state for finding in findings}


def only(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    return finding


def requirements(*lines: str) -> list[Requirement]:
    return [Requirement(line) for line in lines]


# --- the command


def test_report_is_one_json_object_whose_problems_decide_the_exit_code(capsys: pytest.CaptureFixture[str]):
    try:
        main(["--json"])
        code = 0
    except SystemExit as ended:
        code = ended.code
    told = json.loads(capsys.readouterr().out)
    assert code == (1 if told["problems"] else 0)
    assert told["problems"] == sum(finding["state"] == "problem" for finding in told["findings"])
    assert list(dict.fromkeys(finding["section"] for finding in told["findings"])) == list(SECTIONS)
    assert all(finding["fix"] for finding in told["findings"] if finding["state"] != "ok")
    by_name = {finding["name"]: finding for finding in told["findings"]}
    assert by_name["mmclip"]["value"] == "0.1.0"
    assert "FLOP/s" in by_name["cpu fp32"]["value"]


@pytest.mark.slow
def test_too_few_open_files_end_in_code_1_and_name_the_fix():
    command = f"ulimit -Sn 200; exec {sys.executable} -c 'from mmclip_launch.doctor import main; main([])'"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("problem  open files")]
    assert "200 (hard limit" in line
    assert "fix: ulimit -n" in line
    assert "problem" in done.stdout.splitlines()[-1]


def test_a_probe_that_fails_is_a_problem_that_names_the_exception_and_the_others_go_on():
    def broken_driver() -> Iterator[Finding]:
        yield Finding(name="first", value="seen")
        raise ZeroDivisionError("no such device")

    def sound() -> Iterator[Finding]:
        yield Finding(name="second", value="seen")

    found = [finding for _, finding in examine_all({"section": (broken_driver, sound)})]
    assert [finding.name for finding in found] == ["first", "broken driver", "second"]
    assert found[1].state == "problem"
    assert "ZeroDivisionError: no such device" in found[1].value
    assert list(examine(sound)) == [Finding(name="second", value="seen")]


def test_what_needs_no_torch_is_on_the_screen_before_torch_is_imported():
    code = """
        import sys
        from mmclip_launch.doctor.command import SECTIONS, examine_all
        quick = {name: SECTIONS[name] for name in ("versions", "machine", "limits")}
        assert [finding.name for _, finding in examine_all(quick)]
        assert not {"torch", "open_clip", "numpy"} & set(sys.modules), sorted(sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_lines_fit_the_terminal_and_are_never_broken_in_a_pipe():
    finding = only(iter([shared_memory_finding(64 * 2**20, 64 * 2**20)]))
    for width in (80, 200):
        lines = [line.plain for line in finding_lines(finding, width)]
        assert max(map(len, lines)) <= width
        assert lines[0].startswith("problem  shared memory")
        assert sum("-> docker run --shm-size" in line for line in lines) == 1
    (line,) = finding_lines(finding, None)
    assert line.plain.endswith(finding.fix)


# --- packages


def test_python_is_held_against_what_mmclip_asks_for():
    assert python_version("3.11.2", ">=3.11").state == "ok"
    assert python_version("3.14.0rc1", ">=3.11").state == "ok"
    assert "Python >=3.11" in python_version("3.9.2", ">=3.11").fix


def test_missing_and_old_requirements_are_problems_with_a_command():
    asked = requirements("torch>=2.11", "open_clip_torch>=3.3", "rich>=14", "xxhash>=3.5")
    found = list(required_findings(asked, {"torch": "2.13.0+cpu", "open-clip-torch": "2.24.0", "rich": "15.0"}))
    assert states(found) == {"torch": "ok", "open-clip-torch": "problem", "xxhash": "problem", "others": "ok"}
    by_name = {finding.name: finding for finding in found}
    assert by_name["open-clip-torch"].value == "2.24.0 (asked: >=3.3)"
    assert by_name["open-clip-torch"].fix == 'pip install "open_clip_torch>=3.3"'
    assert by_name["xxhash"].value.startswith("missing")


def test_extras_are_whole_absent_or_half_there():
    asked = requirements(
        'datasets>=4.0; extra == "hf"', 'transformers>=4.57; extra == "hf"', 'wandb>=0.22; extra == "wandb"',
        'peft>=0.18; extra == "lora"', 'pytest; extra == "dev"', "torch",
    )  # fmt: skip
    present = {"transformers": "4.30.0", "wandb": "0.31.0", "torch": "2.13.0"}
    found = list(extra_findings(asked, ["hf", "wandb", "lora", "dev"], present))
    assert [(finding.value, finding.state) for finding in found] == [
        ("installed: wandb", "ok"),
        ("hf: datasets missing, transformers 4.30.0", "note"),
        ("not installed: lora", "ok"),
    ]
    assert found[1].fix == "pip install 'mmclip[hf]'"


# --- conflicts


def test_broken_requirements_are_problems_where_mmclip_depends_on_them():
    wanted = {
        "mmclip": requirements("torch", 'wandb; extra == "wandb"'),
        "torch": requirements("sympy>=1.13", 'pywin32; sys_platform == "win32"'),
        "sympy": requirements("mpmath<1.4"),
        "wandb": requirements("protobuf<7"),
    }
    present = {"torch": "2.13.0", "sympy": "1.14", "mpmath": "1.4.1", "wandb": "0.31.0"}
    needed = closure("mmclip", wanted)
    assert needed == {"mmclip", "torch", "sympy", "mpmath"}
    found = list(requirement_findings(wanted, present, needed))
    assert states(found) == {"sympy": "problem", "wandb": "note"}
    assert found[0].value == "asks for mpmath<1.4; found: 1.4.1"
    assert found[1].value == "asks for protobuf<7; found: missing"


def test_broken_requirements_agree_with_pip_check():
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    found = list(examine_all({"packages": SECTIONS["packages that must fit together"][:1]}))
    assert (done.returncode == 0) == all(finding.state == "ok" for _, finding in found), done.stdout


def test_two_owners_of_an_import_name_are_a_problem_but_not_of_a_namespace():
    claims = {
        "open_clip": ["open_clip_torch", "open-clip"],
        "google": ["protobuf", "googleapis-common-protos"],
        "torch": ["torch", "torch"],
        "elsewhere": ["a", "b"],
    }
    ours = {"open-clip-torch", "torch", "protobuf"}
    found = only(claim_findings(claims, ours, lambda name: name == "google"))
    assert (found.name, found.state) == ("import open_clip", "problem")
    assert found.fix == "pip uninstall open-clip; pip install --force-reinstall --no-deps open-clip-torch"
    assert only(claim_findings({"torch": ["torch"]}, ours, lambda name: False)).state == "ok"


def test_a_package_installed_twice_in_one_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert list(double_installations()) == []
    for version in ("1.0", "2.0"):
        folder = tmp_path / f"twice_there-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: twice_there\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = only(double_installations())
    assert (found.name, found.state, found.value) == ("twice-there", "problem", "is installed 2 times in one folder")


def test_torchvision_is_noted_exactly_where_its_operators_did_not_load():
    found = only(torchvision_operators())
    from torchvision.extension import _has_ops

    assert found.state == ("ok" if _has_ops() else "note")
    assert ("stand-ins" in found.value) is not _has_ops()


def test_a_torchvision_that_cannot_be_imported_is_a_problem(monkeypatch: pytest.MonkeyPatch):
    def fails(name: str) -> None:
        raise RuntimeError(f"{name}: compiled with different CUDA major versions")

    monkeypatch.setattr("mmclip_launch.doctor.conflicts.importlib.import_module", fails)
    found = only(torchvision_operators())
    assert found.state == "problem"
    assert "different CUDA major versions" in found.value
    assert "from one index" in found.fix


def test_formats_that_pillow_lacks_are_named():
    whole = {"jpg": True, "zlib": True, "webp": True, "libjpeg_turbo": True}
    assert [finding.state for finding in format_findings(whole)] == ["ok"]
    assert only(format_findings({**whole, "webp": False})).state == "note"
    assert only(format_findings({**whole, "libjpeg_turbo": False, "jpg": False})).value == "cannot read JPEG"
