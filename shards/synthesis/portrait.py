"""A face from its numbers: the parts put together, back to front."""

import cv2
import numpy as np
from jaxtyping import UInt8

from shards.synthesis import accessories, bust
from shards.synthesis.backdrop import draw_backdrop
from shards.synthesis.camera import photograph
from shards.synthesis.features import draw_openings, paint_openings
from shards.synthesis.hair import HairStyle, comb, draw_hair, grow
from shards.synthesis.pose import PosedHead, draw_head, stream
from shards.synthesis.raster import rasterise
from shards.synthesis.skin import Complexion, Light, draw_complexion, draw_light, light_skin, paint_skin
from shards.synthesis.surface import head_surface, surface_normals

_PAINT_STREAM = 1


def render(seed: int, index: int, picture_size_px: int) -> UInt8[np.ndarray, "size size 3"]:
    """Face `index` of a seed, RGB."""
    rng = stream(seed, index, _PAINT_STREAM)
    head = draw_head(seed, index, picture_size_px)
    light, complexion = draw_light(rng), draw_complexion(rng, head.shape.smile, head.shape.raised_brows)
    style = draw_hair(rng, complexion)
    picture = draw_backdrop(rng, picture_size_px)
    bust.paint_back_of_head(picture, head, complexion, style, light, rng)
    bust.paint_neck_and_clothes(picture, head, complexion, light, rng)
    if not style.covers_ears:
        bust.paint_ears(picture, head, complexion, light, in_front=False)
    paint_head(picture, head, complexion, style, light, rng)
    if not style.covers_ears:
        bust.paint_ears(picture, head, complexion, light, in_front=True)
    if rng.random() < accessories.GLASSES_SHARE:
        accessories.paint_glasses(picture, head, rng)
    if rng.random() < accessories.HAT_SHARE:
        accessories.paint_hat(picture, head, style, light, rng)
    if rng.random() < accessories.OCCLUDER_SHARE:
        accessories.paint_occluder(picture, head, complexion, light, rng)
    return photograph(picture, rng)


def paint_head(
    picture: UInt8[np.ndarray, "size size 3"],
    head: PosedHead,
    complexion: Complexion,
    style: HairStyle,
    light: Light,
    rng: np.random.Generator,
) -> None:
    """The surface of the head with its eyes and mouth, in place."""
    openings = draw_openings(rng, complexion.tone)
    vertices = grow(head_surface(head.shape.controls), style)
    turned = head.view.turned(vertices.reshape(-1, 3))
    raster = rasterise(head.view.flattened(turned), turned[:, 2], picture.shape[0])
    if raster is None:
        return
    normals = surface_normals(vertices) @ head.view.rotation.T.astype(np.float32)
    texture = light_skin(comb(paint_skin(complexion), style, complexion), normals, complexion, light)
    face = raster.sample(texture)
    paint_openings(face, raster, head, openings, light)
    region = picture[raster.window]
    cover = cv2.merge([raster.alpha] * 3).astype(np.float32) * np.float32(1 / 255)
    region[:] = region + (face - region.astype(np.float32)) * cover + np.float32(0.5)
