# SPDX-License-Identifier: Apache-2.0
"""Whether the tables are right: those in ``data/``, and a lab's overlay together with them.

Every row is read against :mod:`gpu_compat.data_schema`; then what holds between rows is looked at. Planning does not
import this module: shipped tables are checked before they are shipped, an overlay when it is read.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu_compat import data_schema, plain_yaml, tables
from gpu_compat.errors import CompatError, Mistake
from gpu_compat.plain_yaml import UnreadableError
from gpu_compat.schema import nearest
from gpu_compat.tables import KEYS, Row, row_key
from gpu_compat.versions import Numbers, at_least, begins_with, branch_of, matches, minor, numbers, parsed

#: The rows of every table, each with the path that a message names: ``cuda.toolkits[3]``.
View = Mapping[str, Sequence[tuple[str, Row]]]

#: Words that may stand for a source; any other word that looks like a short name has to be one.
PLAIN_SOURCES = ("inferred", "memory", "unverified")
_SHORT_NAME = re.compile(r"[a-z0-9]+([-_][a-z0-9]+)*")


def check_tables(tables_dir: Path | None = None) -> list[Mistake]:
    """Check the shipped tables, or those in another directory.

    What holds between tables is looked at once every row can be read by itself.

    Args:
        tables_dir: the directory with the files of ``data/``; the shipped one where it is not given.

    Returns:
        Every mistake, with paths like ``cuda.toolkits[3].driver``; empty when all is right. A file that cannot be
        parsed has the path ``cuda.yml:LINE:COLUMN``.
    """
    directory = tables_dir or tables.DATA
    mistakes = [_unknown_file(path) for path in sorted(directory.glob("*.yml")) if path.stem not in _files()]
    contents: dict[str, Any] = {}
    for file in _files():
        found: list[Mistake] = []
        content = _read_shipped(directory / f"{file}.yml", file, found)
        if not found:
            data_schema.shipped_file(file)(content, file, found)
        if not found:
            contents[file] = content
        mistakes += found
    view = _view(contents)
    for file, content in contents.items():
        mistakes += _sources(file, content["sources"], view)
    for name, rows in view.items():
        mistakes += _duplicates(name, rows)
        mistakes += _disorder(name, rows)
    if len(contents) == len(_files()):
        mistakes += _inconsistencies(view)
        mistakes += _devices_listed_twice(view)
    return mistakes


def read_overlay(content: Any, where: str) -> dict[str, Any]:
    """Check a lab's overlay, ``{file: {table: [rows]}}``, by itself and together with the shipped tables.

    Args:
        content: plain data as read from YAML; nothing (an empty file) is an overlay without rows.
        where: what a person calls it, the path of a mistake that is about all of it: a file or a variable.

    Returns:
        The overlay as a new dict.

    Raises:
        CompatError: with every mistake; paths are like ``pytorch.wheels[0].sm[2]``.
    """
    if content is None:
        return {}
    mistakes: list[Mistake] = []
    overlay: dict[str, Any] = data_schema.overlay()(content, "", mistakes)
    if not mistakes:
        own = _view(overlay)
        for name, rows in own.items():
            mistakes += _duplicates(name, rows)
        mistakes += _new_inconsistencies(own)
    if mistakes:
        raise CompatError(Mistake(mistake.path or where, mistake.message) for mistake in mistakes)
    return overlay


def unknown_builds(view: View) -> list[str]:
    """Name the builds of PyTorch whose kernels are not known: they are never chosen, which is no mistake."""
    known = {(minor(row["release"]), row["tag"]) for _, row in view["pytorch.wheels"] if row.get("sm")}
    builds = {
        f"{'.'.join(str(number) for number in minor(row['version']))} {tag}": None
        for _, row in view["pytorch.releases"]
        for tag in row["tags"]
        if (minor(row["version"]), tag) not in known
    }
    return list(builds)


# The command.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``python -m gpu_compat check``."""
    parser.add_argument("--overlay", metavar="FILE", type=Path, help="check this lab's rows together with the tables")


