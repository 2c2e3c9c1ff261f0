"""The birth certificate of a number: what it was measured on, with what, and how to measure it again."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES = (
    "transformers",
    "torch",
    "torchvision",
    "datasets",
    "accelerate",
    "evaluate",
    "safetensors",
    "huggingface-hub",
)


def processor() -> str:
    """The name of the CPU as Linux gives it, else as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit() -> str:
    """The commit of this checkout, with a + if it holds more; or 'unknown' outside a checkout."""
    folder = Path(__file__).parent
    try:
        run = [["git", "rev-parse", "--short=12", "HEAD"], ["git", "status", "--porcelain", "--untracked-files=no"]]
        head, changes = (subprocess.run(c, cwd=folder, capture_output=True, text=True, check=True).stdout for c in run)
        return head.strip() + ("+" if changes.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def birth_certificate(command: str) -> dict[str, str]:
    """hardware, versions, commit and command, ready to be printed beside a number."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{len(os.sched_getaffinity(0))} CPU cores"
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return {
        "command": command,
        "hardware": f"{device}, {processor()}",
        "versions": f"Python {platform.python_version()}, {versions}",
        "commit": commit(),
    }
