"""What ends is started again, later each time; what is stopped ends in reverse order; nothing is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from secfed.audit_log import AuditLog, read_log
from secfed.deployment import supervisor as module
from secfed.deployment.supervisor import Service, Supervisor
from secfed.errors import SecfedError


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(module, "FIRST_WAIT_SECONDS", 0.1)


def service(name, code, **more):
    return Service(name=name, command=[sys.executable, "-c", code], environment={}, **more)


def running(tmp_path, services):
    made = Supervisor(services, logs=tmp_path / "logs", log=AuditLog(tmp_path))
    ready = threading.Event()
    thread = threading.Thread(target=made.run, kwargs={"on_ready": ready.set})
    thread.start()
    assert ready.wait(20)
    return made, thread


def up(tmp_path, name):
    log = tmp_path / "logs" / f"{name}.log"
    return lambda: log.exists() and "up" in log.read_text()


def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


SLEEP = "import time; time.sleep(100)"
NOTE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print('{0}', time.time(), flush=True), sys.exit(0)))
print('up', flush=True)
time.sleep(100)
"""


def ends_once(tmp_path, status):
    """What ends with this status and, started again, stays."""
    mark = str(tmp_path / "ended")
    code = f"import os, sys, time; time.sleep(0.3); os.path.exists({mark!r}) and time.sleep(100)"
    return f"{code}; open({mark!r}, 'w').close(); sys.exit({status})"


@pytest.mark.parametrize("status", [module.ANEW_STATUS, 1])
def test_a_service_takes_another_along_where_it_asks_for_it_and_not_otherwise(tmp_path, status):
    services = [service("one", SLEEP), service("two", ends_once(tmp_path, status), takes_along="one")]
    made, thread = running(tmp_path, services)
    first, ended = made.pids["one"], {"two", "one"} if status == module.ANEW_STATUS else {"two"}
    until(lambda: (tmp_path / "ended").exists() and "two" in made.pids)
    until(lambda: ("one" in ended) == (made.pids.get("one", first) != first))
    time.sleep(1.0)
    assert {entry["service"] for entry in read_log(tmp_path / "audit.jsonl")} == ended
    assert set(made.pids) == {"one", "two"}
    assert (made.pids["one"] == first) == ("one" not in ended)
    made.stop()
    thread.join(20)


def test_what_a_service_says_first_is_announced_once_for_each_start(tmp_path, capfd):
    code = "import time; print('hello', flush=True); time.sleep(0.2); print('let in', flush=True); time.sleep(100)"
    heard = lambda lines: "is in" if "let in" in lines else ""  # noqa: E731 - as callers write it
    made, thread = running(tmp_path, [service("one", code, announce=heard)])
    log = tmp_path / "logs" / "one.log"
    said = [""]

    def heard_times(count):
        said[0] += capfd.readouterr().err
        return said[0].count("one: is in\n") == count

    until(lambda: heard_times(1))
    os.kill(made.pids["one"], signal.SIGKILL)
    until(lambda: heard_times(2))
    time.sleep(0.2)
    made.stop()
    thread.join(20)
    assert log.read_text().count("let in") == 2
    assert heard_times(2)


def test_a_killed_service_is_started_again_and_noted(tmp_path):
    made, thread = running(tmp_path, [service("one", SLEEP)])
    first = made.pids["one"]
    os.kill(first, signal.SIGKILL)
    until(lambda: made.pids.get("one", first) != first)
    made.stop()
    thread.join()
    (entry,) = read_log(tmp_path / "audit.jsonl")
    assert (entry["event"], entry["service"], entry["status"]) == ("service ended", "one", -signal.SIGKILL)


def test_a_service_that_keeps_ending_is_started_less_and_less_often(tmp_path):
    made, thread = running(tmp_path, [service("one", "pass")])
    until(lambda: len(read_log(tmp_path / "audit.jsonl")) >= 4)
    made.stop()
    thread.join()
    waits = [entry["restart_in_seconds"] for entry in read_log(tmp_path / "audit.jsonl")][:4]
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8])


def test_services_end_in_reverse_order_and_may_finish_first(tmp_path):
    names = ("first", "second")
    services = [service(name, NOTE.format(name), ready=up(tmp_path, name)) for name in names]
    made, thread = running(tmp_path, services)
    pids = made.pids
    made.stop()
    thread.join()
    ended = {name: float((tmp_path / "logs" / f"{name}.log").read_text().split()[-1]) for name in pids}
    assert ended["second"] < ended["first"]


