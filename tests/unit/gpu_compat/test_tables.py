# SPDX-License-Identifier: Apache-2.0
"""The compatibility tables: what is shipped is right, what is wrong is found, and a lab's rows are held to the same."""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from gpu_compat import check, data_schema, tables
from gpu_compat.errors import CompatError, Mistake
from hypothesis import given, settings
from hypothesis import strategies as st

Contents = dict[str, Any]
Mutation = Callable[[Contents], object]

FILES = (*tables.FILES, *tables.LAZY_FILES)
SHIPPED: Contents = {file: tables.read_file(tables.DATA / f"{file}.yml") for file in FILES}


@pytest.fixture
def check_changed(tmp_path: Path) -> Callable[[Mutation], list[Mistake]]:
    """Check a copy of the shipped tables after a change to it."""

    def check_it(mutation: Mutation) -> list[Mistake]:
        contents = copy.deepcopy(SHIPPED)
        mutation(contents)
        for file in FILES:
            if contents[file] == SHIPPED[file]:
                shutil.copy(tables.DATA / f"{file}.yml", tmp_path)
            else:
                (tmp_path / f"{file}.yml").write_text(json.dumps(contents[file]))
        return check.check_tables(tmp_path)

    return check_it


def row(contents: Contents, table: str, **fields: Any) -> Any:
    """Return the row of ``file.table`` that has these fields."""
    file, _, name = table.partition(".")
    return next(row for row in contents[file][name] if fields.items() <= row.items())


def index(table: str, **fields: Any) -> int:
    """Return where that row stands in the shipped table."""
    file, _, name = table.partition(".")
    return int(SHIPPED[file][name].index(row(SHIPPED, table, **fields)))


# The shipped tables.


def test_the_shipped_tables_are_right() -> None:
    assert [str(mistake) for mistake in check.check_tables()] == []


def test_every_table_has_a_key_and_a_schema() -> None:
    shipped = {
        f"{file}.{name}" for file, content in SHIPPED.items() for name in content if name not in ("as_of", "sources")
    }
    assert shipped == set(tables.KEYS) == set(data_schema.ROWS)


