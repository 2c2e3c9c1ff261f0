"""Every head on every backbone, at three sizes: checkpointing, compiling, exporting, learning; or a clear error.

What takes minutes is marked `full_size`: `make test-matrix` runs all of it and writes docs/matrix.md. Cells are shipped
in tests/test_shipping.py; transformers' own tests run in tests/test_transformers_common.py.
"""

from collections import Counter

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from tests.matrix import ALL
from tests.matrix import CELLS
from tests.matrix import HEADS
from tests.matrix import SIZES
from tests.matrix import SOME_NOW
from tests.matrix import inputs
from tests.matrix import make
from tests.matrix import overfit
from tests.matrix import tensors
from tests.matrix import without_targets
from tests.support import fill

OLD_TORCH = torch.__version__.startswith("2.6.")
every_cell = pytest.mark.parametrize(("head", "member"), CELLS)
every_size = pytest.mark.parametrize("size", SIZES)
native_now = pytest.mark.parametrize(
    "size", [pytest.param(size, marks=[] if size == "native" else pytest.mark.full_size) for size in SIZES]
)
some_now = pytest.mark.parametrize(("head", "member"), SOME_NOW)


@pytest.fixture(autouse=True)
def cell(request, record_property):
    """The row and the column of docs/matrix.md that a test is about; its outcome is what is written there."""
    column = request.node.function.__name__.removeprefix("test_").replace("_", " ")
    given = {name: request.node.callspec.params.get(name, "") for name in ("head", "member", "size")}
    record_property("cell", (*given.values(), column))
    if OLD_TORCH and given["head"] == "image-text" and column in ("compiling", "exporting"):
        request.applymarker(pytest.mark.xfail(reason="torch 2.6 cannot trace CLIP's text tower of transformers 5.5"))


@pytest.fixture
def compiler():
    """torch counts the compilations of one function over all models of a process."""
    torch.compiler.reset()
    yield torch.compile
    torch.compiler.reset()


def filled(head, member, size):
    model = fill(make(head, member))
    return model, inputs(head, model.config, SIZES[size])


def assert_equal_outputs(found, expected):
    found, expected = tensors(found), tensors(expected)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, at=name: f"{at}: {text}")


@pytest.mark.parametrize(("head", "member"), sorted({*ALL} - {*CELLS}))
def test_what_does_not_combine_says_so(head, member):
    with pytest.raises((ValueError, StrictDataclassError), match=HEADS[head].refused[member]):
        make(head, member)


@every_size
@every_cell
def test_checkpointing(head, member, size):
    """The loss and every gradient are equal to the bit, and each layer was computed twice."""
    results = []
    for times in (1, 2):
        model, given = filled(head, member, size)
        model.train()
        if times == 2:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})  # transformers 5.5 has the second name
        runs: Counter[str] = Counter()
        layers = {name: module for name, module in model.named_modules() if name.endswith(".mlp")}
        for name, module in layers.items():
            module.register_forward_pre_hook(lambda *_, runs=runs, name=name: runs.update([name]))
        loss = model(**given).loss
        loss.backward()
        assert runs == dict.fromkeys(layers, times)
        results.append({"loss": loss} | {name: parameter.grad for name, parameter in model.named_parameters()})
    plain, checkpointed = map(tensors, results)
    assert plain.keys() == checkpointed.keys()
    for name, value in plain.items():
        assert torch.equal(checkpointed[name], value), name


@some_now
@torch.no_grad()
def test_compiling(head, member, compiler):
    """Without graph breaks, the loss too; but scipy matches a detector's predictions to objects, which is no graph."""
    model, given = filled(head, member, "native")
    if "detection" in head:
        given = without_targets(given)
    compiled = compiler(model, fullgraph=True, backend="eager")
    assert_equal_outputs(compiled(**given), model(**given))


@pytest.mark.full_size
@every_size
@every_cell
def test_compiling_by_inductor(head, member, size, compiler):
    """As training needs it: gradients too."""
    model, given = filled(head, member, size)
    if "detection" in head:
        given = without_targets(given)
    compiled = compiler(model, fullgraph=True)
    results = []
    for run in (model, compiled):
        model.zero_grad()
        outputs = run(**given)
        loss = outputs["loss"] if outputs.get("loss") is not None else outputs.logits.square().mean()
        loss.backward()
        results.append((outputs, {name: parameter.grad for name, parameter in model.named_parameters()}))
    for plain, found in zip(*results, strict=True):
        assert_equal_outputs(found, plain)


@native_now
@some_now
@torch.no_grad()
def test_exporting(head, member, size):
    model, given = filled(head, member, size)
    given = without_targets(given)
    program = torch.export.export(model, (), given).module()
    assert_equal_outputs(program(**given), model(**given))


@native_now
@some_now
def test_overfitting(head, member, size, record_property):
    """Eight real pictures, always the same hidden patches: below 5 % of the loss at the start."""
    _, share = overfit(head, member, SIZES[size])
    record_property("figure", f"{share:.1%}")
    assert share < 0.05
