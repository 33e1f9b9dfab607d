#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""CUDA toolkits and cuDNN from NVIDIA's archives, in steps that can be seen, and repeated after an interruption."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cuda_archive
author: gpulab contributors
version_added: "0.1.0"
short_description: make a CUDA toolkit or cuDNN from NVIDIA's archives
description:
  - Takes archives that a manifest C(redistrib_<version>.json) lists, holds each to its SHA-256, and unpacks them into a
    new generation below C(toolkits/). Users see it in one atomic step, by a link; until then, and whatever interrupts
    it, they keep what they had.
  - O(step=look) reads the manifest, says what would be fetched, and refuses what cannot work before anything is done.
  - O(step=fetch) brings one archive into C(cache/redist/). An interrupted download goes on where it stopped.
  - O(step=unpack) makes the generation. Its manifest C(archive.json) is written last; a generation without it is
    half-made, and the next run removes it.
  - O(step=activate) leads a link to a generation and removes older ones that nobody uses.
  - O(step=default) leads the link without a version to one toolkit.
  - O(step=links) makes cuDNN's headers and libraries part of toolkits, by links.
  - O(step=remove) removes links and generations of ours and nothing else.
options:
  step:
    description: which step to take.
    type: str
    choices: [look, fetch, unpack, activate, default, links, remove]
    required: true
  base_dir:
    description: where this project keeps its files on the host.
    type: path
    required: true
  manifest:
    description:
      - address of the manifest, https or file, or an absolute path on the host.
      - A user name and password in it are used for that server alone and never shown. O(step=fetch) needs it only for
        these.
    type: str
    default: ""
  product:
    description: what the manifest must be for.
    type: str
    choices: [cuda, cudnn]
  version:
    description: the release, as C(12.9.1) of CUDA or C(9.13.0.50) of cuDNN.
    type: str
  platform:
    description: the platform by the name that the manifest has for it.
    type: str
  components:
    description: which components, by the names in the manifest.
    type: list
    elements: str
    default: []
  variant:
    description: which variant, where the manifest has several, as C(cuda12) of cuDNN.
    type: str
    default: ""
  cuda_major:
    description: for which CUDA this cuDNN is.
    type: int
  digest:
    description: what tells one planned content from another; a complete generation with the same one is taken as it is.
    type: str
    default: ""
  archive:
    description: one row of RV(archives).
    type: dict
    suboptions: &row
      component: {type: str, required: true, description: name of the component.}
      title: {type: str, default: "", description: what the component is called.}
      license: {type: str, default: "", description: the licence by name.}
      version: {type: str, required: true, description: version of the component.}
      file: {type: str, required: true, description: name of the file.}
      url: {type: str, required: true, description: where it lies.}
      sha256: {type: str, required: true, description: its checksum.}
      size: {type: int, required: true, description: its bytes.}
      here: {type: bool, default: false, description: whether it was in the cache.}
  archives:
    description: RV(archives) as O(step=look) returned it.
    type: list
    elements: dict
    default: []
    suboptions: *row
  generation:
    description: a generation below C(toolkits/).
    type: path
  link:
    description: the link that users know.
    type: path
  target:
    description: the toolkit that is to be the default.
    type: path
  replace_foreign_link:
    description: whether O(step=default) may replace a link that leads to a toolkit which is not ours.
    type: bool
    default: false
  toolkits:
    description: toolkits that get cuDNN's links, by the paths that people use.
    type: list
    elements: path
    default: []
  generations:
    description: generations to remove.
    type: list
    elements: path
    default: []
  links:
    description:
      - for O(step=remove), links to remove where they lead into C(toolkits/).
      - for O(step=links), links that earlier runs made; those in toolkits that are not named any more are removed.
    type: list
    elements: path
    default: []
  keep_downloads:
    description: whether the archives stay in the cache after O(step=unpack).
    type: bool
    default: true
  ca_bundle:
    description: file with the certificates to trust instead of the host's own.
    type: path
    default: ""
  proxy:
    description: address of a proxy. Empty means what the environment says.
    type: str
    default: ""
  insecure_http:
    description: whether addresses may be plain http. Archives are held to the manifest, but nothing protects that.
    type: bool
    default: false
  free_factor:
    description: how many times their own size archives need when they are unpacked.
    type: float
    default: 4
  timeout:
    description: bound on one download in seconds.
    type: int
    default: 3600
