"""MLflow's command with a login: ``python -m adafocus.tracking.login ui --host 127.0.0.1 ...``.

A server on loopback is open to whoever is on the machine, and MLflow's page can delete experiments.
"""

from __future__ import annotations

import configparser
import os
import secrets
import sys
from pathlib import Path

LOGIN_FOLDER = Path("results/login")
USER = "adafocus"


def make_login(folder: Path) -> tuple[Path, str]:
    """Draws a password where there is none yet, and keeps it for the owner's eyes alone.

    Returns:
        MLflow's file of settings, with user name and password, and the key that signs its forms.

    Raises:
        ValueError: where another person can read or change it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder.absolute() / "mlflow.ini"
    for one in (folder, path):
        if one.exists() and (one.stat().st_uid != os.getuid() or one.stat().st_mode & 0o077):
            raise ValueError(
                f"{one}: is not for your eyes alone: delete it, and another password is drawn"
            )
    config = configparser.ConfigParser(interpolation=None)
    if not path.exists():
        config["mlflow"] = {
            "default_permission": "NO_PERMISSIONS",
            "database_uri": f"sqlite:///{path.with_name('users.db')}",
            "admin_username": USER,
            "admin_password": secrets.token_urlsafe(18),
        }
        config["adafocus"] = {"key": secrets.token_urlsafe(32)}
        # Of users made with a password that is lost nobody can log in.
        path.with_name("users.db").unlink(missing_ok=True)
        with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            config.write(file)
    config.read(path)
    return path, config["adafocus"]["key"]


def main() -> None:
    try:
        path, key = make_login(LOGIN_FOLDER)
    except (ValueError, OSError) as error:
        sys.exit(f"Error: {error}")
    print(f"User name and password are in {path}", flush=True)
    settings = {"MLFLOW_AUTH_CONFIG_PATH": str(path), "MLFLOW_FLASK_SERVER_SECRET_KEY": key}
    command = [sys.executable, "-m", "mlflow", *sys.argv[1:], "--app-name", "basic-auth"]
    os.execve(sys.executable, command, os.environ | settings)


if __name__ == "__main__":
    main()
