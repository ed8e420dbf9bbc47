"""Who is drawn (identity) and how in this one picture (look), and the attributes that follow from both.

An identity is all that stays the same between two photos of a person: geometry, skin, hair and eye colour,
habits. A look is what changes: pose, expression, light, glasses, hat, make-up, beard length, background. Skin
tone, sex and attractiveness are drawn independently of each other, so that no network can learn one from the
other here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rayface import records

Array = np.ndarray

# sRGB, lightest to darkest; the tone of an identity lies between two of them.
SKIN_TONES = np.array(
    [[247, 214, 196], [236, 188, 161], [219, 164, 130], [190, 131, 95], [150, 98, 68], [107, 68, 47], [72, 46, 35]],
    np.float32)  # fmt: skip
# sRGB of the hair's middle tone, by the attribute it is named by ("Red" has none in CelebA).
HAIR_COLOURS = {
    "Black_Hair": (30, 26, 26), "Brown_Hair": (92, 60, 38), "Blond_Hair": (205, 165, 104), "Gray_Hair": (158, 156, 154),
    "Red": (134, 62, 30),
}  # fmt: skip
EYE_COLOURS = ((66, 40, 22), (92, 60, 32), (96, 98, 58), (84, 122, 140), (110, 124, 128), (70, 104, 84))
HAIR_STYLES = ("bald", "receding", "buzz", "short", "parted", "bob", "long", "tied", "afro")


@dataclass(frozen=True)
class Identity:
    """What stays the same between pictures. Ratios are about 1 or in standard deviations where said."""

    male: bool
    age: float  # 0 (twenty) to 1 (seventy)
    tone: float  # index into SKIN_TONES
    warmth: float  # deviations: redder or paler than the tone
    roughness: float  # 0 smooth to 1
    asymmetry: float  # 0 to 1, and the way in which features are displaced:
    displacement: tuple[float, ...]  # [6], deviations
    width: float
    jaw: float
    chin: float
    chin_length: float
    fullness: float  # 0 to 1: cheeks and double chin
    cheekbones: float  # 0 to 1
    forehead: float
    eye_size: float
    eye_open: float
    eye_tilt: float  # deviations
    brow_height: float
    brow_weight: float  # 0 to 1
    brow_arch: float  # 0 to 1
    nose_width: float
    nose_length: float
    nose_point: float  # 0 to 1
    mouth_width: float
    lips: float  # ratio of thickness
    ears: float
    bags: bool
    eye_colour: tuple[int, int, int]
    hair_colour: str  # a key of HAIR_COLOURS
    hair_lightness: float
    hair_style: str
    hair_wave: float  # 0 straight, 0.5 wavy, 1 curly
    bangs: bool
    beard: str  # habit: one of records.FACIAL_HAIR
    glasses: bool  # habit

    @property
    def attractive(self) -> bool:
        """The drawn proxy of CelebA's label: an even face and smooth skin, about 40 % of identities."""
        return self.asymmetry < 0.7 and self.roughness < 0.75 and not self.bags


@dataclass(frozen=True)
class Look:
    """What differs from picture to picture."""

    yaw: float  # radians
    pitch: float
    roll: float  # what an aligned crop leaves of it
    smile: float  # -0.3 to 1
    mouth_open: float  # 0 to 1
    eyes: float  # ratio of the opening
    gaze: tuple[float, float]
    brow_raise: float
    hair_style: str
    bangs: bool
    beard: str
    goatee_moustache: bool  # whether a goatee comes with a moustache
    glasses: str  # "none", "clear" or "sun"
    glasses_shape: int
    hat: str  # "none", "cap", "beanie" or "brim"
    lipstick: bool
    makeup: bool
    rosy: bool
    earrings: bool
    necklace: bool
    clothes: str  # "crew", "vee", "shirt", "tie" or "bare"
    blurry: bool
    light_azimuth: float  # radians, to the right of the picture
    light_height: float  # radians, upwards
    light_key: float  # share of directed light
    light_colour: tuple[float, float, float]


