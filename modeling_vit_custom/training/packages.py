"""Debian packages that hold images: which set needs which, where they lie; fetching them changes no system."""

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

DATA_DIR = Path("data")
SYSTEM = Path("/")  # where installed packages have their files


@dataclass(frozen=True)
class Package:
    licence: str
    megabytes: int  # of the download
    files: tuple[str, ...]  # what of it is read, as patterns below the root


PACKAGES = {
    "dataset-fashion-mnist": Package("MIT (Expat)", 31, ("usr/share/datasets/fashion-mnist/*.gz",)),
    "tuxpaint-stamps-default": Package(
        "GPL-2 as a whole, some photographs CC-BY-SA or GFDL", 161, ("usr/share/tuxpaint/stamps/**/*.[!o]*",)
    ),
    "opencv-doc": Package(
        "Apache-2.0 and BSD",
        96,
        tuple(f"usr/share/doc/opencv-doc/{f}.{e}" for f in ("examples/**/*", "opencv4/html/*") for e in ("jpg", "png")),
    ),
    "fonts-noto-color-emoji": Package("OFL-1.1 and Apache-2.0", 10, ("usr/share/fonts/truetype/noto/*.ttf",)),
    "unicode-data": Package("Unicode-DFS-2016", 8, ("usr/share/unicode/emoji/*.txt",)),
    "unicode-cldr-core": Package("Unicode-DFS-2016", 17, ("usr/share/unicode/cldr/common/annotations*/en.xml",)),
    "openclipart-png": Package("public domain", 131, ("usr/share/openclipart/png/**/*.png",)),
}
NEEDED = {
    "fashion_mnist": ("dataset-fashion-mnist",),
    "scenes": ("tuxpaint-stamps-default", "opencv-doc"),
    "emoji_captions": ("fonts-noto-color-emoji", "unicode-data", "unicode-cldr-core"),
    "tuxpaint_captions": ("tuxpaint-stamps-default",),
    "clipart": ("openclipart-png",),
}


def folder_of(package: str, data_dir: Path) -> Path:
    return data_dir / "packages" / package


def find(package: str, path: str, data_dir: Path) -> Path:
    """Where a package's file or folder is: below `data_dir`, else installed.

    Raises:
        FileNotFoundError: it is in neither place.
    """
    for root in (folder_of(package, data_dir), SYSTEM):
        if (root / path).exists():
            return root / path
    raise FileNotFoundError(
        f"{path} of the Debian package {package} is neither in {folder_of(package, data_dir)} nor installed: "
        "run `make data`."
    )


def fetch(package: str, data_dir: Path) -> str:
    """Put what is read of a package below `data_dir`, unless it is there or installed; a sentence of what was done.

    Raises:
        RuntimeError: no apt, no such package, no network; the sentence says what to do by hand.
    """
    folder, wanted = folder_of(package, data_dir), PACKAGES[package]
    if folder.is_dir():
        return f"is in {folder}"
    if all(any(SYSTEM.glob(pattern)) for pattern in wanted.files):
        return "is installed"
    by_hand = f"unpack the Debian package {package} by hand so that {folder / 'usr/share'} exists"
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise RuntimeError(f"There is no apt-get here to fetch {package}: {by_hand}.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        partial = Path(name)
        archive = download(package, partial, data_dir / "apt", by_hand)
        unpacked, kept = partial / "all", partial / "kept"
        done = run("dpkg-deb", "-x", archive.name, "all", folder=partial)
        for pattern in (*wanted.files, f"usr/share/doc/{package}/copyright"):
            files = [path for path in unpacked.glob(pattern) if path.is_file() and not path.is_symlink()]
            if done.returncode or not files:
                raise RuntimeError(f"{archive.name} holds no {pattern} ({last_line(done)}): {by_hand}.")
            for file in files:
                place = kept / file.relative_to(unpacked)
                place.parent.mkdir(parents=True, exist_ok=True)
                file.rename(place)
        kept.rename(folder)  # only now does it exist: what was cut short is fetched again
    return f"fetched: {archive.name}"


def download(package: str, folder: Path, lists: Path, by_hand: str) -> Path:
    """With the system's package lists; where they are missing or old, with lists of our own, which needs no root."""
    own = [f"-oDir::State::Lists={(lists / 'lists').absolute()}", f"-oDir::Cache={lists.absolute()}"]
    for options in ([], own):
        if options:
            (lists / "lists" / "partial").mkdir(parents=True, exist_ok=True)
            run("apt-get", *options, "update", folder=folder)
        done = run("apt-get", *options, "download", package, folder=folder)
        archives = list(folder.glob("*.deb"))
        if archives:
            return archives[0]
    raise RuntimeError(f"apt-get could not download {package} ({last_line(done)}): check the network, or {by_hand}.")


def run(*command: str, folder: Path) -> subprocess.CompletedProcess:
    # As root apt would download as another user, who may not write here.
    sandbox = ["-oAPT::Sandbox::User=root"] if command[0] == "apt-get" else []
    return subprocess.run([command[0], *sandbox, *command[1:]], cwd=folder, capture_output=True, text=True)


def last_line(done: subprocess.CompletedProcess) -> str:
    return (done.stderr.strip().splitlines() or ["no reason given"])[-1]
