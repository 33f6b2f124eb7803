"""The rules of CONTRIBUTING.md that a machine can check."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
SHIPPED = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
WRITTEN = SHIPPED + sorted(path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
TREES = {path: ast.parse(path.read_text(), filename=str(path)) for path in WRITTEN}

UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
NAMED_OTHERWISE = {"umap": "umap-learn"}
"""Distributions of optional modules that need not be installed here, where the two names differ."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(tree: ast.AST) -> set[str]:
    """The full names of the modules that are imported anywhere, also inside functions."""
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}


def normalised(requirement: str) -> str:
    """The distribution's name, as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s<>=!~\[;]", requirement, maxsplit=1)[0]).lower()


def constraints() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return {normalised(name): version for name, version in (line.split("==") for line in lines)}


def test_the_rules_see_every_package():
    assert {path.relative_to(ROOT).parts[0] for path in SHIPPED} == {"mmclip", "data_pipelines", "eval", "launch"}


def test_no_file_is_over_400_lines():
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in WRITTEN}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_no_function_is_over_80_lines():
    lengths = {
        f"{name_of(path)}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: length for name, length in lengths.items() if length > 80} == {}


def test_no_room_is_named_after_nothing():
    assert [name_of(path) for path in WRITTEN if {"utils", "common", "helpers"} & {*path.parts, path.stem}] == []


def test_tests_and_folders_hold_no_init_file():
    # A tests/mmclip/__init__.py would shadow the package of that name.
    assert [name_of(path) for path in (ROOT / "tests").rglob("__init__.py")] == []
    assert [folder for folder in ("data_pipelines", "eval", "launch") if (ROOT / folder / "__init__.py").exists()] == []


def test_shipped_code_never_unpickles():
    imported = {
        name_of(path): {name.split(".")[0] for name in imports(TREES[path])} & UNSAFE_MODULES for path in SHIPPED
    }
    assert {name: found for name, found in imported.items() if found} == {}
    loads = [
        f"{name_of(path)}:{node.lineno}"
        for path in SHIPPED
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load" and not is_weights_only(node)
    ]
    assert loads == []


def is_weights_only(call: ast.Call) -> bool:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    return isinstance(flag := given.get("weights_only"), ast.Constant) and flag.value is True


def test_shapes_are_annotated_so_annotations_stay_objects():
    assert [name_of(path) for path in SHIPPED if "__future__" in imports(TREES[path])] == []


def test_the_packages_import_what_they_declare_and_nothing_else():
    local = {Path(package).name for package in PACKAGES}
    modules = {name.split(".")[0] for path in SHIPPED for name in imports(TREES[path])}
    modules -= set(sys.stdlib_module_names) | local
    installed = packages_distributions()
    used = {
        normalised(name) for module in modules for name in installed.get(module, [NAMED_OTHERWISE.get(module, module)])
    }
    required = {normalised(line) for line in PROJECT["project"]["dependencies"]}
    extras = PROJECT["project"]["optional-dependencies"]
    optional = {normalised(line) for extra, lines in extras.items() if extra != "dev" for line in lines}
    assert used - required - optional == set(), "imported, but not declared"
    assert required - used == set(), "declared, but not imported"


def test_constraints_pin_torch_and_every_dependency_exactly():
    pins = constraints()
    # pip takes a local CPU build of torch only where a version is asked for exactly, without a local suffix.
    assert (pins["torch"], pins["torchvision"]) == ("2.13.0", "0.28.0")
    assert [name for name, version in pins.items() if not re.fullmatch(r"[0-9][0-9a-z.]*", version)] == []
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = PROJECT["project"]["dependencies"] + [
        line for extra in ("dev", "tensorboard", "wandb") for line in extras[extra]
    ]
    assert sorted({normalised(line) for line in wanted} - pins.keys()) == []


def test_imports_point_one_way(monkeypatch, capsys):
    from importlinter.cli import lint_imports

    monkeypatch.chdir(ROOT)
    code = lint_imports(config_filename="pyproject.toml", no_cache=True)
    assert code == 0, capsys.readouterr().out


@pytest.mark.parametrize("path", sorted((ROOT / "launch/configs").glob("*.toml")), ids=lambda path: path.stem)
def test_every_launch_config_is_toml_that_explains_itself(path: Path):
    text = path.read_text()
    assert tomllib.loads(text)
    assert text.startswith("#"), "the first line says what the run is for"
