"""The rules of the architecture, kept by reading the source: who imports whom, and how big it gets."""

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "imgbuild"
LEVELS = (
    ("errors", "inroot", "recorded"),
    ("oci", "events", "options"),
    ("dockerfile", "layer", "sandbox", "store", "registry", "transfer"),
    ("plan", "snapshot"),
    ("build",),
    ("api",),
    ("cli",),
)
LEVEL = {part: number for number, parts in enumerate(LEVELS) for part in parts}
EFFECTS = {"os", "socket", "subprocess", "tarfile", "shutil", "tempfile", "sqlite3", "ssl"}
EFFECTS |= {"requests", "urllib.request", "http.client", "pathlib", "ctypes"}
PURE = ("oci", "dockerfile", "plan", "build/copyrules.py", "registry/challenge.py")
HEAVY = ("requests", "ssl", "cryptography", "rich", "ctypes", "asyncio", "urllib.request")
MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(module: Path) -> Iterator[str]:
    """All modules that a file imports, deferred and typing-only imports included."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(module: Path) -> set[str]:
    return {name for name in imports(module) if name.startswith("imgbuild.")}


def name_of(module: Path) -> str:
    parts = module.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_imports_go_down_or_stay_in_their_part(module: Path) -> None:
    part = part_of(module)
    if part in {"__init__", "__main__"}:
        return
    for name in own_imports(module):
        target = name.split(".")[1]
        if target == "__version__":
            continue
        assert target in LEVEL, f"{name_of(module)} imports unknown part {name}"
        if target == part:
            continue
        assert LEVEL[target] < LEVEL[part], f"{name_of(module)} imports {name}"


def test_there_is_no_import_cycle() -> None:
    names = {name_of(module) for module in MODULES}
    graph = {name_of(m): {i for i in own_imports(m) if i in names} for m in MODULES}
    graph["imgbuild"] = set()  # its names resolve on first use
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in done:
            for target in graph[name]:
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("where", PURE)
def test_pure_parts_have_no_effects(where: str) -> None:
    path = PACKAGE / where
    for module in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
        assert not EFFECTS & set(imports(module)), name_of(module)


def test_sandbox_child_stands_alone() -> None:
    for module in (PACKAGE / "sandbox" / "child").glob("*.py"):
        for name in imports(module):
            top = name.split(".")[0]
            allowed = name.startswith(
                ("imgbuild.sandbox.child", "imgbuild.inroot", "imgbuild.recorded")
            )
            assert allowed or top in sys.stdlib_module_names or name == "imgbuild", (
                f"{name_of(module)} imports {name}"
            )


def test_only_the_command_line_reads_the_environment() -> None:
    for module in MODULES:
        if part_of(module) == "cli":
            continue
        tree = ast.parse(module.read_text())
        used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        assert not used & {"environ", "environb", "getenv"}, name_of(module)


def test_no_module_is_long() -> None:
    lengths = {name_of(m): len(m.read_text().splitlines()) for m in MODULES}
    assert {n: c for n, c in lengths.items() if c > 500} == {}
    assert statistics.median(lengths.values()) <= 250


def test_no_module_is_a_drawer() -> None:
    drawers = {"utils", "helpers", "common", "misc", "base", "util"}
    assert {name_of(m) for m in MODULES if m.stem in drawers} == set()


@pytest.mark.parametrize(
    "statement",
    [
        "import imgbuild",
        "import imgbuild.options",
        "import imgbuild.plan.model",
        "import imgbuild.api; imgbuild.api.build",
        "import imgbuild.cli.main",
    ],
)
def test_start_up_loads_nothing_heavy(statement: str) -> None:
    code = f"{statement}\nimport sys\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    assert done.stdout.strip() == "[]"
