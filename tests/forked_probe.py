"""`hub.doctor.probe` without the 8 s that its process takes to import: `test_hub_check.py` and the scripts' tests begin
theirs.
"""

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from modeling_vit_custom.hub import doctor
from tests.forking import ForkServer

PRELOAD = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("probe", {str(doctor.PROBE)!r})
probe = importlib.util.module_from_spec(spec)
spec.loader.exec_module(probe)
probe.warm()
"""
run = subprocess.run
servers: dict[int, ForkServer] = {}  # of this process


def server(environment: dict[str, str]) -> ForkServer:
    if os.getpid() not in servers:
        work = Path(tempfile.mkdtemp(prefix="probe.")).resolve()
        (work / "tmp").mkdir()
        own = dict(HF_HOME=str(work / "home"), TMPDIR=str(work / "tmp"))
        servers[os.getpid()] = ForkServer(PRELOAD, work, environment | own, "-P", "-s")
    return servers[os.getpid()]


def forked(command: list[str], **settings: Any) -> subprocess.CompletedProcess:
    if str(doctor.PROBE) not in command:
        return run(command, **settings)
    body = "probe.main(**json.loads(sys.argv[0]))"
    return server(settings["env"]).call(body, command[-1:], settings["timeout"])


@pytest.fixture
def forked_probe(monkeypatch):
    monkeypatch.setattr(doctor.subprocess, "run", forked)
