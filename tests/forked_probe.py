"""`hub.doctor.probe` without the 8 s that its process takes to import: `test_hub_check.py` and the scripts' tests begin
theirs.
"""

import atexit
import shutil
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
servers: list[ForkServer] = []  # at most one


def server() -> ForkServer:
    if not servers:
        work = Path(tempfile.mkdtemp(prefix="probe.")).resolve()
        atexit.register(shutil.rmtree, work, ignore_errors=True)
        (work / "tmp").mkdir()
        servers.append(ForkServer(PRELOAD, work, doctor.environment(work), "-P", "-s"))
    return servers[0]


def forked(command: list[str], **settings: Any) -> subprocess.CompletedProcess:
    if str(doctor.PROBE) not in command:
        return run(command, **settings)
    body = "probe.main(**json.loads(sys.argv[0]))"
    return server().call(body, command[-1:], settings["timeout"])


@pytest.fixture
def forked_probe(monkeypatch):
    monkeypatch.setattr(doctor.subprocess, "run", forked)
