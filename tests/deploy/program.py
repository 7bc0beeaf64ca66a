"""The program that is deployed, asked what it knows, and the files of deploy/."""

import os
import re
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"

# Each service with its port, in the order of the ports.
SERVICES = {
    "gateway": 7460,
    "definition": 7461,
    "instance": 7462,
    "approval": 7463,
    "artifact": 7464,
    "participant": 7465,
    "notification": 7466,
}
ADMIN_PORT = 9460


def run(arguments, environment=None):
    """Runs the program without anything of our own environment, and returns what it did."""
    environment = {"PATH": os.environ["PATH"], **(environment or {})}
    command = [os.environ["PHASEGATE_TEST_BINARY"], *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)


def help_of(*command):
    """The help of a command."""
    answer = run([*command, "--help"])
    assert answer.returncode == 0, f"phasegate {' '.join(command)}: {answer.stderr}"
    return answer.stdout


def variables():
    """The environment variables that `phasegate serve` reads."""
    # What belongs to OpenTelemetry is not in the help.
    return set(re.findall(r"\[env: ([A-Z_]+)", help_of("serve"))) | {"OTEL_EXPORTER_OTLP_ENDPOINT"}


def flags(*command):
    """The long flags of a command."""
    return set(re.findall(r"(--[a-z][a-z-]*)", help_of(*command)))


def effective(arguments, environment, folder):
    """What `serve` makes of arguments and environment: its settings by name. Files that it is told of are made up."""
    (folder / "secret").write_text("00" * 32 + "\n")
    (folder / "settings.toml").write_text(
        'database-url = "postgres://role:hushhush@localhost/phasegate"\nredis-url = "redis://:hushhush@localhost"\n'
    )
    there = {"PHASEGATE_CONFIG": "settings.toml", "PHASEGATE_SECRET_FILE": "secret"}
    environment = {name: str(value) for name, value in environment.items()}
    for name, file in there.items():
        assert name in environment, f"{name} is not set"
        environment[name] = str(folder / file)
    answer = run([*arguments, "--check"], environment)
    assert answer.returncode == 0, f"phasegate {' '.join(arguments)}: {answer.stderr}"
    assert "hushhush" not in answer.stdout
    return dict(re.findall(r'^([a-z-]+) = "(.*)"$', answer.stdout, re.MULTILINE))


def check_service(name, arguments, environment, folder):
    """Checks that a process with these arguments is the service, listens where it should, and finds the others. Returns
    where it thinks that they are: name and port by service."""
    assert set(environment) <= variables(), f"{name} is given variables that nobody reads"
    assert arguments == ["serve", name]
    settings = effective(arguments, environment, folder)
    assert settings["listen"] == f"{name}=0.0.0.0:{SERVICES[name]}"
    assert settings["admin-listen"] == f"0.0.0.0:{ADMIN_PORT}"
    peers = dict(entry.split("=", 1) for entry in settings["peers"].split(","))
    places = {service: url.removeprefix("http://").split(":") for service, url in peers.items()}
    return {service: (host, int(port)) for service, (host, port) in places.items()}


def files(*endings):
    """The files of deploy/ with these endings, or all."""
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "deploy"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )
    names = [ROOT / name for name in tracked.stdout.split()]
    return [path for path in names if path.is_file() and (not endings or path.name.endswith(endings))]


def documents(path):
    """The documents of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def metrics():
    """What the services measure, as their sources declare it: type and labels by name."""
    text = r'"(?:[^"\\]|\\[\s\S])*"'
    declaration = re.compile(rf'\b(Counter|Gauge|Histogram|Level)::new\(\s*"([a-z_]+)",\s*{text},\s*\[([^\]]*)\]')
    types = {"Counter": "counter", "Gauge": "gauge", "Histogram": "histogram", "Level": "gauge"}
    found = {}
    for folder in ("libs", "services"):
        for path in (ROOT / folder).rglob("*.rs"):
            for kind, name, labels in declaration.findall(path.read_text()):
                if name.startswith(("phasegate_", "rpc_")):
                    assert name not in found, f"{name} is declared twice"
                    found[name] = (types[kind], set(re.findall(r'"(\w+)"', labels)))
    assert len(found) > 25, "the declarations look different now"
    return found
