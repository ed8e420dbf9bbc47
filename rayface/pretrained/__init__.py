"""Networks of others, read from the data files of packages."""

from rayface.pretrained.references import is_pretrained, load_pretrained, pretrained_info, pretrained_terms

__all__ = ["is_pretrained", "load_pretrained", "pretrained_info", "pretrained_terms"]
