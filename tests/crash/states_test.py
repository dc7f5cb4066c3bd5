#!/usr/bin/env python3
"""Crash states: what a power cut or a kill may leave of the store, at every place of 36 workloads, each with the real recovery run
on it (sim/README.md); and the proof that this test can fail.

    states_test.py [--full]      22,000 different states, 11 defects on purpose; --full: 1,000,000 states in an optimised build"""
import os, subprocess, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *
import simulated

prog = simulated.program("storage_states", optimised=FULL)
simulated.run([prog, "--states", "1000000" if FULL else "22000"])
simulated.run([prog, "--mutations", "4000"])
done()
