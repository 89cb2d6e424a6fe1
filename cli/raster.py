"""A picture of what a network does with one sample: its spikes, layer under layer."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loihi import Network
    from loihi.reference import Trace

INK, ACCENT, FAINT = "#22303c", "#d1495b", "#b8c4ce"


def draw(network: Network, trace: Trace, image: NDArray[Any], label: int, title: str) -> bytes:
    """A PNG: the image, the spikes of every hidden layer, and the membranes of the last.

    trace: spikes and v of that one sample, ``[T, 1, *shape]`` a layer.
    image: ``(H, W)``. label: its class.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    hidden = [i for i, layer in enumerate(network.layers) if layer.neuron.vth is not None]
    steps = range(1, network.time_steps + 1)
    figure = Figure(figsize=(9, 2.2 + 2.6 * len(hidden)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, color=INK)
    grid = figure.add_gridspec(
        len(hidden) + 1, 2, width_ratios=(1, 3), height_ratios=[*[2.6] * len(hidden), 2.2]
    )
    picture = figure.add_subplot(grid[0, 0])
    picture.imshow(image, cmap="gray_r", interpolation="nearest")
    picture.set_title(f"input, a {label}", fontsize=10, color=INK)
    picture.set_xticks([])
    picture.set_yticks([])
    for row, index in enumerate(hidden):
        spikes = trace.spikes[index][:, 0].reshape(network.time_steps, -1)
        axes = figure.add_subplot(grid[row, 1])
        neurons = spikes.shape[1]
        axes.imshow(
            spikes.T,
            cmap=ListedColormap(["white", INK]),
            vmin=0,
            vmax=1,
            aspect="auto",
            origin="lower",
            interpolation="nearest",
            extent=(0.5, network.time_steps + 0.5, -0.5, neurons - 0.5),
        )
        for step in steps:  # a gap between steps
            axes.axvline(step + 0.5, color="white", linewidth=6)
        axes.set_ylabel("neuron")
        axes.set_title(
            f"layer {network.names[index]}: {int(spikes.sum())} spikes",
            loc="left",
            fontsize=10,
            color=INK,
        )
        _steps(axes, steps, labelled=False)
    membranes = trace.v[-1][:, 0].reshape(network.time_steps, -1)
    axes = figure.add_subplot(grid[-1, 1])
    winner = int(membranes[-1].argmax())
    for unit in range(membranes.shape[1]):
        colour, width = (ACCENT, 2.2) if unit == winner else (FAINT, 1.2)
        axes.plot(steps, membranes[:, unit], color=colour, linewidth=width, zorder=width)
    axes.annotate(
        str(winner),
        (network.time_steps, membranes[-1, winner]),
        xytext=(6, 0),
        textcoords="offset points",
        color=ACCENT,
        va="center",
        weight="bold",
    )
    axes.set_title(
        f"layer {network.names[-1]}: membranes, the answer is {winner}",
        loc="left",
        fontsize=10,
        color=INK,
    )
    axes.set_ylabel("v")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    _steps(axes, steps, labelled=True)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    return content.getvalue()


def _steps(axes: Any, steps: range, labelled: bool) -> None:
    axes.set_xlim(0.5, len(steps) + 0.5)
    axes.set_xticks(steps if len(steps) <= 32 else steps[:: len(steps) // 16])
    axes.tick_params(labelbottom=labelled, labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if labelled:
        axes.set_xlabel("step")
