"""The house keeps its shape: what imports what, how long files are, what shipped code may contain."""

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest

from modeling_vit_custom.checkpoint_files import AUTO_MAP
from modeling_vit_custom.checkpoint_files import DUAL_ENCODER_AUTO_MAP
from modeling_vit_custom.checkpoint_files import SHIPPED_FILES
from tests.support import ROOT

PACKAGE = ROOT / "modeling_vit_custom"
# Each core file, and the core files that it may import: the flow goes one way.
FLOW = {
    "near_names": set(),
    "configuration_presets": {"near_names"},
    "configuration_keys": {"near_names"},
    "checkpoint_files": {"configuration_checks", "configuration_keys"},
    "configuration_heads": set(),
    "configuration_checks": {"configuration_heads"},
    "configuration_stages": {"configuration_checks"},
    "configuration_vit_custom": {
        "checkpoint_files",
        "configuration_checks",
        "configuration_heads",
        "configuration_keys",
        "configuration_presets",
        "configuration_stages",
        "near_names",
    },
    "modeling_arguments": {"near_names"},
    "modeling_embeddings": {"configuration_checks", "configuration_stages", "modeling_arguments"},
    "modeling_geometry": {"configuration_checks"},
    "modeling_attention": {"modeling_geometry", "modeling_arguments"},
    "modeling_adapting": {
        "checkpoint_files",
        "configuration_checks",
        "configuration_keys",
        "modeling_attention",
        "modeling_embeddings",
    },
    "modeling_stages": {"modeling_attention", "modeling_embeddings", "modeling_geometry"},
    "modeling_heads": {"configuration_checks", "modeling_arguments"},
    "modeling_mixed_sizes": {"modeling_arguments"},
}
FLOW["modeling_vit_custom"] = {*FLOW}
# Each head's file: all that the model's file imports, the model's file, parts of its own, and no other head's.
PARTS = {
    "modeling_pixels": {"configuration_checks", "configuration_stages", "modeling_arguments"},
    "modeling_detection_decoder": {"configuration_stages", "modeling_attention", "modeling_stages"},
    "modeling_detection_loss": set(),
    "modeling_contrastive": {"configuration_dual_encoder", "modeling_arguments"},
}
FLOW |= {f"modeling_{head}": {*FLOW} for head in ("masked", "segmentation", "detection", "dual_encoder")} | PARTS
FLOW["modeling_masked"].add("modeling_pixels")
FLOW["modeling_detection"] |= {"modeling_detection_decoder", "modeling_detection_loss"}
FLOW["configuration_dual_encoder"] = FLOW["configuration_vit_custom"] | {"configuration_vit_custom"}
FLOW["modeling_dual_encoder"] |= {"configuration_dual_encoder", "modeling_contrastive"}
FLOW["__init__"] = {
    "configuration_dual_encoder",
    "configuration_presets",
    "configuration_vit_custom",
    "modeling_detection",
    "modeling_dual_encoder",
    "modeling_masked",
    "modeling_segmentation",
    "modeling_vit_custom",
}
SHIPPED_MAY_IMPORT = {"torch", "transformers", "huggingface_hub", *sys.stdlib_module_names}
WINGS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file())
ROOF = "commands"  # alone joins the wings
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
core = pytest.mark.parametrize("path", [PACKAGE / f"{name}.py" for name in FLOW], ids=lambda path: path.stem)
shipped = pytest.mark.parametrize("path", [PACKAGE / name for name in SHIPPED_FILES], ids=lambda path: path.stem)


