"""Files and Lava: netx files written and read, run in Lava in a supervised child, and verified."""
