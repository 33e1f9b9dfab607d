#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Prove CUDA toolkits and cuDNN by using them: compile, run, load, link."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cuda_probe
author: gpulab contributors
version_added: "0.1.0"
short_description: prove CUDA toolkits, cuDNN, and what environments load
description:
  - Builds a small program for the device with each toolkit and, where there is a GPU, runs it and compares the result.
  - Loads the runtime library and cuDNN, and links a program with cuDNN as people would.
  - Looks which cuDNN each environment really loads.
  - Everything happens in a private temporary directory and in child processes with bounds, in a clean environment; the
    host is not changed. Fails with every check that did not pass.
options:
  toolkits:
    description: toolkits to prove.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {type: path, required: true, description: where it is.}
      version: {type: str, default: "", description: "its version, as C(12.9.1), if known."}
      series: {type: str, required: true, description: "its series, as C(12.9)."}
      architectures:
        description: compute capabilities to compile for, as C(8.6). None means whatever nvcc chooses.
        type: list
        elements: str
        default: []
      cxx: {type: path, description: "the host compiler to use, if not the one in the path."}
      run: {type: bool, default: false, description: whether there is a GPU to run the program on.}
      compiles: {type: bool, default: true, description: whether it has a compiler at all.}
      nvcc: {type: path, description: "the compiler, if not C(bin/nvcc) of the toolkit."}
  cudnn:
    description: cuDNN to prove.
    type: list
    elements: dict
    default: []
    suboptions:
      version: {type: str, required: true, description: "its version, as C(9.13.0.50)."}
      cuda_major: {type: int, required: true, description: for which CUDA it is.}
      library: {type: path, required: true, description: "its library, as C(/usr/local/cuda-12.9/lib64/libcudnn.so.9)."}
      include: {type: path, description: "the header C(cudnn.h), or its directory."}
      toolkit: {type: path, description: the toolkit to link with. Without one nothing is linked.}
      cxx: {type: path, description: "the host compiler to use, if not the one in the path."}
  environments:
    description: environments whose cuDNN is looked at.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {type: str, required: true, description: name of the environment.}
      python: {type: path, required: true, description: "its Python, by the path below its prefix."}
      frameworks:
        description: its frameworks, a list of names or a dictionary by name.
        type: raw
        required: true
      cuda:
        description: V(system) where it is to use the host's CUDA libraries and not its own.
        type: str
        default: ""
      run: {type: bool, default: false, description: whether there is a GPU.}
      library_path: {type: str, default: "", description: "E(LD_LIBRARY_PATH) that its users have."}
  timeout:
    description: bound on each command in seconds.
    type: int
    default: 300
attributes:
  check_mode: {support: full, description: Proves nothing and returns no checks; what is to be proved may not be there.}
"""

EXAMPLES = r"""
- name: Prove the toolkit
  cuda_probe:
    toolkits:
      - path: /usr/local/cuda-12.9
        version: 12.9.1
        series: "12.9"
        architectures: ["8.6", "9.0"]
        run: true
"""

RETURN = r"""
checks:
  description: "each check: id, subject, what, ok, detail."
  returned: always
  type: list
