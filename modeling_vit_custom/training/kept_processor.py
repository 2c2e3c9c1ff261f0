"""A checkpoint's image processor with a recipe's changes, and a size of pictures that it and the model agree on."""

from typing import Any

from PIL import Image

from ..configuration_checks import pair
from .recipe import Recipe
from .recipe import plain

COLOURS = ("resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
SIZES = ("do_resize", "size", "do_center_crop", "crop_size", "crop_pct")


def in_kind(kind: type, images: Any) -> Any:
    """An image processor of the kind that a task needs, with the colours and the size of another."""
    found = {key: value for key, value in images.to_dict().items() if key in COLOURS}
    size = made_size(images)
    return kind(**found | (dict(size=dict(zip(("height", "width"), size, strict=True))) if size else {}))


def changed(images: Any, settings: dict[str, Any]) -> Any:
    values = {key: value for key, value in images.to_dict().items() if not key.endswith("processor_type")}
    return type(images)(**values | settings) if settings else images


def made_size(images: Any) -> tuple[int, int] | None:
    """(height, width) of whatever picture; None where it depends on the picture."""
    shapes = {
        tuple(images(Image.new("RGB", sides), return_tensors="pt")["pixel_values"].shape[2:])
        for sides in ((64, 96), (96, 64), (96, 96))
    }
    return shapes.pop() if len(shapes) == 1 else None


def fitted(images: Any, config: Any, recipe: Recipe) -> tuple[Any, dict[str, Any]]:
    """-> an image processor and fields of the configuration that agree on the size of a picture.

    Raises:
        ValueError: the recipe says two sizes; or a crop that reaches beyond the picture.
    """
    overrides, values = recipe.model.config_overrides, images.to_dict()
    resized = any(key in SIZES for key in recipe.model.processor_overrides)
    tower = "vision_config" if hasattr(config, "vision_config") else None
    own = getattr(getattr(config, tower) if tower else config, "image_size", None)
    asked = (overrides.get(tower, {}) if tower else overrides).get("image_size")
    if resized and values.get("do_center_crop") and values.get("do_resize"):
        size, crop = plain(values["size"]), plain(values["crop_size"])
        if min(size.values()) < max(crop.values()):
            raise ValueError(
                f"The image processor of {recipe.model.init_from} resizes to {size} and then cuts {crop} out: "
                "set `crop_size` in `processor_overrides` too, or `do_center_crop: false`."
            )
    made = made_size(images)
    if made is None or own is None or made == pair(own if asked is None else asked):
        return images, {}
    if asked is not None and resized:
        raise ValueError(
            f"`config_overrides` sets `image_size: {asked}`, and by `processor_overrides` pictures become "
            f"{made[0]} x {made[1]}: set one of them, or both alike."
        )
    if asked is not None:
        return with_size(images, pair(asked), str(recipe.model.init_from)), {}
    if resized:
        print(f"`image_size` becomes {list(made)}, the size of the processor's pictures.")
        new = {"image_size": list(made)}
        return images, {tower: overrides.get(tower, {}) | new} if tower else new
    return images, {}


def with_size(images: Any, wanted: tuple[int, int], name: str) -> Any:
    """An image processor whose pictures are of the wanted (height, width), made as they were made before: where a part
    is cut out, it is the same share of the resized picture."""
    values = images.to_dict()
    size, crop = (plain(values.get(key) or {}) for key in ("size", "crop_size"))
    sides = dict(zip(("height", "width"), wanted, strict=True))
    if values.get("do_center_crop"):
        scales = {key: sides[key] / crop[key] for key in sides}
        new = {key: round(side * scales.get(key, max(scales.values()))) for key, side in size.items()}
        images = changed(images, dict(size=new, crop_size=sides))
    else:
        square = "shortest_edge" in size and wanted[0] == wanted[1]
        images = changed(images, dict(size={"shortest_edge": wanted[0]} if square else sides))
    if made_size(images) != wanted:
        raise ValueError(
            f"The image processor of {name} makes pictures of {made_size(images)}, not of `image_size` {list(wanted)}: "
            "set `size`, and `crop_size` if it cuts, in `processor_overrides`."
        )
    return images
