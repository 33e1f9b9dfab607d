# SPDX-License-Identifier: Apache-2.0
"""The filters as templates use them: with tagged values, through Ansible's own templating."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader, init_plugin_loader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module", autouse=True)
def _plugins() -> None:
    init_plugin_loader([])
    filter_loader.add_directory(str(ROOT / "filter_plugins"))


def template(expression: str, text: str, **extra: Any) -> Any:
    """Template ``expression`` with the variables of a YAML text, tagged as in an inventory."""
    loader = DataLoader()
    variables = loader.load(text) | extra
    return Templar(loader=loader, variables=variables).template(trust_as_template("{{ " + expression + " }}"))


WISH = "gpu_stack: {environments: [{name: torch, frameworks: {pytorch: newest}}]}"


def test_validate_returns_plain_values() -> None:
    answer = template("gpu_stack | gpu_compat_validate", WISH)
    assert yaml.safe_load(yaml.safe_dump(answer))["profile"] == "auto"


def test_validate_explains_mistakes_without_naming_internal_types() -> None:
    with pytest.raises(AnsibleError) as caught:
        template(
            "gpu_stack | gpu_compat_validate",
            "gpu_stack: {environments: [{name: a, python: 3.10, frameworks: {pytorch: newest}}]}",
        )
    assert "environments[0].python: 3.1 is a number" in str(caught.value)
    assert "_Ansible" not in str(caught.value)


GPU_HOST = "{os: ubuntu2404, arch: x86_64, kernel: 6.8.0-45-generic, gpus: [GTX 1080 Ti], python: '3.12'}"
LAB = f"""
hosts: [gpu01, gpu02, gpu03, gpu04]
hostvars:
  gpu01: {{gpu_host: {GPU_HOST}, gpu_stack: {{environments: [{{name: torch, frameworks: {{pytorch: newest}}}}]}}}}
  gpu02: {{gpu_host: {GPU_HOST}, gpu_stack: {{environments: [{{name: torch, frameworks: {{pytorch: ">=2.15"}}}}]}}}}
  gpu03: {{gpu_stack: {{environments: [{{name: torch, frameworks: {{pytorch: newest}}}}]}}}}
  gpu04: {{gpu_stack: {{environments: [{{name: torch, frameworks: {{pytorch: newest}}}}]}}}}
