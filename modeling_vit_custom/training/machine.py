"""What a run asks of a machine that has it not: memory, and fast arithmetic in bfloat16; each in a sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # the last is ARM's
OUT_OF_MEMORY = ("out of memory", "DefaultCPUAllocator: can't allocate memory")
TOLD = "The memory is not enough for"


def slow_bf16(args: Any) -> str:
    """The line for a run in bfloat16 on a CPU without instructions for it; nothing if it is not, or nobody knows."""
    asked = [name for name in ("bf16", "bf16_full_eval") if getattr(args, name)]
    if not asked or args.device.type != "cpu" or not CPUINFO.is_file():
        return ""
    flags = {word for line in CPUINFO.read_text().splitlines() if is_flags(line) for word in line.split()}
    if not flags or flags & BF16_FLAGS:
        return ""
    return (
        f"`{asked[0]}: true` on this CPU, which has neither AVX-512-BF16 nor AMX, is many times slower than float32: "
        "set it to false."
    )


def is_flags(line: str) -> bool:
    return line.lower().startswith(("flags", "features"))


@contextmanager
def memory_told(setting: str, size: Any, advice: str) -> Iterator[None]:
    """
    Raises:
        RuntimeError, torch.OutOfMemoryError: as inside, with a sentence before; accelerate still knows it by its words.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if text.startswith(TOLD) or not any(words in text for words in OUT_OF_MEMORY):
            raise
        reason = text.strip().splitlines()[0]
        raise type(error)(f"{TOLD} batches of {size()}, `{setting}`: {advice}. {reason}") from error
