"""The parts know only what they may: import direction, light imports, what the wheel holds."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import sequoia_core

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "transformers", "gguf", "safetensors", "accelerate", "datasets"}
LIGHT_CORE = [
    "", ".errors", ".events", ".config", ".tree.growmap", ".tree.choice", ".model.interface",
    ".chat.interface", ".model.loading.catalogue", ".recording.trace_file",
]  # fmt: skip

RINGS = {
    "sequoia_core": (
        {"errors"}, {"config", "files"}, {"events"}, {"text", "tree"}, {"data", "model"},
        {"speculate"}, {"decode"}, {"measure"}, {"chat"}, {"recording", "figures"}, {"bench"},
        {"distill", "reproduce"},
    ),
    "app": (
        {"config"}, {"state"}, {"engine", "present"}, {"store"}, {"widgets"}, {"ui"}, {"screens"},
        {"app"}, {"web"}, {"commands"}, {"cli"},
    ),
}  # fmt: skip
"""Folders, and modules at a package's root: each imports its own and those of earlier sets."""

UNKNOWN = {"model": {"tree"}, "data": {"tree"}}
"""What a folder does not import although it comes earlier."""

PUBLIC_API = [
    "Conversation",
    "Engine",
    "GrowMap",
    "Mode",
    "SamplingParams",
    "SequoiaError",
    "TreeChoice",
    "Turn",
    "__version__",
    "events",
    "load_pair",
]


def modules() -> dict[str, Path]:
    """Every module of the two packages by its dotted name."""
    found = {}
    for package in ("sequoia_core", "app"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


def imports_on_load(path: Path) -> Iterator[str]:
    """Names imported absolutely as soon as the module is, `TYPE_CHECKING` blocks left out."""
    yield from _imports(ast.parse(path.read_text()).body)


def all_imports(path: Path) -> Iterator[str]:
    """Names imported absolutely anywhere, inside functions too."""
    yield from _imports(ast.walk(ast.parse(path.read_text())))


def _imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_below(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def folder(name: str) -> str:
    """The first name below the package."""
    return name.split(".")[1]


def core_modules(below: str = "sequoia_core") -> list[str]:
    return [name for name in modules() if is_below(name, below) and name != "sequoia_core"]


@pytest.mark.parametrize("module", core_modules())
def test_the_core_knows_no_screen(module: str) -> None:
    screens = ("app", "sequoia_chat", "textual", "rich", "typer")
    wrong = [
        name
        for name in all_imports(modules()[module])
        if any(is_below(name, screen) for screen in screens)
    ]
    assert not wrong


@pytest.mark.parametrize("module", [name for name in modules() if "." in name])
def test_imports_go_one_way(module: str) -> None:
    """Also those within functions and for types alone, so no two folders know each other."""
    package, own = module.split(".")[:2]
    known = {each: at for at, ring in enumerate(RINGS[package]) for each in ring}
    wrong = []
    for name in absolute_imports(module):
        if is_below(name, package) and name != package and folder(name) not in (own, "bundled"):
            other = folder(name)
            is_public = package == "sequoia_core" and other in PUBLIC_API
            if (not is_public and known[other] >= known[own]) or other in UNKNOWN.get(own, ()):
                wrong.append(name)
    assert not wrong


@pytest.mark.parametrize("package", RINGS)
def test_a_class_name_is_used_once_in_a_package(package: str) -> None:
    places: dict[str, list[str]] = {}
    for module, path in modules().items():
        if is_below(module, package):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef):
                    places.setdefault(node.name, []).append(module)
    assert not {name: found for name, found in places.items() if len(found) > 1}


def absolute_imports(module: str) -> Iterator[str]:
    """As `all_imports`, relative ones too."""
    path = modules()[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")[: -node.level + 1 or None] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("module", modules())
def test_no_library_is_let_run_code_of_a_models_folder(module: str) -> None:
    """Unless it is forbidden, transformers asks on the terminal, and pickles run what they hold."""
    needed = {"from_pretrained": ("trust_remote_code", False), "torch.load": ("weights_only", True)}
    for call in ast.walk(ast.parse(modules()[module].read_text())):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            whole = ast.unparse(call.func)
            for name, (keyword, value) in needed.items():
                if call.func.attr == name or whole == name:
                    given = {each.arg: ast.unparse(each.value) for each in call.keywords}
                    assert given.get(keyword) == str(value), ast.unparse(call)


@pytest.mark.parametrize("module", [name for name in modules() if is_below(name, "app")])
def test_the_app_loads_models_late(module: str) -> None:
    wrong = [
        name
        for name in imports_on_load(modules()[module])
        if any(is_below(name, heavy) for heavy in HEAVY)
    ]
    assert not wrong


def test_the_app_imports_its_siblings_relatively_everywhere() -> None:
    # installed under another name, `import app` would find nothing or somebody else's package
    wrong = [
        f"{module} imports {name}"
        for module, path in modules().items()
        if is_below(module, "app")
        for name in all_imports(path)
        if is_below(name, "app") or is_below(name, "sequoia_chat")
    ]
    assert not wrong


@pytest.mark.parametrize("module", [f"sequoia_core{name}" for name in LIGHT_CORE])
def test_light_modules_load_nothing_heavy(module: str) -> None:
    assert loaded_by(module, HEAVY | {"textual", "rich", "numpy"}) == set()


def test_the_command_loads_neither_screen_nor_models() -> None:
    assert loaded_by("app.cli", HEAVY | {"textual", "numpy"}) == set()


def test_the_screen_loads_no_model_code() -> None:
    assert loaded_by("app.app", HEAVY) == set()


def loaded_by(module: str, suspects: set[str]) -> set[str]:
    """Which of the suspects a fresh interpreter holds after importing the module."""
    code = f"import sys, {module}; print(*({suspects!r} & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_public_api_is_this_and_each_name_is_there() -> None:
    assert sorted(sequoia_core.__all__) == sorted(PUBLIC_API)
    assert dir(sequoia_core) == sorted(PUBLIC_API)
    for name in PUBLIC_API:
        assert getattr(sequoia_core, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = sequoia_core.nonsense


def package_folders() -> dict[str, str]:
    """Each package the wheel declares, and its folder in the checkout."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = project["tool"]["setuptools"]
    renamed = declared["package-dir"]
    folders = {}
    for package in declared["packages"]:
        head, *tail = package.split(".")
        folders[package] = renamed.get(package, "/".join([renamed.get(head, head), *tail]))
    return folders


def test_the_declared_packages_are_the_folders_that_exist() -> None:
    declared = set(package_folders().values())
    with_code = {path.parent.relative_to(ROOT).as_posix() for path in modules().values()}
    assert declared == with_code | {"growmaps", "themes"}


def test_growmaps_and_themes_hold_no_code() -> None:
    for folder in ("growmaps", "themes"):
        assert {path.suffix for path in (ROOT / folder).rglob("*") if path.is_file()} <= {
            ".json", ".toml", ".md",
        }  # fmt: skip
