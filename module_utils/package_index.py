# SPDX-License-Identifier: Apache-2.0
"""Where packages come from on this host: role variables first, then the host's own pip configuration.

The settings are read on the host and handed to the tools through their environment, so that user names and passwords in
addresses neither travel to the control node nor appear in any output.
"""

from __future__ import annotations

import configparser
import os
import re

#: Settings taken over from pip, by pip's own names.
_LISTS = ("extra-index-url", "find-links", "trusted-host")
_SINGLE = ("index-url", "cert", "proxy", "no-index", "timeout")


def pip_configuration(environ):
    """Return the host's pip settings: files from system to user, then ``PIP_*`` variables, later ones win.

    Lists are returned as lists. Unreadable files are left out, as pip itself does.
    """
    home = environ.get("HOME") or os.path.expanduser("~")
    config_home = environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    files = [os.path.join(path, "pip", "pip.conf") for path in environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")]
    files += [
        "/etc/pip.conf",
        os.path.join(home, ".pip", "pip.conf"),
        os.path.join(config_home, "pip", "pip.conf"),
    ]
    if environ.get("PIP_CONFIG_FILE"):
        files.append(environ["PIP_CONFIG_FILE"])
    settings = {}
    for path in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError):
            continue
        for section in ("global", "install"):
            if parser.has_section(section):
                settings.update(parser.items(section))
    for key in _LISTS + _SINGLE:
        value = environ.get("PIP_" + key.upper().replace("-", "_"))
        if value:
            settings[key] = value
    return {
        key: settings[key].split() if key in _LISTS else settings[key] for key in _LISTS + _SINGLE if key in settings
    }


class PackageIndex:
    """The settings in force, and how each tool is told of them."""

    def __init__(self, options, environ):
        """``options``: the module option of that name; empty values mean "as the host's pip has it"."""
        found = pip_configuration(environ) if options["use_host_configuration"] else {}
        self.wheel_dir = options["wheel_dir"]
        self.index_url = options["index_url"] or found.get("index-url", "")
        self.extra_index_urls = options["extra_index_urls"] or found.get("extra-index-url", [])
        self.strategy = options["index_strategy"]
        if self.strategy == "auto":
            # pip takes the best version of all indexes, and a host configured for pip was set up for that. Indexes
            # named in the inventory are asked in order, and the first that knows a package serves it: a stranger cannot
            # publish a higher version of a private name elsewhere.
            self.strategy = "first-index" if options["extra_index_urls"] else "best-match"
        self.find_links = options["find_links"] or found.get("find-links", [])
        self.trusted_hosts = found.get("trusted-host", [])
        self.ca_bundle = options["ca_bundle"] or found.get("cert", "")
        self.proxy = options["proxy"] or found.get("proxy", "")
        self.timeout = found.get("timeout", "60")
        self.no_index = bool(self.wheel_dir) or found.get("no-index", "").lower() in (
            "1",
            "true",
            "yes",
            "on",
        )
        if self.wheel_dir:
            self.find_links = [self.wheel_dir]

    def uv_options(self):
        """Return the settings that uv takes on its command line only."""
        return ["--no-index"] if self.no_index else []

    def environment(self, environ):
        """Return ``environ`` with what uv and pip need to find packages, and only that."""
        result = {key: value for key, value in environ.items() if not key.startswith(("PIP_", "UV_", "VIRTUAL_ENV"))}
        settings = {
            "UV_DEFAULT_INDEX": self.index_url,
            "UV_INDEX": " ".join(self.extra_index_urls),
            "UV_FIND_LINKS": ",".join(self.find_links),
            "UV_INDEX_STRATEGY": {"best-match": "unsafe-best-match"}.get(self.strategy, self.strategy),
            "UV_INSECURE_HOST": " ".join(self.trusted_hosts),
            "UV_HTTP_TIMEOUT": self.timeout,
            "UV_HTTP_RETRIES": "2",
            "SSL_CERT_FILE": self.ca_bundle,
            "PIP_INDEX_URL": self.index_url,
            "PIP_EXTRA_INDEX_URL": " ".join(self.extra_index_urls),
            "PIP_FIND_LINKS": " ".join(self.find_links),
            "PIP_NO_INDEX": "1" if self.no_index else "",
            "PIP_TRUSTED_HOST": " ".join(self.trusted_hosts),
            "PIP_CERT": self.ca_bundle,
            "PIP_DEFAULT_TIMEOUT": self.timeout,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",
        }
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
            settings[name] = self.proxy
        result.update((key, value) for key, value in settings.items() if value)
        # What the host's pip says is in the variables above already; its files must not add to a given wheel directory.
        result["PIP_CONFIG_FILE"] = os.devnull
        return result


def without_secrets(text):
    """Remove user names and passwords from every address in ``text``."""
    return re.sub(r"(?<=://)[^/\s@]+@", "", text)


#: What the tools print when something outside them is wrong, and what a person should know about it.
_EXPLANATIONS = (
    (r"No space left on device|os error 28|disk quota|Disk quota", "the disk is full"),
    (r"Read-only file system|os error 30", "the file system is read-only"),
    (
        r"dns error|Name or service not known|name resolution|No address associated",
        "its name cannot be resolved (no network, or no DNS)",
    ),
    (
        r"Connection refused|Network is unreachable|No route to host|ConnectTimeout|timed out|operation timed out",
        "it cannot be reached",
    ),
    (
        r"certificate verify failed|invalid peer certificate|UnknownIssuer",
        "its certificate is not trusted: set dl_frameworks_ca_bundle to your CA's file",
    ),
    (
        r"401 Unauthorized|403 Forbidden|407 Proxy",
        "access was denied; look at the credentials in the index address or proxy",
    ),
    (
        r"[Hh]ash mismatch|do not match the hashes|DO NOT MATCH THE HASHES",
        "a downloaded file does not have the checksum of the lock",
    ),
    (r"Permission denied|os error 13", "permission was denied"),
)


def explain(output):
    """Turn the last words of uv or pip into one sentence, followed by what they said, without secrets."""
    output = without_secrets(re.sub(r"\x1b\[[0-9;]*m", "", output)).strip()
    for pattern, sentence in _EXPLANATIONS:
        match = re.search(f"^.*(?:{pattern}).*$", output, re.MULTILINE)
        if match:
            return f"{sentence} ({match.group(0).strip()[:200]})"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if "Traceback (most recent call last):" in lines:
        return lines[-1][:600]  # the error itself; where in the tool it arose says nothing to its user
    return " ".join(lines[-8:])[:600] or "no reason was given"
