# SPDX-License-Identifier: Apache-2.0
"""What holds for every host and request: no plan breaks a rule, every conflict is minimal, nothing gives a traceback.

The rules are looked up in the tables again here, apart from the engine, so that a fault in it cannot hide itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml
from gpu_compat import CompatError, plan
from gpu_compat.conflicts import IDS
from gpu_compat.questions import question, with_default_environments
from gpu_compat.tables import shipped
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from situations import TODAY, ask

TABLES = shipped()
PRODUCTS = {row["name"]: row for row in TABLES.rows("gpus.products")}
ARCHITECTURES = {row["name"]: row for row in TABLES.rows("gpus.architectures")}
SYSTEMS = {row["id"]: row for row in TABLES.rows("systems.systems")}
BRANCHES = {row["branch"]: row for row in TABLES.rows("drivers.branches")}
DRIVERS = ["535.183.01", "570.133.07", "580.126.09", "595.71.05", "470.256.02"]

gpus = st.lists(st.sampled_from(sorted(PRODUCTS)), max_size=3)
hosts = st.fixed_dictionaries(
    {"gpus": gpus},
    optional={
        "os": st.sampled_from(sorted(SYSTEMS)),
        "arch": st.sampled_from(["x86_64", "x86_64", "aarch64"]),
        "kernel": st.sampled_from(
            ["4.18.0-553", "5.15.0-100-generic", "6.8.0-45-generic", "6.19.0", "7.0.0-10-generic"]
        ),
        "python": st.sampled_from(["3.8", "3.10", "3.12", "3.14", ["3.9", "3.12"]]),
        "driver": st.sampled_from(DRIVERS),
        "kernel_module": st.sampled_from(["open", "proprietary"]),
        "secure_boot": st.booleans(),
        "nvswitch": st.booleans(),
    },
)
wishes = {
    "pytorch": st.sampled_from(
        [
            "newest",
            ">=2.5",
            "<2.9",
            "==2.10.0",
            {"version": "newest", "cuda": "cu128"},
            {"version": "newest", "cuda": "13"},
        ]
    ),
    "tensorflow": st.sampled_from(["newest", "==2.20.0", "<2.16", ">=2.21"]),
    "jax": st.sampled_from(["newest", ">=0.11", {"version": "newest", "cuda": "12"}]),
}
environment = st.fixed_dictionaries(
    {"frameworks": st.fixed_dictionaries({}, optional=wishes).filter(bool)},
    optional={"python": st.sampled_from(["auto", "3.10", "3.12", "3.14"])},
)
requests = st.fixed_dictionaries(
    {"environments": st.lists(environment, min_size=1, max_size=2)},
    optional={
        "driver": st.sampled_from(["auto", "keep", "535", "580", ">=590", "580.126.09", "<500"]),
        "kernel_module": st.sampled_from(["auto", "open", "proprietary"]),
        "driver_source": st.sampled_from(["auto", "nvidia_repo", "distro", "runfile"]),
        "cuda_toolkits": st.lists(
            st.sampled_from(["auto", "11.8", "12.6", "12.8", "12.8.1", "13.0"]), max_size=2, unique=True
        ),
        "cuda_source": st.sampled_from(["auto", "auto", "nvidia_repo", "redist", "runfile", "distro", "existing"]),
        "cudnn": st.sampled_from(["auto", "none", "9.10.2.21", "9.20.0.48"]),
        "cudnn_source": st.sampled_from(["auto", "auto", "nvidia_repo", "redist", "distro"]),
    },
).map(
    lambda request: {
        **request,
        "environments": [{"name": f"e{place}", **row} for place, row in enumerate(request["environments"])],
    }
)


def parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("-")[0].split("."))


def padded(version: str) -> tuple[int, ...]:
    return (*parts(version), 0, 0, 0)[:3]


def reaches(sm: list[str], capability: str) -> bool:
    return any(parts(code)[0] == parts(capability)[0] and parts(code)[1] <= parts(capability)[1] for code in sm)


def violations(planned: Mapping[str, Any], host: Mapping[str, Any]) -> list[str]:
    """Look every choice up in the tables again."""
    if planned["profile"] != "gpu":
        return _side_by_side(planned, host) + ([] if planned["driver"] is None else ["a driver without a GPU"])
    cards = [PRODUCTS[name] for name in host["gpus"]]
    found = [text for card in cards for text in _for_card(planned, card)]
    driver = planned["driver"]
    for toolkit in planned["cuda_toolkits"]:
        row = next(row for row in TABLES.rows("cuda.toolkits") if row["version"] == toolkit["version"])
        found += _needs(driver, row.get("driver_min") or row["driver"], row["version"], planned)
    found += _side_by_side(planned, host)
    system = SYSTEMS.get(host.get("os", ""))
    for env in planned["environments"]:
        found += _in_environment(planned, env, cards, system, host)
    return found


def _side_by_side(planned: Mapping[str, Any], host: Mapping[str, Any]) -> list[str]:
    """Look at the toolkits together, and at what they come from."""
    rows, cudnn = planned["cuda_toolkits"], planned["cudnn"]
    found = ["two of one series"] if len({row["series"] for row in rows}) < len(rows) else []
    found += ["no default, or several"] if rows and [row["default"] for row in rows].count(True) != 1 else []
    found += (
        ["a cuDNN without toolkit"] if not {row["cuda_major"] for row in cudnn} <= {r["major"] for r in rows} else []
    )
    packaged = [row for row in cudnn if row["source"] in ("nvidia_repo", "distro")]
    found += ["packages of cuDNN that exclude each other"] if len(packaged) > 1 else []
    system = SYSTEMS.get(host.get("os", ""))
    for row in rows:
        known = next((one for one in TABLES.rows("cuda.toolkits") if one["version"] == row["version"]), None)
        if row["source"] == "nvidia_repo" and system:
            inside = parts(system["cuda_first"]) <= parts(row["series"]) <= parts(system.get("cuda_last", "99.0"))
            arch = host.get("arch", "x86_64") in system["repository_arches"]
            found += [] if inside and arch else [f"no packages of {row['version']}"]
        if row["source"] == "redist" and parts(row["series"]) < (11, 4):
            found.append(f"no archives of {row['version']}")
        compiler, most = row["host_compiler"], known and known.get("gcc_max")
        if compiler and most and int(compiler["major"]) > int(most):
            found.append(f"gcc {compiler['major']} with CUDA {row['version']}")
        low, high = known["capabilities"] if known else ("0.0", "99.0")
        found += [
            f"{one} with {row['version']}"
            for one in row["architectures"]
            if not parts(low) <= parts(one) <= parts(high)
        ]
    return found


def _needs(driver: Mapping[str, Any], floor: str, cuda: str, planned: Mapping[str, Any]) -> list[str]:
    if padded(driver["version"]) >= padded(floor):
        return []
    helped = planned["cuda_compat_package"] == f"cuda-compat-{cuda.split('.')[0]}-0"
    return [] if helped else [f"driver {driver['version']} below {floor}"]


def _for_card(planned: Mapping[str, Any], card: Mapping[str, Any]) -> list[str]:
    found, driver = [], planned["driver"]
    architecture, capability = ARCHITECTURES[card["architecture"]], card["compute_capability"]
    last = architecture.get("driver_last")
    if last and parts(driver["branch"]) > parts(last):
        found.append(f"branch {driver['branch']} has left {card['name']} behind")
    first = (architecture.get("driver_first") or {}).get(capability)
    if first and padded(driver["version"]) < padded(first):
        found.append(f"driver {driver['version']} is too old for {card['name']}")
    first = (card.get("driver_first") or {}).get(driver["branch"])
    if first and parts(driver["version"]) < parts(first):
        found.append(f"driver {driver['version']} does not know {card['name']}")
    if driver["kernel_module"] and driver["kernel_module"] not in (card.get("modules") or architecture["modules"]):
        found.append(f"{card['name']} under the {driver['kernel_module']} module")
    for toolkit in planned["cuda_toolkits"]:
        row = next(row for row in TABLES.rows("cuda.toolkits") if row["version"] == toolkit["version"])
        low, high = row["capabilities"]
        if not parts(low) <= parts(capability) <= parts(high):
            found.append(f"CUDA {toolkit['version']} does not compile for {card['name']}")
    for cudnn in planned["cudnn"]:
        found += _cudnn(cudnn["version"], str(cudnn["cuda_major"]), capability)
    if planned["cuda_compat_package"] and not card.get("forward_compatibility"):
        found.append(f"forward compatibility on {card['name']}")
    return found


def _cudnn(version: str, major: str, capability: str) -> list[str]:
    rows = [row for row in TABLES.rows("cudnn.releases") if row["version"] == version and row["cuda_major"] == major]
    if rows and rows[0].get("capability_min") and parts(capability) < parts(rows[0]["capability_min"]):
        return [f"cuDNN {version} does not serve {capability}"]
    return []


def _in_environment(planned: Any, env: Any, cards: Any, system: Any, host: Mapping[str, Any]) -> list[str]:
    found, machine = [], host.get("arch", "x86_64")
    majors = {build["cuda"].split(".")[0] for build in env["frameworks"].values() if build.get("cuda")}
    if len(majors) > 1:
        found.append(f"CUDA {majors} in one environment")
    for name, build in env["frameworks"].items():
        row = next(row for row in TABLES.rows(f"{name}.releases") if row["version"] == build["version"])
        if name == "keras" or not build.get("cuda"):
            continue
        pythons = row["python"] if isinstance(row["python"], list) else row["python"][machine]
        if env["python"] not in pythons:
            found.append(f"{name} {build['version']} has no wheel for {env['python']}")
        if system and row.get("glibc") and parts(system["glibc"]) < parts(row["glibc"]):
            found.append(f"{name} {build['version']} needs glibc {row['glibc']}")
        for card in cards:
            capability = card["compute_capability"]
            if not reaches(build["sm"], capability) and not (
                build.get("ptx") and parts(build["ptx"]) <= parts(capability)
            ):
                found.append(f"{name} {build['version']} {build['wheel']} has no code for {card['name']}")
            if build.get("cudnn"):
                found += _cudnn(build["cudnn"], build["cuda"].split(".")[0], capability)
        floor = {"11": "450.80.02", "12": "525.60.13", "13": "580"}.get(build["cuda"].split(".")[0])
        if floor and build["cuda"] != "11.0":
            found += _needs(planned["driver"], floor, build["cuda"], planned)
    return found


@given(hosts, requests)
@settings(max_examples=250, deadline=None)
def test_a_plan_breaks_no_rule(host: dict[str, Any], request: dict[str, Any]) -> None:
    answer = ask(host, request)
    if answer["status"] == "planned":
        assert violations(answer["plan"], host) == []
        _meets_the_wishes(answer["plan"], request)
    else:
        assert answer["plan"] is None
        assert {conflict["id"] for conflict in answer["conflicts"]} <= set(IDS)


def _meets_the_wishes(planned: dict[str, Any], request: dict[str, Any]) -> None:
    driver = planned["driver"]
    if driver and request.get("driver") in ("535", "580"):
        assert driver["branch"] == request["driver"]
    if driver and request.get("kernel_module") in ("open", "proprietary"):
        assert driver["kernel_module"] in (request["kernel_module"], None)
    for wish, env in zip(request["environments"], planned["environments"], strict=True):
        for name, wanted in wish["frameworks"].items():
            version = wanted if isinstance(wanted, str) else wanted["version"]
            if version != "newest":
                assert SpecifierSet(version).contains(Version(env["frameworks"][name]["version"]))
        if wish.get("python", "auto") != "auto":
            assert env["python"] == wish["python"]


NOTHING = {"name": "other", "existing": "/usr/bin/python3", "frameworks": {"pytorch": "any"}}


def drop(member: str, host: dict[str, Any], request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take one wish or fact away, as a person would who deletes it."""
    if member.startswith("host.gpus["):
        place = int(member[len("host.gpus[") : -1])
        return {**host, "gpus": host["gpus"][:place] + host["gpus"][place + 1 :]}, request
    if member == "host.gpus":
        return {**host, "gpus": []}, request
    if member.startswith("host."):
        return {key: value for key, value in host.items() if key != member[len("host.") :]}, request
    if member.startswith("request.cuda_toolkits["):
        place = int(member[len("request.cuda_toolkits[") : -1])
        return host, {
            **request,
            "cuda_toolkits": request["cuda_toolkits"][:place] + request["cuda_toolkits"][place + 1 :],
        }
    if not member.startswith("request.environments["):
        return host, {key: value for key, value in request.items() if key != member[len("request.") :]}
    place, _, name = member[len("request.environments[") :].partition("].")
    envs = [dict(env) for env in request["environments"]]
    env = envs[int(place)]
    if name == "python":
        env["python"] = "auto"
    else:
        env["frameworks"] = {
            key: value for key, value in env["frameworks"].items() if key != name.removeprefix("frameworks.")
        }
        if not env["frameworks"]:
            envs[int(place)] = NOTHING
    return host, {**request, "environments": envs}