def run(arguments: argparse.Namespace) -> int:
    """Check the shipped tables and, if one is given, an overlay; print what is wrong, or that nothing is.

    Returns:
        The exit status: 0 all is right, 2 something is wrong.
    """
    lines = [_located(mistake) for mistake in check_tables()]
    overlay: dict[str, Any] = {}
    if arguments.overlay and not lines:
        lines = _read_overlay_file(arguments.overlay, overlay)
    if not lines:
        _say([_all_right(overlay, arguments.overlay)])
        return 0
    _say(lines)
    return 2


def _read_overlay_file(path: Path, overlay: dict[str, Any]) -> list[str]:
    """Fill in the overlay; return the lines to print about what is wrong with it."""
    try:
        overlay.update(read_overlay(plain_yaml.load(path.read_bytes()), "overlay"))
    except UnreadableError as error:
        return [f"{path}{error.place}: {error}"]
    except OSError as error:
        return [f"{path}: {error.strerror}"]
    except CompatError as error:
        return [f"{path}: {mistake}" for mistake in error.mistakes]
    return []


def _all_right(overlay: Mapping[str, Any], path: Path | None) -> str:
    shipped, own = _shipped_view(), _view(overlay)
    line = f"{_count(shipped)} are right"
    if path:
        line += f", and with them {_count(own)} in {path}"
    unknown = unknown_builds(_laid_over(own, shipped))
    if unknown:
        line += f"; kernels not known, so never chosen: PyTorch {', '.join(unknown)}"
    return line


def _located(mistake: Mistake) -> str:
    """Write a mistake in a shipped file as ``FILE: path: message``."""
    file, _, rest = mistake.path.partition(".")
    if rest.startswith("yml"):
        return f"{tables.DATA / mistake.path}: {mistake.message}"
    return f"{tables.DATA / file}.yml: {mistake}"


def _count(view: View) -> str:
    rows = sum(len(rows) for rows in view.values())
    return f"{rows} row{'' if rows == 1 else 's'} of {len(view)} table{'' if len(view) == 1 else 's'}"


def _say(lines: Iterable[str]) -> None:
    """Print lines; half a letter, which YAML can write and no terminal can show, is shown as its number."""
    for line in lines:
        print(line.encode("utf-8", "backslashreplace").decode("utf-8"))


# Reading files.


def _files() -> tuple[str, ...]:
    return (*tables.FILES, *tables.LAZY_FILES)


def _unknown_file(path: Path) -> Mistake:
    return Mistake(path.name, f"no table is read from this file; {nearest(path.stem, _files())}")


def _read_shipped(path: Path, file: str, mistakes: list[Mistake]) -> Any:
    try:
        return plain_yaml.load(path.read_bytes())
    except UnreadableError as error:
        mistakes.append(Mistake(f"{path.name}{error.place}", str(error)))
    except OSError as error:
        mistakes.append(Mistake(path.name, f"the tables '{file}' cannot be read: {error.strerror}"))
    return None


def _view(contents: Mapping[str, Any]) -> dict[str, list[tuple[str, Row]]]:
    """Return the rows of the tables that are there, each with its path."""
    view = {}
    for name in KEYS:
        file, _, table = name.partition(".")
        if table in contents.get(file, {}):
            view[name] = [(f"{name}[{index}]", row) for index, row in enumerate(contents[file][table])]
    return view


def _shipped_view() -> dict[str, list[tuple[str, Row]]]:
    shipped = tables.shipped()
    return {name: [(f"shipped {name}[{index}]", row) for index, row in enumerate(shipped.rows(name))] for name in KEYS}


def _laid_over(own: View, shipped: View) -> View:
    """Return all rows as the engine sees them: a lab's own, and the shipped ones that they do not replace."""
    laid = {}
    for name, rows in shipped.items():
        replaced = {row_key(name, row) for _, row in own.get(name, ())}
        laid[name] = [*own.get(name, ()), *(entry for entry in rows if row_key(name, entry[1]) not in replaced)]
    return laid


