from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from detfuse.ablation.records import Run
from detfuse.ablation.run.launcher import Handle, LocalLauncher
from detfuse.ablation.run.monitor import Monitor
from detfuse.ablation.run.runner import Job, Runner, score_of, state_of

# What a run does, in a line of Python: it finishes, or does not.
FINISH = "open('metrics.json', 'w').write('{\"stats\": {\"mAP\": 0.25}}'); open('predictions.json', 'w').write('[]')"


def job(tmp_path: Path, arm: str, code: str, seed: int = 0) -> Job:
    folder = tmp_path / arm / f"seed-{seed}"
    folder.mkdir(parents=True)
    count = "open('starts', 'a').write('x');"
    return Job(arm, seed, folder, (sys.executable, "-c", f"import os; os.chdir({str(folder)!r}); {count} {code}"))


def starts(job: Job) -> int:
    file = job.folder / "starts"
    return len(file.read_text()) if file.is_file() else 0


def runner(slots: int = 1, **given: object) -> Runner:
    environments = [{"SLOT": str(place)} for place in range(slots)]
    return Runner(LocalLauncher(), environments, lambda folder: None, pause=0.01, **given)  # type: ignore[arg-type]


def test_whatever_goes_wrong_in_one_run_costs_no_other(tmp_path: Path) -> None:
    jobs = [
        job(tmp_path, "fails", "raise ValueError('the learning rate is too high')"),
        job(tmp_path, "killed", "os.kill(os.getpid(), 15)"),
        job(tmp_path, "memory", "raise MemoryError('DefaultCPUAllocator: can\\'t allocate memory')"),
        job(tmp_path, "refused", "print('2 mistakes:\\n  neck=x: no such\\n  head=y: no such'); raise SystemExit(2)"),
        job(tmp_path, "empty", "print('nothing to evaluate')"),
        job(tmp_path, "good", FINISH),
    ]
    runs = {run.arm: run for run in runner().run(jobs)}
    assert {arm: run.state for arm, run in runs.items()} == {
        "fails": "failed",
        "killed": "killed",
        "memory": "out of memory",
        "refused": "failed",
        "empty": "failed",
        "good": "finished",
    }
    assert runs["fails"].reason == "ValueError: the learning rate is too high"
    assert runs["refused"].reason == "2 mistakes: | neck=x: no such | head=y: no such"
    assert runs["killed"].reason == "killed by signal 15"
    assert "can't allocate memory" in runs["memory"].reason
    assert runs["empty"].reason == "it ended without metrics.json and predictions.json after: nothing to evaluate"
    assert score_of(runs["good"]) == 0.25
    for entry in jobs:
        stored = json.loads((entry.folder / "state.json").read_text())
        assert (stored["state"], stored["reason"]) == (runs[entry.arm].state, runs[entry.arm].reason)


def test_sigkill_is_memory_where_the_system_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([3, 3, 3, 4])
    monkeypatch.setattr("detfuse.ablation.run.runner._oom_kills", lambda: next(counts))
    jobs = [job(tmp_path, arm, "os.kill(os.getpid(), 9)") for arm in ("somebody", "system")]
    somebody, system = runner().run(jobs)
    assert (somebody.state, somebody.reason.split(":")[0]) == ("killed", "killed by signal 9")
    assert system.state == "out of memory"


def test_finished_runs_are_kept_and_the_others_tried_again(tmp_path: Path) -> None:
    good = job(tmp_path, "good", FINISH)
    flaky = job(tmp_path, "flaky", f"\nif open('starts').read() == 'x': raise ValueError('once')\n{FINISH}")
    assert [run.state for run in runner().run([good, flaky])] == ["finished", "failed"]
    again = runner().run([good, flaky])
    assert [run.state for run in again] == ["finished", "finished"]
    assert (starts(good), starts(flaky)) == (1, 2)
    assert again[1].reason == ""


def test_a_finished_state_without_its_results_is_not_believed(tmp_path: Path) -> None:
    good = job(tmp_path, "good", FINISH)
    runner().run([good])
    (good.folder / "predictions.json").unlink()
    assert state_of(good).state == "waiting"
    assert runner().run([good])[0].state == "finished"
    assert starts(good) == 2