@given(hosts, requests)
@settings(max_examples=250, deadline=None)
def test_a_conflict_is_minimal(host: dict[str, Any], request: dict[str, Any]) -> None:
    answer = ask(host, request)
    event(f"{len(answer['conflicts'])} conflicts")
    if len(answer["conflicts"]) != 1:
        return  # with several, dropping a member of one leaves the others
    for member in answer["conflicts"][0]["involves"]:
        if member == "host.arch" and "arch" not in host:
            continue  # taken as the usual one, so there is nothing to leave out
        smaller = ask(*drop(member, host, request))
        assert smaller["status"] == "planned", (answer["conflicts"], member, smaller["conflicts"])


@given(hosts, requests, st.data())
@settings(max_examples=150, deadline=None)
def test_knowing_more_of_a_host_makes_nothing_possible(
    host: dict[str, Any], request: dict[str, Any], data: st.DataObject
) -> None:
    facts = {
        "os": st.sampled_from(sorted(SYSTEMS)),
        "kernel": st.sampled_from(["5.15.0", "6.8.0", "7.0.0"]),
        "python": st.sampled_from(["3.9", "3.12"]),
        "driver": st.sampled_from(DRIVERS),
        "secure_boot": st.just(True),
        "nvswitch": st.just(True),
    }
    unknown = sorted(name for name in facts if name not in host)
    assume(unknown)
    name = data.draw(st.sampled_from(unknown))
    if ask(host, request)["status"] == "conflict":
        more = {**host, name: data.draw(facts[name])}
        assert ask(more, request)["status"] == "conflict"