# One table by itself.


def _sources(file: str, sources: Mapping[str, str], view: View) -> Iterator[Mistake]:
    """Every short name of a source is known, and every known one is used."""
    used: set[str] = set()
    for name, rows in view.items():
        if name.partition(".")[0] != file:
            continue
        for path, row in rows:
            used |= set(row["source"])
            for index, word in enumerate(row["source"]):
                if _SHORT_NAME.fullmatch(word) and word not in sources and word not in PLAIN_SOURCES:
                    hint = nearest(word, list(sources))
                    yield Mistake(f"{path}.source[{index}]", f"'{word}' is not among the sources of this file; {hint}")
    for word in sources:
        if word not in used:
            yield Mistake(f"{file}.sources.{word}", "no row names this source; remove it")


def _duplicates(name: str, rows: Sequence[tuple[str, Row]]) -> Iterator[Mistake]:
    """No two rows are the same by what tells rows of this table apart."""
    first: dict[tuple[str, ...], str] = {}
    for path, row in rows:
        key = row_key(name, row)
        if key in first:
            same = ", ".join(f"{field} {row[field]}" for field in KEYS[name] if field in row)
            yield Mistake(path, f"is the same row as {first[key]} ({same or 'no condition at all'}); keep one of them")
        first.setdefault(key, path)


def _by(field: str, read: Callable[[str], Any]) -> Callable[[Row], Any]:
    return lambda row: read(row[field])


#: How the rows of a table are sorted.
_NEWEST_FIRST: Mapping[str, Callable[[Row], Any]] = {
    "cuda.toolkits": _by("version", numbers),
    "cudnn.releases": _by("version", parsed),
    "pytorch.releases": _by("version", parsed),
    "pytorch.wheels": lambda row: (numbers(row["release"]), numbers(row["cuda"])),
    "pytorch.companions": _by("torch", parsed),
    "tensorflow.releases": _by("version", parsed),
    "jax.releases": _by("version", parsed),
    "jax.glibc": _by("first", parsed),
    "keras.releases": _by("version", parsed),
    "keras.backends": _by("first", parsed),
}
_OLDEST_FIRST: Mapping[str, Callable[[Row], Any]] = {
    "drivers.branches": _by("branch", numbers),
    "drivers.kernel_limits": _by("driver", numbers),
    "cudnn.ranges": _by("first", numbers),
}
#: Tables that are sorted within the rows that share this field.
_GROUPS = {"cudnn.releases": "package"}


def _disorder(name: str, rows: Sequence[tuple[str, Row]]) -> Iterator[Mistake]:
    """Rows are sorted, so that a reader finds one and a forgotten release shows."""
    order = _NEWEST_FIRST.get(name) or _OLDEST_FIRST.get(name)
    if order is None:
        return
    before: dict[Any, tuple[str, Any]] = {}
    for path, row in rows:
        group, value = row.get(_GROUPS.get(name, "")), order(row)
        if group in before:
            former_path, former = before[group]
            if value > former if name in _NEWEST_FIRST else value < former:
                wanted = "newest first" if name in _NEWEST_FIRST else "oldest first"
                yield Mistake(path, f"{_label(name, row)} belongs before {former_path}; rows are sorted {wanted}")
        before[group] = (path, value)


def _label(name: str, row: Row) -> str:
    return " ".join(str(row[field]) for field in KEYS[name] if field in row)


# All tables together.


def _inconsistencies(view: View) -> list[Mistake]:
    return [mistake for check in _CHECKS for mistake in check(view)]


def _new_inconsistencies(own: View) -> list[Mistake]:
    """Return what a lab's rows bring about; what is wrong without them is not theirs."""
    shipped = _shipped_view()
    known = set(_inconsistencies(shipped))
    return [mistake for mistake in _inconsistencies(_laid_over(own, shipped)) if mistake not in known]


Range = tuple[Numbers, Numbers]