attributes:
  check_mode:
    support: full
    description: O(step=look) works as ever; the other steps tell what they would do.
"""

EXAMPLES = r"""
- name: See what the toolkit consists of
  cuda_archive:
    step: look
    base_dir: /opt/gpulab
    manifest: https://developer.download.nvidia.com/compute/cuda/redist/redistrib_12.9.1.json
    product: cuda
    version: 12.9.1
    platform: linux-x86_64
    components: [cuda_cccl, cuda_cudart, cuda_nvcc]
  register: looked

- name: Fetch its archives
  cuda_archive:
    step: fetch
    base_dir: /opt/gpulab
    archive: "{{ item }}"
  loop: "{{ looked.archives }}"
  loop_control:
    label: "{{ item.file }}"

- name: Unpack them
  cuda_archive:
    step: unpack
    base_dir: /opt/gpulab
    product: cuda
    version: 12.9.1
    archives: "{{ looked.archives }}"
    digest: 0a1b2c
  register: unpacked

- name: Let users have it
  cuda_archive:
    step: activate
    base_dir: /opt/gpulab
    link: /usr/local/cuda-12.9
    generation: "{{ unpacked.generation }}"
"""

RETURN = r"""
archives:
  description: "one row for each archive: component, title, license, version, file, url, sha256, size, here."
  returned: "O(step=look)"
  type: list
