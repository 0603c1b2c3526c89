"""What is installed: one import name, every folder and data file, and nothing imported that is not declared."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from importlib.metadata import packages_distributions
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
FOLDERS = ("edge_circuits", "graphs", "eap", "acdc", "benchmarks")
OUTSIDE = sys.stdlib_module_names | {"edge_circuits"}


@pytest.fixture(scope="module")
def setup() -> ConfigParser:
    """The project's setup.cfg."""
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def sources() -> Iterator[Path]:
    """All files of code that are installed."""
    for folder in FOLDERS:
        yield from sorted((ROOT / folder).rglob("*.py"))


def test_every_folder_is_a_package(setup: ConfigParser) -> None:
    folders = {file.parent.relative_to(ROOT).as_posix().replace("/", ".") for file in sources()}
    named = {folder if folder.startswith("edge_circuits") else f"edge_circuits.{folder}" for folder in folders}
    listed = setup["options"]["packages"].split()
    assert len(listed) == len(set(listed)) and set(listed) == named
    assert all((ROOT / folder.replace(".", "/") / "__init__.py").exists() for folder in folders)


def imported(source: Path) -> Iterator[tuple[str, bool]]:
    """Every package from outside that a file imports, and whether importing the file imports it."""
    tree = ast.parse(source.read_text())
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    unseen = {id(node) for guard in guards for node in ast.walk(guard)}
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        for name in {name.split(".")[0] for name in names} - OUTSIDE:
            if id(node) not in unseen:
                yield name, node in tree.body


def declared(text: str) -> set[str]:
    """The distributions of a list of requirements."""
    return {_canonical(Requirement(line).name) for line in text.strip().splitlines()}


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-")


def test_every_import_is_declared(setup: ConfigParser) -> None:
    core = declared(setup["options"]["install_requires"])
    extras = {_canonical(name) for text in setup["options.extras_require"].values() for name in declared(text)}
    owners = packages_distributions()
    used = {(file.relative_to(ROOT), *found) for file in sources() for found in imported(file)}
    assert used
    for file, package, at_import in sorted(used):
        names = {_canonical(name) for name in owners[package]}
        optional = file.parts[0] == "benchmarks" or not at_import
        assert names & (core | extras if optional else core), (
            f"{file} imports {package}, which setup.cfg does not declare"
        )
    needed = {_canonical(name) for _, package, _ in used for name in owners[package]}
    assert core <= needed, "declared, and imported nowhere"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built from a copy of its files."""
    copy, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*FOLDERS, "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        into = copy / name
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, into, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, into)
    _pip(sys.executable, "wheel", "--wheel-dir", str(built), str(copy))
    return next(built.glob("*.whl"))


def _pip(python: str | Path, command: str, *arguments: str) -> None:
    """Run pip on an environment without a download."""
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    call = [sys.executable, "-m", "pip", "--python", str(python), command, *offline, *arguments]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_wheel_holds_one_package_and_its_data(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        top_level = next(name for name in archive.namelist() if name.endswith("top_level.txt"))
        assert archive.read(top_level).decode().split() == ["edge_circuits"]
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    wanted = [path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts]
    assert held == {name if name.startswith("edge_circuits/") else f"edge_circuits/{name}" for name in wanted}


@pytest.fixture(scope="module")
def beside_others(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel, and a distribution with packages `eap` and `benchmarks`."""
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    installed = next(home.rglob("site-packages"))
    packages = [path for path in sys.path if Path(path).name == "site-packages"]
    (installed / "packages-of-the-tests.pth").write_text("\n".join(packages))
    other = tmp_path_factory.mktemp("other")
    (other / "setup.cfg").write_text("[metadata]\nname = other\nversion = 1\n[options]\npackages = eap, benchmarks\n")
    (other / "setup.py").write_text("import setuptools\nsetuptools.setup()\n")
    for package in ("eap", "benchmarks"):
        (other / package).mkdir()
        (other / package / "__init__.py").write_text("OWNER = 'other'\n")
    python = home / "bin" / "python"
    for distribution in (other, wheel):
        _pip(python, "install", str(distribution))
    return python


@pytest.mark.slow
def test_other_packages_of_our_folders_names_keep_working(beside_others: Path, tmp_path: Path) -> None:
    code = (
        "import benchmarks, eap, edge_circuits.benchmarks, edge_circuits.eap\n"
        "from edge_circuits.benchmarks.planted import load\n"
        "assert load('ioi')[0].cfg.n_layers\n"
        "print(eap.OWNER, benchmarks.OWNER, edge_circuits.__file__, edge_circuits.eap.__file__)"
    )
    *owners, front, inner = _run(beside_others, tmp_path, "-c", code).split()
    assert owners == ["other", "other"]
    home = beside_others.parent.parent
    assert Path(front).is_relative_to(home) and Path(inner).is_relative_to(home)


@pytest.mark.slow
def test_commands_run_from_any_directory(beside_others: Path, tmp_path: Path) -> None:
    assert "--methods" in _run(beside_others, tmp_path, "-m", "edge_circuits.benchmarks.roc", "--help")


def _run(python: Path, directory: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, *arguments], cwd=directory, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
