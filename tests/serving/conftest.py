"""Databases and folders that the tests of the server share."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from served_models import save, small_community


@dataclass
class Postgres:
    """A PostgreSQL server of our own."""

    binaries: Path
    folder: Path
    port: int

    def _run(self, name: str, *arguments: str) -> None:
        command = [str(self.binaries / name), *arguments]
        if os.getuid() == 0:  # PostgreSQL refuses to run as root
            owner = pwd.getpwnam("postgres")
            subprocess.run(
                command, check=True, capture_output=True, user=owner.pw_uid, group=owner.pw_gid,
                cwd=self.folder,
            )  # fmt: skip
        else:
            subprocess.run(command, check=True, capture_output=True, cwd=self.folder)

    def create(self) -> None:
        data = str(self.folder / "data")
        self._run("initdb", "-D", data, "-U", "coterie", "-A", "trust", "-E", "UTF8", "--no-sync")
        self.start()

    def start(self) -> None:
        settings = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        log = str(self.folder / "log")
        self._run(
            "pg_ctl", "start", "-w", "-D", str(self.folder / "data"), "-l", log, "-o", settings
        )

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "-w", "-m", "fast", "-D", str(self.folder / "data"))

    def database(self) -> str:
        """The URL of a new database."""
        name = f"test_{uuid4().hex}"
        url = f"postgresql://coterie@127.0.0.1:{self.port}"
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "coterie", name)
        return f"{url}/{name}"


def _binaries() -> Path | None:
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True)
    found = shutil.which("postgres")
    if found is not None:
        candidates.append(Path(found).resolve())
    return next((path.parent for path in candidates if (path.parent / "initdb").exists()), None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    binaries = _binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="coterie-postgres-"))
    if os.getuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    server = Postgres(binaries, folder, port)
    try:
        server.create()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(scope="session")
def community(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_community().save(tmp_path_factory.mktemp("community") / "data")
