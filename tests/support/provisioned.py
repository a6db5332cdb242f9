"""A consortium of three sites and an aggregator, provisioned once through the functions that the commands call."""

from pathlib import Path

from secfed.provisioning.adoption import adopt
from secfed.provisioning.aggregator_service import make_aggregator_folder
from secfed.provisioning.consortium import ConsortiumFile, found_consortium
from secfed.provisioning.fingerprint import fingerprint
from secfed.provisioning.reviewer import public_half_or_new
from secfed.provisioning.site_folder import make_site_folder

NAMES = ("ct-a", "mr-b", "mr-c")


def new_site(folder, name, *, consortium="abdomen"):
    """A site's folder and its request."""
    reviewer, _ = public_half_or_new(folder, None)
    return make_site_folder(
        folder,
        name=name,
        consortium=consortium,
        superlink="localhost:18443",
        data=folder.parent / "scans",
        reviewer=reviewer,
    )


class Place:
    """One root with everybody's folder in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.consortium = root / "consortium"
        self.aggregator = root / "aggregator"

    def site(self, name):
        return self.root / name

    @property
    def requests(self):
        return [self.site(name) / f"{name}.request" for name in NAMES]

    @property
    def anchor_fingerprint(self):
        return fingerprint((self.consortium / "anchor.pub").read_bytes())

    def accept(self, folder, release):
        return adopt(folder, release, anchor_fingerprint=self.anchor_fingerprint)


def make_place(root):
    """Founded, requested, nothing signed yet."""
    place = Place(root)
    found_consortium(place.consortium, ConsortiumFile(name="abdomen"))
    for name in NAMES:
        new_site(place.site(name), name)
    make_aggregator_folder(place.aggregator, consortium="abdomen", hosts=["localhost", "127.0.0.1"], port=18443)
    return place
