"""Rules of what code that travels does: when it is imported, when a model is built, when weights are initialised."""

import ast
import re
from collections.abc import Iterator

from .findings import Finding
from .sources import Source
from .sources import absolute_imports
from .sources import called
from .sources import calls
from .sources import is_config
from .sources import is_model
from .sources import lineage
from .sources import method
from .sources import run_at_import

DYNAMIC = {"eval", "exec", "compile", "__import__", "importlib.import_module", "import_module"}
REACHING = {"os", "sys", "subprocess", "builtins", "socket", "shutil", "importlib", "ctypes"}
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
# What reaches outside the process; at import it is nobody's business.
OUTWARD = re.compile(
    r"^(open|input|os\.(system|popen|exec\w*|spawn\w*|fork|remove|unlink|rename|replace|makedirs|mkdir|putenv|environ\.(setdefault|update|pop|clear))"
    r"|subprocess\.\w+|shutil\.(copy\w*|move|rmtree|\w+_archive|chown)|socket\.\w+|requests\.\w+|httpx\.\w+|urllib\.request\.\w+|urlopen|ctypes\.\w+"
    r"|torch\.hub\.\w+|torch\.load|hf_hub_download|snapshot_download|cached_file|.*\.(write_text|write_bytes"
    r"|from_pretrained|hf_hub_download|snapshot_download))$"
)
FACTORIES = set("arange empty eye full linspace logspace ones rand randn tensor zeros".split())
INITIALISERS = re.compile(r"^(init|nn\.init|torch\.nn\.init|initialization)\.")
IN_PLACE = re.compile(r"\.\w+[a-z]_$")


def code_findings(sources: dict[str, Source]) -> Iterator[Finding]:
    classes = {name: node for source in sources.values() for name, node in source.classes.items()}
    initialised = names_initialised(sources)
    for source in sources.values():
        yield from dangerous(source)
        yield from at_import(source)
        yield from beside_code(source)
        yield from documented_by_transformers(source)
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ClassDef):
                yield from of_module(source, node, classes, initialised)
                yield from of_model(source, node, classes)
                yield from of_config(source, node, classes)
            if called(node) == "isinstance" and isinstance(node, ast.Call):
                yield from compared(source, node, classes)


def dangerous(source: Source) -> Iterator[Finding]:
    for written, node in calls(source.tree):
        name = source.true_name(written)
        hidden = name == "getattr" and source.true_name(ast.unparse(node.args[0])) in REACHING if node.args else False
        if name in DYNAMIC or name.split(".")[0] in ("builtins", "__builtins__", "runpy") or hidden:
            yield Finding(
                "dynamic-code",
                source.at(node),
                f"`{name}` runs or imports what a reader cannot see: write the code or the import out.",
            )
        elif name == "torch.load" or any(key.arg == "allow_pickle" for key in node.keywords):
            yield Finding(
                "pickle-in-code",
                source.at(node),
                f"`{written}` reads pickles: put the values into config.json or into the safetensors file.",
            )
    for package, lines in absolute_imports(source).items():
        if package in PICKLES:
            yield Finding(
                "pickle-in-code",
                f"{source.name}:{lines[0]}",
                f"`{package}` can run code when it reads a file: use safetensors or JSON.",
            )


def at_import(source: Source) -> Iterator[Finding]:
    functions = {node.name: node for node in source.tree.body if isinstance(node, ast.FunctionDef)}
    waiting, seen = list(run_at_import(source.tree)), set()
    while waiting:
        node = waiting.pop()
        name = source.true_name(called(node))
        if name in functions and name not in seen:  # what the file's own functions do when importing calls them
            seen.add(name)
            waiting += [part for statement in functions[name].body for part in ast.walk(statement)]
        written = isinstance(node, ast.Assign) and any("os.environ" in ast.unparse(t) for t in node.targets)
        if OUTWARD.match(name) or written:
            yield Finding(
                "side-effect-at-import",
                source.at(node),
                f"`{name or 'os.environ[...] ='}` runs when the file is imported: move it into the function that needs "
                "it, or take it out.",
            )


def beside_code(source: Source) -> Iterator[Finding]:
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.stmt) or isinstance(node, ast.ClassDef | ast.FunctionDef):
            continue
        parts = list(ast.walk(node))
        texts = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        if any(isinstance(part, ast.Name) and part.id == "__file__" for part in parts):
            for text in texts:
                if re.fullmatch(r"[\w./-]+\.\w{2,12}", text) and not text.endswith(".py"):
                    yield Finding(
                        "file-beside-code",
                        source.at(node),
                        f"{text!r} is looked for beside the code, but transformers copies .py files alone: put its "
                        "content into config.json.",
                    )


