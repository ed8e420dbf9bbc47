"""Every block of README.md and docs/*.md is run, in order, in a copy of the project, or says why not. The site is made.

A block is marked by a comment right above it: `<!-- not run: reason -->`, or `<!-- slow: reason -->` for those that
`make test-slow` runs. README's commands run first: pages may use what they made.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands import unknown_parts
from tests.documents import (
    LANGUAGES,
    NOT_RUN,
    README,
    ROOT,
    SERVICE,
    SLOW,
    Block,
    Copy,
    documents,
    inline_commands,
    read_blocks,
    text_of,
)

DOCUMENTS = documents()
BLOCKS = {document: read_blocks(text_of(document)) for document in DOCUMENTS}
NEEDS = {"docs/retention.md": ["docs/fine-tune.md"]}  # pages whose commands a page goes on from, besides README
COMMANDS = [command for blocks in BLOCKS.values() for block in blocks for command in block.commands]
INLINE = sorted({command for document in DOCUMENTS for command in inline_commands(text_of(document))})


def tried(document: str, mark: str = "") -> list[Block]:
    return [block for block in BLOCKS[document] if block.mark == mark and block.language in ("console", "python")]


@pytest.fixture(scope="module")
def copy(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    import ray

    # the session's cluster: a private one for each command would cost most of a minute
    address = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    return Copy.make(tmp_path_factory.mktemp("documents") / "rayface", address)


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """The address of the service with its default settings and the release weights, in this process."""
    from rayface.store import release_store
    from serve.settings import Settings
    from tests.serve.in_process import InProcess, served

    with served(InProcess(release_store(), Settings())) as url:
        yield url


@pytest.fixture
def try_blocks(copy: Copy, request: pytest.FixtureRequest) -> Any:
    """Runs the blocks of a document with a mark; the service starts where one of them names it."""

    def run(document: str, mark: str = "") -> None:
        for block in tried(document, mark):
            if SERVICE in block.body or f"127.0.0.1:{SERVICE.split(':')[1]}" in block.body:
                if shutil.which("curl") is None and block.language == "console":
                    pytest.skip("curl is not installed")
                copy.service = request.getfixturevalue("service")
            if block.language == "python":
                copy.run_python(block.body)
            for command in block.commands:
                copy.run(command, shell=document == README)

    return run


@pytest.mark.ray
@pytest.mark.parametrize("document", [document for document in DOCUMENTS if tried(document)])
def test_the_blocks_run(document: str, try_blocks: Any, copy: Copy) -> None:
    for earlier in (README, *NEEDS.get(document, []), document):
        try_blocks(earlier)
    if document == README:
        assert (copy.folder / "runs/enhanced.jpg").stat().st_size > 1000
        # The copy's code ran, not this checkout's: everything was written there.
        assert (copy.folder / "data/faces/dataset.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("document", [document for document in DOCUMENTS if tried(document, SLOW)])
def test_the_slow_blocks_run(document: str, try_blocks: Any) -> None:
    for earlier in (README, *NEEDS.get(document, []), document):
        try_blocks(earlier)
    try_blocks(document, SLOW)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_is_run_or_says_why(document: str) -> None:
    assert len(re.findall(r"^ *```", text_of(document), re.M)) == 2 * len(BLOCKS[document])
    for block in BLOCKS[document]:
        assert block.language in LANGUAGES, block
        assert not block.mark or len(block.reason) >= 10, block
        if block.language == "console":
            assert block.commands, block
        if block.language == "text":
            assert not re.search(r"^\s*(\$|rayface|python|make|curl|ray|serve|pytest) ", block.body, re.MULTILINE), (
                block
            )
        if block.mark == NOT_RUN:
            print(f"{document}: not run: {block.commands or block.body[:60]}: {block.reason}")


def test_most_of_what_can_be_run_is() -> None:
    assert sum(len(block.commands) for block in tried(README)) >= 8
    assert sum(len(block.commands) for document in DOCUMENTS for block in tried(document)) >= 30


@pytest.mark.parametrize("document", DOCUMENTS)
def test_tests_named_as_a_reason_exist(document: str) -> None:
    for block in BLOCKS[document]:
        for name in re.findall(r"tests/[\w/]+(?:\.py)?", block.reason):
            assert (ROOT / name).exists(), f"{document}: {name}"


@pytest.mark.parametrize("command", sorted({*COMMANDS, *INLINE} - {"make env && source .venv/bin/activate"}))
def test_what_is_named_exists(command: str) -> None:
    assert unknown_parts(command) == []


@pytest.mark.parametrize(
    ("command", "unknown"),
    [
        ("make demo nonsense", ["nonsense"]),
        ("rayface train parsing --data x --speed 3", ["--speed"]),
        ("rayface data nonsense", ["nonsense"]),
        ("python -m nonsense", ["nonsense"]),
        ("ray job submit --working-dir . -- python -m cluster.train parsing --datum x", ["--datum"]),
        ("python -m tune augmentation --trails 3", ["--trails"]),
        ("RAYFACE_HUMAN_MODELS=DIR rayface evaluate beauty --date DIR", ["--date"]),
        ("python -m benchmarks.student --data DIR --stepps 3 --limit 4", ["--stepps"]),
        ("python benchmarks/nonsense.py", ["benchmarks/nonsense.py"]),
        ("pytest -m slow tests/nonsense.py", ["tests/nonsense.py"]),
    ],
)
def test_an_unknown_part_is_found(command: str, unknown: list[str]) -> None:
    assert unknown_parts(command) == unknown


@pytest.mark.parametrize("document", DOCUMENTS)
def test_python_is_python_and_settings_are_settings(document: str) -> None:
    for block in BLOCKS[document]:
        if block.language == "python":
            compile(block.body, document, "exec")
        if block.language == "yaml":
            check_settings(yaml.safe_load(block.body))


def check_settings(part: dict[str, Any]) -> None:
    """A part of an application in the service's config file, as serve/config.yaml has it."""
    from ray.serve.config import AutoscalingConfig
    from ray.serve.schema import DeploymentSchema

    from serve.app import compose
    from serve.settings import Settings, settings_from

    assert part.keys() <= {"args", "deployments"}
    settings_from(part.get("args", {}))
    text = Path(sys.modules[compose.__module__].__file__ or "").read_text()
    for deployment in part.get("deployments", []):
        DeploymentSchema.model_validate(deployment)
        assert deployment.get("autoscaling_config", {}).keys() <= AutoscalingConfig.model_fields.keys()
        assert f'"{deployment["name"]}"' in text or hasattr(Settings(), deployment["name"]), deployment["name"]


