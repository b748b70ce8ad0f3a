"""Settings: dataclasses with flat names, filled from a YAML file and from the command line, all errors at once."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import json
import sys
import types
import typing
from dataclasses import MISSING, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from configs.errors import SettingsError

CHECK_SETTINGS = "--check_settings"  # on any command line: say what is wrong with the settings, and stop


def setting(default: Any = MISSING, help: str = "", *, positional: bool = False) -> Any:
    """A documented dataclass field. `positional` fields take the arguments that have no name before them."""
    metadata = {"help": help, "positional": positional}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


def _kind(annotation: Any) -> str:
    """How a type is named in help and in messages."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_kind(a) for a in arguments if a is not type(None)))
    if origin is Literal:
        return "|".join(map(str, arguments))
    if origin in (list, tuple):
        return f"{_kind(arguments[0])}..." if arguments else "str..."
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return "|".join(str(member.value) for member in annotation)
    return "path" if annotation is Path else getattr(annotation, "__name__", str(annotation))


def _is_list(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, types.UnionType):
        return any(_is_list(a) for a in get_args(annotation))
    return annotation in (list, tuple) or get_origin(annotation) in (list, tuple)


def _is_bool(annotation: Any) -> bool:
    return annotation is bool or (
        get_origin(annotation) in (Union, types.UnionType)
        and bool in get_args(annotation)
        and str not in get_args(annotation)
    )


