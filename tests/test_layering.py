"""Imports inside the package go downwards only, stand at the top of their file and form no cycle."""

import ast
from pathlib import Path

import stable_longform

PACKAGE = "stable_longform"
# A file or folder of the package may import those of lower layers and, inside one folder, its siblings.
LAYERS = {
    "utils": 0,
    "noise_schedule": 0,
    "schedulers": 1,
    "models": 1,
    "losses": 1,
    "data": 1,
    "metrics": 1,
    "analysis": 1,
    "training_utils": 2,
    "pipelines": 3,
    "evaluation": 3,
    "convert": 4,
    "": 5,  # the package's own __init__.py, which imports the public names when they are first used
    "music_files": 6,
    "app": 7,
    "cli": 8,
    "__main__": 9,
}


def module_files(root: Path) -> dict[str, Path]:
    """Module names, without the package's own, and their files."""
    modules = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def own_imports(node: ast.AST, modules: dict[str, Path]) -> list[str]:
    """Modules of the package that one import statement imports; `from package import name` may name a module."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
        names = [f"{node.module}.{alias.name}" for alias in node.names]
        names = [name if name.removeprefix(f"{PACKAGE}.") in modules else node.module for name in names]
    else:
        return []
    return [name.removeprefix(PACKAGE).lstrip(".") for name in names if name.split(".")[0] == PACKAGE]


def find_violations(root: Path) -> list[str]:
    """Describes each import that breaks a rule."""
    modules, violations, graph = module_files(root), [], {}
    for name, path in modules.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        graph[name] = {target for node in tree.body for target in own_imports(node, modules)}
        top = name.split(".")[0]
        if top not in LAYERS:
            violations.append(f"{name} is in no layer: name its layer in this test")
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level > 0:
                violations.append(f"{name}:{node.lineno} has a relative import")
            for target in own_imports(node, modules):
                other = target.split(".")[0]
                is_below = other in LAYERS and LAYERS[other] < LAYERS[top]
                if not is_below and not (other == top and path != root / f"{top}.py"):
                    violations.append(f"{name}:{node.lineno} imports {target or PACKAGE}, which is not below it")
                if node not in tree.body:
                    violations.append(f"{name}:{node.lineno} imports {target or PACKAGE} not at the top of the file")
    return violations + [f"{' > '.join(cycle)} is a cycle" for cycle in find_cycles(graph)]


def find_cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Cycles met by a depth-first walk; none exactly when the graph has none."""
    cycles, done = [], set()

    def visit(name: str, trail: list[str]) -> None:
        if name in trail:
            cycles.append([*trail[trail.index(name) :], name])
        elif name not in done:
            for target in sorted(graph.get(name, ())):
                visit(target, [*trail, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])
    return cycles


def write_package(root: Path, **files: str) -> Path:
    """Writes a package; `a__b="..."` is `a/b.py`."""
    for name, text in files.items():
        path = root / ((name if name.startswith("__") else name.replace("__", "/")) + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_package_is_layered():
    root = Path(stable_longform.__file__).parent
    assert len(module_files(root)) > 10
    assert find_violations(root) == []


def test_allowed_imports_pass(tmp_path):
    root = write_package(
        tmp_path,
        utils__audio="import torch",
        data__manifest="from stable_longform.utils.audio import read_audio",
        data__crops="from stable_longform.data.manifest import Track\nimport stable_longform.utils.audio",
        training_utils="import json",
        pipelines__music="from stable_longform import noise_schedule\nfrom stable_longform.models.a import A",
        models__a="from torch import nn",
        noise_schedule="import math",
        cli="from stable_longform.pipelines.music import Pipeline",
    )
    assert find_violations(root) == []


def test_every_rule_is_enforced(tmp_path):
    cases = {
        "up": {"utils__audio": "import stable_longform.models.a", "models__a": ""},
        "sideways": {"models__a": "from stable_longform.losses.b import b", "losses__b": ""},
        "sideways_file": {"evaluation": "from stable_longform import convert", "convert": ""},
        "root": {"models__a": "from stable_longform import __version__", "__init__": "__version__ = '1'"},
        "hidden": {"cli": "def main():\n    from stable_longform.utils import audio", "utils__audio": ""},
        "guarded": {"cli": "if True:\n    import stable_longform.utils.audio", "utils__audio": ""},
        "relative": {"models__a": "from . import b", "models__b": ""},
        "unknown": {"helpers": ""},
        "cycle": {
            "models__a": "from stable_longform.models import b",
            "models__b": "from stable_longform.models.a import A",
        },
    }
    expected = {
        "up": "utils.audio:1 imports models.a, which is not below it",
        "sideways": "models.a:1 imports losses.b, which is not below it",
        "sideways_file": "evaluation:1 imports convert, which is not below it",
        "root": "models.a:1 imports stable_longform, which is not below it",
        "hidden": "cli:2 imports utils.audio not at the top of the file",
        "guarded": "cli:2 imports utils.audio not at the top of the file",
        "relative": "models.a:1 has a relative import",
        "unknown": "helpers is in no layer: name its layer in this test",
        "cycle": "models.a > models.b > models.a is a cycle",
    }
    for name, files in cases.items():
        (tmp_path / name).mkdir()
        assert find_violations(write_package(tmp_path / name, **files)) == [expected[name]]