def _compiles_for(view: View, key: Callable[[str], Any]) -> dict[Any, Range]:
    """Return the lowest and the highest compute capability by series or major (``key``) of CUDA."""
    ranges: dict[Any, Range] = {}
    for _, row in view["cuda.toolkits"]:
        low, high = (numbers(capability) for capability in row["capabilities"])
        known = ranges.setdefault(key(row["version"]), (low, high))
        ranges[key(row["version"])] = (min(low, known[0]), max(high, known[1]))
    return ranges


def _outside(path: str, row: Row, fields: Sequence[str], allowed: Range, cuda: str) -> Iterator[Mistake]:
    """Yield the compute capabilities that a toolkit cannot have compiled for."""
    low, high = (".".join(str(number) for number in end) for end in allowed)
    for field in fields:
        value = row.get(field) or []
        single = isinstance(value, str)
        for index, capability in enumerate([value] if single else value):
            if not allowed[0] <= numbers(capability) <= allowed[1]:
                place = f"{path}.{field}" + ("" if single else f"[{index}]")
                yield Mistake(place, f"CUDA {cuda} compiles for {low} to {high}, not for {capability}")


def _pytorch(view: View) -> Iterator[Mistake]:
    ranges = _compiles_for(view, minor)
    releases = [row["version"] for _, row in view["pytorch.releases"]]
    tags = {(minor(row["version"]), tag) for _, row in view["pytorch.releases"] for tag in row["tags"]}
    for path, row in view["pytorch.wheels"]:
        release, tag, cuda = row["release"], row["tag"], row["cuda"]
        if tag != f"cu{cuda.replace('.', '')}":
            yield Mistake(f"{path}.tag", f"{tag} is not the tag of CUDA {cuda}")
        if (minor(release), tag) not in tags:
            yield Mistake(f"{path}.tag", f"no release {release} in pytorch.releases lists {tag}")
        if minor(cuda) in ranges:
            yield from _outside(path, row, ("sm", "ptx", "sm_aarch64"), ranges[minor(cuda)], cuda)
        else:
            yield Mistake(f"{path}.cuda", f"no toolkit of CUDA {cuda} is in cuda.toolkits")
    for path, row in view["pytorch.releases"]:
        if minor(row["default_cuda"]) not in ranges:
            yield Mistake(f"{path}.default_cuda", f"no toolkit of CUDA {row['default_cuda']} is in cuda.toolkits")
    for path, row in view["pytorch.companions"]:
        if row["torch"] not in releases:
            yield Mistake(f"{path}.torch", f"no release {row['torch']} is in pytorch.releases")


def _tensorflow(view: View) -> Iterator[Mistake]:
    ranges = _compiles_for(view, minor)
    for path, row in view["tensorflow.releases"]:
        if minor(row["cuda"]) not in ranges:
            yield Mistake(f"{path}.cuda", f"no toolkit of CUDA {row['cuda']} is in cuda.toolkits")
        else:
            yield from _outside(path, row, ("sm", "ptx"), ranges[minor(row["cuda"])], row["cuda"])


def _jax(view: View) -> Iterator[Mistake]:
    ranges = _compiles_for(view, branch_of)
    majors = {row["plugin"]: row["cuda_major"] for _, row in view["jax.plugins"]}
    for path, row in view["jax.releases"]:
        for plugin, major in majors.items():
            fields = (f"sm_{plugin}", f"ptx_{plugin}")
            if plugin in row["plugins"] and f"sm_{plugin}" not in row:
                yield Mistake(path, f"the plugin {plugin} is listed, but its kernels (sm_{plugin}) are not")
            for field in fields:
                if plugin not in row["plugins"] and field in row:
                    yield Mistake(f"{path}.{field}", f"the release has no plugin {plugin}")
            if major in ranges:
                yield from _outside(path, row, fields, ranges[major], major)
            else:
                yield Mistake(f"{path}.plugins", f"no toolkit of CUDA {major}, for {plugin}, is in cuda.toolkits")


