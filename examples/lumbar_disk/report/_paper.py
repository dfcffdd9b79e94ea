"""Published results of the paper: Tables 1 to 3, the names of its models, and its settings (section 3.1)."""

from __future__ import annotations

from typing import Any

from lumbar_disk.study import CONTOUR_DICE, MASK_DICE, POINT_ERROR

PAPER_RADII = (
    0.0,
    0.01,
    0.03,
    0.05,
    0.07,
    0.1,
    0.2,
)  # the columns of its tables: Linf; 0 is the clean images
PAPER_SIZE = 128  # side of its crops; its Table 1 is in their pixels
SHAPE_MODELS = ("P3", "P5", "P10")
TRAININGS = ("std", "rand", "adv_r", "adv_s", "adv_rs")
PAPER_MODELS = tuple(
    f"{ssm}_{training}" for training in TRAININGS for ssm in SHAPE_MODELS
)  # in its tables' order

PURE = "rand_pure"
"""L_rand as the released code reads it: pure noise in place of image plus noise. Three models beyond the
paper's fifteen; its `rand` rows come from that code, as far as can be told."""

PAPER_PATIENTS = {"train": 80, "test": 20}  # five discs each

PAPER_SETTINGS: dict[str, Any] = {
    "size": PAPER_SIZE,
    "width": 64,
    "batch": 64,
    "virtual": 640_000,
    "std_epochs": 100,
    "epochs": 100,
    "batches": 100,
    "lr": 0.001,
    "decay": 0.0,
    "radius": 0.07,
    "alpha": 0.01,
    "attack_steps": 20,
    "radii": PAPER_RADII,
    "eval_steps": 100,
}
"""Settings by the fields of `lumbar_disk.study.StudyRecipe`; some are the released code's."""


