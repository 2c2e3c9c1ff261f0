"""Which files are pictures: what Pillow decodes, and what it decodes with a plugin that is installed."""

from importlib import import_module
from importlib.util import find_spec

from PIL import Image

PLUGINS = {"pillow_heif": "pillow-heif", "pillow_avif": "pillow-avif-plugin", "pillow_jxl": "pillow-jxl-plugin"}
NEED_PLUGIN = {
    **dict.fromkeys((".heic", ".heics", ".heif", ".heifs", ".hif"), "pillow-heif"),
    **dict.fromkeys((".avif", ".avifs"), "pillow-avif-plugin"),
    ".jxl": "pillow-jxl-plugin",
}
ONLY_IDENTIFIED = ("BUFR", "GRIB", "HDF5", "MPEG")  # Pillow opens them and decodes no pixel


def register_plugins():
    """Pillow reads what the installed plugins read, in every process that decodes pictures."""
    for name in PLUGINS:
        if find_spec(name):
            plugin = import_module(name)  # two of them register at once
            if name == "pillow_heif":
                plugin.register_heif_opener()


def picture_endings() -> set[str]:
    """In lower case."""
    kinds = Image.registered_extensions()  # of all formats that Pillow knows by now
    return {ending for ending, kind in kinds.items() if kind in Image.OPEN and kind not in ONLY_IDENTIFIED}
