"""`hub.doctor.probe` for the price of a fork: one process imports what `probe.py` imports, and forks once a call.

Each call has a process of its own, in which nothing was loaded but torch and transformers, as in one that was begun for
it, which costs 8 s. `test_hub_check.py` and the scripts' tests begin theirs.
"""

import atexit
import json
import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from modeling_vit_custom.hub import doctor

SERVER = """
import importlib.util, json, os, sys
spec = importlib.util.spec_from_file_location("probe", sys.argv[1])
probe = importlib.util.module_from_spec(spec)
spec.loader.exec_module(probe)
probe.warm()
print("ready", flush=True)
for line in sys.stdin:
    job, said = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setsid()
        for number, place in enumerate((os.devnull, said + ".out", said + ".err")):
            os.dup2(os.open(place, os.O_RDWR | os.O_CREAT), number)
        try:
            probe.main(**job)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
run = subprocess.run
servers: dict[int, tuple[Any, Path]] = {}  # of this process


def serve(environment: dict[str, str]) -> tuple[Any, Path]:
    if os.getpid() not in servers:
        work = Path(tempfile.mkdtemp(prefix="probe.")).resolve()
        (work / "tmp").mkdir()
        own = dict(HF_HOME=str(work / "home"), TMPDIR=str(work / "tmp"))
        server = subprocess.Popen(
            [sys.executable, "-P", "-s", "-c", SERVER, str(doctor.PROBE)],
            cwd=work,
            env=environment | own,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert server.stdout.readline() == "ready\n"
        atexit.register(server.kill)
        servers[os.getpid()] = server, work
    return servers[os.getpid()]


def forked(command: list[str], **settings: Any) -> subprocess.CompletedProcess:
    if str(doctor.PROBE) not in command:
        return run(command, **settings)
    server, work = serve(settings["env"])
    for file in (work / "said.out", work / "said.err"):
        file.unlink(missing_ok=True)
    print(json.dumps([json.loads(command[-1]), str(work / "said")]), file=server.stdin, flush=True)
    child = int(server.stdout.readline())
    late = not select.select([server.stdout], [], [], settings["timeout"])[0]
    if late:
        os.killpg(child, 9)
    code = int(server.stdout.readline())
    if late:
        raise subprocess.TimeoutExpired(command, settings["timeout"])
    return subprocess.CompletedProcess(command, code, (work / "said.out").read_text(), (work / "said.err").read_text())


@pytest.fixture
def forked_probe(monkeypatch):
    monkeypatch.setattr(doctor.subprocess, "run", forked)
