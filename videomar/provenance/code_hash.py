"""Which code decides a result: one hash over everything that a stage imports, directly or not.

    roots                the modules that a stage starts from
      -> closure         all modules of ours that they import, without INERT ones
      -> contents        each source as a syntax tree without docstrings, comments and layout
      -> sorted, hashed  as a set, without the names of files

An import counts by the content of what it imports, not by its path. So a reworded comment and a moved or
renamed file change nothing, and any line that can change a bit changes the hash. Results of equal code are
not made again, and scores of equal code are comparable.
"""

import ast
import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from videomar.errors import DataError

# Modules and packages whose code cannot change a result, and why. They are neither hashed nor followed.
INERT = {
    "videomar.errors": "classes of errors",
    "videomar.config": "declares and checks values; the values themselves are part of each record",
    "videomar.environment": "settings of other programs: telemetry, ports, proxies",
    "videomar.files": "writes files atomically, JSON, CSV, checksums",
    "videomar.compute.cluster": "starts and finds Ray",
    "videomar.processes": "ends child processes",
    "stages.stage": "arguments, metrics and messages of a stage",
    "videomar.provenance": "makes and compares these hashes, and records the commit",
    "videomar.media.check_decoders": "refuses decoders that do not work",
    "videomar.curation.retries": "names what failed, and the programs",
    "videomar.curation.read_files": "distributes files to processes; `ingest_file` reads them",
    "videomar.tracking": "records runs in MLflow",
    "videomar.sampling.previews": "clips to look at; nothing is made from them",
    "videomar.checkpoint.model_folder": "copies files beside the weights",
    "videomar.hub.start": "finds the weights that a name stands for, which are compared by content",
    "videomar.evaluation.fingerprint": "what scores depend on",
    "videomar.latents.encode_ray": "distributes clips to workers; `clip_encoder` encodes them",
    "videomar.latents.encode_captions": "distributes captions to workers; `text` encodes them",
    "videomar.encoders.check_folders": "refuses folders of weights that a stage would refuse later",
    "videomar.training.launch": "starts the workers of a run",
    "videomar.training.run_folder": "which run a folder holds",
    "videomar.training.throughput": "measures speed",
    "videomar.training.progress": "lines of progress and warnings",
}
# The package itself: a version, and public names that are imported when a user asks for them.
_PACKAGE = "videomar"
_EMPTY = json.dumps(["Module(body=[Pass()])", []])
# Training generates no clips.
_NO_CLIP_IS_MADE = ("videomar.model.generation", "videomar.model.kv_cache")


class Roots(NamedTuple):
    """Modules that an import closure starts from, and modules left out of it, as with INERT."""

    modules: tuple[str, ...]
    without: tuple[str, ...] = ()


# The code that makes a clip's latents, a caption's states, a training run, a tokenizer.
LATENTS = Roots(("videomar.latents.clip_encoder",))
CAPTIONS = Roots(("videomar.encoders.text",))
TRAINING = Roots(("videomar.training.loop",), _NO_CLIP_IS_MADE)
# Checkpoints continue a run with the same bits; their module also loads the other network.
TOKENIZER = Roots(("videomar.encoders.train_tokenizer",), ("videomar.checkpoint",))
STAGES = {
    "list_clips": Roots(("stages.list_clips",)),
    "samples": Roots(("stages.samples",)),
    "ingest": Roots(("stages.ingest",)),
    "curate": Roots(("stages.curate",)),
    "train_tokenizer": Roots(("stages.train_tokenizer", *TOKENIZER.modules), TOKENIZER.without),
    "encode": Roots(("stages.encode", *LATENTS.modules)),
    "train": Roots(("stages.train", *TRAINING.modules), TRAINING.without),
    "sample": Roots(("stages.sample",)),
    "evaluate": Roots(("stages.evaluate",)),
}
"""Roots of each stage of dvc.yaml."""
SCORES = Roots(("videomar.sampling.sample", "videomar.evaluation.suite"))
"""The code that scores depend on: it generates the clips and scores them."""


@cache
def code_hash(roots: Roots) -> str:
    """Hash of the code of an import closure, as 64 hex digits."""
    files = closure(roots)
    contents = [file for file in files.values() if not _only_reexports(file)]
    parts = sorted({_content(file, (*INERT, *roots.without)) for file in contents})
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def closure(roots: Roots) -> dict[str, Path]:
    """Files of all modules below `videomar` and `stages` that the roots import, directly or not, by name.

    Imports inside functions count, those for type checkers do not. Files without code are left out.

    Raises:
        DataError: a root does not exist.
    """
    found: dict[str, Path] = {}
    waiting = list(roots.modules)
    if missing := [name for name in roots.modules if _file_of(name) is None]:
        raise DataError(f"{missing[0]}: got no such module, expected it; run from the repository root")
    while waiting:
        name = waiting.pop()
        known = name in found or name == _PACKAGE
        file = None if known or _is_below(name, (*INERT, *roots.without)) else _file_of(name)
        if file is not None:
            found[name] = file
            waiting += _imported(file)
    return {name: file for name, file in sorted(found.items()) if _content(file, ()) != _EMPTY}


def source_hash(file: Path) -> str:
    """Hash of one Python source without docstrings, comments and layout; its imports count as text."""
    return hashlib.sha256(_text(_Stripped().visit(_parsed(file))).encode()).hexdigest()


def _is_below(name: str, rooms: Sequence[str]) -> bool:
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


@cache
def _file_of(name: str) -> Path | None:
    """Source file of a module of ours, found without importing it; None for any other name."""
    top, *rest = name.split(".")
    spec = find_spec(top) if top in ("videomar", "stages") else None
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent.joinpath(*rest)
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


