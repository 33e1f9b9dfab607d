# SPDX-License-Identifier: Apache-2.0
"""Where programs find libraries beside the system's own: the settings of the loader and LD_LIBRARY_PATH."""

from __future__ import annotations

import fnmatch
import os
import re

_VARIABLE = "LD_LIBRARY_PATH"
_CONFIGURATION = "etc/ld.so.conf"
#: Read one by one; nobody who means it has more.
_MOST_FILES = 1000
_DEEPEST = 8
_CUDNN = re.compile(r"libcudnn\.so\.(\d+(?:\.\d+)*)")
#: Files that give every user settings, as the shells and PAM read them.
_FILES = (
    "etc/environment",
    "etc/security/pam_env.conf",
    "etc/profile",
    "etc/bash.bashrc",
    "etc/bashrc",
    "etc/csh.cshrc",
    "etc/csh.login",
    *(f"etc/{place}{name}" for place in ("zsh/", "") for name in ("zshenv", "zprofile", "zshrc", "zlogin")),
)
#: The names in these directories that are read; a backup beside them is not.
_DIRECTORIES = (("etc/profile.d", r".*\.(sh|csh|zsh|local)"), ("etc/environment.d", r".*\.conf"))


def loader(files):
    """Return the directories that each file names, and what of cuDNN and CUDA's stubs the loader finds there."""
    configured = Configuration(files).rows
    set_for_all = _library_path(files)
    cudnn, stubs = [], []
    for via, rows in (("ld_so_conf", configured), ("library_path", set_for_all)):
        for row in rows:
            place = row["path"].strip("/")
            if row["path"].startswith("/") and "$" not in row["path"] and files.is_dir(place):
                cudnn += [dict(found, via=via, file=row["file"]) for found in _cudnn(files, place)]
                stubs += [dict(path=path, via=via, file=row["file"]) for path in _stubs(files, place)]
    return dict(ld_so_conf=configured, library_path=set_for_all, cudnn=cudnn, stubs=stubs)


def _cudnn(files, place):
    """List cuDNN's libraries in a directory, each once, by the name that programs ask for: libcudnn.so.9."""
    found = {}
    for name in sorted(files.names(place, "libcudnn.so.*"), key=len):
        real = files.real(f"{place}/{name}")
        if _CUDNN.fullmatch(name) and files.exists(f"{place}/{name}") and real not in found:
            version = _CUDNN.fullmatch(os.path.basename(real))
            complete = version.group(1) if version and version.group(1).count(".") == 2 else None
            found[real] = dict(path=f"/{place}/{name}", real=real, version=complete)
    return list(found.values())


def _stubs(files, place):
    """Name a directory of stubs, or the link to a stub in another directory."""
    if os.path.basename(place) == "stubs" or os.path.basename(files.real(place)) == "stubs":
        return [f"/{place}"]
    library = f"{place}/libcuda.so.1"
    return [f"/{library}"] if "/stubs/" in files.real(library) and files.exists(library) else []


class Configuration:
    """The directories in ld.so.conf and what it includes, as ldconfig reads it: one a line, no other settings."""

    def __init__(self, files):
        self.files = files
        self.found = {}
        self.seen = set()
        self._read(_CONFIGURATION, 0)
        self.rows = list(self.found.values())

    def _read(self, place, depth):
        if place in self.seen:
            return
        if depth > _DEEPEST or len(self.seen) >= _MOST_FILES:
            self.files.unknown["loader.ld_so_conf"] = (
                f"/{_CONFIGURATION} includes more than anybody means: not all is read"
            )
            return
        self.seen.add(place)
        content = self.files.small(place, f"loader./{place}") or b""
        for line in content.decode("utf-8", "surrogateescape").splitlines():
            words = line.partition("#")[0].split()
            if not words or words[0] == "hwcap":
                continue
            if words[0] == "include":
                for pattern in words[1:]:
                    for included in self._matching(os.path.join("/", os.path.dirname(place), pattern)[1:]):
                        self._read(included, depth + 1)
            elif words[0].startswith("/"):
                path = " ".join(words).partition("=")[0].rstrip("/") or "/"
                self.found[(place, path)] = dict(file=f"/{place}", path=path)

    def _matching(self, pattern):
        """Return the files that a pattern names, in the order of their names."""
        found = [""]
        for part in os.path.normpath(pattern).split("/"):
            if not any(character in part for character in "*?["):
                found = [f"{place}/{part}" for place in found]
                continue
            # As for the shell, a name that begins with a dot is meant only by a pattern that does.
            found = [
                f"{place}/{name}"
                for place in found
                for name in self.files.names(place[1:], "*", "loader")
                if fnmatch.fnmatchcase(name, part) and (not name.startswith(".") or part.startswith("."))
            ][:_MOST_FILES]
        return [place[1:] for place in found]


# --- LD_LIBRARY_PATH -------------------------------------------------------------------------------------------------


def _library_path(files):
    rows = []
    for place in _setting_files(files):
        key = f"loader./{place}"
        content = files.small(place, key)
        if not content or _VARIABLE.encode() not in content:
            continue
        text = content.decode("utf-8", "surrogateescape")
        for path in library_paths(text, pam=place.endswith("pam_env.conf"), plain=place.startswith("etc/environment")):
            rows.append(dict(file=f"/{place}", path=path))
            if "$" in path or "`" in path:
                files.unknown.setdefault(key, f"/{place}: {path} depends on what only a shell would know")
    return rows