def draw_identity(rng: np.random.Generator) -> Identity:
    """A random person."""
    male = bool(rng.random() < 0.5)
    age = float(rng.beta(1.3, 2.0))
    tone = float(rng.uniform(0, len(SKIN_TONES) - 1))
    ratio = lambda spread: float(np.clip(rng.normal(1, spread), 1 - 2.2 * spread, 1 + 2.2 * spread))  # noqa: E731
    style, wave = _hair_habit(rng, male, age, tone)
    return Identity(
        male=male, age=age, tone=tone, warmth=float(rng.normal()),
        roughness=float(rng.random()), asymmetry=float(rng.random()), displacement=tuple(rng.normal(size=6).tolist()),
        width=ratio(0.05) * (1.02 if male else 0.985), jaw=ratio(0.06) * (1.05 if male else 0.96),
        chin=ratio(0.15) * (1.12 if male else 0.9), chin_length=ratio(0.05) * (1.03 if male else 0.97),
        fullness=float(rng.beta(1.2, 2.4)), cheekbones=float(rng.random()), forehead=ratio(0.06),
        eye_size=ratio(0.07) * (0.96 if male else 1.05), eye_open=ratio(0.16) * (0.95 if male else 1.06),
        eye_tilt=float(rng.normal()), brow_height=ratio(0.1) * (0.94 if male else 1.06),
        brow_weight=float(np.clip(rng.normal(0.62 if male else 0.36, 0.2), 0.05, 1)),
        brow_arch=float(np.clip(rng.normal(0.3 if male else 0.6, 0.25), 0, 1)),
        nose_width=ratio(0.13) * (1.06 if male else 0.95), nose_length=ratio(0.06), nose_point=float(rng.random()),
        mouth_width=ratio(0.07), lips=ratio(0.24) * (0.88 if male else 1.12), ears=ratio(0.12),
        bags=bool(rng.random() < 0.12 + 0.35 * age), eye_colour=_eye_colour(rng, tone),
        hair_colour=_hair_colour(rng, age, tone), hair_lightness=float(np.clip(rng.normal(1, 0.13), 0.7, 1.3)),
        hair_style=style, hair_wave=wave, bangs=bool(rng.random() < (0.12 if male else 0.35)),
        beard=str(rng.choice(records.FACIAL_HAIR, p=[0.36, 0.17, 0.14, 0.15, 0.18])) if male else "none",
        glasses=bool(rng.random() < 0.15 + 0.2 * age),
    )  # fmt: skip


def _hair_habit(rng: np.random.Generator, male: bool, age: float, tone: float) -> tuple[str, float]:
    weights = (
        [0.1 + 0.12 * age, 0.05 + 0.25 * age, 0.18, 0.3, 0.2, 0.02, 0.06, 0.03, 0.03]
        if male
        else [0.0, 0.0, 0.02, 0.08, 0.06, 0.24, 0.4, 0.18, 0.03]
    )
    chances = np.array(weights) + np.eye(len(HAIR_STYLES))[-1] * (0.15 if tone > 4 else 0.0)
    style = str(rng.choice(HAIR_STYLES, p=chances / chances.sum()))
    wave = float(rng.choice([0.0, 0.5, 1.0], p=[0.5, 0.35, 0.15] if tone < 4 else [0.25, 0.35, 0.4]))
    return style, 1.0 if style == "afro" else wave


def _hair_colour(rng: np.random.Generator, age: float, tone: float) -> str:
    if rng.random() < max(0.0, age - 0.45) * 1.6:
        return "Gray_Hair"
    chances = [0.22, 0.34, 0.34, 0.0, 0.1] if tone < 2.5 else [0.72, 0.25, 0.02, 0.0, 0.01]
    return str(rng.choice(list(HAIR_COLOURS), p=chances))


def _eye_colour(rng: np.random.Generator, tone: float) -> tuple[int, int, int]:
    return EYE_COLOURS[rng.integers(len(EYE_COLOURS) if tone < 2.2 else 2)]


