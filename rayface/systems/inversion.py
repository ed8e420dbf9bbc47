"""From a photo to its latents, and from there to a face with an attribute more or less (SPEC D3).

S31: a random vector is sought whose face is the photo, 1/2 (O - I)^2; S32: from there one whose face the attribute's
classifier takes for one with it, 1/2 (1 - s)^2, or without, 1/2 (0 - s)^2; S33: that face. What the document does not
have can be switched off one by one: a learned first guess, a style of its own for every level, what an image network
sees, terms that keep everything else as it is, a short tuning of the generator to the photo (PTI, Roich et al. 2021),
and that only what changed is carried over to the photo.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayface.data.augmentation import draw_view
from rayface.errors import RayfaceError
from rayface.imaging.codec import to_float, to_uint8
from rayface.imaging.filters import gaussian_blur, resize_images
from rayface.imaging.views import view
from rayface.networks.efficientnet_lite import feature_distance
from rayface.networks.precision import as_served
from rayface.randomness import generator as seeded

if TYPE_CHECKING:
    from rayface.store import LoadedModel

Networks = Mapping[str, Any]  # AttributeEditing.released: a FaceGenerator and the others

# What the network `places` finds, of which parser's classes.
PLACES = {
    "face": (
        "skin",
        "nose",
        "eye_g",
        "l_eye",
        "r_eye",
        "l_brow",
        "r_brow",
        "l_ear",
        "r_ear",
        "mouth",
        "u_lip",
        "l_lip",
    ),
    "hair": ("hair",),
    "neck": ("neck",),
}
# Where an attribute is seen: in which places, and between which left, top, right and bottom of an aligned crop (shares
# of its side). Of those not named: in all of them, anywhere.
SEEN_IN: dict[str, tuple[tuple[str, ...], tuple[float, float, float, float]]] = {
    "Smiling": (("face",), (0.22, 0.52, 0.78, 0.95)),
    "Mouth_Slightly_Open": (("face",), (0.28, 0.6, 0.72, 0.95)),
    "Eyeglasses": (("face", "hair"), (0.12, 0.3, 0.88, 0.62)),
    "Bangs": (("face", "hair"), (0.1, 0.0, 0.9, 0.42)),
    "Heavy_Makeup": (("face",), (0.15, 0.25, 0.85, 0.92)),
    "Blond_Hair": (("hair",), (0, 0, 1, 1)),
}
ANYWHERE = (tuple(PLACES), (0.0, 0.0, 1.0, 1.0))
# Mean change of edges, of 2, from which on the photo's own detail goes; at twice that it is gone.
MUCH = 0.03
REACHES = (0.2, 0.4, 0.6, 0.8)  # parts of an edit that may be enough
STARTS = ("guess", "middle", "random")
BORDER = 0.04  # of the side: how soft those boxes end


@dataclass(frozen=True)
class InversionConfig:
    """How a photo's latents are sought and moved; what is 0 or False is left out."""

    start: str = "guess"  # where the search begins, one of STARTS: learned, the middle of all photos, anywhere
    extended: bool = True  # a style for every level; else the random vector itself
    steps: int = 60  # of S31
    rate: float = 0.05
    perceptual: float = 2.0  # beside the squared difference
    natural: float = 0.02  # not far from where the search began
    edit_steps: int = 20  # of S32
    edit_rate: float = 0.05
    steered: float = 1.5  # S32 begins so many times as far as training learned to go
    edit_natural: float = 0.5  # not far from the photo
    views: bool = True  # the classifiers see it a little moved, recoloured, blurred, at every step anew: no loophole
    logistic: bool = True  # the classifier's log likelihood; else the document's square, flat where it is sure
    enough: float = 4.0  # logits at which the networks are sure: an edit goes no further
    already: float = 4.0  # logits from which on an attribute is so already, and left alone
    local: float = 5.0  # nothing changes where the attribute is not seen
    others: float = 0.0  # the other attributes' classifiers say what they said: costs more flips than it keeps of those
    tuning_steps: int = 30
    tuning_rate: float = 1e-3
    carried: bool = True  # what changed is carried over to the photo; else the face as the generator draws it


# The document alone
PLAIN = InversionConfig(
    start="random", extended=False, perceptual=0, natural=0, steered=0, edit_natural=0, logistic=False, views=False,
    enough=0, already=0, local=0, others=0, tuning_steps=0, carried=False, steps=300, edit_steps=100,
)  # fmt: skip


def check_inversion(config: InversionConfig) -> None:
    """Raises RayfaceError for settings that no search could use."""
    if config.start not in STARTS:
        raise RayfaceError(f"inversion.start={config.start}: give one of {', '.join(STARTS)}")
    for name, value in vars(config).items():
        if not isinstance(value, str) and value < 0:
            raise RayfaceError(f"inversion.{name}={value} must not be below 0")