def test_planning_does_not_import_the_check() -> None:
    seen = "[name for name in sys.modules if name.endswith(('.check', '.data_schema'))]"
    program = f"import sys, gpu_compat, gpu_compat.tables; print({seen})"
    path = str(Path(tables.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={"PYTHONPATH": path}, check=True
    )
    assert done.stdout.strip() == "[]"


# What is wrong with one row is found.


def change(table: str, field: str, value: Any, **fields: Any) -> Mutation:
    """Return the mutation that sets a field of one row."""
    return lambda contents: row(contents, table, **fields).__setitem__(field, value)


def remove(table: str, field: str, **fields: Any) -> Mutation:
    """Return the mutation that removes a field of one row."""
    return lambda contents: row(contents, table, **fields).pop(field)


ROW_MUTATIONS: list[tuple[Mutation, str, str]] = [
    (change("cuda.toolkits", "version", 12.8, version="12.8.1"), "cuda.toolkits[{}].version", "in quotes"),
    (change("cuda.toolkits", "gcc_max", 14, version="12.8.1"), "cuda.toolkits[{}].gcc_max", "in quotes"),
    (change("cuda.toolkits", "gccmax", "14", version="12.8.1"), "cuda.toolkits[{}].gccmax", "did you mean 'gcc_max'?"),
    (
        change("cuda.toolkits", "driver", "R570", version="12.8.1"),
        "cuda.toolkits[{}].driver",
        "'R570' is not a version",
    ),
    (remove("cuda.toolkits", "source", version="12.8.1"), "cuda.toolkits[{}]", "'source' is missing"),
    (remove("cuda.toolkits", "driver", version="12.8.1"), "cuda.toolkits[{}]", "'driver' is missing"),
    (change("cuda.toolkits", "source", [], version="12.8.1"), "cuda.toolkits[{}].source", "empty"),
    (change("cuda.toolkits", "source", "memory", version="12.8.1"), "cuda.toolkits[{}].source", "must be a list"),
    (change("cuda.toolkits", "source", [""], version="12.8.1"), "cuda.toolkits[{}].source[0]", "empty"),
    (change("cuda.toolkits", "note", "", version="12.8.1"), "cuda.toolkits[{}].note", "empty"),
    (
        change("cuda.toolkits", "capabilities", ["12.0", "5.0"], version="12.8.1"),
        "cuda.toolkits[{}].capabilities",
        "higher",
    ),
    (
        change("cuda.toolkits", "capabilities", ["5.0"], version="12.8.1"),
        "cuda.toolkits[{}].capabilities",
        "a list of 1",
    ),
    (
        change("cuda.toolkits", "capabilities", ["5", "9.0"], version="12.8.1"),
        "cuda.toolkits[{}].capabilities[0]",
        '"8.6"',
    ),
    (
        change("cuda.toolkits", "capabilities", [None, "9.0"], version="12.8.1"),
        "cuda.toolkits[{}].capabilities[0]",
        "null",
    ),
    (change("cuda.toolkits", "runfile", "driver.run", version="12.8.1"), "cuda.toolkits[{}].runfile", "runfile"),
    (change("drivers.branches", "status", "LTSB", branch="580"), "drivers.branches[{}].status", "did you mean 'lts'?"),
    (change("drivers.branches", "end_of_life", "2028-13", branch="580"), "drivers.branches[{}].end_of_life", "month"),
    (change("gpus.products", "class", "gaming", name="Tesla T4"), "gpus.products[{}].class", "geforce"),
    (change("gpus.products", "pci", ["1eb8"], name="Tesla T4"), "gpus.products[{}].pci[0]", "10de:2330"),
    (
        change("gpus.products", "forward_compatibility", "yes", name="Tesla T4"),
        "gpus.products[{}].forward_",
        "without quotes",
    ),
    (
        change("gpus.products", "driver_first", {"r525": "525.1"}, name="Tesla T4"),
        "gpus.products[{}].driver_first.r525",
        "branch",
    ),
    (
        change("gpus.products", "driver_first", ["525.1"], name="Tesla T4"),
        "gpus.products[{}].driver_first",
        "mapping of driver",
    ),
    (
        change("keras.releases", "date", "2026-02-30", version="3.15.1"),
        "keras.releases[{}].date",
        "no day of the calendar",
    ),
    (change("keras.releases", "date", "today", version="3.15.1"), "keras.releases[{}].date", "a date in quotes"),
    (
        change("keras.releases", "version", "3.15.x", version="3.15.1"),
        "keras.releases[{}].version",
        "not the version of a release",
    ),
    (
        change("keras.releases", "requires_python", "3.11", version="3.15.1"),
        "keras.releases[{}].requires_python",
        "specifier",
    ),
    (
        change("keras.releases", "requires_python", ">=3..", version="3.15.1"),
        "keras.releases[{}].requires_python",
        "specifier",
    ),
    (
        change("pytorch.releases", "triton", "triton", version="2.14.1"),
        "pytorch.releases[{}].triton",
        "a name and a specifier",
    ),
    (change("pytorch.releases", "triton", "triton==x!", version="2.14.1"), "pytorch.releases[{}].triton", "specifier"),
    (
        change("pytorch.releases", "python", {"x86": ["3.12"]}, version="2.14.1"),
        "pytorch.releases[{}].python.x86",
        "'x86_64'?",
    ),
    (change("pytorch.releases", "tags", ["cuda13"], version="2.14.1"), "pytorch.releases[{}].tags[0]", "cu128"),
    (
        change("systems.systems", "distribution_drivers", [{"branch": "580"}], id="ubuntu2204"),
        "systems.systems[{}].dis",
        "'modules'",
    ),
    (
        change("packages.cuda_toolkit", "package", "cuda-{vers}"),
        "packages.cuda_toolkit[{}].package",
        "known in braces: branch",
    ),
    *[
        (change("packages.repositories", field, value, systems=["rhel10"]), f"packages.repositories[{{}}].{path}", said)
        for field, value, path, said in (
            ("fingerprints", ["D42D 0685"], "fingerprints[0]", "the whole fingerprint of an OpenPGP key"),
            ("key", "../x.pub", "key", "3bf863cc.pub"),
            ("kind", "yum", "kind", "apt, dnf"),
        )
    ],
    (
        change("packages.repository_urls", "url", "http://mirror/"),
        "packages.repository_urls[{}].url",
        "begins with https://",
    ),
    (change("gpu_chips.chips", "devices", {"2231": 5}, chip="GA102"), "gpu_chips.chips[{}].devices.2231", "in quotes"),
    (
        change("gpu_chips.chips", "devices", {"10DE": "x"}, chip="GA102"),
        "gpu_chips.chips[{}].devices.10DE",
        "four digits",
    ),
]


def _where(path: str, mutation: Mutation) -> str:
    """Fill in the number of the row that the mutation changes."""
    contents = copy.deepcopy(SHIPPED)
    mutation(contents)
    file, name = path.partition("[")[0].split(".")
    changed = [number for number, row in enumerate(contents[file][name]) if row != SHIPPED[file][name][number]]
    assert len(changed) == 1, "the mutation changes one row"
    return path.format(changed[0])


@pytest.mark.parametrize(
    ("mutation", "path", "said"), ROW_MUTATIONS, ids=[f"{path}-{said}" for _, path, said in ROW_MUTATIONS]
)
def test_a_mistake_in_a_row_is_found(
    check_changed: Callable[[Mutation], list[Mistake]], mutation: Mutation, path: str, said: str
) -> None:
    where = _where(path, mutation)
    found = [mistake for mistake in check_changed(mutation) if mistake.path.startswith(where)]
    assert found
    assert any(said in mistake.message for mistake in found), found


# What is wrong between rows is found.


def swap(table: str, first: int, second: int) -> Mutation:
    """Return the mutation that exchanges two rows."""
    file, _, name = table.partition(".")

    def exchange(contents: Contents) -> None:
        rows = contents[file][name]
        rows[first], rows[second] = rows[second], rows[first]

    return exchange


def repeat(table: str, number: int) -> Mutation:
    """Return the mutation that writes a row again behind itself."""
    file, _, name = table.partition(".")
    return lambda contents: contents[file][name].insert(number, copy.deepcopy(contents[file][name][number]))


def other_patches_aside(contents: Contents) -> None:
    """Move CUDA 12.8 to capabilities without Blackwell, which wheels of cu128 hold code for."""
    for toolkit in contents["cuda"]["toolkits"]:
        if toolkit["version"].startswith("12.8."):
            toolkit["capabilities"] = ["5.0", "9.0"]


def drop_toolkits(series: str) -> Mutation:
    """Return the mutation that removes all toolkits of a series."""

    def drop(contents: Contents) -> None:
        rows = contents["cuda"]["toolkits"]
        contents["cuda"]["toolkits"] = [toolkit for toolkit in rows if not toolkit["version"].startswith(f"{series}.")]

    return drop


WHEEL = {"release": "2.14", "tag": "cu130"}
K80 = {"name": "Tesla K80"}
TABLE_MUTATIONS: list[tuple[Mutation, str, str]] = [
    # sorted
    *[
        (swap(table, 0, 1), f"{table}[1]", "newest first")
        for table in (
            "cuda.toolkits",
            "cudnn.releases",
            "pytorch.releases",
            "pytorch.wheels",
            "pytorch.companions",
            "tensorflow.releases",
            "jax.releases",
            "jax.glibc",
            "keras.releases",
            "keras.backends",
        )
    ],
    *[
        (swap(table, 0, 2), f"{table}[1]", "oldest first")
        for table in ("drivers.branches", "drivers.kernel_limits", "cudnn.ranges")
    ],
    # unique
    (repeat("cuda.toolkits", 3), "cuda.toolkits[4]", "is the same row as cuda.toolkits[3] (version "),
    (repeat("packages.fabric_manager", 3), "packages.fabric_manager[4]", "no condition at all"),
    (repeat("pytorch.wheels", 0), "pytorch.wheels[1]", "release 2.15, tag cu132"),
    (
        change("gpus.products", "pci", ["10de:1023"], **K80),
        "gpus.products[1].pci[0]",
        "listed at gpus.products[0].pci[0] already",
    ),
    (
        lambda contents: row(contents, "gpu_chips.chips", chip="GA102")["devices"].__setitem__(
            "2204", "GeForce RTX 3090"
        ),
        "gpu_chips.chips[{}].devices.2204".format(index("gpu_chips.chips", chip="GA102")),
        "already",
    ),
    (
        lambda contents: row(contents, "gpu_chips.chips", chip="GA102")["devices"].__setitem__("0001", "GA102"),
        "gpu_chips.chips[{}].devices".format(index("gpu_chips.chips", chip="GA102")),
        "not sorted",
    ),
    # sources
    (
        change("gpus.products", "source", ["pci-idz"], **K80),
        "gpus.products[0].source[0]",
        "'pci-idz' is not among the sources of this file; did you mean 'pci-ids'?",
    ),
    (
        lambda contents: contents["gpus"]["sources"].__setitem__("new-page", "A page"),
        "gpus.sources.new-page",
        "no row names",
    ),
    # repositories
    (
        change("packages.repositories", "systems", ["rhel11"], systems=["rhel10"]),
        "packages.repositories[{}].systems[0]".format(index("packages.repositories", systems=["rhel10"])),
        "'rhel11' is no system; did you mean 'rhel10'?",
    ),
    (
        change("packages.repositories", "systems", ["rhel9"], systems=["rhel10"]),
        "packages.repositories",
        "no row of NVIDIA's repository is for rhel10",
    ),
    (
        change("packages.repositories", "fingerprints", ["A" * 40], systems=["debian13"]),
        "packages.repositories[{}].fingerprints[0]".format(index("packages.repositories", systems=["debian13"])),
        "is not the key in 8793F200.pub",
    ),
    # GPUs
    (
        change("gpus.products", "compute_capability", "6.0", **K80),
        "gpus.products[0].compute_capability",
        "not of Kepler",
    ),
    (
        change("gpus.products", "architecture", "Keppler", **K80),
        "gpus.products[0].architecture",
        "'Keppler' is not known",
    ),
    (
        change("gpus.products", "driver_first", {"525": "535.1"}, **K80),
        "gpus.products[0].driver_first.525",
        "not of branch 525",
    ),
    (
        change("gpu_chips.chips", "compute_capability", "8.9", chip="GA102"),
        "gpu_chips.chips[{}].compute_capability".format(index("gpu_chips.chips", chip="GA102")),
        "not of Ampere",
    ),
    (change("gpus.architectures", "jetson", ["9.9"], name="Ampere"), "gpus.architectures[7].jetson", "not among"),
    (
        change("gpus.architectures", "cuda_first", {"8.0": "11.0"}, name="Ampere"),
        "gpus.architectures[7].cuda_first",
        "8.6 is missing",
    ),
    # drivers
    (change("drivers.branches", "latest", "575.1", branch="580"), "drivers.branches[21].latest", "not of branch 580"),
    (
        change("drivers.branches", "cuda", "12.0", branch="580"),
        "drivers.branches[21].cuda",
        "below that of the older branch 575",
    ),
    (
        change("cuda.forward_compatibility", "branches", ["536"], package="cuda-compat-13-0"),
        "cuda.forward_compatibility[0].branches[0]",
        "not in drivers.branches",
    ),
    (
        change("drivers.kernel_limits", "packaging", "debian31", driver="535.274.02"),
        "drivers.kernel_limits[3].packaging",
        "no system",
    ),
    (
        change("drivers.kernel_limits", "fails", "6.10", driver="470.256.02"),
        "drivers.kernel_limits[0].fails",
        "said to build",
    ),
    (
        change("systems.systems", "distribution_drivers", [{"branch": "581", "modules": ["open"]}], id="ubuntu2204"),
        "systems.systems[2].distribution_drivers[0].branch",
        "not in drivers.branches",
    ),
    (
        change(
            "systems.systems",
            "distribution_drivers",
            [{"branch": "580", "version": "570.1", "modules": ["open"]}],
            id="ubuntu2204",
        ),
        "systems.systems[2].distribution_drivers[0].version",
        "not of branch 580",
    ),
    (
        change("systems.systems", "cuda_last", "11.0", id="ubuntu2204"),
        "systems.systems[2].cuda_last",
        "below cuda_first",
    ),
    (
        change(
            "systems.systems",
            "compilers",
            [{"major": "11", "packages": ["gcc-11"], "cxx": "/usr/bin/g++-11"}],
            id="ubuntu2204",
        ),
        "systems.systems[2].compilers[0].major",
        "gcc 11 is the system's own",
    ),
    # what distributions and archives have
    (
        change("cuda.distribution", "system", "debian99", system="debian12"),
        "cuda.distribution[1].system",
        "'debian99' is no system",
    ),
    (
        change("cuda.distribution", "version", "11.9.0", system="debian12"),
        "cuda.distribution[1].version",
        "no toolkit of CUDA 11.9.0",
    ),
    (
        change(
            "cuda.distribution",
            "cudnn",
            {"version": "8.7.0.84", "cuda_major": "12", "package": "nvidia-cudnn"},
            system="debian12",
        ),
        "cuda.distribution[1].cudnn.cuda_major",
        "is 12, but the toolkit beside it is 11.8.0",
    ),
    (
        change("cuda.components", "from", "12.0", name="cuda_memcheck"),
        "cuda.components[{}].to".format(index("cuda.components", name="cuda_memcheck")),
        "11.8 is below 12.0",
    ),
    (
        change("cuda.components", "optional", True, name="cuda_nvcc"),
        "cuda.components[{}].optional".format(index("cuda.components", name="cuda_nvcc")),
        "cuda_nvcc is needed to compile",
    ),
    # toolkits
    (
        change("cuda.toolkits", "driver_min", "450.80.02", version="13.0.0"),
        "cuda.toolkits[{}].driver_min".format(index("cuda.toolkits", version="13.0.0")),
        "450.80.02 of CUDA 13.0.0 is below 525.60.13 of the older CUDA 12.9.2",
    ),
    (
        change("cuda.toolkits", "driver_min", "571", version="12.8.2"),
        "cuda.toolkits[{}].driver_min".format(index("cuda.toolkits", version="12.8.2")),
        "above the toolkit's own driver",
    ),
    (
        change("cuda.toolkits", "driver", "625.10", version="13.5.0"),
        "cuda.toolkits[0].driver",
        "branch 625, which drivers.branches lacks",
    ),
    # cuDNN
    (
        change("cudnn.releases", "capability_min", "5.0", package="nvidia-cudnn-cu13", version="9.28.1.4"),
        "cudnn.releases[0].capability_min",
        "5.0 of nvidia-cudnn-cu13 9.28.1.4 is below 7.5 of the older 9.12.0.46",
    ),
    (
        change("cudnn.releases", "capability_min", "8.0", package="nvidia-cudnn-cu13", version="9.28.1.4"),
        "cudnn.releases[0].capability_min",
        "7.5 is what cudnn.ranges has",
    ),
    (
        change("cudnn.releases", "cuda_major", "12", package="nvidia-cudnn-cu13", version="9.28.1.4"),
        "cudnn.releases[0].cuda_major",
        "not the package of CUDA 12",
    ),
    (
        change("cudnn.ranges", "cuda_majors", ["12"], first="9.11"),
        "cudnn.releases[0].cuda_major",
        "12 is what cudnn.ranges has",
    ),
    # wheels
    (
        change("pytorch.wheels", "sm", ["7.5", "5.0"], **WHEEL),
        "pytorch.wheels[3].sm[1]",
        "CUDA 13.0 compiles for 7.5 to 12.1, not for 5.0",
    ),
    (change("pytorch.wheels", "ptx", "13.0", **WHEEL), "pytorch.wheels[3].ptx", "not for 13.0"),
    (change("pytorch.wheels", "sm_aarch64", ["7.2"], **WHEEL), "pytorch.wheels[3].sm_aarch64[0]", "not for 7.2"),
    (
        other_patches_aside,
        "pytorch.wheels[{}].sm[6]".format(index("pytorch.wheels", release="2.10", tag="cu128")),
        "not for 12.0",
    ),
    (change("pytorch.wheels", "cuda", "13.7", **WHEEL), "pytorch.wheels[3].cuda", "no toolkit of CUDA 13.7"),
    (change("pytorch.wheels", "cuda", "13.2", **WHEEL), "pytorch.wheels[3].tag", "cu130 is not the tag of CUDA 13.2"),
    (change("pytorch.releases", "tags", ["cu132"], version="2.15.0"), "pytorch.wheels[1].tag", "no release 2.15"),
    (
        change("pytorch.releases", "default_cuda", "13.7", version="2.15.0"),
        "pytorch.releases[0].default_cuda",
        "no toolkit",
    ),
    (
        change("pytorch.companions", "torch", "2.11.9", torch="2.11.0"),
        "pytorch.companions[0].torch",
        "no release 2.11.9",
    ),
    (
        change("tensorflow.releases", "cuda", "12.7", version="2.21.0"),
        "tensorflow.releases[0].cuda",
        "no toolkit of CUDA 12.7",
    ),
    (change("tensorflow.releases", "sm", ["12.0"], version="2.21.0"), "tensorflow.releases[0].sm[0]", "not for 12.0"),
    (change("jax.releases", "sm_cuda13", ["7.0"], version="0.12.0.1"), "jax.releases[0].sm_cuda13[0]", "not for 7.0"),
    (remove("jax.releases", "sm_cuda13", version="0.12.0.1"), "jax.releases[0]", "its kernels (sm_cuda13) are not"),
    (
        change("jax.releases", "plugins", ["cuda12"], version="0.12.0.1"),
        "jax.releases[0].sm_cuda13",
        "no plugin cuda13",
    ),
    (change("jax.plugins", "cuda_major", "14", plugin="cuda13"), "jax.releases[0].plugins", "no toolkit of CUDA 14"),
    (drop_toolkits("12.5"), "tensorflow.releases[0].cuda", "no toolkit of CUDA 12.5"),
    # pairs
    (
        change("pairs.pairs", "first", "tensorflow==2.14.9", first="tensorflow==2.14.1", second="jax"),
        "pairs.pairs[1].first",
        "==2.14.9",
    ),
    (
        change("pairs.pairs", "works", ["0.4.99"], first="tensorflow==2.14.1", second="jax"),
        "pairs.pairs[1].works[0]",
        "0.4.99",
    ),
    (
        change("pairs.pairs", "pins", {"numpy <2 vs >=2": ["0.4.99"]}, first="tensorflow==2.14.1", second="jax"),
        "pairs.pairs[1].pins.numpy <2 vs >=2[0]",
        "no release 0.4.99",
    ),
    (
        change("pairs.pairs", "works", ["0.4.30"], first="tensorflow==2.14.1", second="jax"),
        "pairs.pairs[1].overwrite[0]",
        "is in pairs.pairs[1].works already",
    ),
    # files
    (lambda contents: contents["cuda"].pop("as_of"), "cuda", "'as_of' is missing"),
    (lambda contents: contents["cuda"].pop("rules"), "cuda", "'rules' is missing"),
    (lambda contents: contents["cuda"].__setitem__("as_of", 20261123), "cuda.as_of", "in quotes"),
    (lambda contents: contents["cuda"].__setitem__("toolkit", []), "cuda.toolkit", "did you mean 'toolkits'?"),
    (lambda contents: contents["cuda"].__setitem__("toolkits", {}), "cuda.toolkits", "must be a list"),
    (lambda contents: contents.__setitem__("cuda", ["x"]), "cuda", "must be a mapping"),
]


@pytest.mark.parametrize(
    ("mutation", "path", "said"), TABLE_MUTATIONS, ids=[f"{path}-{said}" for _, path, said in TABLE_MUTATIONS]
)
def test_a_mistake_between_rows_is_found(
    check_changed: Callable[[Mutation], list[Mistake]], mutation: Mutation, path: str, said: str
) -> None:
    found = check_changed(mutation)
    assert any(mistake.path == path and said in mistake.message for mistake in found), [
        str(mistake) for mistake in found
    ]


def test_an_order_between_packages_or_equal_drivers_is_no_mistake(
    check_changed: Callable[[Mutation], list[Mistake]],
) -> None:
    def cu13_last(contents: Contents) -> None:
        rows = contents["cudnn"]["releases"]
        rows.sort(key=lambda row: str(row["package"]))

    def equal_drivers(contents: Contents) -> None:
        swap("drivers.kernel_limits", 0, 1)(contents)

    before = check.check_tables()
    assert check_changed(cu13_last) == before
    assert check_changed(equal_drivers) == before


def test_a_driver_of_a_branch_between_known_ones_is_no_mistake(
    check_changed: Callable[[Mutation], list[Mistake]],
) -> None:
    def drop(contents: Contents) -> None:
        contents["drivers"]["branches"].remove(row(contents, "drivers.branches", branch="590"))

    assert check_changed(drop) == check.check_tables()


def test_a_file_that_is_missing_or_too_much_is_named(
    check_changed: Callable[[Mutation], list[Mistake]], tmp_path: Path
) -> None:
    check_changed(lambda contents: None)
    (tmp_path / "jax.yml").rename(tmp_path / "jaxx.yml")
    found = {mistake.path: mistake.message for mistake in check.check_tables(tmp_path)}
    assert "did you mean 'jax'?" in found["jaxx.yml"]
    assert "No such file" in found["jax.yml"]


def test_a_file_that_cannot_be_parsed_gives_line_and_column(
    tmp_path: Path, check_changed: Callable[[Mutation], list[Mistake]]
) -> None:
    check_changed(lambda contents: None)
    (tmp_path / "jax.yml").write_text("as_of: '2026-11-23'\nsources: {a: b\nreleases: [\n")
    (tmp_path / "keras.yml").write_text("as_of: '2026-11-23'\nas_of: '2026-11-24'\n")
    found = {mistake.path: mistake.message for mistake in check.check_tables(tmp_path)}
    assert any(path.startswith("jax.yml:3:") for path in found), found
    assert found["keras.yml:2:1"] == "the key 'as_of' stands twice"


def test_builds_that_are_not_known_are_named_and_are_no_mistake(
    check_changed: Callable[[Mutation], list[Mistake]],
) -> None:
    before = check.check_tables()
    assert check_changed(change("pytorch.releases", "tags", ["cu132", "cu130", "cu126"], version="2.15.0")) == before
    view = {
        "pytorch.releases": [("", {"version": "2.15.0", "tags": ["cu132", "cu130", "cu126"]})],
        "pytorch.wheels": [
            ("", {"release": "2.15", "tag": "cu132", "sm": ["9.0"]}),
            ("", {"release": "2.15", "tag": "cu130"}),
        ],
    }
    assert check.unknown_builds(view) == ["2.15 cu130", "2.15 cu126"]


# The chips.


def test_chips_agree_with_the_products_around_them() -> None:
    """Device numbers of one chip lie together: the nearest listed device has the product's compute capability."""
    chips = {
        int(device, 16): chip["compute_capability"]
        for chip in SHIPPED["gpu_chips"]["chips"]
        for device in chip["devices"]
    }
    seen, differ = 0, []
    for product in SHIPPED["gpus"]["products"]:
        for pci in product["pci"]:
            number = int(pci.removeprefix("10de:"), 16)
            nearest = min(chips, key=lambda device: abs(device - number))
            if abs(nearest - number) < 16:
                seen += 1
                if chips[nearest] != product["compute_capability"]:
                    differ.append(product["name"])
    assert seen > 100
    assert differ == ["Tesla K80"]  # the only device of its chip, among those of another


@pytest.mark.parametrize(
    ("device", "name", "capability"),
    [
        ("118f", "Tesla K10", "3.0"),
        ("1287", "GeForce GT 730", "3.5"),
        ("1381", "GeForce GTX 750", "5.0"),
        ("13f3", "Tesla M6", "5.2"),
        ("1b82", "GeForce GTX 1070 Ti", "6.1"),
        ("1db7", "Tesla V100 DGXS 32GB", "7.0"),
        ("1f06", "GeForce RTX 2060 SUPER", "7.5"),
        ("20b8", "A100X", "8.0"),
        ("2208", "GeForce RTX 3080 Ti", "8.6"),
        ("2786", "GeForce RTX 4070", "8.9"),
        ("2313", "H100 CNX", "9.0"),
        ("2909", "HGX B200 168GB", "10.0"),
        ("31a1", "GB300 MaxQ", "10.3"),
        ("2d83", "GeForce RTX 5050", "12.0"),
    ],
)
def test_a_device_that_is_no_product_has_its_chip(device: str, name: str, capability: str) -> None:
    found = [chip for chip in SHIPPED["gpu_chips"]["chips"] if device in chip["devices"]]
    assert [(chip["devices"][device], chip["compute_capability"]) for chip in found] == [(name, capability)]


def test_no_chip_lists_what_computes_nothing() -> None:
    names = [name for chip in SHIPPED["gpu_chips"]["chips"] for name in chip["devices"].values()]
    words = ("Audio", "USB", "UCSI", "NVSwitch", "bridge", "Tegra", "Jetson", "Sample", "Reserved", "vGPU")
    assert [name for name in names if any(word.lower() in name.lower() for word in words)] == []


# A lab's overlay.


WHEEL_ROW = {
    "release": "2.15",
    "tag": "cu130",
    "cuda": "13.0",
    "sm": ["7.5", "9.0"],
    "source": ["test of our lab, 2026-11-20"],
}
TOOLKIT_ROW = {
    "version": "13.5.1",
    "driver": "620.80.01",
    "driver_min": "580.65.06",
    "capabilities": ["7.5", "12.1"],
    "source": ["x y"],
}


@pytest.mark.parametrize(
    "overlay",
    [
        {},
        {"pytorch": {}},
        {"pytorch": {"wheels": []}},
        {"pytorch": {"wheels": [WHEEL_ROW]}},
        {"pytorch": {"wheels": [{**WHEEL_ROW, "sm": None}]}},
        {"pytorch": {"wheels": [WHEEL_ROW]}, "cuda": {"toolkits": [TOOLKIT_ROW]}},
        {"gpus": {"products": [{**row(SHIPPED, "gpus.products", name="Tesla T4"), "name": "Our T4"}]}},
    ],
    ids=["nothing", "no table", "no row", "replaces", "unknown kernels", "adds", "device listed again"],
)
def test_a_good_overlay_is_returned_as_it_is(overlay: dict[str, Any]) -> None:
    before = copy.deepcopy(overlay)
    read = check.read_overlay(overlay, "ours.yml")
    assert read == before == overlay
    assert read is not overlay


def test_an_empty_file_is_an_overlay_without_rows() -> None:
    assert check.read_overlay(None, "ours.yml") == {}


def mistakes_of(overlay: Any) -> dict[str, str]:
    """Return the mistakes of an overlay, by path."""
    with pytest.raises(CompatError) as caught:
        check.read_overlay(overlay, "ours.yml")
    return {mistake.path: mistake.message for mistake in caught.value.mistakes}


@pytest.mark.parametrize(
    ("overlay", "path", "said"),
    [
        (["pytorch"], "ours.yml", "must be a mapping"),
        ({"pytorh": {}}, "pytorh", "did you mean 'pytorch'?"),
        ({"pytorch": {"weels": []}}, "pytorch.weels", "did you mean 'wheels'?"),
        ({"pytorch": {"sources": {}}}, "pytorch.sources", "unknown"),
        ({"pytorch": None}, "pytorch", "must be a mapping"),
        ({"pytorch": {"wheels": WHEEL_ROW}}, "pytorch.wheels", "must be a list"),
        ({"pytorch": {"wheels": [{**WHEEL_ROW, "sm": ["8.0", "8.6", 9.0]}]}}, "pytorch.wheels[0].sm[2]", "in quotes"),
        ({"pytorch": {"wheels": [{**WHEEL_ROW, "smm": ["9.0"]}]}}, "pytorch.wheels[0].smm", "did you mean 'sm'?"),
        (
            {"pytorch": {"wheels": [{**WHEEL_ROW, "source": []}]}},
            "pytorch.wheels[0].source",
            "say where the row comes from",
        ),
        ({"pytorch": {"wheels": [WHEEL_ROW, WHEEL_ROW]}}, "pytorch.wheels[1]", "is the same row as pytorch.wheels[0]"),
        ({"pytorch": {"wheels": [{**WHEEL_ROW, "sm": ["9.0", "7.0"]}]}}, "pytorch.wheels[0].sm[1]", "not for 7.0"),
        ({"pytorch": {"wheels": [{**WHEEL_ROW, "release": "2.16"}]}}, "pytorch.wheels[0].tag", "no release 2.16"),
        ({"cuda": {"toolkits": [{**TOOLKIT_ROW, "driver": "630.1"}]}}, "cuda.toolkits[0].driver", "branch 630"),
        (
            {"cuda": {"toolkits": [{**TOOLKIT_ROW, "driver_min": "525"}]}},
            "cuda.toolkits[0].driver_min",
            "below 580.65.06",
        ),
        (
            {"cuda": {"toolkits": [{**TOOLKIT_ROW, "version": "12.7.0", "driver_min": "590"}]}},
            "shipped cuda.toolkits[{}].driver_min".format(index("cuda.toolkits", version="12.8.0")),
            "below 590 of the older CUDA 12.7.0",
        ),
    ],
)
def test_a_mistake_in_an_overlay_is_named_where_it_is(overlay: Any, path: str, said: str) -> None:
    found = mistakes_of(overlay)
    assert said in found.get(path, ""), found


def test_all_mistakes_of_an_overlay_are_told_at_once() -> None:
    found = mistakes_of({"pytorch": {"wheels": [{**WHEEL_ROW, "tag": 130, "cuda": 13.0}]}, "jaxx": {}})
    assert set(found) == {"pytorch.wheels[0].tag", "pytorch.wheels[0].cuda", "jaxx"}


def test_what_is_wrong_without_the_overlay_is_not_blamed_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    contents = copy.deepcopy(SHIPPED)
    row(contents, "gpus.products", **K80)["compute_capability"] = "6.0"
    monkeypatch.setattr(tables, "shipped", lambda: tables.Tables(contents))
    assert check.read_overlay({"pytorch": {"wheels": [WHEEL_ROW]}}, "ours.yml")


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.dates()
    | st.binary(max_size=4)
    | st.sampled_from(
        [
            "",
            "12.8",
            "580.82.07",
            "8.6",
            "9.9",
            "cu128",
            "2.15.0",
            "x86_64",
            "pytorch",
            "memory",
            datetime.date(2026, 1, 1),
        ]
    )
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.integers() | st.none(), inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def overlays(draw: st.DrawFn) -> Any:
    """Draw overlays of shipped rows, most of them with something else in some place."""
    overlay: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from(sorted(data_schema.ROWS)), max_size=4)):
        file, _, table = name.partition(".")
        rows = [dict(row) for row in draw(st.lists(st.sampled_from(SHIPPED[file][table]), max_size=3))]
        for drawn in rows:
            for field in draw(st.lists(st.sampled_from(sorted(drawn)), max_size=2)):
                others = [row[field] for row in SHIPPED[file][table] if field in row]
                drawn[field] = draw(st.sampled_from(others) | ANYTHING)
        overlay.setdefault(file, {})[table] = rows
    for key in draw(st.lists(st.sampled_from(["gpu", "pytorch", "cuda", 5, None]), max_size=1)):
        overlay[key] = draw(ANYTHING)
    return overlay


