"""Pictures of what a network does with one sample: its spikes, layer under layer."""

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
        _raster(axes, spikes)
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


def layers(network: Network, trace: Trace, payloads: NDArray[Any]) -> bytes:
    """A PNG: what the network is sent and the spikes of all of its layers, against the step.

    trace: spikes of one sample, ``[T, 1, *shape]`` a layer. payloads: its own ``[T, 1, *shape]``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seen = [i for i, layer in enumerate(network.layers) if layer.neuron.vth is not None]
    rows = [("input", payloads), *((f"layer {network.names[i]}", trace.spikes[i]) for i in seen)]
    # Rows become lower where there are many: no picture grows without bound.
    height = max(0.35, min(1.5, 60 / len(rows)))
    total = 0.6 + height * len(rows)
    figure = Figure(figsize=(8, total))
    FigureCanvasAgg(figure)
    steps = range(1, network.time_steps + 1)
    for row, (name, numbers) in enumerate(rows):
        flat = numbers[:, 0].reshape(network.time_steps, -1)
        # Placed by hand: matplotlib's own layout takes its time over many rows.
        bottom = (total - height * (row + 1)) / total
        axes = figure.add_axes((0.05, bottom, 0.94, max(height - 0.25, height / 2) / total))
        _raster(axes, flat)
        binary = flat.min() >= 0 and flat.max() <= 1
        what = f"{int(flat.sum())} spikes" if binary else f"values {flat.min()} to {flat.max()}"
        size = 8 if height > 0.6 else 5
        axes.set_title(f"{name}: {what}", loc="left", fontsize=size, color=INK, pad=2)
        axes.set_yticks([])
        axes.set_ylabel(f"{flat.shape[1]}", fontsize=size, color=INK)
        _steps(axes, steps, labelled=row == len(rows) - 1)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return content.getvalue()


def _raster(axes: Any, numbers: NDArray[Any]) -> None:
    """Spikes ``[T, neurons]`` as dots, or messages by how large they are; a gap between steps."""
    from matplotlib.colors import LinearSegmentedColormap

    steps, neurons = numbers.shape
    axes.imshow(
        numbers.T,
        cmap=LinearSegmentedColormap.from_list("ink", ["white", INK]),
        vmin=min(0, int(numbers.min())),
        vmax=max(1, int(numbers.max())),
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        extent=(0.5, steps + 0.5, -0.5, neurons - 0.5),
    )
    if steps <= 32:
        for step in range(1, steps + 1):
            axes.axvline(step + 0.5, color="white", linewidth=min(6.0, 96 / steps))


def _steps(axes: Any, steps: range, labelled: bool) -> None:
    axes.set_xlim(0.5, len(steps) + 0.5)
    axes.set_xticks(steps if len(steps) <= 32 else steps[:: len(steps) // 16])
    axes.tick_params(labelbottom=labelled, labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if labelled:
        axes.set_xlabel("step")
