"""Gradient inversion: the aggregator rebuilds a site's slice from the update that it received.

The attacker's good case throughout: `small_run.ONE_STEP`, a crop of 16 x 16 pixels at 10 mm, a U-Net of two levels
with 32 channels, and labels that are known to the attacker: a search for image and labels together found no image,
which says something of that search and nothing of better ones. With more steps, larger batches, augmentation and whole
slices the reconstruction gets worse; nothing guarantees how much. Every image is compared with the one that the same
search finds in another site's update of the same kind, so that what the labels and the prior give away is not counted.

Against one masked or encrypted upload the search finds nothing. Against the sum it finds what the sum holds: secure
aggregation hides who said what, encryption hides the sum from the aggregator and from no site, and only larger cohorts
and differential privacy act on the rest.
"""

from collections.abc import Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt

from privacy.secagg.masks import apply_masks
from privacy.streams import derive_key
from secfed.audit.encrypted_uploads import encrypt_uploads
from secfed.audit.finding import recovered
from secfed.audit.inversion import Search
from secfed.audit.rebuilt import SUCCESS_DB, Rebuilt, rebuild
from secfed.audit.rows import Attack, AttackRow, Mode
from secfed.audit.slices import Slice, slices
from secfed.audit.small_run import ONE_STEP, SmallRun, run_small

_SIZE = (16, 16)
_SITES = 4
_VICTIMS = 3


def attack_one_upload(mode: Mode, seed: int, *, victims: int = _VICTIMS, search: Search | None = None) -> AttackRow:
    """Rebuild the slices of `victims` sites of four from their uploads; the figure is the mean gain in PSNR."""
    search = search or Search(steps=300)
    run = run_small([[patient] for patient in _patients(seed, _SITES)], mode="plain", seed=seed, tables=ONE_STEP)
    uploads, with_key = list(run.uploads.values()), ""
    if mode == "masked":
        uploads = [_masked(upload, site=site, run=run, seed=seed) for site, upload in run.uploads.items()]
    if mode == "encrypted":
        encrypted = encrypt_uploads(run, seed=seed)
        opened = recovered(encrypted.with_key(encrypted.ciphertexts[0]), uploads[0])
        with_key = f"; with the key of one colluding site {opened:.0%} of an upload is read"
        uploads = [encrypted.without_key(message) for message in encrypted.ciphertexts]
    gradients = [run.gradient_in(upload) for upload in uploads]
    network = run.network(run.start)
    rebuilt: list[Rebuilt] = []
    for victim, cases in enumerate(list(run.cases.values())[:victims]):
        own, other = gradients[victim], gradients[(victim + 1) % _SITES]
        rebuilt += rebuild(network, own, other, cases, seed=seed, search=search)
    reached, unrelated = _means(rebuilt)
    gain = round(reached[0] - unrelated[0], 2)
    works = gain >= SUCCESS_DB
    return AttackRow(
        attack=ONE_UPLOAD,
        mode=mode,
        control=f"the same search on another site's {mode} upload: {_sentence(unrelated)}",
        outcome=(
            f"search on the site's own {mode} upload: {_sentence(reached)}; "
            + ("the slice can be seen" if works else "no better than an unrelated upload")
            + with_key
        ),
        figure=gain,
        unit="dB of PSNR gained over the control",
        verdict="succeeded" if works else "refused",
    )


def attack_sum(mode: Mode, seed: int, *, cohorts: tuple[int, ...] = (4, 10), search: Search | None = None) -> AttackRow:
    """Rebuild the slices of all sites at once from their sum; the figure is the mean gain for the first cohort.

    The attacker is whoever has the sum: the aggregator, and in encrypted mode a site.
    """
    search = search or Search(steps=250)
    gains, reached, unrelated = [], [], []
    hides, read = "Secure aggregation", ""
    for sites in cohorts:
        patients = _patients(seed, 2 * sites)
        trained: Mode = "plain" if mode == "encrypted" else mode
        run, other = (
            run_small([[patient] for patient in group], mode=trained, seed=seed, tables=ONE_STEP)
            for group in (patients[:sites], patients[sites:])
        )
        gradient = run.gradient_in_sum()
        if mode == "encrypted":
            encrypted = encrypt_uploads(run, seed=seed)
            gradient = run.gradient_in(encrypted.total)
            seen = recovered(encrypted.without_key(encrypted.encrypted_total), encrypted.total)
            read += f"; of {sites} sites the aggregator reads {seen:.0%} of the sum, a site all of it" * encrypted.exact
            hides = "Encryption hides the sum from the aggregator and"
        cases = [case for (case,) in run.cases.values()]
        network, other_gradient = run.network(run.start), other.gradient_in_sum()
        found, control = _means(rebuild(network, gradient, other_gradient, cases, seed=seed, search=search))
        reached.append(found)
        unrelated.append(control)
        gains.append(round(reached[-1][0] - unrelated[-1][0], 2))
    works = gains[0] >= SUCCESS_DB
    by_cohort = ", ".join(f"{gain:+.1f} dB with {sites} sites" for gain, sites in zip(gains, cohorts, strict=True))
    return AttackRow(
        attack=SUM,
        mode=mode,
        control=f"the same search on the sum of {cohorts[0]} other sites: {_sentence(unrelated[0])}",
        outcome=(
            f"search on the sum of {cohorts[0]} sites: {_sentence(reached[0])}; gain {by_cohort}{read}. {hides} "
            "hides nothing that the sum reveals: larger cohorts blur it, differential privacy bounds it"
        ),
        figure=gains[0],
        unit="dB of PSNR gained over the control",
        verdict="succeeded" if works else "refused",
    )


def _patients(seed: int, count: int) -> list[Slice]:
    return list(islice(slices(seed, size=_SIZE), count))


def _masked(upload: npt.NDArray[np.uint32], *, site: str, run: SmallRun, seed: int) -> npt.NDArray[np.uint32]:
    """The upload under the protocol's own masks; their secrets follow from the seed, so that a figure repeats."""

    def secret(*parties: str) -> bytes:
        context: dict[str, bytes | int | str] = {"parties": ",".join(sorted(parties))}
        return derive_key(seed.to_bytes(32, "big"), label="audit masks", context=context)

    return apply_masks(
        upload,
        name=site,
        self_seed=secret(site),
        pair_secrets={peer: secret(site, peer) for peer in run.uploads if peer != site},
        context=run.plan.digest(),
    )


def _means(rebuilt: Sequence[Rebuilt]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Mean PSNR in dB and mean SSIM, of the search and of its control."""
    found = np.mean([(one.psnr_db, one.ssim) for one in rebuilt], axis=0)
    control = np.mean([(one.control_psnr_db, one.control_ssim) for one in rebuilt], axis=0)
    return (float(found[0]), float(found[1])), (float(control[0]), float(control[1]))


def _sentence(scores: tuple[float, float]) -> str:
    return f"PSNR {scores[0]:.1f} dB, SSIM {scores[1]:.2f}"


ONE_UPLOAD = "gradient-inversion"
SUM = "gradient-inversion-of-the-sum"

ATTACKS = (
    Attack(
        name=ONE_UPLOAD,
        threat="a curious aggregator rebuilds a site's slice from that site's update",
        defence="masks, or encryption: one upload is noise to whoever lacks a seed or the group key",
        run=attack_one_upload,
    ),
    Attack(
        name=SUM,
        threat="whoever sees the sum over a small cohort after one step rebuilds slices from it",
        defence="none by masks or encryption: larger cohorts, more local steps, differential privacy",
        run=attack_sum,
    ),
)
