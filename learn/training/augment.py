"""Random copies of clips, for objectives that compare a clip with itself.

Stored features cannot be cropped or recoloured any more. What is left, and what this does: another
piece in time of the same clip, some stored dimensions set to their mean (the same in all rows of a
copy), and gaussian noise in the scale of each dimension. Copies made so are weaker than those of
pixels.

Shapes: B = clips, T = rows (padded), D = stored size.
"""

import torch

from learn.data.rows import Padded
from learn.models.embedder import Standardiser
from learn.training.recipe import ViewSettings


def copy(
    clips: Padded, standard: Standardiser, settings: ViewSettings, generator: torch.Generator
) -> Padded:
    """One random copy of each clip; a clip without rows stays so. `generator` is of the device
    that the rows are on: what is drawn elsewhere has to be copied.
    """
    rows, mask, seconds = clips
    size, longest, dim = rows.shape
    device = rows.device
    if settings.subclip < 1:
        count = mask.sum(1)
        kept = (count * settings.subclip).ceil().long()
        position = torch.rand(size, generator=generator, device=device)
        first = (position * (count - kept + 1)).long()
        step = torch.arange(longest, device=device)
        indices = torch.minimum(first[:, None] + step, (count - 1).clamp_min(0)[:, None])
        mask = step < kept[:, None]
        rows = rows.gather(1, indices[..., None].expand(-1, -1, dim)) * mask[..., None]
        seconds = seconds.gather(1, indices) * mask
    if settings.feature_dropout:
        drawn = torch.rand(size, 1, dim, generator=generator, device=device)
        gone = drawn < settings.feature_dropout
        rows = torch.where(gone & mask[..., None], standard.mean, rows)
    if settings.noise:
        noise = torch.randn(rows.shape, generator=generator, device=device)
        rows = rows + settings.noise * standard.deviation * noise * mask[..., None]
    return Padded(rows, mask, seconds)
