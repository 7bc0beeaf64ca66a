"""The compose file: its schema, and whether its services are those of the program."""

import copy
import re
import subprocess

import compose_spec
import program
import pytest
import yaml

FOLDER = program.DEPLOY / "compose"


def interpolated(text):
    """The text with the default of each variable, as it is read where nothing is set."""
    return re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", text)


COMPOSE = yaml.safe_load(interpolated((FOLDER / "compose.yaml").read_text()))


def read(compose):
    return compose_spec.PyCompose.from_yaml(yaml.safe_dump(compose))


def test_it_matches_the_schema():
    assert "$" not in interpolated((FOLDER / "compose.yaml").read_text()).replace("$$", "")
    assert set(read(COMPOSE).service_names()) == set(COMPOSE["services"])


def test_the_schema_knows_what_is_wrong():
    for place, key in [(["services", "gateway"], "comand"), (["services", "redis", "healthcheck"], "retry"), ([], "nets")]:
        wrong = copy.deepcopy(COMPOSE)
        part = wrong
        for step in place:
            part = part[step]
        part[key] = "1"
        with pytest.raises(ValueError, match=key):
            read(wrong)


@pytest.mark.parametrize("name", program.SERVICES)
def test_a_service_is_what_the_program_makes_of_it(name, tmp_path):
    service = COMPOSE["services"][name]
    peers = program.check_service(name, service["command"], service["environment"], tmp_path)
    assert peers == {other: (other, port) for other, port in program.SERVICES.items() if other != "gateway"}
    assert service["read_only"] and service["user"] == "65532:65532" and service["cap_drop"] == ["ALL"]
    assert service["healthcheck"]["test"][1:] == ["/usr/local/bin/phasegate", "admin", "ready"]
    # A process takes up to 10 s to stop.
    assert int(service["stop_grace_period"].removesuffix("s")) > 10


def test_only_the_gateway_and_what_people_look_at_can_be_reached_and_only_from_this_machine():
    ports = {name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service}
    assert set(ports) == {"gateway", "mail", "prometheus", "grafana"}
    assert all(port.startswith("127.0.0.1:") for entry in ports.values() for port in entry)
    assert COMPOSE["networks"]["inside"]["internal"]


def test_every_file_that_is_mounted_exists():
    for name, service in COMPOSE["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (FOLDER / source).exists(), f"{name}: {source}"
            else:
                assert source in COMPOSE["volumes"], f"{name}: {source}"


def test_images_of_others_have_a_version():
    for name, service in COMPOSE["services"].items():
        if not service["image"].startswith("phasegate:"):
            assert re.search(r":v?[0-9]+\.?[0-9.]*(-[a-z]+)?$", service["image"]), f"{name}: {service['image']}"


def test_secrets_are_made_once_and_fit_together(tmp_path):
    script = tmp_path / "make-secrets"
    script.write_bytes((FOLDER / "make-secrets").read_bytes())
    script.chmod(0o755)
    subprocess.run([script], check=True, capture_output=True)
    folder = tmp_path / "secrets"
    assert folder.stat().st_mode & 0o077 == 0
    made = {path.name: path.read_text() for path in folder.iterdir()}
    named = {entry["file"].removeprefix("./secrets/") for entry in COMPOSE["secrets"].values()}
    assert set(made) == named
    used = set()
    for service in COMPOSE["services"].values():
        used |= {entry if isinstance(entry, str) else entry["source"] for entry in service.get("secrets", [])}
    assert used == set(COMPOSE["secrets"])
    role = re.search(r"phasegate_\{service\}:([0-9a-f]{48})@postgres:5432/phasegate", made["settings.toml"])[1]
    assert made["role-passwords.sql"].count(f"'{role}'") == 6
    assert made["redis.conf"].split()[1] in made["settings.toml"]
    environment = {"PHASEGATE_CONFIG": str(folder / "settings.toml"), "PHASEGATE_SECRET_FILE": str(folder / "secret")}
    checked = program.run(["serve", "instance", "--check", "--public-url", "http://localhost"], environment)
    assert checked.returncode == 0, checked.stderr
    subprocess.run([script], check=True, capture_output=True)
    assert made == {path.name: path.read_text() for path in folder.iterdir()}


def test_the_example_of_the_environment_names_what_is_read():
    named = set(re.findall(r"^#?([A-Z_]+)=", (FOLDER / ".env.example").read_text(), re.MULTILINE))
    read_there = set(re.findall(r"\$\{([A-Z_]+)", (FOLDER / "compose.yaml").read_text()))
    assert named == read_there


def test_redis_and_postgres_are_set_as_the_services_demand():
    redis = " ".join(COMPOSE["services"]["redis"]["command"])
    assert "--maxmemory-policy noeviction" in redis and "--appendonly yes" in redis
    postgres = COMPOSE["services"]["postgres"]["command"]
    assert {"fsync=on", "full_page_writes=on", "synchronous_commit=on"} <= set(postgres)


def test_every_service_with_data_has_a_role():
    roles = set(re.findall(r"'(phasegate_[a-z]+)'", (program.DEPLOY / "postgres/roles.sql").read_text()))
    assert roles == {f"phasegate_{name}" for name in program.SERVICES if name != "gateway"}
