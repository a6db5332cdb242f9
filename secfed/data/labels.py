"""Names of organs and of the heart's structures: what data sets write, and what this program calls them."""

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
