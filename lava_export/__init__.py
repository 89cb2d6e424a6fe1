"""Files and Lava: netx files written and read, run in Lava in a supervised child, and verified.

    lava_export.netx      read, write: model.net
    lava_export.nir_io    read, write, from_graph: NIR
    lava_export.verify    verify: a file in several simulators, number by number
    lava_export.run       run, predict: a file in Lava
    lava_export.wiring    a network as Lava's processes, for scripts of your own
    lava_export.deploy    preflight, write: for a Loihi 2 board

``import pumice`` has the verbs of all rooms in one place.
"""
