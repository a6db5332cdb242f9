"""Names of abdominal organs: what data sets write, and what this program calls the organ."""

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

_SPELLINGS = {
    "background": (),
    "spleen": (),
    "kidney_right": ("right kidney", "r kidney", "kidney r"),
    "kidney_left": ("left kidney", "l kidney", "kidney l"),
    "gallbladder": ("gall bladder",),
    "esophagus": ("oesophagus",),
    "liver": (),
    "stomach": (),
    "aorta": ("arota",),
    "vena_cava": ("postcava", "post cava", "inferior vena cava", "ivc"),
    "pancreas": (),
    "adrenal_right": ("right adrenal gland", "adrenal gland right", "right adrenal"),
    "adrenal_left": ("left adrenal gland", "adrenal gland left", "left adrenal"),
    "duodenum": (),
    "bladder": ("urinary bladder",),
    "prostate_uterus": ("prostate/uterus",),
}

_ORGANS = {spelling.replace("_", " "): organ for organ, others in _SPELLINGS.items() for spelling in (organ, *others)}


def organ_named(spelling: str) -> str:
    """Our name of an organ for a data set's spelling; an organ that we do not know keeps its own name."""
    plain = " ".join(spelling.lower().replace("_", " ").replace("-", " ").split())
    return _ORGANS.get(plain, plain.replace(" ", "_"))
