# SPDX-License-Identifier: Apache-2.0
"""The test bed: throw-away machines as systemd containers, on a plain Debian machine without any registry.

`Bed.prepare()` finds a docker engine, or (as root, with apt) installs the distribution's and starts it;
then it finds or builds the image that all test machines start from. Nothing is pulled: the image is made
from the package archive that this machine is configured for. Package index, CA bundle and proxies of this
machine are handed to the test machines as they are, so nothing of it needs to be written down here.

Run as a program it prints the variables that .config/molecule/config.yml needs, for a shell to evaluate.

Environment variables:
    GPULAB_TEST_IMAGE      use this image (systemd, Python 3.11 or newer, sudo) instead of building one
    GPULAB_TEST_MNIST_DIR  directory of the four real MNIST files, for the tests that use them
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from project_tree import ROOT

SUITE = "bookworm"

# A fresh machine as a person gets it, with systemd and sudo; deliberately without python3-venv.
IMAGE_PACKAGES = [
    "ca-certificates",
    "dbus",
    "iproute2",
    "procps",
    "python3",
    "sudo",
    "systemd",
    "systemd-sysv",
]
IMAGE_OPTIONS = [
    "--variant=minbase",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
]

MTU = "com.docker.network.driver.mtu"  # the option of a network that sets the size of its packets
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
BOOTED = ("running", "degraded")  # what systemd says once it has done all it can
SETTINGS = ROOT / ".ansible" / "test-bed"  # files that are mounted into test machines
ENGINE_LOG = ROOT / ".ansible" / "dockerd.log"
ENGINE_START = 60  # seconds a docker engine gets to answer

# pip's settings that say where packages come from. What is private to this machine stays here.
PIP_SETTINGS = (
    "cert",
    "extra-index-url",
    "find-links",
    "index-url",
    "no-index",
    "proxy",
    "timeout",
    "trusted-host",
)
PROXY_VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


class Unavailable(Exception):
    """There can be no test machines here; the message says why, for a person."""


def note(text: str) -> None:
    """Say on the terminal what is being done to this machine."""
    print(f"  test bed: {text}", file=sys.stderr, flush=True)


def output(command: list[str]) -> str:
    """Return a command's standard output, stripped; empty where the command is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return ""


# --- the engine -----------------------------------------------------------------------------------


def engine_answers() -> bool:
    """Whether a docker engine can be used."""
    return bool(output(["docker", "info", "--format", "{{.ServerVersion}}"]))


