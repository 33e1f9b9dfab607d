#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Make one environment in steps that can each be seen, and repeated after an interruption."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_environment
author: gpulab contributors
version_added: "0.1.0"
short_description: lock, install, prove and activate one environment
description:
  - An environment is made as a new generation beside the old one and becomes visible in one atomic step, after its
    imports and dependencies have been checked. Until then, and whatever interrupts it, users keep the old one.
  - O(step=lock) resolves exact versions with hashes, trying one source of PyTorch after the other.
  - O(step=begin) removes what an interrupted run left of this environment, looks at the free space and returns the
    prefix for the new generation, which the role C(python) then makes.
  - O(step=install) installs just that lock into the prefix.
  - O(step=finish) checks imports and dependencies, writes the manifest, switches the link, removes old generations that
    nobody uses.
  - O(step=tool) is for a manager that comes from the package index (virtualenv). It installs O(lock_file) into
    C(tools/<name>), once.
options:
  step:
    description: which step to take.
    type: str
    choices: [lock, begin, install, finish, tool]
    required: true
  base_dir:
    description: where this project keeps its files on the host.
    type: path
    required: true
  name:
    description: name of the environment.
    type: str
    required: true
  prefix:
    description: the generation that is being made, as returned by O(step=begin).
    type: path
  interpreter:
    description: a Python of the planned version; empty where it is not there before the environment is (conda).
    type: str
    default: ""
  free_mib:
    description: free space in MiB below which O(step=begin) refuses to start.
    type: int
    default: 2048
  lock_file:
    description: for O(step=tool), a requirements file with hashes on the host.
    type: path
  uv:
    description: path of the uv program.
    type: path
  installer:
    description: what installs the lock; V(pip) is the environment's own.
    type: str
    choices: [uv, pip]
    default: uv
  plan:
    description: the environment as planned by the filter P(gpu_compat_plan#filter).
    type: dict
    default: {}
  package_index:
    description: where packages come from; empty values mean the host's own pip configuration.
    type: dict
    default: {}
    suboptions:
      use_host_configuration: {type: bool, default: true, description: whether to read the host's pip configuration.}
      index_url: {type: str, default: "", description: the package index.}
      extra_index_urls: {type: list, elements: str, default: [], description: further indexes.}
      index_strategy:
        description:
          - V(first-index) takes a package from the first index that knows it, further indexes before the main one.
          - V(best-match) takes the best version of all indexes, as pip does.
          - V(auto) is V(first-index) where O(package_index.extra_index_urls) is given, else V(best-match).
        type: str
        choices: [auto, first-index, best-match]
        default: auto
      find_links: {type: list, elements: str, default: [], description: directories or pages with wheels.}
      wheel_dir: {type: str, default: "", description: a directory of wheels on the host; nothing else is asked.}
      ca_bundle: {type: str, default: "", description: file with the certificates to trust.}
      proxy: {type: str, default: "", description: address of a proxy.}
      pytorch_index_url: {type: str, default: "", description: address of PyTorch's indexes without the tag.}
  keep_generations:
    description: how many older generations O(step=finish) keeps.
    type: int
    default: 1
  timeout:
    description: bound on each command in seconds.
    type: int
    default: 3600
attributes:
  check_mode:
    support: full
    description:
      - O(step=lock) resolves where the tools for it are on the host already; the other steps tell what they would do.
"""

EXAMPLES = r"""
- name: Lock the packages
  gpu_environment:
    step: lock
    base_dir: /opt/gpulab
    name: torch
    interpreter: /usr/bin/python3.12
    uv: /opt/gpulab/tools/uv-0.13.9/uv
    plan: "{{ planned }}"
"""

RETURN = r"""
prefix: {description: the generation., returned: "O(step=begin)", type: str}
removed: {description: generations that were removed., returned: "O(step=begin) and O(step=finish)", type: list}
available: {description: whether any source can give the packages., returned: "O(step=lock)", type: bool}
tried: {description: sources tried and why each did not serve., returned: "O(step=lock)", type: list}
packages: {description: "names, versions and origins in the lock.", returned: "O(step=lock)", type: list}
versions: {description: version of each framework., returned: "O(step=lock) and O(step=finish)", type: dict}
"""

import datetime
import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.environment_store import (
    LOCK,
    MANIFEST,
    describe,
    free_bytes,
    generations,
    link_path,
    normalise,
    read_manifest,
)
from ansible.module_utils.package_index import PackageIndex, explain, without_secrets

MIB = 1024 * 1024


class Failed(Exception):
    """A step cannot be done; the message is for people."""


def main():
    index_options = dict(
        use_host_configuration=dict(type="bool", default=True),
        index_url=dict(type="str", default="", no_log=True),
        extra_index_urls=dict(type="list", elements="str", default=[], no_log=True),
        index_strategy=dict(type="str", choices=["auto", "first-index", "best-match"], default="auto"),
        find_links=dict(type="list", elements="str", default=[]),
        wheel_dir=dict(type="str", default=""),
        ca_bundle=dict(type="str", default=""),
        proxy=dict(type="str", default="", no_log=True),
        pytorch_index_url=dict(type="str", default=""),
    )
    module = AnsibleModule(
        argument_spec=dict(
            step=dict(type="str", choices=["lock", "begin", "install", "finish", "tool"], required=True),
            base_dir=dict(type="path", required=True),
            name=dict(type="str", required=True),
            prefix=dict(type="path"),
            interpreter=dict(type="str", default=""),
            free_mib=dict(type="int", default=2048),
            lock_file=dict(type="path"),
            uv=dict(type="path"),
            installer=dict(type="str", choices=["uv", "pip"], default="uv"),
            plan=dict(type="dict", default={}),
            package_index=dict(type="dict", default={}, options=index_options, apply_defaults=True),
            keep_generations=dict(type="int", default=1),
            timeout=dict(type="int", default=3600),
        ),
        required_if=[("step", "lock", ("plan", "uv")), ("step", "tool", ("lock_file", "uv"))]
        + [("step", step, ("prefix", "plan", "uv")) for step in ("install", "finish")],
        supports_check_mode=True,
    )
    os.umask(0o022)  # an environment is for all users to read, whatever the umask of whoever makes it
    step = {"begin": begin, "lock": lock, "install": install, "finish": finish, "tool": tool}[module.params["step"]]
    try:
        module.exit_json(**step(module.params, module.check_mode))
    except Failed as error:
        module.fail_json(msg="{}: {}".format(module.params["name"], error))
    except OSError as error:
        module.fail_json(msg="{}: {}".format(module.params["name"], explain(str(error))))


def begin(params, check_mode):
    """Make room for a new generation; nothing that works is removed."""
    base_dir, name = params["base_dir"], params["name"]
    found = describe(base_dir, name)
    if found and found["state"] == "foreign":
        raise Failed(
            f"{link_path(base_dir, name)} exists and was not made by this project. It is left as it is: name the "
            "environment otherwise, or move that away"
        )
    half_made = [path for path in generations(base_dir, name) if read_manifest(path) is None]
    free = free_bytes(base_dir) // MIB
    if not half_made and free < params["free_mib"]:
        raise Failed(
            f"only {free} MiB are free in {base_dir}, and an environment needs about {params['free_mib']} MiB. Free "
            "some space, or set gpulab_base_dir to a larger disk (python_environment_free_mib changes the limit)"
        )
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    prefix = os.path.join(base_dir, "generations", f"{name}-{stamp}")
    if not check_mode:
        for path in half_made:
            # A killed controller can leave its last step running on the host; what that leaves is for the next run.
            if not _in_use(path):
                shutil.rmtree(path)
        for directory in ("envs", "generations", "cache"):
            os.makedirs(os.path.join(base_dir, directory), exist_ok=True)
    return dict(changed=True, prefix=prefix, removed=half_made)


def lock(params, check_mode):
    """Resolve the plan into exact versions with hashes, from the first source that can give all of them."""
    if check_mode and not os.path.exists(params["uv"]):
        return dict(changed=False, available=True, tried=[], packages=[], versions={})
    plan, index = params["plan"], PackageIndex(params["package_index"], os.environ)
    tried = []
    for source in _torch_sources(plan, params["package_index"], index):
        text, problem = _resolve(params, index, source, check_mode)
        if problem is None:
            packages = _parse_lock(text)
            problem = _cuda_in_cpu_lock(packages, plan["forbidden"])
        if problem is None:
            if not check_mode:
                _keep_resolved(params, text, source)
            # Nothing a user can see has changed yet: that is for the steps which follow.
            return dict(
                changed=False,
                available=True,
                tried=tried,
                packages=packages,
                versions=_versions(plan, packages),
            )
        tried.append("{}: {}".format(without_secrets(source["label"]), problem))
    if plan.get("optional"):
        return dict(changed=False, available=False, tried=tried, packages=[], versions={})
    raise Failed(
        "no source can give {}. Tried:\n{}\nGive a source that has them (dl_frameworks_find_links, "
        "dl_frameworks_wheel_dir or dl_frameworks_index_url), or mark the environment as optional: true".format(
            ", ".join(plan["resolve"]), "\n".join("- " + line for line in tried)
        )
    )


def install(params, check_mode):
    """Install the lock and nothing else."""
    if check_mode:
        return dict(changed=True)
    index, prefix = PackageIndex(params["package_index"], os.environ), params["prefix"]
    python = os.path.join(prefix, "bin", "python")
    resolved, source = _resolved(params)
    shutil.copyfile(resolved, os.path.join(prefix, LOCK))
    command = (
        [params["uv"], "pip", "install", "--python", python, *index.uv_options()]
        if params["installer"] == "uv"
        else [python, "-m", "pip", "install"]
    )
    command += ["--quiet", "--no-deps", "--require-hashes", "--requirement", os.path.join(prefix, LOCK)]
    if source["url"]:
        command += ["--find-links" if source["flat"] else "--extra-index-url", source["url"]]
    # Every file is held to its hash, so it may come from whichever index has it.
    code, output = _run(params, command, index, extra={"UV_INDEX_STRATEGY": "unsafe-best-match"})
    if code != 0:
        raise Failed(
            f"packages could not be installed: {explain(output)}. What works is untouched; run again when this is "
            "mended"
        )
    return dict(changed=True)


def finish(params, check_mode):
    """Prove that the new generation can be imported, describe it, make it the current one, tidy up."""
    if check_mode:
        return dict(changed=True, versions={}, removed=[])
    plan, prefix = params["plan"], params["prefix"]
    index = PackageIndex(params["package_index"], os.environ)
    code, output = _run(
        params, [params["uv"], "pip", "check", "--python", os.path.join(prefix, "bin", "python")], index
    )
    if code != 0:
        raise Failed(f"the installed packages do not fit together: {explain(output)}")
    imports = _import_all(params, index)
    with open(os.path.join(prefix, LOCK), encoding="utf-8") as stream:
        text = stream.read()
    packages = _parse_lock(text)
    manifest = dict(
        schema=1,
        state="complete",
        name=params["name"],
        digest=plan["digest"],
        made=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        manager=plan["manager"],
        python=plan["python"],
        keras_backend=plan["keras_backend"],
        frameworks=_versions(plan, packages),
        imports=imports,
        lock_sha256=hashlib.sha256(text.encode("utf-8")).hexdigest(),
        packages=packages,
    )
    _write(os.path.join(prefix, MANIFEST), json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    _open_to_readers(prefix)
    _switch(link_path(params["base_dir"], params["name"]), prefix)
    return dict(changed=True, versions=manifest["frameworks"], removed=_tidy(params))


def tool(params, check_mode):
    """Install a manager that comes from the package index; a marker written last tells which lock is installed."""
    prefix = os.path.join(params["base_dir"], "tools", params["name"])
    marker = os.path.join(prefix, "installed.sha256")
    if check_mode and not os.path.exists(params["lock_file"]):
        return dict(changed=True)
    with open(params["lock_file"], "rb") as stream:
        wanted = hashlib.sha256(stream.read()).hexdigest()
    if os.path.exists(marker):
        with open(marker, encoding="ascii") as stream:
            if stream.read().strip() == wanted:
                return dict(changed=False)
    if check_mode:
        return dict(changed=True)
    index = PackageIndex(params["package_index"], os.environ)
    for command in (
        [params["uv"], "venv", "--quiet", "--clear", prefix],
        [
            params["uv"],
            "pip",
            "install",
            "--quiet",
            "--require-hashes",
            *index.uv_options(),
            "--python",
            prefix,
            "--requirement",
            params["lock_file"],
        ],
    ):
        code, output = _run(params, command, index)
        if code != 0:
            raise Failed(f"the manager could not be installed: {explain(output)}")
    _open_to_readers(prefix)
    _write(marker, wanted + "\n")
    return dict(changed=True)


def _torch_sources(plan, options, index):
    """List where PyTorch and its companions may come from, best first; one without address if there is none."""
    if index.no_index:
        # Everything comes from the given files alone; what they hold for PyTorch is looked at in the lock.
        return [dict(label=f"wheel directory {', '.join(index.find_links)}", url="", flat=False)]
    anywhere = dict(label="the package index", url="", flat=False)
    if not plan["torch_packages"]:
        return [anywhere]
    tag = plan["frameworks"]["pytorch"]["wheel"]
    sources = []
    if options["pytorch_index_url"]:
        url = "{}/{}".format(options["pytorch_index_url"].rstrip("/"), tag)
        sources.append(dict(label=f"PyTorch's index {url}", url=url, flat=False))
    sources += [dict(label=f"find-links {place}", url=place, flat=True) for place in index.find_links]
    # The package index has one build of each release under the plain name; the plan says whether it is the planned one.
    return [*sources, anywhere] if plan["frameworks"]["pytorch"].get("on_package_index") else sources


def _keep_resolved(params, text, source):
    """Keep what was resolved for the step that installs it. The source may hold a password: owner only."""
    directory = os.path.join(params["base_dir"], "cache", "resolved")
    os.makedirs(directory, mode=0o700, exist_ok=True)
    _write(os.path.join(directory, params["name"] + ".lock"), text)
    _write(os.path.join(directory, params["name"] + ".json"), json.dumps(source))


def _resolved(params):
    """Return what :func:`_keep_resolved` kept: the path of the lock, and the source."""
    stem = os.path.join(params["base_dir"], "cache", "resolved", params["name"])
    try:
        with open(stem + ".json", encoding="utf-8") as stream:
            return stem + ".lock", json.load(stream)
    except (OSError, ValueError):
        raise Failed("nothing has been locked for this environment yet; run the step 'lock' first") from None


def _resolve(params, index, source, check_mode):
    """Return ``(lock text, None)``, or ``(None, problem)``."""
    plan = params["plan"]
    project = [
        "[project]",
        'name = "environment"',
        'version = "0"',
        'requires-python = ">=3.8"',
        # What the plan names exactly and what may stand in for it where a source does not carry the newest release yet.
        "dependencies = {}".format(json.dumps(plan["resolve"])),
        "[tool.uv]",
        "constraint-dependencies = {}".format(json.dumps(plan["constraints"])),
    ]
    if source["url"]:
        # An explicit index serves these packages alone, and nothing else can serve them.
        project += [
            "[[tool.uv.index]]",
            'name = "pytorch"',
            "url = {}".format(json.dumps(source["url"])),
            "explicit = true",
        ]
        project += ['format = "flat"'] if source["flat"] else []
        project += ["[tool.uv.sources]"] + [f'{name} = {{ index = "pytorch" }}' for name in plan["torch_packages"]]
    with tempfile.TemporaryDirectory(prefix="gpulab-") as scratch:
        _write(os.path.join(scratch, "pyproject.toml"), "\n".join(project) + "\n")
        target = os.path.join(scratch, "lock")
        command = [
            params["uv"],
            "pip",
            "compile",
            "pyproject.toml",
            "--quiet",
            "--no-header",
            "--generate-hashes",
            "--emit-index-annotation",
            "--output-file",
            target,
            "--python-version",
            plan["python"],
        ]
        command += index.uv_options() + (["--python", params["interpreter"]] if params["interpreter"] else [])
        # In check mode even the cache stays as it is.
        extra = {"UV_CACHE_DIR": os.path.join(scratch, "cache")} if check_mode else {}
        code, output = _run(params, command, index, cwd=scratch, extra=extra)
        if code != 0:
            return None, explain(output)
        with open(target, encoding="utf-8") as stream:
            return without_secrets(stream.read()), None


def _parse_lock(text):
    """Return ``[{name, version, index, sha256: [...]}]`` of a lock."""
    packages = []
    for line in text.splitlines():
        pinned = re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", line)
        if pinned:
            packages.append(dict(name=pinned.group(1), version=pinned.group(2), index="", sha256=[]))
        elif packages:
            packages[-1]["sha256"] += re.findall(r"--hash=sha256:([0-9a-f]{64})", line)
            origin = re.match(r"\s+# from (\S+)", line)
            if origin:
                packages[-1]["index"] = origin.group(1)
    return packages


def _cuda_in_cpu_lock(packages, forbidden):
    """Say what is wrong with a CPU lock that would fetch CUDA libraries, or return None."""
    found = (
        [package["name"] for package in packages if package["name"].startswith(tuple(forbidden))] if forbidden else []
    )
    if not found:
        return None
    return "it would bring CUDA libraries ({}{}) to a CPU host".format(
        ", ".join(found[:3]),
        " …" if len(found) > 3 else "",
    )


def _versions(plan, packages):
    """Return the version of each framework in the lock."""
    by_name = {normalise(package["name"]): package["version"] for package in packages}
    return {name: by_name.get(normalise(row["package"]), "") for name, row in plan["frameworks"].items()}


def _import_all(params, index):
    """Import every framework, each in a process of its own, and return the versions they report."""
    seen = {}
    backend = params["plan"]["keras_backend"]
    for name in params["plan"]["imports"]:
        command = [
            os.path.join(params["prefix"], "bin", "python"),
            "-I",
            "-c",
            f"import {name}; print({name}.__version__)",
        ]
        code, output = _run(params, command, index, extra={"KERAS_BACKEND": backend} if backend else {})
        if code != 0:
            raise Failed(f"{name} is installed but cannot be imported: {explain(output)}")
        seen[name] = output.strip().splitlines()[-1]
    return seen


def _run(params, command, index, cwd="/", extra=None):
    """Run a command bounded in time; return its exit code and everything it printed."""
    cache = os.path.join(params["base_dir"], "cache")
    if not extra or "UV_CACHE_DIR" not in extra:
        # For its owner alone: uv's lock files are writable to all, and whoever held one would stall us.
        os.makedirs(os.path.join(cache, "uv"), exist_ok=True)
        os.chmod(os.path.join(cache, "uv"), 0o700)
    environ = index.environment(dict(os.environ))
    environ.update(
        UV_CACHE_DIR=os.path.join(cache, "uv"),
        PIP_CACHE_DIR=os.path.join(cache, "pip"),
        UV_PYTHON_DOWNLOADS="never",
        UV_NO_PROGRESS="1",
        # Keras writes its settings on import, otherwise into the home directory.
        KERAS_HOME=os.path.join(cache, "keras"),
        TF_CPP_MIN_LOG_LEVEL="3",
        LC_ALL="C.UTF-8",
    )
    environ.pop("PYTHONPATH", None)
    environ.update(extra or {})
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=params["timeout"],
        )
    except subprocess.TimeoutExpired:
        raise Failed("'{}' was stopped after {} s".format(" ".join(command[:3]), params["timeout"])) from None
    return done.returncode, done.stdout.decode("utf-8", "replace")


def _write(path, text):
    """Write a file so that it is there as a whole or not at all."""
    with open(path + ".part", "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(path + ".part", path)


def _open_to_readers(prefix):
    """Let every user read the generation and nobody but its owner write, whatever umask the tools ran under."""
    for directory, _, names in os.walk(prefix):
        for path in [directory] + [os.path.join(directory, name) for name in names]:
            if os.path.islink(path):
                continue
            mode = os.stat(path).st_mode
            wanted = (mode & ~0o022) | 0o044 | (0o011 if mode & 0o100 else 0)
            if wanted != mode:
                os.chmod(path, wanted & 0o7777)


def _switch(link, prefix):
    """Point the link at the new generation in one step."""
    temporary = link + ".new"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    os.symlink(os.path.relpath(prefix, os.path.dirname(link)), temporary)
    os.rename(temporary, link)


def _tidy(params):
    """Remove old generations beyond those to keep, except those that a running process uses."""
    older = [path for path in generations(params["base_dir"], params["name"]) if path != params["prefix"]]
    candidates = older[: max(0, len(older) - params["keep_generations"])]
    removed = [path for path in candidates if not _in_use(path)]
    for path in removed:
        shutil.rmtree(path)
    return removed


def _in_use(prefix):
    """Tell whether a process runs from, or has mapped, a file below ``prefix``."""
    needle = (prefix.rstrip("/") + "/").encode()
    for maps in glob.glob("/proc/[0-9]*/maps") + glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(maps, "rb") as stream:
                if needle in stream.read():
                    return True
        except OSError:
            continue
    return False


if __name__ == "__main__":
    main()