"""

import glob
import json
import os
import re
import shutil

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.cuda_programs import CUDART, CUDNN, CUDNN_LOADS, DEVICE, ENVIRONMENT, LIBCUDA
from ansible.module_utils.cuda_store import Failed
from ansible.module_utils.cuda_workshop import Workshop, last_words

_DISTRIBUTION = "/usr/lib/cuda"
_DISTRIBUTIONS_NVCC = "/usr/bin/nvcc"
#: What CUDA's error numbers mean for people.
_ERRORS = {
    2: "the GPU's memory is full: jobs of others may hold it",
    35: "the driver is older than this toolkit needs, or is not loaded",
    46: "the GPU is busy or set to exclusive use",
    100: "the driver sees no GPU",
    209: "the program has no code for this GPU",
    802: "the GPUs are not ready: the fabric manager may not run",
    803: "the driver and its libraries are of different versions: a restart is pending",
}
_HINTS = (
    (
        "unsupported GNU version|unsupported clang version|unsupported Microsoft",
        "this toolkit does not work with the host's compiler: install an older one and leave "
        "cuda_toolkit_host_compiler at auto",
    ),
    (r"(gcc|g\+\+|cc1plus).*(not found|No such file)|Failed to find C\+\+|PATH.*gcc", "there is no C++ compiler"),
    (r"Unsupported gpu architecture", "this toolkit does not compile for that GPU"),
    (r"(cicc|cudafe\+\+|ptxas|fatbinary).*not found", "a part of the toolkit is missing: a component was left out"),
)


class Checks:
    """What was found, in order."""

    def __init__(self):
        self.rows = []

    def add(self, name, subject, what, problem, detail=""):
        """Add a check; ``problem`` says what is wrong, or is None."""
        self.rows.append(dict(id=name, subject=subject, what=what, ok=problem is None, detail=problem or detail))
        return problem is None


def main():
    toolkit = dict(
        path=dict(type="path", required=True),
        version=dict(type="str", default=""),
        series=dict(type="str", required=True),
        architectures=dict(type="list", elements="str", default=[]),
        cxx=dict(type="path"),
        run=dict(type="bool", default=False),
        compiles=dict(type="bool", default=True),
        nvcc=dict(type="path"),
    )
    cudnn = dict(
        version=dict(type="str", required=True),
        cuda_major=dict(type="int", required=True),
        library=dict(type="path", required=True),
        include=dict(type="path"),
        toolkit=dict(type="path"),
        cxx=dict(type="path"),
    )
    environment = dict(
        name=dict(type="str", required=True),
        python=dict(type="path", required=True),
        frameworks=dict(type="raw", required=True),
        cuda=dict(type="str", default=""),
        run=dict(type="bool", default=False),
        library_path=dict(type="str", default=""),
    )
    module = AnsibleModule(
        argument_spec=dict(
            toolkits=dict(type="list", elements="dict", options=toolkit, default=[]),
            cudnn=dict(type="list", elements="dict", options=cudnn, default=[]),
            environments=dict(type="list", elements="dict", options=environment, default=[]),
            timeout=dict(type="int", default=300),
        ),
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=False, checks=[])
    os.umask(0o077)
    try:
        checks = probe(module.params, [os.environ.get("TMPDIR"), "/tmp", "/var/tmp", module.tmpdir])
    except Failed as error:
        module.fail_json(msg=str(error), checks=[])
    bad = [row for row in checks if not row["ok"]]
    if bad:
        lines = ["- {subject}: {what}: {detail}".format(**row) for row in bad]
        module.fail_json(
            msg="{} of {} checks failed:\n{}".format(len(bad), len(checks), "\n".join(lines)), checks=checks
        )
    module.exit_json(changed=False, checks=checks)


def probe(params, places):
    """Do all checks and return their rows."""
    checks = Checks()
    with Workshop(places, params["timeout"]) as workshop:
        for row in params["toolkits"]:
            _toolkit(checks, workshop, row)
        if params["toolkits"] or params["cudnn"]:
            _no_stub(checks, workshop)
        for row in params["cudnn"]:
            _cudnn(checks, workshop, row)
        for row in params["environments"]:
            _environment(checks, workshop, row, params)
    return checks.rows


def _toolkit(checks, workshop, row):
    if row["compiles"] and _nvcc_version(checks, workshop, row):
        program = _compiles(checks, workshop, row)
        if program and row["run"]:
            _runs(checks, workshop, row, program)
    library = _cudart(row)
    if library is None:
        checks.add("cudart_loads", row["path"], "its runtime library loads", "there is no libcudart.so in it")
        return
    answer, problem = workshop.own(CUDART, library)
    checks.add("cudart_loads", row["path"], "its runtime library loads", problem, library)
    if answer is not None:
        found = _cudart_version(answer)
        known = found in (None, row["series"])
        problem = None if known else f"it says {found}, and {row['series']} is expected ({library})"
        checks.add("cudart_version", row["path"], "its runtime library is of this release", problem, found)


def _cudart_version(answer):
    """Return what the runtime library says it is of. That of CUDA 11 says nothing without a driver; then it is what its
    file is called, None where that does not tell either."""
    if answer["status"] == 0:
        return "{}.{}".format(answer["version"] // 1000, answer["version"] % 1000 // 10)
    names = [re.search(r"libcudart\.so\.(\d+\.\d+)\.\d+", os.path.realpath(path)) for path in answer["mapped"]]
    return next((name.group(1) for name in names if name), None)


def _nvcc(row):
    """Return the compiler; distributions put theirs beside all other programs."""
    own = os.path.join(row["path"], "bin", "nvcc")
    if row["nvcc"]:
        return row["nvcc"]
    # Debian's is a script that chooses the compiler; the program behind it knows of none.
    return _DISTRIBUTIONS_NVCC if row["path"] == _DISTRIBUTION and os.path.exists(_DISTRIBUTIONS_NVCC) else own


def _nvcc_version(checks, workshop, row):
    what, nvcc = "nvcc is of this release", _nvcc(row)
    done, output = workshop.run([nvcc, "--version"], os.path.dirname(nvcc))
    found = re.search(r"release (\d+\.\d+)", output) if done else None
    if not found:
        return checks.add("nvcc_version", row["path"], what, f"{nvcc} does not work: {last_words(output)}")
    problem = None
    if found.group(1) != row["series"]:
        problem = f"{nvcc} says {found.group(1)}, and {row['series']} is expected"
    noted = _noted_version(row["path"])
    if row["version"] and noted and noted != row["version"]:
        problem = problem or f"{row['path']}/version.json says {noted}, and {row['version']} is expected"
    return checks.add("nvcc_version", row["path"], what, problem, noted or found.group(1))


def _noted_version(path):
    """Return the release that version.json names; older toolkits have a date as the last part, which tells nothing."""
    try:
        with open(os.path.join(path, "version.json"), encoding="utf-8") as stream:
            version = str(json.load(stream)["cuda"]["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return version if re.match(r"\d+\.\d+\.\d{1,3}$", version) else None


def _compiles(checks, workshop, row):
    """Compile for all architectures, real code and nothing that a driver would have to translate."""
    nvcc = _nvcc(row)
    names = [re.sub(r"\D", "", name) for name in row["architectures"]]
    program = os.path.join(workshop.directory, "device")
    command = [nvcc, "--cudart", "static", "-o", program, workshop.write("device.cu", DEVICE)]
    for name in names:
        command += ["-gencode", f"arch=compute_{name},code=sm_{name}"]
    command += ["-ccbin", row["cxx"]] if row["cxx"] else []
    done, output = workshop.run(command, os.path.dirname(nvcc))
    problem = None
    if not done:
        hint = next((words for pattern, words in _HINTS if re.search(pattern, output)), "")
        problem = f"{hint}. nvcc says: {last_words(output)}" if hint else last_words(output) or "nvcc failed silently"
    elif not os.path.exists(program):
        problem = "nvcc reported success and wrote no program"
    detail = "for {}".format(", ".join(row["architectures"]) or "nvcc's own choice")
    detail += " with {}".format(row["cxx"]) if row["cxx"] else ""
    return program if checks.add("compiles", row["path"], "a device program compiles", problem, detail) else None


def _runs(checks, workshop, row, program):
    done, output = workshop.run([program, *row["architectures"]])
    right = re.findall(r"^device (\d+) right (\S+)$", output, re.MULTILINE)
    problems = [
        f"{'GPU ' + device if device != '-1' else 'CUDA'}: {_ERRORS.get(int(code), 'it failed')} (error {code}: {text})"
        for device, code, text in re.findall(r"^device (-?\d+) error (\d+) (.*)$", output, re.MULTILINE)
    ]
    problems += [
        f"GPU {device} calculates wrongly (element {element} is {value})"
        for device, element, value in re.findall(r"^device (\d+) wrong (\d+) (-?\d+)$", output, re.MULTILINE)
    ]
    if not done and not problems:
        problems.append(last_words(output) or "it failed and said nothing")
    if not right and not problems:
        problems.append("there is no GPU of {}".format(", ".join(row["architectures"]) or "any kind"))
    detail = ", ".join(f"GPU {device} ({name})" for device, name in right)
    checks.add("runs", row["path"], "the device program runs and calculates right", "; ".join(problems) or None, detail)


def _cudart(row):
    """Return the runtime library of a toolkit, or None."""
    major = row["series"].split(".")[0]
    places = [os.path.join(row["path"], name) for name in ("lib64", "lib", "targets/*/lib")]
    places += ["/usr/lib/*-linux-gnu", "/usr/lib64"] if row["path"] == _DISTRIBUTION else []
    # Before 12 the library was named by the whole series.
    for name in (f"libcudart.so.{major}", f"libcudart.so.{row['series']}", f"libcudart.so.{major}.*"):
        for place in places:
            found = sorted(glob.glob(os.path.join(place, name)))
            if found:
                return found[0]
    return None


def _no_stub(checks, workshop):
    """A stub has the name of the driver's library and can do nothing; it is for linking where there is no driver."""
    what = "the loader does not take a stub for the driver"
    answer, problem = workshop.own(LIBCUDA)
    stubs = [path for path in (answer or {}).get("mapped", []) if "/stubs/" in path]
    if stubs:
        problem = (
            f"libcuda.so.1 is {stubs[0]}: take the directory out of /etc/ld.so.conf.d and run ldconfig, and remove the "
            "link libcuda.so.1 in it"
        )
    found = ", ".join((answer or {}).get("mapped", [])) or "no libcuda.so.1 on this host"
    checks.add("no_stub", "libcuda.so.1", what, problem, found)


