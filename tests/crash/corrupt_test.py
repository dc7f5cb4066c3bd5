#!/usr/bin/env python3
"""Damage of every kind to every kind of file of the store, each with the real recovery run on it, under the address sanitizer when the
build has it (sim/corrupt.c): 1,000 cases, half of them with packed segments. A case that fails prints the command that repeats it.

    corrupt_test.py [--full] [--jobs N]     --full: 10,000 cases, with three more seeds; --jobs: processes, else one for each core"""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *
import simulated

prog = simulated.program("storage_corrupt")
jobs = sys.argv[sys.argv.index("--jobs"):][:2] if "--jobs" in sys.argv else []
for seed, cases in [(1, 500)] if not FULL else [(1, 500), (2, 1500), (3, 1500), (4, 1500)]:
    for packed in "0", "1":
        simulated.run([prog, "--seed", str(seed), "--cases", str(cases), "--packed", packed] + jobs)
done()
