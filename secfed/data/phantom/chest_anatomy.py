"""A random chest with its heart: tissue codes and labels of one subject, before any scanner sees it.

Pure functions of a generator and a population, as `secfed.data.phantom.anatomy` is for the abdomen. The seven
structures of `secfed.data.cases.WHOLE_HEART` are labelled. As in MM-WHS, blood of the pulmonary veins, of the caval
veins and of the branches of the pulmonary artery, and the walls of the right heart and the atria, carry no label.
"""

import numpy as np
from scipy import ndimage

from secfed.data.cases import WHOLE_HEART
from secfed.data.phantom.anatomy import Subject
from secfed.data.phantom.body import Codes, Habitus, Mask, Placement
from secfed.data.phantom.geometry import Canvas, Grid, Volume
from secfed.data.phantom.heart import ATRIAL_WALL_MM, RIGHT_WALL_MM, Heart, build_heart
from secfed.data.phantom.heart_frame import HeartFrame
from secfed.data.phantom.heart_tissues import HeartTissue
from secfed.data.phantom.population import HEARTS, PopulationConfig
from secfed.data.phantom.thorax import Chest, build_chest, chest_habitus
from secfed.data.phantom.tissues import Tissue

# The field of view is moved towards the heart, which lies left of the middle of the body, and no two radiographers
# agree on where: mean and deviation of its middle, and the largest shift, (z, y, x) in mm.
_MIDDLE_MM, _MIDDLE_DEVIATION_MM, _LARGEST_SHIFT_MM = (6.0, 2.0, 6.0), (6.0, 8.0, 10.0), (12.0, 18.0, 24.0)

# What a usual heart needs between sternum and spine, and where the mitral valve stands in front of the spine.
_USUAL_DEPTH_MM, _VALVE_IN_FRONT_MM = 112.0, 50.0

_BLOOD = {
    "left_ventricle": HeartTissue.LEFT_BLOOD,
    "right_ventricle": HeartTissue.RIGHT_BLOOD,
    "left_atrium": HeartTissue.LEFT_BLOOD,
    "right_atrium": HeartTissue.RIGHT_BLOOD,
    "myocardium": HeartTissue.MYOCARDIUM,
    "aorta": HeartTissue.LEFT_BLOOD,
    "pulmonary_artery": HeartTissue.RIGHT_BLOOD,
}


def draw_chest(generator: np.random.Generator, population: PopulationConfig, grid: Grid) -> Subject:
    """Draw one subject of the population; labels are class indices of WHOLE_HEART."""
    people = HEARTS[population.name]
    shift = np.clip(generator.normal(0, _MIDDLE_DEVIATION_MM), np.negative(_LARGEST_SHIFT_MM), _LARGEST_SHIFT_MM)
    z, y, x = (float(place) for place in np.array(_MIDDLE_MM) + shift)
    canvas = Canvas(generator, grid, warp_mm=4.0, roughness_mm=0.9, middle=(z, y, x))
    habitus = chest_habitus(Habitus.draw(generator, population))
    placement = Placement(generator=generator, habitus=habitus)
    chest = build_chest(canvas, placement)
    room_mm = chest.spine_front_mm - chest.sternum_back_mm
    scale = people.heart_scale * placement.size(0.03) * float(np.clip(room_mm / _USUAL_DEPTH_MM, 0.97, 1.06))
    base = np.array([0.0, chest.spine_front_mm - _VALVE_IN_FRONT_MM * scale, 10.0]) + generator.normal(0, 3.0, 3)
    frame = HeartFrame.draw(generator, base=base, scale=scale)
    heart = build_heart(canvas, generator, people, frame=frame, spine_front_mm=chest.spine_front_mm)

    tissue = chest.body.tissue.copy()
    room = (chest.body.cavity_mm > 1.0) & ~chest.body.bone
    masks = _structures(heart, room)
    muscle, sac = _muscle_and_sac(heart, canvas)
    above = _paint_below(tissue, canvas, placement, room=room, sac=sac)
    airways, gullet = _airways(canvas, placement, chest, frame)
    lung = room & above & (_mediastinum(canvas, chest, heart, sac=sac, others=(airways, gullet)) > 0)
    tissue[lung] = Tissue.LUNG
    _paint_lung_vessels(tissue, canvas, placement, frame)
    tissue[room & (gullet < 0)] = Tissue.GUT_WALL
    tissue[room & (airways < 0)] = Tissue.GUT_WALL
    tissue[room & (airways < -1.5)] = Tissue.GUT_GAS

    tissue[room & (heart.pulmonary_veins < 0)] = HeartTissue.LEFT_BLOOD
    tissue[room & (heart.pulmonary_branches < 0)] = HeartTissue.RIGHT_BLOOD
    tissue[room & muscle] = HeartTissue.MYOCARDIUM
    tissue[room & (heart.caval_veins < 0) & ~_chambers(heart)] = HeartTissue.CAVAL_BLOOD
    tissue[room & (heart.arch < 0)] = HeartTissue.LEFT_BLOOD
    label = np.zeros(grid.shape, np.uint8)
    for name in WHOLE_HEART.organs:
        label[masks[name]] = WHOLE_HEART.index(name)
        tissue[masks[name]] = _BLOOD[name]
    return Subject(grid=grid, tissue=tissue, label=label, depth_mm=np.maximum(chest.body.depth_mm, 0))


