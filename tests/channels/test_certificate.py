"""The public key in a certificate, against OpenSSL, by which an administrator finds its fingerprint."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmp_smsd.channels.certificate import public_key_of
from tests.stunnel import new_certificate

CERTIFICATE = ssl.PEM_cert_to_DER_cert(new_certificate("far")[0].decode())


@pytest.mark.parametrize(
    "options",
    [
        "-newkey rsa-pss -pkeyopt rsa_keygen_bits:2048",
        "-newkey rsa:2048",
        "-newkey ed448",
        "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit",
        "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -set_serial 0",
    ],
)
def test_key_of_any_kind_is_the_one_that_openssl_shows(tmp_path: Path, options: str) -> None:
    file = tmp_path / "certificate.pem"
    make = f"openssl req -x509 -nodes -subj /CN=far {options} -keyout {tmp_path}/key.pem -out {file}"
    subprocess.run(make, shell=True, check=True, capture_output=True)
    show = f"openssl x509 -in {file} -noout -pubkey | openssl pkey -pubin -outform der"
    shown = subprocess.run(show, shell=True, check=True, capture_output=True).stdout
    assert public_key_of(ssl.PEM_cert_to_DER_cert(file.read_text())) == shown


@given(st.data())
def test_damaged_certificate_has_a_key_that_stands_in_it_or_none(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(CERTIFICATE) - 1))
    damaged = CERTIFICATE[:at] + data.draw(st.binary(max_size=4)) + CERTIFICATE[at + data.draw(st.integers(0, 4)) :]
    try:
        assert public_key_of(damaged) in damaged
    except ValueError:
        assert damaged != CERTIFICATE
