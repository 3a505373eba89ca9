"""The house has floors: tools -> eval -> ssl_cls, and nothing looks up."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for folder in ("ssl_cls", "eval", "tools") for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_nothing_imports_upward() -> None:
    above = {"ssl_cls": {"eval", "tools"}, "eval": {"tools"}, "tools": {"tools"}}
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in MODULES
        for name in imports(path)
        if name.split(".")[0] in above[path.relative_to(ROOT).parts[0]]
    ]
    assert not found


def test_what_is_imported_is_declared_so_that_an_installation_brings_it() -> None:
    """Optional packages are imported within functions that say what to install."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [one for extra in ("parquet", "tiff") for one in project["optional-dependencies"][extra]]
    declared = {re.split("[><=]", one)[0].lower() for one in [*project["dependencies"], *extras]}
    known = packages_distributions()
    outside = {name.split(".")[0] for path in MODULES for name in imports(path)}
    # campaign: tests, run by tools/faults.py; umap: used where somebody has installed it
    outside -= {*sys.stdlib_module_names, "ssl_cls", "eval", "campaign", "umap"}
    needed = {name: {one.lower().replace("_", "-") for one in known.get(name, [name])} for name in outside}
    assert not {name for name, brings in needed.items() if not brings & declared}


def test_pydantic_is_known_in_one_place_only() -> None:
    assert [path.name for path in MODULES if any(name.split(".")[0] == "pydantic" for name in imports(path))] == [
        "config.py"
    ]


def is_method(path: Path) -> bool:
    """Not what methods share, such as heads.py."""
    classes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
    return any(isinstance(base, ast.Name) and base.id == "Method" for node in classes for base in node.bases)


def test_methods_do_not_know_each_other_nor_the_trainer() -> None:
    modules = sorted((ROOT / "ssl_cls" / "methods").glob("*.py"))
    methods = {f"ssl_cls.methods.{path.stem}" for path in modules if is_method(path)}
    assert {"ssl_cls.methods.byol", "ssl_cls.methods.mae"} <= methods
    above = {"ssl_cls.trainer", "ssl_cls.run", "ssl_cls.checkpoint", "ssl_cls.optim", "ssl_cls.config"}
    for path in modules:
        assert not set(imports(path)) & (methods | above), path


def test_tools_import_nothing_of_ours_above_main() -> None:
    for path in (ROOT / "tools").glob("*.py"):
        top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in top if isinstance(node, ast.ImportFrom) and node.module}
        assert all(name.split(".")[0] in sys.stdlib_module_names for name in names), path


def test_no_file_has_outgrown_its_reader() -> None:
    long = {str(path.relative_to(ROOT)): n for path in MODULES if (n := len(path.read_text().splitlines())) > 300}
    assert not long


@pytest.mark.slow
def test_the_built_wheel_works_in_a_clean_environment(tmp_path: Path) -> None:
    """The wheel ships both packages and the report's template, and loads without the repository."""
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", str(environment)], check=True)
    python = environment / "bin" / "python"
    # the dependencies are this environment's: what is tested is what the wheel itself brings
    paths = [path for path in sys.path if path.endswith("site-packages")]
    (environment / "lib" / f"python3.{sys.version_info.minor}" / "site-packages" / "dependencies.pth").write_text(
        "\n".join(paths)
    )
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", str(wheel)], check=True
    )
    code = """
import eval.comparison.published, eval.report.report, ssl_cls, ssl_cls.trainer, timm
from pathlib import Path
assert "venv" in ssl_cls.__file__, ssl_cls.__file__
assert list((Path(eval.report.report.__file__).parent / "templates").iterdir())
assert eval.comparison.published.load("cifar10")
assert timm.create_model("resnet_small", in_chans=1).num_features == 96
"""
    subprocess.run([python, "-c", code], check=True, cwd=tmp_path)
