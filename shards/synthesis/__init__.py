"""Rendered faces: a 3-D head with the 68 iBUG points, painted and photographed at random.

The modules in the order in which a face is made: shape (the head), pose (where the camera sees it), surface
(the head as a grid of texels), raster (texels to pixels), then what is seen: layers, skin, hair, features,
backdrop, bust, accessories, camera; portrait puts them together.
"""
