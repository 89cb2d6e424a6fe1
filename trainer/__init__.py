"""Training on the chip's own numbers. Imports nothing: ``trainer.data`` works without torch.

    trainer.config     TrainConfig: every setting, checked          needs no torch
    trainer.data       load, save, Dataset: plain numpy arrays      needs no torch
    trainer.loop       train, restore, evaluate: runs and their folders
    trainer.models     SpikingNetwork: stepped, trained, frozen;  trainer.zoo builds them
    trainer.layers     synapses and neurons;  trainer.synapses, .pools, .norms, .neurons
    trainer.rules      how gradients are computed, one file a rule
    trainer.slayer     lava-dl's networks under the same rules
    trainer.observe    the module's own spikes, u and v, for lava_export.verify
    trainer.cost       what a training batch costs, on paper         needs no torch

``import pumice`` has the verbs of all rooms in one place.
"""
