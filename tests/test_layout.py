"""The layout holds: who may import whom, how long a module may be, and what `import threadmark` costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "threadmark"
MODULES = sorted(SOURCE.rglob("*.py"))

# What each room may import of the others; `_errors`, `_types`, `_ids`, `_codec` and `_sync` are everybody's.
MAY_IMPORT = {
    "adapters": {"agents", "memory", "models"},
    "recall": set(),
    "stores": {"recall"},
    "models": set(),
    "memory": {"models", "recall", "stores", "vectors"},
    "processors": {"memory", "models"},
    "agents": {"memory", "models", "processors"},
    "offline": {"memory", "models"},
    "cli": {"agents", "memory", "models", "offline", "recall", "stores"},
    "testing": {"agents", "memory", "models", "recall", "stores"},
    "vectors": set(),
    "workflows": {"agents", "memory", "models", "stores"},
}
HEAVY = (
    "pydantic",
    "pydantic_ai",
    "numpy",
    "rich",
    "typer",
    "sqlite_vec",
    "apsw",
    "psycopg",
    "httpx",
    "openai",
    "opentelemetry",
)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, *, only_at_load: bool = False) -> Iterator[str]:
    """The full names of the modules that a module imports, wherever it does."""
    package = list(path.relative_to(SOURCE.parent).parent.parts)
    for node in walk(ast.parse(path.read_text(encoding="utf-8")), only_at_load):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def walk(tree: ast.AST, only_at_load: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if only_at_load and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if only_at_load and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from walk(node, only_at_load)


def test_every_room_is_known() -> None:
    """A new sub-package has to say whom it may import."""
    rooms = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(MAY_IMPORT)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    """agents → memory → stores, and never back."""
    room = path.relative_to(SOURCE).parts[0]
    allowed = MAY_IMPORT.get(room)
    if allowed is None:
        return  # the shared modules, checked below, and the door
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "threadmark" and len(parts) > 1 and parts[1] in MAY_IMPORT:
            assert parts[1] in allowed | {room}, f"{name_of(path)} imports {name}"


def test_shared_modules_import_no_room() -> None:
    """What everybody imports imports nobody."""
    for path in SOURCE.glob("_*.py"):
        if path.name == "__init__.py":
            continue
        for name in imports(path):
            assert name.split(".")[:1] != ["threadmark"] or name.split(".")[1].startswith("_"), (path, name)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_is_long(path: Path) -> None:
    """At most 600 lines, so that a module has one idea."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 600


def loaded_by(code: str) -> set[str]:
    """The packages that a fresh interpreter has loaded after `code`."""
    script = f"{code}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_is_light() -> None:
    """`import threadmark` loads no package that only some of its users need."""
    assert loaded_by("import threadmark").isdisjoint(HEAVY)


def test_memory_does_not_load_agents_or_models() -> None:
    """Whoever brings an agent of their own does not pay for ours."""
    loaded = loaded_by(
        "import sys, threadmark; threadmark.Memory('sqlite://')\n"
        "assert not [n for n in sys.modules if n.startswith(('threadmark.agents.', 'threadmark.models.'))]"
    )
    assert loaded.isdisjoint(set(HEAVY) - {"apsw"})