def apt_install(packages: list[str]) -> None:
    """Install packages of the distribution; raise Unavailable where that cannot be done."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Unavailable(
            f"{' '.join(packages)} missing, and only root on a Debian or Ubuntu can have ./test install it"
        )
    note(f"installing {' '.join(packages)} (apt-get)")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run(
            ["apt-get", "-q", *arguments], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise Unavailable(f"apt-get {arguments[0]} failed: {first_error(done.stderr)}")


def first_error(text: str) -> str:
    """Return the first error line of what apt or mmdebstrap printed: later ones only follow from it."""
    lines = text.strip().splitlines() or ["no output"]
    return next((line for line in lines if line.startswith("E: ")), lines[-1])


def ensure_engine() -> None:
    """Make sure that a docker engine answers; one that is started here is stopped at exit."""
    if engine_answers():
        return
    if not shutil.which("dockerd"):
        # The client is a package of its own from Debian 13 on.
        client = ["docker-cli"] if output(["apt-cache", "show", "docker-cli"]) else []
        apt_install(["docker.io", "iptables", *client])
    if os.geteuid() != 0:
        raise Unavailable("no docker engine answers, and only root can start one")
    # Where systemd runs the machine, installing the package has started the service already.
    engine = None if Path("/run/systemd/system").is_dir() else start_engine()
    deadline = time.monotonic() + ENGINE_START
    while not engine_answers():
        if engine and engine.poll() is not None:
            raise Unavailable(f"the docker engine ended with status {engine.returncode}: {last_line(ENGINE_LOG)}")
        if time.monotonic() > deadline:
            raise Unavailable(f"the docker engine does not answer within {ENGINE_START} s")
        time.sleep(0.5)


def start_engine() -> subprocess.Popen[bytes]:
    """Start `dockerd` in the background, until this process exits."""
    # A bridge with a larger packet size than the way out loses packets: connections open and then hang.
    mtu = re.search(r"\bmtu (\d+)", output(["ip", "link", "show", default_interface()]))
    command = ["dockerd", *([f"--mtu={mtu[1]}"] if mtu else [])]
    ENGINE_LOG.parent.mkdir(parents=True, exist_ok=True)
    with ENGINE_LOG.open("w") as stream:
        engine = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
    note(f"started a docker engine (pid {engine.pid}, log {ENGINE_LOG}); it is stopped at the end")

    def stop() -> None:
        engine.send_signal(signal.SIGTERM)
        try:
            engine.wait(timeout=30)
        except subprocess.TimeoutExpired:
            engine.kill()
        note(f"stopped the docker engine (pid {engine.pid})")

    atexit.register(stop)
    return engine


def last_line(log: Path) -> str:
    """Return the last line of a log, for a message."""
    return (log.read_text(errors="replace").strip().splitlines() or ["its log is empty"])[-1]


def default_interface() -> str:
    """Return the network interface of the default route, `lo` if there is none."""
    route = re.search(r"\bdev (\S+)", output(["ip", "route", "show", "default"]))
    return route[1] if route else "lo"


# --- the image ------------------------------------------------------------------------------------


def ensure_image() -> str:
    """Return the image of the test machines; build it unless this recipe's image is there already."""
    given = os.environ.get("GPULAB_TEST_IMAGE")
    if given:
        return given
    recipe = json.dumps([SUITE, IMAGE_PACKAGES, IMAGE_OPTIONS])
    image = f"gpulab-test:{SUITE}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if not output(["docker", "image", "inspect", "--format", "{{.Id}}", image]):
        build_image(image)
    return image


def build_image(image: str) -> None:
    """Make the image with mmdebstrap from this machine's own package archive."""
    if not shutil.which("mmdebstrap"):
        apt_install(["mmdebstrap"])
    note(f"building the image {image} from this machine's package archive (about a minute)")
    with tempfile.TemporaryDirectory(prefix="gpulab-image-") as directory:
        archive = Path(directory) / "image.tar"
        command = ["mmdebstrap", *IMAGE_OPTIONS, f"--include={','.join(IMAGE_PACKAGES)}"]
        command += [SUITE, str(archive), "-"]
        done = subprocess.run(command, input=apt_sources(), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            why = first_error(done.stderr)
            raise Unavailable(f"mmdebstrap cannot build the image ({why}); GPULAB_TEST_IMAGE can name another")
        change = 'CMD ["/lib/systemd/systemd"]'
        subprocess.run(["docker", "import", "--change", change, archive, image], check=True, capture_output=True)


def apt_sources() -> str:
    """Return the archives of SUITE that this machine uses, as one-line sources.

    Raises Unavailable where this machine's package archive does not carry SUITE.
    """
    target = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    # --no-release-info: from the configuration alone, because `apt-get update` may never have run here.
    command = ["apt-get", "indextargets", "--no-release-info", "--format", target, "Created-By: Packages"]
    lines = output(command).splitlines()
    sources = []
    for uri, release, component in (line.split() for line in lines):
        if release == SUITE or release.startswith(f"{SUITE}-"):
            sources.append(f"deb {uri} {release} {component}")
    if not any(f" {SUITE} " in source for source in sources):
        raise Unavailable(
            f"this machine has no package archive of Debian {SUITE} to build the test image from; "
            "GPULAB_TEST_IMAGE can name an image instead"
        )
    return "\n".join(dict.fromkeys(sources)) + "\n"


# --- what the test machines get from this one ---------------------------------------------------------


def pip_configuration() -> dict[str, str]:
    """Return where pip takes packages from on this machine, `{"index-url": ..., "find-links": ...}`."""
    found: dict[str, str] = {}
    listing = output([sys.executable, "-m", "pip", "config", "list"])
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2].replace("default-timeout", "timeout")
        if name in PIP_SETTINGS:
            # pip prints values as Python strings; several of a kind are separated by white space.
            found[name] = " ".join(value.strip("'\"").encode().decode("unicode_escape").split())
    return found