def _driver_floors(view: View) -> Iterator[Mistake]:
    """A newer CUDA never runs on an older driver than an older CUDA does."""
    floor, of = "0", ""
    for path, row in sorted(view["cuda.toolkits"], key=lambda entry: numbers(entry[1]["version"])):
        lowest = row.get("driver_min")
        if lowest is None:
            continue
        if not at_least(lowest, floor):
            yield Mistake(
                f"{path}.driver_min", f"{lowest} of CUDA {row['version']} is below {floor} of the older CUDA {of}"
            )
        if not at_least(row["driver"], lowest):
            yield Mistake(f"{path}.driver_min", f"{lowest} is above the toolkit's own driver, {row['driver']}")
        if at_least(lowest, floor):
            floor, of = lowest, row["version"]


def _toolkit_drivers(view: View) -> Iterator[Mistake]:
    """A toolkit's own driver is of a known branch, or of one that came and went between two of them."""
    newest = max((numbers(row["branch"]) for _, row in view["drivers.branches"]), default=(0,))
    for path, row in view["cuda.toolkits"]:
        branch = branch_of(row["driver"])
        if numbers(branch) > newest:
            yield Mistake(f"{path}.driver", f"{row['driver']} is of branch {branch}, which drivers.branches lacks")


def _branches(view: View) -> Iterator[Mistake]:
    known = {row["branch"] for _, row in view["drivers.branches"]}
    newest_cuda, of = numbers("0"), ""
    for path, row in sorted(view["drivers.branches"], key=lambda entry: numbers(entry[1]["branch"])):
        if branch_of(row["latest"]) != row["branch"]:
            yield Mistake(f"{path}.latest", f"{row['latest']} is not of branch {row['branch']}")
        if numbers(row["cuda"]) < newest_cuda:
            yield Mistake(f"{path}.cuda", f"{row['cuda']} is below that of the older branch {of}")
        newest_cuda, of = max((newest_cuda, of), (numbers(row["cuda"]), row["branch"]))
    for path, row in view["cuda.forward_compatibility"]:
        for index, branch in enumerate(row["branches"]):
            if branch not in known:
                yield Mistake(f"{path}.branches[{index}]", f"{branch} is not in drivers.branches")


def _cudnn(view: View) -> Iterator[Mistake]:
    """A newer cuDNN never supports an older GPU again, and a release has the floor of its range."""
    floors: dict[str, tuple[str, str]] = {}
    for path, row in sorted(view["cudnn.releases"], key=lambda entry: parsed(entry[1]["version"])):
        package, version, lowest = row["package"], row["version"], row.get("capability_min")
        if not package.endswith(f"-cu{row['cuda_major']}"):
            yield Mistake(f"{path}.cuda_major", f"{package} is not the package of CUDA {row['cuda_major']}")
        if lowest is not None:
            floor, of = floors.get(package, ("0.0", ""))
            if numbers(lowest) < numbers(floor):
                message = f"{lowest} of {package} {version} is below {floor} of the older {of}"
                yield Mistake(f"{path}.capability_min", message)
            floors[package] = max((floor, of), (lowest, version), key=lambda known: numbers(known[0]))
        yield from _cudnn_range(path, row, view)


def _cudnn_range(path: str, row: Row, view: View) -> Iterator[Mistake]:
    version = row["version"]
    for _, known in view["cudnn.ranges"]:
        if numbers(version) >= numbers(known["first"]) and (
            numbers(version) <= numbers(known["last"]) or begins_with(version, known["last"])
        ):
            series = f"cudnn.ranges has for {known['first']} to {known['last']}"
            if row.get("capability_min") != known["capabilities"][0]:
                message = f"is {row.get('capability_min')}, but {known['capabilities'][0]} is what {series}"
                yield Mistake(f"{path}.capability_min", message)
            if row["cuda_major"] not in known["cuda_majors"]:
                majors = ", ".join(known["cuda_majors"])
                yield Mistake(f"{path}.cuda_major", f"is {row['cuda_major']}, but {majors} is what {series}")


