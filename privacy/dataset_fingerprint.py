"""Which patients a budget belongs to: digests of a data set and of every person in it.

Run by sites. A data set is known by the images of its patients; a person by name or by images, whichever still agrees
after a data set was extended, renamed or preprocessed anew (`privacy.ledger` carries charges over then).

It does not recognise a person under a new name whose images were changed, nor the same person at another site. Digests
of names can be guessed by whoever has a list of names: they stay at the site.
"""

import hashlib
from collections.abc import Iterable, Mapping

from privacy.cbor import to_cbor
from privacy.errors import MisuseError

_DIGEST_BYTES = 32


def dataset_fingerprint(contents: Iterable[bytes]) -> bytes:
    """32 bytes for the patients whose content digests these are, in any order.

    Raises:
        MisuseError: there is none, or one is not 32 bytes long.
    """
    digests = sorted(contents)
    if not digests or any(len(digest) != _DIGEST_BYTES for digest in digests):
        raise MisuseError(f"a data set needs patients, each with a digest of {_DIGEST_BYTES} bytes; got {len(digests)}")
    return hashlib.sha256(to_cbor(["secfed data set/1", digests])).digest()


def patient_marks(patients: Mapping[str, bytes]) -> tuple[str, ...]:
    """Two digests in hexadecimal per patient, of the stable name and of the content digest, sorted.

    A name must be the person's, the same in every data set of the site, such as the hospital's number.

    Raises:
        MisuseError: a name is empty, or a content digest is not 32 bytes long.
    """
    marks = set()
    for name, content in patients.items():
        if not name or len(content) != _DIGEST_BYTES:
            raise MisuseError(f"a patient needs a name and a digest of {_DIGEST_BYTES} bytes, got {len(content)}")
        marks.add(hashlib.sha256(to_cbor(["secfed patient name/1", name])).hexdigest())
        marks.add(hashlib.sha256(to_cbor(["secfed patient images/1", content])).hexdigest())
    return tuple(sorted(marks))
