"""Drawn faces: a small parametric head, drawn with numpy and Pillow (see `rayface.data.synth`)."""
