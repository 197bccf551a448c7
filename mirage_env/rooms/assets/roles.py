"""Uses of a catalogue's models in a room, by name, category and size."""

from __future__ import annotations

import re

Size = tuple[float, float, float]

_NEVER = re.compile(
    r"dressing|changing|table_tennis|tennis|football|pool|fan$|wheelchair|hospital|technical|escalator|elevator|"
    r"plug|switch|socket|dimmer|antenna|rj-45|RJ-45|billet|jupe|robe$|pantalon|blouson|short|chaussette|montre|bague|"
    r"gant|suit$|hanging-clothes|clothes-|coathanger|bunk|mezzanine|showerDoor|showerStall|showerCurtain|corner_|"
    r"Corner|L_shaped|keys|glasses|sunglasses|sleepingBag|air-mattress|futon$|chair-ottoman|glass_door|aquarium|"
    r"japanese_style|barnum|parque|arrow|ruler|pencil|textMarker|fork$|knife|spoon|comb|peineta|trampoline|bathtub|"
    r"jacuzzi|swimming|pedestrian|railing|sidewalk|playground|childHut|childSwing|child_swing|seesaw|umbrella$|"
    r"iphone|mobile$|cardGame|numberLock|fleche|passage|stationnement|rails$|hood|electric_water|gaz_water|"
    r"Kettle|flacon|ext_table|littlebank"
)
_PEOPLE = re.compile(r"^(fe)?male0\d$|^(fe)?male-01|^holding|^(boy|girl)Standing$")
_ANIMALS = re.compile(r"^(cat|dog|rabbit|bulldog|chicken)$")
_RULES: tuple[tuple[str, str, Size, Size], ...] = (
    # role, pattern on the model's name, smallest and largest size in metres; the first that fits wins.
    ("rug", r"rug|carpet|bathmat|doormat|tatami", (0.5, 0.3, 0.0), (3.0, 3.0, 0.06)),
    ("bed", r"\bbed\b|\bcrib\b", (0.6, 1.1, 0.3), (2.1, 2.4, 1.3)),
    ("sofa", r"sofa|couch", (1.1, 0.5, 0.5), (2.9, 1.2, 1.1)),
    ("armchair", r"armchair|rattan armchair", (0.5, 0.5, 0.6), (1.15, 1.0, 1.2)),
    ("chair", r"\bchair\b|\bstool\b|\bseat\b|piano bench|\bpuff\b", (0.25, 0.25, 0.35), (0.8, 0.85, 1.15)),
    ("low_table", r"coffee table|living_room_table|saloon|rattan table|\btable\b", (0.5, 0.4, 0.35), (1.5, 0.9, 0.56)),
    ("table", r"\btable\b|island$", (0.55, 0.5, 0.6), (2.4, 1.3, 1.05)),
    ("desk", r"desk|workbench|vanity|tv stand|television", (0.7, 0.35, 0.4), (2.4, 1.0, 2.1)),
    (
        "storage",
        r"wardrobe|bookcase|shelves|cupboard|cabinet|dresser|chest\b|\bbox\b|piano\b|fireplace|fridge|refrigerator|"
        r"oven|stove|freezer|washing|dryer|locker|safe|contemporary|vending|sink|dining|furnace|doll house|bedside|"
        r"filing|utility",
        (0.3, 0.25, 0.3),
        (2.8, 1.1, 2.6),
    ),
    ("sanitary", r"toilets unit|bidet|washbasin|^bath\b|island bath", (0.3, 0.3, 0.3), (1.9, 1.0, 1.2)),
    (
        "floor",
        r"plant|bamboo|cactus|ficus|yucca|tree|spathi|lily|lamp|bin|trash|basket|suitcase|rocking|barrel|crate|"
        r"speaker|guitar|ladder|heater|cooler|bag|vase|extinguisher|box\b|bench|trunk|bike|punching|tricycle|"
        r"stroller|scooter|fan\b|bust|screen|board|teddy|cone|logs|chimney|bedside|doll house|bulldog",
        (0.18, 0.15, 0.38),
        (1.3, 1.3, 2.1),
    ),
)
_GARDEN = re.compile(
    r"bench|chair|table|hedge|bush|fountain|dog house|flower box|plant box|rock|lantern|trash|wheelbarrow|mailbox|"
    r"hut|hydrant|snowman|sofa|lounge|bank|hose reel|column|swing",
    re.IGNORECASE,
)
_SMALL_KINDS = ("Office", "Kitchen", "Living room", "Bedroom", "Bathroom", "Miscellaneous", "Lights")
_NOT_SMALL = re.compile(
    r"light|projector|sanit|detector|cctv|camera$|intercom|lantern|towel|brush|tissue|paper disp", re.I
)
_HUNG = re.compile(r"upper|clock|wall flat|conditioning|wall light|dart|spotlight|artwork|glass door cab", re.I)
_RADIATOR = re.compile(r"radiator", re.I)


def role_of(stem: str, name: str, category: str, size: Size, elevation: float) -> str | None:
    """Use of a model, or None if rooms have none for it."""
    if _PEOPLE.search(stem):
        return "person"
    if _ANIMALS.search(stem):
        return "animal"
    if _NEVER.search(stem) or category in ("Vehicles", "Characters", "Staircases"):
        return None
    if category == "Doors and windows":
        is_door = re.search(r"\bdoor$", name, re.I) and 1.9 < size[2] < 2.2 and size[0] < 1.1
        return "door" if is_door and "garage" not in stem else None
    if category == "Exterior":
        return "garden" if _GARDEN.search(name) and max(size[:2]) < 2.2 and 0.15 < size[2] < 2.2 else None
    if elevation > 0.05 or _RADIATOR.search(name):
        if _RADIATOR.search(name) and size[0] < 1.5 and size[1] < 0.3:
            return "radiator"
        return "hung" if _HUNG.search(f"{name} {stem}") and elevation > 0.8 and size[1] < 0.45 else None
    text = f"{name} {stem}".lower()
    for role, pattern, low, high in _RULES:
        fits = all(a <= value <= b for a, value, b in zip(low, size, high, strict=True))
        if fits and re.search(pattern, text):
            return role
    small = category in _SMALL_KINDS and max(size) < 0.6 and size[2] >= 0.03 and max(size) > 0.07
    return "small" if small and not _NOT_SMALL.search(name) else None
