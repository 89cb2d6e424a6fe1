"""The Lava Processes of the learning block, and nothing else.

Lava imports every file that lies beside a Process's file in search of its models, so no other
module may live in this folder.
"""
