import pytest

from rayface.configuration import flatten, from_dict, override, to_dict
from rayface.errors import RayfaceError
from rayface.systems.base import PRESETS, SYSTEMS, get_system, in_dependency_order, resolve_config


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_survives_json(system: str, preset: str) -> None:
    config = get_system(system).config(preset)
    assert from_dict(type(config), to_dict(config)) == config


def test_overrides_reach_nested_fields_with_their_types() -> None:
    config = resolve_config(
        get_system("enhancement"),
        "tiny",
        ["steps=7", "enhancer.widths=8,24", "losses.pixel=2", "precision=fp32", "teacher=enhancement@3"],
    )
    assert (config.steps, config.enhancer.widths, config.losses.pixel) == (7, (8, 24), 2.0)
    assert (config.precision, config.teacher) == ("fp32", "enhancement@3")
    assert flatten(config)["enhancer.widths"] == (8, 24)


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("stepz=3", "it has: "),
        ("steps", "key=value"),
        ("steps=many", "not of type int"),
        ("steps=0", "at least 1"),
        ("enhancer=3", "is a group"),
        ("enhancer.widths=4,4", "at least 8"),
        ("steps.more=3", "single value"),
        ("precision=fp8", "bf16, tf32, fp32"),
        ("compile=maybe", "true or false"),
        ("degradation.noise=1", "2 values"),
        ("sample_every=0", "at least 1"),
        ("r1_every=0", "at least 1"),
        ("losses.pixel=nan", "finite"),
        ("size=100", "divisible by 8"),
    ],
)
def test_wrong_overrides_are_named(assignment: str, said: str) -> None:
    with pytest.raises(RayfaceError, match=said) as caught:
        resolve_config(get_system("enhancement"), "tiny", [assignment])
    assert assignment.partition("=")[0].split(".")[0] in str(caught.value)


def test_stored_config_with_unknown_key_is_refused() -> None:
    system = get_system("parsing")
    stored = to_dict(system.config("tiny")) | {"colour": 3}
    with pytest.raises(RayfaceError, match="colour"):
        from_dict(system.config_class, stored)


def test_unknown_system_and_preset_name_the_known_ones() -> None:
    with pytest.raises(RayfaceError, match="parsing"):
        get_system("parsin")
    with pytest.raises(RayfaceError, match="tiny, small, base"):
        resolve_config(get_system("parsing"), "huge", [])


def test_systems_come_in_the_order_given_when_independent() -> None:
    assert in_dependency_order(["parsing", "enhancement", "parsing"]) == ["parsing", "enhancement"]


def test_override_leaves_the_original_alone() -> None:
    config = get_system("parsing").config("tiny")
    assert override(config, ["steps=3"]).steps == 3
    assert config.steps != 3
