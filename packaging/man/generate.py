#!/usr/bin/env python3
"""Writes zarya-acknowledgement.7 from packaging/doc/acknowledgement.md, so that the two cannot differ.

    generate.py ACKNOWLEDGEMENT.md OUTPUT.7"""
import re, sys


def roff(text):
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = re.sub(r"`([^`]*)`", r"\\fB\1\\fR", text)
    return "\\&" + text if text[:1] in ".'" else text


def table(rows, out):
    """Tests have long names: those of the last column stand below, by number."""
    named = len(rows[0]) == 4
    shown = rows if not named else [[r[0] if i == 0 else f"{r[0]} [{i}]", *r[1:3]] for i, r in enumerate(rows)]
    out.append(".nh\n.ad l\n.TS\ntab(@) allbox;")
    out.append(" ".join(["lb"] * len(shown[0])))
    out.append(" ".join(["l"] * (len(shown[0]) - 1) + ["lx"]) + ".")
    for row in shown:
        out.append("@".join("T{\n" + roff(c) + "\nT}" for c in row))
    out.append(".TE\n.ad b\n.hy")
    for i, r in enumerate(rows[1:] if named else [], 1):
        out.append(f".TP\n[{i}]\n" + roff(r[3].replace(", ", "\n.br\n")).replace("\\&.br", ".br"))


def main(source, target):
    out = [".\\\" made by packaging/man/generate.py from packaging/doc/acknowledgement.md", '.TH ZARYA\\-ACKNOWLEDGEMENT 7 "" "Zarya"', ".SH NAME",
           "zarya\\-acknowledgement \\- what an acknowledgement means", ".SH DESCRIPTION"]
    rows = []
    for line in open(source, encoding="utf-8").read().splitlines() + [""]:
        if line.startswith("|"):
            cells = [c.strip() for c in line.strip("|").split("|")]
            if not all(set(c) <= set("-: ") for c in cells):
                rows.append(cells)
            continue
        if rows:
            table(rows, out)
            rows = []
        if line.startswith("#"):
            continue
        out.append(roff(line) if line else ".PP")
    out += [".SH SEE ALSO", ".BR zaryactl\\-store (1)"]
    open(target, "w", encoding="utf-8").write("'\\\" t\n" + "\n".join(out) + "\n")


main(*sys.argv[1:])
