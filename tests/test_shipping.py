"""Laws of shipping: what is saved or pushed loads in a clean process, is the same, and never loses a tensor silently."""

import pytest

# Each class that somebody saves, and the Auto class by which a stranger loads it. A new class is one line here.
CLASSES = {
    "ViTCustomConfig": "AutoConfig",
    "ViTCustomModel": "AutoModel",
    "ViTCustomForImageClassification": "AutoModelForImageClassification",
}
MODELS = [name for name in CLASSES if not name.endswith("Config")]
BASE, HEAD = "ViTCustomModel", "ViTCustomForImageClassification"
every_class = pytest.mark.parametrize("name", CLASSES)
every_model = pytest.mark.parametrize("name", MODELS)
every_source = pytest.mark.parametrize("source", ["folder", "hub"])
