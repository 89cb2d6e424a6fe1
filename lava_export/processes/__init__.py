"""Lava processes of our own; Lava imports every module beside a Process: no others live here."""