def test_one_that_does_not_listen_is_killed_in_the_end(tmp_path):
    deaf = NOTE.replace("lambda *_: (print('{0}', time.time(), flush=True), sys.exit(0))", "signal.SIG_IGN")
    made, thread = running(tmp_path, [service("one", deaf, ready=up(tmp_path, "one"), patience_seconds=0.3)])
    made.stop()
    thread.join(timeout=20)
    assert not thread.is_alive()
    assert made.pids == {}


def test_what_a_service_had_started_ends_with_it(tmp_path):
    code = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', sys.argv[1]]).pid, flush=True)"
    code += "; import time; print('up', flush=True); time.sleep(100)"
    one = Service(name="one", command=[sys.executable, "-c", code, SLEEP], environment={}, ready=up(tmp_path, "one"))
    made, thread = running(tmp_path, [one])
    below = int((tmp_path / "logs" / "one.log").read_text().split()[0])
    assert Path(f"/proc/{below}").exists()
    made.stop()
    thread.join(timeout=20)
    until(lambda: not Path(f"/proc/{below}").exists() or "Z" in Path(f"/proc/{below}/stat").read_text().split()[2])


def test_a_service_that_cannot_start_is_an_error_with_the_end_of_its_log(tmp_path):
    made = Supervisor(
        [service("one", SLEEP), service("two", "raise SystemExit('no such port')", ready=lambda: False)],
        logs=tmp_path / "logs",
        log=AuditLog(tmp_path),
    )
    with pytest.raises(SecfedError, match=r"two ended with 1.*\n.*no such port"):
        made.run()
    assert made.pids == {}


def test_services_do_not_outlive_a_killed_supervisor(tmp_path):
    code = f"""
from pathlib import Path
from secfed.audit_log import AuditLog
from secfed.deployment.supervisor import Service, Supervisor
import sys
one = Service(name="one", command=[sys.executable, "-c", {SLEEP!r}], environment={{}})
made = Supervisor([one], logs=Path({str(tmp_path)!r}), log=AuditLog(Path({str(tmp_path)!r})))
made.run(on_ready=lambda: print(made.pids["one"], flush=True))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        below = int(process.stdout.readline())
        process.kill()
    until(lambda: not Path(f"/proc/{below}").exists() or "Z" in Path(f"/proc/{below}/stat").read_text().split()[2])


def test_what_ended_by_itself_is_explained_once_and_a_kill_is_not(tmp_path, capfd):
    code = "print('why', flush=True); raise SystemExit(3)"
    made, thread = running(tmp_path, [service("one", code, explain=lambda lines: f"because: {lines.split()[-1]}")])
    until(lambda: len(read_log(tmp_path / "audit.jsonl")) >= 3)
    made.stop()
    thread.join()
    assert capfd.readouterr().err == "one: because: why\n"
    made, thread = running(tmp_path / "killed", [service("two", SLEEP, explain=lambda _: "never said")])
    os.kill(made.pids["two"], signal.SIGKILL)
    until(lambda: read_log(tmp_path / "killed" / "audit.jsonl"))
    made.stop()
    thread.join()
    assert not capfd.readouterr().err


def test_a_log_is_turned_over_while_its_service_writes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_LOG_BYTES", 1000)
    code = "import time\nfor n in range(100000): print(f'line {n:05d}', flush=True); time.sleep(0.001)"
    made, thread = running(tmp_path, [service("one", code)])
    log, older = tmp_path / "logs" / "one.log", tmp_path / "logs" / "one.log.1"
    until(older.exists)
    until(lambda: log.stat().st_size)
    made.stop()
    thread.join()
    assert log.read_bytes().startswith(b"line ")
    assert older.read_bytes().startswith(b"line 00000")


def test_a_log_that_somebody_moved_away_ends_nothing(tmp_path):
    made, thread = running(tmp_path, [service("one", SLEEP)])
    (tmp_path / "logs" / "one.log").rename(tmp_path / "moved")
    first = made.pids["one"]
    os.kill(first, signal.SIGKILL)
    until(lambda: made.pids.get("one", first) != first)
    made.stop()
    thread.join()
    assert (tmp_path / "logs" / "one.log").exists()
