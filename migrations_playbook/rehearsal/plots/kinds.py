"""Which plot a rehearsal has: the meaning says."""

from __future__ import annotations

from migrations_playbook.rehearsal.plots.base import Plot
from migrations_playbook.rehearsal.plots.converted import ConvertedPlot
from migrations_playbook.rehearsal.plots.rotated import RotatedPlot
from migrations_playbook.replacement import Replacement


def plot_of(replacement: Replacement) -> Plot:
    """Return the plot of a replacement's rehearsal."""
    return (ConvertedPlot if replacement.declaration.converts else RotatedPlot)(replacement)