@cache
def _imported(file: Path) -> tuple[str, ...]:
    """Modules that a source imports. `from a import b` counts as `a` and as `a.b`, which may be a module."""
    names: list[str] = []
    for statement in _imports_of(_parsed(file)):
        if isinstance(statement, ast.Import):
            names += [alias.name for alias in statement.names]
        elif statement.module is not None:
            names += [statement.module, *(f"{statement.module}.{alias.name}" for alias in statement.names)]
    parents = {
        ".".join(name.split(".")[:length]) for name in names for length in range(1, name.count(".") + 1)
    }
    return tuple(sorted({*names, *parents}))


def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"))


def _imports_of(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not _is_for_types(child):
            yield from _imports_of(child)


def _is_for_types(node: ast.AST) -> bool:
    """Whether this is `if TYPE_CHECKING:`, which never runs."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@cache
def _content(file: Path, without: tuple[str, ...]) -> str:
    """A source as text: its body, and what each imported name stands for.

    A name from one of our modules stands for the content of that module: so importing the name from another
    module changes the text, and moving the module does not. Other imports count as text. All modules that are
    left out count as the same.
    """
    imports, modules = set[str](), dict[str, str]()
    for name, (ours, source) in _names_of(file).items():
        if ours is None:
            imports.add(f"{source} as {name}")
        elif source is None:  # a module: its name depends on its path
            modules[name] = f"module {_body_hash(ours, without)}"
            imports.add(modules[name])
        else:
            imports.add(f"{_body_hash(ours, without)} {source} as {name}")
    return json.dumps([_body(file, frozenset(modules.items())), sorted(imports)])


@cache
def _names_of(file: Path) -> dict[str, tuple[Path | None, str | None]]:
    """Names that a source imports, each with a file of ours and the name in that file.

    The name is None for a module itself. For imports from elsewhere the file is None, and the name is the
    text of the import.
    """
    found: dict[str, tuple[Path | None, str | None]] = {}
    for statement in _imports_of(_parsed(file)):
        for alias in statement.names:
            source = statement.module if isinstance(statement, ast.ImportFrom) else None
            whole, name = f"{source}.{alias.name}" if source else alias.name, alias.asname or alias.name
            if (module := _file_of(whole)) is not None:
                found[name] = module, None
            elif source and (module := _file_of(source)) is not None:
                found[name] = _origin(module, alias.name)
            else:
                found[name] = None, whole
    return found


def _origin(file: Path, name: str) -> tuple[Path | None, str | None]:
    """File and name where a name is defined: packages re-export names of their modules."""
    imported = _names_of(file).get(name) if _only_reexports(file) else None
    return imported if imported is not None else (file, name)


@cache
def _only_reexports(file: Path) -> bool:
    """Whether a source has no code but imports and `__all__`."""
    code = [node for node in _parsed(file).body if not isinstance(node, ast.Import | ast.ImportFrom)]
    return bool(_names_of(file)) and all(map(_names_only, code))


def _names_only(node: ast.stmt) -> bool:
    """Whether this is a docstring or `__all__`."""
    if isinstance(node, ast.Assign):
        return ast.unparse(node.targets[0]) == "__all__"
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


@cache
def _body_hash(file: Path, without: tuple[str, ...]) -> str:
    """Hash of a source without its imports; a constant for a module that is left out."""
    if file in _files_below(without):
        return "left out"
    modules = [name for name, (ours, source) in _names_of(file).items() if ours and source is None]
    return hashlib.sha256(_body(file, frozenset((name, "module") for name in modules)).encode()).hexdigest()


@cache
def _body(file: Path, modules: frozenset[tuple[str, str]]) -> str:
    """A source without docstrings and imports as text, with other names for modules."""
    return _text(_Stripped(dict(modules)).visit(_parsed(file)))


def _text(node: object) -> str:
    """A syntax tree as text, the same for every version of Python: the defaults of `ast.dump` changed."""
    if isinstance(node, ast.AST):
        fields = (
            f"{name}={_text(value)}" for name, value in ast.iter_fields(node) if value not in (None, [])
        )
        return f"{type(node).__name__}({', '.join(fields)})"
    return f"[{', '.join(map(_text, node))}]" if isinstance(node, list) else repr(node)


@cache
def _files_below(rooms: tuple[str, ...]) -> frozenset[Path]:
    """The sources of modules and packages."""
    files = [file for room in rooms if (file := _file_of(room)) is not None]
    packages = [file.parent for file in files if file.stem == "__init__"]
    return frozenset([*files, *(path for folder in packages for path in folder.rglob("*.py"))])


class _Stripped(ast.NodeTransformer):
    """Removes docstrings and imports from a tree, and replaces names of modules."""

    def __init__(self, modules: dict[str, str] | None = None) -> None:
        self._modules = modules

    def visit(self, node: ast.AST) -> ast.AST:
        """Return a node without statements that do nothing."""
        for name in ("body", "orelse", "finalbody"):
            part = getattr(node, name, None)
            if isinstance(part, list):
                kept = [each for each in part if not self._is_idle(each)]
                setattr(node, name, kept or ([ast.Pass()] if name == "body" and part else []))
        if isinstance(node, ast.Name) and self._modules and node.id in self._modules:
            node.id = self._modules[node.id]
        return self.generic_visit(node)

    def _is_idle(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return isinstance(node.value.value, str)
        imports = isinstance(node, ast.Import | ast.ImportFrom) and self._modules is not None
        return imports or _is_for_types(node)