@dataclass(frozen=True)
class Inverted:
    """Photos float [N, 3, side, side] as the generator draws them, and what it draws them from.

    `photos`, `drawn`: float [N, 3, side, side]; `latents`: float [N, latent], which an edit moves; `styles`: float
    [N, levels, latent]; `losses`: of S31, float [steps, N]; `places`: where PLACES are, float [N, 3, side, side] in
    [0, 1].
    """

    photos: Tensor
    latents: Tensor
    styles: Tensor
    drawn: Tensor
    generator: Any  # a FaceGenerator, tuned or not
    losses: Tensor
    places: Tensor


def seen_in(places: Tensor, asked: Tensor, labels: Sequence[str]) -> Tensor:
    """Where the attributes `asked`, bool [N, A], are seen: float [N, 1, side, side] in [0, 1] with soft borders.

    `places`: where PLACES are, float [N, 3, side, side] in [0, 1].
    """
    side = places.shape[-1]
    maps = places.new_zeros(len(asked), len(labels), side, side)
    for number, label in enumerate(labels):
        names, box = SEEN_IN.get(label, ANYWHERE)
        left, top, right, bottom = (round(side * share) for share in box)
        channels = [list(PLACES).index(name) for name in names]
        here = places[:, channels].amax(1)
        maps[:, number, top:bottom, left:right] = here[:, top:bottom, left:right]
    return gaussian_blur(torch.einsum("na,nahw->nhw", asked.float(), maps).clamp(0, 1)[:, None], BORDER * side)


def invert(networks: Networks, photos: Tensor, config: InversionConfig) -> Inverted:
    """S31 for photos float [N, 3, side, side] in [-1, 1], all at once."""
    generator, look = networks["generator"], networks["look"]
    with torch.no_grad():
        features, places = look(photos), networks["places"](photos).float().sigmoid()
        latents = _begin(networks, features, config.start)
    start = generator.styles(latents).detach() if config.extended else latents
    moved, losses = start.clone(), []
    for take, moving in _descend(moved, config.steps, config.rate):
        styles = moving if config.extended else generator.styles(moving)
        made = generator.draw(styles)
        loss = 0.5 * (made - photos).square().mean((1, 2, 3))
        if config.perceptual:
            loss = loss + config.perceptual * feature_distance(look(made), features)
        losses.append(loss.detach())
        if config.natural:
            loss = loss + config.natural * (moving - start).square().flatten(1).mean(1)
        take(loss)
    styles = moved if config.extended else generator.styles(moved).detach()
    if not config.extended:
        latents = moved
    if config.tuning_steps:
        generator = tuned(generator, look, photos, features, styles, config)
    with torch.no_grad():
        told_losses = torch.stack(losses) if losses else photos.new_zeros(0, len(photos))
        return Inverted(photos, latents, styles, generator.draw(styles), generator, told_losses, places)


def _begin(networks: Networks, features: Sequence[Tensor], start: str) -> Tensor:
    """Latents float [N, latent] at which the search for photos with these features begins."""
    guess: Tensor = networks["first_guess"](features[1:])[0]
    if start == "guess":
        return guess
    generator = networks["generator"]
    random = torch.zeros_like(guess)
    if start == "random":
        drawn = seeded(0, stream="where a search begins").standard_normal(guess.shape[1], np.float32)
        random = random + torch.from_numpy(drawn).to(guess.device)
    return generator.latents_of(random)


def _descend(values: Tensor, steps: int, rate: float) -> Iterator[tuple[Callable[[Tensor], None], Tensor]]:
    """Adam on `values`, in place: at every step what takes the losses float [N], and what they are to depend on."""
    moving = values.requires_grad_(True)
    optimizer = torch.optim.Adam([moving], rate, (0.9, 0.99))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * min(1.0, 4 * (1 - step / steps))  # the last quarter settles

        def take(losses: Tensor) -> None:
            optimizer.zero_grad()
            losses.sum().backward()
            optimizer.step()

        yield take, moving
    values.requires_grad_(False)


def tuned(
    generator: Any, look: nn.Module, photos: Tensor, features: Sequence[Tensor], styles: Tensor,
    config: InversionConfig,
) -> Any:  # fmt: skip
    """A copy of the generator that draws these photos better at these styles (PTI); of one photo, as a rule."""
    generator = copy.deepcopy(generator).requires_grad_(True)
    optimizer = torch.optim.Adam(generator.parameters(), config.tuning_rate, (0.9, 0.99))
    for _ in range(config.tuning_steps):
        made = generator.draw(styles)
        loss = (made - photos).abs().mean() + config.perceptual * feature_distance(look(made), features).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return generator.requires_grad_(False)