# By measure and model, a value for each of `PAPER_RADII`, as printed. Its P03_std and p05_std are P3_std and
# P5_std here. The last three rows of Table 1 follow its caption in the text.
_PRINTED: dict[str, dict[str, tuple[float, ...]]] = {
    POINT_ERROR.name: {
        "P3_std": (2.4913, 4.0939, 8.5369, 10.1408, 10.4531, 10.525, 10.5399),
        "P5_std": (2.0531, 3.6349, 10.024, 15.2504, 17.3851, 18.6632, 19.7239),
        "P10_std": (1.6886, 3.917, 12.781, 21.5228, 23.0385, 23.527, 24.3022),
        "P3_rand": (2.4726, 3.8805, 8.5904, 10.6784, 11.3548, 11.652, 12.6683),
        "P5_rand": (2.0398, 3.4223, 10.5357, 18.1591, 20.3922, 21.5689, 22.2194),
        "P10_rand": (1.684, 3.6932, 12.4964, 22.6029, 24.4443, 25.2174, 25.9216),
        "P3_adv_r": (2.6603, 2.7958, 3.1141, 3.5179, 4.0906, 5.1555, 8.4548),
        "P5_adv_r": (2.3019, 2.5395, 3.0886, 3.7282, 4.464, 5.9477, 9.3167),
        "P10_adv_r": (2.0098, 2.3218, 2.9138, 3.5319, 4.281, 5.9074, 9.5416),
        "P3_adv_s": (2.6959, 2.9068, 3.4149, 4.0121, 4.7687, 6.1286, 9.6913),
        "P5_adv_s": (2.1874, 2.5595, 3.4835, 4.5297, 5.7151, 7.5313, 11.3804),
        "P10_adv_s": (1.9462, 2.5385, 3.8151, 5.046, 6.2884, 8.2526, 18.1757),
        "P3_adv_rs": (2.657, 2.8121, 3.1788, 3.6429, 4.2769, 5.4411, 8.7731),
        "P5_adv_rs": (2.1857, 2.4476, 3.0946, 3.8609, 4.7454, 6.2276, 9.7687),
        "P10_adv_rs": (1.9608, 2.3597, 3.1337, 3.9293, 4.7708, 6.2132, 9.6021),
    },
    CONTOUR_DICE.name: {
        "P3_std": (0.8772, 0.8487, 0.7063, 0.6429, 0.6235, 0.6256, 0.6216),
        "P5_std": (0.9064, 0.8651, 0.593, 0.2895, 0.1853, 0.1377, 0.1106),
        "P10_std": (0.9315, 0.8906, 0.5445, 0.1888, 0.1366, 0.1224, 0.105),
        "P3_rand": (0.8776, 0.8522, 0.7169, 0.6266, 0.5832, 0.5638, 0.5024),
        "P5_rand": (0.9063, 0.8699, 0.5943, 0.2065, 0.1282, 0.1023, 0.0917),
        "P10_rand": (0.9319, 0.8959, 0.5834, 0.1897, 0.1375, 0.1154, 0.0965),
        "P3_adv_r": (0.8705, 0.8663, 0.8573, 0.8455, 0.8287, 0.7991, 0.6977),
        "P5_adv_r": (0.8986, 0.8885, 0.8656, 0.8403, 0.8093, 0.7407, 0.6248),
        "P10_adv_r": (0.9186, 0.9076, 0.8857, 0.8602, 0.8311, 0.7518, 0.5721),
        "P3_adv_s": (0.8733, 0.8685, 0.8594, 0.85, 0.8348, 0.8016, 0.6727),
        "P5_adv_s": (0.906, 0.8954, 0.8698, 0.8422, 0.8124, 0.7523, 0.5795),
        "P10_adv_s": (0.9247, 0.9142, 0.8912, 0.8643, 0.8307, 0.7504, 0.3013),
        "P3_adv_rs": (0.8714, 0.8671, 0.8586, 0.846, 0.8273, 0.7951, 0.6916),
        "P5_adv_rs": (0.9059, 0.8965, 0.8708, 0.8419, 0.8064, 0.74, 0.6057),
        "P10_adv_rs": (0.9224, 0.9109, 0.8856, 0.8579, 0.8256, 0.765, 0.6131),
    },
    MASK_DICE.name: {
        "P3_std": (0.8822, 0.7846, 0.177, 0.0268, 0, 0, 0),
        "P5_std": (0.9161, 0.8328, 0.297, 0.0537, 0.0108, 0, 0),
        "P10_std": (0.9446, 0.847, 0.2907, 0.0468, 0.0013, 0, 0),
        "P3_rand": (0.8812, 0.7951, 0.2027, 0.0343, 0, 0, 0),
        "P5_rand": (0.914, 0.8444, 0.3888, 0.0795, 0.0206, 0, 0),
        "P10_rand": (0.9441, 0.8579, 0.3196, 0.0498, 0.007, 0, 0),
        "P3_adv_r": (0.8863, 0.8598, 0.7866, 0.6532, 0.4601, 0.129, 0),
        "P5_adv_r": (0.9009, 0.8247, 0.6385, 0.4216, 0.1869, 0.0396, 0),
        "P10_adv_r": (0.9228, 0.8245, 0.5922, 0.3451, 0.1838, 0.0569, 0),
        "P3_adv_s": (0.8755, 0.8698, 0.8574, 0.8416, 0.8142, 0.7264, 0.1144),
        "P5_adv_s": (0.9119, 0.9001, 0.872, 0.8367, 0.7929, 0.6611, 0.137),
        "P10_adv_s": (0.9321, 0.9152, 0.8827, 0.8473, 0.8007, 0.6607, 0.1936),
        "P3_adv_rs": (0.8742, 0.8685, 0.856, 0.8387, 0.8069, 0.7133, 0.1178),
        "P5_adv_rs": (0.9106, 0.8958, 0.8657, 0.8263, 0.7751, 0.614, 0.0701),
        "P10_adv_rs": (0.9266, 0.9097, 0.8755, 0.833, 0.7827, 0.6378, 0.0538),
    },
}

TABLES: dict[str, dict[str, dict[float, float]]] = {
    measure: {model: dict(zip(PAPER_RADII, row, strict=True)) for model, row in rows.items()}
    for measure, rows in _PRINTED.items()
}
"""The published values by measure, model and radius."""


def published(measure: str, model: str, radius: float) -> float | None:
    """What the paper printed, or None where it has no such table, row or column.

    Args:
        measure: Its name, one of `lumbar_disk.study.MEASURES`.
        model: Its name; a model in the released code's reading of L_rand stands beside the paper's `rand`.
        radius: Of the attack.

    Example:
        >>> published("mask_dice", "P10_adv_rs", 0.03), published("mask_dice", "P10_rand_pure", 0.03)
        (0.8755, 0.3196)
        >>> published("mask_dice", "mine", 0.03)
    """
    return TABLES.get(measure, {}).get(model.replace(PURE, "rand"), {}).get(radius)


def ordered(models: set[str]) -> tuple[str, ...]:
    """The models of the study in the order of the paper's tables, then any others by name.

    Example:
        >>> ordered({"mine"})[:9]
        ('P3_std', 'P5_std', 'P10_std', 'P3_rand', 'P5_rand', 'P10_rand', 'P3_rand_pure', 'P5_rand_pure',
         'P10_rand_pure')
        >>> ordered({"mine"})[-2:]
        ('P10_adv_rs', 'mine')
    """
    first = [name for name in PAPER_MODELS if name.endswith(("_std", "_rand"))]
    study = [
        *first,
        *(f"{ssm}_{PURE}" for ssm in SHAPE_MODELS),
        *(name for name in PAPER_MODELS if "_adv" in name),
    ]
    return (*study, *sorted(models - set(study)))
