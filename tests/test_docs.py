"""Documentation against the code: paths, names, links, commands and docstrings."""

import ast
import importlib
import inspect
import re
import runpy
import subprocess
from functools import cache
from pathlib import Path

import pytest
import torch
from test_layering import LAYERS

from stable_longform import AutoencoderOobleck, DiTTransformer1D
from stable_longform.cli.main import GROUPS, app
from stable_longform.models import chunks
from stable_longform.models.acceleration import oobleck_engine

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "stable_longform"
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "training/README.md",
    ROOT / "training/corpus/README.md",
]
DOCUMENTS += sorted((ROOT / "docs").glob("**/*.md"))
SOURCES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "training").rglob("*.py"))

# A path of a Python file, or of any file in one of the repository's folders, and the name that may follow it.
REFERENCE = re.compile(
    r"(?<![\w/.:-])([\w./-]+\.py|(?:benchmarks|docs|examples|src|tests|training)/[\w./-]+\.\w+)(?::([A-Za-z_][\w.]*\w))?"
)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#]*)(?:#([^)]*))?\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)

# Diffusers' convention in every model, explained by what each docstring says under Returns.
COMMON_ARGUMENTS = {"self", "return_dict"}


def documents(test):
    """Runs a test on every document."""
    return pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))(test)


def sources(test):
    """Runs a test on every module of the package."""
    return pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))(test)


@cache
def parse(path: Path) -> ast.Module:
    """The syntax tree of a Python file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def blocks(document: Path, language: str) -> list[str]:
    """The document's code blocks in a language, their continued lines joined."""
    found = FENCE.findall(document.read_text(encoding="utf-8"))
    return [text.replace("\\\n", " ") for name, text in found if name == language]


def arguments_of(function: ast.FunctionDef) -> list[str]:
    """Names of a function's arguments."""
    every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return [argument.arg for argument in every]


def members(node: ast.AST) -> dict[str, ast.AST]:
    """What a module, class or function defines, by name; a class also has its constructor's arguments."""
    found = {}
    for child in getattr(node, "body", []):
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            found[child.name] = child
        elif isinstance(child, (ast.Assign, ast.AnnAssign)):
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            names = (name for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))
            found |= {name.id: child for name in names}
    if isinstance(node, ast.FunctionDef):
        found |= {name: node for name in arguments_of(node)}
    if "__init__" in found:
        found |= {name: node for name in arguments_of(found["__init__"])}
    return found


def is_defined(path: Path, name: str) -> bool:
    """Whether a Python file defines a dotted name."""
    node = parse(path)
    for part in name.split("."):
        node = members(node).get(part)
        if node is None:
            return False
    return True


def locate(path: str, document: Path) -> Path | None:
    """The file that a document's path stands for, from one of the folders in which it may start."""
    folders = (ROOT, PACKAGE, ROOT / "training", document.parent)
    return next((folder / path for folder in folders if (folder / path).is_file()), None)


@documents
def test_named_files_and_names_exist(document):
    missing = []
    for path, name in REFERENCE.findall(document.read_text(encoding="utf-8")):
        file = locate(path, document)
        if file is None or (name and file.suffix == ".py" and not is_defined(file, name)):
            missing.append(f"{path}:{name}" if name else path)
    assert not missing


def test_is_defined_tells_what_exists_from_what_does_not():
    path = PACKAGE / "models" / "transformer_dit_1d.py"
    for name in ("DiTBlock", "DiTBlock.forward", "DiTTransformer1D.sample_size", "FourierFeatures.forward.timestep"):
        assert is_defined(path, name)
    for name in ("Block", "DiTBlock.backward", "forward", "DiTTransformer1D.forward.no"):
        assert not is_defined(path, name)


@documents
def test_relative_links_resolve(document):
    broken = []
    for target, anchor in LINK.findall(document.read_text(encoding="utf-8")):
        file = document.parent / target if target else document
        text = file.read_text(encoding="utf-8") if file.is_file() and file.suffix == ".md" else ""
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        if not file.exists() or (anchor and anchor not in slugs):
            broken.append((target, anchor))
    assert not broken