def number_of(version):
    """Return the number by which cuDNN calls a version: 8907 for 8.9.7, 91300 for 9.13.0."""
    major, minor, patch = (int(part) for part in [*version.split("."), "0", "0"][:3])
    return major * (10000 if major >= 9 else 1000) + minor * 100 + patch


def _cudnn(checks, workshop, row):
    what = "cuDNN loads with all its parts"
    answer, problem = workshop.own(CUDNN_LOADS, row["library"])
    if answer is not None:
        expected = number_of(row["version"])
        failed = sorted(part for part, status in answer["parts"].items() if status != 0)
        if answer["version"] != expected:
            problem = f"it calls itself {answer['version']}, and {expected} ({row['version']}) is expected"
        elif answer["cudart"] and answer["cudart"] // 1000 != row["cuda_major"]:
            problem = f"it is built for CUDA {answer['cudart'] // 1000}, and {row['cuda_major']} is expected"
        elif failed:
            problem = "its parts {} are of another version or do not load".format(", ".join(failed))
    detail = "{}, parts: {}".format(row["version"], ", ".join(sorted((answer or {}).get("parts", {}))) or "none")
    loads = checks.add("cudnn_loads", row["library"], what, problem, detail)
    if loads and row["toolkit"]:
        _cudnn_links(checks, workshop, row)