def _structures(heart: Heart, room: Mask) -> dict[str, Mask]:
    """One piece of each structure; a sliver that the walls cut off carries no label."""
    shapes = {
        "left_ventricle": heart.left_ventricle,
        "right_ventricle": heart.right_ventricle,
        "left_atrium": heart.left_atrium,
        "right_atrium": heart.right_atrium,
        "myocardium": heart.myocardium,
        "aorta": heart.aorta,
        "pulmonary_artery": heart.pulmonary_trunk,
    }
    return {name: _largest_piece(room & (shape < 0)) for name, shape in shapes.items()}


def _largest_piece(mask: Mask) -> Mask:
    pieces, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return np.asarray(pieces == sizes.argmax())


def _chambers(heart: Heart) -> Mask:
    blood = (heart.left_ventricle, heart.right_ventricle, heart.left_atrium, heart.right_atrium)
    return np.asarray(np.minimum.reduce(blood) < 0)


def _muscle_and_sac(heart: Heart, canvas: Canvas) -> tuple[Mask, Volume]:
    """Where heart muscle is, labelled or not, and the distance to the smooth sac of fat around the heart."""
    walls = np.minimum.reduce(
        [
            heart.myocardium,
            heart.right_ventricle - RIGHT_WALL_MM,
            heart.left_atrium - ATRIAL_WALL_MM,
            heart.right_atrium - ATRIAL_WALL_MM,
        ]
    )
    whole = np.minimum.reduce([walls, heart.left_ventricle, heart.aorta - 2, heart.pulmonary_trunk - 2])
    smooth = ndimage.gaussian_filter(np.clip(whole, -40, 40), [7 / spacing for spacing in canvas.grid.spacing_mm])
    return np.asarray((walls < 0) & (heart.left_ventricle >= 0)), np.asarray(smooth - 7.5 + 1.5 * canvas.roughness)


def _paint_below(tissue: Codes, canvas: Canvas, placement: Placement, *, room: Mask, sac: Volume) -> Mask:
    """Paint the diaphragm with liver, stomach and spleen under it; returns what lies above it."""
    right_mm, left_mm = placement.uniform(-38, -14), placement.uniform(-52, -32)
    floor = np.full(canvas.grid.shape, -100.0, np.float32)
    for height, x in ((right_mm, -66.0), (left_mm, 74.0)):
        bump = np.exp(-(((canvas.x - x) / 52) ** 2) - ((canvas.y - 8) / 68) ** 2)
        floor = np.maximum(floor, -100 + (height + 100) * bump)
    # The heart rests on the diaphragm, which closes the gap below it.
    inside = sac < 0
    lowest = np.where(inside.any(axis=0), np.take_along_axis(canvas.z, inside.argmax(axis=0)[None], axis=0)[0], -200)
    resting = np.minimum(ndimage.grey_dilation(lowest, size=(5, 5)), -44.0)
    smoothing = [9 / spacing for spacing in canvas.grid.spacing_mm[1:]]
    raised = ndimage.gaussian_filter(np.maximum(floor, resting[None]).astype(np.float32), [0, *smoothing])
    below = np.asarray(raised - canvas.z + 2 * canvas.roughness)
    under = room & (below > 0) & (sac > 0)
    tissue[under] = Tissue.MUSCLE
    border = placement.uniform(18, 46)
    deep = under & (below > 3)
    tissue[deep] = Tissue.VISCERAL_FAT
    # The left lobe thins out towards the left.
    tissue[deep & (canvas.x - 0.5 * np.minimum(below - 25, 0) + 3 * canvas.roughness < border + 10)] = Tissue.LIVER
    stomach = canvas.ellipsoid(
        (placement.uniform(-84, -70), placement.uniform(-12, 10), border + 42), (34, 36, 36), roughness=1.5
    )
    spleen = canvas.ellipsoid((placement.uniform(-92, -74), 50.0, 100.0), (34, 34, 26), roughness=1.0)
    tissue[deep & (stomach < 0)] = Tissue.GUT_WALL
    tissue[deep & (stomach < -4)] = Tissue.GUT_FLUID
    tissue[deep & (stomach < -4) & (canvas.y < placement.uniform(-25, -5))] = Tissue.GUT_GAS
    tissue[deep & (spleen < 0) & (stomach > 0)] = Tissue.SPLEEN
    return np.asarray(below <= 0)


