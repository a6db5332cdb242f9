"""What leaves a site in a masked or an encrypted run: fixed headers, signed messages, and what looks like noise."""

import json

import numpy as np
import pytest
from scipy import stats
from small_federation import config, journal, provision, train

from aggregator.folder import AggregatorFolder
from privacy import cbor
from privacy.he.layout import HEADER_BYTES
from secfed.protected_vector import METRIC_LIMITS, encryption_parameters, vector_format

SITE, NODE = "ct-b", 1001
LEVEL = 1e-6
"""The masks are new in every run; a uniform upload falls below this once in a million."""


@pytest.fixture(scope="module")
def runs(scans, tmp_path_factory):
    """One seed in every mode: the job, and every reply of one site in order."""
    found = {}
    for mode in ("masked", "plain", "encrypted"):
        # A network that is large enough for a histogram of bytes.
        run_config = config(
            scans, protection={"mode": mode}, federation={"validate_every": 1}, model={"channels": [16, 32]}
        )
        job = provision(tmp_path_factory.mktemp(mode), run_config)
        replies = []

        def remember(node, reply, replies=replies):
            if node == NODE:
                replies.append(reply)
            return reply

        train(job, intercept_reply=remember)
        found[mode] = (job, replies)
    return found


def uploads(replies):
    return [np.frombuffer(r.content["vector"]["vector"].data, "<u4") for r in replies if "vector" in r.content]


def ciphertexts(replies):
    return [r.content["attachment"]["bytes"].data for r in replies if "attachment" in r.content]


def p_value(words):
    """Chi-square over the 256 values of all bytes; far from uniform is small."""
    return float(stats.chisquare(np.bincount(words.view(np.uint8), minlength=256)).pvalue)


def test_replies_hold_a_fixed_header_one_payload_and_a_vector_only_when_training(runs):
    _, replies = runs["masked"]
    stages = [reply.metadata.message_type for reply in replies]
    setup = ["query.join", "query.encapsulate", "query.confirm", "query.share"]
    assert stages == [*setup, *["train", "query.agree", "query.unmask"] * 2]
    for index, reply in enumerate(replies):
        trains = reply.metadata.message_type == "train"
        assert set(reply.content) == {"secfed", "vector"} if trains else {"secfed"}
        assert set(reply.content["secfed"]) == {"header", "payloads"}
        # The next round's shares ride with the first unmasking; after the last one there is no next round.
        deals = index == stages.index("query.unmask")
        assert len(reply.content["secfed"]["payloads"]) == (2 if deals else 1)
        header = cbor.from_cbor(reply.content["secfed"]["header"])
        assert set(header) == {"version", "kind", "stage", "run", "session", "round", "sequence", "site"}
        assert (header["version"], header["kind"], header["site"]) == (3, "reply", SITE)
        assert (header["round"], header["sequence"]) in ((0, 0), (1, 1), (2, 2))


def test_encrypted_replies_hold_a_fixed_header_one_payload_and_a_ciphertext_only_when_training(runs):
    _, replies = runs["encrypted"]
    stages = [reply.metadata.message_type.removeprefix("query.") for reply in replies]
    assert stages == ["join", "encapsulate", "confirm", "offer", "take", "train", "train", "end", "finish"]
    for stage, reply in zip(stages, replies, strict=True):
        assert set(reply.content) == ({"secfed", "attachment"} if stage == "train" else {"secfed"})
        assert set(reply.content["secfed"]) == {"header", "payloads"}
        assert len(reply.content["secfed"]["payloads"]) == 1
        header = cbor.from_cbor(reply.content["secfed"]["header"])
        assert set(header) == {"version", "kind", "stage", "run", "session", "round", "sequence", "site"}
        assert (header["version"], header["kind"], header["site"]) == (3, "reply", SITE)
        assert (header["round"], header["sequence"]) in ((0, 0), (1, 1), (2, 2), (3, 3))


@pytest.mark.parametrize("mode", ["masked", "encrypted"])
def test_no_reply_holds_metrics_counts_or_file_names_in_the_clear(runs, mode):
    job, replies = runs[mode]
    said = b"".join(
        part for reply in replies for part in (reply.content["secfed"]["header"], *reply.content["secfed"]["payloads"])
    )
    hidden = b"".join(ciphertexts(replies))
    # Five bytes and more: noise of a megabyte holds every word of three once in twenty runs.
    words = [*METRIC_LIMITS, "examples", "weight", "train_loss", "amos_", ".nii.gz", "delta", str(job.folder)]
    assert min(map(len, words)) >= 5
    assert [word for word in words if word.encode() in said + hidden] == []
    headers = b"".join(reply.content["secfed"]["header"] for reply in replies)
    assert [word for word in ("loss", "nii") if word.encode() in headers] == []
    # The control: the same search finds a name that does stand there.
    assert SITE.encode() in said


