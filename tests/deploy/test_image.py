"""The image, as far as it can be judged without building it."""

import fnmatch
import re
import shutil
import subprocess

import program

DOCKERFILE = (program.DEPLOY / "docker/Dockerfile").read_text()


def test_it_is_the_program_and_not_root():
    last = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    assert "nonroot" in last.splitlines()[1]
    assert re.findall(r"^USER (.+)$", last, re.MULTILINE) == ["65532:65532"]
    assert re.findall(r"^ENTRYPOINT (.+)$", last, re.MULTILINE) == ['["/usr/local/bin/phasegate"]']
    ports = re.findall(r"^EXPOSE (.+)$", last, re.MULTILINE)[0].split()
    assert [int(port) for port in ports] == [*program.SERVICES.values(), program.ADMIN_PORT]
    assert "--locked" in DOCKERFILE and "--release" in DOCKERFILE


def test_it_is_built_with_the_compiler_that_the_workspace_names():
    wanted = re.search(r'^rust-version = "(.+)"$', (program.ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
    assert f"FROM rust:{wanted}-" in DOCKERFILE


def test_what_is_sent_to_the_builder_is_a_workspace(tmp_path):
    rules = [line for line in (program.ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    for name in kept:
        source = program.ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("target", "node_modules"))
        else:
            shutil.copy(source, tmp_path / name)
    command = ["cargo", "metadata", "--locked", "--offline", "--no-deps", "--format-version", "1"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert not any(fnmatch.fnmatch(secret, rule) for rule in kept for secret in ("deploy", ".git", ".phasegate"))