def _setting_files(files):
    yield from _FILES
    for directory, pattern in _DIRECTORIES:
        names = [name for name in files.names(directory) if re.fullmatch(pattern, name, re.DOTALL)]
        if len(names) > _MOST_FILES:
            files.unknown[f"loader./{directory}"] = f"/{directory} has {len(names)} files; {_MOST_FILES} were read"
        for name in names[:_MOST_FILES]:
            yield f"{directory}/{name}"


_NESTED = r"(?:[^{}]|\{[^{}]*\})*"
_TOKEN = re.compile(
    rf"(?P<gap>[ \t\r]+|\\\r?\n|\#[^\n]*)"
    rf"|(?P<end>[\n;&|()<>]+)"
    rf"|(?P<word>(?:\\.|'[^']*'|\"(?:\\.|[^\"\\])*\"|[$@]\{{{_NESTED}\}}|\$\((?:[^()]|\([^()]*\))*\)|`[^`]*`"
    rf"|[^\s;&|()<>'\"`\\])+)"
    rf"|(?P<other>.)",
    re.DOTALL,
)
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)\+?=(.*)", re.DOTALL)
_QUOTED = re.compile(r"\\(.)|'([^']*)'|\"((?:\\.|[^\"\\])*)\"", re.DOTALL)
#: What a backslash takes the meaning from between double quotes.
_ESCAPED = re.compile(r"\\([\\\"$`\n])")
_OWN = re.compile(rf"[$@]\{{{_VARIABLE}(?!\w){_NESTED}\}}|\${_VARIABLE}\b")
_REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*)\}|\$([A-Za-z_]\w*)")
_PART = re.compile(rf"(?:\$\{{{_NESTED}\}}|\$\((?:[^()]|\([^()]*\))*\)|`[^`]*`|[^:])+")
_BEFORE = ("if", "then", "else", "elif", "do", "while", "until", "!", "time")
_SETTERS = ("export", "declare", "typeset", "readonly")


def library_paths(text, pam=False, plain=False):
    """Return the directories that a file puts into LD_LIBRARY_PATH; those that were there before are left out.

    ``pam`` is the syntax of pam_env.conf, ``plain`` that of files that hold assignments and no commands. A variable
    that the file sets once and to a known value is put in; a directory with any other is returned as it is written.
    """
    if pam:
        assigned = _pam_assignments(text)
    else:
        rows = list(_assignments(text, plain))
        called = {words[0] for function, words in _statements(text) if words and function is None}
        assigned = [(name, value) for function, name, value in rows if function is None or function in called]
    known, found = {}, []
    for name, value in assigned:
        resolved = _resolve(value, known)
        if name == _VARIABLE:
            found += [part if part == "/" else part.rstrip("/") for part in _PART.findall(resolved) if part.strip()]
        else:
            known[name] = resolved if known.get(name, resolved) == resolved else None
    return list(dict.fromkeys(found))


def _resolve(value, known):
    def variable(found):
        said = known.get(found.group(1) or found.group(2))
        return found.group() if said is None or "$" in said or "`" in said else said

    return _REFERENCE.sub(variable, _QUOTED.sub(_unquoted, _OWN.sub("", value)))


def _unquoted(found):
    escaped, literal, quoted = found.groups()
    if literal is not None:
        return literal
    if quoted is not None:
        return _ESCAPED.sub(lambda one: _escaped(one.group(1)), quoted)
    return _escaped(escaped)


def _escaped(character):
    return "" if character == "\n" else character  # a line that goes on


def _pam_assignments(text):
    for _function, words in _statements(text):
        for word in words[1:]:
            found = _ASSIGNMENT.fullmatch(word)
            if found and found.group(1) in ("DEFAULT", "OVERRIDE"):
                yield words[0], found.group(2)


def _assignments(text, plain):
    """Yield (function, name, value) for what a script sets for all that follows: not what it hands to one command."""
    for function, words in _statements(text):
        while words and words[0] in _BEFORE:
            words = words[1:]
        if len(words) > 2 and words[0] == "setenv":  # of csh
            yield function, words[1], words[2]
            continue
        setter = bool(words) and words[0] in _SETTERS
        found = [_ASSIGNMENT.fullmatch(word) for word in words]
        if setter or plain or all(found):
            for assignment in filter(None, found):
                yield function, assignment.group(1), assignment.group(2)


def _statements(text):
    """Yield (function, words): simple commands, with the name of the function whose body they are in, or None."""
    words, bodies, pending = [], [], None
    for token in _TOKEN.finditer(f"{text}\n"):
        if token.lastgroup == "word":
            words.append(token.group())
        if token.lastgroup in ("word", "gap"):
            continue
        if len(words) > 1 and words[0] == "function":
            pending, words = words[1], words[2:]
        elif len(words) == 1 and token.group().startswith("()"):
            pending, words = words[0], []
        while words and words[0] in ("{", "}"):
            if words[0] == "{":
                bodies.append(pending or (bodies[-1] if bodies else None))
                pending = None
            elif bodies:
                bodies.pop()
            words = words[1:]
        if words:
            yield bodies[-1] if bodies else None, words
        words = []
