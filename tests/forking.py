"""A process that imports what takes seconds, and forks once a call: each call has a process of its own, as one that was
begun for it, for the price of a fork.
"""

import atexit
import json
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# A child ends as Python does: by its `SystemExit`, or by what `sys.excepthook` says of its error.
SERVER = """
import json, os, sys
exec(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    body, sys.argv, environment, said = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setsid()
        os.environ.update(environment)
        for number, place in enumerate((os.devnull, said + ".out", said + ".err")):
            os.dup2(os.open(place, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
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
        self.said = work / "said"
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
        self, body: str, argv: Sequence[str] = (), timeout: float | None = None, **environment: str
    ) -> subprocess.CompletedProcess:
        order = [body, list(argv), environment, str(self.said)]
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
