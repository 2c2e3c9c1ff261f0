"""The settings of an image processor, so that pictures come to our model as they came to the source's."""

from collections.abc import Mapping
from typing import Any


def image_processor(settings: Mapping[str, Any] | None, usual: str, num_channels: int) -> dict[str, Any] | None:
    """preprocessor_config.json with its class in it: older files leave it to the model's configuration.

    Args:
        usual: the class that transformers takes for this source's models.
    """
    if settings is None:
        return None
    known = {key: value for key, value in settings.items() if key not in ("feature_extractor_type", "processor_class")}
    if "image_processor_type" not in known:
        old = settings.get("feature_extractor_type")
        known["image_processor_type"] = old.replace("FeatureExtractor", "ImageProcessor") if old else usual
    # A picture with transparency could not be normalised.
    if known.get("do_convert_rgb") is None and num_channels == 3:
        known["do_convert_rgb"] = True
    return known
