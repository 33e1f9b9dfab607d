# SPDX-License-Identifier: Apache-2.0
"""The server of the test network: starts file_server.py in a container, with a throw-away certificate authority."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repositories import Published
from testbed import SETTINGS, Bed, Machine, ca_bundle

NAME = "repository.test"
HASHED = "/etc/ssl/certs"


@dataclass(frozen=True)
class Authority:
    """A certificate authority of the tests, and what machines need to trust it."""

    directory: Path

    @classmethod
    def make(cls, directory: Path) -> Authority:
        """Make an authority, and the server's certificate, valid for its name and for the host's own network."""
        directory.mkdir(parents=True, exist_ok=True)
        authority = cls(directory)
        subject = ["-subj", "/CN=test bed authority", "-days", "30", "-nodes", "-newkey", "rsa:2048"]
        constraints = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"]
        files = ["-keyout", str(directory / "ca.key"), "-out", str(authority.certificate)]
        _openssl("req", "-x509", *subject, "-config", str(cls._config(directory)), *constraints, *files)
        request = ["-nodes", "-newkey", "rsa:2048", "-subj", f"/CN={NAME}", "-config", str(cls._config(directory))]
        _openssl(
            "req", "-new", *request, "-keyout", str(directory / "server.key"), "-out", str(directory / "server.csr")
        )
        (directory / "names").write_text(f"subjectAltName=DNS:{NAME},DNS:localhost,IP:127.0.0.1\n")
        sign = [
            "-CA",
            str(authority.certificate),
            "-CAkey",
            str(directory / "ca.key"),
            "-CAcreateserial",
            "-days",
            "30",
        ]
        sign += ["-extfile", str(directory / "names"), "-in", str(directory / "server.csr")]
        _openssl("x509", "-req", *sign, "-out", str(directory / "server.crt"))
        whole = (directory / "server.key").read_text() + (directory / "server.crt").read_text()
        (directory / "server.pem").write_text(whole)
        bundle = ca_bundle()
        trusted = bundle.read_text() if bundle else ""
        authority.bundle.write_text(f"{trusted}\n{authority.certificate.read_text()}")
        return authority

    @staticmethod
    def _config(directory: Path) -> Path:
        config = directory / "openssl.cnf"
        config.write_text("[req]\ndistinguished_name=name\n[name]\n")
        return config

    @property
    def certificate(self) -> Path:
        """The authority's certificate."""
        return self.directory / "ca.crt"

    @property
    def bundle(self) -> Path:
        """All that this machine trusts, and the authority."""
        return self.directory / "bundle.crt"

    def volumes(self) -> list[str]:
        """Return the volumes of a machine that trusts the authority, whichever way its programs look."""
        name = _openssl("x509", "-hash", "-noout", "-in", str(self.certificate)).strip()
        return [f"{self.bundle}:{HASHED}/ca-certificates.crt:ro", f"{self.certificate}:{HASHED}/{name}.0:ro"]


def _openssl(*arguments: str) -> str:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class RepositoryServer:
    """Serves what lies below `root`, and can be told to fail."""

    def __init__(self, bed: Bed) -> None:
        SETTINGS.mkdir(parents=True, exist_ok=True)
        self.directory = Path(tempfile.mkdtemp(prefix="server-", dir=SETTINGS))
        self.root = self.directory / "root"
        self.state = self.directory / "state"
        for directory in (self.root, self.state):
            directory.mkdir()
        self.directory.chmod(0o755)
        self.authority = Authority.make(self.directory / "authority")
        shutil.copy(self.authority.directory / "server.pem", self.state / "server.pem")
        self.network = bed.own_network()
        self.port = 443 if self.network != "host" else 8443
        self.machine = self._start(bed)

    def _start(self, bed: Bed) -> Machine:
        program = Path(__file__).with_name("file_server.py")
        volumes = [f"{self.root}:/srv/root:ro", f"{self.state}:/srv/state", f"{program}:/srv/file_server.py:ro"]
        command = ["python3", "/srv/file_server.py", "/srv/root", "/srv/state", str(self.port)]
        alias = [f"--network-alias={NAME}"] if self.network != "host" else []
        machine = bed.machine(
            "repository", network=self.network, volumes=volumes, options=[*alias, "--init"], command=command
        )
        ask = f"import socket; socket.create_connection(('127.0.0.1', {self.port}), 1).close()"
        machine.wait_until(lambda: machine.run(f'python3 -c "{ask}"').status == 0)
        return machine

    def options(self) -> list[str]:
        """Return the options of a machine that finds the server by name."""
        return [f"--add-host={NAME}:127.0.0.1"] if self.network == "host" else []

    @property
    def base(self) -> str:
        """The address of the server's root."""
        return f"https://{NAME}{'' if self.port == 443 else f':{self.port}'}/"

    def url(self, published: Published | str) -> str:
        """Return the address of a repository, or of a path on the server."""
        return self.base + (published if isinstance(published, str) else published.path)

    def key_url(self, published: Published) -> str:
        """Return the address of a repository's key."""
        return self.base + published.key_path

    def fault(self, path: str, fault: str, times: int | None = None) -> None:
        """Make requests whose path matches a regular expression fail, the next `times` or until `heal()`.

        Faults: a status ("404", "503"), "html" (a page with status 200), "truncated" (the connection ends early),
        "corrupted" (the length is right, the second half is not), "stalled" (half of it, and then nothing).
        """
        file = self.state / "faults.json"
        faults = json.loads(file.read_text()) if file.exists() else []
        entry: dict[str, Any] = {"path": path, "fault": fault}
        file.write_text(json.dumps([*faults, entry | ({} if times is None else {"times": times})]))

    def heal(self) -> None:
        """Take back every fault."""
        (self.state / "faults.json").unlink(missing_ok=True)

    def requests(self) -> list[dict[str, Any]]:
        """Return what was asked for, oldest first: method, path, status, fault, and who asked."""
        log = self.state / "requests.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def forget_requests(self) -> None:
        """Empty the log of requests."""
        (self.state / "requests.jsonl").unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove what it served; the machine goes with the bed's."""
        shutil.rmtree(self.directory, ignore_errors=True)