@pytest.mark.parametrize(
    ("mode", "stages"),
    [
        ("masked", ("query.join", "query.confirm", "query.share", "train", "query.agree", "query.unmask")),
        ("encrypted", ("query.join", "query.confirm", "query.take", "train", "query.end", "query.finish")),
    ],
)
def test_the_size_of_a_reply_does_not_depend_on_what_the_site_holds(scans, tmp_path, mode, stages):
    sizes = {}

    def remember(node, reply):
        size = sum(record.count_bytes() for record in reply.content.values())
        sizes.setdefault(reply.metadata.message_type, {}).setdefault(node, []).append(size)
        return reply

    # Sites hold one, two, three and one training scans.
    train(provision(tmp_path, config(scans, protection={"mode": mode})), intercept_reply=remember)
    for stage in stages:
        assert len({tuple(found) for found in sizes[stage].values()}) == 1, stage


def test_a_masked_upload_is_indistinguishable_from_uniform_and_the_plain_one_is_not(runs):
    masked, plain = (uploads(runs[mode][1]) for mode in ("masked", "plain"))
    assert len(masked) == len(plain) == 2
    for hidden, bare in zip(masked, plain, strict=True):
        assert hidden.size == bare.size > 5000
        assert p_value(hidden) > LEVEL
        assert p_value(bare) < LEVEL
        # Masks hide the same integers: no word is left as it was, but for chance.
        assert np.count_nonzero(hidden == bare) <= 2


def test_an_encrypted_upload_is_indistinguishable_from_uniform_below_its_primes(runs):
    job, replies = runs["encrypted"]
    found = ciphertexts(replies)
    _, layout = AggregatorFolder(job.aggregator_folder).initial_model()
    parameters = encryption_parameters(vector_format(layout, job.plan, cohort_size=4), job.plan.protection)
    assert len(found) == 2
    assert len({len(data) for data in found}) == 1
    ((prime,), (width,)) = parameters.moduli, parameters.residue_bytes
    wide = []
    for data in found:
        residues = np.frombuffer(data[HEADER_BYTES:], np.uint8).reshape(-1, width)
        wide.append(np.pad(residues, ((0, 0), (0, 8 - width))).view("<u8")[:, 0])
        bins = np.bincount((wide[-1] * 64.0 / prime).astype(np.int64), minlength=64)
        assert stats.chisquare(bins).pvalue > LEVEL
    # The next round's update is close to this one's; no residue says so but by chance.
    assert np.count_nonzero(wide[0] == wide[1]) <= 2


def test_the_histogram_that_the_report_shows_is_uniform_when_masked(runs):
    for mode, expected in (("masked", True), ("encrypted", True), ("plain", False)):
        job, _ = runs[mode]
        view = json.loads((job.aggregator_folder / "aggregator-view.json").read_text())
        assert (view["site"], view["protection"], sum(view["masked_counts"])) == ("ct-a", mode, view["entries"])
        assert (stats.chisquare(view["masked_counts"]).pvalue > LEVEL) == expected
    counts = {
        mode: json.loads((runs[mode][0].site_folders[0] / "books" / "update-histogram.json").read_text())
        for mode in runs
    }
    # Before protection all modes have the same integers, and the plain aggregator sees exactly these.
    assert counts["masked"] == counts["encrypted"] == counts["plain"]
    view = json.loads((runs["plain"][0].aggregator_folder / "aggregator-view.json").read_text())
    assert view["masked_counts"] == counts["plain"]["counts"]


def test_the_aggregator_s_files_hold_sums_and_no_site_s_numbers(runs):
    job, _ = runs["masked"]
    for entry in journal(job):
        assert set(entry["metrics"]) == {"train_loss", "validation_dice_ct", "validation_dice_mr"}
        assert entry["survivors"] == ["ct-a", "ct-b", "mr-a", "mr-b"]
    names = {path.relative_to(job.aggregator_folder).parts[0] for path in job.aggregator_folder.rglob("*")}
    assert names == {
        "plan.json",
        "sites.json",
        "initial.safetensors",
        "roster.cbor",
        "anchor.pub",
        "checkpoints",
        "journal.jsonl",
        "aggregator-view.json",
        "half-opened.json",
        "simulated",
        "transcript",
    }
