"""Settings: pydantic models read from YAML, every field overridable as ``section.field=value``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from lang1.common.errors import SettingsError


class Settings(BaseModel):
    """Base of all settings: unknown fields are refused, instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


S = TypeVar("S", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        SettingsError: missing file, bad YAML, or something else than a mapping at the top.
    """
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(f"{path} does not exist.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark is not None else ""
        raise SettingsError(f"{path}{where}: not valid YAML ({getattr(error, 'problem', error)}).") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise SettingsError(f"{path}: expected settings as 'name: value' lines, found a {type(value).__name__}.")
    return value


def apply_overrides(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Apply ``section.field=value`` overrides; the value is read as YAML (``1e-3``, ``true``, ``[a, b]``).

    Raises:
        SettingsError: an override without ``=``.
    """
    result: dict[str, Any] = _copy(values)
    for override in overrides:
        key, sign, raw = override.partition("=")
        if not sign or not key:
            raise SettingsError(f"'{override}': expected section.field=value.")
        place = result
        *sections, field = key.strip().split(".")
        for section in sections:
            inner = place.setdefault(section, {})
            if not isinstance(inner, dict):
                raise SettingsError(f"'{override}': {section} is a single value and has no fields.")
            place = inner
        place[field] = _scalar(raw)
    return result


def load_settings(
    model: type[S],
    file: Path | None = None,
    overrides: Iterable[str] = (),
    base: Mapping[str, Any] | None = None,
) -> S:
    """Validate settings from ``base``, then a YAML file, then overrides, the later ones winning.

    Raises:
        SettingsError: one line that names the file and the field.
    """
    values: dict[str, Any] = _copy(base or {})
    if file is not None:
        values = _merge(values, read_yaml(file))
    return validate_settings(model, apply_overrides(values, overrides), source=str(file) if file else "settings")


def validate_settings(model: type[S], values: Mapping[str, Any], source: str) -> S:
    """Validate a mapping as settings of ``model``; see :func:`load_settings`."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise SettingsError(f"{source}: {explain(model, error)}") from error


def explain(model: type[BaseModel], error: ValidationError) -> str:
    """The first validation error as a phrase that names the field, and the nearest known one for a typing slip."""
    first = error.errors()[0]
    where = ".".join(str(p) for p in first["loc"]) or "the settings"
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; known are {', '.join(known)}." if known else "."
        return f"unknown setting '{where}'{hint}"
    if first["type"] == "missing":
        return f"'{where}' is missing: give it a value."
    more = f" ({len(error.errors()) - 1} more)" if len(error.errors()) > 1 else ""
    said = first["msg"].removeprefix("Value error, ")
    if isinstance(first.get("input"), Mapping) and first["type"] == "value_error":  # it names the fields itself
        return f"{said}.{more}" if where == "the settings" else f"'{where}': {said}.{more}"
    return f"'{where}': {said}, got {first.get('input')!r}.{more}"


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    current: Any = model
    for part in loc:
        info = getattr(current, "model_fields", {}).get(part)
        candidates = [info.annotation, *getattr(info.annotation, "__args__", ())] if info is not None else []
        current = next((c for c in candidates if hasattr(c, "model_fields")), None)
    return sorted(getattr(current, "model_fields", {}))


def _scalar(raw: str) -> Any:
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError:
        return raw
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in values.items()}


def _merge(base: dict[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in top.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            base[key] = _merge(base[key], value)
        else:
            base[key] = value
    return base
