"""The import rules of docs/design.md, held against every script and module that is there."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "ai_edge_litert", "diffusers", "transformers", "accelerate"}
LIGHT_MODULES = ("system.cli", "system.files", "data.images", "data.gestures", "captions.captioning", "data.hagrid")
# Imports go leftwards only: system < data < hands, models < captions, method, synthetic < metrics < scripts
FLOORS = (("system",), ("data",), ("hands", "models"), ("captions", "method", "synthetic"), ("metrics",))
DOORS = {"hagrid", "results_table"}  # of fixed `python -m` names; all else is in a room

SCRIPTS = sorted(ROOT.glob("*.py"))
MODULES = sorted((ROOT / "utils").rglob("*.py"))


def imported_names(path):
    """Dotted names of all that a file imports, inside functions too; `from a import b` counts as a.b."""
    names = set()
    package = path.relative_to(ROOT).parent.parts if path.is_relative_to(ROOT) else ()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[:len(package) - node.level + 1] if node.level else ()
            source = [*above, *([node.module] if node.module else [])]
            names.update(".".join([*source, alias.name]) for alias in node.names)
    return names


def imported_packages(path):
    return {name.split(".")[0] for name in imported_names(path)}


def has_main(path):
    """Whether the file runs something under `if __name__ == "__main__"`."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return any(isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) for node in body)


def command(path):
    """How a user runs a file: `train.py`, or `-m utils.hagrid`."""
    if path in SCRIPTS:
        return [path.name]
    return ["-m", module_name(path).removesuffix(".__main__")]


def run_watching_imports(args):
    """(exit status, standard output, error lines, top-level packages imported) of `python <args>`."""
    timed = [sys.executable, "-X", "importtime", *args]
    result = subprocess.run(timed, cwd=ROOT, capture_output=True, text=True, timeout=300)
    lines = {True: [], False: []}
    for line in result.stderr.splitlines():
        lines[line.startswith("import time:")].append(line)
    packages = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines[True]}
    return result.returncode, result.stdout, lines[False], packages


def runnable(paths):
    return [pytest.param(command(path), id=" ".join(command(path))) for path in paths if has_main(path)]


# The tests below see what they look for


def test_imports_are_seen_wherever_they_stand(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("import a.b, c as d\nfrom e import f as g\ndef late():\n    from h.i import j\n")
    assert imported_names(path) == {"a.b", "c", "e.f", "h.i.j"}


def test_packages_imported_by_a_run_are_seen():
    args = ["-c", "import json.tool; raise SystemExit('bad')"]
    status, output, errors, packages = run_watching_imports(args)
    assert (status, output, errors) == (1, "", ["bad"])
    assert {"json", "argparse"} <= packages


# Rules of the source


def room_of(module):
    """The room of a dotted name: "utils.data.images" is in "data"; None outside the rooms."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "utils" and (ROOT / "utils" / parts[1]).is_dir() else None


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(path):
    """Modules of utils, dotted, that a file imports: of `from utils.data.images import open_image` the module alone."""
    known = {module_name(module) for module in MODULES}
    names = {name for name in imported_names(path) if name.startswith("utils.")}
    return {name if name in known else name.rpartition(".")[0] for name in names} & known


def longest_chain(imports):
    """The longest chain of imports of {module: modules it imports}. AssertionError where it bites its tail."""
    chains = {}

    def chain(module, above):
        assert module not in above, f"imports in a circle: {' > '.join([*above, module])}"
        if module not in chains:
            below = [chain(other, [*above, module]) for other in sorted(imports[module])]
            chains[module] = [module, *max(below, key=len, default=[])]
        return chains[module]

    return max((chain(module, []) for module in sorted(imports)), key=len)


def test_utils_has_rooms_and_no_loose_modules_but_doors():
    assert {path.stem for path in (ROOT / "utils").glob("*.py")} == DOORS | {"__init__"}
    assert {path.name for path in (ROOT / "utils").iterdir() if path.is_dir()} - {"__pycache__"} == {
        room for floor in FLOORS for room in floor}
    for door in DOORS:
        assert len((ROOT / "utils" / f"{door}.py").read_text(encoding="utf-8").splitlines()) < 10


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_leftwards_only(path):
    height = {room: number for number, floor in enumerate(FLOORS) for room in floor}
    room = room_of(module_name(path))
    for module in imported_modules(path) if room else ():
        other = room_of(module)
        assert other == room or height[other] < height[room], f"{path} imports {module}"


def test_imports_make_no_circle():
    imports = {module_name(path): imported_modules(path) - {module_name(path)} for path in MODULES}
    assert len(longest_chain(imports)) <= 10
    with pytest.raises(AssertionError, match="in a circle: a > b > a"):
        longest_chain({"a": {"b"}, "b": {"a"}})


@pytest.mark.parametrize("path", SCRIPTS + MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_wording_rules_have_one_door(path):
    if path.parent.name != "rules":
        assert not [module for module in imported_modules(path) if module.startswith("utils.captions.rules.")]


@pytest.mark.parametrize("path", SCRIPTS + MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_a_script(path):
    assert not imported_packages(path) & {script.stem for script in SCRIPTS}


def test_only_the_hand_landmarker_imports_litert():
    importers = {path for path in SCRIPTS + MODULES if "ai_edge_litert" in imported_packages(path)}
    assert importers == {ROOT / "utils" / "hands" / "landmarker.py"}


def test_only_models_method_and_synthetic_import_diffusers():
    importers = {path for path in SCRIPTS + MODULES if "diffusers" in imported_packages(path)}
    assert {room_of(module_name(path)) for path in importers} <= {"models", "method", "synthetic"}


@pytest.mark.parametrize("name", LIGHT_MODULES)
def test_light_modules_import_neither_torch_nor_litert(name):
    status, _, errors, packages = run_watching_imports(["-c", f"import utils.{name}"])
    assert (status, errors) == (0, []) and not packages & HEAVY


# Rules of a run


@pytest.mark.parametrize("args", runnable(SCRIPTS + MODULES))
def test_help_answers_before_anything_heavy_is_imported(args):
    status, output, errors, packages = run_watching_imports([*args, "--help"])
    assert (status, errors) == (0, [])
    assert output.startswith(f"usage: {'python ' if '-m' in args else ''}{' '.join(args)} [-h]")
    assert not packages & HEAVY


@pytest.mark.parametrize("args", runnable(SCRIPTS + MODULES))
def test_a_wrong_argument_answers_in_one_line_before_anything_heavy_is_imported(args):
    status, output, errors, packages = run_watching_imports([*args, "--seed", "-1"])
    assert (status, output, len(errors)) == (2, "", 1), errors
    assert not packages & HEAVY
