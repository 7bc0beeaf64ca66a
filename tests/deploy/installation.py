"""An installation that `deploy/local/up` starts, and what can be done to it."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import program

UP = program.DEPLOY / "local/up"
DOWN = program.DEPLOY / "local/down"
# The processes of services, each with what its port is above the first.
PROCESSES = {**{name: number for number, name in enumerate(program.SERVICES)}, "instance-2": 12}
BINARY = os.environ["PHASEGATE_TEST_BINARY"]


def free_base():
    """A port from which on the ports that `up` needs are free."""
    for base in range(20_000, 60_000, 1_000):
        wanted = [*range(7), 12, *range(2_000, 2_007), 2_012]
        for offset in wanted:
            with socket.socket() as taken:
                if taken.connect_ex(("127.0.0.1", base + offset)) == 0:
                    break
        else:
            return base
    raise AssertionError("no port is free")


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


class Installation:
    """A folder, the first port, and what `up` has printed."""

    def __init__(self, folder, base, printed, up):
        self.folder, self.base, self.printed, self.up = folder, base, printed, up
        self.address = f"http://127.0.0.1:{base}"
        self.mail = re.search(r"(http://127\.0\.0\.1:\d+)/dev/mail", printed)[1]
        self.database = re.search(r"postgres://postgres@\S+", printed)[0]
        self.redis = re.search(r"redis://127\.0\.0\.1:(\d+)", printed)[1]
        self.settings = folder / "settings.toml"
        self.environment = {**os.environ, "PHASEGATE_KEY_FILE": str(folder / "key")}

    def number(self, name):
        """The number of the process that runs as `name`."""
        return int((self.folder / f"run/{name}.pid").read_text() or 0)

    def log(self, name):
        return (self.folder / f"log/{name}.log").read_text()

    def admin(self, name):
        return f"http://127.0.0.1:{self.base + 2_000 + PROCESSES[name]}"

    def is_ready(self, name):
        return get(f"{self.admin(name)}/readyz")[0] == 200

    def wait_for(self, what, holds, seconds=60):
        until = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < until, f"{what} did not come within {seconds} s"
            time.sleep(0.1)

    def wait_until_ready(self):
        for name in PROCESSES:
            self.wait_for(f"{name} is ready", lambda name=name: self.is_ready(name))

    def query(self, statement):
        answer = subprocess.run(
            ["psql", "-X", "-At", self.database, "-c", statement], capture_output=True, text=True, check=False
        )
        assert answer.returncode == 0, answer.stderr
        return answer.stdout.strip()

    def call(self, *arguments, check=True, **options):
        """Runs a command of the program against it."""
        command = [BINARY, *arguments]
        answer = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=120, check=False, **options
        )
        assert not check or answer.returncode == 0, f"{command}: {answer.stderr}"
        return answer

    def demo(self):
        """Begins the demo."""
        command = [BINARY, "demo", "--json", "--address", self.address, "--mail", self.mail]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    @contextlib.contextmanager
    def nobody_starts_again(self):
        """Holds `up`, which would start again what has ended."""
        os.kill(self.up.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.up.pid, signal.SIGCONT)


@contextlib.contextmanager
def started(tmp_path_factory, **more):
    """Starts one, and stops it in the end."""
    # PostgreSQL, which is not root, must be able to walk there.
    folder = tmp_path_factory.mktemp("local")
    for part in [folder, *folder.parents[:2]]:
        part.chmod(part.stat().st_mode | 0o011)
    base = free_base()
    environment = {**os.environ, "PHASEGATE_BINARY": BINARY, **more}
    command = [UP, folder / "data", str(base)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as up:
        printed = ""
        for line in up.stdout:
            printed += line
            if line.startswith("Ctrl-C"):
                break
        try:
            yield Installation(folder / "data", base, printed, up)
        finally:
            up.send_signal(signal.SIGCONT)
            up.send_signal(signal.SIGINT)
            try:
                up.wait(timeout=60)
            finally:
                subprocess.run([DOWN, folder / "data"], check=False)
