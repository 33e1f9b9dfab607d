# SPDX-License-Identifier: Apache-2.0
"""The validator's settings: the role's variables without their prefix, checked strictly."""

from __future__ import annotations

import difflib
import json
import os

FRAMEWORKS = ("tensorflow", "keras", "pytorch", "jax")
#: What Keras calls a backend -> the framework that it is.
KERAS_BACKENDS = {"tensorflow": "tensorflow", "torch": "pytorch", "jax": "jax"}
DEFAULTS = {
    "host": "",
    "base_dir": None,
    "profile": "cpu",
    "user": "gpulab",
    "environments": [],
    "missing_environments": [],
    "mnist_source": "auto",
    "mnist_dir": "",
    "mnist_host_dir": "",
    "mnist_mirrors": [],
    "mnist_ca_bundle": "",
    "http_timeout": 20,
    "job_epochs": 10,
    "job_batch_size": 32,
    "job_mixed_precision": False,
    "job_seed": 7,
    "job_timeout": 1800,
    "job_policy": "when_changed",
    "job_max_age_days": 7,
    "simulated": False,
    "scope": "system",
    "expected": {},
    "accept_hardware": False,
    "data_parallel": True,
    "performance": True,
    "diagnostics": [],
    "soak_minutes": 10,
    "textfile_dir": "",
}
#: What the plan was made for, as far as the host itself cannot know it. Keys that are missing are null.
EXPECTED = ("driver", "gpus", "declared_gpus", "cuda_toolkits")
ENVIRONMENT = {
    "name": None, "python": None, "origin": "managed", "optional": False, "digest": "", "frameworks": None,
    "keras_backend": None,
}  # fmt: skip
CHOICES = {
    "profile": ("cpu", "gpu"),
    "mnist_source": ("auto", "mnist", "generated"),
    "job_policy": ("when_changed", "always"),
    "scope": ("system", "user"),
}
DIAGNOSTICS = ("dcgm", "nccl_tests", "soak")
RANGES = {
    "http_timeout": (1, 600), "job_epochs": (1, 1000), "job_batch_size": (1, 10000), "job_seed": (0, 2**32 - 1),
    "job_timeout": (1, 86400), "job_max_age_days": (0, 3650),
    "soak_minutes": (1, 10080),
}  # fmt: skip


class SettingsError(Exception):
    """The settings cannot be used; ``problems`` has one sentence per mistake."""

    def __init__(self, problems):
        super().__init__("; ".join(problems))
        self.problems = problems


def read(path):
    """Read settings from a JSON file.

    :returns: all settings, with defaults filled in
    :raises SettingsError: with every mistake at once
    """
    try:
        with open(path, encoding="utf-8") as stream:
            given = json.load(stream)
    except OSError as error:
        raise SettingsError(["%s cannot be read: %s" % (path, error.strerror)]) from error
    except ValueError as error:
        raise SettingsError(["%s is not JSON: %s" % (path, error)]) from error
    if not isinstance(given, dict):
        raise SettingsError(["%s does not hold a JSON object" % path])
    return check(given)


def check(given):
    """Check settings and fill in the defaults.

    :raises SettingsError: with every mistake at once
    """
    problems = _unknown_keys(given, DEFAULTS, "")
    settings = dict(DEFAULTS, **given)
    for key, default in DEFAULTS.items():
        value = settings[key]
        if key in CHOICES and value not in CHOICES[key]:
            problems.append("%s is %r; write one of %s" % (key, value, ", ".join(CHOICES[key])))
        elif key in RANGES and not _in_range(value, *RANGES[key]):
            problems.append("%s is %r; write a whole number from %d to %d" % ((key, value) + RANGES[key]))
        elif isinstance(default, (bool, list, str, dict)) and not isinstance(value, type(default)):
            problems.append("%s is %r; it must be a %s" % (key, value, type(default).__name__))
    if not isinstance(settings["base_dir"], str) or not os.path.isabs(settings["base_dir"]):
        problems.append("base_dir is %r; write an absolute path" % (settings["base_dir"],))
    for key in ("mnist_host_dir", "textfile_dir"):
        if settings[key] and not os.path.isabs(str(settings[key])):
            problems.append("%s is %r; write an absolute path on the host" % (key, settings[key]))
    for word in settings["diagnostics"] if isinstance(settings["diagnostics"], list) else ():
        if word not in DIAGNOSTICS:
            problems.append("diagnostics has %r%s" % (word, _nearest(word, DIAGNOSTICS)))
    if isinstance(settings["expected"], dict):
        problems += _unknown_keys(settings["expected"], EXPECTED, "expected.")
    if isinstance(settings["environments"], list):
        settings["environments"] = [
            _environment(row, "environments[%d]" % index, problems)
            for index, row in enumerate(settings["environments"])
        ]
        names = [row["name"] for row in settings["environments"]]
        problems += [
            "environment %s is given twice" % name for name in sorted({n for n in names if names.count(n) > 1})
        ]
    for index, row in enumerate(settings["missing_environments"] or []):
        if not isinstance(row, dict) or not {"name", "reason"} <= set(row):
            problems.append("missing_environments[%d] is %r; it needs name and reason" % (index, row))
    if problems:
        raise SettingsError(problems)
    return settings


def _environment(row, where, problems):
    if not isinstance(row, dict):
        problems.append("%s is %r; it must be a dictionary" % (where, row))
        return dict(ENVIRONMENT, name=where)
    problems += _unknown_keys(row, ENVIRONMENT, where + ".")
    row = dict(ENVIRONMENT, **row)
    if not isinstance(row["name"], str) or not row["name"] or "/" in row["name"]:
        problems.append("%s.name is %r; write a name without '/'" % (where, row["name"]))
        row["name"] = where
    if not isinstance(row["python"], str) or not os.path.isabs(row["python"]):
        problems.append("%s.python is %r; write the absolute path of an interpreter" % (where, row["python"]))
    frameworks = row["frameworks"]
    if not isinstance(frameworks, dict) or not frameworks:
        problems.append("%s.frameworks is %r; write at least one framework with its version" % (where, frameworks))
        return row
    for name in frameworks:
        if name not in FRAMEWORKS:
            problems.append("%s.frameworks.%s is unknown%s" % (where, name, _nearest(name, FRAMEWORKS)))
    if row["keras_backend"] not in (None, *KERAS_BACKENDS):
        problems.append("%s.keras_backend is %r; write tensorflow, torch or jax" % (where, row["keras_backend"]))
    return row


def _unknown_keys(given, known, prefix):
    return ["%s%s is unknown%s" % (prefix, key, _nearest(key, known)) for key in given if key not in known]


def _nearest(word, known):
    near = difflib.get_close_matches(str(word), list(known), 1, 0.5)
    return "; did you mean %s?" % near[0] if near else "; known are %s" % ", ".join(known)


def _in_range(value, low, high):
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
