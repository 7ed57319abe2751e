"""How many threads a run gets, and that it keeps them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from detfuse import cli
from detfuse.ablation.plan.prepared import Prepared
from detfuse.ablation.records import Arm, Plan
from detfuse.ablation.run import jobs
from detfuse.ablation.run.jobs import processes_of, threads_of
from detfuse.ablation.storage import write_plan
from detfuse.config.resolve import Resolved
from detfuse.runs import threads
from detfuse.runs.threads import Machine, described, this_machine, threads_that_fit, wait_gently

QUIET = Machine(8, busy=0.1)


@pytest.mark.parametrize(
    ("machine", "processes", "expected"),
    [
        (Machine(2), 1, 2),
        (Machine(2, busy=0.2), 1, 2),  # no machine does nothing at all
        (Machine(2, busy=1.0), 1, 1),
        (Machine(2, busy=0.4), 1, 1),
        (Machine(2, busy=2.0), 1, 1),
        (Machine(2), 2, 1),
        (Machine(2), 3, 1),
        (Machine(8, busy=1.1), 1, 7),
        (Machine(8, busy=1.1), 2, 3),
        (Machine(64, busy=3.0, quota=2.0), 1, 2),
        (Machine(64, busy=3.0, quota=2.0, used=1.0), 1, 1),
        (Machine(64, quota=6.5), 2, 3),
        (Machine(64, quota=0.5), 1, 1),
        (Machine(4, busy=3.0, quota=3.5), 1, 1),
    ],
)
def test_a_run_gets_its_share_of_the_free_cores(machine: Machine, processes: int, expected: int) -> None:
    assert threads_that_fit(machine, processes) == expected


def test_a_machine_is_described() -> None:
    assert described(Machine(1)) == "1 core, idle"
    assert described(Machine(2, busy=1.06)) == "2 cores, 1.1 of them busy with other work"
    assert described(Machine(64, quota=1.5, used=1.0)) == "64 cores, limited to 1.5 of which others use 1.0, idle"


@pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="only Linux says what its cores do")
def test_a_busy_process_is_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        found = this_machine()
        busy.kill()
    assert 0.5 < found.busy <= found.cores


@pytest.mark.skipif(not Path("/proc/self/cgroup").is_file(), reason="only Linux has such limits")
@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000", "cpu.stat": "usage_usec 7000000\nuser_usec 1"}, 1.5),
        ({"cpu.max": "max 100000"}, float("inf")),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000", "cpu/cpuacct.usage": "7000000000"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, float("inf")),
        ({}, float("inf")),
    ],
)
def test_a_containers_limit_is_read(
    files: dict[str, str], quota: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(threads, "_CGROUPS", tmp_path)
    monkeypatch.setattr(threads, "_WATCHED", 0.01)
    assert (this_machine().quota, this_machine().used) == (quota, 0.0)


def test_waiting_threads_give_way_unless_the_environment_says_how_they_wait() -> None:
    environment: dict[str, str] = {}
    wait_gently(environment)
    assert int(environment["GOMP_SPINCOUNT"]) <= 10_000
    assert environment["KMP_BLOCKTIME"] == "0"
    for own in ({"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "5"}, {"KMP_BLOCKTIME": "200"}):
        environment = dict(own)
        wait_gently(environment)
        assert environment == own


def test_every_command_has_its_threads_wait_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)  # put back afterwards, whatever it was
    seen = {}
    monkeypatch.setattr(cli, "launch", lambda command, job: seen.update({command: os.environ["GOMP_SPINCOUNT"]}))
    for command in (cli.train, cli.ablate, cli.evaluate, cli.predict, cli.cost, cli.export, cli.compare):
        command()
    assert len(seen) == 7


@pytest.mark.parametrize(("devices", "expected"), [(1, 1), (2, 2), ("2", 2), ([0, 3], 2), ("auto", 1), (-1, 1)])
def test_a_run_has_a_process_per_device(devices: Any, expected: int) -> None:
    plan = Plan("x", (Arm("fpn", {}, ()),), (0,), ())
    prepared = Prepared(plan, {"fpn": Resolved({"trainer": {"devices": devices}}, {})}, ())
    assert processes_of(prepared) == expected


def test_an_ablation_keeps_its_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(jobs, "this_machine", lambda: QUIET)
    assert threads_of(2, tmp_path) == (4, "8 cores, idle")
    older = tmp_path / "runs" / "fpn" / "seed-0" / "environment.json"  # of a plan that does not say it yet
    older.parent.mkdir(parents=True)
    older.write_text(json.dumps({"threads": "3"}))
    arms = (Arm("fpn", {}, ()), Arm("pafpn", {}, ()))
    write_plan(tmp_path, Plan("x", arms, (0,), ()))
    assert threads_of(2, tmp_path)[0] == 3
    write_plan(tmp_path, Plan("x", arms, (0,), (), threads=5))
    assert threads_of(2, tmp_path)[0] == threads_of(1, tmp_path)[0] == 5
    assert threads_of(2, None)[0] == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")
    assert threads_of(2, tmp_path) == (2, "OMP_NUM_THREADS")