def _gpus(view: View) -> Iterator[Mistake]:
    """A product and a chip have a compute capability of their architecture."""
    known = {row["name"]: row["compute_capabilities"] for _, row in view["gpus.architectures"]}
    for path, row in (*view["gpus.products"], *view["gpu_chips.chips"]):
        architecture, capability = row["architecture"], row["compute_capability"]
        if architecture not in known:
            yield Mistake(
                f"{path}.architecture", f"'{architecture}' is not known; {nearest(architecture, list(known))}"
            )
        elif capability not in known[architecture]:
            message = f"{capability} is not of {architecture}, which has {', '.join(known[architecture])}"
            yield Mistake(f"{path}.compute_capability", message)
    for path, row in view["gpus.products"]:
        for branch, version in row.get("driver_first", {}).items():
            if branch_of(version) != branch:
                yield Mistake(f"{path}.driver_first.{branch}", f"{version} is not of branch {branch}")
    for path, row in view["gpus.architectures"]:
        for field in ("cuda_first", "driver_first", "jetson"):
            for capability in row.get(field, ()):
                if capability not in row["compute_capabilities"]:
                    yield Mistake(f"{path}.{field}", f"{capability} is not among its compute_capabilities")
        for capability in row["compute_capabilities"]:
            if capability not in row["cuda_first"]:
                yield Mistake(f"{path}.cuda_first", f"{capability} is missing")


def _devices_listed_twice(view: View) -> Iterator[Mistake]:
    """A device is listed once. A lab may list one again: its row is found first."""
    first: dict[str, str] = {}
    for path, row in view["gpus.products"]:
        for index, device in enumerate(row["pci"]):
            yield from _again(device, f"{path}.pci[{index}]", first)
    for path, row in view["gpu_chips.chips"]:
        for device in row["devices"]:
            yield from _again(f"10de:{device}", f"{path}.devices.{device}", first)
        if list(row["devices"]) != sorted(row["devices"]):
            yield Mistake(f"{path}.devices", f"the devices of {row['chip']} are not sorted by number")


def _again(device: str, path: str, first: dict[str, str]) -> Iterator[Mistake]:
    if device in first:
        yield Mistake(path, f"{device} is listed at {first[device]} already")
    first.setdefault(device, path)


def _pairs(view: View) -> Iterator[Mistake]:
    """What a pair names was released, and is said to work or not to, once."""
    releases = {
        framework: [row["version"] for _, row in view[f"{framework}.releases"]] for framework in data_schema.FRAMEWORKS
    }
    for path, row in view["pairs.pairs"]:
        framework, wanted = data_schema.split_requirement(row["first"])
        if not any(matches(version, wanted) for version in releases[framework]):
            yield Mistake(f"{path}.first", f"no release {wanted} is in {framework}.releases")
        said = {f"{path}.{field}": row.get(field, []) for field in ("works", "overwrite")}
        said |= {f"{path}.pins.{pin}": versions for pin, versions in row.get("pins", {}).items()}
        seen: dict[str, str] = {}
        for place, versions in said.items():
            for index, version in enumerate(versions):
                if version not in releases[row["second"]]:
                    yield Mistake(f"{place}[{index}]", f"no release {version} is in {row['second']}.releases")
                if version in seen:
                    yield Mistake(f"{place}[{index}]", f"{version} is in {seen[version]} already")
                seen.setdefault(version, place)


