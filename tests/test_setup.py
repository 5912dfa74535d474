"""The requirements files: exact pins that cover what the code imports."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RUNTIME, DEV = ("requirements.txt", "requirements-dev.txt")
OPTIONAL = {"peft", "bitsandbytes"}  # only the flags that docs/scaling.md names ask for them
PIN = re.compile(r'([a-z0-9-]+)==\d+(?:\.\d+)+(?:; python_version (<|>=) "3\.(\d+)")?')
IMPORT_TO_PACKAGE = {"PIL": "pillow"}


def read_pins(name):
    """The lines of a requirements file without comments, as matches of PIN (None: not an exact pin)."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return {line: PIN.fullmatch(line) for line in lines if line and not line.startswith("#")}


def packages(*names):
    return {pin[1] for name in names for pin in read_pins(name).values() if pin}


def imported_packages(paths):
    """{package: a file that imports it} for every import of paths, inside functions too."""
    own = {path.stem for path in ROOT.glob("*.py")} | {"utils", "tests", "benchmarks"} | {path.stem for path in paths}
    found = {}
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in (name.partition(".")[0] for name in names):
                if name not in own and name not in sys.stdlib_module_names:
                    found[IMPORT_TO_PACKAGE.get(name, name.replace("_", "-"))] = path.name
    return found


@pytest.mark.parametrize("name", [RUNTIME, DEV])
def test_every_requirement_is_an_exact_pin(name):
    assert [line for line, pin in read_pins(name).items() if pin is None] == []


@pytest.mark.parametrize("minor", [10, 11, 12, 13, 14])
def test_each_python_gets_one_version_of_each_package(minor):
    pins = read_pins(RUNTIME).values()
    applies = {None: lambda bound: True, "<": lambda bound: minor < bound, ">=": lambda bound: minor >= bound}
    chosen = [pin[1] for pin in pins if pin and applies[pin[2]](int(pin[3] or 0))]
    assert sorted(chosen) == sorted(packages(RUNTIME))


def test_scripts_and_utils_import_only_runtime_requirements():
    paths = [*ROOT.glob("*.py"), *(ROOT / "utils").rglob("*.py")]
    imports = imported_packages(paths)
    assert {p: file for p, file in imports.items() if p not in packages(RUNTIME) | OPTIONAL} == {}


def test_tests_import_only_listed_requirements():
    imports = imported_packages(list((ROOT / "tests").rglob("*.py")))
    assert {p: file for p, file in imports.items() if p not in packages(RUNTIME, DEV)} == {}
