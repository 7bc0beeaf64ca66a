"""`deploy/local/up` really starts everything, and `down` stops it."""

import os
import re
import signal
import subprocess
import time

import installation as installations
import program
import pytest
from installation import DOWN, get


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with installations.started(tmp_path_factory) as installation:
        yield installation


@pytest.fixture(name="installation")
def parts(running):
    """A running installation: its folder, its base port, what `up` has printed."""
    return running.folder, running.base, running.printed


def test_every_process_is_ready(installation):
    _, base, printed = installation
    assert f"Phasegate listens on http://127.0.0.1:{base}" in printed, printed
    for offset in [*range(7), 12]:
        assert get(f"http://127.0.0.1:{base + 2_000 + offset}/readyz") == (200, "ready\n"), printed
    status, _ = get(f"http://127.0.0.1:{base}/openapi.json")
    assert status == 200
    mail = re.search(r"http://127\.0\.0\.1:\d+/dev/mail", printed)[0]
    assert get(f"{mail}/messages") == (200, "[]")


def test_each_service_has_tables_of_its_own_and_no_rights_elsewhere(installation):
    _, _, printed = installation
    database = re.search(r"postgres://postgres@\S+", printed)[0]

    def ask(role, query):
        url = database.replace("postgres@", f"{role}@")
        return subprocess.run(["psql", "-X", "-At", url, "-c", query], capture_output=True, text=True, check=False)

    owners = ask("postgres", "select distinct schemaname || ' ' || tableowner from pg_tables where schemaname like 'phasegate%'")
    expected = {f"phasegate_{name} phasegate_{name}" for name in program.SERVICES if name != "gateway"}
    assert set(owners.stdout.split("\n")) - {""} == expected
    assert ask("phasegate_approval", "select count(*) from phasegate_approval.approval").returncode == 0
    refused = ask("phasegate_approval", "select count(*) from phasegate_instance.instance")
    assert "permission denied" in refused.stderr


def test_every_query_of_the_runbooks_can_be_asked(installation):
    _, _, printed = installation
    database = re.search(r"postgres://postgres@\S+", printed)[0]
    asked = 0
    for path in program.files(".md"):
        for query in re.findall(r'psql "\$DATABASE_URL" -c "(.+)"$', path.read_text(), re.MULTILINE):
            answer = subprocess.run(["psql", "-X", database, "-c", query], capture_output=True, text=True, check=False)
            assert answer.returncode == 0, f"{path}: {answer.stderr}"
            asked += 1
    assert asked > 8


def test_what_is_measured_is_what_was_declared(installation):
    _, base, _ = installation
    served = {}
    for offset in [*range(7), 12]:
        status, text = get(f"http://127.0.0.1:{base + 2_000 + offset}/metrics")
        assert status == 200
        served.update(re.findall(r"^# TYPE ((?:phasegate|rpc)_\w+) (\w+)$", text, re.MULTILINE))
    assert "phasegate_build_info" in served
    declared = {name: kind for name, (kind, _) in program.metrics().items()}
    assert served.items() <= declared.items()
    # What needs nothing to happen first.
    assert {"phasegate_outbox_pending", "phasegate_db_pool_connections", "phasegate_approval_oldest_pending_age_seconds"} <= set(served)


def test_a_process_that_is_killed_comes_back_and_takes_no_other_along(installation):
    folder, base, printed = installation
    others = [base + 2_000 + offset for offset in range(7)]
    second = int(re.search(r"instance-2 .* process (\d+)", printed)[1])
    os.kill(second, signal.SIGKILL)
    until = time.monotonic() + 30
    while int((folder / "run/instance-2.pid").read_text() or second) == second or get(f"http://127.0.0.1:{base + 2_012}/readyz")[0] != 200:
        assert all(get(f"http://127.0.0.1:{port}/readyz")[0] == 200 for port in others)
        assert time.monotonic() < until, (folder / "log/instance-2.log").read_text()
        time.sleep(0.1)


@pytest.mark.parametrize("name", installations.PROCESSES)
def test_the_demo_completes_although_a_process_is_killed(running, name):
    running.wait_until_ready()
    with running.demo() as demo:
        killed, told = False, ""
        for line in demo.stdout:
            told += line
            # The first events: agents, people and the watch are on their way.
            if not killed and told.count("\n") > 5:
                os.kill(running.number(name), signal.SIGKILL)
                killed = True
        assert demo.wait(timeout=120) == 0, told
    assert killed
    assert '"demo.completed"' in told and '"status":"completed"' in told.replace(" ", ""), told


def test_down_stops_everything(installation):
    folder, _, _ = installation
    numbers = [int(path.read_text()) for path in (folder / "run").glob("*.pid") if path.stem != "up"]
    assert len(numbers) == 11
    begun = time.monotonic()
    subprocess.run([DOWN, folder], check=True, timeout=60)
    assert time.monotonic() - begun < 20
    for number in numbers:
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)
    assert (folder / "postgres/PG_VERSION").exists() or os.getuid() != 0
