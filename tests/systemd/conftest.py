from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.box import Box, lacking
from tests.systemd.site import Site

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of this checkout."""
    reason = lacking()
    if reason:
        assert "CI" not in os.environ, reason
        pytest.skip(reason)
    built = subprocess.run(
        [ROOT / "scripts" / "build-deb", tmp_path_factory.mktemp("deb")], check=True, stdout=subprocess.PIPE, text=True
    )
    return Path(built.stdout.strip())


@pytest.fixture(scope="session")
def next_package(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as its next version will be: a higher number, and one migration more."""
    tree = tmp_path_factory.mktemp("next") / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    control, preinst = tree / "DEBIAN" / "control", tree / "DEBIAN" / "preinst"
    control.write_text(control.read_text().replace("Version: ", "Version: 99."))
    text = preinst.read_text()
    assert text.count(' " in\n') == 1
    preinst.write_text(text.replace(' " in\n', ' 9999_next " in\n').replace('gt "', 'gt "99.'))
    (program,) = tree.glob("opt/kmp-smsd/lib/python3.*/site-packages/kmp_smsd")
    (program / "storage/migrations/9999_next.sql").write_text("CREATE TABLE next_version (name TEXT) STRICT;\n")
    made = package.with_name(f"next-{package.name}")
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, made], check=True)
    shutil.rmtree(tree)
    return made


@pytest.fixture(scope="module")
def installed(package: Path) -> Iterator[Site]:
    """The package in a box, installed and configured, its roles not started."""
    with Box() as box:
        site = Site(box)
        site.install(package)
        site.configure()
        yield site
        site.close()


@pytest.fixture
def site(installed: Site) -> Site:
    """Both roles run, bound and with a good configuration."""
    installed.good()
    return installed
