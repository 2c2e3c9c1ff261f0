"""ONNX files that torch exported from transformers' ViT or DINOv2: their tensors under transformers' names, and the
configuration that shapes and graph say.

An export keeps the names of most parameters. The weight of a linear layer stands transposed, without its name, as the
second factor of a MatMul; positions may be cut into the class token's and the patches'.
"""

import math
import re
from pathlib import Path
from typing import Any

import torch

from ..common import extra

QUANTISED = ("DequantizeLinear", "MatMulInteger", "QLinearMatMul", "QLinearConv", "ConvInteger")
PATCHES = "embeddings.patch_embeddings.projection.weight"
POSITIONS = "embeddings.position_embeddings"
ACTIVATIONS = ("Erf", "Gelu", "Sigmoid")  # of the exact GELU, and of gated layers; an approximation has a Tanh
LAYER = re.compile(r"(?:encoder\.layer|layers)\.(\d+)\.")
WIDE = re.compile(r"(?:mlp\.(?:fc1|weights_in|gate_proj)|intermediate\.dense)\.weight")
GATED = re.compile(r"mlp\.(?:weights_in|gate_proj)\.weight")
QUERY = re.compile(r"(?:query|q_proj)\b")


class Graph:
    """An export: its nodes by what they make, its constants by their names."""

    def __init__(self, path: Path):
        with extra("onnx", "An ONNX file needs"):
            import onnx
            from onnx import numpy_helper
        try:
            model = onnx.load(str(path), load_external_data=False)
        except Exception as error:  # protobuf's own kinds
            raise ValueError(f"{path} is damaged, or no ONNX file ({error}): download it again.") from None
        held = model.graph.initializer
        if beside := sorted({value.value for one in held for value in one.external_data if value.key == "location"}):
            raise ValueError(f"{path.name} has its weights in {', '.join(beside)}: save it as one file by onnx.save.")
        self.name = path.name
        self.nodes = list(model.graph.node)
        if found := sorted({node.op_type for node in self.nodes} & {*QUANTISED}):
            raise ValueError(f"{self.name} is quantised ({', '.join(found)}): take the file of full precision.")
        self.tensors = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in held}
        self.made = {output: node for node in self.nodes for output in node.output}
        self.constants = dict(self.tensors)
        for node in self.nodes:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name == "value":
                    value = numpy_helper.to_array(attribute.t).copy()
                    self.constants[node.output[0]] = torch.from_numpy(value.reshape(value.shape))

    def users(self, name: str) -> list[Any]:
        return [node for node in self.nodes if name in node.input]