@given(hosts, requests)
@settings(max_examples=60, deadline=None)
def test_the_same_question_has_the_same_answer_and_survives_printing(
    host: dict[str, Any], request: dict[str, Any]
) -> None:
    answer = ask(host, request)
    assert ask(json.loads(json.dumps(host)), json.loads(json.dumps(request))) == answer
    assert json.loads(json.dumps(answer)) == answer
    assert yaml.safe_load(yaml.safe_dump(answer)) == answer


_ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["newest", "auto", "RTX 3090", "10de:2204", "3.12"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "host",
                    "request",
                    "gpus",
                    "os",
                    "python",
                    "environments",
                    "name",
                    "frameworks",
                    "pytorch",
                    "keras",
                    "cuda",
                    "driver",
                    "version",
                    "compute_capability",
                    "x",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=14,
)


@given(_ANYTHING)
@settings(max_examples=400, deadline=None)
def test_no_input_of_any_shape_gives_anything_but_an_explanation(content: Any) -> None:
    explained: CompatError | None = None
    try:
        request, host = question(content, TABLES)
    except CompatError as error:
        explained = error
    if explained is None:
        assert plan(with_default_environments(request), host, today=TODAY)["status"] in ("planned", "conflict")
    else:
        assert explained.mistakes
        assert all(mistake.message for mistake in explained.mistakes)
