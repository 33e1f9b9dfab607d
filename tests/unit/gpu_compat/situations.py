# SPDX-License-Identifier: Apache-2.0
"""The situations in tests/data and what is kept of an answer to compare it with."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from gpu_compat import plan, read_host
from gpu_compat.questions import with_default_environments

DATA = Path(__file__).resolve().parents[2] / "data"
#: The day of every test: the age of the tables must not change an answer.
TODAY = date(2026, 11, 24)


def situations() -> dict[str, dict[str, Any]]:
    content = yaml.safe_load((DATA / "situations.yml").read_text())
    return dict(content["situations"])


def ask(host: Any, request: Any = None) -> dict[str, Any]:
    return plan(with_default_environments(request), read_host(host), today=TODAY)


def kept(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of an answer is held fast: every choice, every conflict, and the sentences people read."""
    planned = answer["plan"]
    found: dict[str, Any] = {"status": answer["status"]}
    if planned:
        driver = planned["driver"]
        found["driver"] = driver and {
            key: driver[key]
            for key in (
                "version",
                "kernel_module",
                "source",
                "packages",
                "package_version",
                "module_stream",
                "kernel_packages",
                "headers",
                "build_packages",
                "hold_kernel",
            )
        }
        found["repository"] = driver and driver["repository"]
        found["runfile"] = driver and driver["runfile"] and driver["runfile"]["url"]
        found["cuda_toolkits"] = [_toolkit(row) for row in planned["cuda_toolkits"]]
        found["cudnn"] = [
            f"{row['version']} for CUDA {row['cuda_major']} from {row['source']}"
            + (f" in {', '.join(row['toolkits'])}" if row["toolkits"] else "")
            for row in planned["cudnn"]
        ]
        found |= {key: planned[key] for key in ("cuda_compat_package", "fabric_manager", "unavailable_environments")}
        found["secure_boot"] = planned["secure_boot"] and planned["secure_boot"]["method"]
        found["environments"] = [_environment(environment) for environment in planned["environments"]]
    found["conflicts"] = [{key: row[key] for key in ("id", "involves", "message")} for row in answer["conflicts"]]
    found["alternatives"] = answer["alternatives"]
    found["warnings"] = answer["warnings"]
    return found


def _toolkit(row: Mapping[str, Any]) -> str:
    compiler = f", compiled with gcc {row['host_compiler']['major']}" if row["host_compiler"] else ""
    return f"{row['version']} from {row['source']} in {row['path']} for {', '.join(row['architectures'])}{compiler}"


def _environment(environment: Mapping[str, Any]) -> dict[str, Any]:
    shown = ("version", "wheel", "cuda", "cudnn", "index")
    frameworks = {
        name: {key: row[key] for key in shown if key in row} for name, row in environment["frameworks"].items()
    }
    keys = ("name", "python", "cuda_major", "requirements", "constraints", "resolve")
    return {**{key: environment[key] for key in keys}, "frameworks": frameworks}