def local_directories(pip: dict[str, str]) -> list[Path]:
    """Return the directories of this machine that pip's configuration names and that exist."""
    words = [word for key in ("find-links", "index-url", "extra-index-url") for word in pip.get(key, "").split()]
    paths = [Path(unquote(urlsplit(word).path)) for word in words if word.startswith(("/", "file://"))]
    # An index is served out of the directory above `simple`, where the files it links to lie.
    paths = [path.parent if path.name == "simple" else path for path in paths]
    return sorted({path for path in paths if path.is_dir()})


def mnist_directory() -> Path | None:
    """Return the directory of the real MNIST files on this machine, None where there is none.

    They are not part of the project: GPULAB_TEST_MNIST_DIR names them, or they lie beside the checkout.
    """
    directory = Path(os.environ.get("GPULAB_TEST_MNIST_DIR") or ROOT.parent / "shared" / "data" / "mnist")
    return directory.resolve() if len(list(directory.glob("*-ubyte.gz"))) == 4 else None


def ca_bundle() -> Path | None:
    """Return the certificates this machine trusts, as one file."""
    named = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    candidates = [named, CA_BUNDLE, ssl.get_default_verify_paths().cafile]
    return next((Path(path) for path in candidates if path and Path(path).is_file()), None)


@dataclass
class Bed:
    """An engine, an image, and the configuration that every test machine is given."""

    image: str
    volumes: list[str]
    environment: dict[str, str]
    network: str = "bridge"
    machines: list[str] = field(default_factory=list)
    networks: list[str] = field(default_factory=list)

    @classmethod
    def prepare(cls) -> Bed:
        """Make everything ready for test machines; raise Unavailable with the reason where it cannot be."""
        ensure_engine()
        image = ensure_image()
        SETTINGS.mkdir(parents=True, exist_ok=True)
        pip = pip_configuration()
        volumes = [f"{path}:{path}:ro" for path in local_directories(pip)]
        bundle = ca_bundle()
        if bundle:
            volumes.append(f"{bundle}:{CA_BUNDLE}:ro")
            pip["cert"] = CA_BUNDLE
        (SETTINGS / "pip.conf").write_text("[global]\n" + "".join(f"{key} = {pip[key]}\n" for key in pip))
        (SETTINGS / "apt.conf").write_text(apt_configuration())
        volumes += [
            f"{SETTINGS}/pip.conf:/etc/pip.conf:ro",
            f"{SETTINGS}/apt.conf:/etc/apt/apt.conf.d/99machine:ro",
        ]
        environment = {name: os.environ[name] for name in PROXY_VARIABLES if name in os.environ}
        bed = cls(image, volumes, environment)
        bed.network = bed.find_network()
        return bed

    def find_network(self) -> str:
        """Return the docker network from which test machines reach the package archive."""
        for network in ("bridge", "host"):
            command = ["docker", "run", "--rm", f"--network={network}", *self.options(), self.image]
            command += ["sh", "-c", "apt-get -o Acquire::Retries=1 update"]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
            # apt-get update says a missing archive only as a warning.
            if done.returncode == 0 and "Failed to fetch" not in done.stderr:
                return network
        note("test machines reach no package archive; going on with the bridge network")
        return "bridge"

    def options(self, volumes: Sequence[str] = ()) -> list[str]:
        """Return the options of `docker run` that carry this machine's configuration, and further volumes."""
        taken = {volume.split(":")[1] for volume in volumes}
        own = [volume for volume in self.volumes if volume.split(":")[1] not in taken]
        mounts = [f"--volume={volume}" for volume in (*own, *volumes)]
        return mounts + [f"--env={name}={value}" for name, value in self.environment.items()]

    def molecule_environment(self) -> dict[str, str]:
        """Return the variables that .config/molecule/config.yml is written in terms of."""
        return {
            "GPULAB_TEST_HOST": f"gpulab-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:6]}",
            "GPULAB_TEST_IMAGE": self.image,
            "GPULAB_TEST_NETWORK": self.network,
            "GPULAB_TEST_VOLUMES": json.dumps(["/sys/fs/cgroup:/sys/fs/cgroup:rw", *self.volumes]),
            "GPULAB_TEST_ENVIRONMENT": json.dumps(self.environment),
            "GPULAB_TEST_MNIST_DIR": str(mnist_directory() or ""),
        }

    def image_with(self, name: str, commands: Sequence[str], *, base: str = "", timeout: float = 1800) -> str:
        """Return an image that is `base` after shell commands; made once for each recipe, and kept.

        Commands run in one container of `base`, with this machine's configuration; a label keeps the seconds it took.
        """
        recipe = json.dumps([base or self.image, *commands])
        tag = f"gpulab-test-{name}:{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
        if output(["docker", "image", "inspect", "--format", "{{.Id}}", tag]):
            return tag
        note(f"building the image {tag}")
        container = self._full_name(f"making-{name}")
        command = ["docker", "run", f"--name={container}", f"--network={self.network}", *self.options()]
        command += [base or self.image, "sh", "-ec", "\n".join(commands)]
        started = time.monotonic()
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)
            if done.returncode != 0:
                raise Unavailable(f"the image {tag} cannot be built: {first_error(done.stderr or done.stdout)}")
            changes = ["--change", f"LABEL gpulab.seconds={time.monotonic() - started:.0f}"]
            changes += ["--change", 'CMD ["/lib/systemd/systemd"]']
            subprocess.run(["docker", "commit", *changes, container, tag], check=True, capture_output=True)
        finally:
            subprocess.run(["docker", "rm", "--force", "--volumes", container], check=False, capture_output=True)
        return tag

    def own_network(self) -> str:
        """Return a docker network of this bed's own, on which containers find each other by name.

        Where only the host's network reaches the package archive, that is returned: there are no names on it.
        """
        if self.network == "host" or self.networks:
            return [self.network, *self.networks][-1]
        network = self._full_name("network")
        # The engine's --mtu holds for its first bridge alone.
        mtu = output(["docker", "network", "inspect", "--format", f'{{{{index .Options "{MTU}"}}}}', "bridge"])
        options = ["--opt", f"{MTU}={mtu}"] if mtu.isdigit() else []
        subprocess.run(["docker", "network", "create", *options, network], check=True, capture_output=True)
        self.networks.append(network)
        return network

    def machine(
        self,
        name: str,
        *,
        tmpfs: tuple[str, ...] = (),
        image: str = "",
        network: str = "",
        volumes: Sequence[str] = (),
        options: Sequence[str] = (),
        command: Sequence[str] = (),
    ) -> Machine:
        """Start a test machine and wait until it is up.

        `tmpfs` and `volumes` are mounts as docker writes them (`/opt/small:size=64m`, `/here:/there:ro`; a volume
        takes the place of this machine's own at the same path), `options` are further ones of `docker run`. With a
        `command` the machine runs that instead of systemd, and nobody waits for it.
        """
        full_name = self._full_name(name)
        # No --privileged: some machines do not have all the capabilities that it asks for.
        start = ["docker", "run", "--detach", "--name", full_name, "--hostname", name]
        start += ["--cap-add=SYS_ADMIN", "--security-opt=seccomp=unconfined", "--cgroupns=host"]
        start += ["--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw", f"--network={network or self.network}"]
        mounts = ("/run", "/run/lock", "/tmp:exec", *tmpfs)
        start += [f"--tmpfs={mount}" for mount in mounts]
        start += [*self.options(volumes), *options, image or self.image, *(command or ["/lib/systemd/systemd"])]
        self.machines.append(full_name)
        subprocess.run(start, check=True, capture_output=True)
        machine = Machine(full_name, network or self.network)
        if not command:
            machine.wait_for_boot()
        return machine

    def _full_name(self, name: str) -> str:
        """Return the name of something in the engine, which tells the runs of the tests apart."""
        return f"gpulab-test-{os.getpid()}-{name}"

    def remove_machines(self, names: Sequence[str] | None = None) -> None:
        """Remove every test machine that was started, or those of these names."""
        gone = list(self.machines if names is None else names)
        if gone:
            subprocess.run(["docker", "rm", "--force", "--volumes", *gone], check=False, capture_output=True)
            self.machines = [machine for machine in self.machines if machine not in gone]

    def remove_networks(self) -> None:
        """Remove the networks that were made; their machines must be gone."""
        for network in self.networks:
            subprocess.run(["docker", "network", "rm", network], check=False, capture_output=True)
        self.networks.clear()


