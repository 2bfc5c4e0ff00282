"""Every command line of Cutset's in Dockerfiles and manifests is one of this version's; what images promise."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cutset.cli import COMMANDS
from cutset.config import OPTIONS
from tests.deploy.kustomized import kustomized
from tests.deploy.test_manifests import OVERLAYS, containers

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DOCKERFILE = (DEPLOY / "docker" / "Dockerfile").read_text()
IGNORED = ("sleep", "install")
RAY = ("--ray=", "--place=")


def instructions() -> Iterator[tuple[str, str]]:
    """The Dockerfile's, with their arguments."""
    lines = [line for line in DOCKERFILE.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        name, _, rest = line.strip().partition(" ")
        yield name, " ".join(rest.split())


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage, by its name; those of the stage that it begins with first."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for one, rest in instructions():
        if one == "FROM":
            base, _, name = rest.split()
            found[name] = list(found.get(base, ()))
        elif name:
            found[name].append((one, rest))
    return found


def commands() -> Iterator[tuple[str, list[str]]]:
    """Where a command is, and its words without `cutset`."""
    for name, lines in stages().items():
        last = dict(lines)
        if "CMD" in last:
            words = json.loads(last.get("ENTRYPOINT", "[]")) + json.loads(last["CMD"])
            yield f"Dockerfile, {name}", words
    compose = yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        yield f"compose.yaml, {name}", ["cutset", *service["command"]]
    text = (DEPLOY / "docker" / "README.md").read_text().replace("\\\n", " ")
    for line in re.findall(r"^docker run .*", text, re.MULTILINE):
        words = shlex.split(line)
        image = next(number for number, word in enumerate(words) if word.startswith("cutset:"))
        if words[image + 1 :]:
            yield "docker/README.md", ["cutset", *words[image + 1 :]]
    for overlay in OVERLAYS:
        for one in containers(kustomized(DEPLOY / "kubernetes" / overlay)):
            command = one.get("command", ["cutset"] if one["image"] == "cutset" else [])
            if command and command[0] not in IGNORED:
                yield f"kubernetes/{overlay}, {one['name']}", [*command, *one.get("args", ())]


COMMAND_LINES = list(commands())


def test_commands_are_found() -> None:
    places = [place for place, _ in COMMAND_LINES]
    assert len(places) >= 12
    for overlay in OVERLAYS:
        assert any(overlay in place for place in places)


@pytest.mark.parametrize(("place", "words"), COMMAND_LINES, ids=[place for place, _ in COMMAND_LINES])
def test_a_command_is_one_of_this_version(place: str, words: list[str]) -> None:
    assert words[0] == "cutset"
    if words[1:] == ["--version"]:
        return
    name, *rest = (re.sub(r"\$\([A-Z_]+\)", "x", word) for word in words[1:])
    if "ray" not in OPTIONS:  # until settings have it
        rest = [word for word in rest if not word.startswith(RAY)]
    parser = argparse.ArgumentParser(prog=f"cutset {name}", allow_abbrev=False)
    importlib.import_module(COMMANDS[name].module).configure(parser)
    parser.parse_args(rest)


def test_images_have_no_compiler_and_no_root() -> None:
    found = stages()
    builds = {name for name in found if "builder" in name}
    assert found.keys() - builds == {"server", "ray"}
    assert any("g++" in rest for _, rest in found["builder"])
    for name in found.keys() - builds:
        lines = found[name]
        assert not any(re.search(r"g\+\+|gcc|cmake|build-essential", rest) for _, rest in lines)
        assert not any(one in ("COPY", "ADD") for one, _ in lines), "wheels alone come from the builder"
        installs = [rest for one, rest in lines if one == "RUN" and "pip install" in rest]
        assert installs
        assert all("--no-index" in rest for rest in installs)
        users = [rest for one, rest in lines if one == "USER"]
        assert users[-1] == "65532:65532"
    assert "/health" in dict(found["server"])["HEALTHCHECK"]


def test_no_layer_has_a_secret() -> None:
    for one, rest in instructions():
        if one in ("ENV", "ARG"):
            assert not re.search(r"(KEY|TOKEN|SECRET|PASSWORD)\S*=", rest, re.IGNORECASE)
    ignored = (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    listed = [line for line in ignored if line and not line.startswith("#")]
    assert listed[0] == "*", "nothing goes to the builder that isn't named"
    root = DEPLOY.parent
    for line in listed:
        if line.startswith("!"):
            assert (root / line[1:]).exists(), f"{line} isn't there"
    assert "**/*.key" in listed


def test_bases_are_pinned() -> None:
    [python] = [rest for one, rest in instructions() if one == "ARG"]
    assert re.fullmatch(r"PYTHON=3\.\d+-slim-[a-z]+", python)
    names = stages().keys()
    for one, rest in instructions():
        if one == "FROM":
            assert rest.split()[0] in ("python:${PYTHON}", *names)
