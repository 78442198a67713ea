"""The project's chores; ``nox -l`` lists them, each session's docstring says what it is for."""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests"]

DISTRIBUTION = "knowledgestack-async"
PACKAGE = "knowledgestack_async"
OFFICIAL_CLIENTS = ("1.67.0", "1.120.0", "1.150.0", "3.13.1", "3.18.2")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests; any warning fails them."""
    session.install("-e", ".[dev]")
    session.run("python", "-X", "dev", "-W", "error", "-m", "pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install("-e", ".[dev]")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types under both checkers, and that all that is public has a type."""
    session.install("-e", ".[dev]")
    session.run("mypy")
    session.run("mypy", "tests/typing")
    session.run("pyright")
    session.run("pyright", "tests/typing")
    session.run("pyright", "--verifytypes", PACKAGE, "--ignoreexternal")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; any warning fails it."""
    session.install("-e", ".[docs]")
    session.run("sphinx-build", "-W", "--keep-going", "docs", "docs/_build/html")


@nox.session
def conformance(session: nox.Session) -> None:
    """Compare what we read with what the official clients read, field by field."""
    session.install("-e", ".[dev]")
    for version in OFFICIAL_CLIENTS:
        make_peer(session, f"ksapi-{version}", f"ksapi=={version}")
    session.run(
        *("python", "-X", "dev", "-W", "error", "-m", "pytest", "tests/conformance", "--no-cov"),
        *session.posargs,
        env={"KS_PEERS": str(peers(session))},
    )


@nox.session
def bench(session: nox.Session) -> None:
    """Measure against the peers; ``nox -s bench -- --quick`` takes two minutes."""
    # Installed as users have it: from a wheel, with its bytecode made.
    session.install("uvloop", "matplotlib", ".")
    session.install("--force-reinstall", "--no-deps", ".")
    make_peer(session, "ksapi-3.18.2", "ksapi==3.18.2")
    make_peer(session, "ksapi-1.67.0", "ksapi==1.67.0")
    make_peer(session, "httpx", "httpx")
    session.run(
        "python", "benchmarks/run.py", *session.posargs, env={"KS_PEERS": str(peers(session))}
    )


@nox.session(reuse_venv=False)
def package(session: nox.Session) -> None:
    """Build, look into what was built, and test the wheel with the source tree out of the way."""
    session.install("build")
    out = Path(session.create_tmp()).resolve() / "package"
    shutil.rmtree(out, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(out), silent=True)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    check_wheel(session, wheel)
    tree = unpack_sdist(session, sdist, out)
    shutil.rmtree(tree / PACKAGE)
    session.install(f"{DISTRIBUTION}[dev] @ {wheel.as_uri()}")
    with session.chdir(tree):
        session.run("python", "-X", "dev", "-W", "error", "-m", "pytest", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Run the tests that take long."""
    session.install("-e", ".[dev]")
    session.run(
        *("python", "-X", "dev", "-m", "pytest", "tests/soak", "--no-cov", "--timeout=900"),
        *session.posargs,
        env={"KS_SOAK": "1"},
    )


@nox.session
def mutants(session: nox.Session) -> None:
    """Change the code that decides about retries, slots and the wire: tests must notice 90% of it.

    ``nox -s mutants -- NAME...`` looks at some mutants only, ``mutmut show NAME`` says what one is.
    """
    session.install("-e", ".[dev]", "mutmut~=3.8")
    if session.posargs:
        session.run("mutmut", "run", *session.posargs)
        return
    shutil.rmtree("mutants", ignore_errors=True)
    session.run("mutmut", "run")
    session.run("mutmut", "results")
    check_mutants(session)


def check_mutants(session: nox.Session) -> None:
    """Tests fail, or run out of time, under 90% of the mutants."""
    session.run("mutmut", "export-cicd-stats", silent=True)
    found = json.loads(Path("mutants/mutmut-cicd-stats.json").read_text())
    total, killed, late = found["total"], found["killed"], found["timeout"]
    share = (killed + late) / total
    session.log(f"of {total} mutants {killed} were killed and {late} ran out of time: {share:.1%}")
    if share < 0.9:
        session.error("fewer than 90% of the mutants were killed")


def peers(session: nox.Session) -> Path:
    """Where the other clients' environments are kept between runs."""
    return session.cache_dir.resolve() / "peers"


def make_peer(session: nox.Session, name: str, requirement: str) -> None:
    """Give another client an environment of its own, unless it has one."""
    home = peers(session) / name
    python = home / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    done = home / "installed.txt"
    if done.exists() and done.read_text() == requirement:
        return
    session.run("python", "-m", "venv", "--clear", str(home), silent=True)
    session.run(str(python), "-m", "pip", "install", "-q", requirement, external=True)
    done.write_text(requirement)


def check_wheel(session: nox.Session, wheel: Path) -> None:
    """The wheel holds the package, its types' mark and the licence, and nothing else."""
    names = set(zipfile.ZipFile(wheel).namelist())
    home = next(name for name in names if name.endswith("/METADATA")).rpartition("/")[0]
    wanted = {f"{PACKAGE}/py.typed", f"{home}/licenses/LICENSE", f"{home}/entry_points.txt"}
    foreign = {
        name for name in names if not name.startswith((f"{PACKAGE}/", f"{home}/", f"_{PACKAGE}_"))
    }
    if wanted - names or foreign:
        session.error(f"the wheel lacks {wanted - names}, and has no need of {foreign}")


def unpack_sdist(session: nox.Session, sdist: Path, out: Path) -> Path:
    """Unpack the source distribution, which holds all that building and testing need."""
    with tarfile.open(sdist) as archive:
        archive.extractall(out, filter="data")
    tree = out / sdist.name.removesuffix(".tar.gz")
    wanted = (PACKAGE, "tests", "docs", "benchmarks", "README.md", "CHANGELOG.md", "LICENSE")
    missing = [name for name in (*wanted, "noxfile.py") if not (tree / name).exists()]
    if missing:
        session.error(f"the source distribution lacks {missing}")
    return tree
