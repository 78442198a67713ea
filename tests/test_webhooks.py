"""The signature of a dispatch."""

import hashlib
import hmac

import pytest

import knowledgestack_async as ks
from knowledgestack_async._webhooks import verify_webhook

BODY = '{"run_id": "ä"}'.encode()


def sign(secret, body=BODY):
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


@pytest.mark.parametrize("write", ["{}", "sha256={}", "SHA256={}", " sha256={}\n"])
@pytest.mark.parametrize("secret", ["whsec_1", b"whsec_1", ["whsec_2", "whsec_1"], (b"whsec_1",)])
def test_the_right_signature_is_taken_with_and_without_its_prefix(secret, write):
    assert verify_webhook(secret, BODY, write.format(sign("whsec_1")))
    assert verify_webhook(secret, BODY, write.format(sign("whsec_1").upper()))


@pytest.mark.parametrize(
    "signature",
    [
        None,
        "",
        "sha256=",
        "sha1=" + sign("whsec_1"),
        sign("whsec_2"),
        sign("whsec_1")[:-1],
        "ä\ud800",
        sign("whsec_1") + "00",
        "sha256=sha256=" + sign("whsec_1"),
        sign("whsec_1", BODY + b" "),
    ],
)
def test_any_other_is_refused(signature):
    assert verify_webhook("whsec_1", BODY, signature) is False
    assert verify_webhook(["whsec_1", "whsec_3"], BODY, signature) is False


@pytest.mark.parametrize("secret", ["", b"", [], ["whsec_1", ""]])
def test_an_empty_secret_proves_nothing(secret):
    with pytest.raises(ks.ConfigurationError, match="empty"):
        verify_webhook(secret, BODY, sign("whsec_1"))


def test_all_secrets_are_tried_in_constant_time(monkeypatch):
    compared = []
    monkeypatch.setattr(hmac, "compare_digest", lambda *two: compared.append(two) or True)
    assert verify_webhook(["a", "b", "c"], BODY, "sha256=00")
    assert len(compared) == 3
