"""Who vouches for a bundle: an Ed25519 signature over its manifest, which holds all its digests.

Whoever may write the folder of bundles can make digests that fit; a signature needs a key that
need not be there. It covers the bundle's name too, so that one bundle cannot stand for another.
"""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING

from feastrain.artifacts import MANIFEST, open_manifest
from feastrain.errors import ArtifactError, ProjectError, UsageError

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )
    from cryptography.hazmat.primitives.serialization import (
        load_pem_private_key,
        load_pem_public_key,
    )
except ImportError as error:
    MESSAGE = "signatures need cryptography: pip install 'feastrain[sign]'"
    raise ProjectError(MESSAGE) from error

if TYPE_CHECKING:
    from pathlib import Path

SIGNATURE = "signature"
"""File of a bundle that holds its signature."""
_END = b"-----END PUBLIC KEY-----"


def sign(bundle: Path, key: Path) -> None:
    """Sign a bundle as it is published, in place of any earlier signature.

    Args:
        bundle: its folder.
        key: PEM file with an Ed25519 private key (`openssl genpkey -algorithm ed25519`).

    Raises:
        ArtifactError: the bundle is damaged.
        UsageError: the file holds no such key.
    """
    refuse_unlisted(bundle)
    remedy = "make one with `openssl genpkey -algorithm ed25519`"
    try:
        private = load_pem_private_key(_content(key), None)
    except (ValueError, TypeError) as error:  # no key, or one under a password
        message = f"{key} holds no private key that can be read; {remedy}"
        raise UsageError(message) from error
    if not isinstance(private, Ed25519PrivateKey):
        message = f"{key} holds another kind of key than Ed25519; {remedy}"
        raise UsageError(message)
    beside = bundle / f".{SIGNATURE}.{os.getpid()}"
    beside.write_bytes(base64.b64encode(private.sign(_signed(bundle))) + b"\n")
    beside.replace(bundle / SIGNATURE)


def require_signature(bundle: Path, keys: Path) -> None:
    """Refuse a bundle that none of some keys has signed as it is.

    Args:
        bundle: its folder.
        keys: PEM file with one Ed25519 public key, or several while one replaces another.

    Raises:
        ArtifactError: it has no valid signature, or a file that the signature does not cover.
        UsageError: the file holds no such keys.
    """
    trusted = _public_keys(keys)
    try:
        signature = base64.b64decode((bundle / SIGNATURE).read_bytes().strip(), validate=True)
        signed = _signed(bundle)
    except (OSError, ValueError) as error:
        message = f"{bundle} is not signed; sign it with `feastrain sign RECIPE --key FILE`"
        raise ArtifactError(message) from error
    for key in trusted:
        try:
            key.verify(signature, signed)
        except InvalidSignature:
            continue
        refuse_unlisted(bundle)
        return
    message = (
        f"the signature of {bundle} is of none of the keys in {keys}: it was changed, or signed by "
        "somebody else; do not use it before you know who"
    )
    raise ArtifactError(message)


def refuse_unlisted(bundle: Path) -> None:
    """Check every file of a bundle, and that there is none which its manifest does not list.

    Raises:
        ArtifactError: a file is missing, damaged or not listed.
    """
    listed = {*open_manifest(bundle)["files"], MANIFEST, SIGNATURE}
    found = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    for name in sorted(found - listed):
        message = f"{bundle / name} is not part of the bundle: its manifest does not list it"
        raise ArtifactError(message)


def _signed(bundle: Path) -> bytes:
    return b"feastrain bundle %s\n%s" % (bundle.name.encode(), (bundle / MANIFEST).read_bytes())


def _public_keys(path: Path) -> list[Ed25519PublicKey]:
    blocks = [block + _END for block in _content(path).split(_END)[:-1]]
    try:
        keys = [load_pem_public_key(block) for block in blocks]
    except ValueError as error:
        message = f"{path} holds a public key that cannot be read"
        raise UsageError(message) from error
    trusted = [key for key in keys if isinstance(key, Ed25519PublicKey)]
    if not trusted or len(trusted) < len(keys):
        message = (
            f"{path} must hold Ed25519 public keys in PEM and no others; get yours with "
            "`openssl pkey -in PRIVATE.pem -pubout`"
        )
        raise UsageError(message)
    return trusted


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"the key in {path} cannot be read ({type(error).__name__}): name another file"
        raise UsageError(message) from error
