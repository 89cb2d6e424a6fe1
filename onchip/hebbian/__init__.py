"""Learning by spikes alone: the last layer of a frozen network that spikes learns by pairwise STDP,
or by STDP that a reward makes permanent.

    stdp     dw  = potentiation · pre_trace · post − depression · pre · post_trace
    reward   dtag = potentiation · pre_trace · post − depression · pre · post_trace − tag / fading
             dw  = rate · tag · reward

``stdp`` needs no labels. In ``reward`` each synapse keeps in its tag what it might have learned,
until the reward that comes after each sample: +1 if the network decided for the sample's class, −1
if not, less what could be expected; or as given. It goes to the neuron that stands for the class
decided for; in a layer before a readout, to each by the sign of its weight to that class. What was
learned goes back into the network, exactly.

    result = learn(network, x, labels, mode="reward", rule=Hebbian(rate=0.1))

The rule is compiled by :mod:`onchip.rules`; the layer runs in the compiled engine of
:mod:`onchip.connection`, or in Lava's simulator, to the same weights. Layers in front are frozen,
and run in :mod:`loihi.engine` for both.
"""

from __future__ import annotations

from onchip.hebbian.block import HebbianBlock, build
from onchip.hebbian.lava import Outcome, simulate
from onchip.hebbian.learner import HebbianLearner
from onchip.hebbian.learning import ENGINES, HebbianResult, learn
from onchip.hebbian.rule import MODES, REWARD, Hebbian, Mode

__all__ = [
    "ENGINES",
    "MODES",
    "REWARD",
    "Hebbian",
    "HebbianBlock",
    "HebbianLearner",
    "HebbianResult",
    "Mode",
    "Outcome",
    "build",
    "learn",
    "simulate",
]
