"""Neurons of others, differential equations in seconds, as the chip's in real numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lava_export.nir_io.linear import Real
from lava_export.nir_io.nodes import Node, spread
from loihi import formats
from loihi.network import Shape
from loihi.neurons import Reset

Decays = Literal["same", "mean"]


@dataclass(frozen=True)
class RealNeurons:
    """Neurons of a node, normalised: reset to 0, one threshold.

    gain: what an input of 1 adds to u or v, one number or one a neuron. settle: what of a constant
    input of 1 is in v in each step, when u has settled.
    """

    du: float
    dv: float
    threshold: float | None
    gain: Real
    settle: Real
    bias: Real
    notes: tuple[str, ...]


def neurons_of(node: Node, shape: Shape, dt: float, reset: Reset, decays: Decays) -> RealNeurons:
    """The neurons of a node, over ``shape``, in steps of ``dt`` seconds."""
    spiking = node.kind in ("CubaLIF", "LIF", "IF", "Threshold")
    zero, one = np.zeros(1), np.ones(1)
    notes: tuple[str, ...] = ()

    def field(key: str, default: Real | None = None, infinite: bool = False) -> Real:
        if default is not None and node.fields.get(key) is None:
            return default
        return spread(node, key, node.array(key, infinite), shape)

    def filtered(tau_key: str, factor_key: str, default: Real | None = None) -> tuple[Real, Real]:
        """The share that a step loses, and what an input of 1 adds in it."""
        tau = field(tau_key, infinite=True)
        factor = field(factor_key, default, infinite=True)
        if (tau <= 0).any():
            raise node.error(f"{tau_key} is {tau.min():g}: time constants are positive")
        endless = np.isinf(tau)
        if (np.isinf(factor) & ~endless).any():
            raise node.error(f"{factor_key} is infinite")
        if (endless & np.isfinite(factor)).any():
            raise node.error(f"{tau_key} is infinite: no input ever arrives (IF, I do that)")
        share = dt / tau  # 0 where tau is infinite
        if share.max() * formats.DECAY_ONE >= formats.DECAY_ONE + 0.5:
            raise node.error(
                f"{tau_key} is {tau.min():g} s, shorter than a step of {dt:g} s: "
                "give the dt that the graph was made for"
            )
        # snnTorch writes a decay of none as infinity twice, τ/dt for the factor.
        with np.errstate(invalid="ignore"):
            return share, np.where(endless, 1.0, factor * share)

    def same(key: str, share: Real) -> float:
        nonlocal notes
        rounded = np.rint(formats.DECAY_ONE * share)
        if (rounded != rounded.flat[0]).any():
            if decays != "mean":
                raise node.error(
                    f"{key} differs between its neurons: decays of {share.min():.4g} to "
                    f"{share.max():.4g} a step, and a layer of the chip has one (their mean "
                    "with decays=mean)"
                )
            notes += (f"{key}: the mean of decays of {share.min():.4g} to {share.max():.4g}",)
        return float(np.mean(share))

    du, dv, gain, leak = 1.0, 0.0, one, zero
    settle_u: Real = one
    if node.kind in ("CubaLIF", "CubaLI"):
        share_u, gain_u = filtered("tau_syn", "w_in", one)
        share, gain_v = filtered("tau_mem", "r")
        du, dv = same("tau_syn", share_u), same("tau_mem", share)
        gain = gain_u * gain_v
        with np.errstate(divide="ignore"):
            settle_u = np.where(np.rint(formats.DECAY_ONE * share_u) > 0, 1 / share_u, np.inf)
        leak = share * field("v_leak")
    elif node.kind in ("LIF", "LI"):
        share, gain = filtered("tau", "r")
        dv = same("tau", share)
        leak = share * field("v_leak")
    elif node.kind in ("IF", "I"):
        share, gain = zero, dt * field("r")
    else:  # Threshold: what enters in a step, and no more
        share, dv = one, 1.0
    if not spiking:
        return RealNeurons(du, dv, None, gain, _settled(gain, settle_u), leak, notes)
    threshold = field("threshold" if node.kind == "Threshold" else "v_threshold")
    rest = zero if node.kind == "Threshold" else field("v_reset", zero)
    if reset == "soft" and rest.any():
        raise node.error(
            f"v_reset is {rest[rest != 0].flat[0]:g}: a soft reset takes the threshold off"
        )
    threshold, leak = threshold - rest, leak - share * rest  # v − v_reset in place of v
    if (threshold < 0).any():
        raise node.error("v_threshold is below v_reset" if rest.any() else "threshold below 0")
    common = float(threshold.max())
    if (threshold == common).all():
        factor = one
    elif (threshold == 0).any():
        raise node.error("thresholds of 0 and others in one layer")
    else:
        factor = common / threshold
    gain, leak = gain * factor, leak * factor
    return RealNeurons(du, dv, common, gain, _settled(gain, settle_u), leak, notes)


def _settled(gain: Real, settle: Real) -> Real:
    with np.errstate(invalid="ignore"):  # 0 · ∞: nothing enters, and nothing settles
        return gain * settle
