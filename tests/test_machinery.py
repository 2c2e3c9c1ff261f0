"""Other people's machinery around the model: offloading, `torch.func`, hooks on modules, tracing."""

import copy

import pytest
import torch
from accelerate import cpu_offload
from accelerate import disk_offload
from torch.func import functional_call
from torch.func import grad
from torch.func import vmap

from modeling_vit_custom import ViTCustomBackbone
from modeling_vit_custom import ViTCustomForImageClassification
from tests import matrix
from tests.support import VARIANTS
from tests.support import fill
from tests.support import picture
from tests.support import tiny

every_variant = pytest.mark.parametrize("name", VARIANTS)
every_cell = pytest.mark.parametrize(("head", "member"), matrix.CELLS)


def classifier(name):
    model = fill(ViTCustomForImageClassification(tiny(**VARIANTS[name])))
    return model, picture(3, model.config.num_channels, 40, 32)


def backbone(name):
    config = tiny(**VARIANTS[name])
    model = fill(ViTCustomBackbone(tiny(**VARIANTS[name], out_features=config.stage_names)))
    return model, picture(3, model.config.num_channels, 40, 32)


def assert_same(ours, theirs):
    ours, theirs = matrix.tensors(ours), matrix.tensors(theirs)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


@pytest.mark.parametrize("make", [classifier, backbone])
@every_variant
@torch.no_grad()
def test_offloaded_weights_give_the_same_answer(name, make):
    """Between calls the weights are on no device: what forward takes from one, it takes in vain."""
    model, images = make(name)
    expected = model(images, output_hidden_states=True)
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert_same(model(images, output_hidden_states=True), expected)


@every_cell
@torch.no_grad()
def test_offloaded_heads_give_the_same_loss(head, member):
    model = matrix.make(head, member).eval()
    given = matrix.inputs(head, model.config, (32, 32))
    expected = model(**given)
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert_same(model(**given), expected)


@torch.no_grad()
def test_weights_on_a_disk_give_the_same_answer_and_are_not_resized(tmp_path):
    model, images = classifier("yolos")
    expected = model(images)
    disk_offload(model, str(tmp_path / "weights"), execution_device=torch.device("cpu"))
    assert_same(model(images), expected)
    with pytest.raises(ValueError, match="is offloaded, so it cannot be resized: resize first"):
        model.resize_position_embeddings(6)
    with pytest.raises(ValueError, match=r"^Offloaded weights cannot follow another `patch_size`"):
        model.resize_patch_embeddings(4)
    assert_same(model(images), expected)


