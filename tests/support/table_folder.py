"""A folder with a table of tiny scans, for tests of what looks at data sets before a run."""

from collections.abc import Iterable
from pathlib import Path

from small_volumes import save_image, save_label

PATIENTS = ("anna", "bert", "cleo", "dora")


def write_table(folder: Path, patients: Iterable[str] = PATIENTS, *, split: str = "training") -> Path:
    """One CT scan with liver and spleen per name; a name that stands twice has two scans."""
    lines = []
    for number, patient in enumerate(patients):
        save_image(folder / f"{number}.nii.gz", number)
        save_label(folder / f"{number}-label.nii.gz", 1, 2)
        lines.append(f"{patient},{number}.nii.gz,{number}-label.nii.gz,CT,{split}")
    return write_lines(folder, lines)


def write_lines(folder: Path, lines: Iterable[str]) -> Path:
    """The table alone: patient, image, label, modality, split."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cases.csv").write_text("\n".join(("patient,image,label,modality,split", *lines)) + "\n")
    (folder / "labels.csv").write_text("value,organ\n1,liver\n2,spleen\n")
    return folder


def write_site(folder: Path, **folders: Path) -> Path:
    """A site.toml with a data set per name, all with one cache."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = "".join(
        f'[[data]]\nname = "{name}"\nfolder = "{place}"\ncache = "cache"\n' for name, place in folders.items()
    )
    (folder / "site.toml").write_text(f'name = "ct-a"\n{entries}')
    return folder
