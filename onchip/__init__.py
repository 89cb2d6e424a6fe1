"""Learning on the chip: a local learning block, Lava's simulator to learn in, and an engine equal
to it, which is what learns where nothing else is said.

from onchip.plan import random_network
from onchip.learn import accuracy, learn

network = random_network(64, 100, 10, encoding)
result = learn(network, encoding.encode(x_train), y_train, mode="hidden")
accuracy(result.network, encoding.encode(x_test), y_test)
"""