def test_the_retention_policy_has_the_real_settings() -> None:
    from serve.settings import Settings

    page = text_of("docs/retention.md")
    for name in ("timeout_s", "job_timeout_s", "job_seconds", "report_seconds"):
        assert f"`{name}` ({getattr(Settings(), name):g} s)" in page, name
    assert f"`max_reports` ({Settings().max_reports})" in page


@pytest.mark.parametrize(
    "part",
    [
        {"args": {"timeout": 3}},
        {"args": {"credentials": {"pen": "x"}}},
        {"deployments": [{"name": "nonsense"}]},
        {"deployments": [{"name": "stages", "autoscaling_config": {"max_replica": 3}}]},
        {"arguments": {}},
    ],
)
def test_a_setting_that_does_not_exist_is_found(part: dict[str, Any]) -> None:
    from pydantic import ValidationError

    from rayface.errors import RayfaceError

    with pytest.raises((AssertionError, ValidationError, RayfaceError)):
        check_settings(part)


def test_reading_blocks() -> None:
    text = (
        "<!-- not run: because -->\n```console\n$ a \\\n  b\nout\n```\n\n```console\n$ c\n$ d\n```\n"
        "1. x\n\n   <!-- slow: so -->\n   ```python\n   e\n   ```\n`rayface f\ng` and `h`\n"
    )
    first, second, third = read_blocks(text)
    assert (first.language, first.commands, first.mark, first.reason) == ("console", ("a    b",), "not run", "because")
    assert (second.commands, second.mark) == (("c", "d"), "")
    assert (third.language, third.body, third.mark, third.reason) == ("python", "e\n", "slow", "so")
    assert inline_commands(text) == ["rayface f g"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_pictures_exist(document: str) -> None:
    """On a code host, where there is no site: made pages (cards, contributing, changelog) are linked from nowhere."""
    links = re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", text_of(document))
    folder = (ROOT / document).parent
    assert [link for link in links if not (folder / link).exists()] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # it speaks of other programs
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    return folder


def test_the_site_is_made_and_needs_no_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(DOCUMENTS)
    for page in pages:
        fetched = re.findall(r"<(?:script|img|link)[^>]*(?:src|href)=\"?(https?:[^\" >]+)", page.read_text())
        assert fetched == [], page
    assert (site / "search" / "search_index.json").stat().st_size > 100_000


def test_every_released_model_has_a_card_with_its_figures(site: Path) -> None:
    listed = (site / "cards" / "index.html").read_text()
    for path in (ROOT / "weights").glob("*/*/config.json"):
        name, version = path.parts[-3:-1]
        assert f"{name}@{version}" in listed
        assert "95 % bootstrap intervals" in (site / "cards" / f"{name}.html").read_text()


def test_cards_beside_the_weights_say_what_the_site_says() -> None:
    from docs.pages import card, released

    for folder, info in released():
        assert (folder / "README.md").read_text() == card(folder, info), folder