download_bytes: {description: bytes to fetch., returned: "O(step=look)", type: int}
unpack_bytes: {description: bytes that unpacking needs., returned: "O(step=look)", type: int}
free_bytes: {description: bytes that are free., returned: "O(step=look)", type: int}
label: {description: the release by the manifest's own name., returned: "O(step=look)", type: str}
insecure: {description: whether the manifest came without protection., returned: "O(step=look)", type: bool}
generation:
  description: the generation; with O(step=look) one that is complete already, or null.
  returned: "O(step=look) and O(step=unpack)"
  type: str
path: {description: the archive on the host., returned: "O(step=fetch)", type: str}
downloaded: {description: bytes that came., returned: "O(step=fetch)", type: int}
resumed: {description: bytes that an earlier run had brought., returned: "O(step=fetch)", type: int}
files: {description: how many files the generation has., returned: "O(step=unpack)", type: int}
previous:
  description: where the link led before, or null.
  returned: "O(step=activate) and O(step=default)"
  type: str
made: {description: links that were made., returned: "O(step=links)", type: list}
stale: {description: links of ours that were removed., returned: "O(step=links)", type: list}
links: {description: all links that are there now and where they lead., returned: "O(step=links)", type: dict}
removed:
  description: what was removed.
  returned: "O(step=unpack), O(step=activate), O(step=links) and O(step=remove)"
  type: list
kept:
  description: "older generations that are in use: path, why."
  returned: "O(step=activate) and O(step=links)"
  type: list
left: {description: "what is not ours and was left: path, why.", returned: "O(step=remove)", type: list}
"""

import concurrent.futures
import contextlib
import ctypes
import datetime
import fnmatch
import json
import math
import os
import re
import shutil

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.cuda_store import (
    MANIFEST,
    MIB,
    Failed,
    cache_path,
    describe_name,
    existing,
    explain,
    find_complete,
    free_bytes,
    generations,
    half_made,
    inside_store,
    is_alternative,
    is_ours,
    locked,
    new_generation,
    read_manifest,
    remove_generation,
    series_of,
    size_on_disk,
    store_path,
    switch,
    target_of,
    users_of,
    write,
)
from ansible.module_utils.redist_manifest import LIMIT, archives, check_release, parse
from ansible.module_utils.redist_source import (
    SHORTEST_SECRET,
    Download,
    Source,
    bytes_there,
    cached,
    check_address,
    secrets_of,
    verified,
)
from ansible.module_utils.redist_unpack import contents, extract, merge

#: Unpacking is bound by one core for each archive.
_WORKERS = 4
_VERSION = re.compile(r"\d+(\.\d+)+$")
#: What cuDNN puts into a toolkit: directory of ours, directories of the toolkit in order, pattern.
_CUDNN = (("include", ("include",), "cudnn*.h"), ("lib", ("lib64", "lib"), "libcudnn*"))


def main():
    row = dict(
        component=dict(type="str", required=True),
        title=dict(type="str", default=""),
        license=dict(type="str", default=""),
        version=dict(type="str", required=True),
        file=dict(type="str", required=True),
        url=dict(type="str", required=True),
        sha256=dict(type="str", required=True),
        size=dict(type="int", required=True),
        here=dict(type="bool", default=False),
    )
    module = AnsibleModule(
        argument_spec=dict(
            step=dict(type="str", choices=sorted(STEPS), required=True),
            base_dir=dict(type="path", required=True),
            manifest=dict(type="str", default=""),
            product=dict(type="str", choices=["cuda", "cudnn"]),
            version=dict(type="str"),
            platform=dict(type="str"),
            components=dict(type="list", elements="str", default=[]),
            variant=dict(type="str", default=""),
            cuda_major=dict(type="int"),
            digest=dict(type="str", default=""),
            archive=dict(type="dict", options=row),
            archives=dict(type="list", elements="dict", options=row, default=[]),
            generation=dict(type="path"),
            link=dict(type="path"),
            target=dict(type="path"),
            replace_foreign_link=dict(type="bool", default=False),
            toolkits=dict(type="list", elements="path", default=[]),
            generations=dict(type="list", elements="path", default=[]),
            links=dict(type="list", elements="path", default=[]),
            keep_downloads=dict(type="bool", default=True),
            ca_bundle=dict(type="path", default=""),
            proxy=dict(type="str", default="", no_log=True),
            insecure_http=dict(type="bool", default=False),
            free_factor=dict(type="float", default=4),
            timeout=dict(type="int", default=3600),
        ),
        required_if=[
            ("step", "look", ("manifest", "product", "version", "platform", "components")),
            ("step", "fetch", ("archive",)),
            ("step", "unpack", ("product", "version", "digest")),
            ("step", "activate", ("link", "generation")),
            ("step", "default", ("link", "target")),
            ("step", "links", ("generation",)),
        ],
        supports_check_mode=True,
    )
    os.umask(0o022)  # a toolkit is for all users to read, whatever the umask of whoever makes it
    if not os.path.isabs(module.params["base_dir"]):
        module.fail_json(msg="base_dir must be an absolute path, which begins with /")
    # One spelling of the store, so that paths in it can be compared.
    module.params["base_dir"] = "/" + os.path.normpath(module.params["base_dir"]).lstrip("/")
    secrets = secrets_of(module.params["manifest"])
    if any(len(secret) < SHORTEST_SECRET for secret in secrets):
        module.fail_json(msg=f"a password of less than {SHORTEST_SECRET} characters in an address cannot be hidden")
    module.no_log_values.update(secrets)
    try:
        answer = STEPS[module.params["step"]](module.params, module.check_mode)
        for words in answer.pop("warnings", []):
            module.warn(words)
        module.exit_json(**answer)
    except Failed as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=explain(error))


def look(params, check_mode):
    """Read the manifest, and refuse here what would not work later."""
    base_dir, product, version = params["base_dir"], params["product"], params["version"]
    _check_version(product, version)
    insecure = check_address(params["manifest"], params["insecure_http"])
    major = _major_of_variant(params) if product == "cudnn" else int(version.split(".")[0])
    there = find_complete(base_dir, product, version, major, params["digest"]) if params["digest"] else None
    answer = dict(changed=False, archives=[], download_bytes=0, unpack_bytes=0, label="", insecure=insecure)
    if insecure:
        answer["warnings"] = [
            "the manifest comes over plain http: every archive is held to it, and nothing protects the manifest itself"
        ]
    if there:
        return dict(answer, generation=there, free_bytes=free_bytes(base_dir))
    manifest = parse(_source(params).read(params["manifest"], LIMIT), params["manifest"])
    label = check_release(manifest, product, version, params["manifest"])
    rows = archives(
        manifest,
        params["manifest"],
        product,
        version,
        params["platform"],
        params["components"],
        params["variant"],
    )
    download = 0
    for row in rows:
        row["here"] = verified(cached(base_dir, row), row)
        download += 0 if row["here"] else row["size"] - bytes_there(base_dir, row)
    unpack_bytes = _unpack_bytes(params, rows)
    _check_disk(base_dir)
    # What an interrupted run left goes before anything new is unpacked.
    free = free_bytes(base_dir) + sum(size_on_disk(path) for path in half_made(base_dir))
    _check_space(base_dir, free, download + unpack_bytes)
    return dict(
        answer,
        archives=rows,
        download_bytes=download,
        unpack_bytes=unpack_bytes,
        free_bytes=free,
        generation=None,
        label=label,
    )


def fetch(params, check_mode):
    """Bring one archive into the cache."""
    base_dir, archive = params["base_dir"], _checked_row(params["archive"])
    path = cached(base_dir, archive)
    answer = dict(path=path, downloaded=0, resumed=0)
    check_address(archive["url"], params["insecure_http"])
    if verified(path, archive):
        return dict(answer, changed=False)
    if check_mode:
        return dict(answer, changed=True)
    download = Download(_source(params), base_dir, archive, params["timeout"])
    changed = download.run()
    return dict(answer, changed=changed, downloaded=download.came, resumed=download.resumed)


def unpack(params, check_mode):
    """Make a generation of the archives in the cache, complete or not at all."""
    base_dir, product, version = params["base_dir"], params["product"], params["version"]
    _check_version(product, version)
    if product == "cudnn" and params["cuda_major"] is None:
        raise Failed("cuda_major is missing: for which CUDA this cuDNN is")
    major = params["cuda_major"] if product == "cudnn" else int(version.split(".")[0])
    found = find_complete(base_dir, product, version, major, params["digest"])
    if found:
        return dict(changed=False, generation=found, removed=[], files=len(read_manifest(found)["files"]))
    rows = [_checked_row(row) for row in params["archives"]]
    if not rows:
        raise Failed(f"no archives were given, and {product} {version} is not in {store_path(base_dir)}")
    if check_mode:
        path = new_generation(base_dir, product, version, major)
        return dict(changed=True, generation=path, removed=half_made(base_dir), files=0)
    with locked(base_dir):
        # Another run may have made it while this one waited.
        found = find_complete(base_dir, product, version, major, params["digest"])
        if found:
            return dict(changed=False, generation=found, removed=[], files=len(read_manifest(found)["files"]))
        removed, _ = _tidy(base_dir, [])
        _check_disk(base_dir)
        _check_space(base_dir, free_bytes(base_dir), _unpack_bytes(params, rows))
        tree = new_generation(base_dir, product, version, major)
        try:
            count = _make(params, rows, tree, major)
        except BaseException:
            # Nothing would come of it; the disk may be full of it.
            shutil.rmtree(tree, ignore_errors=True)
            raise
    if not params["keep_downloads"]:
        for row in rows:
            _unlink(cached(base_dir, row))
    return dict(changed=True, generation=tree, removed=removed, files=count)


def _make(params, rows, tree, major):
    parts = os.path.join(tree, ".parts")
    os.makedirs(parts)
    _extract_all(params["base_dir"], rows, parts)
    owners = {}
    for row in rows:
        merge(os.path.join(parts, row["component"]), tree, row["component"], owners)
    os.rmdir(parts)
    if os.path.isdir(os.path.join(tree, "lib")) and not os.path.lexists(os.path.join(tree, "lib64")):
        os.symlink("lib", os.path.join(tree, "lib64"))
    if params["product"] == "cuda":
        _write_version(tree, params["version"], rows)
    files, links = contents(tree)
    manifest = dict(
        schema=1,
        state="complete",
        product=params["product"],
        version=params["version"],
        series=series_of(params["product"], params["version"]),
        cuda_major=major,
        digest=params["digest"],
        made=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        components={row["component"]: row["version"] for row in rows},
        archives=[{key: row[key] for key in ("component", "version", "file", "sha256", "size")} for row in rows],
        files=files,
        links=links,
    )
    _sync(tree)  # the manifest must not survive a power cut that its files did not
    write(os.path.join(tree, MANIFEST), json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return len(files)


def _extract_all(base_dir, rows, parts):
    """Unpack all archives, each into a directory of its own, the largest first."""
    if len({row["component"] for row in rows}) != len(rows):
        raise Failed("a component is given twice")
    with concurrent.futures.ThreadPoolExecutor(max_workers=min(_WORKERS, os.cpu_count() or 1)) as pool:
        waiting = []
        for row in sorted(rows, key=lambda row: -row["size"]):
            directory = os.path.join(parts, row["component"])
            os.mkdir(directory)
            waiting.append(pool.submit(extract, cached(base_dir, row), row, directory))
        done, _ = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_EXCEPTION)
        for future in waiting:
            future.cancel()
        for future in done:
            future.result()


def _write_version(tree, version, rows):
    """Say which release this is where NVIDIA's own toolkits say it."""
    content = {"cuda": {"name": "CUDA SDK", "version": version}}
    for row in rows:
        content[row["component"]] = {"name": row["title"] or row["component"], "version": row["version"]}
    write(os.path.join(tree, "version.json"), json.dumps(content, indent=3) + "\n")


def _sync(path):
    """Write what the file system of ``path`` holds back; others may hang, so they are not asked."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        ctypes.CDLL(None).syncfs(descriptor)
    except AttributeError:
        os.sync()
    finally:
        os.close(descriptor)


_NOT_COMPLETE = (
    "{} is not complete, or another run at the same time has replaced it. What users have was not changed; run again"
)


def activate(params, check_mode):
    """Lead a link to a generation."""
    base_dir, link, generation = params["base_dir"], params["link"], os.path.normpath(params["generation"])
    name = _generation_name(base_dir, generation)
    if not check_mode and read_manifest(generation) is None:
        raise Failed(_NOT_COMPLETE.format(generation))
    if os.path.lexists(link) and not os.path.islink(link):
        raise Failed(
            f"{link} is there and was not made by this project. It is left as it is: remove the packages or the "
            "installation that it belongs to, or move it away, and run again"
        )
    if os.path.islink(link) and not is_ours(base_dir, link):
        raise Failed(
            f"{link} leads to {os.readlink(link)}, which was not made by this project. It is left as it is: remove "
            "the link if nobody needs it, and run again"
        )
    if check_mode:
        previous = _readlink(link)
        removed, kept = _tidy(base_dir, _older(base_dir, generation, name, previous), check_mode=True)
        changed = previous != generation
    else:
        os.makedirs(os.path.dirname(link), exist_ok=True)
        with locked(base_dir):
            # Another run may have tidied it away while this one waited.
            if read_manifest(generation) is None:
                raise Failed(_NOT_COMPLETE.format(generation))
            previous = _readlink(link)
            changed = previous != generation
            if changed:
                switch(link, generation)
            removed, kept = _tidy(base_dir, _older(base_dir, generation, name, previous))
    return dict(changed=changed or bool(removed), previous=previous, removed=removed, kept=kept)


def _older(base_dir, generation, name, previous):
    """Return the generations of the same series that were made before, and the one that the link led to. Another one
    that is newer is another run's, which has not come to its link yet."""
    series, made, seen = series_of(name["product"], name["version"]), [], False
    for path in generations(base_dir, name["product"]):  # the oldest first
        if os.path.basename(path) == os.path.basename(generation):
            seen = True
            continue
        said = describe_name(path)
        same = series_of(said["product"], said["version"]) == series and said["cuda_major"] == name["cuda_major"]
        if same and (not seen or os.path.basename(path) == os.path.basename(previous or "")):
            made.append(path)
    return made if seen else []  # one that is not there yet tells nothing


def default(params, check_mode):
    """Lead the link without a version to one toolkit."""
    base_dir, link, target = params["base_dir"], os.path.normpath(params["link"]), os.path.normpath(params["target"])
    if not check_mode and not os.path.isdir(target):
        raise Failed(f"there is no toolkit at {target}, so {link} was not led there")
    wanted = os.path.basename(target) if os.path.dirname(target) == os.path.dirname(link) else target
    previous = _readlink(link)
    if previous is None and os.path.lexists(link):
        raise Failed(
            f"{link} is no link, and was not made by this project. It is left as it is: move it away if it is not "
            "needed under this name, and run again"
        )
    if target_of(link) == target:
        return dict(changed=False, previous=previous)
    if is_alternative(link):
        raise Failed(
            f"{link} is ruled over by update-alternatives (it leads to {previous}): use 'update-alternatives --set "
            f"cuda {target}'"
        )
    if os.path.exists(link) and not is_ours(base_dir, link) and not params["replace_foreign_link"]:
        raise Failed(
            f"{link} leads to {previous}, and this project did not lead it there. It is left as it is: set "
            f"replace_foreign_link if it is to lead to {target}"
        )
    if not check_mode:
        os.makedirs(os.path.dirname(link), exist_ok=True)
        switch(link, wanted)
    return dict(changed=True, previous=previous)


def links(params, check_mode):
    """Make cuDNN part of toolkits. All of them are looked at before one is changed."""
    base_dir, generation = params["base_dir"], os.path.normpath(params["generation"])
    name = _generation_name(base_dir, generation)
    if name["product"] != "cudnn":
        raise Failed(f"{generation} is no cuDNN")
    if not check_mode and read_manifest(generation) is None:
        raise Failed(_NOT_COMPLETE.format(generation))
    wanted, stale, foreign = {}, [], []
    for toolkit in params["toolkits"]:
        if check_mode and not os.path.isdir(toolkit):
            continue
        for ours, theirs, pattern in _CUDNN:
            place = _place(toolkit, theirs)
            there = {os.path.join(place, entry) for entry in fnmatch.filter(os.listdir(place), pattern)}
            source = os.path.join(generation, ours)
            entries = os.listdir(source) if os.path.isdir(source) else []
            mine = {
                os.path.join(place, entry): os.path.join(source, entry) for entry in fnmatch.filter(entries, pattern)
            }
            foreign += [path for path in there if not (os.path.islink(path) and is_ours(base_dir, path))]
            stale += [path for path in there if path not in mine]
            wanted.update(mine)
    # A toolkit may be known by another path by now: what counts is the directory that it is.
    keep = {_place_of(path) for path in (*wanted, *stale)}
    stale += [path for path in _recorded(params, name["cuda_major"]) if _place_of(path) not in keep]
    if foreign:
        raise Failed(
            "{} was not made by this project. Nothing was changed: remove the packages or files of that cuDNN, or "
            "take it as it is with cudnn_source".format(", ".join(sorted(foreign)))
        )
    if not wanted and params["toolkits"] and not check_mode:
        raise Failed(f"{generation} has no libraries or headers of cuDNN")
    if check_mode and not os.path.isdir(generation):
        stale = []
    made = sorted(path for path, target in wanted.items() if _readlink(path) != target)
    changed = bool(made or stale)
    if check_mode:
        # What is not unpacked yet cannot be listed, and will be linked all the same.
        changed = changed or bool(params["toolkits"] and not os.path.isdir(generation))
        return dict(changed=changed, made=made, stale=sorted(stale), links=wanted, removed=[], kept=[])
    with locked(base_dir):
        if read_manifest(generation) is None:
            raise Failed(_NOT_COMPLETE.format(generation))
        for path in made:
            switch(path, wanted[path])
        for path in stale:
            _unlink(path)
        removed, kept = _tidy(base_dir, _unlinked(base_dir, generation, name["cuda_major"], params["toolkits"]))
    return dict(
        changed=changed or bool(removed), made=made, stale=sorted(stale), links=wanted, removed=removed, kept=kept
    )


def _place_of(path):
    return os.path.realpath(os.path.dirname(path)), os.path.basename(path)


def _recorded(params, cuda_major):
    """Return links of earlier runs that lead to a cuDNN for the same CUDA; a toolkit may have left the plan."""
    for path in params["links"]:
        target = target_of(path)
        if target is not None and inside_store(params["base_dir"], target):
            generation = os.path.dirname(os.path.dirname(target))
            if generation in generations(params["base_dir"], "cudnn"):
                if describe_name(generation)["cuda_major"] == cuda_major:
                    yield path
            elif not os.path.exists(target):
                yield path


def _place(toolkit, names):
    """Return the directory of a toolkit for one kind of files, as it is known to people."""
    root = os.path.realpath(toolkit)
    if not os.path.isdir(root):
        raise Failed(f"there is no toolkit at {toolkit}, so cuDNN cannot be linked into it")
    for name in names:
        place = os.path.join(toolkit, name)
        if os.path.isdir(place):
            if not os.path.realpath(place).startswith(root + os.sep):
                raise Failed(
                    f"{place} leads out of the toolkit, to {os.path.realpath(place)}: cuDNN is not linked into what "
                    "belongs to others"
                )
            return place
    raise Failed(f"{toolkit} has no directory {' or '.join(names)}, so cuDNN cannot be linked into it")


def _unlinked(base_dir, generation, cuda_major, toolkits):
    """Return older generations of cuDNN to which no toolkit leads any more, as far as toolkits are known."""
    known = {os.path.realpath(path) for path in (*toolkits, *generations(base_dir, "cuda"))}
    for directory in ("/usr/local", base_dir):
        with contextlib.suppress(OSError):
            names = fnmatch.filter(os.listdir(directory), "cuda*")
            known.update(os.path.realpath(os.path.join(directory, name)) for name in names)
    led_to = set()
    for toolkit in known:
        for _, places, pattern in _CUDNN:
            for place in places:
                with contextlib.suppress(OSError):
                    directory = os.path.join(toolkit, place)
                    for entry in fnmatch.filter(os.listdir(directory), pattern):
                        target = target_of(os.path.join(directory, entry)) or ""
                        led_to.add(os.path.basename(os.path.dirname(os.path.dirname(target))))
    led_to.add(os.path.basename(generation))
    return [
        path
        for path in generations(base_dir, "cudnn")
        if os.path.basename(path) not in led_to and describe_name(path)["cuda_major"] == cuda_major
    ]


def remove(params, check_mode):
    """Remove what is ours among what is named."""
    base_dir = params["base_dir"]
    gone = [os.path.normpath(path) for path in params["generations"]]
    for path in gone:
        _generation_name(base_dir, path)
    gone = [path for path in gone if os.path.isdir(path)]
    _refuse_users(gone)
    mine, left = [], []
    for link in params["links"]:
        if not os.path.lexists(link):
            continue
        if os.path.islink(link) and is_ours(base_dir, link):
            mine.append(link)
        else:
            why = f"it leads to {os.readlink(link)}" if os.path.islink(link) else "it is no link"
            left.append(dict(path=link, why=f"{why}, and was not made by this project"))
    # Links that lead over other links go first: without those nobody could tell that they were ours.
    # Of the others the deepest goes first: it may lie in what another one leads to.
    mine.sort(key=lambda link: (inside_store(base_dir, target_of(link)), -link.count("/")))
    removed = mine + gone
    if check_mode or not removed:
        return dict(changed=bool(removed), removed=removed, left=left)
    with locked(base_dir):
        _refuse_users(gone)
        for link in mine:
            _unlink(link)
        for path in gone:
            for row in (read_manifest(path) or {}).get("archives", []):
                _unlink(cached(base_dir, row))
            remove_generation(path)
        if os.listdir(store_path(base_dir)) == [".lock"]:
            _unlink(os.path.join(store_path(base_dir), ".lock"))
            _rmdir(store_path(base_dir))
    for path in (cache_path(base_dir), os.path.dirname(cache_path(base_dir))):
        _rmdir(path)
    return dict(changed=True, removed=removed, left=left)


def _refuse_users(paths):
    users = [(path, user) for path in paths for user in users_of(path)]
    if users:
        raise Failed(
            "{} is in use: {}. Nothing was removed: end these and run again".format(
                users[0][0], ", ".join(f"process {row['pid']} ({row['command']}; {row['how']})" for _, row in users[:5])
            )
        )


def _tidy(base_dir, older, check_mode=False):
    """Remove generations that nobody uses, and halves of such; return what was removed, and what was kept and why."""
    removed, kept = [], []
    for path in sorted({*older, *half_made(base_dir)}):
        users = users_of(path)
        if users:
            kept.append(dict(path=path, why="process {pid} ({command}) uses it: {how}".format(**users[0])))
        else:
            if not check_mode:
                remove_generation(path)
            removed.append(path)
    return removed, kept


def _generation_name(base_dir, path):
    """Return what the name of a generation of ours tells; refuse anything else."""
    try:
        if (
            not os.path.islink(path)
            and inside_store(base_dir, path)
            and os.path.samefile(existing(os.path.dirname(path)), existing(store_path(base_dir)))
        ):
            return describe_name(path)
    except AttributeError:
        pass
    raise Failed(f"{path} is no generation below {store_path(base_dir)}; it is left as it is")


def _check_version(product, version):
    if not _VERSION.match(version) or (product == "cuda" and version.count(".") < 2):
        example = "12.9.1" if product == "cuda" else "9.13.0.50"
        raise Failed(f"the version {version!r} of {product} is not understood; write it as {example!r}, quoted")


def _major_of_variant(params):
    found = re.match(r"cuda(\d+)$", params["variant"])
    if not found:
        raise Failed(f"the variant of cuDNN is {params['variant']!r}; write it as 'cuda12'")
    return int(found.group(1))


def _checked_row(row):
    """Look at a row once more: it came from outside, and its values become paths."""
    if (
        not re.match(r"[0-9a-f]{64}$", row["sha256"])
        or row["size"] < 1
        or not all(re.match(r"[A-Za-z0-9][A-Za-z0-9_.+-]*$", row[key]) for key in ("file", "component"))
    ):
        raise Failed(f"the archive {row['file']!r} is not described as the step 'look' does it")
    return row


def _source(params):
    return Source(params["ca_bundle"], params["proxy"], params["insecure_http"], params["manifest"])


def _unpack_bytes(params, rows):
    if not (math.isfinite(params["free_factor"]) and params["free_factor"] >= 0):
        raise Failed(f"free_factor is {params['free_factor']}; a number of 0 or more is expected")
    return int(params["free_factor"] * sum(row["size"] for row in rows))


def _check_space(base_dir, free, needed):
    if free < needed:
        raise Failed(
            f"only {free // MIB} MiB are free in {base_dir}, and about {math.ceil(needed / MIB)} MiB are needed. Free "
            "some space, or set gpulab_base_dir to a larger disk"
        )


def _check_disk(base_dir):
    place = existing(base_dir)
    flags = os.statvfs(place).f_flag
    if flags & os.ST_RDONLY:
        raise Failed(f"{base_dir} lies on a file system that is read-only: set gpulab_base_dir to another one")
    if flags & os.ST_NOEXEC:
        raise Failed(
            f"{base_dir} lies on a file system that is mounted noexec, so nothing in it could be run: set "
            "gpulab_base_dir to another one"
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise Failed(f"{place} cannot be written to: set gpulab_base_dir to a directory of yours, or become root")


def _readlink(path):
    try:
        return os.readlink(path)
    except OSError:
        return None


def _unlink(path):
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _rmdir(path):
    """Remove a directory if it is empty."""
    with contextlib.suppress(OSError):
        os.rmdir(path)


STEPS = dict(look=look, fetch=fetch, unpack=unpack, activate=activate, default=default, links=links, remove=remove)

if __name__ == "__main__":
    main()
