"""Commands that a text names, README or a manifest, held against the code."""

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

ROOT = Path(__file__).resolve().parents[1]


def unknown_parts(command: str) -> list[str]:
    """Sub-commands, options, modules, make targets and files that a command names and nobody has."""
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):  # variables before the command
        words = words[1:]
    if "--" in words:  # ray job submit ... -- COMMAND
        words = words[words.index("--") + 1 :]
    if words[0] == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        return [word for word in words[1:] if "=" not in word and word not in targets]
    if words[:2] == ["python", "-m"]:
        return _unknown_to_module(words[2], words[3:])
    if words[0] == "python" and words[1:]:
        return _unknown_to_script(words[1], words[2:])
    if words[0] == "pytest":
        return [word for word in words[1:] if word.startswith("tests/") and not (ROOT / word).exists()]
    if words[0] == "rayface":
        return _unknown_to_cli(words[1:])
    if words[:2] == ["serve", "deploy"]:
        return [word for word in words[2:] if not (ROOT / word).exists()]
    return []


def _unknown_to_module(module: str, words: list[str]) -> list[str]:
    if module.partition(".")[0] in sys.stdlib_module_names:
        return []
    path = ROOT / Path(*module.split("."))
    if not (path.with_suffix(".py").exists() or (path / "__main__.py").exists()):
        return [module]
    package, _, name = module.partition(".")
    if package == "benchmarks":
        return _unknown_to_script(str(path.with_suffix(".py")), words)
    if package == "cluster" and name in {"train", "evaluate", "apply"}:
        return _unknown_to_cli([name, *words])
    if package == "cluster" and name in {"ingest", "label"}:
        return _unknown_to_cli(["data", name, *words])
    if module in ("tune", "cluster.tune"):
        from tune.__main__ import app

        return _unknown_options(app, words)
    return []


def _unknown_to_script(script: str, words: list[str]) -> list[str]:
    """Of a benchmark, which is not imported: options that neither it nor a benchmark it imports names."""
    path = ROOT / script
    if not path.exists():
        return [script]
    text = path.read_text()
    for name in re.findall(r"^from benchmarks\.(\w+) import", text, re.MULTILINE):
        text += (path.parent / name).with_suffix(".py").read_text()
    return [word for word in words if word.startswith("--") and word.partition("=")[0] not in text]


def _unknown_to_cli(words: list[str]) -> list[str]:
    from rayface.cli import app

    return _unknown_options(app, words)


def _unknown_options(app: object, words: list[str]) -> list[str]:
    import typer

    command: click.Command = typer.main.get_command(app)  # type: ignore[arg-type, assignment]
    rest = list(words)
    while subcommands := getattr(command, "commands", None):
        if not rest or rest[0] not in subcommands:
            return rest[:1] or ["a sub-command is missing"]
        command = subcommands[rest.pop(0)]
    known = {"--help"} | {option for given in command.params for option in [*given.opts, *given.secondary_opts]}
    return [word for word in rest if word.startswith("--") and word not in known]