def _airways(canvas: Canvas, placement: Placement, chest: Chest, frame: HeartFrame) -> tuple[Volume, Volume]:
    """Trachea and main bronchi above the left atrium, and the gullet between it and the spine."""
    z, y = float(frame.base[0]), chest.spine_front_mm
    carina = (z + 62 * frame.scale, y - 20, placement.normal(0, 2))
    airways = canvas.tube(
        np.array([(carina[0] + 60, y - 16, 0.0), carina]), placement.uniform(8.5, 10.5), roughness=0.2
    )
    for side in (-1, 1):
        bronchus = [carina, (carina[0] - 14, y - 18, side * 22), (carina[0] - 30, y - 14, side * 48)]
        canvas.tube(np.array(bronchus), np.array([7.5, 6.5, 5.0]), roughness=0.2, into=airways)
    gullet = [(z + 110, y - 4, 2.0), (z + 20, y - 6, placement.normal(6, 2)), (z - 110, y - 10, 12.0)]
    return airways, canvas.tube(np.array(gullet), placement.uniform(5.0, 7.5), roughness=0.4)


def _mediastinum(canvas: Canvas, chest: Chest, heart: Heart, *, sac: Volume, others: tuple[Volume, ...]) -> Volume:
    """Distance to the middle of the chest, which no lung enters."""
    vessels = np.minimum.reduce(
        [heart.arch, heart.pulmonary_trunk, heart.pulmonary_branches + 1, heart.caval_veins + 1]
    )
    # Lungs nearly meet in front of the great vessels, and leave a column in front of the spine.
    front, back = np.float32(chest.sternum_back_mm), np.float32(chest.spine_front_mm)
    half = 7.0 + 13.0 * np.clip((canvas.y - front) / (back - front), 0, 1) + 2.0 * canvas.roughness
    slab = np.abs(canvas.x - 2.0) - half
    airways, gullet = others
    # Bronchi and vessels enter the lungs naked: only near the middle are they wrapped in fat.
    near = np.maximum(np.minimum(vessels, airways) - 5.0, np.abs(canvas.x) - 42.0)
    middle = np.minimum.reduce([sac, slab, gullet - 4.0, near]).astype(np.float32)
    return np.asarray(ndimage.gaussian_filter(middle, [3 / spacing for spacing in canvas.grid.spacing_mm]))


def _paint_lung_vessels(tissue: Codes, canvas: Canvas, placement: Placement, frame: HeartFrame) -> None:
    """Branches from the hilum into the lungs, which is what makes lungs more than black holes."""
    lung = tissue == Tissue.LUNG
    for side in (-1, 1):
        for kind in (HeartTissue.LEFT_BLOOD, HeartTissue.RIGHT_BLOOD):
            vessels = canvas.empty()
            for _ in range(9):
                start = np.array([frame.base[0] + placement.normal(22, 8), frame.base[1] + 14, side * 48.0])
                end = start + np.array(
                    [placement.uniform(-80, 55), placement.uniform(-70, 60), side * placement.uniform(15, 75)]
                )
                bend = (start + end) / 2 + placement.generator.normal(0, 7, 3)
                canvas.tube(np.stack([start, bend, end]), np.array([4.0, 2.8, 1.8]), roughness=0.2, into=vessels)
            tissue[lung & (vessels < 0)] = kind