def _cudnn_links(checks, workshop, row):
    what = "a program links with cuDNN and {}".format(row["toolkit"])
    compiler = _c_compiler(row["cxx"])
    if compiler is None:
        checks.add("cudnn_links", row["library"], what, "there is no C compiler")
        return
    include = row["include"] or ""
    includes = [
        os.path.join(row["toolkit"], "include"),
        os.path.dirname(include) if include.endswith(".h") else include,
    ]
    libraries = [os.path.join(row["toolkit"], name) for name in ("lib64", "lib")] + [os.path.dirname(row["library"])]
    program = os.path.join(workshop.directory, "cudnn")
    command = [compiler, "-o", program, workshop.write("cudnn.c", CUDNN)]
    # The compiler knows this one, and would look into it in the wrong order if it were told.
    command += [f"-I{path}" for path in includes if path and path != "/usr/include" and os.path.isdir(path)]
    for path in libraries:
        command += [f"-L{path}", f"-Wl,-rpath,{path}"] if os.path.isdir(path) else []
    done, output = workshop.run([*command, "-lcudnn"])
    if not done:
        checks.add("cudnn_links", row["library"], what, f"{compiler} says: {last_words(output)}")
        return
    done, output = workshop.run([program])
    found = re.match(r"library (\d+) header (\S+)$", output.strip())
    problem = None
    if not done or not found:
        problem = f"the program does not run: {last_words(output)}"
    elif int(found.group(1)) != number_of(row["version"]):
        problem = f"the program loads cuDNN {found.group(1)}, and {number_of(row['version'])} is expected"
    elif number_of(found.group(2)) != number_of(row["version"]):
        problem = f"the header is of {found.group(2)}, and the library of {row['version']}"
    checks.add("cudnn_links", row["library"], what, problem, f"with {compiler}")


