#!/usr/bin/env python3
"""Crash states: what a power cut or a kill may leave of the store, at every place of 68 workloads, each with the real
recovery run on it (sim/README.md); and the proof that this test can fail.

    states_test.py [--full]      20,000 different states, 14 defects on purpose; --full: 1,000,000 states, and three more that
                                take long to show (what queue files lose is mostly made anew when it is read). In an optimised build: faults_test.py and corrupt_test.py run the same recovery
                                under the address sanitizer."""
import os, subprocess, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *
import simulated

prog = simulated.program("storage_states", optimised=True)
simulated.run([prog, "--states", "1000000" if FULL else "20000"])
simulated.run([prog, "--mutations", "4000"] + ([] if FULL else ["--quick", "1"]))
done()
