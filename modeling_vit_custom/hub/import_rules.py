"""Rules of imports in code that travels: what transformers copies, and what every user must have."""

import ast
from collections.abc import Iterator

from .findings import Finding
from .sources import COPIED
from .sources import Source
from .sources import called
from .sources import third_party

# What transformers itself requires, so that every user has it; Pillow and torchvision come with any image processor.
EVERYBODY_HAS = frozenset(
    "torch transformers huggingface_hub tokenizers safetensors numpy packaging yaml regex tqdm filelock".split()
)
IMAGE_FILES = ("image_processing", "processing")
GUARD = "available"


def import_findings(sources: dict[str, Source], modules: set[str]) -> Iterator[Finding]:
    """
    Args:
        modules: all that lie in the folder, those that cannot be parsed too.
    """
    for source in sources.values():
        yield from relative(source, modules)
        yield from in_text_only(source, modules)
        yield from absolute(source, modules)


def relative(source: Source, modules: set[str]) -> Iterator[Finding]:
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        where, module = source.at(node), node.module
        names = ", ".join(alias.name for alias in node.names)
        if node.level > 1:
            yield Finding(
                "import-from-parent",
                where,
                f"`from {'.' * node.level}{module or ''} import {names}` leaves the folder, which has no parent on a "
                "user's machine: move what it needs into a file beside this one.",
            )
        elif module is None:
            yield Finding(
                "import-of-package",
                where,
                f"`from . import {names}` is not seen by transformers, which will not copy the file: write "
                f"`from .{node.names[0].name} import NAME`.",
            )
        elif "." in module:
            yield Finding(
                "import-of-subfolder",
                where,
                f"`from .{module} import {names}` is in a sub-folder, where transformers looks for a file "
                f"`{module}.py`: put all code flat beside this file.",
            )
        elif module not in modules:
            yield Finding(
                "import-of-missing-file",
                where,
                f"`from .{module} import {names}` needs {module}.py, which is not in the folder, and no `try` or "
                "`if` excuses that: add the file or take the import out.",
            )
        elif module not in source.copied:
            yield Finding(
                "import-unseen",
                where,
                f"transformers does not see `from .{module} import {names}` here, as it looks for lines that begin "
                "with `from .`: give the import a line of its own.",
            )


def in_text_only(source: Source, modules: set[str]) -> Iterator[Finding]:
    imported = {node.module for node in ast.walk(source.tree) if isinstance(node, ast.ImportFrom) and node.level}
    for match in COPIED.finditer(source.text):
        name = match[1] or match[2]
        if name not in imported and name not in modules:
            line = source.text.count("\n", 0, match.start(match.lastindex or 0)) + 1
            yield Finding(
                "import-in-text",
                f"{source.name}:{line}",
                f"a line of text begins with `from .{name} import`, which transformers takes for an import of a file "
                "that is not there: word the line otherwise.",
            )


def absolute(source: Source, modules: set[str]) -> Iterator[Finding]:
    for node in ast.walk(source.tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        own = next((part for name in names for part in own_parts(name) if part in modules), None)
        if own is not None and names[0].split(".")[0] not in EVERYBODY_HAS:
            yield Finding(
                "import-of-own-package",
                source.at(node),
                f"`{ast.unparse(node)}` works where the author's package is installed and fails for everyone else: "
                f"write `from .{own} import NAME`.",
            )
    excused = excused_lines(source)
    for name, lines in third_party(source).items():
        images = source.name.startswith(IMAGE_FILES) and name in ("torchvision", "PIL")
        bare = [line for line in lines if line not in excused]
        if not bare or name in EVERYBODY_HAS or name in modules or images:
            continue
        yield Finding(
            "import-of-third-party",
            f"{source.name}:{bare[0]}",
            f"every user must install `{name}`, wherever in the file it is imported: do without it, or import it "
            "within `try` and say in a sentence what needs it.",
            "warning",
        )


def own_parts(name: str) -> list[str]:
    """What of `package.file` or `package.file.Name`, or of `file`, could be a file beside this one."""
    parts = name.split(".")
    own = parts[:1] if len(parts) < 2 else parts[1:2] if len(parts) < 3 or parts[2][:1].isupper() else []
    return [*own, *parts[:1]]


def excused_lines(source: Source) -> set[int]:
    """Lines that transformers does not look at: within `try`, and within `if is_something_available():`."""
    found: set[int] = set()
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.If | ast.Try):
            continue
        asks = ast.walk(node.test) if isinstance(node, ast.If) else ()
        if isinstance(node, ast.Try) or any(called(part).endswith(GUARD) for part in asks):
            found |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return found