@torch.no_grad()
def test_a_checkpoint_loaded_in_parts_from_a_disk_gives_the_same_answer(tmp_path):
    model, images = classifier("mean")
    model.save_pretrained(tmp_path)
    parts = {"vit.embeddings": "cpu", "vit.stages": "disk", "vit.norm": "cpu", "vit.pooled_norm": "cpu"}
    loaded = ViTCustomForImageClassification.from_pretrained(
        tmp_path, device_map=parts | {"classifier": "disk"}, offload_folder=str(tmp_path / "offloaded")
    )
    assert_same(loaded(images), model(images))


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
class TestPerImage:
    """Gradients of each image of a batch are those of the image alone."""

    def alone(self, model, given):
        """[{name: gradient}], one an image."""
        rows = [{name: value[n : n + 1] for name, value in given.items()} for n in range(len(given["pixel_values"]))]
        parameters = dict(model.named_parameters())
        found = [torch.autograd.grad(model(**row).loss, parameters.values(), allow_unused=True) for row in rows]
        return [dict(zip(parameters, gradients, strict=True)) for gradients in found]

    def assert_alone(self, gradients, model, given):
        for n, row in enumerate(self.alone(model, given)):
            for name, gradient in row.items():
                expected = torch.zeros_like(gradients[name][n]) if gradient is None else gradient
                torch.testing.assert_close(gradients[name][n], expected, rtol=0, atol=1e-10)

    def by_transforms(self, model, given):
        def loss(parameters, row):
            return functional_call(model, parameters, kwargs={name: value[None] for name, value in row.items()}).loss

        parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
        return vmap(grad(loss), in_dims=(None, 0), randomness="different")(parameters, given)

    def by_hooks(self, model, given):
        """As Opacus does: a module with parameters of its own is called again, by the one tensor that it was given, and
        what the loss wants of its output is taken per image."""
        calls, found, unwatched, model = [], {}, model, copy.deepcopy(model)

        def watch(module, name):
            if module._parameters:
                module.register_forward_hook(lambda module, args, _: calls.append((module, name, *args)))
                module.register_full_backward_hook(lambda module, _, wanted: replay(module, *wanted))
            if not module._parameters:
                for child, below in module.named_children():
                    watch(below, f"{name}.{child}" if name else child)

        def replay(module, wanted):
            at = max(n for n, call in enumerate(calls) if call[0] is module)
            _, name, *args = calls.pop(at)
            assert [type(argument) for argument in args] == [torch.Tensor]

            def product(parameters, tensor, wanted):
                again = functional_call(unwatched.get_submodule(name), parameters, (tensor[None],))
                return (again * wanted[None]).sum()

            parameters = {key: parameter.detach() for key, parameter in module.named_parameters()}
            gradients = vmap(grad(product), in_dims=(None, 0, 0))(parameters, args[0].detach(), wanted * len(wanted))
            for key, gradient in gradients.items():
                key = f"{name}.{key}"
                found[key] = found[key] + gradient if key in found else gradient

        watch(model, "")
        model(**given).loss.backward()
        assert not calls
        return found

    @pytest.mark.parametrize("problem_type", ["single", "multi", "soft"])
    @every_variant
    def test_by_transforms(self, name, problem_type):
        if problem_type != "single" and name != "vit":
            pytest.skip("once is enough")
        model, images = classifier(name)
        model.double().config.problem_type = f"{problem_type}_label_classification"
        labels = torch.tensor([0, 4, 2])
        labels = labels if problem_type == "single" else torch.eye(5)[labels]
        given = {"pixel_values": images.double(), "labels": labels}
        self.assert_alone(self.by_transforms(model, given), model, given)

    @pytest.mark.parametrize(
        ("head", "member"),
        [cell for cell in matrix.CELLS if not cell[0].startswith(("classification", "detection", "image-text"))],
    )
    def test_by_transforms_of_a_head(self, head, member):
        model = matrix.make(head, member).eval().double()
        given = {name: value[:2] for name, value in matrix.inputs(head, model.config, (32, 32)).items()}
        given["pixel_values"] = given["pixel_values"].double()
        self.assert_alone(self.by_transforms(model, given), model, given)

    @pytest.mark.parametrize("name", [name for name in VARIANTS if name != "yolos"])
    def test_by_hooks(self, name):
        """Not where a stage has positions for each of its layers: it is given its grid, too."""
        model, images = classifier(name)
        given = {"pixel_values": images.double(), "labels": torch.tensor([0, 4, 2])}
        self.assert_alone(self.by_hooks(model.double().train(), given), model, given)

    @pytest.mark.parametrize("member", ["vit", "swin"])
    def test_by_hooks_of_a_segmenter(self, member):
        model = matrix.make("segmentation", member).double().train()
        given = {name: value[:2] for name, value in matrix.inputs("segmentation", model.config, (32, 32)).items()}
        given["pixel_values"] = given["pixel_values"].double()
        self.assert_alone(self.by_hooks(model, given), model, given)


def test_random_draws_are_outside_of_modules_that_hold_parameters():
    """Opacus calls those again."""
    model = fill(ViTCustomForImageClassification(tiny(layer_scale_init_value=0.5, drop_path_rate=0.5))).train()
    states = []
    for module in model.modules():
        if module._parameters:
            module.register_forward_pre_hook(lambda *_: states.append(torch.get_rng_state()))
            module.register_forward_hook(lambda *_: states.append(torch.get_rng_state()))
    model(picture(2, 3, 32, 32))
    assert not torch.equal(states[0], states[-1])
    assert all(torch.equal(before, after) for before, after in zip(states[::2], states[1::2], strict=True))


@every_cell
def test_a_module_with_parameters_is_given_tensors_by_place_and_the_rest_by_name(head, member):
    model = matrix.make(head, member)
    given = matrix.inputs(head, model.config, (32, 32))
    seen = []

    def look(module, args):
        if module._parameters and module is not model and "modeling_vit_custom" in type(module).__module__:
            seen.append([type(argument) for argument in args])

    for module in model.modules():
        module.register_forward_pre_hook(look)
    model(**given)
    assert seen
    assert all(isinstance(kind, type) and issubclass(kind, torch.Tensor) for kinds in seen for kind in kinds)