def read_onnx(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """-> the tensors as transformers names them, with whatever stands before; a config.json of theirs.

    Raises:
        ImportError: the package onnx is not installed.
        ValueError: a file of another kind; the sentence says what it lacks.
    """
    graph = Graph(path)
    first = next((name for name in graph.tensors if name.endswith(PATCHES)), None)
    if first is None:
        raise ValueError(
            f"{graph.name} has no {PATCHES}: only exports of transformers' ViT and DINOv2 that kept their names are "
            "read; take the checkpoint that was exported."
        )
    prefix = first.removesuffix(PATCHES)
    tensors = {name: tensor for name, tensor in graph.tensors.items() if "::" not in name}
    tensors |= linear_weights(graph)
    if f"{prefix}{POSITIONS}" not in tensors:
        tensors[f"{prefix}{POSITIONS}"] = positions(graph, tensors[first].shape[0])
    inner = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return tensors, configuration(graph, inner)


def linear_weights(graph: Graph) -> dict[str, torch.Tensor]:
    """{name: (out, in)} of factors without a name: the bias that is added says which layer it is."""
    found = {}
    for node in graph.nodes:
        if node.op_type != "MatMul" or "::" not in node.input[1] or node.input[1] not in graph.tensors:
            continue
        biases = [
            name
            for user in graph.users(node.output[0])
            if user.op_type == "Add"
            for name in user.input
            if name in graph.tensors and name.endswith(".bias")
        ]
        name = biases[0].removesuffix(".bias") if biases else node.name.strip("/").rpartition("/")[0].replace("/", ".")
        if not name:
            raise ValueError(f"{graph.name} does not say which layer {node.input[1]} is of: export it again.")
        found[f"{name}.weight"] = graph.tensors[node.input[1]].T.contiguous()
    return found


def positions(graph: Graph, width: int) -> torch.Tensor:
    """(1, 1 + h * w, D), of the class token's (1, 1, D) and the patches' (1, h * w, D)."""
    parts = [t for name, t in graph.tensors.items() if "::" in name and t.ndim == 3 and t.shape[::2] == (1, width)]
    if sorted(part.shape[1] == 1 for part in parts) != [False, True]:
        raise ValueError(f"{graph.name} has no {POSITIONS}: export it with its position embeddings.")
    return torch.cat(sorted(parts, key=lambda part: part.shape[1]), dim=1)


def configuration(graph: Graph, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """A config.json of theirs for tensors under their names, of which transformers has had two spellings."""
    width, channels, *patch = tensors[PATCHES].shape
    layers = {name: int(found[1]) for name in tensors if (found := LAYER.match(name))}
    first = {LAYER.sub("", name): tensors[name] for name, number in layers.items() if number == 0}
    rows = next(tensor.shape[0] for name, tensor in first.items() if WIDE.fullmatch(name))
    if not {node.op_type for node in graph.nodes} & {*ACTIVATIONS}:
        raise ValueError(f"{graph.name} does not say its activation: give their config.json with `--config`.")
    is_dino, gated = "layer_scale1.lambda1" in first, any(GATED.fullmatch(name) for name in first)
    kind = dict(model_type="vit", architectures=["ViTModel"], intermediate_size=rows)
    if is_dino:  # of gated layers both halves may be one tensor, and their ratio is the usual one: 2 / 3 of it are wide
        ratio = rows / width
        mlp = dict(mlp_ratio=4 if gated else int(ratio) if ratio.is_integer() else ratio, use_swiglu_ffn=gated)
        kind = dict(model_type="dinov2", architectures=["Dinov2Model"], **mlp)
    return kind | dict(
        hidden_size=width,
        num_hidden_layers=1 + max(layers.values()),
        num_attention_heads=num_heads(graph, width),
        hidden_act="gelu",
        layer_norm_eps=epsilon(graph),
        image_size=math.isqrt(tensors[POSITIONS].shape[1] - 1) * patch[0],
        patch_size=patch[0],
        num_channels=channels,
        qkv_bias=any(QUERY.search(name) and name.endswith(".bias") for name in first),
    )


def num_heads(graph: Graph, width: int) -> int:
    """From the shape into which queries are cut: (..., heads, width / heads)."""
    for node in graph.nodes:
        if node.op_type != "Reshape" or not QUERY.search(node.input[0]):
            continue
        shape = graph.constants.get(node.input[1])
        last = (shape.tolist() if shape is not None else parts_of(graph, node.input[1]))[-1:]
        if last and last[0] and last[0] > 0 and width % last[0] == 0:
            return width // last[0]
    raise ValueError(f"{graph.name} does not say its number of heads: give their config.json with `--config`.")


def parts_of(graph: Graph, name: str) -> list[int | None]:
    """The numbers that a Concat puts together to a shape; None where one is computed."""
    node = graph.made.get(name)
    if node is None or node.op_type != "Concat":
        return []
    values = [graph.constants.get(part) for part in node.input]
    return [None if value is None else int(value.reshape(-1)[0]) for value in values]


def epsilon(graph: Graph) -> float:
    """Of the norms: an attribute, or what is added to the first variance."""
    for node in graph.nodes:
        if node.op_type == "LayerNormalization":
            return float(next((one.f for one in node.attribute if one.name == "epsilon"), 1e-5))
        if node.op_type == "Add" and any(
            graph.made.get(n) and graph.made[n].op_type == "ReduceMean" for n in node.input
        ):
            values = [graph.constants[name] for name in node.input if name in graph.constants]
            if values and values[0].numel() == 1:
                return float(f"{values[0].item():.6g}")
    raise ValueError(f"{graph.name} does not say the epsilon of its norms: give their config.json with `--config`.")