def _c_compiler(cxx):
    """Return a C compiler: the one that belongs to the host compiler of the toolkit, else the host's own."""
    if cxx:
        directory, name = os.path.split(cxx)
        beside = os.path.join(directory, name.replace("clang++", "clang").replace("g++", "gcc"))
        return beside if os.path.exists(beside) else cxx
    path = "/usr/local/bin:/usr/bin:/bin"
    return shutil.which("gcc", path=path) or shutil.which("cc", path=path) or shutil.which("clang", path=path)


def _environment(checks, workshop, row, params):
    prefix = os.path.realpath(os.path.dirname(os.path.dirname(os.path.abspath(row["python"]))))
    extra = dict(TF_CPP_MIN_LOG_LEVEL="3", XLA_PYTHON_CLIENT_PREALLOCATE="false", LC_ALL="C.UTF-8")
    if row["library_path"]:
        extra["LD_LIBRARY_PATH"] = row["library_path"]
    for framework in sorted(set(row["frameworks"]) & {"pytorch", "tensorflow", "jax"}):
        what = f"{framework} loads the cuDNN that it is to load"
        answer, problem = workshop.ask(row["python"], ENVIRONMENT, framework, "run" if row["run"] else "-", extra=extra)
        if answer is None:
            checks.add("cudnn_of_environment", row["name"], what, f"it cannot be imported: {problem}")
            continue
        mapped = answer["mapped"]
        system = row["cuda"] == "system"
        problem = _wrong_cudnn(framework, mapped, prefix, row, params["cudnn"])
        detail = ", ".join(sorted({os.path.dirname(path) for path in mapped})) or "it loads none here"
        checks.add("cudnn_of_environment", row["name"], what, problem, detail)
        if system and framework == "tensorflow":
            _tensorflow_build(checks, row, answer["build"], params)


def _wrong_cudnn(framework, mapped, prefix, row, known):
    """Say what is wrong about the libraries that an environment loads, or return None."""
    inside = [path for path in mapped if path.startswith(prefix + os.sep)]
    outside = [path for path in mapped if path not in inside]
    if row["cuda"] != "system":
        if outside:
            return (
                f"it loads {outside[0]}, which is not its own: take that directory out of LD_LIBRARY_PATH and "
                "/etc/ld.so.conf.d"
            )
        return None
    if inside:
        return f"it is to use the host's cuDNN, and loads its own {inside[0]}"
    places = {os.path.dirname(os.path.realpath(entry["library"])) for entry in known}
    strange = [path for path in outside if os.path.dirname(path) not in places]
    if strange:
        return f"it loads {strange[0]}, and cuDNN is expected from {', '.join(sorted(places)) or 'nowhere'}"
    if row["run"] and not mapped:
        return f"{framework} finds no cuDNN of the host: its directory is not in the loader's path (ldconfig -p)"
    return None


def _tensorflow_build(checks, row, build, params):
    what = "tensorflow is built for the CUDA and cuDNN of the host"
    cuda, cudnn = str(build.get("cuda_version", "")), str(build.get("cudnn_version", ""))
    major = cuda.split(".")[0]
    problem = None
    if not major.isdigit():
        problem = "it is a build without CUDA"
    elif not any(toolkit["series"].split(".")[0] == major for toolkit in params["toolkits"]):
        problem = f"it is built for CUDA {cuda}, and the host has {_list(params['toolkits'], 'series')}"
    elif not any(_fits(entry, int(major), cudnn) for entry in params["cudnn"]):
        problem = (
            f"it is built for cuDNN {cudnn} with CUDA {major}, and the host has {_list(params['cudnn'], 'version')}"
        )
    checks.add("tensorflow_build", row["name"], what, problem, f"CUDA {cuda}, cuDNN {cudnn}")


def _list(rows, key):
    return ", ".join(row[key] for row in rows) or "none"


def _fits(entry, cuda_major, built_for):
    """Tell whether a cuDNN has the same major version as the one built for, and is not older."""
    wanted = [int(part) for part in re.findall(r"\d+", built_for)]
    have = [int(part) for part in re.findall(r"\d+", entry["version"])]
    return entry["cuda_major"] == cuda_major and have[:1] == wanted[:1] and have[: len(wanted)] >= wanted


if __name__ == "__main__":
    main()