def edit(
    networks: Networks, inverted: Inverted, wanted: Tensor, labels: Sequence[str],
    config: InversionConfig,
) -> Tensor:  # fmt: skip
    """S32: faces float [N, 3, side, side] whose attributes are `wanted`, float [N, A]: 1 with, 0 without, nan as it is.

    The random vector moves, and the styles by as much as it moves them: what is left of a photo stays.
    """
    search = _Search(networks, inverted, wanted, labels, config)
    step = search.steered()
    for number, (take, moving) in enumerate(_descend(step, config.edit_steps, config.edit_rate)):
        take(search.losses(moving, number))
    with torch.no_grad():
        return search.drawn(search.no_further(step) if config.enough else step)


class _Search:
    """What S32 looks for: how far from some photos' random vectors, a step float [N, latent], the wanted faces lie."""

    def __init__(
        self, networks: Networks, inverted: Inverted, wanted: Tensor, labels: Sequence[str], config: InversionConfig
    ) -> None:
        self.networks, self.inverted, self.config = networks, inverted, config
        self.asked, self.target = ~wanted.isnan(), wanted.nan_to_num()
        self.sign = (2 * self.target - 1) * self.asked
        with torch.no_grad():
            self.where = seen_in(inverted.places, self.asked, labels)
            self.own = inverted.generator.styles(inverted.latents)
            self.before = self._told(inverted.photos if config.carried else inverted.drawn).sigmoid()

    def drawn(self, step: Tensor) -> Tensor:
        """The face as the generator draws it, float [N, 3, side, side]."""
        generator, latents = self.inverted.generator, self.inverted.latents
        face: Tensor = generator.draw(self.inverted.styles + generator.styles(latents + step) - self.own)
        return face

    def steered(self) -> Tensor:
        """Where the search begins."""
        latents = self.inverted.latents
        there: Tensor = self.config.steered * (self.networks["steering"](latents, self.sign) - latents)
        return there.detach()

    def losses(self, step: Tensor, number: int) -> Tensor:
        """Of each photo after `number` steps of the search: float [N]."""
        config, made = self.config, self.drawn(step)
        photo = self._photo(made)
        if config.views:
            numbers = draw_view(seeded(0, index=number, stream="views of an edit"), 0.08, 0.2)
            photo = view(photo, numbers.to(photo.device).expand(len(photo), -1))
        logits = self._told(photo)
        if config.logistic:
            there = F.binary_cross_entropy_with_logits(logits, self.target, reduction="none")
        else:
            there = 0.5 * (logits.sigmoid() - self.target).square()
        loss = (there * self.asked).sum(1)
        if config.others:
            loss = loss + config.others * (0.5 * (logits.sigmoid() - self.before).square() * ~self.asked).sum(1)
        if config.local:
            change = (made - self.inverted.drawn).square().mean(1, keepdim=True)
            loss = loss + config.local * (change * (1 - self.where)).mean((1, 2, 3))
        if config.edit_natural:
            loss = loss + config.edit_natural * step.square().mean(1)
        return loss

    def no_further(self, step: Tensor) -> Tensor:
        """The shortest of some parts of the step at which the networks are sure of all that is wanted, or all of it."""
        chosen, found = step, torch.zeros(len(step), dtype=torch.bool, device=step.device)
        for share in REACHES:
            logits = self._told(self._photo(self.drawn(share * step)))
            sure = ((self.sign * logits >= self.config.enough) | ~self.asked).all(1) & ~found
            chosen, found = torch.where(sure[:, None], share * step, chosen), found | sure
        return chosen

    def _photo(self, made: Tensor) -> Tensor:
        inverted = self.inverted
        return carried_over(inverted.photos, inverted.drawn, made, self.where) if self.config.carried else made

    def _told(self, images: Tensor) -> Tensor:
        logits: Tensor = self.networks["classifiers"](self.networks["look"](images)[1:])
        return logits