def draw_look(rng: np.random.Generator, who: Identity) -> Look:
    """A random picture of `who`."""
    smiles = rng.random() < 0.5
    smile = float(rng.uniform(0.45, 1.0) if smiles else rng.uniform(-0.25, 0.12))
    opens = rng.random() < (0.65 if smiles else 0.25)
    hat = str(rng.choice(["none", "cap", "beanie", "brim"], p=[0.86, 0.05, 0.05, 0.04]))
    shows_ears = who.hair_style in {"bald", "receding", "buzz", "short", "parted", "tied"}
    makeup = bool(not who.male and rng.random() < 0.4)
    glasses = rng.random() < (0.75 if who.glasses else 0.07)
    clothes = ["crew", "vee", "shirt", "tie", "bare"]
    warm = float(rng.normal(0, 0.07))
    beard = who.beard
    if beard != "none" and rng.random() < 0.12:  # shaved this once
        beard = "none"
    return Look(
        yaw=float(np.clip(rng.normal(0, 0.15), -0.32, 0.32)), pitch=float(np.clip(rng.normal(0, 0.09), -0.22, 0.22)),
        roll=float(np.clip(rng.normal(0, 0.02), -0.06, 0.06)), smile=smile,
        mouth_open=float(rng.uniform(0.3, 1.0)) if opens else 0.0, eyes=float(np.clip(rng.normal(1, 0.12), 0.7, 1.3)),
        gaze=(float(rng.normal(0, 0.35)), float(rng.normal(0, 0.2))), brow_raise=float(rng.normal(0, 0.03)),
        hair_style=who.hair_style, bangs=who.bangs if rng.random() < 0.85 else not who.bangs, beard=beard,
        goatee_moustache=bool(rng.random() < 0.6),
        glasses=str(rng.choice(["clear", "sun"], p=[0.8, 0.2])) if glasses else "none",
        glasses_shape=int(rng.integers(4)), hat=hat, makeup=makeup,
        lipstick=bool(makeup or (not who.male and rng.random() < 0.25)),
        rosy=bool(rng.random() < (0.45 if makeup else 0.08)),
        earrings=bool(shows_ears and rng.random() < (0.08 if who.male else 0.6)),
        necklace=bool(rng.random() < (0.05 if who.male else 0.35)),
        clothes=str(rng.choice(clothes, p=[0.35, 0.15, 0.25, 0.25, 0.0] if who.male else [0.35, 0.3, 0.15, 0.0, 0.2])),
        blurry=bool(rng.random() < 0.06),
        light_azimuth=float(np.clip(rng.normal(0, 0.6), -1.2, 1.2)), light_height=float(rng.uniform(0.15, 0.9)),
        light_key=float(rng.uniform(0.55, 0.92)), light_colour=(1 + warm, 1.0, 1 - 1.3 * warm),
    )  # fmt: skip


def attributes(who: Identity, look: Look) -> Array:
    """CelebA's 40 attributes as drawn, int8 [40]: 1 yes, -1 no, 0 where something hides it.

    `Attractive` is the proxy of `Identity.attractive`: it says nothing about people.
    """
    bald, hat = look.hair_style == "bald", look.hat != "none"
    values: dict[str, bool | None] = {
        "5_o_Clock_Shadow": look.beard == "stubble",
        "Arched_Eyebrows": who.brow_arch > 0.55, "Attractive": who.attractive, "Bags_Under_Eyes": who.bags,
        "Bald": None if hat else bald, "Bangs": None if hat else has_bangs(look), "Big_Lips": who.lips > 1.15,
        "Big_Nose": who.nose_width > 1.1, "Blurry": look.blurry, "Bushy_Eyebrows": who.brow_weight > 0.65,
        "Chubby": who.fullness > 0.6, "Double_Chin": who.fullness > 0.7, "Eyeglasses": look.glasses != "none",
        "Goatee": look.beard in {"goatee", "full"}, "Heavy_Makeup": look.makeup,
        "High_Cheekbones": who.cheekbones > 0.6 or look.smile > 0.6, "Male": who.male,
        "Mouth_Slightly_Open": look.mouth_open > 0,
        "Mustache": look.beard in {"moustache", "full"} or (look.beard == "goatee" and look.goatee_moustache),
        "Narrow_Eyes": who.eye_open * look.eyes < 0.82, "No_Beard": look.beard == "none",
        "Oval_Face": who.jaw < 0.99 and who.fullness < 0.45, "Pale_Skin": who.tone < 0.7,
        "Pointy_Nose": who.nose_point > 0.6, "Receding_Hairline": None if hat else look.hair_style == "receding",
        "Rosy_Cheeks": look.rosy, "Sideburns": look.beard == "full", "Smiling": look.smile > 0.4,
        "Straight_Hair": None if bald else who.hair_wave == 0, "Wavy_Hair": None if bald else who.hair_wave > 0,
        "Wearing_Earrings": look.earrings, "Wearing_Hat": hat, "Wearing_Lipstick": look.lipstick,
        "Wearing_Necklace": look.necklace, "Wearing_Necktie": look.clothes == "tie", "Young": who.age < 0.5,
    }  # fmt: skip
    for name in ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair"):
        values[name] = (None if hat else False) if bald else who.hair_colour == name
    if look.glasses == "sun":
        values |= dict.fromkeys(("Narrow_Eyes", "Bags_Under_Eyes"))
    return _in_order(values)


def has_bangs(look: Look) -> bool:
    """Whether hair falls over the forehead."""
    return look.bangs and look.hair_style in {"short", "parted", "bob", "long"}


def _in_order(values: Mapping[str, bool | None]) -> Array:
    ordered = [values[name] for name in records.ATTRIBUTES]
    return np.array([0 if value is None else 1 if value else -1 for value in ordered], np.int8)