def imports(path: Path) -> list[tuple[int, str]]:
    """(leading dots, module) of every import statement anywhere in the file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or ""))
        elif isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
    return found


def test_every_core_file_stands_in_the_flow():
    assert {path.stem for path in PACKAGE.glob("*.py")} == FLOW.keys()
    assert {f"{name}.py" for name in FLOW} - {"__init__.py"} == set(SHIPPED_FILES)


@core
def test_the_core_imports_along_the_flow_and_no_wing(path):
    assert {module for level, module in imports(path) if level} <= FLOW[path.stem]
    assert all(level <= 1 for level, _ in imports(path))


@shipped
def test_shipped_code_imports_only_what_every_user_has(path):
    assert {module.split(".")[0] for level, module in imports(path) if not level} <= SHIPPED_MAY_IMPORT


@shipped
def test_shipped_code_holds_no_trap_of_remote_code(path):
    text, tree = path.read_text(), ast.parse(path.read_text())
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not calls & {"eval", "exec", "compile", "open", "__import__", "torch.load", "importlib.import_module"}
    assert not any(call.endswith("register_buffer") or call == "nn.Buffer" for call in calls)
    assert "from __future__ import annotations" not in text
    # transformers finds the files to ship by this expression over the text, docstrings included.
    found = re.findall(r"^\s*from\s+\.(\S+)\s+import", text, flags=re.MULTILINE)
    assert set(found) == {module for level, module in imports(path) if level}
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree))
    assert not re.search(r"isinstance\([^)]*Config\)", text)


@pytest.mark.parametrize(
    "entry", sorted({entry.split(".")[0] for entry in (*AUTO_MAP.values(), *DUAL_ENCODER_AUTO_MAP.values())})
)
def test_an_entry_imports_directly_all_that_it_imports_indirectly(entry):
    """transformers 5.8 copies a folder's entry and its direct imports into a place of their own, and no more."""
    reached, new = set(), FLOW[entry]
    while new:
        reached |= new
        new = set().union(*(FLOW[name] for name in new)) - reached
    assert {module for level, module in imports(PACKAGE / f"{entry}.py") if level} == reached


@core
def test_files_on_the_forward_path_are_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= 250


def test_the_top_level_forward_is_read_at_a_glance():
    tree = ast.parse((PACKAGE / "modeling_vit_custom.py").read_text())
    (model,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "ViTCustomModel")
    (forward,) = (node for node in model.body if isinstance(node, ast.FunctionDef) and node.name == "forward")
    assert forward.end_lineno - forward.lineno < 15


@pytest.mark.parametrize("wing", [wing for wing in WINGS if wing != ROOF])
def test_a_wing_imports_the_core_and_no_other_wings_inside(wing):
    ground = {"common"} if wing != "common" else set()
    for path in (PACKAGE / wing).rglob("*.py"):
        outside = len(path.relative_to(PACKAGE).parts)  # so many dots lead out of the wing
        for level, module in imports(path):
            assert level < outside or module in FLOW.keys() | ground, (path, module)
            assert level or not module.startswith("modeling_vit_custom"), (path, module)


def test_no_wing_imports_what_stands_above_it():
    for path in PACKAGE.rglob("*.py"):
        named = {module.partition(".")[0] for level, module in imports(path) if level}
        assert path.parent.name == ROOF or ROOF not in named, path


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_thin_and_has_a_main(path):
    assert len(path.read_text().splitlines()) <= 150
    if path.stem[0] == "_":  # a part of scripts
        return
    (main,) = (node for node in ast.parse(path.read_text()).body if getattr(node, "name", None) == "main")
    assert ast.unparse(main.args) == "argv: list[str] | None=None"


def tensor_functions():
    """Every function of the core that takes or gives a tensor, by its annotations."""
    for path in sorted(PACKAGE.glob("modeling_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and "torch.Tensor" in ast.unparse(node.args) + ast.unparse(
                node.returns or ast.Constant(None)
            ):
                yield pytest.param(node, id=f"{path.stem}.{node.name}:{node.lineno}")


@pytest.mark.parametrize("node", list(tensor_functions()))
def test_a_tensor_function_states_its_shapes_first(node):
    contract = (ast.get_docstring(node) or "").splitlines()[0:1]
    checks = node.name.startswith(("check_", "infer_"))  # these look, and give no tensor
    assert checks or (contract and "->" in contract[0]), ast.unparse(node).splitlines()[0]


FAMILY_BLIND = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent.name != "conversion"]


@pytest.mark.parametrize("path", FAMILY_BLIND, ids=lambda path: path.stem)
def test_no_code_asks_which_family_it_is(path):
    """The conversion wing alone has to tell whose checkpoint it was given."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.If):
            assert not re.search(r"\bfamily\b|model_type|== ['\"](vit|deit|swin|pit)", ast.unparse(node.test))


def test_every_wing_can_be_imported_alone():
    for wing in WINGS:
        assert importlib.import_module(f"modeling_vit_custom.{wing}").__all__


def test_the_floors_that_are_promised_are_the_versions_that_are_tested():
    promised, pinned = (ROOT / "pyproject.toml").read_text(), (ROOT / "constraints-oldest.txt").read_text()
    floors = dict(re.findall(r'^    "([\w-]+)>=([\d.]+)",$', promised, flags=re.MULTILINE))
    tested = dict(re.findall(r"^([\w-]+)==([\d.]+)$", pinned, flags=re.MULTILINE))
    tested = {name.lower().replace("_", "-"): version for name, version in tested.items()}
    assert len(floors) == 17
    assert floors == {name: tested[name] for name in floors}
