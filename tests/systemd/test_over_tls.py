"""A platform behind stunnel, installed as the pages say, and dispatch in its sandbox."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from tests.systemd.site import DISPATCH, MDN, Site

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = "/usr/share/doc/kmp-smsd"


def blocks(page: str, heading: str) -> list[str]:
    """The commands that a page shows from `heading` to the next one."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").partition(heading)[2]
    text = re.split(r"^[^\n]+\n[-=]{3,}$", text, maxsplit=1, flags=re.MULTILINE)[0]
    found = re.findall(r"::\n\n((?:   .*\n|\n)+)", text)
    return [re.sub(r"^   (# )?", "", block, flags=re.MULTILINE) for block in found]


def test_platform_is_installed_behind_tls_as_the_pages_say(installed: Site) -> None:
    box = installed.box
    certificate, another, replace = blocks("configuration.rst", "**A platform without SSH**")
    install, start, digest, restart = blocks("platform-protocol.rst", "Installing behind TLS\n-----")
    box.ok(certificate)
    assert box.ok("stat -c %a /etc/kmp-smsd/credentials/tls/metering") == "600"
    shutil.copy(ROOT / "scripts" / "kmp-receive", box.root / "usr/local/bin/kmp-receive")
    box.ok(
        "chmod 755 /usr/local/bin/kmp-receive\n"
        "useradd --system --create-home --shell /bin/sh kmp\n"
        "install -d -m 700 -o kmp -g kmp /var/lib/keys\n"
        'su kmp -c "kmp-receive --store /var/lib/keys/keys.db init"\n'
        "cp /etc/kmp-smsd/kmp-metering.pem /etc/stunnel/kmp-clients.pem\n"
        f"cp {DOCUMENTS}/conf/stunnel-platform.conf /etc/stunnel/kmp.conf\n"
        f"cp {DOCUMENTS}/systemd/examples/kmp-receive* /etc/systemd/system\n"
        f"install -D -m 644 {DOCUMENTS}/systemd/examples/stunnel-restart.conf"
        " /etc/systemd/system/stunnel@.service.d/restart.conf\n"
    )
    box.ok(install)
    box.ok(start)

    box.ok(
        "cd /etc/kmp-smsd/platforms.d\n"
        r"sed 's/^enabled = false/enabled = true/; s/^hosts = .*/hosts = [\"127.0.0.1:4443\"]/; s/^apps = .*/apps = "
        r"[\"meter\"]/' example-tls.toml > metering.toml"
    )
    shown = json.loads(box.ok("kmp-smsd platforms trust metering --json"))
    assert shown["fingerprint"] == f"sha256//{box.ok(digest)}"
    pin = f"server_keys = ['{shown['pin']}']"
    box.ok(f'sed -i "s|^server_keys = .*|{pin}|" /etc/kmp-smsd/platforms.d/metering.toml')
    assert "good" in box.ok("kmp-smsd platforms test metering")

    installed.good()
    installed.send(1, 2, 3)

    def held() -> set[str]:
        said = box.ok('su kmp -c "kmp-receive --store /var/lib/keys/keys.db list --json"')
        return {row["mdn"] for row in map(json.loads, said.splitlines())}

    box.until(lambda: held() == {MDN.format(n) for n in (1, 2, 3)})
    box.until(lambda: installed.status_text(DISPATCH) == "1 platform, nothing due")
    assert installed.held() == set()

    # A tunnel that died is begun again.
    box.ok("systemctl kill --signal=KILL stunnel@kmp")
    box.until(lambda: "good" in box.run("kmp-smsd platforms test metering").stdout)

    # A new certificate is let in beside the old one, and then takes its place.
    def is_let_in(subject: str) -> bool:
        own = box.ok("openssl x509 -in /etc/kmp-smsd/credentials/tls/metering -noout -subject -nameopt RFC2253")
        assert own == f"subject=CN={subject}"
        return "good" in box.run("kmp-smsd platforms test metering").stdout

    box.ok(another)
    box.ok(f"cat /etc/kmp-smsd/kmp-metering.pem >> /etc/stunnel/kmp-clients.pem\n{restart}")
    box.until(lambda: is_let_in("kmp"))
    box.ok(replace)
    assert is_let_in("kmp-2")
    assert box.ok("stat -c %a /etc/kmp-smsd/credentials/tls/metering") == "600"

    # Each connection's end is that of its receiver, in order.
    box.ok(f"systemctl stop {DISPATCH}")
    box.until(lambda: "kmp-receive@" not in box.ok("systemctl list-units --all --plain --no-legend 'kmp-receive@*'"))
    assert "Failed" not in box.log("kmp-receive@*")
