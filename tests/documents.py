"""The documents (README.md, docs/*.md): their blocks and inline commands, and a copy of the project to try them in."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = "README.md"
LANGUAGES = ("console", "python", "yaml", "text")  # text: nothing that could be run
NOT_RUN, SLOW = "not run", "slow"
BLOCK = re.compile(
    rf"^(?P<indent> *)(?:<!-- (?P<mark>{NOT_RUN}|{SLOW}):(?P<reason>[^>]*)-->\n *)?"
    r"```(?P<language>\w*)\n(?P<body>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)
INLINE = re.compile(r"`((?:[A-Z_]+=\S+ )*(?:rayface|make|pytest|python|ray|serve) [^`]+)`")
SERVICE = "localhost:8000"  # where the documents have the service
LIMIT = 180  # seconds a command may take; the longest, a training run, needs 40 on 2 idle cores
COPIED = ("rayface", "serve", "tune", "cluster", "benchmarks", "weights", "docs", "README.md", "pyproject.toml")
# of every curl here: an answer that is an error fails, and a job that is not done yet is asked for again
CURL = "curl --fail-with-body --silent --show-error --retry 30 --retry-delay 1 --retry-all-errors "


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, how it is marked ("", NOT_RUN or SLOW), and why."""

    language: str
    body: str
    mark: str = ""
    reason: str = ""

    @property
    def commands(self) -> tuple[str, ...]:
        """Of a console block: the lines after `$ `."""
        lines = self.body.replace("\\\n", " ").splitlines()
        return tuple(line.strip()[2:] for line in lines if line.strip().startswith("$ "))


def documents() -> list[str]:
    """README.md, then the pages of the site that are written by hand, relative to the top."""
    return [README, *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md"))]


def text_of(document: str) -> str:
    return (ROOT / document).read_text()


def read_blocks(text: str) -> list[Block]:
    """The fenced blocks of a Markdown text."""
    return [
        Block(match["language"], textwrap.dedent(match["body"]), match["mark"] or "", (match["reason"] or "").strip())
        for match in BLOCK.finditer(text)
    ]


def inline_commands(text: str) -> list[str]:
    """Commands in the text itself, between single back-quotes, also over two lines."""
    prose = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [" ".join(match.split()) for match in INLINE.findall(prose)]


@dataclass
class Copy:
    """A copy of what a clone holds, without the data and runs that lie about here; commands are run in it once each.

    `rayface ...` is run in this process (which has torch imported already) unless `shell`.
    """

    folder: Path
    environment: dict[str, str]
    service: str = ""  # its address, for commands that name SERVICE
    done: set[str] = field(default_factory=set)
    job: str = ""  # what the last answer named; documents call it JOB

    @classmethod
    def make(cls, folder: Path, environment: dict[str, str]) -> "Copy":
        folder.mkdir()
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy2(source, folder / name)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return cls(folder, {**os.environ, "PYTHONPATH": str(folder), "PATH": path, **environment})

    def run(self, command: str, shell: bool = False) -> None:
        """Run a command that did not run yet; an assertion tells what a failing one printed."""
        if command in self.done and "JOB" not in command:
            return
        self.done.add(command)
        start = time.monotonic()
        inside = command.startswith("rayface ") and not shell
        status, output = self._call(command) if inside else self._shell(self._meant(command))
        print(f"{time.monotonic() - start:.1f} s: {command}")
        assert status == 0, f"$ {command}\n{output[-4000:]}"
        if location := re.search(r"^location: /v1/jobs/(\S+)", output, re.MULTILINE | re.IGNORECASE):
            self.job = location[1]

    def run_python(self, body: str) -> None:
        """Run a Python block in this process."""
        start, port = time.monotonic(), SERVICE.split(":")[1]
        with contextlib.chdir(self.folder):
            exec(compile(body.replace(f"http://127.0.0.1:{port}", self.service), "block", "exec"), {})
        print(f"{time.monotonic() - start:.1f} s: {body.splitlines()[0]} ...")

    def _meant(self, command: str) -> str:
        command = command.replace(SERVICE, self.service.removeprefix("http://"))
        command = command.replace("/v1/jobs/JOB", f"/v1/jobs/{self.job}")
        return re.sub(r"^curl ", CURL, command)

    def _call(self, command: str) -> tuple[int, str]:
        from typer.testing import CliRunner

        from rayface.cli import app

        with contextlib.chdir(self.folder):
            result = CliRunner().invoke(app, shlex.split(command, comments=True)[1:])
        return result.exit_code, f"{result.output}\n{result.exception or ''}"

    def _shell(self, command: str) -> tuple[int, str]:
        """Exit status and output; a command that hangs is ended with all its processes."""
        with (self.folder / "output.log").open("w+") as log:
            process = subprocess.Popen(
                ["bash", "-c", command],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                print(f"ended after {LIMIT} s", file=log)
            log.seek(0)
            return process.wait(), log.read()
