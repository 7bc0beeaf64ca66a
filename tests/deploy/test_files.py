"""All files of deploy/: they can be read, name only what exists, and end as they should."""

import json
import re
import subprocess

import program
import pytest
import yaml

# Variables of the files themselves; the program does not read them.
OWN = {"PHASEGATE_BINARY", "PHASEGATE_BIND", "PHASEGATE_IMAGE"}


@pytest.mark.parametrize("path", program.files(".yaml", ".yml", ".json"), ids=str)
def test_it_can_be_read(path):
    text = path.read_text()
    documents = [json.loads(text)] if path.suffix == ".json" else list(yaml.safe_load_all(text))
    assert all(document is not None for document in documents)
    assert "\t" not in text and text.endswith("\n")


def test_every_variable_is_read_by_the_program():
    known = program.variables() | set(re.findall(r"PHASEGATE_[A-Z_]+", program.help_of("instance", "list"))) | OWN
    for path in program.files():
        unknown = set(re.findall(r"\bPHASEGATE_[A-Z_]*[A-Z]\b", path.read_text())) - known
        assert not unknown, f"{path}: nobody reads {unknown}"


def commands():
    """Every command of ours in the runbooks, the README and the scripts, as words."""
    for path in program.files(".md"):
        text = path.read_text()
        for line in re.findall(r"^phasegate (.+)$", text, re.MULTILINE) + re.findall(r"`phasegate ([^`]+)`", text):
            yield path, line.split()
    for path in program.files("up"):
        for line in re.findall(r'"\$binary" ([a-z].*)', path.read_text().replace("\\\n", " ")):
            yield path, line.split()


def test_every_command_exists_with_its_flags():
    found = list(commands())
    assert len(found) > 20
    for path, words in found:
        nouns = []
        for word in words:
            if not re.fullmatch(r"[a-z][a-z-]*", word) or program.run([*nouns, word, "--help"]).returncode != 0:
                break
            nouns.append(word)
            if nouns[0] in ("serve", "demo", "mail-catcher"):
                break
        assert nouns, f"{path}: there is no command {' '.join(words)}"
        given = {word for word in words if word.startswith("--")}
        assert given <= program.flags(*nouns), f"{path}: phasegate {' '.join(words)}"
        if nouns[0] not in ("serve", "demo", "mail-catcher", "admin"):
            places = re.findall(r"^Usage: .*$", program.help_of(*nouns), re.MULTILINE)[0]
            wanted = len(re.findall(r" <[A-Z_]+>", re.sub(r"--[a-z-]+ <[A-Z_]+>", "", places)))
            values = [word for flag, word in zip([""] + words, words) if word.startswith("<") and not flag.startswith("--")]
            assert len(values) >= wanted, f"{path}: phasegate {' '.join(words)} needs: {places}"


def test_scripts_are_sound():
    scripts = [path for path in program.files() if path.read_text().startswith("#!/bin/bash")]
    assert len(scripts) >= 3
    scripts.append(program.ROOT / "tests/deploy/run")
    answer = subprocess.run(["shellcheck", "--severity=warning", *scripts], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_links_between_pages_lead_somewhere():
    for path in program.files(".md"):
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path}: {target}"
