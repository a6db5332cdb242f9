"""What `[augmentation]` may hold: one method for appearance, its table, views that must agree, and pose.

Every method has a table of its own with the defaults of its source; `AugmentationConfig.label` names in results what
differs from them, so that a variant is never mistaken for the method of a paper.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from secfed.config_table import NonNegative, PositiveInt, Probability, Table

SimpleMethod = Literal["nnunet", "randconv", "fda", "apr", "bezier", "slaug", "gin", "piecewise"]
AppearanceMethod = Literal[
    "none", "nnunet", "randconv", "fda", "apr", "bezier", "slaug", "gin", "gin_ipa", "piecewise", "mixed"
]

COUPLING = frozenset({"fda", "apr"})
"""Methods that put a part of one image of the batch into another: two patients would no longer be apart."""

GIN_IPA_CONSISTENCY_WEIGHT = 10.0
"""Of the GIN-IPA paper, for a divergence averaged over classes as well as voxels."""


def _require_odd(kernel_sizes: tuple[int, ...]) -> None:
    if not kernel_sizes or any(size % 2 == 0 for size in kernel_sizes):
        raise ValueError(f"kernel_sizes must be odd and not empty, got {list(kernel_sizes)}")


class GinConfig(Table):
    """Global intensity non-linear augmentation (Ouyang et al., IEEE TMI 2022); the defaults are the paper's."""

    layers: PositiveInt = 4
    width: PositiveInt = 2
    kernel_sizes: tuple[PositiveInt, ...] = (1, 3)
    negative_slope: float = 0.01
    probability: Probability = 1.0

    @model_validator(mode="after")
    def _odd(self) -> Self:
        _require_odd(self.kernel_sizes)
        return self


class IpaConfig(Table):
    """Interventional pseudo-correlation augmentation, of the same paper: two GIN copies blended by a smooth mask.

    The mask's control points stand `spacing` apart, as a share of the image's length.
    """

    spacing: Annotated[float, Field(gt=0.0, le=1.0)] = 0.25


class NnunetConfig(Table):
    """Intensity transforms of nnU-Net (Isensee et al., Nature Methods 2021), each with nnU-Net's own probability."""

    probability: Probability = 1.0


class RandConvConfig(Table):
    """Random convolutions (Xu et al., ICLR 2021): one layer, blended with the image where `mixing` is on.

    The paper's other variant leaves half of the images as they are: `mixing = false`, `probability = 0.5`.
    """

    kernel_sizes: tuple[PositiveInt, ...] = (1, 3, 5, 7)
    mixing: bool = True
    probability: Probability = 1.0

    @model_validator(mode="after")
    def _odd(self) -> Self:
        _require_odd(self.kernel_sizes)
        return self


class FdaConfig(Table):
    """Fourier domain adaptation (Yang and Soatto, CVPR 2020): low amplitudes of another image of the same batch.

    The swapped square reaches `smallest` to `largest` of the shorter side from the centre, drawn per image.
    """

    smallest: Annotated[float, Field(ge=0.0, le=0.5)] = 0.01
    largest: Annotated[float, Field(ge=0.0, le=0.5)] = 0.09
    probability: Probability = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.smallest > self.largest:
            raise ValueError(f"smallest = {self.smallest:g} must not exceed largest = {self.largest:g}")
        return self


class AprConfig(Table):
    """Amplitude mix (Chen et al., ICCV 2021; Xu et al., CVPR 2021): amplitudes of another image of the batch.

    Each image takes a share U(0, `strength`) of the other's; with `swap` it takes all of it.
    """

    strength: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    swap: bool = False
    probability: Probability = 1.0


class BezierConfig(Table):
    """Monotone cubic Bezier curve of intensity (Zhou et al., Models Genesis, 2021), falling in some images."""

    inverted_probability: Probability = 0.5
    probability: Probability = 1.0


class SlaugConfig(Table):
    """Location-scale augmentation (Su et al., SLAug, AAAI 2023): Bezier curves and random location and scale.

    Half of the images get one curve, the others one curve per class, whose labels it needs; saliency does not weigh
    the two here, as it does in the paper.
    """

    probability: Probability = 1.0


class PiecewiseConfig(Table):
    """A random piecewise-linear map of intensity, in general not monotone, with normal values at `knots` even places.

    No paper's method: tissue keeps its borders and gets any order of brightness.
    """

    knots: Annotated[int, Field(ge=2)] = 7
    probability: Probability = 1.0


