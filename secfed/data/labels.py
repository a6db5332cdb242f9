"""Names of organs and of the heart's structures: what data sets write, and what this program calls them.

Two data sets may give one name to two things, and then the name does not count: `differs_in` says where.
"""

from collections.abc import Set as AbstractSet

BACKGROUND = "background"

# Ids and spellings of AMOS22 (Ji et al., NeurIPS 2022); "arota" stands so in its dataset.json.
AMOS22_LABELS = {
    0: "background",
    1: "spleen",
    2: "right kidney",
    3: "left kidney",
    4: "gall bladder",
    5: "esophagus",
    6: "liver",
    7: "stomach",
    8: "aorta",
    9: "postcava",
    10: "pancreas",
    11: "right adrenal gland",
    12: "left adrenal gland",
    13: "duodenum",
    14: "bladder",
    15: "prostate/uterus",
}

# Values of MM-WHS (Zhuang et al., Med Image Anal 2019;58:101537) with the names of its structures.
MM_WHS_LABELS = {
    0: "background",
    205: "myocardium of the left ventricle",
    420: "left atrium blood cavity",
    500: "left ventricle blood cavity",
    550: "right atrium blood cavity",
    600: "right ventricle blood cavity",
    820: "ascending aorta",
    850: "pulmonary artery",
}

# Stands in one public MRI label in the place of 420.
MM_WHS_STRAY_LABELS = {421: "left atrium blood cavity"}

# Grey values of CHAOS (Kavur et al., Med Image Anal 2021;69:101950), and the numbers that conversions to NIfTI give the
# same organs in the same order. In CT the liver alone was drawn, in white.
CHAOS_MR_LABELS = {
    0: "background",
    1: "liver",
    2: "right kidney",
    3: "left kidney",
    4: "spleen",
    63: "liver",
    126: "right kidney",
    189: "left kidney",
    252: "spleen",
}
CHAOS_CT_LABELS = {0: "background", 1: "liver", 255: "liver"}

# A tumour belongs to the organ that it grows in: so do liver and pancreas of the Medical Segmentation Decathlon
# (Antonelli et al., Nat Commun 2022;13:4128) label it, with a value of its own.
_TUMOURS = {"cancer", "tumor", "tumour"}
_WITH_TUMOURS = {"liver", "pancreas"}

_CHAMBERS = {"left_ventricle", "right_ventricle", "left_atrium", "right_atrium", "myocardium"}
_ABDOMINAL = {"liver", "spleen", "kidney_right", "kidney_left", "pancreas", "stomach"}

_SPELLINGS = {
    "background": (),
    "spleen": (),
    "kidney_right": ("right kidney", "r kidney", "kidney r"),
    "kidney_left": ("left kidney", "l kidney", "kidney l"),
    "gallbladder": ("gall bladder",),
    "esophagus": ("oesophagus",),
    "liver": (),
    "stomach": (),
    "aorta": ("arota", "ascending aorta"),
    "vena_cava": ("postcava", "post cava", "inferior vena cava", "ivc"),
    "pancreas": (),
    "adrenal_right": ("right adrenal gland", "adrenal gland right", "right adrenal"),
    "adrenal_left": ("left adrenal gland", "adrenal gland left", "left adrenal"),
    "duodenum": (),
    "bladder": ("urinary bladder",),
    "prostate_uterus": ("prostate/uterus",),
    "left_ventricle": ("left ventricle blood cavity", "heart ventricle left", "lv"),
    "right_ventricle": ("right ventricle blood cavity", "heart ventricle right", "rv"),
    "left_atrium": ("left atrium blood cavity", "heart atrium left", "la"),
    "right_atrium": ("right atrium blood cavity", "heart atrium right", "ra"),
    "myocardium": ("myocardium of the left ventricle", "left ventricle myocardium", "heart myocardium", "myo"),
    "pulmonary_artery": ("pulmonary trunk", "pa"),
}

_ORGANS = {spelling.replace("_", " "): organ for organ, others in _SPELLINGS.items() for spelling in (organ, *others)}


def organ_named(spelling: str) -> str:
    """Our name of an organ for a data set's spelling; an organ that we do not know keeps its own name."""
    plain = " ".join(spelling.lower().replace("_", " ").replace("-", " ").split())
    return _ORGANS.get(plain, plain.replace(" ", "_"))


def with_tumours(label_ids: dict[int, str]) -> dict[int, str]:
    """The same meanings, where a tumour of the one organ that is drawn counts as the organ."""
    organs = _WITH_TUMOURS & set(label_ids.values())
    if len(organs) != 1:
        return label_ids
    (organ,) = organs
    return {value: organ if name in _TUMOURS else name for value, name in label_ids.items()}


def differs_in(task: str, organs: AbstractSet[str], *, whole_vessels: bool = False) -> frozenset[str]:
    """Those of a data set's organs whose name the task has for something else.

    The aorta of hearts is the ascending one, that of abdomens the part that is in the scan: beside heart chambers and
    without an abdominal organ it counts as the first, else as the second. With `whole_vessels`, aorta and pulmonary
    artery are drawn as far as they are seen, arch and branches included, which MM-WHS does not do.
    """
    of_heart = bool(organs & _CHAMBERS) and not organs & _ABDOMINAL
    if task == "whole_heart":
        if whole_vessels:
            return frozenset({"aorta", "pulmonary_artery"})
        return frozenset() if of_heart else frozenset({"aorta"})
    return frozenset({"aorta"}) if task == "abdomen" and of_heart and not whole_vessels else frozenset()