def edited_crops(
    networks: Networks, crops: Tensor, wanted: Tensor, labels: Sequence[str], config: InversionConfig,
    device: torch.device,
) -> list[Tensor]:  # fmt: skip
    """Crops uint8 [N, 3, S, S] edited in K ways, each float [N, A] of `wanted` [K, N, A] as in `edit`; on the CPU.

    Their latents are sought once, of all crops together. A crop of which nothing is wanted, or that already is as
    wanted, stays as it is. A generator is tuned to one photo alone.
    """
    with torch.inference_mode(False), torch.enable_grad():
        results = [crops.clone() for _ in wanted]
        photos = to_float(crops.clone().to(device)).contiguous(memory_format=torch.channels_last)
        small = resize_images(photos, networks["generator"].config.side)
        with as_served(device):
            wanted = needed(networks, small, wanted.clone().to(device), config)
            (some,) = torch.where((~wanted.isnan()).any(2).any(0))
            if not len(some):
                return results
            sought = invert(networks, small[some], replace(config, tuning_steps=0))
        for inverted, chosen in _tuned_alone(networks, sought, some, config, device):
            for asked, result in zip(wanted[:, chosen], results, strict=True):
                with as_served(device):
                    made = edit(networks, inverted, asked, labels, config)
                named = ~asked.isnan()
                if config.carried:
                    where = seen_in(inverted.places, named, labels)
                    changed = carried_over(photos[chosen], inverted.drawn, made, where)
                else:
                    changed = resize_images(made, photos.shape[-1])
                changed = torch.where(named.any(1)[:, None, None, None], changed, photos[chosen])
                result[chosen.cpu()] = to_uint8(changed.float().clamp(-1, 1)).cpu()
    return results


def _tuned_alone(
    networks: Networks, inverted: Inverted, places: Tensor, config: InversionConfig, device: torch.device
) -> Iterator[tuple[Inverted, Tensor]]:
    """Inverted photos and their places among all; where generators are tuned one by one, each with its own."""
    if not config.tuning_steps:
        yield inverted, places
        return
    for one in torch.arange(len(places)).split(1):
        photos, styles = inverted.photos[one], inverted.styles[one]
        with as_served(device):
            with torch.no_grad():
                features = networks["look"](photos)
            generator = tuned(inverted.generator, networks["look"], photos, features, styles, config)
            with torch.no_grad():
                drawn = generator.draw(styles)
        latents, losses, seen = inverted.latents[one], inverted.losses[:, one], inverted.places[one]
        yield Inverted(photos, latents, styles, drawn, generator, losses, seen), places[one]


@torch.no_grad()
def needed(networks: Networks, photos: Tensor, wanted: Tensor, config: InversionConfig) -> Tensor:
    """What of `wanted`, float [K, N, A] as in `edit`, is not so already: nan where the networks are sure that it is.

    `photos`: float [N, 3, side, side]. Who smiles would laugh.
    """
    if not config.already:
        return wanted
    logits: Tensor = networks["classifiers"](networks["look"](photos)[1:]).float()
    already = (2 * wanted.nan_to_num() - 1) * logits >= config.already
    return wanted.masked_fill(already, float("nan"))


def carried_over(photos: Tensor, before: Tensor, after: Tensor, where: Tensor) -> Tensor:
    """Photos float [N, 3, S, S] with what changed from one drawn face to another, float [N, 3, s, s] (S33).

    What the generator does not draw stays the photo's where edges stayed (hair took another colour). Where they did not
    (a mouth opened) it would be the old face's teeth and shadows, and is left out. Nothing changes but `where`, float
    [N, 1, s, s].
    """
    side, change = photos.shape[-1], after - before
    edges = (change - gaussian_blur(change, change.shape[-1] / 16)).abs().mean(1, keepdim=True)
    edges = gaussian_blur(edges, change.shape[-1] / 64)
    edges, before, after, where = (resize_images(maps, side) for maps in (edges, before, after, where))
    gone = ((edges - MUCH) / MUCH).clamp(0, 1)
    return photos + where * (after - before - gone * (photos - before))


class AttributeEditingStep:
    """Attributes more or less, at serving. Parameters `add` and `remove`: names of attributes, for each crop."""

    name = "edit_attributes"
    sharpens = False

    def __init__(self, loaded: "LoadedModel", device: torch.device) -> None:
        self.model = loaded.ref
        self.size: int = loaded.config.size
        self.labels: tuple[str, ...] = loaded.config.attributes
        self.inversion: InversionConfig = loaded.config.inversion
        self.device = device
        self.networks = {
            name: network.to(device).to(memory_format=torch.channels_last) for name, network in loaded.networks.items()
        }

    def __call__(self, crops: Tensor, params: Mapping[str, Any]) -> Tensor:
        """`params["add"]`, `params["remove"]`: for each crop its names.

        Raises RayfaceError for an attribute that this model does not edit.
        """
        wanted = torch.full((len(crops), len(self.labels)), float("nan"))
        for name, value in (("remove", 0.0), ("add", 1.0)):
            for row, asked in zip(wanted, params.get(name) or [()] * len(crops), strict=True):
                for attribute in asked:
                    if attribute not in self.labels:
                        raise RayfaceError(
                            f"{name} is {attribute!r}; {self.model} edits: {', '.join(self.labels)}.",
                            kind="unknown-attribute",
                        )
                    row[self.labels.index(attribute)] = value
        (changed,) = edited_crops(self.networks, crops, wanted[None], self.labels, self.inversion, self.device)
        return changed
