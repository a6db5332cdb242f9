"""TotalSegmentator: one folder per subject, one binary mask per class.

CT (Wasserthal et al., Radiol Artif Intell 2023;5:e230024) and MRI (D'Antonoli et al., Radiology 2025;314:e241613), as
downloaded: s0000/ct.nii.gz or s0000/mri.nii.gz, s0000/segmentations/NAME.nii.gz, and meta.csv, whose `split` is train,
val or test. The program of the same name writes such masks too.

Organs of the abdomen have their usual names in all versions. Of the heart, version 1 for CT has the four chambers and
the myocardium of the left ventricle, which are those of MM-WHS; version 2 and MRI have one `heart` without parts, so
nothing of a whole-heart task is drawn there. `aorta` is the whole vessel and version 1's `pulmonary_artery` goes on
into its branches, where MM-WHS ends both: they count in the abdomen alone. `pulmonary_vein` (version 2) and the
appendage of the left atrium are nothing that MM-WHS has.
"""

from collections.abc import Iterator
from pathlib import Path

from secfed.data.cases import Case, Modality
from secfed.data.labels import BACKGROUND
from secfed.data.readers.data_set import DataSet
from secfed.data.readers.names import ENDINGS, masks_in
from secfed.data.readers.rows import read_rows
from secfed.errors import DataError

META, MASKS = "meta.csv", "segmentations"
_IMAGES = {"ct": Modality.CT, "mri": Modality.MR}
_SPLITS = {"train": "training", "val": "validation", "test": "test"}


def read_total_segmentator(folder: Path, *, modality: Modality | None = None, channel: int | None = None) -> DataSet:
    """Read the subjects of a folder; without a meta.csv, all are training cases.

    Args:
        folder: holds s0000/ct.nii.gz and the like.
        modality: of all cases, instead of what the names of their images say.
        channel: the one to read of volumes with several.

    Raises:
        DataError: there is no subject, a subject has two images or no mask, or meta.csv cannot be read or does not
            know a subject.
    """
    splits = _splits(folder / META)
    found: dict[str, list[Case]] = {split: [] for split in _SPLITS.values()}
    for image, told in subjects(folder):
        subject = image.parent.name
        if splits is not None and subject not in splits:
            raise DataError(f"{folder / META}: has no row for the subject {subject}, so its split cannot be told")
        split = "training" if splits is None else splits[subject]
        if found[split] and found[split][-1].patient == subject:
            raise DataError(f"{image}: the subject has another image; keep one")
        masks = image.parent / MASKS
        found[split].append(
            Case(
                patient=subject,
                image=image,
                label=masks if masks.is_dir() else None,
                modality=modality or told,
                masks=masks_in(masks) if masks.is_dir() else {},
                channel=channel,
            )
        )
    if not any(found.values()):
        raise DataError(f"{folder}: holds no subject of TotalSegmentator, such as s0011/ct.nii.gz")
    return DataSet(
        name="TotalSegmentator",
        training=tuple(found["training"]),
        validation=tuple(found["validation"]),
        test=tuple(found["test"]),
        label_ids={0: BACKGROUND},
        whole_vessels=True,
    )


def subjects(folder: Path) -> Iterator[tuple[Path, Modality]]:
    """The images of a folder, and what their names say."""
    for subject in sorted(folder.iterdir()):
        for name, modality in _IMAGES.items():
            for ending in ENDINGS:
                image = subject / f"{name}{ending}"
                if image.is_file():
                    yield image, modality


def _splits(meta: Path) -> dict[str, str] | None:
    """The split of each subject; None without a meta.csv."""
    if not meta.exists():
        return None
    splits = {}
    for line, row in read_rows(meta, needed=("image_id", "split")):
        if row["split"] not in _SPLITS:
            raise DataError(f"{meta}, line {line}: split = {row['split']!r}: {', '.join(_SPLITS)} are accepted")
        splits[row["image_id"]] = _SPLITS[row["split"]]
    return splits