_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def convert(value: Any, annotation: Any) -> Any:
    """Convert a YAML value or a word of the command line to the field's type.

    Raises:
        ValueError: the value is not of that type.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return value
    if origin in (Union, types.UnionType):
        if type(None) in arguments and (
            value is None or (isinstance(value, str) and value.lower() in ("none", "null"))
        ):
            return None
        # Narrow types first: "true" is a bool and "2" a number before either is text.
        order = [bool, int, float, dict, list]
        for candidate in sorted(arguments, key=lambda a: order.index(a) if a in order else len(order)):
            if candidate is type(None):
                continue
            if candidate is bool and isinstance(value, str) and value.lower() not in ("true", "false"):
                continue
            try:
                return convert(value, candidate)
            except (ValueError, TypeError):
                continue
        raise ValueError(value)
    if origin is Literal:
        for choice in arguments:
            if value == choice or (isinstance(value, str) and str(choice) == value):
                return choice
        raise ValueError(value)
    if origin in (list, tuple) or annotation in (list, tuple):
        inner = arguments[0] if arguments else str
        items = value if isinstance(value, (list, tuple)) else [value]
        return (origin or annotation)(convert(item, inner) for item in items)
    if annotation is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in _TRUTH:
            return _TRUTH[value.lower()]
        raise ValueError(value)
    if origin is dict or annotation is dict:
        value = json.loads(value) if isinstance(value, str) else value
        if not isinstance(value, dict):
            raise ValueError(value)
        return value
    if value is None or isinstance(value, (bool, list, dict)):
        raise ValueError(value)
    if annotation is int and isinstance(value, float) and not value.is_integer():
        raise ValueError(value)
    return annotation(value)


class _Reader:
    """Reads one command line against some dataclasses, gathering every problem."""

    def __init__(self, classes: tuple[type, ...]):
        self.classes = classes
        self.owner: dict[str, type] = {}
        self.annotations: dict[str, Any] = {}
        self.fields: dict[str, dataclasses.Field] = {}
        for cls in classes:
            hints = typing.get_type_hints(cls)
            for item in dataclasses.fields(cls):
                if item.init:
                    assert item.name not in self.owner, f"two dataclasses have a field {item.name}"
                    self.owner[item.name], self.fields[item.name] = cls, item
                    self.annotations[item.name] = hints[item.name]
        self.given: set[str] = set()  # what was said, perhaps wrongly
        self.values: dict[str, Any] = {}
        self.problems: list[str] = []

    def take(self, name: str, value: Any, where: str) -> None:
        if name not in self.owner:
            near = difflib.get_close_matches(name, self.owner, n=3)
            hint = f"; near: {', '.join(near)}" if near else ""
            self.problems.append(f"{where}: unknown setting {name!r}{hint}")
            return
        self.given.add(name)
        try:
            self.values[name] = convert(value, self.annotations[name])
        except (ValueError, TypeError, json.JSONDecodeError):
            self.problems.append(f"{where}: {name} wants {_kind(self.annotations[name])}, found {value!r}")

    def read_yaml(self, path: str) -> None:
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            self.problems.append(f"{path}: no such settings file")
            return
        except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
            self.problems.append(f"{path}: not YAML: {error}")
            return
        if not isinstance(content or {}, dict):
            self.problems.append(f"{path}: wants `name: value` lines, found {type(content).__name__}")
            return
        for name, value in (content or {}).items():
            self.take(str(name), value, path)

    def read_words(self, words: list[str]) -> None:
        pairs, loose = self._pairs(words)
        lists: dict[str, list[str]] = {}  # `--input a --input b` means both, as for shells' users it does
        for name, values in pairs:
            if name in self.annotations and _is_list(self.annotations[name]):
                lists.setdefault(name, []).extend(values)
        pairs = [(name, lists.get(name, values)) for name, values in pairs]
        for name, values in pairs:
            if name == "config":
                if len(values) == 1:
                    self.read_yaml(values[0])
                else:
                    self.problems.append(f"command line: --config wants one file, found {values}")
        for name, values in pairs:
            if name == "config":
                continue
            annotation = self.annotations.get(name)
            if annotation is None or _is_list(annotation):
                self.take(name, values, "command line")
            elif not values and _is_bool(annotation):
                self.take(name, True, "command line")
            elif len(values) != 1:
                self.given.add(name)
                self.problems.append(f"command line: {name} wants one {_kind(annotation)}, found {len(values)} values")
            else:
                self.take(name, values[0], "command line")
        positional = [name for name, item in self.fields.items() if item.metadata.get("positional")]
        if loose and not positional:
            self.problems.append(f"command line: unexpected {' '.join(loose)!r} (settings are given as --name value)")
        elif loose:
            if _is_list(self.annotations[positional[0]]):
                self.take(positional[0], loose, "command line")
            elif len(loose) > 1:
                self.given.add(positional[0])
                self.problems.append(f"command line: {positional[0]} wants one value, found {loose}")
            else:
                self.take(positional[0], loose[0], "command line")
        for name, item in self.fields.items():
            if item.default is MISSING and item.default_factory is MISSING and name not in self.given:
                label = name if item.metadata.get("positional") else f"--{name}"
                self.problems.append(f"command line: {label} is missing: {item.metadata.get('help', '')}")

    def _pairs(self, words: list[str]) -> tuple[list[tuple[str, list[str]]], list[str]]:
        """Split words into (name, values) pairs and the words before the first name."""
        pairs: list[tuple[str, list[str]]] = []
        loose: list[str] = []
        for word in words:
            if word.startswith("--") and len(word) > 2:
                name, equals, value = word[2:].partition("=")
                pairs.append((name.replace("-", "_"), [value] if equals else []))
            elif pairs:
                pairs[-1][1].append(word)
            else:
                loose.append(word)
        return pairs, loose

    def refuse(self) -> None:
        if self.problems:
            raise SettingsError(
                f"{len(self.problems)} wrong setting{'s' if len(self.problems) > 1 else ''}",
                found="\n    " + "\n    ".join(self.problems),
                todo=f"correct them; python {sys.argv[0]} --help lists every setting",
            )

    def build(self) -> list[Any]:
        built: list[Any] = []
        for cls in self.classes if not self.problems else ():
            given = {name: value for name, value in self.values.items() if self.owner[name] is cls}
            try:
                built.append(cls(**given))
            except (ValueError, TypeError, ImportError) as error:
                self.problems.append(f"{cls.__name__}: {error}")
        for instance in built:
            self.problems.extend(instance.problems() if hasattr(instance, "problems") else [])
        self.refuse()
        return built


def _help(reader: _Reader, description: str) -> str:
    lines = [
        description.strip(),
        "",
        "settings (--config FILE.yaml reads them from a file; --name value goes over it; with --check_settings nothing "
        "else is done):",
    ]
    inherited: list[str] = []
    for name, item in reader.fields.items():
        text = item.metadata.get("help", "")
        if "positional" not in item.metadata:  # not made by setting(): another library documents it
            inherited.append(name)
            continue
        default = item.default if item.default_factory is MISSING else item.default_factory()
        label = name.upper() if item.metadata.get("positional") else f"--{name}"
        shown = "required" if default is MISSING else f"default {getattr(default, 'value', default)}"
        lines.append(f"  {label} <{_kind(reader.annotations[name])}>  {text} ({shown})")
    if inherited:
        lines += ["", "and, as transformers.TrainingArguments documents them:"]
        lines.append("  " + " ".join(f"--{name}" for name in inherited))
    return "\n".join(lines)


def check(*classes: type, argv: list[str] | None = None) -> dict[str, Any]:
    """Refuse what `parse` would refuse of a command line by its names and types alone; builds nothing.

    With `CHECK_SETTINGS` among the words that is all, and the command ends.

    Returns:
        What is set by name, on the command line or in the file of --config.

    Raises:
        SettingsError: naming every unknown, missing or wrong setting, with near names.
    """
    reader = _Reader(classes)
    words = sys.argv[1:] if argv is None else argv
    reader.read_words([word for word in words if word != CHECK_SETTINGS])
    reader.refuse()
    if CHECK_SETTINGS in words:
        raise SystemExit(0)
    return reader.values


def parse(description: str, *classes: type, argv: list[str] | None = None) -> list[Any]:
    """Fill dataclasses from the command line, and from the YAML file it names with --config.

    A class may have a method `problems() -> list[str]`, whose findings are reported with the others. With
    `CHECK_SETTINGS` among the words the command ends when all of them are right.

    Args:
        description: what the command does; printed by --help, which exits.
        classes: dataclasses with different field names.
        argv: words of the command line; those of the process when not given.

    Returns:
        One instance a class, in their order.

    Raises:
        SettingsError: naming every unknown, missing or wrong setting, with near names.
    """
    reader = _Reader(classes)
    words = sys.argv[1:] if argv is None else argv
    if "--help" in words or "-h" in words:
        print(_help(reader, description))
        raise SystemExit(0)
    reader.read_words([word for word in words if word != CHECK_SETTINGS])
    built = reader.build()
    if CHECK_SETTINGS in words:
        raise SystemExit(0)
    return built