def _systems(view: View) -> Iterator[Mistake]:
    branches = {row["branch"] for _, row in view["drivers.branches"]}
    systems = [row["id"] for _, row in view["systems.systems"]]
    for path, row in view["systems.systems"]:
        if "cuda_last" in row and numbers(row["cuda_last"]) < numbers(row["cuda_first"]):
            yield Mistake(f"{path}.cuda_last", f"{row['cuda_last']} is below cuda_first, {row['cuda_first']}")
        for index, driver in enumerate(row.get("distribution_drivers", ())):
            place = f"{path}.distribution_drivers[{index}]"
            if driver["branch"] not in branches:
                yield Mistake(f"{place}.branch", f"{driver['branch']} is not in drivers.branches")
            if "version" in driver and branch_of(driver["version"]) != driver["branch"]:
                yield Mistake(f"{place}.version", f"{driver['version']} is not of branch {driver['branch']}")
    for path, row in view["drivers.kernel_limits"]:
        if "packaging" in row and row["packaging"] not in systems:
            yield Mistake(
                f"{path}.packaging", f"'{row['packaging']}' is no system; {nearest(row['packaging'], systems)}"
            )
        if "builds" in row and "fails" in row and numbers(row["builds"]) >= numbers(row["fails"]):
            yield Mistake(f"{path}.fails", f"Linux {row['fails']} fails, but {row['builds']} is said to build")


def _repositories(view: View) -> Iterator[Mistake]:
    """Every system that drivers are installed on has NVIDIA's repository, with the key that its file is named after."""
    systems = {row["id"]: row for _, row in view["systems.systems"]}
    served: set[str] = set()
    for path, row in view["packages.repositories"]:
        for index, name in enumerate(row["systems"]):
            if name not in systems:
                yield Mistake(f"{path}.systems[{index}]", f"'{name}' is no system; {nearest(name, list(systems))}")
        if row["origin"] == "nvidia_repo":
            served.update(row["systems"])
            if "key" not in row:
                yield Mistake(f"{path}.key", "is missing: NVIDIA's repositories are signed")
        for index, fingerprint in enumerate(row.get("fingerprints", ())):
            name = row.get("key", "").partition(".")[0].upper()
            if not fingerprint.endswith(name):
                yield Mistake(f"{path}.fingerprints[{index}]", f"{fingerprint} is not the key in {row['key']}")
    for name, row in systems.items():
        if row["family"] != "other" and name not in served:
            yield Mistake("packages.repositories", f"no row of NVIDIA's repository is for {name}")


def _toolkits(view: View) -> Iterator[Mistake]:
    """What distributions and archives are said to have is of a toolkit that is known, on a system that is known."""
    systems = [row["id"] for _, row in view["systems.systems"]]
    series = {minor(row["version"]) for _, row in view["cuda.toolkits"]}
    for path, row in view["cuda.distribution"]:
        if row["system"] not in systems:
            yield Mistake(f"{path}.system", f"'{row['system']}' is no system; {nearest(row['system'], systems)}")
        if minor(row["version"]) not in series:
            yield Mistake(f"{path}.version", f"no toolkit of CUDA {row['version']} is in cuda.toolkits")
        beside = (row.get("cudnn") or {}).get("cuda_major", branch_of(row["version"]))
        if beside != branch_of(row["version"]):
            yield Mistake(f"{path}.cudnn.cuda_major", f"is {beside}, but the toolkit beside it is {row['version']}")
    for path, row in view["cuda.components"]:
        if "from" in row and "to" in row and numbers(row["from"]) > numbers(row["to"]):
            yield Mistake(f"{path}.to", f"{row['to']} is below {row['from']}, from which on it is there")
        if row.get("needed") and row.get("optional"):
            yield Mistake(f"{path}.optional", f"{row['name']} is needed to compile, so it is never left out")
    for path, row in view["systems.systems"]:
        for index, compiler in enumerate(row.get("compilers", ())):
            if compiler["major"] == branch_of(row["gcc"]):
                place = f"{path}.compilers[{index}].major"
                yield Mistake(place, f"gcc {compiler['major']} is the system's own; compilers are those beside it")


_CHECKS: Sequence[Callable[[View], Iterator[Mistake]]] = (
    _gpus,
    _branches,
    _toolkit_drivers,
    _driver_floors,
    _cudnn,
    _pytorch,
    _tensorflow,
    _jax,
    _pairs,
    _systems,
    _repositories,
    _toolkits,
)
