"""A process that imports what takes seconds, and forks once a call: each call has a process of its own, as one that was
begun for it, for the price of a fork.
"""

import atexit
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tests.support import ROOT

# A child ends as Python does: by its `SystemExit`, or by what `sys.excepthook` says of its error.
SERVER = """
import json, os, sys
exec(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    body, sys.argv, environment, said, place = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(place)
        os.environ.update(environment)
        for number, file in enumerate((os.devnull, said + ".out", said + ".err")):
            os.dup2(os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
        code = 0
        try:
            exec(body)
        except SystemExit as end:
            code = end.code
        except BaseException:
            code = 1
            sys.excepthook(*sys.exc_info())
        if not isinstance(code, int | None):
            print(code, file=sys.stderr)
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class ForkServer:
    def __init__(self, preload: str, work: Path, environment: dict[str, str], *options: str):
        self.work, self.said = work, work / "said"
        self.process: Any = subprocess.Popen(
            [sys.executable, *options, "-c", SERVER, preload],
            cwd=work,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self.process.stdout.readline() == "ready\n"
        atexit.register(self.process.kill)

    def call(
        self,
        body: str,
        argv: Sequence[Any] = (),
        timeout: float | None = None,
        cwd: Path | None = None,
        **environment: str,
    ) -> subprocess.CompletedProcess:
        order = [body, [*map(str, argv)], environment, str(self.said), str(cwd or self.work)]
        print(json.dumps(order), file=self.process.stdin, flush=True)
        child = int(self.process.stdout.readline())
        late = not select.select([self.process.stdout], [], [], timeout)[0]
        if late:
            os.killpg(child, 9)
        code = int(self.process.stdout.readline())
        if late:
            raise subprocess.TimeoutExpired(body, timeout or 0)
        printed = (self.said.with_suffix(suffix).read_text() for suffix in (".out", ".err"))
        return subprocess.CompletedProcess(list(argv), code, *printed)


# What the scripts import.
PACKAGE = """
import gc
import accelerate.commands.launch, transformers, torch.distributed.checkpoint.state_dict, torch.distributed.fsdp
import modeling_vit_custom.hub, modeling_vit_custom.inspection, modeling_vit_custom.training
_ = transformers.Trainer, transformers.pipeline
gc.freeze()
"""
# What somebody has imported who has a checkpoint and transformers, in a process to which our package is not known.
STRANGER = """
import gc, sys
sys.modules["modeling_vit_custom"] = None
import numpy, safetensors.torch, torch, transformers
from PIL import Image
_ = transformers.CLIPModel, transformers.pipeline
gc.freeze()
"""


@cache
def server(preload: str, **environment: str) -> ForkServer:
    work = Path(tempfile.mkdtemp(prefix="fork."))
    atexit.register(shutil.rmtree, work, ignore_errors=True)
    own = dict(CUDA_VISIBLE_DEVICES="", HF_HOME=str(work / "home"), HF_HUB_OFFLINE="1")
    theirs = ("ACCELERATE_", "FSDP_", "HF_", "PYTHON", "TRANSFORMERS_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(theirs)}
    return ForkServer(preload, work, kept | own | environment, "-P")


def with_package() -> ForkServer:
    return server(PACKAGE, PYTHONPATH=str(ROOT))


def stranger() -> ForkServer:
    return server(STRANGER)


IN_TWO = """
import importlib, json, os, torch
from torch.multiprocessing import start_processes
module, name, words = sys.argv
function = getattr(importlib.import_module(module), name)
def begin(rank):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    function(*json.loads(words))
start_processes(begin, nprocs=2, start_method="fork")
"""


def in_two_processes(module: str, function: str, *words: Any, **environment: str) -> subprocess.CompletedProcess:
    """Two processes, as torchrun sets them up, that each call a function. One that fails ends both."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        place = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(found.getsockname()[1]))
    return with_package().call(IN_TWO, [module, function, json.dumps(words)], timeout=300, **place, **environment)