def test_a_command_that_cannot_be_started_is_shown_as_failed(tmp_path: Path) -> None:
    lost = Job("lost", 0, tmp_path / "lost", ("/no/such/program",))
    good = job(tmp_path, "good", FINISH)
    first, second = runner().run([lost, good])
    assert first.state == "failed"
    assert "could not be started" in first.reason
    assert second.state == "finished"


class Counting:
    """A launcher of processes that take as long as they are told to, and that knows how many ran at once."""

    def __init__(self) -> None:
        self.running: set[str] = set()
        self.most = 0
        self.slots: list[str] = []

    def start(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> Handle:
        launcher, slot, folder = self, env["SLOT"], log.parent
        assert slot not in launcher.running, "two runs share a place"
        launcher.running.add(slot)
        launcher.slots.append(slot)
        launcher.most = max(launcher.most, len(launcher.running))

        class Process:
            looks = 0

            def poll(self) -> int | None:
                self.looks += 1
                if self.looks < 3:
                    return None
                launcher.running.discard(slot)
                for name in ("metrics.json", "predictions.json"):
                    (folder / name).write_text('{"stats": {"mAP": 0.5}}')
                return 0

            def kill(self) -> None:
                launcher.running.discard(slot)

        return Process()


def test_runs_share_the_places_that_there_are(tmp_path: Path) -> None:
    launcher = Counting()
    jobs = [Job("a", seed, tmp_path / f"{seed}", ()) for seed in range(5)]
    slots = [{"SLOT": "0"}, {"SLOT": "1"}]
    runs = Runner(launcher, slots, lambda folder: folder.mkdir(), pause=0).run(jobs)
    assert [run.state for run in runs] == ["finished"] * 5
    assert launcher.most == 2
    assert set(launcher.slots) == {"0", "1"}


def test_a_run_that_shares_a_training_waits_for_it_and_is_told_why_it_cannot_be(tmp_path: Path) -> None:
    def scored(seed: int) -> Job:
        return replace(
            job(tmp_path, "wbf", f"open('../../{{}}/seed-{seed}/metrics.json'.format('nms')); {FINISH}", seed),
            shares="nms",
        )

    jobs = [
        scored(0),
        job(tmp_path, "nms", f"import time; time.sleep(.2); {FINISH}"),
        job(tmp_path, "nms", "raise ValueError('too high')", 1),
        scored(1),
    ]
    runs = {(run.arm, run.seed): run for run in runner(slots=3).run(jobs)}
    assert runs["wbf", 0].state == runs["nms", 0].state == "finished"
    assert runs["wbf", 0].trained_in == runs["nms", 0].folder
    assert runs["nms", 0].trained_in == runs["nms", 0].folder
    assert (runs["wbf", 1].state, runs["wbf", 1].reason) == ("failed", "it shares the training of nms, which is failed")
    assert starts(jobs[3]) == 0
    assert state_of(jobs[0]).shares == "nms"


def test_an_interruption_ends_the_processes_and_leaves_the_run_to_go_on(tmp_path: Path) -> None:
    slow = job(tmp_path, "slow", "import time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)")

    def interrupt(runs: Sequence[Run]) -> None:
        if (slow.folder / "pid").is_file() and (slow.folder / "pid").read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner(watch=interrupt).run([slow])
    with pytest.raises(ProcessLookupError):
        os.kill(int((slow.folder / "pid").read_text()), 0)
    assert state_of(slow).state == "waiting"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot tie a process to its parent")
def test_a_run_does_not_outlive_a_killed_runner(tmp_path: Path) -> None:
    child = (
        "from detfuse.ablation.run.launcher import die_with_parent; die_with_parent(); "
        f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    )
    parent = (
        "import sys, time; from pathlib import Path; from detfuse.ablation.run.launcher import LocalLauncher; "
        f"LocalLauncher().start((sys.executable, '-c', {child!r}), {{}}, Path({str(tmp_path / 'log')!r})); "
        "time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent])
    pid = wait_for(tmp_path / "pid", tmp_path / "log")
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while is_alive(pid):
        assert time.monotonic() < deadline, "the run outlived its runner"
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot tie a process to its parent")
def test_a_run_keeps_its_time_when_everything_is_killed(tmp_path: Path) -> None:
    tied = "from detfuse.ablation.run.launcher import die_with_parent; die_with_parent()"
    sleep = "if open('starts').read() == 'x': import time; time.sleep(60)"
    slow = job(tmp_path, "slow", f"{tied}\n{sleep}\n{FINISH}")
    parent = (
        "import sys; from pathlib import Path; from detfuse.ablation.run.launcher import LocalLauncher; "
        "from detfuse.ablation.run.runner import Job, Runner; "
        f"job = Job('slow', 0, Path({str(slow.folder)!r}), {slow.command!r}); "
        "Runner(LocalLauncher(), [{}], lambda folder: None).run([job])"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], start_new_session=True)
    deadline = time.monotonic() + 60
    while state_of(slow).seconds < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)  # nobody is left to write anything down
    process.wait()
    before = state_of(slow)
    assert (before.state, before.seconds >= 2) == ("waiting", True)
    (again,) = runner().run([slow])
    assert again.state == "finished"
    assert before.seconds <= again.seconds < before.seconds + 30, "what it took here is added"
    assert state_of(slow).seconds == again.seconds


