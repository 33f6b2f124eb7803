"""Each case runs in its own interpreter, because a process can declare an operator only once."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


def run_python(code: str) -> str:
    """Standard output of `code`; a failure shows its standard error."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_open_clip_imports_whatever_torchvision_came_with():
    out = run_python("""
        import mmclip
        import open_clip, torchvision
        from mmclip.torchvision_ops import stand_ins_declared
        assert stand_ins_declared() != torchvision.extension._has_ops(), "the real operators or the stand-ins, never both"
        print("imported")
    """)
    assert out == "imported"


def test_a_call_runs_the_real_operator_or_names_the_cause():
    run_python("""
        import mmclip
        import torch, torchvision
        from mmclip.torchvision_ops import stand_ins_declared
        declared = stand_ins_declared()
        boxes, scores = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1)
        try:
            kept = torch.ops.torchvision.nms(boxes, scores, 0.5)
        except NotImplementedError as error:
            assert declared and "torchvision build that matches" in str(error), error
        else:
            assert not declared and kept.tolist() == [0]
    """)


@pytest.mark.parametrize("loads", [True, False], ids=["loads", "does-not-load"])
def test_an_extension_that_loads_is_left_alone(loads: bool, tmp_path: Path):
    """torchvision's order of imports, with an extension of any name: a real one registers operators when it loads."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("from . import extension\nfrom torchvision import _meta_registrations\n")
    (package / "_paths.py").write_text("")
    (package / "extension.py").write_text(
        textwrap.dedent(f"""
            from . import _paths
            def _has_ops():
                return False
            if {loads}:
                import torch
                library = torch.library.Library("torchvision", "DEF")  # a second definition would be refused
                library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
                library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
                def _has_ops():
                    return True
        """)
    )
    (package / "_meta_registrations.py").write_text(
        "import torch\nassert torch.ops.torchvision.nms.default and torch.ops.torchvision.qnms.default\n"
    )
    run_python(f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import mmclip
        import torchvision
        assert torchvision.__file__.startswith({str(tmp_path)!r})
        from mmclip.torchvision_ops import stand_ins_declared
        assert stand_ins_declared() is {not loads}
    """)


def test_without_torchvision_nothing_is_declared():
    run_python("""
        import sys
        from importlib.machinery import PathFinder
        real = PathFinder.find_spec
        PathFinder.find_spec = lambda name, path=None, target=None: (
            None if name == "torchvision" else real(name, path, target)
        )
        import mmclip
        try:
            import torchvision
        except ModuleNotFoundError as error:
            assert error.name == "torchvision"
        import torch
        assert not hasattr(torch.ops.torchvision, "nms")
    """)


def test_import_of_mmclip_is_enough_and_imports_nothing_heavy():
    out = run_python("""
        import sys
        import mmclip
        heavy = {"torch", "torchvision", "open_clip", "numpy"} & set(sys.modules)
        import open_clip
        print(heavy, open_clip.__version__ != "")
    """)
    assert out == "set() True"


def test_installed_environment_imports_open_clip_without_mmclip_being_named():
    """What `accelerate launch` needs: its own command imports timm, hence torchvision, before any code of ours."""
    assert run_python("import timm, open_clip; print('imported')") == "imported"
