"""Typed configuration: dataclasses, `key=value` overrides checked against their types, and JSON both ways."""

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from rayface.errors import RayfaceError

ConfigT = TypeVar("ConfigT")


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain JSON values (tuples become lists)."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value

    return plain(config)


def from_dict(cls: type[ConfigT], values: Mapping[str, Any], where: str = "config") -> ConfigT:
    """The reverse of `to_dict`; unknown keys and wrong types raise RayfaceError naming the key."""
    return _convert(cls, values, where)


def override(config: ConfigT, assignments: Iterable[str]) -> ConfigT:
    """Apply `a.b=value` assignments to a (nested) dataclass, all at once: values that belong together may change.

    Raises RayfaceError for an unknown key (naming the known ones) or a value that is not of the field's type.
    """
    tree: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator:
            raise RayfaceError(f"--set {assignment!r}: expected key=value, for example --set steps=100")
        _plant(tree, config, key.strip().split("."), text.strip(), key.strip())
    return _replaced(config, tree)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """`{"a.b": value}` of a nested dataclass; what `override` accepts as keys."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            flat |= flatten(value, f"{prefix}{field.name}.")
        else:
            flat[prefix + field.name] = value
    return flat


@dataclasses.dataclass(frozen=True)
class _Value:
    value: Any
    assignment: str


def _plant(tree: dict[str, Any], config: Any, path: list[str], text: str, key: str) -> None:
    """Put an assignment into the tree of new values, checked against the dataclass."""
    hints = typing.get_type_hints(type(config))
    name = path[0]
    if name not in hints:
        known = ", ".join(sorted(hints))
        raise RayfaceError(f"--set {key}={text}: {type(config).__name__} has no {name!r}; it has: {known}")
    current = getattr(config, name)
    if len(path) > 1:
        if not dataclasses.is_dataclass(current):
            raise RayfaceError(f"--set {key}={text}: {name!r} is a single value, it has no {path[1]!r}")
        _plant(tree.setdefault(name, {}), current, path[1:], text, key)
    elif dataclasses.is_dataclass(current):
        inner = ", ".join(f"{key}.{field.name}" for field in dataclasses.fields(current))
        raise RayfaceError(f"--set {key}={text}: {key} is a group; set one of {inner}")
    else:
        tree[name] = _Value(_parse(hints[name], text, f"--set {key}"), f"{key}={text}")


def _replaced(config: Any, tree: Mapping[str, Any]) -> Any:
    values = {
        name: item.value if isinstance(item, _Value) else _replaced(getattr(config, name), item)
        for name, item in tree.items()
    }
    try:
        return dataclasses.replace(config, **values)
    except ValueError as error:  # a dataclass's own check in __post_init__
        given = " ".join(item.assignment for item in tree.values() if isinstance(item, _Value))
        raise RayfaceError(f"--set {given}: {error}") from error


def _parse(kind: Any, text: str, where: str) -> Any:
    if typing.get_origin(kind) is tuple:
        arguments = typing.get_args(kind)
        parts = [part for part in text.strip("()[] ").split(",") if part.strip()]
        kinds = [arguments[0]] * len(parts) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(parts):
            raise RayfaceError(f"{where}: {text!r} should have {len(kinds)} values separated by commas")
        return tuple(_parse(item, part.strip(), where) for item, part in zip(kinds, parts, strict=True))
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        inner = [item for item in typing.get_args(kind) if item is not type(None)]
        return None if text.lower() in ("none", "null") else _parse(inner[0], text, where)
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
            raise RayfaceError(f"{where}: {text!r} is not true or false")
        return text.lower() in ("true", "1", "yes")
    return _convert(kind, text, where)


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise RayfaceError(f"{where}: expected a group of values, got {value!r}")
        hints = typing.get_type_hints(kind)
        for key in value:
            if key not in hints:
                raise RayfaceError(f"{where}: unknown key {key!r}; known: {', '.join(sorted(hints))}")
        converted = {key: _convert(hints[key], item, f"{where}.{key}") for key, item in value.items()}
        return kind(**converted)  # type: ignore[operator]
    if origin is tuple:
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        return tuple(_convert(item, part, where) for item, part in zip(kinds, value, strict=True))
    if origin in (typing.Union, types.UnionType):
        inner = [item for item in arguments if item is not type(None)]
        return None if value is None else _convert(inner[0], value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise RayfaceError(f"{where}: {value!r} is not one of {', '.join(map(str, arguments))}")
        return value
    if origin is dict:
        return {key: _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind in (int, float, str, bool):
        return _convert_scalar(kind, value, where)
    return value


def _convert_scalar(kind: type, value: Any, where: str) -> Any:
    try:
        if kind is int and isinstance(value, str):
            return int(value.replace("_", ""))
        if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
            return value
    except ValueError:
        pass
    raise RayfaceError(f"{where}: {value!r} is not of type {kind.__name__}")