def read_or_mistakes(content: Any) -> tuple[Any, list[Mistake]]:
    """Return what is read, or the mistakes; anything else that is raised goes on."""
    try:
        return check.read_overlay(content, "ours.yml"), []
    except CompatError as error:
        return None, error.mistakes


@settings(max_examples=300, deadline=None)
@given(content=overlays() | ANYTHING)
def test_no_overlay_gives_anything_but_mistakes(content: Any) -> None:
    read, mistakes = read_or_mistakes(content)
    assert all(mistake.path and mistake.message for mistake in mistakes)
    assert mistakes or read == (content or {})


# The command.


def run(*words: str) -> int:
    """Run ``python -m gpu_compat check`` with these words."""
    parser = argparse.ArgumentParser()
    check.add_arguments(parser)
    return check.run(parser.parse_args(words))


@pytest.fixture
def only_overlay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the shipped tables as checked."""
    monkeypatch.setattr(check, "check_tables", list)


def test_right_tables_give_one_line(capsys: pytest.CaptureFixture[str], only_overlay: None) -> None:
    assert run() == 0
    rows = sum(
        len(content[name]) for content in SHIPPED.values() for name in content if name not in ("as_of", "sources")
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"{rows} rows of {len(tables.KEYS)} tables are right")
    assert "never chosen: PyTorch 2.11 cu129" in lines[0]


def test_a_good_overlay_is_counted(capsys: pytest.CaptureFixture[str], only_overlay: None, tmp_path: Path) -> None:
    path = tmp_path / "ours.yml"
    path.write_text(yaml.safe_dump({"pytorch": {"wheels": [WHEEL_ROW]}}))
    assert run("--overlay", str(path)) == 0
    assert f"and with them 1 row of 1 table in {path}" in capsys.readouterr().out


def test_mistakes_in_shipped_files_are_located(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    check_changed: Callable[[Mutation], list[Mistake]],
) -> None:
    check_changed(change("cuda.toolkits", "gcc_max", 14, version="13.5.0"))
    (tmp_path / "keras.yml").write_text("a: [")
    monkeypatch.setattr(tables, "DATA", tmp_path)
    assert run() == 2
    out = capsys.readouterr().out
    assert f"{tmp_path}/cuda.yml: cuda.toolkits[0].gcc_max: 14 is a number" in out
    assert re.search(rf"^{re.escape(str(tmp_path))}/keras\.yml:\d+:\d+: ", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: b\n c: d\n", ":2:3: mapping values are not allowed"),
        ("a: !!int x", ":1:4: the tag 'tag:yaml.org,2002:int' is not plain YAML"),
        ("pytorch:\n  wheels: []\n  wheels: []\n", ":3:3: the key 'wheels' stands twice"),
        ("[" * 100_000, ":1:21: is nested too deeply"),
        ("a: 2026-13-45", ": cannot be read as YAML (month must be in 1..12)"),
        ("a: \x00", ": cannot be read as YAML ("),
        ("- &a [*a]", ": overlay: must be a mapping"),
        ("pytorch: {weels: []}", ": pytorch.weels: unknown key; did you mean 'wheels'?"),
    ],
)
def test_an_overlay_that_cannot_be_used_is_located(
    capsys: pytest.CaptureFixture[str], only_overlay: None, tmp_path: Path, text: str, line: str
) -> None:
    path = tmp_path / "ours.yml"
    path.write_text(text)
    assert run("--overlay", str(path)) == 2
    assert capsys.readouterr().out.startswith(f"{path}{line}")


def test_an_overlay_that_is_not_there_is_named(
    capsys: pytest.CaptureFixture[str], only_overlay: None, tmp_path: Path
) -> None:
    assert run("--overlay", str(tmp_path / "none.yml")) == 2
    assert capsys.readouterr().out == f"{tmp_path}/none.yml: No such file or directory\n"


@pytest.fixture(scope="module")
def overlay_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Name a file for texts that are no overlay, with the shipped tables taken as checked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "check_tables", list)
        yield tmp_path_factory.mktemp("overlay") / "ours.yml"


YAML_TEXT = st.lists(
    st.sampled_from(
        [
            "a",
            ": ",
            "\n",
            "  ",
            "- ",
            "[",
            "]",
            "{",
            "}",
            ",",
            "'",
            '"',
            "&x ",
            "*x",
            "!!int ",
            "1e9",
            "0x1f",
            "\ud7ff",
            "#",
            "|",
            "<<",
            "? ",
        ]
    ),
    max_size=30,
).map("".join)


@settings(max_examples=300, deadline=None)
@given(content=st.binary(max_size=40) | YAML_TEXT.map(str.encode))
def test_no_file_gives_a_traceback(overlay_file: Path, content: bytes) -> None:
    overlay_file.write_bytes(content)
    assert run("--overlay", str(overlay_file)) in (0, 2)
