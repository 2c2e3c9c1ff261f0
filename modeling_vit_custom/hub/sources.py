"""The Python files of a checkpoint as syntax trees, and the questions that several rules ask of them. Nothing runs."""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

# transformers looks for files to copy by these expressions over the text of a file, docstrings included.
COPIED = re.compile(r"^\s*(?:import\s+\.(\S+)\s*$|from\s+\.(\S+)\s+import)", re.MULTILINE)


@dataclass(frozen=True)
class Source:
    name: str
    text: str
    tree: ast.Module

    @cached_property
    def copied(self) -> set[str]:
        """The siblings that transformers copies with this file."""
        return {found for pair in COPIED.findall(self.text) for found in pair if found}

    @cached_property
    def classes(self) -> dict[str, ast.ClassDef]:
        return {node.name: node for node in self.tree.body if isinstance(node, ast.ClassDef)}

    @cached_property
    def names(self) -> set[str]:
        """What the module has at its top level: `getattr` finds these."""
        found = set()
        for node in top_level(self.tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                found.add(node.name)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
            elif isinstance(node, ast.Assign):
                found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        return found

    @cached_property
    def origins(self) -> dict[str, str]:
        """{name in this file: what it is by absolute imports}: of `from os import system as s` {"s": "os.system"}."""
        found: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found |= {alias.asname: alias.name for alias in node.names if alias.asname}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        return found

    def true_name(self, dotted: str) -> str:
        first, dot, rest = dotted.partition(".")
        return self.origins.get(first, first) + dot + rest

    def at(self, node: ast.AST) -> str:
        return f"{self.name}:{getattr(node, 'lineno', 1)}"


def read_sources(folder: Path) -> tuple[dict[str, Source], dict[str, SyntaxError]]:
    """({module: file}, {module: why it is none}) of the files at the top of a folder."""
    sources, broken = {}, {}
    for path in sorted(path for path in folder.glob("*.py") if path.is_file()):
        text = path.read_text(encoding="utf-8", errors="replace")
        try:
            sources[path.stem] = Source(path.name, text, ast.parse(text))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # null bytes, endless nesting
            broken[path.stem] = error if isinstance(error, SyntaxError) else SyntaxError(str(error))
    return sources, broken


def top_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements that importing runs, within `if`, `try`, `with` and loops too; not what `__main__` alone runs."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop(0)
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("__name__ == '__main__'", "'__main__' == __name__"):
            waiting += node.orelse
            continue
        for name in ("body", "orelse", "finalbody", "handlers"):
            for child in getattr(node, name, ()):
                if isinstance(node, ast.If | ast.Try | ast.With | ast.For | ast.While):
                    waiting += child.body if isinstance(child, ast.ExceptHandler) else [child]


def run_at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Every node that importing evaluates: not the bodies of functions, but their decorators and defaults."""
    for statement in top_level(tree):
        yield from evaluated(statement)


def evaluated(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        outside = [*getattr(node, "decorator_list", ()), *node.args.defaults, *filter(None, node.args.kw_defaults)]
    elif isinstance(node, ast.If | ast.Try | ast.With | ast.For | ast.While):
        inside = ("body", "orelse", "finalbody", "handlers")  # `top_level` has them
        outside = [child for key, child in fields_of(node) if key not in inside]
    else:
        outside = [child for _, child in fields_of(node)]
    yield node
    for child in outside:
        yield from evaluated(child)


def fields_of(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for key, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield key, child


def called(node: ast.AST) -> str:
    """The dotted name of a call, of `a.b(...)` "a.b"; empty for other nodes."""
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def method(node: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    return next((child for child in node.body if isinstance(child, ast.FunctionDef) and child.name == name), None)


def lineage(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> list[str]:
    """The names of all bases, those within the folder followed to the end."""
    found: list[str] = []
    for base in node.bases:
        name = ast.unparse(base).split(".")[-1].split("[")[0]
        found += [name, *(lineage(classes[name], classes) if name in classes and name != node.name else ())]
    return found


def is_model(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> bool:
    return any(name.endswith("PreTrainedModel") for name in lineage(node, classes))


def is_config(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> bool:
    return any(name in ("PretrainedConfig", "PreTrainedConfig") for name in lineage(node, classes))


def absolute_imports(source: Source) -> dict[str, list[int]]:
    """{top-level package: lines} of all absolute imports, wherever they stand."""
    found: dict[str, list[int]] = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [node.module]
        else:
            continue
        for name in names:
            found.setdefault(name.split(".")[0], []).append(node.lineno)
    return found


def third_party(source: Source) -> dict[str, list[int]]:
    return {name: lines for name, lines in absolute_imports(source).items() if name not in sys.stdlib_module_names}
