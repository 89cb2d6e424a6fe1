"""Learning on the chip: by local errors, by spikes or by any rule, in Lava's simulator and in
engines equal to it, thousands of times as fast.

    onchip.spec        Rule, Spec: what learns, and by which numbers; TOML
    onchip.plan        a network set up to learn: stages, heads, scales
    onchip.learn       learn: labelled samples in, a new network out;  onchip.samples: as they come
    onchip.engine      Learner: the blocks compiled;  onchip.simulate: the same in Lava
    onchip.hebbian     STDP and reward, in both
    onchip.rules       a rule in real units, compiled for Loihi;  onchip.connection runs it
    onchip.tasks       new classes, a drifted sensor, another one: what is gained and lost
    onchip.processes   the Lava processes

    from onchip.plan import random_network
    from onchip.learn import accuracy, learn

    network = random_network(64, 100, 10, encoding)
    result = learn(network, encoding.encode(x_train), y_train, mode="hidden")
    accuracy(result.network, encoding.encode(x_test), y_test)
"""
