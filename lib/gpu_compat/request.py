# SPDX-License-Identifier: Apache-2.0
"""The request: what a lab wants of a host, the inventory variable ``gpu_stack``.

:func:`read_request` is the only place that knows its keys. It needs no facts, so it runs before any host is touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from gpu_compat.errors import CompatError, Mistake
from gpu_compat.schema import boolean, kind, list_of, mapping, nearest, one_of, quote_it, text

FRAMEWORKS = ("tensorflow", "keras", "pytorch", "jax")
EXTRAS = ("vision", "nlp", "recommender", "timeseries")
MANAGERS = ("uv", "venv", "virtualenv", "conda")
#: Keras backend by the framework that carries it, in the order in which one is chosen when several are there.
KERAS_BACKENDS = {"tensorflow": "tensorflow", "pytorch": "torch", "jax": "jax"}

_VERSION = r"[0-9]{1,9}(\.[0-9]{1,9}){0,5}"
#: No version that anybody releases is longer.
_LONGEST = 200
#: What an absent key means. ``environments`` has no default: a lab says what it wants.
DEFAULTS: dict[str, Any] = {
    "profile": "auto",
    "driver": "auto",
    "driver_source": "auto",
    "kernel_module": "auto",
    "cuda_toolkits": ["auto"],
    "cuda_source": "auto",
    "cuda_components": "auto",
    "cudnn": "auto",
    "cudnn_source": "auto",
}
_ENVIRONMENT_DEFAULTS: dict[str, Any] = {
    "python": "auto",
    "manager": "uv",
    "extras": [],
    "keras_backend": "auto",
    "optional": False,
    "existing": None,
}


def read_request(request: Any) -> dict[str, Any]:
    """Check a ``gpu_stack`` strictly and fill in the defaults.

    Args:
        request: plain data as read from YAML: str, bool, int, float, None, list, dict.

    Returns:
        A new dict with every top-level and environment key present; frameworks are
        ``{"pytorch": {"version": "newest", "cuda": None}}``. The argument is not changed.

    Raises:
        CompatError: with every mistake found.
    """
    mistakes: list[Mistake] = []
    read = _REQUEST(request, "", mistakes)
    _check_environments(read.get("environments", []), mistakes)
    if mistakes:
        raise CompatError(mistakes)
    return {
        **DEFAULTS,
        **read,
        "environments": [{**_ENVIRONMENT_DEFAULTS, **environment} for environment in read["environments"]],
    }


def _specifier(value: Any, path: str, mistakes: list[Mistake]) -> Any:
    """Read ``newest``, ``any`` or a PEP 440 specifier; a bare version means exactly that version."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        mistakes.append(Mistake(path, quote_it(value)))
        return value
    if not isinstance(value, str):
        mistakes.append(Mistake(path, f'must be newest or a specifier such as ">=2.5", but is {kind(value)}'))
        return value
    if value in ("newest", "any"):
        return value
    specifier = f"=={value}" if value[:1].isdigit() else value
    try:
        if len(value) > _LONGEST:
            raise InvalidSpecifier
        SpecifierSet(specifier)
    except InvalidSpecifier:
        value = value if len(value) <= _LONGEST else f"{value[:40]}…"
        mistakes.append(Mistake(path, f"'{value}' is neither newest nor a version specifier such as \">=2.5,<3\""))
    return specifier


def _driver(value: Any, path: str, mistakes: list[Mistake]) -> Any:
    """Read ``auto``, ``keep``, ``none``, a branch, a version or a specifier of versions."""
    meaning = 'auto, keep, none, a branch ("580"), a version ("580.126.09") or a specifier (">=570,<590")'
    read = text(rf"auto|keep|none|{_VERSION}|[<>=!~][<>=!~0-9., *]{{0,{_LONGEST}}}", meaning)(value, path, mistakes)
    if isinstance(read, str) and read[:1] in "<>=!~":
        try:
            SpecifierSet(read)
        except InvalidSpecifier:
            mistakes.append(Mistake(path, f"'{read}' is not {meaning}"))
    return read


def _toolkits(value: Any, path: str, mistakes: list[Mistake]) -> Any:
    """Read the list of toolkits; each is wanted once."""
    read = list_of(
        text(rf"auto|{_VERSION}", 'auto or a CUDA version such as "12.8"'),
        empty_allowed=True,
        hint='write [auto], ["12.8", "13.0"], or [] for none',
    )(value, path, mistakes)
    for index, wish in enumerate(read):
        if isinstance(wish, str) and wish in read[:index]:
            mistakes.append(
                Mistake(f"{path}[{index}]", f"'{wish}' is already {path}[{read.index(wish)}]; name it once")
            )
    return read


def _components(value: Any, path: str, mistakes: list[Mistake]) -> Any:
    """Read ``auto`` or the parts of a toolkit, each once."""
    if value == "auto":
        return value
    hint = "write auto, or name parts as [nvcc, cublas]"
    part = text(r"[a-z][a-z0-9_]{0,60}", 'a part such as "nvcc" or "libcublas"')
    read = list_of(part, empty_allowed=False, hint=hint)(value, path, mistakes)
    return list(dict.fromkeys(name for name in read if isinstance(name, str)))


