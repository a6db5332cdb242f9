"""The survivor set that some sites may already have begun to open, for the model at hand.

Runs at the aggregator. Once a site has released its shares for a sum, it releases none for another sum over the same
model with other survivors (privacy.secagg.differencing). So when an unmasking fails, or the aggregator stops in the
middle of one, the round can only be run again with the same survivors. They are noted before the first site is asked.
"""

import json
from pathlib import Path

from secfed.whole_file import write_whole


class HalfOpened:
    """At most one model and its survivors, in a file that outlives the aggregator's process.

    With `durable` it outlives a power cut too.
    """

    def __init__(self, path: Path, *, durable: bool) -> None:
        self.path = path
        self.durable = durable

    def note(self, *, model_hash: bytes, survivors: tuple[str, ...]) -> None:
        """From now on only these survivors can be summed over this model."""
        data = json.dumps({"model": model_hash.hex(), "survivors": survivors}).encode()
        write_whole(self.path, data, durable=self.durable)

    def survivors_over(self, model_hash: bytes) -> frozenset[str] | None:
        """The survivors to which a sum over this model is bound; None where any may be summed."""
        if not self.path.exists():
            return None
        noted = json.loads(self.path.read_text(encoding="utf-8"))
        return frozenset(noted["survivors"]) if noted["model"] == model_hash.hex() else None
