"""Which code this site runs for a consortium: releases that the site's reviewer has signed for, and nothing else.

Run at the site. A run names an app bundle by its SHA-256, and the bundle names the digest of the program that it was
made for. The site runs its own installed program, never code out of a bundle; both digests must have been approved with
the reviewer's key, whose public half stands in `site.toml`. Its private half belongs to another person than the one who
operates the node, and on another machine.

It does not protect a site whose installed program was changed by whoever can write to that installation.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privacy.cbor import to_cbor
from secfed.errors import ConfigError, PolicyRefusal
from secfed.site_config import SiteFile
from secfed.whole_file import write_whole

APPROVALS = "approvals.json"
_LABEL = "secfed-approval/1"
_HEX_DIGEST_LENGTH = 64


@dataclass(frozen=True, kw_only=True)
class Approval:
    """One release: SHA-256 of its bundle, digest of its program, who signed, why, and when (UTC)."""

    bundle: str
    code: str
    by: str
    reason: str
    time: str
    signature: str

    def signed_part(self, site: str) -> bytes:
        """What the reviewer signs: everything here, for one site."""
        return to_cbor([_LABEL, site, self.bundle, self.code, self.by, self.reason, self.time])


class Approvals:
    """The approvals of one site folder; `reviewer` is the reviewer's public key, None where nobody was named."""

    def __init__(self, folder: Path, *, site: str, reviewer: bytes | None) -> None:
        self._path = folder / APPROVALS
        self._site = site
        self._reviewer = reviewer

    @classmethod
    def of(cls, folder: Path, site: SiteFile) -> Self:
        """The approvals of a site's folder, by the reviewer that its `site.toml` names."""
        return cls(folder, site=site.name, reviewer=None if site.reviewer is None else bytes.fromhex(site.reviewer))

    def all(self) -> tuple[Approval, ...]:
        """Every approval that the reviewer signed; raises ConfigError where one was not, or the file is damaged."""
        if not self._path.exists():
            return ()
        try:
            found = tuple(Approval(**entry) for entry in json.loads(self._path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, OSError) as error:
            raise ConfigError(f"{self._path}: no list of approvals: {error}; nothing is approved by it") from error
        for approval in found:
            self._verify(approval)
        return found

    def require(self, *, bundle: str, code: str | None = None) -> None:
        """Raise PolicyRefusal unless the reviewer approved this bundle, and with `code`, for this very program."""
        approved = [approval for approval in self.all() if approval.bundle == bundle]
        if not approved:
            raise PolicyRefusal(
                f"app bundle {bundle} is not approved at this site: its reviewer signs for a release with "
                "`secfed site approve`"
            )
        if code is not None and code not in [approval.code for approval in approved]:
            raise PolicyRefusal(
                f"app bundle {bundle} was approved for the program {approved[0].code[:16]}..., and {code[:16]}... is "
                "installed here: install the release that was reviewed, or have this one reviewed"
            )

    def add(self, *, bundle: str, code: str, by: str, reason: str, key: Ed25519PrivateKey) -> Approval:
        """Sign for a release with the reviewer's key.

        Raises:
            ConfigError: not the reviewer's key, no name or reason, or a digest that is none.
        """
        if key.public_key().public_bytes_raw() != self._named_reviewer():
            raise ConfigError("this is not the key of the reviewer that site.toml names: its public half is another")
        for what, text in (("--by", by), ("--reason", reason)):
            if not text.strip():
                raise ConfigError(f"{what} is empty: an approval names who gives it, and why")
        for what, digest in (("bundle", bundle), ("program", code)):
            if len(digest) != _HEX_DIGEST_LENGTH or set(digest) - set("0123456789abcdef"):
                raise ConfigError(f"{what} {digest!r}: a SHA-256 has {_HEX_DIGEST_LENGTH} hexadecimal digits")
        draft = Approval(
            bundle=bundle,
            code=code,
            by=by.strip(),
            reason=reason.strip(),
            time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            signature="",
        )
        approval = Approval(**{**asdict(draft), "signature": key.sign(draft.signed_part(self._site)).hex()})
        self._write([*(one for one in self.all() if (one.bundle, one.code) != (bundle, code)), approval])
        return approval

    def withdraw(self, bundle: str) -> int:
        """Take back every approval of a bundle, by as many digits as tell it apart; returns how many."""
        matching = {approval.bundle for approval in self.all() if approval.bundle.startswith(bundle)}
        if len(matching) != 1:
            known = ", ".join(sorted({approval.bundle[:16] for approval in self.all()})) or "none"
            raise ConfigError(f"--withdraw {bundle}: {len(matching)} approved bundles begin so; approved are {known}")
        kept = [approval for approval in self.all() if approval.bundle not in matching]
        gone = len(self.all()) - len(kept)
        self._write(kept)
        return gone

    def _write(self, approvals: list[Approval]) -> None:
        entries: list[dict[str, Any]] = [asdict(approval) for approval in approvals]
        write_whole(self._path, json.dumps(entries, indent=1).encode(), durable=True)

    def _named_reviewer(self) -> bytes:
        if self._reviewer is None:
            raise ConfigError(
                "site.toml names no reviewer, so nothing can be approved here: "
                'reviewer = "PUBLIC KEY", as `secfed provision site` wrote it'
            )
        return self._reviewer

    def _verify(self, approval: Approval) -> None:
        try:
            Ed25519PublicKey.from_public_bytes(self._named_reviewer()).verify(
                bytes.fromhex(approval.signature), approval.signed_part(self._site)
            )
        except (InvalidSignature, ValueError) as error:
            raise ConfigError(
                f"{self._path}: the approval of bundle {approval.bundle[:16]}... is not signed by this site's "
                "reviewer; nothing runs until it is removed"
            ) from error