def _framework(value: Any, path: str, mistakes: list[Mistake]) -> Any:
    """Read one framework's wish: a specifier, or a mapping with ``version`` and ``cuda``."""
    if isinstance(value, Mapping):
        return {"version": "newest", "cuda": None, **_FRAMEWORK(value, path, mistakes)}
    return {"version": _specifier(value, path, mistakes), "cuda": None}


def _frameworks(value: Any, path: str, mistakes: list[Mistake]) -> Any:
    """Read the mapping of frameworks; an unknown framework is named as such, not as an unknown key."""
    if not isinstance(value, Mapping):
        mistakes.append(Mistake(path, f"must map frameworks to versions, as {{pytorch: newest}}, but is {kind(value)}"))
        return {}
    if not value:
        mistakes.append(Mistake(path, f"no framework is named; write at least one of {', '.join(FRAMEWORKS)}"))
    result = {}
    for name, wish in value.items():
        if name in FRAMEWORKS:
            result[name] = _framework(wish, f"{path}.{name}", mistakes)
        else:
            mistakes.append(Mistake(f"{path}.{name}", f"unknown framework; {_nearest_framework(str(name))}"))
    return result


def _nearest_framework(name: str) -> str:
    """Name the framework that was probably meant; package names that people use count as well."""
    aliases = {
        "torch": "pytorch",
        "tf": "tensorflow",
        "tensorflow-gpu": "tensorflow",
        "tensorflow-cpu": "tensorflow",
    }
    if name.lower() in aliases:
        return f"did you mean '{aliases[name.lower()]}'?"
    return nearest(name, FRAMEWORKS)


def _check_environments(environments: list[dict[str, Any]], mistakes: list[Mistake]) -> None:
    """Check what no single field shows: unique names, keys that exclude each other, Keras and its backend."""
    seen: dict[str, int] = {}
    for index, environment in enumerate(environments):
        path = f"environments[{index}]"
        name = environment.get("name")
        if not isinstance(name, str):
            continue  # a mistake that is in the list already
        if name in seen:
            mistakes.append(
                Mistake(
                    f"{path}.name",
                    f"'{name}' is already the name of environments[{seen[name]}]; names are unique",
                )
            )
        seen.setdefault(name, index)
        if environment.get("existing"):
            mistakes.extend(
                Mistake(f"{path}.{key}", "an existing environment is validated and never changed; remove this key")
                for key in ("python", "manager", "extras")
                if key in environment
            )
        _check_keras(environment, path, mistakes)


def _check_keras(environment: Mapping[str, Any], path: str, mistakes: list[Mistake]) -> None:
    """Keras computes on another framework: one of them must be in the same environment."""
    frameworks = environment.get("frameworks", {})
    backend = environment.get("keras_backend", "auto")
    available = [KERAS_BACKENDS[name] for name in KERAS_BACKENDS if name in frameworks]
    if "keras" not in frameworks:
        if backend != "auto":
            mistakes.append(Mistake(f"{path}.keras_backend", "is set, but keras is not among the frameworks"))
    elif not available:
        mistakes.append(
            Mistake(
                f"{path}.frameworks.keras",
                "Keras needs a backend in the same environment: add tensorflow, pytorch or jax",
            )
        )
    elif backend not in ("auto", *available):
        mistakes.append(
            Mistake(
                f"{path}.keras_backend",
                f"'{backend}' is not in this environment; it has {', '.join(available)}",
            )
        )


_FRAMEWORK = mapping(
    {
        "version": _specifier,
        "cuda": text(
            r"cu\d{2,3}|\d{2}|cpu|system", 'a wheel tag ("cu128"), a CUDA major ("12", "13"), "cpu" or "system"'
        ),
    }
)

_ENVIRONMENT = mapping(
    {
        "name": text(r"[a-z0-9][a-z0-9_-]{0,62}", "a name of lower-case letters, digits, '-' and '_'"),
        "python": text(r"auto|3\.\d+", 'auto or a Python version such as "3.12"'),
        "manager": one_of(*MANAGERS),
        "frameworks": _frameworks,
        "extras": list_of(one_of(*EXTRAS), empty_allowed=True, hint=f"choose from {', '.join(EXTRAS)}"),
        "keras_backend": one_of("auto", *KERAS_BACKENDS.values()),
        "optional": boolean,
        "existing": text(r"/.+", "the absolute path of a Python interpreter"),
    },
    required=("name", "frameworks"),
)

_REQUEST = mapping(
    {
        "profile": one_of("gpu", "cpu", "auto"),
        "driver": _driver,
        "driver_source": one_of("auto", "nvidia_repo", "distro", "runfile", "preinstalled", "none"),
        "kernel_module": one_of("auto", "open", "proprietary"),
        "cuda_toolkits": _toolkits,
        "cuda_source": one_of("auto", "nvidia_repo", "redist", "runfile", "distro", "existing"),
        "cuda_components": _components,
        "cudnn_source": one_of("auto", "nvidia_repo", "redist", "distro"),
        "cudnn": text(rf"auto|none|{_VERSION}", 'auto, none or a version such as "9.10.2.21"'),
        "environments": list_of(
            _ENVIRONMENT,
            empty_allowed=True,  # a host that gets its driver and no environment
            hint="name environments, as [{name: torch, frameworks: {pytorch: newest}}], or [] for none",
        ),
    },
    required=("environments",),
)
