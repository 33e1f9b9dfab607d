# SPDX-License-Identifier: Apache-2.0
"""Takes what a run found out of all hosts, keeps it in the directory of the results, and makes the report of the lab.

Runs on the control node alone, once for all hosts, and asks none of them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.vars import transform_to_native_types

try:
    import gpu_report
except ImportError:  # not installed as a package: take it from the checkout that this file belongs to
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))
    import gpu_report  # noqa: F401 - to know whether it is found; what is used of it is named below

from gpu_report import store
from gpu_report.plain import mapping, mappings, text
from gpu_report.table import table


class ActionModule(ActionBase):
    """``lab_report: {results_dir: PATH, collect: true}``.

    ``collect: false`` takes nothing of this run and makes page and JUnit file from the files that are there. Returns
    ``changed``, ``changed_files``, ``table`` (text), ``statuses`` (host -> verdict, with what the lab's other hosts
    show), ``problems`` (host that did not pass -> why, and where more is said), ``report`` and ``junit`` (paths). Files
    of hosts that were only looked at again are written and count as no change. In check mode nothing is written.
    """

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False
    _VALID_ARGS = frozenset(("results_dir", "collect"))

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Bring the directory up to date."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "results_dir": {"type": "path", "required": True},
                "collect": {"type": "bool", "default": True},
            }
        )
        directory = Path(arguments["results_dir"]).resolve()
        dry_run = bool(self._task.check_mode)
        entries = self._entries(task_vars or {}, dry_run) if arguments["collect"] else {}
        try:
            saved = store.save(directory, entries, dry_run=dry_run)
            files, news = saved.files, saved.news or not (directory / store.PAGE).exists()
            if directory.is_dir() or not dry_run:
                if not arguments["collect"] and not store.read(directory).hosts:
                    raise store.ReportError(
                        f"{directory} holds no verdicts; a run of playbooks/validate.yml leaves some"
                    )
                made = store.make(directory, dry_run=dry_run)
                files, news = files + made, news or bool(made and not arguments["collect"])
        except store.ReportError as error:
            raise AnsibleActionFail(f"the report cannot be made: {error}") from error
        hosts = self._hosts(directory, entries, dry_run)
        result.update(
            changed=news,
            changed_files=files,
            table=table(
                {host.name: {**host.shown, **_reused(entries.get(host.name))} for host in hosts},
                {host.name: host.why for host in hosts if host.document is None},
            ),
            statuses={host.name: host.status for host in hosts},
            problems={host.name: problem(host, directory) for host in hosts if host.status not in ("PASS", "WARN")},
            report=str(directory / store.PAGE),
            junit=str(directory / store.JUNIT),
        )
        return result

    def _entries(self, task_vars: Mapping[str, Any], dry_run: bool) -> dict[str, store.Entry]:
        """Return what this run has to say of each of its hosts."""
        hostvars = task_vars["hostvars"]
        entries = {}
        for name in map(str, task_vars["ansible_play_hosts_all"]):
            known = hostvars[name]
            document = _native(known.get("validation_verdict")) or None
            if dry_run and document is None:
                continue  # in check mode nobody is judged, and what is there still holds
            entries[name] = store.Entry(document, plan_file(name, known, document))
        return entries

    def _hosts(self, directory: Path, entries: Mapping[str, store.Entry], dry_run: bool) -> list[store.Host]:
        """Return the hosts of this run, compared with all that the directory knows; without any of them, all hosts."""
        there = store.read(directory).hosts if directory.is_dir() else []
        if not entries:
            return there
        known = {host.name: host for host in there}
        if dry_run:
            known |= {name: store.Host(name, entry.document, plan=entry.plan) for name, entry in entries.items()}
        lab = store.compared(list(known.values()))
        return [host for host in lab.hosts if host.name in entries]


def plan_file(name: str, known: Mapping[str, Any], document: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the content of ``<host>.plan.json``: what was planned for a host, why, and why it has no verdict.

    Args:
        name: the host's name in the inventory.
        known: its variables.
        document: its verdict, or None.
    """
    answer = mapping(mapping(_native(known.get("__gpulab_answers"))).get(name))
    facts = mapping(_native(mapping(known.get("ansible_facts")).get("gpu_facts")))
    system = mapping(facts.get("os"))
    plan = _native(known.get("gpulab_plan")) or answer.get("plan")
    gpus = [
        {key: gpu.get(key) for key in ("bus", "product", "compute_capability")} for gpu in mappings(facts.get("gpus"))
    ]
    return {
        "schema_version": "1",
        "host": name,
        "status": answer.get("status") or ("planned" if plan else "unknown"),
        "plan": plan,
        **{key: answer.get(key) or [] for key in ("reasons", "warnings", "conflicts")},
        "change": _native(known.get("gpulab_change")) or None,
        "os": system.get("name") or system.get("id"),
        "kernel": facts.get("kernel"),
        "gpus": gpus,
        "simulated": facts.get("simulated"),
        "no_verdict": "" if document else why_no_verdict(known, answer, bool(facts)),
    }


def problem(host: store.Host, directory: Path) -> str:
    """Return why a host did not pass, and which files say more: one without a verdict has no JSON of its own."""
    where = f"the report, {directory / store.PAGE}"
    if host.document is not None:
        where += f", and {directory / store.file_name(host.name)}.json"
    why = host.why or "its document does not say why"
    return f"{host.status} - {why.rstrip('.')}. More: {where}"


def why_no_verdict(known: Mapping[str, Any], answer: Mapping[str, Any], answered: bool) -> str:
    """Return why a run could not judge a host, as one sentence."""
    failed = text(_native(known.get("__gpulab_failed")), 600)
    if failed:
        return failed
    if answer.get("status") == "conflict":
        said = "; ".join(text(row.get("message"), 300) for row in mappings(answer.get("conflicts")))
        return text(f"it cannot be planned: {said}", 600)
    asked = mapping(_native(known.get("__gpulab_asked")))
    if not answered and asked.get("msg"):
        return text(asked["msg"], 600)
    if not answered:
        return "it was not asked: it could not be reached, or the run stopped before; the output of the run says which"
    return "the run ended on this host before it was judged; the output of the run says where"


def _native(value: Any) -> Any:
    """Return a variable without Ansible's tags."""
    return transform_to_native_types(value, redact=False) if value is not None else None


def _reused(entry: store.Entry | None) -> dict[str, Any]:
    """Return what only this run knows: whether a verdict of an earlier run was used again."""
    return {"reused": True} if entry and mapping(entry.document).get("reused") is True else {}