def apt_configuration() -> str:
    """Return this machine's settings of how apt reaches its archive (proxies, clock tolerance)."""
    dump = output(["apt-config", "dump"]).splitlines()
    return "".join(f"{line}\n" for line in dump if re.match(r"Acquire::(https?::|Check-)", line) and '""' not in line)


@dataclass(frozen=True)
class Result:
    """How a command on a test machine ended; `output` is both its streams, as a person sees them."""

    status: int
    output: str
    seconds: float


@dataclass(frozen=True)
class Machine:
    """One test machine."""

    name: str
    network: str

    def run(self, command: str, *, user: str = "root", directory: str = "/", timeout: float = 1200) -> Result:
        """Run a shell command as a login session of `user` would, without a terminal or standard input."""
        started = time.monotonic()
        home = "/root" if user == "root" else f"/home/{user}"
        inside = ["docker", "exec", "--user", user, "--workdir", directory, self.name]
        inside += [
            "timeout",
            str(int(timeout)),
            "env",
            f"HOME={home}",
            f"USER={user}",
            "LANG=C.UTF-8",
            "bash",
            "-c",
            command,
        ]
        done = subprocess.run(
            inside,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        return Result(done.returncode, done.stdout, time.monotonic() - started)

    def put(self, source: Path, files: list[Path], target: str, *, owner: str = "root") -> None:
        """Copy `files` (relative to `source`) into the directory `target`, owned by `owner`."""
        names = "".join(f"{file}\0" for file in files)
        pack = ["tar", "--create", "--directory", str(source), "--null", "--files-from=-", "--owner=0", "--group=0"]
        packed = subprocess.run(pack, input=names.encode(), stdout=subprocess.PIPE, check=True).stdout
        unpack = f"mkdir -p {target} && tar -x -C {target} && chown -R {owner}: {target}"
        subprocess.run(
            ["docker", "exec", "-i", self.name, "sh", "-c", unpack],
            input=packed,
            check=True,
            capture_output=True,
        )

    def wait_for_boot(self) -> None:
        """Wait until systemd has done all it can. It empties /tmp meanwhile: nothing may be put there before."""
        self.wait_until(lambda: self.run("systemctl is-system-running").output.strip() in BOOTED)

    def restart(self) -> None:
        """Boot the machine again; what was mounted inside it is gone, its files stay."""
        subprocess.run(["docker", "restart", "--time=5", self.name], check=True, capture_output=True)
        self.wait_for_boot()

    def wait_until(self, condition: Callable[[], bool], timeout: float = 60) -> None:
        """Wait for a condition; raise TimeoutError after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} is not ready after {timeout} s")
            time.sleep(0.3)

    @property
    def can_disconnect(self) -> bool:
        """Whether the machine has a network of its own."""
        return self.network != "host"

    def disconnect(self) -> None:
        """Take the machine off the network."""
        self._change_network("disconnect")

    def connect(self) -> None:
        """Put the machine back on the network."""
        self._change_network("connect")

    def _change_network(self, action: str) -> None:
        command = ["docker", "network", action, self.network, self.name]
        subprocess.run(command, check=True, capture_output=True)


def main() -> int:
    """Print what molecule needs as shell commands; the engine must be running already, because it is to stay."""
    if not engine_answers():
        print("no docker engine answers; start one first", file=sys.stderr)
        return 1
    try:
        variables = Bed.prepare().molecule_environment()
    except Unavailable as reason:
        print(reason, file=sys.stderr)
        return 1
    print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