def documented_by_transformers(source: Source) -> Iterator[Finding]:
    for node in ast.walk(source.tree):
        for decorator in getattr(node, "decorator_list", ()):
            if re.match(r"auto_docstring\b", ast.unparse(decorator)):
                yield Finding(
                    "auto-docstring",
                    source.at(decorator),
                    "`@auto_docstring` outside transformers writes placeholders and can fail at import: write the "
                    "docstring.",
                    "warning",
                )
                return


def names_initialised(sources: dict[str, Source]) -> set[str]:
    """Attributes that some `_init_weights` of the folder, or what it calls there, mentions."""
    found: set[str] = set()
    for source in sources.values():
        for node in ast.walk(source.tree):
            if isinstance(node, ast.FunctionDef) and re.match(r"_?(init|reset|reinit)_", node.name):
                found |= {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
    return found


def of_module(
    source: Source, node: ast.ClassDef, classes: dict[str, ast.ClassDef], initialised: set[str]
) -> Iterator[Finding]:
    """Buffers, raw parameters and tensors, and `_init_weights`."""
    norm, rotary = re.search(r"(Layer|RMS)Norm", node.name), "RotaryEmbedding" in node.name  # transformers' own care
    known = (
        initialised | ({"weight", "bias"} if norm else set()) | ({"inv_freq", "original_inv_freq"} if rotary else set())
    )
    for name, where in unsaved_buffers(source, node):
        if name not in known:
            yield Finding(
                "buffer-not-saved",
                where,
                f"the buffer `{name}` is not saved, so `from_pretrained` leaves what lay in memory: compute it in "
                "forward, or fill it in `_init_weights` by `init.copy_`.",
            )
    built = list(ast.walk(method(node, "__init__") or ast.Pass()))
    for child in ast.walk(node):
        if not isinstance(child, ast.Assign) or not isinstance(child.targets[0], ast.Attribute):
            continue
        target, value = child.targets[0], child.value
        kind = called(value)
        if re.fullmatch(r"(torch\.)?(nn\.)?Parameter", kind) and target.attr not in known:
            yield Finding(
                "parameter-not-initialised",
                source.at(child),
                f"no `_init_weights` mentions `{target.attr}`: where a checkpoint lacks it, it holds what lay in "
                "memory; initialise it there by `transformers.initialization`.",
                "warning",
            )
        made = (
            child in built
            and re.fullmatch(rf"torch\.({'|'.join(FACTORIES)})", kind)
            and ast.unparse(target.value) == "self"
        )
        if made and ("Module" in lineage(node, classes) or is_model(node, classes)):
            yield Finding(
                "tensor-as-attribute",
                source.at(child),
                f"`self.{target.attr}` is a plain tensor, which stays on the meta device when a checkpoint is "
                "loaded: make it a buffer that is saved, or compute it in forward.",
            )
    initialise = method(node, "_init_weights")
    for child in ast.walk(initialise) if initialise else ():
        name = called(child)
        by_data = isinstance(child, ast.Call) and any(
            isinstance(part, ast.Attribute) and part.attr == "data" for part in child.args
        )
        assigned = isinstance(child, ast.Assign) and ast.unparse(child.targets[0]).endswith(".data")
        if (IN_PLACE.search(name) and not INITIALISERS.match(name)) or by_data or assigned:
            yield Finding(
                "initialiser-overwrites",
                source.at(child),
                f"`{ast.unparse(child)[:60]}` overwrites a weight that was loaded as soon as another one of its module "
                "is missing: use `transformers.initialization` on the parameter itself.",
            )


def finishes(node: ast.ClassDef) -> bool:
    """Whether its constructor calls `post_init`."""
    return any(name.endswith(".post_init") for name, _ in calls(method(node, "__init__") or ast.Pass()))


def unsaved_buffers(source: Source, node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """(name, place) of buffers that a state dict leaves out, in both ways to write them."""
    assigned = {
        id(child.value): ast.unparse(child.targets[0]).removeprefix("self.")
        for child in ast.walk(node)
        if isinstance(child, ast.Assign)
    }
    for name, call in calls(node):
        kind = name.split(".")[-1]
        if kind not in ("register_buffer", "Buffer"):
            continue
        position = 2 if kind == "register_buffer" else 1
        given = [key.value for key in call.keywords if key.arg == "persistent"] + call.args[position : position + 1]
        nothing = len(call.args) > 1 and ast.unparse(call.args[1]) == "None"
        if given and not nothing and getattr(given[0], "value", True) is False:
            first = call.args[0] if call.args else None
            text = str(first.value) if isinstance(first, ast.Constant) else ""
            yield assigned.get(id(call), text) if kind == "Buffer" else text, source.at(call)


def of_model(source: Source, node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> Iterator[Finding]:
    initialiser = method(node, "__init__")
    if not is_model(node, classes):
        return
    finishing = {name for name, kind in classes.items() if finishes(kind)}
    heirs = {name for name, kind in classes.items() if node.name in lineage(kind, classes)}
    finished = initialiser is None or bool({node.name, *lineage(node, classes), *heirs} & finishing)
    if not finished and not node.name.endswith("PreTrainedModel"):
        yield Finding(
            "post-init-missing",
            source.at(initialiser or node),
            f"{node.name}.__init__ does not end with `self.post_init()`, without which transformers 5 cannot load "
            "it: call it last.",
        )
    own = [classes[name] for name in lineage(node, classes) if name in classes]
    declared = {
        ast.unparse(child.target if isinstance(child, ast.AnnAssign) else child.targets[0])
        for kind in (node, *own)
        for child in kind.body
        if isinstance(child, ast.AnnAssign | ast.Assign)
    }
    outside = [name for name in lineage(node, classes) if name not in classes and name.endswith("PreTrainedModel")]
    if outside == ["PreTrainedModel"] and not declared & {"config", "config_class"}:
        yield Finding(
            "config-class-missing",
            source.at(node),
            f"{node.name} does not say its configuration: write `config_class = YourConfig`.",
        )
    yield from annotations(source, node)


def of_config(source: Source, node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> Iterator[Finding]:
    if not is_config(node, classes):
        return
    strict = any(re.search(r"\bstrict\b", ast.unparse(decorator)) for decorator in node.decorator_list)
    if not strict:
        yield Finding(
            "config-not-strict",
            source.at(node),
            f"{node.name} has no `@strict` (huggingface_hub.dataclasses), so nothing checks its values: add it.",
            "warning",
        )
    for child in node.body:
        annotation = ast.unparse(child.annotation) if isinstance(child, ast.AnnAssign) else ""
        if strict and re.search(r"\btuple\b", annotation) and not re.search(r"\b(list|ClassVar|Any)\b", annotation):
            yield Finding(
                "tuple-in-config",
                source.at(child),
                f"`{ast.unparse(child)[:60]}` cannot be loaded again, since JSON gives a list back: annotate it "
                "`list[...] | tuple[...]`.",
            )
        if isinstance(child, ast.Assign | ast.AnnAssign) and "sub_configs" in ast.unparse(child).split("=")[0]:
            keys = getattr(child.value, "keys", ())
            for key, value in zip(keys, getattr(child.value, "values", ()), strict=True):
                if getattr(key, "value", None) == "backbone_config" and ast.unparse(value) in classes:
                    yield Finding(
                        "sub-config-name",
                        source.at(child),
                        "a part of a type of your own cannot be called `backbone_config`, a name that transformers "
                        "looks up among its own types: choose another.",
                    )
    yield from annotations(source, node)


def annotations(source: Source, node: ast.ClassDef) -> Iterator[Finding]:
    for child in source.tree.body:
        if ast.unparse(child) == "from __future__ import annotations":
            yield Finding(
                "future-annotations",
                source.at(child),
                f"`from __future__ import annotations` turns the types of {node.name} into text, so that they are "
                "not checked and its configuration is not found: take it out.",
            )


def compared(source: Source, node: ast.Call, classes: dict[str, ast.ClassDef]) -> Iterator[Finding]:
    for part in ast.walk(node.args[-1]) if node.args else ():
        if isinstance(part, ast.Name) and part.id in classes and is_config(classes[part.id], classes):
            yield Finding(
                "isinstance-of-config",
                source.at(node),
                f"`{ast.unparse(node)}` is False for a checkpoint loaded from a folder, where configuration and model "
                "come from two copies of the module: compare `config.model_type`.",
            )