class ConsistencyConfig(Table):
    """Views of one image must be segmented alike: `weight` times the divergence of their class probabilities.

    The other view is augmented independently, or left "clean". "gin_ipa" makes its own pair, and its weight is its
    paper's 10 where none is given; other methods have no such term then. `labelled` says which views the labels teach:
    the "first", as in the paper, or "both", so that a clean view keeps what is lost under augmentation.
    """

    weight: NonNegative | None = None
    other: Literal["augmented", "clean"] = "augmented"
    labelled: Literal["first", "both"] = "first"


class AffineConfig(Table):
    """Random rotation, isotropic scaling and shift of image and label together."""

    rotation_rad: Annotated[float, Field(ge=0.0)] = 0.2
    scale: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.15
    shift: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    probability: Probability = 1.0


class AugmentationConfig(Table):
    """Appearance (`method`) and pose (`affine`).

    "mixed" gives each image one of the methods of `mix`, all equally often. `keep_air` paints what was air in the image
    as dark as the darkest tissue becomes: air is dark in CT and in MRI.
    """

    method: AppearanceMethod = "gin"
    mix: tuple[SimpleMethod, ...] = ("gin", "piecewise")
    keep_air: bool = False
    gin: GinConfig = GinConfig()
    ipa: IpaConfig = IpaConfig()
    nnunet: NnunetConfig = NnunetConfig()
    randconv: RandConvConfig = RandConvConfig()
    fda: FdaConfig = FdaConfig()
    apr: AprConfig = AprConfig()
    bezier: BezierConfig = BezierConfig()
    slaug: SlaugConfig = SlaugConfig()
    piecewise: PiecewiseConfig = PiecewiseConfig()
    consistency: ConsistencyConfig = ConsistencyConfig()
    affine: AffineConfig = AffineConfig()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.method == "mixed" and len(self.mix) < 2:
            raise ValueError(f"mix = {list(self.mix)}: method = 'mixed' needs at least two methods")
        if self.method == "none" and self.consistency.weight:
            raise ValueError("consistency.weight needs an augmentation: with method = 'none' both views are one")
        if self.method == "gin_ipa" and self.consistency.other != "augmented":
            raise ValueError(
                f"consistency.other = '{self.consistency.other}' means nothing with method = 'gin_ipa', which makes "
                "its own pair"
            )
        return self

    @property
    def consistency_weight(self) -> float:
        """The weight of agreement in the loss: the one given, or the method's own."""
        if self.consistency.weight is not None:
            return self.consistency.weight
        return GIN_IPA_CONSISTENCY_WEIGHT if self.method == "gin_ipa" else 0.0

    @property
    def methods(self) -> tuple[SimpleMethod, ...]:
        """The simple methods that images may pass: none, one, or those of a mixture."""
        match self.method:
            case "none":
                return ()
            case "gin_ipa":
                return ("gin",)
            case "mixed":
                return self.mix
            case method:
                return (method,)

    def label(self) -> str:
        """The method as results name it: a bare name has its source's settings, a variant says in what it differs."""
        if self.method == "none":
            return "none"
        differs = [self._differs(name) for name in dict.fromkeys(self.methods)]
        if self.method == "gin_ipa" and self.ipa != IpaConfig():
            differs.append(f"spacing {self.ipa.spacing:g}")
        if self.keep_air:
            differs.append("air dark")
        weight = self.consistency_weight
        if self.method == "gin_ipa":
            if weight != GIN_IPA_CONSISTENCY_WEIGHT:
                differs.append(f"consistency {weight:g}")
        elif weight:
            differs.append(f"consistency {weight:g} with {self.consistency.other}")
        if weight and self.consistency.labelled == "both":
            differs.append("both labelled")
        name = "+".join(self.mix) if self.method == "mixed" else self.method
        told = ", ".join(part for part in differs if part)
        return f"{name} ({told})" if told else name

    def _differs(self, method: SimpleMethod) -> str:
        own: Table = getattr(self, method)
        usual = type(own)()
        several = f"{method} " if self.method == "mixed" else ""
        return ", ".join(
            f"{several}{name} {value}"
            for name in type(own).model_fields
            if (value := getattr(own, name)) != getattr(usual, name)
        )