@documents
def test_players_and_pictures_exist(document):
    sources = re.findall(r'<(?:audio|img)[^>]* src="([^"]*)"', document.read_text(encoding="utf-8"))
    assert [source for source in sources if not (document.parent / source).is_file()] == []


@documents
def test_python_blocks_compile(document):
    for block in blocks(document, "python"):
        compile(block, str(document), "exec")


def inherited(config: ast.ClassDef) -> set[str]:
    """The options that a script's configuration has from its base classes."""
    shared = members(parse(PACKAGE / "training_utils" / "run_options.py"))
    bases = [shared[base.id] for base in config.bases]
    return {name for base in bases for name in {*members(base), *inherited(base)}}


@documents
def test_commands_use_options_that_exist(document):
    unknown = []
    for block in blocks(document, "bash"):
        for path, arguments in re.findall(r"(?<!/)\b(training/\S+\.py)(.*)", block):
            text = (ROOT / path).read_text(encoding="utf-8")
            config = members(parse(ROOT / path)).get("Config")
            options = () if config is None else ("config", *members(config), *inherited(config))
            for option in re.findall(r"--([a-z]\w*)", arguments):
                known = f'"--{option}"' in text if config is None else option in options
                unknown += [] if known else [f"{path} --{option}"]
    assert not unknown


def console_commands() -> dict[str, set[str]]:
    """Options of each command of `stable-longform`."""
    commands = {command.name or command.callback.__name__: command for command in app.registered_commands}
    for group, module in GROUPS.items():
        for command in importlib.import_module(module).app.registered_commands:
            commands[f"{group} {command.name or command.callback.__name__.replace('_', '-')}"] = command
    parameters = {name: inspect.signature(command.callback).parameters.values() for name, command in commands.items()}
    return {name: {option for one in found for option in cli_options(one)} for name, found in parameters.items()}


@documents
def test_console_commands_exist(document):
    commands, unknown = console_commands(), []
    for block in blocks(document, "bash"):
        for line in re.findall(r"stable-longform ([a-z].*)", block):
            name = next((name for name in commands if f"{line} ".startswith(f"{name} ")), None)
            unknown += [] if name else [line]
            known = commands.get(name, ())
            unknown += [option for option in re.findall(r"--[a-z][\w-]*", line) if name and option not in known]
    assert not unknown


@pytest.mark.parametrize("option", ["--json", "--quiet"])
def test_the_command_line_page_says_which_commands_have_an_option(option):
    text = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8").partition("\n## Recipes")[0]
    sentence = next(part for part in re.split(r"\.\s", text) if f"`{option}`" in part)
    named = {name for name in console_commands() if f"`{name}`" in sentence}
    assert named == {name for name, options in console_commands().items() if option in options}


def cli_options(parameter: inspect.Parameter) -> list[str]:
    """Names on the command line of a parameter of a typer command."""
    declared = [
        name
        for info in getattr(parameter.annotation, "__metadata__", ())
        for names in [getattr(info, "default", None), *(getattr(info, "param_decls", None) or ())]
        if isinstance(names, str)
        for name in names.split("/")  # "--loop/--no-loop"
        if name.startswith("--")
    ]
    return declared or [f"--{parameter.name.replace('_', '-')}"]


@documents
def test_make_targets_exist(document):
    commands = "\n".join(
        [*blocks(document, "bash"), *re.findall(r"`([^`\n]+)`", document.read_text(encoding="utf-8"))]
    )
    used = re.findall(r"^make ([\w-]+)", commands, re.MULTILINE)
    known = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(used) <= set(known)


def test_make_lists_every_target():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    listed = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert sorted(line.split()[0] for line in listed.splitlines()) == sorted(targets)


def test_the_picture_of_the_architecture_is_that_of_the_code():
    script = runpy.run_path(str(ROOT / "docs" / "draw_architecture.py"))
    graph = script["read_graph"]()
    assert "utils" in graph["pipelines"] and graph["utils"] == set()
    assert script["PICTURE"].read_text(encoding="utf-8") == script["draw"](graph)


def test_architecture_names_every_file():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    expected = [source.relative_to(PACKAGE).as_posix() for source in SOURCES]
    expected = [path for path in expected if path == "__init__.py" or not path.endswith("/__init__.py")]
    expected += [script.relative_to(ROOT).as_posix() for script in SCRIPTS]
    assert [path for path in expected if f"| `{path}` |" not in text] == []


