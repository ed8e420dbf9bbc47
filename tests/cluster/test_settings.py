"""The settings that all jobs of a cluster share."""

import sys
from pathlib import Path

import pytest

from cluster.entry import begin, options_of
from cluster.settings import ClusterSettings, read_settings, with_defaults
from rayface.cli import app
from rayface.errors import RayfaceError


def written(folder: Path, text: str) -> dict[str, str]:
    (folder / "settings.yaml").write_text(text)
    return {"RAYFACE_CLUSTER_SETTINGS": str(folder / "settings.yaml")}


def test_without_a_file_nothing_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_settings({}) == ClusterSettings()


def test_a_file_is_read_and_its_secrets_must_be_in_the_environment(tmp_path: Path) -> None:
    named = written(
        tmp_path, "storage: s3://bucket/runs\nsecrets: [AWS_SECRET_ACCESS_KEY]\nenvironment: {NCCL_DEBUG: WARN}"
    )
    settings = read_settings({**named, "AWS_SECRET_ACCESS_KEY": "x"})
    assert settings == ClusterSettings("s3://bucket/runs", "", ("AWS_SECRET_ACCESS_KEY",), {"NCCL_DEBUG": "WARN"})
    with pytest.raises(RayfaceError, match="names AWS_SECRET_ACCESS_KEY, which this node's environment lacks"):
        read_settings(named)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("storag: x", "storag"),
        ("- a\n- b", "give keys and values"),
        ("storage: [", "cannot be read"),
        ("environment: {AWS_SECRET_ACCESS_KEY: abc}", "looks like a secret"),
    ],
)
def test_a_wrong_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RayfaceError, match=message):
        read_settings(written(tmp_path, text))


def test_a_named_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RayfaceError, match="no such file"):
        read_settings({"RAYFACE_CLUSTER_SETTINGS": str(tmp_path / "none.yaml")})


def test_commands_get_what_they_take_and_were_not_given() -> None:
    settings = ClusterSettings("/runs", "/models")

    def completed(*words: str) -> list[str]:
        return with_defaults(words, settings, options_of(app, list(words)))

    assert completed("train", "parsing")[2:] == ["--storage", "/runs", "--store", "/models"]
    assert completed("train", "parsing", "--storage=x", "--store", "y") == [
        "train",
        "parsing",
        "--storage=x",
        "--store",
        "y",
    ]
    assert completed("data", "label", "a", "b")[4:] == ["--store", "/models"]
    assert completed("nonsense") == ["nonsense"]


def test_an_entry_point_puts_the_defaults_into_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in written(tmp_path, "store: /models").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["x"])
    begin("rayface", app, ["evaluate", "parsing"])
    assert sys.argv == ["rayface", "evaluate", "parsing", "--store", "/models"]
    written(tmp_path, "environment: {SOME_TOKEN: x}")
    with pytest.raises(SystemExit):
        begin("rayface", app, ["evaluate", "parsing"])
