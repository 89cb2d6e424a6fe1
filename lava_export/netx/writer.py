"""Networks written: a chain as netx has it, anything else in our own form."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from lava_export import seal
from lava_export.netx.fields import NetxError
from lava_export.netx.limits import NEVER, any_payload, why_not
from lava_export.netx.own_form import write_graph, write_own
from lava_export.netx.reader import read_file
from loihi import (
    INTEGRATOR,
    Conv,
    Delta,
    Dense,
    Inject,
    Network,
    Neuron,
    Sigma,
    SigmaDelta,
    files,
)
from loihi.network import Shape
from loihi.neurons import AnyNeuron


def write(network: Network, path: str | Path) -> None:
    """Write ``network`` to a netx file, or what netx cannot hold to a file of ours; whole or not
    at all.

    Raises :class:`PumiceError` where it cannot be written; a file that was there before is then
    untouched.
    """
    path = Path(path)
    image = io.BytesIO()
    with h5py.File(image, "w", userblock_size=seal.BLOCK) as file:
        _write(network, file)
    with h5py.File(image, "r") as file:
        if read_file(file) != network:  # nothing leaves the house that does not come back the same
            raise NetxError(f"{path}: the network does not survive being written; please report it")
    seal.seal(image.getbuffer())
    files.write(path, image.getbuffer())


def _write(network: Network, file: h5py.File) -> None:
    write_own(network, file)
    if why_not(network) is None:
        _write_chain(network, file)
    else:
        write_graph(network, file)


def _write_chain(network: Network, file: h5py.File) -> None:
    layers = file.create_group("layer")

    def add(kind: str, shape: Shape) -> h5py.Group:
        group = layers.create_group(str(len(layers)))
        group["type"] = np.array([kind.encode()], dtype="S10")
        group["shape"] = np.array(shape)
        return group

    shape = network.input_shape
    if not isinstance(network.layers[0].synapse, Inject):
        add("input", shape)
    for layer in network.layers:
        synapse = layer.synapse
        if isinstance(synapse, Inject):
            group = add("input", shape)
            if not any_payload(layer.neuron, network.encoding):
                # The caller of netx computes weight · x + bias, with x scaled to −1..1.
                first, last = network.encoding.payload
                group["weight"], group["bias"] = (last - first) // 2, (first + last) // 2
        elif isinstance(synapse, Dense):
            if len(shape) == 3:
                add("flatten", (1, 1, int(np.prod(shape))))
            group = add("dense", synapse.output_shape(shape))
            _write_dense(group, synapse)
        else:
            assert isinstance(synapse, Conv)  # see why_not
            group = add("conv", synapse.output_shape(shape))
            _write_conv(group, synapse)
        shape = synapse.output_shape(shape)
        _write_neuron(group, synapse, layer.neuron, shape)
    file["simulation/Ts"] = 1
    file["simulation/tSample"] = network.time_steps


def _write_dense(group: h5py.Group, synapse: Dense) -> None:
    group["outFeatures"], group["inFeatures"] = synapse.weight.shape
    group["weight"] = synapse.weight
    if synapse.delay is not None:
        group["delay"] = synapse.delay


def _write_conv(group: h5py.Group, synapse: Conv) -> None:
    out, per_group, *kernel = synapse.weight.shape
    group["weight"] = synapse.weight
    group["outChannels"], group["inChannels"] = out, per_group * synapse.groups
    group["kernelSize"] = np.array(kernel)
    group["stride"] = np.array(synapse.strides)
    group["padding"] = np.array(synapse.paddings)
    group["dilation"] = np.array(synapse.dilations)
    group["groups"] = synapse.groups


def _write_neuron(
    group: h5py.Group, synapse: Inject | Dense | Conv, neuron: AnyNeuron, shape: Shape
) -> None:
    bias = np.asarray(neuron.bias)
    if bias.ndim == 3:
        group["bias"] = bias.transpose(2, 1, 0)  # one a neuron is in Lava's order, (W, H, C)
    elif bias.ndim == 1 or neuron.has_bias:
        # netx fails on a single number for a convolution: it is written once a channel.
        single = bias.ndim == 0
        per_channel = isinstance(synapse, Conv) and single
        group["bias"] = np.full(shape[0], bias) if per_channel else bias
        group["bias"].attrs["single"] = single
    if isinstance(neuron, Delta | SigmaDelta | Sigma):
        group["neuron/type"] = np.bytes_("SDNN")
        group["neuron/activation"] = np.bytes_("relu")
        group["neuron/vThMant"] = 0 if neuron.vth is None else neuron.vth
        if isinstance(neuron, Sigma):
            group["neuron/sigma_output"] = True
        return
    assert isinstance(neuron, Neuron)  # see why_not
    if isinstance(synapse, Dense) and replace(neuron, bias=0) == INTEGRATOR:
        return
    group["neuron/type"] = np.bytes_("CUBA")
    group["neuron/iDecay"] = neuron.du
    group["neuron/vDecay"] = neuron.dv
    group["neuron/vThMant"] = NEVER if neuron.vth is None else neuron.vth
    group["neuron/refDelay"] = 1
    group["neuron/gradedSpike"] = False