def test_architecture_lists_the_layers():
    """The table's numbers are those that `test_layering.py` enforces."""
    section = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").split("## Layers")[1].split("##")[0]
    rows = re.findall(r"^\| (\d) \| (.*?) \|", section, re.MULTILINE)
    listed = {
        name.replace("__init__", ""): int(number) for number, names in rows for name in re.findall("`(.*?)`", names)
    }
    assert listed == LAYERS


def test_architecture_counts_lines():
    """The line counts of the models and their engine, on the right side of the picture, are up to date within 10 %."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    picture = text.split("## Models and their engine")[1].split("```")[1]
    counts = {name: int(count) for name, count in re.findall(r"(\w+) +\[(\d+)\](?!.*\[)", picture)}
    for name in ("tiles", "onednn", "hooks"):  # only on the left side
        counts.pop(name, None)
    assert len(counts) == 7
    for name, count in counts.items():
        files = sorted((PACKAGE / "models" / name).rglob("*.py")) or [PACKAGE / "models" / f"{name}.py"]
        actual = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
        assert abs(count - actual) <= actual / 10, f"{name} has {actual} lines"


def test_architecture_quotes_the_constants_of_the_code():
    text = " ".join((ROOT / "docs/architecture.md").read_text(encoding="utf-8").split())
    with torch.device("meta"):
        vae = AutoencoderOobleck()
    length = inspect.signature(DiTTransformer1D).parameters["sample_size"].default
    num_samples = 285 * vae.config.sampling_rate
    for sentence in (
        f"decoder, in chunks of up to {chunks.MAX_LENGTH} frames with {vae.decoder_context} more on each side",
        f"{vae.encoder_context} frames for the encoder, {vae.decoder_context} for the decoder",
        f"on tiles of {oobleck_engine.CACHE_IN_BYTES // 2**20} MiB",
        f"noise, float32 | (B, {vae.config.decoder_input_channels}, {length})",
        f"(2, {vae.hop_length} · F)",
        f"285 s = {num_samples:,} samples, F = {-(-num_samples // vae.hop_length)}",
    ):
        assert sentence in text


def test_readme_quotes_the_tables():
    """Seconds and MB in the README's table of hardware are in the tables that it links to."""
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("## Hardware")[1].split("##")[0]
    tables = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    quoted = re.findall(r"([\d.]+) (?:s|MB)\b", " ".join(re.findall(r"^\| the .*?\| (.*?) \|", table, re.MULTILINE)))
    assert len(quoted) >= 4
    assert [number for number in quoted if number != "30" and f"| {number} |" not in tables] == []


@sources
def test_public_names_have_docstrings(source):
    tree = parse(source)
    assert ast.get_docstring(tree)
    for name, node in members(tree).items():
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or name.startswith("_"):
            continue
        # The docstring of a typer callback would be the whole program's help.
        is_callback = any("callback" in ast.unparse(decorator) for decorator in node.decorator_list)
        assert ast.get_docstring(node) or is_callback, name
        for method, child in members(node).items() if isinstance(node, ast.ClassDef) else ():
            if isinstance(child, ast.FunctionDef) and not method.startswith("_") and method != "forward":
                assert ast.get_docstring(child), f"{name}.{method}"


@sources
def test_public_classes_document_their_arguments(source):
    undocumented = []
    for name, node in members(parse(source)).items():
        if not isinstance(node, ast.ClassDef) or name.startswith("_"):
            continue
        bases = {ast.unparse(base).split(".")[-1] for base in node.bases}
        if not bases & {"ModelMixin", "DiffusionPipeline", "Dataset"}:
            continue
        for method, child in members(node).items():
            if method not in ("__init__", "forward", "__call__") or not isinstance(child, ast.FunctionDef):
                continue
            docstring = ast.get_docstring(node if method == "__init__" else child) or ""
            section = docstring.partition("Args:\n")[2]
            documented = set(re.findall(r"^    (\w+): ", section, re.MULTILINE))
            missing = set(arguments_of(child)) - COMMON_ARGUMENTS - documented
            undocumented += [f"{name}.{method}: {argument}" for argument in sorted(missing)]
    assert not undocumented
