"""Counts for the model card: python stats.py --data DIR"""
import argparse
from collections import Counter

from data import SOURCES, load

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", required=True)
train, held_out = load(parser.parse_args().data)
counts = [Counter(item["source"] for item in side) for side in (train, held_out)]
for key, (title, licence, language) in SOURCES.items():
    print(f"| {title} | {language} | {licence} | {counts[0][key]} | {counts[1][key]} |")
