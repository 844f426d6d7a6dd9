"""Which code decides a result: the sources that a stage imports, hashed by what they do.

A hash is of the import closure of a few modules. Each source counts as its syntax tree without docstrings,
comments and layout; an import counts by what it imports, never by where that lies. So a reworded comment and
a moved or renamed file change nothing, and any line that can change a bit changes the hash.
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

# Rooms whose code cannot change a result, and why. They are neither hashed nor followed.
INERT = {
    "videomar.errors": "classes of errors",
    "videomar.config": "declares and checks values; the values themselves are compared with each result",
    "videomar.environment": "switches of other programs: telemetry, ports, proxies",
    "videomar.files": "writes files atomically, JSON, CSV, checksums",
    "videomar.cluster": "starts and finds Ray",
    "videomar.processes": "ends child processes",
    "stages.stage": "arguments, metrics and messages of a stage",
    "videomar.provenance": "makes and compares these hashes, and records the commit",
    "videomar.tracking": "tells MLflow what has happened",
    "videomar.sampling.previews": "clips to look at; nothing is made from them",
    "videomar.evaluation.fingerprint": "what scores depend on",
    "videomar.latents.encode_ray": "deals clips to workers; what is made of one is in `clip_encoder`",
    "videomar.training.launch": "deals a run to workers",
    "videomar.training.run_folder": "which run a folder holds",
    "videomar.training.throughput": "figures of speed",
    "videomar.training.progress": "lines of progress and warnings",
}
_EMPTY = json.dumps(["Module(body=[Pass()])", []])
# Training makes no clip.
_NO_CLIP_IS_MADE = ("videomar.model.generation", "videomar.model.kv_cache")


class Roots(NamedTuple):
    """Where an import closure begins, and what is left out of this one."""

    modules: tuple[str, ...]
    without: tuple[str, ...] = ()


# The code that makes a clip's latents, a caption's states, a training run.
LATENTS = Roots(("videomar.latents.clip_encoder",))
CAPTIONS = Roots(("videomar.encoders.text",))
TRAINING = Roots(("videomar.training.loop", "videomar.training.inputs"), _NO_CLIP_IS_MADE)
STAGES = {
    "list_clips": Roots(("stages.list_clips",)),
    "samples": Roots(("stages.samples",)),
    "ingest": Roots(("stages.ingest",)),
    "curate": Roots(("stages.curate",)),
    "train_tokenizer": Roots(("stages.train_tokenizer",)),
    "encode": Roots(("stages.encode", *LATENTS.modules)),
    "train": Roots(("stages.train", *TRAINING.modules), TRAINING.without),
    "sample": Roots(("stages.sample",)),
    "evaluate": Roots(("stages.evaluate",)),
}
"""The code of each stage of dvc.yaml."""
SCORES = Roots(("videomar.sampling.sample", "videomar.evaluation.suite"))
"""The code that scores depend on: of the clips that are scored, and of the scores."""


@cache
def code_hash(roots: Roots) -> str:
    """Hash of the code of an import closure, as 64 hex digits."""
    files = closure(roots)
    contents = [file for file in files.values() if not _only_reexports(file)]
    parts = sorted({_content(file, (*INERT, *roots.without)) for file in contents})
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def closure(roots: Roots) -> dict[str, Path]:
    """Every module that the roots import, directly or not, below `videomar` and `stages`: name to file.

    Imports inside functions count; those for type checkers alone do not. Files without code are left out.

    Raises:
        DataError: a root is not to be found.
    """
    found: dict[str, Path] = {}
    waiting = list(roots.modules)
    if missing := [name for name in roots.modules if _file_of(name) is None]:
        raise DataError(f"{missing[0]}: got no such module, expected it; run from the repository root")
    while waiting:
        name = waiting.pop()
        file = None if name in found or _is_below(name, (*INERT, *roots.without)) else _file_of(name)
        if file is not None:
            found[name] = file
            waiting += _imported(file)
    return {name: file for name, file in sorted(found.items()) if _content(file, ()) != _EMPTY}


def source_hash(file: Path) -> str:
    """Hash of one Python source by what it does; its imports count by their text."""
    return hashlib.sha256(_text(_Stripped().visit(_parsed(file))).encode()).hexdigest()


def _is_below(name: str, rooms: Sequence[str]) -> bool:
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


@cache
def _file_of(name: str) -> Path | None:
    """Source of a module of ours; None for what is no module, or not ours. Imports nothing."""
    top, *rest = name.split(".")
    spec = find_spec(top) if top in ("videomar", "stages") else None
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent.joinpath(*rest)
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


@cache
def _imported(file: Path) -> tuple[str, ...]:
    """Modules that a source imports. Of `from a import b` both `a` and `a.b` are named, in case it is one."""
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
    """What a source does, as text.

    Imports from modules of ours are told by the content of these, so that a name that is taken from another
    module counts and a module that has moved does not; all others by their text. Modules that are left out
    are all one.
    """
    imports, modules = set[str](), dict[str, str]()
    for name, (ours, source) in _names_of(file).items():
        if ours is None:
            imports.add(f"{source} as {name}")
        elif source is None:  # a module, whose name is a matter of where it lies
            modules[name] = f"module {_body_hash(ours, without)}"
            imports.add(modules[name])
        else:
            imports.add(f"{_body_hash(ours, without)} {source} as {name}")
    return json.dumps([_body(file, modules), sorted(imports)])


@cache
def _names_of(file: Path) -> dict[str, tuple[Path | None, str | None]]:
    """Names that a source imports: the file of ours that each is from, and what it is in there.

    Of a module of ours that is None; of others there is no file, and where it is from, as text.
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
    """Where a name of one of our modules is defined: packages re-export names of their modules."""
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
    """Hash of a source but for its imports; of one that is left out, the same as of any other."""
    if file in _files_below(without):
        return "left out"
    modules = {name: "module" for name, (ours, source) in _names_of(file).items() if ours and source is None}
    return hashlib.sha256(_body(file, modules).encode()).hexdigest()


def _body(file: Path, modules: dict[str, str]) -> str:
    return _text(_Stripped(modules).visit(_parsed(file)))


def _text(node: object) -> str:
    """A syntax tree as text, the same on every Python: `ast.dump` has other defaults in each version."""
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
    """Takes docstrings and imports out of a tree, and puts other names for those of modules."""

    def __init__(self, modules: dict[str, str] | None = None) -> None:
        self._modules = modules

    def visit(self, node: ast.AST) -> ast.AST:
        """A node without what does nothing."""
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
