"""The import rules of docs/design.md, held against every script and module that is there."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "mediapipe", "diffusers", "transformers", "accelerate"}
LIGHT_MODULES = ("cli", "files", "images", "gestures", "captions", "hagrid")  # import neither torch nor mediapipe

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
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ["-m", ".".join(parts[:-1] if parts[-1] == "__main__" else parts)]


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


def test_scripts_and_modules_were_found():
    assert {ROOT / "utils" / f"{name}.py" for name in ("cli", "images", "gestures")} <= set(MODULES)


@pytest.mark.parametrize("path", SCRIPTS + MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_a_script(path):
    assert not imported_packages(path) & {script.stem for script in SCRIPTS}


def test_only_hands_imports_mediapipe():
    importers = {path for path in SCRIPTS + MODULES if "mediapipe" in imported_packages(path)}
    assert importers <= {ROOT / "utils" / "hands.py"}


def test_only_stable_diffusion_and_the_synthetic_models_import_diffusers():
    importers = {path for path in SCRIPTS + MODULES if "diffusers" in imported_packages(path)}
    allowed = {path for path in importers if (ROOT / "utils" / "synthetic") in path.parents}
    assert importers <= allowed | {ROOT / "utils" / f"{name}.py" for name in ("stable_diffusion", "sampling", "lora")}


@pytest.mark.parametrize(("module", "allowed"), [
    ("cli", {"utils"}), ("files", {"utils"}), ("gestures", {"utils"}), ("images", {"utils", "PIL", "numpy"}),
])
def test_the_first_modules_need_next_to_nothing(module, allowed):
    assert imported_packages(ROOT / "utils" / f"{module}.py") <= allowed | sys.stdlib_module_names


@pytest.mark.parametrize("path", [p for p in MODULES if p.stem in LIGHT_MODULES], ids=lambda path: path.stem)
def test_light_modules_import_neither_torch_nor_mediapipe(path):
    assert not imported_packages(path) & {"torch", "mediapipe"}
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    status, _, errors, packages = run_watching_imports(["-c", f"import {module}"])
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