def wait_for(file: Path, log: Path) -> int:
    deadline = time.monotonic() + 30
    while not (file.is_file() and file.read_text()):
        assert time.monotonic() < deadline, log.read_text() if log.is_file() else "nothing was started"
        time.sleep(0.02)
    return int(file.read_text())


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("before", [0.0, 400.0], ids=["its time was lost", "its time was kept"])
def test_what_is_left_of_a_resumed_run_is_told_by_what_it_does_now(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], before: float
) -> None:
    header = "step,epoch,val/mAP\n"
    rows = [f"{10 * epoch},{epoch},0.25\n" for epoch in range(3)]
    (tmp_path / "metrics.csv").write_text(header + "".join(rows[:2]))
    with Monitor({"fpn": 5}, {"fpn": 50.0}) as monitor:
        monitor([Run("fpn", 0, tmp_path, "waiting", "", before)])
        monitor([Run("fpn", 0, tmp_path, "running", "", before + 1)])
        (tmp_path / "metrics.csv").write_text(header + "".join(rows))
        monitor([Run("fpn", 0, tmp_path, "running", "", before + 20)])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("fpn seed 0: epoch 2/5 ")
    assert first.endswith("left 0:29"), "predicted: 3 of 5 epochs of 10 seconds, of which one second is over"
    assert second.endswith("left 0:40"), "measured: 2 epochs of 20 seconds"


def test_plain_lines_tell_every_change_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "fpn"
    folder.mkdir()
    with Monitor({"fpn": 2}, {"fpn": 20.0}) as monitor:
        monitor([Run("fpn", 0, folder, "waiting")])
        monitor([Run("fpn", 0, folder, "running", "", 1.0)])
        (folder / "metrics.csv").write_text("step,epoch,val/mAP,train/loss\n5,,,1.0\n10,0,0.25,\n")
        monitor([Run("fpn", 0, folder, "running", "", 10.0)])
        with (folder / "metrics.csv").open("a") as file:
            file.write("15,1,0.")  # another process is writing it
        monitor([Run("fpn", 0, folder, "running", "", 10.0)])
        with (folder / "metrics.csv").open("a") as file:
            file.write("5,\n")
        for _ in range(2):
            monitor([Run("fpn", 0, folder, "running", "", 12.0)])
        (folder / "metrics.json").write_text('{"stats": {"mAP": 0.5}}')
        monitor([Run("fpn", 0, folder, "finished", "", 21.0)])
        monitor([Run("fpn", 0, folder, "finished", "", 21.0), Run("b", 1, tmp_path, "failed", "no memory")])
    assert capsys.readouterr().out.splitlines() == [
        "fpn seed 0: started",
        "fpn seed 0: epoch 1/2  AP 25.0  left 0:10",
        "fpn seed 0: epoch 2/2  AP 50.0  left 0:00",
        "fpn seed 0: finished after 0:21, AP 50.0  (1 of 1 finished)",
        f"b seed 1: failed: no memory (see {tmp_path / 'log.txt'})",
    ]
