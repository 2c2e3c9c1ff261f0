"""How a command ends: one sentence in place of a traceback. TRACEBACK=1 shows the traceback.

Only the standard library: the launcher runs this file before anything is imported.
"""

import os
import re
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType

PACKAGE = Path(__file__).resolve().parents[1]
# Their words are for the user. Of any other error the kind and the place are told too.
MEANT = {
    "ArithmeticError",
    "HubProblem",
    "ImportError",
    "OSError",
    "RuntimeError",
    "StrictDataclassError",
    "ValueError",
}
INTERRUPTED = 130  # as a shell says it: 128 + SIGINT


def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None):
    text = "".join(traceback.format_exception(error)) if os.environ.get("TRACEBACK") else sentence(error)
    hub = sys.modules.get("modeling_vit_custom.hub")
    with suppress(OSError):  # where nobody reads that either
        print(hub.without_secrets(text) if hub else text, file=sys.stderr)
    if issubclass(kind, KeyboardInterrupt):
        sys.exit(INTERRUPTED)


def sentence(error: BaseException) -> str:
    """The command, what went wrong, and the notes that were added on the way."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    text = str(error)
    if "Original Traceback" in text:  # of a data loader's worker: the last line that is not indented begins its error
        text = re.split(r"\n(?=[A-Za-z_])[\w.]+: ", text)[-1]
    if isinstance(error, KeyboardInterrupt):
        text = "interrupted."
    elif isinstance(error, BrokenPipeError):
        text = "what it printed to has closed."
    elif "StrictDataclassError" in kinds:  # Validation error for field 'x':\n    TypeError: Field 'x' expected ...
        text = " ".join(re.sub(r"^[^\n]* error for [^\n]*:\n\s*(\w+: )?", "", text).split())
    elif not kinds & MEANT:
        place = where(error)
        text = f"{type(error).__name__}: {text or 'without a word'} ({place}; TRACEBACK=1 shows the way there)"
    return "\n".join([f"{Path(sys.argv[0]).name}: {text or type(error).__name__}", *getattr(error, "__notes__", [])])


def where(error: BaseException) -> str:
    """The last line of this project that it came through."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if any(Path(frame.filename).is_relative_to(folder) for folder in (PACKAGE, PACKAGE.parent / "scripts")):
            return f"{Path(frame.filename).relative_to(PACKAGE.parent)}:{frame.lineno}"
    return "in no file of this project"


def let_go():
    """`script | head` closes what is printed to: Python would complain at its end."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