"""


def test_a_fleet_is_planned_from_facts_from_declarations_or_not_at_all(facts: dict[str, Any]) -> None:
    loader = DataLoader()
    variables = loader.load(LAB)
    variables["hostvars"]["gpu04"]["ansible_facts"] = {"gpu_facts": facts}
    templar = Templar(loader=loader, variables=variables)
    expression = "{{ hosts | gpu_compat_fleet(hostvars, unanswered={'gpu03': 'no route to host'}) }}"
    answers = templar.template(trust_as_template(expression))
    assert {host: (answer["facts"], answer["status"]) for host, answer in answers.items()} == {
        "gpu01": ("declared", "planned"),
        "gpu02": ("declared", "conflict"),
        "gpu03": ("none", "conflict"),
        "gpu04": ("asked", "planned"),
    }
    assert answers["gpu01"]["plan"]["driver"]["branch"] == "580"
    lines = template("answers | gpu_compat_refusals", "{}", answers=answers)
    assert [line.split(":")[0] for line in lines] == ["gpu02", "gpu03"]
    assert lines[0].endswith("[gpu_arch_vs_torch_wheel]")
    assert "no route to host" in lines[1]
    text = template("answers | gpu_compat_text", "{}", answers=answers)
    assert "gpu01 (declared in the inventory, not seen on the host): planned" in text
    assert text.endswith("2 of 4 hosts can be planned; not: gpu02, gpu03")


def test_one_driver_branch_for_all_hosts_where_it_is_asked_for() -> None:
    lab = """
    hosts: [old, new]
    hostvars:
      old: {gpu_host: {gpus: [V100]}, gpu_stack: &stack {environments: [{name: torch, frameworks: {pytorch: newest}}]}}
      new: {gpu_host: {gpus: [L4]}, gpu_stack: *stack}
    """
    free = template("hosts | gpu_compat_fleet(hostvars)", lab)
    assert [free[host]["plan"]["driver"]["branch"] for host in ("old", "new")] == ["580", "595"]
    same = template("hosts | gpu_compat_fleet(hostvars, uniform=true)", lab)
    assert [same[host]["plan"]["driver"]["branch"] for host in ("old", "new")] == ["580", "580"]
    lab = lab.replace("[L4]", "[RTX 5090]").replace("[V100]", "[K80]")
    none = template("hosts | gpu_compat_fleet(hostvars, uniform=true)", lab)
    assert none["new"]["conflicts"][0]["id"] == "mixed_gpus_no_common_driver"


def test_mistakes_in_requests_declarations_and_the_labs_rows_are_listed_together() -> None:
    lab = """
    hosts: [gpu01, gpu02]
    hostvars:
      gpu01: &host {gpu_stack: {profil: gpu}, gpu_host: {arhc: x86_64}}
      gpu02: *host
    """
    lines = template("hosts | gpu_compat_check(hostvars)", lab)
    assert lines[0].startswith("gpu01, gpu02: gpu_stack.profil: unknown key")
    assert lines[-1].startswith("gpu01, gpu02: gpu_host.arhc: unknown key; did you mean 'arch'?")
    lines = template(
        "hosts | gpu_compat_check(hostvars)", lab.replace("{gpu_s", "{gpulab_compat_overlay: {gpu: {}}, gpu_s")
    )
    assert lines[-1].startswith("gpulab_compat_overlay.gpu: unknown")
    lines = template("hosts | gpu_compat_check(hostvars)", lab.replace("{gpu_s", "{gpulab_uniform_driver: Ture, gpu_s"))
    assert "gpulab_uniform_driver: must be true or false, but is 'Ture'" in lines
    lines = template("hosts | gpu_compat_check(hostvars)", lab.replace("{gpu_s", '{gpulab_uniform_driver: "no", gpu_s'))
    assert not any("must be true" in line for line in lines)


def test_rows_of_the_lab_lie_over_the_tables_and_mistakes_in_them_are_told() -> None:
    lab = """
    hosts: [gpu01]
    hostvars:
      gpu01: {gpu_host: {gpus: ["10de:ffff"]}, gpu_stack: {environments: [{name: t, frameworks: {pytorch: newest}}]}}
    row: {name: My GPU, pci: ["10de:ffff"], architecture: Ada, compute_capability: "8.9", class: geforce, source: [us]}
    """
    assert template("hosts | gpu_compat_fleet(hostvars)", lab)["gpu01"]["conflicts"][0]["id"] == "unknown_gpu"
    known = template("hosts | gpu_compat_fleet(hostvars, overlay={'gpus': {'products': [row]}})", lab)
    assert known["gpu01"]["status"] == "planned"
    with pytest.raises(AnsibleError, match=r"gpus\.products\[0\]\.clas: unknown key; did you mean 'class'"):
        template(
            "hosts | gpu_compat_fleet(hostvars, overlay={'gpus': {'products': [row | combine({'clas': 1})]}})", lab
        )


def test_a_mistake_in_a_declared_host_names_host_and_key() -> None:
    lab = "{hosts: [gpu01], hostvars: {gpu01: {gpu_host: {gpus: [GTX 1080 Tii]}, gpu_stack: {}}}}"
    with pytest.raises(AnsibleError, match=r"gpu01: gpu_host\.gpus\[0\]: no GPU called 'GTX 1080 Tii'"):
        template("hosts | gpu_compat_fleet(hostvars)", lab)


def test_plan_change_and_provided(facts: dict[str, Any]) -> None:
    answer = template("gpu_stack | gpu_compat_plan(facts)", WISH, facts=facts)
    assert answer["status"] == "planned"
    again = {"planned": answer["plan"], "facts": facts}
    assert template("planned | gpu_compat_change(facts)", "{}", **again)["environments"][0]["name"] == "torch"
    assert template("planned | gpu_compat_provided(facts)", "{}", **again)["absent"] == ["torch"]
    assert template("planned | gpu_compat_change(facts)", "{}", **again)["driver"] is None


GPU_FACTS = {
    "gpus": [{"bus": "0000:01:00.0", "vendor": "0x10de", "device": "0x2204"}],
    "driver": {"loaded_version": None, "module": None, "installed_version": None, "packages": {}, "reason": "none"},
}


def test_the_labs_settings_are_part_of_what_a_driver_is_set_up_with(facts: dict[str, Any]) -> None:
    text = "settings: {nvidia_driver_persistence: false}"
    here = {**facts, **GPU_FACTS}
    answer = template("gpu_stack | gpu_compat_plan(facts)", WISH, facts=here)
    again = {"planned": answer["plan"], "facts": here}
    plain = template("planned | gpu_compat_change(facts)", text, **again)["driver"]
    other = template("planned | gpu_compat_change(facts, driver_settings=settings)", text, **again)["driver"]
    assert "services" in [row["step"] for row in plain["steps"]]
    assert "services" not in [row["step"] for row in other["steps"]]
    assert plain["digest"] != other["digest"]


def test_the_doctor_finds_and_tells(facts: dict[str, Any]) -> None:
    here = {**facts, **GPU_FACTS}
    answer = template("gpu_stack | gpu_compat_plan(facts)", WISH, facts=here)
    expression = "planned | gpu_compat_doctor(facts, planned | gpu_compat_change(facts))"
    found = template(expression, "{}", planned=answer["plan"], facts=here)
    assert [row["id"] for row in found] == ["driver_missing"]
    text = template("found | gpu_compat_doctor_text", "{}", found={"gpu01": found})
    assert "./provision --limit gpu01" in text
    assert template("none | gpu_compat_doctor(facts)", "{}", facts=here) == []
    whole = template("answer | gpu_compat_doctor(facts, driver_settings={})", "{}", answer=answer, facts=here)
    assert whole == found
    bare = {**here, "container": "docker"}
    answer = template("gpu_stack | gpu_compat_plan(facts)", WISH, facts=bare)
    found = template("answer | gpu_compat_doctor(facts)", "{}", answer=answer, facts=bare)
    assert [row["id"] for row in found] == ["cannot_plan"]


TOOLKIT = "gpu_stack: {cuda_toolkits: ['13.0'], cuda_source: redist, environments: []}"
NO_CUDA: dict[str, Any] = {
    "cuda": [],
    "toolkit_store": [],
    "records": {role: {"noted": None, "found": {}, "links": {}} for role in ("cuda_toolkit", "cudnn")},
}


def test_the_settings_of_every_role_are_taken_from_the_same_variables(facts: dict[str, Any]) -> None:
    here = {**facts, **NO_CUDA}
    planned = template("gpu_stack | gpu_compat_plan(facts)", TOOLKIT, facts=here)["plan"]
    expression = "planned | gpu_compat_change(facts, driver_settings=settings)"
    settings = {
        "none": "settings: {}",
        "defaults": "settings: {cuda_toolkit_sudo: true, cudnn_hold: true, inventory_hostname: gpu01}",
        "lab": "settings: {cuda_toolkit_sudo: false, cudnn_hold: false, cudnn_change: {}, nvidia_driver_hold: false}",
    }
    found = {name: template(expression, text, planned=planned, facts=here) for name, text in settings.items()}
    assert found["none"]["cuda_toolkit"]["toolkits"][0]["version"] == "13.0.3"
    for role in ("cuda_toolkit", "cudnn"):
        assert found["none"][role] == found["defaults"][role]
        assert found["none"][role]["digest"] != found["lab"][role]["digest"]


def test_the_removal_of_toolkits_is_told_for_both_or_one(facts: dict[str, Any]) -> None:
    store = [
        {"product": product, "path": f"/opt/gpulab/toolkits/{product}-1", "state": "complete", "links": []}
        for product in ("cuda", "cudnn")
    ]
    here = {**facts, "toolkit_store": store}
    both = template("facts | gpu_compat_removal_cuda", "{}", facts=here)
    one = template("facts | gpu_compat_removal_cuda('cudnn')", "{}", facts=here)
    assert [len(found["archives"]) for found in (both, one)] == [2, 1]
    assert template("facts | gpu_compat_removal_cuda", "{}", facts=facts)["steps"] == []


def test_the_removal_is_told_before_it_is_made(facts: dict[str, Any]) -> None:
    driver = {**GPU_FACTS["driver"], "packages": {"libnvidia-ml1": "1", "nvidia-container-toolkit": "1"}}
    found = template("facts | gpu_compat_removal", "{}", facts={**facts, "driver": driver})
    assert found["packages"] == ["libnvidia-ml1"]


def test_a_container_is_planned_by_what_is_loaded_below_it_unless_it_stands_for_a_machine(
    facts: dict[str, Any],
) -> None:
    here = {**facts, **GPU_FACTS, "container": "docker"}
    plain = template("gpu_stack | gpu_compat_plan(facts)", WISH, facts=here)
    assert plain["conflicts"][0]["id"] == "no_driver"
    own = template("gpu_stack | gpu_compat_plan(facts, container_is_host=true)", WISH, facts=here)
    assert own["plan"]["driver"]["source"] == "nvidia_repo"
    hosts = {
        name: {"ansible_facts": {"gpu_facts": here}, "gpu_stack": {"environments": []}, **more}
        for name, more in {"c": {}, "m": {"nvidia_driver_manage_kernel_module": "true"}}.items()
    }
    for words, expected in (
        ("", ["conflict", "planned"]),
        (", container_is_host=true", ["planned", "planned"]),
        (", container_is_host=false", ["conflict", "conflict"]),
    ):
        answers = template(f"['c', 'm'] | gpu_compat_fleet(hosts{words})", "{}", hosts=hosts)
        assert [answers[name]["status"] for name in ("c", "m")] == expected


def test_check_names_host_file_and_line(tmp_path: Path) -> None:
    inventory = tmp_path / "all.yml"
    inventory.write_text(
        "gpu_stack:\n  profile: auto\n  environments:\n"
        "    - name: torch\n      python: 3.10\n      frameworks: {pytorch: newest}\n"
    )
    loader = DataLoader()
    stack = loader.load_from_file(str(inventory))
    templar = Templar(
        loader=loader, variables={"hostvars": {"gpu01": stack, "gpu02": stack}, "hosts": ["gpu01", "gpu02"]}
    )
    lines = templar.template(trust_as_template("{{ hosts | gpu_compat_check(hostvars) }}"))
    assert len(lines) == 1
    assert lines[0].startswith("gpu01, gpu02: gpu_stack.environments[0].python: 3.1 is a number")
    assert lines[0].endswith(f"[{inventory}:5]")


def test_every_filter_has_documentation_that_ansible_doc_can_read() -> None:
    for plugin in ("cuda_filters", "gpu_compat_filters"):
        names = [path.stem for path in (ROOT / "filter_plugins").glob("*.yml")]
        source = (ROOT / "filter_plugins" / f"{plugin}.py").read_text()
        registered = [
            line.split('"')[1]
            for line in source.splitlines()
            if line.startswith('            "') or 'return {"' in line
        ]
        assert registered
        assert set(registered) <= set(names)
