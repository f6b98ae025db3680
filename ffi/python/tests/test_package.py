"""What the installed package is: its names, its types, its command, its example."""

import subprocess
import sys
from pathlib import Path

import pytest

import balanceroute as br

HERE = Path(__file__).resolve().parents[1]


def test_it_is_the_installed_one():
    package = Path(br.__file__).parent
    assert HERE not in package.parents, "the folder of the sources shadows the installed package"
    assert (package / "py.typed").exists() and (package / "_native.pyi").exists()


def test_every_name_is_there_and_documented():
    for name in br.__all__:
        found = getattr(br, name)
        if isinstance(found, type) or callable(found):
            assert found.__doc__, name
    assert "level" in br.POLICIES and "max_passed" in br.PARAMETERS and br.isas()


def run(folder, *command):
    """In a folder where nothing shadows the installed package."""
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, cwd=folder)


def test_the_command(tmp_path):
    done = run(tmp_path, "-m", "balanceroute")
    assert done.returncode == 0, done.stderr
    assert f"balanceroute {br.__version__}" in done.stdout and ": 0 differ" in done.stdout


def test_the_example(tmp_path):
    example = HERE / "examples" / "loop.py"
    assert len(example.read_text().splitlines()) < 40
    done = run(tmp_path, str(example))
    assert done.returncode == 0, done.stderr
    assert "finished" in done.stdout


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("README.md", "request 1 enters worker 0\n"),
        ("docs/engines.md", "[1 0] [0 1]\n"),
        ("docs/restart.md", "to worker 0, number 1: request 1\n"),
    ],
)
def test_the_pages(tmp_path, page, says):
    blocks = (HERE.parents[1] / page).read_text().split("```python\n")[1:]
    assert len(blocks) == 1
    done = run(tmp_path, "-c", blocks[0].split("```")[0])
    assert done.returncode == 0, done.stderr
    assert done.stdout == says


def test_the_bench_decides_right(tmp_path):
    done = run(tmp_path, str(HERE / "benches" / "assign.py"), "--rounds", "1")
    assert done.returncode == 0, done.stderr
    assert "Assigner('level').assign" in done.stdout


def test_stubs_describe_the_module():
    import ast

    stub = ast.parse((Path(br.__file__).parent / "_native.pyi").read_text())
    from balanceroute import _native

    described = {}
    for node in stub.body:
        if isinstance(node, ast.ClassDef):
            inner = {of.name for of in node.body if isinstance(of, ast.FunctionDef)}
            described[node.name] = inner
        elif isinstance(node, ast.FunctionDef):
            described[node.name] = None
    public = {name for name in vars(_native) if not name.startswith("_")}
    assert public == set(described) | {"POLICIES", "PARAMETERS"}
    for name, inner in described.items():
        if inner is None:
            continue
        real = {of for of in vars(getattr(_native, name)) if not of.startswith("_")}
        assert real == {of for of in inner if not of.startswith("_")}, name


def test_types_hold_for_mypy(tmp_path):
    pytest.importorskip("mypy")
    modules = [
        arg
        for name in ("", ".prometheus", ".__main__", ".dashboard", ".dashboard.__main__")
        for arg in ("-m", f"balanceroute{name}")
    ]
    for what in (modules, [str(HERE / "examples" / "loop.py"), str(HERE / "examples" / "exporter.py")]):
        done = run(tmp_path, "-m", "mypy", "--strict", *what)
        assert done.returncode == 0, done.stdout + done.stderr
